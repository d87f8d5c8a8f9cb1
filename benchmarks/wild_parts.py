"""Tells apart what deblurring gains on moving scenes and on real clips, by run.

    python benchmarks/wild_parts.py runs/deblur_wild_small --pairs data/wild_small --out FILE.csv

A line for each run and part of the test: how many pairs, and the means over them of the PSNR of
blurry and of restored images in dB.
"""

import argparse
import sys
from pathlib import Path

import numpy as np

from blur_lightning.errors import InputError
from blur_lightning.pair_layouts import find_pairs
from blur_lightning.records.robustness import read_records, record_files, write_table
from blur_lightning.records.tested import load_run

SCENES = "test-"  # what names of videos of benchmarks/moving.py begin with


def parts(folder: Path) -> dict[str, np.ndarray]:
    """Which images of the test are of which part, in the order of their indices."""
    pairs = find_pairs(folder, layout="wild", variant=None, part="test", held_out=0.1)
    drawn = np.array([pair.sequence.startswith(SCENES) for pair in pairs])
    return {"moving scenes": drawn, "real clips": ~drawn}


def main() -> int:
    """Run the program; return 2 if runs and pairs do not fit."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("runs", metavar="RUNS", type=Path, nargs="+", help="folders of test runs")
    parser.add_argument("--pairs", type=Path, required=True, help="what the runs were tested on")
    parser.add_argument("--out", metavar="FILE.csv", type=Path, required=True)
    options = parser.parse_args()
    columns: dict[str, list[object]] = {
        name: [] for name in ("run", "trained_on", "part", "n", "psnr_input", "psnr")
    }
    try:
        masks = parts(options.pairs)
        for file in (file for path in options.runs for file in record_files(path)):
            run, record = load_run(file), read_records(file)[0]
            (rows,) = run.rows.values()
            for part, mask in masks.items():
                if len(mask) != len(rows):
                    raise InputError(f"{file}: {len(rows)} images, but {len(mask)} pairs")
                values = [run.columns[name][rows][mask] for name in ("psnr_input", "psnr")]
                line = (run.name, record.trained_on, part, int(mask.sum()))
                for name, cell in zip(columns, (*line, *(v.mean() for v in values)), strict=True):
                    columns[name].append(cell)
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    write_table(options.out, [{name: np.array(cells) for name, cells in columns.items()}])
    return 0


if __name__ == "__main__":
    sys.exit(main())
