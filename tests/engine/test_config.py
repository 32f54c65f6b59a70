import dataclasses

import pytest

from transnext.config import ImageConfig, OptimConfig, RunConfig, StartConfig, TrainConfig
from transnext.tasks.classification.config import ClassificationConfig


def test_round_trip(tmp_path) -> None:
    config = TrainConfig.of(data="emoji", epochs=7, crop_scale=(0.3, 0.9), checkpoint="a.pth")
    (tmp_path / "config.json").write_text(config.to_json())
    assert TrainConfig.load(tmp_path / "config.json") == config


def test_every_field_is_documented() -> None:
    import inspect

    groups = (TrainConfig, StartConfig, ImageConfig, OptimConfig, RunConfig, ClassificationConfig)
    for group in groups:
        source = inspect.getsource(group)
        for field in dataclasses.fields(group):
            if field.name not in ("start", "images", "optim", "run"):  # their classes say what they are
                after = source.split(f"    {field.name}: ", 1)[1].split("\n", 2)[1]
                assert after.strip().startswith('"""'), field.name


def test_options_have_one_name_each_whatever_their_group() -> None:
    config = TrainConfig.of(data="emoji", lr=0.5, mixup=0.1, output="here")
    assert (config.optim.lr, config.task.mixup, config.output) == (0.5, 0.1, "here")
    assert TrainConfig.from_options(config.options()) == config
    assert config.but(lr=1e-3, mixup=0.2, output="runs/latest") == TrainConfig(data="emoji")
    with pytest.raises(TypeError, match="there is no option 'learning_rate'"):
        config.but(learning_rate=1.0)


def test_a_configuration_of_an_older_version_is_of_a_classifier() -> None:
    values = TrainConfig(data="emoji").options()
    assert values.pop("task") == "classification"
    assert TrainConfig.from_options(values) == TrainConfig(data="emoji")
    with pytest.raises(ValueError, match="no task is called 'poetry'"):
        TrainConfig.from_options({**values, "task": "poetry"})


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"epochs": 0}, "epochs is 0"),
        ({"lr": -1.0}, "lr is -1.0"),
        ({"lr": 5e-6}, "lr is 5e-06 and would rise to min_lr, 1e-05: give a smaller --min-lr, too"),
        ({"lr": 5e-6, "schedule": "poly"}, "would rise to min_lr"),
        ({"mix_prob": 1.5}, "mix_prob is 1.5"),
        ({"image_size": 16}, "image_size is 16"),
        ({"crop_scale": (0.9, 0.3)}, "crop_scale is"),
        ({"val_fraction": 1.0}, "val_fraction is 1.0"),
        ({"pretrained": True, "checkpoint": "a.pth"}, "start from one of them"),
    ],
)
def test_impossible_values_are_refused(values, message) -> None:
    with pytest.raises(ValueError, match=message):
        TrainConfig.of(data="emoji", **values)


@pytest.mark.parametrize("text", ["", "[]", '{"data": "emoji", "crop_scale": [0.1, 1], "no_such": 1}', "{"])
def test_a_damaged_file_is_named(tmp_path, text) -> None:
    (tmp_path / "config.json").write_text(text)
    with pytest.raises(ValueError, match=r"config.json is not the configuration of a run"):
        TrainConfig.load(tmp_path / "config.json")
