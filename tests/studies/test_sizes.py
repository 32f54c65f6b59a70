import contextlib
import json

import pytest
import timm
import torch

from transnext.studies.sizes import (
    MODES,
    ScalePoint,
    ScaleResult,
    in_mode,
    modes_of,
    scaled_size,
    scales_as_dict,
    scales_from_dict,
    stride_of,
)


@pytest.mark.parametrize(
    ("trained", "scale", "size"),
    [(224, 0.5, 128), (224, 1, 224), (224, 2, 448), (64, 0.1, 32), (72, 1, 72), (224, 3, 672), (64, 1.5, 96)],
)
def test_sizes(trained, scale, size):
    assert scaled_size(trained, scale) == size


def test_smaller_patches_allow_smaller_sizes():
    with torch.device("meta"):
        stride = stride_of(timm.create_model("transnext_pico_patch2_28"))
    assert [scaled_size(28, scale, stride) for scale in (0.5, 1, 1.5, 2)] == [16, 28, 48, 64]
    assert stride_of(torch.nn.Identity()) == 32


@pytest.mark.parametrize(("name", "pool"), [("transnext_pico", 2), ("transnext_micro", 7), ("transnext_micro_aaaa", 4)])
def test_the_linear_mode_pools_as_trained(name, pool):
    with torch.device("meta"):
        assert timm.create_model(name).trained_pool_size == (pool, pool)


def test_modes_differ_everywhere_but_at_the_trained_size():
    model = timm.create_model("transnext_pico.emoji", pretrained=True).eval()
    images = torch.randn(2, 3, 96, 96)
    assert modes_of(model) == MODES
    answers = {}
    with torch.inference_mode():
        for mode in MODES:
            with in_mode(model, mode):
                answers[mode] = (model(images[..., :64, :64]), model(images))
    first = answers.pop("extrapolate")
    for at_trained, at_other in answers.values():
        torch.testing.assert_close(at_trained, first[0], atol=1e-4, rtol=1e-4)
        assert (at_other - first[1]).abs().max() > 1e-3


def test_a_model_has_its_own_mode_back():
    model = timm.create_model("transnext_pico")
    model.bias_mode, model.fixed_pool_size = "interpolate", 3
    with in_mode(model, "linear"):
        assert (model.bias_mode, model.fixed_pool_size) == ("extrapolate", (2, 2))
    with contextlib.suppress(KeyError), in_mode(model, "extrapolate"):
        assert (model.bias_mode, model.fixed_pool_size) == ("extrapolate", None)
        raise KeyError
    assert (model.bias_mode, model.fixed_pool_size) == ("interpolate", (3, 3))
    other = timm.create_model("test_vit")
    assert modes_of(other) == (None,)
    with in_mode(other, None):
        pass


def test_json_and_back():
    point = {"size": 64, "mode": None, "top1": 0.5, "top1_interval": (0.4, 0.6), "images_per_second": 9.0, "macs": None}
    result = ScaleResult(
        split="val", images=3, trained_size=64, points=(ScalePoint(**point),), failures=((32, "no"), (96, "no"))
    )
    assert scales_from_dict(json.loads(json.dumps(scales_as_dict(result)))) == result
