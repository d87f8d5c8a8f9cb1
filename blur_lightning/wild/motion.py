"""Optical flow between two frames, and how far it can be trusted.

A flow is float32 (h, w, 2): columns and rows that what is at a pixel of the first frame has moved
by in the second, in pixels.
"""

from collections.abc import Callable
from functools import cache
from typing import Any, Literal, NamedTuple

import numpy as np

from blur_lightning.errors import InputError
from blur_lightning.wild.video import import_extra

Estimator = Literal["dis", "raft"]
Flow = Callable[[np.ndarray, np.ndarray], np.ndarray]
_RAFT_SIDE, _RAFT_STEP = 128, 8  # px: its smallest image; sides are multiples


class Motion(NamedTuple):
    """What moved between two frames."""

    mean: float  # px, of the flow's magnitude over the pixels
    largest: float  # px
    fast: float  # share of the pixels that moved more than a limit
    error: float  # of matching, in levels of 0 to 255


def measure_motion(first: np.ndarray, second: np.ndarray, flow: Flow, *, limit: float) -> Motion:
    """Estimate the flow between two frames and sum it up.

    Args:
        first: uint8 (h, w, 3), RGB.
        second: The next frame, of the same shape.
        flow: An estimator of `estimator`.
        limit: Magnitude in pixels above which a pixel counts as fast.
    """
    field = flow(first, second)
    magnitude = np.hypot(field[..., 0], field[..., 1])
    error = matching_error(grey(first), grey(second), field)
    fast = float((magnitude > limit).mean())
    return Motion(float(magnitude.mean()), float(magnitude.max()), fast, error)


def matching_error(first: np.ndarray, second: np.ndarray, flow: np.ndarray) -> float:
    """Mean absolute difference of a grey frame and the next one, moved back by the flow.

    Pixels that moved out of the frame do not count; if all did, the error is infinite.

    Args:
        first: uint8 (h, w).
        second: uint8 (h, w), sampled bicubically.
        flow: From the first to the second.

    Returns:
        Levels of 0 to 255.
    """
    cv2 = import_extra("cv2")
    rows, columns = first.shape
    y, x = np.mgrid[:rows, :columns].astype(np.float32)
    x, y = x + flow[..., 0], y + flow[..., 1]
    inside = (x >= 0) & (x <= columns - 1) & (y >= 0) & (y <= rows - 1)
    if not inside.any():
        return float("inf")
    back = cv2.remap(second.astype(np.float32), x, y, cv2.INTER_CUBIC)
    return float(np.abs(back - first)[inside].mean())


def grey(pixels: np.ndarray) -> np.ndarray:
    """Luma of uint8 (h, w, 3), RGB (ITU-R BT.601), as uint8 (h, w)."""
    cv2 = import_extra("cv2")
    return cv2.cvtColor(pixels, cv2.COLOR_RGB2GRAY)


@cache
def estimator(name: Estimator) -> Flow:
    """Make an estimator of the flow between two uint8 (h, w, 3) frames.

    Args:
        name: dis: dense inverse search (Kroeger et al. 2016, arXiv 1603.03590) of OpenCV, medium
            preset down to the full size, on grey frames. raft: RAFT (Teed and Deng 2020, arXiv
            2003.12039), small, of torchvision, with its weights from torch hub's folder.
    """
    return _dis() if name == "dis" else _raft()


def _dis() -> Flow:
    cv2 = import_extra("cv2")
    cv2.setNumThreads(1)  # videos are worked at in parallel, not their frames
    search = cv2.DISOpticalFlow_create(cv2.DISOPTICAL_FLOW_PRESET_MEDIUM)
    search.setFinestScale(0)  # at half the size, 1, motion of 0.4 px is found to be 0.46
    return lambda first, second: search.calc(grey(first), grey(second), None)


def _raft() -> Flow:
    import torch
    from torchvision.models.optical_flow import Raft_Small_Weights, raft_small

    torch.set_num_threads(1)
    weights = Raft_Small_Weights.DEFAULT
    try:
        network = raft_small(weights=weights, progress=False).eval()
    except OSError as error:  # no network
        folder = f"{torch.hub.get_dir()}/checkpoints"
        raise InputError(
            f"--flow raft: its weights cannot be fetched ({error}); download {weights.url} "
            f"to {folder}, or take --flow dis"
        ) from error

    def flow(first: np.ndarray, second: np.ndarray) -> np.ndarray:
        rows, columns = first.shape[:2]
        with torch.inference_mode():
            field: Any = network(_to_raft(first), _to_raft(second))[-1]
        return field[0, :, :rows, :columns].permute(1, 2, 0).numpy()

    return flow


def _to_raft(pixels: np.ndarray) -> Any:
    """Values in [-1, 1], the last row and column repeated up to a size that RAFT takes."""
    import torch

    sides = [max(_RAFT_SIDE, -(-side // _RAFT_STEP) * _RAFT_STEP) for side in pixels.shape[:2]]
    added = [(0, side - own) for side, own in zip(sides, pixels.shape[:2], strict=True)]
    padded = np.pad(pixels, [*added, (0, 0)], mode="edge")
    return torch.from_numpy(padded).permute(2, 0, 1)[None].float() / 127.5 - 1
