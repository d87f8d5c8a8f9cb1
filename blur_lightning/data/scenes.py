"""Procedural scenes as data: always at hand, for the demo and for tests."""

import numpy as np
from typing_extensions import override

from blur_lightning.blur import Capture
from blur_lightning.data.base import BlurDataModule, Split
from blur_lightning.data.procedural import CLASSES, scene
from blur_lightning.data.windows import Source


class SceneSource:
    """Stills of a stream of scenes, drawn when first asked for and then kept."""

    def __init__(self, stream: int, count: int, side: int) -> None:
        self.stream, self.side = stream, side
        self.names = [f"{stream}/{index}" for index in range(count)]
        self.labels = [index % len(CLASSES) for index in range(count)]
        self._drawn: dict[int, np.ndarray] = {}

    def size(self, index: int) -> int:
        """Bytes of one scene; what is drawn depends on its name alone."""
        return 3 * self.side**2

    def shape(self, index: int) -> tuple[int, int]:
        """Rows and columns of one scene."""
        return self.side, self.side

    def load(self, index: int) -> np.ndarray:
        """Draw one scene; uint8 (side, side, 3)."""
        if index not in self._drawn:
            self._drawn[index] = scene(self.stream, index, size=self.side).frames[0]
        return self._drawn[index]


class ScenesDataModule(BlurDataModule):
    """Procedural scenes of one textured shape each, to be told apart by the shape.

    Args:
        train_count: Number of scenes to train on.
        test_count: Number of scenes to test on; as many others serve validation.
        scenes_seed: Which scenes; the run's seed does not change them.
        blur: What training images are blurred with, one draw an image: sharp, D4, H8, V8, M8@30,
            G4, shake, a range D2..8, a mix sharp+D2+D4, or a weighted mix 0.2*sharp+0.8*shake.
        val_blur: What validation images are blurred with; None is blur, so that of runs which train
            on other mixes the figures do not compare.
        capture: Scales, crop and border; scenes are drawn at the canonical scale.
        batch_size: Images in a batch of each process.
        num_workers: Processes that draw; 0 draws each scene once and keeps it.
        seed: Seed of all draws of blurs; None is the run's seed_everything.
    """

    num_classes = len(CLASSES)

    def __init__(
        self,
        *,
        train_count: int = 5000,
        test_count: int = 1000,
        scenes_seed: int = 0,
        blur: str = "sharp",
        val_blur: str | None = None,
        capture: Capture | None = None,
        batch_size: int = 64,
        num_workers: int = 0,
        seed: int | None = None,
    ) -> None:
        super().__init__(
            blur=blur,
            val_blur=val_blur,
            capture=capture or Capture(canonical=64, scale=64, crop=64),
            flip=False,  # a scene is turned by a little only: mirrored, it is another one
            batch_size=batch_size,
            num_workers=num_workers,
            seed=seed,
        )
        self.train_count, self.test_count = train_count, test_count
        self.scenes_seed = scenes_seed

    @override
    def source(self, split: Split) -> Source:
        count = self.train_count if split == "train" else self.test_count
        stream = 3 * self.scenes_seed + {"train": 0, "val": 1, "test": 2, "predict": 2}[split]
        return SceneSource(stream, count, self.capture.canonical)
