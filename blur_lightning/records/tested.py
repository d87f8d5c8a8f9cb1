"""A finished test, image by image: what `images.parquet` and `provenance.json` hold of it."""

import json
from pathlib import Path
from typing import NamedTuple

import numpy as np

from blur_lightning.errors import InputError
from blur_lightning.records.counts import COUNTED
from blur_lightning.records.measurements import column_values
from blur_lightning.records.robustness import IMAGES, PROVENANCE, SCHEMA, read_records

RESTORED = ("psnr", "ssim", "psnr_shift")  # of restored images
METRICS = ("top1", "top5", *COUNTED, "entropy", "cross_entropy", *RESTORED)
_COLUMNS = {"index", "condition", "psnr_input", *METRICS}.union(
    *(names for _, names in COUNTED.values())
)


class Measured(NamedTuple):
    """A run, image by image."""

    folder: Path
    name: str
    fingerprint: str  # of the images
    columns: dict[str, np.ndarray]
    rows: dict[str, np.ndarray]  # where the images of a condition are, by their index


def load_run(file: Path) -> Measured:
    """Read the run that a `robustness.csv` belongs to."""
    name = read_records(file)[0].run
    columns = _read_images(file.parent / IMAGES)
    index, conditions = columns["index"], columns["condition"]
    rows = {}
    for condition in dict.fromkeys(conditions):
        found = np.flatnonzero(conditions == condition)
        rows[condition] = found[np.argsort(index[found], kind="stable")]
    return Measured(file.parent, name, _read_fingerprint(file.parent / PROVENANCE), columns, rows)


def _read_images(file: Path) -> dict[str, np.ndarray]:
    import pyarrow
    from pyarrow import parquet

    if not file.is_file():
        raise InputError(f"{file}: not found; repeat the test, or copy the whole folder of the run")
    try:
        with parquet.ParquetFile(file) as stored:
            schema = stored.schema_arrow
            number = (schema.metadata or {}).get(b"blur_lightning.schema", b"none").decode()
            if number != str(SCHEMA):
                raise InputError(f"{file}: schema {number}, but only {SCHEMA} is read here")
            table = stored.read([name for name in schema.names if name in _COLUMNS])
    except (OSError, pyarrow.ArrowException) as error:
        reason = str(error).partition("\n")[0]
        raise InputError(f"{file}: cannot be read ({reason}); repeat the test") from error
    columns = {column: column_values(table[column]) for column in table.column_names}
    for column in ("index", "condition"):
        if column not in columns:
            raise InputError(f"{file}: no column '{column}'; repeat the test")
    return columns


def _read_fingerprint(file: Path) -> str:
    try:
        return str(json.loads(file.read_text(encoding="utf-8"))["data"]["fingerprint"]["test"])
    except (KeyError, TypeError):
        raise InputError(f"{file}: no data.fingerprint.test in it; repeat the test") from None
    except (ValueError, OSError, RecursionError) as error:
        raise InputError(f"{file}: cannot be read as JSON ({error}); repeat the test") from error


def on_same_images(run: Measured, other: Measured) -> bool:
    """Whether two runs measured the same images under what conditions both have."""
    return run.fingerprint == other.fingerprint and all(
        np.array_equal(run.columns["index"][rows], other.columns["index"][other.rows[condition]])
        for condition, rows in run.rows.items()
        if condition in other.rows
    )
