"""LightningModules: what is trained and measured; the class path names one in YAML."""

from blur_lightning.tasks.adversarial import AdversarialBlurTask
from blur_lightning.tasks.adversarial_kernels import FreeKernel, PredictedKernel
from blur_lightning.tasks.adversaries import WorstDraw
from blur_lightning.tasks.base import Task
from blur_lightning.tasks.classification import ClassificationTask
from blur_lightning.tasks.critical import CriticalBlurTask
from blur_lightning.tasks.deblurring import DeblurringTask
from blur_lightning.tasks.restored import RestoredClassificationTask
from blur_lightning.tasks.segmentation import SegmentationTask

__all__ = [
    "AdversarialBlurTask",
    "ClassificationTask",
    "CriticalBlurTask",
    "DeblurringTask",
    "FreeKernel",
    "PredictedKernel",
    "RestoredClassificationTask",
    "SegmentationTask",
    "Task",
    "WorstDraw",
]
