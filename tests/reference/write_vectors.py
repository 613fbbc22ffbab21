# SPDX-License-Identifier: Apache-2.0
"""Write `tests/vectors/trees.json` from the reference: `python tests/reference/write_vectors.py`.

Inputs are `pattern(n)`: byte i is i modulo 251, as in BLAKE3's own vectors, so that the file need not hold them.
"""

from __future__ import annotations

import hashlib
import json
import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))

from reference import trees

VECTORS = Path(__file__).parents[1] / "vectors" / "trees.json"

MERKLE_HASHES = ("sha256", "sha3-256", "blake2b-256")
# Around leaves of 1024 bytes; odd and even counts, and counts that no power of two divides.
LENGTHS = (0, 1, 2, 3, 63, 64, 65, 1023, 1024, 1025, 2048, 2049, 3072, 5121, 7 * 1024, 8192, 8193, 16385, 31 * 1024 + 5)
SUBTREES = (
    (0, 1, 0),
    (1, 1, 0),
    (1025, 1, 0),
    (3072, 2, 0),
    (5 * 1024 + 1, 4, 0),
    (9 * 1024, 2, 6),
    (40 * 1024, 16, 16),
)
LARGE_SUBTREES = ((70 * 1024 + 1, 64, 64), (130 * 1024, 1024, 5 * 1024))
LEAF_COUNTS = (0, 1, 2, 3, 9)


def pattern(nbytes: int) -> bytes:
    """Return the input of a length."""
    return bytes(index % 251 for index in range(nbytes))


def noise(nbytes: int, seed: int = 0) -> bytes:
    """Return bytes without a pattern, always the same."""
    return hashlib.shake_128(b"%d" % seed).digest(nbytes)


def leaf(index: int) -> bytes:
    """Return the lattice's input of an index: 32 bytes."""
    return trees.blake3(index.to_bytes(4, "little"))


def example_fields(hash_name: str) -> list[trees.Field]:
    """Return fields of every kind, not in the order of their names; content of n bytes is `pattern(n)`."""
    described: list[tuple[str, int, str, tuple[int, ...], int]] = [
        ("label", 3, "I64", (), 8),
        ("caption", 1, "", (), 11),
        ("image", 0, "", (), 1500),
        ("embedding", 2, "F32", (2, 3), 24),
        ("é", 4, "", (), 3),
        ("mask", 255, "", (), 0),
        ("empty", 2, "BF16", (0, 7), 0),
    ]
    return [trees.Field(*field, trees.digest(hash_name, pattern(field[-1]))) for field in described]


RECORD_HASHES = ("blake3", "sha256", "blake2b", "merkle-sha256-1024")
RECORDS: tuple[tuple[str, str, str, tuple[str, ...]], ...] = (
    ("tensor", "", "w", ("embedding",)),
    ("sample", "source", "id-1", ("label", "caption", "image", "embedding", "é", "mask", "empty")),
    ("sample", "", "", ()),
    ("page", "s\u20ac", "0", ("image", "caption")),
)


def vectors() -> dict[str, Any]:
    """Compute everything."""
    return {
        "digests": {
            f"merkle-{name}-1024": {str(n): trees.merkle(pattern(n), name, 1024).hex() for n in LENGTHS}
            for name in MERKLE_HASHES
        },
        "blake3": {str(n): trees.blake3(pattern(n)).hex() for n in LENGTHS},
        "subtrees": [
            {
                "nbytes": nbytes,
                "group_chunks": group,
                "first_chunk": first,
                "values": [value.hex() for value in trees.subtree_values(pattern(nbytes), group, first)],
            }
            for nbytes, group, first in (*SUBTREES, *LARGE_SUBTREES)
        ],
        "lattice": {
            str(count): trees.blake3(trees.lattice_sum([leaf(index) for index in range(count)])).hex()
            for count in LEAF_COUNTS
        },
        "records": [record(name, *described) for name in RECORD_HASHES for described in RECORDS],
    }


def record(hash_name: str, role: str, source: str, key: str, names: tuple[str, ...]) -> dict[str, Any]:
    """Compute one record's leaf."""
    fields = {field.name: field for field in example_fields(hash_name)}
    chosen = [fields[name] for name in names]
    return {
        "hash": hash_name,
        "role": role,
        "source": source,
        "key": key,
        "fields": [[field.name, field.kind, field.dtype, list(field.shape), field.nbytes] for field in chosen],
        "leaf": trees.record_leaf(role, source, key, chosen, hash_name).hex(),
    }


def text() -> str:
    """Return the file as it must be."""
    return json.dumps(vectors(), indent=1, ensure_ascii=True) + "\n"


if __name__ == "__main__":
    VECTORS.parent.mkdir(exist_ok=True)
    VECTORS.write_text(text(), encoding="ascii")
