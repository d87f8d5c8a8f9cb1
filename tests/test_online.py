import os
import socket
import time

import pytest

from blur_lightning.online import DEFAULTS, mode


def test_a_key_that_the_server_knows_is_online(server):
    assert mode() == ("online", "")
    assert server.requests == ["Viewer"]


def test_a_key_that_the_server_does_not_know_is_offline(server, monkeypatch):
    monkeypatch.setenv("WANDB_API_KEY", "x" * 40)
    chosen, reason = mode()
    assert chosen == "offline"
    assert reason.startswith("no login: ")
    assert "\n" not in reason


def test_without_a_key_it_is_offline_and_nobody_is_asked(logged_out, monkeypatch):
    def ask(*_, **__):
        raise AssertionError("asked for a key")

    monkeypatch.setattr("wandb.sdk.lib.wbauth.prompt.prompt_and_save_api_key", ask)
    assert mode() == ("offline", "no key, see wandb login")


@pytest.mark.parametrize(
    ("value", "expected"), [("offline", "offline"), ("dryrun", "offline"), ("disabled", "disabled")]
)
def test_what_is_set_is_kept_to(server, monkeypatch, value, expected):
    monkeypatch.setenv("WANDB_MODE", value)
    chosen, reason = mode()
    assert chosen == expected
    assert reason == f"WANDB_MODE is {value}"
    assert not server.requests


def test_a_server_that_is_silent_costs_seconds(server, monkeypatch):
    monkeypatch.setenv("WANDB_HTTP_TIMEOUT", "1")
    with socket.create_server(("127.0.0.1", 0)) as silent:
        monkeypatch.setenv("WANDB_BASE_URL", f"http://127.0.0.1:{silent.getsockname()[1]}")
        start = time.monotonic()
        assert mode()[0] == "offline"
        assert time.monotonic() - start < 10


def test_variables_that_are_set_stay_and_the_others_are_chosen_here(logged_out, monkeypatch):
    monkeypatch.setenv("WANDB_HTTP_TIMEOUT", "7")
    mode()
    assert {name: os.environ[name] for name in DEFAULTS} == {**DEFAULTS, "WANDB_HTTP_TIMEOUT": "7"}
