import pytest
import torch

from blur_lightning.models.small_resnet import small_resnet


@pytest.mark.parametrize("sides", [(28, 28), (31, 17), (64, 64)])
def test_images_of_any_size_become_logits(sides):
    assert small_resnet(7).eval()(torch.zeros(2, 3, *sides)).shape == (2, 7)


def test_parameters_are_as_many_as_the_layers_of_the_paper_have():
    convolutions = 3 * 16 + 2 * 16 * 16 + 16 * 32 + 32 * 32 + 32 * 64 + 64 * 64  # of 3x3
    shortcuts = 16 * 32 + 32 * 64
    norms = 2 * (3 * 16 + 3 * 32 + 3 * 64)  # one of the norms of the later stages is a shortcut's
    classifier = 64 * 10 + 10
    expected = 9 * convolutions + shortcuts + norms + classifier
    assert sum(p.numel() for p in small_resnet().parameters()) == expected


def test_stages_halve_the_resolution_and_double_the_channels():
    features = torch.zeros(1, 3, 28, 28)
    shapes = {}
    for name, layer in small_resnet().eval().named_children():
        features = layer(features)
        shapes[name] = tuple(features.shape[1:])
    assert [shapes[name] for name in ("stem", "stage1", "stage2", "stage3", "pool")] == [
        (16, 28, 28),
        (16, 28, 28),
        (32, 14, 14),
        (64, 7, 7),
        (64, 1, 1),
    ]


def test_blocks_are_residual():
    """Where the last normalisation of a block gives nothing, what is not negative passes."""
    block = small_resnet().stage1
    torch.nn.init.zeros_(block.bn2.weight)
    image = torch.rand(1, 16, 9, 9)
    torch.testing.assert_close(block.eval()(image), image)


def test_a_few_steps_learn_a_batch_by_heart():
    torch.manual_seed(0)
    net = small_resnet()
    image, label = torch.randn(20, 3, 28, 28), torch.arange(20) % 10
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1, momentum=0.9)
    for _ in range(30):
        optimizer.zero_grad()
        torch.nn.functional.cross_entropy(net(image), label).backward()
        optimizer.step()
    assert (net(image).argmax(1) == label).all()


def test_it_names_the_mean_and_deviation_of_its_input():
    settings = small_resnet().pretrained_cfg
    assert settings["mean"] == (0.2860,) * 3
    assert settings["std"] == (0.3530,) * 3
    assert settings["architecture"] == "small_resnet"


def test_blur_pooling_halves_after_a_blur_of_one_two_one():
    """A column of light beside those that are kept is not lost, and the shapes stay."""
    net = small_resnet(blur_pool=True).eval()
    assert net(torch.zeros(2, 3, 31, 17)).shape == (2, 10)
    assert net.pretrained_cfg["architecture"] == "small_resnet_blur_pool"
    net.load_state_dict(small_resnet().state_dict())  # of the same names and shapes
    line = torch.zeros(1, 32, 9, 9)
    line[..., 5] = 1.0
    for pool in (net.stage2.aa, net.stage2.downsample[-1]):
        columns = pool(line)[0, 0, 2]
        torch.testing.assert_close(columns, torch.tensor([0.0, 0.0, 0.25, 0.25, 0.0]))


def test_blur_pooling_varies_less_with_the_place_of_what_is_seen():
    torch.manual_seed(0)
    spread = {}
    for blur_pool in (False, True):
        block = small_resnet(blur_pool=blur_pool).eval().stage2
        images = torch.zeros(8, 16, 24, 24)
        for place in range(8):
            images[place, :, 12, 8 + place] = 1.0
        strengths = block(images).detach().mean(dim=(1, 2, 3))
        spread[blur_pool] = float(strengths.std() / strengths.mean())
    assert spread[True] < spread[False] / 2
