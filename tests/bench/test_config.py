"""What may be asked for, and how mistakes are answered."""

import pytest

from transnext.bench.config import BenchConfig, parse_size
from transnext.bench.workload import is_ours


def test_sizes() -> None:
    assert parse_size("224") == (224, 224)
    assert parse_size("800x1216") == (800, 1216)
    for text in ("", "x", "224x", "224,224", "-224", "224x224x3", "224.0"):
        with pytest.raises(ValueError, match="800x1216"):
            parse_size(text)
    with pytest.raises(ValueError, match="at least 32"):
        parse_size("224x31")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"models": ()}, "no model is given"),
        ({"models": ("transnext_tini",)}, "did you mean transnext_tiny"),
        ({"models": ("!",)}, "timm.list_models"),
        ({"models": ("transnext_tiny.nope",)}, "no weights 'nope' of transnext_tiny"),
        ({"models": ("resnet10t", "resnet10t")}, "model 'resnet10t' is given twice"),
        ({"sizes": ("64", "64")}, "size '64' is given twice"),
        ({"sizes": ()}, "sizes is empty"),
        ({"sizes": ("big",)}, "'big'"),
        ({"batch_size": 0}, "batch_size is 0"),
        ({"rounds": 0}, "rounds is 0"),
        ({"threads": -1}, "threads is -1"),
        ({"models": ("resnet10t",), "mode": ("linear",)}, r"only models named transnext_\* have modes"),
        ({"compile": ()}, "compile is empty"),
        ({"compile": ("none", "none")}, "compile 'none' is given twice"),
        ({"backend": ()}, "backend is empty"),
        ({"backend": ("auto", "auto")}, "backend 'auto' is given twice"),
        ({"models": ("resnet10t",), "backend": ("reference",)}, r"only models named transnext_\* have backends"),
    ],
)
def test_mistakes_are_named(options: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        BenchConfig(**{"models": ("transnext_pico",), **options})  # type: ignore[arg-type]


def test_modes_are_of_our_models_alone() -> None:
    assert is_ours("transnext_pico.emoji")
    assert not is_ours("resnet10t")
    config = BenchConfig(
        models=("transnext_pico", "resnet10t"), sizes=("64", "96x64"), mode=("extrapolate", "linear"), batch_size=3
    )
    small, large = config.workloads("cpu")
    assert [workload.label for workload in small] == ["transnext_pico", "transnext_pico linear", "resnet10t"]
    assert [workload.mode for workload in small] == ["extrapolate", "linear", None]
    assert {workload.size for workload in large} == {(96, 64)}
    assert {workload.batch_size for workload in small + large} == {3}


def test_backends_are_of_our_models_alone() -> None:
    config = BenchConfig(
        models=("transnext_pico", "resnet10t"), mode=("extrapolate", "linear"), backend=("auto", "reference")
    )
    (workloads,) = config.workloads("cpu")
    assert [workload.label for workload in workloads] == [
        "transnext_pico",
        "transnext_pico reference",
        "transnext_pico linear",
        "transnext_pico linear reference",
        "resnet10t",
    ]
    assert [workload.backend for workload in workloads] == ["auto", "reference", "auto", "reference", None]


def test_every_model_is_measured_as_it_is_and_compiled() -> None:
    config = BenchConfig(models=("transnext_pico", "resnet10t"), compile=("none", "default", "dynamic"))
    (workloads,) = config.workloads("cpu")
    assert [workload.label for workload in workloads] == [
        "transnext_pico",
        "transnext_pico compiled",
        "transnext_pico compiled for any size",
        "resnet10t",
        "resnet10t compiled",
        "resnet10t compiled for any size",
    ]
