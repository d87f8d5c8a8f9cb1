from itertools import pairwise

import numpy as np
import pytest

from blur_lightning.data import procedural
from blur_lightning.data.procedural import CLASSES, scene


def still(index: int, *, seed: int = 0, size: int = 64) -> np.ndarray:
    return scene(seed, index, size=size).frames[0]


def drawing(index: int, *, seed: int = 0, **changes) -> procedural._Drawing:
    return procedural._draw(np.random.default_rng([seed, index]))._replace(**changes)


def test_scene_depends_on_seed_and_index_alone():
    forwards = [still(index) for index in range(6)]
    np.random.default_rng(0).random(100)  # somebody else's draws change nothing
    backwards = [still(index) for index in reversed(range(6))][::-1]
    np.testing.assert_array_equal(forwards, backwards)


@pytest.mark.parametrize("other", [dict(seed=1, index=3), dict(seed=0, index=3 + len(CLASSES))])
def test_other_seed_or_index_is_another_picture_of_the_same_class(other):
    ours, theirs = scene(0, 3), scene(**other)
    assert ours.label == theirs.label
    difference = np.abs(ours.frames.astype(int) - theirs.frames)
    assert difference.mean() > 10  # of 255


def test_labels_are_balanced():
    labels = [scene(0, index, size=8).label for index in range(3 * len(CLASSES))]
    assert np.bincount(labels).tolist() == [3] * len(CLASSES)


@pytest.mark.parametrize("size", [16, 37, 64])
def test_types_and_shapes_at_any_size(size):
    clip = scene(2, 5, size=size, frames=3)
    assert clip.frames.shape == (3, size, size, 3)
    assert clip.masks.shape == (3, size, size)
    assert clip.frames.dtype == clip.masks.dtype == np.uint8
    assert np.unique(clip.masks).tolist() == [0, clip.label + 1]
    assert np.ptp(clip.frames.astype(int)) > 50


def test_scene_scales_with_its_size():
    small, large = scene(0, 1, size=32), scene(0, 1, size=64)
    halved = large.frames[0].reshape(32, 2, 32, 2, 3).mean((1, 3))
    assert np.abs(halved - small.frames[0]).mean() < 3
    np.testing.assert_allclose(large.object_velocity, 2 * np.array(small.object_velocity))


def test_clips_agree_on_the_frames_they_share():
    short, long = scene(0, 7, frames=2), scene(0, 7, frames=4)
    np.testing.assert_array_equal(long.frames[:2], short.frames)
    np.testing.assert_array_equal(long.masks[:2], short.masks)
    np.testing.assert_array_equal(short.frames[0], still(7))


# Areas of the shapes in units of radius², from elementary geometry.
AREAS = {
    "disk": np.pi * 0.9**2,
    "ring": np.pi * (0.95**2 - 0.45**2),
    "square": 1.5**2,
    "triangle": 3 * np.sqrt(3) * 0.52**2,
    "star": 10 * 0.33**2 * np.tan(np.pi / 5) * (1 + np.tan(np.pi / 5) * np.tan(2 * np.pi / 5)) / 2,
    "cross": 2 * 1.9 * 0.6 - 0.6**2,
    "bar": 1.96 * 0.6,
    "angle": 1.5**2 - 1.05**2,
}


@pytest.mark.parametrize("name", AREAS)
def test_mask_and_coverage_have_the_area_of_the_shape(name):
    index = 20 * len(CLASSES) + CLASSES.index(name)
    pose = drawing(index).pose
    radius = pose.radius * 128
    _, inside = procedural._render(drawing(index), name, frame=0, size=128)
    assert inside.sum() == pytest.approx(AREAS[name] * radius**2, rel=0.01)
    mask = scene(0, index, size=128).masks[0] > 0
    assert mask.sum() == pytest.approx(AREAS[name] * radius**2, rel=0.03)


@pytest.mark.parametrize("index", range(len(CLASSES)))
def test_mask_is_where_the_picture_changes_with_the_object(index):
    ours = drawing(index)
    inverted = ours._replace(surface=ours.surface._replace(colour=1 - ours.surface.colour))
    pictures = [
        procedural._to_bytes(procedural._render(d, CLASSES[index], frame=0, size=64)[0])
        for d in (ours, inverted)
    ]
    changed = (pictures[0] != pictures[1]).any(-1)
    mask = scene(0, index).masks[0] > 0
    assert changed[mask].mean() > 0.99
    assert changed[~mask].mean() < 0.05  # rim pixels, covered less than half


def test_objects_stay_inside_the_picture():
    for index in range(100):
        mask = scene(0, index).masks[0]
        assert not (mask[0].any() or mask[-1].any() or mask[:, 0].any() or mask[:, -1].any())


def test_object_moves_by_whole_pixels_exactly():
    moving = drawing(4, object_velocity=np.float32([3 / 64, -2 / 64]))
    name = CLASSES[4]
    _, before = procedural._render(moving, name, frame=0, size=64)
    _, after = procedural._render(moving, name, frame=1, size=64)
    np.testing.assert_allclose(np.roll(before, (-2, 3), axis=(0, 1)), after, atol=1e-4)


def test_whole_scene_moves_by_whole_pixels_when_the_velocities_agree():
    velocity = np.float32([2 / 64, 5 / 64])
    moving = drawing(2, object_velocity=velocity, background_velocity=velocity)
    before, _ = procedural._render(moving, CLASSES[2], frame=0, size=64)
    after, _ = procedural._render(moving, CLASSES[2], frame=1, size=64)
    np.testing.assert_allclose(before[:, :-5, :-2], after[:, 5:, 2:], atol=1e-3)


def test_background_moves_without_the_object():
    moving = drawing(
        2, object_velocity=np.zeros(2, "f"), background_velocity=np.float32([4 / 64, 0])
    )
    (before, inside), (after, inside_after) = (
        procedural._render(moving, CLASSES[2], frame=frame, size=64) for frame in (0, 1)
    )
    np.testing.assert_array_equal(inside, inside_after)
    np.testing.assert_allclose(before[:, inside == 1], after[:, inside == 1], atol=1e-6)
    free = (inside[:, :-4] == 0) & (inside[:, 4:] == 0)
    np.testing.assert_allclose(before[:, :, :-4][:, free], after[:, :, 4:][:, free], atol=1e-3)


def test_object_moves_by_the_stated_fraction_of_a_pixel():
    clip = scene(0, 0, frames=13, size=128)
    centres = [np.argwhere(mask).mean(0)[::-1] for mask in clip.masks]
    moved = (centres[-1] - centres[0]) / 12
    np.testing.assert_allclose(moved, clip.object_velocity, atol=0.02)
    assert np.hypot(*clip.object_velocity) > 0.1
    assert all((a != b).any() for a, b in pairwise(clip.frames))


def nearest_mean_accuracy(features: np.ndarray, labels: np.ndarray) -> float:
    half = len(labels) // 2
    means = [features[:half][labels[:half] == label].mean(0) for label in range(len(CLASSES))]
    distance = np.linalg.norm(features[half:, None] - np.array(means), axis=2)
    return float((distance.argmin(1) == labels[half:]).mean())


def test_mean_colour_does_not_give_the_class_away():
    drawn = [scene(0, index, size=16) for index in range(1200)]
    labels = np.array([s.label for s in drawn])
    colour = np.array([s.frames.mean((0, 1, 2)) for s in drawn])
    assert nearest_mean_accuracy(colour, labels) < 2 / len(CLASSES)
    # The same classifier does find a leak where there is one.
    leaking = colour * 0.1 + 10 * labels[:, None]
    assert nearest_mean_accuracy(leaking, labels) > 0.9
