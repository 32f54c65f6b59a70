"""Whatever is uploaded, the server answers, in time, and keeps going."""

import io
import struct
import time
import zlib
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image
from starlette.testclient import TestClient

from tests.web.server.conftest import file_of, picture
from transnext.data import read_image
from transnext.web.server import decoding
from transnext.web.server.app import MAX_BODY, create_app
from transnext.web.server.decoding import MAX_PIXELS, Decoders
from transnext.web.server.guard import Access
from transnext.web.server.models import Model

MUTATED = {
    kind: file_of(picture(3, (40, 60)), kind) for kind in ("PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF", "AVIF", "PPM")
}
_DECODER = """
import json, os, sys, time; sys.path[:] = json.loads(sys.argv[1])
import transnext.data.images as images
read = images.read_image
def read_image(data, *args, **options):
    if data == b"hang": time.sleep(600)
    if data == b"loop":
        while True: pass
    if data == b"crash": os.kill(os.getpid(), 11)
    if data == b"print": print("x" * 100); os.write(1, b"x" * 100); os.write(2, b"x" * 100)
    if data == b"write": open("/tmp/written by a decoder", "w").write("x" * 100)
    if data == b"memory": bytearray(8 << 30)
    return read(data, *args, **options)
images.read_image = read_image
from transnext.web.server.decoder import main; main()
"""


def png_header(width: int, height: int) -> bytes:
    """The beginning of a PNG file that says it is as large as that."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    ihdr = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", ihdr) + chunk(b"IDAT", zlib.compress(bytes(1000)))


def upload(client: TestClient, data: bytes, **options: Any) -> tuple[int, dict[str, Any]]:
    answer = client.put("/api/images", content=data, **options)
    return answer.status_code, answer.json()


@pytest.mark.parametrize("kind", MUTATED)
def test_formats_of_images_are_read(client: TestClient, kind: str) -> None:
    assert upload(client, MUTATED[kind])[0] == 200


@pytest.mark.parametrize("data", [b"", b"\0", b"no image", bytes(10_000), b"<svg xmlns='http://www.w3.org/2000/svg'/>",
                                  b"%!PS-Adobe-3.0 EPSF-3.0\n", b"/etc/passwd", b"http://127.0.0.1/x.png"])  # fmt: skip
def test_what_is_no_image_is_refused(client: TestClient, data: bytes) -> None:
    status, said = upload(client, data)
    assert status == 422
    assert said["error"].startswith("the image cannot be read: ")


def test_a_name_of_a_file_is_not_opened(client: TestClient, tmp_path: Any) -> None:
    path = tmp_path / "image.png"
    path.write_bytes(file_of(picture()))
    assert upload(client, str(path).encode())[0] == 422
    answer = client.put("/api/images", params={"model": str(path)}, content=file_of(picture()))
    assert (answer.status_code, answer.json()) == (404, {"error": "there is no such model"})


@pytest.mark.parametrize(("width", "height"), [(2**16, 2**16), (2**31 - 1, 2**31 - 1), (MAX_PIXELS // 4 + 1, 4)])
def test_pixels_are_limited_before_any_is_decoded(client: TestClient, width: int, height: int) -> None:
    started = time.perf_counter()
    status, said = upload(client, png_header(width, height))
    assert status == 422
    if width * height < 2**32:
        assert f"{width} x {height} is more than the limit of {MAX_PIXELS} pixels" in said["error"]
    assert time.perf_counter() - started < 5


def test_a_bomb_of_compressed_pixels_is_refused(client: TestClient) -> None:
    """A megabyte that would unpack to gigabytes."""
    data = png_header(30_000, 30_000) + zlib.compress(bytes(2**20), 9) * 100
    assert upload(client, data)[0] == 422


def test_files_are_limited(client: TestClient) -> None:
    started = time.perf_counter()
    answer = client.put("/api/images", content=bytes(MAX_BODY + 1))
    assert (answer.status_code, answer.text) == (413, "Content Too Large")
    assert time.perf_counter() - started < 5
    assert upload(client, file_of(picture()) + bytes(MAX_BODY - 2**20))[0] == 200  # that much is taken


def test_a_file_without_a_size_is_refused(client: TestClient) -> None:
    answer = client.put("/api/images", content=iter([b"x"] * 3))
    assert answer.status_code == 411


def test_a_file_that_is_larger_than_it_says_is_refused(client: TestClient) -> None:
    chunks = iter([bytes(2**20)] * 40)
    assert client.put("/api/images", content=chunks, headers={"content-length": "5"}).status_code in (400, 411, 413)


@pytest.mark.parametrize("size", ["1e9", "-1", "33", "100000000000000000000", "0", "abc", "²", "1056"])
def test_sizes_that_are_none(client: TestClient, size: str) -> None:
    answer = client.put("/api/images", params={"size": size}, content=file_of(picture()))
    assert answer.status_code == 400
    assert "size is" in answer.json()["error"]


def test_modes_that_are_none(client: TestClient) -> None:
    answer = client.put("/api/images", params={"mode": "wrong"}, content=file_of(picture()))
    assert answer.status_code == 400
    assert answer.json()["error"] == "mode is 'wrong': expected 'extrapolate' or 'interpolate' or 'linear'"


def test_other_routes_take_no_body(client: TestClient) -> None:
    for method, path in (("GET", "/api/models"), ("GET", "/"), ("DELETE", "/api/images/x")):
        assert client.request(method, path, content=b"x" * 10).status_code == 413, path


@settings(max_examples=200, deadline=None, suppress_health_check=list(HealthCheck))
@given(
    kind=st.sampled_from(sorted(MUTATED)),
    changes=st.lists(st.tuples(st.integers(0, 10_000), st.binary(max_size=8)), max_size=12),
    end=st.none() | st.integers(0, 10_000),
    more=st.binary(max_size=40),
)
def test_damaged_files_are_refused_or_read(
    client: TestClient, kind: str, changes: list[tuple[int, bytes]], end: int | None, more: bytes
) -> None:
    data = bytearray(MUTATED[kind])
    for place, new in changes:
        data[place % len(data) : place % len(data) + len(new)] = new
    if end is not None:
        del data[end % len(data) :]
    started = time.perf_counter()
    status, said = upload(client, bytes(data + more))
    assert status in (200, 422), said
    assert time.perf_counter() - started < 30


@pytest.fixture(scope="module")
def short_lived(models: dict[str, Model]) -> Iterator[TestClient]:
    """A server whose decoders hang, crash and print on request, and may take half a second."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(decoding, "_PROGRAM", _DECODER)
        app = create_app(models, Access(), decoders=lambda: Decoders(seconds=0.5))
        with TestClient(app, base_url="http://127.0.0.1:8321") as client:
            client.get("/")
            yield client


@pytest.mark.parametrize("what", [b"hang", b"loop"])
def test_a_decoder_that_hangs_is_killed(short_lived: TestClient, what: bytes) -> None:
    for _ in range(3):  # more than there are
        started = time.perf_counter()
        status, said = upload(short_lived, what)
        assert (status, said["error"]) == (422, "the image cannot be read: it takes more than 0.5 s to decode")
        assert time.perf_counter() - started < 20  # a fresh one has to start
    assert upload(short_lived, file_of(picture()))[0] == 200


def test_a_decoder_that_crashes_is_replaced(short_lived: TestClient) -> None:
    for _ in range(3):
        status, said = upload(short_lived, b"crash")
        assert (status, said["error"]) == (
            422,
            "the image cannot be read: it is damaged in a way that ends the decoder",
        )
    assert upload(short_lived, file_of(picture()))[0] == 200


def test_what_a_decoder_prints_is_not_taken_for_its_answer(short_lived: TestClient) -> None:
    assert upload(short_lived, b"print")[0] == 422
    assert upload(short_lived, file_of(picture()))[0] == 200


@pytest.mark.parametrize("what", [b"write", b"memory"])
def test_a_decoder_writes_no_file_and_has_little_memory(short_lived: TestClient, what: bytes) -> None:
    pytest.importorskip("resource")
    assert upload(short_lived, what)[0] == 422
    assert upload(short_lived, file_of(picture()))[0] == 200


def test_decoders_give_what_the_reader_gives(client: TestClient) -> None:
    """Turned upright, transparency on white, 16 bits scaled: what the network sees says so."""
    rotated = Image.Exif()
    rotated[0x0112] = 6
    grey = Image.fromarray((np.arange(64 * 80).reshape(64, 80) * 12).astype(np.uint16))
    clear = picture(1).convert("RGBA")
    clear.putalpha(100)
    task, preprocessing = (getattr(_model(client).loaded, name) for name in ("task", "preprocessing"))
    large = file_of(picture(2, (900, 2000)), "JPEG")
    for data in (file_of(picture(0), "JPEG", exif=rotated), file_of(grey), file_of(clear), large):
        name = upload(client, data)[1]["id"]
        shown = Image.open(io.BytesIO(client.get(f"/api/images/{name}/shown").content))
        expected = task.sample(read_image(data, task.min_side(preprocessing)), preprocessing, 0).image
        np.testing.assert_array_equal(np.asarray(shown), expected.permute(1, 2, 0).numpy())


def _model(client: TestClient) -> Model:
    app: Any = client.app
    handler = next(route for route in app.app.routes if route.path == "/api/models").endpoint
    model: Model = next(iter(handler.__self__.models.values()))
    return model
