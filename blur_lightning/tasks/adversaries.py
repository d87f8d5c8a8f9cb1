"""Adversaries: what finds for each image the blur that hurts a classifier most, within a budget.

The budget keeps the blur from wiping out the image. It is the largest error allowed: the root mean
square difference, in levels of 255, between what the network sees and what it would see without
blur. An error of e levels is a PSNR of 20 log10(255 / e) dB: 25.5 is 20 dB, 8 is 30 dB.

What an adversary raises is the margin: the best wrong logit less the right one, above 0 exactly
where the decision is wrong (Carlini and Wagner 2017, arXiv 1608.04644, section V, function f6).

A mix of a kernel and a point, t k + (1 - t) delta, errs by t times what the kernel does, since blur
is linear. So every kernel, mixed with a point, meets any budget.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor, nn
from typing_extensions import override

from blur_lightning.blur import Blur, BlurDistribution
from blur_lightning.errors import InputError

# What fits a kernel to its budget through the rounding to 8 bits: a little less, some times.
_SLACK, _TRIALS = 0.995, 8


@dataclass(frozen=True)
class Scene:
    """Images under attack, and what an adversary may ask about them.

    Attributes:
        sharp: What the network sees without blur.
        see: What it sees under blurs, or under kernels (b, k, k), whose gradients can be followed.
        margin: The margin of each image, from what the network sees.
        error: The error of each image in levels, from what the network sees.
        draw: The draw of that number, from 0, for each image.
    """

    sharp: Float[Tensor, "b 3 h w"]
    see: Callable[[Sequence[Blur] | Tensor], Tensor]
    margin: Callable[[Tensor], Tensor]
    error: Callable[[Tensor], Tensor]
    draw: Callable[[int], list[Blur]]


class Found(NamedTuple):
    """The worst blurs of a batch.

    Attributes:
        blurs: Of each image; kernels only by their family.
        image: What the network sees.
        penalty: What training adds to the loss, of each image.
    """

    blurs: list[Blur]
    image: Tensor
    penalty: Tensor
    admitted: bool | None = None  # whether any was within the budget, harmful or not


class Adversary(nn.Module, ABC):
    """Finds for each image the blur that hurts most within a budget."""

    symbol: str  # before the budget in names of conditions
    size: int | None = None  # side of its kernels in pixels; None: it draws
    mix: BlurDistribution | None = None  # from this, or from what the images are blurred with

    @property
    @abstractmethod
    def label(self) -> str:
        """What records say that a network was trained against."""

    @abstractmethod
    def attack(self, scene: Scene, budgets: Sequence[float]) -> Iterator[Found]:
        """Find the worst blurs within each of some budgets, in levels."""


class WorstDraw(Adversary):
    """The worst of some draws from a mix of blurs.

    Of two or three parameters a search finds worse ones than gradients do: Engstrom et al. 2019
    (arXiv 1712.02779, section 4) find so of shifts and rotations, and train on the worst of 10.

    Args:
        draws: How many for each image, 1 or more.
        blur: The mix, such as D0..4 or M1..8@0..180; None is what data.blur blurs with.
    """

    symbol = "worst"

    def __init__(self, draws: int = 10, blur: str | None = None) -> None:
        super().__init__()
        if draws < 1:
            raise InputError(f"model.adversary.draws: {draws} is not 1 or more")
        self.draws, self.mix = draws, None if blur is None else BlurDistribution.parse(blur)

    @property
    @override
    def label(self) -> str:
        return f"worst of {self.draws}"

    @override
    @torch.no_grad()
    def attack(self, scene: Scene, budgets: Sequence[float]) -> Iterator[Found]:
        margin, count = scene.margin(scene.sharp), len(scene.sharp)
        nothing = Found([Blur("sharp")] * count, scene.sharp, margin.new_zeros(count))
        worst, margins = [nothing._replace(admitted=False)] * len(budgets), [margin] * len(budgets)
        for number in range(self.draws):
            image = scene.see(blurs := scene.draw(number))
            margin, error = scene.margin(image), scene.error(image)
            for place, budget in enumerate(budgets):
                worse = (margin > margins[place]) & (error <= budget)
                margins[place] = torch.where(worse, margin, margins[place])
                pairs = zip(worse.tolist(), blurs, worst[place].blurs, strict=True)
                worst[place] = Found(
                    [blur if chosen else before for chosen, blur, before in pairs],
                    torch.where(worse.view(-1, 1, 1, 1), image, worst[place].image),
                    nothing.penalty,
                    worst[place].admitted or bool(((error > 0) & (error <= budget)).any()),
                )
        yield from worst


class _KernelAdversary(Adversary):
    """An adversary that makes kernels of its own: a softmax over their taps."""

    offset: Tensor  # of each row and column from the middle

    def __init__(self, size: int, centre: float, smoothness: float) -> None:
        super().__init__()
        if size < 3 or size % 2 == 0:
            raise InputError(f"model.adversary.size: {size} is no odd number of 3 or more pixels")
        if min(centre, smoothness) < 0:
            raise InputError("model.adversary: centre and smoothness must be 0 or more")
        self.size, self.centre, self.smoothness = size, centre, smoothness
        offset = torch.arange(size) - size // 2
        self.register_buffer("offset", offset.float(), persistent=False)

    @property
    def start(self) -> Float[Tensor, "k k"]:
        """Where scores of taps begin: at a Gaussian with a quarter of the side as its sigma."""
        squares = self.offset.square()
        return -(squares[:, None] + squares) / (2 * (len(squares) / 4) ** 2)

    def penalty(self, kernels: Float[Tensor, "b k k"]) -> Float[Tensor, " b"]:
        """What kernels cost that lie beside their middle, or are rough."""
        rows, columns = kernels.sum(dim=2) @ self.offset, kernels.sum(dim=1) @ self.offset
        padded = nn.functional.pad(kernels, (1, 1, 1, 1))
        differences = (padded.diff(dim=axis).square().sum(dim=(1, 2)) for axis in (1, 2))
        roughness = sum(differences) / kernels.square().sum(dim=(1, 2))
        return self.centre * (rows.square() + columns.square()) + self.smoothness * roughness

    def fitted(self, scene: Scene, kernels: Float[Tensor, "b k k"], budget: float) -> Found:
        """Mix kernels with a point until what the network sees is within the budget."""
        kernels, limit = kernels.detach(), budget
        point = torch.zeros_like(kernels)
        point[:, len(self.offset) // 2, len(self.offset) // 2] = 1
        for _ in range(_TRIALS):
            image = scene.see(kernels)
            error = scene.error(image)
            if not (error > budget).any():
                break
            share = (limit / error.clamp_min(limit))[:, None, None]
            kernels, limit = torch.lerp(point, kernels, share), _SLACK * limit
        fits = error <= budget
        image = torch.where(fits.view(-1, 1, 1, 1), image, scene.sharp)
        blurs = [Blur("kernel" if fit else "sharp") for fit in fits.tolist()]
        return Found(blurs, image, image.new_zeros(len(image)))


def softmax(scores: Float[Tensor, "b k k"]) -> Float[Tensor, "b k k"]:
    """Kernels: scores of taps, exponentiated, of sum 1."""
    return scores.float().flatten(1).softmax(dim=1).view_as(scores)


def within(scene: Scene, kernels: Float[Tensor, "b k k"], budget: float) -> Tensor:
    """What the network sees under kernels that are mixed with a point to meet a budget.

    Not rounded to 8 bits, so that gradients reach the kernels; see the module.
    """
    image = scene.see(kernels)
    share = budget / scene.error(image).clamp_min(budget)
    return torch.lerp(scene.sharp, image, share.view(-1, 1, 1, 1).to(image.dtype))


class FreeKernel(_KernelAdversary):
    """A kernel of any shape for each image, found by following the gradient of the margin.

    Each step raises the margin, less what the kernel costs, by the scores of the taps, with their
    gradient scaled so that its largest number is the rate. The best step counts. JPEG has no
    gradient, so `data.capture.jpeg_quality` must be None.

    Args:
        size: Side of the kernels in pixels at the canonical scale, odd, 3 or more.
        steps: How often the gradient is followed, 1 or more. Each costs about three passes of the
            network and, on a CPU, as many convolutions with all taps.
        rate: How far the score of a tap moves in a step, more than 0.
        centre: What a kernel's centroid costs, in margins per squared pixel from the middle: a
            shift is no blur. 0 or more.
        smoothness: What the squared differences of neighbouring taps cost, in margins, as a share
            of the squared taps; they are 0 to 4. 0 or more.
    """

    symbol, label = "kernel", "kernel"

    def __init__(
        self,
        size: int = 17,
        *,
        steps: int = 10,
        rate: float = 1.0,
        centre: float = 1.0,
        smoothness: float = 0.1,
    ) -> None:
        super().__init__(size, centre, smoothness)
        if steps < 1 or rate <= 0:
            raise InputError("model.adversary: steps must be 1 or more, and rate more than 0")
        self.steps, self.rate = steps, rate

    @override
    def attack(self, scene: Scene, budgets: Sequence[float]) -> Iterator[Found]:
        for budget in budgets:
            yield self.fitted(scene, self._worst(scene, budget), budget)

    @torch.enable_grad()
    def _worst(self, scene: Scene, budget: float) -> Float[Tensor, "b k k"]:
        scores = self.start.repeat(len(scene.sharp), 1, 1)
        worst = torch.zeros_like(scores)
        worst[:, len(self.offset) // 2, len(self.offset) // 2] = 1
        best = scene.margin(scene.sharp).detach()
        for step in range(self.steps + 1):
            kernels = softmax(scores.requires_grad_())
            gain = scene.margin(within(scene, kernels, budget)) - self.penalty(kernels)
            better = gain.detach() > best
            best = torch.where(better, gain.detach(), best)
            worst = torch.where(better[:, None, None], kernels.detach(), worst)
            if step < self.steps:
                (slope,) = torch.autograd.grad(gain.sum(), scores)
                largest = slope.abs().amax(dim=(1, 2), keepdim=True).clamp_min(1e-12)
                scores = scores.detach() + self.rate * slope / largest
        return worst


class PredictedKernel(_KernelAdversary):
    """A small network that looks at a sharp image and predicts the kernel that hurts it.

    It learns in `fit`, against the classifier and with its optimiser: one pass backward serves
    both, because the gradient that reaches the kernels is reversed (Ganin and Lempitsky 2015, arXiv
    1409.7495, section 3). A test needs a checkpoint that it is in.

    Args:
        size: Side of the kernels in pixels at the canonical scale, odd, 3 or more.
        width: Channels of the first of its three layers, 1 or more.
        strength: The reversed gradient is multiplied by it, more than 0.
        centre: As of FreeKernel, in nats.
        smoothness: As of FreeKernel, in nats.
    """

    symbol, label = "predicted", "predicted kernel"
    trained: Tensor

    def __init__(
        self,
        size: int = 17,
        *,
        width: int = 16,
        strength: float = 1.0,
        centre: float = 1.0,
        smoothness: float = 0.1,
    ) -> None:
        super().__init__(size, centre, smoothness)
        if width < 1 or strength <= 0:
            raise InputError("model.adversary: width must be 1 or more, and strength more than 0")
        self.strength = strength
        self.register_buffer("trained", torch.tensor(0))  # on so many batches
        self.net = nn.Sequential(
            nn.Conv2d(3, width, 3, stride=2, padding=1),
            nn.ReLU(),
            nn.Conv2d(width, 2 * width, 3, stride=2, padding=1),
            nn.ReLU(),
            nn.AdaptiveAvgPool2d(4),
            nn.Flatten(),
            nn.Linear(32 * width, size**2),
        )

    @override
    def attack(self, scene: Scene, budgets: Sequence[float]) -> Iterator[Found]:
        kernels = softmax(self.start + self.net(scene.sharp).view(-1, *self.start.shape))
        for budget in budgets:
            if not (self.training and torch.is_grad_enabled()):
                yield self.fitted(scene, kernels, budget)
                continue
            self.trained += 1
            image = within(scene, kernels, budget)
            opposed = (1 + self.strength) * image.detach() - self.strength * image
            yield Found([Blur("kernel")] * len(image), opposed, self.penalty(kernels))
