"""Semantic segmentation from PASCAL VOC2012's folders, or any others that are laid out so.

Source: Everingham et al. 2015 (IJCV 111, 98-136); the scale at which images are blurred is that of
Vasiljevic et al. 2016 (arXiv 1611.05760), section 5. See `voc_layout` for the files.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import UInt8
from typing_extensions import override

from blur_lightning.blur import Capture
from blur_lightning.data.base import BlurDataModule, Split
from blur_lightning.data.imagenet import FileSource
from blur_lightning.data.shards import Sharded, StoredFiles
from blur_lightning.data.windows import Source
from blur_lightning.errors import InputError
from blur_lightning.images import UnreadableImageError, file_size
from blur_lightning.voc_layout import (
    CLASSES,
    MASK_FOLDERS,
    find_images,
    find_masks,
    read_classes,
    read_mask,
    split_names,
    voc_root,
)


class VOCSource(FileSource):
    """Image files below a root, each with the file of its mask."""

    def __init__(
        self,
        root: Path,
        images: Sequence[Path] | StoredFiles,
        masks: Sequence[Path] | StoredFiles,
        *,
        classes: int,
    ) -> None:
        super().__init__(root, images, None)
        self.masks, self.classes = masks, classes

    @override
    def size(self, index: int) -> int:
        """Bytes of one image's file and of its mask's, if there is one."""
        return super().size(index) + file_size(self.masks[index])

    @property
    @override
    def parts(self) -> dict[str, Sequence[Path] | StoredFiles]:
        return super().parts | {"mask": self.masks}

    def mask(self, index: int) -> UInt8[np.ndarray, "h w"]:
        """Read the labels of one image's pixels; UnreadableImageError names a mask that is none."""
        path = self.masks[index]
        labels, shape = read_mask(path, self.classes), self.shape(index)
        if labels.shape != shape:
            raise UnreadableImageError(
                f"{path}: a mask of {labels.shape[1]}x{labels.shape[0]} pixels, but its image has "
                f"{shape[1]}x{shape[0]}"
            )
        return labels


class VOCDataModule(Sharded, BlurDataModule):
    """PASCAL VOC2012's segmentation, with SBD or without, or any set in its layout.

    Args:
        root: Folder of JPEGImages and ImageSets/Segmentation, or one above it: VOCdevkit or its
            parent.
        train_split: List of the images to train on: train (1,464), trainaug (10,582) or
            train_noval (5,623), which need SBD's masks, any other of ImageSets/Segmentation, or a
            path that ends in .txt.
        val_split: List of the images to validate, test and predict on.
        masks: Folders of the masks in the root; each is taken from the first that has it.
        sbd_root: Folder of SBD's dataset, for masks that are in none of them (cls/*.mat).
        classes: File with the name of a class a line, that of 0 first; None is classes.txt in the
            root, or without that VOC's 21.
        blur: What training images are blurred with, one draw an image: sharp, D4, H8, V8, M8@30,
            G4, shake, a range D2..8, a mix sharp+D2+D4, or a weighted mix 0.2*sharp+0.8*shake.
        val_blur: What validation images are blurred with; None is blur, so that of runs which train
            on other mixes the figures do not compare.
        capture: Scale, crop and border of what the network sees; canonical and scale are the same,
            since masks stay as they are when an image is blurred. None is the paper's: the
            geometric mean of the sides is 384 pixels; crops to train on have 320.
        test_whole: Test and predict whole images instead of their central crops; validation is on
            central crops.
        jitter: Scales, in pixels, to which training images are resized before the blur, one at
            random, measured as the canonical one; empty is that alone.
        flip: Mirror half of the training images, left to right.
        batch_size: Images in a batch of each process.
        num_workers: Processes that decode; None is one a core, at most 8.
        seed: Seed of all draws; None is the run's seed_everything.
        skip_unreadable: Leave out images that cannot be read, or whose mask cannot, and list them
            in provenance.json, instead of stopping.
    """

    choices = ("train_split", "val_split")
    facts = ("name", "num_classes", "class_names", "class_list")

    def __init__(
        self,
        root: str = "data/voc",
        *,
        train_split: str = "train",
        val_split: str = "val",
        masks: Sequence[str] = MASK_FOLDERS,
        sbd_root: str | None = None,
        classes: str | None = None,
        blur: str = "sharp",
        val_blur: str | None = None,
        capture: Capture | None = None,
        test_whole: bool = True,
        jitter: Sequence[int] = (),
        flip: bool = True,
        batch_size: int = 16,
        num_workers: int | None = None,
        seed: int | None = None,
        skip_unreadable: bool = False,
    ) -> None:
        super().__init__(
            blur=blur,
            val_blur=val_blur,
            capture=capture or Capture(384, 384, 320, measure="geometric_mean"),
            test_whole=test_whole,
            jitter=jitter,
            flip=flip,
            batch_size=batch_size,
            num_workers=num_workers,
            seed=seed,
            skip_unreadable=skip_unreadable,
        )
        canonical = self.capture.canonical
        if self.capture.scales != (canonical,):
            raise InputError(
                f"data.capture.scale: {self.capture.scale_name}, but masks have the scale at which "
                f"images are blurred; set capture.scale {canonical} too"
            )
        self.root, self.train_split, self.val_split = Path(root), train_split, val_split
        self.masks, self.sbd_root = masks, Path(sbd_root) if sbd_root else None
        self.classes = Path(classes) if classes else None
        self.class_names: tuple[str, ...] = ()

    @override
    def source(self, split: Split) -> Source:
        if shards := self.stored("train" if split == "train" else "val"):
            stored = shards.files["image"]
            if split == "predict":
                return FileSource(self.root, stored, None)
            return VOCSource(self.root, stored, shards.files["mask"], classes=self.num_classes)
        root = voc_root(self.root)
        self.class_names = read_classes(root, self.classes)
        self.num_classes = len(self.class_names)
        listed = self.classes or root / "classes.txt"
        self.class_list = str(listed) if listed.exists() else "VOC"  # as errors name it
        self.name = "voc" if self.class_names == CLASSES else root.resolve().name
        chosen = self.train_split if split == "train" else self.val_split
        names = split_names(root, chosen, self.sbd_root)
        if split == "train":
            self._check_apart(names, split_names(root, self.val_split, self.sbd_root))
        images = find_images(root, names)
        if split == "predict":
            return FileSource(root, images, None)
        masks = find_masks(root, names, self.masks, self.sbd_root)
        return VOCSource(root, images, masks, classes=self.num_classes)

    def _check_apart(self, train: Sequence[str], val: Sequence[str]) -> None:
        shared = sorted(set(train) & set(val))
        if shared:
            raise InputError(
                f"data.train_split: {len(shared):,} images of {self.train_split} are also in "
                f"{self.val_split}, such as {shared[0]}, as in SBD's own train.txt; train on "
                "others, or name another data.val_split"
            )

    @override
    def provenance(self) -> dict[str, Any]:
        splits = {"train": self.train_split, "val": self.val_split}
        return super().provenance() | {"splits": splits, "classes": list(self.class_names)}
