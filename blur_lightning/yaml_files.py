"""Reading YAML that anybody may have written: small files, of plain values alone."""

from math import inf
from pathlib import Path
from typing import Any

import yaml

from blur_lightning.errors import InputError

_BYTES, _VALUES = 2**20, 100_000  # of experiments and sweeps, hundreds of times what they need


def read_yaml(file: Path) -> dict[str, Any]:
    """Read a YAML file that holds keys.

    Args:
        file: At most 1 MiB; tags that would make objects of Python are refused.

    Raises:
        InputError: There is no such file, or it is no YAML, holds no keys, or a few aliases in it
            stand for more than 100,000 values, as they do where one holds itself.
    """
    if not file.is_file():
        problem = "Is a directory" if file.is_dir() else "No such file or directory"
        raise InputError(f"{file}: {problem}; name a YAML file")
    try:
        if file.stat().st_size > _BYTES:
            raise InputError(f"{file}: not YAML: larger than 1 MiB; name an experiment or a sweep")
        content = yaml.safe_load(file.read_text(encoding="utf-8"))
        values = _count(content, {})
    except OSError as error:
        raise InputError(f"{file}: {error.strerror}; name a YAML file") from error
    except RecursionError as error:
        raise InputError(f"{file}: not YAML: nested too deep; write fewer levels") from error
    except (yaml.YAMLError, ValueError) as error:  # ValueError: no text, no such day, no number
        if isinstance(error, InputError):
            raise
        problem = " ".join(str(error).replace('in "<unicode string>", ', "").split())
        raise InputError(f"{file}: not YAML: {problem}") from error
    if values > _VALUES:
        raise InputError(f"{file}: its aliases stand for more than {_VALUES:,} values; use fewer")
    if not isinstance(content, dict):
        raise InputError(f"{file}: holds no keys; name an experiment or a sweep")
    return content


def _count(value: Any, known: dict[int, float]) -> float:
    """Values in a value, those behind an alias each time; infinite where one holds itself."""
    if not isinstance(value, dict | list):
        return 1.0
    if id(value) not in known:
        known[id(value)] = inf  # until it is counted
        inner = value.values() if isinstance(value, dict) else value
        known[id(value)] = 1.0 + sum(_count(each, known) for each in inner)
    return known[id(value)]
