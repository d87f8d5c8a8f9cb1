"""What survives a kill: commands are killed at random moments, begun again, and compared.

    python benchmarks/faults.py [--kills 64] [--seed 0] [--only fit] [--out FILE]

Each command runs once without a fault. Then it is begun, killed by SIGKILL with all its processes
at a moment drawn from the seed, and begun again, a few times in a row, before it may end. What it
leaves must be that of the first run: bytes of files, bits of weights, rows of tables. So it must
after what `mishaps.py` does to it. Networks and data are those of the tests, so small that a run
takes seconds. Exits with 1 where anything is lost.
"""

import argparse
import csv
import json
import os
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

ROOT = Path(__file__).parents[1]
sys.path[:0] = [str(ROOT / "tests")]

import mishaps  # noqa: E402
from forked import Command  # noqa: E402
from small_runs import TASKS, small_run  # noqa: E402

_CHAIN = 4  # kills in a row before a command may end
_PATIENCE = 600.0  # s that one run may take on a busy machine
_AGENT = 30.0  # s that the processes beside one that was killed have to leave
_ROUNDING = 1e-5  # relative, of numbers that a network in float32 was measured by
_TRIAL = """
import sys, pathlib, time
words = dict(word.removeprefix("--").split("=", 1) for word in sys.argv[1:])
file = pathlib.Path(words["trainer.default_root_dir"], "count.txt")
count = int(file.read_text()) if file.exists() else 0
while count < 5:
    time.sleep(0.05)
    count += 1
    part = file.with_suffix(".part")
    part.write_text(str(count))
    part.replace(file)
"""


class Case(NamedTuple):
    """A command, and what it leaves.

    Attributes:
        words: The command line for a folder.
        left: What must be the same, by name, for a folder.
        processes: How many take part.
    """

    words: Callable[[Path], Sequence[object]]
    left: Callable[[Path], dict[str, Any]]
    processes: int = 1


class Result(NamedTuple):
    """Kills of one command, those after which it ended as it should, and what was lost.

    Where memory begins decides the order of some sums in torch, and so the last digit of what a
    network answers: measured numbers may differ by that, weights by nothing.
    """

    kills: int
    survived: int
    lost: list[str]
    rounded: int = 0  # of those that survived, with a number that differs by less than _ROUNDING


def cases(inputs: Path) -> dict[str, Case]:
    """Commands on small data, which is made below a folder."""
    photos, videos = inputs / "photos", inputs / "videos"
    if not photos.exists():
        _write_inputs(photos, videos)
    fits = {f"fit, {task.lower()}": Case(_fit(task, inputs), run_left) for task in TASKS}
    test = [*small_run("Classification", inputs), "--data.batch_size", 1]
    copies = ["blur", photos, "--blur", "D2..4", "--canonical", 96]
    pairs = ["build-wild", videos, "--frames", "7..11", "--reduce", 1, "--test_share", 0]
    return fits | {
        "fit, two processes": Case(_fit("Classification", inputs, 2), run_left, 2),
        "test": Case(
            lambda out: ["test", *test, "--trainer.default_root_dir", out / "run"], run_left
        ),
        "sweep": Case(lambda out: ["sweep", _sweep_file(out)], _sweep_left),
        "build-wild": Case(
            lambda out: [*pairs, "--out", out / "pairs", "--workers", 1], files_left
        ),
        "blur": Case(lambda out: [*copies, "--out", out / "copies", "--workers", 1], files_left),
    }


def measure(case: Case, work: Path, *, kills: int, random: np.random.Generator) -> Result:
    """Kill a command so many times.

    Args:
        case: The command.
        work: Folder to work in; emptied.
        kills: How many times.
        random: Draws the moments.
    """
    shutil.rmtree(work, ignore_errors=True)
    Command(["--version"], work / "warm.log").wait()  # the server's imports are no part of a run
    begun, seconds = _undisturbed(case, work / "whole")
    expected = case.left(work / "whole")
    done = survived = rounded = chain = 0
    lost: list[str] = []
    while done < kills:
        out, chain, struck = work / f"chain{chain}", chain + 1, 0
        while struck < min(_CHAIN, kills - done):
            command = _start(case, out)
            # Half of what comes before the first file is enough of a command that did nothing.
            if command.wait(random.uniform(min(begun / 2, seconds), seconds)) is not None:
                break
            # A kernel that lacks memory kills one process, a machine that goes down all.
            command.kill(first=case.processes > 1 and bool(random.integers(2)))
            if command.wait(_AGENT) is None:  # as torchrun does to those that wait for the other
                command.kill()
                command.wait()
            struck += 1
        done += struck
        start = time.monotonic()
        problem = _ended_otherwise(case, out, expected)
        if not struck:  # it ended before its moment, and so was quicker than the one before
            seconds = min(seconds, time.monotonic() - start)
        survived += 0 if problem else struck
        rounded += 0 if problem or case.left(out) == expected else struck
        lost += [f"{out}: {problem}"] if problem else []
        if not problem:
            shutil.rmtree(out)
    return Result(done, survived, lost, rounded)


def meet(inputs: Path, work: Path, only: str = "") -> dict[str, str]:
    """Let each mishap happen to a command.

    Args:
        inputs: Folder of small data, which is made there.
        work: Folder to work in; emptied.
        only: Mishaps whose names begin so.

    Returns:
        What went wrong, by mishap; an empty text where all went as it should.
    """
    shutil.rmtree(work, ignore_errors=True)
    photos = inputs / "photos"
    if not photos.exists():
        _write_inputs(photos, inputs / "videos")
    fit = Case(_fit("Classification", inputs), run_left)
    test = Case(
        lambda out: [*_photo_test(photos), "--trainer.default_root_dir", out / "run"], run_left
    )
    last = max(photos.glob("*"))
    happen: dict[str, tuple[Case, Callable[..., str], dict[str, Any]]] = {
        "a loader's worker is killed": (fit, mishaps.killed_worker, {}),
        "a photograph is removed": (
            test,
            mishaps.changed_photograph,
            {"file": last, "content": None},
        ),
        "a photograph is replaced": (
            test,
            mishaps.changed_photograph,
            {"file": last, "content": last.read_bytes() + b" "},
        ),
    }
    if mishaps.may_mount():
        happen["a disk takes nothing"] = (fit, mishaps.read_only, {})
        for room in (8, 40, 60, 90):
            happen[f"a disk has room for {room} KiB"] = (
                fit,
                mishaps.full_disk,
                {"kilobytes": room},
            )
    found, expected = {}, dict[int, dict[str, Any]]()
    for place, (name, (case, happens, options)) in enumerate(happen.items()):
        if not name.startswith(only):
            continue
        setting = mishaps.Setting(case.words, case.left, _environment(), differs)
        if id(case) not in expected:
            whole = work / f"whole{place}/out"
            whole.mkdir(parents=True)
            setting.start(whole).wait()
            expected[id(case)] = case.left(whole)
        found[name] = happens(setting, work / f"{place}/out", expected[id(case)], **options)
        print(f"{name:34} {'goes on' if not found[name] else found[name]}", flush=True)
    if not mishaps.may_mount():
        print("full disks are left out: this process may not mount any")
    return found


def _undisturbed(case: Case, out: Path) -> tuple[float, float]:
    """Run a command; seconds until its first file, and until its end."""
    start = time.monotonic()
    out.mkdir(parents=True)
    known = len([*out.rglob("*")]) + 1  # its log
    command, begun = _start(case, out), None
    while command.wait(0.05) is None:
        if begun is None and len([*out.rglob("*")]) > known:
            begun = time.monotonic() - start
    seconds = time.monotonic() - start
    if (status := command.wait()) != 0:
        raise SystemExit(f"{out}: ended with {status}\n{command.log.read_text()}")
    return begun or 0.0, seconds


def _start(case: Case, out: Path) -> Command:
    out.mkdir(parents=True, exist_ok=True)
    words, environment = case.words(out), _environment()
    return Command(
        words, out / "log.txt", processes=case.processes, environment=environment, folder=out
    )


def _environment() -> dict[str, str]:
    return {"PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "tests")])}


def _ended_otherwise(case: Case, out: Path, expected: dict[str, Any]) -> str:
    """Let a command end; how that differs from what is expected, or nothing."""
    command = _start(case, out)
    status = command.wait(_PATIENCE)
    if status != 0:
        command.kill()
        last = command.log.read_text().strip().splitlines()[-1:]
        return f"status {status}: {' '.join(last)}"
    return differs(case.left(out), expected)


def differs(found: dict[str, Any], expected: dict[str, Any]) -> str:
    """What is not the same of what two runs have left, or nothing."""
    if found.keys() != expected.keys():
        return f"other files: {sorted(found.keys() ^ expected.keys())}"
    return ", ".join(f"{n} differs" for n in found if not _alike(found[n], expected[n]))


def _alike(one: Any, other: Any) -> bool:
    """Whether two values are the same, but for the rounding of Measured numbers."""
    if isinstance(one, Measured) and isinstance(other, Measured):
        return len(one.columns) == len(other.columns) and all(
            a == b
            or (
                not isinstance(a[0], str)
                and np.allclose(a, b, rtol=_ROUNDING, atol=_ROUNDING, equal_nan=True)
            )
            for a, b in zip(one.columns, other.columns, strict=True)
        )
    return bool(one == other)


# What commands leave


class Measured(NamedTuple):
    """Columns of a table of what was measured: lists of texts, or of numbers."""

    columns: list[list[Any]]


def files_left(out: Path) -> dict[str, Any]:
    """Bytes of all files that are not hidden; their paths where they hold those."""
    files = [path for path in sorted(out.rglob("*")) if path.is_file() and path.name != "log.txt"]
    shown = [
        path for path in files if not any(x.startswith(".") for x in path.relative_to(out).parts)
    ]
    text = str(out).encode()
    return {str(path.relative_to(out)): path.read_bytes().replace(text, b"") for path in shown} | {
        "parts": [str(path) for path in files if path.suffix in (".tmp", ".part")]
    }


def run_left(out: Path) -> dict[str, Any]:
    """What a fit or a test leaves: weights, states, records, tables, pictures, logged losses."""
    import torch
    from pyarrow import parquet

    from blur_lightning.records.robustness import read_records

    run = out / "run"
    found: dict[str, Any] = {
        path.name: path.read_bytes()
        for path in (run / "diary.csv", *(run / "examples").glob("*"))
        if path.exists()
    }
    found["diary"] = [
        parquet.read_table(path).to_pydict() for path in sorted(run.glob("diary.parquet"))
    ]
    images = parquet.read_table(run / "images.parquet").to_pydict()
    found["images.parquet"] = Measured([*images.values()])
    records = zip(*read_records(run), strict=True)
    found["robustness.csv"] = Measured([[x for x in c if x is not None] for c in records])
    facts = json.loads((run / "provenance.json").read_text())
    del facts["created"], facts["config"]
    found["provenance.json"] = facts
    last = run / "checkpoints/last.ckpt"
    if last.exists():
        state = torch.load(last, weights_only=True)
        for name in ("state_dict", "optimizer_states", "lr_schedulers", "current_model_state"):
            found[name] = _plain(state.get(name))
        found["global_step"] = state["global_step"]
        found["logged"] = logged(run)
    found["parts"] = sorted(str(path) for path in run.rglob("*.tmp"))
    return found


def logged(run: Path) -> list[tuple[str, str]]:
    """Step and loss of each line that a fit has logged, in the order of its files."""
    lines = []
    for number in range(len([*(run / "logs").glob("version_*")])):
        file = run / f"logs/version_{number}/metrics.csv"
        rows = list(csv.DictReader(file.read_text().splitlines())) if file.exists() else []
        lines += [(row["step"], row["train/loss"]) for row in rows if row.get("train/loss")]
    return lines


def _plain(value: Any) -> Any:
    """Tensors as bytes, so that == compares their bits."""
    if hasattr(value, "numpy"):
        return value.cpu().numpy().tobytes()
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    return [_plain(item) for item in value] if isinstance(value, list | tuple) else value


def _sweep_left(out: Path) -> dict[str, Any]:
    trials = sorted((out / "runs").glob("*/*"))
    return {
        trial.name: (
            json.loads((trial / "trial.json").read_text())["status"],
            (trial / "count.txt").read_text(),
        )
        for trial in trials
    }


# What is killed


def _fit(task: str, inputs: Path, processes: int = 1) -> Callable[[Path], list[object]]:
    words = small_run(task, inputs, normalised=True, drop_rate=0.3, batch=6 // processes)
    more: list[object] = [
        *("--trainer.ema", 0.9, "--trainer.accumulate_grad_batches", 2),
        *("--trainer.checkpoint_minutes", 1e-6, "--trainer.max_epochs", 3),
        *("--trainer.devices", processes, "--data.num_workers", 2 - processes),
        *(("--trainer.strategy", "ddp") if processes > 1 else ()),
    ]
    return lambda out: ["fit", *words, *more, "--trainer.default_root_dir", out / "run"]


def _photo_test(photos: Path) -> list[object]:
    return [
        *("test", "--config", ROOT / "experiments/base.yaml", "--trainer.accelerator", "cpu"),
        *("--trainer.enable_progress_bar", "false", "--trainer.logger", "false"),
        *(
            "--model",
            "blur_lightning.tasks.ClassificationTask",
            "--model.conditions",
            "[sharp, D2]",
        ),
        *("--model.net", "nets.Blocks", "--model.net.outputs", 10, "--model.net.pooled", "true"),
        *("--data", "blur_lightning.data.PhotosDataModule", "--data.root", photos),
        *("--data.num_classes", 10, "--data.batch_size", 1, "--data.num_workers", 0),
        *("--data.capture.canonical", 64, "--data.capture.scale", 64, "--data.capture.crop", 64),
    ]


def _sweep_file(out: Path) -> Path:
    file, program = out / "sweep.yaml", out / "trial.py"
    if not file.exists():
        program.write_text(_TRIAL)
        values = ", ".join(map(str, range(6)))
        file.write_text(
            "method: grid\ncommand: ['${interpreter}', " + f"{program}, '${{args}}']\n"
            f"parameters: {{x: {{values: [{values}]}}}}\n"
        )
    return file


def _write_inputs(photos: Path, videos: Path) -> None:
    from small_pairs import write
    from small_videos import moving, write_video

    for number in range(60):
        write(photos / f"{number:02}_{number % 10}.png", number, shape=(120, 160))
    for number in range(3):
        write_video(videos / f"{number}.avi", moving(100, (0.3 + 0.1 * number, 0.2)))


def main(arguments: Sequence[str] | None = None) -> int:
    """Kill each command, let each mishap happen, print what survived, and write it if asked."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])  # type: ignore[union-attr]
    parser.add_argument("--kills", type=int, default=64, help="of all commands together")
    parser.add_argument("--seed", type=int, default=0, help="of the moments")
    parser.add_argument("--only", default="", help="commands and mishaps whose names begin so")
    parser.add_argument("--out", type=Path, help="JSON file")
    given = parser.parse_args(arguments)
    results: dict[str, Result] = {}
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder)
        chosen = {n: case for n, case in cases(work / "in").items() if n.startswith(given.only)}
        print(f"{'command':24} {'kills':>6} {'survived':>9} {'lost':>5}")
        for place, (name, case) in enumerate(chosen.items()):
            kills = given.kills // len(chosen) + (place < given.kills % len(chosen))
            random = np.random.default_rng([given.seed, place])
            results[name] = found = measure(case, work / "runs", kills=kills, random=random)
            missing = found.kills - found.survived
            note = f"  ({found.rounded} but for rounding)" if found.rounded else ""
            print(f"{name:24} {found.kills:6} {found.survived:9} {missing:5}{note}", flush=True)
            for line in found.lost:
                print(f"    {line}", flush=True)
        happened = meet(work / "in", work / "mishaps", given.only)
    total = [sum(r.kills for r in results.values()), sum(r.survived for r in results.values())]
    print(f"{'all':24} {total[0]:6} {total[1]:9} {total[0] - total[1]:5}")
    if given.out:
        kills = {name: found._asdict() for name, found in results.items()}
        given.out.write_text(json.dumps({"kills": kills, "mishaps": happened}, indent=2) + "\n")
    return int(any(found.lost for found in results.values()) or any(happened.values()))


if __name__ == "__main__":
    sys.exit(main())
