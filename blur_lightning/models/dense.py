"""Classifiers of whole images: the scores of many crops, of one or more scales, averaged.

`Dense` applies a network at every position of its own stride; `FiveCrops` at the four corners and
the centre. Each gives log-scores (b, classes), whose softmax are the probabilities.

Sources: Vasiljevic et al. 2016, section 3, Tables 1, 4 and A; Simonyan and Zisserman 2015 (arXiv
1409.1556), section 3.2. They differ in the average: log-probabilities here, posteriors there.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from math import log
from typing import Any, Literal

import torch
import torch.nn.functional as F
import torchvision
from jaxtyping import Float
from timm.models.vgg import VGG
from torch import Tensor, nn
from typing_extensions import override

from blur_lightning.errors import InputError

_VGG_WINDOW = 7  # pool5 positions that the first fully connected layer sees


class _CropAverage(nn.Module, ABC):
    """One network or one for each scale, and the average of its scores over crops and scales."""

    takes_scales = True  # what a task asks before it hands on a list of images

    def __init__(
        self,
        net: nn.Module | list[nn.Module],
        *,
        average: Literal["log_probability", "posterior"],
        weights: Literal["flat", "per_scale"],
        flip: bool,
    ) -> None:
        super().__init__()
        nets = net if isinstance(net, list) else [net]
        if not nets:
            raise InputError("model.net.net: an empty list; name a network for each scale")
        self.net = nn.ModuleList(net) if isinstance(net, list) else net
        self.average, self.weights, self.flip = average, weights, flip
        # Under the names by which a task asks a network how its input is normalised, and a
        # fine-tuned one what it was trained on.
        self.pretrained_cfg = _common_settings(nets)
        trained_on = [getattr(net, "trained_on", None) for net in nets]
        if any(trained_on):
            self.trained_on = " and ".join(dict.fromkeys(mix or "original" for mix in trained_on))

    @abstractmethod
    def crop_logits(
        self, net: nn.Module, images: Float[Tensor, "b 3 h w"]
    ) -> Float[Tensor, "b crops classes"]:
        """Scores of one of the networks for every crop of images of one scale."""

    @override
    def forward(
        self, images: Float[Tensor, "b 3 h w"] | Sequence[Float[Tensor, "b 3 _ _"]]
    ) -> Float[Tensor, "b classes"]:
        """Average over all crops of images, or of a list of the same images at several scales."""
        scales = [images] if isinstance(images, Tensor) else list(images)
        nets = self.net if isinstance(self.net, nn.ModuleList) else [self.net] * len(scales)
        if len(nets) != len(scales):
            raise InputError(
                f"model.net.net: {len(nets)} networks for the {len(scales)} of "
                "data.capture.scale; name one network, or one for each scale in their order"
            )
        scores = [self._log_probabilities(*pair) for pair in zip(nets, scales, strict=True)]
        if self.weights == "per_scale":
            scores = [self._mean(of_scale)[:, None] for of_scale in scores]
        return self._mean(torch.cat(scores, dim=1))

    def _log_probabilities(self, net: nn.Module, images: Tensor) -> Tensor:
        """Scores (b, crops, classes) of images of one scale, mirrored crops after the others."""
        views = [images, images.flip(-1)] if self.flip else [images]
        logits = torch.cat([self.crop_logits(net, view) for view in views], dim=1)
        return logits.float().log_softmax(dim=2)  # float: half precision would round the average

    def _mean(self, log_probabilities: Tensor) -> Tensor:
        if self.average == "posterior":
            return log_probabilities.logsumexp(dim=1) - log(log_probabilities.shape[1])
        return log_probabilities.mean(dim=1)


class Dense(_CropAverage):
    """A classifier applied at every position of whole images, at its own stride.

    The network becomes fully convolutional: it sees an image once, and its classifier every window
    of the feature map. Without zero padding inside the network that equals crop by crop
    evaluation; with it, windows in the middle of an image see more of the image than a crop does.
    Where the map of a VGG is smaller than its window, zeros surround it (Vasiljevic et al. 2016,
    section 3, scale 128); a network that pools by the mean then pools all there is.

    Args:
        net: A VGG of timm or torchvision; a convolutional network of timm that pools by the mean,
            such as resnet50 or convnext_tiny; or a module with timm's forward_features,
            forward_head and num_features. A list has one for each scale (Table 4, "per-scale").
        average: What is averaged: log_probability, a geometric mean of the probabilities
            (Vasiljevic et al. 2016), or posterior, the probabilities themselves (Simonyan and
            Zisserman 2015).
        weights: flat counts every crop of every scale the same, so that the larger scale has more
            to say; per_scale counts every scale the same. The paper's words fit flat best.
        window: Side of the window in positions of the feature map: the side of a crop over the
            network's stride, 224 / 32 = 7. VGG has 7 by its weights.
        flip: Average in the scores of the mirrored images, as Simonyan and Zisserman do.
    """

    def __init__(
        self,
        net: nn.Module | list[nn.Module],
        *,
        average: Literal["log_probability", "posterior"] = "log_probability",
        weights: Literal["flat", "per_scale"] = "flat",
        window: int = 7,
        flip: bool = False,
    ) -> None:
        super().__init__(net, average=average, weights=weights, flip=flip)
        if window < 1:
            raise InputError(f"model.net.window: {window} positions; give at least 1")
        self.window = window
        for each in net if isinstance(net, list) else [net]:
            _check_dense(each, window)

    @override
    def crop_logits(
        self, net: nn.Module, images: Float[Tensor, "b 3 h w"]
    ) -> Float[Tensor, "b crops classes"]:
        """Scores of every window of the feature map, row by row."""
        if isinstance(net, torchvision.models.VGG):
            return _torchvision_vgg_logits(net, images)
        features = _feature_map(net, images)
        if isinstance(net, VGG):
            return _at_each_position(net.head, net.pre_logits(zero_padded(features)))
        sides = [min(self.window, side) for side in features.shape[2:]]
        forward_head: Any = net.forward_head
        return _at_each_position(forward_head, F.avg_pool2d(features, sides, stride=1))


class FiveCrops(_CropAverage):
    """A classifier applied to the four corners and the centre of whole images.

    Vasiljevic et al. 2016, Table A, tests a ResNet so, at one scale and at two.

    Args:
        net: Any network from images of `crop` pixels to logits; a list has one for each scale.
        crop: Side of the crops in pixels of the network's scale; no image may be smaller.
        average: What is averaged: log_probability, a geometric mean of the probabilities, or
            posterior, the probabilities themselves.
        flip: Average in the scores of the mirrored crops, which makes ten of five.
    """

    def __init__(
        self,
        net: nn.Module | list[nn.Module],
        *,
        crop: int = 224,
        average: Literal["log_probability", "posterior"] = "log_probability",
        flip: bool = False,
    ) -> None:
        # Every scale has as many crops, so that both ways to weight them are one.
        super().__init__(net, average=average, weights="flat", flip=flip)
        if crop < 1:
            raise InputError(f"model.net.crop: {crop} pixels; give at least 1")
        self.crop = crop

    @override
    def crop_logits(
        self, net: nn.Module, images: Float[Tensor, "b 3 h w"]
    ) -> Float[Tensor, "b crops classes"]:
        """Scores of the corners, from the upper left to the lower right, and of the centre."""
        height, width = images.shape[2:]
        bottom, right = height - self.crop, width - self.crop
        if min(bottom, right) < 0:
            raise InputError(
                f"model.net.crop: {self.crop} pixels, but images are {width} x {height}; lower it "
                "or raise data.capture.scale"
            )
        places = [(0, 0), (0, right), (bottom, 0), (bottom, right), (bottom // 2, right // 2)]
        crops = [images[:, :, y : y + self.crop, x : x + self.crop] for y, x in places]
        return torch.stack([net(crop) for crop in crops], dim=1)


def _common_settings(nets: Sequence[nn.Module]) -> Any:
    """What timm notes of the pre-training; the input is one, so its normalisation must be."""
    settings: list[Any] = [getattr(net, "pretrained_cfg", None) or {} for net in nets]
    if any(s.get(key) != settings[0].get(key) for s in settings for key in ("mean", "std")):
        raise InputError(
            "model.net.net: the networks' inputs are normalised differently; name networks with "
            "one mean and std"
        )
    return settings[0]


def _check_dense(net: nn.Module, window: int) -> None:
    """Refuse what would fail, or give other scores than the network's, at the first image."""
    kind = type(net).__name__
    if isinstance(net, VGG | torchvision.models.VGG):
        if window != _VGG_WINDOW:
            raise InputError(
                f"model.net.window: {window}, but the classifier of a VGG sees "
                f"{_VGG_WINDOW} positions; leave it out"
            )
    elif not all(hasattr(net, n) for n in ("forward_features", "forward_head", "num_features")):
        raise InputError(
            f"model.net.net: {kind} does not tell features and head apart; take timm's network of "
            "that design, by timm.create_model"
        )
    # The mean of a window is all that the head gets to see of it.
    if any("max" in str(getattr(module, "pool_type", "")) for module in net.modules()):
        raise InputError(f"model.net.net: {kind} pools by the maximum; set its global_pool to avg")


def _feature_map(net: nn.Module, images: Tensor) -> Tensor:
    split: Any = net
    try:
        features = split.forward_features(images)
    except AssertionError:  # what timm says of an input of a size that it does not take
        features = None
    if features is None or features.ndim != 4 or features.shape[1] != split.num_features:
        raise InputError(
            f"model.net.net: {type(net).__name__} has no feature map (b, c, h, w) of images of any "
            "size; take a convolutional network, such as resnet50, or FiveCrops"
        )
    return features


def _at_each_position(
    head: Callable[[Tensor], Tensor], features: Float[Tensor, "b c h w"]
) -> Float[Tensor, "b h*w classes"]:
    """Apply a head that pools to each position as if it were the whole map."""
    vectors = features.permute(0, 2, 3, 1).flatten(0, 2)
    return head(vectors[:, :, None, None]).unflatten(0, (len(features), -1))


def _torchvision_vgg_logits(
    net: torchvision.models.VGG, images: Float[Tensor, "b 3 h w"]
) -> Float[Tensor, "b crops classes"]:
    """Take the weights of the first fully connected layer as kernels; the others are 1 x 1."""
    features = zero_padded(net.features(images))
    first, *rest = net.classifier
    kernels = first.weight.unflatten(1, (-1, _VGG_WINDOW, _VGG_WINDOW))
    hidden = F.conv2d(features, kernels, first.bias).flatten(2).transpose(1, 2)
    for layer in rest:
        hidden = layer(hidden)
    return hidden


def zero_padded(features: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c _ _"]:
    """Surround a map that is smaller than VGG's window with zeros, as evenly as possible.

    The paper does not say where its zeros are. timm and torchvision stretch the map instead.
    """
    height, width = (max(0, _VGG_WINDOW - side) for side in features.shape[2:])
    sides = (width // 2, width - width // 2, height // 2, height - height // 2)
    return F.pad(features, sides)
