# SPDX-License-Identifier: Apache-2.0
"""What digests must be: hashlib, the blake3 wheel, and the reference's tree over them (`test_references.py`)."""

from __future__ import annotations

from blake3 import blake3
from reference import trees

FLAT = ("sha256", "sha3-256", "blake2b", "blake2b-256")
TREES = ("sha256", "sha3-256", "blake2b-256")
LEAF_SIZES = (1024, 8192, 1048576)
# Bytes in a block, where lengths get interesting; a SHA-3 block has 136, a BLAKE2b block 128.
BLOCKS = {"blake3": 64, "sha256": 64, "sha3-256": 136, "blake2b": 128, "blake2b-256": 128}
NAMES = ("blake3", *FLAT, *(f"merkle-{base}-{size}" for base in TREES for size in LEAF_SIZES))
SMALL_NAMES = tuple(name for name in NAMES if not name.endswith("-1048576"))


def expected(name: str, data: bytes) -> bytes:
    """Return a digest by an independent way."""
    return blake3(data).digest() if name == "blake3" else trees.digest(name, data)


def unit_of(name: str) -> tuple[int, int]:
    """Return the block and the chunk or leaf size of a hash; a flat hash has no chunks, it gets eight blocks."""
    if name.startswith("merkle-"):
        _, base = name.split("-", 1)
        base, size = base.rsplit("-", 1)
        return BLOCKS[base], int(size)
    return BLOCKS[name], 1024 if name == "blake3" else 8 * BLOCKS[name]
