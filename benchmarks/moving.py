"""Writes videos of procedural scenes in motion, for `build-wild`: an object and a camera move.

    python benchmarks/moving.py --out data/moving [--train 200] [--test 50]

A video is named after its part, train-000.mp4, and shows one scene of a stream of its own part. It
is three times as large as what `build-wild` makes of it, and coded by FFmpeg as films are; what is
in it depends on its name alone. Videos that are there stay as they are.
"""

import argparse
from fractions import Fraction
from pathlib import Path

from blur_lightning.data.procedural import scene
from blur_lightning.records.robustness import replacing
from blur_lightning.wild.video import import_extra

SIDE, FRAMES, FPS = 192, 35, 240  # px, the rate of WILD's camera in Hz
STREAMS = {"train": 0, "test": 1}
QUALITY = "10"  # of x264, on which 0 is lossless and 51 the worst


def write_video(path: Path, stream: int, index: int) -> None:
    """Draw one scene and code it; an existing file stays."""
    if path.exists():
        return
    av = import_extra("av")
    with (
        replacing(path) as temporary,
        av.open(str(temporary), "w", format="mp4") as container,
    ):
        video = container.add_stream("libx264", rate=FPS, options={"crf": QUALITY})
        video.width = video.height = SIDE
        video.pix_fmt, video.time_base = "yuv444p", Fraction(1, FPS)
        video.thread_count = 1  # the bytes do not depend on the machine
        for pixels in scene(stream, index, size=SIDE, frames=FRAMES).frames:
            container.mux(video.encode(av.VideoFrame.from_ndarray(pixels, format="rgb24")))
        container.mux(video.encode())


def main() -> None:
    """Write the videos of both parts."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--out", type=Path, required=True, help="folder of the videos")
    parser.add_argument("--train", type=int, default=200, help="scenes to train on")
    parser.add_argument("--test", type=int, default=50, help="scenes to test on")
    options = parser.parse_args()
    for part, stream in STREAMS.items():
        for index in range(getattr(options, part)):
            write_video(options.out / f"{part}-{index:03}.mp4", stream, index)


if __name__ == "__main__":
    main()
