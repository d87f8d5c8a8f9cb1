"""Builds sets of stamps that are drawn here, in the folders of the real packages."""

import gzip
import json

import numpy as np
import pytest
from PIL import Image
from stamps import (
    CLASSES,
    GROUNDS,
    STAMPS,
    build,
    divide,
    find_stamps,
    main,
    paste,
    vary_ground,
)

from blur_lightning.data import VOCDataModule
from blur_lightning.errors import InputError


def colour(label):
    """Of the stamps of a class; grounds are below 20 in every channel."""
    return np.array([100 + 15 * label, 60, 250 - 15 * label], dtype=np.uint8)


def write_stamp(path, label, size=(60, 80)):
    """A disk of one colour; what is transparent has another, which must not be seen."""
    columns, rows = size
    y, x = np.mgrid[:rows, :columns]
    inside = np.hypot((x + 0.5) / columns - 0.5, (y + 0.5) / rows - 0.5) < 0.4
    pixels = np.zeros((rows, columns, 4), dtype=np.uint8)
    pixels[..., 1] = 255
    pixels[inside] = [*colour(label), 255]
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path)


@pytest.fixture
def source(tmp_path):
    for label, folders in enumerate(CLASSES.values(), start=1):
        for number in range(4):
            write_stamp(tmp_path / STAMPS / folders[-1] / f"{number}.png", label)
    (tmp_path / GROUNDS).mkdir(parents=True)
    for number in range(4):
        noise = np.random.default_rng(number).integers(0, 20, (400, 640, 3), dtype=np.uint8)
        Image.fromarray(noise).save(tmp_path / GROUNDS / f"ground{number}.jpg")
    changes = tmp_path / "usr/share/doc/mate-backgrounds/changelog.Debian.gz"
    changes.parent.mkdir(parents=True)
    with gzip.open(changes, "wt") as file:
        file.write("mate-backgrounds (1.26.0-1) unstable; urgency=medium\n")
    return tmp_path


def test_a_set_has_vocs_layout_and_exact_masks(source):
    facts = build(source, source / "set", images=18, seed=0)
    data = VOCDataModule(str(source / "set"))
    train, val = data.source("train"), data.source("val")
    assert (len(train.names), len(val.names)) == (15, 3)
    assert data.class_names == ("background", *CLASSES)
    seen, brightest = set(), 0.0
    for index in range(15):
        image, mask = train.load(index).astype(int), train.mask(index)
        assert image.shape == (375, 500, 3)
        assert set(np.unique(mask)) <= {*range(len(CLASSES) + 1), 255}
        assert 0 < (mask == 255).mean() < 0.05
        assert image[mask == 0].mean() < 75  # the gamma of a ground to train on may be 1/2
        brightest = max(brightest, image[mask == 0].mean())
        for label in set(np.unique(mask)) - {0, 255}:
            # JPEG scatters; the wrong class or a shift would be off by more.
            errors = np.abs(image[mask == label] - colour(int(label)))
            assert np.median(errors) <= 3
            seen.add(label)
    assert len(seen) == len(CLASSES)
    assert brightest > 20
    assert all(val.load(i)[val.mask(i) == 0].mean() < 20 for i in range(3))
    assert sum(facts["images_with"]["train"].values()) >= 15
    written = json.loads((source / "set/provenance.json").read_text())
    assert written == facts
    assert written["packages"] == {"tuxpaint-stamps-default": None, "mate-backgrounds": "1.26.0-1"}


def test_training_and_validation_share_neither_objects_nor_grounds(source):
    parts = build(source, source / "set", images=12, seed=3)["parts"]
    train, val = parts["train"], parts["val"]
    assert sorted(train["grounds"] + val["grounds"]) == [f"ground{i}.jpg" for i in range(4)]
    for name in CLASSES:
        assert len({*train["stamps"][name], *val["stamps"][name]}) == 4
        assert len(val["stamps"][name]) == 1
    assert divide(["a", "b"], [0])[0] != divide(["a", "b"], [0])[1]


def test_grounds_to_train_on_have_other_colours_gamma_and_direction():
    image = np.zeros((2, 1, 3), dtype=np.float32)
    image[0, 0], image[1, 0] = (0, 64, 255), (255, 64, 32)
    orders, turned, gammas = set(), set(), []
    for seed in range(200):
        varied = vary_ground(image, np.random.default_rng(seed))
        top = varied[0, 0]
        gammas.append(np.log(np.median(top) / 255) / np.log(64 / 255))
        orders.add(tuple(np.argsort(top).tolist()))
        turned.add(bool(top.min() > 0))
    assert (len(orders), len(turned)) == (6, 2)
    assert 0.5 <= min(gammas) < 0.55
    assert 1.9 < max(gammas) <= 2.0001


def test_an_image_is_a_function_of_seed_and_index(source):
    hashes = {}
    for name, images, seed in (("a", 12, 0), ("b", 12, 0), ("c", 24, 0), ("d", 12, 1)):
        hashes[name] = build(source, source / name, images=images, seed=seed)["sha256"]
    assert hashes["a"] == hashes["b"]
    assert hashes["a"] != hashes["d"]
    first = [(source / name / "JPEGImages/000003.jpg").read_bytes() for name in "acd"]
    assert first[0] == first[1]
    assert first[0] != first[2]


def test_an_object_covers_what_lies_under_it_and_its_rim_is_void():
    image, mask = np.zeros((6, 8, 3), dtype=np.float32), np.full((6, 8), 3, dtype=np.uint8)
    stamp = np.full((3, 4, 4), 200, dtype=np.uint8)
    stamp[..., 3] = [[255, 255, 128, 0]] * 3
    paste(image, mask, stamp, (-1, 5), 7)
    # Two rows and three columns of it are inside.
    expected = np.full((6, 8), 3)
    expected[:2, 5:7], expected[:2, 7] = 7, 255
    np.testing.assert_array_equal(mask, expected)
    np.testing.assert_allclose(image[:2, 5:, 0], [[200, 200, 200 * 128 / 255]] * 2, rtol=1e-5)
    assert not image[2:].any()
    before = mask.copy()
    for corner in ((6, 0), (0, 8), (-3, 0), (0, -4)):
        paste(image, mask, stamp, corner, 1)
    np.testing.assert_array_equal(mask, before)


def test_drawings_twins_and_small_photographs_are_left_out(source):
    folder = source / STAMPS / "vehicles"
    for name in ("cartoon/car.png", "bus_mirror.png", "wheel_tractor.png", "race/car.png"):
        write_stamp(folder / name, 7)
    write_stamp(folder / "small.png", 7, (47, 30))
    write_stamp(folder / "auto/large.png", 7, (48, 30))
    names = [str(file.relative_to(source / STAMPS)) for file in find_stamps(source)["vehicle"]]
    expected = [f"military/vehicles/{number}.png" for number in range(4)]
    assert names == [*expected, "vehicles/auto/large.png", "vehicles/race/car.png"]


def test_the_command_tells_what_it_wrote(source, capsys):
    words = ["--source", str(source), "--out", str(source / "set"), "--images", "12"]
    assert main(words) == 0
    out, err = capsys.readouterr()
    assert out.startswith("train: 10 images; with bird ")
    assert "12 of 12 images" in err
    assert main(words) == 2
    assert capsys.readouterr().err.endswith("set: exists; remove it, or choose another --out\n")


@pytest.mark.parametrize(
    ("gone", "message"),
    [
        (STAMPS / "animals/fish", r"animals/fish: 0 photographs, of 2 or more; unpack tuxpaint"),
        (GROUNDS, r"nature: 0 photographs, of 2 or more; unpack mate-backgrounds"),
    ],
)
def test_missing_packages_are_named_and_nothing_is_left(source, gone, message):
    (source / gone).rename(source / "elsewhere")
    with pytest.raises(InputError, match=message):
        build(source, source / "set", images=12, seed=0)
    assert not list(source.glob("*set*"))


def test_an_interrupted_build_leaves_nothing(source, monkeypatch):
    def interrupt(*arguments):
        raise KeyboardInterrupt

    monkeypatch.setattr("stamps._parts", interrupt)
    with pytest.raises(KeyboardInterrupt):
        build(source, source / "set", images=12, seed=0)
    assert not list(source.glob("*set*"))
    with pytest.raises(InputError, match="--images: 11 is not 12 or more"):
        build(source, source / "set", images=11, seed=0)
