"""Images x drawn blurs -> blurred images: what data modules and the command line call."""

from collections.abc import Sequence

from jaxtyping import Shaped
from torch import Tensor

from blur_lightning.blur.convolution import Border, convolve
from blur_lightning.blur.families import Blur, make_kernels
from blur_lightning.blur.kernels import Rim


def blur_images(
    images: Shaped[Tensor, "b 3 h w"],
    blurs: Sequence[Blur],
    *,
    border: Border = "reflect",
    rim: Rim = "hard",
) -> Shaped[Tensor, "b 3 h w"]:
    """Blur each image with its own blur.

    Args:
        images: uint8 (0..255) or float images in [0, 1].
        blurs: One for each image, as `BlurDistribution.draw` gives them.
        border: What lies beyond the edge of an image; see `convolve`.
        rim: How shapes become pixels; see `kernels`.

    Returns:
        The blurred images, same size, type and device.
    """
    return convolve(images, make_kernels(blurs, rim=rim, device=images.device), border=border)
