# SPDX-License-Identifier: Apache-2.0
"""The slow reference of trees, sums and records agrees with published vectors and independent implementations."""

from __future__ import annotations

import hashlib
import json
import struct
from pathlib import Path
from typing import Any

import pytest
from blake3 import blake3
from reference import trees, write_vectors

PUBLISHED = Path(__file__).parents[2] / "shared" / "data" / "blake3" / "test_vectors.json"
LENGTHS = (0, 1, 63, 64, 65, 127, 128, 1023, 1024, 1025, 2048, 2049, 3072, 3073, 4096, 5120, 8193, 31 * 1024 + 1)
# Roots of the trees over the first n of the eight leaves that Certificate Transparency's test vectors use
# (google/certificate-transparency, merkletree/merkle_tree_test.cc; RFC 6962 hashes as RFC 9162 does).
CT_LEAVES = [
    b"",
    b"\x00",
    b"\x10",
    b"\x20\x21",
    b"\x30\x31",
    b"\x40\x41\x42\x43",
    bytes.fromhex("5051525354555657"),
    bytes.fromhex("606162636465666768696a6b6c6d6e6f"),
]
CT_ROOTS = [
    "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855",
    "6e340b9cffb37a989ca544e6bb780a2c78901d3fb33738768511a30617afa01d",
    "fac54203e7cc696cf0dfcb42c92a1d9dbaf70ad9e621f4bd8d98662f00e3c125",
    "aeb6bcfe274b70a14fb067a5e5578264db0fa9b51af5e0ba159158f329e06e77",
    "d37ee418976dd95753c1c73862b9398fa2a2cf9b4ff0fdfe8b30cd95209614b7",
    "4e3bbb1f7b478dcfe71fb631631519a3bca12c9aefca1612bfce4c13a86264d4",
    "76e67dadbcdf1e10e1b74ddc608abd2f98dfb16fbce75277b5232a127f2087ef",
    "ddb89be403809e325750d3d263cd78929c2942b7942a34b77e122c9594a74c8c",
    "5dc9da79a70659a9ad559cb701ded9a2ab9d823aad2f4960cfe370eff4604328",
]


def published() -> dict[str, Any]:
    if not PUBLISHED.exists():
        pytest.skip("blake3 is not beside the checkout")
    loaded: dict[str, Any] = json.loads(PUBLISHED.read_text(encoding="utf-8"))
    return loaded


def test_blake3s_own_vectors_hold_in_all_three_modes_and_for_long_outputs() -> None:
    vectors = published()
    key, context = vectors["key"].encode(), vectors["context_string"]
    for case in vectors["cases"]:
        data = write_vectors.pattern(case["input_len"])
        nbytes = len(case["hash"]) // 2
        assert trees.blake3(data, nbytes).hex() == case["hash"], case["input_len"]
        assert trees.blake3(data, nbytes, key=key).hex() == case["keyed_hash"], case["input_len"]
        assert trees.blake3(data, nbytes, context=context).hex() == case["derive_key"], case["input_len"]


@pytest.mark.parametrize("nbytes", LENGTHS)
def test_blake3_agrees_with_the_wheel_in_every_mode(nbytes: int) -> None:
    data = write_vectors.noise(nbytes)
    key = write_vectors.noise(32, ~nbytes)
    assert trees.blake3(data) == blake3(data).digest()
    assert trees.blake3(data, key=key) == blake3(data, key=key).digest()
    assert trees.blake3(data, 100, context="a context") == blake3(data, derive_key_context="a context").digest(100)


def test_subtree_values_of_a_message_merge_to_its_digest() -> None:
    data = write_vectors.noise(13 * 1024 + 77, 0)
    for group in (1, 2, 4, 8):
        values = [struct.unpack("<8I", value) for value in trees.subtree_values(data, group)]
        while len(values) > 2:
            split = trees.largest_power_of_two_below(len(values))
            right = values[split:]
            values = [merged(values[:split]), merged(right)]
        root = trees.Output(trees.IV, (*values[0], *values[1]), 0, 64, trees.PARENT)
        assert root.root_bytes(32) == blake3(data).digest()


def merged(values: list[trees.Words]) -> trees.Words:
    if len(values) == 1:
        return values[0]
    split = trees.largest_power_of_two_below(len(values))
    block = (*merged(values[:split]), *merged(values[split:]))
    return trees.Output(trees.IV, block, 0, 64, trees.PARENT).chaining_value()


@pytest.mark.parametrize("count", range(9))
def test_the_tree_hash_has_the_roots_of_certificate_transparency(count: int) -> None:
    assert trees.tree_hash(CT_LEAVES[:count], trees.HASHES["sha256"]).hex() == CT_ROOTS[count]


def test_a_tree_over_bytes_is_the_tree_over_its_leaves() -> None:
    data = write_vectors.pattern(2 * 1024 + 3)
    leaves = [hashlib.sha256(b"\0" + data[at : at + 1024]).digest() for at in (0, 1024, 2048)]
    left = hashlib.sha256(b"\1" + leaves[0] + leaves[1]).digest()
    assert trees.merkle(data, "sha256", 1024) == hashlib.sha256(b"\1" + left + leaves[2]).digest()


def test_the_lattice_element_is_that_of_an_independent_implementation() -> None:
    # The crate solana-lattice-hash hashes b"hello" to these first lanes.
    assert trees.lattice_element(b"hello")[:2] == [0x8FEA, 0x3D16]


def test_the_lattice_sum_does_not_know_the_order_and_counts_repetitions() -> None:
    leaves = [write_vectors.leaf(index) for index in range(3)]
    assert trees.lattice_sum(leaves) == trees.lattice_sum(leaves[::-1]) != trees.lattice_sum([*leaves, leaves[0]])
    element = trees.lattice_element(leaves[0])
    doubled = struct.unpack("<1024H", trees.lattice_sum([leaves[0], leaves[0]]))
    assert list(doubled) == [2 * lane % 65536 for lane in element]


def test_a_preimage_sorts_its_fields_by_the_bytes_of_their_names() -> None:
    fields = [trees.Field(name, 0, "", (), 0, b"") for name in ("b", "é", "Z", "a")]
    preimage = trees.record_preimage("sample", "", "", fields, "h")
    assert sorted(range(4), key=lambda i: preimage.index(trees.prefixed(fields[i].name))) == [2, 3, 0, 1]


def test_the_vector_file_is_what_the_reference_writes() -> None:
    assert write_vectors.VECTORS.read_text(encoding="ascii") == write_vectors.text()
