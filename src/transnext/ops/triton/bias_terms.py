"""The index of the position-bias table as a sum of what the query and what the key contributes, for each axis.

Shape legend: `H W` queries and `P_h P_w` keys of the two axes, `T` taps of a query and of a key: 1, or 2 where the
bias is resized.
"""

from typing import NamedTuple

import torch
from torch import Tensor

from transnext.ops.position_bias import _bilinear_taps, _offsets_of_pooling_bins


class BiasTerms(NamedTuple):
    """How queries and keys read the bias table `[M, U_h, U_w]`.

    Row `queries - keys` and the same of columns is the entry to read. `terms` and `weights` hold, one after the other,
    those of the `H` query rows, the `P_h` key rows, the `W` query columns and the `P_w` key columns, `T` each.

    Attributes:
        terms: `[(H + P_h + W + P_w) * T]` int32.
        weights: The same shape, float32; the weights of the taps, all 1 where `T` is 1.
        taps: `T`.
    """

    terms: Tensor
    weights: Tensor
    taps: int


def bias_terms(
    queries: tuple[int, int], keys: tuple[int, int], table_size: tuple[int, int, int, int], device: torch.device
) -> BiasTerms:
    """The terms of both axes.

    Args:
        queries: `(H, W)`.
        keys: `(P_h, P_w)`.
        table_size: Query rows and columns, key rows and columns that the table is made for.
        device: Where the tensors are made.
    """
    trained = ((table_size[0], table_size[2]), (table_size[1], table_size[3]))
    resized = trained != tuple(zip(queries, keys, strict=True))
    terms, weights = [], []
    for num_queries, num_keys, (trained_queries, trained_keys) in zip(queries, keys, trained, strict=True):
        _, index = _offsets_of_pooling_bins(trained_queries, trained_keys, None)
        query_terms, key_terms = index[:, :1], (index[0, 0] - index[0])[:, None]
        query_weights, key_weights = torch.ones(num_queries, 1), torch.ones(num_keys, 1)
        if resized:
            query_taps, query_weights = _bilinear_taps(trained_queries, num_queries, None)
            key_taps, key_weights = _bilinear_taps(trained_keys, num_keys, None)
            query_terms, key_terms = query_terms[query_taps, 0], key_terms[key_taps, 0]
        terms += [query_terms.flatten(), key_terms.flatten()]
        weights += [query_weights.flatten(), key_weights.flatten()]
    return BiasTerms(
        torch.cat(terms).to(device, torch.int32), torch.cat(weights).to(device, torch.float32), 2 if resized else 1
    )
