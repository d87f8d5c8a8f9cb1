"""Adversaries against brute force and closed forms, without a trainer."""

import numpy as np
import pytest
import torch
from torch import nn

from blur_lightning.blur import Blur, blur_images, convolve
from blur_lightning.errors import InputError
from blur_lightning.tasks.adversarial_kernels import (
    FreeKernel,
    PredictedKernel,
    softmax,
    within,
)
from blur_lightning.tasks.adversaries import Scene, WorstDraw
from blur_lightning.tasks.turns import Turns

SIDE = 24


def scene_of(margin, *, images=None, draws=()):
    """A scene whose network sees images of 8 bits, in [0, 1], as they are."""
    generator = torch.Generator().manual_seed(0)
    if images is None:
        images = torch.randint(0, 256, (3, 3, SIDE, SIDE), generator=generator).byte()
    sharp = images.float() / 255

    def see(blurs):
        if isinstance(blurs, torch.Tensor):
            windows = images.float() if blurs.requires_grad else images
            return convolve(windows, blurs).float() / 255
        return blur_images(images, blurs).float() / 255

    def error(image):
        difference = 255 * (image - sharp).flatten(1)
        return torch.linalg.vector_norm(difference, dim=1) / difference.shape[1] ** 0.5

    return Scene(sharp, see, margin, error, lambda number: [draws[number]] * len(images))


def point(size, row, column):
    kernel = torch.zeros(1, size, size)
    kernel[0, row, column] = 1
    return kernel


DRAWS = [Blur("gaussian", 1.0), Blur("disk", 4.0), Blur("horizontal", 3.0), Blur("disk", 2.0)]


def contrast(image):
    """A margin that every blur changes, and not the stronger the more."""
    return -(image.std(dim=(1, 2, 3)) - torch.tensor([0.04, 0.1, 0.2])).abs()


def test_the_worst_draw_is_that_of_a_search_by_hand():
    scene = scene_of(contrast, draws=DRAWS)
    budgets = [1.0, 40.0, 60.0, 255.0]
    found = list(WorstDraw(4).attack(scene, budgets))
    for budget, (blurs, image, _) in zip(budgets, found, strict=True):
        for i in range(3):
            best, chosen = scene.margin(scene.sharp)[i], Blur("sharp")
            for blur in DRAWS:
                view = scene.see([blur] * 3)
                if scene.error(view)[i] <= budget and scene.margin(view)[i] > best:
                    best, chosen = scene.margin(view)[i], blur
            assert blurs[i] == chosen
            assert image[i].equal(scene.see([chosen] * 3)[i])
    assert len({blur for blurs, *_ in found for blur in blurs}) > 2  # the search has a choice
    assert {blur.family for blur in found[0].blurs} == {"sharp"}


def test_a_larger_budget_or_more_draws_hurt_no_less():
    scene = scene_of(contrast, draws=DRAWS)
    budgets = [10.0, 30.0, 50.0, 70.0]
    margins = torch.stack(
        [
            torch.stack([contrast(found.image) for found in WorstDraw(n).attack(scene, budgets)])
            for n in (1, 2, 3, 4)
        ]
    )
    assert (margins.diff(dim=0) >= 0).all()
    assert (margins.diff(dim=1) >= 0).all()


def test_a_kernel_mixed_with_a_point_meets_the_budget():
    scene = scene_of(contrast)
    kernels = torch.full((3, 5, 5), 0.04, requires_grad=True)
    large = scene.error(scene.see(kernels)).min().item()
    view = within(scene, kernels, 0.3 * large)
    torch.testing.assert_close(scene.error(view), torch.full((3,), 0.3 * large))
    assert within(scene, kernels, 255.0).allclose(scene.see(kernels))
    (slope,) = torch.autograd.grad(view.square().sum(), kernels)
    assert slope.abs().amin(dim=(1, 2)).min() > 0


def test_images_that_no_blur_changes_have_a_finite_gradient():
    scene = scene_of(contrast, images=torch.full((3, 3, SIDE, SIDE), 128).byte())
    scores = torch.zeros(3, 5, 5, requires_grad=True)
    within(scene, softmax(scores), 10.0).sum().backward()
    assert scores.grad.isfinite().all()


@pytest.mark.parametrize("budget", [0.2, 3.0, 20.0, 60.0])
def test_what_is_stored_with_8_bits_stays_within_the_budget(budget):
    scene = scene_of(contrast)
    kernels = torch.rand(3, 9, 9, generator=torch.Generator().manual_seed(1))
    kernels = kernels / kernels.sum(dim=(1, 2), keepdim=True)
    blurs, image, *_ = FreeKernel(9).fitted(scene, kernels, budget)
    error = scene.error(image)
    assert (error <= budget).all()
    if budget > 1:
        assert (error > 0.95 * budget).all()
        assert blurs == [Blur("kernel")] * 3


def test_a_kernel_costs_its_distance_from_the_middle_and_its_roughness():
    adversary = FreeKernel(7, centre=1.0, smoothness=0.0)
    assert adversary.penalty(point(7, 3, 3)).item() == 0
    assert adversary.penalty(point(7, 1, 4)).item() == pytest.approx(2**2 + 1**2)
    rough = FreeKernel(7, centre=0.0, smoothness=1.0)
    assert rough.penalty(point(7, 3, 3)).item() == pytest.approx(4)
    flat = torch.full((1, 7, 7), 1 / 49)
    assert rough.penalty(flat).item() == pytest.approx(4 / 7)


def test_a_free_kernel_finds_the_best_tap_of_a_linear_margin():
    """Of a margin that is linear in the image, the maximum over kernels is that of one tap."""
    weights = torch.randn(3, SIDE, SIDE, generator=torch.Generator().manual_seed(2))

    def margin(image):
        return (image * weights).sum(dim=(1, 2, 3))

    scene, size = scene_of(margin), 5
    taps = [point(size, i // size, i % size).expand(3, -1, -1) for i in range(size**2)]
    values = torch.stack([margin(scene.see(tap)) for tap in taps])
    (found,) = FreeKernel(size, steps=40, rate=2.0, centre=0.0, smoothness=0.0).attack(
        scene, [255.0]
    )
    start, best, reached = margin(scene.sharp), values.amax(dim=0), margin(found.image)
    assert (best > start + 1).all()
    assert (reached > start + 0.95 * (best - start)).all()
    (centred,) = FreeKernel(size, steps=40, centre=1000.0).attack(scene, [255.0])
    assert (margin(centred.image) < reached).all()


def test_a_free_kernel_is_no_milder_than_no_blur():
    scene = scene_of(lambda image: image.std(dim=(1, 2, 3)))  # which every blur lowers
    (found,) = FreeKernel(5, steps=3).attack(scene, [30.0])
    assert found.image.equal(scene.sharp)


def predicted(adversary, scene, budget):
    (found,) = adversary.attack(scene, [budget])
    return found


def part_of(scene, rows, margin=contrast):
    """What a process has that holds some of the images."""
    return Scene(
        scene.sharp[rows],
        lambda kernels: convolve(255 * scene.sharp[rows], kernels) / 255,
        margin,
        lambda image: 255 * (image - scene.sharp[rows]).square().mean(dim=(1, 2, 3)).sqrt(),
        scene.draw,
    )


def turned(shares, steps=1):
    """A predictor after a turn that some processes take together."""
    torch.manual_seed(0)
    adversary = PredictedKernel(5, width=2, steps=steps, lr=0.01)
    whole = scene_of(contrast)
    others = [part_of(whole, rows, contrast_of(rows)) for rows in shares[1:]]

    def total(own):
        weights = list(adversary.parameters())
        return own + sum(Turns(adversary)._slopes(scene, 20.0, weights) for scene in others)

    turns = Turns(adversary)
    turns.take(part_of(whole, shares[0], contrast_of(shares[0])), 20.0, total)
    return adversary, turns


def contrast_of(rows):
    aims = torch.tensor([0.04, 0.1, 0.2])[rows]
    return lambda image: -(image.std(dim=(1, 2, 3)) - aims).abs()


@pytest.mark.parametrize("shares", [([0], [1, 2]), ([1, 2], [0]), ([], [0, 1, 2])])
def test_processes_take_the_turn_that_one_does(shares):
    (alone, _), (together, _) = turned([[0, 1, 2]]), turned(shares)
    for name, weight in alone.state_dict().items():
        torch.testing.assert_close(together.state_dict()[name], weight, msg=name)
    assert together.trained == 1
    moved = turned([[]])[0]
    assert moved.trained == 0
    assert not torch.equal(moved.net[-1].bias, alone.net[-1].bias)


def test_a_turn_follows_the_gain_and_spares_the_classifier():
    """Adam's first step is the learning rate, against the sign of the gradient."""
    torch.manual_seed(0)
    classifier = nn.Parameter(torch.tensor(2.0))
    scene = scene_of(lambda image: classifier * contrast(image))
    adversary = PredictedKernel(5, width=2, lr=0.01)
    before = adversary.net[-1].bias.clone()
    adversary.requires_grad_(True)
    adversary.gain(scene, 20.0).mean().backward()
    slope, classifier.grad = adversary.net[-1].bias.grad, None
    adversary.requires_grad_(False)
    Turns(adversary).take(scene, 20.0, lambda numbers: numbers)
    torch.testing.assert_close(adversary.net[-1].bias.grad, -slope, rtol=1e-3, atol=1e-7)
    clear = slope.abs() > 1e-6
    assert clear.sum() > 10
    moved = (adversary.net[-1].bias - before)[clear]
    torch.testing.assert_close(moved, 0.01 * slope[clear].sign(), rtol=1e-2, atol=1e-4)
    assert classifier.grad is None
    assert not any(weight.requires_grad for weight in adversary.parameters())


def test_a_predictor_learns_to_hurt():
    """Against a fixed margin, which falls with the contrast, it comes to blur more."""
    torch.manual_seed(0)
    adversary = PredictedKernel(5, width=2, steps=4, lr=0.03, centre=0.0, smoothness=0.0)
    scene, turns = scene_of(lambda image: -image.std(dim=(1, 2, 3))), Turns(adversary)
    before = scene.margin(predicted(adversary, scene, 255.0).image).mean()
    for _ in range(10):
        turns.take(scene, 255.0, lambda numbers: numbers)
    assert adversary.trained == 40
    assert scene.margin(predicted(adversary, scene, 255.0).image).mean() > before + 0.01


def test_a_turn_with_numbers_beyond_the_range_is_not_taken():
    torch.manual_seed(0)
    adversary, scene = PredictedKernel(5, width=2), scene_of(contrast)
    before = {name: weight.clone() for name, weight in adversary.state_dict().items()}
    Turns(adversary).take(scene, 20.0, lambda numbers: numbers * torch.inf)
    for name, weight in adversary.state_dict().items():
        assert torch.equal(weight, before[name]), name


def test_turns_go_on_to_the_bit_from_what_was_kept():
    whole, turns = turned([[0, 1, 2]], steps=3)
    again, kept = turned([[0, 1, 2]], steps=2)
    scene = part_of(scene_of(contrast), [0, 1, 2])
    third = PredictedKernel(5, width=2, lr=0.01)
    third.load_state_dict(again.state_dict())
    Turns(third, kept.state_dict()).take(scene, 20.0, lambda numbers: numbers)
    for name, weight in whole.state_dict().items():
        assert torch.equal(third.state_dict()[name], weight), name
    assert turns.state_dict()["state"]


def test_a_prediction_in_a_test_is_stored_with_8_bits():
    torch.manual_seed(0)
    scene = scene_of(contrast)
    with torch.no_grad():
        image = predicted(PredictedKernel(5).eval(), scene, 20.0).image
    levels = (image * 255).numpy()
    np.testing.assert_allclose(levels, levels.round(), atol=1e-3)
    assert (scene.error(image) <= 20).all()


@pytest.mark.parametrize(
    ("adversary", "options", "message"),
    [
        (WorstDraw, {"draws": 0}, r"adversary\.draws: 0"),
        (FreeKernel, {"size": 4}, r"adversary\.size: 4 is no odd"),
        (FreeKernel, {"steps": 0}, "steps must be 1"),
        (FreeKernel, {"rate": 0.0}, "rate more than 0"),
        (FreeKernel, {"centre": -1.0}, "centre and smoothness"),
        (PredictedKernel, {"width": 0}, "width, steps must be 1"),
        (PredictedKernel, {"steps": 0}, "width, steps must be 1"),
        (PredictedKernel, {"lr": 0.0}, "lr more than 0"),
        (PredictedKernel, {"smoothness": -1.0}, "centre and smoothness"),
    ],
)
def test_arguments_that_do_not_fit_are_named(adversary, options, message):
    with pytest.raises(InputError, match=message):
        adversary(**options)


def test_a_predictor_has_weights_and_the_others_none():
    assert not list(WorstDraw().parameters()) + list(FreeKernel().parameters())
    assert isinstance(PredictedKernel().net[-1], nn.Linear)
    assert PredictedKernel().state_dict().keys() == {
        *(f"net.{i}.{name}" for i in (0, 2, 6) for name in ("weight", "bias")),
        "trained",
    }
