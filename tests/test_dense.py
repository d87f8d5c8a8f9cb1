"""Averages over crops against each crop on its own, on pixels and on feature maps."""

from itertools import product

import pytest
import segmentation_models_pytorch
import timm
import torch
import torchvision
from jsonargparse import ArgumentParser
from timm.models.vgg import VGG
from torch import nn
from torch.nn.functional import pad
from torchvision.transforms.functional import five_crop

from blur_lightning.errors import InputError
from blur_lightning.models import Dense, FiveCrops

STRIDE, CROP, WINDOW = 8, 33, 3  # of Unpadded: 33 px give a map of 3 x 3


class Unpadded(nn.Module):
    """A small network whose windows of the feature map see exactly their crop of the image."""

    num_features = 6

    def __init__(self, seed: int = 0) -> None:
        super().__init__()
        torch.manual_seed(seed)
        self.convolutions = nn.Sequential(
            nn.Conv2d(3, 8, 5, stride=2),
            nn.ReLU(),
            nn.Conv2d(8, 8, 3, stride=2),
            nn.ReLU(),
            nn.Conv2d(8, 6, 3, stride=2),
        )
        self.classifier = nn.Linear(6, 4)
        nn.init.normal_(self.classifier.weight, std=10)  # else all crops score nearly the same

    def forward_features(self, images):
        return self.convolutions(images)

    def forward_head(self, features):
        return self.classifier(features.mean(dim=(2, 3)))

    def forward(self, images):
        return self.forward_head(self.forward_features(images))


def timm_vgg(**kwargs):
    """VGG-11 of timm with few channels."""
    torch.manual_seed(0)
    layers = [4, "M", 8, "M", 8, 8, "M", 8, 8, "M", 16, 16, "M"]
    net = VGG(layers, num_classes=10, mlp_ratio=1 / 128, **kwargs)
    nn.init.normal_(net.head.fc.weight)
    return net.double().eval()


def torchvision_vgg():
    """VGG of torchvision with few channels and features of one layer."""
    torch.manual_seed(0)
    with torch.device("meta"):  # its own classifier has 120 million weights
        net = torchvision.models.VGG(nn.Identity(), init_weights=False)
    net.features = nn.Sequential(nn.Conv2d(3, 6, 48, stride=32, padding=8), nn.ReLU())
    net.classifier = nn.Sequential(
        nn.Linear(6 * 7 * 7, 12), nn.ReLU(), nn.Dropout(), nn.Linear(12, 8), nn.ReLU(), nn.Dropout()
    ).append(nn.Linear(8, 10))
    return net.double().eval()


def head_of(net):
    if isinstance(net, torchvision.models.VGG):
        return lambda features: net.classifier(features.flatten(1))
    return net.forward_head


def features_of(net, images):
    return getattr(net, "forward_features", net.features)(images)


def images_of(*size, count=2, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(count, 3, *size, generator=generator, dtype=torch.float64)


def windows(values, side, stride=1):
    """All squares of maps or images, row by row."""
    tops, lefts = (range(0, length - side + 1, stride) for length in values.shape[2:])
    return [values[:, :, y : y + side, x : x + side] for y, x in product(tops, lefts)]


def each(function, parts):
    return torch.stack([function(part) for part in parts], dim=1)


@pytest.fixture(autouse=True)
def no_gradients():
    with torch.no_grad():
        yield


@pytest.fixture
def net():
    return Unpadded().double().eval()


def test_every_position_is_the_crop_of_the_image_there(net):
    images = images_of(61, 83)
    logits = Dense(net, window=WINDOW).crop_logits(net, images)
    expected = each(net, windows(images, CROP, STRIDE))
    assert logits.shape == (2, 4 * 7, 4)
    torch.testing.assert_close(logits, expected)
    assert (expected.std(dim=1) > 0.01).all()  # no two positions could be confused


def test_every_position_of_an_unpadded_vgg_is_the_crop_of_the_image_there():
    net = timm_vgg()
    for layer in net.features:
        layer.padding = 0
    images = images_of(342 + 32, 342 + 64, count=1)  # 342 px give a map of 7 x 7
    logits = Dense(net).crop_logits(net, images)
    assert logits.shape == (1, 2 * 3, 10)
    torch.testing.assert_close(logits, each(net, windows(images, 342, 32)))
    assert (logits.std(dim=1) > 1e-6).all()


@pytest.mark.parametrize("vgg", [timm_vgg, torchvision_vgg])
def test_every_position_of_a_vgg_is_its_head_on_that_window(vgg):
    net, images = vgg(), images_of(256, 320)
    logits = Dense(net).crop_logits(net, images)
    assert logits.shape == (2, 2 * 4, 10)
    expected = each(head_of(net), windows(features_of(net, images), 7))
    torch.testing.assert_close(logits, expected)
    assert (expected.std(dim=1) > 1e-6).all()


@pytest.mark.parametrize(
    "name", ["resnet10t", "tf_efficientnet_lite0", "convnext_atto", "mobilenetv3_small_100"]
)
def test_every_position_is_timms_head_on_that_window(name):
    torch.manual_seed(0)
    net = timm.create_model(name, num_classes=10).double().eval()
    images = images_of(96, 128, count=1)
    logits = Dense(net, window=2).crop_logits(net, images)
    expected = each(net.forward_head, windows(net.forward_features(images), 2))
    assert logits.shape == (1, 2 * 3, 10)
    torch.testing.assert_close(logits, expected)


@pytest.mark.parametrize(
    "make", [timm_vgg, torchvision_vgg, lambda: timm.create_model("resnet10t").double().eval()]
)
def test_one_crop_scores_as_the_network_itself(make):
    net, images = make(), images_of(224, 224)
    torch.testing.assert_close(Dense(net)(images), net(images).float().log_softmax(1))


@pytest.mark.parametrize("vgg", [timm_vgg, torchvision_vgg])
def test_zeros_surround_a_map_that_is_smaller_than_the_window_of_a_vgg(vgg):
    net, images = vgg(), images_of(128, 256)
    features = features_of(net, images)
    assert features.shape[2:] == (4, 8)
    padded = pad(features, (0, 0, 1, 2))  # a row above, two below; the width is enough
    logits = Dense(net).crop_logits(net, images)
    torch.testing.assert_close(logits, each(head_of(net), windows(padded, 7)))
    square = images[..., :128]
    stretched = (net(square) - Dense(net).crop_logits(net, square)[:, 0]).abs()
    assert stretched.amax() > 1e-3


def test_a_map_that_is_smaller_than_the_window_is_pooled_whole(net):
    images = images_of(33, 49)
    expected = each(
        net.forward_head, [net.forward_features(images)[..., i:][..., :4] for i in (0, 1)]
    )
    torch.testing.assert_close(Dense(net, window=4).crop_logits(net, images), expected)


def test_log_probabilities_or_posteriors_are_averaged(net):
    images = images_of(61, 83)
    posteriors = each(net, windows(images, CROP, STRIDE)).softmax(dim=2)
    geometric = posteriors.prod(dim=1) ** (1 / 28)
    dense = Dense(net, window=WINDOW)(images)
    torch.testing.assert_close(dense, geometric.log().float(), rtol=1e-5, atol=1e-5)
    posterior = Dense(net, window=WINDOW, average="posterior")(images)
    torch.testing.assert_close(posterior, posteriors.mean(dim=1).log().float(), rtol=0, atol=1e-5)
    assert (dense < posterior - 1e-3).all()  # a geometric mean is below the arithmetic
    torch.testing.assert_close(posterior.exp().sum(dim=1), torch.ones(2))


@pytest.mark.parametrize("average", ["log_probability", "posterior"])
def test_crops_count_the_same_or_scales_do(net, average):
    scales = [images_of(41, 33), images_of(57, 65)]  # 2 and 4 x 5 positions
    crops = [each(net, windows(images, CROP, STRIDE)).log_softmax(2) for images in scales]
    if average == "posterior":
        crops = [log_probabilities.exp() for log_probabilities in crops]
    flat = (crops[0].sum(dim=1) + crops[1].sum(dim=1)) / 22
    per_scale = (crops[0].mean(dim=1) + crops[1].mean(dim=1)) / 2
    assert (flat - per_scale).abs().amax() > 0.01
    for weights, expected in (("flat", flat), ("per_scale", per_scale)):
        dense = Dense(net, window=WINDOW, average=average, weights=weights)
        score = dense(scales).exp() if average == "posterior" else dense(scales)
        torch.testing.assert_close(score, expected.float(), rtol=1e-5, atol=1e-5)


def test_each_scale_may_have_a_network_of_its_own(net):
    scales, other = [images_of(41, 33), images_of(57, 65)], Unpadded(seed=1).double().eval()
    crops = [
        each(own, windows(images, CROP, STRIDE)).log_softmax(2)
        for own, images in zip((net, other), scales, strict=True)
    ]
    torch.testing.assert_close(
        Dense([net, other], window=WINDOW)(scales), torch.cat(crops, dim=1).mean(dim=1).float()
    )
    dense = Dense([other, net], window=WINDOW)
    assert (dense(scales) - torch.cat(crops, dim=1).mean(dim=1)).abs().amax() > 0.01
    with pytest.raises(InputError, match=r"2 networks for the 1 of data.capture.scale"):
        dense(scales[0])


def test_mirrored_images_are_averaged_in(net):
    images = images_of(44, 53)  # the last pixels are in no crop, or in none of the mirrored image
    plain, both = Dense(net, window=WINDOW), Dense(net, window=WINDOW, flip=True)
    expected = (plain(images) + plain(images.flip(-1))) / 2
    torch.testing.assert_close(both(images), expected)
    assert (both(images) - plain(images)).abs().amax() > 0.01
    torch.testing.assert_close(both(images), both(images.flip(-1)))


@pytest.mark.parametrize("average", ["log_probability", "posterior"])
def test_an_image_scores_the_same_whatever_else_is_in_the_batch(net, average):
    vgg = timm_vgg(drop_rate=0.5)
    batch = images_of(96, 128, count=3)
    for classify in (
        Dense(net, window=WINDOW, average=average),
        Dense(vgg, average=average),
        FiveCrops(net, crop=40, average=average),
    ):
        alone = torch.cat([classify(batch[i : i + 1]) for i in range(3)])
        torch.testing.assert_close(classify(batch), alone)
        spoilt = batch.clone()
        spoilt[1] = torch.nan
        torch.testing.assert_close(classify(spoilt)[[0, 2]], alone[[0, 2]])


def test_half_precision_is_averaged_in_single(net):
    half, images = net.bfloat16(), images_of(300, 300).bfloat16()
    dense = Dense(half, window=WINDOW)
    expected = dense.crop_logits(half, images).double().log_softmax(2).mean(1)
    assert dense(images).dtype == torch.float32
    torch.testing.assert_close(dense(images), expected.float())


def test_five_crops_are_the_corners_and_the_centre(net):
    images = images_of(45, 61)
    five = FiveCrops(net, crop=CROP)
    crops = each(net, five_crop(images, CROP))
    torch.testing.assert_close(five.crop_logits(net, images), crops)
    torch.testing.assert_close(five(images), crops.log_softmax(2).mean(dim=1).float())
    larger = images_of(63, 71)
    both = torch.cat([crops, each(net, five_crop(larger, CROP))], dim=1).log_softmax(2)
    torch.testing.assert_close(five([images, larger]), both.mean(dim=1).float())
    mirrored = each(net, five_crop(images.flip(-1), CROP))
    ten = torch.cat([crops, mirrored], dim=1).softmax(2).mean(dim=1).log().float()
    torch.testing.assert_close(
        FiveCrops(net, crop=CROP, average="posterior", flip=True)(images), ten
    )


def test_five_crops_refuse_images_that_are_smaller(net):
    with pytest.raises(InputError, match=r"model.net.crop: 33 pixels, but images are 61 x 32"):
        FiveCrops(net, crop=CROP)(images_of(32, 61))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: segmentation_models_pytorch.Unet("resnet18", encoder_weights=None), "Unet does"),
        (lambda: torchvision.models.mobilenet_v3_small(), "timm.create_model"),
        (lambda: timm.create_model("resnet10t", global_pool="max"), "ResNet pools by the maximum"),
    ],
)
def test_networks_that_no_window_can_be_scored_by_are_refused(make, message):
    with pytest.raises(InputError, match=f"^model.net.net: [^\n]*{message}[^\n]*$"):
        Dense(make())


@pytest.mark.parametrize("side", [224, 256])  # timm refuses 256 itself
@pytest.mark.parametrize(
    ("name", "depth"),
    [
        ("vit_tiny_patch16_224", {"depth": 1}),
        ("swin_tiny_patch4_window7_224", {"depths": (1, 1, 1, 1)}),  # (b, h, w, c)
    ],
)
def test_networks_without_a_feature_map_are_refused(name, depth, side):
    dense = Dense(timm.create_model(name, **depth))
    with pytest.raises(InputError, match=r"^model.net.net: \w+Transformer has no feature map"):
        dense(images_of(side, side, count=1).float())


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Dense(timm_vgg(), window=5), "window: 5, but the classifier of a VGG sees 7"),
        (lambda: Dense(torchvision_vgg(), window=9), "window: 9, but the classifier of a VGG"),
        (lambda: Dense(Unpadded(), window=0), "window: 0 positions"),
        (lambda: Dense([]), "net: an empty list"),
        (lambda: FiveCrops(Unpadded(), crop=0), "crop: 0 pixels"),
    ],
)
def test_arguments_without_a_meaning_are_refused(make, message):
    with pytest.raises(InputError, match=f"^model.net.{message}[^\n]*$"):
        make()


def test_what_a_task_asks_of_the_network_is_passed_on():
    first, second = Unpadded(), Unpadded(seed=1)
    assert not hasattr(Dense(first), "trained_on")
    first.pretrained_cfg = {"mean": (0.5, 0.5, 0.5), "std": (0.5, 0.5, 0.5)}
    with pytest.raises(InputError, match=r"^model.net.net: the networks' inputs"):
        Dense([first, second])
    second.pretrained_cfg = first.pretrained_cfg
    first.trained_on = "sharp+D4"
    assert Dense([first, second]).trained_on == "sharp+D4 and original"
    assert FiveCrops([first, first]).trained_on == "sharp+D4"
    assert Dense(first).pretrained_cfg["mean"] == (0.5, 0.5, 0.5)
    assert Dense(first).takes_scales


def test_weights_keep_their_names(net):
    assert list(Dense(net).state_dict()) == [f"net.{name}" for name in net.state_dict()]
    vgg = torchvision_vgg()
    assert list(Dense(vgg).state_dict()) == [f"net.{name}" for name in vgg.state_dict()]
    assert "net.1.classifier.bias" in Dense([net, net]).state_dict()


def test_yaml_names_one_network_or_one_for_each_scale():
    parser = ArgumentParser(exit_on_error=False)
    parser.add_argument("--net", type=nn.Module)
    inner = {"class_path": "timm.create_model", "init_args": {"model_name": "resnet10t"}}
    for name, given in (("Dense", inner), ("Dense", [inner, inner]), ("FiveCrops", [inner])):
        spec = {"class_path": f"blur_lightning.models.{name}", "init_args": {"net": given}}
        made = parser.instantiate(parser.parse_object({"net": spec})).net
        nets = made.net if isinstance(given, list) else [made.net]
        assert [type(net).__name__ for net in nets] == ["ResNet"] * len(nets)
        assert len(nets) == (len(given) if isinstance(given, list) else 1)
