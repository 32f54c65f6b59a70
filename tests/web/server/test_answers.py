"""The server says what Python says of the same bytes, to the last bit."""

import io
import json
import math
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from starlette.testclient import TestClient

from tests.helpers.small_transnext import small_model
from tests.web.server.conftest import file_of, picture
from transnext.choices import DEFAULT_MODEL
from transnext.data import Frame
from transnext.data.preprocessing import Preprocessing
from transnext.explain.attention import attention_from, look
from transnext.explain.maps import query_map
from transnext.models.backbone import Backbone
from transnext.models.transnext import TransNeXt
from transnext.predict import Detector, Predictor, Segmenter
from transnext.tasks.classification.loading import loaded_classifier
from transnext.tasks.detection.nets import build_net as build_detector
from transnext.tasks.detection.task import Detection
from transnext.tasks.segmentation.nets import build_net as build_segmenter
from transnext.tasks.segmentation.task import Segmentation
from transnext.tasks.task import Asked, Loaded
from transnext.web.server.app import create_app
from transnext.web.server.guard import Access
from transnext.web.server.models import WHOLE_ENTRIES, Model, _for_page
from transnext.web.server.regions import Regions, shown_mask


def see(client: TestClient, data: bytes, **wish: Any) -> dict[str, Any]:
    answer = client.put("/api/images", params=wish, content=data)
    assert answer.status_code == 200, answer.text
    found: dict[str, Any] = answer.json()
    return found


def weights(client: TestClient, name: str, kind: str, **where: int) -> tuple[dict[str, Any], np.ndarray, np.ndarray]:
    """What the page unpacks: `[heads, N, K]` and `[heads, N, P]`."""
    answer = client.get(f"/api/images/{name}/{kind}", params=where)
    assert answer.status_code == 200, answer.text
    about = json.loads(answer.headers["X-Attention"])
    numbers = np.frombuffer(answer.content, "<f4")
    heads, window = about["heads"], about["window"]
    queries = 1 if kind == "query" else about["grid"][0] * about["grid"][1]
    split = heads * queries * window**2
    local, pooled = numbers[:split], numbers[split:]
    return about, local.reshape(heads, queries, window**2), pooled.reshape(heads, queries, -1)


def regions(client: TestClient, name: str, **where: int) -> tuple[dict[str, Any], np.ndarray, np.ndarray]:
    """What the server says of an object: which queries `[h, w]`, and maps of windows and pooled keys `[2, M, h, w]`."""
    answer = client.get(f"/api/images/{name}/region", params=where)
    assert answer.status_code == 200, answer.text
    about = json.loads(answer.headers["X-Attention"])
    numbers = np.frombuffer(answer.content, "<f4")
    grid = tuple(about["grid"])
    inside = numbers[: grid[0] * grid[1]].reshape(grid)
    assert set(np.unique(inside)) <= {0, 1}
    return about, inside.astype(bool), numbers[grid[0] * grid[1] :].reshape(2, about["heads"], *grid)


def served(model: Model) -> TestClient:
    return TestClient(create_app({"m": model}, Access()), base_url="http://127.0.0.1:8321")


@pytest.mark.parametrize("mode", ["extrapolate", "interpolate", "linear"])
@pytest.mark.parametrize("size", [None, 96, 224])
def test_logits_and_maps_are_those_of_python(client: TestClient, size: int | None, mode: str) -> None:
    data = file_of(picture(7, (133, 101)), "JPEG")
    seen = see(client, data, mode=mode, **({} if size is None else {"size": size}))

    predictor = Predictor(DEFAULT_MODEL, image_size=size)
    net = predictor.loaded.model
    assert isinstance(net, TransNeXt)
    net.mode = mode  # type: ignore[assignment]
    expected = predictor(data, top_k=10, look=True)[0]
    assert [row["name"] for row in seen["answer"]["top"]] == expected.classes
    assert [row["score"] for row in seen["answer"]["top"]] == expected.probabilities

    side = size or predictor.loaded.preprocessing.input_size[1]
    assert (seen["height"], seen["width"]) == (side, side)
    shown = np.asarray(Image.open(io.BytesIO(client.get(f"/api/images/{seen['id']}/shown").content)))
    np.testing.assert_array_equal(shown, np.asarray(expected.image))

    x = predictor.loaded.preprocessing.normalise()(torch.tensor(shown).permute(2, 0, 1)[None])
    looked = look(net, x)
    assert seen["answer"]["logits"] == looked.output[0].tolist()
    assert seen["grid"] == [list(looked.kept(stage, 0).place.grid) for stage in range(4)]
    for place in looked.blocks:
        about, local, pooled = weights(client, seen["id"], "attention", stage=place.stage, block=place.block)
        same = looked.block(place.stage, place.block)
        np.testing.assert_array_equal(local, same.local.numpy())
        np.testing.assert_array_equal(pooled, same.pooled.numpy())
        assert about == {
            "heads": place.heads,
            "grid": list(place.grid),
            "pool": None if place.pool is None else list(place.pool),
            "window": place.window,
        }
        row, col = place.grid[0] - 1, place.grid[1] // 3
        _, local, pooled = weights(client, seen["id"], "query", stage=place.stage, block=place.block, y=row, x=col)
        one = looked.query(place.stage, place.block, row, col)
        np.testing.assert_array_equal(local, one.local.numpy())
        np.testing.assert_array_equal(pooled, one.pooled.numpy())
        if place.pool is not None:
            mean = [torch.tensor(part[:, 0].mean(0)) for part in (local, pooled)]
            found = query_map(mean[0], mean[1].unflatten(-1, place.keys), row, col, place.grid)
            at = ((row * place.stride + 0.5) / side, (col * place.stride + 0.5) / side)
            python = attention_from(net, x, at, place.stage, place.block)[0]
            torch.testing.assert_close(found, python, rtol=1e-5, atol=1e-7)


def test_a_mode_is_left_as_it_was(client: TestClient, models: dict[str, Model]) -> None:
    net = models[DEFAULT_MODEL].net
    assert net is not None
    data = file_of(picture(1))
    first = see(client, data)
    before = (net.mode, net.bias_mode, net.fixed_pool_size)
    other = see(client, data, mode="linear", size=128)
    assert (net.mode, net.bias_mode, net.fixed_pool_size) == before
    assert see(client, data)["answer"] == first["answer"]
    # What is asked later is of the mode that it was seen in.
    about, *_ = weights(client, other["id"], "query", stage=0, block=0, y=0, x=0)
    assert tuple(about["pool"]) == net.trained_pool_size
    about, *_ = weights(client, see(client, data, size=128)["id"], "query", stage=0, block=0, y=0, x=0)
    assert about["pool"] == [4, 4]


def test_a_mode_of_ones_own_is_kept() -> None:
    net = small_model(fixed_pool_size=(3, 5)).eval()
    model = Model(classifier(net), "m")
    assert model.modes[0] == "linear"
    with model.in_mode("extrapolate"):
        assert net.fixed_pool_size is None
    assert (net.mode, net.fixed_pool_size) == ("linear", (3, 5))
    with pytest.raises(KeyError), model.in_mode("interpolate"):
        raise KeyError
    assert (net.bias_mode, net.fixed_pool_size) == ("extrapolate", (3, 5))


def classifier(net: torch.nn.Module, size: tuple[int, int] = (64, 64)) -> Loaded:
    preprocessing = Preprocessing(
        input_size=(3, *size),
        mean=(0.5,) * 3,
        std=(0.25,) * 3,
        interpolation="bicubic",
        crop_pct=0.9,
        crop_mode="center",
    )
    return loaded_classifier(net, ["a", "b", "c"], preprocessing, "m")


def test_the_models_say_what_the_page_must_know(client: TestClient) -> None:
    (model,) = client.get("/api/models").json()
    assert model["id"] == model["name"] == DEFAULT_MODEL
    assert model["task"] == "classification"
    assert len(model["classes"]) == 22
    assert model["sizes"] == {"min": 32, "max": 1024, "step": 32, "default": 64}
    assert model["modes"] == ["extrapolate", "interpolate", "linear"]
    assert model["blocks"][0] == {"stage": 0, "block": 0, "stride": 4, "heads": 1, "window": 3}
    assert model["blocks"][-1]["window"] is None
    assert [block["stage"] for block in model["blocks"]] == sorted(block["stage"] for block in model["blocks"])


@pytest.mark.parametrize(
    ("side", "sizes"), [(64, (32, 1024, 32)), (100, (32, 1024, 4)), (1280, (32, 1280, 32)), (37, (32, 1024, 1))]
)
def test_the_trained_size_can_be_chosen(side: int, sizes: tuple[int, int, int]) -> None:
    model = Model(classifier(small_model().eval(), (side, side)), "m")
    assert model.sizes == dict(zip(("min", "max", "step", "default"), (*sizes, side), strict=True))
    assert model.sized(side).preprocessing == model.loaded.preprocessing


def test_a_model_of_oblong_images_keeps_them() -> None:
    model = Model(classifier(small_model().eval(), (64, 96)), "m")
    assert model.sizes is None
    with served(model) as client:
        client.get("/")
        seen = see(client, file_of(picture()))
        assert (seen["height"], seen["width"]) == (64, 96)
        assert seen["grid"][0] == [16, 24]
        assert client.put("/api/images", params={"size": 64}, content=file_of(picture())).status_code == 400


def test_what_is_too_much_at_once_is_asked_for_query_by_query(client: TestClient) -> None:
    seen = see(client, file_of(picture(5)), size=1024)
    answer = client.get(f"/api/images/{seen['id']}/attention", params={"stage": 0, "block": 0})
    assert (answer.status_code, answer.content) == (204, b"")
    about, local, pooled = weights(client, seen["id"], "query", stage=0, block=0, y=255, x=0)
    assert about["grid"] == [256, 256]
    assert about["heads"] * 256**2 * (9 + pooled.shape[-1]) > WHOLE_ENTRIES
    assert local.sum() + pooled.sum() == pytest.approx(about["heads"])


@pytest.mark.parametrize(
    ("address", "said"),
    [
        ("attention", "stage is ''"),
        ("attention?stage=4&block=0", "stage is 4: expected 0 to 3"),
        ("attention?stage=0&block=99", "block is 99"),
        ("query?stage=0&block=0&y=16&x=0", r"the query is \(16, 0\)"),
        ("query?stage=0&block=0&y=-1&x=0", "y is '-1'"),
        ("region?stage=0&block=0&object=0", "the answer has 0"),
        ("region?stage=0&block=0&object=x", "object is 'x'"),
        ("figure?stage=0&block=0&y=64&x=0", r"the pixel is \(64, 0\)"),
        ("figure?stage=0&block=0&y=0&x=0&head=7", "head is 7"),
        ("figure?stage=0&block=0&y=0&x=0&format=exe", "format is 'exe': expected png or svg"),
    ],
)
def test_wrong_questions_are_answered_in_a_line(client: TestClient, address: str, said: str) -> None:
    name = see(client, file_of(picture()))["id"]
    answer = client.get(f"/api/images/{name}/{address}")
    assert answer.status_code == 400
    with pytest.raises(ValueError, match=said):
        raise ValueError(answer.json()["error"])


def test_a_model_without_attention_answers_all_the_same() -> None:
    class Plain(torch.nn.Module):
        num_classes = 3

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x.mean((2, 3))

    with served(Model(classifier(Plain().eval()), "m")) as client:
        client.get("/")
        (about,) = client.get("/api/models").json()
        assert (about["sizes"], about["modes"], about["blocks"]) == (None, [], [])
        seen = see(client, file_of(picture()))
        assert len(seen["answer"]["top"]) == 3
        assert seen["grid"] == []
        answer = client.get(f"/api/images/{seen['id']}/attention", params={"stage": 0, "block": 0})
        assert (answer.status_code, answer.json()["error"]) == (400, "m does not give its attention")


def test_figures_can_be_kept(client: TestClient) -> None:
    name = see(client, file_of(picture()))["id"]
    for kind, begin in (("png", b"\x89PNG"), ("svg", b"<?xml")):
        answer = client.get(f"/api/images/{name}/figure?stage=2&block=0&y=63&x=0&head=0&format={kind}")
        assert answer.status_code == 200
        assert answer.content.startswith(begin)
        assert answer.headers["Content-Disposition"] == f'attachment; filename="looks.{kind}"'


def test_receptive_fields_are_those_of_python(client: TestClient, models: dict[str, Model]) -> None:
    first = client.get("/api/erf", params={"size": 128}).json()
    assert {name: first[name] for name in ("width", "height", "stride")} == {"width": 128, "height": 128, "stride": 32}
    assert 1 <= first["half"] <= first["most"] <= 128
    assert first["artefact"] > 0
    assert first["caption"] == "transnext_pico.emoji, trained weights, 128 x 128 pixels, 8 drawings"
    assert client.get("/api/erf", params={"size": 128}).json() == first
    assert client.get("/api/erf", params={"size": 128, "mode": "linear"}).json() != first
    assert client.get("/api/erf").json()["artefact"] is None  # 64 pixels have no room for strides of 32
    figure = client.get("/api/erf", params={"size": 128, "format": "png"})
    assert figure.content.startswith(b"\x89PNG")
    assert client.get("/api/erf", params={"format": "png"}).content.startswith(b"\x89PNG")  # says so, too
    assert client.get("/api/erf", params={"format": "exe"}).status_code == 400
    for asked, colour in (({}, (255, 255, 255)), ({"text": "e9e9e6", "card": "1c1e22"}, (28, 30, 34))):
        drawn = client.get("/api/erf", params={"size": 128, "format": "png", **asked}).content
        assert Image.open(io.BytesIO(drawn)).convert("RGB").getpixel((2, 2)) == colour
    for bad in ("1c1e2", "#1c1e22", "white", "1c1e22\n"):
        answer = client.get("/api/erf", params={"format": "png", "card": bad})
        assert answer.status_code == 400
        assert answer.json()["error"].endswith("expected a colour, six hexadecimal digits")
    net = models[DEFAULT_MODEL].net
    assert net is not None
    assert all(p.grad is None for p in net.parameters())


def test_boxes_are_in_pixels_of_what_is_shown() -> None:
    pytest.importorskip("supervision")
    from transnext.tasks.detection.answers import ObjectsFound

    found = ObjectsFound(
        xyxy=np.array([[20.0, 40.0, 60.0, 100.0]], np.float32), confidence=np.array([0.5], np.float32),
        class_id=np.array([0]), data={"class_name": np.array(["cat"])}, name="image", size=(200, 100),
    )  # fmt: skip
    frame = Frame(original=(200, 100), to_original=torch.tensor([[2.0, 0, -4.0], [0, 2.5, 5.0]], dtype=torch.float64))
    empty = torch.zeros(1, 3, 80, 50)
    asked = Asked(
        names=["image"], pictures=[], images=empty, sizes=torch.tensor([[80, 50]]), frames=[frame], inputs=empty
    )
    answer, classes, regions = _for_page(found, asked, (80, 50))
    assert answer == {"objects": [{"name": "cat", "score": 0.5, "box": [12.0, 14.0, 32.0, 38.0]}]}
    assert classes is None
    assert regions.of(0, (96, 64)) == {"box": [12.0, 14.0, 32.0, 38.0]}


def test_masks_are_in_pixels_of_what_is_shown() -> None:
    """Each pixel that was shown has the value of the picture at its centre."""
    mask = np.random.default_rng(0).random((100, 60)) < 0.5
    matrix = np.array([[1.3, 0, -4.0], [0, 2.5, 5.0]])
    mask_shown = shown_mask(mask, matrix, (37, 49))
    region = Regions(boxes=[[0, 0, 1, 1]], masks=[mask_shown]).of(0, (64, 64))["mask"]
    for y in range(64):
        for x in range(64):
            row, col = math.floor(2.5 * (y + 0.5) + 5), math.floor(1.3 * (x + 0.5) - 4)
            row, col = min(max(row, 0), 99), min(max(col, 0), 59)
            assert region[y, x] == (y < 37 and x < 49 and mask[row, col])
    nothing = Regions(boxes=[[1, 2, 3, 4]], masks=[shown_mask(mask & False, matrix, (37, 49))])
    assert nothing.of(0, (64, 64)) == {"box": [1, 2, 3, 4]}


def detector() -> Loaded:
    """A detector with random weights."""
    torch.manual_seed(0)
    net = build_detector("mask_rcnn", Backbone("transnext_pico"), 2, size="small", masks=True).eval()
    preprocessing = Preprocessing.of_model(net.backbone.net).with_places("shortest", (64, 128))
    metadata = {"class_names": ["a", "b"], "category_ids": [1, 2], "with_masks": True, "threshold": 0.05}
    return Loaded(model=net, task=Detection(metadata=metadata), preprocessing=preprocessing, name="m")


def segmenter(**metadata: int) -> Loaded:
    """A segmenter with random weights, perhaps one that looks in windows."""
    torch.manual_seed(0)
    net = build_segmenter("upernet", Backbone("transnext_pico"), 3, size="small").eval()
    preprocessing = Preprocessing.of_model(net.backbone.net).with_places("fit", (96, 128))
    task = Segmentation(metadata={"class_names": ["a", "b", "c"], **metadata})
    return Loaded(model=net, task=task, preprocessing=preprocessing, name="m")


def test_objects_are_those_of_python_and_say_where_they_look() -> None:
    pytest.importorskip("supervision")
    loaded, data = detector(), file_of(picture(3, (61, 90)))
    expected = Detector(loaded)(data)[0]
    assert len(expected) > 0
    with served(Model(loaded, "m")) as client:
        client.get("/")
        (about,) = client.get("/api/models").json()
        assert (about["task"], about["sizes"]["default"]) == ("detection", 64)
        seen = see(client, data)
        objects = seen["answer"]["objects"]
        assert [row["name"] for row in objects] == expected.class_names[: len(objects)]
        assert [row["score"] for row in objects] == expected.scores.tolist()[: len(objects)]
        # The short side of 61 becomes 64, all of the picture is shown, and boxes are in its pixels.
        assert (seen["height"], seen["width"]) == (64, 94)
        boxes = np.array([row["box"] for row in objects]) * np.tile([90 / 94, 61 / 64], 2)
        np.testing.assert_allclose(boxes, expected.xyxy[: len(objects)], atol=1e-3)
        about, local, pooled = weights(client, seen["id"], "attention", stage=2, block=0)
        assert about["grid"] == seen["grid"][2]
        np.testing.assert_allclose(local.sum(-1) + pooled.sum(-1), 1, rtol=1e-5)
        assert client.get(f"/api/images/{seen['id']}/figure?stage=2&block=0&y=60&x=90").status_code == 200
        # An object is asked about as a whole: the mean of the queries in its mask.
        masks = [np.asarray(expected.mask[i]) for i in range(len(objects))]
        assert min(mask.sum() for mask in masks) > 0
        for number in (0, len(objects) - 1):
            about, inside, maps = regions(client, seen["id"], stage=1, block=0, object=number)
            rows = np.floor((8 * np.arange(8) + 0.5) * 61 / 64).astype(int)
            cols = np.floor((8 * np.arange(12) + 0.5) * 90 / 94).astype(int)
            np.testing.assert_array_equal(inside[:8, :12], masks[number][rows[:, None], cols.clip(max=89)])
            _, local, pooled = weights(client, seen["id"], "attention", stage=1, block=0)
            queries = [row * about["grid"][1] + col for row, col in np.argwhere(inside)]
            assert queries
            expected_maps = []
            for query in queries:
                near, far = (torch.tensor(part[:, query]).double() for part in (local, pooled))
                row, col = divmod(query, about["grid"][1])
                expected_maps.append(query_map(near, far.unflatten(-1, about["pool"]), row, col, tuple(about["grid"])))
            mean = torch.stack(expected_maps).mean(0).numpy()
            np.testing.assert_allclose(maps.sum(0), mean, atol=1e-6)
        address = f"/api/images/{seen['id']}/figure?stage=2&block=0&y=60&x=90&object=0"
        assert client.get(address).content.startswith(b"\x89PNG")
        assert client.get(address.replace("object=0", "object=100")).status_code == 400
        assert see(client, data, size=96)["height"] == 96
        assert client.get("/api/erf", params={"size": 128}).status_code == 200


@pytest.mark.parametrize("metadata", [{}, {"window": 64, "window_stride": 40}])
def test_maps_of_classes_are_those_of_python(metadata: dict[str, int]) -> None:
    loaded, data = segmenter(**metadata), file_of(picture(6, (75, 50)))
    expected = Segmenter(loaded)(data)[0]
    with served(Model(loaded, "m")) as client:
        client.get("/")
        seen = see(client, data)
        (height, width), found = (seen["height"], seen["width"]), seen["answer"]["map"]
        assert (height, width) == (96, 64)
        assert [row["name"] for row in found["classes"]] == [
            expected.class_names[i] for i in np.argsort(-expected.pixels, kind="stable") if expected.pixels[i]
        ]
        assert sum(row["share"] for row in found["classes"]) == pytest.approx(1)
        drawn = np.asarray(Image.open(io.BytesIO(client.get(f"/{found['picture']}").content)))
        labels = np.asarray(Image.fromarray(expected.labels).resize((width, height), Image.Resampling.NEAREST))
        for row in found["classes"]:
            colour = np.frombuffer(bytes.fromhex(row["colour"][1:]), np.uint8)
            np.testing.assert_array_equal((drawn == colour).all(-1), labels == expected.class_names.index(row["name"]))
        for number, row in enumerate(found["classes"]):
            _, inside, maps = regions(client, seen["id"], stage=0, block=0, object=number)
            same = labels[::4, ::4] == expected.class_names.index(row["name"])
            if same.any():
                np.testing.assert_array_equal(inside[: same.shape[0], : same.shape[1]], same)
            assert inside.sum() == max(1, same.sum())
            np.testing.assert_allclose(maps.sum((0, 2, 3)), 1, rtol=1e-5)
        _, local, pooled = weights(client, seen["id"], "attention", stage=1, block=0)
        np.testing.assert_allclose(local.sum(-1) + pooled.sum(-1), 1, rtol=1e-5)
