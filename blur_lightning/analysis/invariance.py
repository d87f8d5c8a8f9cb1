"""How far blur moves what each layer of a network computes, on the images of a test.

Vasiljevic et al. 2016, section 4.3 and Figure 4, for any network, over a whole set of images: the
distances of `tasks.activations`, of a network and of others with the weights of checkpoints.
"""

import io
import json
from collections.abc import Mapping, Sequence
from copy import deepcopy
from pathlib import Path
from typing import Any

import numpy as np
import torch.nn.functional as F
from lightning import LightningModule
from torch import Tensor, nn
from typing_extensions import override

from blur_lightning.analysis.invariance_page import Maps, Row, maps_png, page_html, table_text
from blur_lightning.errors import InputError
from blur_lightning.models import PatchDrop, finetuned
from blur_lightning.records.robustness import replacing, write_table
from blur_lightning.tasks import Task
from blur_lightning.tasks.activations import (
    Answer,
    LayerStatistics,
    as_map,
    check_same_places,
    find_layers,
    watching,
)
from blur_lightning.tasks.examples import to_bytes
from blur_lightning.tasks.networks import weights_hash


class InvarianceAnalysis(LightningModule):
    """Compares what layers answer to sharp images and to the same under each condition.

    Leaves `invariance.csv`, `.html`, `.png` (heat maps of one image), `.npz` (the same as arrays)
    and `.json` (provenance) in the run's folder.

    Args:
        task: The network and its conditions, as for a test.
        layers: Names of modules; None chooses (see `find_layers`).
        checkpoints: Files that fit wrote, of the same network, to be shown beside it.
        image: Place in the data of the image whose heat maps are drawn, 0 or more.
    """

    def __init__(
        self, task: Task, *, layers: Sequence[str] | None, checkpoints: Sequence[str], image: int
    ) -> None:
        super().__init__()
        if isinstance(task.net, PatchDrop) and task.net.mode == "remove":
            raise InputError("model.net.mode: tokens that are gone compare with none; use mask")
        others = [finetuned(deepcopy(task.net), file) for file in checkpoints]
        self.task, self.nets = task, nn.ModuleList([task.net, *others])
        self.checkpoints = ["", *checkpoints]
        self.trained_on = [task.trained_on, *(str(net.trained_on) for net in others)]
        self.layers, self.image = find_layers(task.net, layers), image
        self.conditions = task.conditions  # the data module asks how far they reach
        self.mean, self.std = task.mean, task.std
        self.statistics: list[dict[str, LayerStatistics]] = [{} for _ in self.nets]
        self.maps = Maps([], {})

    @override
    def on_test_start(self) -> None:
        count = len(self.datamodule.sources["test"].names)
        if not 0 <= self.image < count:
            raise InputError(f"image: {self.image} is not 0 to {count - 1}, a place in the data")

    @override
    def test_step(self, batch: Mapping[str, Any], batch_idx: int) -> None:
        if "image" not in batch:  # nothing in it could be read
            return
        shown = (batch["index"] == self.image).nonzero().flatten().tolist()
        image = self.datamodule.sharp(batch)
        sharp = [self._answers(place, image) for place in range(len(self.nets))]
        self._draw(image, shown)
        for answers, statistics in zip(sharp, self.statistics, strict=True):
            for name, answer in answers.items():
                if name not in statistics:
                    channels, count = answer.pooled.shape[1], len(self.conditions)
                    statistics[name] = LayerStatistics(channels, count, self.device)
                statistics[name].add_sharp(answer)
        for number, condition in enumerate(self.conditions):
            image = self.datamodule.blurred(batch, self.datamodule.draw(condition, batch))
            self._draw(image, shown)
            for place, answers in enumerate(sharp):
                blurred = self._answers(place, image)
                check_same_places(answers, blurred)
                for name, answer in answers.items():
                    distance = self.statistics[place][name].add(number, answer, blurred[name])
                    for one in shown:
                        key = (place, number, self.layers.index(name))
                        self.maps.layers[key] = self._map(distance[one], image)

    def _answers(self, place: int, image: Tensor | list[Tensor]) -> dict[str, Answer]:
        """What the layers of one of the networks answer."""
        self.task.net = self.nets[place]
        with watching(self.task.net, self.layers) as answers:
            self.task(image)
        self.task.net = self.nets[0]
        return answers

    def _draw(self, image: Tensor | list[Tensor], shown: Sequence[int]) -> None:
        """Keep what the network sees of the image that is shown."""
        seen = image if isinstance(image, Tensor) else image[0]
        for one in shown:
            picture = to_bytes(seen[one][None], self.mean, self.std)[0]
            self.maps.pictures.append(picture.permute(1, 2, 0).numpy())

    def _map(self, distance: Tensor, image: Tensor | list[Tensor]) -> np.ndarray:
        """Distances (h, w) at the size of the image; NaN where places do not lie in it."""
        rows, columns = (image if isinstance(image, Tensor) else image[0]).shape[2:]
        prefix = [getattr(module, "num_prefix_tokens", 0) for module in self.task.net.modules()]
        found = as_map(distance, (rows, columns), max(prefix))
        if found is None:
            return np.full((rows, columns), np.nan, dtype=np.float16)
        scaled = F.interpolate(found[None, None].float(), size=(rows, columns), mode="nearest")
        return scaled[0, 0].cpu().numpy().astype(np.float16)

    @override
    def on_test_epoch_end(self) -> None:
        if not self.statistics[0]:
            raise InputError("data: none of the images could be read")
        rows = [
            self._row(place, name, number)
            for place in range(len(self.nets))
            for name in self.layers
            for number in range(len(self.conditions))
        ]
        folder = Path(self.trainer.default_root_dir)
        write_table(folder / "invariance.csv", [_columns(rows)])
        if not self.maps.pictures:  # unreadable, or beyond the batches that the trainer was given
            raise InputError(f"image: {self.image} was not seen; only invariance.csv was written")
        self._write(folder / "invariance.npz", self._arrays())
        picture = maps_png(self.maps, rows)
        self._write(folder / "invariance.png", picture)
        provenance = json.dumps(self._provenance(), indent=2, ensure_ascii=False, default=str)
        self._write(folder / "invariance.json", f"{provenance}\n".encode())
        self._write(folder / "invariance.html", page_html(rows, picture).encode())
        print(f"\n\n{table_text(rows)}\n\nwritten: {folder / 'invariance.html'}")

    def _row(self, place: int, name: str, number: int) -> Row:
        statistics, condition = self.statistics[place][name], self.conditions[number]
        return Row(
            self.task.name,
            self.trained_on[place],
            self.checkpoints[place],
            self.datamodule.dataset,
            self.datamodule.test_capture.scale_name,
            name,
            str(condition),
            statistics.n,
            *statistics.distance(number),
            statistics.linear_cka(number),
        )

    def _arrays(self) -> bytes:
        """Heat maps (network, condition, layer, h, w) with the names of these, as .npz."""
        counts = len(self.nets), len(self.conditions), len(self.layers)
        stream = io.BytesIO()
        np.savez_compressed(
            stream,
            maps=np.stack([self.maps.layers[key] for key in np.ndindex(*counts)]).reshape(
                *counts, *self.maps.pictures[0].shape[:2]
            ),
            pictures=np.stack(self.maps.pictures),  # sharp, and under each condition
            checkpoints=np.array(self.checkpoints),
            conditions=np.array([str(condition) for condition in self.conditions]),
            layers=np.array(self.layers),
        )
        return stream.getvalue()

    def _provenance(self) -> dict[str, Any]:
        others = zip(self.checkpoints[1:], self.nets[1:], strict=True)
        weights = {checkpoint: weights_hash(net) for checkpoint, net in others}
        return self.task.provenance() | {"checkpoints": weights}

    @staticmethod
    def _write(path: Path, content: bytes) -> None:
        with replacing(path) as temporary:
            temporary.write_bytes(content)

    @property
    def datamodule(self) -> Any:
        """The `BlurDataModule` that feeds this analysis."""
        return self.trainer.datamodule  # type: ignore[attr-defined]


def _columns(rows: Sequence[Row]) -> dict[str, list[Any]]:
    return dict(zip(Row._fields, map(list, zip(*rows, strict=True)), strict=True))
