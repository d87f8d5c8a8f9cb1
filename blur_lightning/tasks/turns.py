"""The turns that an adversary with weights of its own takes in the training of a classifier."""

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from blur_lightning.tasks.adversaries import Adversary, Scene


class Turns:
    """An adversary's own optimisation, by hand and beside Lightning's, which is the classifier's.

    So accumulated gradients, averaged weights, half precision and the count of steps stay what they
    are in any training; where gradients are accumulated, an adversary takes a turn in each batch
    all the same. One without weights takes none.

    Args:
        adversary: Where its weights are to be while they learn.
        before: What `state_dict` gave of a training that goes on.
    """

    def __init__(self, adversary: Adversary, before: Mapping[str, Any] | None = None) -> None:
        self.adversary, self.optimizer = adversary, adversary.optimizer()
        if self.optimizer is not None and before:
            self.optimizer.load_state_dict(dict(before))

    def state_dict(self) -> dict[str, Any]:
        """What a training needs to go on."""
        return {} if self.optimizer is None else self.optimizer.state_dict()

    def take(self, scene: Scene | None, budget: float, total: Callable[[Tensor], Tensor]) -> None:
        """Let the adversary learn from a batch, of which other processes may have parts.

        Args:
            scene: Images under attack, maybe none; None: nothing could be read.
            budget: Largest error in levels.
            total: Sums numbers over all processes; each must take its turn.
        """
        if self.optimizer is None:
            return
        weights = [weight for group in self.optimizer.param_groups for weight in group["params"]]
        for _ in range(self.adversary.steps):
            row = total(self._slopes(scene, budget, weights))
            *slopes, count = row.split([*(weight.numel() for weight in weights), 1])
            # Not one image of any process, or, in half precision, numbers beyond its range.
            if not count or not row.isfinite().all():
                return
            for weight, slope in zip(weights, slopes, strict=True):
                weight.grad = (slope / count).view_as(weight)
            self.optimizer.step()
            self.adversary.trained += 1

    def _slopes(self, scene: Scene | None, budget: float, weights: list[Tensor]) -> Tensor:
        """Gradients that lower the gain, summed over images, in one row, and last their number."""
        if scene is None or not len(scene.sharp):
            return weights[0].new_zeros(sum(weight.numel() for weight in weights) + 1)
        try:
            for weight in weights:
                weight.requires_grad_(True)
            with torch.enable_grad():
                gain = self.adversary.gain(scene, budget)
                slopes = torch.autograd.grad(-gain.sum(), weights)
        finally:
            for weight in weights:
                weight.requires_grad_(False)
        return torch.cat([*(slope.flatten() for slope in slopes), gain.new_tensor([len(gain)])])
