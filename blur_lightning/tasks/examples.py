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
    """The first few images of a test under every condition, one strip each."""

    def __init__(self) -> None:
        self._images: dict[str, list[Tensor]] = {}

    def clear(self) -> None:
        """Forget all images."""
        self._images.clear()

    def add(
        self, condition: str, image: Tensor, *, mean: Sequence[float], std: Sequence[float]
    ) -> None:
        """Keep normalised images of a batch (b, 3, h, w) until there are enough."""
        kept = self._images.setdefault(condition, [])
        for picture in image[: COUNT - len(kept)]:
            values = picture.float().cpu() * torch.tensor(std).view(3, 1, 1)
            pixels = (values + torch.tensor(mean).view(3, 1, 1)).clamp(0, 1) * 255
            kept.append(pixels.round().to(torch.uint8))

    def write(self, folder: Path) -> None:
        """Write `<condition>.jpg` for each condition; pictures of other conditions are removed."""
        folder.mkdir(parents=True, exist_ok=True)
        for old in folder.glob("*.jpg"):
            if _is_condition(old.stem):  # somebody may keep photographs of their own here
                old.unlink()
        for condition, pictures in self._images.items():
            strip = torch.cat(pictures, dim=2).permute(1, 2, 0).numpy()
            with replacing(folder / f"{condition}.jpg") as path:
                Image.fromarray(strip).save(path, format="JPEG", quality=90)


def _is_condition(name: str) -> bool:
    try:
        BlurDistribution.parse(name)
    except InputError:
        return False
    return True
