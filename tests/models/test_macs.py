import re
from pathlib import Path

import pytest
import timm
import torch

from transnext.models.macs import count_macs
from transnext.models.variants import GMACS


@pytest.mark.parametrize("name", GMACS)
def test_as_the_table_of_variants_says(name):
    model = timm.create_model(name, device="meta")
    assert count_macs(model, model.pretrained_cfg["input_size"]) / 1e9 == pytest.approx(GMACS[name], abs=0.005)


def test_every_model_has_its_cost():
    assert set(GMACS) == set(timm.list_models("transnext_*", include_tags=True))


def test_as_the_readme_says():
    readme = (Path(__file__).parents[2] / "README.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| `(transnext_\w+)` \| ([\d.]+) M .*?\| (.*?) \| (.*?) \|", readme, re.MULTILINE)
    assert sorted(name for name, *_ in rows) == timm.list_models("transnext_*")
    for name, parameters, costs, sizes in rows:
        models = [timm.create_model(full, device="meta") for full in GMACS if full.partition(".")[0] == name]
        assert f"{sum(p.numel() for p in models[0].parameters()) / 1e6:.1f}" == parameters, name
        expected = {f"{cost:.2f}" for full, cost in GMACS.items() if full.partition(".")[0] == name}
        assert set(costs.split(", ")) == expected, name
        assert set(sizes.split(", ")) == {str(model.pretrained_cfg["input_size"][1]) for model in models}, name


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
