"""While a CUDA graph is being captured no cache is read or filled: what a graph reads must be its own."""

from functools import lru_cache

import pytest
import torch
from torch import Tensor, nn

from transnext import TransNeXt
from transnext.models import position_bias
from transnext.models.weight_cache import WeightCache


def caches_of(model: nn.Module) -> list[WeightCache]:
    return [value for m in model.modules() for value in vars(m).values() if isinstance(value, WeightCache)]


def tensors_in(value: object) -> list[Tensor]:
    if isinstance(value, Tensor):
        return [value]
    return [t for part in value for t in tensors_in(part)] if isinstance(value, tuple | list) else []


def test_caches_are_passed_over(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    sizes = {"embed_dims": (24, 48), "num_heads": (1, 2), "depths": (1, 1), "mlp_ratios": (2, 2), "sr_ratios": (2, 1)}
    model = TransNeXt(**sizes, num_classes=3).eval()
    of_this_test = lru_cache(position_bias._remembered_axis.__wrapped__)  # what it holds is spoilt below
    monkeypatch.setattr(position_bias, "_remembered_axis", of_this_test)
    x, other = torch.randn(1, 3, 32, 64), torch.randn(1, 3, 64, 32)
    with torch.no_grad():
        expected = [model(x), TransNeXt.forward(model, other)]
    kept = [dict(cache._entries) for cache in caches_of(model)]
    assert any(kept)
    wrong = [t for entries in kept for e in entries.values() for t in tensors_in(e) if t.is_floating_point()]
    with torch.no_grad():
        monkeypatch.setattr(torch.cuda, "is_initialized", lambda: True)
        monkeypatch.setattr(torch.cuda, "is_current_stream_capturing", lambda: True)
        monkeypatch.setattr(position_bias, "_remembered_axis", lambda *_: pytest.fail("an axis was remembered"))
        monkeypatch.setattr(position_bias, "_remembered_coordinates", lambda *_: pytest.fail("so were coordinates"))
        parameters = {p.data_ptr() for p in model.parameters()}
        for t in wrong:
            if t.data_ptr() not in parameters:
                t.fill_(torch.nan)
        found = [model(x), model(other)]
    for f, e in zip(found, expected, strict=True):
        assert torch.equal(f, e)
    for cache, before in zip(caches_of(model), kept, strict=True):
        assert cache._entries.keys() == before.keys()
        assert all(cache._entries[key] is before[key] for key in before)
