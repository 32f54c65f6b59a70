"""Whether modules and tensors are what their class says, so that faster code may stand for them."""

from torch import Tensor, nn

PLAIN_TENSORS: tuple[type, ...] = (Tensor, nn.Parameter)


def is_untouched(module: nn.Module | None, kind: type[nn.Module]) -> bool:
    """Whether calling `module` does what its class says: nobody replaced, patched, wrapped or hooked it.

    Args:
        module: One of ours.
        kind: Its class; subclasses, such as parametrised ones, do not count.
    """
    if type(module) is not kind or module._forward_hooks or module._forward_pre_hooks:
        return False
    if module._backward_hooks or module._backward_pre_hooks:
        return False
    return "forward" not in module.__dict__


def global_hooks() -> bool:
    """Whether hooks watch the calls of all modules."""
    watching = nn.modules.module
    return bool(
        watching._global_forward_hooks
        or watching._global_forward_pre_hooks
        or watching._global_backward_hooks
        or watching._global_backward_pre_hooks
    )
