"""A report on 127.0.0.1: what it answers, to whom, and when it is built anew."""

import http.client
import json
import os
import re
import signal
import subprocess
import sys
import threading
import urllib.request
from contextlib import contextmanager

import pytest

from blur_lightning.errors import InputError
from blur_lightning.records.robustness import Record, write_run
from blur_lightning.report.serving import ReportServer

RECORD = Record(
    *("run", "net", "original", "photos", 9, "sharp", "sharp", 0.0, "224"),
    *("top1", 0.5, 0.4, 0.6),
)


@contextmanager
def served(runs, build):
    with ReportServer(runs, build) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.02,))
        thread.start()
        try:
            yield server
        finally:
            server.shutdown()
            thread.join()


def get(server, path, host=None):
    connection = http.client.HTTPConnection("127.0.0.1", server.server_port, timeout=10)
    try:
        connection.request("GET", path, headers={"Host": host} if host else {})
        answer = connection.getresponse()
        return answer.status, answer.read().decode()
    finally:
        connection.close()


def version(server):
    return json.loads(get(server, "/version")[1])["version"]


def test_a_page_is_built_anew_only_after_records_have_changed(tmp_path):
    built = []

    def build():
        built.append(len(built))
        return f'<html lang="en">page {built[-1]}</html>'

    (tmp_path / "a").mkdir()
    with served([tmp_path], build) as server:
        assert get(server, "/") == (200, '<html data-version="0" lang="en">page 0</html>')
        assert version(server) == 0
        (tmp_path / "a" / "other.csv").write_text("x")
        assert version(server) == 0
        (tmp_path / "a" / "robustness.csv").write_text("x")
        assert version(server) == 1
        assert get(server, "/")[1] == '<html data-version="1" lang="en">page 1</html>'
        (tmp_path / "a" / "robustness.csv").write_text("xy")
        assert version(server) == 2
    assert built == [0, 1, 2]


def test_a_run_that_cannot_be_read_leaves_the_page_as_it_was(tmp_path, capsys):
    def build():
        if (tmp_path / "robustness.csv").exists():
            raise InputError("robustness.csv, line 2: broken")
        return "<html lang>old</html>"

    with served([tmp_path], build) as server:
        (tmp_path / "robustness.csv").write_text("x")
        assert version(server) == 0
        assert "old" in get(server, "/")[1]
    assert "the page stays as it was: robustness.csv, line 2: broken" in capsys.readouterr().err


def test_other_paths_and_other_names_are_refused(tmp_path):
    (tmp_path / "robustness.csv").write_text("x")
    with served([tmp_path], lambda: "<html lang>page</html>") as server:
        assert get(server, "/robustness.csv")[0] == 404
        assert get(server, "/", host="evil.example:80")[0] == 403
        assert get(server, "/", host=f"localhost:{server.server_port}")[0] == 200
        assert server.server_address[0] == "127.0.0.1"


def test_a_port_that_cannot_be_used_is_named(tmp_path):
    with served([tmp_path], lambda: "") as server:
        for port in (server.server_port, 70_000):
            with pytest.raises(InputError, match=f"--port: {port} cannot be used"):
                ReportServer([tmp_path], lambda: "", port=port)


def test_the_command_serves_until_it_is_interrupted(tmp_path):
    write_run(tmp_path / "run", records=[RECORD], images={"index": [0]}, provenance={})
    words = [sys.executable, "-c", "import sys; from blur_lightning.report.page import report"]
    words[-1] += "; from pathlib import Path"
    words[-1] += "; report([Path(sys.argv[1])], serve=True)"
    words += [str(tmp_path / "run")]
    with subprocess.Popen(words, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout
        line = process.stdout.readline()
        address = re.fullmatch(r"open (http://127\.0\.0\.1:\d+/) in a browser; .*\n", line)
        with urllib.request.urlopen(address[1], timeout=20) as answer:
            assert "<title>Recognition under blur</title>" in answer.read().decode()
        os.kill(process.pid, signal.SIGINT)
        assert process.stdout.read() == "ended\n"
    assert process.returncode == 0
