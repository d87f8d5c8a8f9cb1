"""The Triton kernel. Small cases run twice: on a GPU, and by Triton's interpreter on the CPU."""

import importlib.util
import os
import subprocess
import sys

import pytest
import torch

from blur_lightning.blur import convolve, fused, gaussian_taps

# Triton reads this when it is imported, so the interpreter needs a process of its own.
INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"
DEVICE = "cpu" if INTERPRETED else "cuda"
BORDERS = ["reflect", "replicate", "constant"]
small = pytest.mark.usefixtures("small_tiles") if INTERPRETED else pytest.mark.gpu


@pytest.fixture
def small_tiles(monkeypatch):
    """Tiles and parts of kernels so small that a tiny image has several."""
    sizes = {"_TILE_ROWS": 4, "_TILE_COLUMNS": 8, "_KERNEL_ROWS": 3}
    for name, size in sizes.items():
        monkeypatch.setattr(fused, name, size)


def random_images(*shape, dtype=torch.uint8, seed=0):
    generator = torch.Generator().manual_seed(seed)
    pixels = torch.randint(256, shape, generator=generator, dtype=torch.uint8)
    return pixels if dtype == torch.uint8 else (pixels / 255).to(dtype)


def random_taps(*shape, seed=1):
    """Kernels of sum 1 without any symmetry."""
    taps = torch.rand(shape, generator=torch.Generator().manual_seed(seed))
    return taps / taps.sum((-2, -1), keepdim=True)


def agree(result, exact):
    """Whether a result is the exact float64 one in its own type, save where rounding is a tie."""
    result = result.cpu()
    if result.dtype == torch.uint8:
        tie = ((exact - exact.floor()) - 0.5).abs() < 1e-3
        return torch.equal(result[~tie].double(), exact.round()[~tie])
    rounding = torch.finfo(result.dtype).eps / 2
    return (result.double() - exact).abs().max() < 1e-5 + rounding


@pytest.mark.skipif(INTERPRETED, reason="it starts the interpreter")
def test_the_interpreter_runs_the_small_cases():
    pytest.importorskip("triton")
    command = [sys.executable, "-m", "pytest", "-x", "-p", "no:cacheprovider", __file__]
    environment = {**os.environ, "TRITON_INTERPRET": "1"}
    run = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert run.returncode == 0, run.stdout


@pytest.mark.skipif(INTERPRETED, reason="the interpreter replaces the compiler")
@pytest.mark.parametrize("border", BORDERS)
def test_it_compiles_for_a_gpu_that_is_not_there(border, monkeypatch, tmp_path):
    """The interpreter runs much that the compiler refuses."""
    compiler = pytest.importorskip("triton.compiler")
    backends = pytest.importorskip("triton.backends.compiler")
    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path))
    constants = {"BORDER": border, "HELD": 5, "ROWS": 8, "COLUMNS": 64, "image_w": 1}
    pointers = {"images": "*u8", "taps": "*fp32", "blurred": "*u8"}
    names = fused._correlate.arg_names
    signature = {name: "constexpr" if name in constants else "i32" for name in names} | pointers
    compiled = compiler.compile(
        compiler.ASTSource(fused._correlate, signature, constants),
        target=backends.GPUTarget("cuda", 90, 32),
        options={"num_warps": 1, "enable_fp_fusion": False},
    )
    # Two columns a thread; 12 rows of pixels and 5 taps are loaded for 40 products.
    assert compiled.asm["ptx"].count("fma.rn.f32") == 2 * 40
    assert compiled.asm["ptx"].count("ld.global") == 2 * 12 + 5


@small
@pytest.mark.parametrize(
    ("dtype", "border", "sides"),
    [
        (torch.uint8, "reflect", (3, 5)),
        (torch.uint8, "constant", (5, 1)),
        (torch.uint8, "replicate", (1, 5)),
        (torch.float32, "replicate", (5, 3)),
        (torch.float32, "constant", (3, 3)),
        (torch.float16, "reflect", (3, 3)),
        (torch.bfloat16, "reflect", (1, 3)),
    ],
)
def test_it_agrees_with_the_convolution_in_float64(dtype, border, sides):
    images, taps = random_images(2, 2, 5, 7, dtype=dtype), random_taps(2, *sides)
    exact = convolve(images.double(), taps.double(), border)
    result = fused.convolve_dense(images.to(DEVICE), taps.to(DEVICE), border)
    assert result.dtype == dtype
    assert agree(result, exact)


@small
def test_each_channel_may_have_a_kernel_of_its_own():
    images, taps = random_images(1, 2, 5, 9), random_taps(1, 2, 3, 3)
    result = fused.convolve_dense(images.to(DEVICE), taps.to(DEVICE))
    for channel in range(2):
        exact = convolve(images.double(), taps[:, channel].double())
        assert agree(result[:, channel], exact[:, channel])


@small
@pytest.mark.parametrize("border", ["replicate", "constant"])
def test_a_column_and_a_row_make_a_separable_kernel(border):
    images = random_images(1, 2, 5, 7)
    column, row = random_taps(1, 1, 5)[:, 0], random_taps(1, 1, 3)[:, 0]
    exact = convolve(images.double(), (column[:, :, None] * row[:, None]).double(), border)
    result = fused.convolve_separable(*(x.to(DEVICE) for x in (images, column, row)), border)
    assert agree(result, exact)


@small
def test_the_memory_format_is_kept_and_any_strides_are_read():
    images, taps = random_images(1, 3, 9, 12), random_taps(1, 3, 3)
    exact = convolve(images[..., 2:7, 1:10].double(), taps.double())
    last = images.to(DEVICE).contiguous(memory_format=torch.channels_last)
    window = fused.convolve_dense(last[..., 2:7, 1:10], taps.to(DEVICE))
    assert agree(window, exact)
    whole = fused.convolve_dense(last[..., :3, :3], taps.to(DEVICE))
    assert whole.is_contiguous(memory_format=torch.channels_last)


@small
def test_one_pixel_and_no_image_at_all():
    pixel, taps = random_images(1, 3, 1, 1), random_taps(1, 3, 5)
    result = fused.convolve_dense(pixel.to(DEVICE), taps.to(DEVICE), "replicate")
    assert torch.equal(result.cpu(), pixel)
    none = fused.convolve_dense(pixel[:0].to(DEVICE), taps[:0].to(DEVICE), "replicate")
    assert none.shape == (0, 3, 1, 1)


@small
def test_ties_go_to_the_even_value_and_sums_are_clamped():
    image = torch.tensor([[1, 2], [2, 3], [5, 4]], dtype=torch.uint8, device=DEVICE)[None, :, None]
    halves = torch.tensor([[[0.5, 0.5, 0.0]]], device=DEVICE)
    means = fused.convolve_dense(image, halves, "replicate")
    # Each left pixel becomes the mean of both: 1.5, 2.5 and 4.5.
    assert means[0, :, 0, 0].tolist() == [2, 2, 4]
    assert fused.convolve_dense(image, halves * 1000).unique().tolist() == [255]
    assert fused.convolve_dense(image, halves * -1).unique().tolist() == [0]


@pytest.mark.gpu
@pytest.mark.parametrize("border", BORDERS)
@pytest.mark.parametrize("dtype", [torch.uint8, torch.float16, torch.bfloat16, torch.float32])
@pytest.mark.parametrize("sides", [(17, 17), (9, 9), (1, 33), (33, 1), (41, 19)])
def test_full_size_images(sides, dtype, border):
    images, taps = random_images(8, 3, 384, 384, dtype=dtype), random_taps(8, *sides)
    exact = convolve(images.double(), taps.double(), border)
    assert agree(fused.convolve_dense(images.cuda(), taps.cuda(), border), exact)


@pytest.mark.gpu
@pytest.mark.parametrize("shape", [(37, 31), (384, 384), (227, 401)])
@pytest.mark.parametrize("sigma", [1.0, 4.0])
def test_gaussians_of_full_size(shape, sigma):
    images = random_images(8, 3, *shape)
    taps = gaussian_taps(torch.full((8,), sigma), half_width=int(4 * sigma + 0.5))
    exact = convolve(images.double(), (taps[:, :, None] * taps[:, None]).double(), "replicate")
    assert agree(
        fused.convolve_separable(images.cuda(), taps.cuda(), taps.cuda(), "replicate"), exact
    )


@pytest.mark.gpu
def test_neither_the_batch_nor_the_place_moves_a_bit():
    images, taps = random_images(8, 3, 100, 150, dtype=torch.float32).cuda(), random_taps(8, 9, 9)
    together = fused.convolve_dense(images, taps.cuda())
    alone = fused.convolve_dense(images[5:6], taps[5:6].cuda())
    assert torch.equal(together[5:6], alone)
    shifted = fused.convolve_dense(images[..., 3:, 7:], taps.cuda())
    assert torch.equal(shifted[..., 4:, 4:], together[..., 7:, 11:])


@pytest.mark.gpu
def test_batches_of_more_elements_than_32_bits_count():
    if torch.cuda.mem_get_info()[0] < 6 * 2**30:
        pytest.skip("needs 6 GiB of GPU memory")
    images = torch.zeros(5500, 3, 384, 384, dtype=torch.uint8, device="cuda")
    images[-1] = random_images(3, 384, 384).cuda()
    taps = random_taps(1, 3, 3).cuda()
    alone = fused.convolve_dense(images[-1:], taps)
    assert torch.equal(fused.convolve_dense(images, taps.expand(len(images), 3, 3))[-1:], alone)


def test_it_is_available_only_for_a_gpu_with_triton(monkeypatch):
    assert not fused.available(random_images(1, 3, 8, 8))
    # A copy of the module, imported where there is no Triton.
    monkeypatch.setitem(sys.modules, "triton", None)
    spec = importlib.util.spec_from_file_location("without_triton", fused.__file__)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    assert not module.available(random_images(1, 3, 8, 8))


@pytest.mark.parametrize(
    ("taps", "what"),
    [
        (torch.ones(3, 3, 3), r"taps: shape \(3, 3, 3\) does not fit images \(2, 3, 8, 8\)"),
        (torch.ones(2, 1, 3, 3), "does not fit images"),
        (torch.ones(2, 4, 3), r"taps: a side of \(2, 4, 3\) is even"),
        (torch.ones(2, 17, 3), "taps: they reach 8 px"),
    ],
)
def test_what_does_not_fit_is_named(taps, what):
    # Without the runtime type checks of the tests, as users call it.
    with pytest.raises(ValueError, match=what):
        fused.convolve_dense.__wrapped__(random_images(2, 3, 8, 8), taps)
