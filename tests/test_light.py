import pytest
import torch

from blur_lightning.blur import Blur, blur_images
from blur_lightning.blur.light import to_linear, to_srgb


def test_known_values_of_the_standard():
    values = torch.tensor([0.0, 0.04045, 0.5, 1.0], dtype=torch.float64)
    light = torch.tensor([0.0, 0.0031308, 0.21404114, 1.0], dtype=torch.float64)
    torch.testing.assert_close(to_linear(values), light, atol=1e-7, rtol=0)
    torch.testing.assert_close(to_srgb(light, torch.float64), values, atol=1e-6, rtol=0)


def test_every_level_returns_to_itself():
    levels = torch.arange(256, dtype=torch.uint8)
    assert torch.equal(to_srgb(to_linear(levels), torch.uint8), levels)
    torch.testing.assert_close(to_linear(levels), to_linear(levels / 255), atol=1e-6, rtol=0)


def test_a_lamp_spreads_brighter_in_light_than_in_values():
    night = torch.zeros(1, 3, 9, 9, dtype=torch.uint8)
    night[..., 4, 4] = 255
    values = blur_images(night, [Blur("disk", 1.0)], light="srgb")[0, 0, 4, 4]
    light = blur_images(night, [Blur("disk", 1.0)], light="linear")[0, 0, 4, 4]
    # A fifth of the light: 0.2 is 124 of 255 in sRGB.
    assert (values.item(), light.item()) == (51, 124)


def test_float_and_eight_bit_images_agree(photo):
    blurs = [Blur("gaussian", 1.0), Blur("disk", 3.0)]
    levels = (photo * 255).round().to(torch.uint8)
    from_levels = blur_images(levels, blurs, light="linear")
    from_floats = blur_images(levels / 255, blurs, light="linear")
    assert ((from_floats * 255).round() - from_levels).abs().max() == 0


def test_values_outside_the_range_have_no_light():
    for low, high in ((-0.1, 1.0), (0.0, 255.0), (float("nan"), 1.0)):
        image = torch.full((1, 3, 5, 5), high)
        image[0, 0, 0, 0] = low
        with pytest.raises(ValueError, match=r"images: values of shape \(1, 3, 5, 5\) run from"):
            blur_images(image, [Blur("disk", 1.0)], light="linear")


def test_gradients_pass_through_light():
    image = torch.rand(1, 3, 5, 5, dtype=torch.float64, requires_grad=True)
    image.data[0, 0, 0, :2] = torch.tensor([0.01, 0.0])
    image.data.clamp_(0.001, 0.999)
    function = lambda x: to_srgb(to_linear(x), torch.float64)  # noqa: E731
    assert torch.autograd.gradcheck(function, (image,))


def test_black_has_a_finite_slope():
    light = torch.zeros(3, requires_grad=True)
    to_srgb(light, torch.float32).sum().backward()
    torch.testing.assert_close(light.grad, torch.full((3,), 12.92))
