"""Deletion and insertion of a network that looks at one place, and against torchcam's."""

from contextlib import nullcontext

import pytest
import torch
from torch import Tensor, nn

from tests.helpers.small_transnext import small_model
from transnext.explain import measure_faithfulness, perturbation_curves
from transnext.explain.faithfulness import blur, centre, randomised, rank_correlation


class OnePlace(nn.Module):
    """Sure of class 1 by the mean of a few pixels."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.full((1,), 4.0))

    def forward(self, x: Tensor) -> Tensor:
        seen = x[:, :, 2:6, 10:14].mean((1, 2, 3))
        return torch.stack((torch.zeros_like(seen), self.scale * seen), 1)


def image() -> Tensor:
    x = torch.zeros(3, 16, 20)
    x[:, 2:6, 10:14] = 1.5
    return x


def knowing() -> Tensor:
    heat = 0.01 * torch.rand(16, 20)
    heat[2:6, 10:14] += 1
    return heat


def test_a_map_that_knows_is_best_and_its_opposite_worst():
    heat = knowing()
    curves = [perturbation_curves(OnePlace(), image(), h, 1) for h in (heat, torch.rand(16, 20), -heat)]
    deletion, insertion = ([getattr(c, f"{side}_area") for c in curves] for side in ("deletion", "insertion"))
    assert deletion[0] < deletion[1] < deletion[2]
    assert insertion[0] > insertion[1] > insertion[2]
    for curve in curves:
        assert curve.deletion.shape == (17,)
        assert curve.deletion[0] == curve.insertion[-1]  # the image itself
        assert curve.deletion[-1] == 0.5  # nothing is left
    assert curves[0].deletion[1] == 0.5  # 16 of 320 pixels are less than one step of 16


def test_equals_torchcam():
    metrics = pytest.importorskip("torchcam.metrics")
    model, x, heat = small_model().eval(), torch.randn(3, 32, 40), torch.rand(32, 40)

    class Given:
        """Stands for an extractor of torchcam, of a map that is there."""

        def __init__(self) -> None:
            self.model = model

        def __call__(self, *_: object, **__: object) -> list[Tensor]:
            return [heat[None]]

        def fuse_cams(self, maps: list[Tensor], *_: object) -> Tensor:
            return maps[0]

        def _hooks_off(self) -> nullcontext:
            return nullcontext()

    label = int(model(x[None]).argmax())
    ours = perturbation_curves(model, x, heat, label, steps=16)
    for baseline, side in ((None, "deletion"), (lambda images: blur(images[0])[None], "insertion")):
        metric = metrics.DeletionInsertionMetric(Given(), lambda y: y.softmax(1), steps=16, baseline=baseline)
        metric.update(x[None], label)
        assert getattr(ours, f"{side}_area") == pytest.approx(metric.summary()[f"{side}_auc"], abs=1e-6)


def test_equal_values_come_in_random_order():
    first, again, other = (
        perturbation_curves(OnePlace(), image(), torch.zeros(16, 20), 1, seed=seed).deletion for seed in (0, 0, 1)
    )
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_blur_keeps_what_is_the_same_everywhere():
    flat = torch.full((3, 16, 20), 0.7)
    torch.testing.assert_close(blur(flat), flat)
    x = torch.randn(3, 16, 20)
    assert blur(x).var() < 0.2 * x.var()


def test_the_centre_is_in_the_middle():
    heat = centre(torch.zeros(3, 15, 21))
    assert heat.argmax() == 7 * 21 + 10
    assert heat.argmin() in (0, 20, 14 * 21, 15 * 21 - 1)


def test_rank_correlation():
    stats = pytest.importorskip("scipy.stats")
    a, b = torch.rand(9, 11), torch.rand(9, 11)
    b[a > 0.7] = 0.5  # equal values
    assert rank_correlation(a, b) == pytest.approx(stats.spearmanr(a.flatten(), b.flatten()).statistic)
    assert rank_correlation(a, a.exp()) == pytest.approx(1)
    assert rank_correlation(a, -a) == pytest.approx(-1)
    assert rank_correlation(a, torch.zeros(9, 11)) == 0


def test_randomised_weights_are_the_same_in_another_order():
    model = small_model()
    before = {name: p.clone() for name, p in model.named_parameters()}
    other = dict(randomised(model).named_parameters())
    for name, p in model.named_parameters():
        assert torch.equal(p, before[name])
        assert torch.equal(other[name].flatten().sort().values, p.flatten().sort().values)
    assert not torch.equal(other["stages.0.patch_embed.proj.weight"], before["stages.0.patch_embed.proj.weight"])


def test_explainers_beside_the_baselines():
    explainers = {
        "knows": lambda model, image, label: knowing() * model.scale.item(),
        "opposite": lambda model, image, label: -knowing(),
    }
    found = measure_faithfulness(OnePlace(), [image(), 0.5 * image()], explainers, steps=8)
    assert found.images == 2
    assert list(found.judged) == ["random", "centre", "knows", "opposite"]
    deletion = {name: judged.curves.deletion_area for name, judged in found.judged.items()}
    assert deletion["knows"] < deletion["random"] < deletion["opposite"]
    assert found.judged["knows"].correlation > 0.1
    assert found.judged["knows"].randomised is not None
    assert found.judged["random"].correlation is None


def test_all_explainers_of_a_transnext():
    pytest.importorskip("torchcam")
    pytest.importorskip("captum")
    model = small_model().train()
    found = measure_faithfulness(model, torch.randn(2, 3, 64, 64), steps=4)
    assert len(found.judged) == 8
    for judged in found.judged.values():
        assert torch.isfinite(judged.curves.deletion).all()
        assert 0 <= judged.curves.insertion_area <= 1
    assert model.training


def test_errors():
    with pytest.raises(ValueError, match="there is none"):
        measure_faithfulness(OnePlace(), [], {})
    with pytest.raises(ValueError, match=r"expected finite numbers \(16, 20\)"):
        perturbation_curves(OnePlace(), image(), torch.zeros(8, 8), 1)
    with pytest.raises(ValueError, match="expected finite"):
        perturbation_curves(OnePlace(), image(), torch.full((16, 20), torch.nan), 1)
    with pytest.raises(ValueError, match="steps is 1"):
        perturbation_curves(OnePlace(), image(), knowing(), 1, steps=1)
