import pytest
import torch
import torch.nn.functional as F
from torch import nn

from blur_lightning.errors import InputError
from blur_lightning.models import DeblurNet


def weights(module):
    return sum(weight.numel() for weight in module.parameters())


@pytest.fixture
def narrow():
    """A small network with residuals, as a trained one has them."""
    torch.manual_seed(0)
    net = DeblurNet(width=1 / 32).eval()
    for part in (net.n1, net.n2, net.n3):
        nn.init.normal_(part[-1].weight, std=0.01)
    return net


def test_the_layers_are_those_of_table_1():
    """Table 1: kernel, stride and channels, column by column, convolutions and deconvolutions."""
    with torch.device("meta"):
        net = DeblurNet()
    expected = {
        "n1": "11:96:2 7:256:1 7:384:1 7:384:2 3:256:1 3:256:1 3:3:1",
        "n2": "5:256:1 5:256:1 5:256:1 5:256:1 5:3:2",
        "n3": "5:256:1 5:256:1 5:256:1 5:256:1 5:3:2",
    }
    for name, columns in expected.items():
        layers = [m for m in net.get_submodule(name) if not isinstance(m, nn.BatchNorm2d | nn.ReLU)]
        found = [f"{m.kernel_size[0]}:{m.out_channels}:{m.stride[0]}" for m in layers]
        assert " ".join(found) == columns
        kinds = [type(layer) for layer in net.get_submodule(name)]
        norms = kinds.count(nn.BatchNorm2d)
        assert norms == kinds.count(nn.ReLU) == len(layers) - 1
        assert kinds[-1] is (nn.Conv2d if name == "n1" else nn.ConvTranspose2d)


def test_its_weights_are_counted():
    with torch.device("meta"):
        net = DeblurNet()
    kernels = 3 * 96 * 121 + 49 * (96 * 256 + 256 * 384 + 384 * 384) + 9 * 256 * (384 + 256 + 3)
    doubling = 25 * 256 * (3 + 256 * 3 + 3)
    norms = 2 * (96 + 256 + 384 + 384 + 256 + 256) + 2 * 2 * 4 * 256
    assert weights(net) == kernels + 2 * doubling + norms + 3 * 3 == 24_677_353


@pytest.mark.parametrize("size", [(32, 24), (37, 31), (5, 6)])
def test_images_of_any_size_are_restored_at_three_scales(narrow, size):
    image = torch.rand(2, 3, *size, generator=torch.Generator().manual_seed(1))
    quarter, half, full = narrow(image)
    for scaled, k in ((quarter, 4), (half, 2), (full, 1)):
        assert scaled.shape == (2, 3, -(-size[0] // k), -(-size[1] // k))
        assert scaled.isfinite().all()


@pytest.mark.parametrize("training", [True, False])
def test_a_new_network_returns_the_blurry_image_at_each_scale(training):
    net = DeblurNet(width=1 / 32).train(training)
    image = torch.rand(1, 3, 16, 24)
    for scaled, k in zip(net(image), (4, 2, 1), strict=True):
        torch.testing.assert_close(scaled, F.interpolate(image, scale_factor=1 / k, mode="area"))


def test_one_batch_is_learnt_by_heart():
    """The restored images come 10 dB closer than the blurry ones at the two finer scales."""
    torch.manual_seed(0)
    coarse = torch.rand(2, 3, 8, 8)
    sharp = F.interpolate(coarse, scale_factor=4, mode="nearest")
    blurry = F.avg_pool2d(F.pad(sharp, (3, 3, 0, 0), mode="replicate"), (1, 7), stride=1)
    net = DeblurNet(width=1 / 16)
    optimizer = torch.optim.Adam(net.parameters(), lr=3e-3)
    targets = [F.avg_pool2d(sharp, k) for k in (4, 2, 1)]

    def errors(restored):
        return [F.mse_loss(*pair) for pair in zip(restored, targets, strict=True)]

    before = errors([F.avg_pool2d(blurry, k) for k in (4, 2, 1)])
    for _ in range(30):
        optimizer.zero_grad()
        sum(errors(net(blurry))).backward()
        optimizer.step()
    after = errors(net(blurry))
    assert all(last < first / 10 for first, last in zip(before[1:], after[1:], strict=True))


def test_padding_changes_nothing_where_there_is_none(narrow):
    """What is beyond the right and lower edge repeats the last column and row."""
    image = torch.rand(1, 3, 18, 23, generator=torch.Generator().manual_seed(2))
    padded = F.pad(image, (0, 1, 0, 2), mode="replicate")
    torch.testing.assert_close(narrow(image)[-1], narrow(padded)[-1][..., :18, :23])


def test_each_subgraph_sees_what_the_one_before_restored(narrow):
    """By gradients: the finest image depends on the weights of all three."""
    narrow(torch.rand(1, 3, 16, 16))[-1].square().sum().backward()
    assert all(getattr(narrow, name)[-1].weight.grad.abs().sum() > 0 for name in ("n1", "n2", "n3"))
    narrow.zero_grad()
    narrow(torch.rand(1, 3, 16, 16))[0].square().sum().backward()
    assert narrow.n2[-1].weight.grad is None or not narrow.n2[-1].weight.grad.any()


def test_a_width_of_nothing_is_refused():
    with pytest.raises(InputError, match=r"model.net.width: 0.0 is not more than 0"):
        DeblurNet(width=0.0)
