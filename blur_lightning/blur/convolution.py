"""Images x kernels -> images: true convolution with one kernel an image.

Conventions: images (b, 3, h, w), uint8 in 0..255 or float in [0, 1]; the result has the size and
the type of the input. An image that is uint8 returns to 8 bits by rounding half to even.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int64, Shaped
from torch import Tensor

Border = Literal["reflect", "replicate", "constant"]

# Images a grouped convolution takes at once. Measured on two cores, 3x400x400: 5 is the fastest
# for 17x17 kernels and within noise of the fastest for 9x9 and 1x33; all 32 at once need eight
# times the memory.
_CHUNK = 5


@dataclass(frozen=True)
class KernelGroup:
    """The images of a batch whose kernels have the same shape.

    Attributes:
        index: Which images of the batch they are.
        factors: Kernels (n, rows, columns), odd sides, applied one after another; their
            convolution is the kernel. A Gaussian is a column and a row, a disk one square.
    """

    index: Int64[Tensor, " n"]
    factors: tuple[Float[Tensor, "n _ _"], ...]

    @property
    def half_width(self) -> tuple[int, int]:
        """How many (rows, columns) beyond a pixel its blurred value draws on."""
        rows = sum(factor.shape[-2] // 2 for factor in self.factors)
        return rows, sum(factor.shape[-1] // 2 for factor in self.factors)


@dataclass(frozen=True)
class Kernels:
    """One kernel for each image of a batch, grouped by shape: none is padded to the largest.

    Images that no group names stay as they are: their kernel is a single point.
    """

    batch: int
    groups: tuple[KernelGroup, ...]

    def __len__(self) -> int:
        return self.batch


def convolve(
    images: Shaped[Tensor, "b 3 h w"],
    kernels: Float[Tensor, "b _ _"] | Kernels,
    border: Border = "reflect",
) -> Shaped[Tensor, "b 3 h w"]:
    """Blur each image with its own kernel.

    Args:
        images: uint8 (0..255) or float images, all channels of one are blurred alike.
        kernels: One kernel an image: a tensor (b, k, k) with odd k, or what the families give.
        border: What lies beyond the edge: the image mirrored without repeating its last row
            (SciPy's "mirror"), its last row repeated, or black.

    Returns:
        The blurred images, same size, type and device.

    Raises:
        ValueError: The shapes do not fit each other, a side of a kernel is even, or the border
            cannot be reflected because a kernel reaches further than the image.
    """
    if isinstance(kernels, Tensor):
        everything = torch.arange(len(kernels), device=images.device)
        kernels = Kernels(len(kernels), (KernelGroup(everything, (kernels,)),))
    _check(images, kernels, border)
    blurred = images.clone()
    for group in kernels.groups:
        for start in range(0, len(group.index), _CHUNK):
            index = group.index[start : start + _CHUNK].to(images.device)
            factors = [factor[start : start + _CHUNK] for factor in group.factors]
            blurred[index] = _convolve_alike(images[index], factors, border)
    return blurred


def _convolve_alike(images: Tensor, factors: Sequence[Tensor], border: Border) -> Tensor:
    working_type = torch.promote_types(images.dtype, factors[0].dtype)
    working = images.to(working_type)
    # Mixed precision and TF32 keep 8 and 11 bits: too few to return to 8-bit images exactly.
    with (
        torch.autocast(images.device.type, enabled=False),
        torch.backends.cudnn.flags(
            enabled=torch.backends.cudnn.enabled,
            benchmark=torch.backends.cudnn.benchmark,
            deterministic=torch.backends.cudnn.deterministic,
            allow_tf32=False,
        ),
    ):
        for factor in factors:
            working = _convolve_once(working, factor.to(working.device, working_type), border)
    if images.is_floating_point():
        return working.to(images.dtype)
    # torch.round rounds half to even. Sums of unit kernels may leave 0..255 by rounding only.
    return working.round().clamp(0, 255).to(images.dtype)


def _convolve_once(images: Tensor, taps: Tensor, border: Border) -> Tensor:
    b, c, h, w = images.shape
    rows, columns = taps.shape[-2] // 2, taps.shape[-1] // 2
    padded = F.pad(images, (columns, columns, rows, rows), mode=border)
    # conv2d correlates; turning the kernel by half a turn makes it a convolution.
    weight = taps.flip(-2, -1).repeat_interleave(c, dim=0)[:, None]
    flat = padded.reshape(1, b * c, h + 2 * rows, w + 2 * columns)
    return F.conv2d(flat, weight, groups=b * c).reshape(b, c, h, w)


def _check(images: Tensor, kernels: Kernels, border: Border) -> None:
    if images.ndim != 4 or images.shape[1] != 3:
        raise ValueError(f"images: shape {tuple(images.shape)} is not (b, 3, h, w)")
    if images.dtype != torch.uint8 and not images.is_floating_point():
        raise ValueError(f"images: {images.dtype} is neither uint8 nor a float type")
    if len(kernels) != len(images):
        raise ValueError(f"kernels: {len(kernels)} for {len(images)} images; one each is needed")
    for group in kernels.groups:
        for factor in group.factors:
            if factor.ndim != 3 or any(side % 2 == 0 for side in factor.shape[1:]):
                shape = tuple(factor.shape)
                raise ValueError(f"kernels: shape {shape} is not (b, k, k) with odd k")
        reach = group.half_width
        if border == "reflect" and (reach[0] >= images.shape[2] or reach[1] >= images.shape[3]):
            raise ValueError(
                f"kernels: they reach {max(reach)} px, which a reflected border of a "
                f"{images.shape[2]}x{images.shape[3]} image cannot fill; use border='replicate'"
            )
