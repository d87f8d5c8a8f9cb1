"""Blurry images with sharp partners, or sharp images to be blurred, for networks that deblur."""

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
from blur_lightning.images import UnreadableImageError, file_size, read_image
from blur_lightning.pair_layouts import VARIANTS, Layout, Part, find_pairs


class PairSource(FileSource):
    """Blurry image files below a root, each with its sharp partner's."""

    def __init__(
        self,
        root: Path,
        blurry: Sequence[Path] | StoredFiles,
        sharp: Sequence[Path] | StoredFiles,
    ) -> None:
        super().__init__(root, blurry, None)
        self.partners = sharp

    @property
    @override
    def parts(self) -> dict[str, Sequence[Path] | StoredFiles]:
        return super().parts | {"sharp": self.partners}

    @override
    def size(self, index: int) -> int:
        """Bytes of both files."""
        return super().size(index) + file_size(self.partners[index])

    def sharp(self, index: int) -> UInt8[np.ndarray, "h w 3"]:
        """Decode a sharp partner; UnreadableImageError names one that is broken or does not fit."""
        path = self.partners[index]
        pixels, shape = read_image(path), self.shape(index)
        if pixels.shape[:2] != shape:
            raise UnreadableImageError(
                f"{path}: {pixels.shape[1]}x{pixels.shape[0]} pixels, but its blurry partner "
                f"{self.files[index]} has {shape[1]}x{shape[0]}"
            )
        return pixels


class PairsDataModule(Sharded, BlurDataModule):
    """Pairs of a blurry and a sharp image at the size of their files, or sharp images alone.

    Pairs hold their blur: they are tested under the condition `sharp`, which adds none, and records
    name the data set by what its blur is: `gopro (blur_gamma, ...)`. Sharp images (layout sharp)
    are blurred on the device, in training by `blur`, in tests under each condition.

    Training sees random windows, the same of both images of a pair; tests see whole images.

    Args:
        root: Folder of the data set, or shards of it (see the command shard), also at a URL.
        layout: Where the files lie below it: gopro, reds, hide, realblur; wild, what `build-wild`
            makes; folders, which is
            {train,test}/{blur,sharp} or just {blur,sharp}; or sharp, images alone.
        variant: Which blurry images. gopro: blur, which most papers since 2021 use, or blur_gamma;
            reds: blur or blur_comp; realblur: J or R. None is the first of these.
        held_out: Share of the training sequences that are kept for validation, in (0, 1), at least
            one; and where the folder is not split in train and test, as many for tests.
        blur: What training images are blurred with, one draw an image; beyond their own blur where
            they are pairs. shake100000 is camera shake of a bank of so many kernels.
        synthetic_blur: What the sharp images of training pairs are blurred with, in place of their
            blurry partners: DeblurNet-SI of Noroozi et al. 2017. None takes the partners. Tests
            are on pairs either way.
        val_blur: The same for validation; None is blur.
        capture: Crop to train on, in pixels, and the border of what is blurred. None is a crop of
            256 pixels of images at the size of their files.
        test_whole: Test and predict whole images instead of their central crops; validation is on
            central crops.
        flip: Mirror half of the training images, left to right.
        batch_size: Images in a batch of each process; the whole images of a test too.
        num_workers: Processes that decode; None is one a core, at most 8.
        seed: Seed of all draws; None is the run's seed_everything.
        skip_unreadable: Leave out images that cannot be read, or whose partner cannot or has
            another size, and list them in provenance.json, instead of stopping.
    """

    choices = ("layout", "variant", "held_out")
    facts = ("name",)
    parts = ("train", "val", "test")

    def __init__(
        self,
        root: str,
        *,
        layout: Layout = "folders",
        variant: str | None = None,
        held_out: float = 0.1,
        blur: str = "sharp",
        synthetic_blur: str | None = None,
        val_blur: str | None = None,
        capture: Capture | None = None,
        test_whole: bool = True,
        flip: bool = True,
        batch_size: int = 10,
        num_workers: int | None = None,
        seed: int | None = None,
        skip_unreadable: bool = False,
    ) -> None:
        if synthetic_blur is not None and blur != "sharp":
            raise InputError("data.synthetic_blur: takes the place of data.blur; name one of them")
        super().__init__(
            blur=synthetic_blur or blur,
            val_blur=val_blur,
            capture=capture or Capture(256, 256, 256, measure="native"),
            test_whole=test_whole,
            flip=flip,
            batch_size=batch_size,
            num_workers=num_workers,
            seed=seed,
            skip_unreadable=skip_unreadable,
        )
        if not 0 < held_out < 1:
            raise InputError(f"data.held_out: {held_out} is not between 0 and 1")
        self.root, self.layout, self.held_out = Path(root), layout, held_out
        self.synthetic = synthetic_blur is not None
        self.variant = variant or next(iter(VARIANTS.get(layout, ())), None)
        published = layout not in ("folders", "sharp", "wild")
        self.name = layout if published else self.root.resolve().name

    @override
    def source(self, split: Split) -> Source:
        part: Part = "test" if split == "predict" else split
        blurry: Sequence[Path] | StoredFiles
        sharp: Sequence[Path] | StoredFiles
        if shards := self.stored(part):
            sharp = shards.files["sharp" if "sharp" in shards.files else "image"]
            blurry = shards.files["image"]
        else:
            pairs = find_pairs(
                self.root,
                layout=self.layout,
                variant=self.variant,
                part=part,
                held_out=self.held_out,
            )
            blurry, sharp = [pair.blurry for pair in pairs], [pair.sharp for pair in pairs]
        if self.layout == "sharp" or (self.synthetic and split in ("train", "val")):
            return FileSource(self.root, sharp, None)
        return PairSource(self.root, blurry, sharp)

    @property
    @override
    def dataset(self) -> str:
        return self._named(self.variant, self.test_capture.variant)

    @property
    @override
    def training_mix(self) -> str:
        if self.layout == "sharp":
            return super().training_mix
        added = str(self.blur)
        own = "sharp" if self.synthetic else self.variant
        return self._named(own, f"and {added}" if added != "sharp" else None)

    def _named(self, *details: str | None) -> str:
        known = ", ".join(detail for detail in details if detail)
        return f"{self.name} ({known})" if known else str(self.name)

    @override
    def provenance(self) -> dict[str, Any]:
        names = ("layout", "variant", "held_out", "synthetic")
        return super().provenance() | {"pairs": {name: getattr(self, name) for name in names}}
