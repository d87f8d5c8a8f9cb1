"""What is on disk of the data that an experiment names; nothing is instantiated."""

import json
from collections.abc import Callable, Mapping, Sequence
from hashlib import file_digest
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple, get_args

from blur_lightning import pair_layouts, voc_layout
from blur_lightning.errors import InputError

Settings = Mapping[str, Any]  # values by dotted names, without init_args: model.net.pretrained
DEBIAN = Path("/usr/share/datasets/fashion-mnist")
_IDX_FILES = ("train-images-idx3", "train-labels-idx1", "t10k-images-idx3", "t10k-labels-idx1")


class Need(NamedTuple):
    """Something that an experiment or the whole project uses."""

    mark: str  # ok, missing, or note: works without
    what: str
    remedy: str = ""


def _shards(root: Any) -> Need | None:
    """Shards that the command shard wrote, in place of files; None where there are none."""
    if "://" in str(root):
        return Need("note", f"data: {root} was not asked; the run itself says what it lacks")
    manifest = Path(str(root), "shards.json")
    if not manifest.is_file():
        return None
    try:
        counts = json.loads(manifest.read_text(encoding="utf-8"))["parts"]
        found = ", ".join(f"{part} {count:,}" for part, count in counts.items())
    except (ValueError, LookupError, AttributeError, TypeError):
        return Need("missing", f"data: {manifest} tells of no shards", "write them again")
    return Need("ok", f"data: shards in {root}: {found}")


def _imagenet(settings: Settings, trains: bool) -> Need:
    root = Path(settings.get("data.root") or "data/imagenet")
    for split in ("train", "val") if trains else ("val",):
        folder = root / split
        if not folder.is_dir() or not any(folder.iterdir()):
            remedy = f"put ImageNet below {root} or add --data.root DIR"
            return Need("missing", f"data: no images in {folder}", remedy)
    return Need("ok", f"data: ImageNet in {root}")


def _photos(settings: Settings, trains: bool) -> Need:
    root = settings.get("data.root")
    if root is None and find_spec("foolbox"):
        return Need("ok", "data: 20 photographs of foolbox")
    if root is None:
        return Need("missing", "data: photographs", "pip install foolbox or add --data.root DIR")
    if Path(root).is_dir():
        return Need("ok", f"data: photographs in {root}")
    return Need(
        "missing", f"data: no folder {root}", "put photographs there or add --data.root DIR"
    )


def _fashion(settings: Settings, trains: bool) -> Need:
    root = Path(settings.get("data.root") or "data/fashion-mnist")
    for folder in (root, root / "FashionMNIST/raw", *([] if root.exists() else [DEBIAN])):
        stems = [folder / f"{name}-ubyte" for name in _IDX_FILES]
        if all(stem.is_file() or stem.with_suffix(".gz").is_file() for stem in stems):
            return Need("ok", f"data: Fashion-MNIST in {folder}")
    remedy = f"put {_IDX_FILES[0]}-ubyte.gz and its three companions there or add --data.root DIR"
    return Need("missing", f"data: no Fashion-MNIST in {root}", remedy)


def _voc(settings: Settings, trains: bool) -> Need:
    given = Path(settings.get("data.root") or "data/voc")
    sbd_root = _path(settings, "data.sbd_root")
    splits = [str(settings.get("data.val_split") or "val")]
    splits += [str(settings.get("data.train_split") or "train")] if trains else []
    # A damaged archive comes first: what it leaves unpacked is no more than a consequence.
    known = [given, given / "VOC2012", given / "VOCdevkit/VOC2012"]
    if wrong := _damaged([*known, *([sbd_root] if sbd_root else [])]):
        return Need("missing", f"data: {wrong} is damaged: its MD5 differs", "fetch it again")
    try:
        root = voc_layout.voc_root(given)
        counts = {split: _complete(settings, root, split, sbd_root) for split in splits}
        is_voc = (
            voc_layout.read_classes(root, _path(settings, "data.classes")) == voc_layout.CLASSES
        )
    except InputError as error:
        what, _, remedy = str(error).rpartition("; ")
        if given.name == "stamps" and not given.exists():
            remedy = "make stamps"
        elif archive := next(given.glob("VOCtrainval*.tar"), None):
            remedy = f"unpack {archive} there"
        return Need("missing", f"data: {what}", remedy)
    for split, count in counts.items():
        expected = voc_layout.COUNTS.get(split, count) if is_voc else count
        if count != expected:
            what = f"data: {split} of {root} has {count:,} images, not {expected:,}"
            return Need("missing", what, "fetch its list again")
    found = ", ".join(f"{split} {count:,}" for split, count in counts.items())
    return Need("ok", f"data: {'VOC2012' if is_voc else 'masks'} in {root}: {found}")


def _pairs(settings: Settings, trains: bool) -> Need:
    root = Path(str(settings.get("data.root")))
    layout: pair_layouts.Layout = settings.get("data.layout") or "folders"
    parts: tuple[pair_layouts.Part, ...] = ("train", "val", "test") if trains else ("test",)
    if layout not in (known := get_args(pair_layouts.Layout)):
        return Need("missing", f"data.layout: '{layout}'", f"name one of {', '.join(known)}")
    counts: dict[str, int] = {}
    try:
        for part in parts:
            found = pair_layouts.find_pairs(
                root,
                layout=layout,
                variant=settings.get("data.variant"),
                part=part,
                held_out=settings.get("data.held_out") or 0.1,
            )
            whole = "test" if part == "test" else "train"
            counts[whole] = counts.get(whole, 0) + len(found)
    except InputError as error:
        what, _, remedy = str(error).rpartition("; ")
        return Need("missing", f"data: {what}", remedy)
    for name, count in counts.items():
        expected = pair_layouts.GOPRO_COUNTS[name] if layout == "gopro" else count
        if count != expected:
            what = f"data: {name} of {root} has {count:,} pairs, not {expected:,}"
            return Need("missing", what, "fetch GOPRO_Large again")
    listed = ", ".join(f"{name} {count:,}" for name, count in counts.items())
    return Need("ok", f"data: {layout} in {root}: {listed}")


def _path(settings: Settings, key: str) -> Path | None:
    return Path(str(settings[key])) if settings.get(key) else None


def _complete(settings: Settings, root: Path, split: str, sbd_root: Path | None) -> int:
    """How many images a split has; InputError where an image or a mask is missing."""
    names = voc_layout.split_names(root, split, sbd_root)
    voc_layout.find_images(root, names)
    listed = [value for key, value in settings.items() if key.startswith("data.masks")]
    masks = voc_layout.find_masks(root, names, listed or voc_layout.MASK_FOLDERS, sbd_root)
    missing = [mask for mask in masks if not mask.is_file()]
    if missing:
        raise InputError(
            f"{split} of {root} lacks {len(missing):,} of {len(names):,} masks, such as "
            f"{missing[0]}; fetch them, or name SBD with --data.sbd_root"
        )
    return len(names)


def _damaged(folders: Sequence[Path]) -> Path | None:
    """The first archive or list whose MD5 is not that of the original."""
    for file in (folder / name for folder in folders for name in voc_layout.MD5):
        if file.is_file():
            with file.open("rb") as content:
                if file_digest(content, "md5").hexdigest() != voc_layout.MD5[file.name]:
                    return file
    return None


def _scenes(settings: Settings, trains: bool) -> Need:
    return Need("ok", "data: scenes, drawn from a seed")


def _or_shards(need: Callable[[Settings, bool], Need]) -> Callable[[Settings, bool], Need]:
    return lambda settings, trains: _shards(settings.get("data.root")) or need(settings, trains)


# What each data module needs, by its name.
DATA: dict[str, Callable[[Settings, bool], Need]] = {
    "ImageNetDataModule": _or_shards(_imagenet),
    "PhotosDataModule": _photos,
    "FashionMNISTDataModule": _fashion,
    "ScenesDataModule": _scenes,
    "VOCDataModule": _or_shards(_voc),
    "PairsDataModule": _or_shards(_pairs),
}
