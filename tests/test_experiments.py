"""Every experiment parses, is whole, and runs."""

from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from small_voc import write_voc

from blur_lightning.cli import main
from blur_lightning.records.robustness import read_records
from blur_lightning.sweeps.running import read_trials

ROOT = Path(__file__).parents[1] / "experiments"
EXPERIMENTS = sorted(set(ROOT.glob("*.yaml")) - {ROOT / "base.yaml"})
FAST = ["--trainer.accelerator", "cpu", "--trainer.enable_progress_bar", "false"]
FAST += ["--trainer.log_every_n_steps", "1"]
SMALL_NET = ["--model.net", "nets.MeanColour", "--model.net.num_classes", "10"]
LIMITS = ["--trainer.limit_train_batches", "1"]
LIMITS += ["--trainer.limit_test_batches", "1", "--trainer.limit_val_batches", "1"]
SCENES = ["--data", str(ROOT / "data/scenes.yaml"), "--data.batch_size", "4"]


def run(verb, experiment, out, *words):
    configs = ["--config", str(ROOT / "base.yaml"), "--config", str(experiment)]
    return main([verb, *configs, "--trainer.default_root_dir", str(out), *FAST, *words])


def test_there_are_experiments():
    assert {path.stem for path in EXPERIMENTS} >= {
        "demo_photos",
        "demo_scenes",
        "classify_imagenet",
    }


def small(task, folder):
    """Words that put a small network and a few small images in place of those of a task."""
    if task.endswith(".SegmentationTask"):
        capture = {"canonical": 30, "scale": 30, "crop": 24, "measure": "geometric_mean"}
        options = {"root": str(write_voc(folder / "voc")), "capture": capture, "batch_size": 4}
        data = {"class_path": "blur_lightning.data.VOCDataModule", "init_args": options}
        (folder / "voc.yaml").write_text(yaml.safe_dump(data))
        net = ["--model.net", "nets.EncodedColour", "--model.net.classes", "21"]
        return [*net, *LIMITS, "--data", str(folder / "voc.yaml")]
    if task.endswith(".DeblurringTask"):
        return ["--model.net", "nets.Offset", *LIMITS, *SCENES]
    return [*SMALL_NET, *LIMITS, *SCENES]


@pytest.mark.parametrize("experiment", EXPERIMENTS, ids=lambda path: path.stem)
def test_an_experiment_runs_on_small_images_with_a_small_network(experiment, tmp_path):
    """With its own conditions, blur and optimiser; its data and network may not be at hand."""
    config = yaml.safe_load(experiment.read_text())
    verb = "fit" if "optimizer" in config["model"]["init_args"] else "test"
    words = small(config["model"]["class_path"], tmp_path)
    assert run(verb, experiment, tmp_path / "run", *words, "--trainer.max_epochs", "1") == 0
    records = read_records(tmp_path / "run")
    conditions = list(dict.fromkeys(r.condition for r in records))
    assert conditions == config["model"]["init_args"].get("conditions", conditions)
    assert {r.n for r in records} <= {2, 4}


@pytest.mark.parametrize("data", sorted((ROOT / "data").glob("*.yaml")), ids=lambda path: path.stem)
def test_a_data_part_parses_with_every_option_it_names(data, capsys):
    words = ["test", "--config", str(ROOT / "base.yaml"), "--config", str(EXPERIMENTS[0])]
    with pytest.raises(SystemExit) as end:
        main([*words, "--data", str(data), "--print_config"])
    assert not end.value.code
    shown = yaml.safe_load(capsys.readouterr().out)["data"]
    assert shown["class_path"] == yaml.safe_load(data.read_text())["class_path"]


@pytest.mark.parametrize("path", sorted(ROOT.rglob("*.yaml")), ids=lambda path: path.stem)
def test_a_file_says_what_it_is_and_stays_short(path):
    text = path.read_text()
    assert text.startswith("# ")
    assert len(text.splitlines()) < 40


def test_photographs_reproduce_the_known_curve(tmp_path):
    """EfficientNet-Lite0 on 20 photographs: what its weights and the blur are known by."""
    assert run("test", ROOT / "demo_photos.yaml", tmp_path) == 0
    records = read_records(tmp_path)
    top1 = {r.condition: round(20 * r.value) for r in records if r.metric == "top1"}
    entropy = {r.condition: r.value for r in records if r.metric == "entropy"}
    assert {r.n for r in records} == {20}
    assert top1["sharp"] >= 16
    assert top1["D8"] <= 12
    assert entropy["sharp"] == pytest.approx(1.45, abs=0.1)
    assert entropy["D8"] >= 2.5
    disks = [entropy[name] for name in ("sharp", "D2", "D4", "D6", "D8")]
    assert disks == sorted(disks)


@pytest.mark.slow
def test_training_on_a_mix_withstands_blur_at_little_cost(tmp_path):
    """Means over three seeds: single ones scatter by some ten points on blurred scenes."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # as the demo does
    gains, costs = [], []
    for seed in (0, 1, 2):
        top1 = {}
        for blur in ("sharp", "sharp+D2+D4"):
            words = ["--data.blur", blur, "--seed_everything", str(seed)]
            assert run("fit", ROOT / "demo_scenes.yaml", tmp_path / blur, *words) == 0
            records = read_records(tmp_path / blur)
            top1[blur] = {r.condition: r.value for r in records if r.metric == "top1"}
        gains.append(top1["sharp+D2+D4"]["D4"] - top1["sharp"]["D4"])
        costs.append(top1["sharp"]["sharp"] - top1["sharp+D2+D4"]["sharp"])
    torch.set_num_threads(threads)
    assert np.mean(gains) >= 0.20, gains
    assert np.mean(costs) <= 0.03, costs


@pytest.mark.parametrize(
    "path", sorted((ROOT.parent / "sweeps").glob("*.yaml")), ids=lambda p: p.stem
)
def test_every_trial_of_a_sweep_parses(path, capsys, monkeypatch, tmp_path):
    """Each point of the grid, by the real command line, from the project's folder."""
    monkeypatch.chdir(ROOT.parent)
    trials = read_trials(path)
    assert len({trial.folder for trial in trials}) == len(trials)
    verbs = {trial.command[trial.command.index("blur_lightning") + 1] for trial in trials}
    assert verbs <= {"fit", "test"}
    for trial in trials:
        words = trial.command[trial.command.index("blur_lightning") + 1 :]
        with pytest.raises(SystemExit) as end:
            main([*words, "--print_config"])
        assert not end.value.code, capsys.readouterr().err
        shown = yaml.safe_load(capsys.readouterr().out)
        for key, value in trial.parameters.items():
            if key in ("data.blur", "model.conditions", "model.freeze", "trainer.max_epochs"):
                node = shown
                for name in key.split("."):
                    node = node.get("init_args", node)[name]
                assert node == value
