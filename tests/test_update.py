# SPDX-License-Identifier: Apache-2.0
"""An update is what signing anew would give, with a parent; a file is left unread only if a note vouches for it."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import replace
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest
from reference import oms_reference
from support import SMALL_MODEL, KeyPair, forge, on_first_block, sign_payload, write_files

import sentry
from sentry import private, stamps
from sentry.errors import MismatchError, RefusedError, SignatureError, TrustError
from sentry.formats.oms import decode_manifest
from sentry.signing import build_manifest
from sentry.trust.keys import KeySigner, KeyTrust

OLD = 5_000_000_000


@pytest.fixture(autouse=True)
def notes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Keep the notes of a test to itself, and return where they lie."""
    monkeypatch.setenv(private.CACHE_VARIABLE, str(tmp_path / "notes"))
    return tmp_path / "notes"


@pytest.fixture
def patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let what was written just now count as old, as it would some seconds later."""
    monkeypatch.setattr(stamps, "RACY_NS", -OLD)


def update(model: Path, old: Any, pair: KeyPair, **options: Any) -> sentry.Update:
    return sentry.update_path(model, old, pair.signer, pair.trust, **options)


def twice(model: Path, pair: KeyPair) -> sentry.Update:
    """Sign, and update once: what the next update may rely on."""
    return update(model, sentry.sign_path(model, pair.signer), pair, insecure_trust_times=True)


# ------------------------------------------------------------------------------------------------ what is signed


@pytest.mark.usefixtures("patient")
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"hash": "sha256"},
        {"hash": "blake3"},
        {"hash": "blake2b"},
        {"shard_bytes": 10},
        {"name": "n", "version": "1", "hash": "blake3", "shard_bytes": 7},
    ],
)
@pytest.mark.parametrize("trust_times", [True, False])
def test_an_update_signs_what_signing_anew_would_and_names_its_parent(
    model: Path, pair: KeyPair, options: dict[str, Any], *, trust_times: bool
) -> None:
    old = sentry.sign_path(model, pair.signer, **options)
    for _ in range(3):
        write_files(model, {"new.bin": os.urandom(20), "config.json": os.urandom(9)})
        result = update(model, old, pair, insecure_trust_times=trust_times)
        expected = build_manifest(model, **options)
        assert replace(result.manifest, parent=None) == expected
        assert decode_manifest(result.bundle.envelope.payload) == result.manifest
        verification = sentry.verify_path(model, result.bundle, pair.trust)
        assert verification.manifest.parent == result.parent == sha256(old.envelope.payload).hexdigest()
        assert verification.payload_sha256 == result.payload_sha256
        old = result.bundle


def test_an_update_tells_what_was_added_removed_and_changed(model: Path, pair: KeyPair) -> None:
    old = sentry.sign_path(model, pair.signer)
    (model / "sub" / "vocab.txt").unlink()
    write_files(model, {"config.json": b"{}", "a/new": b"x", ".git/x": b""})
    result = update(model, old, pair)
    assert (result.added, result.removed, result.changed) == (("a/new",), ("sub/vocab.txt",), ("config.json",))
    assert (result.reused, result.not_covered) == ((), (".git/",))
    assert result.hashed_bytes == 3 + len(SMALL_MODEL["w.safetensors"])
    assert result.parent_signers == (pair.trust.identity,)


def test_a_model_that_did_not_change_gets_the_same_manifest_with_a_parent(model: Path, pair: KeyPair) -> None:
    result = update(model, sentry.sign_path(model, pair.signer), pair)
    assert (result.added, result.removed, result.changed) == ((), (), ())
    assert replace(result.manifest, parent=None) == build_manifest(model)


@pytest.mark.usefixtures("patient")
def test_a_single_file_is_updated(tmp_path: Path, pair: KeyPair) -> None:
    path = tmp_path / "w.bin"
    path.write_bytes(b"1")
    old = sentry.sign_path(path, pair.signer)
    path.write_bytes(b"22")
    result = update(path, old, pair, insecure_trust_times=True)
    assert (result.changed, result.hashed_bytes) == ((".",), 2)
    again = update(path, result.bundle, pair, insecure_trust_times=True)
    assert (again.reused, again.changed, again.hashed_bytes) == ((".",), (), 0)
    sentry.verify_path(path, again.bundle, pair.trust, hash="both")


def test_name_and_version_are_kept_or_replaced(model: Path, pair: KeyPair) -> None:
    old = sentry.sign_path(model, pair.signer, name="n", version="1")
    kept, changed = update(model, old, pair).manifest, update(model, old, pair, version="2").manifest
    assert (kept.artifact_name, kept.version) == ("n", "1")
    assert (changed.artifact_name, changed.version) == ("n", "2")


def test_ignored_paths_are_kept_and_more_may_be_ignored(model: Path, pair: KeyPair) -> None:
    write_files(model, {"logs/a": b"x", "cache/b": b"x"})
    old = sentry.sign_path(model, pair.signer, ignore=[model / "logs", model / "cache"])
    write_files(model, {"tmp/c": b"x"})
    result = update(model, old, pair, ignore=[model / "tmp"])
    assert result.not_covered == ("cache/", "logs/", "tmp/")
    assert {"logs", "cache", "tmp", ".git", "model.sig"} < set(result.manifest.ignore_paths)
    assert (result.added, result.removed) == ((), ())


def test_the_older_signature_may_be_of_somebody_else(model: Path, pair: KeyPair, attacker: KeyPair) -> None:
    old = sentry.sign_path(model, attacker.signer)
    result = sentry.update_path(model, old, pair.signer, attacker.trust)
    assert result.parent_signers == (attacker.trust.identity,)
    sentry.verify_path(model, result.bundle, pair.trust)


def test_an_older_signature_of_another_tool_is_completed(model: Path, pair: KeyPair) -> None:
    def edit(statement: Any) -> None:
        for resource in statement["predicate"]["resources"]:
            resource.pop("annotations")

    result = update(model, forge(pair, SMALL_MODEL, edit), pair, insecure_trust_times=True)
    assert replace(result.manifest, parent=None) == build_manifest(model, hash="sha256")
    assert result.changed == ()


def test_the_new_signature_is_written(model: Path, pair: KeyPair) -> None:
    sentry.sign_path(model, pair.signer).write(model / "model.sig")
    update(model, model / "model.sig", pair).write(model / "model.sig")
    assert sentry.verify_path(model, model / "model.sig", pair.trust).manifest.parent is not None


# ---------------------------------------------------------------------------------------------- what is refused


def test_an_older_signature_by_another_key_is_refused(model: Path, pair: KeyPair, attacker: KeyPair) -> None:
    with pytest.raises(SignatureError, match="the signature was made with another key"):
        update(model, sentry.sign_path(model, attacker.signer), pair)


def test_an_older_signature_that_was_changed_is_refused(model: Path, pair: KeyPair) -> None:
    old = sentry.sign_path(model, pair.signer)
    changed = replace(old, envelope=replace(old.envelope, payload=old.envelope.payload.replace(b"model", b"Model", 1)))
    with pytest.raises(SignatureError, match="does not verify"):
        update(model, changed, pair)


def test_an_older_signature_that_is_missing_or_none_is_refused(model: Path, pair: KeyPair) -> None:
    with pytest.raises(SignatureError, match="there is no signature"):
        update(model, model / "model.sig", pair)
    with pytest.raises(SignatureError, match="there is no signature"):
        update(model, [], pair)
    (model / "model.sig").write_bytes(b"{}")
    with pytest.raises(SignatureError, match="is malformed"):
        update(model, model / "model.sig", pair)


def test_trust_is_required_and_lies_outside_the_model(model: Path, pair: KeyPair) -> None:
    old = sentry.sign_path(model, pair.signer)
    with pytest.raises(TrustError, match="no trust was given"):
        sentry.update_path(model, old, pair.signer, None)  # type: ignore[arg-type]
    (model / "public.pem").write_bytes(pair.public.read_bytes())
    with pytest.raises(TrustError, match="lies inside the model"):
        sentry.update_path(model, old, pair.signer, KeyTrust.from_file(model / "public.pem"))


def test_a_statement_that_is_no_manifest_is_refused(model: Path, pair: KeyPair) -> None:
    statement = {**oms_reference.statement("model", SMALL_MODEL), "predicateType": "urn:other"}
    with pytest.raises(SignatureError, match="is not a model manifest"):
        update(model, sign_payload(pair, oms_reference.payload(statement)), pair)
    legacy = {**statement, "predicateType": "https://model_signing/Digests/v0.1"}
    with pytest.raises(SignatureError, match="is not a model manifest"):
        update(model, sign_payload(pair, oms_reference.payload(legacy)), pair)


def test_a_directory_and_a_file_are_not_each_others_updates(model: Path, pair: KeyPair) -> None:
    with pytest.raises(MismatchError, match="is for a single file, not for a directory"):
        update(model, sentry.sign_path(model / "config.json", pair.signer), pair)
    with pytest.raises(MismatchError, match=r"is not for a single file config\.json"):
        update(model / "config.json", sentry.sign_path(model, pair.signer), pair)


def test_a_signature_of_a_model_without_a_common_file_is_refused(
    model: Path, make_model: Callable[..., Path], pair: KeyPair
) -> None:
    other = make_model({"x": b"1", "sub/y": b"2"}, "other")
    with pytest.raises(RefusedError, match="no file in common with the older signature"):
        update(model, sentry.sign_path(other, pair.signer), pair)


def test_what_must_not_be_signed_must_not_be_signed_anew(model: Path, pair: KeyPair) -> None:
    old = sentry.sign_path(model, pair.signer)
    (model / "link").symlink_to("config.json")
    with pytest.raises(RefusedError, match="is a symbolic link"):
        update(model, old, pair)
    (model / "link").unlink()
    key = model / ".git" / "key.pem"
    write_files(model, {".git/key.pem": pair.private.read_bytes()})
    key.chmod(0o600)
    with pytest.raises(RefusedError, match="the private key lies inside the model"):
        sentry.update_path(model, old, KeySigner.from_file(key), pair.trust)


def test_an_empty_file_cannot_be_sharded_in_an_update(model: Path, pair: KeyPair) -> None:
    old = sentry.sign_path(model, pair.signer, shard_bytes=10)
    (model / "config.json").write_bytes(b"")
    with pytest.raises(RefusedError, match="is empty, and shards cannot list an empty file"):
        update(model, old, pair)


def test_a_signer_is_required(model: Path, pair: KeyPair) -> None:
    with pytest.raises(TypeError, match="signer is not a signer"):
        sentry.update_path(model, sentry.sign_path(model, pair.signer), pair.trust, pair.trust)  # type: ignore[arg-type]


@pytest.mark.usefixtures("patient")
@pytest.mark.parametrize("trust_times", [True, False])
@pytest.mark.parametrize("name", ["config.json", "big.bin", "new"])
def test_a_model_that_changes_meanwhile_is_refused(model: Path, pair: KeyPair, name: str, *, trust_times: bool) -> None:
    write_files(model, {"big.bin": bytes(2 * 1024 * 1024)})
    old = twice(model, pair).bundle
    write_files(model, {"big.bin": bytes(3 * 1024 * 1024)})
    act = on_first_block(lambda: write_files(model, {name: b"evil"}))
    # Whether it was read or not: a file that was taken over is looked at again as well.
    with pytest.raises(RefusedError, match=r"changed while it was (hashed|read)|became shorter"):
        update(model, old, pair, insecure_trust_times=trust_times, progress=act)
