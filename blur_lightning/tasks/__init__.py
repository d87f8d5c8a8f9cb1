"""LightningModules: what is trained and measured; the class path names one in YAML."""

from blur_lightning.tasks.base import Task
from blur_lightning.tasks.classification import ClassificationTask
from blur_lightning.tasks.critical import CriticalBlurTask

__all__ = ["ClassificationTask", "CriticalBlurTask", "Task"]
