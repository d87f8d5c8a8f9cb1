"""Deconvolution against linear algebra, plain loops, and images whose sharp version is known."""

import numpy as np
import pytest
import torch
from scipy import ndimage

from blur_lightning.blur import Blur, aberration_kernel, blur_images, make_kernels
from blur_lightning.blur.convolution import Kernels
from blur_lightning.blur.deconvolve import (
    ROUNDING,
    check_method,
    deconvolve,
    richardson_lucy,
    shrink,
    sparse,
    transfer_of,
    wiener,
)
from blur_lightning.data import PhotosDataModule
from blur_lightning.data.procedural import scene
from blur_lightning.errors import InputError
from blur_lightning.image_quality import peak_signal_to_noise
from blur_lightning.images import resize_smaller_side

METHODS = ("wiener", "richardson_lucy", "sparse")
# Neither its own mirror image nor zero at any frequency.
TAPS = np.array([[0.02, 0.1, 0.0], [0.05, 0.6, 0.03], [0.0, 0.12, 0.08]])


def on_torus(image, taps=TAPS):
    return ndimage.convolve(image, taps, mode="wrap")


def tensors(*arrays):
    return [torch.from_numpy(array)[None, None] for array in arrays]


@pytest.fixture
def image():
    return np.random.default_rng(0).uniform(0.2, 0.8, size=(12, 9))


@pytest.fixture
def transfer(image):
    return transfer_of([torch.from_numpy(TAPS)[None]], torch.from_numpy(image)[None, None])


def photographs(count):
    source = PhotosDataModule().source("test")
    return [tensor(resize_smaller_side(source.load(index), 384)) for index in range(count)]


def tensor(pixels):
    return torch.from_numpy(pixels.transpose(2, 0, 1).copy())[None]


def taken(sharp, blur, noise):
    """A photograph through a blur, with noise, in 8 bits."""
    generator = torch.Generator().manual_seed(0)
    blurred = blur_images(sharp, [blur])
    drawn = 255 * noise * torch.randn(blurred.shape, generator=generator)
    return (blurred + drawn).round().clamp(0, 255).to(torch.uint8)


def quality(image, sharp):
    return peak_signal_to_noise(image / 255, sharp / 255).item()


def test_without_noise_wieners_filter_undoes_a_circular_blur(image, transfer):
    (blurred,) = tensors(on_torus(image))
    restored = wiener(blurred, transfer, noise=0.0)
    np.testing.assert_allclose(restored[0, 0].numpy(), image, rtol=0, atol=1e-12)


def test_with_noise_wieners_filter_is_the_least_squares_solution(image, transfer):
    """Of the blur and the differences between neighbours as matrices, solved densely."""
    pixels = np.eye(image.size).reshape(-1, *image.shape)
    blur = np.stack([on_torus(pixel).ravel() for pixel in pixels], axis=1)
    steps = [
        np.stack([(np.roll(pixel, -1, axis) - pixel).ravel() for pixel in pixels], axis=1)
        for axis in (0, 1)
    ]
    blurred, noise = on_torus(image), 0.02
    normal = blur.T @ blur + (noise / 0.07) ** 2 * sum(step.T @ step for step in steps)
    expected = np.linalg.solve(normal, blur.T @ blurred.ravel()).reshape(image.shape)
    restored = wiener(*tensors(blurred), transfer, noise=noise)
    np.testing.assert_allclose(restored[0, 0].numpy(), expected, rtol=0, atol=1e-10)


def test_richardson_and_lucy_are_the_published_iteration(image, transfer, monkeypatch):
    monkeypatch.setattr("blur_lightning.blur.deconvolve._MOST_ITERATIONS", 7)
    blurred = on_torus(image)
    expected = blurred
    for _ in range(7):
        ratio = blurred / on_torus(expected)
        # The kernel turned by half a turn.
        expected = expected * on_torus(ratio, TAPS[::-1, ::-1])
    restored = richardson_lucy(*tensors(blurred), transfer, noise=0.0)
    np.testing.assert_allclose(restored[0, 0].numpy(), expected, rtol=1e-9)
    assert restored.mean().item() == pytest.approx(blurred.mean())  # light is neither made nor lost


def test_richardson_and_lucy_stop_at_the_noise_image_by_image(image, transfer):
    blurred = torch.cat(tensors(on_torus(image), on_torus(image) * 0 + 0.5))
    restored = richardson_lucy(blurred, transfer.expand(2, -1, -1, -1), noise=0.004)
    seen = torch.from_numpy(on_torus(restored[0, 0].numpy()))
    misfit = (seen - blurred[0, 0]).square().mean().sqrt().item()
    assert 0.002 < misfit <= 0.004
    assert torch.equal(restored[1], blurred[1])  # nothing to do


@pytest.mark.parametrize("beta", [1.0, 8.0, 181.0])
def test_gradients_are_shrunk_to_the_minimum(beta):
    gradients = torch.linspace(-2, 2, 81, dtype=torch.float64)
    candidates = np.linspace(-2, 2, 40_001)
    for gradient, found in zip(gradients.tolist(), shrink(gradients, beta).tolist(), strict=True):
        cost = np.abs(candidates) ** (2 / 3) + beta / 2 * (candidates - gradient) ** 2
        own = abs(found) ** (2 / 3) + beta / 2 * (found - gradient) ** 2
        assert own <= cost.min() + 1e-6, gradient


def test_the_sparse_prior_lowers_its_own_cost(image, transfer):
    noise = 0.02
    blocks = np.kron(image[:3, :3], np.ones((4, 3)))
    drawn = np.random.default_rng(1).normal(scale=noise, size=blocks.shape)
    (blurred,) = tensors(on_torus(blocks) + drawn)

    def cost(restored):
        pixels = restored[0, 0].numpy()
        steps = [np.roll(pixels, -1, axis) - pixels for axis in (0, 1)]
        misfit = on_torus(pixels) - blurred[0, 0].numpy()
        prior = sum((np.abs(step) ** (2 / 3)).sum() for step in steps)
        return 0.2 / noise**2 / 2 * (misfit**2).sum() + prior

    found, linear = sparse(blurred, transfer, noise=noise), wiener(blurred, transfer, noise=noise)
    assert cost(found) < 0.9 * min(cost(linear), cost(blurred))
    error = [
        (restored[0, 0] - torch.from_numpy(blocks)).square().mean() for restored in (found, linear)
    ]
    assert error[0] < error[1]


@pytest.mark.parametrize("radius", [4.0, 8.0])
@pytest.mark.parametrize("kind", ["photographs", "scenes"])
def test_every_method_beats_the_blurred_image_and_the_sparse_prior_beats_wiener(kind, radius):
    blur, noise = Blur("disk", radius), 0.01
    scenes = [tensor(scene(2, index, size=192).frames[0]) for index in range(2)]
    gains = {method: 0.0 for method in METHODS}
    for sharp in scenes if kind == "scenes" else photographs(2):
        blurred = taken(sharp, blur, noise)
        for method in METHODS:
            restored = deconvolve(blurred, make_kernels([blur]), method=method, noise=noise)
            gain = quality(restored, sharp) - quality(blurred, sharp)
            assert gain > 0.5, method
            gains[method] += gain / 2
    assert gains["sparse"] > gains["wiener"] + 0.1


@pytest.mark.parametrize("method", ["wiener", "sparse"])
def test_the_edges_are_restored_as_well_as_the_middle(method):
    (sharp,), blur = photographs(1), Blur("disk", 8.0)
    blurred = taken(sharp, blur, 0.0)
    restored = deconvolve(blurred, make_kernels([blur]), method=method)
    edge = [..., slice(0, 16)], [..., slice(-16, None)], [..., slice(0, 16), slice(None)]
    for part in edge:
        rim = [image[tuple(part)] for image in (restored, blurred, sharp)]
        assert quality(rim[0], rim[2]) > quality(rim[1], rim[2]) + 3


def test_a_point_of_light_comes_back_to_its_place():
    sharp = torch.zeros(1, 3, 41, 50)
    sharp[..., 17, 30] = 1
    for blur in (Blur("shake", 3.0, bank="test"), Blur("motion", 9.0, 30.0), Blur("gaussian", 1.5)):
        blurred = blur_images(sharp, [blur])
        for method in METHODS:
            restored = deconvolve(blurred, make_kernels([blur]), method=method, noise=1e-3)
            assert restored[0, 0].argmax().item() == 17 * 50 + 30, (blur, method)
            assert restored[0, 0].max() > 2 * blurred.max()


@pytest.mark.parametrize("method", METHODS)
def test_images_of_a_batch_are_restored_each_by_its_own_kernel(method, photo):
    images = (photo[[0, 1, 0, 1]] * 255).to(torch.uint8)
    blurs = [Blur("disk", 2.0), Blur("sharp"), Blur("gaussian", 1.0), Blur("disk", 3.0)]
    blurred = blur_images(images, blurs)
    together = deconvolve(blurred, make_kernels(blurs), method=method, noise=0.01)
    for index, blur in enumerate(blurs):
        part = blurred[index : index + 1]
        alone = deconvolve(part, make_kernels([blur]), method=method, noise=0.01)
        assert (alone[0].int() - together[index].int()).abs().max() <= 1
    assert torch.equal(together[1], images[1])


def test_a_kernel_of_two_factors_is_their_product(photo):
    blurs = [Blur("gaussian", 1.0)] * 2
    (group,) = make_kernels(blurs).groups
    column, row = group.factors
    found = deconvolve(photo, make_kernels(blurs), noise=0.01)
    torch.testing.assert_close(found, deconvolve(photo, column * row, noise=0.01))


def test_each_colour_has_its_own_kernel_where_a_lens_gives_three(photo):
    taps = aberration_kernel({"coma": torch.tensor([0.4, 0.4])})
    blurred = photo.float()
    whole = deconvolve(blurred, taps, noise=0.01)
    for channel in range(3):
        part = deconvolve(
            blurred[:, channel : channel + 1], taps[:, channel : channel + 1], noise=0.01
        )
        torch.testing.assert_close(whole[:, channel : channel + 1], part)


def test_types_stay_and_bytes_bring_the_noise_of_their_rounding(photo):
    blurs = [Blur("disk", 2.0)] * 2
    stored = (photo * 255).to(torch.uint8)
    restored = deconvolve(stored, make_kernels(blurs), method="wiener")
    assert restored.dtype == torch.uint8
    values = deconvolve(stored / 255, make_kernels(blurs), method="wiener", noise=ROUNDING)
    assert values.dtype == torch.float32
    assert torch.equal(restored, (values * 255).round().clamp(0, 255).to(torch.uint8))
    assert deconvolve(photo, make_kernels(blurs)).dtype == torch.float64
    empty = deconvolve(stored[:0], Kernels(0, ()))
    assert empty.shape == (0, 3, 37, 31)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"noise": -0.1}, "noise: -0.1 is no standard deviation"),
        ({"noise": float("nan")}, "noise: nan is no standard deviation"),
        ({"kernels": Kernels(1, ())}, "kernels: 1 for 2 images"),
        ({"kernels": torch.ones(2, 4, 3, 3) / 9}, "is for 4 channels, images have 3"),
        ({"kernels": torch.ones(2, 4, 4) / 16}, "has an even side"),
        ({"kernels": torch.ones(2, 99, 99) / 99**2}, "reaches 49 px"),
        ({"kernels": torch.ones(2, 3, 3)}, "sum other than 1"),
        ({"images": torch.ones(2, 3, 0, 9)}, "is not \\(b, c, h, w\\)"),
    ],
)
def test_what_does_not_fit_is_refused(photo, arguments, message):
    given = {"images": photo, "kernels": torch.ones(2, 3, 3) / 9} | arguments
    images, kernels = given.pop("images"), given.pop("kernels")
    with pytest.raises(ValueError, match=message) as found:
        deconvolve(images, kernels, **given)
    assert "noise" not in arguments or isinstance(found.value, InputError)


def test_another_method_is_refused():
    with pytest.raises(InputError, match="'blind' is none of wiener, richardson_lucy, sparse"):
        check_method("blind", 0.1)
