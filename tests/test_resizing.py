import pytest
import torch
import torch.nn.functional as F

from blur_lightning.blur.resizing import (
    _resize_by_bands,
    _resize_by_phases,
    resize_crops,
    resizing_bands,
    resizing_phases,
)


def noise(count, side):
    generator = torch.Generator().manual_seed(0)
    return torch.randint(0, 256, (count, 3, side, side), dtype=torch.uint8, generator=generator)


@pytest.mark.parametrize("way", ["bands", "phases"])
@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic"])
@pytest.mark.parametrize(
    ("side", "crop", "first", "ratio"), [(90, 47, 6, 1.5), (40, 61, 9, 0.5), (90, 20, 6, 7 / 4)]
)
@pytest.mark.parametrize("default", [torch.float32, torch.bfloat16])
def test_the_crop_is_that_of_an_antialiased_resize(
    side, crop, first, ratio, interpolation, way, default
):
    windows = noise(3, side)
    axis = {"first": first, "ratio": ratio, "interpolation": interpolation}
    resizing_bands.cache_clear()
    resizing_phases.cache_clear()
    torch.set_default_dtype(default)
    try:
        if way == "bands":
            bands = resizing_bands(side, crop, **axis)
            crops = _resize_by_bands(windows, bands, bands)
        else:
            phases = resizing_phases(side, crop, **axis)
            crops = _resize_by_phases(windows, crop, phases)
    finally:
        torch.set_default_dtype(torch.float32)
    whole = F.interpolate(
        windows.float(), scale_factor=1 / ratio, mode=interpolation, antialias=True
    )
    place = slice(first, first + crop)
    torch.testing.assert_close(
        255 * crops, whole[..., place, place].clamp(0, 255), atol=1e-3, rtol=0
    )


def test_phases_are_as_many_as_lines_before_the_weights_repeat():
    axis = {"first": 6, "interpolation": "bicubic"}
    for ratio, q, p in ((1.5, 2, 3), (0.75, 4, 3), (2.0, 1, 2)):
        phases = resizing_phases(120, 40, ratio=ratio, **axis)
        assert (len(phases.taps), phases.step) == (q, p)
        torch.testing.assert_close(phases.taps.sum(dim=1), torch.ones(q))


@pytest.mark.parametrize(
    ("first", "ratio", "why"),
    [(6, 1.28, "no small fraction"), (0, 1.5, "the first filter is cut"), (43, 1.5, "the last")],
)
def test_weights_that_are_not_repeated_have_no_phases(first, ratio, why):
    found = resizing_phases(90, 16, first=first, ratio=ratio, interpolation="bicubic")
    assert found is None, why


def test_a_crop_does_not_depend_on_the_windows_beside_it():
    windows = noise(5, 345)
    options = {"first": 3, "scales": (384, 256), "interpolation": "bicubic"}
    together = resize_crops(windows, 224, **options)
    for window, crop in zip(windows, together, strict=True):
        assert torch.equal(resize_crops(window[None], 224, **options)[0], crop)
