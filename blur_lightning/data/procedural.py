"""Procedural scenes: small pictures of one shape, drawn from a seed, with masks and known motion.

A scene is evaluated, never resampled: shapes and strokes are signed distances, textures are sums of
plane waves, so that a shift by any fraction of a pixel is exact and averaged frames are true motion
blur. Coordinates are (x right, y down) with the image as the unit square, its centre the origin;
velocities are pixels a frame. Every number that shapes a scene was chosen by us.

Letters of shapes: t frames, h rows, w columns, n strokes, k waves.
"""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from jaxtyping import Float32, UInt8

Plane = Float32[np.ndarray, "h w"]
Picture = Float32[np.ndarray, "3 h w"]
Columns = Float32[np.ndarray, " w"]
Rows = Float32[np.ndarray, " h"]


class Scene(NamedTuple):
    """A clip of one object before one background, and what is known of it.

    Attributes:
        frames: Pictures in 8 bits.
        masks: 0 on the background, 1 + label where the object covers at least half of the pixel.
        label: Index into `CLASSES`.
        object_velocity: Motion of the object across the picture, camera motion included.
        background_velocity: Motion of everything else across the picture.
    """

    frames: UInt8[np.ndarray, "t h w 3"]
    masks: UInt8[np.ndarray, "t h w"]
    label: int
    object_velocity: tuple[float, float]
    background_velocity: tuple[float, float]


class _Texture(NamedTuple):
    """Plane waves about a colour; frequencies in cycles a side, along x and y."""

    frequency: Float32[np.ndarray, "k 2"]
    phase: Float32[np.ndarray, " k"]
    amplitude: Float32[np.ndarray, "k 3"]
    colour: Float32[np.ndarray, "3"]


class _Strokes(NamedTuple):
    """Thin lines with round ends; a dot is a line that ends where it starts."""

    start: Float32[np.ndarray, "n 2"]
    along: Float32[np.ndarray, "n 2"]
    radius: Float32[np.ndarray, " n"]
    colour: Float32[np.ndarray, "n 3"]


class _Pose(NamedTuple):
    """Where the unit circle of a shape lies at time 0."""

    centre: Float32[np.ndarray, "2"]
    radius: float
    angle: float


class _Drawing(NamedTuple):
    """Everything that chance decides about a scene, in sides of the image."""

    background: _Texture
    surface: _Texture
    strokes: _Strokes
    pose: _Pose
    object_velocity: Float32[np.ndarray, "2"]
    background_velocity: Float32[np.ndarray, "2"]


def _polygon(x: Plane, y: Plane, *, sides: int, apothem: float, order: int = 1) -> Plane:
    """The `order`-th largest of the distances to the lines on which the sides of a polygon lie.

    The largest is below zero inside the regular polygon, the second largest inside the star that
    its lengthened sides draw.
    """
    angle = 2 * np.pi * np.arange(sides, dtype=np.float32) / sides
    beyond = np.cos(angle)[:, None, None] * x + np.sin(angle)[:, None, None] * y
    return np.partition(beyond, sides - order, axis=0)[sides - order] - np.float32(apothem)


def _box(x: Plane, y: Plane, half_width: float, half_height: float) -> Plane:
    # Too small a distance beyond corners, which coverage does not see.
    return np.maximum(np.abs(x) - half_width, np.abs(y) - half_height)


def _disk(x: Plane, y: Plane, radius: float) -> Plane:
    return np.hypot(x, y) - np.float32(radius)


# Signed distances, negative inside, of shapes that reach at most 8 % beyond the unit circle.
_SHAPES: dict[str, Callable[[Plane, Plane], Plane]] = {
    "disk": lambda x, y: _disk(x, y, 0.9),
    "ring": lambda x, y: np.abs(_disk(x, y, 0.7)) - 0.25,
    "square": lambda x, y: _box(x, y, 0.75, 0.75),
    "triangle": lambda x, y: _polygon(x, y, sides=3, apothem=0.52),
    "star": lambda x, y: _polygon(x, y, sides=5, apothem=0.33, order=2),
    "cross": lambda x, y: np.minimum(_box(x, y, 0.95, 0.3), _box(x, y, 0.3, 0.95)),
    "crescent": lambda x, y: np.maximum(_disk(x, y, 0.95), -_disk(x - 0.5, y, 0.75)),
    "half disk": lambda x, y: np.maximum(_disk(x, y + 0.4, 1.0), -y - 0.4),
    "bar": lambda x, y: _box(x, y, 0.98, 0.3),
    "angle": lambda x, y: np.maximum(_box(x, y, 0.75, 0.75), -_box(x - 0.6, y - 0.6, 0.9, 0.9)),
}
CLASSES: tuple[str, ...] = tuple(_SHAPES)


def scene(seed: int, index: int, *, size: int = 64, frames: int = 1) -> Scene:
    """Scene `index` of the stream `seed`: a function of these two numbers alone.

    Classes take turns, so that any run of consecutive scenes is balanced. Frame 0 is the still, and
    a longer clip goes on where a shorter one ends.

    Args:
        seed: Stream of scenes; one for each split.
        index: Number of the scene in its stream.
        size: Side of the picture in pixels. The scene scales with it.
        frames: Length of the clip.
    """
    label = index % len(CLASSES)
    drawing = _draw(np.random.default_rng([seed, index]))
    pictures = [_render(drawing, CLASSES[label], frame=t, size=size) for t in range(frames)]
    return Scene(
        frames=np.stack([_to_bytes(picture) for picture, _ in pictures]),
        masks=np.stack([(inside >= 0.5) * np.uint8(label + 1) for _, inside in pictures]),
        label=label,
        object_velocity=_pixels(drawing.object_velocity, size),
        background_velocity=_pixels(drawing.background_velocity, size),
    )


def _pixels(velocity: Float32[np.ndarray, "2"], size: int) -> tuple[float, float]:
    x, y = (velocity * size).tolist()
    return x, y


def _draw(rng: np.random.Generator) -> _Drawing:
    ground = rng.uniform(0.2, 0.8, 3)
    # Towards the farther end of the scale in each channel: no colour is cut off, none hides.
    contrast = rng.uniform(0.25, 0.4, 3)
    colour = np.where(ground < 0.5, ground + contrast, ground - contrast)
    background_velocity = rng.normal(0, 0.008, 2)
    return _Drawing(
        background=_draw_texture(rng, ground),
        surface=_draw_texture(rng, colour),
        strokes=_draw_strokes(rng, count=8),
        pose=_Pose(
            centre=rng.uniform(-0.14, 0.14, 2).astype(np.float32),
            radius=rng.uniform(0.18, 0.28),
            angle=rng.uniform(-0.4, 0.4),
        ),
        object_velocity=(background_velocity + rng.normal(0, 0.008, 2)).astype(np.float32),
        background_velocity=background_velocity.astype(np.float32),
    )


def _draw_texture(rng: np.random.Generator, colour: np.ndarray, waves: int = 24) -> _Texture:
    """Gradients to fine gratings: amplitudes fall with frequency, as those of photographs do."""
    frequency = np.exp(rng.uniform(np.log(0.4), np.log(20), (waves, 1)))
    angle = rng.uniform(0, 2 * np.pi, (waves, 1))
    amplitude = frequency ** -rng.uniform(0.2, 0.8) * rng.normal(1, 0.3, (waves, 3))
    # The sum over waves of amplitude² / 2, averaged over channels, is the variance of the texture.
    amplitude *= rng.uniform(0.02, 0.06) * np.sqrt(6 / (amplitude**2).sum())
    return _Texture(
        frequency=(frequency * _direction(angle)).astype(np.float32),
        phase=rng.uniform(0, 2 * np.pi, waves).astype(np.float32),
        amplitude=amplitude.astype(np.float32),
        colour=colour.astype(np.float32),
    )


def _draw_strokes(rng: np.random.Generator, count: int) -> _Strokes:
    length = rng.uniform(0.1, 0.8, count) * (rng.random(count) < 0.6)
    angle = rng.uniform(0, 2 * np.pi, (count, 1))
    return _Strokes(
        # Beyond the picture too: the camera may turn towards them.
        start=rng.uniform(-0.8, 0.8, (count, 2)).astype(np.float32),
        along=(length[:, None] * _direction(angle)).astype(np.float32),
        radius=rng.uniform(0.006, 0.018, count).astype(np.float32),
        colour=rng.uniform(0.0, 1.0, (count, 3)).astype(np.float32),
    )


def _direction(angle: np.ndarray) -> np.ndarray:
    return np.concatenate([np.cos(angle), np.sin(angle)], axis=1)


def _render(drawing: _Drawing, name: str, *, frame: int, size: int) -> tuple[Picture, Plane]:
    """One frame, and how much of each pixel the object covers."""
    axis = (np.arange(size, dtype=np.float32) + 0.5) / size - 0.5
    moved = (axis[:, None] - frame * drawing.background_velocity).T
    picture = _paint_strokes(_evaluate(drawing.background, *moved), drawing.strokes, *moved)
    moved = (axis[:, None] - frame * drawing.object_velocity - drawing.pose.centre).T
    inside = _coverage(name, drawing.pose, *moved)
    return picture + inside * (_evaluate(drawing.surface, *moved) - picture), inside


def _evaluate(texture: _Texture, x: Columns, y: Rows) -> Picture:
    """The texture averaged over each pixel, as a sensor does, at columns x and rows y.

    cos(a + b) = cos a cos b - sin a sin b makes the sum over waves a matrix product.
    """
    pixel = np.sinc(texture.frequency / len(x)).prod(1)
    across = 2 * np.pi * x[:, None] * texture.frequency[:, 0] + texture.phase
    down = 2 * np.pi * y[:, None] * texture.frequency[:, 1]
    rows = np.concatenate([np.cos(down), -np.sin(down)], axis=1)
    columns = np.concatenate([np.cos(across), np.sin(across)], axis=1)
    amplitude = np.tile(texture.amplitude.T * pixel, 2)
    return (amplitude[:, None] * rows) @ columns.T + texture.colour[:, None, None]


def _paint_strokes(picture: Picture, strokes: _Strokes, x: Columns, y: Rows) -> Picture:
    dx = (x - strokes.start[:, :1])[:, None, :]
    dy = (y - strokes.start[:, 1:])[:, :, None]
    along_x, along_y = strokes.along.T[..., None, None]
    squared = np.maximum(along_x**2 + along_y**2, 1e-12)  # dots have no length
    part = np.clip((dx * along_x + dy * along_y) / squared, 0, 1)
    dx, dy = dx - part * along_x, dy - part * along_y
    distance = np.sqrt(dx * dx + dy * dy) - strokes.radius[:, None, None]
    for inside, colour in zip(np.clip(0.5 - len(x) * distance, 0, 1), strokes.colour, strict=True):
        picture = picture + inside * (colour[:, None, None] - picture)
    return picture


def _coverage(name: str, pose: _Pose, x: Columns, y: Rows) -> Plane:
    """How much of each pixel the shape covers, to first order in the distance to its outline."""
    cosine = np.float32(np.cos(pose.angle) / pose.radius)
    sine = np.float32(np.sin(pose.angle) / pose.radius)
    distance = _SHAPES[name](cosine * x + sine * y[:, None], cosine * y[:, None] - sine * x)
    return np.clip(0.5 - distance * np.float32(pose.radius * len(x)), 0, 1)


def _to_bytes(picture: Picture) -> UInt8[np.ndarray, "h w 3"]:
    return np.rint(picture.clip(0, 1) * 255).astype(np.uint8).transpose(1, 2, 0)
