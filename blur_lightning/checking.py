"""Reads command lines of fit, validate, test and predict, and runs nothing.

A program of its own, so that `sweep` and `doctor` need neither torch nor its memory: it takes a
list of command lines, each a list of words, as JSON on its standard input.
"""

import functools
import json
import sys
from collections.abc import Sequence
from typing import Any

from jsonargparse import Namespace
from lightning.pytorch.cli import LightningArgumentParser
from typing_extensions import override

from blur_lightning.blur import BlurDistribution
from blur_lightning.blur.conditions import parse_conditions
from blur_lightning.errors import InputError
from blur_lightning.lightning_cli import BlurLightningCLI
from blur_lightning.parsing import ParseError, explain

_VALIDATION = ("max_epochs", "check_val_every_n_epoch", "limit_val_batches")


class _Reader(BlurLightningCLI):
    """Parses, and makes nothing of what it has read."""

    @override
    def instantiate_classes(self) -> None:
        pass

    @override
    def _run_subcommand(self, subcommand: str) -> None:
        pass


def read(commands: Sequence[Sequence[str]]) -> list[dict[str, Any]]:
    """Read command lines as the commands do, and the names of their blurs.

    Args:
        commands: Words of each, from the command on: fit, --config, ...

    Returns:
        Of each what the part `trainer` of its configuration says of validation.

    Raises:
        InputError: One cannot be read; the message names the option, or the file and the key.
    """
    trainers = []
    for words in commands:
        try:
            config = _parser(tuple(commands[0])).parse_args(list(words))
        except ParseError as error:
            raise InputError(explain(error, words)) from error
        config = config[str(config.subcommand)]
        _check_blurs(config)
        trainer = config.trainer.as_dict()
        trainers.append({key: trainer.get(key) for key in _VALIDATION})
    return trainers


@functools.cache  # takes longer to make than to use
def _parser(words: tuple[str, ...]) -> LightningArgumentParser:
    """The parser of all commands, which Lightning makes for a command line that can be read."""
    _Reader.words = words
    return _Reader._run(words).parser


def _check_blurs(config: Namespace) -> None:
    data, model = (config[key].get("init_args", Namespace()) for key in ("data", "model"))
    for key in ("blur", "val_blur"):
        if isinstance(data.get(key), str):
            _named(f"data.{key}", BlurDistribution.parse, data[key])
    if isinstance(model.get("conditions"), list):
        _named("model.conditions", parse_conditions, model["conditions"])


def _named(key: str, parse: Any, value: Any) -> None:
    try:
        parse(value)
    except InputError as error:
        raise InputError(f"{key}: {str(error).removeprefix(f'{key}: ')}") from error


def main() -> int:
    """Read the command lines, and print what `read` returns as JSON; 2 if one is wrong."""
    try:
        print(json.dumps(read(json.load(sys.stdin))))
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
