import pytest
import torch

from blur_lightning.errors import InputError
from blur_lightning.models import NAFNet


@pytest.mark.parametrize(
    "options, millions",
    [
        ({}, 17.11),  # the paper's networks for GoPro ...
        ({"width": 64}, 67.89),
        ({"encoder_blocks": (2, 2, 4, 8), "middle_blocks": 12, "decoder_blocks": (2,) * 4}, 29.16),
    ],  # ... and for SIDD
)
def test_its_weights_are_as_many_as_published(options, millions):
    with torch.device("meta"):
        net = NAFNet(**options)
    assert sum(weight.numel() for weight in net.parameters()) / 1e6 == pytest.approx(
        millions, abs=0.005
    )


def small():
    torch.manual_seed(0)
    return NAFNet(4, (1, 2), 1, (1, 1))


def test_a_new_network_changes_little_whatever_its_depth():
    """The blocks' branches begin with a weight of 0, so their other weights do not matter."""
    image = torch.rand(1, 3, 16, 16)
    net = small()
    before = net(image)
    with torch.no_grad():
        for block in net.middle:
            block.project1.weight.normal_()
            block.project2.weight.normal_()
    assert torch.equal(net(image), before)
    with torch.no_grad():
        for block in net.middle:
            block.scale1.fill_(1)
    assert not torch.allclose(net(image), before)


@pytest.mark.parametrize("size", [(16, 24), (37, 31), (3, 5)])
def test_images_of_any_size_keep_it(size):
    assert small()(torch.rand(2, 3, *size)).shape == (2, 3, *size)


def test_the_residual_is_added_to_the_image():
    net, image = small(), torch.rand(1, 3, 9, 7)
    with torch.no_grad():
        net.ending.weight.zero_()
        net.ending.bias.fill_(0.25)
    torch.testing.assert_close(net(image), image + 0.25)


def test_each_scale_hands_its_features_over():
    """In a new network, without what comes up, the finest decoder gets what the intro gave."""
    net, image = small(), torch.rand(1, 3, 8, 12)
    with torch.no_grad():
        for up in net.ups:
            up[0].weight.zero_()
    torch.testing.assert_close(net(image), net.ending(net.intro(image)) + image)


def test_all_weights_are_trained():
    net = small()
    with torch.no_grad():
        for name, weight in net.named_parameters():
            if "scale" in name:
                weight.fill_(0.5)
    net(torch.rand(2, 3, 12, 12)).square().mean().backward()
    assert all(weight.grad.abs().sum() > 0 for weight in net.parameters())


@pytest.mark.parametrize(
    "options, message",
    [
        ({"width": 0}, "width must be 1 or more"),
        ({"decoder_blocks": (1, 1)}, "decoder_blocks: 2 scales, but encoder_blocks has 4"),
    ],
)
def test_arguments_that_do_not_fit_are_named(options, message):
    with pytest.raises(InputError, match=message):
        NAFNet(**options)
