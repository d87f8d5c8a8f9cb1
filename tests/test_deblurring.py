import csv
import json
import math
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
import yaml
from nets import Offset
from PIL import ExifTags, Image
from pyarrow import parquet
from small_pairs import picture, write, write_gopro

from blur_lightning.blur import Blur, blur_images
from blur_lightning.cli import main
from blur_lightning.errors import InputError
from blur_lightning.image_quality import (
    peak_signal_to_noise,
    shift_tolerant_psnr,
    structural_similarity,
)
from blur_lightning.models import DeblurNet
from blur_lightning.png import Photograph, encode_png, read_photograph
from blur_lightning.records.robustness import read_records
from blur_lightning.tasks import DeblurringTask
from blur_lightning.tasks.restoration_losses import CharbonnierLoss

SMALL = {"canonical": 16, "scale": 16, "crop": 16, "measure": "native"}
PSNR_OF_10 = -20 * math.log10(10 / 255)  # what ten levels too bright cost


@pytest.fixture
def command(tmp_path):
    """Run a command on the images of a folder with a network that adds one number."""

    def run(verb, root, *words, layout="gopro", conditions=("sharp",), **options):
        config = {
            "trainer": {
                "accelerator": "cpu",
                "enable_progress_bar": False,
                "max_epochs": 1,
                "log_every_n_steps": 1,
                "default_root_dir": str(tmp_path / "run"),
                "logger": False,
            },
            "model": {
                "class_path": "blur_lightning.tasks.DeblurringTask",
                "init_args": {
                    "net": {"class_path": "nets.Offset"},
                    "optimizer": {"class_path": "torch.optim.Adam", "init_args": {"lr": 0.01}},
                    "conditions": list(conditions),
                    "reach": 1,
                },
            },
            "data": {
                "class_path": "blur_lightning.data.PairsDataModule",
                "init_args": {
                    "root": str(root),
                    "layout": layout,
                    "capture": SMALL,
                    "batch_size": 2,
                    "num_workers": 0,
                    **options,
                },
            },
        }
        path = tmp_path / "config.yaml"
        path.write_text(yaml.safe_dump(config))
        return main([verb, "--config", str(path), *words])

    return run


def values(folder):
    records = read_records(folder)
    return {(r.condition, r.metric): r.value for r in records}


def test_pairs_are_measured_by_their_own_blur(tmp_path, command):
    """The blurry images are ten levels too bright, so what the network should add is known."""
    write_gopro(tmp_path / "gopro")
    assert command("test", tmp_path / "gopro", "--model.net.offset", str(-5 / 255)) == 0
    found = values(tmp_path / "run")
    assert found["sharp", "psnr_input"] == pytest.approx(PSNR_OF_10, abs=1e-3)
    assert found["sharp", "psnr"] == pytest.approx(PSNR_OF_10 + 20 * math.log10(2), abs=1e-3)
    assert {r.dataset for r in read_records(tmp_path / "run")} == {
        "gopro (blur, crop whole, measure native)"
    }
    assert {r.scale for r in read_records(tmp_path / "run")} == {"native"}
    rows = parquet.read_table(tmp_path / "run/images.parquet").to_pydict()
    assert rows["psnr"] == pytest.approx([found["sharp", "psnr"]] * 2, abs=1e-3)


def test_what_is_restored_whole_has_100_decibels(tmp_path, command):
    write_gopro(tmp_path / "gopro")
    assert command("test", tmp_path / "gopro", "--model.net.offset", str(-10 / 255)) == 0
    found = values(tmp_path / "run")
    assert found["sharp", "psnr"] == found["sharp", "psnr_shift"] == 100
    assert found["sharp", "ssim"] == pytest.approx(1)


def test_sharp_images_are_measured_under_each_condition(tmp_path, command):
    folder, numbers = tmp_path / "photos/test", (1, 2, 3)
    for number in numbers:
        write(folder / f"{number}.png", number)
    assert command("test", tmp_path / "photos", layout="sharp", conditions=["sharp", "D2"]) == 0
    found = values(tmp_path / "run")
    sharp = torch.stack([torch.from_numpy(picture(n)).permute(2, 0, 1) for n in numbers])
    blurry = blur_images(sharp, [Blur("disk", 2.0)] * 3).float() / 255
    sharp = sharp.float() / 255
    expected = {
        "psnr": peak_signal_to_noise(blurry, sharp),
        "ssim": structural_similarity(blurry, sharp),
        "psnr_shift": shift_tolerant_psnr(blurry, sharp, reach=1),
    }
    for metric, each in expected.items():
        for suffix in ("", "_input"):  # the network adds 0
            name = metric + suffix
            assert found["D2", name] == pytest.approx(each.mean().item(), abs=1e-4)
    assert found["sharp", "psnr_input"] == 100


def test_a_training_restores_pairs_and_says_what_it_saw(tmp_path, command):
    write_gopro(tmp_path / "gopro")
    words = ["--trainer.max_epochs", "20", "--model.loss", "torch.nn.L1Loss"]
    assert command("fit", tmp_path / "gopro", *words) == 0
    found = values(tmp_path / "run")
    assert found["sharp", "psnr"] > found["sharp", "psnr_input"] + 6
    assert {r.trained_on for r in read_records(tmp_path / "run")} == {"gopro (blur)"}
    provenance = json.loads((tmp_path / "run/provenance.json").read_text())
    assert provenance["normalization"] == {"mean": [0, 0, 0], "std": [1, 1, 1]}
    with Image.open(tmp_path / "run/examples/sharp.jpg") as strip:
        assert strip.size == (2 * 30, 3 * 30)
        blurry, restored, sharp = (
            np.asarray(strip, dtype=float)[i * 30 : i * 30 + 30].mean() for i in range(3)
        )
    assert blurry == pytest.approx(sharp + 10, abs=1)
    assert restored == pytest.approx(sharp, abs=5)


def task(net, **options):
    made = DeblurringTask(net, **options)
    made.log = lambda *_, **__: None
    made._trainer = SimpleNamespace(default_root_dir="none", global_step=0, world_size=1)
    return made


def with_residuals(net):
    """As a trained network has them; those of a new one are 0."""
    for part in (net.n1, net.n2, net.n3):
        torch.nn.init.normal_(part[-1].weight, std=0.1)
    return net


def test_the_loss_is_the_papers_equation_1():
    """Sums of squares over the pixels of all three scales, divided by the values of an image."""
    generator = torch.Generator().manual_seed(0)
    blurry, sharp = torch.rand(2, 2, 3, 16, 24, generator=generator)
    batch = {"image": blurry, "sharp": sharp, "index": torch.arange(2)}
    loss = task(Offset(0.25, pyramid=True)).training_step(batch, 0)
    total = 0.0
    for k in (1, 2, 4):
        difference = F.avg_pool2d(blurry + 0.25 - sharp, k)
        total += difference.square().sum()
    assert loss.item() == pytest.approx((total / sharp.numel()).item())
    alone = task(Offset(0.25)).training_step(batch, 0)
    assert alone.item() == pytest.approx(F.mse_loss(blurry + 0.25, sharp).item())
    other = task(Offset(0.25), loss=CharbonnierLoss()).training_step(batch, 0)
    assert other.item() == pytest.approx(CharbonnierLoss()(blurry + 0.25, sharp).item())


def test_a_step_of_deblurnet_trains_all_scales():
    torch.manual_seed(0)
    net = with_residuals(DeblurNet(width=1 / 32))
    batch = {"image": torch.rand(2, 3, 16, 16), "sharp": torch.rand(2, 3, 16, 16)}
    task(net).training_step(batch | {"index": torch.arange(2)}, 0).backward()
    assert all(weight.grad.abs().sum() > 0 for weight in net.parameters() if weight.ndim == 4)


def test_photographs_are_restored_whole_with_all_bits_and_notes(tmp_path, command):
    """The capture resizes and crops what a test sees; a prediction is of the file."""
    folder = tmp_path / "photos"
    folder.mkdir()
    deep = np.random.default_rng(0).integers(0, 50_000, size=(33, 47, 3), dtype=np.uint16)
    (folder / "deep.png").write_bytes(encode_png(Photograph(deep, b"", b"")))
    notes = Image.Exif()
    notes[ExifTags.Base.Make], notes[ExifTags.Base.Orientation] = "a maker", 6
    Image.fromarray(picture(1)).save(folder / "turned.jpg", exif=notes, quality=100)
    words = ["--data", "blur_lightning.data.PhotosDataModule", "--data.root", str(folder)]
    words += ["--data.capture.canonical", "16", "--data.capture.scale", "16"]
    words += ["--data.capture.crop", "16", "--data.batch_size", "2", "--data.num_workers", "0"]
    words += ["--model.net.offset", "0.1", "--model.tile", "24", "--model.overlap", "4"]
    assert command("predict", folder, *words, conditions=["D2", "D3"]) == 0
    restored = read_photograph(tmp_path / "run/restored/deep.png").pixels
    assert restored.dtype == np.uint16
    assert np.abs(restored - (deep / 65535 + 0.1) * 65535).max() <= 1
    turned = read_photograph(tmp_path / "run/restored/turned.png")
    assert turned.pixels.shape == (44, 30, 3)
    assert b"a maker" in turned.exif
    with (tmp_path / "run/predictions.csv").open() as file:
        rows = {row["file"]: row for row in csv.DictReader(file)}
    assert rows.keys() == {"deep.png", "turned.jpg"}
    assert float(rows["deep.png"]["residual"]) == pytest.approx(0.1, abs=1e-4)
    page = (tmp_path / "run/before_after.html").read_text()
    assert "deep.png, 47x33 pixels, mean change" in page
    assert "turned.jpg, 30x44 pixels, mean change" in page  # upright


def test_tiles_change_nothing_where_they_overlap_enough():
    """DeblurNet's output draws on 88 pixels around; its strides see the same grid in a tile."""
    torch.manual_seed(0)
    net = with_residuals(DeblurNet(width=1 / 64)).eval()
    pixels = np.random.default_rng(0).integers(0, 256, size=(9, 520, 3), dtype=np.uint8)
    made = task(net, tile=300, overlap=93)  # rounded up to 96
    whole = task(net, tile=2000)
    with torch.no_grad():
        for norm in net.modules():
            if isinstance(norm, torch.nn.BatchNorm2d):
                norm.bias.fill_(0.5)
        tiled, single = made._restored(pixels)[0], whole._restored(pixels)[0]
        narrow = task(net, tile=300, overlap=20)._restored(pixels)[0]
    assert np.array_equal(tiled, single)
    assert not np.array_equal(narrow, single)
    assert not np.array_equal(single, pixels)


@pytest.mark.parametrize(
    "words, message",
    [
        (("--model.net", "nets.MeanColour"), "name a network that restores images"),
        (("--model.tile", "100"), "tile more than twice the overlap"),
        (("--model.reach", "40"), "shifts of 40 pixels leave nothing"),
        (("--data.capture.scale", "32"), "native images keep their size"),
    ],
)
def test_what_does_not_fit_is_told_in_one_line(tmp_path, command, capsys, words, message):
    write_gopro(tmp_path / "gopro")
    assert command("test", tmp_path / "gopro", *words) == 2
    assert message in capsys.readouterr().err.strip().splitlines()[-1]


def test_several_scales_are_refused():
    with pytest.raises(InputError, match="restores one scale"):
        task(Offset()).restore([torch.zeros(1, 3, 4, 4)])
