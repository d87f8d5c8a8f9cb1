"""Critical blur against what a point of light under a known kernel must give."""

import csv
import math
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image
from scipy import ndimage, stats
from test_image_quality import ssim
from torch import Tensor, nn

from blur_lightning.cli import main
from blur_lightning.data import PhotosDataModule
from blur_lightning.errors import InputError
from blur_lightning.records.measurements import Measurements
from blur_lightning.records.robustness import read_records
from blur_lightning.tasks.critical import (
    CriticalBlurTask,
    first_changes,
    median_interval,
)

SIDE, THRESHOLD = 64, 5.5  # grey levels; halves, so that rounding to 8 bits moves nothing
LIGHTS = (255, 150, 60, 30)


class Peak(nn.Module):
    """Decides 0 where the brightest pixel is above the threshold, else 1."""

    def __init__(self) -> None:
        super().__init__()
        self.pretrained_cfg = {"mean": (0.0, 0.0, 0.0), "std": (1.0, 1.0, 1.0)}
        self.unused = nn.Parameter(torch.zeros(1))

    def forward(self, image: Tensor) -> Tensor:
        peak = image.amax(dim=(1, 2, 3))
        return torch.stack([peak, torch.full_like(peak, THRESHOLD / 255)], dim=1)


def sigma_of(light):
    """Where the middle of a point of light under a Gaussian, light / 2 pi sigma^2, falls so far."""
    return math.sqrt(light / (2 * math.pi * THRESHOLD))


def points():
    images = np.zeros((len(LIGHTS) + 1, SIDE, SIDE, 3), np.uint8)
    images[: len(LIGHTS), SIDE // 2, SIDE // 2] = np.array(LIGHTS)[:, None]
    images[-1] = 128  # no blur changes it
    return images


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "photos").mkdir()
    for number, image in enumerate(points()):
        Image.fromarray(image).save(tmp_path / "photos" / f"{number}_{int(number == 1)}.png")
    return tmp_path


def measured(folder, *words, batch_size=5):
    out = folder / "run"
    words = [
        *("test", "--model", "blur_lightning.tasks.critical.CriticalBlurTask"),
        *("--model.net", "test_critical.Peak", "--model.family", "G", "--model.largest", "4"),
        *("--model.steps", "4", "--model.tolerance", "0.01"),
        *("--data", "PhotosDataModule", "--data.root", str(folder / "photos")),
        *("--data.num_classes", "2", "--data.num_workers", "0"),
        *("--data.capture.canonical", str(SIDE), "--data.capture.scale", str(SIDE)),
        *("--data.capture.crop", str(SIDE), "--data.batch_size", str(batch_size)),
        *("--trainer.default_root_dir", str(out), "--trainer.accelerator", "cpu"),
        *("--trainer.enable_progress_bar", "false", *words),
    ]
    assert main(words) == 0
    with (out / "critical_blur.csv").open(newline="") as stream:
        return list(csv.DictReader(stream))


def test_a_test_finds_where_points_of_light_fade(folder, capsys):
    rows = measured(folder)
    assert [row["file"] for row in rows] == ["0_0.png", "1_1.png", "2_0.png", "3_0.png", "4_0.png"]
    assert {row["decision"] for row in rows} == {"0"}
    assert [row["next_decision"] for row in rows] == ["1"] * 4 + [""]
    found = [float(row["critical_parameter"]) for row in rows]
    for light, parameter in zip(LIGHTS, found, strict=False):
        assert 0 <= parameter - sigma_of(light) <= 0.01
    assert (found[4], rows[4]["psnr"], rows[4]["ssim"]) == (math.inf, "", "")
    said = capsys.readouterr().out
    median = sorted(found)[2]
    assert f"median critical blur: gaussian {median:.4g} (95 % interval 0 to inf)" in said
    assert "1 of 5 images unchanged up to G4" in said


def test_survival_counts_the_images_whose_decision_has_not_changed(folder):
    measured(folder)
    records = read_records(folder / "run")
    assert [record.condition for record in records] == ["sharp", "G1", "G2", "G3", "G4"]
    assert {(record.metric, record.n) for record in records} == {("survival", 5)}
    sigmas = [*map(sigma_of, LIGHTS), math.inf]
    for record in records:
        assert record.value == np.mean([sigma > record.parameter for sigma in sigmas])


def test_quality_is_that_of_the_blurred_image(folder):
    row = measured(folder)[0]
    sigma = float(row["critical_parameter"])
    sharp = points()[0, :, :, 0].astype(np.float64)
    blurry = ndimage.gaussian_filter(sharp, sigma, mode="mirror", truncate=4).round()
    psnr = 10 * math.log10(255**2 / np.mean((blurry - sharp) ** 2))
    assert float(row["psnr"]) == pytest.approx(psnr, abs=1e-3)
    assert float(row["ssim"]) == pytest.approx(ssim(blurry / 255, sharp / 255), abs=1e-4)


def test_the_size_of_a_batch_changes_no_file(folder):
    expected = measured(folder)
    curve = [record[5:] for record in read_records(folder / "run")]
    assert measured(folder, batch_size=2) == expected
    assert [record[5:] for record in read_records(folder / "run")] == curve


def test_with_labels_an_image_that_is_wrong_anyway_needs_no_blur(folder):
    rows = measured(folder, "--model.decision", "label")
    wrong = rows[1]
    assert (wrong["decision"], wrong["next_decision"]) == ("0", "0")
    assert (float(wrong["critical_parameter"]), float(wrong["psnr"])) == (0, math.inf)
    assert float(wrong["ssim"]) == pytest.approx(1)
    values = [record.value for record in read_records(folder / "run")]
    assert values == [0.8, 0.6, 0.4, 0.2, 0.2]


def search(decide, count, **options):
    options = {"levels": [0.0, 1.0, 2.0, 3.0, 4.0], "tolerance": 0.01} | options
    return first_changes(decide, count, **options)


def test_the_first_change_counts_though_the_decision_returns():
    def decide(chosen, parameters):
        return np.where((parameters >= 1.3) & (parameters < 2.5), 7, 3)

    changes = search(decide, 2)
    assert changes.decision.tolist() == [3, 3]
    assert changes.next_decision.tolist() == [7, 7]
    assert np.all((changes.parameter >= 1.3) & (changes.parameter <= 1.31))


def test_a_bracket_is_halved_only_to_the_tolerance():
    asked = []

    def decide(chosen, parameters):
        asked.append(len(chosen))
        return (parameters >= np.array([0.6, 2.6, 99])[chosen]).astype(int)

    changes = search(decide, 3, tolerance=0.125)
    assert changes.parameter.tolist() == [0.625, 2.625, np.inf]
    # Five levels, then three halvings; an image that has changed, or never does, is not asked.
    assert asked == [3, 3, 2, 2, 1, 2, 2, 2]


def test_a_decision_that_never_changes_has_no_parameter():
    changes = search(lambda chosen, parameters: chosen, 3)
    assert changes.parameter.tolist() == [np.inf] * 3
    assert changes.next_decision.tolist() == [-1] * 3


def test_a_third_decision_may_come_while_the_bracket_narrows():
    def decide(chosen, parameters):
        return np.digitize(parameters, [1.2, 1.6])

    changes = search(decide, 1)
    assert changes.next_decision.tolist() == [1]
    assert changes.parameter[0] == pytest.approx(1.2, abs=0.01)


@pytest.mark.parametrize("n", [6, 7, 20, 101, 1000])
def test_the_interval_of_a_median_is_conovers(n):
    values = np.random.default_rng(n).exponential(size=n)
    median, low, high = median_interval(values)
    expected = stats.quantile_test(values, p=0.5).confidence_interval(0.95)
    assert (low, high) == (expected.low, expected.high)
    assert median == np.median(values)


def test_the_median_may_lie_beyond_what_was_tried():
    assert median_interval(np.array([1, 2, np.inf, np.inf, np.inf])) == (np.inf, 0, np.inf)
    values = np.r_[np.arange(14.0), np.full(6, np.inf)]
    median, low, high = median_interval(values)
    # 95 % of 20 values: between the 6th and the 15th.
    assert (median, low, high) == (9.5, 5.0, np.inf)
    assert median_interval(np.array([3.0])) == (3, 0, np.inf)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"family": "X"}, "^model.family: 'X' is none of D, H, V, M, G"),
        ({"family": "motion_blur-"}, "^model.family: 'motion_blur-' is none"),
        ({"family": "M"}, "^model.family, model.angle, .*'M1' needs"),
        ({"angle": 30.0}, "^model.family, model.angle, .*no direction"),
        ({"largest": 0.0}, "largest must be more than 0"),
        ({"steps": 0}, "steps 1 or more"),
        ({"tolerance": 0.0}, "tolerance 0.001 or more"),
    ],
)
def test_arguments_that_do_not_fit_are_named(options, message):
    with pytest.raises(InputError, match=message):
        CriticalBlurTask(Peak(), **options)


def stepped(folder, batch, **options):
    """The rows that a task measures of a batch, without a trainer."""
    task = CriticalBlurTask(Peak(), family="G", largest=4.0, steps=4, **options)
    data = PhotosDataModule(num_classes=2)
    data.test_capture = type(data.capture)(canonical=SIDE, scale=SIDE, crop=SIDE)
    data.trainer = SimpleNamespace(lightning_module=task, testing=True)
    task._trainer = SimpleNamespace(datamodule=data, testing=True)
    task._measurements = Measurements(folder, "key")
    task.measurements.prepare()
    task.test_step(batch, 0)
    return task.measurements.rows("sharp")


def test_photographs_without_labels_have_a_decision_too(tmp_path):
    windows = torch.from_numpy(points()).permute(0, 3, 1, 2)
    padded = nn.functional.pad(windows, (16, 16, 16, 16))
    batch = {"image": padded, "index": torch.arange(5)}
    rows = stepped(tmp_path, batch)
    found = rows["critical_parameter"][:4]
    assert np.all((found >= [sigma_of(x) for x in LIGHTS]) & (found <= 2.8))
    assert "label" not in rows


@pytest.mark.parametrize(("decision", "needed"), [("own", False), ("label", True)])
def test_labels_are_needed_for_the_right_decision_only(decision, needed):
    task = CriticalBlurTask(Peak(), decision=decision)
    unlabelled = SimpleNamespace(sources={"test": SimpleNamespace(labels=None)})
    task._trainer = SimpleNamespace(datamodule=unlabelled)
    if needed:
        with pytest.raises(InputError, match="a test needs labels"):
            task.on_test_start()
    else:
        task.on_test_start()


def test_a_batch_that_cannot_be_read_is_passed_over(tmp_path):
    assert stepped(tmp_path, {"index": torch.arange(5)}) == {}


def test_a_direction_reaches_the_kernel():
    task = CriticalBlurTask(Peak(), family="M", angle=30.0, largest=2.0, steps=2)
    assert [str(condition) for condition in task.conditions] == ["sharp", "M1@30", "M2@30"]
    sharp, moved = task._blurs(np.array([0.0, 1.5]))
    assert sharp.family == "sharp"
    assert (moved.family, moved.parameter, moved.angle) == ("motion", 1.5, 30.0)
