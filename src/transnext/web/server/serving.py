"""Running the server: a socket, a browser, and an end by Ctrl-C."""

import errno
import socket
import threading
import urllib.parse
import webbrowser
from collections.abc import Callable, Sequence
from pathlib import Path

import torch

from transnext.errors import reason_of
from transnext.extras import require
from transnext.limits import check_number

PORT = 8321
"""Where the server listens if nobody says otherwise; if that is taken, anywhere."""
_BACKLOG = 128
_CONNECTIONS = 512


def serve(
    models: Sequence[str | Path],
    *,
    host: str = "127.0.0.1",
    port: int | None = None,
    token: str | None = None,
    device: str | torch.device = "cpu",
    open_browser: bool = True,
    started: Callable[[str], None] = lambda address: None,
) -> None:
    """Serves the page until it is told to end.

    Args:
        models: What `transnext.loaded.load` takes.
        host: Where to listen: this machine alone by default; others only with a token.
        port: Where to listen; `PORT`, or if that is taken any other, by default.
        token: What users must know.
        device: Where models compute.
        open_browser: Open the page in a browser.
        started: Called with the address of the page when it can be opened.

    Raises:
        FileNotFoundError: There is no such model.
        OSError: The port is taken, or the host is none of this machine.
        ValueError: A model cannot be asked, others could come without a token, or a package is missing.
    """
    require("the server of the page", "starlette", "uvicorn", extra="web")
    check_number("port", 0 if port is None else port, 0, 65535)
    import uvicorn

    from transnext.web.server.app import create_app
    from transnext.web.server.guard import Access
    from transnext.web.server.models import open_models

    Access.of(host, 0, token)  # said before models are loaded
    listening = _listen(host, port)
    try:
        number = listening.getsockname()[1]
        app = create_app(open_models(models, device=device), Access.of(host, number, token))
        config = uvicorn.Config(
            app,
            log_level="warning",
            access_log=False,
            server_header=False,
            date_header=False,
            ws="none",
            http="h11",
            lifespan="on",
            limit_concurrency=_CONNECTIONS,
            timeout_graceful_shutdown=2,
            proxy_headers=False,
        )
        address = _address(host, number, token)

        class Server(uvicorn.Server):
            """Says when it listens."""

            async def startup(self, sockets: list[socket.socket] | None = None) -> None:
                await super().startup(sockets)
                started(address)
                if open_browser:
                    threading.Thread(target=webbrowser.open, args=(address,), daemon=True).start()

        Server(config).run(sockets=[listening])
    finally:
        listening.close()


def _listen(host: str, port: int | None) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    # With the protocol, asyncio turns Nagle's algorithm off, which would keep answers back for 40 ms.
    found = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    try:
        if hasattr(socket, "SO_EXCLUSIVEADDRUSE"):  # Windows, where SO_REUSEADDR would share the port
            found.setsockopt(socket.SOL_SOCKET, socket.SO_EXCLUSIVEADDRUSE, 1)
        else:
            found.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            try:
                found.bind((host, PORT if port is None else port))
            except OSError as error:
                if port is not None or error.errno != errno.EADDRINUSE:
                    raise
                found.bind((host, 0))
        except OSError as error:
            at = f"{host}, port {PORT if port is None else port}"
            raise OSError(f"cannot listen at {at}: {reason_of(error)}") from None
        found.listen(_BACKLOG)
    except BaseException:
        found.close()
        raise
    return found


def _address(host: str, port: int, token: str | None) -> str:
    """The address of the page, as a browser on this machine opens it."""
    name = {"0.0.0.0": "127.0.0.1", "::": "[::1]"}.get(host, f"[{host}]" if ":" in host else host)
    search = "" if token is None else f"?{urllib.parse.urlencode({'token': token})}"
    return f"http://{name}:{port}/{search}"
