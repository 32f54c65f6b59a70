"""One HTML file with the model in it: it opens from a disk, and asks nothing of any network."""

import base64
import functools
import gzip
import hashlib
import io
import json
import lzma
import re
import tempfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from html import escape
from importlib import resources
from pathlib import Path
from typing import Any

from transnext.atomic import check_writable, write_atomically
from transnext.choices import DEFAULT_MODEL
from transnext.data import load_emoji, read_image
from transnext.export import is_exported
from transnext.export.checking import SizeCheck, check, shapes_to_check
from transnext.export.formats import require
from transnext.export.info import ExportInfo
from transnext.export.onnx_file import OnnxFile
from transnext.export.plain import size_multiple
from transnext.limits import MAX_SIDE, check_number
from transnext.loaded import load
from transnext.models import TransNeXt
from transnext.tasks.task import Loaded
from transnext.version import __version__
from transnext.web.graph import LOGITS, WithAttention, blocks_of, network_graph, parameters_of
from transnext.web.prepare import prepare_graph

MAX_PARAMETERS = 15_000_000
"""Of a model in a page: a browser downloads and holds all of them, and computes on one thread."""
MAX_PAGE_SIDE = 448
"""Largest side of images in a page for several sizes, pixels: attention grows with the fourth power of it."""
MAX_EXAMPLES = 12
EXAMPLE_SIDE = 640
"""Side that examples are brought to if they are larger, pixels."""
RUNTIME_VERSION = "1.30.0"
"""Of onnxruntime-web, whose files are package data; see `onnxruntime/ATTRIBUTION.md`."""

DRAWINGS = ("elephant", "swan", "tropical fish", "racing car", "doughnut", "violin")
"""Of the held-out ones, in the style of Noto Emoji."""
_PACKAGE = resources.files("transnext.web")
_ENTRY = "start-ort.js"
_IMPORT = re.compile(r'^import \{ [\w, ]+ \} from "\./([\w-]+\.js)";\n', re.MULTILINE)
_EXPORT = re.compile(r"^export (?=(?:async )?function |class |const )", re.MULTILINE)


@dataclass(frozen=True, kw_only=True)
class PageResult:
    """A page that was written.

    Attributes:
        path: The file.
        num_bytes: Its size.
        sizes: Sides of square images that it takes, `(least, largest, step)`, pixels; None for those of `image_size`.
        image_size: `(H, W)` that it begins with.
        checks: How its graph compares with PyTorch, all softmax weights among the outputs.
    """

    path: Path
    num_bytes: int
    sizes: tuple[int, int, int] | None
    image_size: tuple[int, int]
    checks: tuple[SizeCheck, ...]


def export_page(
    model: str | Path | Loaded = DEFAULT_MODEL,
    output: str | Path = "page.html",
    *,
    image_size: int | tuple[int, int] | None = None,
    examples: Sequence[str | Path] = (),
    overwrite: bool = False,
) -> PageResult:
    """Writes a page on which a classifier answers and shows where it looks, and compares its graph with PyTorch.

    Args:
        model: What `load` takes; a classifier that is a TransNeXt of at most `MAX_PARAMETERS`.
        output: The file.
        image_size: Size of the images, pixels, one number or `(H, W)`, the only one of the page. By default there are
            several to choose from, if the model is for any size.
        examples: Image files to show in the page; by default some of the bundled drawings.
        overwrite: Whether the output may exist.

    Raises:
        FileNotFoundError: There is no such model or example, or no folder for the output.
        OSError: The output cannot be written.
        ValueError: The model cannot be put in a page, an example is no image, or the graph differs from PyTorch.
    """
    output = Path(output)
    require("onnx")
    check_writable(output, overwrite=overwrite)
    if len(examples) > MAX_EXAMPLES:
        raise ValueError(f"{len(examples)} examples are given: a page takes at most {MAX_EXAMPLES}")
    if not isinstance(model, Loaded) and is_exported(model):
        raise ValueError(f"{model} does not give its attention: give the run or the checkpoint that it was made of")
    loaded = load(model)
    net = _checked(loaded)
    pictures = [_example(path) for path in examples] or drawings()
    preprocessing, sizes = loaded.preprocessing, None
    if image_size is not None:
        height, width = (image_size, image_size) if isinstance(image_size, int) else image_size
        for side in (height, width):
            check_number("image_size", side, 1, MAX_SIDE)
        preprocessing = replace(preprocessing, input_size=(preprocessing.input_size[0], height, width))
    else:
        sizes = _sizes(net, preprocessing.input_size[1:])
    blocks = blocks_of(net)
    info = ExportInfo(
        architecture=getattr(net, "pretrained_cfg", {}).get("architecture") or type(net).__name__,
        task="classification",
        outputs=(LOGITS, *(name for block in blocks for name in block.outputs)),
        class_names=tuple(loaded.class_names),
        preprocessing=preprocessing,
        size_multiple=None if sizes is None else sizes[2],
        precision="fp32",
        license=None,
        transnext_version=__version__,
    )
    prepare = prepare_graph(preprocessing).SerializeToString()
    network = WithAttention(net, fixed_size=sizes is None)
    graph = network_graph(network, info).SerializeToString()
    size = info.image_size
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "network.onnx"
        file.write_bytes(graph)
        shapes = shapes_to_check(info.preprocessing.input_size[0], size, info.size_multiple)
        checks = check(OnnxFile(file), network, shapes, f"the graph of {output}")
    name = _name(loaded.name if isinstance(model, Loaded) else model)
    setup = {
        "provider": "ort",
        "credits": _credits(loaded, own=bool(examples)),
        "examples": pictures,
        "model": {
            "id": name,
            "name": name,
            "classes": list(loaded.class_names),
            "sizes": None
            if sizes is None
            else {"min": sizes[0], "max": sizes[1], "step": sizes[2], "default": size[0]},
            "imageSize": list(size),
            "cropShare": preprocessing.crop_pct,
            "mode": net.mode,
            "blocks": [asdict(block) for block in blocks],
        },
    }
    page = _page(setup, prepare, graph)
    write_atomically(output, page)
    return PageResult(path=output, num_bytes=len(page.encode()), sizes=sizes, image_size=size, checks=tuple(checks))


def _checked(loaded: Loaded) -> TransNeXt:
    """The network of a model that a page can hold.

    Raises:
        ValueError: It cannot hold this one.
    """
    name = loaded.name
    if loaded.task.name != "classification":
        raise ValueError(
            f"{name} is a model of {loaded.task.name}, and a page in one file is for classifiers: leave out --export"
        )
    net = loaded.model
    if not isinstance(net, TransNeXt):
        raise ValueError(
            f"{name} is no TransNeXt ({type(net).__name__}): a page shows the attention of TransNeXts only"
        )
    if (count := parameters_of(net)) > MAX_PARAMETERS:
        raise ValueError(
            f"{name} has {count / 1e6:.1f} M parameters, and a page in one file holds at most "
            f"{MAX_PARAMETERS / 1e6:.0f} M, since a browser loads all of them and has one thread: leave out --export"
        )
    return net


def _name(model: str | Path) -> str:
    """What a page calls a model: nothing of where it lies."""
    path = Path(model)
    if path.is_dir():
        return path.resolve().name
    return path.stem if path.is_file() else str(model)


def _sizes(net: TransNeXt, size: tuple[int, int]) -> tuple[int, int, int] | None:
    """Sides of square images that one graph is for, `(least, largest, step)`; None if there is one alone."""
    if net.mode != "extrapolate":
        return None
    multiple = size_multiple(net)
    if size[0] != size[1] or size[0] % multiple:
        return None
    largest = max(size[0], MAX_PAGE_SIDE // multiple * multiple)
    return multiple, largest, multiple


def _page(setup: dict[str, Any], prepare: bytes, graph: bytes) -> str:
    """The page of `page/page.html`, with all that it needs."""
    script = _joined(_ENTRY)
    style = _text("style.css")
    policy = (
        f"default-src 'none'; script-src '{_hash(script)}' 'wasm-unsafe-eval' blob:; style-src '{_hash(style)}'; "
        "img-src blob: data:; base-uri 'none'; form-action 'none'"
    )
    parts = {
        "prepare": _packed(prepare),
        "network": _packed(graph),
        "wasm": _runtime("ort-wasm-simd-threaded.wasm"),
        "ort": _runtime("ort.wasm.bundle.min.mjs"),
    }
    carried = "\n".join(f'<script type="text/plain" id="{name}">{text}</script>' for name, text in parts.items())
    page = _text("page.html")
    charset = '<meta charset="utf-8">'
    scripts = f'{carried}\n<script type="module">{script}</script>'
    for old, new in (
        (charset, f'{charset}\n<meta http-equiv="Content-Security-Policy" content="{policy}">'),
        ('<link rel="stylesheet" href="style.css">', f"<style>{style}</style>"),
        ('{"provider": "server"}', embedded(setup)),
        ('<script type="module" src="start-server.js"></script>', scripts),
        ("</html>", f"<!-- ONNX Runtime Web {RUNTIME_VERSION}:\n{_runtime_license()}-->\n</html>"),
        ("<title>Where it looks</title>", f"<title>Where {escape(setup['model']['name'])} looks</title>"),
    ):
        assert page.count(old) == 1, old
        page = page.replace(old, new)
    return page


def _joined(entry: str) -> str:
    """A module and all that it imports as one: imports give way to what they name, in order."""
    parts: dict[str, str] = {}

    def add(name: str) -> None:
        text = _text(name)
        for imported in _IMPORT.findall(text):
            if imported not in parts:
                add(imported)
        parts[name] = _EXPORT.sub("", _IMPORT.sub("", text))

    add(entry)
    joined = "\n" + "\n".join(parts.values())
    assert not re.search(r"^(import|export) ", joined, re.MULTILINE)
    assert "</script" not in joined
    return joined


def _text(name: str) -> str:
    return (_PACKAGE / "page" / name).read_text(encoding="utf-8")


@functools.cache
def _runtime(name: str) -> str:
    return _packed(lzma.decompress((_PACKAGE / "onnxruntime" / f"{name}.xz").read_bytes()))


def _runtime_license() -> str:
    return (_PACKAGE / "onnxruntime" / "LICENSE").read_text(encoding="utf-8").replace("--", "-")


def _packed(data: bytes) -> str:
    return base64.b64encode(gzip.compress(data, 9, mtime=0)).decode()


def _hash(text: str) -> str:
    return f"sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}"


def embedded(value: Any) -> str:
    """JSON that may stand in an element of a page."""
    text = json.dumps(value, ensure_ascii=False, separators=(",", ":"))
    return text.replace("<", "\\u003c").encode(errors="backslashreplace").decode()


def _example(path: str | Path) -> dict[str, str]:
    """An image file for the page, made smaller if it is large."""
    image = read_image(path, EXAMPLE_SIDE)
    image.thumbnail((2 * EXAMPLE_SIDE, 2 * EXAMPLE_SIDE))
    stream = io.BytesIO()
    image.save(stream, "JPEG", quality=90)
    return _carried(Path(path).name, "image/jpeg", stream.getvalue())


def drawings() -> list[dict[str, str]]:
    """Some of the bundled drawings, which the bundled model has not seen in training."""
    from PIL import Image

    emoji = load_emoji()
    found = []
    for concept in DRAWINGS:
        i = next(
            i
            for i in range(len(emoji))
            if emoji.concept_names[emoji.concepts[i]] == concept and emoji.style_names[emoji.styles[i]] == "noto"
        )
        stream = io.BytesIO()
        Image.fromarray(emoji.images[i]).save(stream, "PNG", optimize=True)
        found.append(_carried(concept, "image/png", stream.getvalue()))
    return found


def _carried(name: str, kind: str, data: bytes) -> dict[str, str]:
    return {"name": name, "type": kind, "data": base64.b64encode(data).decode()}


def _credits(loaded: Loaded, own: bool) -> list[str]:
    said = [f"Made by transnext {__version__}. It computes with ONNX Runtime Web {RUNTIME_VERSION} (Microsoft, MIT)."]
    if not own:
        said.append("The drawings are Noto Emoji (Google Inc., Apache-2.0).")
    return said
