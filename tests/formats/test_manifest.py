# SPDX-License-Identifier: Apache-2.0
"""The manifest: which names are names, which of them collide, and what the root digest does not bind."""

from __future__ import annotations

import hashlib
from dataclasses import replace

import pytest

from sentry.errors import FormatError, RefusedError
from sentry.formats.manifest import (
    MAX_DEPTH,
    MAX_NAME,
    Manifest,
    Resource,
    check_length,
    check_names_do_not_collide,
    check_path,
    fold_name,
    is_under,
)


def digest(text: str) -> bytes:
    return hashlib.sha256(text.encode()).digest()


MANIFEST = Manifest("model", "sha256", (Resource("a", digest("a"), blake3=digest("A")), Resource("b", digest("b"))))


def test_the_root_is_the_hash_of_the_digests_in_listed_order() -> None:
    assert MANIFEST.root() == hashlib.sha256(digest("a") + digest("b")).digest()
    assert replace(MANIFEST, resources=MANIFEST.resources[::-1]).root() != MANIFEST.root()


def test_the_root_does_not_bind_names() -> None:
    renamed = tuple(replace(resource, path=resource.path * 2) for resource in MANIFEST.resources)
    assert replace(MANIFEST, resources=renamed).root() == MANIFEST.root()


@pytest.mark.parametrize(
    ("hash_name", "second", "hashes"),
    [
        ("sha256", (True, True), ("sha256", "blake3")),
        ("sha256", (True, False), ("sha256",)),
        ("sha256", (False, False), ("sha256",)),
        ("blake2b", (True, True), ("blake2b", "blake3")),
        ("blake3", (True, True), ("blake3",)),
    ],
)
def test_a_second_hash_counts_only_if_every_resource_has_it(
    hash_name: str, second: tuple[bool, ...], hashes: tuple[str, ...]
) -> None:
    resources = tuple(
        Resource(str(number), b"x", blake3=b"y" if given else None) for number, given in enumerate(second)
    )
    assert Manifest("m", hash_name, resources).hashes() == hashes


def test_a_resource_has_a_digest_only_under_the_hashes_that_were_signed() -> None:
    first, second = MANIFEST.resources
    assert first.digest_under("sha256", "sha256") == digest("a")
    assert first.digest_under("blake3", "sha256") == digest("A")
    assert second.digest_under("blake3", "sha256") is None
    assert first.digest_under("blake2b", "sha256") is None
    assert first.digest_under("sha256", "blake2b") is None


def test_shards_are_grouped_by_file_in_the_order_of_their_bytes() -> None:
    shards = [Resource("a", b"x", start, start + 5) for start in (5, 0, 10)]
    manifest = Manifest("m", "sha256", (*shards, Resource("b", b"x", 0, 2)), shard_bytes=5)
    assert [shard.start for shard in manifest.by_path()["a"]] == [0, 5, 10]
    assert [shard.name for shard in manifest.by_path()["b"]] == ["b:0:2"]


@pytest.mark.parametrize("path", [".", "a", "a/b", ".hidden", "...", "a/..b", "a:0:1", "-", "a\\b", "\n", "é/\u202e"])
def test_plain_relative_paths_are_names(path: str) -> None:
    check_path(path)


@pytest.mark.parametrize(
    "path",
    ["", "/", "/a", "a/", "a//b", "..", "../a", "a/..", "a/../b", "./a", "a/.", "a/./b", "../../etc/passwd", "//a"],
)
def test_paths_that_lead_elsewhere_are_refused(path: str) -> None:
    with pytest.raises(FormatError, match="is not a plain relative path"):
        check_path(path)


@pytest.mark.parametrize("path", ["a\0b", "\0", "/".join(["a"] * (MAX_DEPTH + 1))])
def test_names_that_no_file_has_are_refused(path: str) -> None:
    with pytest.raises(FormatError, match="is not one that a file can have"):
        check_path(path)


def test_a_name_longer_than_a_path_is_refused_and_not_repeated() -> None:
    check_length("a" * MAX_NAME)
    with pytest.raises(FormatError, match="is longer than a path can be") as caught:
        check_length("a" * (MAX_NAME + 1))
    assert len(str(caught.value)) < 200


@pytest.mark.parametrize(
    ("path", "ignored", "answer"),
    [
        ("a", ["a"], True),
        ("a/b", ["a"], True),
        ("a/b/c", ["x", "a/b"], True),
        ("ab", ["a"], False),
        ("a.b", ["a"], False),
        ("A", ["a"], False),
        ("b/a", ["a"], False),
        ("a", ["a/b"], False),
        ("a", [], False),
    ],
)
def test_a_path_is_ignored_by_whole_components(path: str, ignored: list[str], *, answer: bool) -> None:
    assert is_under(path, ignored) is answer


@pytest.mark.parametrize(
    "paths",
    [
        ["a", "b", "a.b", "ab"],
        ["a/x", "a/y", "b/x"],
        ["é", "e"],
        ["README", "readme.txt"],
        ["ﬁ", "f"],
        ["s", "ß"],
    ],
)
def test_different_names_do_not_collide(paths: list[str]) -> None:
    check_names_do_not_collide(paths)


@pytest.mark.parametrize(
    "paths",
    [
        ["README", "readme"],
        ["é", "e\u0301"],
        ["É", "e\u0301"],
        ["ß", "SS"],
        ["A/x", "a/y"],
        ["a/b/C/d", "a/b/c"],
        ["\u212b", "å"],
        ["ǰ", "J\u030c"],
        ["\u1e9e", "ss"],
    ],
)
def test_names_that_are_one_somewhere_collide(paths: list[str]) -> None:
    with pytest.raises(RefusedError, match="are one name where case or Unicode form do not count"):
        check_names_do_not_collide(paths)


@pytest.mark.parametrize("name", ["abc", "ÄÖ", "e\u0301", "ǰ", "\u0345", "ΐ"])
def test_folding_twice_changes_nothing_more(name: str) -> None:
    assert fold_name(fold_name(name)) == fold_name(name)
