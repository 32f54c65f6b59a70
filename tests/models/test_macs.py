import pytest
import timm
import torch

from transnext.models.macs import count_macs
from transnext.models.variants import GMACS


@pytest.mark.parametrize(("name", "side"), [("transnext_pico.emoji", 64), ("transnext_tiny.in1k", 224)])
def test_as_the_table_of_variants_says(name, side):
    with torch.device("meta"):
        model = timm.create_model(name.split(".")[0], img_size=side)
    assert count_macs(model, (3, side, side)) / 1e9 == pytest.approx(GMACS[name], abs=0.005)


def test_the_cache_of_a_model_in_use_hides_nothing():
    model = timm.create_model("transnext_pico", img_size=64).eval()
    before = count_macs(model, (3, 96, 96))
    with torch.inference_mode():
        model(torch.zeros(1, 3, 96, 96))
    assert count_macs(model, (3, 96, 96)) == before
    assert model.backend == "auto"
    model.fixed_pool_size = 2
    assert count_macs(model, (3, 96, 96)) < before


def test_other_models():
    vit = timm.create_model("vit_tiny_patch16_224", depth=1)
    assert count_macs(vit, (3, 224, 224)) > 0
    assert count_macs(vit, (3, 96, 96)) is None
