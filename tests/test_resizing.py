import pytest
import torch
import torch.nn.functional as F

from blur_lightning.blur.resizing import _resize_by_bands, resizing_bands


@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic"])
@pytest.mark.parametrize(("side", "crop", "first", "ratio"), [(90, 47, 6, 1.5), (40, 61, 9, 0.5)])
@pytest.mark.parametrize("default", [torch.float32, torch.bfloat16])
def test_the_crop_is_that_of_an_antialiased_resize(
    side, crop, first, ratio, interpolation, default
):
    windows = torch.randint(
        0, 256, (2, 3, side, side), dtype=torch.uint8, generator=torch.Generator().manual_seed(0)
    )
    resizing_bands.cache_clear()
    torch.set_default_dtype(default)
    try:
        bands = resizing_bands(side, crop, first=first, ratio=ratio, interpolation=interpolation)
        crops = _resize_by_bands(windows, bands, bands)
    finally:
        torch.set_default_dtype(torch.float32)
    whole = F.interpolate(
        windows.float(), scale_factor=1 / ratio, mode=interpolation, antialias=True
    )
    place = slice(first, first + crop)
    torch.testing.assert_close(crops, whole[..., place, place].clamp(0, 255), atol=1e-3, rtol=0)
