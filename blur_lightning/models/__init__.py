"""Networks that no package offers as we need them; everything else comes by its own class path."""

from blur_lightning.models.efficientnet import efficientnet_lite

__all__ = ["efficientnet_lite"]
