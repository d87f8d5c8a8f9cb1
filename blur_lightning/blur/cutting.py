"""Windows of images and of their masks: any place, also beyond the edge."""

from typing import Literal

import numpy as np
import torch.nn.functional as F
from jaxtyping import UInt8
from numpy.typing import NDArray
from torch import Tensor

from blur_lightning.blur.border import Border
from blur_lightning.images import VOID

PADDING: dict[Border, Literal["reflect", "edge", "constant"]] = {
    "reflect": "reflect",
    "replicate": "edge",
    "constant": "constant",
}


def cut_window(
    image: NDArray[np.uint8],
    *,
    side: int,
    margin: int,
    place: tuple[float, float] = (0.5, 0.5),
    border: Border = "reflect",
) -> NDArray[np.uint8]:
    """Cut a square out of an image, filling what lies beyond the image by the border rule.

    Args:
        image: (h, w, 3).
        side: Side of the square that is wanted, in pixels.
        margin: Pixels more on each side of it.
        place: Where it lies between top and bottom, left and right, each in [0, 1]; 0.5 is centred.
        border: What fills the outside.

    Returns:
        (side + 2 margin, side + 2 margin, 3); where nothing is to be filled, a view.
    """
    part, pads = inside((image.shape[0], image.shape[1]), side=side, margin=margin, place=place)
    if not np.any(pads):  # the common case, in which padding would only copy
        return image[part]
    # Colours apart, as what follows wants them: then neither has to put them so once more.
    planes = np.pad(image[part].transpose(2, 0, 1), ((0, 0), *pads), mode=PADDING[border])
    return planes.transpose(1, 2, 0)


def middle_window(
    images: UInt8[Tensor, "b 3 h w"], *, side: int, border: Border
) -> UInt8[Tensor, "b 3 {side} {side}"]:
    """Cut out the central square of images on any device, as `cut_window` does without a margin."""
    shape = images.shape[2], images.shape[3]
    part, (rows, columns) = inside(shape, side=side, margin=0, place=(0.5, 0.5))
    windows = images[:, :, *part]
    if any(rows + columns):
        windows = F.pad(windows.float(), (*columns, *rows), mode=border).to(images.dtype)
    return windows


def cut_mask(
    mask: NDArray[np.uint8], *, side: int, place: tuple[float, float] = (0.5, 0.5)
) -> NDArray[np.uint8]:
    """Cut out the square of a mask that `cut_window` cuts out of its image, without a margin.

    Args:
        mask: (h, w).
        side: Side of the square, in pixels.
        place: Where it lies between top and bottom, left and right, each in [0, 1].

    Returns:
        (side, side); `VOID` beyond the image, whatever continues the image there.
    """
    part, pads = inside((mask.shape[0], mask.shape[1]), side=side, margin=0, place=place)
    return np.pad(mask[part], pads, constant_values=VOID)


def inside(
    shape: tuple[int, int], *, side: int, margin: int, place: tuple[float, float]
) -> tuple[tuple[slice, slice], tuple[tuple[int, int], tuple[int, int]]]:
    """The part of a square that is inside an image, and what it lacks before and after it.

    Args:
        shape: Rows and columns of the image.
        side: Side of the square, in pixels.
        margin: Pixels more on each side of it.
        place: Where it lies between top and bottom, left and right, each in [0, 1].

    Returns:
        Rows and columns of the image; pixels that are lacking above and below, left and right.
    """
    cuts, pads = [], []
    for length, fraction in zip(shape, place, strict=True):
        start = round((length - side) * fraction) - margin
        stop = start + side + 2 * margin
        pads.append((max(0, -start), max(0, stop - length)))
        cuts.append(slice(max(0, start), min(length, stop)))
    return (cuts[0], cuts[1]), (pads[0], pads[1])
