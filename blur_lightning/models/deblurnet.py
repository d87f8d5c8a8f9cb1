"""DeblurNet: a blurry image is restored at a quarter, at half and at all of its size in turn.

Source: Noroozi, Chandramouli and Favaro 2017, *Motion Deblurring in the Wild* (arXiv 1701.01486),
Table 1 and section 3. Images (b, 3, h, w) in [0, 1] of any size.
"""

import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn
from typing_extensions import override

from blur_lightning.errors import InputError
from blur_lightning.tiles import extended

_STRIDE = 4  # of the coarsest subgraph


class DeblurNet(nn.Module):
    """Three subgraphs of convolutions, each of which adds a residual to the image at its scale.

    The first sees the image and restores it at a quarter of its size; the second sees what the
    first restored and doubles its size; so does the third. A residual is added to the blurry image,
    reduced to the subgraph's scale by averaging squares of pixels: the paper names no filter.

    Batch normalisation and ReLU follow every convolution but the first subgraph's last. None follow
    a deconvolution: Table 1 leaves this open, and after a ReLU a residual could only brighten.
    Convolutions that are normalised have no bias of their own: normalising would cancel it.

    A new network returns the blurry image at each scale: the last layer of each subgraph begins
    with 0, which is our choice. With usual random weights the first residuals are larger than the
    image, and most of a short training goes into taking them back.

    Args:
        width: Factor on the number of channels, more than 0; 1 is the paper's 24.7 million weights,
            1/16 is enough for small images on a CPU.
    """

    def __init__(self, width: float = 1.0) -> None:
        super().__init__()
        if width <= 0:
            raise InputError(f"model.net.width: {width} is not more than 0; 1 is the paper's")
        channels = [max(1, round(width * c)) for c in (96, 256, 384, 384, 256, 256)]
        kernels, strides = (11, 7, 7, 7, 3, 3), (2, 1, 1, 2, 1, 1)
        layers: list[nn.Module] = []
        for inputs, outputs, kernel, stride in zip(
            [3, *channels], channels, kernels, strides, strict=False
        ):
            layers += _convolution(inputs, outputs, kernel, stride)
        self.n1 = nn.Sequential(*layers, nn.Conv2d(channels[-1], 3, 3, padding=1))
        self.n2 = _doubling(channels[-1])
        self.n3 = _doubling(channels[-1])
        for last in (self.n1[-1], self.n2[-1], self.n3[-1]):
            for weight in last.parameters():
                nn.init.zeros_(weight)

    @override
    def forward(self, image: Float[Tensor, "b 3 h w"]) -> tuple[Float[Tensor, "b 3 _ _"], ...]:
        """Restore images at three scales.

        Returns:
            From coarse to fine, always all three: at a quarter and at half of the size, rounded up,
            and at the size of the image. Values may leave [0, 1].
        """
        rows, columns = image.shape[-2:]
        blurry = extended(image, _STRIDE)
        quarter = self.n1(blurry) + F.avg_pool2d(blurry, 4)
        half = self.n2(quarter) + F.avg_pool2d(blurry, 2)
        full = self.n3(half) + blurry
        restored = zip((quarter, half, full), (4, 2, 1), strict=True)
        return tuple(scaled[..., : -(-rows // k), : -(-columns // k)] for scaled, k in restored)


def _convolution(inputs: int, outputs: int, kernel: int, stride: int = 1) -> list[nn.Module]:
    convolution = nn.Conv2d(inputs, outputs, kernel, stride, padding=kernel // 2, bias=False)
    return [convolution, nn.BatchNorm2d(outputs), nn.ReLU(inplace=True)]


def _doubling(channels: int) -> nn.Sequential:
    """Four convolutions and a deconvolution, from an image to a residual of twice its size."""
    layers = _convolution(3, channels, 5)
    for _ in range(3):
        layers += _convolution(channels, channels, 5)
    deconvolution = nn.ConvTranspose2d(channels, 3, 5, stride=2, padding=2, output_padding=1)
    return nn.Sequential(*layers, deconvolution)
