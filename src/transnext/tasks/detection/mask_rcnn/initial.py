"""Initial values of layers as the released training has them; biases are 0."""

from collections.abc import Iterator

from torch import nn

Layer = nn.Linear | nn.Conv2d | nn.ConvTranspose2d


def xavier(part: nn.Module) -> None:
    """Uniform, so that neither activations nor gradients grow."""
    for layer in _layers(part):
        nn.init.xavier_uniform_(layer.weight)


def normal(part: nn.Module, std: float) -> None:
    """Normal with this standard deviation."""
    for layer in _layers(part):
        nn.init.normal_(layer.weight, std=std)


def kaiming(part: nn.Module) -> None:
    """Normal, so that gradients do not grow through ReLU."""
    for layer in _layers(part):
        nn.init.kaiming_normal_(layer.weight, mode="fan_out", nonlinearity="relu")


def _layers(part: nn.Module) -> Iterator[Layer]:
    """The layers within, their biases set to 0."""
    for layer in part.modules():
        if isinstance(layer, Layer):
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)
            yield layer
