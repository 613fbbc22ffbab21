# SPDX-License-Identifier: Apache-2.0
"""A hash has one name, the name says everything about it, and whatever is no name is refused."""

from __future__ import annotations

import pytest

from sentry.errors import FormatError
from sentry.formats.digest import DIGEST_BYTES, FLAT_BYTES, TREE_HASHES, digest_bytes, tree_of

LEAF_SIZES = [1 << power for power in range(10, 21)]
SIZES = {"sha256": 32, "blake2b": 64, "blake3": 32, "sha3-256": 32, "blake2b-256": 32}
REFUSED = {
    "nothing": "",
    "a flat hash that is none of ours": "sha512",
    "upper case": "SHA256",
    "a space behind the name": "sha256 ",
    "hashlib's spelling": "sha3_256",
    "a line break behind the name": "merkle-sha256-1024\n",
    "no leaf size": "merkle-sha256",
    "an empty leaf size": "merkle-sha256-",
    "no hash": "merkle--1024",
    "a leaf below a chunk": "merkle-sha256-512",
    "a leaf above a group": "merkle-sha256-2097152",
    "a leaf size that is no power of two": "merkle-sha256-3072",
    "a leaf size with a leading zero": "merkle-sha256-01024",
    "a leaf size with a sign": "merkle-sha256-+1024",
    "a leaf size in other digits": "merkle-sha256-\uff11\uff10\uff12\uff14",
    "a leaf size in scientific notation": "merkle-sha256-1e4",
    "a tree of 64-byte digests": "merkle-blake2b-1024",
    "a tree of what has a tree already": "merkle-blake3-1024",
    "a tree of trees": "merkle-merkle-sha256-1024-1024",
    "two prefixes": "merkle-merkle-1024",
}


@pytest.mark.parametrize(("name", "nbytes"), SIZES.items())
def test_flat_hashes_are_no_trees_and_have_the_size_of_their_specification(name: str, nbytes: int) -> None:
    assert tree_of(name) is None
    assert digest_bytes(name) == FLAT_BYTES[name] == nbytes


def test_the_hashes_of_the_signature_format_are_among_the_flat_ones() -> None:
    assert DIGEST_BYTES.items() <= FLAT_BYTES.items()
    assert FLAT_BYTES == SIZES


@pytest.mark.parametrize("leaf_bytes", LEAF_SIZES)
@pytest.mark.parametrize("base", TREE_HASHES)
def test_every_tree_name_comes_apart_into_hash_and_leaf_size(base: str, leaf_bytes: int) -> None:
    assert tree_of(f"merkle-{base}-{leaf_bytes}") == (base, leaf_bytes)
    assert digest_bytes(f"merkle-{base}-{leaf_bytes}") == 32


@pytest.mark.parametrize("name", REFUSED.values(), ids=REFUSED.keys())
def test_what_is_no_name_is_refused_and_named(name: str) -> None:
    for function in (tree_of, digest_bytes):
        with pytest.raises(FormatError) as caught:
            function(name)
        assert str(caught.value) == f"there is no hash {name!r}"


def test_a_name_without_end_is_shown_shortened() -> None:
    with pytest.raises(FormatError) as caught:
        digest_bytes("x" * 100_000)
    assert len(str(caught.value)) < 120
