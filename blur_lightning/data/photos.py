"""Photographs of one's own, labelled by their file names or not at all."""

import re
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path

from typing_extensions import override

from blur_lightning.blur import Capture
from blur_lightning.data.base import BlurDataModule, Split
from blur_lightning.data.imagenet import FileSource
from blur_lightning.data.windows import Source
from blur_lightning.errors import InputError
from blur_lightning.images import image_files

# Cameras write leading zeros (IMG_0123), class indices have none.
_LABEL = re.compile(r"_(0|[1-9]\d*)$")


class PhotosDataModule(BlurDataModule):
    """A folder of photographs, to test or predict on.

    Args:
        root: Folder of photographs. A name that ends in _<class index>, such as tram_829.jpg,
            gives the label that a test needs; predict needs none. None takes the 20 photographs
            of ImageNet classes that the package foolbox brings (pip install foolbox).
        num_classes: Number of classes of the network.
        labelled: Whether names hold classes, as a test wants them; a critical blur needs none.
        capture: Scales, crop and border of what the network sees.
        batch_size: Images in a batch of each process.
        num_workers: Processes that decode; None is one a core, at most 8.
        seed: Seed of all draws; None is the run's seed_everything.
        skip_unreadable: Leave out images that cannot be read and list them in provenance.json,
            instead of stopping.
    """

    def __init__(
        self,
        root: str | None = None,
        *,
        num_classes: int = 1000,
        labelled: bool = True,
        capture: Capture | None = None,
        batch_size: int = 32,
        num_workers: int | None = None,
        seed: int | None = None,
        skip_unreadable: bool = False,
    ) -> None:
        super().__init__(
            capture=capture,
            batch_size=batch_size,
            num_workers=num_workers,
            seed=seed,
            skip_unreadable=skip_unreadable,
        )
        # Beside its photographs foolbox keeps samples of smaller data sets.
        self.root, self.prefix = (_foolbox(), "imagenet_") if root is None else (Path(root), "")
        self.num_classes, self.labelled = num_classes, labelled
        if root is not None:
            self.name = self.root.resolve().name

    @override
    def source(self, split: Split) -> Source:
        if split == "train":
            raise InputError("data: photographs have no training split; use test or predict")
        if not self.root.is_dir():
            raise InputError(
                f"data.root: there is no folder {self.root}; point --data.root at yours"
            )
        files = [file for file in image_files(self.root) if file.name.startswith(self.prefix)]
        if not files:
            raise InputError(f"data.root: {self.root} holds no images")
        labels = self._labels(files) if split != "predict" and self.labelled else None
        return FileSource(self.root, files, labels)

    def _labels(self, files: Sequence[Path]) -> list[int]:
        labels = []
        for file in files:
            match = _LABEL.search(file.stem)
            if not match or int(match[1]) >= self.num_classes:
                raise InputError(
                    f"{file}: a test needs its class in the name, as in "
                    f"photo_<0..{self.num_classes - 1}>{file.suffix}; predict needs none, nor "
                    "with --data.labelled false a CriticalBlurTask"
                )
            labels.append(int(match[1]))
        return labels


def _foolbox() -> Path:
    package = find_spec("foolbox")
    if package is None or not package.submodule_search_locations:
        raise InputError("data.root: name a folder, or pip install foolbox for its 20 photographs")
    return Path(package.submodule_search_locations[0]) / "data"
