# SPDX-License-Identifier: Apache-2.0
"""Attacks by signers whose key is trusted, and on what statements bind; each docstring says what the attacker did.

Replaying an older version that was validly signed is no matter of one signature: a policy with memory is for that.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from blake3 import blake3
from reference import oms_reference
from support import SMALL_MODEL, Edit, KeyPair, forge, sign_payload, write_files

import sentry
from sentry.errors import MismatchError, SignatureError, VerificationError
from sentry.formats.oms import LEGACY_PREDICATE_TYPE

EVIL = b'{"layers": 6}'


def first(statement: Any) -> Any:
    return statement["predicate"]["resources"][0]


def set_ignored(*paths: str) -> Edit:
    return lambda statement: statement["predicate"]["serialization"].update(ignore_paths=list(paths))


# ------------------------------------------------------------------------------------------------------- equivocation


def test_a_blake3_annotation_of_other_bytes_passes_for_nothing_but_what_was_recomputed(
    pair: KeyPair, model: Path
) -> None:
    """The signer shows SHA-256 tools one file and BLAKE3 tools another."""
    split = forge(pair, SMALL_MODEL, lambda s: first(s)["annotations"].update(blake3=blake3(EVIL).hexdigest()))
    evidence = sentry.verify_path(model, split, pair.trust, hash="sha256")
    assert (evidence.hashes, evidence.unchecked_hashes) == (("sha256",), ("blake3",))
    for choice, reason in [(None, "bytes differ"), ("blake3", "bytes differ"), ("both", "signed blake3 digest")]:
        with pytest.raises(MismatchError, match=reason) as caught:
            sentry.verify_path(model, split, pair.trust, hash=choice)
        assert caught.value.changed == ("config.json",)
    (model / "config.json").write_bytes(EVIL)
    assert sentry.verify_path(model, split, pair.trust).hashes == ("blake3",)
    for choice, reason in [("sha256", "bytes differ"), ("both", "signed sha256 digest")]:
        with pytest.raises(MismatchError, match=reason):
            sentry.verify_path(model, split, pair.trust, hash=choice)


def test_a_blake3_annotation_that_only_some_files_have_counts_for_none(pair: KeyPair, model: Path) -> None:
    """The signer annotates one file with the digest of another, hoping that half of BLAKE3 is enough."""

    def edit(statement: Any) -> None:
        first(statement)["annotations"]["blake3"] = blake3(EVIL).hexdigest()
        del statement["predicate"]["resources"][1]["annotations"]

    bundle = forge(pair, SMALL_MODEL, edit)
    assert sentry.verify_path(model, bundle, pair.trust).hashes == ("sha256",)
    for choice in ("blake3", "both"):
        with pytest.raises(SignatureError, match="the signature has no blake3 digests"):
            sentry.verify_path(model, bundle, pair.trust, hash=choice)


@pytest.mark.parametrize("target", ["w.safetensors", "config.json"])
@pytest.mark.parametrize("shard_bytes", [None, 16])
def test_a_header_digest_of_other_bytes_is_refused(
    pair: KeyPair, model: Path, target: str, shard_bytes: int | None
) -> None:
    """The signer signs a safetensors header that the file does not have, or one of a file that has none."""

    def edit(statement: Any) -> None:
        for resource in statement["predicate"]["resources"]:
            if resource["name"] in {target, f"{target}:0:16", f"{target}:0:13"}:
                resource["annotations"]["header_sha256"] = hashlib.sha256(EVIL).hexdigest()

    bundle = forge(pair, SMALL_MODEL, edit, shard_bytes=shard_bytes)
    for choice in ("sha256", "blake3", "both"):
        with pytest.raises(MismatchError, match="the safetensors header is not the signed one"):
            sentry.verify_path(model, bundle, pair.trust, hash=choice)


def test_a_header_digest_on_a_later_shard_is_refused(pair: KeyPair, model: Path) -> None:
    """The signer hides a wrong header digest on a shard where nobody looks."""

    def edit(statement: Any) -> None:
        statement["predicate"]["resources"][-1]["annotations"]["header_sha256"] = "00" * 32

    with pytest.raises(VerificationError, match="header"):
        sentry.verify_path(model, forge(pair, SMALL_MODEL, edit, shard_bytes=16), pair.trust)


def test_a_size_of_other_bytes_is_refused(pair: KeyPair, model: Path) -> None:
    """The signer gives the right digests and a wrong size."""
    bundle = forge(pair, SMALL_MODEL, lambda s: first(s)["annotations"].update(size="14"))
    with pytest.raises(MismatchError, match=r"changed: config\.json \(sizes differ\)"):
        sentry.verify_path(model, bundle, pair.trust)


# ------------------------------------------------------------------------------------------------- other statements


@pytest.mark.parametrize(
    ("edit", "reason"),
    [
        (lambda s: s.update(predicateType="https://slsa.dev/provenance/v1"), "the statement's predicate type is"),
        (lambda s: s.update(predicateType=LEGACY_PREDICATE_TYPE), "the statement's predicate type is"),
        (lambda s: s.pop("predicateType"), "the statement has no 'predicateType'"),
        (lambda s: s["subject"].append(s["subject"][0]), "the statement has 2 subjects, not one"),
        (lambda s: s["subject"].clear(), "the statement has no subject"),
        (lambda s: s.update(_type="https://in-toto.io/Statement/v0.1"), "has '_type'"),
        (lambda s: s["predicate"]["resources"].clear(), "the manifest lists no resources"),
        (lambda s: first(s).update(name="../outside"), "is not a plain relative path"),
        (lambda s: first(s).update(name="/etc/passwd"), "is not a plain relative path"),
        (lambda s: first(s).update(algorithm="blake3"), "is not the manifest's 'sha256'"),
        (set_ignored("."), "the ignored path '.' is the whole model"),
        (set_ignored("./"), "is the whole model or lies outside it"),
        (set_ignored("sub/.."), "is the whole model or lies outside it"),
        (set_ignored(".."), "is the whole model or lies outside it"),
        (set_ignored("/"), "is the whole model or lies outside it"),
        (set_ignored("/work/model"), "is the whole model or lies outside it"),
        (set_ignored(""), "an ignored path is not a name"),
    ],
)
def test_a_trusted_signature_over_another_statement_authenticates_no_model(
    pair: KeyPair, model: Path, edit: Edit, reason: str
) -> None:
    """The trusted key signed something, but not a manifest of a model that may be believed."""
    statement = oms_reference.statement("model", SMALL_MODEL)
    edit(statement)
    bundle = sign_payload(pair, oms_reference.payload(statement))
    with pytest.raises(SignatureError, match=reason):
        sentry.verify_path(model, bundle, pair.trust)


@pytest.mark.parametrize(
    "payload", [b"{}", b"[]", b"null", b"not JSON", b"\xff", b"[" * 100_000, b'{"_type":NaN}', b"1"]
)
def test_a_trusted_signature_over_bytes_that_are_no_statement_is_refused(
    pair: KeyPair, model: Path, payload: bytes
) -> None:
    """The trusted key is used for other things as well."""
    with pytest.raises(SignatureError, match="what was signed is not a model manifest"):
        sentry.verify_path(model, sign_payload(pair, payload), pair.trust)


def test_nothing_of_a_payload_is_read_before_its_signature_is_checked(
    attacker: KeyPair, pair: KeyPair, model: Path
) -> None:
    """The payload is a bomb for the parser, signed by nobody who is trusted."""
    for payload in (b"[" * 10_000_000, b'{"_type":1,"_type":1}', b"\xff"):
        with pytest.raises(SignatureError, match="the signature was made with another key"):
            sentry.verify_path(model, attacker.signer.sign(payload), pair.trust)


def test_the_signature_of_another_model_is_refused(pair: KeyPair, make_model: Callable[..., Path]) -> None:
    """The attacker puts one model's valid signature beside another model of the same signer."""
    one, other = make_model(name="one"), make_model({**SMALL_MODEL, "config.json": EVIL}, name="other")
    bundle = sentry.sign_path(other, pair.signer)
    with pytest.raises(MismatchError, match=r"changed: config\.json \(bytes differ\)"):
        sentry.verify_path(one, bundle, pair.trust)


def test_files_of_one_name_in_two_signed_directories_cannot_be_swapped(
    pair: KeyPair, make_model: Callable[..., Path]
) -> None:
    """The attacker swaps files that have the same base name, all of them signed by the trusted key."""
    model = make_model({"a/config.json": b"{1}", "b/config.json": b"{2}"})
    bundle = sentry.sign_path(model, pair.signer)
    (model / "a").rename(model / "c")
    (model / "b").rename(model / "a")
    (model / "c").rename(model / "b")
    with pytest.raises(MismatchError) as caught:
        sentry.verify_path(model, bundle, pair.trust)
    assert caught.value.changed == ("a/config.json", "b/config.json")


def test_names_are_bound_though_the_root_digest_does_not_bind_them(pair: KeyPair, model: Path) -> None:
    """The attacker renames a resource in the payload, which leaves the statement's subject digest as it was."""
    bundle = sentry.sign_path(model, pair.signer)
    renamed = replace(bundle.envelope, payload=bundle.envelope.payload.replace(b"config.json", b"Config.json"))
    (model / "config.json").rename(model / "Config.json")
    with pytest.raises(SignatureError, match="the signature does not verify under this key"):
        sentry.verify_path(model, replace(bundle, envelope=renamed), pair.trust)


def test_one_model_s_ignored_paths_do_not_carry_over_to_the_next(
    pair: KeyPair, make_model: Callable[..., Path]
) -> None:
    """The same trust verifies a model that ignores a path, and then one that does not."""
    loose, strict = make_model(name="loose"), make_model(name="strict")
    ignoring = sentry.sign_path(loose, pair.signer, ignore=[loose / "extra"])
    plain = sentry.sign_path(strict, pair.signer)
    for model in (loose, strict):
        write_files(model, {"extra/a.py": b"x"})
    assert sentry.verify_path(loose, ignoring, pair.trust).not_covered == ("extra/",)
    with pytest.raises(MismatchError, match=r"not signed: extra/a\.py"):
        sentry.verify_path(strict, plain, pair.trust)


def test_what_the_signer_ignored_is_never_silently_accepted(pair: KeyPair, model: Path) -> None:
    """The signer leaves a folder out, and the attacker puts code into it."""
    write_files(model, {"sub/code/run.py": b"import os", ".git/hooks/x": b"#!"})
    evidence = sentry.verify_path(model, forge(pair, SMALL_MODEL, set_ignored("sub/code", ".git")), pair.trust)
    assert evidence.not_covered == (".git/", "sub/code/")
    assert evidence.to_json()["not_covered"] == [".git/", "sub/code/"]


@pytest.mark.parametrize("ignored", ["config.json", "sub", "sub/vocab.txt"])
@pytest.mark.parametrize("damage", ["changed", "missing"])
def test_a_listed_file_is_verified_though_it_is_ignored_as_well(
    pair: KeyPair, model: Path, ignored: str, damage: str
) -> None:
    """The signer, or the verifier's caller, ignores a path that the statement lists."""
    name = "config.json" if ignored == "config.json" else "sub/vocab.txt"
    by_signer, by_caller = forge(pair, SMALL_MODEL, set_ignored(ignored)), forge(pair, SMALL_MODEL)
    for bundle in (by_signer, by_caller):
        evidence = sentry.verify_path(model, bundle, pair.trust, ignore=[model / ignored])
        assert evidence.nbytes == sum(map(len, SMALL_MODEL.values()))
    if damage == "changed":
        (model / name).write_bytes(b"X" * len(SMALL_MODEL[name]))
    else:
        (model / name).unlink()
    for bundle in (by_signer, by_caller):
        with pytest.raises(MismatchError) as caught:
            sentry.verify_path(model, bundle, pair.trust, ignore=[model / ignored])
        assert getattr(caught.value, damage) == (name,)
