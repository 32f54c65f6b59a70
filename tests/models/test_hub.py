"""Pretrained weights from the hub, downloaded for real from a small server on this machine."""

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from timm.models import get_pretrained_cfg
from torch import nn

from tests.helpers.hub import Hub, client_settings, serve
from transnext.models.checkpoint import convert_checkpoint, save_checkpoint

__all__ = ["serve"]

HUB = {
    "transnext_micro.in1k": ("transnext-micro-224-1k", 224),
    "transnext_tiny.in1k": ("transnext-tiny-224-1k", 224),
    "transnext_small.in1k": ("transnext-small-224-1k", 224),
    "transnext_base.in1k": ("transnext-base-224-1k", 224),
    "transnext_small.in1k_384": ("transnext-small-384-1k-ft-1k", 384),
    "transnext_base.in1k_384": ("transnext-base-384-1k-ft-1k", 384),
    "transnext_micro_aaaa.in1k": ("transnext-micro-AAAA-256-1k", 256),
}

IMAGE = "torch.linspace(-2, 2, 3 * 64 * 96).view(1, 3, 64, 96).sin()"

CHILD = f"""
import json, sys, timm, torch, transnext
for line in sys.stdin:
    name, kwargs = json.loads(line)
    torch.manual_seed(1)
    try:
        model = timm.create_model(name, pretrained=True, **kwargs).eval()
        with torch.no_grad():
            out = model({IMAGE}[:, : kwargs.get("in_chans", 3)])
        print(json.dumps({{"shape": list(out.shape), "out": out.flatten()[:50].tolist()}}))
    except Exception as error:
        print(json.dumps({{"error": type(error).__name__, "message": str(error)}}))
"""


def _path(tag: str) -> str:
    repository = HUB[tag][0]
    return f"/DaiShiResearch/{repository}/resolve/main/{repository.replace('-', '_')}.pth"


def _create(url: str, home: Path, calls: list[tuple[str, dict[str, Any]]], offline: bool = False) -> list[dict]:
    """What `create_model(..., pretrained=True)` gives in a fresh process: the client reads its settings at import."""
    result = subprocess.run(
        [sys.executable, "-c", CHILD],
        input="\n".join(json.dumps(call) for call in calls),
        env=client_settings(url, home, offline),
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
    )
    answers = [json.loads(line) for line in result.stdout.splitlines()]
    assert len(answers) == len(calls), result.stderr
    return answers


@pytest.fixture(scope="module")
def micro(randomise: Callable[[nn.Module], nn.Module]) -> nn.Module:
    return randomise(timm.create_model("transnext_micro")).eval()


@pytest.fixture(scope="module")
def released(micro: nn.Module, tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """A file like the released one: official names, under "model"."""
    folder = tmp_path_factory.mktemp("released")
    save_checkpoint(folder / "ours.safetensors", micro.state_dict(), {})
    convert_checkpoint(folder / "ours.safetensors", folder / "official.pth", "official")
    return (folder / "official.pth").read_bytes()


@pytest.mark.parametrize("tag", HUB)
def test_released_weights_are_where_they_were_published(tag: str) -> None:
    repository, size = HUB[tag]
    cfg = get_pretrained_cfg(tag)
    assert cfg.hf_hub_id == f"DaiShiResearch/{repository}"
    assert cfg.hf_hub_filename == f"{repository.replace('-', '_')}.pth"
    assert cfg.input_size == (3, size, size)


def test_the_plain_name_is_the_224_model() -> None:
    for variant in ("micro", "tiny", "small", "base", "micro_aaaa"):
        assert get_pretrained_cfg(f"transnext_{variant}").tag == "in1k"


def test_download_then_offline_from_the_cache(
    serve: Callable[[dict[str, bytes]], Hub], micro: nn.Module, released: bytes, tmp_path: Path
) -> None:
    hub = serve({_path("transnext_micro.in1k"): released})
    calls: list[tuple[str, dict[str, Any]]] = [
        ("transnext_micro", {}),
        ("transnext_micro.in1k", {"num_classes": 10, "in_chans": 1}),
    ]
    first, adapted = _create(hub.url, tmp_path, calls)
    assert "error" not in first, first
    assert "error" not in adapted, adapted
    with torch.no_grad():
        expected = micro(eval(IMAGE)).flatten()[:50]
    assert torch.tensor(first["out"]).sub(expected).abs().max() < 1e-4
    assert expected.std() > 0.1
    assert first["shape"] == [1, 1000]
    assert adapted["shape"] == [1, 10]
    assert hub.downloads == [_path("transnext_micro.in1k")]

    hub.shutdown()
    hub.server_close()
    cached, absent = _create(hub.url, tmp_path, [("transnext_micro", {}), ("transnext_tiny", {})], offline=True)
    assert cached == first
    assert absent["error"] == "CheckpointError"
    assert "transnext_tiny_224_1k.pth" in absent["message"]
    assert "DaiShiResearch/transnext-tiny-224-1k" in absent["message"]
    assert "cannot be reached" in absent["message"]
    assert "\n" not in absent["message"]


def test_wrong_files_on_the_hub(serve: Callable[[dict[str, bytes]], Hub], released: bytes, tmp_path: Path) -> None:
    hub = serve(
        {
            _path("transnext_tiny.in1k"): released,
            _path("transnext_micro_aaaa.in1k"): b"<!DOCTYPE html><html><body>Sign in</body></html>",
            _path("transnext_micro.in1k"): released[: len(released) // 2],
            _path("transnext_small.in1k").replace(".pth", ".txt"): b"another file of the repository",
        }
    )
    names = ["transnext_tiny", "transnext_micro_aaaa", "transnext_micro", "transnext_small", "transnext_small.in1k_384"]
    answers = _create(hub.url, tmp_path, [(name, {}) for name in names])
    assert [answer.get("error") for answer in answers] == ["CheckpointError"] * 5, answers
    variant, page, cut, no_file, no_repository = [answer["message"] for answer in answers]
    assert "does not fit transnext_tiny" in variant
    assert "looks like transnext_micro:" in variant
    assert "web page" in page
    assert "cut off" in cut
    assert "transnext_small_224_1k.pth of DaiShiResearch/transnext-small-224-1k on the hub does not exist" in no_file
    assert "transnext-small-384-1k-ft-1k on the hub does not exist" in no_repository
    assert not any("\n" in answer["message"] for answer in answers)


@pytest.mark.slow  # the client tries again for half a minute
def test_no_server_and_no_cache(serve: Callable[[dict[str, bytes]], Hub], tmp_path: Path) -> None:
    hub = serve({})
    hub.shutdown()
    hub.server_close()
    (answer,) = _create(hub.url, tmp_path, [("transnext_micro", {})])
    assert answer["error"] == "CheckpointError"
    assert "transnext_micro_224_1k.pth" in answer["message"]
    assert "\n" not in answer["message"]


def test_a_variant_without_weights_says_so() -> None:
    with pytest.raises(ValueError, match="no pretrained weights of transnext_nano"):
        timm.create_model("transnext_nano", pretrained=True)
