"""What a test has measured, on disk: it need not fit memory, and an interrupted test goes on.

Below a run's folder, `.measured/` holds a key, which says what was being measured, and an Arrow
file for each batch of images. A file appears when it is whole: of a process that was killed at most
the last batch is lost.
"""

import shutil
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from blur_lightning.records.writing import replacing

FOLDER, _KEY = ".measured", "key"

# Columns of one length by name; an array of two dimensions is a column of lists.
Columns = Mapping[str, Any]


class Measurements:
    """Rows of images under conditions, which all processes of a test write.

    Args:
        folder: The run's folder; all processes must see the same.
        key: Says what is measured, in all detail: rows of another key are not these.
    """

    def __init__(self, folder: Path, key: str) -> None:
        self.folder, self.key = folder / FOLDER, key

    def prepare(self) -> None:
        """Keep what is there if it has the same key; one process does this, before all others."""
        key = self.folder / _KEY
        if not key.is_file() or key.read_text(encoding="utf-8") != self.key:
            self.remove()
            with replacing(key) as temporary:
                temporary.write_text(self.key, encoding="utf-8")

    def append(self, rows: Columns) -> None:
        """Write a batch; of an image that was measured before, one of both counts."""
        import pyarrow

        table = pyarrow.table({name: _array(values) for name, values in rows.items()})
        images = {int(index) for index in rows["index"]}
        path = self.folder / f"{min(images)}-{len(images)}.arrow"
        with (
            replacing(path) as temporary,
            pyarrow.ipc.new_file(str(temporary), table.schema) as writer,
        ):
            writer.write_table(table)

    def indices(self) -> set[int]:
        """Images that have been measured."""
        return {int(index) for rows in self._batches(["index"]) for index in rows["index"]}

    def rows(self, condition: str) -> dict[str, np.ndarray]:
        """All rows of one condition, by image, each once; empty where there is none."""
        parts = []
        for rows in self._batches():
            chosen = rows["condition"] == condition
            if chosen.any():
                parts.append({name: column[chosen] for name, column in rows.items()})
        if not parts:
            return {}
        merged = {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
        _, order = np.unique(merged["index"], return_index=True)
        return {name: column[order] for name, column in merged.items()}

    def remove(self) -> None:
        """Forget everything."""
        shutil.rmtree(self.folder, ignore_errors=True)

    def _batches(self, names: list[str] | None = None) -> Iterator[dict[str, np.ndarray]]:
        import pyarrow

        for file in sorted(self.folder.glob("*.arrow")):
            with pyarrow.memory_map(str(file)) as source:
                table = pyarrow.ipc.open_file(source).read_all()
                yield {name: column_values(table[name]) for name in names or table.column_names}


def write_parquet(path: Path, tables: Iterable[Columns], *, schema: int) -> None:
    """Write tables of the same columns one below another, a row group each; types are kept."""
    import pyarrow
    from pyarrow import parquet

    writer = None
    for columns in tables:
        table = pyarrow.table({name: _array(values) for name, values in columns.items()})
        table = table.replace_schema_metadata({"blur_lightning.schema": str(schema)})
        writer = writer or parquet.ParquetWriter(path, table.schema)
        writer.write_table(table)
    if writer is None:
        raise ValueError("no table, so no columns are known")
    writer.close()


def _array(values: Any) -> Any:
    import pyarrow

    if getattr(values, "ndim", 1) != 2:
        return pyarrow.array(values)
    starts = np.arange(0, values.size + 1, values.shape[1], dtype=np.int32)
    return pyarrow.ListArray.from_arrays(starts, pyarrow.array(values.ravel()))


def column_values(column: Any) -> np.ndarray:
    """A column of a pyarrow table; lists of one length become the rows of an array."""
    import pyarrow

    if pyarrow.types.is_list(column.type):
        return (
            column.combine_chunks()
            .flatten()
            .to_numpy(zero_copy_only=False)
            .reshape(len(column), -1)
        )
    return column.to_numpy()
