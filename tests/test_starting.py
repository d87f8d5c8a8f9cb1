import os
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from blur_lightning.cli import main

ROOT = Path(__file__).parents[1]
KINDS = (".yaml", ".sbatch", "")


def wanted():
    """All experiments, sweeps and scripts of the checkout."""
    found = (p for name in ("experiments", "sweeps") for p in (ROOT / name).rglob("*"))
    paths = [path for path in found if path.is_file() and path.suffix in KINDS]
    return {str(path.relative_to(ROOT)): path.read_bytes() for path in paths}


def below(folder):
    paths = (path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): path.read_bytes() for path in paths}


def test_init_copies_all_experiments_and_sweeps(tmp_path, capsys):
    assert main(["init", str(tmp_path / "mine")]) == 0
    assert below(tmp_path / "mine") == wanted()
    assert f"{len(wanted())} files" in capsys.readouterr().out
    assert os.access(tmp_path / "mine/sweeps/slurm/trial/python", os.X_OK)


def test_init_leaves_what_was_changed(tmp_path, capsys):
    assert main(["init", str(tmp_path)]) == 0
    mine = tmp_path / "experiments/base.yaml"
    mine.write_text("trainer: {max_epochs: 1}\n")
    assert main(["init", str(tmp_path)]) == 0
    assert mine.read_text() == "trainer: {max_epochs: 1}\n"
    assert f"0 files below {tmp_path}" in capsys.readouterr().out


def test_init_into_a_file_is_one_line(tmp_path, capsys):
    file = tmp_path / "file"
    file.touch()
    assert main(["init", str(file)]) == 2
    assert capsys.readouterr().err.strip().endswith(f"{file}: is a file; name a folder")


def test_the_wheel_lists_every_package_and_data_file():
    """`packages` cannot be found by setuptools, since some lie elsewhere."""
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]
    folders = {path.parent for path in (ROOT / "blur_lightning").rglob("*.py")}
    own = {".".join(path.relative_to(ROOT).parts) for path in folders}
    listed = set(settings["packages"])
    assert own == {name for name in listed if "starting_files" not in name}
    shipped = set()
    for name, patterns in settings["package-data"].items():
        folder = ROOT / name.removeprefix("blur_lightning.starting_files.").replace(".", "/")
        shipped |= {path for pattern in patterns for path in folder.glob(pattern)}
    other = (p for p in (ROOT / "blur_lightning").rglob("*") if p.is_file() and p.suffix != ".py")
    data = {path for path in other if path.suffix != ".pyc"}
    assert shipped == data | {ROOT / name for name in wanted()}


@pytest.mark.slow
def test_an_installed_wheel_runs_outside_the_checkout(tmp_path):
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"} | {"PIP_NO_INDEX": "1"}

    def run(*words, where=tmp_path, **more):
        ended = subprocess.run(
            [sys.executable, *map(str, words)],
            cwd=where,
            env=environment | more,
            capture_output=True,
            text=True,
        )
        assert ended.returncode == 0, ended.stderr
        return ended.stdout

    source = tmp_path / "source"  # setuptools builds beside its sources
    run("-m", "pip", "--version")
    subprocess.run(["git", "clone", "--quiet", str(ROOT), str(source)], check=True)
    for path in subprocess.run(
        ["git", "ls-files", "--others", "--modified", "--exclude-standard"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    ).stdout.split():
        (source / path).parent.mkdir(parents=True, exist_ok=True)
        (source / path).write_bytes((ROOT / path).read_bytes())
    run("-m", "pip", "wheel", "--no-deps", "--no-build-isolation", "-w", tmp_path / "w", source)
    (wheel,) = (tmp_path / "w").glob("*.whl")
    run("-m", "pip", "install", "--no-deps", "--target", tmp_path / "site", wheel)
    here = {"PYTHONPATH": str(tmp_path / "site")}
    run("-m", "blur_lightning", "init", "mine", **here)
    assert below(tmp_path / "mine") == wanted()
    words = ["--config", "experiments/base.yaml", "--config", "experiments/demo_scenes.yaml"]
    words += ["--data.train_count", 16, "--data.test_count", 4, "--data.batch_size", 8]
    words += ["--model.lr_scheduler.total_steps", 2, "--model.conditions", "[sharp, D2]"]
    words += ["--trainer.max_epochs", 1, "--trainer.default_root_dir", "run"]
    run("-m", "blur_lightning", "fit", *words, where=tmp_path / "mine", **here)
    words += ["--ckpt_path", "run/checkpoints/last.ckpt", "--trainer.default_root_dir", "again"]
    run("-m", "blur_lightning", "test", *words, where=tmp_path / "mine", **here)
    assert (tmp_path / "mine/again/robustness.csv").is_file()
    assert (tmp_path / "site/blur_lightning/py.typed").is_file()
    run("-m", "blur_lightning", "report", "run", "--out", "p.html", where=tmp_path / "mine", **here)
    assert (tmp_path / "mine/p.html").stat().st_size > 100_000
    origin = run("-c", "import blur_lightning; print(blur_lightning.__file__)", **here)
    assert origin.startswith(str(tmp_path / "site"))
