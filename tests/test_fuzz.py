"""Texts and files of any kind: what is read prints as it was, all else is an InputError."""

import math
from contextlib import suppress

import numpy as np
import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from scipy.io import savemat

from blur_lightning.blur import BlurDistribution
from blur_lightning.blur.conditions import parse_conditions
from blur_lightning.data.imagenet import _devkit_labels, _kaggle_labels, wnid_labels
from blur_lightning.errors import InputError
from blur_lightning.images import UnreadableImageError
from blur_lightning.sweeps.running import grid_points, read_trials
from blur_lightning.voc_layout import read_classes, read_mask, split_names
from blur_lightning.yaml_files import read_yaml

FILES = [HealthCheck.function_scoped_fixture]  # the folder of a test holds one file at a time
quick = settings(max_examples=60, derandomize=True, deadline=None, suppress_health_check=FILES)
long = settings(max_examples=1000, derandomize=False, deadline=None, suppress_health_check=FILES)

# What the grammar is made of, in any order.
PIECES = (
    *("sharp", "shake", "D", "H", "V", "M", "G", "airy", "coma", "defocus", "spherical"),
    *("motion_blur-", "glass_blur-", "zoom_blur_legacy-", "+", "*", "@", "%", "..", ".", "-", ":"),
    *("0", "1", "2", "4", "30", "0.2", "100", "1e9", "inf", "nan", " ", "\n", "٣", "²"),
)
almost = st.lists(st.sampled_from(PIECES), max_size=9).map("".join)
texts = st.one_of(almost, st.text(max_size=30))
numbers = st.integers(0, 40) | st.floats(0, 40).map(lambda x: round(x, 3))


@st.composite
def ranges(draw, numbers=numbers):
    low, high = sorted((draw(numbers), draw(numbers)))
    return draw(st.sampled_from([f"{low}", f"{low}..{high}"]))


parts = st.one_of(
    st.sampled_from(["sharp", "shake", "glass_blur-3", "motion_blur_legacy-1..4", "coma0.2@30"]),
    st.builds("{}{}".format, st.sampled_from("DHVG"), ranges()),
    st.builds("M{}@{}".format, ranges(), ranges()),
)
shared = st.builds("{}%{}".format, parts.filter(lambda part: part != "sharp"), ranges())
weighted = st.builds("{}*{}".format, numbers.filter(bool), parts)
mixes = st.lists(st.one_of(parts, shared, weighted), min_size=1, max_size=4).map("+".join)


def check_text(text):
    with suppress(InputError):
        blur = BlurDistribution.parse(text)
        again = BlurDistribution.parse(str(blur))
        assert again == blur
        assert str(again) == str(blur)
        assert math.isclose(sum(blur.weights), 1)


def check_mix(text):
    try:
        blur = BlurDistribution.parse(text)
    except InputError:  # of the numbers only: a severity, a share, a pixel too many
        assert any(c.isdigit() for c in text)
        return
    assert BlurDistribution.parse(str(blur)) == blur
    drawn = blur.draw(seed=0, index=3, epoch=1)
    with suppress(InputError):  # a draw has all its digits, and a bank or squares no name
        assert BlurDistribution.parse(str(drawn))


def check_conditions(texts):
    with suppress(InputError):
        conditions = parse_conditions(texts)
        assert parse_conditions([str(condition) for condition in conditions]) == conditions


values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner),
    max_leaves=6,
)
axes = st.dictionaries(
    st.sampled_from(["a", "b.c", "data.blur", ""]) | st.text(max_size=4),
    st.one_of(
        values,
        st.fixed_dictionaries({"values": st.lists(values, max_size=3)}),
        st.fixed_dictionaries({"value": values}),
        st.fixed_dictionaries({"min": values, "max": values, "distribution": st.text(max_size=9)}),
    ),
    max_size=3,
)
sweeps = st.fixed_dictionaries(
    {
        "method": st.sampled_from(["grid", "grid", "random"]) | values,
        "parameters": axes | values,
        "command": st.lists(st.sampled_from(["${args}", "x", "${env}", "${odd}"])) | values,
    },
    optional={"name": values, "metric": values, "program": values, "run_cap": values},
)


def check_sweep(folder, content):
    file = folder / "sweep.yaml"
    file.write_text(yaml.safe_dump(content), encoding="utf-8")
    with suppress(InputError):
        trials = read_trials(file)
        assert len({trial.folder for trial in trials}) == len(trials)
        if content["method"] == "grid":
            assert [trial.parameters for trial in trials] == grid_points(read_yaml(file))


def check_yaml(folder, content):
    file = folder / "any.yaml"
    file.write_bytes(content)
    with suppress(InputError):
        assert isinstance(read_yaml(file), dict)


wnids = st.sampled_from(["n01440764", "n01443537", "n99999999", ""])
rows = st.lists(st.tuples(st.text(max_size=8), wnids, st.text(max_size=8)), max_size=4)


def check_kaggle(folder, rows):
    file = folder / "labels.csv"
    lines = ["ImageId,PredictionString", *(f"{name},{wnid} {rest}" for name, wnid, rest in rows)]
    file.write_bytes("\n".join(lines).encode("utf-8", "surrogatepass"))
    with suppress(InputError):
        assert set(_kaggle_labels(file).values()) <= set(wnid_labels().values())


def check_kit(folder, truth, wnids):
    (folder / "ILSVRC2012_validation_ground_truth.txt").write_bytes(truth)
    kinds = [("ILSVRC2012_ID", "O"), ("WNID", "O")]
    synsets = np.array([(number, wnid) for number, wnid in enumerate(wnids)], dtype=kinds)
    savemat(folder / "meta.mat", {"synsets": synsets})
    with suppress(InputError):
        labels = _devkit_labels(folder)
        assert len(labels) == len(truth.decode().split())


def check_voc(folder, content):
    for name in ("classes.txt", "ImageSets/Segmentation/val.txt", "a.png", "a.mat"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)
    with suppress(InputError):
        names = read_classes(folder)
        assert 2 <= len(names) == len(set(names))
    with suppress(InputError):
        names = split_names(folder, "val")
        assert names and not any("/" in name for name in names)
    for name in ("a.png", "a.mat"):
        with suppress(UnreadableImageError):
            assert read_mask(folder / name, 21).ndim == 2


contents = st.one_of(
    st.binary(max_size=60),
    st.text(max_size=40).map(lambda text: text.encode("utf-8", "surrogatepass")),
    st.lists(st.sampled_from(["a.jpg", "/b/c.png", "..", "/", " ", "\n", "2007_1"])).map(
        lambda words: "".join(words).encode()
    ),
)
CHECKS = {
    check_text: {"text": texts},
    check_mix: {"text": mixes},
    check_conditions: {"texts": st.lists(texts | mixes, max_size=3)},
    check_sweep: {"content": sweeps},
    check_yaml: {"content": contents},
    check_kaggle: {"rows": rows},
    check_kit: {"truth": contents, "wnids": st.lists(wnids, max_size=3)},
    check_voc: {"content": contents},
}


def fuzzed(check, tmp_path, how):
    given_ = CHECKS[check]
    folder = {"folder": st.just(tmp_path)} if "folder" in check.__code__.co_varnames else {}
    how(given(**folder, **given_)(check))()


@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__)
def test_nothing_but_an_input_error_comes_out(check, tmp_path):
    fuzzed(check, tmp_path, quick)


@pytest.mark.slow
@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__)
def test_nothing_but_an_input_error_comes_out_of_many(check, tmp_path):
    fuzzed(check, tmp_path, long)
