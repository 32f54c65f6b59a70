"""Any image size, in any order, from any thread, and without anything as large as queries x keys."""

import random
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from transnext import TransNeXt
from transnext.models import position_bias
from transnext.models.attention import AggregatedAttention, GlobalCosineAttention
from transnext.models.position_bias import HIDDEN_FEATURES, StageGeometry
from transnext.ops import AxisIndex, axis_index, expand_bias_table, log_spaced

pytestmark = pytest.mark.usefixtures("one_thread")

Make = Callable[..., TransNeXt]

ODD_SIZES = [
    (32, 32),
    (33, 32),
    (32, 47),
    (35, 35),
    (37, 61),
    (41, 33),
    (63, 65),
    (65, 63),
    (64, 96),
    (71, 53),
    (75, 101),
    (97, 49),
    (127, 33),
    (33, 129),
    (111, 89),
]


@pytest.fixture
def empty_cache() -> Any:
    """The axes that are remembered, none of them."""
    position_bias._remembered_axis.cache_clear()
    return position_bias._remembered_axis


def bounded(monkeypatch: pytest.MonkeyPatch, max_entries: int) -> Any:
    cache = lru_cache(max_entries)(position_bias._remembered_axis.__wrapped__)
    monkeypatch.setattr(position_bias, "_remembered_axis", cache)
    return cache


def image(size: tuple[int, int], batch: int = 1) -> Tensor:
    generator = torch.Generator().manual_seed(size[0] * 1000 + size[1])
    return torch.randn(batch, 3, *size, generator=generator)


# Sizes


@pytest.mark.parametrize(
    "mode", [{}, {"bias_mode": "interpolate"}, {"fixed_pool_size": (3, 2)}, {"sr_ratios": (16, 8, 4, 2)}]
)
def test_every_call_another_size(tiny_model: Make, mode: dict[str, Any]) -> None:
    model = tiny_model(**mode)
    with torch.no_grad():
        for size in ODD_SIZES:
            x = image(size)
            maps = model.forward_intermediates(x, intermediates_only=True)
            for stage, m in enumerate(maps):
                stride = 4 * 2**stage
                assert m.shape[2:] == (-(-size[0] // stride), -(-size[1] // stride)), size
            logits = model(x)
            assert logits.shape == (1, 5)
            assert logits.isfinite().all()


def test_sizes_below_one_pooled_key(tiny_model: Make) -> None:
    """Maps smaller than a pooling window still have one pooled key."""
    model = tiny_model()
    with torch.no_grad():
        for size in [(1, 1), (5, 31), (31, 4), (16, 16)]:
            assert model(image(size)).isfinite().all()


@pytest.mark.parametrize("mode", [{}, {"bias_mode": "interpolate"}, {"fixed_pool_size": 2}])
def test_earlier_sizes_leave_no_trace(tiny_model: Make, empty_cache: Any, mode: dict[str, Any]) -> None:
    model = tiny_model(**mode)
    with torch.no_grad():
        first = {size: model(image(size)) for size in ODD_SIZES}
        for order in range(2):
            again = random.Random(order).sample(ODD_SIZES, len(ODD_SIZES))
            for size in again:
                assert torch.equal(model(image(size)), first[size]), size
        fresh = tiny_model(**mode)
        assert torch.equal(fresh(image(ODD_SIZES[-1])), first[ODD_SIZES[-1]])


def test_one_cache_serves_models_of_different_geometry(tiny_model: Make, empty_cache: Any) -> None:
    """Offsets are shared between models; what depends on the model must not be."""
    x = image((64, 96))
    args: list[dict[str, Any]] = [
        {},
        {"pretrain_size": 32},
        {"bias_mode": "interpolate"},
        {"bias_mode": "interpolate", "img_size": 128, "pretrain_size": 64},
    ]
    with torch.no_grad():
        together = [tiny_model(**a)(x) for a in args]
        for a, expected in zip(args, together, strict=True):
            empty_cache.cache_clear()
            assert torch.equal(tiny_model(**a)(x), expected)
    for i, a in enumerate(together):
        for b in together[:i]:
            assert not torch.allclose(a, b, atol=1e-5)


# Memory


class Recorder(TorchDispatchMode):
    """Notes every tensor that an operation makes."""

    def __init__(self) -> None:
        super().__init__()
        self.made: list[tuple[torch.dtype, torch.Size, str]] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        for leaf in tree_leaves(result):
            if isinstance(leaf, Tensor):
                self.made.append((leaf.dtype, leaf.shape, str(func)))
        return result


@pytest.mark.parametrize("mode", ["extrapolate", "interpolate"])
def test_no_index_or_coordinates_of_queries_times_keys(tiny_model: Make, empty_cache: Any, mode: str) -> None:
    model = tiny_model(bias_mode=mode)
    model.backend = "reference"  # the kernels make less
    H, W = 256, 320
    with torch.no_grad(), Recorder() as recorder:
        model(image((H, W)))
    n_times_p = [(H // s) * (W // s) * (H // 32) * (W // 32) for s in (4, 8, 16, 32)]

    integers = [shape.numel() for dtype, shape, _ in recorder.made if dtype in (torch.int64, torch.int32)]
    assert integers, "the axis indices are made during this forward"
    assert max(integers) < min(n_times_p), "smaller than queries x keys of every single stage"

    coordinates = [shape.numel() // 2 for _, shape, _ in recorder.made if len(shape) > 1 and shape[-1] == 2]
    hidden = [shape.numel() // HIDDEN_FEATURES for _, shape, _ in recorder.made if shape[-1:] == (HIDDEN_FEATURES,)]
    assert len(coordinates) >= 4, "the coordinates of each stage's table are seen"
    assert len(hidden) >= 4
    assert max(coordinates) < n_times_p[0] / 8
    assert max(hidden) < n_times_p[0] / 8


def test_a_size_seen_before_needs_no_index_again(
    tiny_model: Make, empty_cache: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[tuple[int, int]] = []

    def counted(num_queries: int, num_keys: int, **kwargs: Any) -> AxisIndex:
        made.append((num_queries, num_keys))
        return axis_index(num_queries, num_keys, **kwargs)

    monkeypatch.setattr(position_bias, "axis_index", counted)
    model = tiny_model()
    with torch.no_grad():
        model(image((75, 101)))
        assert sorted(made) == sorted([(19, 2), (26, 3), (10, 2), (13, 3), (5, 2), (7, 3), (3, 3), (4, 4)])
        made.clear()
        model(image((75, 101)))
        assert not made
        tiny_model()(image((101, 75)))
        assert not made, "the axes are shared by rows and columns, blocks and models"


def test_long_tables_go_through_the_mlp_in_chunks(
    tiny_model: Make, empty_cache: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, x = tiny_model(), image((71, 53))
    model.backend = "reference"  # the kernels have no hidden units in memory
    with torch.no_grad():
        whole = model(x)
        monkeypatch.setattr(position_bias, "MAX_CHUNK_ENTRIES", 64)
        model.eval()  # which forgets the tables
        with Recorder() as recorder:
            chunked = model(x)
    torch.testing.assert_close(chunked, whole, rtol=0, atol=1e-6)
    hidden = [shape.numel() // HIDDEN_FEATURES for _, shape, _ in recorder.made if shape[-1:] == (HIDDEN_FEATURES,)]
    widest_row = 4 * 14 - 3
    assert hidden
    assert max(hidden) <= max(64, widest_row)


# The bias of a mixer


@pytest.mark.parametrize("mode", ["extrapolate", "interpolate"])
@pytest.mark.parametrize("size", [(16, 16), (8, 12), (13, 17), (5, 3), (1, 1)])
@pytest.mark.parametrize("kind", ["aggregated", "global"])
def test_bias_is_the_mlp_of_every_pair(kind: str, size: tuple[int, int], mode: str) -> None:
    geometry = StageGeometry(trained_size=(8, 16), pretrain_scale=(6.0, 13.0))
    common: dict[str, Any] = {"bias_mode": mode, "dtype": torch.float64}
    if kind == "aggregated":
        mixer = AggregatedAttention(8, 2, geometry, window_size=3, sr_ratio=4, **common)
        pool = mixer.pool_size
    else:
        mixer = GlobalCosineAttention(8, 2, geometry, **common)

        def pool(size: tuple[int, int]) -> tuple[int, int]:
            return size

    table, rows, cols = mixer.bias_of(torch.zeros(1, *size, 8, dtype=torch.float64))
    found = expand_bias_table(table, rows, cols)

    def of_all_pairs(size: tuple[int, int]) -> Tensor:
        axes = [torch.arange(n, dtype=torch.float64) for n in size]
        queries = torch.stack(torch.meshgrid(*axes, indexing="ij"))
        keys = F.adaptive_avg_pool2d(queries[None], pool(size))[0]
        pairs = queries[:, :, :, None, None] - keys[:, None, None]
        scaled = torch.stack([log_spaced(p, s) for p, s in zip(pairs, geometry.pretrain_scale, strict=True)], -1)
        return mixer.cpb_fc2(torch.relu(mixer.cpb_fc1(scaled))).movedim(-1, 0)

    if mode == "extrapolate":
        expected = of_all_pairs(size)
    else:
        trained = of_all_pairs(geometry.trained_size)
        M = trained.shape[0]
        keys_resized = F.interpolate(trained.flatten(1, 2), size=pool(size), mode="bilinear", align_corners=False)
        keys_resized = keys_resized.unflatten(1, geometry.trained_size).permute(0, 3, 4, 1, 2).flatten(1, 2)
        expected = F.interpolate(keys_resized, size=size, mode="bilinear", align_corners=False)
        expected = expected.view(M, *pool(size), *size).permute(0, 3, 4, 1, 2)
    assert found.shape == (2, *size, *pool(size))
    torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-12)


def test_global_attention_by_hand() -> None:
    """Cosine attention over all pixels, written out from its definition."""
    torch.manual_seed(2)
    geometry = StageGeometry(trained_size=(4, 4), pretrain_scale=(3.0, 3.0))
    mixer = GlobalCosineAttention(12, 3, geometry, dtype=torch.float64)
    with torch.no_grad():
        for p in mixer.parameters():
            p.normal_(std=0.3)
    B, H, W, C, M = 2, 3, 5, 12, 3
    x = torch.randn(B, H, W, C, dtype=torch.float64)
    with torch.no_grad():
        bias = expand_bias_table(*mixer.bias_of(x)).reshape(M, H * W, H * W)
        q, k, v = mixer.qkv(x).reshape(B, H * W, 3, M, C // M).unbind(2)
        expected = torch.zeros(B, H * W, M, C // M, dtype=torch.float64)
        for b in range(B):
            for m in range(M):
                for n in range(H * W):
                    qs = q[b, n, m] / q[b, n, m].norm() + mixer.query_embedding[m, 0]
                    qs = qs * torch.log1p(mixer.temperature[m, 0, 0].exp()) * torch.tensor(H * W).double().log()
                    logits = k[b, :, m] / k[b, :, m].norm(dim=-1, keepdim=True) @ qs + bias[m, n]
                    expected[b, n, m] = logits.softmax(0) @ v[b, :, m]
        expected = mixer.proj(expected.reshape(B, H, W, C))
        torch.testing.assert_close(mixer(x), expected, rtol=1e-10, atol=1e-12)


# The cache


def test_cache_is_bounded(tiny_model: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    cache = bounded(monkeypatch, 5)
    model = tiny_model()
    with torch.no_grad():
        for size in ODD_SIZES:
            model(image(size))
            assert cache.cache_info().currsize <= 5
    assert cache.cache_info().currsize == 5


def test_cache_has_a_bound() -> None:
    assert position_bias._remembered_axis.cache_info().maxsize == 256


def test_cache_is_passed_over_while_tracing(tiny_model: Make, empty_cache: Any) -> None:
    model, x = tiny_model(), image((64, 64))
    with torch._subclasses.FakeTensorMode(allow_non_fake_inputs=True) as mode:
        assert model(mode.from_tensor(x)).shape == (1, 5)
    assert empty_cache.cache_info().currsize == 0
    with torch.no_grad():
        model(x)
    assert empty_cache.cache_info().currsize > 0


def test_inference_first_then_training(tiny_model: Make, empty_cache: Any) -> None:
    """What was remembered in inference mode must not spoil autograd."""
    model, x = tiny_model(), image((64, 96))
    with torch.inference_mode():
        expected = model(x)
    assert empty_cache.cache_info().currsize > 0
    logits = model(x)
    torch.testing.assert_close(logits.detach(), expected.clone())
    logits.square().sum().backward()
    found = {name: p.grad for name, p in model.named_parameters()}

    fresh = tiny_model()
    empty_cache.cache_clear()
    fresh(x).square().sum().backward()
    for name, p in fresh.named_parameters():
        assert torch.equal(found[name], p.grad), name


def test_weights_changed_between_calls(tiny_model: Make) -> None:
    """In eval mode too, a changed bias MLP is seen at once."""
    model, x = tiny_model(), image((64, 96))
    with torch.no_grad():
        before = model(x)
        for name, p in model.named_parameters():
            if "stages.0" in name and "cpb_fc2.weight" in name:
                p.mul_(-3)
        after = model(x)
        assert not torch.allclose(before, after, atol=1e-4)
        fresh = tiny_model()
        fresh.load_state_dict(model.state_dict())
        assert torch.equal(fresh(x), after)
        for name, p in model.named_parameters():
            if "stages.0" in name and "cpb_fc2.weight" in name:
                p.data = p.data / -3
        torch.testing.assert_close(model(x), before, rtol=1e-5, atol=1e-5)


# Threads


def test_threads_with_different_sizes(tiny_model: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    cache = bounded(monkeypatch, 7)  # so few that threads push out one another's entries
    model = tiny_model()
    sizes = ODD_SIZES[:8]

    def run(size: tuple[int, int]) -> Tensor:
        with torch.inference_mode():
            return model(image(size))

    expected = {size: run(size) for size in sizes}
    work = [size for _ in range(4) for size in sizes]
    random.Random(0).shuffle(work)
    with ThreadPoolExecutor(4) as pool:
        for size, result in zip(work, pool.map(run, work), strict=True):
            assert torch.equal(result, expected[size]), size
    assert cache.cache_info().currsize <= 7


def test_threads_with_different_modes(tiny_model: Make, empty_cache: Any) -> None:
    models = [tiny_model(), tiny_model(bias_mode="interpolate"), tiny_model(fixed_pool_size=3)]
    x = image((75, 101))

    def run(i: int) -> Tensor:
        with torch.no_grad():
            return models[i](x)

    expected = [run(i) for i in range(3)]
    assert not torch.allclose(expected[0], expected[1], atol=1e-4)
    work = [i % 3 for i in range(18)]
    with ThreadPoolExecutor(3) as pool:
        for i, result in zip(work, pool.map(run, work), strict=True):
            assert torch.equal(result, expected[i])


# Errors


@pytest.mark.parametrize(
    ("args", "words"),
    [
        ({"bias_mode": "nearest"}, ["bias_mode", "'nearest'", "'interpolate'"]),
        ({"bias_mode": None}, ["bias_mode", "None"]),
        ({"fixed_pool_size": 0}, ["fixed_pool_size", "0"]),
        ({"fixed_pool_size": (3, -1)}, ["fixed_pool_size", "(3, -1)"]),
        ({"fixed_pool_size": (3, 3, 3)}, ["fixed_pool_size", "(3, 3, 3)"]),
        ({"img_size": (64, 0)}, ["img_size", "(64, 0)"]),
        ({"pretrain_size": -5}, ["pretrain_size", "-5"]),
        ({"window_size": 4}, ["window_size", "4"]),
        ({"window_size": (3, 3, None, None)}, ["window_size", "None"]),
        ({"num_heads": (1, 2, 5, 4)}, ["24", "5"]),
        ({"depths": (1, 1, 1)}, ["4", "3", "depths"]),
        ({"mixers": ("aggregated", "local", "global", "global")}, ["mixers", "'local'"]),
    ],
)
def test_constructor_errors_name_the_value(tiny_model: Make, args: dict[str, Any], words: list[str]) -> None:
    with pytest.raises(ValueError) as caught:  # noqa: PT011 - the words are checked below
        tiny_model(**args)
    for word in words:
        assert word in str(caught.value)


def test_errors_on_a_live_model(tiny_model: Make) -> None:
    model, x = tiny_model(), image((64, 64))
    with torch.no_grad():
        before = model(x)
        with pytest.raises(ValueError, match=r"bias_mode is 'bilinear'.*'extrapolate'"):
            model.bias_mode = "bilinear"
        with pytest.raises(ValueError, match="fixed_pool_size is 0"):
            model.fixed_pool_size = 0
        assert model.bias_mode == "extrapolate"
        assert model.fixed_pool_size is None
        assert torch.equal(model(x), before)
    model.fixed_pool_size = 3
    assert model.fixed_pool_size == (3, 3)
    model.fixed_pool_size = (2, 4)
    assert model.fixed_pool_size == (2, 4)


def test_one_name_for_how_a_model_follows_the_size(tiny_model: Make) -> None:
    model, x = tiny_model(img_size=(64, 96)), image((128, 64))
    assert model.mode == "extrapolate"
    expected = {
        "extrapolate": tiny_model(img_size=(64, 96)),
        "interpolate": tiny_model(img_size=(64, 96), bias_mode="interpolate"),
        "linear": tiny_model(img_size=(64, 96), fixed_pool_size=(2, 3)),
    }
    with torch.no_grad():
        for mode in ("interpolate", "linear", "extrapolate", "linear", "interpolate"):
            model.mode = mode
            assert model.mode == expected[mode].mode == mode
            assert torch.equal(model(x), expected[mode](x))
    with pytest.raises(ValueError, match=r"mode is 'quadratic'.*'linear'"):
        model.mode = "quadratic"
    assert model.mode == "interpolate"
    with pytest.raises(ValueError, match="pools nothing"):
        tiny_model(mixers=("global",) * 4).mode = "linear"
