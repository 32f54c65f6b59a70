"""Receptive fields of networks whose field is known, and the artefact number of maps whose artefacts are."""

import pytest
import timm
import torch
from torch import Tensor, nn

import transnext  # noqa: F401  (registers the models)
from transnext.explain import artefact, measure_receptive_field

SIDE = 224
WORDS = {"name": "a model", "weights": "known weights", "images": "some noise"}


class Convolutions(nn.Module):
    """Stride 4, a kernel of 12 x 8 ones."""

    feature_info = ({"reduction": 4},)

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 2, (12, 8), stride=4, bias=False)
        nn.init.ones_(self.conv.weight)

    def forward_intermediates(self, x: Tensor, **_: object) -> list[Tensor]:
        return [self.conv(x)]


def gaussian(sigma: float, side: int = SIDE) -> Tensor:
    axis = torch.arange(side, dtype=torch.float64) - (side - 1) / 2
    line = torch.exp(-0.5 * (axis / sigma) ** 2)
    return line[:, None] * line


def blocks(side: int, seed: int = 0) -> Tensor:
    values = torch.rand(SIDE // side, SIDE // side, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return values.repeat_interleave(side, 0).repeat_interleave(side, 1)


def test_the_field_of_a_convolution_is_its_kernel():
    field = measure_receptive_field(Convolutions(), [torch.rand(2, 3, 64, 64), torch.rand(1, 3, 64, 64)], **WORDS)
    assert field.stride == 4
    row, col = 4 * (14 // 2), 4 * (15 // 2)
    expected = torch.zeros(64, 64, dtype=torch.float64)
    expected[row : row + 12, col : col + 8] = 1
    torch.testing.assert_close(field.energy, expected)
    assert field.caption() == "a model, known weights, 64 x 64 pixels, some noise"


def test_sides_hold_their_share():
    field = measure_receptive_field(Convolutions(), [torch.rand(1, 3, 64, 64)], **WORDS)
    for share, side in ((0.1, 4), (0.5, 8), (0.6, 8), (0.7, 10), (0.95, 12), (1.0, 12)):  # of 12 rows and 8 columns
        assert field.side(share) == side


@pytest.mark.parametrize("side", [16, 32])
def test_block_noise_has_much_of_an_artefact(side):
    assert artefact(blocks(side), side) >= 10
    assert artefact(blocks(side) * gaussian(40), side) >= 5  # between the edges the Gaussian changes, too


@pytest.mark.parametrize("sigma", [28, 40, 56, 80])
@pytest.mark.parametrize("stride", [4, 8, 16, 32])
def test_a_gaussian_has_none(sigma, stride):
    assert 1 <= artefact(gaussian(sigma), stride) <= 1.1


def test_noise_of_pixels_has_none():
    noise = torch.rand(SIDE, SIDE, dtype=torch.float64)
    assert 1 <= artefact(noise, 32) <= 1.1
    assert 1 <= artefact(noise * gaussian(40), 32) <= 1.1


def test_it_is_the_energy_at_the_frequencies_of_the_stride():
    """The folded profile against a Fourier transform, where the profile has no shape to take away."""
    generator = torch.Generator().manual_seed(3)
    pattern = torch.rand(32, generator=generator, dtype=torch.float64) - 0.5
    line = (pattern - pattern.mean()).repeat(8).cumsum(0)  # 256 pixels, of which 255 edges; the first one is not seen
    field = (line - line.min() + 1)[:, None] * torch.ones(256, dtype=torch.float64)
    profile = line.diff(prepend=line[-1:]).abs()
    spectrum = torch.fft.fft(profile).abs() ** 2
    expected = spectrum[::8].sum() / spectrum[0]  # multiples of 1 / 32 of a pixel, 0 among them
    other = field + field.T
    assert artefact(other, 32) == pytest.approx(expected.item(), rel=0.02)


def test_the_scale_and_the_axes_do_not_matter():
    field = blocks(32) * gaussian(40) + gaussian(30)
    assert artefact(field * 1e-6, 32) == pytest.approx(artefact(field, 32))
    assert artefact(field.T, 32) == pytest.approx(artefact(field, 32))


@pytest.mark.parametrize("name", ["transnext_pico", "resnet18", "swin_tiny_patch4_window7_224", "vit_tiny_patch16_224"])
def test_models_of_timm(name):
    model = timm.create_model(name, num_classes=0)
    field = measure_receptive_field(model, [torch.randn(1, 3, 224, 224)], **WORDS)
    assert field.stride == (16 if name.startswith("vit") else 32)
    assert field.energy.shape == (224, 224)
    assert field.energy.max() == 1
    assert field.artefact >= 1
    assert all(p.grad is None for p in model.parameters())
    assert model.training


def test_errors():
    with pytest.raises(ValueError, match="cannot be taken apart"):
        measure_receptive_field(nn.Linear(2, 2), [torch.rand(1, 3, 64, 64)], **WORDS)
    with pytest.raises(ValueError, match="at least one image"):
        measure_receptive_field(Convolutions(), [], **WORDS)
    model = Convolutions()
    nn.init.zeros_(model.conv.weight)
    with pytest.raises(ValueError, match="no pixel has a finite influence"):
        measure_receptive_field(model, [torch.rand(1, 3, 64, 64)], **WORDS)
    with pytest.raises(ValueError, match="no room for strides"):
        artefact(torch.rand(64, 64), 32)
