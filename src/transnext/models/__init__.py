"""The network, its variants, and released checkpoints. Importing this registers the variants with timm."""

from transnext.models import variants
from transnext.models.transnext import TransNeXt

__all__ = ["TransNeXt", "variants"]
