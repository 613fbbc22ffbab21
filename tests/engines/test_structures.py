# SPDX-License-Identifier: Apache-2.0
"""Subtree values, record leaves and lattice sums are the same on every engine, and are those of the reference."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from blake3 import blake3
from engines.oracle import expected
from engines.places import Place
from reference import trees, write_vectors
from reference.write_vectors import noise, pattern

from sentry.engine.blake3_numpy import root_of
from sentry.engine.contract import Engine
from sentry.errors import SentryError
from sentry.formats.lattice import LatticeSum
from sentry.formats.record import FieldType, Kind, Preimage, lay_out

VECTORS = json.loads(write_vectors.VECTORS.read_text(encoding="ascii"))
GROUPS = [1 << power for power in range(11)]
Record = tuple[Preimage, list[Any]]


@pytest.mark.parametrize("vector", VECTORS["subtrees"], ids=lambda item: f"{item['nbytes']}-{item['group_chunks']}")
def test_subtree_values_are_those_of_the_vector_file(engine: Engine, place: Place, vector: dict[str, Any]) -> None:
    segment = place(pattern(vector["nbytes"]), 5).segment
    values = engine.subtrees(segment, vector["group_chunks"], first_chunk=vector["first_chunk"])
    assert [value.hex() for value in values] == vector["values"]


@pytest.mark.parametrize("group", GROUPS)
def test_subtree_values_at_every_group_size_merge_to_the_digest(engine: Engine, place: Place, group: int) -> None:
    for nbytes in (group * 1024 + 1, 2 * group * 1024, 2 * group * 1024 + 1025):
        data = noise(nbytes)
        values = engine.subtrees(place(data, 3).segment, group)
        assert len(values) == -(-nbytes // (group * 1024))
        assert root_of(values) == blake3(data).digest()


@pytest.mark.parametrize("group", [1, 2, 8])
def test_subtree_values_are_those_of_the_reference(engine: Engine, place: Place, group: int) -> None:
    for nbytes in (0, 1, 1024, 1025, 8 * 1024, 17 * 1024 + 9):
        data = noise(nbytes)
        assert engine.subtrees(place(data, 1).segment, group) == trees.subtree_values(data, group)


def test_a_message_in_parts_has_the_subtree_values_of_the_whole(engine: Engine, place: Place) -> None:
    data = noise(64 * 1024 + 321)
    whole = engine.subtrees(place(data).segment, 8)
    in_parts: list[bytes] = []
    for first, last in ((0, 16), (16, 24), (24, 56), (56, 66)):
        part = place(data[first * 1024 : last * 1024], 9).segment
        in_parts += engine.subtrees(part, 8, first_chunk=first)
    assert in_parts == whole


def test_subtree_values_of_several_segments_are_those_of_their_concatenation(engine: Engine, place: Place) -> None:
    parts = [noise(nbytes, nbytes) for nbytes in (1000, 3000, 0, 1, 9000)]
    segments = [place(part, number).segment for number, part in enumerate(parts)]
    assert engine.subtrees(segments, 4) == trees.subtree_values(b"".join(parts), 4)


@pytest.mark.parametrize("first", [2**32 - 4, 2**32 - 2, 2**32])
def test_chunks_are_numbered_on_beyond_32_bits_or_refused(engine: Engine, place: Place, first: int) -> None:
    data = noise(3 * 1024)
    try:
        values = engine.subtrees(place(data).segment, 1, first_chunk=first)
    except SentryError:
        assert first + 3 > 2**32
    else:
        assert values == trees.subtree_values(data, 1, first), first


@pytest.mark.parametrize("group", [0, -1, 3, 6, 1000])
def test_a_group_that_is_no_power_of_two_is_refused(engine: Engine, place: Place, group: int) -> None:
    with pytest.raises((SentryError, ValueError)):
        engine.subtrees(place(noise(9000)).segment, group)


def record_of(vector: dict[str, Any], place: Place) -> Record:
    fields = tuple(
        FieldType(name, Kind(kind), dtype, tuple(shape), nbytes)
        for name, kind, dtype, shape, nbytes in vector["fields"]
    )
    preimage = lay_out(vector["role"], vector["source"], vector["key"], fields, hash_name=vector["hash"])
    return preimage, [place(pattern(field.nbytes), 3).segment for field in fields]


def samples(count: int, place: Place, hash_name: str = "blake3") -> tuple[list[Record], list[bytes]]:
    """Make records of three fields, and their leaves by the reference's layout and the wheel."""
    records, leaves = [], []
    for number in range(count):
        contents = [noise(number * 37 % 3100, number), noise(8, number + 1), str(number).encode()]
        kinds = [("image", Kind.BYTES, ""), ("label", Kind.SCALAR, "I64"), ("caption", Kind.UTF8, "")]
        fields = [(*kind, (), len(content)) for kind, content in zip(kinds, contents, strict=True)]
        preimage = lay_out(
            "sample", "src", f"id-{number}", tuple(FieldType(*field) for field in fields), hash_name=hash_name
        )
        records.append((preimage, [place(content, number % 16).segment for content in contents]))
        described = [
            trees.Field(*field, expected(hash_name, content)) for field, content in zip(fields, contents, strict=True)
        ]
        filled = trees.record_preimage("sample", "src", f"id-{number}", described, hash_name)
        leaves.append(blake3(filled, derive_key_context=trees.LEAF_CONTEXT).digest())
    return records, leaves


def lattice_by_wheel(leaves: Sequence[bytes]) -> LatticeSum:
    elements = np.frombuffer(b"".join(blake3(leaf).digest(length=2048) for leaf in leaves), "<u2").reshape(-1, 1024)
    return LatticeSum(elements.sum(axis=0, dtype=np.uint16).astype("<u2").tobytes())


@pytest.mark.parametrize("hash_name", write_vectors.RECORD_HASHES)
def test_record_leaves_are_those_of_the_vector_file(engine: Engine, place: Place, hash_name: str) -> None:
    vectors = [vector for vector in VECTORS["records"] if vector["hash"] == hash_name]
    leaves = engine.leaves(hash_name, [record_of(vector, place) for vector in vectors])
    assert [leaf.hex() for leaf in leaves] == [vector["leaf"] for vector in vectors]


@pytest.mark.parametrize("hash_name", ["blake3", "blake2b", "merkle-sha3-256-1024"])
def test_leaves_of_many_records_and_their_sum(engine: Engine, place: Place, hash_name: str) -> None:
    records, leaves = samples(60, place, hash_name)
    assert engine.leaves(hash_name, records) == leaves
    assert engine.leaves_and_sum(hash_name, records) == (leaves, lattice_by_wheel(leaves))


def test_long_names_make_preimages_of_several_chunks(engine: Engine, place: Place) -> None:
    for length in (900, 1024, 5000, 70_000):
        field = FieldType("f" * length, Kind.BYTES, "", (), 3)
        preimage = lay_out("sample", "", "k" * length, (field,), hash_name="blake3")
        described = [trees.Field("f" * length, 0, "", (), 3, expected("blake3", b"abc"))]
        filled = trees.record_preimage("sample", "", "k" * length, described, "blake3")
        leaf = blake3(filled, derive_key_context=trees.LEAF_CONTEXT).digest()
        assert engine.leaves("blake3", [(preimage, [place(b"abc").segment])]) == [leaf]


def test_no_record_has_no_leaf_and_the_empty_sum(engine: Engine) -> None:
    assert engine.leaves("blake3", []) == []
    assert engine.leaves_and_sum("blake3", []) == ([], LatticeSum())


def test_records_without_any_field_have_leaves(engine: Engine) -> None:
    preimage = lay_out("page", "", "0", (), hash_name="blake3")
    leaf = blake3(preimage.template, derive_key_context=trees.LEAF_CONTEXT).digest()
    assert engine.leaves_and_sum("blake3", [(preimage, [])] * 2) == ([leaf] * 2, lattice_by_wheel([leaf] * 2))


def test_a_changed_field_changes_its_leaf_alone(engine: Engine, place: Place) -> None:
    records, leaves = samples(5, place)
    preimage, contents = records[3]
    changed = place(noise(8, 99)).segment
    records[3] = (preimage, [contents[0], changed, contents[2]])
    after = engine.leaves("blake3", records)
    assert [old != new for old, new in zip(leaves, after, strict=True)] == [False, False, False, True, False]


@pytest.mark.parametrize("count", [1, 2, 9, 40])
def test_lattice_sums_are_those_of_the_definition(engine: Engine, count: int) -> None:
    leaves = [write_vectors.leaf(index) for index in range(count)]
    total = engine.lattice_sum(leaves)
    assert total == lattice_by_wheel(leaves)
    if str(count) in VECTORS["lattice"]:
        assert blake3(total.state).hexdigest() == VECTORS["lattice"][str(count)]


def test_the_sum_over_more_leaves_than_there_are_blocks_at_once(
    engine: Engine, engine_kind: str, *, thorough: bool
) -> None:
    if engine_kind == "simulated" and not thorough:
        pytest.skip("a long campaign: pass --slow")
    leaves = [noise(32, index) for index in range(9000)]
    assert engine.lattice_sum(leaves) == lattice_by_wheel(leaves)
    assert engine.lattice_sum([leaves[0]] * 3000) == lattice_by_wheel([leaves[0]] * 3000)


def test_the_sum_over_no_leaves_is_empty(engine: Engine) -> None:
    assert engine.lattice_sum([]) == LatticeSum()


@pytest.mark.parametrize("lengths", [(32, 31), (33, 32), (31, 33), (0, 32), (64,)], ids=str)
def test_a_leaf_that_is_not_32_bytes_long_is_refused(engine: Engine, lengths: tuple[int, ...]) -> None:
    with pytest.raises((SentryError, ValueError)):
        engine.lattice_sum([noise(nbytes) for nbytes in lengths])


@pytest.mark.parametrize("counts", [(2, 3), (4, 3), (3, 2, 4), (0, 3)], ids=str)
def test_records_with_another_number_of_contents_than_fields_are_refused(
    engine: Engine, place: Place, counts: tuple[int, ...]
) -> None:
    records, _ = samples(len(counts), place)
    wrong = [(preimage, (contents * 2)[:count]) for (preimage, contents), count in zip(records, counts, strict=True)]
    with pytest.raises((SentryError, ValueError)):
        engine.leaves("blake3", wrong)


@pytest.mark.parametrize("hash_name", ["sha256", "blake2b"])
def test_contents_under_another_hash_than_the_preimage_names_are_refused(
    engine: Engine, place: Place, hash_name: str
) -> None:
    records, _ = samples(2, place, "blake3")
    with pytest.raises((SentryError, ValueError)):
        engine.leaves(hash_name, records)


def test_contents_of_another_length_than_the_field_says_are_refused(engine: Engine, place: Place) -> None:
    ((preimage, contents),), _ = samples(1, place)
    with pytest.raises((SentryError, ValueError)):
        engine.leaves("blake3", [(preimage, [contents[0], place(b"123456789").segment, contents[2]])])
