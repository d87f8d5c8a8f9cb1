"""Every command of README.md and docs/ is one: its words are read, files that it names are there.

What runs them: `make demo`, `fashion`, `segmentation`, `wild`, `bench` and `figures` those without
a placeholder; tests of each verb the others, on small data.
"""

import re
import shlex
from pathlib import Path

import pytest

from blur_lightning.checking import read
from blur_lightning.cli import ANALYSES, LIGHTNING_VERBS, VERBS, read_call
from blur_lightning.errors import InputError
from blur_lightning.lightning_cli import AnalysisCLI

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
PROGRAM = ["python", "-m", "blur_lightning"]


def commands():
    """Commands of the program, by page and line, in blocks of a shell and in the running text."""
    for page in PAGES:
        text = page.read_text(encoding="utf-8").replace("\\\n", " ")
        blocks = re.findall(r"^```sh\n(.*?)^```", text, re.MULTILINE | re.DOTALL)
        lines = [line for block in blocks for line in block.splitlines()]
        lines += re.findall(r"`(python -m blur_lightning [^`]*)`", text.replace("\n", " "))
        for line in lines:
            words = shlex.split(line, comments=True)
            if words[:3] == PROGRAM and "..." not in words:
                yield pytest.param(words[3:], id=f"{page.name}: {' '.join(words[3:])[:60]}")


def files(words):
    return [word for word in words if re.match(r"(experiments|sweeps|docs)/\S+\.\w+$", word)]


def chosen(*verbs):
    """Commands of some verbs, less those that show help or take the settings of an earlier run."""
    return [
        command
        for command in commands()
        if command.values[0][0] in verbs
        and not any(re.search(r"help$|^runs/.*yaml$", word) for word in command.values[0])
    ]


@pytest.mark.parametrize("words", list(commands()))
def test_the_files_that_a_command_names_are_there(words):
    assert all((ROOT / file).exists() for file in files(words))
    assert words[0] in {*LIGHTNING_VERBS, *VERBS, "analyze"}


def test_commands_of_networks_are_such(monkeypatch):
    monkeypatch.chdir(ROOT)
    read([command.values[0] for command in chosen(*LIGHTNING_VERBS)])  # at once: takes one parser


@pytest.mark.parametrize("words", chosen("analyze"))
def test_an_analysis_is_one(words, monkeypatch):
    monkeypatch.chdir(ROOT)
    assert words[1] in ANALYSES
    monkeypatch.setattr(AnalysisCLI, "instantiate_classes", lambda self: None)
    monkeypatch.setattr(AnalysisCLI, "_run_subcommand", lambda self, subcommand: None)
    AnalysisCLI.run(words[1:])


@pytest.mark.parametrize("words", chosen(*VERBS))
def test_any_other_command_is_one(words, monkeypatch):
    monkeypatch.chdir(ROOT)
    function, _, _ = read_call(VERBS[words[0]][0], words)
    assert function.__name__ == VERBS[words[0]][0].partition(":")[2]


def test_there_are_commands():
    assert len(list(commands())) > 30


@pytest.mark.parametrize(
    "words", [["sweep", "a.yaml", "--job", "2"], ["report", "run", "--outs", "page.html"]]
)
def test_an_option_that_is_none_is_told(words):
    with pytest.raises(InputError):
        read_call(VERBS[words[0]][0], words)


def test_every_verb_and_page_is_in_the_readme():
    text = PAGES[0].read_text(encoding="utf-8")
    assert all(f"blur_lightning {verb}" in text for verb in VERBS)
    assert all(f"docs/{page.name}" in text for page in PAGES[1:])


def test_no_line_of_a_page_waits_to_be_filled():
    for page in PAGES:
        assert not re.findall(r"^(?:[A-Z]+_[A-Z_]+|TODO.*|TBD.*)$", page.read_text(), re.MULTILINE)


def test_the_version_is_that_of_the_changelog():
    from blur_lightning import __version__

    released = re.findall(r"^## (\d+\.\d+\.\d+) \((\d{4}-\d\d-\d\d)\)$", _changelog(), re.MULTILINE)
    assert released
    assert released[0][0] == __version__


def _changelog():
    return (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
