# SPDX-License-Identifier: Apache-2.0
"""Schedules, run on the kernels compiled as host code, give the CPU engine's results at every launch shape.

Inputs touch unreadable pages, and tables, scratch space and results are full of a pattern first: a read outside a
segment dies, and what nobody wrote is noticed.
"""

from __future__ import annotations

import numpy as np
import pytest
from blake3 import blake3
from engines.host_kernels import HostKernels, hold
from engines.oracle import SMALL_NAMES, expected, unit_of
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from reference import trees
from reference.write_vectors import noise

from sentry.engine import schedules
from sentry.engine.cpu import CpuEngine
from sentry.engine.schedule import MAX_SLOTS, Inputs, Pointer, Schedule, Shape
from sentry.errors import EngineError
from sentry.formats.digest import digest_bytes
from sentry.formats.record import FieldType, Kind, lay_out

SHAPES = [
    Shape(),
    Shape(block=32, serial=1, tile=2),
    Shape(block=64, serial=3, tile=4),
    Shape(block=96, serial=8, tile=16),
    Shape(block=128, serial=0, tile=1024),
    Shape(block=128, serial=1000, tile=64),
]
# In front of an unreadable page, behind one, and at every kind of alignment.
RESIDUES = (-1, -2, 0, 1, 4, 6, 8, 11, 12, 15)


def digests_on_host(kernels: HostKernels, name: str, messages: list[list[bytes]], shape: Shape) -> list[bytes]:
    inputs, _held = hold(messages, residues=RESIDUES)
    result = kernels.run(schedules.digests(name, inputs, shape))
    size = digest_bytes(name)
    assert len(result) == size * len(messages)
    return [result[at : at + size] for at in range(0, len(result), size)]


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("name", SMALL_NAMES)
def test_every_hash_at_every_shape(host_kernels: HostKernels, name: str, shape: Shape) -> None:
    block, unit = unit_of(name)
    sizes = [0, 1, 4, block - 1, block, block + 1, unit - 1, unit, unit + 1, 3 * unit - 1, 9 * unit + 5]
    messages = [[noise(nbytes, nbytes)] for nbytes in sizes]
    messages += [[noise(7), b"", noise(unit), noise(1)], [b""], [noise(unit - 3), noise(3), noise(unit)]]
    right = [expected(name, b"".join(message)) for message in messages]
    assert digests_on_host(host_kernels, name, messages, shape) == right


@settings(
    deadline=None,
    max_examples=30,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(st.data())
def test_any_segments_at_any_shape(host_kernels: HostKernels, data: st.DataObject) -> None:
    name = data.draw(st.sampled_from(SMALL_NAMES), label="hash")
    shape = data.draw(
        st.builds(
            Shape,
            block=st.sampled_from([32, 64, 96, 128]),
            serial=st.integers(0, 40),
            tile=st.sampled_from([2, 4, 32, 256, 1024]),
        ),
        label="shape",
    )
    size = st.one_of(st.integers(0, 5), st.integers(0, 3000), st.integers(8000, 20_000))
    described = data.draw(st.lists(st.lists(size, min_size=1, max_size=4), min_size=1, max_size=6), label="sizes")
    messages = [[noise(nbytes, nbytes + number) for number, nbytes in enumerate(message)] for message in described]
    right = [expected(name, b"".join(message)) for message in messages]
    assert digests_on_host(host_kernels, name, messages, shape) == right


@pytest.mark.parametrize("tile", [2, 8, 64, 1024])
@pytest.mark.parametrize("group", [1, 2, 16, 128, 2048])
def test_subtrees_at_every_tile_and_group(host_kernels: HostKernels, group: int, tile: int) -> None:
    data = noise(131 * 1024 + 3)
    parts = [data[:1000], data[1000:1001], data[1001:]]
    inputs, _held = hold([parts], residues=RESIDUES)
    result = host_kernels.run(schedules.subtrees(inputs, group, Shape(tile=tile), 4096))
    assert result == b"".join(CpuEngine().subtrees(data, group, first_chunk=4096))


@pytest.mark.parametrize("division", [(1,), (4,), (16,), (4, 8, 4), (64, 4)], ids=str)
def test_pieces_that_stream_by_have_the_subtrees_of_the_whole(
    host_kernels: HostKernels, division: tuple[int, ...]
) -> None:
    data, group = noise(70 * 1024 + 9), 4
    values, at = b"", 0
    for turn in range(len(data)):
        if at >= len(data):
            break
        piece = data[at : at + group * division[turn % len(division)] * 1024]
        inputs, _held = hold([[piece]], residues=(turn % 16,))
        values += host_kernels.run(schedules.subtrees(inputs, group, Shape(), at // 1024))
        at += len(piece)
    assert values == b"".join(trees.subtree_values(data, group))


@pytest.mark.parametrize("shape", SHAPES[:4], ids=str)
@pytest.mark.parametrize("hash_name", ["blake3", "blake2b", "sha3-256", "merkle-blake2b-256-1024"])
def test_record_leaves_and_their_sum(host_kernels: HostKernels, hash_name: str, shape: Shape) -> None:
    records = []
    for number in range(7):
        fields = (
            FieldType("z", Kind.BYTES, "", (), 500 * number),
            FieldType("a" * (1 + 400 * number), Kind.SCALAR, "I64", (), 8),
        )
        preimage = lay_out("sample", "s", f"id-{number}", fields[: number % 3], hash_name=hash_name)
        records.append((preimage, [noise(500 * number), noise(8, number)][: number % 3]))
    inputs, _held = hold([[content] for _, contents in records for content in contents], residues=RESIDUES)
    preimages = [preimage for preimage, _ in records]
    leaves, total = CpuEngine().leaves_and_sum(hash_name, records)
    schedule = schedules.leaves(hash_name, preimages, inputs, shape, lattice=True)
    assert host_kernels.run(schedule) == b"".join(leaves) + total.state
    schedule = schedules.leaves(hash_name, preimages, inputs, shape, lattice=False)
    assert host_kernels.run(schedule) == b"".join(leaves)


@pytest.mark.parametrize("count", [1, 2, 7, 33])
def test_lattice_sums(host_kernels: HostKernels, count: int) -> None:
    leaves = [noise(32, number) for number in range(count)]
    result = host_kernels.run(schedules.lattice_sum(b"".join(leaves), count))
    assert result == CpuEngine().lattice_sum(leaves).state


@pytest.mark.slow
def test_lattice_sums_over_more_leaves_than_blocks(host_kernels: HostKernels) -> None:
    leaves = [noise(32, number) for number in range(9001)]
    result = host_kernels.run(schedules.lattice_sum(b"".join(leaves), len(leaves)))
    assert result == CpuEngine().lattice_sum(leaves).state


def test_a_schedule_runs_again_with_the_same_result(host_kernels: HostKernels) -> None:
    inputs, _held = hold([[noise(100_000)], [noise(50)]])
    schedule = schedules.digests("blake3", inputs, Shape(tile=4))
    assert host_kernels.run(schedule) == host_kernels.run(schedule)


def test_nothing_to_digest_is_no_launch() -> None:
    empty = Inputs(np.zeros(0, np.uint64), np.zeros(0, np.uint64), np.zeros(1, np.uint32))
    for name in SMALL_NAMES:
        schedule = schedules.digests(name, empty, Shape())
        assert (schedule.launches, schedule.result_bytes) == ([], 0)


@pytest.mark.parametrize("name", ["blake3", "merkle-sha256-1024", "merkle-sha256-8192"])
def test_scratch_space_is_at_most_a_sixteenth_of_what_is_hashed(name: str) -> None:
    for sizes in ([1 << 30], [1 << 20] * 300, [10**9, 5, 10**8, 77_777]):
        nbytes = np.array(sizes, np.uint64)
        schedule = schedules.digests(name, Inputs.one_segment_each(nbytes, nbytes), Shape())
        assert 16 * (schedule.scratch_bytes + len(schedule.tables)) <= sum(sizes) + 16 * 65_536


def test_more_chunks_than_a_table_numbers_are_refused_with_what_to_do() -> None:
    most = np.array([MAX_SLOTS * 1024], np.uint64)
    schedules.digests("blake3", Inputs.one_segment_each(most, most), Shape())
    for sizes in ([MAX_SLOTS * 1024 + 1], [MAX_SLOTS * 1024, 0], [2**41, 2**41, 2**41]):
        nbytes = np.array(sizes, np.uint64)
        with pytest.raises(EngineError, match=r"^too much memory for one call$") as caught:
            schedules.digests("blake3", Inputs.one_segment_each(nbytes, nbytes), Shape())
        assert caught.value.hint == "digest it in parts of at most 4 TB"


def test_tables_are_aligned_and_only_tables_of_addresses_move() -> None:
    schedule = Schedule()
    first = schedule.table(np.arange(3, dtype=np.uint8))
    second = schedule.addresses(np.array([5, 6], np.uint64), "scratch")
    assert (first, second) == (Pointer("tables", 0), Pointer("tables", 256))
    assert schedule.relocations == [(256, 2, "scratch")]
    assert bytes(schedule.tables) == bytes([0, 1, 2]) + bytes(253) + b"\x05" + bytes(7) + b"\x06" + bytes(7)


def test_addresses_in_tables_move_with_their_space(host_kernels: HostKernels) -> None:
    # Holes are filled at addresses that only the run knows: two runs, two places, one result.
    preimage = lay_out("page", "", "k", (FieldType("f", Kind.BYTES, "", (), 3),), hash_name="blake3")
    inputs, _held = hold([[b"abc"]])
    schedule = schedules.leaves("blake3", [preimage], inputs, Shape(), lattice=False)
    assert schedule.relocations
    before = bytes(schedule.tables)
    filled = preimage.fill([blake3(b"abc").digest()])
    leaf = blake3(filled, derive_key_context=trees.LEAF_CONTEXT).digest()
    assert host_kernels.run(schedule) == host_kernels.run(schedule) == leaf
    assert bytes(schedule.tables) == before
