"""Learning rates of the released training."""

from transnext.models.backbone import released_key

_BACKBONE_RATE = 0.1
_FULL_RATE = ("backbone.patch_embed4.", "backbone.norm4.")


def lr_scale(name: str) -> float:
    """The part of the learning rate that a parameter of a `Dino` has in the released training.

    A tenth in the backbone, except for the patch embedding and the norm of the last stage of a TransNeXt, which the
    released configurations pass over.
    """
    if not name.startswith("backbone."):
        return 1.0
    return 1.0 if released_key(name).startswith(_FULL_RATE) else _BACKBONE_RATE
