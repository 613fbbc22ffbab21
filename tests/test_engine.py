# SPDX-License-Identifier: Apache-2.0
"""The CPU engine: equal to the hash libraries at every length, never overwriting what is read late, never hanging."""

from __future__ import annotations

import hashlib
import itertools
import os
import threading
import time
import tracemalloc
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from blake3 import blake3
from hypothesis import given
from hypothesis import strategies as st

from sentry import engine as engines
from sentry.engine import cpu
from sentry.engine.cpu import BLOCK_BYTES, INLINE_BYTES, RING_BLOCKS, CpuEngine
from sentry.engine.segments import FileRange, HostBytes, Segment, ShortReadError

HASHES = ("sha256", "blake2b", "blake3")
RING_BYTES = BLOCK_BYTES * RING_BLOCKS
LENGTHS = [
    *range(9),
    *(limit + step for limit in (BLOCK_BYTES, RING_BYTES, RING_BYTES + BLOCK_BYTES) for step in (-1, 0, 1)),
]
# Every byte of the message depends on its position, so that a block in another's place shows.
MESSAGE = blake3(b"message").digest(2 * RING_BYTES)


def expected(data: bytes | memoryview) -> dict[str, bytes]:
    return {
        "sha256": hashlib.sha256(data).digest(),
        "blake2b": hashlib.blake2b(data).digest(),
        "blake3": blake3(data).digest(),
    }


@pytest.fixture(scope="module")
def descriptor(tmp_path_factory: pytest.TempPathFactory) -> Iterator[int]:
    """Return a descriptor of a file that holds the message."""
    path = tmp_path_factory.mktemp("engine") / "message"
    path.write_bytes(MESSAGE)
    opened = os.open(path, os.O_RDONLY)
    yield opened
    os.close(opened)


@pytest.mark.parametrize("threads", [1, 2, 4])
@pytest.mark.parametrize("length", LENGTHS)
def test_every_length_of_host_bytes_and_of_a_file_gives_the_libraries_digests(
    descriptor: int, length: int, threads: int
) -> None:
    engine = CpuEngine(threads)
    wanted = expected(memoryview(MESSAGE)[:length])
    assert engine.digest(HASHES, [HostBytes(MESSAGE[:length])]) == wanted
    assert engine.digest(HASHES, [FileRange(descriptor, 0, length)]) == wanted
    for name in HASHES:
        assert engine.digest([name], [FileRange(descriptor, 0, length)]) == {name: wanted[name]}


@given(
    st.lists(st.tuples(st.booleans(), st.integers(0, BLOCK_BYTES), st.sampled_from([0, 1, 7, 4096, BLOCK_BYTES + 1])))
)
def test_segments_are_hashed_as_one_message(descriptor: int, pieces: list[tuple[bool, int, int]]) -> None:
    segments: list[Segment] = []
    message = b""
    for in_file, offset, nbytes in pieces:
        data = MESSAGE[offset : offset + nbytes]
        segments.append(FileRange(descriptor, offset, nbytes) if in_file else HostBytes(memoryview(data)))
        message += data
    assert CpuEngine(2).digest(HASHES, segments) == expected(message)


@pytest.mark.parametrize("threads", [1, 2, 4])
def test_many_segments_beyond_the_ring_are_hashed_as_one_message(descriptor: int, threads: int) -> None:
    cuts = [0, 1, BLOCK_BYTES, BLOCK_BYTES + 5, RING_BYTES + 3, len(MESSAGE) - 1, len(MESSAGE)]
    segments: list[Segment] = []
    for number, (start, end) in enumerate(itertools.pairwise(cuts)):
        in_file = number % 2 == 0
        segments.append(FileRange(descriptor, start, end - start) if in_file else HostBytes(MESSAGE[start:end]))
    assert CpuEngine(threads).digest(HASHES, segments) == expected(MESSAGE)


@pytest.mark.parametrize("shape", [(), (0,), (3, 4), (2, 2, 2)])
def test_host_bytes_of_any_shape_and_type_are_hashed_as_their_bytes(shape: tuple[int, ...]) -> None:
    count = 1
    for side in shape:
        count *= side
    flat = memoryview(bytes(range(count * 4)))
    view = flat.cast("B").cast("I", shape) if shape and count else flat
    assert HostBytes(view).nbytes == len(flat)
    assert CpuEngine().digest(["sha256"], [HostBytes(view)])["sha256"] == hashlib.sha256(flat).digest()


def test_many_messages_are_hashed_one_by_one(descriptor: int) -> None:
    messages: list[list[Segment]] = [[], [HostBytes(b"a"), HostBytes(b"b")], [FileRange(descriptor, 3, 4)]]
    wanted = [expected(data)["blake3"] for data in (b"", b"ab", MESSAGE[3:7])]
    assert CpuEngine().digests("blake3", messages) == wanted


@pytest.mark.parametrize(
    ("threads", "streams", "each"), [(4, 1, 4), (4, 2, 2), (4, 3, 1), (4, 9, 1), (1, 2, 1), (4, 0, 4)]
)
def test_splitting_shares_the_threads(threads: int, streams: int, each: int) -> None:
    assert CpuEngine(threads).split(streams).threads == each


def test_an_engine_uses_the_cores_that_the_process_may_use() -> None:
    assert CpuEngine().threads == len(os.sched_getaffinity(0))


@pytest.mark.parametrize("threads", [1, 4])
def test_progress_counts_every_byte_once(descriptor: int, threads: int) -> None:
    counts: list[int] = []
    CpuEngine(threads).digest(HASHES, [FileRange(descriptor, 0, len(MESSAGE))], progress=counts.append)
    assert sum(counts) == len(MESSAGE)


class Watched:
    """A hash state that does something before it takes a block."""

    def __init__(self, before: Any) -> None:
        self.state = hashlib.sha256()
        self.before = before

    def update(self, data: memoryview, /) -> None:
        self.before()
        self.state.update(data)

    def digest(self) -> bytes:
        return self.state.digest()


def watch(monkeypatch: pytest.MonkeyPatch, **before: Any) -> None:
    """Replace the hashes by watched ones, by name."""
    monkeypatch.setattr(cpu, "new_state", lambda name, *, parallel: Watched(before[name]))  # noqa: ARG005


@pytest.mark.timeout(60)
@pytest.mark.parametrize(("slow", "fast"), [(0.02, 0.0), (0.0, 0.02), (0.01, 0.01)])
def test_a_slow_hash_beside_a_fast_one_sees_every_block_unharmed(
    descriptor: int, monkeypatch: pytest.MonkeyPatch, slow: float, fast: float
) -> None:
    watch(monkeypatch, slow=lambda: time.sleep(slow), fast=lambda: time.sleep(fast))
    for _ in range(3):
        digests = CpuEngine(4).digest(["slow", "fast"], [FileRange(descriptor, 0, len(MESSAGE))])
        assert set(digests.values()) == {hashlib.sha256(MESSAGE).digest()}


@pytest.mark.timeout(60)
def test_the_reader_never_gets_a_whole_ring_ahead_of_a_hash_that_stands_still(
    descriptor: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    blocks: list[int] = []
    gate = threading.Event()
    watch(monkeypatch, stuck=gate.wait, fast=lambda: None)
    call = threading.Thread(
        target=CpuEngine(4).digest,
        args=(["stuck", "fast"], [FileRange(descriptor, 0, len(MESSAGE))]),
        kwargs={"progress": blocks.append},
    )
    call.start()
    time.sleep(0.3)
    assert 1 <= len(blocks) < RING_BLOCKS
    gate.set()
    call.join(30)
    assert not call.is_alive()
    assert sum(blocks) == len(MESSAGE)


class OutOfOrderError(Exception):
    """What a hash raises in these tests."""


@pytest.mark.timeout(60)
@pytest.mark.parametrize("calls_before", [0, 2, 7])
@pytest.mark.parametrize("broken", ["first", "second", "both"])
def test_what_a_hasher_thread_raises_reaches_the_caller(
    descriptor: int, monkeypatch: pytest.MonkeyPatch, broken: str, calls_before: int
) -> None:
    calls = {"first": 0, "second": 0}

    def count(name: str) -> None:
        calls[name] += 1
        if broken in {name, "both"} and calls[name] > calls_before:
            raise OutOfOrderError(name)

    watch(monkeypatch, first=lambda: count("first"), second=lambda: count("second"))
    running = threading.active_count()
    with pytest.raises(OutOfOrderError):
        CpuEngine(4).digest(["first", "second"], [FileRange(descriptor, 0, len(MESSAGE))])
    assert threading.active_count() == running


@pytest.mark.timeout(60)
@pytest.mark.parametrize("threads", [1, 4])
def test_what_the_progress_callback_raises_reaches_the_caller(descriptor: int, threads: int) -> None:
    def stop(_nbytes: int) -> None:
        raise OutOfOrderError

    running = threading.active_count()
    with pytest.raises(OutOfOrderError):
        CpuEngine(threads).digest(HASHES, [FileRange(descriptor, 0, len(MESSAGE))], progress=stop)
    assert threading.active_count() == running


@pytest.mark.timeout(60)
@pytest.mark.parametrize("threads", [1, 4])
@pytest.mark.parametrize("extra", [1, BLOCK_BYTES])
def test_a_file_that_ends_early_is_a_short_read(descriptor: int, threads: int, extra: int) -> None:
    running = threading.active_count()
    with pytest.raises(ShortReadError, match="a file became shorter while it was read"):
        CpuEngine(threads).digest(HASHES, [FileRange(descriptor, 5, len(MESSAGE) - 5 + extra)])
    assert threading.active_count() == running


@pytest.mark.parametrize("threads", [1, 4])
def test_a_descriptor_that_cannot_be_read_is_an_operating_system_error(tmp_path: Path, threads: int) -> None:
    directory = os.open(tmp_path, os.O_RDONLY)
    try:
        with pytest.raises(IsADirectoryError):
            CpuEngine(threads).digest(HASHES, [FileRange(directory, 0, INLINE_BYTES + 1)])
    finally:
        os.close(directory)


def test_reads_that_return_less_than_was_asked_for_change_nothing(
    descriptor: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    read = os.preadv

    def stingy(descriptor: int, buffers: list[memoryview], offset: int) -> int:
        return read(descriptor, [buffers[0][: 1 + offset % 70_000]], offset)

    monkeypatch.setattr(os, "preadv", stingy)
    assert CpuEngine(4).digest(HASHES, [FileRange(descriptor, 0, len(MESSAGE))]) == expected(MESSAGE)
    assert CpuEngine(1).digest(HASHES, [FileRange(descriptor, 1, BLOCK_BYTES)]) == expected(
        MESSAGE[1 : BLOCK_BYTES + 1]
    )


@pytest.mark.parametrize("threads", [1, 4])
def test_memory_does_not_grow_with_the_message(tmp_path: Path, threads: int) -> None:
    (tmp_path / "sparse").touch()
    os.truncate(tmp_path / "sparse", 20 * RING_BYTES)
    descriptor = os.open(tmp_path / "sparse", os.O_RDONLY)
    tracemalloc.start()
    try:
        CpuEngine(threads).digest(["sha256", "blake3"], [FileRange(descriptor, 0, 20 * RING_BYTES)])
        assert tracemalloc.get_traced_memory()[1] < RING_BYTES + BLOCK_BYTES
    finally:
        tracemalloc.stop()
        os.close(descriptor)


@pytest.mark.parametrize("name", ["auto", "cpu"])
def test_the_engine_that_was_asked_for_is_taken_and_says_why(name: str) -> None:
    choice = engines.choose(name)
    assert (choice.engine.name, bool(choice.reason)) == ("cpu", True)


@pytest.mark.parametrize("name", ["", "gpu", "cuda:", "cuda:x", "cuda:0001", "CPU", "cpu "])
def test_an_unknown_engine_is_never_replaced_by_a_known_one(name: str) -> None:
    with pytest.raises(ValueError, match="there is no engine"):
        engines.choose(name)
