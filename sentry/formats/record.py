# SPDX-License-Identifier: Apache-2.0
"""Records: one named thing with typed fields, and the leaf that stands for it.

Implements docs/format.md, "Records". The leaf is BLAKE3 in key-derivation mode over a preimage that holds the digests
of the fields' contents; here the preimage is laid out, with a hole for each digest, and engines fill and hash it.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from enum import IntEnum

from sentry.errors import FormatError
from sentry.formats.digest import digest_bytes

LEAF_CONTEXT = "artifact-sentry v1 record leaf"
ROLES = ("tensor", "sample", "page")
_MAX_DIMENSIONS = 255
_MAX_FIELDS = 2**16 - 1
_MAX_SIZE = 2**64 - 1


class Kind(IntEnum):
    """What a field's bytes are."""

    BYTES = 0
    UTF8 = 1
    TENSOR = 2
    SCALAR = 3
    NESTED = 4
    NULL = 255


@dataclass(frozen=True, slots=True)
class FieldType:
    """One field of a record, without its content.

    Attributes:
        name: Unique within the record.
        kind: What the bytes are.
        dtype: Element type of tensors and scalars as safetensors writes it (`F32`); empty for the others.
        shape: Dimensions of a tensor; a scalar has none.
        nbytes: Length of the content in bytes.
    """

    name: str
    kind: Kind
    dtype: str
    shape: tuple[int, ...]
    nbytes: int


@dataclass(frozen=True, slots=True)
class Preimage:
    """What a leaf is the hash of: `template`, with the fields' digests at `holes`.

    Attributes:
        template: The bytes, zero in the holes.
        holes: Offset of each field's digest, in the order of the fields.
        order: For each hole, the index of its field as the caller listed them.
        hash_name: The digest algorithm of the contents.
        nbytes: Length of each field's content, as the caller listed them.
    """

    template: bytes
    holes: tuple[int, ...]
    order: tuple[int, ...]
    hash_name: str
    nbytes: tuple[int, ...]

    def fill(self, digests: tuple[bytes, ...] | list[bytes]) -> bytes:
        """Return the preimage with the digests (in the caller's order of fields) in place.

        Raises:
            FormatError: They are not as many as the fields, or not of the hash's size.
        """
        size = digest_bytes(self.hash_name)
        if len(digests) != len(self.holes) or any(len(digest) != size for digest in digests):
            raise FormatError(f"{len(digests)} digests do not fit the {len(self.holes)} fields of a record")
        filled = bytearray(self.template)
        for hole, index in zip(self.holes, self.order, strict=True):
            filled[hole : hole + size] = digests[index]
        return bytes(filled)


def lay_out(role: str, source: str, key: str, fields: tuple[FieldType, ...], *, hash_name: str) -> Preimage:
    """Lay out the preimage of a record's leaf.

    Args:
        role: One of `ROLES`.
        source: Who the record comes from; empty for tensors.
        key: The record's name within its source.
        fields: Every field, in any order; sorted by the bytes of their names here.
        hash_name: The digest algorithm of the contents.

    Raises:
        FormatError: For an unknown role, a name given twice, or a value that has no place in the format.
    """
    if role not in ROLES:
        raise FormatError(f"there is no role {role[:80]!r}")
    if role == "tensor" and source:
        raise FormatError("a tensor has no source")
    if len(fields) > _MAX_FIELDS:
        raise FormatError(f"a record has at most {_MAX_FIELDS} fields")
    names = [_text(field.name) for field in fields]
    if len(set(names)) != len(names):
        raise FormatError("a record has two fields of one name")
    order = sorted(range(len(fields)), key=names.__getitem__)
    out = bytearray(_prefixed(role) + _prefixed(source) + _prefixed(key) + struct.pack("<H", len(fields)))
    holes = []
    size = digest_bytes(hash_name)
    for index in order:
        out += _field_header(fields[index], hash_name)
        holes.append(len(out))
        out += bytes(size)
    return Preimage(bytes(out), tuple(holes), tuple(order), hash_name, tuple(field.nbytes for field in fields))


def _field_header(field: FieldType, hash_name: str) -> bytes:
    _check_field(field)
    shape = struct.pack(f"<B{len(field.shape)}Q", len(field.shape), *field.shape)
    head = _prefixed(field.name) + struct.pack("<B", field.kind) + _prefixed(field.dtype)
    return head + shape + struct.pack("<Q", field.nbytes) + _prefixed(hash_name)


def _check_field(field: FieldType) -> None:
    """Refuse what the format has no field for, or two spellings of one field."""
    name = f"the field {field.name[:80]!r}"
    if field.kind not in set(Kind):
        raise FormatError(f"{name} has no kind that the format knows")
    sizes = (*field.shape, field.nbytes)
    if len(field.shape) > _MAX_DIMENSIONS or not all(0 <= size <= _MAX_SIZE for size in sizes):
        raise FormatError(f"{name} has no such shape or size")
    if field.kind not in {Kind.TENSOR, Kind.SCALAR} and field.dtype:
        raise FormatError(f"{name} has an element type, and no elements")
    if field.kind != Kind.TENSOR and field.shape:
        raise FormatError(f"{name} has dimensions, and is no tensor")
    if field.kind == Kind.NULL and field.nbytes:
        raise FormatError(f"{name} is null, and has a length")


def _prefixed(text: str) -> bytes:
    data = _text(text)
    return struct.pack("<I", len(data)) + data


def _text(text: str) -> bytes:
    try:
        return text.encode("utf-8")
    except UnicodeEncodeError:
        raise FormatError("a name in a record is not Unicode text") from None
