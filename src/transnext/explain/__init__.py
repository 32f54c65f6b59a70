"""Attention maps, which show where the model looks, and pictures of them."""

from transnext.explain.attention import attention_from, where_it_looks
from transnext.explain.figures import overlay

__all__ = ["attention_from", "overlay", "where_it_looks"]
