"""Gathers runs of deblur-then-recognise in the form of Table 5 of Vasiljevic et al. 2016.

    python benchmarks/table5.py runs/photos_restored [--out FILE.csv]

RUNS are folders of tests of a `RestoredClassificationTask`, all on the same images. Prints a line
for each network, with and without each restorer, and condition: top-1 and top-5 in % with their
95 % intervals, the p-value of McNemar's test against the first network without a restorer, and the
milliseconds an image of each step. FILE.csv gets the records, FILE.json what produced them.
"""

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from claims import status_of

from blur_lightning.errors import InputError
from blur_lightning.records.comparison import differences_of
from blur_lightning.records.robustness import (
    PROVENANCE,
    Record,
    read_records,
    record_files,
    replacing,
    write_records,
)
from blur_lightning.records.tested import load_run, on_same_images

METRICS = ("top1", "top5")
HEADS = ("network", "trained on", "blur", "n", "top-1", "top-5", "p (top-1)", "p (top-5)", "ms")


def runs_of(paths: Sequence[Path]) -> dict[tuple[str, str], Path]:
    """The `robustness.csv` of each network and mix; of repeats the first, unrestored ones first."""
    files = [file for path in paths for file in record_files(path)]
    found: dict[tuple[str, str], Path] = {}
    for file in sorted(files, key=lambda file: "restored_by" in provenance(file)):
        record = read_records(file)[0]
        found.setdefault((record.model, record.trained_on), file)
    return found


def provenance(file: Path) -> dict[str, Any]:
    """What produced the run of a `robustness.csv`, without its configuration."""
    content = json.loads((file.parent / PROVENANCE).read_text(encoding="utf-8"))
    return {key: value for key, value in content.items() if key != "config"}


def lines(runs: dict[tuple[str, str], Path]) -> list[list[str]]:
    """The table, heads first; InputError if two runs are of different images."""
    table = [[*HEADS]]
    files = list(runs.values())
    first = load_run(files[0])
    for (model, trained_on), file in runs.items():
        other = load_run(file)
        if not on_same_images(first, other):
            raise InputError(f"{file}: its images are not those of {files[0]}")
        p = {(d.metric, d.condition): d.p for d in differences_of(first, other, metrics=METRICS)}
        records = {(r.metric, r.condition): r for r in read_records(file)}
        times = provenance(file).get("milliseconds_an_image", {})
        spent = ", ".join(f"{step} {milliseconds}" for step, milliseconds in times.items())
        for condition in other.rows:
            cells = [_share(records[metric, condition]) for metric in METRICS]
            tests = [p.get((metric, condition)) for metric in METRICS]
            noted = ["" if value is None or file == files[0] else f"{value:.2g}" for value in tests]
            n = str(records[METRICS[0], condition].n)
            table.append([model, trained_on, condition, n, *cells, *noted, spent])
    return table


def _share(record: Record) -> str:
    assert record.low is not None and record.high is not None
    value, low, high = (100 * share for share in (record.value, record.low, record.high))
    return f"{value:.1f} ({low:.1f} to {high:.1f})"


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the program; return 0, or 2 if the runs do not belong together."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("runs", metavar="RUNS", type=Path, nargs="+", help="folders of test runs")
    parser.add_argument("--out", metavar="FILE.csv", type=Path, help="gather the records here")
    options = parser.parse_args(arguments)

    def run() -> None:
        runs = runs_of(options.runs)
        for cells in lines(runs):
            print(f"| {' | '.join(cells)} |")
        if options.out:
            records = [r for file in runs.values() for r in read_records(file)]
            write_records(options.out, [r for r in records if r.metric in METRICS])
            with replacing(options.out.with_suffix(".json")) as temporary:
                facts = {str(file.parent.name): provenance(file) for file in runs.values()}
                temporary.write_text(json.dumps(facts, indent=1) + "\n", encoding="utf-8")

    return status_of(run)


if __name__ == "__main__":
    sys.exit(main())
