# SPDX-License-Identifier: Apache-2.0
"""The CPU engine: hashlib and the blake3 wheel, fed by `pread`.

Long messages are read by one thread and hashed by one more per hash, all on the same blocks: each byte is read once,
and the slowest hash sets the pace. Memory is bounded by the ring, whatever the length of the message.
"""

from __future__ import annotations

import contextlib
import mmap
import os
import queue
import threading
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Protocol, Self

from blake3 import blake3

from sentry.engine.buffers import as_messages
from sentry.engine.checks import Records, check_group, check_leaves, contents_of
from sentry.engine.contract import Progress
from sentry.engine.segments import FileRange, HostBytes, Message, Segment, ShortReadError
from sentry.errors import EngineError
from sentry.formats.digest import digest_bytes, tree_of
from sentry.formats.lattice import LANES, STATE_BYTES, LatticeSum
from sentry.formats.merkle import MerkleState, flat_state
from sentry.formats.record import LEAF_CONTEXT

# Measured on two cores (benchmarks/RESULTS.md): blocks that stay in the second-level cache are read and hashed fastest.
BLOCK_BYTES = 1024 * 1024
# One being read, one per hash being hashed, one in between.
RING_BLOCKS = 4
# Below this, starting threads costs more than they save.
INLINE_BYTES = 4 * BLOCK_BYTES


class State(Protocol):
    """A hash under way."""

    def update(self, data: memoryview, /) -> object:
        """Take in more bytes."""

    def digest(self) -> bytes:
        """Return the digest of what was taken in."""


class CpuEngine:
    """Hashes on the host.

    Args:
        threads: How many threads may work at once; by default as many as the process may use cores.
    """

    name = "cpu"

    def __init__(self, threads: int | None = None) -> None:
        self.threads = threads or len(os.sched_getaffinity(0))
        self._local = threading.local()

    def describe(self) -> str:
        """Say in a few words what the engine runs on."""
        return f"{self.threads} threads"

    def split(self, streams: int) -> CpuEngine:
        """Return an engine for one of several streams that run side by side."""
        return CpuEngine(max(1, self.threads // max(1, streams)))

    def host_hashes(self, hashes: Sequence[str]) -> tuple[str, ...]:
        """Return those of the hashes that another place than the engine's computes: none."""
        del hashes
        return ()

    def digest(
        self, hashes: Sequence[str], segments: Message, *, progress: Progress | None = None
    ) -> Mapping[str, bytes]:
        """Digest the concatenation of the segments under every hash, from one read.

        Raises:
            ShortReadError: A file ended before its range did.
            OSError: A file could not be read.
            EngineError: A segment lies on a GPU.
        """
        nbytes = sum(segment.nbytes for segment in segments)
        parallel = self.threads > 1 and nbytes > INLINE_BYTES
        states = {name: new_state(name, parallel=parallel and len(hashes) == 1) for name in hashes}
        if parallel:
            ring = [_new_block() for _ in range(RING_BLOCKS)]
            digest_in_threads(list(states.values()), segments, ring, progress)
        else:
            for block in _blocks(segments, [self._buffer()]):
                for state in states.values():
                    state.update(block)
                if progress:
                    progress(len(block))
        return {name: state.digest() for name, state in states.items()}

    def digests(self, hash_name: str, messages: Sequence[Any]) -> list[bytes]:
        """Digest many messages under one hash: arrays, segments, or sequences of them."""
        digest_bytes(hash_name)
        return [self.digest([hash_name], segments)[hash_name] for segments in as_messages(messages)]

    def plan(self, hash_name: str, messages: Sequence[Any], *, background: bool = False) -> CpuPlan:
        """Prepare the digests of memory that will be hashed again and again; priorities are the system's business."""
        del background
        return CpuPlan(self, hash_name, as_messages(messages))

    def subtrees(self, message: Any, group_chunks: int, *, first_chunk: int = 0) -> list[bytes]:  # noqa: ANN401
        """Return BLAKE3's chaining value of every run of `group_chunks` chunks of 1024 bytes, never as a root."""
        from sentry.engine.blake3_numpy import subtree_values  # noqa: PLC0415

        check_group(group_chunks)
        data = b"".join(bytes(block) for block in _blocks(as_messages([message])[0], [self._buffer()]))
        return subtree_values(data, group_chunks, first_chunk=first_chunk)

    def leaves(self, hash_name: str, records: Records) -> list[bytes]:
        """Return the leaf of every record, from the contents of its fields in the caller's order of fields."""
        contents = self.digests(hash_name, contents_of(hash_name, records))
        leaves, at = [], 0
        for preimage, fields in records:
            filled = preimage.fill(contents[at : at + len(fields)])
            leaves.append(blake3(filled, derive_key_context=LEAF_CONTEXT).digest())
            at += len(fields)
        return leaves

    def leaves_and_sum(self, hash_name: str, records: Records) -> tuple[list[bytes], LatticeSum]:
        """Return every record's leaf and the lattice sum over them."""
        leaves = self.leaves(hash_name, records)
        return leaves, self.lattice_sum(leaves)

    def lattice_sum(self, leaves: Sequence[bytes]) -> LatticeSum:
        """Return the lattice sum over leaves of 32 bytes."""
        import numpy as np  # noqa: PLC0415  (only this operation and `subtrees` need it)

        check_leaves(leaves)
        total = np.zeros(LANES, np.uint16)
        for leaf in leaves:
            total += np.frombuffer(blake3(leaf).digest(length=STATE_BYTES), "<u2")
        return LatticeSum(total.astype("<u2").tobytes())

    def _buffer(self) -> memoryview:
        """Return this thread's block, allocated at first use."""
        buffer: memoryview | None = getattr(self._local, "buffer", None)
        if buffer is None:
            buffer = self._local.buffer = _new_block()
        return buffer


class CpuPlan:
    """Digests of the same memory, to be computed again; there is nothing to prepare on a CPU."""

    def __init__(self, engine: CpuEngine, hash_name: str, messages: Sequence[Message]) -> None:
        digest_bytes(hash_name)
        self._engine = engine
        self._hash_name = hash_name
        self._messages = messages

    def run(self) -> list[bytes]:
        """Return the digest of every message as its memory is now."""
        return self._engine.digests(self._hash_name, self._messages)

    def close(self) -> None:
        """Do nothing: no memory is held."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_exception: object) -> None:
        self.close()


def new_state(name: str, *, parallel: bool = False) -> State:
    """Return a fresh state of any hash that has a name."""
    tree = tree_of(name)
    if tree is not None:
        return MerkleState(*tree)
    if name == "blake3":
        return blake3(max_threads=blake3.AUTO if parallel else 1)
    return flat_state(name)


def _new_block() -> memoryview:
    """Allocate a block on a page boundary: the kernel copies there at 11 GB/s, and into a bytearray at 2."""
    return memoryview(mmap.mmap(-1, BLOCK_BYTES, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS))


def _blocks(segments: Message, buffers: Sequence[memoryview]) -> Iterator[memoryview]:
    """Yield the message block by block; a block is valid until the buffers have gone round once."""
    turn = 0
    for segment in segments:
        done = 0
        while done < segment.nbytes:
            if isinstance(segment, FileRange):
                block = _read(segment, done, buffers[turn % len(buffers)])
                turn += 1
            else:
                block = _host_view(segment)[done : done + len(buffers[0])]
            done += len(block)
            yield block


def _host_view(segment: Segment) -> memoryview:
    if isinstance(segment, HostBytes):
        return memoryview(segment.data).cast("B")
    raise EngineError("the bytes are in a GPU's memory", hint="use engine='cuda', or move them to the host")


def _read(segment: FileRange, done: int, buffer: memoryview) -> memoryview:
    wanted = buffer[: min(len(buffer), segment.nbytes - done)]
    nbytes = os.preadv(segment.descriptor, [wanted], segment.offset + done)
    if nbytes == 0:
        raise ShortReadError("a file became shorter while it was read")
    return wanted[:nbytes]


class _Hasher(threading.Thread):
    """Feeds one hash, block by block, in a thread of its own."""

    def __init__(self, state: State) -> None:
        super().__init__(name="sentry-hash", daemon=True)
        self._state = state
        self._blocks: queue.SimpleQueue[memoryview | None] = queue.SimpleQueue()
        self._room = threading.Semaphore(RING_BLOCKS - 1)
        self._error: BaseException | None = None

    def put(self, block: memoryview) -> None:
        """Hand over the next block; when this returns, the block RING_BLOCKS - 1 before it may be overwritten.

        Raises:
            BaseException: Whatever the hash raised on an earlier one.
        """
        self._room.acquire()
        if self._error is not None:  # the rest need not be read
            raise self._error
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


def digest_in_threads(
    states: Sequence[State], segments: Message, ring: Sequence[memoryview], progress: Progress | None
) -> None:
    """Read in this thread, into RING_BLOCKS blocks in turn, while one thread per state follows."""
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
