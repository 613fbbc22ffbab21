# SPDX-License-Identifier: Apache-2.0
"""Digests of memory are the same on every engine, and are the right ones, however the memory lies."""

from __future__ import annotations

import pytest
from engines.oracle import NAMES, SMALL_NAMES, expected, unit_of
from engines.places import Place, Placed
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from reference.write_vectors import noise

from sentry.engine.contract import Engine
from sentry.engine.segments import DeviceBytes
from sentry.errors import FormatError

RESIDUES = (0, 1, 2, 3, 4, 7, 8, 13, 15)
# The engines and their memory are the same for every example.
_campaign = settings(
    deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow], max_examples=25
)


def digests_of(
    engine: Engine, place: Place, name: str, messages: list[bytes], residues: tuple[int, ...]
) -> list[bytes]:
    placed = [place(message, residues[number % len(residues)]) for number, message in enumerate(messages)]
    return engine.digests(name, [item.segment for item in placed])


def lengths_around(*sizes: int) -> list[int]:
    return sorted({*range(9), *(size + by for size in sizes for by in (-1, 0, 1))})


@pytest.mark.parametrize("name", SMALL_NAMES)
def test_lengths_around_every_boundary_at_every_alignment(engine: Engine, place: Place, name: str) -> None:
    block, unit = unit_of(name)
    messages = [noise(nbytes, nbytes) for nbytes in lengths_around(block, 2 * block, unit, 2 * unit, 3 * unit)]
    right = [expected(name, message) for message in messages]
    for residue in RESIDUES:
        assert digests_of(engine, place, name, messages, (residue,)) == right, residue


@pytest.mark.parametrize("name", [name for name in NAMES if name not in SMALL_NAMES])
def test_leaves_of_a_mebibyte(engine: Engine, place: Place, engine_kind: str, name: str, *, thorough: bool) -> None:
    if engine_kind == "simulated" and "-sha256-" not in name and not thorough:
        pytest.skip("a long campaign: pass --slow")
    size = 1024 * 1024
    messages = [noise(nbytes) for nbytes in (0, 1, size - 1, size, size + 1)]
    assert digests_of(engine, place, name, messages, (0, 5)) == [expected(name, message) for message in messages]


@pytest.mark.parametrize("name", ["blake3", "merkle-sha256-1024", "merkle-sha3-256-1024", "merkle-blake2b-256-1024"])
def test_every_number_of_chunks_from_two_to_a_hundred(engine: Engine, place: Place, name: str) -> None:
    data = noise(101 * 1024)
    for residue, odd in ((0, 0), (0, 1), (9, 1023)):
        messages = [data[: chunks * 1024 - odd] for chunks in range(2, 101)]
        assert digests_of(engine, place, name, messages, (residue,)) == [expected(name, item) for item in messages]


@pytest.mark.parametrize("name", ["blake3", "merkle-sha256-1024"])
@pytest.mark.parametrize("chunks", [1023, 1024, 1025, 2048, 2049, 3000])
def test_messages_of_several_tiles(engine: Engine, place: Place, name: str, chunks: int) -> None:
    data = noise(chunks * 1024 - 5)
    messages = [b"", data, b"x", data[: 9 * 1024]]
    assert digests_of(engine, place, name, messages, (3, 0)) == [expected(name, message) for message in messages]


@pytest.mark.parametrize("name", SMALL_NAMES)
def test_many_messages_of_mixed_lengths_in_one_call(engine: Engine, place: Place, name: str) -> None:
    messages = [noise(nbytes * nbytes % 4099, nbytes) for nbytes in range(257)]
    assert digests_of(engine, place, name, messages, RESIDUES) == [expected(name, message) for message in messages]


def test_a_thousand_empty_and_tiny_messages(engine: Engine, place: Place) -> None:
    one = place(b"a")
    segments = [one.segment if number % 3 == 0 else place(b"").segment for number in range(1000)]
    digests = engine.digests("blake3", segments)
    assert digests == [expected("blake3", b"a" if number % 3 == 0 else b"") for number in range(1000)]


@pytest.mark.parametrize("name", NAMES)
def test_no_message_has_no_digest(engine: Engine, name: str) -> None:
    assert engine.digests(name, []) == []
    plan = engine.plan(name, [])
    assert plan.run() == []
    plan.close()


def test_one_message_twice_has_one_digest_twice(engine: Engine, place: Place) -> None:
    placed = place(noise(5000))
    digests = engine.digests("blake3", [placed.segment, placed.segment])
    assert digests == [expected("blake3", noise(5000))] * 2


@pytest.mark.parametrize("name", SMALL_NAMES)
def test_segments_are_digested_as_their_concatenation(engine: Engine, place: Place, name: str) -> None:
    parts = [noise(nbytes, nbytes) for nbytes in (3, 0, 1021, 1, 64, 0, 0, 8191, 200, 1, 1, 1, 5000, 0)]
    divided = [parts, parts[::-1], [b""], [b"", b""], [b"".join(parts)], [b"a", b"", b"b"], parts[2:5]]
    placed = [[place(part, 7 * number % 16) for number, part in enumerate(message)] for message in divided]
    digests = engine.digests(name, [[item.segment for item in message] for message in placed])
    assert digests == [expected(name, b"".join(message)) for message in divided]


@_campaign
@given(st.data())
def test_any_segments_in_any_messages(engine: Engine, place: Place, data: st.DataObject) -> None:
    name = data.draw(st.sampled_from(SMALL_NAMES), label="hash")
    size = st.one_of(st.integers(0, 70), st.integers(1000, 1050), st.integers(8000, 8400), st.integers(0, 20_000))
    segment = st.tuples(size, st.integers(0, 15))
    described = data.draw(st.lists(st.lists(segment, min_size=1, max_size=5), max_size=5), label="messages")
    messages = [[(noise(nbytes, nbytes), residue) for nbytes, residue in message] for message in described]
    placed = [[place(part, residue) for part, residue in message] for message in messages]
    digests = engine.digests(name, [[item.segment for item in message] for message in placed])
    assert digests == [expected(name, b"".join(part for part, _ in message)) for message in messages]


def test_a_message_without_segments_is_the_empty_string(engine: Engine) -> None:
    assert engine.digests("blake3", [[], ()]) == [expected("blake3", b"")] * 2


def test_a_slice_of_a_larger_memory_is_digested_alone(engine: Engine, place: Place) -> None:
    data = noise(9000)
    segment = place(data).segment
    if isinstance(segment, DeviceBytes):
        parts = [DeviceBytes(segment.pointer + at, 2000, segment.device, None, segment) for at in (0, 1, 3333)]
        assert engine.digests("blake3", parts) == [expected("blake3", data[at : at + 2000]) for at in (0, 1, 3333)]


@pytest.mark.parametrize("name", SMALL_NAMES)
def test_a_plan_sees_every_change_of_its_memory_and_its_restoration(engine: Engine, place: Place, name: str) -> None:
    messages = [noise(nbytes, nbytes) for nbytes in (0, 1, 1024, 1025, 9000, 30_000)]
    placed = [place(message, number) for number, message in enumerate(messages)]
    right = [expected(name, message) for message in messages]
    plan = engine.plan(name, [item.segment for item in placed])
    assert plan.run() == right == plan.run()
    for number, at in ((1, 0), (2, 1023), (3, 1024), (4, 4500), (5, 29_999)):
        tampered = bytearray(messages[number])
        tampered[at] ^= 1 << number
        placed[number].write(bytes(tampered))
        wrong = plan.run()
        assert wrong == [*right[:number], expected(name, bytes(tampered)), *right[number + 1 :]]
        assert wrong[number] != right[number]
        placed[number].write(messages[number])
    assert plan.run() == right
    plan.close()


@_campaign
@given(st.data())
def test_any_flipped_bit_changes_the_digest_of_its_message_alone(
    engine: Engine, place: Place, data: st.DataObject
) -> None:
    name = data.draw(st.sampled_from(SMALL_NAMES), label="hash")
    sizes = data.draw(st.lists(st.integers(1, 12_000), min_size=1, max_size=4), label="sizes")
    messages = [noise(nbytes, nbytes) for nbytes in sizes]
    placed: list[Placed] = [place(message, number) for number, message in enumerate(messages)]
    plan = engine.plan(name, [item.segment for item in placed])
    before = plan.run()
    victim = data.draw(st.integers(0, len(sizes) - 1), label="victim")
    bit = data.draw(st.integers(0, 8 * sizes[victim] - 1), label="bit")
    placed[victim].write(bytes([messages[victim][bit // 8] ^ 1 << bit % 8]), bit // 8)
    after = plan.run()
    plan.close()
    assert [old != new for old, new in zip(before, after, strict=True)] == [at == victim for at in range(len(sizes))]


@pytest.mark.parametrize("name", ["", "md5", "merkle-sha256-512", "merkle-blake3-1024", "BLAKE3"])
def test_an_unknown_hash_is_refused_by_every_operation(engine: Engine, place: Place, name: str) -> None:
    segment = place(b"abc").segment
    for attempt in (engine.digests, engine.plan):
        with pytest.raises(FormatError, match=r"^there is no hash "):
            attempt(name, [segment])
    with pytest.raises(FormatError, match=r"^there is no hash "):
        engine.digest([name], [segment])
