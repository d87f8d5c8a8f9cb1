"""The folders of PASCAL VOC's segmentation: lists, masks and classes; without torch.

    ROOT/JPEGImages/2007_000032.jpg             or .jpeg, .png
    ROOT/SegmentationClass/2007_000032.png      a mask: 255 is void, other pixels are class numbers
    ROOT/ImageSets/Segmentation/train.txt       a name a line
    ROOT/classes.txt                            a class a line; without it there are VOC's 21

Sources: Everingham et al. 2015 (IJCV 111, 98-136) for VOC2012; Hariharan et al. 2011 (ICCV,
991-998) for SBD, which labels 11,355 of VOC's images, some of them in VOC's val, as MATLAB files.
"""

from collections.abc import Sequence
from io import BytesIO
from pathlib import Path

import numpy as np
from jaxtyping import UInt8

from blur_lightning.errors import InputError
from blur_lightning.images import (
    DECODER_ERRORS,
    VOID,
    ImageFile,
    UnreadableImageError,
    open_image,
)

CLASSES = (
    *("background", "aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat"),
    *("chair", "cow", "diningtable", "dog", "horse", "motorbike", "person", "pottedplant"),
    *("sheep", "sofa", "train", "tvmonitor"),
)
# Images of VOC2012's own splits, and of those with SBD.
COUNTS = {"train": 1464, "val": 1449, "trainaug": 10582, "train_noval": 5623}
# As torchvision 0.29 checks its downloads.
MD5 = {
    "VOCtrainval_11-May-2012.tar": "6cd6e144f989b92b3379bac3b3de84fd",
    "benchmark.tgz": "82b4d87ceb2ed10f6038a1cba92111cb",
    "train_noval.txt": "79bff800c5f0b1ec6b21080a3c066722",
}
# Colours of the pixels in pictures of errors (Okabe and Ito's).
VERDICTS = {
    "right": (240, 240, 240),
    "void, which counts nowhere": (160, 160, 160),
    "wrong, up to {width} px from a boundary": (213, 94, 0),
    "wrong, farther away": (0, 114, 178),
}
MASK_FOLDERS = ("SegmentationClass", "SegmentationClassAug")
_IMAGE_ENDINGS, _MASK_ENDINGS = (".jpg", ".png", ".jpeg"), (".png", ".mat")


def voc_root(root: Path) -> Path:
    """The folder of JPEGImages: root, or VOC2012 or VOCdevkit/VOC2012 in it."""
    for folder in (root, root / "VOC2012", root / "VOCdevkit/VOC2012"):
        if (folder / "JPEGImages").is_dir():
            return folder
    raise InputError(
        f"data.root: {root} holds neither JPEGImages nor VOCdevkit/VOC2012; point --data.root at "
        "the folder that does"
    )


def sbd_folder(sbd_root: Path) -> Path:
    """SBD's folder of cls: sbd_root, or dataset or benchmark_RELEASE/dataset in it."""
    for folder in (sbd_root, sbd_root / "dataset", sbd_root / "benchmark_RELEASE/dataset"):
        if (folder / "cls").is_dir():
            return folder
    raise InputError(
        f"data.sbd_root: {sbd_root} holds neither cls nor dataset/cls; point --data.sbd_root at "
        "the unpacked benchmark.tgz"
    )


def split_names(root: Path, split: str, sbd_root: Path | None = None) -> list[str]:
    """Names of a split's images, without endings.

    Args:
        root: Folder of JPEGImages.
        split: Name of a list in ImageSets/Segmentation, or path of any other list. trainaug is
            made from VOC's train and SBD where there is no such list, and train_noval.txt may lie
            in SBD's folder instead.
        sbd_root: Folder of SBD.
    """
    lists, sbd = root / "ImageSets/Segmentation", sbd_root and sbd_folder(sbd_root)
    file = Path(split) if split.endswith(".txt") else lists / f"{split}.txt"
    if sbd and not file.is_file():
        if split == "trainaug":
            known = [name for part in ("train", "val") for name in _names(sbd / f"{part}.txt")]
            val = set(_names(lists / "val.txt"))
            return sorted({*_names(lists / "train.txt"), *known} - val)
        file = next((f for f in (sbd / file.name, sbd.parent / file.name) if f.is_file()), file)
    if file.name == "train.txt" and (file.parent / "cls").is_dir():
        raise InputError(
            f"{file}: SBD's own list holds images of VOC's val; train on trainaug or train_noval"
        )
    return _names(file)


def _names(file: Path) -> list[str]:
    """Names of a list; of lines with paths, to an image and its mask, that of the image."""
    try:
        lines = file.read_text().splitlines()
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "not text"
        raise InputError(
            f"{file}: cannot be read ({reason}); fetch it, or name another split"
        ) from error
    names = [Path(line.split()[0]).name for line in lines if line.strip()]
    if not names:
        raise InputError(f"{file}: names no image; fetch it again, or name another split")
    return [Path(n).stem if n.lower().endswith(_IMAGE_ENDINGS) else n for n in names]


def find_images(root: Path, names: Sequence[str]) -> list[Path]:
    """Files of the images; InputError where one is missing."""
    files = _find([root / "JPEGImages"], names, _IMAGE_ENDINGS)
    missing = [name for name, file in zip(names, files, strict=True) if file is None]
    if missing:
        raise InputError(
            f"{root / 'JPEGImages'}: lacks {len(missing):,} of {len(names):,} images, such as "
            f"{missing[0]}; fetch them, or mend the split's list"
        )
    return [file for file in files if file]


def find_masks(
    root: Path, names: Sequence[str], folders: Sequence[str], sbd_root: Path | None = None
) -> list[Path]:
    """Files of the masks, each from the first folder that has it, SBD's the last.

    Where none has it, the file that should be there.
    """
    places = [root / folder for folder in folders]
    places += [sbd_folder(sbd_root) / "cls"] if sbd_root else []
    if not any(place.is_dir() for place in places):
        raise InputError(
            f"{root}: holds no {' and no '.join(folders)}; fetch the masks, or name their folder "
            "with --data.masks"
        )
    files = _find(places, names, _MASK_ENDINGS)
    return [file or places[0] / f"{name}.png" for name, file in zip(names, files, strict=True)]


def _find(
    folders: Sequence[Path], names: Sequence[str], endings: Sequence[str]
) -> list[Path | None]:
    """The first file of each name, by folder and ending; a folder is listed once."""
    there = {place: {path.name for path in place.iterdir()} for place in folders if place.is_dir()}
    return [
        next(
            (
                place / f"{n}{e}"
                for place, files in there.items()
                for e in endings
                if n + e in files
            ),
            None,
        )
        for n in names
    ]


def read_classes(root: Path, file: Path | None = None) -> tuple[str, ...]:
    """Names of the classes, 0 first: of a file, of classes.txt in the root, or VOC's 21."""
    file = file or root / "classes.txt"
    if file == root / "classes.txt" and not file.exists():
        return CLASSES
    try:
        names = [line.strip() for line in file.read_text().splitlines() if line.strip()]
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(
            f"{file}: no list of classes ({error}); write a name a line, that of 0 first"
        ) from error
    if not 2 <= len(names) <= VOID or len(set(names)) < len(names):
        raise InputError(
            f"{file}: {len(names)} classes, {len(set(names))} of them different; write 2 to {VOID} "
            "names, one a line, that of 0 first"
        )
    return tuple(names)


def palette() -> UInt8[np.ndarray, "256 3"]:
    """Colours of VOC's masks: three bits of a label at a time set one bit of red, green and blue.

    The highest bits come first, so that colours of small labels are far apart (VOCdevkit's
    `VOClabelcolormap.m`).
    """
    labels = np.arange(256)[:, None]
    bits = [((labels >> (3 * place + np.arange(3))) & 1) << (7 - place) for place in range(8)]
    return np.bitwise_or.reduce(bits).astype(np.uint8)


def read_mask(path: ImageFile, classes: int) -> UInt8[np.ndarray, "h w"]:
    """Read the labels of a mask; UnreadableImageError names a file that is no such mask.

    Args:
        path: A palette or grey image of labels, an RGB image in VOC's colours, or SBD's .mat.
        classes: How many there are; any other label but 255 is refused.
    """
    labels = _read_matlab(path) if path.suffix == ".mat" else _read_labels(path)
    strange = labels[(labels < 0) | ((labels >= classes) & (labels != VOID))]
    if len(strange):
        raise UnreadableImageError(
            f"{path}: label {strange[0]} is none of the {classes} classes (0 to {classes - 1}) "
            f"and not {VOID}"
        )
    return labels.astype(np.uint8)


def _read_labels(path: ImageFile) -> np.ndarray:
    try:
        with open_image(path) as image:
            image.load()
            if image.mode in ("RGB", "RGBA"):
                return _decode_colours(np.asarray(image)[..., :3], path)
            if image.mode not in ("P", "L", "1") and not image.mode.startswith("I"):
                raise UnreadableImageError(f"{path}: a mask of mode {image.mode} has no labels")
            return np.asarray(image)
    except FileNotFoundError as error:
        raise UnreadableImageError(f"{path}: missing, the mask of a listed image") from error
    except DECODER_ERRORS as error:
        raise UnreadableImageError(f"{path}: cannot be read as a mask ({error})") from error


def _decode_colours(colours: np.ndarray, path: ImageFile) -> np.ndarray:
    """Labels of VOC's colours."""
    weights = np.array([1 << 16, 1 << 8, 1])
    known = palette() @ weights
    order = np.argsort(known)
    codes = colours @ weights
    labels = order[np.searchsorted(known[order], codes).clip(max=255)]
    wrong = known[labels] != codes
    if wrong.any():
        colour = tuple(colours[wrong][0].tolist())
        raise UnreadableImageError(f"{path}: colour {colour} is not in VOC's palette")
    return labels


def _read_matlab(path: ImageFile) -> np.ndarray:
    from scipy.io import loadmat  # only SBD's masks need it

    try:
        return np.asarray(loadmat(BytesIO(path.read_bytes()))["GTcls"][0]["Segmentation"][0])
    except Exception as error:  # SciPy's readers fail on foreign files in many ways
        raise UnreadableImageError(f"{path}: cannot be read as a mask of SBD ({error})") from error
