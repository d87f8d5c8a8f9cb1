import csv
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from nets import EncodedColour
from PIL import Image
from pyarrow import parquet
from small_voc import VAL, labels, write_image, write_list, write_mask, write_voc

from blur_lightning.cli import main
from blur_lightning.errors import InputError
from blur_lightning.records.comparison import compare
from blur_lightning.records.counts import class_iou, mean_iou
from blur_lightning.records.robustness import read_records
from blur_lightning.report.page import report
from blur_lightning.tasks import SegmentationTask
from blur_lightning.tasks.label_maps import error_pictures, png_names, write_label_map

CONDITIONS = ["sharp", "D2", "D3"]
METRICS = ["miou", "boundary_miou", "boundary_iou", "pixel_accuracy", "cross_entropy"]


@pytest.fixture
def command(tmp_path):
    """Run a command on a few small images in VOC's layout with a network that sees colours only."""
    write_voc(tmp_path / "voc")

    def run(verb, *words, out=tmp_path / "run"):
        base = {
            "trainer": {
                "accelerator": "cpu",
                "enable_progress_bar": False,
                "max_epochs": 2,
                "log_every_n_steps": 1,
                "default_root_dir": str(out),
            },
            "model": {
                "class_path": "blur_lightning.tasks.SegmentationTask",
                "init_args": {
                    "net": {"class_path": "nets.PixelColour", "init_args": {"classes": 21}},
                    "optimizer": {"class_path": "torch.optim.SGD", "init_args": {"lr": 0.1}},
                    "conditions": CONDITIONS,
                    "multiple": 1,
                },
            },
            "data": {
                "class_path": "blur_lightning.data.VOCDataModule",
                "init_args": {
                    "root": str(tmp_path / "voc"),
                    "capture": {
                        "canonical": 30,
                        "scale": 30,
                        "crop": 24,
                        "measure": "geometric_mean",
                    },
                    "batch_size": 2,
                    "num_workers": 0,
                    "blur": "sharp+D2",
                },
            },
        }
        config = tmp_path / "config.yaml"
        config.write_text(yaml.safe_dump(base))
        status = main([verb, "--config", str(config), *map(str, words)])
        return out if status == 0 else status

    return run


def columns(out):
    images = parquet.read_table(out / "images.parquet")
    return {name: np.array(images[name].to_pylist()) for name in images.column_names}


def table(path):
    with path.open(newline="") as stream:
        return list(csv.DictReader(stream))


def test_a_fit_trains_and_leaves_records_tables_and_pictures(command):
    out = command("fit")
    records = read_records(out)
    assert list(dict.fromkeys(r.condition for r in records)) == CONDITIONS
    assert list(dict.fromkeys(r.metric for r in records)) == METRICS
    assert {r.n for r in records} == {len(VAL)}
    assert {r.trained_on for r in records} == {"sharp+D2"}
    assert all(r.low <= r.value <= r.high for r in records)
    (log,) = (out / "logs").glob("version_0/metrics.csv")
    logged = table(log)
    assert len([row for row in logged if row["val/miou"]]) == 2
    losses = [float(row["train/loss"]) for row in logged if row["train/loss"]]
    assert losses[-1] < losses[0]
    assert sorted(path.stem for path in (out / "examples").iterdir()) == sorted(CONDITIONS)


def test_values_are_those_of_the_summed_counts_of_the_images(command):
    out = command("test")
    images, records = columns(out), read_records(out)
    for condition in CONDITIONS:
        rows = images["condition"] == condition
        counts = [images[name][rows].sum(0) for name in ("intersection", "truth", "predicted")]
        (record,) = (r for r in records if (r.condition, r.metric) == (condition, "miou"))
        assert record.value == pytest.approx(float(mean_iou(*counts)))
        iou = class_iou(*counts)
        lines = table(out / "class_iou.csv")
        own = [float(line["value"]) for line in lines if line["condition"] == condition]
        np.testing.assert_allclose(own, iou)
        assert [line["class"] for line in lines][:2] == ["background", "aeroplane"]
    assert [int(line["width"]) for line in table(out / "trimap.csv")] == [1, 2, 4, 8, 16] * len(
        CONDITIONS
    )


def test_nothing_depends_on_batches(command, tmp_path):
    one = command("test", "--data.batch_size", 1, out=tmp_path / "one")
    two = command("test", "--data.batch_size", 2, out=tmp_path / "two")
    first, second = columns(one), columns(two)
    for name in ("intersection", "boundary_predicted", "contour_intersection", "trimap_right"):
        assert np.array_equal(first[name], second[name])
    values = [[r.value for r in read_records(out)] for out in (one, two)]
    assert values[0] == pytest.approx(values[1])


def test_coarse_logits_are_interpolated_and_sides_padded(command, tmp_path):
    coarse = ["--model.net.coarse", "true", "--model.multiple", 32]
    records = read_records(command("test", *coarse))
    assert {r.n for r in records} == {len(VAL)}
    plain = read_records(command("test", "--model.multiple", 32, out=tmp_path / "plain"))
    alone = read_records(command("test", out=tmp_path / "alone"))
    # A network of single pixels does not see what it is padded with.
    assert [r.value for r in plain] == pytest.approx([r.value for r in alone])


@pytest.mark.parametrize(
    ("loss", "precision"),
    [("DiceLoss", "32-true"), ("LovaszLoss", "32-true"), ("LovaszLoss", "bf16-mixed")],
)
def test_losses_of_segmentation_models_pytorch_train(command, loss, precision):
    words = ["--model.loss", f"segmentation_models_pytorch.losses.{loss}"]
    words += ["--model.loss.mode", "multiclass", "--model.loss.ignore_index", 255]
    words += ["--trainer.precision", precision, "--trainer.enable_model_summary", "false"]
    out = command("fit", *words, "--trainer.max_epochs", 1)
    assert read_records(out)


def test_an_encoder_has_a_learning_rate_of_its_own(command):
    words = ["--model.net", "nets.EncodedColour", "--model.net.classes", 21]
    checkpoints = {}
    for rate in ("0", "null"):
        out = command("fit", *words, "--model.encoder_lr", rate)
        checkpoints[rate] = torch.load(out / "checkpoints/last.ckpt", weights_only=True)
    (slow, plain), net = (c["state_dict"] for c in checkpoints.values()), EncodedColour(21)
    assert torch.equal(slow["net.encoder.weight"], net.encoder.weight)
    assert not torch.equal(slow["net.linear.weight"], net.linear.weight)
    assert not torch.equal(plain["net.encoder.weight"], net.encoder.weight)
    groups = checkpoints["0"]["optimizer_states"][0]["param_groups"]
    assert [group["lr"] for group in groups] == [0, 0.1]
    assert [len(group["params"]) for group in groups] == [1, 2]


def test_predictions_are_label_maps_of_the_photographs_size(command, tmp_path):
    out = command("predict", "--model.tile", 16, "--model.overlap", 2)
    names = sorted(path.stem for path in (out / "predictions/D2/JPEGImages").iterdir())
    assert names == sorted(VAL)
    whole = command("predict", out=tmp_path / "whole")
    maps = [folder / f"predictions/D2/JPEGImages/{VAL[0]}.png" for folder in (out, whole)]
    with (
        Image.open(maps[0]) as one,
        Image.open(maps[1]) as other,
        Image.open(tmp_path / f"voc/JPEGImages/{VAL[0]}.jpg") as image,
    ):
        assert (one.size, one.mode) == (image.size, "P")
        assert np.array_equal(
            np.asarray(one), np.asarray(other)
        )  # of single pixels: tiles are exact
    line = (out / "predictions.csv").read_text().splitlines()[1]
    shares = [float(number) for number in line.split(",")[-1].split()]
    assert sum(shares) == pytest.approx(1)


@pytest.mark.parametrize(
    "words, message",
    [
        (["--model.net.classes", "3"], r"model\.net: its output .* 21 classes .*net\.classes 21"),
        (["--model.tile", "100"], r"model\.tile: 100 pixels with an overlap of 128"),
        (["--model.boundary_width", "0"], r"model\.boundary_width"),
        (["--data.capture.scale", "15"], r"data\.capture\.scale"),
        (["--model.freeze", "9"], r"model\.freeze: 9"),
        (
            ["--model.loss", "segmentation_models_pytorch.losses.DiceLoss"],
            r"--model\.loss: the following arguments are required: mode",
        ),
    ],
)
def test_a_mistake_is_one_line(command, capsys, words, message):
    assert command("test", *words) == 2
    line = capsys.readouterr().err.strip().splitlines()[-1]
    assert re.search(message, line), line


def truncate(path):
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


IMAGE, MASK = f"JPEGImages/{VAL[0]}.jpg", f"SegmentationClass/{VAL[0]}.png"
DAMAGES = [
    (MASK, Path.unlink, "missing, the mask of a listed image"),
    (MASK, lambda path: write_mask(path, labels(0, (20, 44))), "a mask of 44x20 pixels, but its"),
    (MASK, lambda path: write_mask(path, labels(0) + np.uint8(1)), "label 21 is none of the 21"),
    (
        MASK,
        lambda path: Image.fromarray(np.full((30, 44, 3), 9, np.uint8)).save(path),
        r"colour \(9, 9, 9\) is not in VOC's palette",
    ),
    (MASK, truncate, "cannot be read as a mask"),
    (IMAGE, truncate, "cannot be read"),
]


@pytest.mark.parametrize(("name", "damage", "message"), DAMAGES)
def test_what_is_wrong_with_an_image_or_its_mask_is_one_line(
    command, tmp_path, capsys, name, damage, message
):
    path = tmp_path / "voc" / name
    damage(path)
    assert command("test") == 2
    lines = capsys.readouterr().err
    assert "Traceback" not in lines
    assert re.match(f"error: {path}: {message}", lines.strip().splitlines()[-1])


def test_images_that_cannot_be_used_are_left_out_counted_and_listed(command, tmp_path):
    names = [f"2009_{number:06}" for number in range(len(DAMAGES))]
    write_list(tmp_path / "voc/ImageSets/Segmentation/val.txt", [*VAL, *names])
    for number, (name, (place, damage, _)) in enumerate(zip(names, DAMAGES, strict=True)):
        write_image(tmp_path / f"voc/JPEGImages/{name}.jpg", number)
        write_mask(tmp_path / f"voc/SegmentationClass/{name}.png", labels(number))
        damage(tmp_path / "voc" / place.replace(VAL[0], name))
    out = command("test", "--data.skip_unreadable", "true")
    assert {record.n for record in read_records(out)} == {len(VAL)}
    listed = json.loads((out / "provenance.json").read_text())["data"]["unreadable"]
    assert len(listed) == len(names)
    for name, (_, _, message) in zip(names, DAMAGES, strict=True):
        assert sum(bool(re.search(f"{name}.*{message}", line)) for line in listed) == 1


def test_masks_in_vocs_colours_give_the_values_of_their_labels(command, tmp_path):
    plain = read_records(command("test", out=tmp_path / "run"))
    for number, name in enumerate(VAL):
        write_mask(tmp_path / f"voc/SegmentationClass/{name}.png", labels(number), "RGB")
    assert read_records(command("test", out=tmp_path / "coloured/run")) == plain


@pytest.mark.parametrize("damage", [Path.unlink, lambda path: path.write_text("")])
def test_a_split_without_images_is_one_line(command, tmp_path, capsys, damage):
    path = tmp_path / "voc/ImageSets/Segmentation/val.txt"
    damage(path)
    for verb in ("fit", "predict"):
        assert command(verb) == 2
        assert capsys.readouterr().err.strip().splitlines()[-1].startswith(f"error: {path}: ")


def test_a_list_of_classes_that_the_network_does_not_fit_is_named(command, tmp_path, capsys):
    path = tmp_path / "voc/classes.txt"
    path.write_text("".join(f"class {number}\n" for number in range(25)))
    for verb in ("test", "predict"):
        assert command(verb) == 2
        line = capsys.readouterr().err.strip().splitlines()[-1]
        assert f"the 25 classes of {path}; for segmentation_models_pytorch add" in line


def test_a_learning_rate_of_an_encoder_needs_one(command, capsys):
    assert command("fit", "--model.encoder_lr", "0.01") == 2
    line = capsys.readouterr().err.strip().splitlines()[-1]
    assert re.search(r"model\.encoder_lr: the network has no `encoder`", line), line


def test_data_without_masks_is_refused(command, capsys):
    words = ["--data", "blur_lightning.data.ScenesDataModule", "--data.test_count", "4"]
    words += ["--model.net.classes", "10"]
    assert command("test", *words) == 2
    assert "has no masks" in capsys.readouterr().err.strip().splitlines()[-1]


def test_pictures_show_errors_near_and_far():
    truth = torch.zeros(1, 4, 6, dtype=torch.long)
    truth[..., 3:] = 1
    truth[..., 0, 5] = 255
    prediction = torch.zeros_like(truth)
    near = torch.zeros(1, 4, 6, dtype=torch.bool)
    near[..., 2:4] = True
    image = torch.full((1, 3, 4, 6), 7, dtype=torch.uint8)
    (picture,) = error_pictures(image, prediction, truth, near)
    assert picture.shape == (3, 16, 4)  # four middle squares
    shown, true, predicted, errors = picture.split(4, dim=1)
    assert shown.unique().tolist() == [7]
    assert true[:, 1, :].T.tolist() == [[0, 0, 0]] * 2 + [[128, 0, 0]] * 2
    assert predicted.unique().tolist() == [0]
    right, near_, far = [240] * 3, [213, 94, 0], [0, 114, 178]
    assert errors[:, 1, :].T.tolist() == [right, right, near_, far]


def test_label_maps_keep_their_labels(tmp_path):
    labels = torch.arange(12).view(3, 4)
    write_label_map(tmp_path / "a/b.png", labels, shape=(6, 8))
    with Image.open(tmp_path / "a/b.png") as stored:
        assert stored.size == (8, 6)
        assert np.asarray(stored)[::2, ::2].tolist() == labels.tolist()
        assert stored.convert("RGB").getpixel((2, 0)) == (128, 0, 0)


def test_names_of_label_maps_stay_apart():
    assert png_names(["a/x.jpg", "b/x.jpg"]) == ["a/x.png", "b/x.png"]
    assert png_names(["x.jpg", "x.webp"]) == ["x.jpg.png", "x.webp.png"]


def test_several_scales_are_refused():
    task = SegmentationTask(torch.nn.Identity())
    with pytest.raises(InputError, match="one scale"):
        task([torch.zeros(1, 3, 4, 4)])


def test_two_segmentations_are_compared_by_resampling_the_same_images(command, tmp_path):
    one = command("test", out=tmp_path / "one")
    other = command("test", "--model.net.coarse", "true", out=tmp_path / "other")
    found = {(d.metric, d.condition): d for d in compare(one, other)}
    assert [metric for metric, condition in found if condition == "D2"] == METRICS
    for path, value in ((one, "run_value"), (other, "other_value")):
        for r in read_records(path):
            assert getattr(found[r.metric, r.condition], value) == pytest.approx(r.value)
    difference = found["miou", "sharp"]
    assert difference.difference == pytest.approx(difference.other_value - difference.run_value)
    assert difference.low <= difference.difference <= difference.high
    itself = compare(one, one)
    assert {(d.difference, d.low, d.high, d.within_noise) for d in itself} == {(0, 0, 0, True)}


def test_a_report_shows_the_main_metric_and_the_pictures(command, tmp_path):
    runs = [
        command("test", "--model.trained_on", mix, out=tmp_path / mix) for mix in ("sharp", "D2")
    ]
    report(runs, out=tmp_path / "page.html", figure=tmp_path / "page.svg")
    page = (tmp_path / "page.html").read_text()
    assert "mean IoU near boundaries" in page
    assert page.count("data:image/jpeg") == len(CONDITIONS)
    assert "mean IoU (%)" in (tmp_path / "page.svg").read_text()


def test_photographs_without_masks_and_classes_are_predicted_on(command, tmp_path):
    words = ["--data", "blur_lightning.data.PhotosDataModule", "--data.labelled", "false"]
    words += ["--data.root", tmp_path / "voc/JPEGImages", "--data.num_workers", 0]
    words += ["--data.capture.canonical", 30, "--data.capture.scale", 30]
    words += ["--data.capture.crop", "whole", "--model.net.classes", 5]
    out = command("predict", *words)
    assert len(list((out / "predictions/D3").iterdir())) == 5
    line = (out / "predictions.csv").read_text().splitlines()[1]
    assert len(line.split(",")[-1].split()) == 5


def test_a_crop_is_not_stretched_to_the_map_of_a_photograph(command, tmp_path, capsys):
    words = ["--data", "blur_lightning.data.PhotosDataModule", "--data.capture.crop", 24]
    words += ["--data.root", tmp_path / "voc/JPEGImages", "--data.capture.canonical", 30]
    assert command("predict", *words, "--data.capture.scale", 30) == 2
    assert "data.capture.crop: a label map" in capsys.readouterr().err.strip().splitlines()[-1]


def peak_memory(shape, out, *words):
    """Most MiB that a process takes to predict on a photograph of a shape."""
    out.mkdir()
    image = Image.radial_gradient("L").resize(shape[::-1]).convert("RGB")
    image.save(out / "photograph.png", compress_level=1)
    command = [sys.executable, "-m", "blur_lightning", "predict"]
    command += ["--config", "experiments/base.yaml"]
    command += [
        "--model",
        "blur_lightning.tasks.SegmentationTask",
        "--model.net",
        "nets.PixelColour",
    ]
    command += ["--model.net.classes", "100", "--trainer.default_root_dir", str(out)]
    command += ["--data", "experiments/data/photos_native.yaml", "--data.root", str(out)]
    command += ["--trainer.accelerator", "cpu", "--trainer.logger", "false", *words]
    root = Path(__file__).parents[1]
    paths = os.pathsep.join([str(root), str(root / "tests")])
    with (out / "log.txt").open("w") as log:
        environment = os.environ | {"PYTHONPATH": paths}
        process = subprocess.Popen(command, cwd=root, env=environment, stdout=log, stderr=log)
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
    assert process.returncode == 0, (out / "log.txt").read_text()
    with Image.open(out / "predictions/sharp/photograph.png") as labels:
        assert labels.size == shape[::-1]
    return usage.ru_maxrss / 1024


@pytest.mark.slow
def test_tiles_bound_the_memory_of_a_large_photograph(tmp_path):
    """What is left to grow is the photograph itself; logits alone would be 400 bytes a pixel."""
    tiles = ["--model.tile", "320", "--model.overlap", "32", "--data.num_workers", "0"]
    small = peak_memory((600, 800), tmp_path / "small", *tiles)
    large = peak_memory((1200, 1600), tmp_path / "large", *tiles)
    assert (large - small) * 2**20 < 100 * (1200 * 1600 - 600 * 800)
