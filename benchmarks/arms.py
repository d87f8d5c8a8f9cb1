"""Sets trainings of several kinds, with the same seeds each, beside one of them.

    python benchmarks/arms.py runs/invariance_fashion [--against 'NETWORK, MIX'] [--out FILE.csv]
        [--records FILE.csv]

RUNS are folders of tests on the same images. Runs of one network and one `trained_on` are an arm,
with two or more seeds. Prints a table of top-1 in %, the mean of the seeds: a line for each arm, a
column for each condition. Where an arm differs from the one that it stands against, + or - tells
that the 95 % interval of the difference leaves out 0: paired by seed and image, over both (see
`claims`). FILE.csv gets all differences with their intervals.
"""

import argparse
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from claims import crossed_interval, gather, seed_of

from blur_lightning.errors import InputError
from blur_lightning.records.robustness import PROVENANCE, read_records, record_files, write_table
from blur_lightning.records.rounding import rounded
from blur_lightning.records.tested import load_run, on_same_images

# Arm -> condition -> whether each image was right, in %, (seeds, images).
Arms = Mapping[str, Mapping[str, np.ndarray]]


def read_arms(paths: Sequence[Path]) -> Arms:
    """Read all runs; InputError unless arms have the same images and seeds."""
    found: dict[str, dict[int, Any]] = {}
    first = None
    for file in (file for path in paths for file in record_files(path)):
        record, run = read_records(file)[0], load_run(file)
        first = first or run
        if not on_same_images(first, run) or set(run.rows) != set(first.rows):
            raise InputError(
                f"{run.folder}: other images or conditions than in {first.folder}; repeat the test"
            )
        seeds = found.setdefault(f"{record.model}, {record.trained_on}", {})
        if seeds.setdefault(seed := seed_of(run.folder / PROVENANCE), run) is not run:
            raise InputError(f"{run.folder}: seed {seed} of an arm, as {seeds[seed].folder}")
    if not found:
        raise InputError("RUNS: no test in them; name folders of tests")
    wanted = set.union(*map(set, found.values()))
    for arm, seeds in found.items():
        if len(seeds) < 2 or set(seeds) != wanted:
            raise InputError(
                f"RUNS: '{arm}' has seeds {sorted(seeds)} of {sorted(wanted)}; each arm needs two "
                "or more, the same for all"
            )
    assert first is not None
    return {
        arm: {
            condition: np.stack(
                [100.0 * runs[s].columns["top1"][runs[s].rows[condition]] for s in sorted(runs)]
            )
            for condition in first.rows
        }
        for arm, runs in found.items()
    }


def differences(arms: Arms, against: str) -> list[dict[str, Any]]:
    """A row for each arm and condition: the mean, and its difference from the arm `against`."""
    rows = []
    for arm, measured in arms.items():
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
    try:
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
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
