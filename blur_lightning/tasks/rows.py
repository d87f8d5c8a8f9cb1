"""One row for each image under each condition: what was drawn, and what was measured."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from torch import Tensor

from blur_lightning.blur import Blur, BlurDistribution

Columns = dict[str, np.ndarray]


def columns_of(
    condition: BlurDistribution,
    blurs: Sequence[Blur],
    batch: Mapping[str, Any],
    measured: Mapping[str, Tensor],
) -> Columns:
    """One row for each image of a batch under one condition: what was drawn and measured."""
    columns: Columns = {
        "index": batch["index"].cpu().numpy(),
        "condition": np.array([str(condition)] * len(blurs), dtype=object),
        "family": np.array([blur.family for blur in blurs], dtype=object),
        "parameter": np.array([blur.parameter for blur in blurs]),
        "angle": np.array([blur.angle for blur in blurs]),
        "share": np.array([blur.share for blur in blurs]),
    }
    if "estimate" in batch:
        # One tuple an image: the columns are what it says in each of its fields.
        names = batch["estimate"][0]._fields
        for name, values in zip(names, zip(*batch["estimate"], strict=True), strict=True):
            columns[name] = np.array(values, dtype=object if isinstance(values[0], str) else None)
    if "label" in batch:
        columns["label"] = batch["label"].cpu().numpy()
    return columns | {name: values.cpu().numpy() for name, values in measured.items()}
