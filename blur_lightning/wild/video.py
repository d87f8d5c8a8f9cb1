"""Frames of videos, one at a time, by PyAV (FFmpeg): memory does not grow with a video's length."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from blur_lightning.errors import InputError

# What a folder may hold besides videos is told apart by ending, as people do.
ENDINGS = frozenset({".mp4", ".m4v", ".mov", ".avi", ".mkv", ".webm", ".mpg", ".mpeg", ".mts"})
SMALLEST = 16  # px of a side, for an optical flow
# Playlists and the like name other files and addresses; whatever their ending, they are no videos.
_ITSELF = {
    "protocol_whitelist": "file",
    "format_whitelist": "apng,asf,avi,dv,flv,gif,h264,hevc,ivf,m4v,matroska,mov,mpeg,mpegts,"
    "mpegvideo,mxf,nut,ogg,wav,yuv4mpegpipe",
}
# What a header may promise too much, for sound may be longer: seconds, and share of a short video.
_MISSING, _MISSING_SHARE = 0.5, 0.25


class UnreadableVideoError(Exception):
    """A file is no video, or a damaged one; the message names it."""


class Frame(NamedTuple):
    """One picture of a video."""

    time: float | None  # s; None where the file does not tell
    pixels: np.ndarray  # uint8 (h, w, 3), RGB
    tick: float = 0.0  # s; times are rounded to multiples of it


def import_extra(name: str) -> Any:
    """Import av or cv2; InputError says what to install."""
    from importlib import import_module

    try:
        return import_module(name)
    except ImportError as error:
        remedy = "pip install 'blur_lightning[video]'"
        raise InputError(f"{name} cannot be imported ({error}); {remedy}") from error


def find_videos(paths: Sequence[Path]) -> dict[str, Path]:
    """All videos that paths stand for, by name: the path below its folder, as one word.

    Raises:
        InputError: A path is missing, a folder holds no videos, or two have the same name.
    """
    videos: dict[str, Path] = {}
    for path in paths:
        root, files = path.parent, [path]
        if path.is_dir():
            root = path
            files = sorted(
                x for x in path.rglob("*") if x.suffix.lower() in ENDINGS and x.is_file()
            )
        if not path.exists() or not files:
            problem = "holds no videos" if path.exists() else "not found"
            raise InputError(f"{path}: {problem}; name videos or folders of them")
        for file in files:
            name = "-".join(file.relative_to(root).with_suffix("").parts)
            other = videos.setdefault(name, file)
            if other != file:
                raise InputError(f"{other} and {file}: both would become {name}; rename one")
    return videos


def read_frames(path: Path, *, reduce: int = 1) -> Iterator[Frame]:
    """Decode a video from its first frame to its last, upright.

    Args:
        path: The video; its first stream of pictures is taken.
        reduce: The mean of so many pixels in each direction becomes one, in stored values; what is
            left over at the right and at the bottom is cut off.

    Raises:
        UnreadableVideoError: It cannot be decoded, also when that shows after some frames, and also
            when it ends before its header says. Frames before are good.
    """
    av = import_extra("av")
    count, last = 0, None
    shape: tuple[int, ...] = ()
    try:
        with _opened(path) as container:
            if not container.streams.video:
                raise UnreadableVideoError(f"{path}: holds no pictures")
            stream = container.streams.video[0]
            for packet in container.demux(stream):
                if packet.is_corrupt:
                    raise UnreadableVideoError(f"{path}: cut off or damaged after {count} frames")
                for picture in packet.decode():
                    pixels = _reduced(picture, reduce)
                    if shape not in ((), pixels.shape):
                        raise UnreadableVideoError(f"{path}: changes its size at frame {count}")
                    shape, count, last = pixels.shape, count + 1, picture.time
                    if min(shape[:2]) < SMALLEST:
                        raise UnreadableVideoError(
                            f"{path}: {shape[1]}x{shape[0]} pixels after --reduce {reduce}; "
                            f"an optical flow takes {SMALLEST} or more"
                        )
                    yield Frame(last, pixels, float(picture.time_base or 0))
            promised = _promised_end(container)
    except av.error.FFmpegError as error:
        raise UnreadableVideoError(
            f"{path}: cannot be decoded after {count} frames ({error.strerror})"
        ) from error
    if last is None:
        return
    # The last frame is shown as long as the others are; of a single one nothing can be told.
    missing = promised - last * count / max(1, count - 1)
    if missing > (min(_MISSING, _MISSING_SHARE * promised) if count > 1 else _MISSING):
        raise UnreadableVideoError(f"{path}: cut off after {count} frames; {missing:.1f} s lack")


def _opened(path: Path) -> Any:
    return import_extra("av").open(str(path), options=_ITSELF)


def _reduced(picture: Any, reduce: int) -> np.ndarray:
    pixels = picture.to_ndarray(format="rgb24")
    if picture.rotation:  # a multiple of 90 degrees, counter-clockwise
        pixels = np.ascontiguousarray(np.rot90(pixels, round(picture.rotation / 90)))
    rows, columns = (side // reduce for side in pixels.shape[:2])
    whole = pixels[: rows * reduce, : columns * reduce]
    if reduce == 1 or not whole.size:
        return whole
    cv2 = import_extra("cv2")
    return cv2.resize(whole, (columns, rows), interpolation=cv2.INTER_AREA)


def _promised_end(container: Any) -> float:
    """When the last frame ends by the header, in seconds; 0 where it does not tell."""
    stream = container.streams.video[0]
    if stream.duration is not None:
        return float(((stream.start_time or 0) + stream.duration) * stream.time_base)
    return (container.duration or 0) / 1e6  # of all streams, in microseconds


def count_frames(path: Path) -> int:
    """How many frames the header promises, about; 0 where it does not tell or cannot be read."""
    av = import_extra("av")
    try:
        with _opened(path) as container:
            stream = container.streams.video[0]
            seconds = (container.duration or 0) / 1e6
            return stream.frames or round(seconds * float(stream.average_rate or 0))
    except (av.error.FFmpegError, IndexError):
        return 0


def unevenness(times: Sequence[float | None], *, tick: float = 0.0) -> float:
    """The largest deviation of the distances between frames from their mean, as its share.

    Args:
        times: Two or more, in seconds; where one is None nothing is known, which is 0. Times that
            do not grow are infinitely uneven.
        tick: What times are rounded to, in seconds: a distance may deviate by as much. Matroska has
            milliseconds, a fourth of the distance at 240 Hz.
    """
    known = [time for time in times if time is not None]
    if len(known) < len(times):
        return 0.0
    gaps = np.diff(known)
    if gaps.min() <= 0:
        return float("inf")
    deviation = np.abs(gaps - gaps.mean()).max() - tick
    return max(0.0, float(deviation / gaps.mean()))
