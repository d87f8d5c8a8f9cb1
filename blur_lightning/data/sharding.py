"""Writes data sets as shards, which `data/shards.py` reads: the files' own bytes, unchanged.

The format of a shard is LitData's: numbers of items, where each begins, and the items, each a tuple
of the label, -1 without one, the name, and the bytes of the image and of its mask or its sharp
partner. Shards are cut where they reach a size, in the order of the data set, so that the same
files make the same shards, whatever the number of workers.
"""

import json
import os
import zlib
from collections.abc import Iterator, Sequence
from contextlib import closing
from hashlib import sha256
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

from tqdm import tqdm  # type: ignore[import-untyped]

from blur_lightning.data.base import BlurDataModule
from blur_lightning.data.imagenet import FileSource
from blur_lightning.data.shards import (
    ABSENT,
    IMAGES,
    MANIFEST,
    VERSION,
    Part,
    Sharded,
    StoredFile,
)
from blur_lightning.data.windows import fingerprint
from blur_lightning.errors import InputError
from blur_lightning.images import image_shape
from blur_lightning.records.robustness import replacing
from blur_lightning.resuming import agree
from blur_lightning.workers import BUSY, outcomes

SUMS = "SHA256SUMS"
MEGABYTE = 10**6


class Item(NamedTuple):
    """One image of a data set."""

    label: int  # -1 without one
    files: Sequence[Path | StoredFile]  # of each kind
    names: Sequence[str]  # of these


class Job(NamedTuple):
    """What becomes one shard."""

    folder: Path
    number: int
    kinds: tuple[str, ...]  # of files: image, and mask or sharp
    items: Sequence[Item]


def write_shards(
    *,
    data: BlurDataModule,
    out: Path,
    megabytes: int = 128,
    parts: list[Part] | None = None,
    workers: int | None = None,
) -> None:
    """Write a data set of many files as shards: few large files, for training at scale.

    Point --data.root at the shards, or at the URL that they were copied to, and every command gives
    what it gives for the files. The same command again goes on where it stopped. Shards hold the
    files' own bytes in LitData's format (pip install 'blur_lightning[shards]').

    Args:
        data: ImageNetDataModule, VOCDataModule or PairsDataModule with its settings, such as
            experiments/data/imagenet.yaml.
        out: Folder of the shards.
        megabytes: A shard ends with the first image that brings it there; 1 to 4000.
        parts: Which parts to write, such as [val], where that is all there is; null is train and
            val, and of pairs test.
        workers: Processes that work at once, 1 or more; null is one a core. Each needs three times
            the size of a shard in memory.
    """
    if not isinstance(data, Sharded):
        raise InputError(f"--data: {type(data).__name__} reads no files that shards could hold")
    if not 1 <= megabytes <= 4000 or (workers is not None and workers < 1):
        raise InputError("--megabytes: 1 to 4000; --workers: 1 or more")
    if (data.root / MANIFEST).exists():
        raise InputError(f"{data.root}: holds shards; point --data.root at the files")
    sources = {part: data.source(part) for part in parts or data.parts}
    settings = data.chosen() | {"megabytes": megabytes}
    agree(settings, out, [MANIFEST, *sources], kind="shards")
    counts = {}
    for part, source in sources.items():
        assert isinstance(source, FileSource)
        agree({"fingerprint": fingerprint(source)}, out / part, [IMAGES], kind="shards")
        number = workers or len(os.sched_getaffinity(0))
        _write_part(out / part, source, megabytes * MEGABYTE, workers=number)
        counts[part] = len(source.names)
    written = out / MANIFEST
    if written.exists():  # other parts, by an earlier run
        counts = json.loads(written.read_text(encoding="utf-8"))["parts"] | counts
    manifest = {"version": VERSION, "choices": data.chosen(), "parts": counts}
    manifest |= {"facts": {name: getattr(data, name) for name in data.facts}}
    with replacing(written) as temporary:
        temporary.write_text(json.dumps(manifest, indent=2) + "\n", encoding="utf-8")
    print(f"{out}: {', '.join(f'{part} {count:,}' for part, count in counts.items())} images")


def _write_part(folder: Path, source: FileSource, size: int, *, workers: int) -> None:
    """Write what is missing of a part, and the tables of it all."""
    import pyarrow as pa
    from pyarrow import parquet

    folder.mkdir(parents=True, exist_ok=True)
    jobs = list(_jobs(folder, source, size))
    preload = ("blur_lightning.data.sharding", "litdata.streaming.writer")
    problems = []
    with (
        closing(
            outcomes(_write_shard, jobs, workers=min(workers, len(jobs)), preload=preload)
        ) as w,
        tqdm(total=len(source.names), desc=folder.name, unit="image", disable=None) as bar,
    ):
        for outcome in w:
            if isinstance(outcome, str):
                problems.append(outcome)
            else:
                bar.update(outcome)
    if problems:
        raise InputError(f"{min(problems)}; {len(problems)} of {len(jobs)} shards not written")
    tables = [parquet.read_table(_rows_of(folder, job.number)) for job in jobs]
    notes = [json.loads(table.schema.metadata[b"shard"]) for table in tables]
    with replacing(folder / IMAGES) as temporary:
        parquet.write_table(pa.concat_tables(tables).replace_schema_metadata(), temporary)
    index = {"chunks": [note["chunk"] for note in notes], "config": notes[0]["config"]}
    texts = {"index.json": json.dumps(index, sort_keys=True)}
    texts[SUMS] = "".join(f"{note['sha256']}  {note['chunk']['filename']}\n" for note in notes)
    for name, text in texts.items():
        with replacing(folder / name) as temporary:
            temporary.write_text(text, encoding="utf-8")


def _rows_of(folder: Path, number: int) -> Path:
    """Where the rows of a shard lie; the file is there once the shard is whole."""
    return folder / ".rows" / f"{number}.parquet"


def _jobs(folder: Path, source: FileSource, size: int) -> Iterator[Job]:
    kinds, files = tuple(source.parts), list(source.parts.values())
    items: list[Item] = []
    number = total = 0
    for index in range(len(source.names)):
        label = -1 if source.labels is None else source.labels[index]
        paths: list[Any] = [kind[index] for kind in files]
        names = [_name(path, source.root) for path in paths]
        items.append(Item(label, paths, names))
        total += source.size(index)
        if total >= size or index + 1 == len(source.names):
            yield Job(folder, number, kinds, items)
            items, number, total = [], number + 1, 0


def _name(file: Path | StoredFile, root: Path) -> str:
    """The path of a file below the root; SBD's masks lie elsewhere."""
    if isinstance(file, StoredFile) or file.is_relative_to(root):
        return str(file.relative_to(root))
    return file.name


def _write_shard(job: Job) -> int | str:
    """Write one shard and then its rows, if they are missing; what is wrong is returned."""
    import pyarrow as pa
    from pyarrow import parquet

    target, rows_file = job.folder / f"chunk-0-{job.number}.bin", _rows_of(job.folder, job.number)
    if rows_file.exists() and target.exists():
        note = json.loads(parquet.read_schema(rows_file).metadata[b"shard"])
        if target.stat().st_size == note["chunk"]["chunk_bytes"]:
            return len(job.items)
    try:
        with TemporaryDirectory(dir=job.folder, prefix=".shard-") as temporary:
            contents = [[_content(file) for file in item.files] for item in job.items]
            note = _pack(job, contents, Path(temporary))
            shard = Path(temporary, target.name)
            rows = _locate(job, contents, shard.read_bytes(), note)
            with BUSY:
                shard.replace(target)
                rows_file.parent.mkdir(exist_ok=True)
                table = pa.Table.from_pylist(rows)
                table = table.replace_schema_metadata({"shard": json.dumps(note)})
                with replacing(rows_file) as path:
                    parquet.write_table(table, path)
    except OSError as error:
        return f"{error.filename or target}: {error.strerror or error}"
    return len(job.items)


def _content(file: Path | StoredFile) -> bytes | None:
    return file.read_bytes() if file.is_file() else None


def _pack(job: Job, contents: Sequence[Sequence[bytes | None]], folder: Path) -> dict[str, Any]:
    """Let LitData write the shard; what its index says of it is returned."""
    try:
        from litdata.streaming.writer import BinaryWriter
    except ModuleNotFoundError as error:
        raise InputError("litdata is missing: pip install litdata") from error
    writer = BinaryWriter(str(folder), chunk_bytes=2**40, chunk_index=job.number)
    for place, (item, files) in enumerate(zip(job.items, contents, strict=True)):
        writer.add_item(place, (item.label, item.names[0], *(content or b"" for content in files)))
    writer.done()
    written = json.loads((folder / "0.index.json").read_text(encoding="utf-8"))
    return {"chunk": written["chunks"][0], "config": written["config"]}


def _locate(
    job: Job, contents: Sequence[Sequence[bytes | None]], shard: bytes, note: dict[str, Any]
) -> list[dict[str, Any]]:
    """Find each file's bytes in the shard, in their order; so the shard is checked as well."""
    note["sha256"] = sha256(shard).hexdigest()
    rows, place = [], 0
    for item, files in zip(job.items, contents, strict=True):
        row: dict[str, Any] = {"shard": job.number}
        row |= dict(zip(("rows", "columns"), image_shape(item.files[0]), strict=True))
        row |= {"label": item.label} if item.label >= 0 else {}
        for kind, name, content in zip(job.kinds, item.names, files, strict=True):
            place = shard.index(content or b"", place)
            row |= {f"{kind}_path": name, f"{kind}_offset": place}
            row |= {f"{kind}_crc": zlib.crc32(content or b"")}
            row |= {f"{kind}_length": ABSENT if content is None else len(content)}
            place += len(content or b"")
        rows.append(row)
    return rows
