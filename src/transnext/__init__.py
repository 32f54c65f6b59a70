"""TransNeXt, the vision backbone that sees as an eye does. Importing it registers the models with timm."""

from transnext.models import TransNeXt
from transnext.version import __version__

__all__ = ["TransNeXt", "__version__"]
