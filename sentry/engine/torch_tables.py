# SPDX-License-Identifier: Apache-2.0
"""Many torch tensors at once: their addresses and lengths, without an object or a Python call for each.

A model has hundreds of tensors, and taking them apart one by one costs more than hashing them. Every check is one pass
of C code over all tensors. What is not plain goes the slow way (`sentry.engine.buffers`), which says what is wrong.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from operator import attrgetter
from typing import Any

import numpy as np
import numpy.typing as npt


@dataclass(frozen=True)
class TorchTables:
    """Tensors on one GPU: its ordinal, their addresses and lengths in bytes, and the current stream."""

    ordinal: int
    pointers: npt.NDArray[np.uint64]
    nbytes: npt.NDArray[np.uint64]
    stream: int


def torch_tables(items: Sequence[Any]) -> TorchTables | None:
    """Take many contiguous torch tensors on one GPU apart.

    Returns:
        None where that is not what there is.
    """
    torch = sys.modules.get("torch")
    if torch is None or not items or not set(map(type, items)) <= {torch.Tensor, torch.nn.Parameter}:
        return None
    tensor, count = torch.Tensor, len(items)
    ordinals = set(map(tensor.get_device, items))
    if len(ordinals) > 1 or min(ordinals) < 0:
        return None
    try:
        contiguous = all(map(tensor.is_contiguous, items)) and not any(map(attrgetter("is_nested"), items))
        if not contiguous or any(map(tensor.is_neg, items)) or any(map(tensor.is_conj, items)):
            return None
        pointers = np.fromiter(map(tensor.data_ptr, items), np.uint64, count)
        nbytes = np.fromiter(map(attrgetter("nbytes"), items), np.uint64, count)
    except RuntimeError:  # sparse tensors and the like have no bytes of their own
        return None
    if nbytes[pointers == 0].any():  # zero tensors have a length and no memory
        return None
    ordinal = ordinals.pop()
    return TorchTables(ordinal, pointers, nbytes, torch.cuda.current_stream(ordinal).cuda_stream)
