"""A few images with masks in VOC's layout, for tests."""

import numpy as np
from PIL import Image
from scipy.io import savemat

from blur_lightning.voc_layout import palette

TRAIN, VAL = ("2007_000032", "2007_000039", "2008_000008"), ("2007_000033", "2007_000042")


def labels(number, shape=(30, 44)):
    """Quarters: background, two classes and, in a corner, void."""
    mask = np.zeros(shape, dtype=np.uint8)
    mask[: shape[0] // 2, shape[1] // 2 :] = 1 + number % 20
    mask[shape[0] // 2 :, : shape[1] // 2] = 20
    mask[-4:, -4:] = 255
    return mask


def write_image(path, number, shape=(30, 44)):
    path.parent.mkdir(parents=True, exist_ok=True)
    noise = np.random.default_rng(number).integers(0, 256, size=(*shape, 3), dtype=np.uint8)
    Image.fromarray(noise).save(path)


def write_mask(path, mask, mode="P"):
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".mat":
        item = np.array([[(mask,)]], dtype=[("Segmentation", "O")])
        savemat(path, {"GTcls": item})
    elif mode == "RGB":
        Image.fromarray(palette()[mask]).save(path)
    else:
        image = Image.fromarray(mask)
        if mode == "P":
            image.putpalette(palette().tobytes())
        image.save(path)


def write_list(path, names):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(f"{name}\n" for name in names))


def write_voc(root, splits=(("train", TRAIN), ("val", VAL)), masks="SegmentationClass"):
    for split, names in splits:
        write_list(root / f"ImageSets/Segmentation/{split}.txt", names)
        for number, name in enumerate(names):
            write_image(root / f"JPEGImages/{name}.jpg", number)
            write_mask(root / masks / f"{name}.png", labels(number))
    return root


def write_sbd(root, train, val):
    """SBD's folder: lists, and masks for all names of both."""
    for split, names in (("train", train), ("val", val)):
        write_list(root / f"{split}.txt", names)
        for number, name in enumerate(names):
            write_mask(root / f"cls/{name}.mat", labels(number) % 255)
    return root
