import functools
import json

import pytest

from transnext.engine import run_report, train
from transnext.engine.run_report import report
from transnext.models.checkpoint import read_checkpoint, save_checkpoint


@pytest.fixture
def run(config):
    train(config, quiet=True)
    return config.output


def test_what_was_measured_stays_until_the_weights_change(run, tmp_path, monkeypatch):
    folder = tmp_path / "run"
    page = folder / "report.html"
    basic = page.read_text(encoding="utf-8")
    assert "Calibration" in basic
    assert "Image sizes" not in basic
    fewer = {"measure_robustness": {"corruptions": ("fog",)}, "measure_scales": {"scales": (1,)}}
    for name, options in fewer.items():
        monkeypatch.setattr(run_report, name, functools.partial(getattr(run_report, name), **options))
    assert report(run, robustness=True, scales=True, workers=0, device="cpu") == page
    full = page.read_text(encoding="utf-8")
    for part in ("Image sizes", "Corrupted images", "GMACs per image", "fog"):
        assert part in full
    assert json.loads((folder / "scales.json").read_text())["trained_size"] == 32
    assert json.loads((folder / "robustness.json").read_text())["images"] == 8

    report(run, workers=0, device="cpu")
    assert "Image sizes" in page.read_text(encoding="utf-8")

    best = folder / "best.safetensors"
    checkpoint = read_checkpoint(best)
    save_checkpoint(best, {k: v + 0.01 for k, v in checkpoint.state_dict.items()}, checkpoint.metadata)
    report(run, workers=0, device="cpu")
    assert "Image sizes" not in page.read_text(encoding="utf-8")


def test_no_run(tmp_path):
    with pytest.raises(FileNotFoundError, match="is not a run folder"):
        report(tmp_path)
