import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from PIL import Image
from pyarrow import parquet

from blur_lightning.cli import main
from blur_lightning.records.robustness import read_records

WNIDS = ("n01440764", "n01770393", "n02123159")


@pytest.fixture(scope="session")
def folder(tmp_path_factory):
    """A partial ImageNet of three classes, which differ in colour: 6 to train, 4 to test each."""
    root = tmp_path_factory.mktemp("imagenet")
    generator = np.random.default_rng(0)
    for split, each in (("train", 6), ("val", 4)):
        for channel, wnid in enumerate(WNIDS):
            (root / split / wnid).mkdir(parents=True)
            for number in range(each):
                pixels = generator.integers(0, 90, size=(40, 48 + number, 3), dtype=np.uint8)
                pixels[..., channel] += 150
                Image.fromarray(pixels).save(root / split / wnid / f"{number}.png")
    return root


@pytest.fixture
def command(tmp_path, folder):
    """Run a command on the partial ImageNet with a network that sees colours only."""

    def run(verb, *words, expect=0, root=folder, out=tmp_path / "run"):
        base = {
            "trainer": {
                "accelerator": "cpu",
                "enable_progress_bar": False,
                "max_epochs": 2,
                "log_every_n_steps": 1,
            },
            "model": {
                "class_path": "blur_lightning.tasks.ClassificationTask",
                "init_args": {
                    "net": {"class_path": "nets.MeanColour"},
                    "optimizer": {"class_path": "torch.optim.SGD", "init_args": {"lr": 0.1}},
                    "conditions": ["sharp", "D2", "shake"],
                },
            },
            "data": {
                "class_path": "blur_lightning.data.ImageNetDataModule",
                "init_args": {
                    "root": str(root),
                    "blur": "sharp+D2",
                    "capture": {"canonical": 32, "scale": 24, "crop": 16},
                    "batch_size": 4,
                    "num_workers": 0,
                },
            },
        }
        config = tmp_path / "config.yaml"
        config.write_text(yaml.safe_dump(base))
        words = ["--trainer.default_root_dir", str(out), *map(str, words)]
        assert main([verb, "--config", str(config), *words]) == expect
        return out

    return run


@pytest.fixture
def error(command, capsys):
    """Run a command that must fail with status 2 and return its one line."""

    def run(verb, *words, **options):
        command(verb, *words, expect=2, **options)
        lines = [x for x in capsys.readouterr().err.splitlines() if x.startswith("error: ")]
        assert len(lines) == 1
        return lines[0]

    return run


def by_condition(out, metric="cross_entropy"):
    return {r.condition: r.value for r in read_records(out) if r.metric == metric}


def test_a_test_leaves_its_records_pictures_and_provenance(command):
    out = command("test")
    assert list(by_condition(out)) == ["sharp", "D2", "shake"]
    record = read_records(out)[0]
    assert (record.run, record.model, record.trained_on) == ("run", "MeanColour", "original")
    assert (record.dataset, record.n, record.scale) == ("imagenet", 12, "24")
    provenance = yaml.safe_load((out / "provenance.json").read_text())
    assert provenance["kernel_banks"]["shake-test"].startswith("1e0dee9c")
    assert provenance["config"]["data"]["init_args"]["blur"] == "sharp+D2"
    assert len(provenance["data"]["fingerprint"]["test"]) == 64
    assert sorted(p.name for p in (out / "examples").iterdir()) == [
        "D2.jpg",
        "shake.jpg",
        "sharp.jpg",
    ]


def test_the_parquet_file_has_a_row_for_each_image_and_condition(command):
    from pyarrow import parquet

    out = command("test")
    rows = parquet.read_table(out / "images.parquet").to_pylist()
    assert [(r["condition"], r["index"]) for r in rows] == [
        (condition, index) for condition in ("sharp", "D2", "shake") for index in range(12)
    ]
    assert [r["label"] for r in rows[:12]] == [0] * 4 + [71] * 4 + [282] * 4
    for row in rows:
        assert len(row["top5_classes"]) == 5
        assert row["top1"] == (row["top5_classes"][0] == row["label"])
        assert row["probability"] == pytest.approx(np.exp(-row["cross_entropy"]), rel=1e-5)


def test_fit_trains_and_then_tests(command):
    out = command("fit")
    assert {r.trained_on for r in read_records(out)} == {"sharp+D2"}
    before = by_condition(command("test", out=out.parent / "untrained"))
    assert all(by_condition(out)[name] < before[name] - 0.5 for name in before)


def test_fit_can_leave_out_the_test(command):
    out = command("fit", "--test", "false")
    assert (out / "checkpoints/last.ckpt").is_file()
    assert not (out / "robustness.csv").exists()


def test_a_checkpoint_brings_its_weights_and_what_it_was_trained_on_and_nothing_else(command):
    trained = command("fit", "--model.name", "colours")
    out = trained.parent / "again"
    words = ["--ckpt_path", trained / "checkpoints/last.ckpt", "--model.conditions", "[D2, G1]"]
    command("test", *words, "--data.batch_size", 5, out=out)
    assert {(r.model, r.trained_on) for r in read_records(out)} == {("MeanColour", "sharp+D2")}
    assert list(by_condition(out)) == ["D2", "G1"]
    assert by_condition(out)["D2"] == pytest.approx(by_condition(trained)["D2"], abs=1e-5)


def test_the_saved_config_alone_repeats_a_run(command, tmp_path):
    first = command("fit", "--seed_everything", 5, "--data.blur", "sharp+D0..3")
    saved = tmp_path / "fit.yaml"
    (first / "fit.yaml").rename(saved)
    records, weights = by_condition(first), torch.load(first / "checkpoints/last.ckpt")
    (tmp_path / "config.yaml").unlink()
    assert main(["fit", "--config", str(saved)]) == 0
    assert by_condition(first) == records
    again = torch.load(first / "checkpoints/last.ckpt")["state_dict"]
    assert all(torch.equal(again[name], weights["state_dict"][name]) for name in again)


def test_a_second_run_in_the_same_folder_replaces_the_records(command):
    command("fit")
    out = command("test", "--model.conditions", "[sharp]")
    assert list(by_condition(out)) == ["sharp"]
    assert [p.name for p in (out / "examples").iterdir()] == ["sharp.jpg"]
    assert sorted(p.name for p in out.glob("*.yaml")) == ["fit.yaml", "test.yaml"]
    assert len(list(out.glob("logs/*/metrics.csv"))) == 2  # the log of the fit is still there


def test_draws_and_values_depend_on_neither_batch_size_nor_workers(command, tmp_path):
    from pyarrow import parquet

    tables = []
    for batch_size, workers in ((1, 0), (7, 2), (32, 0), (32, 2)):
        words = ["--data.batch_size", batch_size, "--data.num_workers", workers]
        out = command("test", *words, "--model.conditions", "[shake, D0..4]", out=tmp_path / "x")
        tables.append(parquet.read_table(out / "images.parquet").to_pydict())
    for table in tables[1:]:
        for drawn in ("index", "label", "condition", "family", "parameter", "angle"):
            assert table[drawn] == tables[0][drawn]
        for value in ("cross_entropy", "entropy", "probability"):
            np.testing.assert_allclose(table[value], tables[0][value], atol=1e-5)
    assert len(set(tables[0]["parameter"])) > 12


def test_validate_measures_the_mix_that_is_trained_on(command, capsys):
    command("validate", "--data.blur", "D2")
    assert "val/top1" in capsys.readouterr().out


def test_predict_needs_no_labels(command, folder):
    photos = ["--data", "blur_lightning.data.PhotosDataModule", "--data.root", folder / "val"]
    out = command("predict", *photos, "--model.conditions", "[sharp, D2]")
    lines = (out / "predictions.csv").read_text().splitlines()
    assert lines[0].startswith("file,condition,")
    assert len(lines) == 1 + 2 * 12
    assert lines[1].startswith("n01440764/0.png,sharp,")


@pytest.mark.parametrize(("limit", "batches"), [("1", 1), ("2", 2), ("1.0", 3)])
def test_limits_count_batches_when_they_are_whole(command, limit, batches):
    out = command("test", "--trainer.limit_test_batches", limit)
    assert {r.n for r in read_records(out)} == {4 * batches}


@pytest.mark.parametrize("stated", [[], ["--model.optimizer.weight_decay", "0.3"]])
def test_changing_the_optimiser_leaves_nothing_of_the_old_one(command, tmp_path, stated):
    (tmp_path / "more.yaml").write_text(
        "model: {init_args: {optimizer: {class_path: torch.optim.SGD, "
        "init_args: {lr: 0.1, weight_decay: 0.7}}}}"
    )
    words = ["--config", tmp_path / "more.yaml", "--model.optimizer", "torch.optim.AdamW"]
    out = command("fit", *words, "--model.optimizer.lr", "0.01", *stated, "--test", "false")
    optimizer = yaml.safe_load((out / "fit.yaml").read_text())["model"]["init_args"]["optimizer"]
    assert optimizer["class_path"] == "torch.optim.AdamW"
    assert optimizer["init_args"]["lr"] == 0.01
    assert optimizer["init_args"]["weight_decay"] == (0.3 if stated else 0.01)


def test_changing_the_data_keeps_its_blur_and_batch_size(command):
    scenes = ["--data", "blur_lightning.data.ScenesDataModule", "--data.test_count", "3"]
    out = command("test", *scenes, "--model.net.num_classes", "10")
    data = yaml.safe_load((out / "test.yaml").read_text())["data"]["init_args"]
    assert (data["blur"], data["batch_size"]) == ("sharp+D2", 4)


WRONG_ARGUMENTS = [
    (["--model.conditions", "[sharp, X4]"], "'X4' is no blur"),
    (["--model.conditions", "[]"], "model.conditions: name at least one"),
    (["--model.conditions", "[D4, D4.0]"], "model.conditions: 'D4' comes twice"),
    (["--data.blur", "D-2"], "'D-2' needs a radius"),
    (["--data.blur", "0*D2"], "weights sum to 0"),
    (["--data.batch_size", "many"], "--data.batch_size: Expected a int"),
    (["--data.capture.scal", "3"], "--data.capture.scal: there is no such option"),
    (["--trainer.max_epoch", "3"], "trainer.max_epoch"),
    (["--model.net", "timm.create_model", "--model.net.model_name", "resnet51"], "resnet51"),
    (
        [
            *("--model.net", "blur_lightning.models.FiveCrops"),
            *("--model.net.net", "timm.create_model", "--model.net.net.model_name", "resnet51"),
        ],
        r"^error: model: Unknown model \(resnet51\); timm\.list_models\(\) lists the names$",
    ),
    (["--model.net", "timm.nothing"], "--model.net: timm.nothing is neither"),
    (["--data", "nothing.yaml"], "--data: nothing.yaml is neither"),
    (["--data.batch_size", "0"], "data: batch_size, jitter: 1 or more"),
    (["--data.fraction", "0"], r"data\.fraction: 0\.0 is not above 0 and at most 1"),
    (["--data.fraction", "1.5"], r"data\.fraction: 1\.5 is not above 0"),
    (["--data.per_class", "0"], r"data\.per_class: 0 is not 1 or more"),
    (["--data.capture.crop", "all"], "--data.capture.crop: 'all' is none of"),
    (["--data.capture.scale", "[24, 24]"], "capture.scale: name at least one, each once"),
    (["--data.capture.scale", "[24, 32]"], "model.net: takes one scale"),
    (["--model.net.num_classes", "1001"], "with the 1000 classes of the data"),
    (["--data.capture.scale", "0"], "data: capture.scale: 0 is not 1 pixel"),
    (["--data.capture.crop", "99"], "data: capture.crop: 99 pixels do not fit"),
    (["--model.conditions", "[D40]"], "blur 'D40': its kernel reaches 40 pixels"),
    (["--data.blur", "D500"], "data: blur 'D500': its kernel reaches 500 pixels"),
    (["--data.root", "/nowhere"], "data.root: there is no folder /nowhere/val"),
    (["--config", "nothing.yaml"], "--config: .*nothing.yaml"),
    (["--ckpt_path", "/nowhere.ckpt"], "ckpt_path: there is no checkpoint /nowhere.ckpt"),
    (["--ckpt_path", "last"], "ckpt_path: there is no checkpoint"),
    (["--ckpt_path", "best"], "ckpt_path: checkpoints are kept by epoch"),
    (["--data.seed", "-1"], "seed: 0 or more"),
    (["--trainer.devices", "0"], "devices"),
    (["--model.net.num_classes", "3"], "model.net: its output .* 1000 classes"),
]


@pytest.mark.parametrize(("words", "message"), WRONG_ARGUMENTS)
def test_a_wrong_argument_is_one_line_that_names_it(error, words, message):
    assert re.search(message, error("test", *words))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("model: {init_args: {conditons: [sharp]}}", "model.init_args.conditons: there is no such"),
        ("model: [1, 2", "not YAML"),
        ("trainer: {max_epochs: three}", "trainer.max_epochs: 'three' is none of: int, null"),
        ("data: data/nothing.yaml", "data: data/nothing.yaml is neither"),
    ],
)
def test_a_wrong_config_is_one_line_that_names_the_file_and_the_key(error, tmp_path, text, message):
    (tmp_path / "wrong.yaml").write_text(text)
    line = error("test", "--config", tmp_path / "wrong.yaml")
    assert f"{tmp_path / 'wrong.yaml'}: {message}" in line


def foreign_network(path):
    torch.save({"state_dict": {"net.conv.weight": torch.zeros(3)}}, path)


def other_shape(path):
    weights = {"net.linear.weight": torch.zeros(7, 3), "net.linear.bias": torch.zeros(7)}
    torch.save({"state_dict": weights}, path)


def runs_code(path):
    class Evil:
        def __reduce__(self):
            return (path.with_suffix(".hacked").touch, ())

    torch.save({"state_dict": Evil()}, path)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (foreign_network, "is of another network"),
        (other_shape, r"\(7, 3\) there, \(1000, 3\) in model.net"),
        (runs_code, "is no checkpoint"),
        (lambda path: path.write_text("text"), "is no checkpoint"),
        (lambda path: path.touch(), "is no checkpoint"),
        (lambda path: torch.save([1, 2], path), "is no checkpoint"),
    ],
)
def test_a_foreign_checkpoint_is_one_line_and_runs_no_code(error, tmp_path, make, message):
    make(tmp_path / "odd.ckpt")
    line = error("test", "--ckpt_path", tmp_path / "odd.ckpt")
    assert re.search(f"odd.ckpt.*{message}", line)
    assert not (tmp_path / "odd.hacked").exists()


@pytest.fixture
def damaged(tmp_path, folder):
    """The partial ImageNet with two broken images in val/."""
    root = shutil.copytree(folder, tmp_path / "damaged")
    whole = (root / "val" / WNIDS[0] / "0.png").read_bytes()
    (root / "val" / WNIDS[0] / "0.png").write_bytes(whole[:100])
    (root / "val" / WNIDS[2] / "3.png").write_text("no picture")
    return root


@pytest.mark.parametrize("workers", [0, 2])
def test_an_unreadable_image_stops_the_run_by_its_name(error, damaged, workers):
    line = error("test", "--data.num_workers", workers, root=damaged)
    assert f"{WNIDS[0]}/0.png: cannot be read" in line
    assert "--data.skip_unreadable true" in line


@pytest.mark.parametrize("batch_size", [1, 4])
def test_unreadable_images_are_skipped_counted_and_listed(command, damaged, batch_size, capsys):
    words = ["--data.skip_unreadable", "true", "--data.batch_size", batch_size]
    out = command("test", *words, root=damaged)
    said = capsys.readouterr().out
    assert "left out: 2 images that cannot be read\n" in said
    assert f"{WNIDS[0]}/0.png: cannot be read" in said
    assert {r.n for r in read_records(out)} == {10}
    listed = yaml.safe_load((out / "provenance.json").read_text())["data"]["unreadable"]
    assert [line.split(": ")[0][-15:] for line in listed] == ["n01440764/0.png", "n02123159/3.png"]


def test_whole_images_of_unequal_sizes_are_each_as_alone(command, tmp_path):
    whole = ["--data.capture.crop", "whole", "--data.capture.scale", "[24, 40]"]
    whole += ["--model.net.num_classes", "1000", "--model.net", "nets.MeanColours"]
    runs = [
        command("test", *whole, "--data.batch_size", size, out=tmp_path / size)
        for size in ("1", "5")
    ]
    alone, together = (parquet.read_table(run / "images.parquet").to_pydict() for run in runs)
    assert len(alone["index"]) == 3 * 12
    assert alone["top5_classes"] == together["top5_classes"]
    np.testing.assert_allclose(alone["entropy"], together["entropy"], rtol=1e-5)
    assert {record.scale for record in read_records(runs[0])} == {"24+40"}


def test_one_image_is_too_few_for_a_test(error, tmp_path):
    folder = tmp_path / "one/val/n01440764"
    folder.mkdir(parents=True)
    Image.new("RGB", (40, 40)).save(folder / "0.png")
    assert "a test needs two images or more" in error("test", root=tmp_path / "one")


def test_a_loss_that_is_no_number_stops_the_training_and_keeps_the_last_checkpoint(error, command):
    command("fit", "--trainer.max_epochs", "1", "--test", "false")
    words = ["--ckpt_path", "last", "--trainer.max_epochs", "3"]
    line = error("fit", *words, "--model.net", "nets.Diverging")
    assert re.search(r"the loss is nan at step \d+, images \[\d+", line), line
    assert "go on with --ckpt_path last" in line
    records = read_records(command("fit", *words))
    assert {record.trained_on for record in records} == {"sharp+D2"}


def test_nothing_readable_is_an_error(error, damaged):
    for image in (damaged / "val").rglob("*.png"):
        image.write_text("no picture")
    assert "none of the images" in error("test", "--data.skip_unreadable", "true", root=damaged)


def test_a_checkpoint_that_is_trained_already_is_not_taken_for_more(error, command):
    trained = command("fit", "--data.blur", "sharp", "--test", "false")
    line = error("fit", "--data.blur", "D4", "--ckpt_path", trained / "checkpoints/last.ckpt")
    assert "was trained for 2 epochs already" in line
    words = ["--ckpt_path", "last", "--trainer.max_epochs", "3", "--data.blur", "sharp"]
    assert {r.trained_on for r in read_records(command("fit", *words))} == {"sharp"}


def test_a_fit_that_was_interrupted_in_its_test_goes_on_with_the_test(command, capsys):
    out = command("fit", "--trainer.max_epochs", "1")
    before = read_records(out)
    (out / "robustness.csv").unlink()
    command("fit", "--trainer.max_epochs", "1", "--ckpt_path", "last")
    assert read_records(out) == before


@pytest.mark.parametrize("precision", ["bf16-true", "bf16-mixed", "64-true"])
def test_every_precision_gives_nearly_the_same_values(command, tmp_path, precision):
    exact = by_condition(command("test", out=tmp_path / "exact"))
    other = by_condition(command("test", "--trainer.precision", precision))
    assert other == pytest.approx(exact, rel=0.02)


def test_one_batch_can_be_fitted_over_and_over(command):
    out = command("fit", "--trainer.overfit_batches", "1")
    assert {r.trained_on for r in read_records(out)} == {"sharp+D2"}


def test_networks_of_one_class_keep_their_names_apart(command, tmp_path):
    for name in ("resnet18", "resnet34"):
        words = ["--model.net", f"torchvision.models.{name}", "--trainer.limit_test_batches", "1"]
        records = read_records(command("test", *words, out=tmp_path / name))
        assert {record.model for record in records} == {name}


def test_arguments_of_a_replaced_network_are_forgotten(command, tmp_path):
    text = "model: {init_args: {net: {class_path: torchvision.models.resnet34, init_args: "
    (tmp_path / "more.yaml").write_text(
        text + "{weights: null}, dict_kwargs: {num_classes: 1000}}}}"
    )
    words = ["--config", tmp_path / "more.yaml", "--trainer.limit_test_batches", "1"]
    command("test", *words, "--model.net", "torchvision.models.resnet18")


def test_the_order_of_keys_in_a_config_does_not_matter(command, tmp_path):
    (tmp_path / "more.yaml").write_text(
        "model: {init_args: {optimizer: {init_args: {lr: 0.07, momentum: 0.9}, "
        "class_path: torch.optim.SGD}}}"
    )
    out = command("fit", "--config", tmp_path / "more.yaml", "--test", "false")
    settings = yaml.safe_load((out / "fit.yaml").read_text())["model"]["init_args"]["optimizer"]
    assert (settings["init_args"]["lr"], settings["init_args"]["momentum"]) == (0.07, 0.9)


def test_an_interrupted_test_leaves_the_old_records(command, monkeypatch):
    from blur_lightning.tasks import ClassificationTask

    out = command("test")
    old = (out / "robustness.csv").read_bytes()

    def interrupt(self, output, batch):
        raise KeyboardInterrupt

    monkeypatch.setattr(ClassificationTask, "measure", interrupt)
    command("test", "--model.conditions", "[D4]", expect=130)
    assert (out / "robustness.csv").read_bytes() == old
    assert not list(out.glob(".*.tmp"))


def test_report_makes_a_page_of_runs(command, tmp_path):
    out, page = command("fit"), tmp_path / "page.html"
    assert main(["report", str(out), "--out", str(page)]) == 0
    assert "MeanColour" in page.read_text()
    assert main(["report", str(tmp_path / "nothing"), "--out", str(page)]) == 2


@pytest.mark.parametrize("words", [["--help"], ["report", "--help"], ["--version"]])
def test_help_needs_no_torch(words):
    code = (
        "import sys; from blur_lightning.cli import main\n"
        f"try: main({words!r})\n"
        "except SystemExit as end: assert not end.code\n"
        "print('torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "False"
    assert len(done.stdout.splitlines()) > 1


def test_the_program_runs_as_a_module_and_returns_its_status():
    program = [sys.executable, "-m", "blur_lightning"]
    done = subprocess.run([*program, "nothing"], capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert done.stderr.splitlines() == [
        "error: 'nothing' is no command; see python -m blur_lightning --help"
    ]


@pytest.mark.parametrize("verb", ["doctor", "report", "fit"])
def test_outside_the_environment_one_line_says_so(verb):
    """-S: without site-packages there are no dependencies."""
    program = [sys.executable, "-S", "-m", "blur_lightning", verb]
    root = Path(__file__).parents[1]
    done = subprocess.run(program, capture_output=True, text=True, check=False, cwd=root)
    (line,) = done.stderr.strip().splitlines()
    assert re.fullmatch(r"error: \w+ is missing in this Python; activate the environment .*", line)
    assert (done.returncode, done.stdout) == (2, "")


def test_an_argument_of_a_networks_keywords_is_hinted_at(error):
    line = error("test", "--model.net", "timm.create_model", "--model.net.num_classes", "3")
    assert "--model.net.dict_kwargs.num_classes" in line


def test_a_replaced_network_leaves_no_keywords_behind(command):
    former = ["--model.net", "timm.create_model", "--model.net.model_name", "test_resnet"]
    former += ["--model.net.dict_kwargs.drop_rate", "0.1"]
    assert read_records(command("test", *former, "--model.net", "nets.MeanColour"))


@pytest.mark.parametrize("verb", ["sweep", "report", "compare", "blur"])
def test_a_verb_without_words_says_what_it_needs(verb, capsys):
    assert main([verb]) == 2
    line = capsys.readouterr().err.strip().splitlines()[-1]
    assert line.startswith("error: "), line


def test_doctor_needs_no_words(capsys):
    assert main(["doctor"]) == 0
    assert "machine" in capsys.readouterr().out


def test_every_epoch_leaves_a_checkpoint_validated_or_not(command):
    out = command("fit", "--trainer.max_epochs", "1", "--trainer.check_val_every_n_epoch", "3")
    assert (out / "checkpoints/last.ckpt").is_file()
