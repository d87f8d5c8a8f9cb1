"""Networks on images of any size in bounded memory: by tiles that overlap."""

import itertools
from collections.abc import Callable

import torch.nn.functional as F
from jaxtyping import Shaped
from torch import Tensor


def by_tiles(
    function: Callable[[Tensor], Tensor],
    images: Shaped[Tensor, "b c h w"],
    *,
    tile: int,
    overlap: int,
    multiple: int = 1,
) -> Shaped[Tensor, "b *channels h w"]:
    """Apply a function to tiles of images and put the middles of its results together.

    What a pixel's result draws on within `overlap` pixels is there, as without tiles. Images that
    fit one tile are one: then nothing differs but for the padding.

    Args:
        function: From images (b, c, y, x) to (b, y, x) or (b, channels, y, x), of any type; it
            should reduce what it gives (classes to the best one), for all of that is kept.
        images: Of any size.
        tile: Side of a tile in pixels, the overlap on both sides included.
        overlap: Pixels around the part of a tile that counts, where the image has them.
        multiple: Sides of what the function gets are multiples of it: tiles are padded on the right
            and below by repeating the last column and row. If the overlap is one too, tiles begin
            at multiples: a network whose stride it is sees the grid that it sees without tiles.
    """
    if overlap < 0 or tile <= 2 * overlap:
        raise ValueError(f"tile: {tile} pixels leave nothing between overlaps of {overlap}")
    spans = [_spans(side, tile, overlap, multiple) for side in images.shape[-2:]]
    result: Tensor | None = None
    for top, bottom in spans[0]:
        for left, right in spans[1]:
            rows = slice(max(0, top - overlap), bottom + overlap)
            columns = slice(max(0, left - overlap), right + overlap)
            part = on_multiples(function, images[..., rows, columns], multiple)
            if result is None:
                result = part.new_empty(*part.shape[:-2], *images.shape[-2:])
            y, x = top - rows.start, left - columns.start
            middle = part[..., y : y + bottom - top, x : x + right - left]
            result[..., top:bottom, left:right] = middle
    assert result is not None  # an image has pixels
    return result


def _spans(side: int, tile: int, overlap: int, multiple: int) -> list[tuple[int, int]]:
    """Share a side out evenly, by multiples, among as few tiles as there must be."""
    if side <= tile:
        return [(0, side)]
    middle, parts = (tile - 2 * overlap) // multiple, -(-side // multiple)
    if middle == 0:
        raise ValueError(f"tile: {tile} pixels leave no {multiple} between overlaps of {overlap}")
    count = -(-parts // middle)
    ends = [round(i * parts / count) * multiple for i in range(count)]
    return list(itertools.pairwise([*ends, side]))


def on_multiples(
    function: Callable[[Tensor], Tensor], images: Shaped[Tensor, "b c h w"], multiple: int
) -> Shaped[Tensor, "b *channels h w"]:
    """Apply a function to images padded to sides of a multiple; its result is cut back to theirs.

    Args:
        function: As that of `by_tiles`.
        images: Of any size; their last row and column are repeated.
        multiple: Of both sides of what the function gets.
    """
    rows, columns = images.shape[-2:]
    images = extended(images, multiple)
    result = function(images)
    if result.shape[-2:] != images.shape[-2:]:
        raise ValueError(f"function: gives {tuple(result.shape)} for {tuple(images.shape)}")
    return result[..., :rows, :columns]


def extended(
    images: Shaped[Tensor, "b c h w"], multiple: int, *, least: int = 0
) -> Shaped[Tensor, "b c _ _"]:
    """Repeat the last row and column until both sides are multiples, and at least `least`."""
    below, right = (max(least, side + -side % multiple) - side for side in images.shape[-2:])
    if not below and not right:
        return images
    values = images if images.is_floating_point() else images.float()  # bytes cannot be padded
    return F.pad(values, (0, right, 0, below), mode="replicate").to(images.dtype)
