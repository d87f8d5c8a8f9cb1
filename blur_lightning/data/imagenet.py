"""ImageNet's ILSVRC2012 folders, whole or in part, and any other folder of class folders.

Layouts of a split that are understood:

* `<split>/<wnid>/*.JPEG`: a folder for each class, any number of the 1000.
* flat `val/ILSVRC2012_val_*.JPEG` with the labels in `ILSVRC2012_devkit_t12/data/` (the official
  development kit) or in `LOC_val_solution.csv` (Kaggle's).

Labels are the places of the wnids in sorted order, which is what networks are trained with; the
official ground truth counts otherwise, by the ILSVRC2012_ID of its own `meta.mat`.
"""

import csv
from collections.abc import Mapping, Sequence
from functools import cache, partial
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor
from typing_extensions import override

from blur_lightning.blur import Capture
from blur_lightning.data.base import BlurDataModule, Split
from blur_lightning.data.device_decoding import EncodedDataset, decoded
from blur_lightning.data.shards import UNKNOWN, Sharded, StoredFile, StoredFiles
from blur_lightning.data.tars import open_tars
from blur_lightning.data.windows import Source, WindowDataset
from blur_lightning.errors import InputError
from blur_lightning.images import file_size, image_files, image_shape, read_image


class FileSource:
    """Image files below a root, with or without labels."""

    def __init__(
        self, root: Path, files: Sequence[Path] | StoredFiles, labels: Sequence[int] | None
    ) -> None:
        self.root, self.files, self.labels = root, files, labels
        self.names = [str(file.relative_to(root)) for file in files]

    def size(self, index: int) -> int:
        """Bytes of one image's file; 0 where it was removed since it was listed."""
        return file_size(self.files[index])

    def shape(self, index: int) -> tuple[int, int]:
        """Rows and columns of one image, from the head of its file."""
        file = self.files[index]
        if isinstance(file, StoredFile) and UNKNOWN not in file.shape:
            return file.shape
        return image_shape(file)

    def content(self, index: int) -> bytes:
        """What one image's file holds; nothing where it cannot be read."""
        try:
            return self.files[index].read_bytes()
        except OSError:
            return b""

    @property
    def parts(self) -> dict[str, Sequence[Path] | StoredFiles]:
        """Files of each kind: an image's own, its mask's or its sharp partner's."""
        return {"image": self.files}

    def fetch(self, indices: Sequence[int]) -> None:
        """Ask for the files of a batch at once where they lie behind a URL."""
        for files in self.parts.values():
            if isinstance(files, StoredFiles):
                files.store.fetch(files[index] for index in indices)

    def load(self, index: int) -> np.ndarray:
        """Decode one image; UnreadableImageError names a file that is broken."""
        return read_image(self.files[index])


class ImageNetDataModule(Sharded, BlurDataModule):
    """ImageNet (ILSVRC2012) on disk, or any folder of class folders.

    Args:
        root: Folder that holds train/ and val/; tests use val/. Or shards of it (see the command
            shard), which may also be at a URL: s3://bucket/imagenet. Or WebDataset's tars of it.
        classes: "imagenet": class folders are wnids and keep their place among the 1000, also
            where only some are present. "folders": whatever class folders train/ holds, sorted.
        blur: What training images are blurred with, one draw an image: sharp, D4, H8, V8, M8@30,
            G4, shake, a range D2..8, a mix sharp+D2+D4, or a weighted mix 0.2*sharp+0.8*shake.
        val_blur: What validation images are blurred with; None is blur, so that of runs which train
            on other mixes the figures do not compare.
        capture: Scales, crop and border of what the network sees.
        test_whole: Test and predict whole images instead of their central crops; the network must
            take any size (see `models.dense`).
        jitter: Scales, in pixels, to which training images are resized before the blur, one at
            random, measured as the canonical one; empty is that alone.
        flip: Mirror half of the training images, left to right.
        fraction: Train on this part of every class, in (0, 1], drawn from the seed.
        per_class: Test on so many images of every class, drawn from the seed; None is all.
        fast_resize: Resize training images faster, by torch; a value in some hundreds differs
            by one of 255 levels from what validation and tests would see. They stay exact.
        decode_on_device: Decode and resize JPEGs for training on the device, by nvJPEG on CUDA,
            where cores are few; pixels differ by some levels from those of tests.
        batch_size: Images in a batch of each process.
        num_workers: Processes that decode; None is one a core, at most 8.
        seed: Seed of all draws; None is the run's seed_everything.
        skip_unreadable: Leave out images that cannot be read and list them in provenance.json,
            instead of stopping.
    """

    choices = ("classes",)

    def __init__(
        self,
        root: str,
        *,
        classes: Literal["imagenet", "folders"] = "imagenet",
        blur: str = "sharp",
        val_blur: str | None = None,
        capture: Capture | None = None,
        test_whole: bool = False,
        jitter: Sequence[int] = (),
        flip: bool = True,
        fraction: float = 1.0,
        per_class: int | None = None,
        fast_resize: bool = False,
        decode_on_device: bool = False,
        batch_size: int = 128,
        num_workers: int | None = None,
        seed: int | None = None,
        skip_unreadable: bool = False,
    ) -> None:
        super().__init__(
            blur=blur,
            val_blur=val_blur,
            capture=capture,
            test_whole=test_whole,
            jitter=jitter,
            flip=flip,
            fraction=fraction,
            per_class=per_class,
            fast_resize=fast_resize,
            batch_size=batch_size,
            num_workers=num_workers,
            seed=seed,
            skip_unreadable=skip_unreadable,
        )
        self.root, self.classes = Path(root), classes
        self._tars = cache(partial(open_tars, self.root))  # to find images in them takes minutes
        self.training_dataset = EncodedDataset if decode_on_device else WindowDataset
        if classes == "folders":
            self.name = self.root.resolve().name

    @override
    def transfer_batch_to_device(
        self, batch: dict[str, Any], device: torch.device, dataloader_idx: int
    ) -> dict[str, Any]:
        images = batch.pop("image") if isinstance(batch.get("image"), list) else None
        batch = super().transfer_batch_to_device(batch, device, dataloader_idx)
        if images is None:
            return batch
        windows, reasons = decoded(images, device, self.capture)
        indices, names = batch["index"].tolist(), self.sources["train"].names
        for place, reason in reasons.items():
            name = names[indices[place]]
            batch["unreadable"][indices[place]] = f"{name}: cannot be read ({reason})"
        kept = [place for place in range(len(images)) if place not in reasons]
        for name, values in batch.items():
            batch[name] = values[kept] if isinstance(values, Tensor) else values
        return batch if windows is None else batch | {"image": windows}

    @override
    def source(self, split: Split) -> Source:
        part = "train" if split == "train" else "val"
        if shards := self.stored(part):
            return FileSource(self.root, shards.files["image"], shards.labels)
        if tars := self._tars(part):
            self._count_classes(tars.labels, part)
            return FileSource(self.root, tars.files, tars.labels)
        folder = self.root / part
        if not folder.is_dir():
            raise InputError(f"data.root: there is no folder {folder}; point --data.root at yours")
        class_folders = sorted(path for path in folder.iterdir() if path.is_dir())
        if not class_folders:
            return self._flat(folder)
        labels_by_name = self._labels_by_name(class_folders)
        files, labels = [], []
        for class_folder in class_folders:
            found = image_files(class_folder)
            if not found:
                raise InputError(f"{class_folder}: the class folder is empty; fill or remove it")
            files += found
            labels += [labels_by_name[class_folder.name]] * len(found)
        return FileSource(self.root, files, labels)

    def _labels_by_name(self, class_folders: Sequence[Path]) -> Mapping[str, int]:
        if self.classes == "folders":
            train = self.root / "train"
            reference = train if train.is_dir() else class_folders[0].parent
            names = sorted(path.name for path in reference.iterdir() if path.is_dir())
            known: Mapping[str, int] = {name: label for label, name in enumerate(names)}
            advice = f"{reference} has no such class; remove it"
        else:
            known = wnid_labels()
            advice = "not one of ImageNet's 1000 wnids; remove it, or use --data.classes folders"
        for class_folder in class_folders:
            if class_folder.name not in known:
                raise InputError(f"{class_folder}: {advice}")
        self.num_classes, self.class_names = len(known), tuple(known)
        return known

    def _count_classes(self, labels: Sequence[int], part: str) -> None:
        """Tars number the classes, but do not tell how many there are."""
        if self.classes == "imagenet":
            known = len(wnid_labels())
            if max(labels) >= known:
                raise InputError(
                    f"{self.root}: its tars have a class {max(labels)}, beyond ImageNet's {known}; "
                    "set --data.classes folders"
                )
            self.num_classes, self.class_names = known, tuple(wnid_labels())
            return
        trained = self._tars("train") if part != "train" else None
        self.num_classes = 1 + max(*labels, *(trained.labels if trained else ()), 0)

    def _flat(self, folder: Path) -> Source:
        files = sorted(path for path in image_files(folder) if path.parent == folder)
        if not files:
            raise InputError(f"{folder}: holds no images and no class folders")
        kit, kaggle = self.root / "ILSVRC2012_devkit_t12/data", self.root / "LOC_val_solution.csv"
        if kit.is_dir():
            labels_by_file = _devkit_labels(kit)
        elif kaggle.is_file():
            labels_by_file = _kaggle_labels(kaggle)
        else:
            raise InputError(
                f"{folder}: flat images need their labels: put {kit} or {kaggle} there"
            )
        unknown = next((file for file in files if file.stem not in labels_by_file), None)
        if unknown is not None:
            raise InputError(f"{unknown}: the ground truth beside {folder} does not name it")
        self.num_classes = len(wnid_labels())
        return FileSource(self.root, files, [labels_by_file[file.stem] for file in files])


@cache
def wnid_labels() -> Mapping[str, int]:
    """Class index of each of the 1000 wnids, in the order that networks are trained with."""
    from timm.data import ImageNetInfo  # importing timm takes a second; a folder's classes do not

    return {wnid: label for label, wnid in enumerate(ImageNetInfo("imagenet-1k").label_names())}


def _devkit_labels(kit: Path) -> dict[str, int]:
    """Labels by file stem: line i of the ground truth is the ILSVRC2012_ID of image i + 1."""
    from scipy.io import loadmat  # only the flat layout reads MATLAB files

    truth, meta = kit / "ILSVRC2012_validation_ground_truth.txt", kit / "meta.mat"
    for file in (truth, meta):
        if not file.is_file():
            raise InputError(f"{file}: missing; unpack the whole development kit")
    try:
        synsets = loadmat(meta, squeeze_me=True)["synsets"]
        wnids = {int(synset["ILSVRC2012_ID"]): str(synset["WNID"]) for synset in synsets}
        labels = [wnid_labels()[wnids[int(line)]] for line in truth.read_text().split()]
    except Exception as error:  # SciPy's readers fail on foreign files in many ways
        raise InputError(f"{kit}: not ILSVRC2012's meta.mat and ground truth ({error})") from error
    return {f"ILSVRC2012_val_{i:08d}": label for i, label in enumerate(labels, start=1)}


def _kaggle_labels(table: Path) -> dict[str, int]:
    """Labels by file stem from rows `ILSVRC2012_val_00000001,n01751748 111 108 ...`."""
    try:
        with table.open(newline="", encoding="utf-8") as file:
            return {
                row["ImageId"]: wnid_labels()[row["PredictionString"].split()[0]]
                for row in csv.DictReader(file, restval="")
            }
    except (LookupError, ValueError, csv.Error, OSError) as error:
        raise InputError(f"{table}: not Kaggle's validation labels ({error})") from error
