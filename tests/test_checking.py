import io
import json

import pytest

from blur_lightning import checking
from blur_lightning.checking import read
from blur_lightning.errors import InputError
from blur_lightning.lightning_cli import BlurLightningCLI

SCENES = ["fit", "--config=experiments/base.yaml", "--config=experiments/demo_scenes.yaml"]


@pytest.fixture(autouse=True)
def folder(monkeypatch, request):
    monkeypatch.chdir(request.config.rootpath)


def test_command_lines_are_read_and_nothing_is_made(monkeypatch):
    monkeypatch.setattr(BlurLightningCLI, "instantiate_classes", None)
    longer = [*SCENES, "--trainer.max_epochs=20", "--data.val_blur=0.5*sharp+0.5*shake"]
    assert read([SCENES, longer]) == [
        {"max_epochs": 9, "check_val_every_n_epoch": 3, "limit_val_batches": None},
        {"max_epochs": 20, "check_val_every_n_epoch": 3, "limit_val_batches": None},
    ]


@pytest.mark.parametrize(
    ("word", "message"),
    [
        ("--data.blurr=D2", r"^--data\.blurr: there is no such option$"),
        ("--trainer.max_epochs=few", r"^--trainer\.max_epochs: 'few' is none of: int, null$"),
        ("--data.blur=sharp+Q4", r"^data\.blur: .*'Q4' is no blur; use sharp"),
        ("--data.val_blur=D", r"^data\.val_blur: .*'D' "),
        ("--model.conditions=[D2, D2]", r"^model\.conditions: 'D2' comes twice"),
        ("--model.conditions=[Q]", r"^model\.conditions: .*'Q' is no blur"),
    ],
)
def test_what_is_wrong_in_any_of_them_is_one_line(word, message):
    with pytest.raises(InputError, match=message) as caught:
        read([SCENES, [*SCENES, word]])
    assert "\n" not in str(caught.value)


def test_it_reads_and_writes_json(monkeypatch, capsys):
    monkeypatch.setattr("sys.stdin", io.StringIO(json.dumps([SCENES])))
    assert checking.main() == 0
    assert json.loads(capsys.readouterr().out)[0]["max_epochs"] == 9
    monkeypatch.setattr("sys.stdin", io.StringIO(json.dumps([[*SCENES, "--data.blur=Q"]])))
    assert checking.main() == 2
    assert capsys.readouterr().err.splitlines()[-1].startswith("error: data.blur: ")
