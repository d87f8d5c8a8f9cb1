"""JPEGs that the device decodes, here the processor, beside those that workers decode."""

import io
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image, ImageFilter

from blur_lightning.blur import Capture
from blur_lightning.cli import main
from blur_lightning.data import ImageNetDataModule
from blur_lightning.data.batches import collate_readable
from blur_lightning.data.device_decoding import Encoded, EncodedDataset, decoded, plain_jpeg
from blur_lightning.data.windows import Subset, WindowDataset

CPU = torch.device("cpu")


def picture(number, size=(70, 52)):
    """Smooth: JPEG and a resize leave it as it is, but for some levels."""
    noise = np.random.default_rng(number).integers(0, 256, size=(*size[::-1], 3), dtype=np.uint8)
    return Image.fromarray(noise).filter(ImageFilter.GaussianBlur(3))


@pytest.fixture
def root(tmp_path):
    for number in range(8):
        folder = tmp_path / f"photos/train/{'ab'[number % 2]}"
        folder.mkdir(parents=True, exist_ok=True)
        size = (70 + number, 52)
        picture(number, size).save(folder / f"{number}.jpg", quality=95, subsampling=0)
    picture(8).save(tmp_path / "photos/train/a/8.png")
    picture(9).convert("L").save(tmp_path / "photos/train/a/9.jpg", quality=95)
    turned = Image.Exif()
    turned[0x0112] = 6
    picture(10).save(tmp_path / "photos/train/a/10.jpg", exif=turned, quality=95)
    return tmp_path / "photos"


def batches(root, capture, **options):
    """A batch of all images as workers decode them, and as the device does."""
    data = ImageNetDataModule(str(root), classes="folders", capture=capture, decode_on_device=True)
    assert data.training_dataset is EncodedDataset
    source = data.sources["train"] = Subset(data.source("train"), range(11))
    keys = [(3, index) for index in range(11)]
    ours, late = (
        collate_readable([kind(source, capture, seed=1, **options)[key] for key in keys])
        for kind in (WindowDataset, EncodedDataset)
    )
    data.trainer = SimpleNamespace(lightning_module=None)
    return ours, late, data


@pytest.mark.parametrize("border", ["reflect", "replicate", "constant"])
@pytest.mark.parametrize(("scale", "margin"), [(48, 3), ((36, 48), 9)])
def test_windows_are_those_that_workers_cut(root, border, scale, margin):
    capture = Capture(canonical=48, scale=scale, crop=32, border=border)
    ours, late, data = batches(root, capture, margin=margin, jitter=(48, 60))
    waiting = [isinstance(image, Encoded) for image in late["image"]]
    assert waiting.count(False) == 2  # a PNG, and a photograph that lies on its side
    made = data.transfer_batch_to_device(late, CPU, 0)
    for name in ("index", "label", "epoch", "scale"):
        assert torch.equal(made[name], ours[name])
    difference = (made["image"].int() - ours["image"].int()).abs()
    assert made["image"].dtype == torch.uint8
    assert difference.max() <= 2
    assert difference.float().mean() < 0.3
    assert made["unreadable"] == {}


def test_a_damaged_jpeg_is_left_out_and_named(root):
    file = root / "train/b/3.jpg"
    file.write_bytes(file.read_bytes()[:700])
    capture = Capture(canonical=48, scale=48, crop=32)
    _, late, data = batches(root, capture, margin=0, jitter=(48,))
    made = data.transfer_batch_to_device(late, CPU, 0)
    place = data.sources["train"].names.index("train/b/3.jpg")
    assert made["unreadable"].keys() == {place}
    assert made["unreadable"][place].startswith("train/b/3.jpg: cannot be read (")
    assert made["index"].tolist() == [index for index in range(11) if index != place]
    assert len(made["image"]) == len(made["label"]) == 10


@pytest.mark.parametrize("size", [(600, 60), (20, 90)])
def test_a_strip_is_continued_at_its_edges_as_workers_do(root, size):
    picture(3, size).save(root / "train/b/3.jpg", quality=95, subsampling=0)
    capture = Capture(canonical=48, scale=48, crop=32, measure="geometric_mean")
    ours, late, data = batches(root, capture, margin=9, jitter=(48, 12))
    made = data.transfer_batch_to_device(late, CPU, 0)
    assert (made["image"].int() - ours["image"].int()).abs().max() <= 2


def test_what_the_device_refuses_the_processor_decodes(root, monkeypatch):
    def refuse(content, *arguments, **options):
        raise RuntimeError("nvjpeg: not supported")

    capture = Capture(canonical=48, scale=48, crop=32)
    ours, late, data = batches(root, capture, margin=0, jitter=(48,))
    monkeypatch.setattr("torchvision.io.decode_jpeg", refuse)
    made = data.transfer_batch_to_device(late, CPU, 0)
    assert (made["image"].int() - ours["image"].int()).abs().max() <= 2

    def fail(content, *arguments, **options):
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr("torchvision.io.decode_jpeg", fail)
    with pytest.raises(torch.OutOfMemoryError):
        data.transfer_batch_to_device(batches(root, capture, margin=0, jitter=(48,))[1], CPU, 0)


def test_a_batch_of_damaged_jpegs_alone_has_no_image():
    broken = Encoded(torch.zeros(9, dtype=torch.uint8), (48, 48), 32, 0, (0.5, 0.5), False)
    windows, reasons = decoded([broken, broken], CPU, Capture(canonical=48, scale=48, crop=32))
    assert windows is None
    assert reasons.keys() == {0, 1}


def test_what_is_no_plain_jpeg_stays_with_the_workers():
    def stored(image, kind="JPEG", **options):
        file = io.BytesIO()
        image.save(file, kind, **options)
        return file.getvalue()

    assert plain_jpeg(stored(picture(0))) == (52, 70)
    assert plain_jpeg(stored(picture(0).convert("L"))) == (52, 70)
    assert plain_jpeg(stored(picture(0).convert("CMYK"))) is None
    assert plain_jpeg(stored(picture(0), "PNG")) is None
    assert plain_jpeg(b"") is None


def test_tests_and_validation_decode_as_ever(root):
    capture = Capture(canonical=48, scale=48, crop=32)
    data = ImageNetDataModule(str(root), classes="folders", capture=capture, decode_on_device=True)
    dataset = EncodedDataset(data.source("train"), capture, margin=0)
    assert isinstance(dataset[0, 0]["image"], torch.Tensor)


def test_a_fit_decodes_on_the_device(root, tmp_path, monkeypatch):
    made = []
    monkeypatch.setattr(
        "blur_lightning.data.imagenet.decoded",
        lambda *arguments: made.append(decoded(*arguments)) or made[-1],
    )
    (root / "val").symlink_to(root / "train")
    words = ["fit", "--model", "ClassificationTask", "--model.net", "nets.Contrast"]
    words += ["--model.net.num_classes", "2", "--model.optimizer", "torch.optim.SGD"]
    words += ["--model.optimizer.lr", "0.1", "--data", "ImageNetDataModule"]
    words += ["--data.root", str(root), "--data.classes", "folders", "--data.blur", "sharp+D2"]
    words += ["--data.capture", '{"canonical": 48, "scale": 48, "crop": 32}']
    words += ["--data.decode_on_device", "true", "--data.num_workers", "2"]
    words += ["--data.batch_size", "4", "--trainer.accelerator", "cpu", "--trainer.logger", "false"]
    words += ["--trainer.max_epochs", "2", "--trainer.default_root_dir", str(tmp_path / "run")]
    assert main(words) == 0
    assert (tmp_path / "run/robustness.csv").exists()
    assert [len(windows) for windows, _ in made] == [4, 4, 4, 4]


@pytest.mark.gpu
def test_cuda_decodes_what_the_processor_does(root):
    capture = Capture(canonical=48, scale=48, crop=32)
    ours, late, data = batches(root, capture, margin=3, jitter=(48, 60))
    made = data.transfer_batch_to_device(late, torch.device("cuda"), 0)
    assert made["image"].device.type == "cuda"
    difference = (made["image"].cpu().int() - ours["image"].int()).abs()
    assert difference.float().mean() < 2
