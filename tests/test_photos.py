import numpy as np
import pytest
from PIL import Image

from blur_lightning.data import PhotosDataModule
from blur_lightning.errors import InputError


def photo(path):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.zeros((8, 9, 3), dtype=np.uint8)).save(path)


def test_labels_are_read_from_names(tmp_path):
    for name in ("tram_829.png", "cats/one_281.png"):
        photo(tmp_path / name)
    source = PhotosDataModule(str(tmp_path)).source("test")
    assert dict(zip(source.names, source.labels, strict=True)) == {
        "cats/one_281.png": 281,
        "tram_829.png": 829,
    }


def test_predictions_need_no_labels(tmp_path):
    photo(tmp_path / "holiday.png")
    source = PhotosDataModule(str(tmp_path)).source("predict")
    assert source.labels is None
    assert source.load(0).shape == (8, 9, 3)


def test_the_twenty_photographs_are_those_of_imagenet():
    source = PhotosDataModule().source("test")
    assert len(source.names) == 20
    assert source.labels[:3] == [243, 559, 438]


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("holiday.png", r"holiday\.png: a test needs its class in the name"),
        ("x_1000.png", r"x_1000\.png: .*photo_<0\.\.999>\.png"),
        ("notes.txt", "holds no images"),
    ],
)
def test_what_a_test_cannot_use_is_named(tmp_path, name, message):
    photo(tmp_path / "x.png")
    (tmp_path / "x.png").rename(tmp_path / name)
    with pytest.raises(InputError, match=message):
        PhotosDataModule(str(tmp_path)).source("test")


def test_a_missing_folder_and_training_are_refused(tmp_path):
    with pytest.raises(InputError, match=r"data\.root: there is no folder"):
        PhotosDataModule(str(tmp_path / "nothing")).source("test")
    with pytest.raises(InputError, match="no training split"):
        PhotosDataModule(str(tmp_path)).source("train")
