"""What a Predictor takes, and what it says of what it does not take."""

import functools
import http.server
import io
import threading
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision.transforms.functional import pil_to_tensor, to_tensor

from transnext import Predictor, Skipped
from transnext.data import UnreadableImage
from transnext.inputs import open_image
from transnext.predict import ImagePrediction


@pytest.fixture(scope="module")
def predictor() -> Predictor:
    return Predictor()


@pytest.fixture
def picture() -> Image.Image:
    """Of odd sides and no symmetry, so that nothing swapped or turned goes unseen."""
    pixels = np.random.default_rng(0).integers(0, 256, (5, 7, 3), np.uint8)
    return Image.fromarray(pixels).resize((61, 43))


@pytest.fixture
def file(picture, tmp_path):
    picture.save(tmp_path / "a.png")
    return tmp_path / "a.png"


def same(found: Image.Image, expected: Image.Image) -> bool:
    return np.array_equal(np.asarray(found), np.asarray(expected))


def test_all_forms_of_one_image_are_the_same_image(picture, file) -> None:
    array = np.asarray(picture)
    forms = {
        "string": str(file),
        "path": file,
        "bytes": file.read_bytes(),
        "bytearray": bytearray(file.read_bytes()),
        "memory": io.BytesIO(file.read_bytes()),
        "pil": picture,
        "array": array,
        "bool-free integers": array.astype(np.int64),
        "16 bits": array.astype(np.uint16) * 257,
        "floats": array / 255,
        "half floats": (array / 255).astype(np.float32),
        "not contiguous": np.ascontiguousarray(array[:, ::-1])[:, ::-1],
        "tensor": pil_to_tensor(picture),
        "float tensor": to_tensor(picture),
        "double tensor": to_tensor(picture).double(),
        "tensor with a gradient": to_tensor(picture).requires_grad_(),
        "int tensor": pil_to_tensor(picture).long(),
    }
    for name, form in forms.items():
        assert same(open_image(form, 500), picture), name
    with file.open("rb") as stream:
        assert same(open_image(stream, 500), picture)


def test_channels(picture) -> None:
    grey = picture.convert("L")
    for form in (np.asarray(grey), np.asarray(grey)[..., None], pil_to_tensor(grey), pil_to_tensor(grey)[0]):
        assert same(open_image(form, 500), grey.convert("RGB"))
    see_through = picture.convert("RGBA")
    see_through.putalpha(grey)
    white = Image.new("RGB", picture.size, "white")
    white.paste(picture, mask=grey)
    assert same(open_image(np.asarray(see_through), 500), white)
    assert same(open_image(pil_to_tensor(see_through), 500), white)
    both = np.stack([np.asarray(grey)] * 2, -1)
    assert same(open_image(both, 500), open_image(Image.merge("LA", (grey, grey)), 500))
    mask = np.asarray(grey) > 99
    assert same(open_image(mask, 500), Image.fromarray(mask * np.uint8(255)).convert("RGB"))


def test_more_than_8_bits_as_in_files(tmp_path) -> None:
    values = np.arange(65536, dtype=np.uint16).reshape(256, 256)
    Image.fromarray(values).save(tmp_path / "a.png")
    for form in (tmp_path / "a.png", torch.from_numpy(values), Image.fromarray(values), values):
        assert same(open_image(form, 500), Image.fromarray((values / 257 + 0.5).astype(np.uint8)).convert("RGB"))


MODES = [
    "1",
    "L",
    "P",
    "RGB",
    "RGBA",
    "RGBa",
    "RGBX",
    "CMYK",
    "YCbCr",
    "HSV",
    "LAB",
    "I",
    "F",
    "LA",
    "La",
    "PA",
    "I;16",
]


@pytest.mark.parametrize("mode", MODES)
def test_modes_of_pil(predictor, mode) -> None:
    assert len(predictor(Image.new(mode, (9, 5)))[0].classes) == 5


@pytest.mark.parametrize(
    ("image", "message"),
    [
        (torch.zeros(43, 61, 3), r"a tensor of shape \[43, 61, 3\] is no image: .*\[C, H, W\]"),
        (np.zeros((3, 43, 61)), r"an array of shape \[3, 43, 61\] is no image: arrays are \[H, W\] or \[H, W, C\]"),
        (np.zeros((0, 5, 3)), r"an array of shape \[0, 5, 3\] is no image"),
        (np.zeros(5), r"an array of shape \[5\] is no image"),
        (np.full((5, 5), 1.5), "an array of floats holds 1.5..1.5: expected 0..1, not normalised"),
        (torch.full((3, 5, 5), -0.5), "a tensor of floats holds -0.5..-0.5: expected 0..1"),
        (np.full((5, 5), np.nan), "holds nan..nan: expected 0..1"),
        (np.full((5, 5), 256), r"an array of int64 holds 256..256: expected 0..255"),
        (torch.full((5, 5), -1), "a tensor of int64 holds -1..-1: expected 0..255"),
        (np.full((5, 5), 1j), "an array of complex128"),
        (b"not an image", "cannot read image <bytes>"),
        (b"", "the file is empty"),
    ],
)
def test_one_line_says_what_is_wrong(predictor, image, message) -> None:
    with pytest.raises(ValueError, match=message) as error:
        predictor(image)
    assert "\n" not in str(error.value)
    result = next(predictor.stream(image))
    assert isinstance(result, Skipped)
    assert result.name == "image 0"


def test_a_damaged_file_that_pil_has_opened(predictor, file) -> None:
    file.write_bytes(file.read_bytes()[:200])
    with Image.open(file) as image, pytest.raises(UnreadableImage, match="truncated"):
        predictor(image)
    with Image.open(file) as image:
        assert "truncated" in next(predictor.stream(image)).reason


@pytest.mark.parametrize("thing", [None, 5, {"a": 1}, [None], [["a.png"]], io.StringIO("text"), object()])
def test_what_is_no_image_at_all(predictor, thing) -> None:
    for call in (predictor, lambda images: list(predictor.stream(images))):
        with pytest.raises(TypeError, match=r"is not an image: give a path, folder, .* or an iterable of all this$"):
            call(thing)


def test_several(predictor, picture, file, tmp_path) -> None:
    names = ["image 0", str(file), "image 2"]
    expected = predictor([picture, file, picture])
    assert [p.name for p in expected] == names
    assert [p.name for p in predictor(x for x in (picture, file, picture))] == names
    assert predictor([]) == predictor(iter(())) == predictor(np.zeros((0, 5, 5, 3), np.uint8)) == []
    batch = predictor(torch.stack([pil_to_tensor(picture)] * 3))
    assert [p.name for p in batch] == ["image 0", "image 1", "image 2"]
    assert [p.classes for p in batch] == [p.classes for p in expected]
    assert [p.probabilities for p in predictor(np.stack([picture] * 3))] == [p.probabilities for p in batch]


def test_folders_and_patterns(predictor, picture, tmp_path) -> None:
    for name in ("b.png", "sub/a.JPG", "c[1].png"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        picture.save(tmp_path / name)
    (tmp_path / "notes.txt").write_text("")
    everything = [str(tmp_path / name) for name in ("b.png", "c[1].png", "sub/a.JPG")]
    assert [p.name for p in predictor(tmp_path)] == everything
    assert [p.name for p in predictor([tmp_path / "sub", tmp_path / "b.png"])] == [everything[2], everything[0]]
    assert [p.name for p in predictor(str(tmp_path / "*.png"))] == everything[:2]
    assert [p.name for p in predictor(str(tmp_path / "**" / "*.JPG"))] == everything[2:]
    assert [p.name for p in predictor(tmp_path / "c[1].png")] == everything[1:2], "a file of that name is meant"
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match="empty has no images in it"):
        predictor(tmp_path / "empty")
    for missing in (tmp_path / "no.png", str(tmp_path / "*.webp"), "\0"):
        with pytest.raises((FileNotFoundError, UnreadableImage)):
            predictor(missing)


def test_addresses(predictor, file) -> None:
    class Quiet(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *_) -> None:
            pass

    handler = functools.partial(Quiet, directory=str(file.parent))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        address = f"http://127.0.0.1:{server.server_port}"
        found, missing = predictor.stream([f"{address}/a.png", f"{address}/b.png"])
        server.shutdown()
    assert replace(found, name=str(file)) == predictor(file)[0]
    assert missing == Skipped(f"{address}/b.png", "HTTP Error 404: File not found")


def test_a_stream_goes_on_in_order(predictor, picture, file, tmp_path) -> None:
    (tmp_path / "bad.png").write_text("not an image")
    asked = 0

    def images():
        nonlocal asked
        for image in [file, tmp_path / "bad.png", picture, tmp_path / "gone.png", np.full((5, 5), 2.0)] * 3:
            asked += 1
            yield image

    stream = predictor.stream(images(), batch_size=4, top_k=1)
    first = next(stream)
    assert (first.name, asked) == (str(file), 4), "no more is read than a batch"
    results = [first, *stream]
    assert [isinstance(r, ImagePrediction) for r in results] == [True, False, True, False, False] * 3
    assert [r.reason for r in results[1:5] if isinstance(r, Skipped)] == [
        "it is damaged, or not an image in a format that can be read",
        "there is no such file",
        "an array of floats holds 2..2: expected 0..1, not normalised",
    ]
    assert [r.name for r in results[5:8]] == [str(file), str(tmp_path / "bad.png"), "image 7"]
    assert results[2].classes == predictor(picture, top_k=1)[0].classes


@pytest.mark.parametrize("name", ["top_k", "batch_size"])
@pytest.mark.parametrize("value", [0, -1, float("nan")])
def test_numbers(predictor, picture, name, value) -> None:
    for call in (predictor, predictor.stream):
        with pytest.raises(ValueError, match=f"{name} is {value}: expected at least 1"):
            call(picture, **{name: value})
    assert len(predictor(picture, top_k=10**9)[0].classes) == 22
