"""Random regions of images, for blur that is not everywhere (Kim, Kim and Han, section 4)."""

from collections.abc import Sequence

import numpy as np
import torch
from jaxtyping import Bool
from torch import Tensor

# Squares of a pattern in each direction, after which it repeats.
_PATTERN = 64


def random_regions(
    keys: Sequence[int],
    *,
    share: Sequence[float],
    size: tuple[int, int],
    cell: int = 32,
) -> Bool[Tensor, "b h w"]:
    """Draw squares of an image, each taken or left independently of the others.

    Four squares meet in the middle of an image. What is drawn does not depend on its size: with
    the same margin added on all sides it has the same pattern inside.

    Args:
        keys: One whole number of at least 0 for each image; equal keys give equal patterns.
        share: Probability of each image's squares, in [0, 1].
        size: Rows and columns of the images.
        cell: Side of a square in pixels.
    """
    if len(share) != len(keys) or not all(0 <= p <= 1 for p in share):
        raise ValueError(f"share: {share} is not one value in [0, 1] for each of {len(keys)} keys")
    if cell < 1:
        raise ValueError(f"cell: {cell} is not 1 pixel or more")
    if min(keys, default=0) < 0:
        raise ValueError(f"keys: {list(keys)} has one below 0")
    rows, columns = ((np.arange(side) - side // 2) // cell % _PATTERN for side in size)
    mask = np.empty((len(keys), *size), dtype=bool)
    for place, (key, p) in enumerate(zip(keys, share, strict=True)):
        pattern = np.random.default_rng([key, _PATTERN]).random((_PATTERN, _PATTERN)) < p
        mask[place] = pattern[np.ix_(rows, columns)]
    return torch.from_numpy(mask)
