# SPDX-License-Identifier: Apache-2.0
"""Bytes that come from the host, hashed on a GPU while the next ones are read.

A message passes through a ring of pinned blocks. Each block becomes subtree values (BLAKE3) or subtree roots (RFC 9162)
on the GPU; the few values at the top are merged on the host.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np

from sentry.engine import schedules
from sentry.engine.blake3_numpy import CHUNK_BYTES, root_of
from sentry.engine.cpu import RING_BLOCKS
from sentry.engine.gpu import Gpu
from sentry.engine.schedule import Inputs, Schedule, Shape
from sentry.formats.digest import FLAT_BYTES, tree_of
from sentry.formats.merkle import merge_roots

# Whole groups; large enough that a launch is short beside the copy.
BLOCK_BYTES = 8 * 1024 * 1024
# What becomes one value: a power of two of chunks, and a multiple of every leaf size.
GROUP_CHUNKS = 1024
GROUP_BYTES = GROUP_CHUNKS * CHUNK_BYTES
# Pinned memory is scarce: this many messages pass at once (128 MiB), others wait.
MAX_RINGS = 4


class PinnedRings:
    """A bounded pool of rings of pinned memory, made at first use and kept."""

    def __init__(self) -> None:
        self._room = threading.Semaphore(MAX_RINGS)
        self._free: list[tuple[Any, list[memoryview]]] = []

    @contextmanager
    def ring(self, gpu: Gpu) -> Iterator[list[memoryview]]:
        """Lend a ring."""
        with self._room:
            held = self._free.pop() if self._free else gpu.pinned_ring(RING_BLOCKS, BLOCK_BYTES)
            try:
                yield held[1]
            finally:
                self._free.append(held)


class GpuState:
    """A hash state whose blocks are digested on a GPU: `update` block by block, then `digest`.

    Args:
        gpu: Where.
        hash_name: `blake3`, or a tree hash.
    """

    def __init__(self, gpu: Gpu, hash_name: str) -> None:
        self._gpu = gpu
        self._tree = tree_of(hash_name)
        self._hash_name = hash_name
        self._carry = b""
        self._values: list[bytes] = []

    def update(self, data: memoryview, /) -> None:
        """Take in more bytes. The last group always waits, since only `digest` knows whether it is all there is."""
        if len(self._carry) == GROUP_BYTES and len(data):
            self._digest_groups(self._carry)
            self._carry = b""
        block = self._carry + bytes(data) if self._carry else data
        whole = max(0, len(block) - 1) // GROUP_BYTES * GROUP_BYTES
        if whole:
            self._digest_groups(block[:whole])
        self._carry = bytes(block[whole:])

    def digest(self) -> bytes:
        """Return the digest of what was taken in."""
        if not self._values:
            return self._run(lambda inputs: schedules.digests(self._hash_name, inputs, Shape()), [self._carry])
        self._digest_groups(self._carry)
        if self._tree is None:
            return root_of(self._values)
        return merge_roots(self._values, self._tree[0])

    def _digest_groups(self, block: memoryview | bytes) -> None:
        if self._tree is None:
            first = len(self._values) * GROUP_CHUNKS
            result = self._run(lambda inputs: schedules.subtrees(inputs, GROUP_CHUNKS, Shape(), first), [block])
        else:
            groups = [block[at : at + GROUP_BYTES] for at in range(0, len(block), GROUP_BYTES)]
            result = self._run(lambda inputs: schedules.digests(self._hash_name, inputs, Shape()), groups)
        size = FLAT_BYTES[self._hash_name if self._tree is None else self._tree[0]]
        self._values += [result[at : at + size] for at in range(0, len(result), size)]

    def _run(self, make: Callable[[Inputs], Schedule], parts: Sequence[memoryview | bytes]) -> bytes:
        """Copy neighbouring parts to the GPU and run a schedule over them, a message each."""
        nbytes = np.array([len(part) for part in parts], np.uint64)
        with self._gpu.current():
            stream = self._gpu.stream_behind(())
            buffer = self._gpu.allocate(int(nbytes.sum()), stream)
            starts = np.uint64(int(buffer.handle)) + np.cumsum(nbytes, dtype=np.uint64) - nbytes
            for part, start in zip(parts, starts.tolist(), strict=True):
                if len(part):
                    self._gpu.copy_in(start, np.frombuffer(part, np.uint8), stream)
            result = self._gpu.run(make(Inputs.one_segment_each(starts, nbytes)), ())
            buffer.close(stream)
        return result
