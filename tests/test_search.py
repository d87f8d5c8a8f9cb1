import json
import math
from pathlib import Path
from statistics import mean

import pytest
from scipy import stats

from blur_lightning.errors import InputError
from blur_lightning.sweeps.search import Search, parameters_of, read_axes
from blur_lightning.sweeps.trials import Trial, outcome, record

pytest.importorskip("optuna")
METRIC = {"name": "val/top1", "goal": "maximize"}
PLANE = {"x": {"min": 0.0, "max": 1.0}, "y": {"min": 0.0, "max": 1.0}}


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def make(folder, parameters, draw):
    return Trial(folder, parameters, ["train"], METRIC["name"], draw)


def search(*, count=40, seed=None, **changes):
    content = {"method": "bayes", "metric": METRIC, "parameters": PLANE, **changes}
    return Search(content, Path("runs/s"), make, count=count, seed=seed)


def hill(parameters):
    """Highest, at 0, where x = 0.3 and y = 0.8."""
    return -((parameters["x"] - 0.3) ** 2) - (parameters["y"] - 0.8) ** 2


def finish(searching, number, value=hill):
    """Run what is left of a search, up to a number of trials, in no time."""
    ended, interrupted = searching.resume()
    trials = list(interrupted)
    drawn = searching.draw([*ended, *interrupted])
    done = list(ended)
    while len(done) < number:
        trial = trials.pop(0) if trials else next(drawn)
        record(trial, "finished", value=value(trial.parameters), values=[])
        searching.follow(trial, outcome(trial))
        done.append(trial)
    return [trial.parameters for trial in done]


def sample(axis, number, **changes):
    searching = search(method="random", parameters={"x": axis}, count=number, **changes)
    return [trial.parameters["x"] for trial in searching.draw([])]


@pytest.mark.parametrize(
    ("axis", "drawn", "value"),
    [
        ({"value": "sharp"}, 0, "sharp"),
        ({"distribution": "constant", "value": None}, 0, None),
        ({"values": ["a", [1, 2], None]}, 1, [1, 2]),
        ({"values": ["a", "b", "c"], "probabilities": [0.1, 0.2, 0.7]}, 0.05, "a"),
        ({"values": ["a", "b", "c"], "probabilities": [0.1, 0.2, 0.7]}, 0.31, "c"),
        ({"values": ["a", "b"], "probabilities": [0.1, 0.9]}, 1.0, "b"),
        ({"min": 2.0, "max": 4}, 0.25, 2.5),
        ({"min": 1, "max": 3}, 0.0, 1),
        ({"min": 1, "max": 3}, 0.34, 2),
        ({"min": 1, "max": 3}, 1.0, 3),
        ({"min": -3, "max": -1}, 0.99, -1),
        ({"distribution": "uniform", "min": 1, "max": 3}, 0.25, 1.5),
        ({"distribution": "q_uniform", "min": 0, "max": 1, "q": 0.1}, 0.33, 0.3),
        ({"distribution": "q_uniform", "min": 0, "max": 100, "q": 32}, 0.5, 64),
        ({"distribution": "log_uniform", "min": 0, "max": 2}, 0.5, 2.71828),
        ({"distribution": "inv_log_uniform", "min": 0, "max": 2}, 0.5, 0.367879),
        ({"distribution": "log_uniform_values", "min": 1e-4, "max": 1e-2}, 0.5, 1e-3),
        ({"distribution": "inv_log_uniform_values", "min": 1e-4, "max": 1e-2}, 0.25, 3.16228e-4),
        ({"distribution": "q_log_uniform_values", "min": 1, "max": 64, "q": 4}, 0.5, 8),
        ({"distribution": "q_log_uniform", "min": 0, "max": 4}, 0.5, 7),
        ({"distribution": "normal", "mu": 3, "sigma": 2}, 0.841345, 5.0),
        ({"distribution": "q_normal", "mu": 3, "sigma": 2}, 0.8, 5),
        ({"distribution": "log_normal"}, 0.5, 1.0),
        ({"distribution": "q_log_normal", "q": 0.5}, 0.8, 2.5),
    ],
)
def test_a_draw_stands_for_a_value(axis, drawn, value):
    found = parameters_of(read_axes({"x": axis}), {"x": drawn})["x"]
    assert found == (pytest.approx(value, rel=1e-5) if isinstance(value, float) else value)
    assert type(found) is type(value)


def test_infinite_quantiles_give_finite_numbers():
    axes = read_axes({"x": {"distribution": "normal"}})
    assert -6 < parameters_of(axes, {"x": 0.0})["x"] < -4
    assert 4 < parameters_of(axes, {"x": 1.0})["x"] < 6


@pytest.mark.parametrize(
    ("axis", "reference"),
    [
        ({"min": 2.0, "max": 5.0}, stats.uniform(2, 3)),
        (
            {"distribution": "log_uniform_values", "min": 1e-5, "max": 1e-1},
            stats.loguniform(1e-5, 1e-1),
        ),
        ({"distribution": "normal", "mu": -1, "sigma": 3}, stats.norm(-1, 3)),
        ({"distribution": "log_normal", "mu": 1, "sigma": 0.5}, stats.lognorm(0.5, 0, math.e)),
    ],
    ids=lambda x: getattr(x, "dist", x) if not isinstance(x, dict) else x.get("distribution"),
)
def test_random_search_samples_the_distribution(axis, reference):
    assert stats.kstest(sample(axis, 150, seed=1), reference.cdf).pvalue > 0.01


def test_random_search_keeps_to_the_probabilities():
    drawn = sample({"values": ["a", "b"], "probabilities": [0.2, 0.8]}, 150, seed=0)
    assert stats.binomtest(drawn.count("a"), 150, 0.2).pvalue > 0.01


def test_draws_repeat_and_do_not_depend_on_how_many_follow():
    first = sample(PLANE["x"], 5)
    assert sample(PLANE["x"], 8)[:5] == first
    assert len(set(first)) == 5
    assert not set(sample(PLANE["x"], 5, seed=7)) & set(sample(PLANE["x"], 5, seed=8))
    assert sample({"min": 0.0, "max": 0.9}, 1)[0] != pytest.approx(0.9 * first[0], rel=1e-3)


def finish_afresh(searching, number, **changes):
    for file in Path("runs").rglob("trial.json"):
        file.unlink()
    return finish(searching, number, **changes)


def test_bayesian_search_looks_where_it_is_good():
    late = {
        method: mean(
            hill(parameters)
            for seed in (0, 1, 2)
            for parameters in finish_afresh(search(method=method, seed=seed), 40)[20:]
        )
        for method in ("random", "bayes")
    }
    assert late["bayes"] > late["random"] / 2  # both are negative


def test_a_minimum_is_searched_like_a_maximum():
    metric = {"name": "val/loss"}  # goal: minimize is W&B's default
    highest = finish_afresh(search(), 24)
    assert finish_afresh(search(metric=metric), 24, value=lambda p: -hill(p)) == highest
    assert finish_afresh(search(metric=metric), 24) != highest


@pytest.mark.parametrize("method", ["random", "bayes"])
def test_a_search_that_was_stopped_goes_on_as_if_it_had_not_been(method):
    whole = finish(search(method=method), 24)
    for number in range(14, 25):
        Path(f"runs/s/trial-{number:03d}/trial.json").unlink()
    searching = search(method=method)
    assert len(searching.resume()[0]) == 13
    again = finish(search(method=method), 24)
    assert again == whole


def test_trials_that_did_not_end_well_are_run_again_with_their_parameters():
    trials = list(search(count=3).draw([]))
    for trial, status in zip(trials, ("finished", "failed", "started"), strict=True):
        record(trial, status, value=0.0, values=[])
    ended, interrupted = search(count=4).resume()
    assert (ended, interrupted) == (trials[:1], trials[1:])


def test_trials_of_other_parameters_are_not_known():
    trial = next(search().draw([]))
    record(trial, "finished", value=0.0, values=[])
    assert search().resume() == ([trial], [])
    wider = {**PLANE, "x": {"min": 0.0, "max": 2.0}}
    assert search(parameters=wider).resume() == ([], [])
    assert search(parameters={"x": PLANE["x"]}).resume() == ([], [])
    (trial.folder / "trial.json").write_text("{")
    assert search().resume() == ([], [])


def progress(searching, trial, *values):
    return searching.follow(trial, {"status": "started", "values": list(values)})


def test_a_trial_behind_the_best_third_is_ended_at_the_first_rung_and_not_before():
    searching = search(early_terminate={"type": "hyperband", "min_iter": 2})
    trials = searching.draw([])
    good, bad, better = next(trials), next(trials), next(trials)
    assert not progress(searching, good, 0.5, 0.6)
    assert not progress(searching, bad, 0.1)
    assert progress(searching, bad, 0.1, 0.2)
    assert not progress(searching, better, 0.1, 0.7, 0.7)
    record(bad, "pruned", values=[0.1, 0.2], value=0.2)
    searching.follow(bad, outcome(bad))


@pytest.mark.parametrize(
    ("rule", "last"),
    [({"min_iter": 3}, 2), ({"max_iter": 27, "s": 2}, 2), ({"max_iter": 16, "s": 2, "eta": 4}, 0)],
)
def test_the_first_rung_is_that_of_hyperband(rule, last):
    searching = search(early_terminate={"type": "hyperband", **rule})
    trials = searching.draw([])
    good, bad = next(trials), next(trials)
    progress(searching, good, *[1.0] * 9)
    assert not progress(searching, bad, *[0.0] * last)
    assert progress(searching, bad, *[0.0] * (last + 1))


def test_what_a_stopped_search_knew_of_early_values_is_known_again():
    rule = {"type": "hyperband", "min_iter": 2}
    before = next(search(early_terminate=rule).draw([]))
    record(before, "finished", values=[0.5, 0.6, 0.7], value=0.7)
    searching = search(early_terminate=rule)
    ended, _ = searching.resume()
    trial = next(searching.draw(ended))
    assert progress(searching, trial, 0.5, 0.5)


def test_a_goal_that_is_a_minimum_ends_the_high():
    rule = {"type": "hyperband", "min_iter": 1}
    searching = search(early_terminate=rule, metric={"name": "val/loss", "goal": "minimize"})
    trials = searching.draw([])
    assert not progress(searching, next(trials), 0.5)
    assert progress(searching, next(trials), 0.6)


def test_a_trial_without_a_number_does_not_end_the_search():
    found = finish(search(), 15, value=lambda p: math.nan if p["x"] > 0.5 else hill(p))
    assert len(found) == 15


def test_the_count_is_that_of_the_file_unless_stated():
    assert search(count=None, run_cap=7).count == 7
    assert search(count=3, run_cap=7).count == 3


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"count": None}, "count: a search has no end of its own; give --count N or run_cap"),
        ({"count": None, "run_cap": "many"}, "count: "),
        ({"metric": None}, r"metric: none; give one, as \{name"),
        ({"metric": {"name": "a", "goal": "best"}}, r"metric\.goal: best, but it is minimize"),
        ({"parameters": {}}, "parameters: none"),
        ({"early_terminate": {"type": "median"}}, r"early_terminate\.type: only hyperband"),
        ({"early_terminate": {"type": "hyperband"}}, "early_terminate: give min_iter, or max_iter"),
        (
            {"early_terminate": {"type": "hyperband", "min_iter": 0}},
            r"early_terminate\.min_iter: 0 is no",
        ),
        (
            {"early_terminate": {"type": "hyperband", "min_iter": 1, "eta": 1}},
            r"early_terminate\.eta: 1",
        ),
        (
            {"early_terminate": {"type": "hyperband"}, "metric": {"name": "test/D4/top1"}},
            r"early_terminate: test/D4/top1 is known at the end only",
        ),
    ],
)
def test_a_mistake_in_a_search_is_one_line(changes, message):
    with pytest.raises(InputError, match=f"^{message}") as caught:
        search(**changes)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("axis", "message"),
    [
        (1, r"parameters\.x: needs value:"),
        ({"min": 1}, r"parameters\.x: uniform needs max"),
        ({"distribution": "zipf"}, r"parameters\.x\.distribution: zipf is unknown; use constant"),
        ({"distribution": "normal", "sigma": 0}, r"parameters\.x\.sigma: 0; give more than 0"),
        ({"min": "1e-5", "max": 1}, r"parameters\.x\.min: '1e-5' is no number; YAML reads 1\.0e-5"),
        ({"min": 0, "max": True}, r"parameters\.x\.max: True is no number"),
        ({"min": 2, "max": 1}, r"parameters\.x\.min: 2 is more than max"),
        (
            {"distribution": "log_uniform_values", "min": 0, "max": 1},
            r"parameters\.x\.min: 0 has no logarithm",
        ),
        ({"values": "sharp"}, r"parameters\.x\.values: 'sharp'; give a list"),
        ({"values": [1, 2], "probabilities": [0.5]}, r"parameters\.x\.probabilities: give one for"),
        ({"values": [1, 2], "probabilities": [0.5, 0.6]}, r"parameters\.x\.probabilities: .* 1"),
    ],
)
def test_a_mistake_in_a_parameter_is_one_line(axis, message):
    with pytest.raises(InputError, match=f"^{message}") as caught:
        read_axes({"x": axis})
    assert "\n" not in str(caught.value)


def test_optuna_is_asked_for_by_name(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "optuna.pruners", None)
    with pytest.raises(InputError, match=r"pip install 'blur_lightning\[sweeps\]'"):
        search()


def test_a_record_gives_back_its_draw():
    trial = next(search().draw([]))
    record(trial, "started")
    content = json.loads((trial.folder / "trial.json").read_text())
    assert content["draw"] == trial.draw
    assert content["draw"].keys() == PLANE.keys()
