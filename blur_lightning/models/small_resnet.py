"""A small residual network for small images, such as those of Fashion-MNIST.

The design is what He et al. 2016 (arXiv 1512.03385, section 4.2) use for CIFAR-10: a convolution of
3x3 at full resolution, then three stages of 16, 32 and 64 channels, each at half the resolution of
the one before. Their networks have 3 blocks a stage or more; one is enough here.
"""

from collections import OrderedDict

from timm.layers import BlurPool2d, ConvNormAct
from timm.models.resnet import BasicBlock, downsample_conv
from torch import nn

# Of the pixels of Fashion-MNIST's training images, from 0 to 1.
MEAN, STD = 0.2860, 0.3530


def small_resnet(num_classes: int = 10, *, blur_pool: bool = False) -> nn.Module:
    """Residual network of 8 layers and 78,000 parameters, for images of about 28 pixels.

    Args:
        num_classes: Number of classes.
        blur_pool: Halve the resolution by a blur with [1, 2, 1] / 4 along each axis and then every
            second pixel (Zhang 2019, arXiv 1904.11486, section 3), instead of the latter alone. The
            weights have the same names and shapes, so either takes those of the other.

    Returns:
        A network with random weights, from images (b, 3, h, w) of any size to logits
        (b, num_classes). Its `pretrained_cfg` holds Fashion-MNIST's mean and standard deviation, by
        which its input is to be normalised.
    """
    layers = OrderedDict(
        stem=ConvNormAct(3, 16, kernel_size=3),
        stage1=BasicBlock(16, 16),
        stage2=_halving_block(16, 32, blur_pool),
        stage3=_halving_block(32, 64, blur_pool),
        pool=nn.AdaptiveAvgPool2d(1),
        flatten=nn.Flatten(),
        classifier=nn.Linear(64, num_classes),
    )
    net = nn.Sequential(layers)
    name = "small_resnet_blur_pool" if blur_pool else "small_resnet"
    settings = {"architecture": name, "mean": (MEAN,) * 3, "std": (STD,) * 3}
    net.pretrained_cfg = settings  # type: ignore[assignment]  # where timm's networks have theirs
    return net


def _halving_block(inputs: int, outputs: int, blur_pool: bool) -> nn.Module:
    if not blur_pool:
        shortcut = downsample_conv(inputs, outputs, kernel_size=1, stride=2)
        return BasicBlock(inputs, outputs, stride=2, downsample=shortcut)
    # The blur comes last, which is the same of a 1x1 convolution, and keeps the names.
    projection = downsample_conv(inputs, outputs, kernel_size=1)
    shortcut = nn.Sequential(*projection.children(), BlurPool2d(outputs))
    return BasicBlock(inputs, outputs, stride=2, downsample=shortcut, aa_layer=BlurPool2d)
