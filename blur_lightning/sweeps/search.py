"""Random and Bayesian search, in W&B's schema of parameters, by Optuna.

Optuna: Akiba et al. 2019, arXiv:1907.10902. A Bayesian search is its tree-structured Parzen
estimator (Bergstra et al. 2011, NeurIPS 24), and early termination its asynchronous successive
halving (Li et al. 2020, MLSys 2), whose rungs are those of W&B's hyperband. A number is drawn as a
quantile of its distribution, so that all distributions are searched alike.
"""

import hashlib
import itertools
import json
import math
from bisect import bisect
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from statistics import NormalDist
from typing import TYPE_CHECKING, Any

import numpy as np

from blur_lightning.errors import InputError
from blur_lightning.records.outcomes import DONE, OUTCOME, Outcome, Trial, outcome

if TYPE_CHECKING:
    from optuna.distributions import BaseDistribution
    from optuna.pruners import BasePruner
    from optuna.trial import Trial as Asked

_BOUNDED = (
    *("uniform", "int_uniform", "q_uniform"),
    *("log_uniform", "q_log_uniform", "inv_log_uniform"),  # bounds are natural logarithms
    *("log_uniform_values", "q_log_uniform_values", "inv_log_uniform_values"),
)
# Distribution -> the keys that it needs.
DISTRIBUTIONS: dict[str, tuple[str, ...]] = {
    "constant": ("value",),
    "categorical": ("values",),
    **dict.fromkeys(_BOUNDED, ("min", "max")),
    **dict.fromkeys(("normal", "q_normal", "log_normal", "q_log_normal"), ()),
}
_EDGE = 1e-6  # quantiles 0 and 1 of a normal distribution are infinite
Axis = Mapping[str, Any]
Draw = Mapping[str, int | float]


class Search:
    """Trials that are drawn one by one, the later ones knowing how the earlier ones did.

    What trial.json says is all that is kept: the trials that it knows are told to Optuna again, in
    their order, so that a search which was stopped goes on. A draw depends on the seed, the
    trial's number and the trials that have ended; with one job it can be repeated.

    Args:
        content: Content of a sweep file; an InputError says which of its keys is wrong.
        folder: Of the sweep; trials are numbered from 1 in it.
        make: Makes a trial of its folder, its parameters and its draw.
        count: Number of trials in all; None takes the file's run_cap.
        seed: Of the draws; None takes it from the file's parameters.
    """

    def __init__(
        self,
        content: Mapping[str, Any],
        folder: Path,
        make: Callable[[Path, dict[str, Any], dict[str, int | float]], Trial],
        *,
        count: int | None,
        seed: int | None,
    ) -> None:
        count = count if count is not None else content.get("run_cap")
        if not isinstance(count, int) or count < 1:
            raise InputError("count: a search has no end of its own; give --count N or run_cap: N")
        self.count, self.folder, self._make = count, folder, make
        self._axes = read_axes(content.get("parameters"))
        digest = hashlib.sha256(json.dumps(self._axes, sort_keys=True).encode()).digest()
        self._seed = int.from_bytes(digest[:4]) if seed is None else seed
        self._bayes = content.get("method") == "bayes"
        self._asked: dict[Path, Asked] = {}
        self._told: dict[Path, int] = {}  # values of the metric
        self._start_study(content)

    def _start_study(self, content: Mapping[str, Any]) -> None:
        metric = content.get("metric")
        metric = metric if isinstance(metric, Mapping) else {}
        goal = metric.get("goal", "minimize")
        if goal not in ("minimize", "maximize"):
            raise InputError(f"metric.goal: {goal}, but it is minimize or maximize")
        if not metric.get("name") and (self._bayes or "early_terminate" in content):
            raise InputError("metric: none; give one, as {name: test/D4/top1, goal: maximize}")
        if "early_terminate" in content and str(metric["name"]).startswith("test/"):
            raise InputError(
                f"early_terminate: {metric['name']} is known at the end only; name a metric of "
                "each epoch, such as val/top1"
            )
        pruner = _pruner(content.get("early_terminate"))
        import optuna

        optuna.logging.set_verbosity(optuna.logging.WARNING)
        self._study = optuna.create_study(direction=goal, pruner=pruner)
        self._space = _space(self._axes)

    def resume(self) -> tuple[list[Trial], list[Trial]]:
        """Tell Optuna of the trials that were started before: those that ended, and the others."""
        known = [trial for n in range(1, self.count + 1) if (trial := self._known(n)) is not None]
        ended = [trial for trial in known if outcome(trial).get("status") in DONE]
        for trial in known:
            self._ask(0, trial)
            if trial in ended:
                self.follow(trial, outcome(trial))
        return ended, [trial for trial in known if trial not in ended]

    def draw(self, known: list[Trial]) -> Iterator[Trial]:
        """Trials of the numbers that no known trial has; each is drawn when it is taken."""
        taken = {trial.folder for trial in known}
        for number in range(1, self.count + 1):
            if self._folder(number) not in taken:
                yield self._ask(number)

    def follow(self, trial: Trial, found: Outcome) -> bool:
        """Tell Optuna what a trial says now; true if it is not worth going on with."""
        from optuna.trial import TrialState

        asked, values = self._asked[trial.folder], found.get("values") or []
        hopeless = False
        for step in range(self._told.get(trial.folder, 0) + 1, len(values) + 1):
            asked.report(values[step - 1], step)
            hopeless = asked.should_prune() or hopeless
            self._told[trial.folder] = step
        value = found.get("value")
        if found["status"] == "pruned":
            self._study.tell(asked, state=TrialState.PRUNED)
        elif found["status"] == "finished" and value is not None and math.isfinite(value):
            self._study.tell(asked, value)
        elif found["status"] != "started":
            self._study.tell(asked, state=TrialState.FAIL)
        return hopeless

    def _ask(self, number: int, known: Trial | None = None) -> Trial:
        from optuna.samplers import RandomSampler, TPESampler

        sampler = TPESampler if self._bayes else RandomSampler
        (seed,) = np.random.SeedSequence([self._seed, number]).generate_state(1)
        self._study.sampler = sampler(seed=int(seed))
        if known:
            self._study.enqueue_trial(dict(known.draw or {}))
        asked = self._study.ask(self._space)
        trial = known or self._trial(number, asked.params)
        self._asked[trial.folder] = asked
        return trial

    def _known(self, number: int) -> Trial | None:
        """The trial of a number, if its folder has one of these parameters and this command."""
        with suppress(OSError, ValueError, LookupError, TypeError):
            text = (self._folder(number) / OUTCOME).read_text(encoding="utf-8")
            draw = json.loads(text)["draw"]
            if draw.keys() == self._space.keys():
                trial = self._trial(number, draw)
                return trial if outcome(trial) else None
        return None

    def _trial(self, number: int, draw: Draw) -> Trial:
        return self._make(self._folder(number), parameters_of(self._axes, draw), dict(draw))

    def _folder(self, number: int) -> Path:
        return self.folder / f"trial-{number:03d}"


def read_axes(parameters: Any) -> dict[str, Axis]:
    """The parameters of a sweep file by their dotted names, each with its `distribution`."""
    if not isinstance(parameters, Mapping) or not parameters:
        raise InputError("parameters: none; give each its values, as seed_everything: {value: 0}")
    return {key: _axis(f"parameters.{key}", axis) for key, axis in parameters.items()}


def _axis(key: str, axis: Any) -> Axis:
    axis = axis if isinstance(axis, Mapping) else {}
    whole = all(isinstance(axis.get(bound), int) for bound in ("min", "max"))
    guesses = {"value": "constant", "values": "categorical"}
    guesses |= {"min": "int_uniform" if whole else "uniform"}
    guess = next((name for word, name in guesses.items() if word in axis), "")
    name = str(axis.get("distribution", guess)).removesuffix("_w_probabilities")
    if not name:
        raise InputError(
            f"{key}: needs value:, values: [..], or min: and max:; nested keys take dots: data.blur"
        )
    if name not in DISTRIBUTIONS:
        raise InputError(f"{key}.distribution: {name} is unknown; use {', '.join(DISTRIBUTIONS)}")
    missing = [needed for needed in DISTRIBUTIONS[name] if needed not in axis]
    if missing:
        raise InputError(f"{key}: {name} needs {missing[0]}; give it")
    for word in {"min", "max", "mu", "sigma", "q"} & axis.keys():
        if isinstance(axis[word], bool) or not isinstance(axis[word], int | float):
            raise InputError(f"{key}.{word}: {axis[word]!r} is no number; YAML reads 1.0e-5 as one")
    if name in _BOUNDED and not axis["min"] <= axis["max"]:
        raise InputError(f"{key}.min: {axis['min']} is more than max, {axis['max']}; swap them")
    if name.endswith("_values") and axis["min"] <= 0:
        raise InputError(f"{key}.min: {axis['min']} has no logarithm; give more than 0")
    for word in {"sigma", "q"} & axis.keys():
        if axis[word] <= 0:
            raise InputError(f"{key}.{word}: {axis[word]}; give more than 0")
    if name == "categorical":
        _check_values(key, axis)
    return {**axis, "distribution": name}


def _check_values(key: str, axis: Axis) -> None:
    values, shares = axis["values"], axis.get("probabilities")
    if not isinstance(values, list) or not values:
        raise InputError(f"{key}.values: {values!r}; give a list of one or more")
    if shares is not None and (len(shares) != len(values) or not math.isclose(sum(shares), 1)):
        raise InputError(f"{key}.probabilities: give one for each of values; their sum is 1")


def _space(axes: Mapping[str, Axis]) -> "dict[str, BaseDistribution]":
    from optuna.distributions import CategoricalDistribution, FloatDistribution

    space: dict[str, BaseDistribution] = {}
    for key, axis in axes.items():
        if axis["distribution"] == "categorical" and "probabilities" not in axis:
            space[key] = CategoricalDistribution(range(len(axis["values"])))
        elif axis["distribution"] != "constant":
            space[key] = FloatDistribution(0, 1)
    return space


def parameters_of(axes: Mapping[str, Axis], draw: Draw) -> dict[str, Any]:
    """What a draw stands for.

    Args:
        axes: Of `read_axes`.
        draw: By name: the index of a categorical value, or the quantile, in [0, 1], of a number or
            of a categorical value with probabilities. Constants have none.
    """
    return {key: _parameter(axis, draw.get(key, 0)) for key, axis in axes.items()}


def _parameter(axis: Axis, drawn: int | float) -> Any:
    name = axis["distribution"]
    if name == "constant":
        return axis["value"]
    if name == "categorical":
        if "probabilities" in axis:
            shares = list(itertools.accumulate(axis["probabilities"]))
            drawn = min(bisect(shares, drawn), len(shares) - 1)
        return axis["values"][int(drawn)]
    if name == "int_uniform":
        return min(axis["min"] + int(drawn * (axis["max"] - axis["min"] + 1)), axis["max"])
    number = _number(name, axis, drawn)
    if name.startswith("q_"):
        number = round(number / axis.get("q", 1)) * axis.get("q", 1)
    # Six digits tell trials apart, and can be read.
    return number if isinstance(number, int) else float(f"{number:.6g}")


def _number(name: str, axis: Axis, quantile: float) -> float:
    if name.endswith("normal"):
        quantile = min(max(quantile, _EDGE), 1 - _EDGE)
        number = NormalDist(axis.get("mu", 0), axis.get("sigma", 1)).inv_cdf(quantile)
    else:
        low, high = axis["min"], axis["max"]
        if name.endswith("_values"):
            low, high = math.log(low), math.log(high)
        number = low + quantile * (high - low)
    if name == "inv_log_uniform":
        return math.exp(-number)
    return math.exp(number) if "log_" in name else number


def _pruner(rule: Any) -> "BasePruner":
    try:
        from optuna.pruners import NopPruner, SuccessiveHalvingPruner
    except ImportError as error:
        raise InputError(
            "method: random and bayes need Optuna; pip install 'blur_lightning[sweeps]'"
        ) from error
    if rule is None:
        return NopPruner()
    if not isinstance(rule, Mapping) or rule.get("type") != "hyperband":
        raise InputError(
            "early_terminate.type: only hyperband is known; give {type: hyperband, ..}"
        )
    numbers = {key: rule[key] for key in ("min_iter", "max_iter", "s", "eta") if key in rule}
    for key, number in numbers.items():
        if not isinstance(number, int) or number < (2 if key == "eta" else 1):
            raise InputError(f"early_terminate.{key}: {number!r} is no whole number that it takes")
    eta = numbers.get("eta", 3)
    if "min_iter" not in numbers and not {"max_iter", "s"} <= numbers.keys():
        raise InputError("early_terminate: give min_iter, or max_iter and s")
    first = numbers.get("min_iter") or max(1, numbers["max_iter"] // eta ** numbers["s"])
    return SuccessiveHalvingPruner(min_resource=first, reduction_factor=eta)
