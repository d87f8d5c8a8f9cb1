"""Label maps as pictures: the classes in VOC's colours, and where a prediction errs."""

from collections.abc import Sequence
from pathlib import Path, PurePath

import torch
from jaxtyping import Bool, Int64, UInt8
from PIL import Image
from torch import Tensor

from blur_lightning.images import VOID
from blur_lightning.records.robustness import replacing
from blur_lightning.tasks.examples import middle_square
from blur_lightning.voc_layout import VERDICTS, palette


def error_pictures(
    image: UInt8[Tensor, "b 3 h w"],
    prediction: Int64[Tensor, "b h w"],
    truth: Int64[Tensor, "b h w"],
    near: Bool[Tensor, "b h w"],
) -> list[UInt8[Tensor, "3 _ _"]]:
    """For each image one below another: itself, truth, prediction and errors; middle squares.

    Args:
        image: What the network saw.
        prediction: Predicted classes.
        truth: True classes, and void.
        near: Which pixels are near a boundary: errors there are orange, elsewhere blue.
    """
    verdict = torch.where(near, 2, 3)
    verdict[prediction == truth] = 0
    verdict[truth == VOID] = 1
    colours = torch.from_numpy(palette())
    maps = (
        image,
        colours[truth].movedim(-1, 1),
        colours[prediction].movedim(-1, 1),
        torch.tensor([*VERDICTS.values()], dtype=torch.uint8)[verdict].movedim(-1, 1),
    )
    shown = zip(*(map(middle_square, pictures) for pictures in maps), strict=True)
    return [torch.cat(parts, dim=1) for parts in shown]


def png_names(names: Sequence[str]) -> list[str]:
    """Names of images ending in .png, after the old ending where two would be the same."""
    plain = [str(PurePath(name).with_suffix(".png")) for name in names]
    return plain if len({*plain}) == len(plain) else [f"{name}.png" for name in names]


def write_label_map(
    path: Path, classes: Int64[Tensor, "h w"], *, shape: tuple[int, int] | None = None
) -> None:
    """Write a label map as a PNG whose values are the classes, and whose colours are VOC's.

    Args:
        path: Ends in .png.
        classes: 0 to 255.
        shape: Rows and columns of the file, to which each pixel takes the nearest label; None
            keeps those of the map.
    """
    picture = Image.fromarray(classes.to(torch.uint8).cpu().numpy())
    if shape is not None:
        picture = picture.resize(shape[::-1], Image.Resampling.NEAREST)
    picture.putpalette(palette().tobytes())
    with replacing(path) as temporary:
        picture.save(temporary, format="PNG")
