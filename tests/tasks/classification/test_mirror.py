import torch
from torch import nn

from transnext.tasks.classification.task import MirrorAveraged


def small_model() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Flatten(), nn.Linear(3 * 4 * 5, 7))


def test_mean_of_probabilities():
    model, images = small_model(), torch.randn(6, 3, 4, 5)
    found = MirrorAveraged(model)(images).double().softmax(-1)
    wide = model.double()
    expected = (wide(images.double()).softmax(-1) + wide(images.flip(3).double()).softmax(-1)) / 2
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-6)


def test_same_for_the_mirror_image():
    averaged, images = MirrorAveraged(small_model()), torch.randn(6, 3, 4, 5)
    torch.testing.assert_close(averaged(images), averaged(images.flip(3)))
    assert not torch.equal(averaged.model(images), averaged.model(images.flip(3)))


def test_far_apart_probabilities_stay_finite():
    model = small_model()
    with torch.no_grad():
        model[1].weight.mul_(1e4)
    assert MirrorAveraged(model)(torch.randn(6, 3, 4, 5)).isfinite().all()


def test_mode_follows_the_model():
    model = small_model().eval()
    averaged = MirrorAveraged(model)
    averaged.train(averaged.training)  # as evaluation does in the end
    assert not model.training
