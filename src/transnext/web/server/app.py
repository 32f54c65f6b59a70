"""What the server answers.

    GET    /                                the page; its scripts and styles beside it, by a fixed list of names
    GET    /api/models                      what the page must know of each
    PUT    /api/images?model&size&mode      the bytes of an image file; the model's answer, and a name for the image
    GET    /api/images/NAME/shown           what the network saw, PNG
    GET    /api/images/NAME/map             colours of the classes of its pixels, PNG; of segmentation
    GET    /api/images/NAME/attention?stage&block       of all queries, float32; 204 where that is too much
    GET    /api/images/NAME/query?stage&block&y&x       of one query, float32
    GET    /api/images/NAME/region?stage&block&object   mean of the queries in an object or class, float32
    GET    /api/images/NAME/figure?stage&block&y&x&head&format     a picture to keep, PNG or SVG; with &object of one
    DELETE /api/images/NAME                 forgets it
    GET    /api/erf?model&size&mode&format&text&card
                                          effective receptive field: numbers (JSON), or a picture (PNG, SVG) in colours

Errors are JSON, `{"error": one line}`. Nothing is written to a disk, and no path that a request names is opened.
"""

import asyncio
import contextlib
import json
import logging
import re
from collections.abc import AsyncIterator, Callable, Mapping
from functools import partial
from typing import Any

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from transnext.web.server import figures
from transnext.web.server.decoding import Decoders, RefusedImage
from transnext.web.server.guard import Access, Guard
from transnext.web.server.lane import BusyError, GoneError, Lane
from transnext.web.server.models import Model, Seen, packed, packed_region, region, single, whole
from transnext.web.server.page import example_files, page_files
from transnext.web.server.store import Store

MAX_BODY = 32 << 20
"""Largest image file, bytes."""
UPLOAD_SECONDS = 30.0
"""In which a file must have come."""
_RETRY = {"Retry-After": "1"}
_BUSY = "the server is busy with other images: try again in a moment"
_logger = logging.getLogger("transnext.web")


class Server:
    """Handlers, and what they share.

    Args:
        models: By the names that the page asks for them by.
        decoders: Makes the processes that decode.
        lane: Where models compute.
        store: What is kept of images.
        files: Of the page, by path: content type and content.
    """

    def __init__(
        self,
        models: Mapping[str, Model],
        decoders: Callable[[], Decoders],
        lane: Lane,
        store: Store[Seen],
        files: Mapping[str, tuple[str, bytes]],
    ) -> None:
        self.models = models
        self.described = JSONResponse([model.describe(name) for name, model in models.items()]).body
        self.lane = lane
        self.store = store
        self.files = files
        self.fields = figures.Fields()
        self._make_decoders = decoders

    @contextlib.asynccontextmanager
    async def lifespan(self, _app: Starlette) -> AsyncIterator[None]:
        """Starts and ends the processes that decode; nobody waits for them to be ready."""
        self.decoders = self._make_decoders()
        self.examples = asyncio.create_task(asyncio.to_thread(example_files))
        try:
            yield
        finally:
            self.examples.cancel()
            await self.decoders.close()
            self.lane.close()

    def routes(self) -> list[Route]:
        """Everything that is answered."""
        image = "/api/images/{name}"
        return [
            *(Route(path, self.file, methods=["GET"]) for path in self.files),
            Route("/examples/{name}", self.example, methods=["GET"]),
            Route("/favicon.ico", self.no_icon, methods=["GET"]),
            Route("/api/models", self.about_models, methods=["GET"]),
            Route("/api/images", self.upload, methods=["PUT"], max_body_size=MAX_BODY),
            Route(image, self.forget, methods=["DELETE"]),
            Route(f"{image}/shown", self.shown, methods=["GET"]),
            Route(f"{image}/map", self.map, methods=["GET"]),
            Route(f"{image}/attention", self.attention, methods=["GET"]),
            Route(f"{image}/query", self.query, methods=["GET"]),
            Route(f"{image}/region", self.region, methods=["GET"]),
            Route(f"{image}/figure", self.figure, methods=["GET"]),
            Route("/api/erf", self.receptive_field, methods=["GET"]),
        ]

    async def file(self, request: Request) -> Response:
        """A file of the page."""
        kind, content = self.files[request.scope["path"]]
        return Response(content, media_type=kind, headers={"Cache-Control": "no-cache"})

    async def example(self, request: Request) -> Response:
        """A drawing of the page."""
        kind, content = (await asyncio.shield(self.examples)).get(request.scope["path"], ("", b""))
        if not kind:
            raise HTTPException(404)
        return Response(content, media_type=kind, headers={"Cache-Control": "no-cache"})

    async def no_icon(self, _request: Request) -> Response:
        """Browsers ask for one."""
        return Response(status_code=204)

    async def about_models(self, _request: Request) -> Response:
        """The models."""
        return Response(self.described, media_type="application/json")

    async def upload(self, request: Request) -> Response:
        """An image file in, the answer of a model out."""
        size = _length(request)
        model = self._model(request)
        loaded = model.sized(_number(request, "size", None))
        mode = model.known_mode(request.query_params.get("mode") or None)
        try:
            async with self.lane.place(size):
                data = await asyncio.wait_for(request.body(), UPLOAD_SECONDS)
                picture = await self.decoders.decode(data, model.least_side(loaded))
                del data, request._body  # decoded it is needed no more, and others may wait
                seen = await self.lane.run(request.is_disconnected, partial(model.see, loaded, picture, mode))
        except BusyError:
            await _passed_over(request)
            raise
        except asyncio.TimeoutError:
            raise HTTPException(408, "the file did not come in time") from None
        name = self.store.add(_session(request), seen)
        height, width = seen.size
        answer = (
            seen.answer if seen.map is None else {"map": {**seen.answer["map"], "picture": f"api/images/{name}/map"}}
        )
        return JSONResponse({"id": name, "width": width, "height": height, "grid": seen.grid, "answer": answer})

    async def forget(self, request: Request) -> Response:
        """Forgets an image."""
        if not self.store.remove(_session(request), request.path_params["name"]):
            raise _unknown()
        return Response(status_code=204)

    async def shown(self, request: Request) -> Response:
        """What the network saw."""
        return Response(self._seen(request).shown, media_type="image/png")

    async def map(self, request: Request) -> Response:
        """Colours of the classes of its pixels."""
        seen = self._seen(request)
        if seen.map is None:
            raise HTTPException(404, f"{seen.model.name} makes no maps of classes")
        return Response(seen.map, media_type="image/png")

    async def attention(self, request: Request) -> Response:
        """Attention of all queries of a block."""
        seen, stage, block = self._seen(request), _number(request, "stage"), _number(request, "block")
        return await self._weights(request, partial(whole, seen, stage, block), packed)

    async def query(self, request: Request) -> Response:
        """Attention of one query of a block."""
        seen = self._seen(request)
        where = [_number(request, name) for name in ("stage", "block", "y", "x")]
        return await self._weights(request, partial(single, seen, *where), packed)

    async def region(self, request: Request) -> Response:
        """Attention of an object or a class of the answer."""
        seen = self._seen(request)
        where = [_number(request, name) for name in ("stage", "block", "object")]
        return await self._weights(request, partial(region, seen, *where), packed_region)

    async def _weights(
        self, request: Request, ask: Callable[[], Any], pack: Callable[[Any], tuple[dict[str, Any], bytes]]
    ) -> Response:
        def work() -> tuple[dict[str, Any], bytes] | None:
            found = ask()
            return None if found is None else pack(found)

        async with self.lane.place():
            answer = await self.lane.run(request.is_disconnected, work)
        if answer is None:
            return Response(status_code=204)
        about, numbers = answer
        return Response(numbers, media_type="application/octet-stream", headers={"X-Attention": json.dumps(about)})

    async def figure(self, request: Request) -> Response:
        """A figure of where a pixel of the image looked."""
        seen, kind = self._seen(request), _format(request)
        stage, block, y, x = (_number(request, name) for name in ("stage", "block", "y", "x"))
        head, number = _number(request, "head", None), _number(request, "object", None)
        draw = partial(figures.attention, seen, stage, block, (y, x), head, kind, number)
        async with self.lane.place():
            content = await self.lane.run(request.is_disconnected, draw)
        return _download(content, kind, "looks")

    async def receptive_field(self, request: Request) -> Response:
        """The effective receptive field of a model."""
        model = self._model(request)
        loaded = model.sized(_number(request, "size", None))
        mode = model.known_mode(request.query_params.get("mode") or None)
        kind = request.query_params.get("format") or "json"
        if kind != "json":
            _format(request)
        colours = [_colour(request, name) for name in ("text", "card")]
        async with self.lane.place():
            field = await self.lane.run(request.is_disconnected, partial(self.fields.of, model, loaded, mode))
            if kind == "json":
                return JSONResponse(figures.numbers(field))
            draw = partial(figures.receptive_field, field, kind, *colours)
            content = await self.lane.run(request.is_disconnected, draw)
        return _download(content, kind, "receptive_field")

    def _model(self, request: Request) -> Model:
        name = request.query_params.get("model") or next(iter(self.models))
        if name not in self.models:
            raise HTTPException(404, "there is no such model")
        return self.models[name]

    def _seen(self, request: Request) -> Seen:
        seen = self.store.get(_session(request), request.path_params["name"])
        if seen is None:
            raise _unknown()
        return seen


def create_app(
    models: Mapping[str, Model],
    access: Access,
    *,
    decoders: Callable[[], Decoders] = Decoders,
    lane: Lane | None = None,
    store: Store[Seen] | None = None,
) -> Guard:
    """The application that serves the page.

    Args:
        models: By the names that the page asks for them by; at least one.
        access: Who may ask.
        decoders: Makes the processes that decode, when the server starts.
        lane: Where models compute.
        store: What is kept of images.
    """
    server = Server(models, decoders, lane or Lane(), Store() if store is None else store, page_files())
    app = Starlette(
        routes=server.routes(),
        lifespan=server.lifespan,
        max_body_size=0,  # of all but the route that takes files
        exception_handlers={
            HTTPException: _said,
            ValueError: _wrong,
            BusyError: _busy,
            GoneError: _gone,
            ClientDisconnect: _gone,
            Exception: _broken,
        },
    )
    return Guard(app, access)


def _error(status: int, reason: str, headers: Mapping[str, str] | None = None) -> Response:
    return JSONResponse({"error": reason}, status, headers)


async def _said(_request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    return _error(error.status_code, error.detail, error.headers)


async def _wrong(_request: Request, error: Exception) -> Response:
    reason = " ".join(str(error).split())
    if isinstance(error, RefusedImage):
        return _error(422, f"the image cannot be read: {reason}")
    return _error(400, reason)


async def _busy(_request: Request, _error_: Exception) -> Response:
    return _error(503, _BUSY, _RETRY)


async def _gone(_request: Request, _error_: Exception) -> Response:
    return Response(status_code=499)  # nobody reads it


async def _broken(request: Request, error: Exception) -> Response:
    _logger.error("%s %s failed", request.method, request.url.path, exc_info=error)
    return _error(500, "the server has made a mistake; its terminal says which")


def _length(request: Request) -> int:
    """Size of the file that a request brings, bytes; browsers say it, and Starlette holds them to it."""
    given = request.headers.get("content-length", "")
    if not given.isascii() or not given.isdigit():
        raise HTTPException(411, "the size of the file is not said (Content-Length)")
    return int(given)


async def _passed_over(request: Request) -> None:
    """Reads what nobody keeps: a browser that cannot get rid of its file does not hear why."""
    with contextlib.suppress(asyncio.TimeoutError, ClientDisconnect):
        await asyncio.wait_for(_read(request.stream()), UPLOAD_SECONDS)


async def _read(stream: AsyncIterator[bytes]) -> None:
    async for _ in stream:
        pass


def _session(request: Request) -> str:
    session: str = request.scope["state"]["session"]
    return session


def _unknown() -> HTTPException:
    return HTTPException(404, "the image is no longer kept: show it again")


def _number(request: Request, name: str, default: Any = ...) -> Any:
    """A whole number of the address, at least 0."""
    given = request.query_params.get(name, "")
    if given == "" and default is not ...:
        return default
    if not given.isascii() or not given.isdigit() or len(given) > 9:
        raise HTTPException(400, f"{name} is {given[:20]!r}: expected a whole number")
    return int(given)


def _colour(request: Request, name: str) -> str | None:
    given = request.query_params.get(name)
    if given is None:
        return None
    if re.fullmatch("[0-9a-f]{6}", given) is None:
        raise HTTPException(400, f"{name} is {given[:20]!r}: expected a colour, six hexadecimal digits")
    return f"#{given}"


def _format(request: Request) -> str:
    kind = request.query_params.get("format") or "png"
    if kind not in figures.TYPES:
        raise HTTPException(400, f"format is {kind[:20]!r}: expected {' or '.join(figures.TYPES)}")
    return kind


def _download(content: bytes, kind: str, name: str) -> Response:
    headers = {"Content-Disposition": f'attachment; filename="{name}.{kind}"'}
    return Response(content, media_type=figures.TYPES[kind], headers=headers)
