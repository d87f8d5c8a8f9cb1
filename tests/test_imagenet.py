import csv

import numpy as np
import pytest
from PIL import Image
from scipy.io import savemat

from blur_lightning.data.imagenet import ImageNetDataModule, wnid_labels
from blur_lightning.errors import InputError

WNIDS = ("n01440764", "n01770393", "n02123159", "n15075141")  # places 0, 71, 282, 999


def picture(path, value=100):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.full((16, 16, 3), value, dtype=np.uint8)).save(path, format="JPEG")


def class_folders(root, split, wnids, each=2):
    for wnid in wnids:
        for number in range(each):
            picture(root / split / wnid / f"{wnid}_{number}.JPEG")


def source(root, split="test", **options):
    return ImageNetDataModule(str(root), **options).source(split)


def test_the_thousand_wnids_have_their_standard_places():
    labels = wnid_labels()
    assert len(labels) == 1000
    assert [labels[wnid] for wnid in WNIDS] == [0, 71, 282, 999]
    assert list(labels) == sorted(labels)


def test_labels_keep_their_places_where_only_some_classes_are_present(tmp_path):
    class_folders(tmp_path, "val", WNIDS[1:])
    images = source(tmp_path)
    assert images.labels == [71, 71, 282, 282, 999, 999]
    assert images.names[0] == "val/n01770393/n01770393_0.JPEG"
    assert images.load(0).shape == (16, 16, 3)


def test_other_class_folders_count_by_their_sorted_names(tmp_path):
    class_folders(tmp_path, "train", ("cat", "dog", "eel"))
    class_folders(tmp_path, "val", ("dog", "eel"), each=1)
    data = ImageNetDataModule(str(tmp_path), classes="folders")
    assert data.source("train").labels == [0, 0, 1, 1, 2, 2]
    assert data.source("val").labels == [1, 2]  # the training folders say which classes there are
    assert data.num_classes == 3


def flat_validation(root, count=3):
    for number in range(1, count + 1):
        picture(root / "val" / f"ILSVRC2012_val_{number:08d}.JPEG")


def test_a_flat_validation_folder_takes_the_labels_of_the_development_kit(tmp_path):
    flat_validation(tmp_path)
    kit = tmp_path / "ILSVRC2012_devkit_t12/data"
    kit.mkdir(parents=True)
    # The kit counts classes its own way, and lists inner nodes of WordNet after the leaves.
    synsets = np.array(
        [(1, "n02123159", 0), (2, "n01440764", 0), (3, "n15075141", 0), (1001, "n00001740", 2)],
        dtype=[("ILSVRC2012_ID", "i4"), ("WNID", "O"), ("num_children", "i4")],
    )
    savemat(kit / "meta.mat", {"synsets": synsets})
    (kit / "ILSVRC2012_validation_ground_truth.txt").write_text("2\n3\n1\n")
    assert source(tmp_path).labels == [0, 999, 282]


def test_a_flat_validation_folder_takes_the_labels_of_kaggle(tmp_path):
    flat_validation(tmp_path, count=2)
    with (tmp_path / "LOC_val_solution.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["ImageId", "PredictionString"])
        writer.writerow(["ILSVRC2012_val_00000002", "n01440764 111 108 441 193 "])
        writer.writerow(["ILSVRC2012_val_00000001", "n15075141 1 1 2 2 n15075141 3 3 4 4 "])
    assert source(tmp_path).labels == [999, 0]


def empty_class(root):
    class_folders(root, "val", WNIDS[:1])
    (root / "val" / WNIDS[1]).mkdir()


def kit_with(root, meta=None, truth="1"):
    flat_validation(root)
    kit = root / "ILSVRC2012_devkit_t12/data"
    kit.mkdir(parents=True)
    (kit / "ILSVRC2012_validation_ground_truth.txt").write_text(truth)
    if meta is not None:
        (kit / "meta.mat").write_bytes(meta)


def kaggle_of_another_table(root):
    flat_validation(root)
    (root / "LOC_val_solution.csv").write_text("a,b\n1,2\n")


def kaggle_too_short(root):
    flat_validation(root)
    text = "ImageId,PredictionString\nILSVRC2012_val_00000001,n01440764 1 1 2 2\n"
    (root / "LOC_val_solution.csv").write_text(text)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda root: None, r"data\.root: there is no folder .*val"),
        (lambda root: (root / "val").mkdir(), r"val: holds no images"),
        (empty_class, r"n01770393: the class folder is empty"),
        (lambda root: class_folders(root, "val", ["n99999999"]), r"n99999999: not one of"),
        (flat_validation, r"need their labels"),
        (kit_with, r"meta\.mat: missing"),
        (lambda root: kit_with(root, meta=b"MATLAB?"), r"not ILSVRC2012's meta\.mat"),
        (kaggle_of_another_table, r"LOC_val_solution\.csv: not Kaggle's"),
        (kaggle_too_short, r"val_00000002\.JPEG: the ground truth"),
    ],
)
def test_what_is_wrong_with_a_folder_is_named(tmp_path, make, message):
    make(tmp_path)
    with pytest.raises(InputError, match=message):
        source(tmp_path)
