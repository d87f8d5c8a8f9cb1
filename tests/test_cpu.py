import numpy as np
import pytest
import scipy.ndimage
import torch

from blur_lightning.blur import convolve, disk_kernel, gaussian_taps, runs, shake_bank
from blur_lightning.blur.cpu import Fourier, Separable, Shifts, Strips, _fast_length, path_of
from blur_lightning.blur.runs import Runs

GENERATOR = np.random.default_rng(0)


def noise(*shape):
    taps = GENERATOR.uniform(size=shape)
    return torch.from_numpy(taps / taps.sum(axis=(-2, -1), keepdims=True)).float()


def flat(*mask):
    taps = torch.tensor([[c == "x" for c in line] for line in mask]).float()
    return taps / taps.sum()


def disk(radius, rim="hard"):
    return disk_kernel(torch.tensor([float(radius)]), rim=rim)[0]


def gaussian(sigma):
    return gaussian_taps(torch.tensor([float(sigma)]))[0]


KERNELS = {
    "one tap": (flat("...", ".x.", "..."), Runs),
    "one tap off the middle": (flat("...", "..x", "..."), Runs),
    "disk": (disk(4), Runs),
    "disk of the highest 16 bits": (disk(8), Runs),
    "disk of more than 16 bits": (disk(10), Runs),
    "wide disk": (disk(17), Runs),
    "row": (flat(".......", "xxxxxx.", "......."), Runs),
    "column": (flat(".x.", ".x.", ".x.", ".x.", "..."), Runs),
    "square": (flat("xxxxx", "xxxxx", "xxxxx", "xxxxx", "xxxxx"), Runs),
    "slanted": (flat("x....", "xx...", ".xx..", "..xx.", "....x"), Runs),
    "columns unbroken, rows broken": (flat("x.x", "xxx", "xxx"), Runs),
    "ring": (flat("xxx", "x.x", "xxx"), Shifts),
    "gaussian": (torch.outer(gaussian(1.3), gaussian(1.3)), Separable),
    "wide gaussian": (torch.outer(gaussian(8), gaussian(8)), Separable),
    "lopsided product": (torch.outer(noise(1, 7)[0], noise(1, 5)[0]), Separable),
    "product of sum not quite 1": (1.0005 * torch.outer(noise(1, 3)[0], noise(1, 5)[0]), Separable),
    "almost a product": (
        0.999 * torch.outer(gaussian(1), gaussian(1)) + 0.001 * noise(9, 9),
        Strips,
    ),
    "row of unequal taps": (gaussian(2)[None], Separable),
    "column of unequal taps": (gaussian(2)[:, None], Separable),
    "disk by area": (disk(3.3, rim="area"), Strips),
    "wide disk by area": (disk(19.5, rim="area"), Fourier),
    "noise": (noise(9, 9), Strips),
    "wide noise": (noise(33, 35), Fourier),
    "tall noise": (noise(51, 21), Fourier),
    "shake": (min(shake_bank(100, seed=0), key=torch.count_nonzero), Shifts),
    "noise in each channel": (noise(3, 5, 5), Strips),
    "wide noise in each channel": (noise(3, 31, 33), Fourier),
}
MODES = {"reflect": "mirror", "replicate": "nearest", "constant": "constant"}


def exact(image, taps, border):
    """In float64; each channel with its own kernel if there is one."""
    kernels = taps.double().expand(3, *taps.shape[-2:]).numpy()
    pairs = zip(image.double().numpy(), kernels, strict=True)
    return np.stack([scipy.ndimage.convolve(c, k, mode=MODES[border]) for c, k in pairs])


@pytest.mark.parametrize("name", KERNELS)
def test_each_kind_of_kernel_takes_its_path(name):
    taps, kind = KERNELS[name]
    assert isinstance(path_of([taps]), kind)


@pytest.mark.parametrize("border", MODES)
@pytest.mark.parametrize("name", KERNELS)
def test_every_path_agrees_with_scipy(name, border):
    taps, _ = KERNELS[name]
    image = torch.from_numpy(GENERATOR.integers(0, 256, (3, 61, 53), dtype=np.uint8))
    wanted = exact(image, taps, border)
    blurred = convolve((image[None] / 255), taps[None], border=border)[0].numpy() * 255
    assert np.abs(blurred - wanted).max() < 2.5e-4
    levels = convolve(image[None], taps[None], border=border)[0].numpy()
    differs = levels != np.rint(wanted)
    distance_to_tie = np.abs(np.abs(wanted - np.floor(wanted)) - 0.5)
    assert distance_to_tie[differs].max(initial=0) < 2.5e-4
    assert np.abs(levels - wanted).max() <= 0.5 + 2.5e-4


def test_sums_of_runs_are_exact_at_ties():
    column = torch.tensor([1, 2, 4, 7, 11, 250, 251, 255], dtype=torch.uint8)
    image = column.view(1, 1, 8, 1).repeat(1, 3, 1, 8)
    for count in (2, 4, 6):
        taps = torch.zeros(1, 7, 1)
        taps[0, :count] = 1 / count
        wanted = np.rint(
            scipy.ndimage.convolve1d(
                image[0].numpy().astype(int) * 420,
                taps[0, :, 0].numpy() * count,
                axis=1,
                mode="mirror",
            )
            / (420 * count)
        )
        assert np.array_equal(convolve(image, taps)[0].numpy(), wanted)


@pytest.mark.parametrize("dtype", [torch.uint8, torch.float32])
@pytest.mark.parametrize("name", ["disk", "disk of more than 16 bits", "column", "row"])
def test_sums_do_not_depend_on_the_stretches_they_are_made_in(name, dtype, monkeypatch):
    taps, _ = KERNELS[name]
    image = torch.from_numpy(GENERATOR.integers(0, 256, (1, 3, 61, 53), dtype=np.uint8)).to(dtype)
    whole = convolve(image, taps[None])
    monkeypatch.setattr(runs, "_CACHE", 1)
    assert torch.equal(convolve(image, taps[None]), whole)


def test_infinite_pixels_stay_where_a_disk_reaches_and_warn_of_nothing():
    image = torch.ones(1, 1, 30, 30)
    image[..., 10, 10], image[..., 10, 11] = torch.inf, -torch.inf
    blurred = convolve(image, disk(2)[None])[0, 0]
    assert not blurred[10, 10].isfinite()
    assert torch.equal(blurred[14:], torch.ones(16, 30))


def test_long_sums_take_few_additions():
    plan = path_of((disk(8),))
    assert isinstance(plan, Runs)
    assert (len(plan.runs), len(plan.chain)) == (17, 8)
    assert len(path_of((flat("x" * 8 + "."),)).chain) == 3


def test_fourier_transforms_have_lengths_that_are_fast():
    assert [_fast_length(length) for length in (1, 400, 401, 433)] == [4, 400, 432, 480]


def test_white_stays_white_and_black_stays_black():
    for value in (0, 255):
        image = torch.full((1, 3, 40, 40), value, dtype=torch.uint8)
        for taps, _ in KERNELS.values():
            assert torch.equal(convolve(image, taps[None], border="replicate"), image)


@pytest.mark.parametrize("name", KERNELS)
def test_a_window_is_blurred_as_in_the_whole_image(name):
    """Bit for bit, wherever it lies: so that cutting first changes no 8-bit value."""
    taps, _ = KERNELS[name]
    image = torch.from_numpy(GENERATOR.integers(0, 256, (1, 3, 150, 171), dtype=np.uint8))
    whole = convolve(image, taps[None], border="replicate")
    reach = max(taps.shape[-2:]) // 2
    for top, left, height, width in ((0, 0, 40, 71), (31, 17, 1, 1), (53, 60, 97, 109)):
        rows = slice(max(0, top - reach), top + height + reach)
        columns = slice(max(0, left - reach), left + width + reach)
        window = convolve(image[..., rows, columns], taps[None], border="replicate")
        y, x = top - rows.start, left - columns.start
        wanted = whole[..., top : top + height, left : left + width]
        assert torch.equal(window[..., y : y + height, x : x + width], wanted)
