"""Distances and CKA of layers: against brute force and closed forms."""

import numpy as np
import pytest
import scipy.stats
import timm
import torch
import torchvision
from torch import nn

from blur_lightning.errors import InputError
from blur_lightning.models import Dense, small_resnet
from blur_lightning.tasks.activations import (
    Answer,
    LayerStatistics,
    as_map,
    check_same_places,
    find_layers,
    hamming_distance,
    watching,
)


@pytest.fixture
def generator():
    return torch.Generator().manual_seed(0)


def answer(features):
    """What a layer with these outputs (b, c, h, w) answers."""
    net = nn.Sequential(nn.Identity())
    with watching(net, ["0"]) as answers:
        net(features)
    return answers["0"]


def test_the_distance_at_a_place_is_the_share_of_channels_that_change_sides(generator):
    one, other = (torch.randn(2, 7, 3, 5, generator=generator).relu() for _ in range(2))
    found = hamming_distance(answer(one), answer(other))
    for image in range(2):
        for y in range(3):
            for x in range(5):
                pairs = zip(one[image, :, y, x], other[image, :, y, x], strict=True)
                changed = sum((a > 0) != (b > 0) for a, b in pairs)
                assert found[image, y, x].item() == pytest.approx(changed.item() / 7)


def test_tokens_and_vectors_have_their_channels_last(generator):
    tokens = torch.randn(2, 5, 8, generator=generator)
    assert hamming_distance(answer(tokens), answer(-tokens)).tolist() == [[1.0] * 5] * 2
    torch.testing.assert_close(answer(tokens).pooled, tokens.mean(dim=1))
    vectors = torch.randn(2, 8, generator=generator)
    assert hamming_distance(answer(vectors), answer(vectors)).tolist() == [0.0] * 2
    assert torch.equal(answer(vectors).pooled, vectors)


def test_an_answer_is_noted_before_the_next_layer_writes_over_it():
    net = nn.Sequential(nn.Identity(), nn.ReLU(inplace=True))
    images = -torch.ones(1, 2, 3, 3)
    with watching(net, ["0", "1"]) as answers:
        net(images)
    assert answers["0"].pooled.tolist() == [[-1.0, -1.0]]
    assert answers["1"].pooled.tolist() == [[0.0, 0.0]]
    assert not any(module._forward_hooks for module in net.modules())


# Streaming


def stream(x, y, *, batch):
    """Statistics of features (n, c, h, w) in batches, under one condition."""
    statistics = LayerStatistics(x.shape[1], 1, torch.device("cpu"))
    for a, b in zip(x.split(batch), y.split(batch), strict=True):
        sharp, blurred = answer(a), answer(b)
        statistics.add_sharp(sharp)
        statistics.add(0, sharp, blurred)
    return statistics


@pytest.mark.parametrize("batch", [1, 4, 11])
def test_linear_cka_is_that_of_the_gram_matrices_whatever_the_batches(generator, batch):
    """The other form of it: similarities of images (n, n) in place of channels (c, c)."""
    x = torch.randn(11, 4, 2, 3, generator=generator)
    y = x + 0.8 * torch.randn(11, 4, 2, 3, generator=generator) + 3
    centring = np.eye(11) - 1 / 11
    k, m = (
        centring @ f @ f.T @ centring
        for f in (features.mean(dim=(2, 3)).double().numpy() for features in (x, y))
    )
    expected = (k * m).sum() / np.sqrt((k * k).sum() * (m * m).sum())
    assert 0.1 < expected < 0.99
    assert stream(x, y, batch=batch).linear_cka(0) == pytest.approx(expected, abs=1e-6)


def test_cka_knows_no_rotation_and_no_scale(generator):
    x = torch.randn(20, 5, 1, 1, generator=generator)
    rotation = torch.linalg.qr(torch.randn(5, 5, generator=generator)).Q
    y = 3 * torch.einsum("bchw,cd->bdhw", x, rotation) + 1
    assert stream(x, y, batch=7).linear_cka(0) == pytest.approx(1, abs=1e-6)
    assert np.isnan(stream(x, torch.ones_like(x), batch=7).linear_cka(0))


@pytest.mark.parametrize("batch", [2, 9])
def test_the_interval_is_students_whatever_the_batches(generator, batch):
    x, y = (torch.randn(9, 6, 2, 2, generator=generator) for _ in range(2))
    each = ((x > 0) != (y > 0)).double().mean(dim=(1, 2, 3)).numpy()
    mean, *interval = stream(x, y, batch=batch).distance(0)
    assert mean == pytest.approx(each.mean(), abs=1e-7)
    expected = scipy.stats.t.interval(0.95, 8, loc=each.mean(), scale=scipy.stats.sem(each))
    assert interval == pytest.approx(expected, abs=1e-6)


def test_one_image_has_no_interval(generator):
    x = torch.randn(1, 6, 2, 2, generator=generator)
    assert stream(x, x, batch=1).distance(0) == (0.0, 0.0, 1.0)


def test_memory_is_what_the_docstring_says_and_does_not_grow(generator):
    statistics = LayerStatistics(32, 3, torch.device("cpu"))

    def size():
        tensors = (value for value in vars(statistics).values() if isinstance(value, torch.Tensor))
        return sum(tensor.nbytes for tensor in tensors)

    before = size()
    assert before == pytest.approx(8 * 32**2 * (2 * 3 + 1), rel=0.05)
    for _ in range(3):
        batch = answer(torch.randn(8, 32, 2, 2, generator=generator))
        statistics.add_sharp(batch)
        statistics.add(1, batch, batch)
    assert size() == before


# Maps


def test_tokens_lie_row_by_row_behind_the_ones_that_are_no_patch():
    tokens = torch.arange(3 + 2 * 4).float()
    found = as_map(tokens, (32, 64), 3)
    assert found.tolist() == [[3, 4, 5, 6], [7, 8, 9, 10]]
    assert as_map(tokens, (32, 32), 3) is None  # eight places are no square
    assert as_map(torch.tensor(0.5), (32, 32), 0) is None
    grid = torch.rand(3, 5)
    assert as_map(grid, (1, 1), 0) is grid


# Which layers


def on_meta(make, *arguments, **options):
    """A network without weights, in no time."""
    with torch.device("meta"):
        return make(*arguments, **options)


POOLINGS = ["features.4", "features.9", "features.16", "features.23", "features.30"]


@pytest.mark.parametrize(
    "net, expected",
    [
        (on_meta(timm.create_model, "vgg16"), POOLINGS),
        (on_meta(torchvision.models.vgg16), POOLINGS),
        (on_meta(timm.create_model, "resnet18"), ["act1", "layer1", "layer2", "layer3", "layer4"]),
        (on_meta(timm.create_model, "test_vit", depth=2), ["blocks.0", "blocks.1"]),
        (on_meta(small_resnet), ["stem", "stage1", "stage2", "stage3"]),
        (nn.Sequential(nn.Linear(2, 2)), ["0"]),
    ],
)
def test_a_networks_layers_are_its_poolings_stages_or_blocks(net, expected):
    assert find_layers(net, None) == expected


def test_layers_of_a_wrapped_network_carry_the_wrappers_name():
    net = Dense(on_meta(timm.create_model, "test_resnet"))
    assert find_layers(net, None)[-1] == "net.layer4"


def test_a_network_that_notes_stages_which_it_has_not_gives_its_blocks():
    net = on_meta(timm.create_model, "twins_svt_small")  # its notes say block.0
    found = find_layers(net, None)
    assert found and set(found) <= {name for name, _ in net.named_modules()}


@pytest.mark.parametrize("name", ["volo_d1_224", "swin_tiny_patch4_window7_224"])
def test_maps_with_channels_last_are_read_as_such(name):
    net = on_meta(timm.create_model, name).eval()
    layers = find_layers(net, None)
    widths = [stage["num_chs"] for stage in net.feature_info]
    with watching(net, layers) as answers:
        net(torch.zeros(1, 3, 224, 224, device="meta"))
    assert [answers[layer].pooled.shape[1] for layer in layers] == widths


@pytest.mark.parametrize(
    "names, message",
    [
        (["layer5"], "no 'layer5'; the nearest: layer[1-4], "),
        ([], "layers: none"),
    ],
)
def test_a_layer_that_is_not_there_is_told_with_the_nearest(names, message):
    net = on_meta(timm.create_model, "test_resnet")
    with pytest.raises(InputError, match=message) as error:
        find_layers(net, names)
    assert "\n" not in str(error.value)


class Odd(nn.Module):
    """Has a layer that gives a pair, one that runs twice and one that never runs."""

    def __init__(self):
        super().__init__()
        self.pair, self.twice, self.never = nn.Identity(), nn.Identity(), nn.Identity()

    def forward(self, x):
        self.pair((x, x))
        return self.twice(self.twice(x))


@pytest.mark.parametrize(
    "layer, message",
    [("pair", "no single tensor"), ("twice", "more than once"), ("never", "did not run")],
)
def test_a_layer_that_cannot_be_compared_is_told(layer, message):
    with (
        pytest.raises(InputError, match=f"layers: '{layer}' .*{message}"),
        watching(net := Odd(), [layer]),
    ):
        net(torch.zeros(1, 2, 3, 3))


def test_answers_at_other_places_are_refused():
    one, other = (Answer(torch.ones(1, n, n, 2).bool(), torch.ones(1, 2)) for n in (3, 4))
    check_same_places({"layer1": one}, {"layer1": one})
    with pytest.raises(InputError, match="'layer1' has other places"):
        check_same_places({"layer1": one}, {"layer1": other})
