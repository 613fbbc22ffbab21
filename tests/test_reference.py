# SPDX-License-Identifier: Apache-2.0
"""The package and the slow reference write the same bytes, and accept and refuse the same things."""

from __future__ import annotations

import json
import tempfile
import unicodedata
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from reference import oms_reference, oms_verifier
from support import SAFETENSORS, SMALL_MODEL, KeyPair, seal, write_files

import sentry
from sentry.formats.dsse import pae

CHOICES = ("sha256+blake3", "sha256", "blake3", "blake2b")
LEFT_OUT = {".git", ".github", ".gitignore", ".gitattributes", "model.sig"}

_characters = st.characters(exclude_categories=["Cs"], exclude_characters="/\0")
_names = st.one_of(
    st.sampled_from(["a", "a.b", "B", ".hidden", "x:0:3", "é", "e\u0301x", "w.safetensors", "\u202e", "\n", "sub"]),
    st.text(_characters, min_size=1, max_size=10).filter(lambda name: name not in {".", "..", *LEFT_OUT}),
)
_contents = st.one_of(st.binary(max_size=40), st.sampled_from([b"", SAFETENSORS, SAFETENSORS[:20]]))


def fold(name: str) -> str:
    return unicodedata.normalize("NFC", unicodedata.normalize("NFC", name).casefold())


@st.composite
def trees(draw: st.DrawFn) -> dict[str, bytes]:
    """Draw a tree that can be signed: no two names that are one somewhere, no file that is a directory as well."""
    paths = draw(st.lists(st.lists(_names, min_size=1, max_size=3), min_size=1, max_size=6))
    tree: dict[str, bytes] = {}
    taken: dict[str, tuple[str, bool]] = {}
    for parts in paths:
        wanted = [("/".join(parts[: depth + 1]), depth + 1 == len(parts)) for depth in range(len(parts))]
        usual = all(taken.get(fold(name), (name, is_file)) == (name, is_file) for name, is_file in wanted)
        if usual and wanted[-1][0] not in tree:
            taken.update((fold(name), (name, is_file)) for name, is_file in wanted)
            tree[wanted[-1][0]] = draw(_contents)
    return tree


@settings(max_examples=250)
@given(trees(), st.sampled_from(CHOICES), st.none() | st.integers(1, 50))
def test_signing_gives_the_reference_s_bytes(
    pair: KeyPair, tree: dict[str, bytes], choice: str, shard_bytes: int | None
) -> None:
    if shard_bytes is not None:
        tree = {path: data or b"x" for path, data in tree.items()}
    with tempfile.TemporaryDirectory() as folder:
        path = write_files(Path(folder) / "model", tree)
        bundle = sentry.sign_path(path, pair.signer, hash=choice, shard_bytes=shard_bytes)
        verification = sentry.verify_path(path, bundle, pair.trust)
    statement = oms_reference.statement("model", tree, choice=choice, shard_bytes=shard_bytes)
    payload = oms_reference.payload(statement)
    assert bundle.envelope.payload == payload
    key = pair.key.public_key()
    assert bundle.encode() == oms_reference.bundle(payload, bundle.envelope.signature, oms_reference.hint(key))
    assert oms_verifier.verify(bundle.encode(), tree, key) == verification.hashes


@given(st.binary(max_size=300))
def test_the_signed_encoding_is_the_reference_s(payload: bytes) -> None:
    assert pae(payload) == oms_reference.pae(payload)


@pytest.mark.parametrize("algorithm", ["ecdsa-p256", "ecdsa-p384", "ecdsa-p521"])
def test_the_reference_accepts_every_curve_s_signature_and_is_accepted(
    key_pairs: Any, model: Path, algorithm: str
) -> None:
    pair = key_pairs[algorithm]
    ours = sentry.sign_path(model, pair.signer).encode()
    assert oms_verifier.verify(ours, SMALL_MODEL, pair.key.public_key()) == ("blake3",)
    theirs = oms_reference.sign(oms_reference.payload(oms_reference.statement("m", SMALL_MODEL)), pair.key)
    assert sentry.verify_path(model, sentry.Bundle.decode(theirs), pair.trust).signers[0].algorithm == algorithm


def first(statement: Any) -> Any:
    return statement["predicate"]["resources"][0]


def how(statement: Any) -> Any:
    return statement["predicate"]["serialization"]


# What a signer can do to a statement: half of it is allowed, and the package and the reference must say which half.
EDITS: dict[str, Any] = {
    "nothing": lambda _: None,
    "other order": lambda s: s["predicate"]["resources"].reverse(),
    "one resource less": lambda s: s["predicate"]["resources"].pop(),
    "one resource twice": lambda s: s["predicate"]["resources"].append(dict(first(s))),
    "no resources": lambda s: s["predicate"]["resources"].clear(),
    "another digest": lambda s: first(s).update(digest="00" * 32),
    "a long digest": lambda s: first(s).update(digest="00" * 33),
    "a capital digest": lambda s: first(s).update(digest=first(s)["digest"].upper()),
    "another algorithm": lambda s: first(s).update(algorithm="blake2b"),
    "a name above": lambda s: first(s).update(name="../" + first(s)["name"]),
    "a dotted name": lambda s: first(s).update(name="./" + first(s)["name"]),
    "an absolute name": lambda s: first(s).update(name="/" + first(s)["name"]),
    "an empty name": lambda s: first(s).update(name=""),
    "a name with NUL": lambda s: first(s).update(name="a\0"),
    "a directory's name": lambda s: first(s).update(name="sub"),
    "no annotations": lambda s: first(s).pop("annotations"),
    "annotations that are text": lambda s: first(s).update(annotations="blake3"),
    "an unknown annotation": lambda s: first(s)["annotations"].update(x="y"),
    "another blake3": lambda s: first(s)["annotations"].update(blake3="00" * 32),
    "a blake3 that is none": lambda s: first(s)["annotations"].update(blake3="zz" * 32),
    "another size": lambda s: first(s)["annotations"].update(size="1000"),
    "a negative size": lambda s: first(s)["annotations"].update(size="-1"),
    "another header": lambda s: first(s)["annotations"].update(header_sha256="00" * 32),
    "a header that is none": lambda s: first(s)["annotations"].update(header_sha256="00"),
    "an unknown field of a resource": lambda s: first(s).update(uri="x"),
    "an unknown field of the predicate": lambda s: s["predicate"].update(x=1),
    "an unknown field of the serialization": lambda s: how(s).update(x=1),
    "an unknown field of the statement": lambda s: s.update(x=1),
    "another statement": lambda s: s.update(_type="https://in-toto.io/Statement/v0.1"),
    "another predicate": lambda s: s.update(predicateType="https://slsa.dev/provenance/v1"),
    "two subjects": lambda s: s["subject"].append(s["subject"][0]),
    "no subject": lambda s: s["subject"].clear(),
    "links allowed": lambda s: how(s).update(allow_symlinks=True),
    "links perhaps": lambda s: how(s).update(allow_symlinks="no"),
    "no ignored paths": lambda s: how(s).pop("ignore_paths"),
    "everything ignored": lambda s: how(s).update(ignore_paths=["."]),
    "above ignored": lambda s: how(s).update(ignore_paths=["a/../.."]),
    "the root ignored": lambda s: how(s).update(ignore_paths=["/"]),
    "a listed file ignored": lambda s: how(s).update(ignore_paths=[first(s)["name"]]),
    "a folder ignored, with a slash": lambda s: how(s).update(ignore_paths=["sub/"]),
    "an unknown hash": lambda s: how(s).update(hash_type="md5"),
    "another hash": lambda s: how(s).update(hash_type="blake3"),
    "an unknown method": lambda s: how(s).update(method="tensors"),
    "a shard size for files": lambda s: how(s).update(shard_size=7),
    "a shard size as float": lambda s: how(s).update(shard_size=float(how(s).get("shard_size", 1))),
    "a shard size with a fraction": lambda s: how(s).update(shard_size=how(s).get("shard_size", 1) + 0.5),
    "another shard size": lambda s: how(s).update(shard_size=3),
    "a sharded algorithm": lambda s: first(s).update(algorithm=f"sha256-sharded-{how(s).get('shard_size')}"),
}
CHANGES: dict[str, Any] = {
    "nothing": lambda _: None,
    "a byte more": lambda tree: tree.update({"config.json": tree["config.json"] + b"\0"}),
    "a byte less": lambda tree: tree.update({"config.json": tree["config.json"][:-1]}),
    "another byte": lambda tree: tree.update({"config.json": b"X" + tree["config.json"][1:]}),
    "a file more": lambda tree: tree.update(more=b""),
    "an ignored file more": lambda tree: tree.update({".git/HEAD": b"x"}),
    "a file in a signed folder more": lambda tree: tree.update({"sub/more": b""}),
    "a file less": lambda tree: tree.pop("sub/vocab.txt"),
    "another name": lambda tree: tree.update({"sub/Vocab.txt": tree.pop("sub/vocab.txt")}),
    "two files swapped": lambda tree: tree.update(
        {"config.json": tree["sub/vocab.txt"], "sub/vocab.txt": tree["config.json"]}
    ),
}


@pytest.mark.parametrize("unsigned", [False, True])
@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.parametrize("shard_bytes", [None, 7])
def test_both_judge_edited_statements_and_changed_trees_alike(
    pair: KeyPair, tmp_path: Path, change: str, shard_bytes: int | None, *, unsigned: bool
) -> None:
    tree = dict(SMALL_MODEL)
    CHANGES[change](tree)
    path = write_files(tmp_path / "model", tree)
    for edit, apply in EDITS.items():
        statement = oms_reference.statement("model", SMALL_MODEL, shard_bytes=shard_bytes)
        apply(statement)
        if statement["subject"]:
            seal(statement)
        signature = oms_reference.sign(json.dumps(statement, indent=1).encode(), pair.key)
        verdicts = judge(pair, signature, tree, path, ignore_unsigned=unsigned)
        assert verdicts[0] == verdicts[1], (edit, change)


@given(st.data())
def test_both_judge_damaged_signature_files_alike(pair: KeyPair, model: Path, data: st.DataObject) -> None:
    signature = bytearray(oms_reference.sign(SIGNED, pair.key))
    # The length of an ECDSA signature varies, and what is drawn must not depend on it.
    for position in data.draw(st.lists(st.integers(0, 2**16), min_size=1, max_size=3)):
        signature[position % len(signature)] = data.draw(st.one_of(st.integers(0, 255), st.sampled_from(b' "{}[]:,=A')))
    ours, reference = judge(pair, bytes(signature), SMALL_MODEL, model)
    assert ours == reference


SIGNED = oms_reference.payload(oms_reference.statement("model", SMALL_MODEL))


def judge(
    pair: KeyPair, signature: bytes, tree: dict[str, bytes], path: Path, *, ignore_unsigned: bool = False
) -> tuple[bool, bool]:
    """Return what the package and the reference say of a signature file and a tree."""
    try:
        sentry.verify_path(path, sentry.Bundle.decode(signature), pair.trust, ignore_unsigned=ignore_unsigned)
        ours = True
    except (sentry.VerificationError, sentry.FormatError):
        ours = False
    try:
        oms_verifier.verify(signature, tree, pair.key.public_key(), ignore_unsigned=ignore_unsigned)
        reference = True
    except oms_verifier.Refused:
        reference = False
    return ours, reference
