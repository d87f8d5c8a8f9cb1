"""Blur as an adversary: how well a classifier stands the worst blur, and training against it."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from typing_extensions import override

from blur_lightning.blur import Blur, BlurDistribution
from blur_lightning.errors import InputError
from blur_lightning.records.robustness import Record
from blur_lightning.tasks.adversaries import Adversary, Attack, Found, Scene
from blur_lightning.tasks.classification import ClassificationTask
from blur_lightning.tasks.turns import Turns


class AdversarialBlurTask(ClassificationTask):
    """Test a classifier under the worst blur within a budget, or train it against that blur.

    A budget is an error: the root mean square difference, in levels of 255, between what the
    network sees and what it would see without blur; 25.5 is a PSNR of 20 dB, 8 is 30 dB.

    A test writes a condition for each budget after the usual ones, so `report` draws robust
    accuracy against the budget: `worst8@D0..4` is the worst draw from D0..4 with an error of at
    most 8, `kernel8` a free kernel, `predicted8` a predicted one. An adversary knows the labels.
    The metric `error` is the mean error under each condition, the usual ones too.

    In training `data.blur` says how many images are blurred: those that it leaves sharp stay so;
    for each other one the adversary finds its blur anew, against the network as it is.

    Args:
        net: Any network from images to logits by its class path.
        adversary: What finds the blur, by its class path: blur_lightning.tasks.WorstDraw, the worst
            of some draws from a mix; blur_lightning.tasks.FreeKernel, a kernel of any shape for
            each image; blur_lightning.tasks.PredictedKernel, a network that learns to.
        budget: Largest error in training, in levels of 255, more than 0; 255 sets no limit. Needed
            by fit only.
        budgets: Largest errors in tests, in levels of 255, each more than 0; none is no attack.
        kwargs: As ClassificationTask.
    """

    def __init__(
        self,
        net: nn.Module,
        *,
        adversary: Adversary,
        budget: float | None = None,
        budgets: Sequence[float] = (),
        **kwargs: Any,
    ) -> None:
        super().__init__(net, **kwargs)
        for value in budgets if budget is None else [budget, *budgets]:
            if not 0 < value <= 255:
                raise InputError(
                    f"model.budget, model.budgets: an error of {value:g} levels is not above 0 and "
                    "at most 255; 8 is a PSNR of 30 dB"
                )
        if len(set(budgets)) < len(budgets):
            raise InputError("model.budgets: one comes twice; name each once")
        self.adversary, self.budget, self.budgets = adversary, budget, budgets
        self.attacks: list[Attack] = []
        self._blurs, self.needs_sharp = self.conditions, True
        self._turns: Turns | None = None
        self._turns_before: dict[str, Any] = {}

    @property
    def metrics(self) -> tuple[str, ...]:  # type: ignore[override]
        """With the error in tests; validation keeps the classifier's own."""
        own = ClassificationTask.metrics
        return (*own, "error") if self.trainer.testing else own

    @override
    def setup(self, stage: str) -> None:
        mix, training = self.datamodule.blur, stage == "fit"
        budgets = self.budgets if stage == "test" else ()
        if training:
            if self.budget is None:
                raise InputError(
                    "model.budget: fit needs one, in levels of 255, e.g. 20; 255 sets no limit"
                )
            budgets = (self.budget,)
        pairs = zip(str(mix).split("+"), mix.components, strict=True)
        blurs = [text for text, part in pairs if part.family != "sharp"]
        if training and not blurs:
            raise InputError(
                "data.blur: what it leaves sharp is not attacked; name blurs, e.g. sharp+D0..4"
            )
        draws = self.adversary.size is None and self.adversary.mix is None
        if budgets and draws and not blurs:
            raise InputError(
                "model.adversary.blur: name what to draw from, e.g. D0..4; data.blur blurs nothing"
            )
        self.drawn = self.adversary.mix or BlurDistribution.parse("+".join(blurs or ["sharp"]))
        gradients = budgets and self.adversary.size is not None
        if gradients and self.datamodule.capture.jpeg_quality is not None:
            raise InputError(
                "data.capture.jpeg_quality: JPEG has no gradient to follow; set null, or take "
                "--model.adversary blur_lightning.tasks.WorstDraw"
            )
        self.attacks = [Attack.by(self.adversary, self.drawn, budget) for budget in budgets]
        self._admitted = dict.fromkeys(self.attacks, False)
        self.conditions = [*self._blurs, *([] if training else self.attacks)]

    @override
    def on_test_start(self) -> None:
        super().on_test_start()
        if self.attacks and not getattr(self.adversary, "trained", True):
            raise InputError(
                f"model.adversary: its {self.adversary.label} was trained on nothing; give the "
                "checkpoint of the fit that trained it to --ckpt_path"
            )

    @override
    def on_fit_start(self) -> None:
        super().on_fit_start()
        self._turns, self._turns_before = Turns(self.adversary, self._turns_before), {}

    @override
    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        super().on_save_checkpoint(checkpoint)
        checkpoint["adversary"] = self._turns.state_dict() if self._turns else self._turns_before

    @override
    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        super().on_load_checkpoint(checkpoint)
        self._turns_before = checkpoint.get("adversary", {})

    @override
    def on_train_batch_start(self, batch: Any, batch_idx: int) -> None:
        super().on_train_batch_start(batch, batch_idx)
        self.trained_on += f", {self.adversary.label} within {self.budget:g}"

    @override
    def training_step(self, batch: Mapping[str, Any], batch_idx: int) -> Tensor | None:
        if "image" not in batch:  # nothing in it could be read
            self._take_turn(None)
            return super().training_step(batch, batch_idx)
        blurs = list(batch["blur"])
        places = [place for place, blur in enumerate(blurs) if blur.family != "sharp"]
        chosen = torch.tensor(places, dtype=torch.long, device=batch["image"].device)
        names = ("label", "sharp", "window", "index", "epoch", "scale")
        attacked = {name: batch[name][chosen] for name in names}
        scene = self._scene(
            attacked,
            attacked["sharp"],
            lambda windows, blurs: self.datamodule.in_training(windows, blurs, attacked),
        )
        self._take_turn(scene)
        (found,) = self.adversary.attack(scene, [attack.budget for attack in self.attacks])
        if batch_idx == 0 and places and not self._was_admitted(found, scene):
            raise self._unmet(self.attacks[0])
        for place, blur in zip(places, found.blurs, strict=True):
            blurs[place] = blur
        image = batch["sharp"].index_copy(0, chosen, found.image.to(batch["sharp"].dtype))
        return super().training_step({**batch, "image": image, "blur": blurs}, batch_idx)

    def _take_turn(self, scene: Scene | None) -> None:
        strategy = self.trainer.strategy
        assert self._turns is not None
        self._turns.take(scene, self.attacks[0].budget, partial(strategy.reduce, reduce_op="sum"))

    @override
    def _each_condition(
        self, batch: Mapping[str, Any]
    ) -> Iterable[tuple[BlurDistribution, list[Blur], Tensor | list[Tensor]]]:
        for condition in self._blurs:
            blurs = self.datamodule.draw(condition, batch)
            yield condition, blurs, self._under(condition, blurs, batch)
        if self.attacks:
            for attack, found in zip(self.attacks, self._attack_test(batch), strict=True):
                yield attack, found.blurs, found.image

    @torch.inference_mode(False)
    def _attack_test(self, batch: Mapping[str, Any]) -> list[Found]:
        """Find the worst blurs of a test's batch; copies, since inference allows no gradients."""
        own = {name: batch[name].clone() for name in ("image", "label", "index")}
        sharp = self.datamodule.sharp(own)
        if not isinstance(sharp, Tensor):
            raise InputError("model: attacks one scale; give one number to data.capture.scale")
        scene = self._scene(
            own | {"window": own["image"]},
            sharp,
            lambda windows, blurs: self.datamodule.blurred({"image": windows}, blurs),
        )
        with torch.no_grad():
            worst = list(self.adversary.attack(scene, [attack.budget for attack in self.attacks]))
        for attack, found in zip(self.attacks, worst, strict=True):
            self._admitted[attack] |= self._was_admitted(found, scene)
        return worst

    @staticmethod
    def _was_admitted(found: Found, scene: Scene) -> bool:
        """Whether any blur was within the budget; a kernel is made to be, and then harms."""
        if found.admitted is None:
            return bool(scene.error(found.image.detach()).any())
        return found.admitted

    def _scene(self, batch: Mapping[str, Any], sharp: Tensor, see: Any) -> Scene:
        windows, label = batch["window"], batch["label"]
        seed = self.datamodule.seed
        indices = batch["index"].tolist()
        epochs = batch["epoch"].tolist() if "epoch" in batch else [None] * len(indices)

        def seen(blurs: Sequence[Blur] | Tensor) -> Tensor:
            # Rounding to 8 bits has no gradient.
            follows = isinstance(blurs, Tensor) and blurs.requires_grad
            return see(windows.float() if follows else windows, blurs)

        def margin(image: Tensor) -> Tensor:
            with evaluating(self.net):
                return margins(self(image), label)

        def draw(number: int) -> list[Blur]:
            keys = zip(indices, epochs, strict=True)
            return [self.drawn.draw(seed=seed, index=i, epoch=e, number=number) for i, e in keys]

        return Scene(sharp, seen, margin, lambda image: self._error(image, sharp), draw)

    def _error(self, image: Tensor, sharp: Tensor) -> Float[Tensor, " b"]:
        """Root mean square difference in levels of 255, of what the network sees."""
        scale = 255 * image.new_tensor(self.std, dtype=torch.float32).view(3, 1, 1)
        difference = ((image.float() - sharp.float()) * scale).flatten(1)
        return torch.linalg.vector_norm(difference, dim=1) / difference.shape[1] ** 0.5

    @override
    def see(
        self, image: Tensor | list[Tensor], batch: Mapping[str, Any], condition: str
    ) -> Mapping[str, Tensor]:
        pair = (image, self.datamodule.sharp(batch))
        first = [view if isinstance(view, Tensor) else view[0] for view in pair]
        return {**super().see(image, batch, condition), "error": self._error(*first)}

    @override
    def _records(self) -> list[Record]:
        for attack in self.attacks:
            # Of a test that went on, or of other processes, it is known by what they found alone.
            if (
                not self._admitted[attack]
                and not self.measurements.rows(str(attack))["error"].any()
            ):
                raise self._unmet(attack)
        return super()._records()

    def _unmet(self, attack: Attack) -> InputError:
        return InputError(
            f"model.budget, model.budgets: no blur changes an image within an error of "
            f"{attack.budget:g} levels; allow more, or let '{self.drawn}' begin nearer to 0"
        )


def margins(logits: Float[Tensor, "b c"], label: Tensor) -> Float[Tensor, " b"]:
    """The best wrong logit less the right one: above 0 exactly where the decision is wrong."""
    logits, right = logits.float(), label[:, None]
    others = logits.scatter(1, right, -torch.inf)
    return others.amax(dim=1) - logits.gather(1, right)[:, 0]


@contextmanager
def evaluating(net: nn.Module) -> Iterator[None]:
    """Evaluate a network within the block; then each of its modules is in its mode again."""
    training = [module for module in net.modules() if module.training]
    net.eval()
    try:
        yield
    finally:
        for module in training:
            module.training = True
