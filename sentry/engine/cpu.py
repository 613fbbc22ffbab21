# SPDX-License-Identifier: Apache-2.0
"""The CPU engine: hashlib and the blake3 wheel, fed by `pread`.

Long messages are read by one thread and hashed by one more per hash, all on the same blocks: each byte is read once,
and the slowest hash sets the pace. Memory is bounded by the ring, whatever the length of the message.
"""

from __future__ import annotations

import contextlib
import hashlib
import mmap
import os
import queue
import threading
from collections.abc import Iterator, Mapping, Sequence
from typing import Protocol

from blake3 import blake3

from sentry.engine.contract import Progress
from sentry.engine.segments import FileRange, Segment, ShortReadError

# Measured on two cores (benchmarks/RESULTS.md): blocks that stay in the second-level cache are read and hashed fastest.
BLOCK_BYTES = 1024 * 1024
# One being read, one per hash being hashed, one in between.
RING_BLOCKS = 4
# Below this, starting threads costs more than they save.
INLINE_BYTES = 4 * BLOCK_BYTES


class _State(Protocol):
    def update(self, data: memoryview, /) -> object: ...

    def digest(self) -> bytes: ...


class CpuEngine:
    """Hashes on the host.

    Args:
        threads: How many threads may work at once; by default as many as the process may use cores.
    """

    name = "cpu"

    def __init__(self, threads: int | None = None) -> None:
        self.threads = threads or len(os.sched_getaffinity(0))
        self._local = threading.local()

    def split(self, streams: int) -> CpuEngine:
        """Return an engine for one of several streams that run side by side."""
        return CpuEngine(max(1, self.threads // max(1, streams)))

    def digest(
        self, hashes: Sequence[str], segments: Sequence[Segment], *, progress: Progress | None = None
    ) -> Mapping[str, bytes]:
        """Digest the concatenation of the segments under every hash, from one read.

        Raises:
            ShortReadError: A file ended before its range did.
            OSError: A file could not be read.
        """
        nbytes = sum(segment.nbytes for segment in segments)
        parallel = self.threads > 1 and nbytes > INLINE_BYTES
        states = {name: _new_state(name, parallel=parallel and len(hashes) == 1) for name in hashes}
        if parallel:
            _digest_in_threads(list(states.values()), segments, progress)
        else:
            for block in _blocks(segments, [self._buffer()]):
                for state in states.values():
                    state.update(block)
                if progress:
                    progress(len(block))
        return {name: state.digest() for name, state in states.items()}

    def digests(self, hash_name: str, messages: Sequence[Sequence[Segment]]) -> list[bytes]:
        """Digest many messages under one hash."""
        return [self.digest([hash_name], segments)[hash_name] for segments in messages]

    def _buffer(self) -> memoryview:
        """Return this thread's block, allocated at first use."""
        buffer: memoryview | None = getattr(self._local, "buffer", None)
        if buffer is None:
            buffer = self._local.buffer = _new_block()
        return buffer


def _new_state(name: str, *, parallel: bool) -> _State:
    if name == "blake3":
        return blake3(max_threads=blake3.AUTO if parallel else 1)
    return hashlib.new(name, usedforsecurity=True)


def _new_block() -> memoryview:
    """Allocate a block on a page boundary: the kernel copies there at 11 GB/s, and into a bytearray at 2."""
    return memoryview(mmap.mmap(-1, BLOCK_BYTES, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS))


def _blocks(segments: Sequence[Segment], buffers: Sequence[memoryview]) -> Iterator[memoryview]:
    """Yield the message block by block; a block is valid until the buffers have gone round once."""
    turn = 0
    for segment in segments:
        done = 0
        while done < segment.nbytes:
            if isinstance(segment, FileRange):
                block = _read(segment, done, buffers[turn % len(buffers)])
                turn += 1
            else:
                block = memoryview(segment.data).cast("B")[done : done + BLOCK_BYTES]
            done += len(block)
            yield block


def _read(segment: FileRange, done: int, buffer: memoryview) -> memoryview:
    wanted = buffer[: min(len(buffer), segment.nbytes - done)]
    nbytes = os.preadv(segment.descriptor, [wanted], segment.offset + done)
    if nbytes == 0:
        raise ShortReadError("a file became shorter while it was read")
    return wanted[:nbytes]


class _Hasher(threading.Thread):
    """Feeds one hash, block by block, in a thread of its own."""

    def __init__(self, state: _State) -> None:
        super().__init__(name="sentry-hash", daemon=True)
        self._state = state
        self._blocks: queue.SimpleQueue[memoryview | None] = queue.SimpleQueue()
        self._room = threading.Semaphore(RING_BLOCKS - 1)
        self._error: BaseException | None = None

    def put(self, block: memoryview) -> None:
        """Hand over the next block; when this returns, the block RING_BLOCKS - 1 before it may be overwritten."""
        self._room.acquire()
        self._blocks.put(block)

    def close(self) -> None:
        """Wait until all blocks are hashed.

        Raises:
            BaseException: Whatever the hash raised.
        """
        self._blocks.put(None)
        self.join()
        if self._error is not None:
            raise self._error

    def run(self) -> None:
        while (block := self._blocks.get()) is not None:
            try:
                if self._error is None:
                    self._state.update(block)
            except BaseException as error:  # noqa: BLE001  (raised again by `close`, in the thread that waits)
                self._error = error
            self._room.release()


def _digest_in_threads(states: Sequence[_State], segments: Sequence[Segment], progress: Progress | None) -> None:
    """Read in this thread while one thread per hash follows."""
    ring = [_new_block() for _ in range(RING_BLOCKS)]
    with contextlib.ExitStack() as stack:
        hashers = [_Hasher(state) for state in states]
        for hasher in hashers:
            hasher.start()
            stack.callback(hasher.close)
        for block in _blocks(segments, ring):
            for hasher in hashers:
                hasher.put(block)
            if progress:
                progress(len(block))
