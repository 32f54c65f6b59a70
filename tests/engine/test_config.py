import dataclasses

import pytest

from transnext.engine import TrainConfig


def test_round_trip(tmp_path) -> None:
    config = TrainConfig(data="emoji", epochs=7, crop_scale=(0.3, 0.9), checkpoint="a.pth")
    (tmp_path / "config.json").write_text(config.to_json())
    assert TrainConfig.load(tmp_path / "config.json") == config


def test_every_field_is_documented() -> None:
    import inspect

    source = inspect.getsource(TrainConfig)
    for field in dataclasses.fields(TrainConfig):
        after = source.split(f"    {field.name}: ", 1)[1].split("\n", 2)[1]
        assert after.strip().startswith('"""'), field.name


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"epochs": 0}, "epochs is 0"),
        ({"lr": -1.0}, "lr is -1.0"),
        ({"mix_prob": 1.5}, "mix_prob is 1.5"),
        ({"image_size": 16}, "image_size is 16"),
        ({"crop_scale": (0.9, 0.3)}, "crop_scale is"),
        ({"val_fraction": 1.0}, "val_fraction is 1.0"),
        ({"pretrained": True, "checkpoint": "a.pth"}, "start from one of them"),
    ],
)
def test_impossible_values_are_refused(values, message) -> None:
    with pytest.raises(ValueError, match=message):
        TrainConfig(data="emoji", **values)


@pytest.mark.parametrize("text", ["", "[]", '{"data": "emoji", "crop_scale": [0.1, 1], "no_such": 1}', "{"])
def test_a_damaged_file_is_named(tmp_path, text) -> None:
    (tmp_path / "config.json").write_text(text)
    with pytest.raises(ValueError, match=r"config.json is not the configuration of a run"):
        TrainConfig.load(tmp_path / "config.json")
