"""`transnext demo detect`, with a few scenes instead of all."""

import json
import re
from pathlib import Path

import pytest

from transnext import demo as drawings
from transnext.cli import demo, main
from transnext.config import TrainConfig
from transnext.data.detection import scenes
from transnext.engine import trainer
from transnext.engine.run_folder import TrainResult

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture
def quick(monkeypatch):
    whole = demo.demo_config
    monkeypatch.setattr(demo, "demo_config", lambda output: whole(output).but(epochs=1, workers=0))
    monkeypatch.setattr(scenes, "SCENES", {"train": 4, "val": 3, "shift": 3})
    scenes.scene_splits.cache_clear()
    yield
    scenes.scene_splits.cache_clear()


def test_it_trains_answers_and_names_the_page(quick, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    main(["demo", "detect"])
    out = capsys.readouterr().out
    for split, number in demo.SHOWN.items():
        found = re.findall(rf"^  scenes/{split}/\d{{4}}: \d .*\n    found: .+$", out, re.MULTILINE)
        assert len(found) == number
    page = Path(re.search(r"Look at (.+)$", out.strip()).group(1))
    assert page.parent == Path("runs/demo_detect")
    assert "<html" in page.read_text()
    results = json.loads((page.parent / "results.json").read_text())
    assert set(results) == {"train", "val", "shift"}
    assert results["val"]["mask"] is not None

    (page.parent / "of the first").touch()
    main(["demo", "detect"])  # which it replaces
    assert page.exists()
    assert not (page.parent / "of the first").exists()


@pytest.mark.parametrize("run", [drawings.main, lambda: main(["demo", "detect"])])
def test_what_was_stopped_does_not_answer(run, tmp_path, monkeypatch, capsys):
    where = {"folder": Path("a"), "report": Path("a/report.html")}
    stopped = TrainResult(**where, history=[], results=[], interrupted=True, signal=2)
    monkeypatch.setattr(trainer, "train", lambda config: stopped)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as ended:
        run()
    assert ended.value.code == 130
    assert "Look at" not in capsys.readouterr().out


def test_other_runs_are_not_replaced(quick, tmp_path, capsys):
    config = TrainConfig.of(task="detection", data="scenes", output=str(tmp_path / "a"))
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "config.json").write_text(config.to_json())
    with pytest.raises(SystemExit):
        main(["demo", "detect", "--output", str(tmp_path / "a")])
    assert "already holds a run" in capsys.readouterr().err
    assert (tmp_path / "a" / "config.json").read_text() == config.to_json()


def test_scenes_are_a_name_for_detection_alone(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert TrainConfig.of(task="detection", data="scenes").with_absolute_paths().data == "scenes"
    assert TrainConfig.of(data="scenes").with_absolute_paths().data == str(tmp_path / "scenes")
    assert TrainConfig.of(data="emoji").with_absolute_paths().data == "emoji"
