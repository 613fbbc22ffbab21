# SPDX-License-Identifier: Apache-2.0
"""Small models in memory, and what the reference says of their tensors."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from reference import oms_reference
from reference.tensors_reference import Tensor

# What the reference calls the types that NumPy has.
_NAMES = {
    "bool": "BOOL", "uint8": "U8", "int8": "I8", "uint16": "U16", "int16": "I16", "uint32": "U32", "int32": "I32",
    "uint64": "U64", "int64": "I64", "float16": "F16", "float32": "F32", "float64": "F64", "complex64": "C64",
    "complex128": "C128",
}  # fmt: skip
NUMPY_DTYPES = tuple(_NAMES)


def arrays(**changes: Any) -> dict[str, Any]:
    """Return a small model of NumPy arrays; a change to None takes one out."""
    model: dict[str, Any] = {
        "embed": np.arange(12, dtype=np.float32).reshape(3, 4),
        "head": np.arange(12, 24, dtype=np.float32).reshape(3, 4),
        "norm": np.ones(4, np.float16),
        "steps": np.array(7, np.int64),
    }
    return {name: array for name, array in {**model, **changes}.items() if array is not None}


def described(model: Mapping[str, Any]) -> list[Tensor]:
    """Describe NumPy arrays as the reference wants it, by a way of its own."""
    return [
        Tensor(name, _NAMES[array.dtype.name], array.shape, array.astype(array.dtype.newbyteorder("<")).tobytes())
        for name, array in model.items()
    ]


def safetensors(tensors: Sequence[Tensor], metadata: Mapping[str, str] | None = None) -> tuple[bytes, bytes]:
    """Write a safetensors file; return its length field with the header, and all of it."""
    fields: dict[str, Any] = {"__metadata__": dict(metadata)} if metadata else {}
    at = 0
    for tensor in tensors:
        offsets = [at, at + len(tensor.data)]
        fields[tensor.name] = {"dtype": tensor.dtype, "shape": list(tensor.shape), "data_offsets": offsets}
        at = offsets[1]
    text = json.dumps(fields).encode()
    header = len(text).to_bytes(8, "little") + text
    return header, header + b"".join(tensor.data for tensor in tensors)


def statement_without_annotations(files: Mapping[str, bytes], choice: str = "blake3") -> dict[str, Any]:
    """Describe files as other tools do, which know nothing of sizes and headers."""
    value = oms_reference.statement("model", files, choice=choice)
    for resource in value["predicate"]["resources"]:
        del resource["annotations"]
    return value


def sha256(data: bytes) -> str:
    """Return a hex SHA-256."""
    return hashlib.sha256(data).hexdigest()
