"""The convolution on a GPU: images x kernels -> images in one launch, written in Triton.

One program computes a tile of one plane (one channel of one image). For each column of the kernel
it loads the rows that its tile draws on once, and keeps them in registers: with a 17x17 kernel a
pixel is loaded once for 8 multiplications, where loading it for each would leave a GPU waiting for
its caches. The border is arithmetic on the indices, so nothing is padded, and 8-bit images are
widened and rounded in registers.

Sums are in float32, in an order that depends on nothing but the kernel's shape: neither the batch
nor the place of a tile moves a bit. Importing this module needs neither a GPU nor Triton, which
not every system has; `available` says whether both are there.
"""

from typing import no_type_check

import torch
import torch.nn.functional as F
from jaxtyping import Float, Shaped
from torch import Tensor

from blur_lightning.blur.border import Border

try:
    import triton
    import triton.language as tl
except ImportError:
    triton = None

_TYPES = (torch.uint8, torch.float16, torch.bfloat16, torch.float32)

# Counted in the code compiled for sm_90, not timed: 62 % of the instructions in the inner loop of a
# 17x17 kernel are multiplications (49 % with a constant border), and the two columns of 32 pixels
# that a thread holds fit its registers. Twice the rows or columns would not.
_TILE_ROWS, _TILE_COLUMNS, _WARPS = 16, 64, 1
# Rows of a kernel taken at once. Higher kernels are cut into equal parts.
_KERNEL_ROWS = 17


def available(images: Tensor) -> bool:
    """Whether the functions here can take a batch of images (n, c, h, w).

    It takes Triton, a GPU that holds the images, a type among uint8, float16, bfloat16 and
    float32, and planes whose elements lie within 2^31 of each other.
    """
    (height, width), (down, across) = images.shape[-2:], images.stride()[-2:]
    span = (height - 1) * down + (width - 1) * across
    return triton is not None and images.is_cuda and images.dtype in _TYPES and span < 2**31


def convolve_dense(
    images: Shaped[Tensor, "n c h w"],
    taps: Float[Tensor, "n _ _"] | Float[Tensor, "n c _ _"],
    border: Border = "reflect",
) -> Shaped[Tensor, "n c h w"]:
    """Convolve each image with its own kernel.

    Args:
        images: uint8 (0..255) or float images for which `available` holds, with any strides.
        taps: One kernel an image, or one for each of its channels; odd sides. Taken as float32.
        border: What lies beyond the edge; see `convolve`.

    Returns:
        The images convolved: same size, type, device and memory format. uint8 is rounded half to
        even and clamped. No gradients are recorded.

    Raises:
        ValueError: The shapes do not fit each other, a side of a kernel is even, or the border
            cannot be reflected because a kernel reaches further than the image.
    """
    return _launch(images, taps, border, images.dtype)


def convolve_separable(
    images: Shaped[Tensor, "n c h w"],
    column: Float[Tensor, "n _"] | Float[Tensor, "n c _"],
    row: Float[Tensor, "n _"] | Float[Tensor, "n c _"],
    border: Border = "reflect",
) -> Shaped[Tensor, "n c h w"]:
    """Convolve each image with the product of its own column and its own row.

    Two launches with a float32 image between them: in one, the second pass would read at an offset
    what other threads have computed, for which Triton has no means but device memory. A kernel of
    one row or one column is faster through `convolve_dense`.

    Args:
        images: As for `convolve_dense`.
        column: Taps along the height, an odd number, for each image or each of its channels.
        row: Taps along the width.
        border: What lies beyond the edge; see `convolve`.

    Returns:
        As `convolve_dense`; rounded once, at the end.

    Raises:
        ValueError: As `convolve_dense`.
    """
    between = _launch(images, column[..., None], border, torch.float32)
    return _launch(between, row[..., None, :], border, images.dtype)


def _launch(images: Tensor, taps: Tensor, border: Border, dtype: torch.dtype) -> Tensor:
    _check(images, taps, border)
    n, c, h, w = images.shape
    blurred = torch.empty_like(images, dtype=dtype)
    if images.numel() == 0:
        return blurred
    rows, columns = taps.shape[-2:]
    held = triton.cdiv(rows, triton.cdiv(rows, _KERNEL_ROWS))
    # The kernel correlates; turning the taps by half a turn makes it a convolution.
    turned = taps.detach().to(images.device, torch.float32).flip(-2, -1)
    turned = F.pad(turned, (0, 0, 0, -rows % held)).contiguous()
    tiles = triton.cdiv(h, _TILE_ROWS) * triton.cdiv(w, _TILE_COLUMNS)
    with torch.cuda.device_of(images):
        _correlate[(n * c * tiles,)](
            images,
            turned,
            blurred,
            c,
            h,
            w,
            turned.shape[-2],
            columns,
            rows // 2,
            columns // 2,
            *images.stride(),
            *blurred.stride(),
            turned.stride(0),
            turned.stride(1) if turned.ndim == 4 else 0,
            BORDER=border,
            HELD=held,
            ROWS=_TILE_ROWS,
            COLUMNS=_TILE_COLUMNS,
            num_warps=_WARPS,
            # Products and sums are fused where the kernel says so, whatever Triton's default.
            enable_fp_fusion=False,
        )
    return blurred


def _check(images: Tensor, taps: Tensor, border: Border) -> None:
    shape = tuple(taps.shape)
    if shape[:-2] not in (images.shape[:1], images.shape[:2]):
        raise ValueError(f"taps: shape {shape} does not fit images {tuple(images.shape)}")
    if any(side % 2 == 0 for side in shape[-2:]):
        raise ValueError(f"taps: a side of {shape} is even")
    reach = [side // 2 for side in shape[-2:]]
    if border == "reflect" and any(
        far >= side for far, side in zip(reach, images.shape[-2:], strict=True)
    ):
        raise ValueError(
            f"taps: they reach {max(reach)} px, which a reflected border of a "
            f"{images.shape[2]}x{images.shape[3]} image cannot fill; use border='replicate'"
        )


if triton is not None:
    # no_type_check: Triton reads these functions' source, so no type checker may wrap them.

    @triton.jit
    @no_type_check
    def _nearest_inside(index: tl.tensor, length: tl.tensor, BORDER: tl.constexpr) -> tl.tensor:
        """The index whose pixel stands for one beyond the border ("constant": any inside)."""
        if BORDER == "reflect":
            return length - 1 - tl.abs(length - 1 - tl.abs(index))
        return tl.minimum(tl.maximum(index, 0), length - 1)

    # Without it, each combination of sizes that 16 divides would be compiled anew.
    @triton.jit(do_not_specialize=["h", "w", "kernel_h", "kernel_w", "reach_h", "reach_w"])
    @no_type_check
    def _correlate(
        images: tl.tensor,
        taps: tl.tensor,
        blurred: tl.tensor,
        channels: tl.tensor,
        h: tl.tensor,
        w: tl.tensor,
        kernel_h: tl.tensor,
        kernel_w: tl.tensor,
        reach_h: tl.tensor,
        reach_w: tl.tensor,
        image_n: tl.tensor,
        image_c: tl.tensor,
        image_h: tl.tensor,
        image_w: tl.tensor,
        blurred_n: tl.tensor,
        blurred_c: tl.tensor,
        blurred_h: tl.tensor,
        blurred_w: tl.tensor,
        taps_n: tl.tensor,
        taps_c: tl.tensor,
        BORDER: tl.constexpr,
        HELD: tl.constexpr,
        ROWS: tl.constexpr,
        COLUMNS: tl.constexpr,
    ) -> None:
        """One tile of one plane: `program_id` counts tiles within planes within images.

        `HELD` rows of the kernel are taken at once and divide `kernel_h`, which counts rows of
        zeros below the kernel; `*_n` to `*_w` are strides in elements.
        """
        tiles_across = tl.cdiv(w, COLUMNS)
        tiles = tiles_across * tl.cdiv(h, ROWS)
        plane = tl.program_id(0) // tiles
        tile = tl.program_id(0) % tiles
        # 64 bits: a batch may have more elements than 32 can count. A plane has not.
        n = (plane // channels).to(tl.int64)
        c = (plane % channels).to(tl.int64)
        images += n * image_n + c * image_c
        blurred += n * blurred_n + c * blurred_c
        taps += n * taps_n + c * taps_c
        top = tile // tiles_across * ROWS
        columns = tile % tiles_across * COLUMNS + tl.arange(0, COLUMNS)

        sums = ()
        for _ in tl.static_range(ROWS):
            sums += (tl.zeros([COLUMNS], tl.float32),)
        for first in range(0, kernel_h, HELD):
            for j in range(kernel_w):
                # Lanes beyond the image repeat its last pixel: their reach stays inside.
                across = tl.minimum(columns, w - 1) + j - reach_w
                place = _nearest_inside(across, w, BORDER) * image_w
                window = ()
                for y in tl.static_range(ROWS + HELD - 1):
                    down = tl.minimum(top + first + y, h - 1 + 2 * reach_h) - reach_h
                    start = images + _nearest_inside(down, h, BORDER) * image_h
                    value = tl.load(start + place).to(tl.float32)
                    if BORDER == "constant":
                        # A row beyond the image has no width; asking twice takes more registers.
                        width = tl.where((down >= 0) & (down < h), w, 0)
                        value = tl.where((across >= 0) & (across < width), value, 0.0)
                    window += (value,)
                weights = ()
                for i in tl.static_range(HELD):
                    weights += (tl.load(taps + (first + i) * kernel_w + j),)
                grown = ()
                for r in tl.static_range(ROWS):
                    total = sums[r]
                    for i in tl.static_range(HELD):
                        total = tl.fma(window[r + i], weights[i], total)
                    grown += (total,)
                sums = grown

        blurred += columns * blurred_w
        for r in tl.static_range(ROWS):
            total = sums[r]
            if blurred.dtype.element_ty == tl.uint8:
                # Adding 2^23 leaves no fraction bits: float32 itself rounds half to even.
                total = tl.minimum(tl.maximum(total, 0.0), 255.0) + 8388608.0 - 8388608.0
            if top + r < h:
                value = total.to(blurred.dtype.element_ty)
                tl.store(blurred + (top + r) * blurred_h, value, mask=columns < w)
