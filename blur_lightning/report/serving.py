"""A report on 127.0.0.1 that is built anew whenever its runs have newer records."""

import json
import sys
import threading
from collections.abc import Callable, Sequence
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from typing_extensions import override

from blur_lightning.errors import InputError
from blur_lightning.records.robustness import RECORDS

HOST = "127.0.0.1"


class ReportServer(ThreadingHTTPServer):
    """Serve a page at / and the number of its version at /version.

    Args:
        runs: Folders below which the records are watched, or records themselves.
        build: Makes the page; called at once, and again for a request after records have changed.
            Of an InputError then a line is printed, and the old page stays.
        port: Port of 127.0.0.1; 0 takes a free one.

    Raises:
        InputError: The port is taken or none, or the first page cannot be built.
    """

    daemon_threads = True

    def __init__(self, runs: Sequence[Path], build: Callable[[], str], *, port: int = 0) -> None:
        self._runs, self._build = runs, build
        self._lock = threading.Lock()
        self._state = self._read_state()
        self._version, self._page = 0, build()
        try:
            super().__init__((HOST, port), _Handler)
        except (OSError, OverflowError) as error:
            raise InputError(f"--port: {port} cannot be used ({error}); take another") from error

    @property
    def address(self) -> str:
        """Where to open the page."""
        return f"http://{HOST}:{self.server_port}/"

    def current(self) -> tuple[int, str]:
        """Version and page, built anew if records have changed."""
        with self._lock:
            state = self._read_state()
            if state != self._state:
                self._state = state
                try:
                    self._page = self._build()
                    self._version += 1
                except InputError as error:
                    print(f"the page stays as it was: {error}", file=sys.stderr)
            return self._version, self._page

    def _read_state(self) -> dict[Path, tuple[int, int]]:
        """Time and size of all records."""
        files = (f for run in self._runs for f in (run.rglob(RECORDS) if run.is_dir() else [run]))
        state = {}
        for file in files:
            try:
                status = file.stat()
                state[file] = status.st_mtime_ns, status.st_size
            except OSError:  # removed since
                continue
        return state


class _Handler(BaseHTTPRequestHandler):
    server: ReportServer

    def do_GET(self) -> None:
        # Under another name a page of another site could read this one.
        if self.headers.get("Host", "").rpartition(":")[0] not in (HOST, "localhost"):
            self.send_error(403)
        elif self.path == "/":
            version, page = self.server.current()
            page = page.replace("<html ", f'<html data-version="{version}" ', 1)
            self._send(page, "text/html; charset=utf-8")
        elif self.path == "/version":
            version, _ = self.server.current()
            self._send(json.dumps({"version": version}), "application/json")
        else:
            self.send_error(404)

    def _send(self, text: str, kind: str) -> None:
        content = text.encode()
        self.send_response(200)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(content)))
        self.send_header("Cache-Control", "no-store")
        self.end_headers()
        self.wfile.write(content)

    @override
    def log_message(self, format: str, *args: Any) -> None:
        """Say nothing of requests."""


def serve(runs: Sequence[Path], build: Callable[[], str], *, port: int = 0) -> None:
    """Serve a report until Ctrl-C; the arguments are those of `ReportServer`."""
    with ReportServer(runs, build, port=port) as server:
        try:
            print(f"open {server.address} in a browser; Ctrl-C ends this", flush=True)
            server.serve_forever(poll_interval=0.2)
        except KeyboardInterrupt:
            print("ended")
