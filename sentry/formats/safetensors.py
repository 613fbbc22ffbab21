# SPDX-License-Identifier: Apache-2.0
"""The header of a safetensors file, read more strictly than the format's own tools read it.

Implements docs/format.md, "safetensors headers". What two readers could understand differently is refused: duplicate
keys, gaps, overlaps, bytes behind the last tensor. Not checked: the values, which are any bytes.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import TypeGuard

from sentry.errors import FormatError
from sentry.formats import strict_json
from sentry.formats.strict_json import MAX_INTEGER, Reader

LENGTH_BYTES = 8
# The format's own limit.
MAX_HEADER_BYTES = 100_000_000
# Without a signed header digest: 93 MB of header cost a parser 12 seconds and 1.3 GB, and no model has 8 MiB.
MAX_UNSIGNED_HEADER_BYTES = 8 * 1024 * 1024
# More dimensions than any library's arrays have.
MAX_DIMENSIONS = 64
METADATA = "__metadata__"
# Bits of an element.
DTYPE_BITS: Mapping[str, int] = MappingProxyType(
    {
        "BOOL": 8, "U8": 8, "I8": 8, "U16": 16, "I16": 16, "U32": 32, "I32": 32, "U64": 64, "I64": 64,
        "F4": 4, "F6_E2M3": 6, "F6_E3M2": 6,
        "F8_E4M3": 8, "F8_E5M2": 8, "F8_E8M0": 8, "F8_E4M3FNUZ": 8, "F8_E5M2FNUZ": 8,
        "F16": 16, "BF16": 16, "F32": 32, "F64": 64, "C64": 64,
    }
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class TensorEntry:
    """One tensor of a file.

    Attributes:
        name: Its key in the header.
        dtype: As the header writes it, for example `BF16`.
        shape: Its dimensions, in elements.
        begin: Its first byte, counted from the end of the header, and `end` the one behind its last.
    """

    name: str
    dtype: str
    shape: tuple[int, ...]
    begin: int
    end: int

    @property
    def nbytes(self) -> int:
        """Number of bytes."""
        return self.end - self.begin


@dataclass(frozen=True)
class Header:
    """A parsed header.

    Attributes:
        data: The bytes that were parsed: the length field and the JSON text.
        tensors: By position in the file.
        metadata: The `__metadata__` strings.
    """

    data: bytes = field(repr=False)
    tensors: tuple[TensorEntry, ...]
    metadata: Mapping[str, str]


def header_nbytes(length: bytes, *, file_nbytes: int, limit: int = MAX_HEADER_BYTES) -> int:
    """Read the length field: the first 8 bytes of a file.

    Returns:
        How many bytes of the file make up the length field and the header.

    Raises:
        FormatError: The header is longer than the limit, or than the file.
    """
    if len(length) != LENGTH_BYTES:
        raise FormatError("the file is too short for a safetensors file")
    (nbytes,) = struct.unpack("<Q", length)
    if nbytes > limit:
        raise FormatError(f"the safetensors header is larger than {limit} bytes")
    if LENGTH_BYTES + nbytes > file_nbytes:
        raise FormatError("the safetensors header is longer than the file")
    return LENGTH_BYTES + int(nbytes)


def parse_header(data: bytes, *, file_nbytes: int | None, limit: int = MAX_HEADER_BYTES) -> Header:
    """Parse the length field and the header.

    Args:
        data: Exactly those bytes.
        file_nbytes: Size of the whole file; None if nobody knows it: then the last tensor ends the file, and a digest
            over header and tensors has to show that it does.
        limit: Refuse longer headers before looking at them.

    Raises:
        FormatError: Anything but one strict description of every byte of the file.
    """
    least = len(data) if file_nbytes is None else file_nbytes
    if header_nbytes(data[:LENGTH_BYTES], file_nbytes=least, limit=limit) != len(data):
        raise FormatError("the safetensors header is not as long as its length field says")
    text = data[LENGTH_BYTES:]
    if text[:1] != b"{":
        raise FormatError("the safetensors header does not begin with '{'")
    fields = strict_json.loads(text, what="safetensors header", max_bytes=limit)
    if not isinstance(fields, dict):
        raise FormatError("the safetensors header is not an object")
    metadata: Mapping[str, str] = {}
    if METADATA in fields:
        metadata = strict_json.string_map(fields.pop(METADATA), what="the safetensors metadata")
    tensors = [_decode_entry(name, value) for name, value in fields.items()]
    tensors.sort(key=lambda entry: (entry.begin, entry.end))
    _check_cover(tensors, None if file_nbytes is None else file_nbytes - len(data))
    return Header(data, tuple(tensors), metadata)


def tensor_nbytes(dtype: str, shape: tuple[int, ...], *, what: str, dtype_bits: Mapping[str, int] = DTYPE_BITS) -> int:
    """Return how many bytes a tensor takes.

    Args:
        dtype: Name of the element type.
        shape: Dimensions, in elements.
        what: What the tensor is called in messages.
        dtype_bits: The element types that there are, with their bits.

    Raises:
        FormatError: An unknown dtype, too many elements, or a last byte that is not whole.
    """
    if dtype not in dtype_bits:
        raise FormatError(f"{what} has an unknown dtype {dtype[:80]!r}")
    elements = 1
    for size in shape:
        # Zeros do not hide an overflow of the other dimensions.
        elements *= max(size, 1)
        if elements > MAX_INTEGER:
            raise FormatError(f"{what} has more elements than there are bytes anywhere")
    bits = 0 if 0 in shape else elements * dtype_bits[dtype]
    if bits % 8:
        raise FormatError(f"{what} ends within a byte")
    return bits // 8


def _decode_entry(name: str, value: object) -> TensorEntry:
    what = f"the tensor {name[:80]!r}"
    reader = Reader(value, what)
    dtype = reader.string("dtype")
    shape, offsets = tuple(reader.array("shape")), tuple(reader.array("data_offsets"))
    reader.end()
    if not _are_sizes(shape):
        raise FormatError(f"the shape of {what} are not non-negative integers")
    if not _are_sizes(offsets):
        raise FormatError(f"the offsets of {what} are not non-negative integers")
    if len(shape) > MAX_DIMENSIONS:
        raise FormatError(f"{what} has more than {MAX_DIMENSIONS} dimensions")
    if len(offsets) != 2 or offsets[0] > offsets[1]:
        raise FormatError(f"the offsets of {what} are not a range")
    if offsets[1] - offsets[0] != tensor_nbytes(dtype, shape, what=what):
        raise FormatError(f"the offsets of {what} are not as far apart as its shape says")
    return TensorEntry(name, dtype, shape, *offsets)


def _are_sizes(values: tuple[object, ...]) -> TypeGuard[tuple[int, ...]]:
    # Exactly int: JSON's true is one for isinstance, and floats are what other parsers accept.
    return all(type(value) is int and value >= 0 for value in values)


def _check_cover(tensors: list[TensorEntry], payload_nbytes: int | None) -> None:
    expected = 0
    for entry in tensors:
        if entry.begin != expected:
            raise FormatError(f"the tensor {entry.name[:80]!r} does not begin where the one before it ends")
        expected = entry.end
    if payload_nbytes is not None and expected != payload_nbytes:
        raise FormatError(f"the tensors take {expected} bytes, and the file has {payload_nbytes} for them")
