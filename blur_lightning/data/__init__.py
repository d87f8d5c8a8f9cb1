"""LightningDataModules that blur on the device; the class path names one in YAML."""

from blur_lightning.data.base import BlurDataModule
from blur_lightning.data.imagenet import ImageNetDataModule
from blur_lightning.data.photos import PhotosDataModule

__all__ = ["BlurDataModule", "ImageNetDataModule", "PhotosDataModule"]
