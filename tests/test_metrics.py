"""Metrics against drawings, plain loops, torchmetrics, and themselves in parts and processes."""

import jaxtyping
import numpy as np
import pytest
import torch
import torch.multiprocessing
from torchmetrics import JaccardIndex

from blur_lightning.boundaries import inner_boundary, trimap
from blur_lightning.errors import InputError
from blur_lightning.metrics import (
    BoundaryIoU,
    MeanIoU,
    TrimapAccuracy,
    boundary_counts,
    class_counts,
    trimap_counts,
)
from blur_lightning.records.counts import class_iou, fraction, mean_iou, pixel_accuracy

VOID = 255
METRICS = {
    "MeanIoU": lambda **kwargs: MeanIoU(5, **kwargs),
    "MeanIoU near": lambda **kwargs: MeanIoU(5, width=3, boundary="void_band", **kwargs),
    "BoundaryIoU": lambda **kwargs: BoundaryIoU(5, width=2, **kwargs),
    "TrimapAccuracy": lambda **kwargs: TrimapAccuracy((1, 3, 9), **kwargs),
}


def drawn(*rows):
    """A label map of one image: a digit is a class, a dot is void."""
    return torch.tensor([[[VOID if c == "." else int(c) for c in row] for row in rows]])


def random_pair(seed=0, size=(3, 23, 31), classes=5):
    generator = torch.Generator().manual_seed(seed)
    coarse = torch.randint(0, classes, (size[0], 4, 5), generator=generator)
    truth = coarse.repeat_interleave(6, 1).repeat_interleave(7, 2)[:, : size[1], : size[2]]
    prediction = truth.roll((1, 2), (1, 2)).clone()
    noise = torch.rand(size, generator=generator)
    prediction[noise < 0.1] = 1
    return prediction, truth.masked_fill(noise > 0.85, VOID)


def plain_counts(prediction, truth, in_prediction, in_truth, classes):
    """Intersection, truth and predicted of each image by loops over the pixels."""
    counts = np.zeros((3, len(truth), classes), dtype=int)
    for image, row, column in np.ndindex(*truth.shape):
        place = image, row, column
        if truth[place] == VOID:
            continue
        if in_truth[place]:
            counts[1, image, truth[place]] += 1
        if in_prediction[place]:
            counts[2, image, prediction[place]] += 1
        if in_truth[place] and in_prediction[place] and truth[place] == prediction[place]:
            counts[0, image, truth[place]] += 1
    return counts


def test_counts_of_a_drawing():
    truth, prediction = drawn("0011", "0.12"), drawn("0001", "0212")
    counts = class_counts(prediction, truth, num_classes=4)
    assert [c.tolist() for c in counts] == [[[3, 2, 1, 0]], [[3, 3, 1, 0]], [[4, 2, 1, 0]]]
    sums = [count.sum(0).numpy() for count in counts]
    np.testing.assert_equal(class_iou(*sums), [3 / 4, 2 / 3, 1, np.nan])
    assert mean_iou(*sums) == pytest.approx((3 / 4 + 2 / 3 + 1) / 3)
    assert pixel_accuracy(*sums[:2]) == pytest.approx(6 / 7)


def test_counts_are_those_of_loops_over_pixels(device):
    prediction, truth = random_pair()
    region = torch.rand(truth.shape, generator=torch.Generator().manual_seed(1)) < 0.6
    for where in (None, region):
        inside = torch.ones_like(region) if where is None else where
        on_device = None if where is None else where.to(device)
        counts = class_counts(
            prediction.to(device), truth.to(device), num_classes=5, region=on_device
        )
        expected = plain_counts(*(x.numpy() for x in (prediction, truth, inside, inside)), 5)
        np.testing.assert_array_equal(torch.stack(counts).cpu(), expected)


@pytest.mark.parametrize("width", [1, 3])
def test_boundary_counts_are_those_of_loops_over_pixels(width, device):
    prediction, truth = random_pair(2)
    seen = prediction.masked_fill(truth == VOID, VOID)
    near = [inner_boundary(labels, width=width).numpy() for labels in (seen, truth)]
    counts = boundary_counts(prediction.to(device), truth.to(device), num_classes=5, width=width)
    expected = plain_counts(prediction.numpy(), truth.numpy(), *near, 5)
    np.testing.assert_array_equal(torch.stack(counts).cpu(), expected)


def test_boundary_iou_of_a_square_that_is_moved():
    """A square of 10 px has a boundary of 36 px; moved by 1 px, 2 x 9 px of the two are common.

    These are the parts of the upper and lower sides; left and right sides lie side by side.
    """
    truth = torch.zeros(1, 30, 30).long()
    truth[:, 10:20, 10:20] = 1
    counts = boundary_counts(truth.roll(1, 2), truth, num_classes=2, width=1)
    assert [c[0, 1].item() for c in counts] == [18, 36, 36]
    # Of the background: the image's edge, 116 px, and the 44 px around the square.
    assert [c[0, 0].item() for c in counts] == [116 + 22, 116 + 44, 116 + 44]


@pytest.mark.parametrize(("size", "width"), [((3, 4), 1), ((30, 40), 1), ((384, 512), 13)])
def test_boundaries_are_as_wide_as_2_percent_of_the_diagonal(size, width):
    truth = torch.zeros(1, *size).long()
    rest = max(0, size[0] - 2 * width) * max(0, size[1] - 2 * width)
    counts = boundary_counts(truth, truth, num_classes=1)
    assert counts.truth.item() == size[0] * size[1] - rest


@pytest.mark.parametrize("name", METRICS)
def test_what_is_predicted_in_void_changes_nothing(name):
    prediction, truth = random_pair(4)
    void = truth == VOID
    values = [METRICS[name]()(prediction.masked_fill(void, c), truth) for c in range(5)]
    assert all(value.equal(values[0]) for value in values)
    right = METRICS[name]()(torch.where(void, 2, truth), truth)
    torch.testing.assert_close(right, torch.ones_like(right))


def test_trimap_accuracy_of_a_drawing():
    truth, prediction = drawn("000000111111"), drawn("000011111101")
    bands = trimap(truth, widths=[1, 2, 5])
    counts = trimap_counts(prediction, truth, bands, num_widths=3)
    # Distances are 5 4 3 2 1 0 0 1 2 3 4 5; wrong are columns 4, 5 and 10.
    assert counts.counted.tolist() == [[4, 6, 12]]
    assert counts.right.tolist() == [[2, 4, 9]]
    value = TrimapAccuracy((1, 2, 5))(prediction, truth)
    torch.testing.assert_close(value, torch.tensor([1 / 2, 2 / 3, 3 / 4]))


def test_trimap_counts_are_those_of_each_width_alone(device):
    prediction, truth = random_pair(6)
    widths = [1, 2, 4, 8]
    bands = trimap(truth.to(device), widths=widths)
    counts = trimap_counts(prediction.to(device), truth.to(device), bands, num_widths=4)
    for place, width in enumerate(widths):
        near = trimap(truth, widths=[width]) == 0
        alone = class_counts(prediction, truth, num_classes=5, region=near)
        assert counts.counted[:, place].tolist() == alone.truth.sum(1).tolist()
        assert counts.right[:, place].tolist() == alone.intersection.sum(1).tolist()


def test_mean_iou_is_that_of_torchmetrics():
    prediction, truth = random_pair()
    expected = JaccardIndex(task="multiclass", num_classes=5, ignore_index=VOID)(prediction, truth)
    torch.testing.assert_close(MeanIoU(5)(prediction, truth), expected)
    each = JaccardIndex(task="multiclass", num_classes=5, ignore_index=VOID, average="none")
    sums = [c.sum(0).numpy() for c in class_counts(prediction, truth, num_classes=5)]
    np.testing.assert_allclose(class_iou(*sums), each(prediction, truth), rtol=1e-6)


def test_mean_iou_near_boundaries_counts_there_alone():
    prediction, truth = random_pair()
    for rule in ("label_change", "void_band"):
        near = trimap(truth, widths=[2], boundary=rule) == 0
        expected = MeanIoU(5)(prediction, truth.masked_fill(~near, VOID))
        value = MeanIoU(5, width=2, boundary=rule)(prediction, truth)
        torch.testing.assert_close(value, expected)


def test_classes_that_do_not_occur_are_no_part_of_the_mean():
    truth, prediction = drawn("0011"), drawn("0001")
    assert MeanIoU(2)(prediction, truth) == MeanIoU(9)(prediction, truth)
    wrong = MeanIoU(9)(drawn("0008"), truth)  # predicted, so class 8 counts, with IoU 0
    torch.testing.assert_close(wrong, torch.tensor(2 / 3 / 3))


@pytest.mark.parametrize("name", METRICS)
def test_values_do_not_depend_on_batches(name):
    prediction, truth = random_pair(8)
    whole, parts = METRICS[name](), METRICS[name]()
    whole.update(prediction, truth)
    for i in range(3):
        parts.update(prediction[i : i + 1], truth[i : i + 1])
    parts.update(prediction[:0], truth[:0])
    assert parts.compute().equal(whole.compute())
    parts.reset()
    parts.update(prediction[:1], truth[:1])
    assert not parts.compute().equal(whole.compute())


@pytest.mark.parametrize("count", [class_counts, boundary_counts])
def test_an_empty_batch_has_no_counts(count):
    empty = torch.zeros(0, 4, 5).long()
    assert all(c.shape == (0, 3) for c in count(empty, empty, num_classes=3))


@pytest.mark.parametrize("name", METRICS)
def test_nothing_counted_has_no_value(name):
    truth = torch.full((2, 6, 7), VOID)
    assert METRICS[name]()(torch.zeros_like(truth), truth).isnan().all()


def test_a_map_of_one_class_is_found_whole_and_has_no_boundary():
    truth = torch.full((1, 6, 7), 3)
    assert MeanIoU(5)(truth, truth) == 1
    assert BoundaryIoU(5)(truth, truth) == 1  # the image's edge
    assert TrimapAccuracy()(truth, truth).isnan().all()


def test_void_may_have_another_label():
    prediction, truth = random_pair()
    other = torch.where(truth == VOID, -1, truth)
    for make in METRICS.values():
        value = make(ignore_index=-1)(prediction, other)
        assert value.equal(make()(prediction, truth))


def test_labels_and_shapes_that_do_not_fit_are_named():
    truth, prediction = drawn("01.2"), drawn("0121")
    with pytest.raises(InputError, match="truth: has the label 2, but num_classes is 2"):
        class_counts(prediction.clamp(max=1), truth, num_classes=2)
    with pytest.raises(InputError, match="prediction: has the label 2"):
        boundary_counts(prediction, truth.clamp(max=1), num_classes=2)
    with pytest.raises(InputError, match="prediction: has the label -1"):
        class_counts(prediction - 1, truth, num_classes=3)


def test_what_shape_checks_would_see_in_tests_is_named_without_them(monkeypatch):
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)
    truth, prediction = drawn("01.2"), drawn("0121")
    for metric in (MeanIoU(3), BoundaryIoU(3), TrimapAccuracy()):
        with pytest.raises(InputError, match=r"\(1, 1, 3\) for a truth of \(1, 1, 4\)"):
            metric(prediction[..., :3], truth)
    with pytest.raises(InputError, match="boundary: 'edge' is neither"):
        TrimapAccuracy(boundary="edge")(prediction, truth)


@pytest.mark.parametrize("name", METRICS)
def test_truth_of_8_bits_gives_the_same(name, monkeypatch):
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)
    prediction, truth = random_pair(9)
    value = METRICS[name]()(prediction, truth.to(torch.uint8))
    assert value.equal(METRICS[name]()(prediction, truth))


def test_fractions_of_nothing_are_nan():
    np.testing.assert_equal(fraction(np.array([0, 1]), np.array([0, 4])), [np.nan, 0.25])


@pytest.mark.parametrize("name", METRICS)
def test_states_of_two_processes_are_summed(name):
    prediction, truth = random_pair(8)
    there = METRICS[name]()
    there.update(prediction[:1], truth[:1])
    sums = iter([getattr(there, state) for state in there.counts._fields])
    here = METRICS[name](
        dist_sync_fn=lambda state, group: [state, next(sums)],
        distributed_available_fn=lambda: True,
    )
    here.update(prediction[1:], truth[1:])
    assert here.compute().equal(METRICS[name]()(prediction, truth))


def in_process(rank, rendezvous, folder):
    torch.set_num_threads(1)
    torch.distributed.init_process_group(
        "gloo", init_method=f"file://{rendezvous}", rank=rank, world_size=2
    )
    prediction, truth = random_pair(8)
    own = slice(0, 1) if rank == 0 else slice(1, 3)
    values = {}
    for name, make in METRICS.items():
        metric = make()
        metric.update(prediction[own], truth[own])
        values[name] = metric.compute()
    torch.save(values, folder / f"{rank}.pt")
    torch.distributed.destroy_process_group()


@pytest.mark.slow
def test_two_processes_have_the_values_of_one(tmp_path):
    torch.multiprocessing.spawn(in_process, (tmp_path / "rendezvous", tmp_path), nprocs=2)
    prediction, truth = random_pair(8)
    for rank in range(2):
        values = torch.load(tmp_path / f"{rank}.pt")
        for name, make in METRICS.items():
            assert values[name].equal(make()(prediction, truth)), name
