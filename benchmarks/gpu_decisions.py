"""The rule by which variants of kernels are kept or dropped, written before anything was timed.

A variant is kept if the kernels that it changes take at least 5 % less time, summed over the stages of TransNeXt-Tiny
at 224x224 and batch 128, each as often as the network has it (2, 2, 15, 2 blocks), and if it passes the check of its
values. One that fails the check, cannot be launched in some stage or gains less is dropped. What was not measured in
all stages, or not checked, stays open. Numbers at 800x1216 stand beside, and decide nothing.
"""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

DEPTHS = {"224 stage 1": 2, "224 stage 2": 2, "224 stage 3": 15, "224 stage 4": 2}
"""Blocks of TransNeXt-Tiny in each stage. The last one has a gate, and attention by SDPA."""

LEAST_GAIN = 0.05

BARS = {"bfloat16 eager": 8000.0, "bfloat16 compiled, graph": 9500.0, "training": 2500.0}
"""Images/s of TransNeXt-Tiny at 224x224, batch 128, that were set for an H100; training in the better of its modes."""

NOT_CHECKED = "open (its values were not checked)"
"""How a line ends that only a check is missing for."""


class Decision(NamedTuple):
    """What the rule says of a variant.

    Attributes:
        variant: Its name.
        gain: Share of the time that it saves; None if that is not known.
        saved_us: Microseconds that it saves in all blocks of the network.
        verdict: "keep", "drop" or "open".
        why: A few words more, or "".
    """

    variant: str
    gain: float | None
    saved_us: float | None
    verdict: str
    why: str = ""

    @property
    def line(self) -> str:
        """`A1: +12.3 %, keep`."""
        gain = "not measured" if self.gain is None else f"{self.gain:+.1%}".replace("%", " %")
        return f"{self.variant}: {gain}, {self.verdict}{f' ({self.why})' if self.why else ''}"


def decide(
    variant: str,
    before: Mapping[str, float],
    after: Mapping[str, float],
    passed: bool | None,
    errors: Mapping[str, str] | None = None,
    depths: Mapping[str, int] = DEPTHS,
) -> Decision:
    """Applies the rule.

    Args:
        variant: Its name.
        before: Microseconds of the kernels as they are, by stage; stages that they do not run in are left out.
        after: Those of the variant; stages that were not measured are left out.
        passed: Whether its values are right; None if that was not checked.
        errors: Why it could not be launched, by stage.
        depths: Blocks in each stage.
    """
    errors = errors or {}
    stages = [stage for stage in depths if stage in before or stage in errors]
    failed = [stage for stage in stages if stage in errors]
    missing = [stage for stage in stages if stage not in after and stage not in errors]
    if failed:
        return Decision(variant, None, None, "drop", f"{failed[0]}: {errors[failed[0]]}")
    gain = saved = None
    if stages and not missing:
        total = sum(depths[stage] * before[stage] for stage in stages)
        saved = total - sum(depths[stage] * after[stage] for stage in stages)
        gain = saved / total
    if passed is False:
        return Decision(variant, gain, saved, "drop", "its values are wrong")
    if gain is None or saved is None:
        return Decision(variant, None, None, "open", f"not measured in {', '.join(missing) or 'any stage'}")
    if gain < LEAST_GAIN:
        return Decision(variant, gain, saved, "drop")
    if passed is None:
        return Decision(variant, gain, saved, "open", "its values were not checked")
    return Decision(variant, gain, saved, "keep")


def decide_all(
    variants: Sequence[Mapping[str, Any]],
    times: Sequence[Mapping[str, Any]],
    checks: Sequence[Mapping[str, Any]],
    depths: Mapping[str, int] = DEPTHS,
) -> list[dict[str, Any]]:
    """Rows of decisions, one for each variant that is timed, then one for each kernel: what is first in its list.

    Args:
        variants: Rows `name`, `state`, `kernels`, `is_config`, in the order of decisions.
        times: Rows `variant`, `stage`, `us_before`, `us_after`, or `error` instead of these.
        checks: Rows `check` ("variant" and the name) and `passed`.
        depths: Blocks in each stage.
    """
    rows, decisions = [], {}
    for variant in variants:
        if variant["state"] != "open":
            continue
        name = variant["name"]
        own = [row for row in times if row["variant"] == name]
        passed = [bool(row["passed"]) for row in checks if row["check"] == f"variant {name}"]
        decision = decide(
            name,
            {row["stage"]: row["us_before"] for row in own if row.get("us_before")},
            {row["stage"]: row["us_after"] for row in own if row.get("us_after")},
            all(passed) if passed else None,
            {row["stage"]: row["error"] for row in own if row.get("error")},
            depths,
        )
        decisions[name] = decision
        other = [row for row in own if row["stage"] not in depths and row.get("us_after")]
        spent = sum(row["us_before"] for row in other)
        beside = (spent - sum(row["us_after"] for row in other)) / spent if spent else None
        rows.append(_cells(decision, "" if beside is None else f"{beside:+.1%}"))
    for kernel in dict.fromkeys(v["kernels"][0] for v in variants if v["state"] == "open" and v["is_config"]):
        own_configs = [
            v["name"] for v in variants if v["name"] in decisions and v["is_config"] and v["kernels"] == [kernel]
        ]
        kept = [decisions[name] for name in own_configs if decisions[name].verdict == "keep"]
        best = max(kept, key=lambda one: one.gain or 0.0, default=None)
        still_open = sum(decisions[name].verdict == "open" for name in own_configs)
        why = f"{still_open} of {len(own_configs)} are open" if still_open else ""
        if best is None:
            rows.append(_cells(Decision(f"first of {kernel}", 0.0, 0.0, "keep" if not still_open else "open", why)))
        else:
            why = "; ".join(filter(None, (f"{best.variant} takes its place", why)))
            rows.append(_cells(Decision(f"first of {kernel}", best.gain, best.saved_us, "drop", why)))
    return rows


def _cells(decision: Decision, beside: str = "") -> dict[str, Any]:
    return {
        "variant": decision.variant,
        "gain": None if decision.gain is None else round(decision.gain, 4),
        "saved_us": None if decision.saved_us is None else round(decision.saved_us, 1),
        "at_800x1216": beside,
        "verdict": decision.verdict,
        "decision": decision.line,
    }


def beside_bars(models: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Rows of images/s of TransNeXt-Tiny beside the bars, and of each model's speed for a multiply-add beside ConvNeXt.

    Args:
        models: Rows `model`, `mode`, `images_per_s`, `gmacs`.
    """
    rows: list[dict[str, Any]] = []
    speed = {(row["model"], row["mode"]): row for row in models if row.get("images_per_s")}
    for what, bar in BARS.items():
        found = [
            row["images_per_s"]
            for (model, mode), row in speed.items()
            if model == "transnext_tiny" and (mode == what or (what == "training" and mode.startswith("training")))
        ]
        best = max(found, default=None)
        rows.append(
            {
                "what": f"transnext_tiny, {what}, images/s",
                "found": best,
                "bar": bar,
                "reached": "" if best is None else best >= bar,
            }
        )
    for (model, mode), row in speed.items():
        other = next((r for (m, n), r in speed.items() if "convnext" in m and n == mode), None)
        if "convnext" in model or other is None or not row.get("gmacs") or not other.get("gmacs"):
            continue
        ratio = row["images_per_s"] * row["gmacs"] / (other["images_per_s"] * other["gmacs"])
        bar_of_ratio = 1.0 if model.startswith("transnext") else None
        rows.append(
            {
                "what": f"{model}, {mode}, multiply-adds/s over ConvNeXt's",
                "found": round(ratio, 3),
                "bar": bar_of_ratio,
                "reached": "" if bar_of_ratio is None else ratio >= bar_of_ratio,
            }
        )
    return rows
