"""What `transnext export` says of what it wrote."""

from types import SimpleNamespace

import pytest

from transnext.cli.export import _lines


@pytest.mark.parametrize(
    ("task", "whom"),
    [
        ("classification", "for timm and transformers"),
        ("features", "for timm and transformers"),
        ("detection", "for transnext"),
        ("segmentation", "for transnext"),
    ],
)
def test_folders_are_for_those_who_can_open_them(task: str, whom: str) -> None:
    info = SimpleNamespace(task=task, image_size=(64, 96), size_multiple=None, precision="fp32", outputs=("x",))
    (line, _) = _lines(SimpleNamespace(path="a", format="hf", info=info, checks=[], notes=()), 18)
    assert line == f"a: {whom}, fp32, images of 64x96 to x"
