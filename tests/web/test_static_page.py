"""The page of one file, as it is written: what is in it, and what cannot be put in one."""

import base64
import gzip
import hashlib
import json
import lzma
import re
from dataclasses import replace
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch
from PIL import Image

import transnext  # noqa: F401  (registers the models)
from transnext.cli import main
from transnext.data.preprocessing import Preprocessing
from transnext.models.checkpoint import save_checkpoint
from transnext.tasks.classification.loading import loaded_classifier
from transnext.tasks.task import task_class
from transnext.web import static_page
from transnext.web.static_page import MAX_PARAMETERS, RUNTIME_VERSION, export_page

onnxruntime = pytest.importorskip("onnxruntime")
pytest.importorskip("onnxscript")

PACKAGE = resources.files("transnext.web")
MEGABYTE = 1_000_000


def fails(capsys: pytest.CaptureFixture[str], *args: str) -> str:
    """The single line that a mistake gives, with exit status 2."""
    with pytest.raises(SystemExit) as exit_:
        main(["web", *args])
    assert exit_.value.code == 2
    error = capsys.readouterr().err.strip()
    assert "\n" not in error
    return error


def setup_of(page: str) -> dict[str, Any]:
    (text,) = re.findall(r'<script type="application/json" id="setup">(.*?)</script>', page)
    return json.loads(text)


def test_the_page_of_the_bundled_model(pico_page: Path) -> None:
    page = pico_page.read_text(encoding="utf-8")
    assert pico_page.stat().st_size <= 11 * MEGABYTE
    setup = setup_of(page)
    assert setup["provider"] == "ort"
    assert setup["model"]["sizes"] == {"min": 32, "max": 448, "step": 32, "default": 64}
    assert len(setup["model"]["classes"]) == 22
    blocks = [(b["stage"], b["stride"], b["window"]) for b in setup["model"]["blocks"]]
    assert blocks == [(0, 4, 3), (1, 8, 3), (2, 16, 3), (2, 16, 3), (2, 16, 3), (3, 32, None)]
    assert len(setup["examples"]) == 6
    # Everything is inside: no address of another place but in comments and text, none in an attribute.
    assert not re.search(r'(?:src|href|action)\s*=\s*["\']?(?:https?:)?//', page)
    for private in (Path(__file__).resolve().parents[2], Path.home(), pico_page.parent):
        assert str(private) not in page, "nobody learns where it was made"


def test_scripts_and_styles_are_the_ones_that_the_policy_names(pico_page: Path) -> None:
    page = pico_page.read_text(encoding="utf-8")
    (policy,) = re.findall(r'http-equiv="Content-Security-Policy" content="([^"]*)"', page)
    assert "default-src 'none'" in policy
    assert "unsafe-inline" not in policy
    assert "connect-src" not in policy
    for tag in ("script", "style"):
        inner = re.findall(rf'<{tag}(?: type="module")?>(.*?)</{tag}>', page, re.DOTALL)
        assert len(inner) == 1
        digest = base64.b64encode(hashlib.sha256(inner[0].encode()).digest()).decode()
        assert f"{tag}-src 'sha256-{digest}'" in policy


def test_the_runtime_is_the_published_one(pico_page: Path) -> None:
    said = (PACKAGE / "onnxruntime" / "ATTRIBUTION.md").read_text(encoding="utf-8")
    assert f"ONNX Runtime Web {RUNTIME_VERSION}" in said
    page = pico_page.read_text(encoding="utf-8")
    for name, element in (("ort.wasm.bundle.min.mjs", "ort"), ("ort-wasm-simd-threaded.wasm", "wasm")):
        data = lzma.decompress((PACKAGE / "onnxruntime" / f"{name}.xz").read_bytes())
        assert f"| `{name}` | {len(data):,} | `{hashlib.sha256(data).hexdigest()}` |" in said
        (text,) = re.findall(rf'id="{element}">([^<]*)<', page)
        assert gzip.decompress(base64.b64decode(text)) == data
    license_ = (PACKAGE / "onnxruntime" / "LICENSE").read_text(encoding="utf-8")
    assert license_.startswith("MIT License")
    assert license_ in page


def test_modules_share_no_names() -> None:
    """They stand in one script in the page."""
    joined = static_page._joined("start-ort.js")
    names = re.findall(r"^(?:async )?(?:function|class|const|let) (\w+)", joined, re.MULTILINE)
    assert len(names) > 40
    assert sorted(names) == sorted(set(names))
    for name in ("Painter", "Controls", "Explorer", "OrtProvider", "heatOf"):
        assert name in names


def test_names_cannot_end_the_script() -> None:
    page = static_page.embedded({"name": "</script><script>alert(1)</script>"})
    assert "<" not in page
    assert json.loads(page)["name"] == "</script><script>alert(1)</script>"


@pytest.fixture
def small(tmp_path: Path) -> Path:
    """A checkpoint of two blocks for images of 28 pixels, no multiple of anything."""
    arguments = {
        "img_size": 28,
        "num_classes": 2,
        "embed_dims": (8, 16),
        "num_heads": (1, 2),
        "mlp_ratios": (2, 2),
        "depths": (1, 1),
        "sr_ratios": (2, 1),
    }
    torch.manual_seed(0)
    preprocessing = Preprocessing(
        input_size=(3, 28, 28),
        mean=(0.5,) * 3,
        std=(0.2,) * 3,
        interpolation="bilinear",
        crop_pct=1.0,
        crop_mode="border",
    )
    metadata = {
        "architecture": "transnext_pico",
        "model_args": arguments,
        "class_names": ["<b>", "é"],
        "preprocessing": preprocessing.to_dict(),
    }
    path = tmp_path / "small.safetensors"
    save_checkpoint(path, timm.create_model("transnext_pico", **arguments).state_dict(), metadata)
    return path


def test_a_checkpoint_and_own_examples(small: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (900, 3000, 3), np.uint8)).save(tmp_path / "wide.png")
    output = tmp_path / "page.html"
    main(["web", str(small), "--export", str(output), "--examples", str(tmp_path / "wide.png")])
    printed = capsys.readouterr().out
    assert "images of 28x28\n" in printed
    assert "differ from PyTorch by" in printed
    setup = setup_of(output.read_text(encoding="utf-8"))
    assert setup["model"]["name"] == "small"
    assert setup["model"]["classes"] == ["<b>", "é"]
    assert setup["model"]["sizes"] is None
    (example,) = setup["examples"]
    assert example["name"] == "wide.png"
    assert len(example["data"]) < MEGABYTE
    assert not any("Noto" in line for line in setup["credits"])
    # It is not replaced unasked.
    assert "exists" in fails(capsys, str(small), "--export", str(output))


def test_what_cannot_be_put_in_a_page(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    output = str(tmp_path / "page.html")
    missing = fails(capsys, "no/such", "--export", output)
    assert "no/such" in missing
    assert "exported" not in missing
    assert "2 are given" in fails(capsys, "a", "b", "--export", output)
    assert "no folder" in fails(capsys, "--export", str(tmp_path / "none" / "page.html"))
    assert "image_size is (1, 2, 3)" in fails(capsys, "--export", output, "--image-size", "1", "2", "3")
    assert "image_size is 0" in fails(capsys, "--export", output, "--image-size", "0")
    assert "missing.png" in fails(capsys, "--export", output, "--examples", "missing.png")
    (tmp_path / "text.png").write_text("no image")
    assert "text.png" in fails(capsys, "--export", output, "--examples", str(tmp_path / "text.png"))
    (tmp_path / "model.onnx").write_bytes(b"")
    assert "does not give its attention" in fails(capsys, str(tmp_path / "model.onnx"), "--export", output)
    assert not Path(output).exists()


def loaded(name: str, **arguments: Any) -> Any:
    model = timm.create_model(name, **arguments).eval()
    return loaded_classifier(model, ["a", "b"], Preprocessing.of_model(model), name)


def test_large_models_and_other_families_are_refused(tmp_path: Path) -> None:
    output = tmp_path / "page.html"
    with pytest.raises(ValueError, match=r"transnext_tiny has 27\.\d M parameters, .* at most 15 M"):
        export_page(loaded("transnext_tiny", num_classes=2), output)
    with pytest.raises(ValueError, match="resnet18 is no TransNeXt"):
        export_page(loaded("resnet18", num_classes=2), output)
    assert MAX_PARAMETERS == 15_000_000
    assert not output.exists()


def test_detectors_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    task = task_class("detection")(metadata={"class_names": ["a"]})
    detector = replace(loaded("transnext_pico", num_classes=2), task=task)
    monkeypatch.setattr(static_page, "load", lambda model: model)
    with pytest.raises(ValueError, match=r"transnext_pico is a model of detection, .* leave out --export"):
        export_page(detector, tmp_path / "page.html")
