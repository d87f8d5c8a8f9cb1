"""Networks that no package offers as we need them; everything else comes by its own class path."""

from blur_lightning.models.dense import Dense, FiveCrops
from blur_lightning.models.efficientnet import efficientnet_lite
from blur_lightning.models.finetuned import finetuned
from blur_lightning.models.small_resnet import small_resnet

__all__ = ["Dense", "FiveCrops", "efficientnet_lite", "finetuned", "small_resnet"]
