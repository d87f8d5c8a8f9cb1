"""Records of test runs to a report on W&B, with the curves of the local page.

The records say what was measured; the values are those that the runs have logged there. W&B's
`wandb-workspaces` makes the report: the extra `wandb-reports`.
"""

import re
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from blur_lightning.errors import InputError
from blur_lightning.online import RUN_ID, mode
from blur_lightning.parsing import one_line
from blur_lightning.records.curves import (
    Panel,
    curve_of,
    measure_of,
    metrics_of,
    panels_of,
    sections_of,
)
from blur_lightning.records.robustness import Record

if TYPE_CHECKING:
    from wandb_workspaces.reports.v2 import LinePlot, Report, Runset

TITLE = "Robustness to blur"
MIX = "provenance.trained_on"  # where a run's configuration on W&B says what it was trained on
Runs = Mapping[str, Sequence[Record]]  # by the run's id on W&B


class Place(NamedTuple):
    """A project on W&B."""

    entity: str
    project: str

    def __str__(self) -> str:
        return f"{self.entity}/{self.project}"


class Network(NamedTuple):
    """What has a part of the report of its own."""

    dataset: str
    model: str
    scale: str  # px of the network's input


def read_place(text: str) -> Place:
    """Read ENTITY/PROJECT; anything else is an InputError."""
    # W&B's own rule for the names of projects.
    match = re.fullmatch(r"([^\s/\\#?%:]+)/([^/\\#?%:]+)", text)
    if match is None:
        raise InputError(f"--wandb: '{text}' is no project of W&B; give ENTITY/PROJECT")
    return Place(*match.groups())


def save_report(records: Mapping[Path, Sequence[Record]], place: Place) -> str:
    """Save a report of runs on W&B; returns its address.

    Args:
        records: By the folders of the runs, which hold their ids on W&B.
        place: The project that the runs belong to, which gets the report.

    Raises:
        InputError: The package is missing, W&B is not online or refuses, or does not have a run.
    """
    if not records:
        raise InputError("--wandb: nothing to report; name the folder of a test run")
    try:
        import wandb
        import wandb_workspaces.reports.v2  # noqa: F401
    except ImportError:
        raise InputError(
            "--wandb: wandb-workspaces is missing; pip install 'blur_lightning[wandb-reports]'"
        ) from None
    folders = {_run_id(folder): folder for folder in records}
    chosen, reason = mode()
    if chosen != "online":
        raise InputError(f"--wandb: {place} cannot be reached ({reason}); leave --wandb out")
    report = make_report({i: records[folder] for i, folder in folders.items()}, place)
    try:
        found = wandb.Api().runs(str(place), filters={"name": {"$in": [*folders]}})
        missing = folders.keys() - {run.id for run in found}
        if not missing:
            report.save()
            return report.url.replace(" ", "%20")
    except Exception as error:  # W&B's own are of many kinds
        raise InputError(f"--wandb: no report in {place}: {one_line(error)}") from error
    run = min(missing)
    raise InputError(
        f"--wandb: {place} has no run {run}, which is {folders[run]}; name its project, or upload "
        f"it: wandb sync {folders[run]}/wandb/*run-*-{run}"
    )


def _run_id(folder: Path) -> str:
    file = folder / RUN_ID
    run = file.read_text(encoding="utf-8").strip() if file.is_file() else ""
    if not run:
        raise InputError(
            f"{file}: missing, so W&B has no run of this folder; leave it out, or repeat its test "
            "with tracking"
        )
    return run


def make_report(runs: Runs, place: Place) -> "Report":
    """Lay a report out; nothing is asked of W&B.

    Each network on each data set has a grid of plots for each family of blurs, one plot for each
    metric, where the local page has a panel. A line is the mean of the runs of one training mix.

    Args:
        runs: Records by the ids of their runs.
        place: The project of the runs.
    """
    import wandb_workspaces.reports.v2 as v2

    networks: dict[Network, dict[str, list[Record]]] = {}
    for run, records in runs.items():
        for record in records:
            network = Network(record.dataset, record.model, record.scale)
            networks.setdefault(network, {}).setdefault(run, []).append(record)
    about = (
        f"{_count(len(runs), 'run')} of {place}. A line is the mean of the runs that were trained "
        "on one mix of blurs, over the runs themselves. Accuracies and other shares are fractions."
    )
    blocks: list[Any] = [v2.P(about), v2.TableOfContents()]
    for network, own in networks.items():
        blocks += _network_blocks(network, own, place)
    panels: list[Any] = [
        v2.WeavePanelSummaryTable(table_name="conditions", layout=v2.Layout(w=24, h=12)),
        v2.MediaBrowser(media_keys=["examples"], layout=v2.Layout(w=24, h=12)),
        v2.RunComparer(diff_only="split", layout=v2.Layout(w=24, h=12)),
    ]
    grid = v2.PanelGrid(runsets=[_runset("all runs", runs, place)], panels=panels)
    blocks += [v2.H1("Conditions, pictures and settings"), grid]
    return v2.Report(
        entity=place.entity,
        project=place.project,
        title=TITLE,
        description=f"Drawn from {_count(len(runs), 'run')} by blur_lightning.",
        blocks=blocks,
        width="fluid",
    )


def _network_blocks(network: Network, runs: Runs, place: Place) -> list[Any]:
    """The heading, a line of text and the grids of one network on one data set."""
    import wandb_workspaces.reports.v2 as v2

    (section,) = sections_of(record for records in runs.values() for record in records)
    mixes = []
    for line, cells in section.lines.items():
        cell = next(iter(cells.values()))
        mixes.append(f"{line.trained_on} ({_count(cell.runs, 'run')}, n = {cell.n})")
    grids: dict[str, list[Any]] = {}
    for metric in metrics_of([section]):
        for panel in panels_of(section, metric):
            grids.setdefault(panel.axis, []).append(_plot(panel, len(runs)))
    blocks: list[Any] = [
        v2.H1(f"{network.model} on {network.dataset}"),
        v2.P(f"Input: {network.scale} px. Trained on {', '.join(mixes)}."),
    ]
    for axis, plots in grids.items():
        runset = _runset(network.model, runs, place)
        blocks += [v2.H2(axis), v2.PanelGrid(runsets=[runset], panels=plots)]
    return blocks if grids else [*blocks, v2.P("No blur was tested at two strengths.")]


def _plot(panel: Panel, runs: int) -> "LinePlot":
    """One metric over the strength of one family of blurs, as `Tracker` logs it."""
    import wandb_workspaces.reports.v2 as v2

    measure = measure_of(panel.metric)
    curve = curve_of(panel.section.conditions[[*panel.points.values()][-1]])
    return v2.LinePlot(
        title=measure.title,
        x=f"curve/{curve}/parameter",
        y=[f"curve/{curve}/{panel.metric}"],
        title_x=panel.axis,
        title_y=measure.unit if measure.factor == 1 else "fraction",
        range_y=(0.0, measure.top / measure.factor) if measure.top else (None, None),
        groupby=v2.Config(MIX),
        groupby_aggfunc="mean",
        groupby_rangefunc="samples",
        max_runs_to_show=runs,  # W&B's own limit is 10
    )


def _runset(name: str, runs: Collection[str], place: Place) -> "Runset":
    import wandb_workspaces.reports.v2 as v2

    # Read as Python by W&B's package, so an id is quoted as Python does.
    filters = f'Metric("ID") in {[*runs]!r}'
    return v2.Runset(entity=place.entity, project=place.project, name=name, filters=filters)


def _count(number: int, what: str) -> str:
    return f"{number:,} {what}" + "s" * (number != 1)
