"""What a test run leaves behind, and its statistics.

A run's folder holds `robustness.csv` (one `Record` a line), `images.parquet` (one row an image and
condition) and `provenance.json` (what produced them). Accuracies and intervals are fractions.
"""

import csv
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from statistics import NormalDist
from typing import Any, NamedTuple

import numpy as np

from blur_lightning.errors import InputError
from blur_lightning.records.measurements import Columns, write_parquet
from blur_lightning.records.rounding import rounded
from blur_lightning.records.writing import replacing

SCHEMA = 1
RECORDS, IMAGES, PROVENANCE = "robustness.csv", "images.parquet", "provenance.json"
# What commands other than test leave in a run's folder, best to look at first.
_OTHER_RESULTS = {
    "before_after.html": "predict",
    "predictions.csv": "predict",
    "invariance.html": "analyze invariance",
    "residuals.csv": "analyze residuals",
}
# A value and the ends of its interval.
Interval = tuple[float, float | None, float | None]
_CHUNK = 2**20  # resampled values held at once: 8 MiB of indices


class Record(NamedTuple):
    """One measurement of a network under one blur; the fields are the columns of the CSV."""

    run: str
    model: str
    trained_on: str
    dataset: str
    n: int
    condition: str
    family: str
    parameter: float | None  # px at the canonical scale; None: the family has no such number
    scale: str  # px of the network's input; 256+512: both, averaged
    metric: str
    value: float
    low: float | None
    high: float | None
    schema: int = SCHEMA


def wilson_interval(successes: int, n: int, *, level: float = 0.95) -> tuple[float, float]:
    """Score interval of a proportion (Wilson 1927, J. Am. Stat. Assoc. 22, 209-212).

    Unlike the normal approximation it stays in [0, 1] and keeps its width at 0 and at n successes.
    """
    if not 0 <= successes <= n or n == 0:
        raise ValueError(f"{successes} successes in {n} trials have no proportion")
    z = NormalDist().inv_cdf(0.5 + level / 2)
    centre = (successes + z * z / 2) / (n + z * z)
    half = z / (n + z * z) * (successes * (n - successes) / n + z * z / 4) ** 0.5
    # Exactly, the proportion lies inside; rounding may put it an ulp outside at 0 and at n.
    proportion = successes / n
    return max(0.0, min(centre - half, proportion)), min(1.0, max(centre + half, proportion))


def bootstrap_interval(
    values: np.ndarray, *, level: float = 0.95, resamples: int = 1000, seed: int = 0
) -> tuple[float, float]:
    """Percentile bootstrap of the mean (Efron 1979, Ann. Stat. 7, 1-26).

    One seed resamples two conditions of the same images alike, so that their intervals move
    together.
    """
    values = np.asarray(values, dtype=np.float64)
    if values.size == 0:
        raise ValueError("no values have no mean")
    generator = np.random.default_rng(seed)
    means = np.empty(resamples)
    rows = max(1, _CHUNK // values.size)
    for start in range(0, resamples, rows):
        shape = (min(rows, resamples - start), values.size)
        means[start : start + rows] = values[generator.integers(values.size, size=shape)].mean(1)
    low, high = np.quantile(means, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)


def summarize(
    images: Mapping[str, Any],
    *,
    conditions: Sequence[tuple[str, str, float | None]],
    metrics: Sequence[str],
    whole: Callable[[dict[str, Any]], Mapping[str, Interval]] = lambda rows: {},
    run: str,
    model: str,
    trained_on: str,
    dataset: str,
    scale: str,
) -> list[Record]:
    """Records of one run, ordered by condition and then by metric.

    Args:
        images: One array a column, one row an image and condition; `condition` holds the names.
        conditions: Name, family and parameter of each blur, in the order of the records.
        metrics: Columns to summarise: bool ones as a share with Wilson's interval, floating ones
            as a mean with a bootstrap interval.
        whole: More metrics from all rows of a condition at once, with their intervals.
        run: Name of the run.
        model: Name of the network.
        trained_on: Blur mix that the network was trained on, with `, freeze 2` if two blocks were
            frozen; `original` if it is as published.
        dataset: Name of the data.
        scale: Network scale in px.
    """
    names = np.asarray(images["condition"])
    records = []
    for condition, family, parameter in conditions:
        rows = {name: np.asarray(column)[names == condition] for name, column in images.items()}
        statistics = {m: _statistic(rows[m], f"{m} under {condition}") for m in metrics}
        blur = (len(rows["condition"]), condition, family, parameter, scale)
        for metric, statistic in {**statistics, **whole(rows)}.items():
            records.append(Record(run, model, trained_on, dataset, *blur, metric, *statistic))
    return records


def _statistic(values: np.ndarray, what: str) -> Interval:
    if len(values) == 0:
        raise ValueError(f"{what}: no image was measured")
    if values.dtype == np.bool_:
        successes = int(values.sum())
        return successes / len(values), *wilson_interval(successes, len(values))
    if np.issubdtype(values.dtype, np.floating):
        return float(values.mean(dtype=np.float64)), *bootstrap_interval(values)
    raise TypeError(f"{what}: {values.dtype} is neither bool nor floating")


def write_run(
    folder: Path,
    *,
    records: Sequence[Record],
    images: Columns | Iterable[Columns],
    provenance: Mapping[str, Any],
) -> None:
    """Write the three files of a run, all or none.

    Args:
        folder: Where to; made if missing. Files of an earlier run in it are replaced.
        records: Lines of `robustness.csv`.
        images: Columns of `images.parquet`, all of one length, or several tables of the same
            columns; an array of two dimensions becomes a column of lists. The types are kept.
        provenance: Content of `provenance.json`; what JSON has no type for is written as text.
    """
    # Left in reverse order: the CSV is renamed last, so that where it is, the others are too.
    with (
        replacing(folder / RECORDS) as csv_path,
        replacing(folder / IMAGES) as parquet_path,
        replacing(folder / PROVENANCE) as json_path,
    ):
        _write_records(csv_path, records)
        tables = [images] if isinstance(images, Mapping) else images
        write_parquet(parquet_path, tables, schema=SCHEMA)
        text = json.dumps(provenance, indent=2, ensure_ascii=False, default=str)
        json_path.write_text(text + "\n", encoding="utf-8")


def write_records(path: Path, records: Sequence[Record]) -> None:
    """Write records of any runs as one file, which reports read like those of a test."""
    with replacing(path) as temporary:
        _write_records(temporary, records)


def _write_records(path: Path, records: Sequence[Record]) -> None:
    with path.open("w", encoding="utf-8", newline="") as stream:
        writer = csv.writer(stream, lineterminator="\n")
        writer.writerow(Record._fields)
        for record in records:
            # float: csv writes Python's by repr, which reads back exactly; numpy's float32 not.
            writer.writerow(float(x) if isinstance(x, np.floating) else x for x in record)


def write_table(path: Path, tables: Iterable[Columns]) -> None:
    """Write tables of the same columns, one below another, as CSV.

    Of an array of two dimensions a row becomes numbers and spaces.
    """
    with replacing(path) as temporary, temporary.open("w", encoding="utf-8", newline="") as stream:
        writer = csv.writer(stream, lineterminator="\n")
        for number, columns in enumerate(tables):
            if number == 0:
                writer.writerow(columns)
            for row in zip(*columns.values(), strict=True):
                writer.writerow(" ".join(map(str, x)) if np.ndim(x) else x for x in row)


def table(records: Sequence[Record]) -> str:
    """Lay records out for a terminal: a line for each condition, a column for each metric."""
    metrics = list(dict.fromkeys(record.metric for record in records))
    cells = {(record.condition, record.metric): rounded(record.value, 4) for record in records}
    conditions = list(dict.fromkeys(record.condition for record in records))
    rows = [["condition", *metrics]]
    rows += [[name, *(cells.get((name, metric), "") for metric in metrics)] for name in conditions]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return "\n".join(
        "  ".join([row[0].ljust(widths[0]), *map(str.rjust, row[1:], widths[1:])]) for row in rows
    )


def record_files(path: Path) -> list[Path]:
    """The `robustness.csv` files that `path` stands for: itself, or all below a folder, sorted."""
    if path.is_file():
        return [path]
    if not path.exists():
        raise InputError(f"{path}: not found; name the folder of a test run or its {RECORDS}")
    files = sorted(file for file in path.rglob(RECORDS) if file.is_file())
    if not files:
        problem = f"{path}: no {RECORDS} in this folder or below; "
        for name, command in _OTHER_RESULTS.items():
            if found := next(iter(sorted(path.rglob(name))), None):
                problem += f"{found} is there, which {command} wrote: open it, or "
                break
        raise InputError(f"{problem}name the folder of a test run")
    return files


def read_records(path: Path) -> list[Record]:
    """Records of a `robustness.csv`, or of all below a folder, in the order of the sorted files."""
    return [record for file in record_files(path) for record in _read_file(file)]


def _read_file(file: Path) -> list[Record]:
    try:
        with file.open(encoding="utf-8-sig", newline="") as stream:  # -sig: spreadsheets add a mark
            reader = csv.DictReader(stream, strict=True)
            columns = reader.fieldnames
            rows = [(f"{file}, line {reader.line_num}", row) for row in reader]
    except UnicodeDecodeError:
        raise InputError(f"{file}: not UTF-8 text; name a {RECORDS} that a test wrote") from None
    except (csv.Error, OSError) as error:
        raise InputError(f"{file}: cannot be read as CSV ({error})") from error
    if not columns:
        raise InputError(f"{file}: empty; repeat the test that should have written it")
    for where, row in rows:
        if None in row or None in row.values():  # csv's mark of cells too many or too few
            raise InputError(f"{where}: not as many cells as the header has; repeat the test")
        # Before the columns are looked for: another version may have other columns.
        if row.get("schema") not in (None, str(SCHEMA)):
            raise InputError(f"{where}: schema {row['schema']!r}, but only {SCHEMA} is read here")
    missing = [column for column in Record._fields if column not in columns]
    if missing:
        raise InputError(f"{file}: no column {missing[0]!r}; name a {RECORDS} that a test wrote")
    if not rows:
        raise InputError(f"{file}: no record below the header; repeat the test")
    return [_parse(row, where) for where, row in rows]


def _optional(cell: str) -> float | None:
    return float(cell) if cell else None


_PARSERS: dict[str, Callable[[str], Any]] = {
    **dict.fromkeys(("n", "schema"), int),
    **dict.fromkeys(("parameter", "low", "high"), _optional),
    "value": float,
}


def _parse(row: dict[Any, Any], where: str) -> Record:
    cells = []
    for column in Record._fields:
        try:
            cells.append(_PARSERS.get(column, str)(row[column]))
        except ValueError:
            cell = f"{where}, column {column!r}: {row[column]!r}"
            raise InputError(f"{cell} is no number; mend it or repeat the test") from None
    return Record(*cells)
