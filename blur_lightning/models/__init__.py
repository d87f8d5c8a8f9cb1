"""Networks that no package offers as we need them; everything else comes by its own class path."""

from blur_lightning.models.deblurnet import DeblurNet
from blur_lightning.models.dense import Dense, FiveCrops
from blur_lightning.models.efficientnet import efficientnet_lite, efficientnet_lite_encoder
from blur_lightning.models.finetuned import finetuned
from blur_lightning.models.nafnet import NAFNet
from blur_lightning.models.patch_drop import PatchDrop
from blur_lightning.models.small_resnet import small_resnet
from blur_lightning.models.zoomout import Zoomout

__all__ = [
    "DeblurNet",
    "Dense",
    "FiveCrops",
    "NAFNet",
    "PatchDrop",
    "Zoomout",
    "efficientnet_lite",
    "efficientnet_lite_encoder",
    "finetuned",
    "small_resnet",
]
