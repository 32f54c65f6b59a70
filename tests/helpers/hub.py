"""A small server on this machine that answers as the hub does."""

import os
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest


class Hub(ThreadingHTTPServer):
    """Serves files as the hub does, and counts the downloads."""

    def __init__(self, files: dict[str, bytes]) -> None:
        self.files = files
        self.downloads: list[str] = []
        super().__init__(("127.0.0.1", 0), _Handler)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"


class _Handler(BaseHTTPRequestHandler):
    server: Hub

    def do_HEAD(self) -> None:
        self._answer()

    def do_GET(self) -> None:
        body = self._answer()
        if body is not None:
            self.server.downloads.append(self.path)
            self.wfile.write(body)

    def _answer(self) -> bytes | None:
        body = self.server.files.get(self.path)
        if body is None:
            self.send_response(404)
            known = any(path.split("/resolve/")[0] == self.path.split("/resolve/")[0] for path in self.server.files)
            self.send_header("X-Error-Code", "EntryNotFound" if known else "RepoNotFound")
            self.send_header("Content-Length", "0")
            self.end_headers()
            return None
        self.send_response(200)
        self.send_header("X-Repo-Commit", "0123456789abcdef0123456789abcdef01234567")
        self.send_header("ETag", f'"{len(body)}-{sum(body[:1000])}"')
        self.send_header("Content-Length", str(len(body)))
        self.send_header("Content-Type", "application/octet-stream")
        self.end_headers()
        return body

    def log_message(self, *_: Any) -> None: ...


@pytest.fixture
def serve() -> Iterator[Callable[[dict[str, bytes]], Hub]]:
    hubs = []

    def _serve(files: dict[str, bytes]) -> Hub:
        hub = Hub(files)
        threading.Thread(target=hub.serve_forever, daemon=True).start()
        hubs.append(hub)
        return hub

    yield _serve
    for hub in hubs:
        hub.shutdown()
        hub.server_close()


def client_settings(url: str, home: Path, offline: bool = False) -> dict[str, str]:
    """The environment of a process whose hub is at this address; the client reads its settings at import."""
    env = {key: value for key, value in os.environ.items() if not key.upper().endswith("_PROXY")}
    env |= {"HF_ENDPOINT": url, "HF_HOME": str(home), "HF_HUB_OFFLINE": str(int(offline)), "NO_PROXY": "127.0.0.1"}
    env |= {"HF_HUB_DISABLE_TELEMETRY": "1", "HF_HUB_DISABLE_XET": "1", "OMP_NUM_THREADS": "1"}
    env.pop("HF_HUB_CACHE", None)
    return env
