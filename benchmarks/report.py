"""What a report of 200 runs costs, and how long its page takes to draw: figures as JSON.

Every run has 12 conditions, 5 metrics and 100 images. Each measurement is a process of its own, so
that imports count; the first also makes the plotting library's script, which the others find.
"""

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

from blur_lightning.records.provenance import environment
from blur_lightning.records.robustness import Record, write_run

CONDITIONS = [
    ("sharp", "sharp", 0.0),
    *((f"D{radius}", "disk", float(radius)) for radius in (2, 4, 6, 8)),
    *((f"G{sigma}", "gaussian", float(sigma)) for sigma in (1, 2, 4)),
    ("H4", "horizontal", 4.0),
    ("H8", "horizontal", 8.0),
    ("V4", "vertical", 4.0),
    ("shake", "shake", None),
]
METRICS = ("top1", "top5", "entropy", "cross_entropy", "ece")


def write_runs(folder: Path, *, runs: int, images: int) -> None:
    """Write runs whose values are drawn at random, all on the same images."""
    generator = np.random.default_rng(0)
    for i in range(runs):
        fields = (f"run{i}", "resnet50", f"sharp+D{1 + i / 10:g}", "imagenet", images)
        records = []
        for blur in CONDITIONS:
            for metric in METRICS:
                value = float(generator.uniform(0.2, 0.8))
                interval = (value, value - 0.05, value + 0.05)
                records.append(Record(*fields, *blur, "256", metric, *interval))
        table = {
            "index": np.tile(np.arange(images), len(CONDITIONS)),
            "condition": np.repeat([name for name, _, _ in CONDITIONS], images),
            "top1": generator.random(images * len(CONDITIONS)) < 0.5,
            "top5": generator.random(images * len(CONDITIONS)) < 0.8,
        }
        facts = {"data": {"fingerprint": {"test": "0"}}, "config": {"seed_everything": i}}
        write_run(folder / f"run{i:03}", records=records, images=table, provenance=facts)


def measure(folder: Path, out: Path) -> dict[str, float]:
    """Seconds, those of the processor alone, and the peak memory in MiB of one report."""
    words = [sys.executable, "-m", "blur_lightning", "report", str(folder), "--out", str(out)]
    before, start = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    subprocess.run(words, check=True)
    seconds = time.perf_counter() - start
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    processor = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return {
        "seconds": round(seconds, 2),
        "processor_s": round(processor, 2),
        "peak_mib": round(after.ru_maxrss / 1024),
    }


def drawing(page: Path) -> float:
    """Seconds from asking for a page until its chart is there."""
    sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))
    from chromium import browser

    with (
        tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as profile,
        browser(Path(profile)) as tab,
    ):
        start = time.perf_counter()
        tab.open(page.as_uri())
        return round(time.perf_counter() - start, 2)


def main() -> None:
    """Measure, print, and write benchmarks/results/report.json."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/report.json"))
    parser.add_argument("--runs", type=int, default=200)
    parser.add_argument("--images", type=int, default=100)
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder, page = Path(name) / "runs", Path(name) / "page.html"
        write_runs(folder, runs=options.runs, images=options.images)
        figures = {
            "environment": environment(),
            "runs": options.runs,
            "images": options.images,
            "report": [measure(folder, page) for _ in range(options.rounds)],
            "page_mb": round(page.stat().st_size / 1e6, 2),
            "drawing_s": [drawing(page) for _ in range(options.rounds)],
        }
    text = json.dumps(figures, indent=2)
    options.out.parent.mkdir(parents=True, exist_ok=True)
    options.out.write_text(text + "\n")
    print(text)


if __name__ == "__main__":
    main()
