# SPDX-License-Identifier: Apache-2.0
"""Statements about tensors in memory: names, dtypes, shapes and digests, as the bytes that get signed.

Implements docs/format.md, "Tensor statements". One value has one payload, and everything that is not exactly as that
section says is refused. Not checked here: the signature, which comes first, and the tensors, which come after.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from itertools import pairwise
from operator import attrgetter
from types import MappingProxyType

from sentry.errors import FormatError, RefusedError
from sentry.formats import safetensors, strict_json
from sentry.formats.digest import decode_hex, digest_bytes
from sentry.formats.safetensors import MAX_DIMENSIONS, tensor_nbytes
from sentry.formats.statement import Statement, Subject, decode_statement, encode_statement
from sentry.formats.strict_json import MAX_EXACT_INTEGER, MAX_INTEGER, Reader

PREDICATE_TYPE = "urn:artifact-sentry:tensors:v1"
# What the subject is called where the signer gave the artifact no name.
NAMELESS = "model"
# safetensors' types, and the complex types that files cannot hold.
DTYPE_BITS: Mapping[str, int] = MappingProxyType({**safetensors.DTYPE_BITS, "C32": 32, "C128": 128})


@dataclass(frozen=True, slots=True)
class SignedTensor:
    """One signed tensor.

    Attributes:
        name: Its name in the model.
        dtype: Its element type, as safetensors writes it.
        shape: Its dimensions, in elements.
        nbytes: Number of bytes.
        digest: Digest of its value, as contiguous row-major little-endian bytes, under the manifest's hash.
    """

    name: str
    dtype: str
    shape: tuple[int, ...]
    nbytes: int
    digest: bytes


@dataclass(frozen=True)
class TensorManifest:
    """The tensors that one signature vouches for.

    Attributes:
        hash: Name of the digests' algorithm.
        tensors: By code points of their names.
        name: Name that the signer gave the artifact, if any.
        version: Version that the signer gave it, if any.
        parent: Hex SHA-256 of the payload that this one updates, if any.
    """

    hash: str
    tensors: tuple[SignedTensor, ...] = field(repr=False)
    name: str | None = None
    version: str | None = None
    parent: str | None = None

    def by_name(self) -> dict[str, SignedTensor]:
        """Return the tensors by their names."""
        return {tensor.name: tensor for tensor in self.tensors}


# ---------------------------------------------------------------------------------------------------------- produce


def encode_tensors(manifest: TensorManifest) -> bytes:
    """Serialise a manifest of tensors, in whatever order, as the in-toto statement that gets signed.

    Raises:
        RefusedError: No verifier would accept it: it has no tensors, a name twice, or sizes that do not fit.
    """
    tensors = tuple(sorted(manifest.tensors, key=attrgetter("name")))
    predicate: dict[str, object] = {"hash": manifest.hash, "tensors": [_encode_tensor(tensor) for tensor in tensors]}
    optional = {"name": manifest.name, "version": manifest.version, "parent": manifest.parent}
    predicate |= {key: value for key, value in optional.items() if value is not None}
    try:
        subject = Subject(manifest.name or NAMELESS, {"sha256": _predicate_sha256(predicate)})
        payload = encode_statement(Statement((subject,), PREDICATE_TYPE, predicate))
        # What is signed is what is read: the reader is the one place with rules.
        decode_tensors(payload)
    except FormatError as error:
        raise RefusedError(f"such a tensor statement cannot be signed: {error}") from None
    return payload


def _encode_tensor(tensor: SignedTensor) -> dict[str, object]:
    return {
        "name": tensor.name,
        "dtype": tensor.dtype,
        "shape": [_encode_integer(size) for size in tensor.shape],
        "nbytes": _encode_integer(tensor.nbytes),
        "digest": tensor.digest.hex(),
    }


def _encode_integer(value: int) -> int | str:
    return value if abs(value) <= MAX_EXACT_INTEGER else str(value)


def _predicate_sha256(predicate: object) -> str:
    return hashlib.sha256(strict_json.canonical(predicate)).hexdigest()


# ----------------------------------------------------------------------------------------------------------- accept


def decode_tensors(payload: bytes) -> TensorManifest:
    """Read a manifest of tensors from a payload whose signature has been checked.

    Raises:
        FormatError: It is not exactly what docs/format.md describes.
    """
    return read_tensors(decode_statement(payload))


def read_tensors(statement: Statement) -> TensorManifest:
    """Read a manifest of tensors from a decoded statement whose signature has been checked.

    Raises:
        FormatError: It is not exactly what docs/format.md describes.
    """
    if statement.predicate_type != PREDICATE_TYPE:
        raise FormatError(
            f"the statement's predicate type is {statement.predicate_type[:80]!r}, not {PREDICATE_TYPE!r}"
        )
    reader = Reader(statement.predicate, "the predicate")
    hash_name = reader.string("hash")
    entries = reader.array("tensors")
    name, version, parent = (_optional_text(reader, key) for key in ("name", "version", "parent"))
    reader.end()
    if parent is not None:
        decode_hex(parent, nbytes=32, what="the predicate's parent")
    nbytes = digest_bytes(hash_name)
    tensors = tuple(_decode_tensor(entry, nbytes) for entry in entries)
    _check_order(tensors)
    _check_subject(statement, name or NAMELESS)
    return TensorManifest(hash_name, tensors, name, version, parent)


def _optional_text(reader: Reader, key: str) -> str | None:
    if not reader.has(key):
        return None
    text = reader.string(key)
    if not text:
        raise FormatError(f"the predicate's {key!r} is empty")
    return text


def _decode_tensor(value: object, digest_nbytes: int) -> SignedTensor:
    reader = Reader(value, "a tensor")
    name = reader.string("name")
    what = f"the tensor {name[:80]!r}"
    dtype = reader.string("dtype")
    shape = tuple(_integer(size, what=f"the shape of {what}") for size in reader.array("shape"))
    nbytes = _integer(reader.raw("nbytes"), what=f"the size of {what}")
    digest = decode_hex(reader.string("digest"), nbytes=digest_nbytes, what=f"the digest of {what}")
    reader.end()
    if not name:
        raise FormatError("a tensor has an empty name")
    if len(shape) > MAX_DIMENSIONS:
        raise FormatError(f"{what} has more than {MAX_DIMENSIONS} dimensions")
    if nbytes != tensor_nbytes(dtype, shape, what=what, dtype_bits=DTYPE_BITS):
        raise FormatError(f"{what} has {nbytes} bytes, and its dtype and shape say otherwise")
    return SignedTensor(name, dtype, shape, nbytes, digest)


def _integer(value: object, *, what: str) -> int:
    """Read a number up to 2^53 - 1, or the decimal digits of a larger one."""
    if type(value) is int and 0 <= value <= MAX_EXACT_INTEGER:
        return value
    if isinstance(value, str) and value.isascii() and value.isdecimal() and len(value) <= 19:
        number = int(value)
        if str(number) == value and MAX_EXACT_INTEGER < number <= MAX_INTEGER:
            return number
    raise FormatError(f"{what} is not in non-negative integers, as numbers below 2^53 and as strings from there on")


def _check_order(tensors: tuple[SignedTensor, ...]) -> None:
    if not tensors:
        raise FormatError("the statement lists no tensors")
    for before, after in pairwise(tensors):
        if before.name == after.name:
            raise FormatError(f"the statement lists the tensor {after.name[:80]!r} twice")
        if before.name > after.name:
            raise FormatError(f"the tensor {after.name[:80]!r} is not in the order of names")


def _check_subject(statement: Statement, name: str) -> None:
    if len(statement.subjects) != 1:
        raise FormatError(f"the statement has {len(statement.subjects)} subjects, not one")
    subject = statement.subjects[0]
    if subject.name != name:
        raise FormatError(f"the subject is called {subject.name[:80]!r}, not {name[:80]!r}")
    if subject.annotations:
        raise FormatError("the subject has annotations, which a tensor statement has no use for")
    if dict(subject.digests) != {"sha256": _predicate_sha256(statement.predicate)}:
        raise FormatError("the subject's digest is not that of the predicate")
