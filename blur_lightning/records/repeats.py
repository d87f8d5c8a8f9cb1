"""Finished runs as reports read them, and which of them repeat one another.

Runs are repeats if they differ in nothing but their seed. What else sets them apart is what the
configurations in their `provenance.json` differ in.
"""

import json
import os
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from blur_lightning.errors import InputError
from blur_lightning.records.robustness import PROVENANCE, RECORDS, Record, read_records

# Parts of a configuration that a training depends on.
_MATTERS: tuple[str, ...] = (
    "ckpt_path",
    "model",
    "data",
    "trainer.max_epochs",
    "trainer.max_steps",
)
_MATTERS += ("trainer.accumulate_grad_batches", "trainer.gradient_clip", "trainer.precision")
_MATTERS += ("trainer.limit_train_batches", "trainer.overfit_batches")
# Of these, what moves no result, or what records have columns for.
_ELSEWHERE: tuple[str, ...] = ("model.conditions", "model.name", "model.trained_on", "model.freeze")
_ELSEWHERE += ("model.channels_last", "model.compile", "data.root", "data.blur", "data.val_blur")
_ELSEWHERE += ("data.capture", "data.num_workers", "data.seed", "data.skip_unreadable")
_CLASS_KEYS = ("class_path", "init_args", "dict_kwargs")


class Run(NamedTuple):
    """What was read from a run's folder."""

    file: Path  # of the records
    records: list[Record]
    provenance: dict[str, Any]

    @property
    def folder(self) -> Path:
        """Where all files of the run are."""
        return self.file.parent

    @property
    def name(self) -> str:
        """Of the run; of records of several runs, the first one's."""
        return self.records[0].run


def read_runs(files: Iterable[Path]) -> list[Run]:
    """Read records, and the provenance beside them where there is one."""
    return [Run(file, read_records(file), _provenance(file.parent)) for file in files]


def _provenance(folder: Path) -> dict[str, Any]:
    file = folder / PROVENANCE
    try:
        content = json.loads(file.read_text(encoding="utf-8")) if file.exists() else {}
    except (ValueError, OSError, RecursionError) as error:
        raise InputError(f"{file}: cannot be read as JSON ({error}); mend or remove it") from error
    if not isinstance(content, dict):
        raise InputError(f"{file}: not a JSON object; mend or remove it")
    return content


def named_apart(runs: Sequence[Run]) -> list[Run]:
    """Give runs of one name the ends of their paths instead: sweep/trial-001, other/trial-001."""
    holders: dict[str, list[Run]] = {}
    for run in runs:
        for name in dict.fromkeys(record.run for record in run.records):
            holders.setdefault(name, []).append(run)
    names: dict[tuple[Path, str], str] = {}
    for name, same in holders.items():
        places = [run.folder if run.file.name == RECORDS else run.file for run in same]
        if len(same) > 1:
            common = os.path.commonpath([place.resolve().parent for place in places])
            for run, place in zip(same, places, strict=True):
                text = str(place.resolve().relative_to(common))
                several = any(record.run != name for record in run.records)
                names[run.file, name] = f"{text}/{name}" if several else text
    return [
        run._replace(
            records=[r._replace(run=names.get((run.file, r.run), r.run)) for r in run.records]
        )
        for run in runs
    ]


def settings_of(runs: Iterable[Run]) -> dict[str, str]:
    """What sets runs of one network, mix, data and scale apart, by their names: lr 0.001.

    Seeds do not count; of a network as published its own arguments do, and how it would be trained
    does not. A run that nothing sets apart, or that has no configuration, has an empty text.
    """
    groups: dict[tuple[str, ...], list[Run]] = {}
    for run in runs:
        first = run.records[0]
        key = (first.dataset, first.model, first.scale, first.trained_on)
        groups.setdefault(key, []).append(run)
    texts: dict[str, str] = {}
    for same in groups.values():
        settings = [_settings(run) for run in same]
        known = [own for own, run in zip(settings, same, strict=True) if "config" in run.provenance]
        keys = dict.fromkeys(key for own in known for key in own)
        differing = [key for key in keys if len({str(own.get(key)) for own in known}) > 1]
        leaves = [key.rpartition(".")[-1] for key in differing]
        shown = {
            key: leaf if leaves.count(leaf) == 1 else key
            for key, leaf in zip(differing, leaves, strict=True)
        }
        for run, own in zip(same, settings, strict=True):
            stated = (f"{shown[key]} {own[key]}" for key in differing if key in own)
            texts[run.name] = ", ".join(stated)
    return texts


def _settings(run: Run) -> dict[str, Any]:
    """What the result of a run depends on beside its seed, by dotted names."""
    config = run.provenance.get("config")
    parts = _MATTERS if run.records[0].trained_on != "original" else ("ckpt_path", "model.net")
    return {
        key: value
        for key, value in _flat("", config if isinstance(config, dict) else {})
        if key.startswith(parts) and not key.startswith(_ELSEWHERE)
    }


def _flat(key: str, value: Any) -> Iterator[tuple[str, Any]]:
    """Settings below a key; a class is named by the last part of its path."""
    if isinstance(value, dict):
        for name, inner in value.items():
            below = key if name in _CLASS_KEYS else f"{key}.{name}".lstrip(".")
            inner = str(inner).rpartition(".")[-1] if name == "class_path" else inner
            yield from _flat(below, inner)
    elif value:  # configurations leave out null, and older ones what was not known then
        yield key, value
