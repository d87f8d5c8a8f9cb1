"""Folders that one command fills in several runs, all with the same settings."""

import json
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from blur_lightning.errors import InputError
from blur_lightning.records.robustness import replacing

SETTINGS = "settings.json"


def agree(settings: Mapping[str, Any], out: Path, files: Iterable[str], *, kind: str) -> None:
    """Refuse to mix results of different settings in a folder; note those of the first run.

    Args:
        settings: What all results in the folder have in common.
        out: The folder; made if missing.
        files: Results that this run may write, below the folder. Before the first run there must
            be none.
        kind: What the results are, in the plural: copies.

    Raises:
        InputError: The folder holds results of other settings, or files of somebody else.
    """
    file = out / SETTINGS
    if not file.exists():
        for name in files:
            if os.path.lexists(out / name):
                raise InputError(f"{out / name}: not from this command; choose another --out")
        with replacing(file) as temporary:
            temporary.write_text(json.dumps(settings, indent=2) + "\n", encoding="utf-8")
    try:
        before = dict(json.loads(file.read_text(encoding="utf-8")))
    except (ValueError, TypeError, OSError, RecursionError) as error:
        raise InputError(f"{file}: tells no settings of {kind}; choose another --out") from error
    for name in dict(settings) | before:
        old, new = (json.dumps(x.get(name), ensure_ascii=False) for x in (before, settings))
        if old != new:
            raise InputError(f"{out}: {kind} of {name} {old}, not {new}; choose another --out")
