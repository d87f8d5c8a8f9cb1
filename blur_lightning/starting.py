"""A folder to start from: the experiments and sweeps that come with the program."""

import shutil
from pathlib import Path

from blur_lightning.errors import InputError
from blur_lightning.records.robustness import replacing

FOLDERS = ("experiments", "sweeps")
# Beside the program in a checkout, below it where it was installed.
_PLACES = (Path(__file__).parents[1], Path(__file__).parent / "starting_files")


def init(folder: Path) -> None:
    """Copy the experiments and sweeps of this program into a folder, to run and to change.

    Files that are there already stay as they are.

    Args:
        folder: Where `experiments/` and `sweeps/` will lie; made if missing.
    """
    source = next(place for place in _PLACES[::-1] if (place / FOLDERS[0] / "base.yaml").exists())
    if folder.exists() and not folder.is_dir():
        raise InputError(f"{folder}: is a file; name a folder")
    files = [
        path
        for name in FOLDERS
        for path in sorted((source / name).rglob("*"))
        if path.is_file() and path.suffix not in (".csv", ".json", ".pyc")
    ]
    new = 0
    for path in files:
        target = folder / path.relative_to(source)
        if not target.exists():
            with replacing(target) as temporary:
                shutil.copy(path, temporary)
            new += 1
    print(f"written: {new} files below {folder}; {len(files) - new} were there already")
    print(f"next: cd {folder} && python -m blur_lightning doctor")
