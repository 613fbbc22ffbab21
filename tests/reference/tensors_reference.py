# SPDX-License-Identifier: Apache-2.0
"""Tensor statements, written to be read: no code of the package.

`python tests/reference/tensors_reference.py` writes `tests/vectors/tensors.json`.
A tensor is a name, a dtype, a shape and its bytes: the value, row by row, little-endian.
"""

from __future__ import annotations

import hashlib
import json
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))

from reference import trees

VECTORS = Path(__file__).parents[1] / "vectors" / "tensors.json"
STATEMENT_TYPE = "https://in-toto.io/Statement/v1"
PREDICATE_TYPE = "urn:artifact-sentry:tensors:v1"
# Bits of an element, by the digits of the type's name: F8_E4M3 has 8.
# fmt: off
DTYPES = (
    "BOOL", "U8", "I8", "U16", "I16", "U32", "I32", "U64", "I64", "F4", "F6_E2M3", "F6_E3M2", "F8_E4M3", "F8_E5M2",
    "F8_E8M0", "F8_E4M3FNUZ", "F8_E5M2FNUZ", "F16", "BF16", "F32", "F64", "C32", "C64", "C128",
)
# fmt: on


@dataclass(frozen=True)
class Tensor:
    """A tensor as a writer sees it."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    data: bytes


def bits(dtype: str) -> int:
    """Return how many bits an element has."""
    if dtype == "BOOL":
        return 8
    return int("".join(filter(str.isdigit, dtype.split("_", maxsplit=1)[0])))


def number(value: int) -> int | str:
    """Write an integer: from 2^53 on as a string."""
    return value if value < 2**53 else str(value)


def canonical(value: Any) -> str:
    """Write RFC 8785's form of strings, integers, arrays and objects."""
    if isinstance(value, dict):
        return "{" + ",".join(f"{canonical(key)}:{canonical(value[key])}" for key in sorted(value)) + "}"
    if isinstance(value, list):
        return "[" + ",".join(map(canonical, value)) + "]"
    if isinstance(value, int):
        return str(value)
    short = {8: "\\b", 9: "\\t", 10: "\\n", 12: "\\f", 13: "\\r", 34: '\\"', 92: "\\\\"}
    escaped = [short.get(ord(char), char if ord(char) >= 32 else f"\\u{ord(char):04x}") for char in value]
    return '"' + "".join(escaped) + '"'


def predicate(hash_name: str, tensors: Sequence[Tensor], **annotations: str) -> dict[str, Any]:
    """Describe tensors, in the order of their names."""
    entries = [
        {
            "name": tensor.name,
            "dtype": tensor.dtype,
            "shape": [number(size) for size in tensor.shape],
            "nbytes": number(len(tensor.data)),
            "digest": trees.digest(hash_name, tensor.data).hex(),
        }
        for tensor in sorted(tensors, key=lambda tensor: tensor.name)
    ]
    return {"hash": hash_name, "tensors": entries, **annotations}


def statement(described: Mapping[str, Any]) -> dict[str, Any]:
    """Put a predicate into its statement."""
    sha256 = hashlib.sha256(canonical(dict(described)).encode()).hexdigest()
    return {
        "_type": STATEMENT_TYPE,
        "subject": [{"name": described.get("name", "model"), "digest": {"sha256": sha256}}],
        "predicateType": PREDICATE_TYPE,
        "predicate": dict(described),
    }


def payload(value: Mapping[str, Any]) -> bytes:
    """Serialise a statement: no white space, UTF-8, keys in the order given."""
    return json.dumps(value, separators=(",", ":"), ensure_ascii=False).encode()


def write(hash_name: str, tensors: Sequence[Tensor], **annotations: str) -> bytes:
    """Return the payload that gets signed."""
    return payload(statement(predicate(hash_name, tensors, **annotations)))


def verify(body: bytes, tensors: Sequence[Tensor]) -> None:
    """Check tensors against a payload whose signature has been checked, and which is well-formed JSON."""
    value = json.loads(body)
    described = value["predicate"]
    assert value == statement(described), "not a tensor statement, or the subject is another's"
    assert described.keys() <= {"hash", "tensors", "name", "version", "parent"}
    names = [entry["name"] for entry in described["tensors"]]
    assert names, "no tensors"
    assert all(before < after for before, after in pairwise(names)), "out of order, or twice"
    again = predicate(described["hash"], tensors)["tensors"]
    assert described["tensors"] == again, "the tensors are others"
    for tensor in tensors:
        elements = 1
        for size in tensor.shape:
            elements *= size
        assert tensor.dtype in DTYPES
        assert elements * bits(tensor.dtype) == 8 * len(tensor.data), "shape and bytes do not fit"


def pattern(nbytes: int) -> bytes:
    """Return the bytes of a tensor: byte i is i modulo 251."""
    return bytes(index % 251 for index in range(nbytes))


def tensor(name: str, dtype: str, *shape: int) -> Tensor:
    """Make a tensor of a pattern."""
    elements = 1
    for size in shape:
        elements *= size
    return Tensor(name, dtype, shape, pattern(elements * bits(dtype) // 8))


SETS: dict[str, Callable[[], list[Tensor]]] = {
    "one": lambda: [tensor("w", "F32", 2, 3)],
    "every dtype": lambda: [tensor(f"layers.{dtype.lower()}", dtype, 3, 8) for dtype in DTYPES],
    "names": lambda: [
        tensor(name, "U8", 4) for name in ("b", "a", "\U0001f600", "\ufb33", "é", "B", "a.b", '"\\/\b\n\u007f\u2028')
    ],
    "shapes": lambda: [tensor("empty", "BF16", 0, 7), tensor("scalar", "I64"), tensor("deep", "F16", *[1] * 64)],
    "large": lambda: [Tensor("huge and empty", "U8", (0, 2**53 - 1, 2**9), b""), tensor("huge", "U8", 0, 2**53)],
}
NAMED = {"name": "tiny é", "version": "1.0.0", "parent": "ab" * 32}


def vectors() -> list[dict[str, Any]]:
    """Compute every case; the bytes of n bytes of tensor are `pattern(n)`."""
    cases: list[tuple[str, str, dict[str, str]]] = [
        (title, hash_name, {}) for title in SETS for hash_name in ("blake3", "merkle-sha256-1024")
    ]
    cases += [("one", name, {}) for name in ("sha256", "sha3-256", "blake2b", "blake2b-256", "merkle-blake2b-256-8192")]
    cases += [("names", "blake3", NAMED)]
    return [
        {
            "title": title,
            "hash": hash_name,
            "tensors": [[item.name, item.dtype, list(map(number, item.shape))] for item in SETS[title]()],
            "annotations": annotations,
            "payload": write(hash_name, SETS[title](), **annotations).decode(),
        }
        for title, hash_name, annotations in cases
    ]


def text() -> str:
    """Return the file as it must be."""
    return json.dumps(vectors(), indent=1, ensure_ascii=True) + "\n"


if __name__ == "__main__":
    VECTORS.write_text(text(), encoding="ascii")
