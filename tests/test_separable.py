import numpy as np
import pytest
import scipy.linalg
import scipy.ndimage
import torch

from blur_lightning.blur import separable
from blur_lightning.blur.border import Workspace
from blur_lightning.blur.separable import Separable, along_columns, along_rows, cut_in_blocks

GENERATOR = np.random.default_rng(0)


def taps(count):
    values = GENERATOR.uniform(size=count)
    return torch.from_numpy(values / values.sum()).float()


def image(*size):
    return torch.from_numpy(GENERATOR.integers(0, 256, (3, *size), dtype=np.uint8))


@pytest.mark.parametrize("step", [1, 3])
def test_columns_are_correlated_as_scipy_does(step):
    values, line = image(30, 21).float(), taps(7)
    wanted = scipy.ndimage.correlate1d(values.double().numpy(), line.double().numpy(), axis=1)
    made = along_columns(values, line, step=step).numpy()
    assert np.abs(made - wanted[:, 3:-3][:, ::step]).max() < 1e-3


@pytest.mark.parametrize(("outputs", "inputs", "width"), [(16, 16, 37), (16, 24, 50), (3, 2, 2)])
def test_blocks_of_a_row_are_the_product_with_their_matrix(outputs, inputs, width):
    matrix = torch.from_numpy(GENERATOR.normal(size=(outputs, width))).float()
    blocks = cut_in_blocks(matrix, inputs)
    reach = -(-width // inputs)
    assert blocks.shape == (outputs, inputs, 1, reach)
    values = image(4, 5 * inputs).float()
    made = along_rows(values, blocks)
    assert made.shape == (3, 4, (6 - reach) * outputs)
    for block in range(6 - reach):
        used = values[..., block * inputs : block * inputs + width].double()
        wanted = used @ matrix.double().T
        found = made[..., block * outputs : (block + 1) * outputs]
        torch.testing.assert_close(found.double(), wanted, atol=2e-3, rtol=0)


@pytest.mark.parametrize("width", [7, 8, 9, 13])
def test_blocks_can_lie_several_blocks_apart(width):
    matrix = torch.from_numpy(GENERATOR.normal(size=(5, width))).float()
    blocks = cut_in_blocks(matrix, 4)
    values = image(4, 24).float()
    made = along_rows(values, blocks, step=2)
    starts = range(0, 24 - 4 * blocks.shape[3] + 1, 8)
    assert made.shape == (3, 4, 5 * len(starts))
    for block, start in enumerate(starts):
        wanted = values[..., start : start + width].double() @ matrix.double().T
        found = made[..., 5 * block : 5 * (block + 1)]
        torch.testing.assert_close(found.double(), wanted, atol=2e-3, rtol=0)


def test_a_band_is_a_toeplitz_matrix():
    line = taps(5)
    first_row = np.concatenate([line.numpy(), np.zeros(15)])
    wanted = scipy.linalg.toeplitz(np.eye(1, 16)[0] * first_row[0], first_row)
    np.testing.assert_array_equal(separable._band(line).numpy(), wanted)


@pytest.mark.parametrize("size", [(1, 1), (5, 40), (40, 16), (61, 53)])
@pytest.mark.parametrize(("column", "row"), [(9, 5), (None, 37), (33, None), (None, None)])
def test_without_onednn_and_in_float64_products_give_the_same(column, row, size, monkeypatch):
    kernel = Separable(*(None if count is None else taps(count) for count in (column, row)))
    pixels = image(*size)
    convolved = kernel(pixels, "replicate", Workspace()).clone()
    in_float64 = kernel(pixels.double(), "replicate", Workspace())
    assert in_float64.dtype == torch.float64
    monkeypatch.setattr(torch.backends.mkldnn, "is_available", lambda: False)
    monkeypatch.setattr(separable, "along_columns", None)
    multiplied = kernel(pixels, "replicate", Workspace())
    torch.testing.assert_close(convolved.double(), in_float64, atol=2e-4, rtol=0)
    torch.testing.assert_close(multiplied.double(), in_float64, atol=2e-4, rtol=0)
    assert convolved.shape == multiplied.shape == (3, *size)


def test_what_lies_in_used_memory_beside_an_image_is_not_seen():
    workspace, kernel = Workspace(), Separable(None, taps(5))
    workspace.take((10_000,), torch.float32).fill_(torch.nan)
    workspace.clear()
    assert kernel(image(20, 19), "replicate", workspace).isfinite().all()
