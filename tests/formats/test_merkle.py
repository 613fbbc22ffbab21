# SPDX-License-Identifier: Apache-2.0
"""The tree hash of RFC 9162: its values, its incremental state, and the merging of neighbouring roots."""

from __future__ import annotations

import hashlib
import json
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st
from reference import trees, write_vectors

from sentry.formats.digest import TREE_HASHES, tree_of
from sentry.formats.merkle import MerkleState, flat_state, merge_roots

VECTORS = json.loads(write_vectors.VECTORS.read_text(encoding="ascii"))["digests"]
CASES = [(name, int(nbytes), root) for name, values in VECTORS.items() for nbytes, root in values.items()]
LEAF = 1024


def root_of(data: bytes, base: str = "sha256", leaf_bytes: int = LEAF) -> bytes:
    state = MerkleState(base, leaf_bytes)
    state.update(data)
    return state.digest()


@pytest.mark.parametrize(("name", "nbytes", "root"), CASES)
def test_roots_are_those_of_the_vector_file(name: str, nbytes: int, root: str) -> None:
    base, leaf_bytes = tree_of(name) or ("", 0)
    assert root_of(write_vectors.pattern(nbytes), base, leaf_bytes).hex() == root


@pytest.mark.parametrize("base", TREE_HASHES)
def test_the_root_of_nothing_is_the_hash_of_nothing(base: str) -> None:
    state = MerkleState(base, LEAF)
    assert state.digest() == trees.HASHES[base](b"")
    state.update(b"")
    assert state.digest() == trees.HASHES[base](b"")


@pytest.mark.parametrize("count", range(1, 40))
def test_any_number_of_leaves_has_the_root_of_the_reference(count: int) -> None:
    for nbytes in (count * LEAF - 1, count * LEAF, (count - 1) * LEAF + 1):
        data = write_vectors.noise(nbytes)
        assert root_of(data) == trees.merkle(data, "sha256", LEAF)


@given(st.data())
def test_any_division_into_updates_has_the_same_root_and_a_root_after_every_one(data: st.DataObject) -> None:
    nbytes = data.draw(st.integers(0, 9 * LEAF), label="nbytes")
    message = write_vectors.noise(nbytes)
    cuts = sorted(data.draw(st.lists(st.integers(0, nbytes), max_size=6), label="cuts"))
    state = MerkleState("sha256", LEAF)
    for start, end in pairwise([0, *cuts, nbytes]):
        state.update(message[start:end])
        assert state.digest() == trees.merkle(message[:end], "sha256", LEAF)


def test_updates_take_views_of_any_element_type() -> None:
    data = write_vectors.noise(3 * LEAF + 4, 1)
    state = MerkleState("sha256", LEAF)
    state.update(memoryview(data[:2000]).cast("I"))
    state.update(memoryview(data[2000:]).cast("B", (4, 269)))
    assert state.digest() == root_of(data)


@pytest.mark.parametrize("leaf_bytes", [1024, 8192, 1 << 20])
def test_the_leaf_size_decides_the_root_from_the_second_leaf_on(leaf_bytes: int) -> None:
    for nbytes in (leaf_bytes, leaf_bytes + 1, 3 * leaf_bytes - 1):
        data = write_vectors.noise(nbytes)
        assert root_of(data, leaf_bytes=leaf_bytes) == trees.merkle(data, "sha256", leaf_bytes)
        assert (root_of(data, leaf_bytes=leaf_bytes) == root_of(data, leaf_bytes=2 * leaf_bytes)) is (
            nbytes == leaf_bytes
        )


@pytest.mark.parametrize("base", TREE_HASHES)
@pytest.mark.parametrize("leaves_each", [1, 2, 4, 8])
def test_roots_of_equal_perfect_neighbours_merge_to_the_root_of_the_whole(base: str, leaves_each: int) -> None:
    group = leaves_each * LEAF
    for nbytes in (1, group - 1, group, group + 1, 3 * group, 5 * group + 7, 7 * group - 1, 8 * group):
        data = write_vectors.noise(nbytes)
        roots = [root_of(data[at : at + group], base) for at in range(0, nbytes, group)]
        given_roots = list(roots)
        assert merge_roots(roots, base) == root_of(data, base)
        assert roots == given_roots


def test_a_node_is_never_the_root_of_a_leaf_that_looks_like_it() -> None:
    data = write_vectors.noise(2 * LEAF, 2)
    left, right = (hashlib.sha256(b"\0" + half).digest() for half in (data[:LEAF], data[LEAF:]))
    assert root_of(left + right) != root_of(data)
    assert root_of(b"\x01" + left + right) != root_of(data)


@pytest.mark.parametrize(
    "other",
    [
        lambda data: data[:-1],
        lambda data: data + b"\0",
        lambda data: data[LEAF:] + data[:LEAF],
        lambda data: data + data[-LEAF:],
        lambda data: data[:LEAF] + data[LEAF + 1 :] + data[LEAF : LEAF + 1],
        lambda data: bytes([data[0] ^ 1]) + data[1:],
    ],
    ids=["shorter", "a zero more", "leaves permuted", "the last leaf twice", "a boundary moved", "one bit"],
)
def test_other_bytes_have_another_root(other: object) -> None:
    data = write_vectors.noise(3 * LEAF, 3)
    assert callable(other)
    assert root_of(other(data)) != root_of(data)


@pytest.mark.parametrize("name", ["sha256", "sha3-256", "blake2b", "blake2b-256"])
def test_flat_states_are_hashlibs(name: str) -> None:
    state = flat_state(name)
    state.update(b"ab")
    fork = state.copy()
    state.update(b"c")
    assert state.digest() == trees.HASHES[name](b"abc")
    assert fork.digest() == trees.HASHES[name](b"ab")
