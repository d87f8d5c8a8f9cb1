"""Critical blur: for each image the weakest blur that changes what the network decides.

The question is that of minimal adversarial perturbations, asked of blur: how much image quality
must be given up before the decision changes. The similarity of the image there to the sharp one is
measured as Wang et al. 2004 do (IEEE Trans. Image Process. 13, 600-612).
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from typing_extensions import override

from blur_lightning.blur import Blur
from blur_lightning.blur.families import FAMILIES, number_text
from blur_lightning.errors import InputError
from blur_lightning.image_quality import peak_signal_to_noise, structural_similarity
from blur_lightning.records import robustness
from blur_lightning.tasks.classification import ClassificationTask
from blur_lightning.tasks.rows import columns_of

TABLE = "critical_blur.csv"

# Places of images and a parameter for each of them -> the decisions, all of shape (k,).
Decide = Callable[[np.ndarray, np.ndarray], np.ndarray]


class Changes(NamedTuple):
    """Where the decisions on some images first change; arrays (b,).

    `parameter` is infinite and `next_decision` -1 where nothing changes.
    """

    decision: np.ndarray  # without blur
    parameter: np.ndarray
    next_decision: np.ndarray


class CriticalBlurTask(ClassificationTask):
    """Find for each image the weakest blur that changes the network's decision.

    Levels of equal distance are tried upwards; the first one at which the decision differs counts,
    also where a stronger blur brings it back. Halving the distance to the level before narrows it
    down, so a change that is over between two levels goes unseen. With `data.capture.rim` hard a
    disk or box grows by whole pixels, and so does what is found.

    A test writes survival, the share of images whose decision is unchanged up to each level, to
    robustness.csv, and a line for each image to critical_blur.csv: the weakest parameter (inf: none
    up to the largest), both decisions, and the PSNR (dB) and SSIM of the network's input there
    against the sharp one. Of several scales of the input the first is compared.

    Predictions have a row for each photograph: the network's answer, and as columns of
    predictions.csv the weakest parameter, the decision there, PSNR and SSIM.

    Args:
        net: Any network from images to logits by its class path.
        family: Which blur, by its symbol: D, G, H, V, M.
        angle: Its direction in degrees, counter-clockwise from horizontal; M needs one.
        largest: Strongest blur to try, more than 0: radius, length or sigma in pixels at the
            canonical scale.
        steps: Number of levels up to the largest, 1 or more.
        tolerance: How closely the parameter is found, in pixels, 0.001 or more; the true one lies
            at most so far below.
        decision: Whether the network's own decision on the sharp image is to change, or the right
            one: then images that are wrong without any blur have the parameter 0.
        kwargs: As ClassificationTask.
    """

    def __init__(
        self,
        net: nn.Module,
        *,
        family: str = "D",
        angle: float | None = None,
        largest: float = 16.0,
        steps: int = 16,
        tolerance: float = 0.125,
        decision: Literal["own", "label"] = "own",
        **kwargs: Any,
    ) -> None:
        known = [symbol for symbol, f in FAMILIES.items() if f.bounds[0] == 0 and not f.whole]
        if family not in known:
            raise InputError(f"model.family: '{family}' is none of {', '.join(known)}")
        if largest <= 0 or steps < 1 or tolerance < 0.001:
            raise InputError(
                "model: largest must be more than 0, steps 1 or more, tolerance 0.001 or more"
            )
        direction = "" if angle is None else f"@{number_text(angle)}"
        levels = np.linspace(0, largest, steps + 1)[1:].round(6)
        conditions = ["sharp", *(f"{family}{number_text(x)}{direction}" for x in levels)]
        try:
            super().__init__(net, conditions=conditions, **kwargs)
        except InputError as error:
            raise InputError(f"model.family, model.angle, model.largest: {error}") from error
        self.tolerance, self.needs_labels = tolerance, decision == "label"

    @property
    def metrics(self) -> tuple[str, ...]:  # type: ignore[override]
        """Survival in tests; validation in a training keeps the classifier's own."""
        return ("survival",) if self.trainer.testing else ClassificationTask.metrics

    @override
    def test_step(self, batch: Mapping[str, Any], batch_idx: int) -> None:
        if "image" not in batch:  # nothing in it could be read
            return
        measured, tables = self._changes(batch), []
        for condition in self.conditions:
            survival = measured["critical_parameter"] > (condition.parameter or 0.0)
            blurs = self.datamodule.draw(condition, batch)
            tables.append(columns_of(condition, blurs, batch, measured | {"survival": survival}))
        rows = {name: np.concatenate([table[name] for table in tables]) for name in tables[0]}
        self.measurements.append(rows)

    @override
    def predict_step(self, batch: Mapping[str, Any], batch_idx: int) -> None:
        if "image" not in batch:  # nothing in it could be read
            return
        sharp, changes = self.conditions[0], self._changes(batch)
        blurs = self.datamodule.draw(sharp, batch)
        answers = self.see(self._under(sharp, blurs, batch), batch, str(sharp))
        self.measurements.append(columns_of(sharp, blurs, batch, {**answers, **changes}))

    @override
    def setup(self, stage: str) -> None:
        if stage == "predict" and self.needs_labels:
            raise InputError("model.decision: photographs to predict have no labels; take own")

    def _changes(self, batch: Mapping[str, Any]) -> dict[str, Tensor]:
        """Where the decision on each image first changes, and how the image looks there."""
        reference = None
        if self.needs_labels:
            reference = batch["label"].cpu().numpy()
        changes = first_changes(
            lambda chosen, parameters: self._decide(batch, chosen, parameters),
            len(batch["image"]),
            levels=[condition.parameter or 0.0 for condition in self.conditions],
            tolerance=self.tolerance,
            reference=reference,
        )
        psnr, ssim = self._quality(batch["image"], changes.parameter)
        return {
            "decision": torch.from_numpy(changes.decision).int(),
            "critical_parameter": torch.from_numpy(changes.parameter),
            "next_decision": torch.from_numpy(changes.next_decision).int(),
            "psnr": psnr,
            "ssim": ssim,
        }

    @override
    def on_test_epoch_end(self) -> None:
        # First, because the base class forgets the measurements.
        summary = self._collected(self._write_table)
        super().on_test_epoch_end()
        if self.trainer.is_global_zero:
            print(f"written: {self.run_folder / TABLE}\n{summary}")

    def _blurs(self, parameters: np.ndarray) -> list[Blur]:
        part = self.conditions[-1].components[0]
        blurs = (Blur(part.family, x, part.angles[0]) for x in parameters.tolist())
        return [blur if blur.parameter else Blur("sharp") for blur in blurs]

    def _decide(
        self, batch: Mapping[str, Any], chosen: np.ndarray, parameters: np.ndarray
    ) -> np.ndarray:
        images = {**batch, "image": batch["image"][torch.from_numpy(chosen)]}
        logits = self(self.datamodule.blurred(images, self._blurs(parameters)))
        self._check_classes(logits)
        return logits.argmax(dim=1).cpu().numpy()

    def _quality(self, windows: Tensor, parameters: np.ndarray) -> tuple[Tensor, Tensor]:
        """PSNR and SSIM (b,) of what the network sees at those parameters; NaN at infinite ones."""
        quality = torch.full((2, len(windows)), torch.nan)
        chosen = np.flatnonzero(np.isfinite(parameters))
        if chosen.size:
            places = torch.from_numpy(chosen)
            pairs = [
                self.datamodule.active_capture(windows[places], self._blurs(strengths))
                for strengths in (parameters[chosen], np.zeros(len(chosen)))
            ]
            blurred, sharp = (seen if isinstance(seen, Tensor) else seen[0] for seen in pairs)
            found = (peak_signal_to_noise(blurred, sharp), structural_similarity(blurred, sharp))
            quality[:, places] = torch.stack(found).cpu()
        return quality[0], quality[1]

    def _write_table(self) -> str:
        """Write a line for each image, and sum up in one."""
        rows = self.measurements.rows(str(self.conditions[0]))
        names, critical = self.datamodule.sources["test"].names, rows["critical_parameter"]
        found = np.isfinite(critical)
        columns: dict[str, Any] = {
            "file": [names[index] for index in rows["index"]],
            "decision": rows["decision"],
            "critical_parameter": critical,
        }
        for name in ("next_decision", "psnr", "ssim"):
            columns[name] = [x if known else "" for x, known in zip(rows[name], found, strict=True)]
        robustness.write_table(self.run_folder / TABLE, [columns])
        family, largest = self.conditions[-1].family, self.conditions[-1]
        median, low, high = (f"{x:.4g}" for x in median_interval(critical))
        return (
            f"median critical blur: {family} {median} (95 % interval {low} to {high}); "
            f"{np.count_nonzero(~found)} of {len(found)} images unchanged up to {largest}"
        )


def first_changes(
    decide: Decide,
    count: int,
    *,
    levels: Sequence[float],
    tolerance: float,
    reference: np.ndarray | None = None,
) -> Changes:
    """Find the weakest blur that changes each decision, for all images of a batch at once.

    Args:
        decide: Decisions on some of the images under blurs of given parameters.
        count: Number of images, b.
        levels: Parameters to try, ascending from 0; an image is done at its first change.
        tolerance: Halving goes on until the bracket around a change is no wider, more than 0.
        reference: The decisions (b,) that are to change; None takes those at level 0.

    Returns:
        The upper end of each bracket: the decision there is another, `tolerance` below it is not.
    """
    sharp = decide(np.arange(count), np.zeros(count))
    reference = sharp if reference is None else reference
    low, high = np.zeros(count), np.where(sharp == reference, np.inf, 0.0)
    after = np.where(sharp == reference, -1, sharp)

    def narrow(chosen: np.ndarray, parameters: np.ndarray) -> None:
        decisions = decide(chosen, parameters)
        changed = decisions != reference[chosen]
        high[chosen[changed]] = parameters[changed]
        after[chosen[changed]] = decisions[changed]
        low[chosen[~changed]] = parameters[~changed]

    for level in levels[1:]:
        if (chosen := np.flatnonzero(np.isinf(high))).size:
            narrow(chosen, np.full(len(chosen), level))
    while (chosen := np.flatnonzero(np.isfinite(high) & (high - low > tolerance))).size:
        narrow(chosen, (low[chosen] + high[chosen]) / 2)
    return Changes(sharp, high, after)


def median_interval(values: np.ndarray, *, level: float = 0.95) -> tuple[float, float, float]:
    """Median, and the two order statistics between which it lies, whatever the distribution.

    Conover 1999, Practical Nonparametric Statistics, section 3.2: the number of values below the
    median is binomial. Values may be infinite: an image that was never seen to change counts as
    larger than all others. Too few values for the level leave the interval at 0 to infinity.

    Args:
        values: (n,) of at least 0, n >= 1.
        level: How often the interval is to hold the median, at least, in (0, 1).
    """
    from scipy.special import bdtr

    ordered, n = np.sort(values), len(values)
    cumulative = bdtr(np.arange(n), n, 0.5)
    outside = int(np.count_nonzero(cumulative <= (1 - level) / 2))
    low, high = (ordered[outside - 1], ordered[n - outside]) if outside else (0.0, np.inf)
    return float(np.median(ordered)), float(low), float(high)
