"""Variants of the GPU kernels: what each changes, that it is changed back, that none writes where nothing is."""

from typing import Any

import pytest
import torch

pytest.importorskip("triton")

import gpu_variants
from attention_forms import make_inputs, with_sdpa
from gpu_kernels import STAGES, tensors_of_gate
from gpu_variants import MODULES, applied, kernels, op_of, open_ones, variants
from transnext.ops.triton import attention
from transnext.ops.triton.compile_ahead import launches
from transnext.ops.triton.launch import Kernel


def state() -> dict[str, Any]:
    """All that variants change."""
    found = {}
    for op, module in MODULES.items():
        for name, value in vars(module).items():
            if isinstance(value, (int, Kernel)) or name == "product_precision":
                found[f"{op} {name}"] = list(value.configs) if isinstance(value, Kernel) else value
    return found


def test_all_is_changed_back() -> None:
    before = state()
    for variant in open_ones():
        with applied(variant, programs=6):
            assert state() != before, variant.name
        assert state() == before, variant.name


def test_changed_back_after_an_error() -> None:
    before = state()

    def fail() -> None:
        with applied(variants()["C4 8 splits"], programs=6):
            assert attention.PROGRAMS_WANTED == 48
            raise ValueError("on purpose")

    with pytest.raises(ValueError, match="on purpose"):
        fail()
    assert state() == before


def test_names_are_unlike_and_states_are_words() -> None:
    every = list(variants().values())
    assert len({one.name for one in every}) == len(every)
    for one in every:
        assert one.what
        assert (one.state == "open") == bool(one.kernels)
        assert set(one.kernels) <= kernels().keys()
        assert all(op_of(kernels()[name].kernel) == one.op for name in one.kernels)
    letters = {one.name[0] for one in every}
    assert letters == set("ABCDEFG")


def test_no_two_are_the_same_launch() -> None:
    for name, launch in kernels().items():
        own = [one.config for one in open_ones() if one.config and one.kernels == (name,) and not one.constants]
        options = [launch.kernel.options(config, launch.kwargs) for config in (launch.kernel.configs[0], *own)]
        assert all(options.count(one) == 1 for one in options), name
        if len(launch.kernel.configs) > 1:
            assert all(
                any(one == config for one in own) or config is launch.kernel.configs[0]
                for config in launch.kernel.configs
            )


def test_tiles_that_sums_are_laid_out_by_stay() -> None:
    """A smaller one would have more programs than there is memory for their sums."""
    for one in open_ones():
        if one.config is None or one.constants:
            continue
        listed = kernels()[one.kernels[0]].kernel.configs
        for block, value in one.config.kwargs.items():
            varies = len({config.kwargs[block] for config in listed}) > 1
            free = block in gpu_variants.FREE.get(one.kernels[0], ())
            assert varies or free or value == listed[0].kwargs[block], one.name


def test_grids_follow_the_tiles() -> None:
    """As many programs as the tiles want, in each direction in which programs of attention share the work by tiles."""
    for name, launch in kernels().items():
        first = launch.kernel.configs[0]
        for one in open_ones():
            if one.config is None or one.kernels != (name,) or one.constants or one.op == "gate":
                continue
            changed = {block for block, value in one.config.kwargs.items() if value != first.kwargs[block]}
            if not callable(launch.grid):
                assert changed <= {"BLOCK_K"}, one.name  # which a program goes over
                continue
            usual, mine = (launch.grid({**launch.kwargs, **c.kwargs})[0] for c in (first, one.config))
            times = 1.0
            for block in changed:
                doubled = launch.grid({**launch.kwargs, **first.kwargs, block: 2 * first.kwargs[block]})[0]
                times *= first.kwargs[block] / one.config.kwargs[block] if doubled != usual else 1.0
            assert mine >= usual * times * 0.99, one.name  # tiles of keys may not fit their number


def test_sums_by_more_queries_have_fewer_parts() -> None:
    with applied(variants()["C query_gradient 64 queries"], programs=6):
        changed = next(one for one in launches.__wrapped__("bf16", 0) if one.kernel is attention.QUERY_GRADIENT)
    usual = kernels()["query_gradient"]
    assert changed.kwargs["BLOCK_Q"] == 64
    assert usual.kwargs["BLOCK_Q"] == 32
    assert changed.grid[0] * 2 == usual.grid[0]
    assert changed.args[10].shape[0] * 2 == usual.args[10].shape[0]  # the parts of the sums


def test_products_of_variants() -> None:
    for name, expected in (("B3 single 16-bit weights", "tf32"), ("F float32 maps, ieee", "ieee")):
        variant = variants()[name]
        with applied(variant, programs=6):
            noted = launches.__wrapped__(variant.maps, 0)
        assert {one.kwargs["PRECISION"] for one in noted if "PRECISION" in one.kwargs} == {expected}


def test_other_ways_follow_the_device() -> None:
    """Nothing is left on the CPU: on a device without numbers that would be an error, as it is on a GPU."""
    stage = STAGES[2]._replace(B=1, M=1)
    inputs = make_inputs(stage.B, stage.H, stage.W, stage.M, stage.ratio, torch.bfloat16, "meta")
    out = with_sdpa(inputs)()
    gradients = torch.autograd.grad(out, list(inputs.tensors.values()), torch.ones_like(out), allow_unused=True)
    assert {t.device.type for t in gradients if t is not None} == {"meta"}
    assert {t.device.type for t in tensors_of_gate(stage, torch.device("meta"))} == {"meta"}
