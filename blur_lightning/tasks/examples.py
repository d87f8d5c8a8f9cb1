"""Pictures of what the network saw under each condition."""

from collections.abc import Sequence
from pathlib import Path

import torch
from PIL import Image
from torch import Tensor

from blur_lightning.blur import BlurDistribution
from blur_lightning.errors import InputError
from blur_lightning.robustness import replacing

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

    def add(
        self, condition: str, image: Tensor, *, mean: Sequence[float], std: Sequence[float]
    ) -> None:
        """Keep the middle squares of normalised images (b, 3, h, w) until there are enough."""
        if self._complete:
            return
        kept = self._images.setdefault(condition, [])
        for picture in image[: COUNT - len(kept)]:
            height, width = picture.shape[1:]
            side = min(height, width)
            top, left = (height - side) // 2, (width - side) // 2
            square = picture[:, top : top + side, left : left + side].float().cpu()
            values = square * torch.tensor(std).view(3, 1, 1) + torch.tensor(mean).view(3, 1, 1)
            kept.append((values.clamp(0, 1) * 255).round().to(torch.uint8))
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
                strip = torch.cat(pictures, dim=2).permute(1, 2, 0).numpy()
                path = temporary / f"{condition}.jpg"
                Image.fromarray(strip).save(path, format="JPEG", quality=90)
        self._images.clear()
        self._complete = True


def _is_condition(name: str) -> bool:
    try:
        BlurDistribution.parse(name)
    except InputError:
        return False
    return True
