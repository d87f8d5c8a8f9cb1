"""What predictions tell of photographs: the mix that they suggest, the page, and the report."""

import csv
import re
from math import inf, nan

import numpy as np
import pytest
from PIL import Image

from blur_lightning.blur import BlurDistribution
from blur_lightning.blur_estimate import SIDE
from blur_lightning.cli import main
from blur_lightning.data.procedural import scene
from blur_lightning.errors import InputError
from blur_lightning.images import UnreadableImageError
from blur_lightning.records.photographs import Photograph, read_photographs, suggest_mix
from blur_lightning.report.photographs import distribution_html, write_blurriness


def photograph(blur, size, file="a.jpg", **fields):
    return Photograph(file, 10.0, blur, size, 0.8 * size, 1.2 * size, 2 * size, **fields)


def disks(*radii):
    return [photograph(f"D{radius}", float(radius)) for radius in radii]


def lines(*lengths):
    return [photograph(f"M{length}@20", float(length)) for length in lengths]


def sharp(count):
    return [photograph("sharp", 0.0)] * count


UNKNOWN = Photograph("wall.jpg", 0.1, "", nan, nan, nan, nan)


@pytest.mark.parametrize(
    ("photographs", "mix"),
    [
        (sharp(10) + disks(*[2] * 5, *[4] * 5), "0.5*sharp+0.5*D2..4"),
        (sharp(20) + lines(*[8] * 20), "0.5*sharp+0.5*M8@0..180"),
        (sharp(10) + disks(*[3] * 6) + lines(*[8] * 4), "0.5*sharp+0.3*D3+0.2*M8@0..180"),
        (disks(*[6] * 40), "0.2*sharp+0.8*D6"),  # a fifth stays sharp
        (disks(*[6] * 30) + lines(*[9] * 10), "0.2*sharp+0.6*D6+0.2*M9@0..180"),
        (sharp(40), "sharp"),
        (sharp(40) + disks(4, 4), "sharp"),  # two are too few
        (sharp(97) + disks(4, 4, 4), "sharp"),  # and so are 3 %
        ([UNKNOWN] * 3, ""),
        ([], ""),
    ],
)
def test_the_mix_has_the_shares_and_sizes_of_the_photographs(photographs, mix):
    assert suggest_mix(photographs).mix == mix


@pytest.mark.parametrize("seed", range(20))
def test_every_mix_is_one_and_keeps_a_fifth_sharp(seed):
    generator = np.random.default_rng(seed)
    counts = generator.integers(0, 40, 3)
    photographs = sharp(counts[0]) + disks(*generator.uniform(1, 30, counts[1]))
    photographs += lines(*generator.uniform(0.2, 70, counts[2]))
    mix = BlurDistribution.parse(suggest_mix(photographs).mix)
    shares = dict(zip((c.family for c in mix.components), mix.weights, strict=True))
    assert shares["sharp"] >= 0.2 - 1e-9
    written = [float(weight) for weight in re.findall(r"([\d.]+)\*", str(mix))]
    assert not written or sum(written) == pytest.approx(1)


def test_a_suggestion_says_from_how_many_and_what_it_leaves_out():
    reasons = suggest_mix([*sharp(6), *disks(2, 3, 4), *lines(7), UNKNOWN]).reasons
    assert reasons.startswith("From 10 photographs: 6 sharp (31 to 83 %)")  # Wilson's interval
    assert "Of 1 more the blur cannot be told" in reasons
    assert "Too few are moved" in reasons
    assert "So few" in reasons
    assert "So few" not in suggest_mix(sharp(30)).reasons


def test_a_disk_and_a_line_of_one_spread_rank_alike():
    # Second moments: r^2 / 2 of a disk, l^2 / 12 of a line.
    (disk,), (line,) = disks(4), lines(4 * 6**0.5)
    assert disk.spread == pytest.approx(line.spread)
    assert UNKNOWN.spread < sharp(1)[0].spread < disk.spread


def write_table(path, rows):
    with path.open("w", newline="") as stream:
        writer = csv.DictWriter(stream, rows[0])
        writer.writeheader()
        writer.writerows(rows)
    return path


def row(file, blur, size, **more):
    sizes = dict.fromkeys(("size", "low", "high", "native"), size)
    numbers = {f"estimated_{name}": value for name, value in sizes.items()}
    return {"file": file, "sharpness": 5.0, "estimated_blur": blur, **numbers, **more}


def test_tables_are_read_once_for_each_photograph_and_the_blurriest_first(tmp_path):
    rows = [
        row("a", "sharp", 0.0, top5_classes="7 1", confidence=0.9, critical_parameter=inf),
        row("b", "D3", 3.0, top5_classes="2 1", confidence=0.5, critical_parameter=1.5),
        row("c", "", "", top5_classes="2 1", confidence=0.5, critical_parameter=0.0),
        row("b", "D3", 3.0, top5_classes="9 1", confidence=0.1, critical_parameter=1.5),
    ]
    found = read_photographs(write_table(tmp_path / "predictions.csv", rows))
    assert [one.file for one in found] == ["b", "a", "c"]
    assert (found[0].answer, found[0].confidence, found[1].critical) == ("2", 0.5, inf)


@pytest.mark.parametrize("content", ["", "file,condition\na,sharp\n", "file\n\xff\n"])
def test_a_table_without_estimates_is_refused_in_a_line(tmp_path, content):
    path = tmp_path / "predictions.csv"
    path.write_text(content, encoding="latin-1")
    if content:
        with pytest.raises(InputError, match="repeat the prediction"):
            read_photographs(path)
    else:
        assert read_photographs(path) == []


def test_the_page_shows_the_blurriest_first_and_asks_for_nothing(tmp_path):
    found = [*disks(5), photograph("sharp", 0.0, "<b>.jpg"), photograph("sharp", 0.0, "gone.jpg")]

    def load(name):
        if name == "gone.jpg":
            raise UnreadableImageError(name)
        return np.zeros((500, 400, 3), np.uint8)

    write_blurriness(tmp_path / "page.html", found, load)
    page = (tmp_path / "page.html").read_text()
    assert page.index("a.jpg") < page.index("&lt;b&gt;.jpg") < page.index("gone.jpg")
    assert page.count("<img") == 4
    assert "default-src 'none'" in page and "<b>.jpg" not in page
    assert "out of focus: radius 5.0 px (4.0 to 6.0), 10 px of the file" in page.replace(
        "10.0", "10"
    )


def test_sharp_photographs_get_no_mix():
    assert "--data.blur" not in distribution_html(sharp(3))
    assert "--data.blur" in distribution_html(disks(3, 3, 3))


@pytest.fixture(scope="module")
def predicted(tmp_path_factory):
    """The folder of a prediction: scenes sharp and blurred, one flat; with a critical blur."""
    folder = tmp_path_factory.mktemp("photographs")
    (folder / "photos").mkdir()
    for index in range(4):
        image = Image.fromarray(scene(11, index, size=SIDE).frames[0])
        image.save(folder / "photos" / f"{index}.png")
    words = ["blur", str(folder / "photos"), "--blur", "D5", "--out", str(folder / "blurred")]
    assert main([*words, "--workers", "1"]) == 0
    for copy in (folder / "blurred").rglob("*.png"):
        copy.rename(folder / "photos" / f"blurred-{copy.name}")
    Image.new("RGB", (400, 400), "grey").save(folder / "photos" / "wall.png")
    words = [
        *("predict", "--model", "blur_lightning.tasks.CriticalBlurTask"),
        *("--model.net", "timm.create_model", "--model.net.model_name", "test_resnet"),
        *("--model.net.dict_kwargs.num_classes", "10", "--model.family", "D"),
        *("--model.largest", "2", "--model.steps", "2"),
        *("--data", "PhotosDataModule", "--data.root", str(folder / "photos")),
        *("--data.num_classes", "10", "--data.num_workers", "0"),
        *("--data.capture.canonical", "64", "--data.capture.scale", "64"),
        *("--data.capture.crop", "64", "--trainer.accelerator", "cpu"),
        *("--trainer.default_root_dir", str(folder / "run")),
        *("--trainer.enable_progress_bar", "false", "--trainer.logger", "false"),
    ]
    assert main(words) == 0
    return folder


def test_predictions_tell_blur_answer_and_critical_blur(predicted):
    with (predicted / "run/predictions.csv").open() as stream:
        rows = {line["file"]: line for line in csv.DictReader(stream)}
    assert len(rows) == 9
    for index in range(4):
        assert rows[f"{index}.png"]["estimated_blur"] == "sharp"
        size = float(rows[f"blurred-{index}.png"]["estimated_size"])
        assert size == pytest.approx(5, rel=0.25)
    assert rows["wall.png"]["estimated_blur"] == rows["wall.png"]["estimated_size"] == ""
    assert all(0 <= float(line["confidence"]) <= 1 for line in rows.values())
    assert all(float(line["critical_parameter"]) >= 0 for line in rows.values())


def test_a_prediction_leaves_a_page_of_its_photographs(predicted):
    page = (predicted / "run/blurriness.html").read_text()
    assert page.count("<figure><div") == 9
    assert page.index("blurred-0.png") < page.index(">0.png") < page.index("wall.png")
    assert "--data.blur &#x27;" in page or "--data.blur '0.5*sharp+0.5*D" in page


def test_a_report_says_what_the_photographs_suggest(predicted, tmp_path):
    page = tmp_path / "page.html"
    assert main(["report", str(predicted / "run"), "--out", str(page)]) == 0
    text = page.read_text()
    assert "From 8 photographs: 4 sharp" in text
    (mix,) = set(re.findall(r"--data\.blur '([^']+)'", text))
    assert BlurDistribution.parse(mix).weights == (0.5, 0.5)
    assert "On 20 photographs that the estimate was not trained on" in text


def test_a_label_cannot_change_where_there_is_none(predicted, capsys):
    config = ["--config", str(predicted / "run/predict.yaml"), "--model.decision", "label"]
    assert main(["predict", *config]) == 2
    assert "take own" in capsys.readouterr().err
