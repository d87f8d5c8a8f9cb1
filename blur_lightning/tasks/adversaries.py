"""Adversaries: what finds for each image the blur that hurts a classifier most, within a budget.

The budget keeps the blur from wiping out the image. It is the largest error allowed: the root mean
square difference, in levels of 255, between what the network sees and what it would see without
blur. An error of e levels is a PSNR of 20 log10(255 / e) dB: 25.5 is 20 dB, 8 is 30 dB.

What an adversary raises is the margin: the best wrong logit less the right one, above 0 exactly
where the decision is wrong (Carlini and Wagner 2017, arXiv 1608.04644, section V, function f6).
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
from blur_lightning.blur.families import number_text
from blur_lightning.errors import InputError


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
        admitted: Whether any was within the budget, harmful or not; None of kernels, which all are.
    """

    blurs: list[Blur]
    image: Tensor
    admitted: bool | None = None


class Adversary(nn.Module, ABC):
    """Finds for each image the blur that hurts most within a budget."""

    symbol: str  # before the budget in names of conditions
    size: int | None = None  # side of its kernels in pixels; None: it draws
    mix: BlurDistribution | None = None  # from this, or from what the images are blurred with
    steps: int  # that its own weights take in a turn
    trained: Tensor  # how many they have taken

    @property
    @abstractmethod
    def label(self) -> str:
        """What records say that a network was trained against."""

    @abstractmethod
    def attack(self, scene: Scene, budgets: Sequence[float]) -> Iterator[Found]:
        """Find the worst blurs within each of some budgets, in levels."""

    def optimizer(self) -> torch.optim.Optimizer | None:
        """What its own weights learn by; None: it has none."""
        return None

    def gain(self, scene: Scene, budget: float) -> Float[Tensor, " b"]:
        """What its own weights learn to raise of each image, within a budget in levels."""
        raise NotImplementedError


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
        nothing = Found([Blur("sharp")] * count, scene.sharp, admitted=False)
        worst, margins = [nothing] * len(budgets), [margin] * len(budgets)
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
                    worst[place].admitted or bool(((error > 0) & (error <= budget)).any()),
                )
        yield from worst


@dataclass(frozen=True)
class Attack(BlurDistribution):
    """A condition: for each image the worst blur that an adversary finds within a budget.

    Attributes:
        symbol: Of the adversary.
        budget: Largest error in levels of 255.
        reach: Pixels that its widest kernel reaches to each side.
    """

    symbol: str
    budget: float
    reach: int

    @classmethod
    def by(cls, adversary: Adversary, mix: BlurDistribution, budget: float) -> "Attack":
        """The attack of an adversary, which may draw from a mix."""
        name, reach = f"{adversary.symbol}{number_text(budget)}", mix.half_width
        if adversary.size is None:
            name += f"@{mix}"
        else:
            mix, reach = BlurDistribution.parse("sharp"), adversary.size // 2
        return cls(name, mix.components, mix.weights, adversary.symbol, budget, reach)

    @property
    @override
    def half_width(self) -> int:
        return self.reach

    @property
    @override
    def family(self) -> str:
        return self.symbol

    @property
    @override
    def parameter(self) -> float:
        return self.budget
