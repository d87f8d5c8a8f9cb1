"""Pictures of what the network saw under each condition."""

from collections.abc import Sequence
from pathlib import Path

import torch
import torch.nn.functional as F
from jaxtyping import Float, UInt8
from PIL import Image
from torch import Tensor

from blur_lightning.blur import BlurDistribution
from blur_lightning.errors import InputError
from blur_lightning.records.robustness import replacing

COUNT = 5  # images side by side


class ExampleStrips:
    """The first few images of a test under every condition, one strip each.

    Args:
        folder: Where they lie once they are complete, so that an interrupted test keeps them.
        conditions: How many conditions there are.
    """

    def __init__(self, folder: Path, conditions: int) -> None:
        self.folder, self.conditions = folder, conditions
        self._images: dict[str, list[Tensor]] = {}
        self._complete = folder.exists()

    def wants(self, condition: str) -> bool:
        """Whether pictures of a condition are still missing."""
        return not self._complete and len(self._images.get(condition, ())) < COUNT

    def add(self, condition: str, pictures: Sequence[UInt8[Tensor, "3 _ _"]]) -> None:
        """Keep pictures until there are enough of every condition."""
        kept = self._images.setdefault(condition, [])
        kept.extend(pictures[: COUNT - len(kept)])
        if [len(pictures) for pictures in self._images.values()] == [COUNT] * self.conditions:
            self._write()

    def publish(self, folder: Path) -> None:
        """Write `<condition>.jpg` for each condition; pictures of other conditions are removed."""
        if not self._complete:
            self._write()
        folder.mkdir(parents=True, exist_ok=True)
        for old in folder.glob("*.jpg"):
            if _is_condition(old.stem):  # somebody may keep photographs of their own here
                old.unlink()
        for picture in self.folder.glob("*.jpg"):
            picture.replace(folder / picture.name)

    def _write(self) -> None:
        with replacing(self.folder) as temporary:
            temporary.mkdir()
            for condition, pictures in self._images.items():
                strip = _side_by_side(pictures).permute(1, 2, 0).numpy()
                path = temporary / f"{condition}.jpg"
                Image.fromarray(strip).save(path, format="JPEG", quality=90)
        self._images.clear()
        self._complete = True


def to_bytes(
    image: Float[Tensor, "b 3 h w"], mean: Sequence[float], std: Sequence[float]
) -> UInt8[Tensor, "b 3 h w"]:
    """Undo the normalisation of a network's input by each channel's mean and std; on the CPU."""
    shift, factor = (torch.tensor(values).view(3, 1, 1) for values in (mean, std))
    return ((image.float().cpu() * factor + shift).clamp(0, 1) * 255).round().to(torch.uint8)


def middle_square(picture: UInt8[Tensor, "3 h w"]) -> UInt8[Tensor, "3 side side"]:
    """Cut out the largest square in the middle."""
    height, width = picture.shape[1:]
    side = min(height, width)
    top, left = (height - side) // 2, (width - side) // 2
    return picture[:, top : top + side, left : left + side]


def _side_by_side(pictures: Sequence[Tensor]) -> Tensor:
    """One picture of several, white below those that are not as high as the others."""
    height = max(picture.shape[1] for picture in pictures)
    padded = [F.pad(p, (0, 0, 0, height - p.shape[1]), value=255) for p in pictures]
    return torch.cat(padded, dim=2)


def _is_condition(name: str) -> bool:
    try:
        BlurDistribution.parse(name)
    except InputError:
        return False
    return True
