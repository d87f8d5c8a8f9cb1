import pytest

from blur_lightning.blur.conditions import parse_conditions
from blur_lightning.errors import InputError


def names(*texts):
    return [str(condition) for condition in parse_conditions(texts)]


def test_a_grid_becomes_a_condition_a_step():
    assert names("sharp", "D1..2:0.5", "H8") == ["sharp", "D1", "D1.5", "D2", "H8"]
    assert names("G0.1..0.7:0.2") == ["G0.1", "G0.3", "G0.5", "G0.7"]
    assert names("M2..6:2@30") == ["M2@30", "M4@30", "M6@30"]
    assert names("defocus_blur-1..5:2") == ["defocus_blur-1", "defocus_blur-3", "defocus_blur-5"]
    assert names("D1..3:2%50") == ["D1%50", "D3%50"]
    assert names("D1..2.9:1") == ["D1", "D2"]


def test_ranges_and_mixes_are_not_grids():
    assert names("D2..8", "sharp+D2+D4") == ["D2..8", "sharp+D2+D4"]


@pytest.mark.parametrize(
    ("texts", "message"),
    [
        ([], "name at least one blur"),
        (["D4", "sharp", "D1..4:1"], "'D4' comes twice"),
        (["D1..8:0"], r"'D1\.\.8:0' is no grid"),
        (["D8..1:1"], "is no grid"),
        (["D0..8:0.0001"], "at most 1000 steps"),
        (["X1..8:1"], "X1"),
    ],
)
def test_what_is_no_list_of_conditions_is_named(texts, message):
    with pytest.raises(InputError, match=message):
        parse_conditions(texts)
