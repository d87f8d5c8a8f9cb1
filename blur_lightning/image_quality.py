"""How close restored images come to sharp ones: PSNR, SSIM, and PSNR that forgives a shift.

Each function gives a value for each image; that of a data set is their mean. Images (b, c, h, w)
have values in [0, 1]: the range that PSNR and SSIM refer to is 1, whatever an image holds of it.
All channels and pixels count alike, none at the border are left out unless a function says so.
"""

from itertools import product

import torch
from jaxtyping import Float
from torch import Tensor

from blur_lightning.errors import InputError

_WINDOW = 11  # px, side of the Gaussian window of Wang et al. 2004, section III C; sigma is 1.5


def peak_signal_to_noise(
    image: Float[Tensor, "b c h w"], sharp: Float[Tensor, "b c h w"]
) -> Float[Tensor, " b"]:
    """PSNR in dB of each image; infinite where both are the same."""
    return -10 * (image - sharp).square().mean(dim=(1, 2, 3)).log10()


def structural_similarity(
    image: Float[Tensor, "b c h w"], sharp: Float[Tensor, "b c h w"]
) -> Float[Tensor, " b"]:
    """SSIM of each image (Wang et al. 2004, IEEE Trans. Image Process. 13, 600-612, section III C).

    The mean over the channels, and over the windows that lie inside the image; one smaller than a
    window of 11 x 11 pixels has none, and NaN.
    """
    from torchmetrics.functional.image import structural_similarity_index_measure

    if min(image.shape[-2:]) < _WINDOW:
        return image.new_full((len(image),), torch.nan)
    # Variances are small differences: in bfloat16, in which a network may run, they are lost.
    with torch.autocast(image.device.type, enabled=False):
        _, full = structural_similarity_index_measure(
            image, sharp, sigma=1.5, data_range=1.0, reduction="none", return_full_image=True
        )
    rim = _WINDOW // 2
    return full[..., rim:-rim, rim:-rim].mean(dim=(1, 2, 3))


def shift_tolerant_psnr(
    image: Float[Tensor, "b c h w"],
    sharp: Float[Tensor, "b c h w"],
    *,
    reach: int,
    match_intensity: bool = True,
) -> Float[Tensor, " b"]:
    """PSNR in dB of each image at the whole-pixel shift that suits it best.

    What was blurred can be sharp again and lie elsewhere: a shift of the image and one of the
    kernel cancel (Noroozi et al. 2017, arXiv 1701.01486, section 4). All shifts are tried, each on
    the same pixels of the sharp image, those further than `reach` from its edge.

    Of the protocol of Köhler et al. 2012 (ECCV, 27-40) this has the whole-pixel shift and the
    match of the intensity; there the shift is that of the largest cross-correlation, and of some
    200 sharp frames of a camera's path the best counts.

    Args:
        image: Restored images.
        sharp: What they should be.
        reach: Largest shift in pixels, along rows and along columns, 0 or more.
        match_intensity: Multiply each shifted image by the number that brings it closest to the
            sharp one.
    """
    rows, columns = (side - 2 * reach for side in sharp.shape[-2:])
    if reach < 0 or min(rows, columns) < 1:
        raise InputError(
            f"reach: shifts of {reach} pixels leave nothing of an image of {sharp.shape[-1]}x"
            f"{sharp.shape[-2]} pixels; name less, 0 or more"
        )
    middle = sharp[..., reach : reach + rows, reach : reach + columns]
    best = image.new_full((len(image),), -torch.inf)
    for top, left in product(range(2 * reach + 1), repeat=2):
        shifted = image[..., top : top + rows, left : left + columns]
        if match_intensity:
            # Köhler's own code: z <- (sum of xz / sum of zz) z; a black image stays black.
            energy = shifted.square().sum(dim=(1, 2, 3), keepdim=True)
            overlap = (shifted * middle).sum(dim=(1, 2, 3), keepdim=True)
            shifted = shifted * torch.where(energy > 0, overlap / energy, 0)
        best = best.maximum(peak_signal_to_noise(shifted, middle))
    return best
