"""Where numbers come from: the versions, machine and commit that made them."""

import importlib.metadata
import platform
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any

PACKAGES = ("blur_lightning", "torch", "torchvision", "lightning", "timm", "numpy", "pillow")


def environment(packages: Sequence[str] = ()) -> dict[str, Any]:
    """Versions, platform and commit to keep beside a result; None where unknown.

    Args:
        packages: More of them than `PACKAGES`.
    """
    commit = dirty = None
    # An installed package may lie in someone else's checkout (.venv): only one that tracks it.
    if _git("ls-files", "--error-unmatch", Path(__file__).name) is not None:
        commit = _git("rev-parse", "HEAD")
        status = _git("--no-optional-locks", "status", "--porcelain", "--", ".")
        dirty = None if status is None else status != ""
    return {
        "python": platform.python_version(),
        **{package: _version(package) for package in (*PACKAGES, *packages)},
        "platform": platform.platform(),
        "commit": commit,
        "dirty": dirty,
    }


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def _git(*arguments: str) -> str | None:
    command = ["git", *arguments]
    options: dict[str, Any] = {"capture_output": True, "text": True, "check": True, "timeout": 5}
    try:
        return subprocess.run(command, cwd=Path(__file__).parent, **options).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return None
