# SPDX-License-Identifier: Apache-2.0
"""Bytes that stream through a GPU in any division have the digest of the whole."""

from __future__ import annotations

import threading
from itertools import pairwise

import pytest
from engines.fake_cuda import FakeCuda
from engines.oracle import expected
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from reference.write_vectors import noise

from sentry.engine import gpu_stream
from sentry.engine.cuda import CudaEngine
from sentry.engine.gpu import Gpu
from sentry.engine.gpu_stream import GROUP_BYTES, MAX_RINGS, GpuState, PinnedRings
from sentry.engine.segments import HostBytes
from sentry.formats.digest import MAX_LEAF_BYTES

NAMES = ("blake3", "merkle-sha256-1024", "merkle-sha3-256-1024", "merkle-blake2b-256-1024")


@pytest.fixture
def gpu(simulated: CudaEngine) -> Gpu:
    return simulated._gpus[0]


@pytest.fixture
def small_groups(monkeypatch: pytest.MonkeyPatch) -> int:
    """Make groups small, so that many of them are quick; returns their size."""
    monkeypatch.setattr(gpu_stream, "GROUP_CHUNKS", 4)
    monkeypatch.setattr(gpu_stream, "GROUP_BYTES", 4096)
    return 4096


def streamed(gpu: Gpu, name: str, message: bytes, cuts: list[int]) -> bytes:
    state = GpuState(gpu, name)
    for start, end in pairwise([0, *cuts, len(message)]):
        state.update(memoryview(message)[start:end])
    return state.digest()


@settings(
    deadline=None,
    max_examples=60,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(st.data())
def test_any_division_has_the_digest_of_the_whole(gpu: Gpu, small_groups: int, data: st.DataObject) -> None:
    name = data.draw(st.sampled_from(NAMES), label="hash")
    at = st.one_of(
        st.integers(0, 9 * small_groups),
        st.builds(lambda group, by: max(0, group * small_groups + by), st.integers(0, 9), st.integers(-2, 2)),
    )
    nbytes = data.draw(at, label="nbytes")
    cuts = sorted(min(cut, nbytes) for cut in data.draw(st.lists(at, max_size=7), label="cuts"))
    message = noise(nbytes, nbytes)
    assert streamed(gpu, name, message, cuts) == expected(name, message)


@pytest.mark.parametrize("groups", range(10))
def test_every_number_of_groups_given_at_once_or_one_by_one(gpu: Gpu, small_groups: int, groups: int) -> None:
    for by in (-1, 0, 1):
        message = noise(max(0, groups * small_groups + by))
        one_by_one = list(range(small_groups, len(message), small_groups))
        for name in ("blake3", "merkle-sha256-1024"):
            assert streamed(gpu, name, message, []) == expected(name, message)
            assert streamed(gpu, name, message, one_by_one) == expected(name, message)


@pytest.mark.parametrize("name", ["blake3", "merkle-sha256-8192"])
@pytest.mark.parametrize("by", [-1, 0, 1])
def test_groups_of_their_real_size(gpu: Gpu, name: str, by: int) -> None:
    message = noise(2 * GROUP_BYTES + by)
    assert streamed(gpu, name, message, [10, GROUP_BYTES]) == expected(name, message)


def test_updates_without_bytes_change_nothing(gpu: Gpu, small_groups: int) -> None:
    for nbytes in (0, 1, small_groups, 2 * small_groups):
        state = GpuState(gpu, "blake3")
        state.update(memoryview(b""))
        state.update(memoryview(noise(nbytes)))
        state.update(memoryview(b""))
        assert state.digest() == expected("blake3", noise(nbytes))


def test_a_group_is_whole_leaves_of_every_size() -> None:
    assert GROUP_BYTES % MAX_LEAF_BYTES == 0
    assert gpu_stream.BLOCK_BYTES % GROUP_BYTES == 0
    assert gpu_stream.GROUP_CHUNKS.bit_count() == 1


def test_streams_leave_no_device_memory_behind(fake_cuda: FakeCuda, gpu: Gpu, small_groups: int) -> None:
    before = fake_cuda.in_use
    for name in NAMES:
        streamed(gpu, name, noise(5 * small_groups + 7), [100, 2 * small_groups])
    assert fake_cuda.in_use == before


def test_the_ring_is_lent_to_so_many_at_once_and_made_as_rarely_as_possible(gpu: Gpu) -> None:
    rings = PinnedRings()
    with rings.ring(gpu) as first:
        kept = first
    with rings.ring(gpu) as second:
        assert second is kept
    running, most = 0, 0
    lock = threading.Lock()
    full = threading.Barrier(MAX_RINGS, timeout=30)

    def borrow() -> None:
        nonlocal running, most
        with rings.ring(gpu):
            with lock:
                running += 1
                most = max(most, running)
            full.wait()
            with lock:
                running -= 1

    threads = [threading.Thread(target=borrow) for _ in range(2 * MAX_RINGS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=60)
    assert (running, most) == (0, MAX_RINGS)
    assert len(rings._free) == MAX_RINGS


def test_several_messages_pass_at_once(simulated: CudaEngine) -> None:
    messages = [noise(200_000 + number, number) for number in range(6)]
    results: dict[int, bytes] = {}

    def work(number: int) -> None:
        results[number] = simulated.digest(["blake3"], [HostBytes(messages[number])])["blake3"]

    threads = [threading.Thread(target=work, args=(number,)) for number in range(len(messages))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=120)
    assert [results[number] for number in range(6)] == [expected("blake3", message) for message in messages]
