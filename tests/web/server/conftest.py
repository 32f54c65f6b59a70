"""The server with the bundled model, by Starlette's client or behind a real socket."""

import io
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any

import httpx2
import numpy as np
import pytest
import uvicorn
from PIL import Image
from starlette.testclient import TestClient

from transnext.choices import DEFAULT_MODEL
from transnext.web.server.app import create_app
from transnext.web.server.guard import Access
from transnext.web.server.models import Model, open_models

Serving = Callable[..., AbstractContextManager[str]]


@pytest.fixture(scope="session")
def models() -> dict[str, Model]:
    return open_models([DEFAULT_MODEL])


def picture(number: int = 0, size: tuple[int, int] = (90, 130)) -> Image.Image:
    """Smooth noise, another one for each number."""
    small = np.random.default_rng(number).integers(0, 256, (5, 7, 3), np.uint8)
    return Image.fromarray(small).resize((size[1], size[0]), Image.Resampling.BICUBIC)


def file_of(image: Image.Image, kind: str = "PNG", **options: Any) -> bytes:
    stream = io.BytesIO()
    image.save(stream, kind, **options)
    return stream.getvalue()


@pytest.fixture(scope="session")
def _client(models: dict[str, Model]) -> Iterator[TestClient]:
    app = create_app(models, Access())
    with TestClient(app, base_url="http://127.0.0.1:8321") as client:
        yield client


@pytest.fixture
def client(_client: TestClient) -> TestClient:
    """A browser that has just opened the page."""
    _client.cookies.clear()
    assert _client.get("/").status_code == 200
    return _client


@pytest.fixture(scope="session")
def serving() -> Serving:
    """Runs an application behind a socket of this machine and gives its address."""

    @contextmanager
    def _serving(app: Any) -> Iterator[str]:
        with socket.socket(proto=socket.IPPROTO_TCP) as listening:  # as `serving.py` has it
            listening.bind(("127.0.0.1", 0))
            server = uvicorn.Server(uvicorn.Config(app, log_level="error", ws="none", http="h11", lifespan="on"))
            thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]})
            thread.start()
            try:
                while not server.started:
                    assert thread.is_alive()
                    time.sleep(0.01)
                yield f"http://127.0.0.1:{listening.getsockname()[1]}"
            finally:
                server.should_exit = True
                thread.join()

    return _serving


@contextmanager
def opened(address: str) -> Iterator[httpx2.Client]:
    """A browser that has opened the page of a server."""
    with httpx2.Client(base_url=address, timeout=60, trust_env=False) as client:
        assert client.get("/").status_code == 200
        yield client
