"""The blur engine: what a blur is called, its kernel, its convolution, and what a network sees."""

from blur_lightning.blur.aberrations import aberration_kernel
from blur_lightning.blur.blurring import blur_images
from blur_lightning.blur.capture import Capture
from blur_lightning.blur.convolution import Kernels, convolve
from blur_lightning.blur.distributions import BlurDistribution
from blur_lightning.blur.families import Blur, make_kernels
from blur_lightning.blur.kernels import box_kernel, disk_kernel, gaussian_taps
from blur_lightning.blur.restoring import Deconvolver, RestoredFolder, Restorer
from blur_lightning.blur.shake import shake_bank
from blur_lightning.blur.varying import ThinLens, blur_by_depth, blur_by_radius, blur_regions

__all__ = [
    "Blur",
    "BlurDistribution",
    "Capture",
    "Deconvolver",
    "Kernels",
    "RestoredFolder",
    "Restorer",
    "ThinLens",
    "aberration_kernel",
    "blur_by_depth",
    "blur_by_radius",
    "blur_images",
    "blur_regions",
    "box_kernel",
    "convolve",
    "disk_kernel",
    "gaussian_taps",
    "make_kernels",
    "shake_bank",
]
