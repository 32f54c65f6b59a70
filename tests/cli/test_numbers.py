"""Every numeric option of every command, given numbers that cannot be meant."""

import inspect
import re
from dataclasses import fields, is_dataclass, replace
from typing import Any, get_args, get_origin, get_type_hints

import pytest
from PIL import Image

from tests.helpers.rectangles import rectangle_set
from transnext.cli import main
from transnext.cli.main import COMMANDS, GROUPS, TASK_OF, _function
from transnext.config import TrainConfig
from transnext.data.preprocessing import Preprocessing
from transnext.loaded import load
from transnext.models.backbone import Backbone
from transnext.models.variants import WEIGHTS
from transnext.tasks.detection.nets import build_net
from transnext.tasks.detection.task import Detection
from transnext.tasks.segmentation.nets import build_net as build_segmenter
from transnext.tasks.segmentation.task import Segmentation
from transnext.tasks.task import Loaded

REACHED = "the work would begin here"
WITH_OTHERS = ("study", "explain")
"""Commands that have others in them."""
FROM_THE_END = {"--out-indices"}
"""Options in which -1 is a place counted from the end."""


def numbers_in(annotation: Any) -> int:
    """How many numbers an option of this type takes; 0 if it takes none."""
    if annotation in (int, float):
        return 1
    counts = [numbers_in(a) for a in get_args(annotation) if a is not Ellipsis]
    if get_origin(annotation) is tuple and Ellipsis not in get_args(annotation):
        return sum(counts)
    return max(counts, default=0)


def options_of(config: Any) -> list[tuple[str, int]]:
    """Options of a dataclass and of the groups in it."""
    hints, found = get_type_hints(type(config)), []
    for field in fields(config):
        value = getattr(config, field.name)
        found += options_of(value) if is_dataclass(value) else [(field.name, numbers_in(hints[field.name]))]
    return found


def options(command: str, module: str | None = None, task: str = "classification") -> list[tuple[str, int]]:
    function = _function(command, module or command)
    found = options_of(TrainConfig.of(task, data="")) if command == "train" else []
    for name, annotation in get_type_hints(function).items():
        if is_dataclass(annotation):
            hints = get_type_hints(annotation)
            found += [(f.name, numbers_in(hints[f.name])) for f in fields(annotation)]
        elif name in inspect.signature(function).parameters:
            found.append((name, numbers_in(annotation)))
    return [(f"--{name.replace('_', '-')}", count) for name, count in found if count]


def options_below(command: str) -> list[tuple[str, str, int]]:
    """Options of the commands that a command has."""
    found = []
    for below in get_args(get_type_hints(_function(command, command), include_extras=True)["of"]):
        kind, name = below.__origin__, below.__metadata__[0].name
        hints = get_type_hints(kind)
        for field in fields(kind):
            if count := numbers_in(hints[field.name]):
                found.append((f"{command} {name}", f"--{field.name.replace('_', '-')}", count))
    return found


OPTIONS = [(command, *option) for command in COMMANDS if command not in WITH_OTHERS for option in options(command)]
OPTIONS += [option for command in WITH_OTHERS for option in options_below(command)]
OPTIONS += [
    (f"{group} {command}", *option)
    for group, modules in GROUPS.items()
    for command, module in modules.items()
    for option in options(command, module, TASK_OF.get(group, "classification"))
]


def test_groups_of_options_are_found() -> None:
    assert {("train", f"--{name}", 1) for name in ("lr", "erasing", "workers", "keep")} <= set(OPTIONS)


@pytest.fixture(scope="module")
def here(tmp_path_factory):
    """An image, and a run folder of the bundled weights."""
    folder = tmp_path_factory.mktemp("numbers")
    Image.new("RGB", (40, 40)).save(folder / "a.png")
    weights = next(WEIGHTS.glob("*pico*emoji*.safetensors"))
    (folder / "best.safetensors").write_bytes(weights.read_bytes())
    (folder / "config.json").write_text(TrainConfig(data="emoji").to_json())
    rectangle_set(folder / "rectangles", train=3, val=1)
    return folder


@pytest.fixture(scope="module")
def detector():
    """A detector that is open, of two classes."""
    net = build_net("mask_rcnn", Backbone("transnext_pico"), 2, masks=True, size="small").eval()
    task = Detection(metadata={"class_names": ["green", "red"], "category_ids": [3, 7], "with_masks": True})
    preprocessing = Preprocessing.of_model(net.backbone.net).with_places("fit", (64, 64))
    return Loaded(model=net, task=task, preprocessing=preprocessing, name="a detector")


@pytest.fixture(scope="module")
def segmenter():
    """A segmenter that is open, of two classes."""
    net = build_segmenter("upernet", Backbone("transnext_pico"), 2, size="small").eval()
    preprocessing = Preprocessing.of_model(net.backbone.net).with_places("fit", (64, 64))
    task = Segmentation(metadata={"class_names": ["green", "red"]})
    return Loaded(model=net, task=task, preprocessing=preprocessing, name="a segmenter")


@pytest.fixture
def arguments(here, detector, segmenter, monkeypatch):
    """What each command is given beside the option, with the work taken out of them."""

    def reached(*_: object, **__: object) -> None:
        raise ValueError(REACHED)

    for place in (
        "transnext.engine.trainer.train",
        "transnext.engine.evaluation.Evaluator.run",
        "transnext.studies.imagenet.evaluate_imagenet",
        "transnext.bench.run.run_bench",
        "transnext.explain.look",
        "transnext.explain.class_activation",
        "transnext.explain.measure_receptive_field",
        "transnext.explain.measure_faithfulness",
        "transnext.export.exporting.trace",
        "transnext.web.graph.trace",
        "transnext.web.server.models.open_models",
    ):
        monkeypatch.setattr(place, reached)

    def opened(model, *, image_size=None, device="cpu"):
        known = {"detector": detector, "segmenter": segmenter}.get(str(model))
        if known is None:
            return load(model, image_size=image_size, device=device)
        asked = known.preprocessing if image_size is None else known.preprocessing.resized(image_size)
        return replace(known, preprocessing=asked)

    for place in ("transnext.predict.load", "transnext.engine.evaluation.load"):
        monkeypatch.setattr(place, opened)
    model = "transnext_pico.emoji"
    return {
        "detect train": [str(here / "rectangles"), "--device", "cpu"],
        "detect eval": ["detector", str(here / "rectangles"), "--device", "cpu"],
        "detect predict": [str(here / "a.png"), "--model", "detector", "--device", "cpu"],
        "segment train": [str(here / "rectangles"), "--device", "cpu"],
        "segment check": [str(here / "rectangles")],
        "segment eval": ["segmenter", str(here / "rectangles"), "--device", "cpu"],
        "segment predict": [
            *[str(here / "a.png"), "--model", "segmenter", "--device", "cpu"],
            *["--geojson-file", str(here / "a.geojson")],
        ],
        "train": ["emoji"],
        "eval": [model, "emoji", "--device", "cpu"],
        "study corruptions": [model, "emoji", "--device", "cpu"],
        "study sizes": [model, "emoji", "--device", "cpu"],
        "study imagenet": [model, str(here), "--device", "cpu"],
        **{
            f"explain {what}": [str(here / "a.png"), "--device", "cpu"]
            for what in ("attention", "rollout", "gradients")
        },
        "explain receptive-field": [model, "--device", "cpu"],
        "explain faithfulness": ["emoji", "--device", "cpu"],
        "predict": [str(here / "a.png"), "--device", "cpu"],
        "export": [model, "--output", str(here / "a.onnx"), "--format", "onnx"],
        "report": [str(here), "--device", "cpu"],
        "bench": ["transnext_pico"],
        "web": [model],
    }


def test_there_are_options() -> None:
    assert len(OPTIONS) >= 105
    assert {("detect train", f"--{name}", 1) for name in ("train-tiles", "max-detections", "lr")} <= set(OPTIONS)
    assert ("detect train", "--jitter", 2) in OPTIONS
    assert {("detect predict", f"--{name}", 1) for name in ("threshold", "tile", "overlap")} <= set(OPTIONS)
    assert ("train", "--crop-scale", 2) in OPTIONS
    assert ("study sizes", "--scales", 1) in OPTIONS
    assert ("explain attention", "--at", 2) in OPTIONS
    commands = {command.partition(" ")[0] for command, *_ in OPTIONS}
    assert commands >= {"train", "eval", "study", "predict", "export", "report", "bench", "detect"}


@pytest.mark.parametrize("value", ["0", "-1", "nan", "inf", "1000000000"])
@pytest.mark.parametrize(("command", "option", "count"), OPTIONS)
def test_a_number_is_taken_or_refused_by_name(command, option, count, value, arguments, capsys, tmp_path) -> None:
    more = ["--features-only"] if option == "--out-indices" else []
    if command == "web":
        more = ["--no-browser"] if option == "--port" else ["--export", str(tmp_path / "page.html")]
    code = None
    try:
        main([*command.split(), *arguments[command], *more, option, *[value] * count])
    except SystemExit as exit_:
        code = exit_.code
    error = capsys.readouterr().err
    if code is None or REACHED in error:
        assert value in ("0", "1000000000") or (value == "-1" and option in FROM_THE_END)
    else:
        assert code == 2
        name = option.removeprefix("--").removesuffix("s").replace("-", "[-_]")
        assert any(re.search(rf"\b{name}s?\b", line) for line in error.splitlines()), error
        assert "Traceback" not in error
