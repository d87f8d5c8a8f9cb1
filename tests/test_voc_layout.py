import numpy as np
import pytest
from PIL import Image
from small_voc import TRAIN, VAL, labels, write_image, write_list, write_mask, write_sbd, write_voc

from blur_lightning.errors import InputError
from blur_lightning.images import UnreadableImageError
from blur_lightning.voc_layout import (
    CLASSES,
    find_images,
    find_masks,
    palette,
    read_classes,
    read_mask,
    split_names,
    voc_root,
)


def test_the_palette_is_that_of_voc():
    """Colours as the VOC2012 development kit's documentation lists them, and void's cream."""
    colours = palette()
    assert colours.shape == (256, 3)
    known = {0: (0, 0, 0), 1: (128, 0, 0), 2: (0, 128, 0), 3: (128, 128, 0), 4: (0, 0, 128)}
    known |= {8: (64, 0, 0), 15: (192, 128, 128), 20: (0, 64, 128), 255: (224, 224, 192)}
    assert {label: tuple(colours[label].tolist()) for label in known} == known
    assert len({tuple(colour) for colour in colours.tolist()}) == 256


@pytest.mark.parametrize(
    ("ending", "mode"), [(".png", "P"), (".png", "L"), (".png", "RGB"), (".mat", "")]
)
def test_every_encoding_gives_the_same_labels(tmp_path, ending, mode):
    mask, path = labels(3), tmp_path / f"a{ending}"
    write_mask(path, mask, mode)
    read = read_mask(path, 21)
    assert read.dtype == np.uint8
    np.testing.assert_array_equal(read, mask)


def test_masks_of_four_bits_and_with_alpha_are_read(tmp_path):
    mask = labels(3) % 16
    image = Image.fromarray(mask)
    image.putpalette(palette()[:16].tobytes())
    image.save(tmp_path / "a.png", bits=4)
    np.testing.assert_array_equal(read_mask(tmp_path / "a.png", 21), mask)
    opaque = np.full((*mask.shape, 1), 255, dtype=np.uint8)
    Image.fromarray(np.concatenate([palette()[mask], opaque], axis=2)).save(tmp_path / "b.png")
    np.testing.assert_array_equal(read_mask(tmp_path / "b.png", 21), mask)


def test_all_256_labels_have_colours_that_are_told_apart(tmp_path):
    mask = np.arange(256, dtype=np.uint8).reshape(16, 16)
    write_mask(tmp_path / "a.png", mask, "RGB")
    np.testing.assert_array_equal(read_mask(tmp_path / "a.png", 255), mask)


def broken(path):
    path.write_bytes(b"\x89PNG\r\n\x1a\n")


@pytest.mark.parametrize(
    ("name", "make", "message"),
    [
        ("a.png", lambda path: None, "missing, the mask of a listed image"),
        ("a.png", broken, "cannot be read as a mask"),
        ("a.mat", broken, "cannot be read as a mask of SBD"),
        (
            "a.png",
            lambda path: write_mask(path, labels(0) + np.uint8(1)),
            r"label 21 is none of the 21 classes \(0 to 20\) and not 255",
        ),
        (
            "a.mat",
            lambda path: write_mask(path, np.full((3, 4), 300, dtype=np.uint16)),
            "label 300 is none",
        ),
        (
            "a.png",
            lambda path: Image.fromarray(np.full((3, 4), 300, dtype=np.uint16)).save(path),
            "label 300 is none",
        ),
        (
            "a.png",
            lambda path: Image.fromarray(np.full((3, 4, 3), 9, dtype=np.uint8)).save(path),
            r"colour \(9, 9, 9\) is not in VOC's palette",
        ),
        (
            "a.png",
            lambda path: Image.fromarray(np.zeros((3, 4, 2), dtype=np.uint8)).save(path),
            "a mask of mode LA has no labels",
        ),
    ],
)
def test_a_mask_that_is_none_is_named(tmp_path, name, make, message):
    make(tmp_path / name)
    with pytest.raises(UnreadableImageError, match=rf"{name}: .*{message}|{name}: {message}") as it:
        read_mask(tmp_path / name, 21)
    assert "\n" not in str(it.value)


@pytest.mark.parametrize("below", ["", "VOC2012", "VOCdevkit/VOC2012"])
def test_the_root_is_found_from_above(tmp_path, below):
    write_voc(tmp_path / below)
    assert voc_root(tmp_path) == tmp_path / below


def test_lists_are_read_by_name_and_by_path(tmp_path):
    write_voc(tmp_path)
    assert split_names(tmp_path, "train") == list(TRAIN)
    pairs = tmp_path / "mine.txt"
    pairs.write_text("/JPEGImages/a.b.jpg /SegmentationClassAug/a.b.png\n\nc.d\n")
    assert split_names(tmp_path, str(pairs)) == ["a.b", "c.d"]


def test_trainaug_is_train_and_all_of_sbd_outside_val(tmp_path):
    write_voc(tmp_path)
    sbd = write_sbd(tmp_path / "sbd/dataset", [TRAIN[1], VAL[0], "a"], [VAL[1], "b"])
    assert split_names(tmp_path, "trainaug", tmp_path / "sbd") == sorted({*TRAIN, "a", "b"})
    # A list that is there comes first; train_noval.txt lies where torchvision puts it.
    write_list(tmp_path / "ImageSets/Segmentation/trainaug.txt", ["z"])
    write_list(sbd / "train_noval.txt", ["y"])
    assert split_names(tmp_path, "trainaug", sbd) == ["z"]
    assert split_names(tmp_path, "train_noval", sbd) == ["y"]


def test_sbds_own_training_list_is_refused_by_name(tmp_path):
    sbd = write_sbd(tmp_path / "sbd", ["a"], ["b"])
    with pytest.raises(InputError, match=r"sbd/train\.txt: .*VOC's val; train on trainaug"):
        split_names(tmp_path, str(sbd / "train.txt"))


def test_images_may_be_png_and_masks_come_from_the_first_folder_that_has_them(tmp_path):
    write_voc(tmp_path)
    write_image(tmp_path / "JPEGImages/a.png", 0)
    assert find_images(tmp_path, ["a", TRAIN[0]]) == [
        tmp_path / "JPEGImages/a.png",
        tmp_path / f"JPEGImages/{TRAIN[0]}.jpg",
    ]
    write_mask(tmp_path / f"SegmentationClassAug/{TRAIN[0]}.png", labels(0))
    write_mask(tmp_path / "SegmentationClassAug/a.png", labels(0))
    sbd = write_sbd(tmp_path / "sbd", ["a", "b"], [TRAIN[1]])
    names = [TRAIN[0], TRAIN[1], "a", "b", "c"]
    found = find_masks(tmp_path, names, ("SegmentationClass", "SegmentationClassAug"), sbd)
    assert [str(file.relative_to(tmp_path)) for file in found] == [
        f"SegmentationClass/{TRAIN[0]}.png",
        f"SegmentationClass/{TRAIN[1]}.png",
        "SegmentationClassAug/a.png",
        "sbd/cls/b.mat",
        "SegmentationClass/c.png",
    ]


def test_classes_are_those_of_a_list_or_of_voc(tmp_path):
    assert read_classes(tmp_path) == CLASSES
    assert len(CLASSES) == 21
    (tmp_path / "classes.txt").write_text("ground\nsky\n\n")
    assert read_classes(tmp_path) == ("ground", "sky")
    (tmp_path / "others.txt").write_text("a\nb b\nc\n")
    assert read_classes(tmp_path, tmp_path / "others.txt") == ("a", "b b", "c")


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda root: voc_root(root / "no"), r"no holds neither JPEGImages nor VOCdevkit"),
        (lambda root: split_names(root, "test"), r"test\.txt: cannot be read \(No such file"),
        (lambda root: split_names(root, "empty"), r"empty\.txt: names no image"),
        (lambda root: split_names(root, "train", root), "holds neither cls nor dataset/cls"),
        (lambda root: find_images(root, [TRAIN[0], "a", "b"]), "lacks 2 of 3 images, such as a"),
        (lambda root: find_masks(root, TRAIN, ["no", "none"]), "holds no no and no none"),
        (lambda root: read_classes(root, root / "none.txt"), r"none\.txt: no list of classes"),
        (lambda root: read_classes(root), r"classes\.txt: 0 classes"),
        (lambda root: read_classes(root, root / "twice.txt"), r"twice\.txt: 3 classes, 2 of them"),
    ],
)
def test_what_is_wrong_with_a_folder_is_named(tmp_path, call, message):
    write_voc(tmp_path)
    write_list(tmp_path / "ImageSets/Segmentation/empty.txt", [" "])
    write_list(tmp_path / "twice.txt", ["a", "b", "a"])
    (tmp_path / "classes.txt").write_text("\n")
    with pytest.raises(InputError, match=message) as caught:
        call(tmp_path)
    assert "\n" not in str(caught.value)
