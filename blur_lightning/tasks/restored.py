"""Deblur, then recognise: a classifier on blurred images, and on the same once they are restored.

Source: Vasiljevic et al. 2016 (arXiv 1611.05760), section 4.4 and Table 5.
"""

import json
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from statistics import median
from typing import Any

import torch
from torch import Tensor, nn
from typing_extensions import override

from blur_lightning.blur import Blur, BlurDistribution, Restorer, blur_images
from blur_lightning.blur.restoring import Known, restored_windows
from blur_lightning.errors import InputError
from blur_lightning.records.measurements import Measurements
from blur_lightning.records.robustness import replacing
from blur_lightning.tasks.classification import ClassificationTask
from blur_lightning.tasks.networks import trained_mix, weights_hash

_TIMES = "milliseconds.json"  # among what was measured


class RestoredClassificationTask(ClassificationTask):
    """Test a classifier under each of a list of blurs, and again on the images once restored.

    The second test has a folder of its own in that of the run, <run>/<run>-restored, and its
    records name the restorer beside the network: `vgg16 (deconvolved, sparse)`. `report` on the
    run shows both, `compare` tells whether they differ. To the tracker it gives its metrics, as
    restored/D8/top1, and no pictures.

    An image is restored whole, at the canonical scale, after the blur and with 8 bits; then all is
    as without. Training and validation see no restored image, predictions nothing else.

    provenance.json has the milliseconds an image of each step, medians over the batches under a
    blur: blur (with the resize where nothing is restored), restore, resize and network.

    What both tests have measured is kept until the second is done, so that a run which is ended in
    either goes on there.

    Args:
        net: Any network from images to logits by its class path.
        restore: What restores images, by its class path: blur_lightning.blur.Deconvolver, by the
            true kernel; blur_lightning.blur.RestoredFolder, files; blur_lightning.models.finetuned,
            a deblurring network from its checkpoint; or any module from images (b, 3, h, w) in
            [0, 1] to images of that size.
        restored_by: What records say of the restorer; None is its own name, or that of its class.
        kwargs: As ClassificationTask.
    """

    restoring = False  # whether the test that runs is the second one

    def __init__(
        self, net: nn.Module, *, restore: nn.Module, restored_by: str | None = None, **kwargs: Any
    ) -> None:
        super().__init__(net, **kwargs)
        # Not registered: checkpoints of this task are those of any classifier.
        self._restorers = (restore.eval(),)
        self.restored_by = restored_by or _name(restore)
        self._milliseconds: dict[str, list[float]] = {}
        self._blurred = True  # whether the condition that is measured is another than sharp

    @property
    def restorer(self) -> nn.Module:
        """What restores images, where this task is."""
        return self._restorers[0].to(self.device)

    @contextmanager
    def on_restored_images(self) -> Iterator[None]:
        """Restore all images that are tested meanwhile."""
        name, self.name, self.restoring = self.name, f"{self.name} ({self.restored_by})", True
        try:
            yield
        finally:
            self.name, self.restoring = name, False

    @property
    @override
    def run_folder(self) -> Path:
        folder = super().run_folder
        second = self.restoring and self.trainer.testing
        return folder / f"{folder.resolve().name}-restored" if second else folder

    @property
    @override
    def loggers(self) -> Any:
        return [] if self.restoring else super().loggers

    @override
    def setup(self, stage: str) -> None:
        super().setup(stage)
        if self.datamodule.test_capture.order != "blur_first":
            raise InputError(
                "model.restore: images are restored whole, after the blur; set "
                "data.capture.order blur_first"
            )
        self.restoring |= stage == "predict"
        self._milliseconds = {}

    @override
    def measured_before(self) -> set[int]:
        indices, noted = super().measured_before(), self.measurements.folder / _TIMES
        if noted.exists():
            self._milliseconds = json.loads(noted.read_text(encoding="utf-8"))
        return indices

    @override
    def test_step(self, batch: Mapping[str, Any], batch_idx: int) -> None:
        super().test_step(batch, batch_idx)
        if self.trainer.is_global_zero:
            with replacing(self.measurements.folder / _TIMES) as temporary:
                temporary.write_text(json.dumps(self._milliseconds), encoding="utf-8")

    @override
    def forget_measurements(self) -> None:
        if self.restoring:
            super().forget_measurements()
            Measurements(super().run_folder, key="").remove()

    @override
    def forward(self, image: Tensor | list[Tensor]) -> Any:
        if self.training:
            return super().forward(image)
        with self._timed("network", len(image if isinstance(image, Tensor) else image[0])):
            return super().forward(image)

    @override
    def _under(
        self, condition: BlurDistribution, blurs: list[Blur], batch: Mapping[str, Any]
    ) -> Tensor | list[Tensor]:
        self._blurred = str(condition) != "sharp"
        if self.restoring:
            return self._restored(batch, condition, blurs)
        with self._timed("blur", len(blurs)):
            return super()._under(condition, blurs, batch)

    def _restored(
        self, batch: Mapping[str, Any], condition: BlurDistribution, blurs: list[Blur]
    ) -> Tensor | list[Tensor]:
        """Blur whole images, restore them, and make the network's input of them."""
        data, count = self.datamodule, len(blurs)
        names = data.sources["test" if self.trainer.testing else "predict"].names
        files = [names[index] for index in batch["index"].tolist()]
        capture = data.test_capture
        settings = {name: getattr(capture, name) for name in ("border", "rim", "light")}
        with self._timed("blur", count):
            blurred = blur_images(batch["image"], blurs, **settings)
        with self._timed("restore", count):
            known = Known(str(condition), blurs, files, capture)
            windows = restored_windows(blurred, self.restorer, known)
        with self._timed("resize", count):
            image: Tensor | list[Tensor] = data.blurred({"image": windows}, [Blur("sharp")] * count)
        return image

    @contextmanager
    def _timed(self, step: str, count: int) -> Iterator[None]:
        """Note the milliseconds an image that a step takes, once the device has done it."""
        self._wait()
        start = time.perf_counter()
        yield
        self._wait()
        spent = 1000 * (time.perf_counter() - start) / count
        if self._blurred:
            self._milliseconds.setdefault(step, []).append(spent)

    def _wait(self) -> None:
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)

    @override
    def log_dict(self, dictionary: Any, *args: Any, **kwargs: Any) -> None:
        if self.restoring:
            dictionary = {k.replace("test/", "restored/", 1): v for k, v in dictionary.items()}
        super().log_dict(dictionary, *args, **kwargs)

    @override
    def on_test_epoch_end(self) -> None:
        super().on_test_epoch_end()
        if self._milliseconds and self.trainer.is_global_zero:
            steps = ", ".join(f"{step} {spent}" for step, spent in self._times().items())
            print(f"milliseconds an image: {steps}")

    def _times(self) -> dict[str, float]:
        return {step: round(median(spent), 1) for step, spent in self._milliseconds.items()}

    @override
    def provenance(self) -> dict[str, Any]:
        facts = super().provenance()
        if self.restoring:
            weights = weights_hash(self.restorer)
            facts["restored_by"] = {"name": self.restored_by, "weights": weights}
        times = self._times()
        return facts | ({"milliseconds_an_image": times} if times else {})


def _name(restore: nn.Module) -> str:
    """Tell restorers apart: by their own name, or their class and what it was trained on."""
    if isinstance(restore, Restorer):
        return restore.name
    trained_on = trained_mix(restore)
    return f"restored by {type(restore).__name__}" + (f", {trained_on}" if trained_on else "")
