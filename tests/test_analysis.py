"""analyze invariance, through the command line: against timm's own feature maps."""

import csv
import json
import re

import numpy as np
import pytest
import timm
import torch
from nets import MeanColour

from blur_lightning.cli import main
from blur_lightning.data import ScenesDataModule
from blur_lightning.models import PatchDrop
from blur_lightning.tasks import ClassificationTask
from blur_lightning.trainer import Trainer

pytestmark = pytest.mark.filterwarnings("ignore:.*LeafSpec", "ignore:.*does not have many workers")
BASE = ["analyze", "invariance", "--config", "experiments/base.yaml"]
BASE += ["--config", "experiments/demo_scenes.yaml", "--trainer.accelerator", "cpu"]
BASE += ["--trainer.enable_progress_bar", "false", "--data.test_count", "7"]
BASE += ["--model.conditions", "[sharp, D2, D6]"]
STAGES = ["act1", "layer1", "layer2", "layer3", "layer4"]


@pytest.fixture
def analyze(tmp_path, monkeypatch, request):
    monkeypatch.chdir(request.config.rootpath)

    def run(*words, folder="run"):
        return main([*BASE, "--trainer.default_root_dir", str(tmp_path / folder), *words])

    return run


def read(folder):
    with (folder / "invariance.csv").open() as stream:
        return list(csv.DictReader(stream))


def distances(folder):
    return {
        (row["checkpoint"], row["layer"], row["condition"]): float(row["distance"])
        for row in read(folder)
    }


def make(seed):
    torch.manual_seed(seed)
    return timm.create_model("test_resnet", num_classes=10).eval()


def save(net, path, trained_on):
    """A checkpoint as a fit leaves it."""
    weights = {f"net.{name}": tensor for name, tensor in net.state_dict().items()}
    torch.save({"state_dict": weights, "trained_on": trained_on, "epoch": 0}, path)
    return str(path)


def run_in_python(folder, net, *, batch_size, **options):
    """The same from Python; returns the images that the network saw, in their order."""
    seen = []
    handle = net.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0].clone()))
    task = ClassificationTask(net, conditions=["sharp", "D2", "D6"])
    data = ScenesDataModule(test_count=7, batch_size=batch_size, num_workers=0)
    trainer = Trainer(default_root_dir=str(folder), accelerator="cpu", enable_progress_bar=False)
    trainer.invariance(task, data, **options)
    handle.remove()
    return seen


@pytest.mark.parametrize("batch_size", [3, 7])
def test_distances_and_maps_are_those_of_timms_feature_maps(tmp_path, batch_size):
    net = make(0)
    seen = run_in_python(tmp_path, net, batch_size=batch_size, image=4)
    features = timm.create_model("test_resnet", features_only=True).eval()
    features.load_state_dict(net.state_dict(), strict=False)
    found, maps = distances(tmp_path), np.load(tmp_path / "invariance.npz")
    assert list(maps["layers"]) == STAGES
    # A batch is seen sharp, and then under each condition.
    views = [torch.cat(seen[start::4]) for start in range(4)]
    with torch.no_grad():
        outputs = [features(view) for view in views]
    for place, layer in enumerate(STAGES):
        sharp = outputs[0][place] > 0
        for number, condition in enumerate(["sharp", "D2", "D6"]):
            differs = (sharp != (outputs[1 + number][place] > 0)).double().mean(dim=1)
            expected = differs.mean().item()
            assert found["", layer, condition] == pytest.approx(expected, abs=1e-6)
            drawn = maps["maps"][0, number, place].astype(float)
            assert drawn.mean() == pytest.approx(differs[4].mean().item(), abs=2e-3)
            rows = drawn.shape[0] // differs.shape[1]
            assert drawn[::rows, ::rows] == pytest.approx(differs[4].numpy(), abs=1e-3)
    assert found["", "layer1", "sharp"] == 0 < found["", "layer1", "D2"] < found["", "layer1", "D6"]


def test_a_checkpoint_stands_beside_the_network_as_it_is(analyze, tmp_path, capsys):
    first = save(make(1), tmp_path / "first.ckpt", "sharp+D2")
    second = save(make(2), tmp_path / "second.ckpt", "sharp+D6")
    network = ["--model.net", "blur_lightning.models.finetuned", "--model.net.net"]
    network += ["timm.create_model", "--model.net.net.model_name", "test_resnet"]
    network += ["--model.net.net.dict_kwargs.num_classes", "10", "--model.net.checkpoint", first]
    assert analyze(*network, "--ckpt_path", second, "--data.batch_size", "4") == 0
    printed = capsys.readouterr().out
    assert "test_resnet, sharp+D2\n" in printed
    assert "test_resnet, sharp+D6\n" in printed
    found, rows = distances(tmp_path / "run"), read(tmp_path / "run")
    assert {row["trained_on"] for row in rows} == {"sharp+D2", "sharp+D6"}
    assert found["", "layer4", "D6"] != found[second, "layer4", "D6"]
    # Each alone, with the other one beside it or not.
    network[-1] = second
    assert analyze(*network, "--layers", "layer4", folder="alone") == 0
    assert distances(tmp_path / "alone") == {
        ("", layer, condition): pytest.approx(value, abs=1e-6)
        for (checkpoint, layer, condition), value in found.items()
        if checkpoint == second and layer == "layer4"
    }


def test_what_an_analysis_leaves_is_whole_and_needs_no_network(analyze, tmp_path, capsys):
    assert analyze("--layers", "[layer1, layer4]") == 0
    folder = tmp_path / "run"
    assert f"written: {folder / 'invariance.html'}" in capsys.readouterr().out
    names = {path.name for path in folder.iterdir()}
    assert names == {f"invariance.{end}" for end in ("csv", "html", "json", "npz", "png", "yaml")}
    rows = read(folder)
    assert len(rows) == 2 * 3
    assert {row["n"] for row in rows} == {"7"}
    for row in rows:
        assert float(row["low"]) <= float(row["distance"]) <= float(row["high"])
        if row["condition"] == "sharp":
            assert float(row["distance"]) == 0
            assert float(row["cka"]) == pytest.approx(1)
    page = (folder / "invariance.html").read_text()
    assert not re.search(r"""(src|href)=["'](?!data:|#)""", page)
    assert page.count("<svg") == 1 and "data:image/png;base64," in page
    assert f"{float(rows[1]['distance']):.3f}" in page
    maps = np.load(folder / "invariance.npz")
    assert maps["maps"].shape == (1, 3, 2, 64, 64)
    assert maps["pictures"].shape == (4, 64, 64, 3)
    provenance = json.loads((folder / "invariance.json").read_text())
    assert provenance["data"]["images"] == {"test": 7}
    # Its own configuration repeats it.
    before = (folder / "invariance.csv").read_bytes()
    assert main(["analyze", "invariance", "--config", str(folder / "invariance.yaml")]) == 0
    assert (folder / "invariance.csv").read_bytes() == before


@torch.no_grad()
def test_a_transformers_blocks_are_compared_by_the_signs_of_their_tokens(tmp_path):
    net = timm.create_model("test_vit", img_size=64, num_classes=10, depth=2).eval()
    seen = run_in_python(tmp_path, net, batch_size=7)
    # Tokens of the patches, and the class token, as timm itself gives them.
    options = {"output_fmt": "NLC", "return_prefix_tokens": True, "intermediates_only": True}
    sharp, blurred = (net.forward_intermediates(seen[view], **options) for view in (0, 3))
    found, maps = distances(tmp_path), np.load(tmp_path / "invariance.npz")["maps"]
    for place in (0, 1):
        differs = [
            ((one > 0) != (other > 0)).double().mean(dim=2)
            for one, other in zip(sharp[place], blurred[place], strict=True)
        ]
        expected = torch.cat(differs, dim=1).mean().item()
        assert found["", f"blocks.{place}", "D6"] == pytest.approx(expected, abs=1e-6)
        # The class token counts among all, but is not on the map.
        patches = differs[0][0].unflatten(0, (4, 4))
        assert maps[0, 2, place][::16, ::16] == pytest.approx(patches.numpy(), abs=1e-3)


def test_images_need_no_labels_and_a_layer_no_places(analyze, tmp_path):
    words = ["--data", "experiments/data/photos.yaml", "--data.labelled", "false"]
    words += ["--model.net", "nets.MeanColour", "--layers", "linear"]
    assert analyze(*words, "--data.num_workers", "0", "--trainer.limit_test_batches", "1") == 0
    assert np.isnan(np.load(tmp_path / "run/invariance.npz")["maps"]).all()


NO_LAYER = "layers: the network has no 'layer9'; the nearest: layer4, "


@pytest.mark.parametrize(
    "words, message",
    [
        (["--layers", "layer9"], NO_LAYER),
        (["--layers", "[layer1, layer9]"], NO_LAYER),
        (["--ckpt_path", "nowhere.ckpt"], "ckpt_path: there is no checkpoint nowhere.ckpt"),
        (["--image", "7"], "image: 7 is not 0 to 6"),
        (["--image", "-1"], "image: -1 is not 0 to 6"),
        (
            ["--image", "6", "--data.batch_size", "4", "--trainer.limit_test_batches", "1"],
            "image: 6 was not seen; only invariance.csv was written",
        ),
        (["--trainer.devices", "2"], "trainer.devices: an analysis runs in one process"),
        (["--layer", "layer1"], "--layer"),
    ],
)
def test_a_mistake_is_one_line(analyze, capsys, words, message):
    assert analyze(*words) == 2
    last = capsys.readouterr().err.strip().splitlines()[-1]
    assert last.startswith("error: ")
    assert message in last


def test_a_checkpoint_of_another_network_is_refused(analyze, tmp_path, capsys):
    file = save(MeanColour(10), tmp_path / "other.ckpt", "sharp")
    assert analyze("--ckpt_path", file) == 2
    assert f"ckpt_path: {file} is of another network" in capsys.readouterr().err


def test_removed_tokens_are_refused(analyze, capsys):
    words = ["--model.net", "blur_lightning.models.PatchDrop", "--model.net.mode", "remove"]
    words += ["--model.net.net", "timm.create_model", "--model.net.net.model_name", "test_vit"]
    assert PatchDrop.__name__ in words[1]
    assert analyze(*words, "--model.net.net.dict_kwargs.num_classes", "10") == 2
    assert "model.net.mode: tokens that are gone" in capsys.readouterr().err


def test_analyze_says_what_it_can(capsys):
    assert main(["analyze", "--help"]) == 0
    assert "invariance" in capsys.readouterr().out
    assert main(["analyze"]) == 2
    assert main(["analyze", "variance"]) == 2
    assert "invariance" in capsys.readouterr().out
    with pytest.raises(SystemExit) as end:
        main(["analyze", "invariance", "--help"])
    assert not end.value.code
    shown = capsys.readouterr().out
    assert "--layers" in shown and "python -m blur_lightning analyze" in shown
