"""The rule by which variants of GPU kernels are kept, with made-up times."""

from typing import Any

import pytest

from gpu_decisions import DEPTHS, NOT_CHECKED, beside_bars, decide, decide_all

STAGES = list(DEPTHS)
BEFORE = dict(zip(STAGES, (100.0, 50.0, 20.0, 10.0), strict=True))  # 200 + 100 + 300 + 20 in all blocks


def faster(**shares: float) -> dict[str, float]:
    """Times, in shares of those before, by the last digit of the stage."""
    return {stage: time * shares.get(f"s{stage[-1]}", 1.0) for stage, time in BEFORE.items()}


def test_depths_are_those_of_the_network() -> None:
    assert list(DEPTHS.values()) == [2, 2, 15, 2]


@pytest.mark.parametrize(
    ("after", "passed", "line"),
    [
        (faster(s3=0.8), True, "A1: +9.7 %, keep"),  # 60 of 620
        (faster(s1=0.8), True, "A1: +6.5 %, keep"),  # 40 of 620
        (faster(s2=0.7), True, "A1: +4.8 %, drop"),  # 30 of 620
        (faster(s1=0.5, s3=1.4), True, "A1: -3.2 %, drop"),  # what one stage gains, another may lose
        (faster(s3=0.8), False, "A1: +9.7 %, drop (its values are wrong)"),
        (faster(s3=0.8), None, "A1: +9.7 %, open (its values were not checked)"),
        (faster(s2=0.7), None, "A1: +4.8 %, drop"),  # however right it may be
        ({stage: BEFORE[stage] / 2 for stage in STAGES[:2]}, True, "A1: not measured, open (not measured in "),
    ],
)
def test_rule(after: dict[str, float], passed: bool | None, line: str) -> None:
    assert decide("A1", BEFORE, after, passed).line.startswith(line)


def test_least_gain_is_enough() -> None:
    assert decide("A1", {"x": 100.0}, {"x": 95.0}, True, depths={"x": 1}).verdict == "keep"
    assert decide("A1", {"x": 100.0}, {"x": 95.1}, True, depths={"x": 1}).verdict == "drop"


def test_what_cannot_be_launched_is_dropped() -> None:
    decision = decide("A1", BEFORE, faster(), True, {STAGES[2]: "OutOfResources: shared memory"})
    assert decision.line == "A1: not measured, drop (224 stage 3: OutOfResources: shared memory)"


def test_stages_without_the_kernel_do_not_count() -> None:
    before = {stage: BEFORE[stage] for stage in STAGES[:3]}
    decision = decide("A1", before, {stage: time * 0.9 for stage, time in before.items()}, True)
    assert decision.saved_us == pytest.approx(60)
    assert decision.verdict == "keep"


def test_nothing_measured() -> None:
    assert decide("A1", {}, {}, True).line == "A1: not measured, open (not measured in any stage)"


def variant(name: str, kernel: str = "k", is_config: bool = True, state: str = "open") -> dict[str, Any]:
    return {"name": name, "state": state, "kernels": [kernel], "is_config": is_config}


def times(name: str, share: float, stages: tuple[str, ...] = tuple(STAGES)) -> list[dict[str, Any]]:
    return [
        {"variant": name, "stage": s, "us_before": BEFORE.get(s, 40.0), "us_after": BEFORE.get(s, 40.0) * share}
        for s in stages
    ]


def test_a_line_for_each_variant_and_for_what_is_first_of_each_kernel() -> None:
    variants = [
        variant("A1", state="adopted"),
        variant("tiles 64"),
        variant("tiles 128"),
        variant("number", is_config=False),
        variant("warps", "other"),
    ]
    measured = [
        *times("tiles 64", 0.9, (*STAGES, "800x1216 stage 1")),
        *times("tiles 128", 0.8),
        *times("number", 0.5),
        {"variant": "warps", "stage": STAGES[0], "error": "CompilationError"},
    ]
    checks = [{"check": f"variant {name}", "passed": True} for name in ("tiles 64", "tiles 128", "warps")]
    checks += [{"check": "variant number", "passed": passed} for passed in (True, False)]
    rows = decide_all(variants, measured, checks)
    assert [row["decision"] for row in rows] == [
        "tiles 64: +10.0 %, keep",
        "tiles 128: +20.0 %, keep",
        "number: +50.0 %, drop (its values are wrong)",
        f"warps: not measured, drop ({STAGES[0]}: CompilationError)",
        "first of k: +20.0 %, drop (tiles 128 takes its place)",
        "first of other: +0.0 %, keep",
    ]
    assert rows[0]["at_800x1216"] == "+10.0%"


def test_first_is_open_while_its_rivals_are() -> None:
    rows = decide_all([variant("a"), variant("b")], times("a", 1.0), [{"check": "variant a", "passed": True}])
    assert rows[-1]["decision"] == "first of k: +0.0 %, open (1 of 2 are open)"
    rows = decide_all([variant("a")], times("a", 0.5), [])
    assert rows[0]["decision"].endswith(NOT_CHECKED)


def test_bars() -> None:
    models = [
        {"model": "transnext_tiny", "mode": "bfloat16 eager", "images_per_s": 9000.0, "gmacs": 5.7},
        {"model": "transnext_tiny", "mode": "training eager", "images_per_s": 1000.0, "gmacs": 5.7},
        {"model": "transnext_tiny", "mode": "training compiled", "images_per_s": 2600.0, "gmacs": 5.7},
        {"model": "transnext_tiny", "mode": "bfloat16 compiled", "error": "RuntimeError"},
        {"model": "convnext_tiny", "mode": "bfloat16 eager", "images_per_s": 10000.0, "gmacs": 4.5},
        {"model": "swin_tiny", "mode": "bfloat16 eager", "images_per_s": 5000.0, "gmacs": 4.5},
    ]
    rows = {row["what"]: row for row in beside_bars(models)}
    assert rows["transnext_tiny, bfloat16 eager, images/s"]["reached"] is True
    assert rows["transnext_tiny, bfloat16 compiled, graph, images/s"]["found"] is None
    assert rows["transnext_tiny, training, images/s"]["found"] == 2600.0
    ratio = rows["transnext_tiny, bfloat16 eager, multiply-adds/s over ConvNeXt's"]
    assert ratio == {**ratio, "found": 1.14, "bar": 1.0, "reached": True}
    assert rows["swin_tiny, bfloat16 eager, multiply-adds/s over ConvNeXt's"]["bar"] is None
