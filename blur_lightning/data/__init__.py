"""LightningDataModules that blur on the device; the class path names one in YAML."""

from blur_lightning.data.base import BlurDataModule
from blur_lightning.data.fashion import FashionMNISTDataModule
from blur_lightning.data.imagenet import ImageNetDataModule
from blur_lightning.data.pairs import PairsDataModule
from blur_lightning.data.photos import PhotosDataModule
from blur_lightning.data.scenes import ScenesDataModule
from blur_lightning.data.voc import VOCDataModule

__all__ = [
    "BlurDataModule",
    "FashionMNISTDataModule",
    "ImageNetDataModule",
    "PairsDataModule",
    "PhotosDataModule",
    "ScenesDataModule",
    "VOCDataModule",
]
