"""Zoomout: each pixel is classified by what VGG-16 sees at all its scales, up to the whole image.

Sources: Mostajabi, Yadollahpour and Shakhnarovich 2015 (CVPR, arXiv 1412.0774) for the idea;
Vasiljevic and Mostajabi's release of 2016 (github.com/ivasiljevic/zoom-out-release) for this
network, which Vasiljevic et al. 2016, section 5, trains: by pixels, not superpixels, end to end.
"""

from collections.abc import Iterable
from typing import Any

import timm
import torch
import torch.nn.functional as F
from jaxtyping import Float
from timm.models.vgg import VGG
from torch import Tensor, nn
from typing_extensions import override

from blur_lightning.errors import InputError
from blur_lightning.models.dense import zero_padded
from blur_lightning.tiles import extended

_STRIDE = 4  # pixels between the positions that are classified
_COARSEST = 16  # stride of the last convolutions: their grid must fit the finest one
_SMALLEST = 32  # pixels that leave one position behind the last of VGG's poolings
_HIDDEN = 1000  # channels of both hidden layers of the classifier


class Zoomout(nn.Module):
    """Segmentation by the features of all layers of VGG-16, from images to logits of every pixel.

    The outputs of the 13 convolutions (4224 channels, after ReLU) and the maximum over the image of
    the last fully connected layer (4096) are brought to every fourth pixel: finer maps by taking
    every second or fourth value, coarser ones by repetition. Normalised by a mean and a standard
    deviation for each channel, they go through a classifier of three layers, whose scores a learned
    deconvolution brings back to every pixel.

    The map of 8320 channels is never made: a 1 x 1 convolution of it is the sum of convolutions of
    its parts, each at its own resolution, repeated afterwards.

    Images whose sides are no multiples of 16 are extended to the right and below by their last
    pixels, and the scores cut to their size; so are those of less than 32 pixels.

    Args:
        num_classes: Number of classes, the background among them.
        net: A VGG of timm, whose weights are trained further; None takes vgg16.tv_in1k. The source
            starts from Caffe's weights: give timm.create_model their converted file, and their
            mean and std, by pretrained_cfg_overlay.
        pretrained: Whether the network that None stands for has its weights for ImageNet.
        input_size: Rows and columns that a landscape image is resized to before all else, a
            portrait the other way round, whatever its sides; its scores are resized back. The
            source has [256, 336]. None leaves images at their size.
        normalization_images: Number of training images whose features give the mean and standard
            deviation; None takes all.
    """

    normalized: Tensor
    feature_mean: Float[Tensor, " channels"]
    feature_std: Float[Tensor, " channels"]

    def __init__(
        self,
        num_classes: int = 21,
        *,
        net: nn.Module | None = None,
        pretrained: bool = True,
        input_size: tuple[int, int] | None = None,
        normalization_images: int | None = 1000,
    ) -> None:
        super().__init__()
        if net is None:
            # Dropout, as between the fully connected layers of the original VGG; timm's has none.
            net = timm.create_model("vgg16.tv_in1k", pretrained=pretrained, drop_rate=0.5)
        if not isinstance(net, VGG):
            raise InputError(
                f"model.net.net: {type(net).__name__} is no VGG of timm; take timm.create_model "
                "with model_name vgg16.tv_in1k"
            )
        if input_size is not None and min(input_size) < 1:
            raise InputError(f"model.net.input_size: {input_size}; give rows and columns in pixels")
        if normalization_images is not None and normalization_images < 1:
            raise InputError(
                f"model.net.normalization_images: {normalization_images}; give 1 or more"
            )
        whole_image = net.head_hidden_size
        net.reset_classifier(0)  # processes that train together need every weight to be used
        self.net = net
        # Under the name by which a task asks a network how its input is normalised.
        settings: Any = getattr(net, "pretrained_cfg", None) or {}
        name = f"zoomout_{settings.get('architecture', 'vgg')}"
        self.pretrained_cfg = settings | {"architecture": name}
        self.input_size = input_size
        self.normalization_images = normalization_images
        convolutions = [layer for layer in net.features if isinstance(layer, nn.Conv2d)]
        channels = sum(layer.out_channels for layer in convolutions) + whole_image
        self.register_buffer("normalized", torch.tensor(False))
        self.register_buffer("feature_mean", torch.zeros(channels))
        self.register_buffer("feature_std", torch.ones(channels))
        self.head = nn.Sequential(
            nn.Conv2d(channels, _HIDDEN, 1),
            nn.ReLU(inplace=True),
            nn.Dropout(0.5),
            nn.Conv2d(_HIDDEN, _HIDDEN, 1),
            nn.ReLU(inplace=True),
            nn.Dropout(0.5),
            nn.Conv2d(_HIDDEN, num_classes, 1),
        )
        self.upsampling = _bilinear_deconvolution(num_classes)

    @override
    def forward(self, images: Float[Tensor, "b 3 h w"]) -> Float[Tensor, "b classes h w"]:
        """Logits of every pixel of normalised images.

        Raises:
            RuntimeError: In training, before `estimate_normalization` or a checkpoint has given the
                mean and standard deviation of the features. Until then they are 0 and 1.
        """
        if self.training and not self.normalized:
            raise RuntimeError("Zoomout trains after estimate_normalization: call it before")
        resized = self._resized(images)
        hidden = self._first_layer(self._features(resized))
        logits = self.upsampling(self.head[1:](hidden))
        logits = logits[..., : resized.shape[2], : resized.shape[3]]
        if resized.shape == images.shape:
            return logits
        return F.interpolate(logits, images.shape[2:], mode="bilinear")

    @torch.no_grad()
    def estimate_normalization(self, batches: Iterable[Float[Tensor, "b 3 _ _"]]) -> None:
        """Set mean and standard deviation of each channel to those of images' features.

        Every position at stride 4 counts the same. A channel that is the same everywhere keeps a
        standard deviation of 1. The buffer `normalized` is true afterwards.

        Batches are merged by the update of Chan, Golub and LeVeque 1979 (Stanford STAN-CS-79-773),
        which never subtracts large sums of squares.

        Args:
            batches: Images as they are trained on, normalised and on the network's device; read
                until there were normalization_images. Processes that train together go on with what
                the first one found, as the buffers of DistributedDataParallel do.

        Raises:
            InputError: There is no image.
        """
        was_training = self.training
        self.eval()
        mean = torch.zeros_like(self.feature_mean)
        variance = torch.zeros_like(self.feature_std)
        images, positions = 0, 0
        for batch in batches:
            features = self._features(self._resized(batch))
            parts = [torch.var_mean(f.float(), dim=(0, 2, 3), correction=0) for f in features]
            own_variance, own_mean = (torch.cat(part) for part in zip(*parts, strict=True))
            own_positions = len(batch) * features[0].shape[2:].numel()
            positions += own_positions
            share = own_positions / positions
            offset = own_mean - mean
            variance += share * (own_variance - variance + (1 - share) * offset.square())
            mean += share * offset
            images += len(batch)
            if self.normalization_images is not None and images >= self.normalization_images:
                break
        self.train(was_training)
        if images == 0:
            raise InputError("data: no image to estimate the normalisation of Zoomout's features")
        self.feature_mean.copy_(mean)
        self.feature_std.copy_(variance.sqrt().where(variance > 0, 1))
        self.normalized.fill_(True)

    def _resized(self, images: Float[Tensor, "b 3 h w"]) -> Float[Tensor, "b 3 _ _"]:
        if self.input_size is None:
            return images
        landscape = images.shape[3] >= images.shape[2]
        size = self.input_size if landscape else self.input_size[::-1]
        return F.interpolate(images, size, mode="bilinear", antialias=True)

    def _features(self, images: Float[Tensor, "b 3 h w"]) -> list[Float[Tensor, "b _ _ _"]]:
        """Features at strides 4, 8 and 16 and of the whole image, in the order of the channels."""
        features = extended(images, _COARSEST, least=_SMALLEST)
        maps: dict[int, list[Tensor]] = {}
        stride = 1
        net: Any = self.net
        for layer in net.features:
            features = layer(features)
            if isinstance(layer, nn.MaxPool2d):
                stride *= 2
            elif isinstance(layer, nn.ReLU):
                step = max(1, _STRIDE // stride)
                # A copy, lest a slice keep all of a finer map: 22 MB for the source's size.
                part = features[..., ::step, ::step].clone() if step > 1 else features
                maps.setdefault(max(_STRIDE, stride), []).append(part)
        whole_image = F.adaptive_max_pool2d(net.pre_logits(zero_padded(features)), 1)
        return [*(torch.cat(of_stride, dim=1) for of_stride in maps.values()), whole_image]

    def _first_layer(self, features: list[Tensor]) -> Float[Tensor, "b hidden _ _"]:
        """Normalise and convolve each part at its own resolution, and add up from the coarsest."""
        layer: Any = self.head[0]
        weight = layer.weight / self.feature_std[:, None, None]
        bias = layer.bias - weight.flatten(1) @ self.feature_mean
        weights = weight.split([part.shape[1] for part in features], dim=1)
        hidden = bias[None, :, None, None]
        for part, part_weight in zip(reversed(features), reversed(weights), strict=True):
            convolved = F.conv2d(part, part_weight)
            # In place: at stride 4 a copy is 21 MB for each image of the source's size.
            hidden = convolved.add_(F.interpolate(hidden, convolved.shape[2:], mode="nearest"))
        return hidden


def _bilinear_deconvolution(channels: int) -> nn.ConvTranspose2d:
    """Upsampling by the stride, to be learned, first bilinear (Long et al. 2015, section 3.3)."""
    side = 2 * _STRIDE
    layer = nn.ConvTranspose2d(
        channels, channels, side, stride=_STRIDE, padding=_STRIDE // 2, bias=False
    )
    offsets = torch.arange(side) - (side - 1) / 2
    line = 1 - offsets.abs() / _STRIDE
    with torch.no_grad():
        layer.weight.copy_(torch.eye(channels)[:, :, None, None] * line[:, None] * line)
    return layer
