"""Images x kernels -> images: true convolution with one kernel an image.

Conventions: images (b, c, h, w), uint8 in 0..255 or float; the result has the size and the type of
the input. An image that is uint8 returns to 8 bits by rounding half to even.

What runs depends on the device and on each kernel: on a GPU one fused kernel (`fused`), on a CPU
the fastest exact path for the kernel (`cpu`), and wherever a gradient is wanted or neither fits a
grouped convolution, which is also what the others are tested against.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from numbers import Integral
from threading import Lock
from typing import Any, get_args

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int64, Shaped
from torch import Tensor

from blur_lightning.blur import fused
from blur_lightning.blur.border import Border, Workspace, inner_size, to_8_bits
from blur_lightning.blur.cpu import path_of

# Images that a grouped convolution on a GPU takes at once: the memory it needs is a multiple.
_CHUNK = 32
# How far the sum of a kernel may be from 1, so that 255 stays 255 when it is rounded.
_SUM_TOLERANCE = 1e-3


@dataclass(frozen=True)
class KernelGroup:
    """The images of a batch whose kernels have the same shape.

    Attributes:
        index: Which images of the batch they are.
        factors: One kernel (n, rows, columns), or (n, c, rows, columns) with one for each channel;
            or two, a column (n, rows, 1) and a row (n, 1, columns) whose product it is. Odd sides.
    """

    index: Int64[Tensor, " n"]
    factors: tuple[Float[Tensor, "n *c _ _"], ...]

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
    images: Shaped[Tensor, "b c h w"],
    kernels: Float[Tensor, "b *c k l"] | Kernels,
    border: Border = "reflect",
    *,
    margin: int = 0,
) -> Shaped[Tensor, "b c _ _"]:
    """Blur each image with its own kernel.

    Args:
        images: uint8 (0..255) or float images of any range.
        kernels: One kernel an image: a tensor (b, k, l) for all channels alike, or (b, c, k, l),
            with odd k and l, no negative value and sum 1; or what the families give.
        border: What lies beyond the edge: the image mirrored without repeating its last row
            (SciPy's "mirror"), its last row repeated, or black.
        margin: Pixels at each edge that are there to be drawn on: they are cut off the result.

    Returns:
        The blurred images, same type and device, same size but for the margin. Gradients with
        respect to images and kernels can be followed.

    Raises:
        ValueError: Shapes, types or devices do not fit each other, a kernel has an even side or is
            none of sum 1, or reaches beyond a reflected border; or the margin leaves no pixel.
    """
    check_images(images)
    if border not in get_args(Border):
        raise ValueError(f"border: '{border}' is none of {', '.join(get_args(Border))}")
    kernels = check_kernels(images, kernels, border)
    _check_margin(images, margin)
    differentiable = _differentiable(images, kernels)
    with exact_float32(images.device):
        if images.device.type == "cpu" and not differentiable:
            return _convolve_on_cpu(images, kernels, border, margin)
        # A copy costs a GPU less than to find out which images stay as they are.
        blurred = images.clone()
        for group in kernels.groups:
            if differentiable:
                values = _grouped(images[group.index], group.factors, border)
                blurred[group.index] = values.to(images.dtype)
            else:
                _convolve_on_gpu(images, group, border, blurred)
    return without_margin(blurred, margin)


def without_margin(images: Tensor, margin: int) -> Tensor:
    """Cut pixels off each edge of (..., h, w)."""
    rows, columns = inner_size(images, margin)
    return images[..., margin : margin + rows, margin : margin + columns]


def _convolve_on_cpu(images: Tensor, kernels: Kernels, border: Border, margin: int) -> Tensor:
    inner = without_margin(images, margin)
    blurred, workspace = torch.empty_like(inner), Workspace()
    sharp = set(range(len(images)))
    for group in kernels.groups:
        for place, index in enumerate(group.index.tolist()):
            workspace.clear()
            path = path_of([factor[place] for factor in group.factors])
            values = path(images[index], border, workspace, margin)
            if values.is_floating_point() and not images.is_floating_point():
                values = to_8_bits(values)
            blurred[index] = values
            sharp.discard(index)
    for index in sharp:
        blurred[index] = inner[index]
    return blurred


def _convolve_on_gpu(images: Tensor, group: KernelGroup, border: Border, blurred: Tensor) -> None:
    """Write the blurred images of a group to their places."""
    if fused.available(images):
        values = images[group.index]
        if len(group.factors) == 1:
            values = fused.convolve_dense(values, group.factors[0], border)
        else:
            column, row = group.factors
            values = fused.convolve_separable(values, column[..., 0], row[..., 0, :], border)
        blurred[group.index] = values
        return
    chunks = (tensor.split(_CHUNK) for tensor in (group.index, *group.factors))
    for index, *factors in zip(*chunks, strict=True):
        values = _grouped(images[index], factors, border)
        # torch.round rounds half to even; kernels of sum 1 leave 0..255 by rounding errors only.
        blurred[index] = (values if images.is_floating_point() else values.round()).to(images.dtype)


def _grouped(images: Tensor, factors: Sequence[Tensor], border: Border) -> Tensor:
    """Convolve by one grouped convolution a factor: the plain way, which has gradients."""
    values = images.to(torch.promote_types(images.dtype, factors[0].dtype))
    if not len(images):  # conv2d takes no empty batch; all gradients are 0
        return values * sum(taps.sum() for taps in factors)
    for taps in factors:
        b, c, h, w = values.shape
        rows, columns = taps.shape[-2] // 2, taps.shape[-1] // 2
        padded = F.pad(values, (columns, columns, rows, rows), mode=border)
        # conv2d correlates; turning the kernel by half a turn makes it a convolution.
        weight = taps.to(values.dtype).flip(-2, -1)
        weight = weight[:, None].expand(b, c, *weight.shape[1:]) if weight.ndim == 3 else weight
        weight = weight.reshape(b * c, 1, *taps.shape[-2:])
        flat = padded.reshape(1, b * c, h + 2 * rows, w + 2 * columns)
        values = F.conv2d(flat, weight, groups=b * c).reshape(b, c, h, w)
    return values


@contextmanager
def exact_float32(device: torch.device) -> Iterator[None]:
    """Switch off what keeps 8 or 11 bits of a number: too few to return to 8-bit images exactly.

    That is mixed precision, TF32 on GPUs and bfloat16 products on CPUs.
    """
    cudnn = torch.backends.cudnn
    kept = {name: getattr(cudnn, name) for name in ("enabled", "benchmark", "deterministic")}
    with (
        torch.autocast(device.type, enabled=False),
        cudnn.flags(**kept, allow_tf32=False),
        _PRODUCTS,
    ):
        yield


class _ExactProducts:
    """Products on CPUs in float32, for as long as any thread is inside; then as it was set."""

    def __init__(self) -> None:
        self._lock, self._inside = Lock(), 0
        self._before: list[tuple[Any, str]] = []

    def __enter__(self) -> None:
        onednn: Any = torch.backends.mkldnn
        with self._lock:
            self._inside += 1
            for operation in (onednn.matmul, onednn.conv):
                precision = operation.fp32_precision
                if precision in ("bf16", "tf32"):
                    # What was inherited is inherited again.
                    inherited = precision == onednn.fp32_precision
                    self._before.append((operation, "none" if inherited else precision))
                    operation.fp32_precision = "ieee"

    def __exit__(self, *_: object) -> None:
        with self._lock:
            self._inside -= 1
            while self._inside == 0 and self._before:
                operation, precision = self._before.pop()
                operation.fp32_precision = precision


_PRODUCTS = _ExactProducts()


def _differentiable(images: Tensor, kernels: Kernels) -> bool:
    factors = (factor for group in kernels.groups for factor in group.factors)
    wanted = torch.is_grad_enabled() and any(t.requires_grad for t in (images, *factors))
    return wanted and images.is_floating_point()


def _one_group(images: Tensor, kernels: Tensor) -> Kernels:
    """Take a tensor of kernels; what families give needs no such test of its values."""
    shape = tuple(kernels.shape)
    if kernels.ndim not in (3, 4):
        raise ValueError(f"kernels: shape {shape} is not (b, k, l) or (b, c, k, l)")
    if not kernels.is_floating_point():
        raise ValueError(f"kernels: {kernels.dtype} of shape {shape} is no float type")
    sums = kernels.detach().sum(dim=(-2, -1))
    if not bool((kernels >= 0).all()) or not bool(((sums - 1).abs() < _SUM_TOLERANCE).all()):
        raise ValueError(
            f"kernels: of shape {shape}, one has a negative value, NaN or a sum other than 1; "
            "a blur spreads light and keeps it: divide by kernels.sum(dim=(-2, -1), keepdim=True)"
        )
    kernels = kernels.to(torch.promote_types(kernels.dtype, torch.float32))
    everything = torch.arange(len(kernels), device=images.device)
    return Kernels(len(kernels), (KernelGroup(everything, (kernels,)),))


def check_images(images: Any) -> None:
    """Refuse what is no batch of images."""
    if not isinstance(images, Tensor):
        raise ValueError(f"images: {type(images).__name__} is no tensor; torch.as_tensor makes one")
    shape = tuple(images.shape)
    if images.ndim != 4 or 0 in shape[1:]:
        raise ValueError(f"images: shape {shape} is not (b, c, h, w) of 1 pixel and more")
    if images.dtype != torch.uint8 and not images.is_floating_point():
        raise ValueError(f"images: {images.dtype} of shape {shape} is neither uint8 nor float")


def check_reflection(images: Tensor, reach: tuple[int, int], argument: str, blur: object) -> None:
    """Refuse a blur that reaches more (rows, columns) than the images can be mirrored by."""
    rows, columns = images.shape[-2:]
    if reach[0] >= rows or reach[1] >= columns:
        raise ValueError(
            f"{argument}: {blur} reaches {max(reach)} px, which a reflected border of a "
            f"{rows}x{columns} image cannot fill; use border='replicate'"
        )


def check_kernels(images: Tensor, kernels: Any, border: Border) -> Kernels:
    """Take kernels of either kind; ValueError if they do not fit the images."""
    if isinstance(kernels, Tensor):
        _check_device(kernels, images)
        kernels = _one_group(images, kernels)
    elif not isinstance(kernels, Kernels):
        kind = type(kernels).__name__
        raise ValueError(f"kernels: {kind} is no tensor; torch.as_tensor makes one")
    if len(kernels) != len(images):
        raise ValueError(f"kernels: {len(kernels)} for {len(images)} images; give one for each")
    for group in kernels.groups:
        for factor in group.factors:
            sides = tuple(factor.shape)
            _check_device(factor, images)
            if any(side % 2 == 0 for side in sides[-2:]):
                raise ValueError(f"kernels: shape {sides} has an even side; both must be odd")
            if factor.ndim == 4 and sides[1] != images.shape[1]:
                raise ValueError(
                    f"kernels: shape {sides} is for {sides[1]} channels, images have "
                    f"{images.shape[1]}"
                )
        if border == "reflect":
            check_reflection(images, group.half_width, "kernels", "one")
    return kernels


def _check_margin(images: Tensor, margin: Any) -> None:
    whole = isinstance(margin, Integral)
    if not whole or margin < 0 or min(inner_size(images, margin)) < 1:
        raise ValueError(
            f"margin: {margin} pixels at each edge of images of shape {tuple(images.shape)}; "
            "0 or more whole ones, and a pixel must be left"
        )


def _check_device(kernels: Tensor, images: Tensor) -> None:
    if kernels.device != images.device:
        raise ValueError(f"kernels: on {kernels.device}, images on {images.device}; move one there")
