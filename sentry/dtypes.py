# SPDX-License-Identifier: Apache-2.0
"""What the libraries call the element types that safetensors and tensor statements name."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

# Canonical name to torch's. C32 and C128 are tensor statements' only. F6 types have no counterpart; F4's holds two
# elements in one.
TORCH_NAMES: Mapping[str, str] = MappingProxyType(
    {
        "BOOL": "bool", "U8": "uint8", "I8": "int8", "U16": "uint16", "I16": "int16", "U32": "uint32", "I32": "int32",
        "U64": "uint64", "I64": "int64", "F4": "float4_e2m1fn_x2", "F8_E4M3": "float8_e4m3fn", "F8_E5M2": "float8_e5m2",
        "F8_E8M0": "float8_e8m0fnu", "F8_E4M3FNUZ": "float8_e4m3fnuz", "F8_E5M2FNUZ": "float8_e5m2fnuz",
        "F16": "float16", "BF16": "bfloat16", "F32": "float32", "F64": "float64", "C64": "complex64",
        "C32": "complex32", "C128": "complex128",
    }
)  # fmt: skip
# Canonical name to that of NumPy, and of the `ml_dtypes` package for what NumPy lacks.
NUMPY_NAMES: Mapping[str, str] = MappingProxyType(
    {name: other for name, other in TORCH_NAMES.items() if name not in {"F4", "C32"}}
)
# How many elements of the canonical type one of torch's holds, where that is not one.
TORCH_PACKED: Mapping[str, int] = MappingProxyType({"F4": 2})
