"""How much a network changes an image, against how blurry the image is.

Noroozi, Chandramouli and Favaro 2017 (arXiv 1701.01486), section 4 and Figures 9 and 10: the more
blur, the larger the L1 norm of the residual that is added to the image. Here the norm is divided by
the number of values, so that images of all sizes compare.
"""

import csv
import io
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from lightning import LightningModule
from PIL import Image
from torch import Tensor
from typing_extensions import override

from blur_lightning.blur import Blur
from blur_lightning.errors import InputError
from blur_lightning.records.curves import COLOURS, RC
from blur_lightning.records.robustness import replacing, write_table
from blur_lightning.tasks import DeblurringTask
from blur_lightning.tasks.networks import trained_mix

MANIFEST = "manifest.csv"  # of build-wild: columns blur (a file) and blur_size (px)
_GAIN = 4  # of residuals in pictures, about middle grey


class Shown(NamedTuple):
    """One image whose residual is the largest or the smallest."""

    residual: float
    name: str
    blurry: Tensor  # (3, h, w) in [0, 1], like the others
    restored: Tensor
    sharp: Tensor


class ResidualAnalysis(LightningModule):
    """Restores the pairs of a test, and compares residuals with blur sizes.

    Leaves `residuals.csv`, `.svg` (the scatter plot), `.png` (the images with the largest and the
    smallest residual: blurry, residual, restored, sharp) and `.json` in the run's folder.

    Args:
        task: The network, as for a test.
        sizes: Average blur size of each image in pixels, by the name of its blurry file.
    """

    def __init__(self, task: DeblurringTask, sizes: Mapping[str, float]) -> None:
        super().__init__()
        self.task, self.sizes = task, sizes
        # The checkpoint came after the task.
        task.trained_on = trained_mix(task.net) or task.trained_on
        self.conditions = task.conditions  # the data module asks how far they reach
        self.mean, self.std = task.mean, task.std
        self.residuals: dict[str, float] = {}
        self.shown: dict[str, Shown] = {}

    @override
    def test_step(self, batch: Mapping[str, Any], batch_idx: int) -> None:
        if "image" not in batch:  # nothing in it could be read
            return
        data: Any = self.trainer.datamodule  # type: ignore[attr-defined]
        names, none = data.sources["test"].names, [Blur("sharp")] * len(batch["index"])
        blurry, sharp = data.blurred(batch, none), data.sharp(batch)
        restored = self.task(blurry)
        residuals = (restored - blurry).abs().mean(dim=(1, 2, 3)).tolist()
        for i, (index, residual) in enumerate(zip(batch["index"].tolist(), residuals, strict=True)):
            name = names[index]
            if name not in self.sizes:
                raise InputError(f"{name}: not in {MANIFEST}; make the pairs anew (build-wild)")
            self.residuals[name] = residual
            one = Shown(residual, name, *(x[i].float().cpu() for x in (blurry, restored, sharp)))
            self.shown["largest"] = max(self.shown.get("largest", one), one, key=_norm)
            self.shown["smallest"] = min(self.shown.get("smallest", one), one, key=_norm)

    @override
    def on_test_epoch_end(self) -> None:
        names = sorted(self.residuals)
        size = np.array([self.sizes[name] for name in names])
        residual = np.array([self.residuals[name] for name in names])
        r, low, high = correlation(size, residual)
        folder = Path(self.trainer.default_root_dir)
        columns = {"file": names, "blur_size": size, "residual": residual}
        write_table(folder / "residuals.csv", [columns])
        facts: dict[str, Any] = {"correlation": r, "low": low, "high": high, "n": len(names)}
        facts |= {which: one.name for which, one in self.shown.items()}
        text = json.dumps(facts | self.task.provenance(), indent=2, default=str) + "\n"
        for suffix, content in (
            ("svg", scatter_svg(size, residual, f"r = {r:.2f}, n = {len(names)}")),
            ("png", _pictures([self.shown["largest"], self.shown["smallest"]])),
            ("json", text.encode()),
        ):
            with replacing(folder / f"residuals.{suffix}") as temporary:
                temporary.write_bytes(content)
        print(
            f"\n\ncorrelation of blur size and residual: {r:.3f} "
            f"(95 % interval {low:.3f} to {high:.3f}), n = {len(names)}"
            f"\nwritten: {folder / 'residuals.svg'}"
        )


def blur_sizes(root: Path) -> dict[str, float]:
    """Average blur size in pixels of each pair below a folder, by the name of its blurry file.

    Raises:
        InputError: The folder has no manifest of build-wild, or one that cannot be read.
    """
    file = root / MANIFEST
    try:
        with file.open(encoding="utf-8", errors="surrogateescape", newline="") as stream:
            return {row["blur"]: float(row["blur_size"]) for row in csv.DictReader(stream)}
    except OSError as error:
        raise InputError(
            f"{file}: {error.strerror}; build-wild writes it with its pairs"
        ) from error
    except (KeyError, ValueError, TypeError) as error:
        raise InputError(f"{file}: no manifest of build-wild; make the pairs anew") from error


def correlation(size: np.ndarray, residual: np.ndarray) -> tuple[float, float, float]:
    """Pearson's correlation and the ends of its 95 % interval, by a bootstrap of 1,000 resamples.

    Raises:
        InputError: There are fewer than three images, or all have the same size or residual.
    """
    if len(size) < 3 or np.ptp(size) == 0 or np.ptp(residual) == 0:
        raise InputError("data: a correlation needs three images or more that differ")
    generator, found = np.random.default_rng(0), []
    for _ in range(1000):
        chosen = generator.integers(len(size), size=len(size))
        if np.ptp(size[chosen]) > 0 and np.ptp(residual[chosen]) > 0:
            found.append(np.corrcoef(size[chosen], residual[chosen])[0, 1])
    low, high = np.quantile(found, [0.025, 0.975])
    return float(np.corrcoef(size, residual)[0, 1]), float(low), float(high)


def scatter_svg(size: np.ndarray, residual: np.ndarray, title: str) -> bytes:
    """Figure 9: both normalised to mean 0 and standard deviation 1."""
    from matplotlib import style
    from matplotlib.figure import Figure

    with style.context(["default", RC | {"svg.hashsalt": "residuals"}]):
        figure = Figure((3.6, 3.2), layout="constrained")
        axes = figure.subplots()
        x, y = ((values - values.mean()) / values.std() for values in (size, residual))
        axes.scatter(x, y, s=9, color=COLOURS[0], alpha=0.6, linewidths=0)
        axes.set(xlabel="blur size, normalised", ylabel="L1 norm of the residual, normalised")
        axes.set_title(title, loc="left")
        stream = io.BytesIO()
        nothing = dict.fromkeys(("Date", "Creator", "Format", "Type"))
        figure.savefig(stream, format="svg", metadata=nothing, facecolor="white")
    return stream.getvalue()


def _norm(one: Shown) -> float:
    return one.residual


def _pictures(images: list[Shown]) -> bytes:
    """Figure 10: a row for each image, white where a row is shorter than another."""
    rows = []
    for one in images:
        residual = 0.5 + _GAIN * (one.restored - one.blurry)
        rows.append(torch.cat([one.blurry, residual, one.restored, one.sharp], dim=2))
    width = max(row.shape[2] for row in rows)
    filled = [torch.nn.functional.pad(r, (0, width - r.shape[2]), value=1.0) for r in rows]
    values = (torch.cat(filled, dim=1).clamp(0, 1) * 255).round().to(torch.uint8)
    stream = io.BytesIO()
    Image.fromarray(values.permute(1, 2, 0).numpy()).save(stream, format="PNG")
    return stream.getvalue()
