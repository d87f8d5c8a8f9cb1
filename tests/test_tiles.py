import pytest
import torch
import torch.nn.functional as F

from blur_lightning.tiles import by_tiles, extended


@pytest.fixture
def image():
    return torch.rand(2, 3, 61, 47, generator=torch.Generator().manual_seed(0))


def mean_of_neighbours(images):
    """Draws on 3 pixels to each side, and on zeros beyond the image."""
    return F.avg_pool2d(images, 7, stride=1, padding=3)


@pytest.mark.parametrize("tile", [13, 16, 40, 100])
def test_tiles_that_overlap_enough_change_nothing(image, tile):
    whole = mean_of_neighbours(image)
    assert torch.equal(by_tiles(mean_of_neighbours, image, tile=tile, overlap=3), whole)


def test_tiles_that_overlap_too_little_show(image):
    whole = mean_of_neighbours(image)
    assert not torch.allclose(by_tiles(mean_of_neighbours, image, tile=20, overlap=2), whole)


def test_no_tile_is_larger_than_allowed_and_sides_are_multiples(image):
    sizes = []

    def shape(images):
        sizes.extend(images.shape[-2:])
        return images.argmax(1)

    labels = by_tiles(shape, image, tile=24, overlap=4, multiple=8)
    assert torch.equal(labels, image.argmax(1))
    assert max(sizes) <= 24
    assert {size % 8 for size in sizes} == {0}


def test_padding_repeats_the_last_row_and_column(image):
    seen = []

    def note(images):
        seen.append(images)
        return images

    assert torch.equal(by_tiles(note, image, tile=64, overlap=0, multiple=32), image)
    (padded,) = seen
    assert padded.shape == (2, 3, 64, 64)
    assert torch.equal(padded[..., :61, 47:], image[..., -1:].expand(-1, -1, -1, 17))


def test_tiles_of_a_strided_function_see_its_grid(image):
    """Means of squares of 4 pixels, put back on them: tiles that begin elsewhere would show."""

    def squares(images):
        return F.interpolate(F.avg_pool2d(images, 4), scale_factor=4.0)

    whole = by_tiles(squares, image, tile=64, overlap=0, multiple=4)
    assert torch.equal(by_tiles(squares, image, tile=28, overlap=8, multiple=4), whole)


def test_tiles_must_have_room_for_a_multiple(image):
    with pytest.raises(ValueError, match="leave no 16 between"):
        by_tiles(mean_of_neighbours, image, tile=20, overlap=4, multiple=16)


def test_small_images_are_extended_to_the_least_side():
    image = torch.arange(6.0).view(1, 1, 2, 3)
    assert extended(image, 2, least=8).shape[2:] == (8, 8)
    assert extended(image, 2, least=1)[0, 0].tolist() == [[0, 1, 2, 2], [3, 4, 5, 5]]
    assert extended(image, 1) is image


def test_bytes_stay_bytes(image):
    bytes_ = (image * 255).to(torch.uint8)
    assert torch.equal(by_tiles(lambda x: x, bytes_, tile=20, overlap=1, multiple=4), bytes_)


@pytest.mark.parametrize("tile, overlap", [(8, 4), (8, -1), (0, 0)])
def test_tiles_must_have_a_middle(image, tile, overlap):
    with pytest.raises(ValueError, match="leave nothing"):
        by_tiles(mean_of_neighbours, image, tile=tile, overlap=overlap)


def test_a_function_must_keep_the_size(image):
    with pytest.raises(ValueError, match="gives"):
        by_tiles(lambda images: images[..., ::2], image, tile=64, overlap=0)
