import pytest
import torch

from blur_lightning.blur.regions import random_regions


def test_patterns_are_drawn_by_key_share_and_middle():
    keys = [3, 4, 4]
    mask = random_regions(keys, share=[0.5, 0.5, 0.5], size=(37, 31), cell=4)
    assert mask.shape == (3, 37, 31)
    assert torch.equal(mask[1], mask[2])
    assert not torch.equal(mask[0], mask[1])
    wider = random_regions(keys, share=[0.5] * 3, size=(37 + 14, 31 + 14), cell=4)
    assert torch.equal(wider[:, 7:-7, 7:-7], mask)
    assert not random_regions([1], share=[0.0], size=(37, 31)).any()
    assert random_regions([1], share=[1.0], size=(37, 31)).all()
    assert random_regions([], share=[], size=(37, 31)).shape == (0, 37, 31)


def test_squares_have_their_side_and_their_share():
    mask = random_regions([0], share=[0.3], size=(512, 512), cell=8)[0]
    squares = mask.view(64, 8, 64, 8)
    assert torch.equal(squares.any(3).any(1), squares.all(3).all(1))
    # 4096 squares: three standard deviations are 0.021.
    assert squares.float().mean().item() == pytest.approx(0.3, abs=0.022)
    assert random_regions([0], share=[0.5], size=(512, 512), cell=8)[0][mask].all()


@pytest.mark.parametrize(
    ("arguments", "what"),
    [
        ({"share": [1.5]}, r"share: \[1.5\] is not one"),
        ({"share": []}, r"each of 1 keys"),
        ({"share": [0.5], "cell": 0}, "cell: 0 is not"),
        ({"share": [0.5], "keys": [-1]}, r"keys: \[-1\] has"),
    ],
)
def test_what_does_not_fit_is_named(arguments, what):
    with pytest.raises(ValueError, match=what):
        random_regions.__wrapped__(**{"keys": [1], "size": (8, 8)} | arguments)
