# SPDX-License-Identifier: Apache-2.0
"""The Merkle tree hash of RFC 9162 §2.1.1 over consecutive leaves of one byte string.

Implements docs/format.md, "Tree digests". Leaf `H(0x00 || chunk)`, node `H(0x01 || left || right)`, split at the
largest power of two below the number of leaves, `H("")` for the empty string. The length of the string is not part of
the root; whoever signs a root signs the length with it.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from typing import Any, Protocol

from sentry.formats.digest import FLAT_BYTES


class HashState(Protocol):
    """What hashlib's objects offer."""

    def update(self, data: bytes | memoryview, /) -> object:
        """Take in more bytes."""

    def digest(self) -> bytes:
        """Return the digest of what was taken in."""

    def copy(self) -> Any:  # noqa: ANN401  (a state of the same kind)
        """Return a state that goes on by itself."""


def flat_state(hash_name: str) -> HashState:
    """Return a fresh hashlib state of a flat hash (not BLAKE3, which hashlib has not)."""
    if hash_name.startswith("blake2b"):
        return hashlib.blake2b(digest_size=FLAT_BYTES[hash_name])
    return hashlib.new(hash_name.replace("-", "_"))


class MerkleState:
    """Computes a root incrementally, with the memory of one leaf and one node per level.

    Args:
        hash_name: The hash of leaves and nodes.
        leaf_bytes: Size of every leaf but the last.
    """

    def __init__(self, hash_name: str, leaf_bytes: int, *, make: Callable[[str], HashState] = flat_state) -> None:
        self._empty = make(hash_name)
        self._leaf, self._node = self._empty.copy(), self._empty.copy()
        self._leaf.update(b"\x00")
        self._node.update(b"\x01")
        self._leaf_bytes = leaf_bytes
        self._open: HashState | None = None
        self._room = leaf_bytes
        # Roots of perfect subtrees, larger ones first: (number of leaves, root).
        self._roots: list[tuple[int, bytes]] = []

    def update(self, data: bytes | memoryview, /) -> None:
        """Take in more bytes."""
        view = memoryview(data).cast("B")
        while len(view):
            if self._open is None:
                self._open, self._room = self._leaf.copy(), self._leaf_bytes
            taken = view[: self._room]
            self._open.update(taken)
            self._room -= len(taken)
            view = view[len(taken) :]
            if self._room == 0:
                self._push(self._open.digest())
                self._open = None

    def digest(self) -> bytes:
        """Return the root of what was taken in."""
        roots = [root for _, root in self._roots]
        if self._open is not None:
            roots.append(self._open.digest())
        if not roots:
            return self._empty.digest()
        root = roots.pop()
        while roots:
            root = self._parent(roots.pop(), root)
        return root

    def _push(self, leaf: bytes) -> None:
        size, root = 1, leaf
        while self._roots and self._roots[-1][0] == size:
            root = self._parent(self._roots.pop()[1], root)
            size *= 2
        self._roots.append((size, root))

    def _parent(self, left: bytes, right: bytes) -> bytes:
        node: HashState = self._node.copy()
        node.update(left + right)
        return node.digest()


def merge_roots(roots: list[bytes], hash_name: str) -> bytes:
    """Merge the roots of neighbouring subtrees, one or more; all but the last are perfect and equally large."""
    node = flat_state(hash_name)
    node.update(b"\x01")
    level = roots
    while len(level) > 1:
        pairs = []
        for left, right in zip(level[::2], level[1::2], strict=False):
            state: HashState = node.copy()
            state.update(left + right)
            pairs.append(state.digest())
        level = pairs + level[2 * len(pairs) :]
    return level[0]
