from concurrent.futures import ThreadPoolExecutor

import kornia
import numpy as np
import pytest
import scipy.ndimage
import torch

from blur_lightning.blur import (
    BlurDistribution,
    box_kernel,
    convolve,
    disk_kernel,
    fused,
    gaussian_taps,
    make_kernels,
)
from blur_lightning.blur.convolution import _PRODUCTS, _convolve_on_gpu
from blur_lightning.blur.families import Blur

MODES = {"reflect": "mirror", "replicate": "nearest", "constant": "constant"}
BLURS = [
    Blur("sharp"),
    Blur("disk", 4.0),
    Blur("disk", 2.5),
    Blur("horizontal", 8.0),
    Blur("vertical", 4.0),
    Blur("motion", 8.0, 30.0),
    Blur("gaussian", 2.0),
    Blur("gaussian", 3.3),
    Blur("shake", 7.0, bank="test"),
    Blur("disk", 4.0),
]


def dense(blur):
    """The whole kernel of a blur in float64, put together from its factors."""
    groups = make_kernels([blur]).groups
    taps = np.ones((1, 1))
    for factor in groups[0].factors if groups else ():
        taps = scipy.signal.convolve2d(taps, factor[0].double().numpy())
    return taps


def reference(image, taps, border):
    return np.stack([scipy.ndimage.convolve(c, taps, mode=MODES[border]) for c in image])


def normalized(taps):
    return taps / taps.sum(dim=(-2, -1), keepdim=True)


def images(count=10, size=(61, 67)):
    pixels = np.random.default_rng(0).integers(0, 256, size=(count, 3, *size), dtype=np.uint8)
    return torch.from_numpy(pixels)


@pytest.mark.parametrize("border", ["reflect", "replicate", "constant"])
def test_float_results_agree_with_scipy(border):
    batch = images().float() / 255
    ours = convolve(batch, make_kernels(BLURS), border=border).double().numpy()
    for image, blur, result in zip(batch.double().numpy(), BLURS, ours, strict=True):
        assert np.abs(result - reference(image, dense(blur), border)).max() * 255 < 1e-3, blur


def test_eight_bit_results_differ_from_scipy_only_at_ties():
    batch = images()
    ours = convolve(batch, make_kernels(BLURS)).numpy()
    for image, blur, result in zip(batch.double().numpy(), BLURS, ours, strict=True):
        exact = reference(image, dense(blur), "reflect")
        differs = result != np.rint(exact)
        assert np.abs(np.abs(exact - np.floor(exact)) - 0.5)[differs].max(initial=0) < 1e-3, blur
        assert np.abs(result - exact).max() <= 0.5 + 1e-3


def test_eight_bit_ties_go_to_the_even_value():
    image = torch.stack([torch.tensor([[a, b]]) for a, b in ((1, 2), (2, 3), (5, 4))])[None]
    halves = torch.tensor([[[0.5, 0.5, 0.0]]])
    result = convolve(image.to(torch.uint8), halves, border="replicate")
    # Each left pixel becomes the mean of both: 1.5, 2.5 and 4.5.
    assert result[0, :, 0, 0].tolist() == [2, 2, 4]


def test_a_delta_is_answered_with_the_unflipped_kernel():
    taps = torch.zeros(1, 5, 5)
    taps[0, 1, 3], taps[0, 4, 2] = 0.7, 0.3
    delta = torch.zeros(1, 3, 9, 9)
    delta[..., 4, 4] = 1
    torch.testing.assert_close(convolve(delta, taps)[0, 0, 2:7, 2:7], taps[0])


def test_constant_images_stay_and_sharp_is_the_identity():
    grey = torch.full((len(BLURS), 3, 40, 40), 137, dtype=torch.uint8)
    assert torch.equal(convolve(grey, make_kernels(BLURS)), grey)
    assert torch.equal(convolve(images(3), make_kernels([Blur("sharp")] * 3)), images(3))


def test_each_image_gets_its_own_kernel_wherever_it_stands():
    order = torch.randperm(len(BLURS), generator=torch.Generator().manual_seed(0))
    shuffled = convolve(images()[order], make_kernels([BLURS[i] for i in order]))
    assert torch.equal(shuffled, convolve(images(), make_kernels(BLURS))[order])


def test_convolution_is_linear_and_adjoint_to_correlation(photo):
    taps = normalized(torch.from_numpy(np.random.default_rng(1).uniform(size=(2, 5, 7))))
    other = photo.flip(0, 2)
    both = convolve(2 * photo + other, taps)
    torch.testing.assert_close(both, 2 * convolve(photo, taps) + convolve(other, taps))
    left = (convolve(photo, taps, border="constant") * other).sum()
    right = (photo * convolve(other, taps.flip(-2, -1), border="constant")).sum()
    torch.testing.assert_close(left, right)


def test_gaussians_agree_with_kornia(photo):
    blurs = [Blur("gaussian", 1.0), Blur("gaussian", 2.0)]
    ours = convolve(photo, make_kernels(blurs))
    for image, result, sigma in zip(photo, ours, (1.0, 2.0), strict=True):
        side = int(4 * sigma + 0.5) * 2 + 1
        theirs = kornia.filters.gaussian_blur2d(image[None], (side, side), (sigma, sigma))
        torch.testing.assert_close(result, theirs[0], atol=1e-6, rtol=0)


def test_gradients_reach_images_and_kernels():
    generator = torch.Generator().manual_seed(0)
    image = torch.rand(1, 3, 6, 5, dtype=torch.float64, generator=generator, requires_grad=True)
    for shape in ((1, 3, 5), (1, 3, 3, 3)):
        taps = torch.rand(shape, dtype=torch.float64, generator=generator)
        taps = normalized(taps).requires_grad_()
        assert torch.autograd.gradcheck(convolve, (image, taps))


@pytest.mark.parametrize("family", ["radius", "sigma", "length", "angle"])
def test_gradients_reach_what_a_kernel_is_made_from(family):
    generator = torch.Generator().manual_seed(0)
    image = torch.rand(1, 3, 9, 8, dtype=torch.float64, generator=generator)

    def blurred(value):
        if family == "radius":
            return convolve(image, disk_kernel(value, half_width=4, rim="area"))
        if family == "sigma":
            taps = gaussian_taps(value, half_width=4)
            return convolve(image, taps[:, :, None] * taps[:, None, :])
        turn = torch.full_like(value, 30.0) if family == "length" else 10 * value
        length = value if family == "length" else torch.full_like(value, 5.3)
        return convolve(image, box_kernel(length, turn, half_width=4, rim="area"))

    value = torch.tensor([2.3], dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(blurred, (value,))
    assert torch.autograd.grad(blurred(value).square().sum(), value)[0].abs() > 1e-3


def test_eight_bit_images_are_rounded_also_where_a_kernel_wants_gradients():
    taps = normalized(torch.rand(3, 5, 5, generator=torch.Generator().manual_seed(0)))
    wanted = convolve(images(3), taps)
    assert torch.equal(convolve(images(3), taps.clone().requires_grad_()), wanted)


def test_gradients_and_plain_results_are_one():
    batch = images(len(BLURS)).float() / 255
    followed = convolve(batch.clone().requires_grad_(), make_kernels(BLURS))
    assert followed.requires_grad
    torch.testing.assert_close(
        followed.detach(), convolve(batch, make_kernels(BLURS)), atol=3e-6, rtol=0
    )


UNIT = torch.zeros(2, 3, 3)
UNIT[:, 1, 1] = 1


@pytest.mark.parametrize(
    ("image", "taps", "what"),
    [
        (torch.zeros(3, 8, 8), UNIT, r"images: shape \(3, 8, 8\) is not"),
        (torch.zeros(2, 0, 8, 8), UNIT, r"images: shape \(2, 0, 8, 8\) is not"),
        (torch.zeros(2, 3, 8, 0), UNIT, r"images: shape \(2, 3, 8, 0\) is not"),
        (torch.zeros(2, 3, 8, 8).long(), UNIT, "images: torch.int64 of shape"),
        (torch.zeros(3, 3, 8, 8), UNIT, "kernels: 2 for 3 images; give one for each"),
        (np.zeros((2, 3, 8, 8)), UNIT, "images: ndarray is no tensor; torch.as_tensor makes one"),
        (torch.zeros(2, 3, 8, 8), UNIT.numpy(), "kernels: ndarray is no tensor; torch.as_tensor"),
        (torch.zeros(2, 3, 8, 8), UNIT.tolist(), "kernels: list is no tensor"),
        (torch.zeros(2, 3, 8, 8), UNIT[0], r"kernels: shape \(3, 3\) is not"),
        (torch.zeros(2, 3, 8, 8), UNIT.byte(), "kernels: torch.uint8 of shape"),
        (
            torch.zeros(2, 3, 8, 8),
            UNIT.to("meta"),
            "kernels: on meta, images on cpu; move one there",
        ),
        (
            torch.zeros(2, 3, 8, 8),
            torch.ones(2, 4, 3) / 12,
            r"kernels: shape \(2, 4, 3\) has an even",
        ),
        (
            torch.zeros(2, 3, 8, 8),
            UNIT * torch.nan,
            r"kernels: of shape \(2, 3, 3\), one has a neg",
        ),
        (torch.zeros(2, 3, 8, 8), 2 * UNIT - torch.ones(3, 3) / 9, "one has a negative value"),
        (torch.zeros(2, 3, 8, 8), 0 * UNIT, "or a sum other than 1"),
        (torch.zeros(2, 3, 8, 8), 2 * UNIT, "divide by"),
        (torch.zeros(2, 3, 8, 8), UNIT[:, None].expand(2, 4, 3, 3), "4 channels, images have 3"),
        (
            torch.zeros(2, 3, 8, 8),
            torch.ones(2, 17, 17) / 289,
            "kernels: one reaches 8 px, which a reflected border of a 8x8",
        ),
        (torch.zeros(2, 3, 1, 1), UNIT, "border of a 1x1 image cannot fill; use"),
    ],
)
def test_what_does_not_fit_is_named(image, taps, what):
    # Without the runtime type checks of the tests, as users call it.
    with pytest.raises(ValueError, match=what):
        convolve.__wrapped__(image, taps)


@pytest.mark.parametrize("size", [(1, 1), (37, 31), (1, 40)])
@pytest.mark.parametrize("channels", [1, 3, 4])
def test_any_size_and_number_of_channels_work(size, channels):
    batch = images(1, size=size)[:, :1].repeat(3, channels, 1, 1)
    kernels = make_kernels([Blur("disk", 4.0), Blur("gaussian", 1.0), Blur("shake", bank="test")])
    result = convolve(batch, kernels, border="replicate")
    exact = reference(batch[0].double().numpy(), dense(Blur("disk", 4.0)), "replicate")
    assert np.abs(result[0].numpy() - exact).max() <= 0.5
    assert result.shape == batch.shape


def test_float_images_may_have_any_range(photo):
    taps = make_kernels([Blur("disk", 2.0), Blur("gaussian", 1.0)])
    torch.testing.assert_close(
        convolve(5 * photo - 3, taps), 5 * convolve(photo, taps) - 3, atol=1e-6, rtol=0
    )


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_float_types_return_as_they_came(photo, dtype):
    result = convolve(
        photo.to(dtype), make_kernels([Blur("disk", 2.0), Blur("shake", bank="test")])
    )
    exact = convolve(photo, make_kernels([Blur("disk", 2.0), Blur("shake", bank="test")]))
    assert result.dtype == dtype
    torch.testing.assert_close(result, exact.to(dtype), atol=torch.finfo(dtype).eps, rtol=0)


def test_a_batch_of_nothing_and_a_batch_of_one_pixel_work():
    assert convolve(images(0), make_kernels([])).shape == (0, 3, 61, 67)
    pixel = images(1, size=(1, 1))
    assert torch.equal(convolve(pixel, make_kernels([Blur("disk", 4.0)]), "replicate"), pixel)


@pytest.mark.parametrize("channels", [(), (3,)])
def test_a_batch_of_nothing_has_gradients_of_nothing_and_of_0(channels):
    batch = torch.zeros(0, 3, 8, 8, requires_grad=True)
    taps = torch.zeros(0, *channels, 5, 5, requires_grad=True)
    blurred = convolve(batch, taps, margin=2)
    assert blurred.shape == (0, 3, 4, 4)
    blurred.sum().backward()
    assert batch.grad.shape == batch.shape
    assert taps.grad.shape == taps.shape
    assert convolve(batch, make_kernels([])).requires_grad
    assert convolve(batch.detach(), taps).requires_grad


@pytest.mark.parametrize("dtype", [torch.uint8, torch.float32])
@pytest.mark.parametrize("sigma", [0.8, 3.3])
def test_a_pixel_changes_nothing_beyond_the_reach_of_a_gaussian(sigma, dtype):
    reach = int(4 * sigma + 0.5)
    batch, kernels = images(1).to(dtype), make_kernels([Blur("gaussian", sigma)])
    changed = batch.clone()
    changed[..., 30, 33] = 255 - batch[..., 30, 33]
    changed = 1e6 * changed if dtype == torch.float32 else changed
    batch = 1e6 * batch if dtype == torch.float32 else batch
    differs = (convolve(batch, kernels) != convolve(changed, kernels)).any(dim=(0, 1)).nonzero()
    assert (differs - torch.tensor([30, 33])).abs().max() <= reach
    assert len(differs) > 4


@pytest.mark.gpu
def test_the_gpu_agrees_with_the_cpu():
    names = ["D4", "H8", "G4", "shake", "sharp", "M8@30"]
    blurs = [BlurDistribution.parse(name).draw(seed=0, index=i) for i, name in enumerate(names)]
    batch = images(len(blurs), size=(400, 400)).float() / 255
    on_gpu = convolve(batch.cuda(), make_kernels(blurs, device=torch.device("cuda"))).cpu()
    assert (on_gpu - convolve(batch, make_kernels(blurs))).abs().max() * 255 < 1e-3


@pytest.fixture(params=["matmul", "conv"])
def products(request):
    """oneDNN's setting for products or convolutions, as a run of reduced precision has it."""
    setting = getattr(torch.backends.mkldnn, request.param)
    before = setting.fp32_precision
    setting.fp32_precision = "bf16"
    yield setting
    setting.fp32_precision = before


def test_reduced_precision_of_a_run_does_not_reach_the_blur(products, monkeypatch):
    batch, kernels = images(len(BLURS)), make_kernels(BLURS)
    products.fp32_precision, reduced = "ieee", products.fp32_precision
    plain = convolve(batch, kernels)
    products.fp32_precision = reduced
    seen, convolution = set(), torch.nn.functional.conv2d

    def noting(*operands, **options):
        seen.add(products.fp32_precision)
        return convolution(*operands, **options)

    monkeypatch.setattr(torch.nn.functional, "conv2d", noting)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(convolve(batch, kernels), plain)
        followed = convolve((batch / 255).requires_grad_(), kernels)
    assert seen == {"ieee"}
    assert products.fp32_precision == "bf16"
    assert followed.dtype == torch.float32
    assert (followed.detach() * 255 - convolve(batch / 255, kernels) * 255).abs().max() < 1e-3


def test_the_result_does_not_depend_on_what_is_blurred_beside_it():
    batch, kernels = images(len(BLURS)), make_kernels(BLURS)
    together = convolve(batch.float() / 255, kernels)
    for index, blur in enumerate(BLURS):
        alone = convolve(batch[index : index + 1].float() / 255, make_kernels([blur]))
        assert torch.equal(alone[0], together[index]), blur


@pytest.mark.parametrize("fusing", [False, True])
def test_what_a_gpu_runs_gives_the_same(fusing, monkeypatch):
    """On the CPU: the grouped convolution, and what the fused kernel is handed."""

    def dense_oracle(chosen, taps, border):
        return convolve(chosen, taps, border)

    def separable_oracle(chosen, column, row, border):
        return convolve(chosen, column[:, :, None] * row[:, None, :], border)

    monkeypatch.setattr(fused, "available", lambda images: fusing)
    monkeypatch.setattr(fused, "convolve_dense", dense_oracle)
    monkeypatch.setattr(fused, "convolve_separable", separable_oracle)
    batch, kernels = images(len(BLURS)), make_kernels(BLURS)
    blurred = batch.clone()
    for group in kernels.groups:
        _convolve_on_gpu(batch, group, "replicate", blurred)
    wanted = convolve(batch, kernels, border="replicate")
    assert (blurred.int() - wanted.int()).abs().max() <= 1
    assert (blurred != wanted).float().mean() < 1e-3


def test_an_inherited_precision_is_inherited_again():
    onednn = torch.backends.mkldnn
    before = onednn.fp32_precision
    onednn.fp32_precision = "bf16"
    try:
        convolve(images(len(BLURS)), make_kernels(BLURS))
        onednn.fp32_precision = "ieee"
        assert onednn.matmul.fp32_precision == "ieee"
    finally:
        onednn.fp32_precision = before


def test_threads_leave_the_precision_as_it_was(products):
    with ThreadPoolExecutor(4) as threads:
        work = [threads.submit(convolve, images(10), make_kernels(BLURS)) for _ in range(24)]
        assert len({hash(job.result().numpy().tobytes()) for job in work}) == 1
    assert products.fp32_precision == "bf16"


def test_products_stay_exact_until_the_last_has_left(products):
    with _PRODUCTS:
        with _PRODUCTS:
            assert products.fp32_precision == "ieee"
        assert products.fp32_precision == "ieee"
    assert products.fp32_precision == "bf16"


@pytest.mark.parametrize("dtype", [torch.uint8, torch.float32])
def test_a_margin_is_drawn_on_and_cut_off(dtype):
    # Kernels that reach less far than the margin, as far and further, on every path.
    blurs = [*BLURS, Blur("coma", 0.2), Blur("gaussian", 0.8)]
    batch = images(len(blurs)).to(dtype)
    whole = convolve(batch, make_kernels(blurs))
    for margin in (1, 4, 20):
        cut = convolve(batch, make_kernels(blurs), margin=margin)
        assert torch.equal(cut, whole[..., margin:-margin, margin:-margin]), margin
    with pytest.raises(ValueError, match="margin: 31 pixels at each edge"):
        convolve(batch, make_kernels(blurs), margin=31)
    for margin in (-1, 1.5, "1", None):
        with pytest.raises(ValueError, match=f"margin: {margin} pixels .* 0 or more whole ones"):
            convolve.__wrapped__(batch, make_kernels(blurs), margin=margin)


def test_a_margin_is_cut_off_where_gradients_are_wanted(photo):
    taps = normalized(torch.ones(len(photo), 3, 5, dtype=photo.dtype)).requires_grad_()
    cut = convolve(photo, taps, margin=3)
    assert cut.requires_grad
    torch.testing.assert_close(cut, convolve(photo, taps.detach())[..., 3:-3, 3:-3])
