"""The command line: Lightning's own for running networks, plain functions for everything else."""

import errno
import gc
import os
import re
import signal
import sys
from collections.abc import Callable, Sequence
from importlib import import_module
from itertools import pairwise
from pathlib import Path
from typing import Any

from blur_lightning.errors import InputError, Terminated

LIGHTNING_VERBS = {
    "fit": "train a network on a mix of blurs, then test it under each condition",
    "validate": "validate a network under the mix that it is trained on",
    "test": "test a network under each condition: robustness.csv in the run's folder",
    "predict": "predict the classes of photographs, and how blurry they are: predictions.csv",
}
ANALYSES = {
    "invariance": "layer by layer, how far each blur moves what a network computes",
    "residuals": "how much a deblurring network changes an image, against its blur",
}
# Verb -> function and what it does; imported when called, so that help and reports need no torch.
VERBS = {
    "init": ("blur_lightning.starting:init", "copy the experiments and sweeps into a folder"),
    "report": ("blur_lightning.report.page:report", "turn the records of runs into one HTML page"),
    "compare": (
        "blur_lightning.records.comparison:compare",
        "tell whether two runs differ, image by image",
    ),
    "export": (
        "blur_lightning.exporting:export",
        "write the network of a checkpoint as safetensors",
    ),
    "sweep": (
        "blur_lightning.sweeps.running:sweep",
        "run all trials of sweep files on this machine",
    ),
    "doctor": ("blur_lightning.doctor:doctor", "say what is here and what experiments need"),
    "blur": ("blur_lightning.copies:write_copies", "write blurred copies of photographs"),
    "shard": ("blur_lightning.data.sharding:write_shards", "write a data set as few large files"),
    "build-wild": (
        "blur_lightning.wild.building:build_wild",
        "make pairs of blurry and sharp images from videos",
    ),
}


_NO_PLACE = {errno.ENOSPC, errno.EDQUOT, errno.EROFS}
# What torch says of a process that loads images, and gloo of one that trains beside this one.
_LOST = re.compile(r"DataLoader worker .*?(?:killed|exited unexpectedly)|Connection closed by peer")


def main(args: Sequence[str] | None = None) -> int:
    """Run one command and return its exit status.

    Args:
        args: Command line without the program; None takes that of the process, which also lets
            Lightning start further processes with it.
    """
    words = sys.argv[1:] if args is None else list(args)
    if not words or words[0] in ("-h", "--help"):
        print(_help())
        return 0 if words else 2
    if words[0] == "--version":
        from blur_lightning import __version__

        print(__version__)
        return 0
    if words[0] in VERBS:
        # What a scheduler sends, or a terminal that is closed, ends a command as Ctrl-C does.
        signal.signal(signal.SIGTERM, signal.default_int_handler)
        if signal.getsignal(signal.SIGHUP) is signal.SIG_DFL:  # not under nohup
            signal.signal(signal.SIGHUP, signal.default_int_handler)
        return _guarded(lambda: _call(VERBS[words[0]][0], words), words)
    if words[0] in LIGHTNING_VERBS:
        return _guarded(lambda: _lightning(args), words)
    if words[0] == "analyze":
        return _analyze(words)
    print(
        f"error: '{words[0]}' is no command; see python -m blur_lightning --help", file=sys.stderr
    )
    return 2


def _help() -> str:
    rows = LIGHTNING_VERBS | {verb: line for verb, (_, line) in VERBS.items()}
    rows["analyze"] = f"what blur does inside a network: {', '.join(ANALYSES)}"
    return "\n".join(
        [
            "usage: python -m blur_lightning COMMAND [options]",
            "",
            "Measure how blur harms vision networks, train networks that withstand it, and deblur.",
            "",
            *(f"  {verb:11} {line}" for verb, line in rows.items()),
            "",
            "  python -m blur_lightning test --config experiments/base.yaml \\",
            "      --config experiments/demo_photos.yaml --model.conditions '[sharp, D4]'",
            "",
            "COMMAND --help lists the options of each; README.md tells the rest.",
        ]
    )


def _call(target: str, words: Sequence[str]) -> Any:
    function, paths, options = read_call(target, words)
    return function(*paths, **options)


def read_call(
    target: str, words: Sequence[str]
) -> tuple[Callable[..., Any], list[Any], dict[str, Any]]:
    """Read a command line for a function, and do not call it.

    Args:
        target: module:name. Its positional parameters take paths, its keywords are options.
        words: The command line from the verb on.

    Returns:
        The function, its paths, and its keywords.

    Raises:
        InputError: The words do not fit.
    """
    from inspect import signature

    from docstring_parser import parse

    from blur_lightning.parsing import OneLineErrorParser

    module, name = target.split(":")
    function = getattr(import_module(module), name)
    documentation = parse(function.__doc__)
    about = {parameter.arg_name: parameter.description for parameter in documentation.params}
    parser = OneLineErrorParser(
        prog=f"python -m blur_lightning {words[0]}",
        description=documentation.description,
        allow_abbrev=False,
    )
    paths = [p for p in signature(function).parameters.values() if p.kind is not p.KEYWORD_ONLY]
    for path in paths:
        several = "+" if path.default is path.empty else "*"
        number: Any = {} if path.annotation is Path else {"nargs": several}
        parser.add_argument(path.name, type=Path, help=about[path.name], **number)
    named: set[str | int] = {path.name for path in paths}
    parser.add_function_arguments(function, skip=named, as_group=False, sub_configs=True)
    flags = {f"--{p.name}" for p in signature(function).parameters.values() if p.annotation is bool}
    options = [
        f"{word}=true" if word in flags and following not in ("true", "false") else word
        for word, following in pairwise([*words[1:], ""])
    ]
    arguments = dict(parser.instantiate(parser.parse_args(options)).items())
    return function, [arguments.pop(path.name) for path in paths], arguments


def _analyze(words: Sequence[str]) -> int:
    if words[1:2] and words[1] in ANALYSES:
        return _guarded(lambda: _lightning(words[1:], "AnalysisCLI"), words)
    lines = [f"  {name:10} {line}" for name, line in ANALYSES.items()]
    print("\n".join(["usage: python -m blur_lightning analyze ANALYSIS [options]", "", *lines]))
    return 0 if words[1:2] in (["-h"], ["--help"]) else 2


def _lightning(args: Sequence[str] | None, name: str = "BlurLightningCLI") -> None:
    # Spinning OpenMP threads slow torch down 5-30 times where cores are shared.
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")
    os.environ.setdefault("GOMP_SPINCOUNT", "0")
    # Lightning's calls, which its users cannot change.
    os.environ.setdefault("JSONARGPARSE_DEPRECATION_WARNINGS", "off")
    from blur_lightning import lightning_cli

    getattr(lightning_cli, name).run(args)


def _guarded(command: Callable[[], Any], words: Sequence[str]) -> int:
    """Run a command; what a user can put right becomes one line and status 2.

    A whole number that a command returns is its status.
    """
    status, line = 0, ""
    try:
        result = command()
        status = result if isinstance(result, int) else 0
    except Terminated as end:
        status = int(end.code or 1)
        line = f"ended by {end.signal}; all is kept, the same command goes on from there"
    except (KeyboardInterrupt, SystemExit) as end:
        # Lightning passes an interrupt on as an exit.
        if isinstance(end, SystemExit) and not isinstance(end.__context__, KeyboardInterrupt):
            raise
        status, line = 130, "interrupted; no file was left half-written"
    except BrokenPipeError:  # whoever read what is printed has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except ModuleNotFoundError as error:
        if str(error.name).startswith("blur_lightning"):
            raise
        status, line = 2, f"{error.name} is missing in this Python; activate the environment "
        line += "(. .venv/bin/activate) or make it (make install)"
    except Exception as error:
        problem = _problem(error, words)
        if problem is None:
            raise
        status, line = 2, problem
    if line:
        # The failed run hangs in cycles; once it is gone its progress bars are closed, and this
        # line is the last.
        gc.collect()
        print(f"\nerror: {line}", file=sys.stderr)
    return status


def _problem(error: Exception, words: Sequence[str]) -> str | None:
    """What the user can put right, or None: a fault of the program."""
    from blur_lightning.parsing import ParseError, explain

    cause: BaseException | None = error
    while cause is not None and not isinstance(cause, InputError):
        cause = cause.__cause__
    if cause is None:
        return _lack(error)
    return explain(cause, words) if isinstance(cause, ParseError) else str(cause)


def _lack(error: BaseException | None) -> str | None:
    """What the machine lacks, where that is behind an error: room on a disk, or a process."""
    from blur_lightning.records.writing import unwritable

    while error is not None:
        if isinstance(error, OSError) and error.errno in _NO_PLACE:
            return str(unwritable(Path(error.filename or "the disk"), error))
        if isinstance(error, RuntimeError) and (lost := _LOST.search(str(error))):
            return f"{lost[0]} (memory?); the same command goes on from what is kept"
        error = error.__cause__ or error.__context__
    return None
