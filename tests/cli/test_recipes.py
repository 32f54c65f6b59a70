import pytest

import transnext
from transnext.cli import main
from transnext.tasks.classification.recipes import RECIPES


@pytest.fixture
def seen(monkeypatch):
    """The configurations that `transnext train` was about to train."""
    configs = []

    def run(config, **_):
        configs.append(config)
        raise ValueError("not trained")

    monkeypatch.setattr("transnext.engine.trainer.train", run)
    return configs


def ends_in(capsys, code: int, *args: str) -> str:
    with pytest.raises(SystemExit) as exit_:
        main(list(args))
    assert exit_.value.code == code
    printed = capsys.readouterr()
    return printed.out + printed.err


def test_the_list(capsys) -> None:
    main(["recipes"])
    out = capsys.readouterr().out
    for name in RECIPES:
        assert name in out
    row = next(line for line in out.splitlines() if "micro_aaaa_in1k" in line)
    assert row.replace("│", " ").split()[-5:] == ["256", "300", "1024", "0.001", "0.15"]


def test_one_recipe_with_all_its_values(capsys) -> None:
    main(["recipes", "base_in1k_384"])
    rows = [line.replace("│", " ").split() for line in capsys.readouterr().out.splitlines()]
    assert ["--drop-path", "0.8", "0.05"] in rows
    assert ["--crop-mode", "squash", "None"] in rows
    assert ["--seed", "0"] in rows


def test_options_change_a_recipe(seen, capsys) -> None:
    ends_in(capsys, 2, "train", "imagenet/", "--recipe", "tiny_in1k")
    ends_in(capsys, 2, "train", "--recipe=tiny_in1k", "imagenet/", "--epochs", "5", "--precision", "fp32")
    ends_in(capsys, 2, "train", "photos/", "--recipe", "own_images", "--no-pretrained", "--checkpoint", "a.pth")
    ends_in(capsys, 2, "train", "photos/", "--recipe", "own_images", "--no-balanced", "--compile")
    whole, changed, checkpoint, flags = seen
    assert whole == transnext.recipe("tiny_in1k", "imagenet/")
    assert (changed.epochs, changed.run.precision, changed.start.drop_path) == (5, "fp32", 0.25)
    assert (checkpoint.start.pretrained, checkpoint.start.checkpoint, checkpoint.optim.layer_decay) == (
        False,
        "a.pth",
        0.85,
    )
    assert (flags.task.balanced, flags.run.compile, flags.start.pretrained) == (False, True, True)


def test_mistakes(seen, capsys) -> None:
    for command in (["train", "emoji", "--recipe", "huge"], ["recipes", "huge"]):
        error = ends_in(capsys, 2, *command).strip()
        assert error.startswith("transnext: no recipe is called 'huge': choose one of micro_in1k")
        assert "\n" not in error
    assert "DATA" in ends_in(capsys, 2, "train", "--recipe", "tiny_in1k")
    assert "recipe" in ends_in(capsys, 2, "train", "emoji", "--recipe")
    both = ends_in(capsys, 2, "train", "emoji", "--recipe", "own_images", "--checkpoint", "a.pth")
    assert "start from one of them" in " ".join(both.replace("│", " ").split())
    assert not seen


def test_help_shows_the_values_of_the_recipe(capsys) -> None:
    out = " ".join(ends_in(capsys, 0, "train", "--recipe", "base_in1k", "--help").replace("│", " ").split())
    assert "grows linearly from 0. (default: 0.6)" in out
    assert "transnext recipes" in out


def test_a_recipe_is_only_that_of_training(capsys) -> None:
    assert "recipe" in ends_in(capsys, 2, "info", "--recipe", "tiny_in1k")
