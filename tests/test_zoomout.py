"""Zoomout against the map of all channels, made as its source makes it, and its estimates."""

import timm
import torch
import torch.nn.functional as F
from jsonargparse import ArgumentParser
from lightning import LightningModule, Trainer
from pytest import approx, fixture, mark, raises
from timm.models.vgg import VGG
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.data import DataLoader

from blur_lightning.errors import InputError
from blur_lightning.models import Dense, Zoomout, finetuned

WIDTHS = [2, 2, "M", 3, 3, "M", 4, 4, 4, "M", 5, 5, 5, "M", 6, 6, 6, "M"]
CHANNELS = 2 * 2 + 2 * 3 + 3 * 4 + 3 * 5 + 3 * 6 + 4096


def thin_vgg(**kwargs):
    """VGG-16 of timm with few channels, but 4096 for the whole image."""
    torch.manual_seed(0)
    return VGG(WIDTHS, num_classes=10, mlp_ratio=1 / 256, **kwargs)


@fixture
def net():
    """Zoomout of four classes with a normalisation that is no identity."""
    net = Zoomout(4, net=thin_vgg())
    generator = torch.Generator().manual_seed(1)
    net.feature_mean.copy_(torch.rand(CHANNELS, generator=generator))
    net.feature_std.copy_(torch.rand(CHANNELS, generator=generator) + 0.5)
    net.normalized.fill_(True)
    return net.double().eval()


def noise(*shape, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=generator, dtype=torch.float64)


def whole_map(net, images):
    """All channels at stride 4, by max-poolings of 1 x 1 and repetition."""
    height, width = images.shape[2] // 4, images.shape[3] // 4
    maps = []
    features = images
    for layer in net.net.features:
        features = layer(features)
        if isinstance(layer, nn.ReLU):
            stride = images.shape[2] // features.shape[2]
            if stride < 4:
                maps.append(F.max_pool2d(features, 1, stride=4 // stride))
            else:
                factor = stride // 4
                maps.append(features.repeat_interleave(factor, 2).repeat_interleave(factor, 3))
    rows, columns = (max(0, 7 - side) for side in features.shape[2:])
    padding = (columns // 2, columns - columns // 2, rows // 2, rows - rows // 2)
    whole = net.net.pre_logits(F.pad(features, padding)).amax((2, 3), keepdim=True)
    return torch.cat([*maps, whole.expand(-1, -1, height, width)], dim=1)


def naive_logits(net, images):
    column = (slice(None), None, None)
    features = (whole_map(net, images) - net.feature_mean[column]) / net.feature_std[column]
    return net.upsampling(net.head(features))


@mark.parametrize("size", [(32, 48), (256, 32)])
def test_logits_and_gradients_are_those_of_the_whole_map(net, size):
    images = noise(2, 3, *size).requires_grad_()
    weights = noise(2, 4, *size, seed=1)
    inputs = [images, *net.parameters()]
    logits, expected = net(images), naive_logits(net, images)
    torch.testing.assert_close(logits, expected, rtol=1e-9, atol=1e-12)
    gradients = torch.autograd.grad((logits * weights).sum(), inputs)
    references = torch.autograd.grad((expected * weights).sum(), inputs)
    for gradient, reference in zip(gradients, references, strict=True):
        torch.testing.assert_close(gradient, reference, rtol=1e-7, atol=1e-9)
        assert gradient.any()


def test_single_precision_is_near():
    net = Zoomout(4, net=thin_vgg()).eval()
    net.estimate_normalization([noise(4, 3, 64, 64).float()])
    images = noise(2, 3, 64, 64, seed=1)
    logits = net(images.float())
    torch.testing.assert_close(
        logits.double(), naive_logits(net.double(), images), rtol=1e-4, atol=1e-5
    )


def test_the_network_of_the_source_has_its_channels_and_weights():
    with torch.device("meta"):
        net = Zoomout(pretrained=False)
    convolutions = [layer for layer in net.net.features if isinstance(layer, nn.Conv2d)]
    assert len(convolutions) == 13
    assert sum(layer.out_channels for layer in convolutions) == 4224
    assert net.feature_mean.shape == net.feature_std.shape == (8320,)
    assert [layer.weight.shape[:2] for layer in net.head[::3]] == [
        (1000, 8320),
        (1000, 1000),
        (21, 1000),
    ]
    head = sum(weight.numel() for weight in net.head.parameters())
    assert head == 8320 * 1000 + 1000 + 1000 * 1000 + 1000 + 1000 * 21 + 21 == 9_343_021
    assert [w.shape for w in net.upsampling.parameters()] == [(21, 21, 8, 8)]
    # All of VGG-16 but its classifier: 138,357,544 - 4,097,000.
    assert sum(weight.numel() for weight in net.net.parameters()) == 134_260_544
    assert [layer.p for layer in (net.net.pre_logits.drop, *net.head[2::3])] == [0.5, 0.5, 0.5]
    assert net.pretrained_cfg["mean"] == (0.485, 0.456, 0.406)
    assert net.pretrained_cfg["architecture"] == "zoomout_vgg16"


class Largest(TorchDispatchMode):
    """Notes the largest tensor that any operation makes."""

    values = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        made = func(*args, **kwargs or {})
        tensors = made if isinstance(made, tuple | list) else [made]
        sizes = [tensor.untyped_storage().nbytes() // 8 for tensor in tensors if tensor is not None]
        self.values = max([self.values, *sizes])
        return made


def test_the_map_of_all_channels_is_never_made(net):
    images = noise(1, 3, 128, 192)
    whole, weights = CHANNELS * 32 * 48, net.head[0].weight.numel()
    with Largest() as largest:
        net(images).sum().backward()
    assert largest.values == weights < whole
    with Largest() as largest:
        naive_logits(net, images)
    assert largest.values >= whole


@mark.parametrize("size", [(37, 31), (16, 50), (1, 65), (48, 32)])
def test_images_of_any_size_are_extended_by_their_last_pixels(net, size):
    images = noise(2, 3, *size)
    rows = torch.arange({37: 48, 16: 32, 1: 32, 48: 48}[size[0]]).clamp(max=size[0] - 1)
    columns = torch.arange({31: 32, 50: 64, 65: 80, 32: 32}[size[1]]).clamp(max=size[1] - 1)
    logits = net(images)
    assert logits.shape == (2, 4, *size)
    expected = naive_logits(net, images[:, :, rows][..., columns])
    torch.testing.assert_close(logits, expected[:, :, : size[0], : size[1]])


@mark.parametrize(("size", "seen"), [((50, 70), (32, 48)), ((70, 50), (48, 32))])
def test_images_are_resized_by_their_orientation_and_scores_back(net, size, seen):
    images = noise(2, 3, *size)
    resized = F.interpolate(images, seen, mode="bilinear", antialias=True)
    expected = F.interpolate(naive_logits(net, resized), size, mode="bilinear")
    net.input_size = (32, 48)
    torch.testing.assert_close(net(images), expected)


def test_scores_are_at_first_upsampled_by_bilinear_interpolation(net):
    scores = noise(1, 4, 9, 7)
    upsampled = net.upsampling(scores)
    expected = F.interpolate(scores, scale_factor=4, mode="bilinear")
    assert upsampled.shape == expected.shape
    inside = (..., slice(2, -2), slice(2, -2))  # outside there are zeros, not the last scores
    torch.testing.assert_close(upsampled[inside], expected[inside], rtol=1e-6, atol=1e-6)


def test_normalization_is_that_of_all_positions_of_all_images():
    net = Zoomout(4, net=thin_vgg(drop_rate=0.5)).double().train()
    batches = [
        noise(3, 3, 64, 32),
        noise(1, 3, 48, 48, seed=1) * 3 + 1,
        noise(2, 3, 32, 32, seed=2),
    ]
    net.estimate_normalization(iter(batches))
    assert net.training and net.normalized
    net.eval()  # the estimate is without dropout
    with torch.no_grad():
        values = torch.cat([whole_map(net, b).transpose(0, 1).flatten(1) for b in batches], dim=1)
    std, mean = torch.std_mean(values, dim=1, correction=0)
    varies = values.amax(1) > values.amin(1)
    assert 0 < varies.sum() < CHANNELS  # some are dead in so small a network
    torch.testing.assert_close(net.feature_mean, mean, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(net.feature_std[varies], std[varies], rtol=1e-4, atol=1e-6)
    assert (net.feature_std[~varies] == 1).all()


def test_a_large_mean_does_not_drown_the_spread():
    net = Zoomout(4, net=thin_vgg())
    with torch.no_grad():
        net.net.features[28].bias += 1e4  # the last convolution: sums of squares lose all digits
    net.estimate_normalization(noise(1, 3, 64, 64, seed=seed).float() for seed in range(8))
    single = net.feature_std[CHANNELS - 4096 - 6 : -4096].clone()
    net.double().estimate_normalization(noise(1, 3, 64, 64, seed=seed) for seed in range(8))
    double = net.feature_std[CHANNELS - 4096 - 6 : -4096]
    assert (double < 100).all()
    assert single.tolist() == approx(double.tolist(), rel=1e-2)


def test_the_estimate_reads_as_many_images_as_it_is_told():
    net = Zoomout(4, net=thin_vgg(), normalization_images=3)
    batches = iter(noise(2, 3, 32, 32, seed=seed).float() for seed in range(5))
    net.estimate_normalization(batches)
    assert len(list(batches)) == 3
    first = net.feature_mean.clone()
    net.normalization_images = None
    net.estimate_normalization(noise(2, 3, 32, 32, seed=seed).float() for seed in range(5))
    assert not torch.equal(net.feature_mean, first)


def test_no_image_has_no_normalization():
    with raises(InputError, match="no image"):
        Zoomout(4, net=thin_vgg()).estimate_normalization([])


def test_training_waits_for_the_normalization():
    net = Zoomout(4, net=thin_vgg())
    images = noise(1, 3, 32, 32).float()
    with raises(RuntimeError, match="estimate_normalization"):
        net.train()(images)
    assert net.eval()(images).shape == (1, 4, 32, 32)


class Segmentation(LightningModule):
    """Estimates the normalisation before training, as a task has to."""

    def __init__(self):
        super().__init__()
        self.net = Zoomout(4, net=thin_vgg())
        self.passes = 0

    def forward(self, images):
        return self.net(images)

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.0)  # so few images leave deviations near 0

    def on_train_start(self):
        if not getattr(self.net, "normalized", True):
            self.passes += 1
            self.net.estimate_normalization(self.trainer.train_dataloader)

    def on_save_checkpoint(self, checkpoint):
        checkpoint["trained_on"] = "sharp"

    def training_step(self, images, batch_idx):
        return self(images).square().mean()

    def validation_step(self, images, batch_idx):
        assert self(images).isfinite().all()


@mark.filterwarnings("ignore:.*LeafSpec")  # Lightning's own
@mark.filterwarnings("ignore:.*does not have many workers")
@mark.filterwarnings("ignore:.*number of training batches")
def test_fit_estimates_once_and_its_checkpoint_keeps_the_normalization(tmp_path):
    loader = DataLoader(noise(4, 3, 32, 32).float(), batch_size=2)

    def trained(epochs, checkpoint=None):
        task = Segmentation()
        trainer = Trainer(
            accelerator="cpu",
            max_epochs=epochs,
            logger=False,
            enable_progress_bar=False,
            enable_model_summary=False,
            enable_checkpointing=False,
            default_root_dir=tmp_path,
        )
        trainer.fit(task, loader, loader, ckpt_path=checkpoint)
        trainer.save_checkpoint(tmp_path / "last.ckpt")
        return task

    first = trained(1)
    assert first.passes == 1 and first.net.normalized
    second = trained(2, tmp_path / "last.ckpt")
    assert second.passes == 0
    third = finetuned(Zoomout(4, net=thin_vgg()), str(tmp_path / "last.ckpt"))
    assert third.normalized and third.trained_on == "sharp"
    assert torch.equal(first.net.feature_std, third.feature_std)
    assert first.net.feature_std.ne(1).any()


def test_the_state_loads_as_weights_only(net, tmp_path):
    torch.save(net.state_dict(), tmp_path / "weights.pt")
    other = Zoomout(4, net=thin_vgg()).double().eval()
    images = noise(1, 3, 32, 32)
    assert not torch.equal(other(images), net(images))
    other.load_state_dict(torch.load(tmp_path / "weights.pt", weights_only=True))
    assert torch.equal(other(images), net(images))


def test_yaml_names_the_network_and_its_vgg():
    parser = ArgumentParser(exit_on_error=False)
    parser.add_argument("--net", type=nn.Module)
    inner = {
        "class_path": "timm.create_model",
        "init_args": {"model_name": "vgg16_bn", "pretrained": False},
        "dict_kwargs": {"pretrained_cfg_overlay": {"mean": [0.4, 0.5, 0.6]}},
    }
    arguments = {"num_classes": 9, "net": inner, "input_size": [256, 336]}
    spec = {"class_path": "blur_lightning.models.Zoomout", "init_args": arguments}
    with torch.device("meta"):
        made = parser.instantiate(parser.parse_object({"net": spec})).net
    assert made.input_size == (256, 336)
    assert made.pretrained_cfg["mean"] == [0.4, 0.5, 0.6]
    assert made.feature_mean.shape == (8320,)


def test_other_networks_are_refused():
    with raises(InputError, match="ResNet is no VGG of timm"):
        Zoomout(net=timm.create_model("test_resnet"))
    with raises(InputError, match="Dense is no VGG of timm"):
        Zoomout(net=Dense(thin_vgg()))


def test_sizes_and_numbers_below_one_are_refused():
    with raises(InputError, match=r"input_size: \(256, 0\)"):
        Zoomout(net=thin_vgg(), input_size=(256, 0))
    with raises(InputError, match="normalization_images: 0"):
        Zoomout(net=thin_vgg(), normalization_images=0)
