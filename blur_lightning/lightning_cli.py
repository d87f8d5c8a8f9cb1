"""Lightning's command line, with its known traps closed.

What each override is for was found with lightning 2.6 and jsonargparse 4.53; a test holds each.
"""

import inspect
import logging
import os
import re
import sys
import warnings
from collections.abc import Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

import yaml
from jsonargparse import Namespace
from lightning import LightningModule
from lightning.pytorch import Trainer as LightningTrainer
from lightning.pytorch.cli import LightningArgumentParser, LightningCLI, SaveConfigCallback
from lightning.pytorch.utilities.exceptions import MisconfigurationException
from typing_extensions import override

from blur_lightning.checkpoint_choice import checkpoint_to_use, read_weights
from blur_lightning.data import BlurDataModule
from blur_lightning.errors import InputError
from blur_lightning.parsing import OneLineErrors, left_behind, one_line
from blur_lightning.records.robustness import replacing
from blur_lightning.tasks import Task
from blur_lightning.tasks.networks import network_name
from blur_lightning.trainer import Trainer

# Said by our dependencies to each other (lightning 2.6, torch 2.15), or meant to be so: runs share
# their folder, predictions are written and not returned.
UNHELPFUL = (
    r".*treespec, LeafSpec.*",
    r"Checkpoint directory .* exists and is not empty",
    r"The dirpath has changed from",
    r"predict returned None",
    r"You are using a custom batch sampler `ShapeBatches`",
    r"You requested to overfit but enabled",
    r"Precision .* is not supported by the model summary",
    r"It is recommended to use `self.log\('test/",  # the same on all processes
    r"LightningCLI's args parameter is intended",  # analyze hands on the words behind it
)


class Parser(OneLineErrors, LightningArgumentParser):
    """Lightning's parser with errors of one line."""


class SaveConfig(SaveConfigCallback):
    """Writes <command>.yaml to the run's folder: that file alone repeats the run."""

    @override
    def save_config(
        self, trainer: LightningTrainer, pl_module: LightningModule, stage: str
    ) -> None:
        path = Path(trainer.default_root_dir) / self.config_filename
        with replacing(path) as temporary:
            temporary.write_text(self.parser.dump(self.config, skip_unset=False), encoding="utf-8")


class BlurLightningCLI(LightningCLI):
    """fit, validate, test and predict."""

    words: Sequence[str] = ()
    prog = "python -m blur_lightning"

    @classmethod
    def run(cls, args: Sequence[str] | None = None) -> "BlurLightningCLI":
        """Parse and run one of Lightning's commands; None takes the process's arguments."""
        for message in UNHELPFUL:
            warnings.filterwarnings("ignore", message=message)
        logging.getLogger("lightning.pytorch.utilities.rank_zero").addFilter(_is_no_advertisement)
        cls.words = list(sys.argv[1:] if args is None else args)
        try:
            return cls._run(args)
        except MisconfigurationException as error:  # Lightning's word for a user's mistake
            raise InputError(one_line(error)) from error

    @classmethod
    def _run(cls, args: Sequence[str] | None) -> "BlurLightningCLI":
        return cls(
            Task,
            BlurDataModule,
            trainer_class=Trainer,
            save_config_callback=SaveConfig,
            save_config_kwargs={"save_to_log_dir": False},
            parser_class=Parser,
            # --trainer.max_epoch must not pass for max_epochs.
            parser_kwargs={"allow_abbrev": False, "prog": cls.prog},
            seed_everything_default=0,
            subclass_mode_model=True,
            subclass_mode_data=True,
            auto_configure_optimizers=False,
            # Hyper-parameters are in the saved config; a checkpoint holds weights and state only.
            load_from_checkpoint_support=False,
            args=None if args is None else list(args),
        )

    @override
    def _parse_ckpt_path(self) -> None:
        """Do nothing: Lightning would let the checkpoint's settings override the command line's."""

    @override
    def before_instantiate_classes(self) -> None:
        # Trials of a W&B agent get a folder each.
        sweep, run = (os.environ.get(f"WANDB_{name}_ID") for name in ("SWEEP", "RUN"))
        if sweep and run and not any("default_root_dir" in word for word in self.words):
            folder = f"runs/sweeps/{sweep}/{run}"
            self.config[str(self.subcommand)].trainer.default_root_dir = folder
        self.save_config_kwargs["config_filename"] = f"{self.subcommand}.yaml"
        model = self.config[str(self.subcommand)].model.get("init_args", {})
        for name in ("net", "restore", "loss", "adversary", "optimizer", "lr_scheduler"):
            if model.get(name) is not None:
                _forget_former_class(model[name], f"model.{name}", self.words)

    @override
    def instantiate_classes(self) -> None:
        try:
            super().instantiate_classes()
        except (ValueError, TypeError, RuntimeError, OSError, ImportError) as error:
            if os.environ.get("JSONARGPARSE_DEBUG"):  # as in jsonargparse: show the traceback
                raise
            raise InputError(_construction_problem(error)) from error
        config = self.config[str(self.subcommand)]
        if config.model.init_args.get("name") is None:
            self.model.name = _network_name(config.model.init_args.net, self.model.net)
        self.model.run_config = yaml.safe_load(self._parser(self.subcommand).dump(config))

    def before_fit(self) -> None:
        """Look at the checkpoint before anything is trained."""
        self._check_checkpoint()

    def before_validate(self) -> None:
        """Look at the checkpoint before data is read."""
        self._check_checkpoint(required=True)

    before_test = before_predict = before_validate

    def _check_checkpoint(self, *, required: bool = False) -> None:
        config = self.config_init[str(self.subcommand)]
        config["ckpt_path"] = checkpoint_to_use(
            config.get("ckpt_path"),
            verb=str(self.subcommand),
            trainer=self.trainer,
            model=self.model,
            settings=lambda: self._parser("fit").dump(self.config["fit"], skip_unset=False),
            tests=config.get("test", True),
            required=required,
        )


class AnalysisCLI(BlurLightningCLI):
    """What follows analyze."""

    prog = "python -m blur_lightning analyze"

    @staticmethod
    @override
    def subcommands() -> dict[str, set[str]]:
        return {name: {"model", "datamodule"} for name in ("invariance", "residuals")}

    @override
    def before_instantiate_classes(self) -> None:
        super().before_instantiate_classes()
        trainer = self.config[str(self.subcommand)].trainer
        if trainer.devices == "auto":
            trainer.devices = 1

    def before_invariance(self) -> None:
        """Look at the checkpoints before data is read."""
        files = self.config_init[str(self.subcommand)].ckpt_path or []
        for file in [files] if isinstance(files, str) else files:
            if not Path(file).is_file():
                raise InputError(f"ckpt_path: there is no checkpoint {file}; name a file")
            read_weights(Path(file), self.model)

    before_residuals = before_invariance


def _forget_former_class(spec: Namespace, key: str, words: Sequence[str]) -> None:
    """Give arguments that were meant for a class since replaced the new class's defaults."""
    parameters = inspect.signature(_imported(spec.class_path)).parameters
    for name in left_behind(key, words):
        if name in spec.get("dict_kwargs", {}):
            del spec.dict_kwargs[name]
        if name not in spec.get("init_args", {}):
            continue
        if name not in parameters:  # one of **kwargs
            del spec.init_args[name]
        elif parameters[name].default is inspect.Parameter.empty:
            raise InputError(f"{key}.{name}: {spec.class_path} needs it; state it with the class")
        else:
            spec.init_args[name] = parameters[name].default


def _network_name(spec: Namespace, net: Any) -> str:
    """Tell networks apart that are of one class: resnet18 and resnet34 are both a ResNet."""
    arguments, made_by = spec.get("init_args", {}), spec.class_path.rpartition(".")[-1]
    if isinstance(arguments.get("net"), Namespace):
        if made_by[0].islower():  # gives back the network; a checkpoint stands in trained_on
            return _network_name(arguments.net, net)
        # Another way to see images gives other numbers.
        inner = _network_name(arguments.net, getattr(net, "net", net))
        remark = getattr(net, "remark", None)
        return f"{inner} ({remark})" if remark else f"{made_by}:{inner}"
    if "model_name" in arguments:  # of timm.create_model, tag included
        return str(arguments.model_name)
    return network_name(net) if hasattr(net, "pretrained_cfg") else made_by


def _imported(class_path: str) -> Any:
    module, _, name = class_path.rpartition(".")
    return getattr(import_module(module), name)


def _is_no_advertisement(record: logging.LogRecord) -> bool:
    return "Tip: " not in record.getMessage()


def _construction_problem(error: Exception) -> str:
    """Name the argument whose class could not be made, and why."""
    causes: list[BaseException] = [error]
    while (cause := causes[-1].__cause__) is not None:
        causes.append(cause)
    own = (cause for cause in causes if isinstance(cause, InputError))
    reason = str(next(own, causes[1] if causes[1:] else error))
    # Of an argument with several types the first one tells most.
    reason = one_line([*re.split(r"\n\s*- ", reason)[1:], reason][0])
    if "on the Hub" in reason or "urlopen error" in reason:
        return (
            "model.net: its weights are in no cache here, and cannot be downloaded; run this once "
            "online, or copy the cache (python -m blur_lightning doctor says where)"
        )
    if reason.startswith("Unknown model"):
        reason += "; timm.list_models() lists the names"
    for key, base in (("model", Task), ("data", BlurDataModule)):
        if f"{base.__qualname__}'" in str(error) and not reason.startswith(key):
            return f"{key}: {reason}"
    return reason
