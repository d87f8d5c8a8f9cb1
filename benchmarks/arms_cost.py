"""What a training batch costs in each arm of sweeps/invariance_fashion.yaml.

    python benchmarks/arms_cost.py [--batches 10] [--out FILE.json]

Processor time of one thread, beside that of the plain mix. Each arm trains twice, for a few batches
and for `--batches` more, and the difference counts, so that starting costs nothing. The network of
experiments/fashion_base.yaml must have been trained.
"""

import argparse
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from interleaved import write_report  # sets the threads' policy

# isort: split
import torch

from blur_lightning.cli import main as blur_lightning

ARMS = sorted(Path("experiments/invariance").glob("*.yaml"))
_BEFORE = 2  # batches that are not counted


def seconds(arm: Path, batches: int) -> float:
    """Processor time of a training of so many batches."""
    with tempfile.TemporaryDirectory() as folder:
        words = ["fit", "--config", "experiments/base.yaml", "--trainer.logger", "false"]
        words += ["--config", "experiments/invariance_fashion.yaml", "--config", str(arm)]
        words += ["--trainer.max_epochs", "1", "--trainer.limit_train_batches", str(batches)]
        words += ["--trainer.limit_val_batches", "0", "--test", "false"]
        words += ["--trainer.enable_progress_bar", "false", "--trainer.default_root_dir", folder]
        start = time.process_time()
        if blur_lightning(words) != 0:
            raise SystemExit(f"{arm}: the training failed")
        return time.process_time() - start


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, print and write the figures as JSON."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--batches", type=int, default=10, help="how many are measured")
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/arms_cost.json"))
    options = parser.parse_args(arguments)
    options.batch, options.rounds = 128, 1
    torch.set_num_threads(1)
    seconds(ARMS[0], _BEFORE)  # imports, which cost only the first one
    figures: dict[str, float] = {}
    for arm in ARMS:
        spent = seconds(arm, _BEFORE + options.batches) - seconds(arm, _BEFORE)
        figures[arm.stem] = spent / options.batches
        print(f"{arm.stem:12} {figures[arm.stem]:.3f} s a batch", flush=True)
    for name, value in figures.items():
        print(f"{name:12} {value / figures['plain']:.1f} times the plain mix")
    write_report(options, seconds_a_batch=figures)
    return 0


if __name__ == "__main__":
    sys.exit(main())
