"""The blur diary: which blur each training image got, and how well the network did on it.

A log of how each image was varied shows which level of blur is most problematic. The run's folder
gets `diary.parquet`, one row an image and epoch, and `diary.csv`, one row an epoch and level of
blur. A training that goes on adds to both, and replaces what they hold of epochs that it repeats.
"""

import csv
import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from statistics import NormalDist
from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from blur_lightning.blur import Blur, BlurDistribution
from blur_lightning.blur.families import family_of
from blur_lightning.errors import InputError
from blur_lightning.records.robustness import replacing, wilson_interval
from blur_lightning.records.rounding import rounded

TABLE, SUMMARY = "diary.parquet", "diary.csv"
# Chosen here: so many parameters are told apart, more fall into so many bins.
_DISTINCT, _BINS = 12, 8
_BATCHES = 64  # kept on the device before they move
_COLUMNS = {
    "epoch": "int32",
    "index": "int32",
    "family": "string",
    "parameter": "float32",
    "angle": "float32",
    "share": "float32",
    "loss": "float32",
    "top1": "bool",
}

Table = dict[str, np.ndarray]
Gather = Callable[[Table], Sequence[Table] | None]


class Level(NamedTuple):
    """Accuracy and loss on the images of one level of blur; the fields are the columns of the CSV.

    A level is one parameter, then both ends are the same, or the range from the one up to the
    other. Families without a number have one level without ends. Accuracy has Wilson's interval,
    the mean loss (nats) the normal one, which few images make too narrow and one leaves out.
    """

    epoch: int
    family: str
    level_low: float | None
    level_high: float | None
    n: int
    top1: float
    low: float
    high: float
    loss: float
    loss_low: float | None
    loss_high: float | None

    def __str__(self) -> str:
        """In words, for the terminal."""
        ends = [f" {end:g}" for end in (self.level_low, self.level_high) if end is not None]
        level = self.family + " to".join(dict.fromkeys(ends))
        loss, top1 = rounded(self.loss, 3), rounded(100 * self.top1, 1)
        return f"{level} (loss {loss}, top-1 {top1} %, n = {self.n:,})"


class BlurDiary:
    """Collects what every training image got and how it fared, and writes it after each epoch.

    It holds 41 bytes for each image of an epoch, and up to 64 batches on the device.

    Args:
        blur: The mix that is trained on; bins divide its range, so they stay from epoch to epoch.
    """

    def __init__(self, blur: BlurDistribution) -> None:
        self.blur = blur
        self._on_device: list[tuple[Tensor, Tensor, Tensor]] = []
        self._drawn: list[Table] = []
        self._measured: list[Table] = []

    def add(
        self,
        epoch: int,
        index: Int[Tensor, " b"],
        blurs: Sequence[Blur],
        loss: Float[Tensor, " b"],
        hit: Bool[Tensor, " b"],
    ) -> None:
        """Note a training batch; the tensors stay on their device for now.

        Args:
            epoch: The epoch, from 0.
            index: Place of each image in its data set.
            blurs: What each image got.
            loss: Of each image.
            hit: Whether the network's first choice was right.
        """
        self._on_device.append((index, loss.detach().float(), hit))
        self._drawn.append(
            {
                "epoch": np.full(len(blurs), epoch, dtype=np.int32),
                "family": np.array([blur.family for blur in blurs], dtype=object),
                "parameter": np.array([blur.parameter for blur in blurs], dtype=np.float64),
                "angle": np.array([blur.angle for blur in blurs], dtype=np.float32),
                "share": np.array([blur.share for blur in blurs], dtype=np.float32),
            }
        )
        if len(self._on_device) >= _BATCHES:
            self._move()

    def noted(self, *, gather: Gather) -> tuple[Tensor, Tensor, Tensor] | None:
        """What all processes have noted in this epoch: index, loss and hit; None: nothing.

        The blurs are not there: they are functions of seed, epoch and index.

        Args:
            gather: As in `end_epoch`.
        """
        self._move()
        table = _merged([part for part in gather(_merged(self._measured)) or () if part])
        if not table:
            return None
        index, loss, top1 = (torch.from_numpy(table[name]) for name in ("index", "loss", "top1"))
        return index, loss, top1

    def end_epoch(self, folder: Path, *, gather: Gather) -> list[Level]:
        """Write the epoch into both files, and return its levels.

        Args:
            folder: Folder of the run; earlier epochs in its diary are kept.
            gather: Table of this process -> tables of all processes on the one that writes, None
                on the others, which get no levels.

        Raises:
            InputError: A diary is there already that is damaged or another program's.
        """
        self._move()
        own = _merged(self._drawn) | _merged(self._measured)
        self._drawn.clear()
        self._measured.clear()
        gathered = gather(own)
        table = _merged([part for part in gathered or () if part])
        if not table:
            return []
        # By index: neither batch size nor the number of processes shows in the files.
        order = np.argsort(table["index"], kind="stable")
        table = {name: table[name][order] for name in _COLUMNS}
        epoch, levels = int(table["epoch"][0]), levels_of(table, self.blur)
        with replacing(folder / SUMMARY) as summary, replacing(folder / TABLE) as rows:
            _write_summary(summary, folder / SUMMARY, levels, epoch)
            _write_table(rows, folder / TABLE, table, epoch)
        return levels

    def _move(self) -> None:
        if not self._on_device:
            return
        columns = [torch.cat(parts).cpu().numpy() for parts in zip(*self._on_device, strict=True)]
        self._measured.append(dict(zip(("index", "loss", "top1"), columns, strict=True)))
        self._on_device.clear()


def levels_of(table: Table, blur: BlurDistribution) -> list[Level]:
    """Summarise one epoch: sharp and shake first, then by name and level.

    A family of at most 12 parameters has each of them as a level, others 8 equal bins of the range
    that is drawn from; bins in which there is no image are left out.
    """
    levels = []
    for family in sorted(
        set(table["family"]), key=lambda name: (name != "sharp", family_of(name) is not None, name)
    ):
        rows = np.flatnonzero(table["family"] == family)
        for low, high, chosen in _split(family, table["parameter"][rows], blur):
            levels.append(_level(table, rows[chosen], family, low, high))
    return levels


def most_problematic(levels: Sequence[Level], *, least: int = 20) -> Level | None:
    """The level with the largest mean loss in the last epoch; a loss that is no number is largest.

    Args:
        levels: As `levels_of` gives them, of any number of epochs.
        least: Images that a level must have had; None is returned where none has.
    """
    last = max((level.epoch for level in levels), default=0)
    known = [level for level in levels if level.epoch == last and level.n >= least]
    return max(known, key=lambda x: math.inf if math.isnan(x.loss) else x.loss, default=None)


def _split(
    family: str, values: np.ndarray, blur: BlurDistribution
) -> Iterator[tuple[float | None, float | None, np.ndarray]]:
    """Levels of one family: both ends and which of the values belong there."""
    if family_of(family) is None:
        yield None, None, np.ones(len(values), dtype=bool)
        return
    distinct, place = np.unique(values, return_inverse=True)
    lows = highs = distinct
    if len(distinct) > _DISTINCT:
        parts = [part for part in blur.components if part.family == family]
        edges = np.linspace(min(p.low for p in parts), max(p.high for p in parts), _BINS + 1)
        lows, highs = edges[:-1], edges[1:]
        place = np.searchsorted(edges[1:-1], values, side="right")
    for k in np.unique(place):
        yield float(lows[k]), float(highs[k]), place == k


def _level(
    table: Table, rows: np.ndarray, family: str, low: float | None, high: float | None
) -> Level:
    n, hits = len(rows), int(table["top1"][rows].sum())
    losses = table["loss"][rows].astype(np.float64)
    mean, ends = float(losses.mean()), (None, None)
    if n > 1:
        with np.errstate(invalid="ignore"):  # a training may diverge
            error = float(losses.std(ddof=1)) / n**0.5
        half = NormalDist().inv_cdf(0.975) * error
        ends = (mean - half, mean + half)
    epoch = int(table["epoch"][rows[0]])
    accuracy = (n, hits / n, *wilson_interval(hits, n))
    return Level(epoch, family, low, high, *accuracy, mean, *ends)


def _merged(tables: Sequence[Table]) -> Table:
    if not tables:
        return {}
    return {name: np.concatenate([table[name] for table in tables]) for name in tables[0]}


def _write_summary(path: Path, old: Path, levels: Sequence[Level], epoch: int) -> None:
    kept: list[list[str]] = []
    if old.exists():
        with _reading(old), old.open(encoding="utf-8", newline="") as stream:
            reader = csv.reader(stream, strict=True)
            if next(reader, None) != list(Level._fields):
                raise ValueError("other columns")
            kept = [row for row in reader if int(row[0]) < epoch]
    with path.open("w", encoding="utf-8", newline="") as stream:
        writer = csv.writer(stream, lineterminator="\n")
        writer.writerows([Level._fields, *kept, *levels])


def _write_table(path: Path, old: Path, table: Table, epoch: int) -> None:
    """Write the row groups of earlier epochs, one after the other, and then a new one."""
    import pyarrow
    from pyarrow import parquet

    schema = pyarrow.schema([(name, kind) for name, kind in _COLUMNS.items()])
    columns = {name: pyarrow.array(table[name], schema.field(name).type) for name in _COLUMNS}
    with parquet.ParquetWriter(path, schema) as writer:
        for group in _earlier(old, schema, epoch) if old.exists() else ():
            writer.write_table(group, row_group_size=len(group))
        writer.write_table(pyarrow.table(columns), row_group_size=len(table["epoch"]))


def _earlier(path: Path, schema: Any, epoch: int) -> Iterator[Any]:
    from pyarrow import parquet

    with _reading(path), parquet.ParquetFile(path) as file:
        if not file.schema_arrow.equals(schema):
            raise ValueError("other columns")
        for number in range(file.num_row_groups):
            group = file.read_row_group(number)
            if group["epoch"][0].as_py() < epoch:
                yield group


@contextmanager
def _reading(path: Path) -> Iterator[None]:
    try:
        yield
    except (OSError, ValueError, LookupError, csv.Error) as error:
        raise InputError(f"{path}: no diary that can be continued; move it away") from error
