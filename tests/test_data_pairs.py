"""data/pairs.py; pairs.py, of runs, has tests/test_pairs.py."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from small_pairs import picture, write, write_folders, write_gopro
from torch import nn

from blur_lightning.blur import Blur, Capture
from blur_lightning.data import PairsDataModule
from blur_lightning.errors import InputError

SMALL = Capture(16, 16, 16, measure="native")


class Restorer(nn.Module):
    needs_sharp, conditions = True, ()
    mean, std, dtype = (0.0,) * 3, (1.0,) * 3, torch.float32


def module(root, stage="fit", **options):
    data = PairsDataModule(
        str(root), **{"capture": SMALL, "num_workers": 0, "seed": 3, "batch_size": 2} | options
    )
    data.trainer = SimpleNamespace(
        training=stage == "fit",
        validating=False,
        testing=stage == "test",
        predicting=False,
        lightning_module=Restorer(),
        global_rank=0,
        world_size=1,
        current_epoch=0,
        max_epochs=1,
        limit_test_batches=1.0,
        limit_predict_batches=1.0,
    )
    data.setup(stage)
    return data


def batches(data, epoch=0):
    loader = data.train_dataloader()
    loader.sampler.set_epoch(epoch)
    return [data.on_after_batch_transfer(batch, 0) for batch in loader]


def test_crops_of_a_pair_are_the_same_and_keyed_by_seed_epoch_and_index(tmp_path):
    write_gopro(tmp_path)
    first = batches(module(tmp_path, layout="gopro"))
    for batch in first:
        assert batch["image"].shape == batch["sharp"].shape == (2, 3, 16, 16)
        torch.testing.assert_close(batch["image"], batch["sharp"] + 10 / 255)
    sharp = torch.cat([batch["sharp"] for batch in first])
    order = torch.cat([batch["index"] for batch in first])
    one_by_one = batches(module(tmp_path, layout="gopro", batch_size=1))
    assert torch.equal(torch.cat([batch["sharp"] for batch in one_by_one]), sharp)
    later = batches(module(tmp_path, layout="gopro"), epoch=1)
    again = torch.cat([batch["sharp"] for batch in later])[
        torch.cat([b["index"] for b in later]).argsort()
    ]
    assert not torch.equal(again, sharp[order.argsort()])


def test_a_crop_is_a_window_of_the_file_mirrored_or_not(tmp_path):
    write_folders(tmp_path)
    data, seen = module(tmp_path, batch_size=1), set()
    sequence = data.sources["train"].names[0].split("/")[1]
    whole = picture(1 + "abc".index(sequence)).transpose(2, 0, 1)
    windows = np.lib.stride_tricks.sliding_window_view(whole, (3, 16, 16))[0]
    for epoch in range(8):
        (batch,) = batches(data, epoch)
        crop = (batch["sharp"][0] * 255).round().to(torch.uint8).numpy()
        for mirrored, candidate in ((False, crop), (True, crop[..., ::-1])):
            if (windows == candidate).all((2, 3, 4)).any():
                seen.add(mirrored)
    assert seen == {False, True}


def test_tests_see_whole_images_at_the_size_of_their_files(tmp_path):
    write_gopro(tmp_path)
    data = module(tmp_path, "test", layout="gopro")
    (batch,) = data.test_dataloader()
    batch = data.on_after_batch_transfer(batch, 0)
    assert batch["image"].shape == (2, 3, 30, 44)
    assert data.blurred(batch, [Blur("sharp")] * 2).shape == (2, 3, 30, 44)
    difference = data.blurred(batch, [Blur("sharp")] * 2) - data.sharp(batch)
    torch.testing.assert_close(difference, torch.full_like(difference, 10 / 255))


@pytest.mark.parametrize("blur", ["D2", "H5", "M5@30"])
def test_sharp_images_are_blurred_on_the_device(tmp_path, blur):
    """By the kernels of the grammar: the partner is the same window before its blur."""
    for i in range(3):
        write(tmp_path / f"{i}.png", i)
    data = module(tmp_path, layout="sharp", blur=blur, batch_size=1)
    plain = module(tmp_path, layout="sharp", batch_size=1)
    (blurry,), (sharp,) = batches(data), batches(plain)
    assert torch.equal(sharp["image"], sharp["sharp"])
    assert torch.equal(blurry["sharp"], sharp["sharp"])
    assert str(blurry["blur"][0].family) != "sharp"
    roughness = [image.diff(dim=-1).abs().mean() for image in (blurry["image"], sharp["image"])]
    assert roughness[0] < 0.6 * roughness[1]
    assert data.training_mix == blur


def test_a_network_that_restores_nothing_gets_no_sharp_images_of_a_folder(tmp_path):
    for i in range(3):
        write(tmp_path / f"{i}.png", i)
    data = module(tmp_path, layout="sharp", batch_size=1)
    data.trainer.lightning_module.needs_sharp = False
    assert all("sharp" not in batch for batch in batches(data))


def test_records_name_the_blur_of_pairs(tmp_path):
    write_gopro(tmp_path)
    details = "crop whole, measure native"
    assert module(tmp_path, layout="gopro").dataset == f"gopro (blur, {details})"
    gamma = module(tmp_path, layout="gopro", variant="blur_gamma", blur="D2")
    assert gamma.dataset == f"gopro (blur_gamma, {details})"
    assert gamma.training_mix == "gopro (blur_gamma, and D2)"
    assert gamma.provenance()["pairs"]["variant"] == "blur_gamma"
    assert module(tmp_path, layout="wild").dataset == f"{tmp_path.name} ({details})"
    assert module(tmp_path, layout="wild").training_mix == tmp_path.name
    write_folders(tmp_path / "mine", count=2)
    assert module(tmp_path / "mine", "test").dataset == f"mine ({details})"


def test_sharp_images_of_pairs_take_a_blur_in_place_of_their_own(tmp_path):
    """The blurry partners of these pairs are ten levels brighter; a kernel brightens nothing."""
    write_gopro(tmp_path)
    data = module(tmp_path, layout="gopro", synthetic_blur="H5")
    assert data.training_mix == "gopro (sharp, and H5)"
    assert data.provenance()["pairs"]["synthetic"]
    for batch in batches(data):
        assert {str(blur) for blur in batch["blur"]} == {"H5"}
        difference = batch["image"] - batch["sharp"]
        assert difference.abs().max() > 0.1
        assert difference.mean().abs() < 4 / 255
    tested = module(tmp_path, "test", layout="gopro", synthetic_blur="H5")
    (batch,) = tested.test_dataloader()
    batch = tested.on_after_batch_transfer(batch, 0)
    difference = tested.blurred(batch, [Blur("sharp")] * 2) - tested.sharp(batch)
    torch.testing.assert_close(difference, torch.full_like(difference, 10 / 255))
    with pytest.raises(InputError, match=r"data.synthetic_blur: takes the place of data.blur"):
        module(tmp_path, layout="gopro", synthetic_blur="H5", blur="D2")


def test_partners_of_another_size_are_named_or_left_out(tmp_path):
    write_gopro(tmp_path)
    write(tmp_path / "test/d/sharp/0.png", 1, shape=(30, 40))
    message = r"d/sharp/0.png: 40x30 pixels, but its blurry partner .*d/blur/0.png has 44x30"
    data = module(tmp_path, "test", layout="gopro")
    with pytest.raises(InputError, match=message):
        data.on_after_batch_transfer(next(iter(data.test_dataloader())), 0)
    data = module(tmp_path, "test", layout="gopro", skip_unreadable=True)
    kept = data.on_after_batch_transfer(next(iter(data.test_dataloader())), 0)
    assert kept["index"].tolist() == [1]
    assert len(data.provenance()["unreadable"]) == 1


def test_the_fingerprint_covers_both_images(tmp_path):
    write_gopro(tmp_path)
    before = module(tmp_path, "test", layout="gopro").provenance()["fingerprint"]
    write(tmp_path / "test/d/sharp/0.png", 1, shape=(30, 43))
    assert module(tmp_path, "test", layout="gopro").provenance()["fingerprint"] != before


def test_native_images_have_one_scale():
    with pytest.raises(InputError, match=r"capture.measure: native images keep their size; set"):
        Capture(384, 256, 224, measure="native")
    assert SMALL.scale_name == "native"


def test_a_share_is_a_share():
    with pytest.raises(InputError, match=r"data.held_out: 1.0 is not between 0 and 1"):
        PairsDataModule("x", held_out=1.0)
