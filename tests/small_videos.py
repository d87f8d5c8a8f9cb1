"""Videos with a known motion, written without loss, for tests."""

from fractions import Fraction

import av
import numpy as np

ROWS, COLUMNS = 48, 64
# Waves: periods in columns and rows (px), phase, level; what they add up to stays in 0..255.
WAVES = [(16.0, 0.0, 0.0, 30), (9.0, 11.0, 1.0, 30), (5.5, -7.0, 2.0, 25), (0.0, 13.0, 4.0, 25)]


def texture(shift=(0.0, 0.0), frames=1, step=(0.0, 0.0)):
    """A sum of waves, moved to the right and down by `shift` pixels.

    Args:
        shift: Of the pattern, columns and rows.
        frames: Mean of so many pictures around that place: a Dirichlet kernel damps each wave.
        step: From one of these pictures to the next.

    Returns:
        float64 (48, 64, 3); the colours differ by a constant factor.
    """
    y, x = np.mgrid[:ROWS, :COLUMNS].astype(float)
    total = np.zeros((ROWS, COLUMNS))
    for columns, rows, phase, level in WAVES:
        along = 2 * np.pi / columns if columns else 0.0
        down = 2 * np.pi / rows if rows else 0.0
        half = (along * step[0] + down * step[1]) / 2
        damping = np.sin(frames * half) / (frames * np.sin(half)) if np.sin(half) else 1.0
        total += level * damping * np.sin(along * (x - shift[0]) + down * (y - shift[1]) + phase)
    return (125 + total)[..., None] * np.array([1.0, 0.9, 0.7])


def moving(count, step):
    """Frames of the texture, which moves by `step` from each to the next."""
    return [np.rint(texture((i * step[0], i * step[1]))).astype(np.uint8) for i in range(count)]


def write_video(path, frames, *, fps=240, times=None):
    """Write uint8 (h, w, 3) frames by FFV1, without loss.

    Args:
        path: .avi, or .mkv where times are given, or any of the two.
        frames: The frames.
        fps: Of a constant rate, in Hz.
        times: Of each frame, in ms, instead.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with av.open(str(path), "w") as container:
        stream = container.add_stream("ffv1", rate=fps)
        stream.height, stream.width = frames[0].shape[:2]
        stream.pix_fmt = "bgr0"
        stream.codec_context.time_base = Fraction(1, 1000) if times else Fraction(1, fps)
        for number, pixels in enumerate(frames):
            frame = av.VideoFrame.from_ndarray(pixels, format="rgb24")
            frame.pts = times[number] if times else number
            frame.time_base = stream.codec_context.time_base
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return path
