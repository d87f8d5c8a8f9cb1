"""Sets networks that were trained or are run in several ways beside one of them.

    python benchmarks/arms.py RUNS... [--against 'NETWORK, MIX'] [--out FILE.csv]
        [--records FILE.csv]

RUNS are folders of tests, such as runs/invariance_fashion, those of one seed on the same images.
Runs of one network and one `trained_on` are an arm, with the same seeds for all; several runs of
one seed add their conditions. Prints a table of top-1 in %, the mean of the seeds: a line for each
arm, a column for each condition. Where an arm differs from the one that it stands against, + or -
tells that the 95 % interval of the difference leaves out 0: paired by seed and image, over both
(see `claims`); of one seed, over images alone. FILE.csv gets all differences with their intervals.
"""

import argparse
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from claims import crossed_interval, gather, seed_of, status_of

from blur_lightning.errors import InputError
from blur_lightning.records.robustness import PROVENANCE, read_records, record_files, write_table
from blur_lightning.records.rounding import rounded
from blur_lightning.records.tested import Measured, load_run, on_same_images

# Arm -> condition -> whether each image was right, in %, (seeds, images).
Arms = Mapping[str, Mapping[str, np.ndarray]]


def read_arms(paths: Sequence[Path]) -> Arms:
    """Read all runs; InputError unless arms have the same seeds, images and conditions."""
    # Arm -> seed -> condition -> values of all images.
    found: dict[str, dict[int, dict[str, np.ndarray]]] = {}
    firsts: dict[int, Measured] = {}
    for file in (file for path in paths for file in record_files(path)):
        record, run = read_records(file)[0], load_run(file)
        arm, seed = f"{record.model}, {record.trained_on}", seed_of(run.folder / PROVENANCE)
        if not on_same_images(first := firsts.setdefault(seed, run), run):
            raise InputError(f"{run.folder}: other images than in {first.folder}; repeat the test")
        own = found.setdefault(arm, {}).setdefault(seed, {})
        if run.rows.keys() <= own.keys():
            raise InputError(f"{run.folder}: '{arm}' with seed {seed} is there twice; name one")
        own |= {name: 100.0 * run.columns["top1"][rows] for name, rows in run.rows.items()}
    if not found:
        raise InputError("RUNS: no test in them; name folders of tests")
    wanted = {seed: values.keys() for seed, values in next(iter(found.values())).items()}
    for arm, own in found.items():
        if {seed: values.keys() for seed, values in own.items()} != wanted:
            raise InputError(
                f"RUNS: '{arm}' has other seeds or conditions than '{next(iter(found))}'; name the "
                "same of all"
            )
    conditions = next(iter(wanted.values()))
    return {
        arm: {name: np.stack([own[seed][name] for seed in sorted(own)]) for name in conditions}
        for arm, own in found.items()
    }


def differences(arms: Arms, against: str) -> list[dict[str, Any]]:
    """A row for each arm and condition: the mean, and its difference from the first arm here."""
    rows = []
    for arm, measured in sorted(arms.items(), key=lambda item: item[0] != against):
        for condition, values in measured.items():
            mean, low, high = crossed_interval(values - arms[against][condition])
            facts = {"arm": arm, "condition": condition, "top1": values.mean()}
            facts |= {"seeds": len(values), "n": values.shape[1], "against": against}
            rows.append(facts | {"difference": mean, "low": low, "high": high, "unit": "points"})
    return rows


def table(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """The lines of a Markdown table."""
    conditions = list(dict.fromkeys(row["condition"] for row in rows))
    lines = [["trained on", *conditions], ["---"] * (1 + len(conditions))]
    for arm in dict.fromkeys(row["arm"] for row in rows):
        own = [row for row in rows if row["arm"] == arm]
        cells = []
        for row in own:
            mark = "+" if row["low"] > 0 else "-" if row["high"] < 0 else ""
            cells.append(f"{rounded(row['top1'], 1)}{mark}")
        lines.append([arm, *cells])
    return [f"| {' | '.join(line)} |" for line in lines]


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the program; return 0, or 2 if the runs do not belong together."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("runs", metavar="RUNS", type=Path, nargs="+", help="folders of test runs")
    parser.add_argument("--against", metavar="ARM", help="'network, mix'; else the first one")
    parser.add_argument("--out", metavar="FILE.csv", type=Path, help="write all differences here")
    parser.add_argument(
        "--records",
        metavar="FILE.csv",
        type=Path,
        help="gather top-1 of all runs here, their provenance in FILE.json",
    )
    options = parser.parse_args(arguments)

    def run() -> None:
        arms = read_arms(options.runs)
        against = options.against or next(iter(arms))
        if against not in arms:
            raise InputError(f"--against: no arm '{against}'; there are: {'; '.join(arms)}")
        rows = differences(arms, against)
        print("\n".join(table(rows)))
        if options.out:
            write_table(options.out, [{key: np.array([r[key] for r in rows]) for key in rows[0]}])
        if options.records:
            gather(options.runs, options.records)

    return status_of(run)


if __name__ == "__main__":
    sys.exit(main())
