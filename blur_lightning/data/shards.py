"""Images in shards: few large files in place of many small ones, on disk or behind a URL.

    ROOT/shards.json                 what was written, and from which settings; written last
    ROOT/train/chunk-0-0.bin ...     the files' own bytes, many to a shard, in LitData's format
    ROOT/train/index.json            by which LitData itself reads them
    ROOT/train/images.parquet        where in the shards each file lies, its CRC-32 and its label
    ROOT/train/SHA256SUMS            of the shards, for `sha256sum --check`

An image is read by its place, as from a folder, and not in the order of the shards: so the order of
an epoch, the draws and all results are those of the folder, and an epoch that was begun goes on
with any number of processes. What streams shard by shard instead (LitData, WebDataset) shuffles
within a window of some shards, and gives each process shards of its own, which ties the order to
their number. The price are small reads. On a local disk they cost no more than whole shards; behind
a URL a worker asks for all files of a batch at once, so that it waits once. Where a store allows
fewer requests than a cluster has images to read, copy the shards to a disk of each machine first.
"""

import json
import os
import re
import zlib
from collections.abc import Iterable, Mapping, Sequence
from functools import lru_cache
from io import BytesIO
from pathlib import Path, PurePosixPath
from typing import Any, Literal, NamedTuple, overload

import numpy as np

from blur_lightning.errors import InputError

MANIFEST, IMAGES, VERSION = "shards.json", "images.parquet", 1
ABSENT = -1  # bytes of a file that was not there
UNKNOWN = -1  # CRC-32, rows and columns of a file that nobody has read yet
_OPEN = 256  # shards that a process keeps open: fewer than the 1024 files that systems allow


class StoredFile(NamedTuple):
    """A file within a shard; it is read as a `Path` is."""

    store: "Store"
    path: str
    shard: str
    offset: int
    length: int
    crc: int
    shape: tuple[int, int]

    def __str__(self) -> str:
        return f"{self.path} in {self.store.root}/{self.shard}"

    @property
    def suffix(self) -> str:
        """Ending of its name."""
        return PurePosixPath(self.path).suffix

    def relative_to(self, root: object) -> str:
        """Its path below the folder that it was in."""
        return self.path

    def is_file(self) -> bool:
        """Whether it was there."""
        return self.length != ABSENT

    def stat(self) -> os.stat_result:
        """Its size, of which alone is known; OSError where it was missing."""
        if not self.is_file():
            raise FileNotFoundError(f"{self}: missing")
        return os.stat_result((0, 0, 0, 1, 0, 0, self.length, 0, 0, 0))

    def read_bytes(self) -> bytes:
        """Read it; OSError where it was missing, or where the shard has changed since."""
        if not self.is_file():
            raise FileNotFoundError(f"{self}: missing")
        content = self.store.read(self)
        if len(content) != self.length or self.crc not in (UNKNOWN, zlib.crc32(content)):
            raise OSError("the shard is damaged: copy or write it again")
        return content


class Store:
    """The shards of one part of a data set.

    Args:
        root: Folder or URL.
    """

    def __init__(self, root: str) -> None:
        self.root, self.remote = root, "://" in root
        self._open = lru_cache(_OPEN)(_Descriptor)
        self._fetched: dict[tuple[str, int], bytes] = {}

    def __getstate__(self) -> str:
        return self.root

    def __setstate__(self, root: str) -> None:
        self.__init__(root)  # type: ignore[misc]

    def read(self, file: StoredFile) -> bytes:
        """Read a file's bytes."""
        if not self.remote:
            # Reading at a place moves none, so that processes may share what is open.
            descriptor = self._open(f"{self.root}/{file.shard}")
            return os.pread(descriptor.number, file.length, file.offset)
        if (file.shard, file.offset) not in self._fetched:
            self.fetch([file])
        return self._fetched.pop((file.shard, file.offset))

    def fetch(self, files: Iterable[StoredFile]) -> None:
        """Ask for files behind a URL all at once, to be read soon; on disk there is no need."""
        wanted = [file for file in files if file.is_file()] if self.remote else []
        if wanted:
            contents = _remote(self.root).cat_ranges(
                [f"{self.root}/{file.shard}" for file in wanted],
                [file.offset for file in wanted],
                [file.offset + file.length for file in wanted],
                on_error="return",
            )
            for file, content in zip(wanted, contents, strict=True):
                found = content if isinstance(content, bytes) else b""
                self._fetched[file.shard, file.offset] = found


class _Descriptor:
    """An open file, closed when it is forgotten."""

    def __init__(self, path: str) -> None:
        self.number = os.open(path, os.O_RDONLY)

    def __del__(self) -> None:
        if hasattr(self, "number"):
            os.close(self.number)


class StoredFiles(Sequence[StoredFile]):
    """One kind of files of a data set's part: its images, their masks or their sharp partners.

    Args:
        store: Where the shards are.
        shards: Their names.
        table: Columns of `images.parquet`.
        kind: image, mask or sharp.
    """

    def __init__(self, store: Store, shards: Sequence[str], table: Any, kind: str) -> None:
        self.store, self._shards = store, shards
        # Arrays, not objects: a million images take megabytes, which processes go on to share.
        self._paths = table[f"{kind}_path"].combine_chunks()
        names = ("shard", f"{kind}_offset", f"{kind}_length", f"{kind}_crc", "rows", "columns")
        self._numbers = np.stack([table[name].to_numpy() for name in names], axis=1)

    def __len__(self) -> int:
        return len(self._numbers)

    @overload
    def __getitem__(self, index: int) -> StoredFile: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[StoredFile]: ...
    def __getitem__(self, index: Any) -> Any:
        """Say where a file lies."""
        if isinstance(index, slice):
            return [self[place] for place in range(*index.indices(len(self)))]
        shard, offset, length, crc, rows, columns = self._numbers[index].tolist()
        path, name = self._paths[index].as_py(), self._shards[shard]
        return StoredFile(self.store, path, name, offset, length, crc, (rows, columns))


class Shards:
    """One part of a data set, in shards.

    Args:
        root: Folder or URL that holds `shards.json`.
        part: train, val or test.
        facts: What else is known of the data set.
    """

    def __init__(self, root: str, part: str, facts: Mapping[str, Any]) -> None:
        from pyarrow import parquet

        store = Store(f"{root}/{part}")
        self.facts, table = facts, parquet.read_table(BytesIO(_read(root, f"{part}/{IMAGES}")))
        index = json.loads(_read(root, f"{part}/index.json"))["chunks"]
        names = [chunk["filename"] for chunk in index]
        for chunk in [] if store.remote else index:
            _check(Path(store.root, chunk["filename"]), chunk["chunk_bytes"])
        kinds = ("image", "mask", "sharp")
        self.files = {
            kind: StoredFiles(store, names, table, kind)
            for kind in kinds
            if f"{kind}_path" in table.column_names
        }
        self.labels = table["label"].to_pylist() if "label" in table.column_names else None


def open_shards(root: Path, part: str, choices: Mapping[str, Any]) -> Shards | None:
    """Open one part of a data set, or find that there are files in place of shards.

    Args:
        root: Folder, or a URL that has become a path.
        part: train, val or test.
        choices: What chooses the images of this run: names and values, as they were written.

    Raises:
        InputError: Shards of other images, in part, or a URL without any.
    """
    # A path has one slash of a URL less.
    address = re.sub(r"^(\w{2,}):/+", r"\1://", str(root))
    if "://" not in address and not (root / MANIFEST).exists():
        return None
    text = _read(address, MANIFEST)
    try:
        manifest = json.loads(text)
        written, facts, parts = (manifest[name] for name in ("choices", "facts", "parts"))
        version = manifest["version"]
    except (ValueError, TypeError, KeyError) as error:
        raise InputError(f"{address}/{MANIFEST}: tells of no shards; write them again") from error
    if version != VERSION:
        raise InputError(f"{address}: shards of version {version}, but only {VERSION} is read here")
    for name, value in choices.items():
        if written.get(name) != value:
            raise InputError(
                f"{name}: {value}, but the shards of {address} are of {written.get(name)}; "
                "set that, or write others"
            )
    if part not in parts:
        raise InputError(f"{address}: no shards of {part}, only of {', '.join(parts)}; write them")
    return Shards(address, part, facts)


Part = Literal["train", "val", "test"]


class Sharded:
    """A data module of files on disk that takes shards of them as well."""

    # What chooses its images, and what becomes known of them: shards hold both.
    choices: tuple[str, ...]
    facts: tuple[str, ...] = ("name", "num_classes")
    parts: tuple[Part, ...] = ("train", "val")
    root: Path

    def stored(self, part: str) -> Shards | None:
        """Open a part of the data set, train, val or test, if `root` holds shards.

        Raises:
            InputError: They are of other images.
        """
        shards = open_shards(self.root, part, self.chosen())
        for name, value in shards.facts.items() if shards else ():
            setattr(self, name, tuple(value) if isinstance(value, list) else value)
        return shards

    def chosen(self) -> dict[str, Any]:
        """What chooses the images, with the kind of data."""
        own = {f"data.{name}": getattr(self, name) for name in self.choices}
        return {"data": type(self).__name__} | own


def _check(shard: Path, length: int) -> None:
    if not shard.is_file():
        raise InputError(f"{shard}: missing; copy it again, or write it with the command shard")
    if shard.stat().st_size != length:
        raise InputError(
            f"{shard}: {shard.stat().st_size:,} bytes, but {length:,} were written; copy it again"
        )


def _remote(root: str) -> Any:
    """A store behind a URL, made anew in each process: connections do not outlive a fork."""
    from fsspec.core import url_to_fs  # type: ignore[import-untyped]

    try:
        return url_to_fs(root)[0]
    except (ImportError, ValueError) as error:  # of a package for this kind of store
        raise InputError(f"{root}: {error}") from error


def _read(root: str, name: str) -> bytes:
    try:
        if "://" in root:
            return bytes(_remote(root).cat_file(f"{root}/{name}"))
        return Path(root, name).read_bytes()
    except OSError as error:
        raise InputError(
            f"{root}/{name}: cannot be read ({error}); point --data.root at files or shards"
        ) from error
