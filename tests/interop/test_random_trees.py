# SPDX-License-Identifier: Apache-2.0
"""Random trees, signed by one and verified by the other: names, sizes and ignored paths that nobody thought of."""

from __future__ import annotations

import unicodedata
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from sentry import MismatchError, sign_path, verify_path

GIT = {".git", ".github", ".gitignore", ".gitattributes"}
AWKWARD = [
    *("a", "b", "a.b", "a-b", "a b", "A.b", ".hidden", "..x", "x..", " ", "-rf", "~", "*", "[x]", "back\\slash"),
    *("a:1", "a:0:3", ":0:1", "model.bin", "e\u0301", "\u4e2d\u6587", "\U0001f600", "line\nbreak", "\u202edlrow"),
    *("x" * 255, "\ufeffbom", "\uffff", "%2e%2e", "model.safetensors", "con", *sorted(GIT)),
]
COMPONENTS = st.sampled_from(AWKWARD) | st.text(
    st.characters(exclude_categories=["Cs"], exclude_characters="/\0"), min_size=1, max_size=8
).filter(lambda name: name not in {".", ".."})
PATHS = st.lists(COMPONENTS, min_size=1, max_size=4).map("/".join)
CONTENTS = st.binary(max_size=40) | st.integers(0, 5000).map(lambda nbytes: b"\x5a" * nbytes)


def fold(name: str) -> str:
    """Map a name to what a file system without case and Unicode form takes it for."""
    return unicodedata.normalize("NFC", unicodedata.normalize("NFC", name).casefold())


def parents(path: str) -> list[str]:
    """Return a path and every directory above it."""
    parts = path.split("/")
    return ["/".join(parts[:depth]) for depth in range(1, len(parts) + 1)]


def possible(tree: Mapping[str, bytes]) -> dict[str, bytes]:
    """Leave out what cannot lie beside what came before: one name twice, or a file where a directory is."""
    seen: dict[str, str] = {}
    kept: dict[str, bytes] = {}
    directories: set[str] = set()
    for path, content in tree.items():
        above = parents(path)
        if any(seen.get(fold(name), name) != name for name in above):
            continue
        if path in directories or any(name in kept for name in above):
            continue
        seen.update((fold(name), name) for name in above)
        directories.update(above[:-1])
        kept[path] = content
    return kept


TREES = st.dictionaries(PATHS, CONTENTS, min_size=1, max_size=8).map(possible)


@st.composite
def ignoring(draw: st.DrawFn) -> tuple[dict[str, bytes], list[str], set[str]]:
    """Draw a tree, the paths to ignore in it, and the files that are left."""
    tree = draw(TREES)
    every = sorted({name for path in tree for name in parents(path)})
    ignored = draw(st.lists(st.sampled_from(every), max_size=2, unique=True))
    left = {path for path in tree if GIT.union(ignored).isdisjoint(parents(path))}
    assume(left)
    return tree, ignored, left


def examples(count: int) -> settings:
    """Return the settings of a test with so many examples."""
    unsuitable = [HealthCheck.function_scoped_fixture, HealthCheck.too_slow, HealthCheck.filter_too_much]
    return settings(max_examples=count, deadline=None, suppress_health_check=unsuitable)


def ours_to_its(peer: Any, model: Path, key: Any, choice: str, ignored: list[str], its_hash: str | None) -> set[str]:
    """Sign with our API, verify with the peer's and with ours, and return the signed files."""
    signature = model / "model.sig"
    sign_path(model, key.signer, hash=choice, ignore=[model / name for name in ignored]).write(signature)
    peer.verify(model, signature, key, hash=its_hash)
    return set(verify_path(model, signature, key.trust).files)


def its_to_ours(peer: Any, model: Path, key: Any, ignored: list[str], **options: Any) -> set[str]:
    """Sign with the peer's API, verify with ours, and return the signed files."""
    signature = model.parent / "its.sig"
    peer.sign(model, signature, key, ignore=ignored, **options)
    verification = verify_path(model, signature, key.trust)
    assert verification.hashes == (options["hash"],)
    return set(verification.files)


@examples(100)
@given(case=ignoring())
def test_it_verifies_our_default_bundle_of_any_tree(peer: Any, key: Any, write_tree: Any, case: Any) -> None:
    tree, ignored, left = case
    assert ours_to_its(peer, write_tree(tree), key, "sha256+blake3", ignored, None) == left


@examples(60)
@given(case=ignoring())
def test_it_verifies_our_blake3_bundle_of_any_tree(peer: Any, key: Any, write_tree: Any, case: Any) -> None:
    tree, ignored, left = case
    assert ours_to_its(peer, write_tree(tree), key, "blake3", ignored, None) == left


@examples(60)
@given(case=ignoring(), choice=st.sampled_from([("sha256", None), ("blake2b", "blake2b")]))
def test_it_verifies_our_other_bundles_of_any_tree(
    peer: Any, key: Any, write_tree: Any, case: Any, choice: tuple[str, str | None]
) -> None:
    tree, ignored, left = case
    assert ours_to_its(peer, write_tree(tree), key, choice[0], ignored, choice[1]) == left


@examples(100)
@given(case=ignoring())
def test_we_verify_its_sha256_bundle_of_any_tree(peer: Any, key: Any, write_tree: Any, case: Any) -> None:
    tree, ignored, left = case
    assert its_to_ours(peer, write_tree(tree), key, ignored, hash="sha256") == left


@examples(60)
@given(case=ignoring(), hash_name=st.sampled_from(["blake3", "blake2b"]))
def test_we_verify_its_other_bundles_of_any_tree(
    peer: Any, key: Any, write_tree: Any, case: Any, hash_name: str
) -> None:
    tree, ignored, left = case
    assert its_to_ours(peer, write_tree(tree), key, ignored, hash=hash_name) == left


@examples(60)
@given(case=ignoring(), shard_bytes=st.sampled_from([1, 2, 7, 100, 5000]))
def test_we_verify_its_shards_of_any_tree_without_empty_files(
    peer: Any, key: Any, write_tree: Any, case: Any, shard_bytes: int
) -> None:
    tree, ignored, left = case
    model = write_tree({path: content[:300] or b"\0" for path, content in tree.items()})
    assert its_to_ours(peer, model, key, ignored, hash="sha256", shard_bytes=shard_bytes) == left


@examples(50)
@given(content=CONTENTS, hash_name=st.sampled_from(["sha256", "blake3"]))
def test_a_single_file_is_verified_both_ways(
    peer: Any, key: Any, write_tree: Any, content: bytes, hash_name: str
) -> None:
    model = write_tree(content)
    assert its_to_ours(peer, model, key, [], hash=hash_name) == {"."}
    signature = model.with_name("model.sig")
    sign_path(model, key.signer, hash=hash_name).write(signature)
    peer.verify(model, signature, key)
    assert verify_path(model, signature, key.trust).files == (".",)


@examples(60)
@given(case=ignoring(), data=st.data())
def test_both_refuse_any_tree_of_which_one_file_changed(
    peer: Any, peer_error: Any, key: Any, write_tree: Any, case: Any, data: st.DataObject
) -> None:
    tree, ignored, left = case
    model = write_tree(tree)
    ours, its = model / "model.sig", model.parent / "its.sig"
    sign_path(model, key.signer, ignore=[model / name for name in ignored]).write(ours)
    peer.sign(model, its, key, hash="sha256", ignore=[*ignored, "model.sig"])
    victim = data.draw(st.sampled_from(sorted(left)))
    content = tree[victim]
    at = data.draw(st.integers(0, len(content)))
    changed = content[:at] + (bytes([content[at] ^ 1]) if at < len(content) else b"\0") + content[at + 1 :]
    (model / victim).write_bytes(changed)
    for signature in (ours, its):
        with pytest.raises(peer_error, match="Signature mismatch"):
            peer.verify(model, signature, key)
        with pytest.raises(MismatchError) as caught:
            verify_path(model, signature, key.trust)
        assert caught.value.changed == (victim,)
