"""Argument parsers that answer a mistake with one line instead of the whole usage."""

import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NoReturn

import yaml
from jsonargparse import ArgumentParser

from blur_lightning.errors import InputError
from blur_lightning.yaml_files import read_yaml

LONGEST = 300


class ParseError(InputError):
    """The command line or a config file does not fit the parser; holds jsonargparse's report."""


class OneLineErrors:
    """Mixin for jsonargparse's parsers: a mistake raises instead of printing the usage."""

    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        """Raise the report; the parsers of the arguments above this one wrap it in theirs."""
        raise ParseError(message)

    def parse_args(self, *arguments: Any, **options: Any) -> Any:
        """Parse words; null stays null where a class is an argument of another one.

        jsonargparse 4.53 reads it there, and hands it on to the parser of the inner class as the
        word None, which passes for a text.
        """
        if arguments and arguments[0] is not None:
            words = [re.sub(r"^(--[\w.]+=)None$", r"\1null", word) for word in arguments[0]]
            for file in _config_files(words):
                read_yaml(file)  # tells more of what is wrong with it, and in one line
            arguments = (words, *arguments[1:])
        return super().parse_args(*arguments, **options)  # type: ignore[misc]


class OneLineErrorParser(OneLineErrors, ArgumentParser):
    """The parser of the plain commands."""


def one_line(message: Any) -> str:
    """Put a message on one line of bearable length, without Python's spelling of types."""
    text = re.sub(r"<class '(?:\w+\.)*(\w+)'>", r"\1", str(message))
    text = re.sub(r"(?:\w+\.)*Literal\[(.*?)\]", r"\1", text).replace("NoneType", "null")
    text = " ".join(text.split())
    return text if len(text) <= LONGEST else text[:LONGEST] + " ..."


def explain(error: ParseError, words: Sequence[str]) -> str:
    """Say in one line which key is wrong, where it stands, and why.

    jsonargparse names no file, and of an unknown key the last part only.

    Args:
        error: What the parser said.
        words: The command line.
    """
    files = list(_config_files(words))
    key, reason = _key_and_reason(str(error))
    place = _place(key, words, files)
    if "no such option" in reason and place.startswith("--model.net."):
        # What a function takes as **kwargs is known to nobody before it is called.
        leaf = place.split(".")[-1]
        reason += f"; an argument that is only handed on is --model.net.dict_kwargs.{leaf}"
    return one_line(f"{place}: {reason}" if key else reason)


def _key_and_reason(report: str) -> tuple[str, str]:
    """Follow a nested report down to its innermost reason."""
    unknown = re.search(r"Option '(.*?)' is not accepted", report)
    if unknown:
        return unknown[1], "there is no such option"
    keys, lines = [], [line.strip(" -") for line in report.splitlines() if line.strip(" -")]
    for number, line in enumerate(lines):
        key = re.match(r'Parser key "(.*?)":\s*', line)
        if key:
            keys.append(key[1])
            line = line[key.end() :]
        missing = re.match(r"Expected a path but (\S+) ", line)
        if not line:
            continue
        if missing:
            return ".".join(
                keys
            ), f"{missing[1]} is neither a file nor a class that can be imported"
        elif line.startswith("Subtypes:") and not any(
            "Parser key" in x or "are required:" in x for x in lines[number + 1 :]
        ):
            value = re.search(r"Given value: (.*)", report)
            types = line.removeprefix("Subtypes: [").removesuffix("]")
            return ".".join(keys), f"{value[1] if value else ''!r} is none of: {types}"
        elif not line.startswith(("Does not validate", "Subtypes:", "Errors:")):
            return ".".join(keys), line
    return ".".join(keys), report


def _place(key: str, words: Sequence[str], files: Sequence[Path]) -> str:
    """Find the option, or the config file and the path in it, that ends like a key."""
    leaf = key.split(".")[-1]
    for word in words:
        option = word.split("=")[0]
        if option.startswith("--") and option.lstrip("-").split(".")[-1] == leaf:
            return option
    for file in reversed(files):
        for path in _paths(yaml.safe_load(file.read_text(encoding="utf-8"))):
            if path.split(".")[-1] == leaf:
                return f"{file}: {path}"
    return key


def left_behind(key: str, words: Sequence[str]) -> set[str]:
    """Arguments of a class that were stated for another class before it was replaced.

    jsonargparse hands them on where the new class has arguments of the same names: an AdamW takes
    over the weight decay of the SGD in a config file, and nobody asked for it.

    Args:
        key: Of the class, without init_args: model.optimizer.
        words: The command line.
    """
    current, stated, left = None, set[str](), set[str]()
    for name, value in _assignments(words):
        if name == key and isinstance(value, str):
            value = value.rsplit(".", 1)[-1]  # SGD is torch.optim.SGD
            if current is not None and value != current:
                left, stated = left | stated, set()
            current = value
        elif name.startswith(f"{key}."):
            stated.add(name.removeprefix(f"{key}."))
    return left - stated


def _assignments(words: Sequence[str]) -> Iterator[tuple[str, Any]]:
    """All settings of a command line and its config files, in order, as (a.b.c, value)."""
    for number, word in enumerate(words):
        option, equals, value = word.partition("=")
        if not option.startswith("--"):
            continue
        value = value if equals else "".join(words[number + 1 : number + 2])
        name = "" if option in ("--config", "-c") else option.removeprefix("--")
        yield from _flat(name, value, Path())


def _flat(name: str, value: Any, folder: Path) -> Iterator[tuple[str, Any]]:
    if isinstance(value, str) and value.endswith((".yaml", ".yml")):
        path = folder / value
        if path.is_file():
            value, folder = yaml.safe_load(path.read_text(encoding="utf-8")), path.parent
    elif isinstance(value, str) and value.startswith("{"):
        value = yaml.safe_load(value)
    if not isinstance(value, dict):
        yield re.sub(r"\.(init_args|dict_kwargs)\b", "", name).removesuffix(".class_path"), value
        return
    for key, inner in sorted(value.items(), key=lambda item: item[0] != "class_path"):
        yield from _flat(f"{name}.{key}" if name else key, inner, folder)


def _config_files(words: Sequence[str]) -> Iterator[Path]:
    """All YAML files that a command line names, and those that they name in turn."""
    for word in words:
        path = Path(word.split("=")[-1])
        if path.suffix in (".yaml", ".yml") and path.is_file():
            yield path
            text = path.read_text(encoding="utf-8", errors="replace")
            named = re.findall(r"^\s*\w+:\s*(\S+\.ya?ml)\s*$", text, re.MULTILINE)
            yield from (path.parent / name for name in named if (path.parent / name).is_file())


def _paths(node: Any, prefix: str = "") -> Iterator[str]:
    for key, value in node.items() if isinstance(node, dict) else ():
        yield f"{prefix}{key}"
        yield from _paths(value, f"{prefix}{key}.")
