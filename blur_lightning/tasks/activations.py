"""What the layers of a network answer to images, and how far blur moves it.

Sources: Vasiljevic et al. 2016 (arXiv 1611.05760), section 4.3 and Figure 4: the Hamming distance
between the channels that are positive at a place of a sharp and of a blurred image. Kornblith et
al. 2019 (arXiv 1905.00414), section 3: linear CKA.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from difflib import get_close_matches
from functools import partial
from typing import Any, NamedTuple

import timm.models.vgg
import torch
import torchvision
from jaxtyping import Bool, Float
from torch import Tensor, nn

from blur_lightning.errors import InputError
from blur_lightning.tasks.freezing import blocks

_VGGS = (timm.models.vgg.VGG, torchvision.models.VGG)


class Answer(NamedTuple):
    """What a layer answers to a batch of images."""

    positive: Bool[Tensor, "b ... c"]  # after a ReLU: positive or zero; elsewhere the sign
    pooled: Float[Tensor, "b c"]  # mean over all places


def find_layers(net: nn.Module, names: Sequence[str] | None) -> list[str]:
    """Check the names of layers, or choose some.

    Args:
        net: The network; one around another, such as Dense, stands for the other.
        names: Names as in `net.named_modules()`; None takes the pooling layers of a VGG, the stages
            or blocks that timm notes of its networks, and else the blocks of the network but the
            last one, which is its head.

    Returns:
        The names in the order given, or that of the network.

    Raises:
        InputError: There is no layer of a name; the nearest ones are listed.
    """
    known = [name for name, _ in net.named_modules() if name]
    if names is None:
        return _default_layers(net)
    if not names:
        raise InputError("layers: none; name at least one, or leave the option out")
    for name in names:
        if name not in known:
            near = get_close_matches(name, known, n=5, cutoff=0.0)
            raise InputError(f"layers: the network has no '{name}'; the nearest: {', '.join(near)}")
    return list(dict.fromkeys(names))


def _default_layers(net: nn.Module) -> list[str]:
    if isinstance(inner := getattr(net, "net", None), nn.Module):
        return [f"net.{name}" for name in _default_layers(inner)]
    modules = dict(net.named_modules())
    if isinstance(net, _VGGS):
        return [name for name, module in modules.items() if isinstance(module, nn.MaxPool2d)]
    stages = list(_channels(net))
    if stages and all(name and name in modules for name in stages):
        return stages
    parts = [block[-1] for block in blocks(net)]
    return parts[:-1] or parts


def _channels(net: nn.Module) -> dict[str, int]:
    """Stages of a network as timm notes them, and how many channels each has."""
    stages: Any = getattr(net, "feature_info", None) or []
    return {stage["module"]: stage["num_chs"] for stage in stages}


@contextmanager
def watching(net: nn.Module, layers: Sequence[str]) -> Iterator[dict[str, Answer]]:
    """Note what layers answer while the network runs once: the dictionary fills meanwhile.

    Raises:
        InputError: A layer answers with something else than one tensor, more than once, or never.
    """
    answers: dict[str, Answer] = {}
    handles = [
        net.get_submodule(name).register_forward_hook(partial(_note, answers, net, name))
        for name in layers
    ]
    try:
        yield answers
    finally:
        for handle in handles:
            handle.remove()
    for name in layers:
        if name not in answers:
            raise InputError(f"layers: '{name}' did not run; name a module that the network calls")


def _note(
    answers: dict[str, Answer], net: nn.Module, name: str, module: nn.Module, inputs: Any, x: Any
) -> None:
    if not isinstance(x, Tensor) or x.ndim < 2:
        raise InputError(
            f"layers: '{name}' answers with no single tensor; name others, such as one inside it"
        )
    if name in answers:
        raise InputError(
            f"layers: '{name}' runs more than once for an image; name a module that runs once, and "
            "a network of one scale and one crop"
        )
    # At once, since the next layer may write over what it is given.
    x = x if x.ndim == 3 or _channels_last(net, name, x) else x.movedim(1, -1)
    answers[name] = Answer(
        x > 0, x.flatten(1, -2).mean(dim=1, dtype=torch.float32) if x.ndim > 2 else x
    )


def _channels_last(net: nn.Module, name: str, x: Tensor) -> bool:
    while isinstance(inner := getattr(net, "net", None), nn.Module):
        net, name = inner, name.removeprefix("net.")
    noted = _channels(net).get(name)
    return getattr(net, "output_fmt", "") == "NHWC" or x.shape[-1] == noted != x.shape[1]


def hamming_distance(one: Answer, other: Answer) -> Float[Tensor, "b ..."]:
    """Share of the channels, at each place, of which one alone is positive: in [0, 1]."""
    differ = one.positive != other.positive
    return differ.sum(dim=-1, dtype=torch.int32) / differ.shape[-1]


def as_map(
    distance: Float[Tensor, "..."], shape: tuple[int, int], prefix: int
) -> Float[Tensor, "h w"] | None:
    """Lay the places of one image out as they lie in it; None where that is not known.

    Args:
        distance: Of a grid of places (h, w), or of tokens, row by row.
        shape: Rows and columns of the image.
        prefix: How many of the tokens come first and are no patch.
    """
    if distance.ndim == 2:
        return distance
    if distance.ndim != 1 or len(distance) <= prefix:
        return None
    patches = distance[prefix:]
    rows = max(1, round((len(patches) * shape[0] / shape[1]) ** 0.5))
    return patches.unflatten(0, (rows, -1)) if len(patches) % rows == 0 else None


class LayerStatistics:
    """Sums over images from which the distances and the CKA of one layer follow.

    Memory does not depend on the number of images: for c channels and k conditions 8 c^2 (2 k + 1)
    bytes, that is 0.8 GB for 2048 channels under 12 conditions. All sums are in double precision.

    Args:
        channels: Number of channels, c.
        conditions: Number of conditions, k.
        device: Where the sums are.
    """

    def __init__(self, channels: int, conditions: int, device: torch.device) -> None:
        def zeros(*shape: int) -> Tensor:
            return torch.zeros(*shape, dtype=torch.float64, device=device)

        self.n = 0
        self._distances, self._squares = zeros(conditions), zeros(conditions)
        self._x, self._y = zeros(channels), zeros(conditions, channels)
        self._xx = zeros(channels, channels)
        self._xy, self._yy = (zeros(conditions, channels, channels) for _ in range(2))

    def add_sharp(self, sharp: Answer) -> None:
        """Count in a batch of sharp images, before the same images under each condition."""
        x = sharp.pooled.double()
        self.n += len(x)
        self._x += x.sum(dim=0)
        self._xx += x.T @ x

    def add(self, condition: int, sharp: Answer, blurred: Answer) -> Float[Tensor, "b ..."]:
        """Count in a batch under a condition; returns the distance at each place."""
        places = hamming_distance(sharp, blurred)
        distances = places.double().flatten(1).mean(dim=1) if places.ndim > 1 else places.double()
        self._distances[condition] += distances.sum()
        self._squares[condition] += distances.square().sum()
        x, y = sharp.pooled.double(), blurred.pooled.double()
        self._y[condition] += y.sum(dim=0)
        self._xy[condition] += x.T @ y
        self._yy[condition] += y.T @ y
        return places

    def distance(self, condition: int, *, level: float = 0.95) -> tuple[float, float, float]:
        """Mean over images, each counting the same, and its t interval (Student 1908), in [0, 1].

        Of one image the interval is the whole range.
        """
        from scipy.special import stdtrit

        mean = self._distances[condition].item() / self.n
        if self.n < 2:
            return mean, 0.0, 1.0
        variance = (self._squares[condition].item() - self.n * mean**2) / (self.n - 1)
        half = stdtrit(self.n - 1, 0.5 + level / 2) * (max(variance, 0.0) / self.n) ** 0.5
        return mean, max(mean - half, 0.0), min(mean + half, 1.0)

    def linear_cka(self, condition: int) -> float:
        """Linear CKA of the features, averaged over places, on sharp and on blurred images.

        In [0, 1]; 1 is the same up to a rotation and a scale, NaN where the features of all images
        are the same. It is exact for these images, whatever the batches; as an estimate for others
        it is too high unless there are many more images than channels.
        """
        y, products = self._y[condition], (self._xy[condition], self._xx, self._yy[condition])
        sums = ((self._x, y), (self._x, self._x), (y, y))
        xy, xx, yy = (
            torch.linalg.matrix_norm(product - torch.outer(a, b) / self.n)
            for product, (a, b) in zip(products, sums, strict=True)
        )
        return (xy.square() / (xx * yy)).item()


def check_same_places(sharp: Mapping[str, Answer], blurred: Mapping[str, Answer]) -> None:
    """Refuse to compare layers that answer at other places: an InputError."""
    for name, answer in sharp.items():
        if answer.positive.shape != blurred[name].positive.shape:
            raise InputError(f"layers: '{name}' has other places for a sharp and a blurred image")
