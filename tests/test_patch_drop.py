"""Patches dropped by their blur: against timm's own networks, SciPy and attention masks."""

import json

import numpy as np
import pytest
import scipy.ndimage
import timm
import torch
from timm.models import VisionTransformer

from blur_lightning.blur import BlurDistribution, blur_images
from blur_lightning.cli import main
from blur_lightning.errors import InputError
from blur_lightning.models import PatchDrop
from blur_lightning.records.published import tables
from blur_lightning.records.robustness import read_records

SIZE = {"img_size": 48, "depth": 2, "embed_dim": 32, "num_heads": 2, "num_classes": 7}
# One of each way in which timm's ViTs treat tokens that are no patch, and pool.
NETS = {
    "class token": ("vit_tiny_patch16_224", {}),
    "registers": ("vit_base_patch16_rope_reg1_gap_256", {"num_reg_tokens": 4}),
    "four registers, mean": ("vit_small_patch16_18x2_224", {"reg_tokens": 4, "global_pool": "avg"}),
    "attention pooling": ("vit_base_patch16_siglip_224", {}),
    "no class token": ("vit_small_patch16_224", {"class_token": False, "global_pool": "avg"}),
    "distilled": ("deit_tiny_distilled_patch16_224", {}),
    "rotary positions": ("vit_small_patch16_dinov3", {"global_pool": "token"}),
    "mixed rotary positions": ("vit_small_patch16_rope_mixed_224", {}),
}


@pytest.fixture(params=NETS)
def vit(request):
    return make(*NETS[request.param])


def make(name="vit_tiny_patch16_224", options=(), **more):
    torch.manual_seed(0)
    net = timm.create_model(name, **(SIZE | dict(options) | more)).eval()
    for part, weight in net.named_parameters():  # that begin with zeros, or almost
        if "gamma" in part or part == "head.weight":
            torch.nn.init.normal_(weight)
    return net


@pytest.fixture
def images():
    """Normalised images (5, 3, 48, 48), each blurred in random squares, from none to all."""
    values = np.random.default_rng(0).integers(256, size=(5, 3, 48, 48), dtype=np.uint8)
    sharp = torch.from_numpy(values)
    mix = BlurDistribution.parse("D6%0..100")
    blurred = blur_images(sharp, [mix.draw(seed=0, index=i) for i in range(5)])
    blurred[0] = sharp[0]
    return blurred.float() / 127.5 - 1


def grey(image, net):
    """An image in grey from 0 to 255, in float64."""
    mean, std = (np.array(net.pretrained_cfg[key])[:, None, None] for key in ("mean", "std"))
    rgb = 255 * (image.double().numpy() * std + mean)
    return 0.299 * rgb[0] + 0.587 * rgb[1] + 0.114 * rgb[2]


@torch.no_grad()
@pytest.mark.parametrize("mode", ["mask", "remove"])
def test_a_network_that_keeps_all_patches_is_timms_own_to_the_bit(vit, images, mode):
    expected = vit(images)
    assert expected.std() > 0.01
    torch.testing.assert_close(
        PatchDrop(vit, keep=1.0, mode=mode)(images), expected, rtol=0, atol=0
    )


@torch.no_grad()
@pytest.mark.parametrize("mode", ["mask", "remove"])
def test_an_image_gets_the_same_logits_alone_and_among_others(vit, images, mode):
    net = PatchDrop(vit, mode=mode, threshold=5000.0)
    counts = net.kept(images).sum(dim=1)
    assert len(counts.unique()) >= 3  # else nothing is mixed here
    alone = torch.cat([net(image[None]) for image in images])
    torch.testing.assert_close(net(images), alone, rtol=1e-5, atol=1e-6)


@torch.no_grad()
@pytest.mark.parametrize("name", ["class token", "rotary positions"])
def test_a_removed_token_is_one_that_no_other_attends_to(images, name):
    """With the class token as output: it sees what attention lets it see."""
    net = make(*NETS[name])
    drop = PatchDrop(net, keep=0.5, mode="remove")
    kept, logits = drop.kept(images), drop(images)
    seen = torch.cat([torch.ones(5, net.num_prefix_tokens, dtype=torch.bool), kept], dim=1)
    mask = torch.zeros(5, 1, 1, seen.shape[1]).masked_fill(~seen[:, None, None], -torch.inf)
    expected = net(images, attn_mask=mask.expand(-1, -1, seen.shape[1], -1))
    torch.testing.assert_close(logits, expected, rtol=1e-4, atol=1e-5)
    assert (logits - net(images)).abs().max() > 1e-3


@pytest.mark.parametrize("name", ["vit_tiny_patch16_224", "deit_tiny_patch16_224"])
def test_sharpness_is_the_variance_of_scipys_laplacian_of_each_patch(images, name):
    """These two are normalised by different means and deviations."""
    net = make(name)
    found = PatchDrop(net).sharpness(images)
    for image, row in zip(images, found, strict=True):
        whole = grey(image, net)
        patches = [whole[y : y + 16, x : x + 16] for y in (0, 16, 32) for x in (0, 16, 32)]
        # mirror: the edge itself is not repeated, as in OpenCV's default.
        expected = [scipy.ndimage.laplace(patch, mode="mirror").var() for patch in patches]
        np.testing.assert_allclose(row.numpy(), expected, rtol=1e-4, atol=1e-6)


def test_a_checkerboard_has_the_variance_of_its_closed_form():
    """Steps of 0 and 255 in turn: the Laplacian is +-4 * 255 everywhere."""
    board = torch.arange(48)[:, None].add(torch.arange(48)).remainder(2).float()
    images = (board.expand(1, 3, 48, 48) - 0.5) / 0.5
    variance = PatchDrop(make()).sharpness(images)
    torch.testing.assert_close(variance, torch.full((1, 9), (4 * 255.0) ** 2))


def test_blur_lowers_sharpness_and_the_named_side_is_dropped(images):
    sharp = images[:1]
    blurry = sharp.clone()
    blurry[..., :16, :32] = sharp[..., :16, :32].mean()  # the first two of nine patches
    first_two = torch.arange(9) < 2
    for drop, expected in (("blurry", ~first_two), ("sharp", first_two)):
        kept = PatchDrop(make(), drop=drop, threshold=100.0).kept(blurry)
        assert torch.equal(kept[0], expected)
    assert PatchDrop(make(), drop="random", threshold=100.0).kept(blurry).sum() == 7


def test_a_share_keeps_what_is_above_the_quantile(images):
    variance = PatchDrop(make()).sharpness(images)
    kept = PatchDrop(make(), keep=2 / 3).kept(images)
    assert torch.equal(kept, variance > variance.quantile(1 / 3, dim=1, keepdim=True))
    others = PatchDrop(make(), keep=1 / 3, drop="sharp").kept(images)
    assert torch.equal(others, ~kept)


def test_random_patches_depend_on_the_image_alone(images):
    net = PatchDrop(make(), keep=5 / 9, drop="random")
    kept = net.kept(images)
    assert kept.sum(dim=1).tolist() == [5] * 5
    assert len({tuple(row.tolist()) for row in kept}) > 1
    assert torch.equal(net.kept(images[2:]), kept[2:])
    assert torch.equal(net.kept(images.contiguous(memory_format=torch.channels_last)), kept)
    # Rounding in the normalisation leaves the 8 bits alone.
    assert torch.equal(net.kept(images * (1 + 1e-6)), kept)
    assert not torch.equal(kept, PatchDrop(make(), keep=5 / 9).kept(images))


def test_masked_patches_are_black():
    """A network of one patch a token; its input is caught before it."""
    net, seen = make(), []
    net.patch_embed.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    drop = PatchDrop(net, keep=4 / 9)
    images = torch.rand(2, 3, 48, 48, generator=torch.Generator().manual_seed(1)) + 0.01
    drop(images)
    kept, black = drop.kept(images), (seen[0] == -1).all(dim=1)  # (0 - 0.5) / 0.5
    patches = black.unflatten(2, (3, 16)).unflatten(1, (3, 16))
    patches = patches.permute(0, 1, 3, 2, 4).flatten(3).flatten(1, 2)
    assert torch.equal(patches.all(dim=2), ~kept)
    assert torch.equal(patches.any(dim=2), ~kept)


def test_an_image_keeps_its_best_patch_where_all_are_beyond_the_threshold(images):
    black = torch.full_like(images[:2], -1.0)
    net = PatchDrop(make(), threshold=1e9, mode="remove")
    assert net.kept(images).sum(dim=1).tolist() == [1] * 5
    assert torch.equal(net.kept(images).int().argmax(1), net.sharpness(images).argmax(1))
    assert torch.isfinite(net(black)).all()


def test_removal_has_gradients_and_leaves_the_network_as_it_was(images):
    net = make()
    expected = net(images)
    PatchDrop(net, keep=0.5, mode="remove")(images).sum().backward()
    assert net.blocks[0].attn.qkv.weight.grad.abs().sum() > 0
    torch.testing.assert_close(net(images), expected, rtol=0, atol=0)


def test_half_precision_is_scored_in_single(images):
    net = PatchDrop(make().bfloat16(), threshold=5000.0)
    assert net.sharpness(images.bfloat16()).dtype == torch.float32
    with torch.autocast("cpu", dtype=torch.bfloat16):
        mixed = net.sharpness(images)
    torch.testing.assert_close(mixed, net.sharpness(images), rtol=0, atol=0)
    assert net(images.bfloat16()).dtype == torch.bfloat16


@pytest.mark.parametrize(
    "keep, message",
    [(0.0, "keeps no patch"), (0.05, "keeps no patch; give at least 0.11"), (1.5, "more than")],
)
def test_a_share_that_keeps_nothing_or_too_much_is_refused(keep, message):
    with pytest.raises(InputError, match=rf"^model.net.keep: {keep} of 9 patches.*{message}"):
        PatchDrop(make(), keep=keep)


BASE = ["test", "--config", "experiments/base.yaml", "--config", "experiments/demo_scenes.yaml"]
BASE += ["--trainer.accelerator", "cpu", "--trainer.limit_test_batches", "1"]
BASE += ["--trainer.enable_progress_bar", "false", "--trainer.logger", "false"]
BASE += ["--data.batch_size", "4", "--model.conditions", "[sharp, G1..2%50]"]
BASE += ["--model.net", "blur_lightning.models.PatchDrop"]
VIT = ["--model.net.net", "timm.create_model", "--model.net.net.model_name", "test_vit"]
VIT += ["--model.net.net.dict_kwargs.num_classes", "10"]


def run(tmp_path, monkeypatch, request, *words):
    monkeypatch.chdir(request.config.rootpath)
    return main([*BASE, "--trainer.default_root_dir", str(tmp_path), *words])


def test_records_tell_which_patches_were_dropped(tmp_path, monkeypatch, request):
    crop = ["--data.capture.scale", "160", "--data.capture.crop", "160"]
    words = [*VIT, *crop, "--model.net.keep", "0.5", "--model.net.mode", "remove"]
    assert run(tmp_path, monkeypatch, request, *words) == 0
    names = {record.model for record in read_records(tmp_path)}
    assert names == {"test_vit (keep 50%, drop blurry, remove)"}


def test_records_name_a_finetuned_network_behind_its_patches(tmp_path, monkeypatch, request):
    sizes = {"img_size": 32, "patch_size": 16, "embed_dim": 8, "depth": 1, "num_heads": 1}
    net = VisionTransformer(**sizes, num_classes=10)
    weights = {f"net.{name}": tensor for name, tensor in net.state_dict().items()}
    checkpoint = {"state_dict": weights, "trained_on": "sharp+D2", "epoch": 0}
    torch.save(checkpoint, tmp_path / "last.ckpt")
    arguments = {"init_args": sizes | {"num_classes": 10}}
    inner = json.dumps({"class_path": "timm.models.VisionTransformer"} | arguments)
    words = ["--model.net.net", "blur_lightning.models.finetuned", "--model.net.net.net", inner]
    words += ["--model.net.net.checkpoint", str(tmp_path / "last.ckpt"), "--model.net.keep", "0.5"]
    crop = ["--data.capture.scale", "32", "--data.capture.crop", "32"]
    assert run(tmp_path / "run", monkeypatch, request, *words, *crop) == 0
    (name,) = {(record.model, record.trained_on) for record in read_records(tmp_path / "run")}
    assert name == ("VisionTransformer (keep 50%, drop blurry, mask)", "sharp+D2")


@pytest.mark.parametrize("drop", ["blurry", "sharp"])
def test_the_papers_cells_name_the_network_as_records_do(drop):
    notes = [cell.note for cell in tables()["kim_table5"]]
    assert PatchDrop(make(), drop=drop).remark in notes


@pytest.mark.parametrize(
    "words, message",
    [
        (
            [*VIT, "--model.net.keep", "0.001"],
            "model.net.keep: 0.001 of 100 patches keeps no patch",
        ),
        (
            ["--model.net.net", "timm.create_model", "--model.net.net.model_name", "test_resnet"],
            "model.net.net: ResNet is neither a VisionTransformer nor an Eva of timm",
        ),
        (
            [*VIT, "--data.capture.crop", "60"],
            "images of 60 x 60 pixels are no whole patches of 16 x 16",
        ),
    ],
)
def test_a_mistake_is_one_line(tmp_path, monkeypatch, request, capsys, words, message):
    assert run(tmp_path, monkeypatch, request, *words) == 2
    lines = capsys.readouterr().err.strip().splitlines()
    assert message in lines[-1]
    assert lines[-1].startswith("error: ")
