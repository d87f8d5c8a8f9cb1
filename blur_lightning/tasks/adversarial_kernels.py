"""Adversaries that make kernels of their own, free ones or such as a network predicts.

A mix of a kernel and a point, t k + (1 - t) delta, errs by t times what the kernel does, since blur
is linear. So every kernel, mixed with a point, meets any budget.
"""

from collections.abc import Iterator, Sequence

import torch
from jaxtyping import Float
from torch import Tensor, nn
from typing_extensions import override

from blur_lightning.blur import Blur
from blur_lightning.errors import InputError
from blur_lightning.tasks.adversaries import Adversary, Found, Scene

# What fits a kernel to its budget through the rounding to 8 bits: a little less, some times.
_SLACK, _TRIALS = 0.995, 8


class KernelAdversary(Adversary):
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
        return Found(blurs, image)


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


class FreeKernel(KernelAdversary):
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


class PredictedKernel(KernelAdversary):
    """A small network that looks at a sharp image and predicts the kernel that hurts it.

    It learns in `fit`, against the classifier, in turns (Goodfellow et al. 2014, arXiv 1406.2661,
    algorithm 1): in each batch it takes some steps to raise the margin less what its kernels cost,
    against the classifier as it is, which then learns against its kernels as they are. A test needs
    a checkpoint that it is in.

    Args:
        size: Side of the kernels in pixels at the canonical scale, odd, 3 or more.
        width: Channels of the first of its three layers, 1 or more.
        steps: How many steps it takes in each turn, 1 or more.
        lr: Its learning rate, of Adam, more than 0.
        centre: As of FreeKernel.
        smoothness: As of FreeKernel.
    """

    symbol, label = "predicted", "predicted kernel"
    trained: Tensor

    def __init__(
        self,
        size: int = 17,
        *,
        width: int = 16,
        steps: int = 1,
        lr: float = 1e-3,
        centre: float = 1.0,
        smoothness: float = 0.1,
    ) -> None:
        super().__init__(size, centre, smoothness)
        if min(width, steps) < 1 or lr <= 0:
            raise InputError("model.adversary: width, steps must be 1 or more, and lr more than 0")
        self.steps, self.lr = steps, lr
        self.register_buffer("trained", torch.tensor(0))  # for so many steps
        self.net = nn.Sequential(
            nn.Conv2d(3, width, 3, stride=2, padding=1),
            nn.ReLU(),
            nn.Conv2d(width, 2 * width, 3, stride=2, padding=1),
            nn.ReLU(),
            nn.AdaptiveAvgPool2d(4),
            nn.Flatten(),
            nn.Linear(32 * width, size**2),
        )
        # The classifier's optimiser, and what averages its gradients, pass these weights by.
        self.requires_grad_(False)

    def kernels(self, sharp: Float[Tensor, "b 3 h w"]) -> Float[Tensor, "b k k"]:
        """Predict a kernel for each image."""
        return softmax(self.start + self.net(sharp).view(-1, *self.start.shape))

    @override
    def optimizer(self) -> torch.optim.Optimizer:
        return torch.optim.Adam(self.net.parameters(), lr=self.lr)

    @override
    def gain(self, scene: Scene, budget: float) -> Float[Tensor, " b"]:
        kernels = self.kernels(scene.sharp)
        return scene.margin(within(scene, kernels, budget)) - self.penalty(kernels)

    @override
    @torch.no_grad()
    def attack(self, scene: Scene, budgets: Sequence[float]) -> Iterator[Found]:
        kernels = self.kernels(scene.sharp)
        for budget in budgets:
            yield self.fitted(scene, kernels, budget)
