import pytest
import torch
import torch.nn.functional as F

from blur_lightning.blur.border import Workspace, pad, to_8_bits


@pytest.mark.parametrize("more", [(0, 0), (2, 0), (0, 5), (1, 3)])
@pytest.mark.parametrize("border", ["reflect", "replicate", "constant"])
@pytest.mark.parametrize(("rows", "columns"), [(0, 0), (2, 0), (0, 3), (4, 6)])
def test_the_border_is_that_of_torch(border, rows, columns, more):
    image = torch.arange(3 * 5 * 7, dtype=torch.float32).view(3, 5, 7)
    workspace = Workspace()
    for _ in range(2):  # the second time in used memory
        padded = pad(image, rows, columns, border, torch.float32, workspace, more=more)
        wanted = F.pad(image[None], (columns, columns, rows, rows), mode=border)[0]
        wanted = F.pad(wanted, (0, more[1], 0, more[0]))
        assert torch.equal(padded, wanted)
        padded.fill_(-1)
        workspace.clear()


def test_a_replicated_border_may_be_wider_than_the_image():
    image = torch.tensor([[[1, 2], [3, 4]]], dtype=torch.uint8)
    padded = pad(image, 5, 0, "replicate", torch.int16, Workspace())
    assert padded[0, :, 0].tolist() == [1] * 6 + [3] * 6


def test_a_workspace_gives_its_memory_again_once_it_is_cleared():
    workspace = Workspace()
    first = workspace.take((4, 5), torch.int16).fill_(1)
    second = workspace.take((300,), torch.float64).fill_(2)
    assert (first == 1).all() and (second == 2).all()
    workspace.clear()
    third = workspace.take((2, 3), torch.int64)
    workspace.clear()
    assert workspace.take((7,), torch.uint8).data_ptr() == third.data_ptr()
    assert workspace.take((7,), torch.uint8).data_ptr() == third.data_ptr() + 64


def test_8_bits_are_rounded_half_to_even():
    values = torch.tensor([-0.4, 0.5, 1.5, 2.5, 2.51, 254.5, 255.3])
    assert to_8_bits(values).tolist() == [0, 0, 2, 2, 3, 254, 255]
    assert to_8_bits(values).dtype == torch.uint8
