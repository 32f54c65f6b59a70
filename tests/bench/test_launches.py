"""Launches on a GPU, counted without one: the budget of a block."""

import pytest

pytest.importorskip("triton")

from transnext.bench import launches
from transnext.bench.launches import launches_of_a_block

OF_A_BLOCK = {
    "addmm": 5,  # one for queries, keys, values and what is pooled; pooled keys and values; output; two of the GLU
    "add_layer_norm": 2,
    "gelu_average_pool": 1,
    "native_layer_norm": 1,  # of what was pooled
    "aggregated_attention": 1,
    "depthwise_conv_gelu_gate": 1,
}


def named(counts: dict[str, int]) -> dict[str, int]:
    return {name: n for name, n in counts.items() if n}


@pytest.mark.parametrize("stage", [0, 1, 2])
def test_inference(stage: int) -> None:
    """At most 12 launches a block, at an odd size too; large tables are computed in pieces."""
    for size in ((224, 224), (67, 98)):
        found = launches_of_a_block(stage=stage, size=size)
        assert named(found.forward) == OF_A_BLOCK
        assert found.forward.total() + found.kernels <= 12
        assert not named(found.backward)


def test_the_plain_way_takes_twice_as_many() -> None:
    assert launches_of_a_block(plain=True).forward.total() == 23


def test_autocast() -> None:
    found = launches_of_a_block(autocast=True)
    casts = found.forward.pop("_to_copy")
    assert named(found.forward) == OF_A_BLOCK
    assert casts == 10


def test_training() -> None:
    """Nothing of tables is launched for another block of a stage, but for its share of gradients."""
    plain, found = (launches_of_a_block(training=True, autocast=True, plain=plain) for plain in (True, False))
    assert (plain.forward.total(), plain.backward.total()) == (40, 58)
    assert (found.forward.total(), found.backward.total()) == (23, 35)
    tables = ("relu", "threshold_backward", "baddbmm", "bmm", "stack", "log2")
    assert not any(found.forward[name] for name in tables)
    assert not any(found.backward[name] for name in ("threshold_backward", "bmm"))


def test_a_table_is_printed(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    empty = launches.Launches(*(launches.Counter({"addmm": 3}),) * 2, 1)
    monkeypatch.setattr(launches, "launches_of_a_block", lambda **_: empty)
    monkeypatch.setattr(launches, "count_launches", lambda *_, **__: empty)
    launches.main()
    assert "a block" in capsys.readouterr().out
