# SPDX-License-Identifier: Apache-2.0
"""What every argument of `sign_path` and `verify_path` does, and what the evidence says."""

from __future__ import annotations

import hashlib
import json
import pickle
from collections.abc import Callable
from dataclasses import FrozenInstanceError, replace
from pathlib import Path
from typing import Any

import pytest
from blake3 import blake3
from support import SAFETENSORS, SMALL_MODEL, KeyPair, forge, write_files

import sentry
from sentry.errors import MismatchError, RefusedError, SignatureError, TrustError, UnavailableError
from sentry.formats.bundle import KeyMaterial
from sentry.formats.oms import decode_manifest

NBYTES = sum(map(len, SMALL_MODEL.values()))
CHOICES = {
    "sha256+blake3": (("blake3",), ("sha256",)),
    "sha256": (("sha256",), ()),
    "blake3": (("blake3",), ()),
    "blake2b": (("blake2b",), ()),
}


@pytest.mark.parametrize("engine", ["auto", "cpu"])
@pytest.mark.parametrize("choice", CHOICES)
def test_the_evidence_names_only_what_was_recomputed(pair: KeyPair, model: Path, choice: str, engine: str) -> None:
    bundle = sentry.sign_path(model, pair.signer, hash=choice, engine=engine)
    evidence = sentry.verify_path(model, bundle, pair.trust, engine=engine)
    assert (evidence.hashes, evidence.unchecked_hashes) == CHOICES[choice]
    assert (evidence.nbytes, evidence.not_covered, set(evidence.files)) == (NBYTES, (), set(SMALL_MODEL))
    assert evidence.signers == (pair.trust.identity,)
    assert evidence.payload_sha256 == hashlib.sha256(bundle.envelope.payload).hexdigest()
    assert (evidence.path, evidence.engine, evidence.seconds > 0) == (model, "cpu", True)
    assert json.loads(json.dumps(evidence.to_json()))["hashes"] == list(evidence.hashes)


def test_the_evidence_gives_digests_that_were_recomputed_and_no_others(pair: KeyPair, model: Path) -> None:
    bundle = sentry.sign_path(model, pair.signer)
    evidence = sentry.verify_path(model, bundle, pair.trust)
    data = SMALL_MODEL["config.json"]
    assert evidence.digest("config.json") == evidence.digest("config.json", "blake3") == blake3(data).digest()
    for path, name in [("config.json", "sha256"), ("config.json", "blake2b"), ("missing", None)]:
        with pytest.raises(KeyError):
            evidence.digest(path, name)
    both = sentry.verify_path(model, bundle, pair.trust, hash="both")
    assert both.digest("config.json", "sha256") == hashlib.sha256(data).digest()
    sharded = sentry.verify_path(model, sentry.sign_path(model, pair.signer, shard_bytes=5), pair.trust)
    with pytest.raises(KeyError):
        sharded.digest("config.json")


def test_the_evidence_cannot_be_edited(pair: KeyPair, model: Path) -> None:
    evidence = sentry.verify_path(model, sentry.sign_path(model, pair.signer), pair.trust)
    with pytest.raises(FrozenInstanceError):
        evidence.hashes = ("sha256",)  # type: ignore[misc]


@pytest.mark.parametrize(
    ("signed", "asked", "recomputed"),
    [
        ("sha256+blake3", "sha256", ("sha256",)),
        ("sha256+blake3", "blake3", ("blake3",)),
        ("sha256+blake3", "both", ("sha256", "blake3")),
        ("sha256+blake3", "sha256+blake3", ("sha256", "blake3")),
        ("blake2b", "blake2b", ("blake2b",)),
    ],
)
def test_the_hash_that_was_asked_for_is_recomputed(
    pair: KeyPair, model: Path, signed: str, asked: str, recomputed: tuple[str, ...]
) -> None:
    bundle = sentry.sign_path(model, pair.signer, hash=signed)
    assert sentry.verify_path(model, bundle, pair.trust, hash=asked).hashes == recomputed


@pytest.mark.parametrize(
    ("signed", "asked", "lacking"),
    [
        ("sha256", "blake3", "blake3"),
        ("sha256", "both", "blake3"),
        ("blake3", "both", "sha256"),
        ("blake3", "sha256", "sha256"),
        ("blake2b", "both", "sha256"),
        ("sha256+blake3", "blake2b", "blake2b"),
    ],
)
def test_a_hash_that_was_not_signed_is_never_replaced_by_another(
    pair: KeyPair, model: Path, signed: str, asked: str, lacking: str
) -> None:
    bundle = sentry.sign_path(model, pair.signer, hash=signed)
    with pytest.raises(SignatureError, match=f"the signature has no {lacking} digests"):
        sentry.verify_path(model, bundle, pair.trust, hash=asked)


@pytest.mark.parametrize(
    ("call", "reason"),
    [
        (lambda m, p, _: sentry.sign_path(m, p.signer, hash="md5"), "there is no hash 'md5' to sign with"),
        (lambda m, p, _: sentry.sign_path(m, p.signer, hash="both"), "there is no hash 'both' to sign with"),
        (lambda m, p, _: sentry.sign_path(m, p.signer, shard_bytes=0), "shard_bytes must be positive"),
        (lambda m, p, _: sentry.sign_path(m, p.signer, shard_bytes=-1), "shard_bytes must be positive"),
        (lambda m, p, _: sentry.sign_path(m, p.signer, engine="gpu"), "there is no engine 'gpu'"),
        (lambda m, p, _: sentry.sign_path(m, p.signer, ignore=[m.parent / "x"]), "lies outside the model"),
        (lambda m, p, _: sentry.sign_path(m, p.signer, ignore=[m]), "is the model"),
        (lambda m, p, b: sentry.verify_path(m, b, p.trust, hash="md5"), "there is no hash 'md5' to verify"),
        (lambda m, p, b: sentry.verify_path(m, b, p.trust, engine="gpu"), "there is no engine 'gpu'"),
        (lambda m, p, b: sentry.verify_path(m, b, p.trust, ignore=[m / ".."]), "lies outside the model"),
        (lambda m, p, b: sentry.verify_path(m, b, p.trust, ignore=[m]), "is the model"),
    ],
)
def test_an_argument_without_a_meaning_is_a_value_error(
    pair: KeyPair, model: Path, call: Callable[..., object], reason: str
) -> None:
    with pytest.raises(ValueError, match=reason):
        call(model, pair, sentry.sign_path(model, pair.signer))


@pytest.mark.parametrize("name", ["model.bin", "w.safetensors"])
def test_a_single_file_is_signed_under_the_name_that_other_tools_verify(
    pair: KeyPair, tmp_path: Path, name: str
) -> None:
    path = write_files(tmp_path, {name: SAFETENSORS}) / name
    bundle = sentry.sign_path(path, pair.signer)
    manifest = decode_manifest(bundle.envelope.payload)
    assert [resource.path for resource in manifest.resources] == ["."]
    assert (manifest.subject, manifest.ignore_paths) == (name, ())
    header_end = 8 + int.from_bytes(SAFETENSORS[:8], "little")
    header = hashlib.sha256(SAFETENSORS[:header_end]).digest() if name.endswith(".safetensors") else None
    assert manifest.resources[0].header_sha256 == header
    bundle.write(f"{path}.sig")
    assert sentry.verify_path(path, f"{path}.sig", pair.trust).files == (".",)
    path.write_bytes(SAFETENSORS[:-1] + b"X")
    with pytest.raises(MismatchError, match="bytes differ"):
        sentry.verify_path(path, f"{path}.sig", pair.trust)


def test_a_single_file_under_its_own_name_verifies_and_under_another_does_not(pair: KeyPair, tmp_path: Path) -> None:
    write_files(tmp_path, {"a.bin": b"x", "b.bin": b"x"})
    bundle = forge(pair, {"a.bin": b"x"}, ignore_paths=())
    sentry.verify_path(tmp_path / "a.bin", bundle, pair.trust)
    with pytest.raises(MismatchError, match=r"the signature is not for a single file b\.bin"):
        sentry.verify_path(tmp_path / "b.bin", bundle, pair.trust)


def test_a_single_file_in_shards_is_verified(pair: KeyPair, tmp_path: Path) -> None:
    path = write_files(tmp_path, {"a.bin": b"0123456789"}) / "a.bin"
    bundle = sentry.sign_path(path, pair.signer, shard_bytes=4)
    names = [resource.name for resource in decode_manifest(bundle.envelope.payload).resources]
    assert names == [".:0:4", ".:4:8", ".:8:10"]
    sentry.verify_path(path, bundle, pair.trust)


@pytest.mark.parametrize("shard_bytes", [1, 4, 10, 11, 2**62])
@pytest.mark.parametrize("change", [b"012345678X", b"0123456789X", b"012345678", b"X123456789", b""])
def test_shards_are_verified_to_the_last_byte(
    pair: KeyPair, make_model: Callable[..., Path], shard_bytes: int, change: bytes
) -> None:
    model = make_model({"a:1:2": b"0123456789", "b": b"x"})
    bundle = sentry.sign_path(model, pair.signer, shard_bytes=shard_bytes)
    assert sentry.verify_path(model, bundle, pair.trust, hash="both").nbytes == 11
    (model / "a:1:2").write_bytes(change)
    with pytest.raises(MismatchError, match="differ"):
        sentry.verify_path(model, bundle, pair.trust)


def test_an_empty_file_is_not_signed_in_shards(pair: KeyPair, make_model: Callable[..., Path]) -> None:
    with pytest.raises(RefusedError, match="'b' is empty, and shards cannot list an empty file"):
        sentry.sign_path(make_model({"a": b"x", "b": b""}), pair.signer, shard_bytes=4)


def test_ignored_paths_are_recorded_and_reported_as_not_covered(
    pair: KeyPair, model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_files(model, {".git/HEAD": b"x", "logs/a": b"x", "note": b"x"})
    monkeypatch.chdir(model.parent)
    bundle = sentry.sign_path(model, pair.signer, ignore=["model/logs", model / "note"])
    manifest = decode_manifest(bundle.envelope.payload)
    defaults = [".git", ".gitattributes", ".github", ".gitignore", "model.sig"]
    assert manifest.ignore_paths == tuple(sorted([*defaults, "logs", "note"]))
    assert set(manifest.by_path()) == set(SMALL_MODEL)
    write_files(model, {"logs/b/c": b"new"})
    assert sentry.verify_path(model, bundle, pair.trust).not_covered == (".git/", "logs/", "note")


def test_an_ignored_path_that_does_not_exist_is_recorded_all_the_same(pair: KeyPair, model: Path) -> None:
    bundle = sentry.sign_path(model, pair.signer, ignore=[model / "later"])
    write_files(model, {"later": b"x"})
    assert sentry.verify_path(model, bundle, pair.trust).not_covered == ("later",)


def test_the_verifier_s_own_ignored_paths_are_reported_as_not_covered(pair: KeyPair, model: Path) -> None:
    bundle = sentry.sign_path(model, pair.signer)
    write_files(model, {"extra/a": b"x"})
    with pytest.raises(MismatchError, match="not signed: extra/a") as caught:
        sentry.verify_path(model, bundle, pair.trust)
    assert caught.value.unexpected == ("extra/a",)
    assert sentry.verify_path(model, bundle, pair.trust, ignore=[model / "extra"]).not_covered == ("extra/",)


def test_unsigned_files_are_accepted_only_when_asked_and_reported(pair: KeyPair, model: Path) -> None:
    bundle = sentry.sign_path(model, pair.signer)
    write_files(model, {"z": b"x", "extra/a": b"x"})
    (model / "link").symlink_to("z")
    with pytest.raises(MismatchError, match=r"not signed: extra/a, link \(a symbolic link\), z"):
        sentry.verify_path(model, bundle, pair.trust)
    evidence = sentry.verify_path(model, bundle, pair.trust, ignore_unsigned=True)
    assert evidence.not_covered == ("extra/a", "link", "z")


def test_name_and_version_are_signed_and_shown(pair: KeyPair, model: Path) -> None:
    bundle = sentry.sign_path(model, pair.signer, name="näme", version="1.0")
    evidence = sentry.verify_path(model, bundle, pair.trust)
    assert (evidence.manifest.artifact_name, evidence.manifest.version) == ("näme", "1.0")
    assert (evidence.to_json()["name"], evidence.to_json()["version"]) == ("näme", "1.0")
    bare = sentry.verify_path(model, sentry.sign_path(model, pair.signer), pair.trust)
    assert (bare.manifest.artifact_name, bare.manifest.version) == (None, None)


def test_every_one_of_several_signatures_must_verify(pair: KeyPair, attacker: KeyPair, model: Path) -> None:
    first, second = sentry.sign_path(model, pair.signer), sentry.sign_path(model, pair.signer)
    assert first.envelope.signature != second.envelope.signature
    first.write(model / "model.sig")
    evidence = sentry.verify_path(model, [model / "model.sig", second], pair.trust)
    assert evidence.signers == (pair.trust.identity,) * 2
    other = attacker.signer.sign(first.envelope.payload)
    for signatures in ([first, other], [other, first], (first, second, other)):
        with pytest.raises(SignatureError, match="the signature was made with another key"):
            sentry.verify_path(model, signatures, pair.trust)


@pytest.mark.parametrize("other", [{"version": "2"}, {"hash": "sha256"}, {"shard_bytes": 5}])
def test_several_signatures_are_over_one_payload(pair: KeyPair, model: Path, other: dict[str, Any]) -> None:
    signatures = [sentry.sign_path(model, pair.signer), sentry.sign_path(model, pair.signer, **other)]
    with pytest.raises(SignatureError, match="the signatures are not over the same payload"):
        sentry.verify_path(model, signatures, pair.trust)


@pytest.mark.parametrize("nothing", [[], ()])
def test_no_signature_is_a_signature_error(pair: KeyPair, model: Path, nothing: Any) -> None:
    with pytest.raises(SignatureError, match="there is no signature"):
        sentry.verify_path(model, nothing, pair.trust)


def test_a_signature_file_anywhere_in_the_model_is_no_part_of_it(pair: KeyPair, model: Path) -> None:
    bundle = sentry.sign_path(model, pair.signer)
    bundle.write(model / "sub" / "own.sig")
    assert sentry.verify_path(model, model / "sub" / "own.sig", pair.trust).not_covered == ()
    with pytest.raises(MismatchError, match=r"not signed: sub/own\.sig"):
        sentry.verify_path(model, bundle, pair.trust)


def test_a_signature_file_that_was_not_the_one_checked_is_not_covered(pair: KeyPair, model: Path) -> None:
    (model / "model.sig").write_text("anything")
    bundle = sentry.sign_path(model, pair.signer)
    assert sentry.verify_path(model, bundle, pair.trust).not_covered == ("model.sig",)


@pytest.mark.parametrize("trust", [None, "public.pem", Path("public.pem"), True, b"", object(), "signer"])
def test_what_is_no_trust_is_refused(pair: KeyPair, model: Path, trust: Any) -> None:
    bundle = sentry.sign_path(model, pair.signer)
    given: Any = pair.signer if trust == "signer" else trust
    with pytest.raises(TrustError, match="no trust was given") as caught:
        sentry.verify_path(model, bundle, given)
    assert caught.value.hint is not None


@pytest.mark.parametrize("signer", [None, "private.pem", object(), "trust"])
def test_what_is_no_signer_is_refused(pair: KeyPair, model: Path, signer: Any) -> None:
    given: Any = pair.trust if signer == "trust" else signer
    with pytest.raises(TypeError, match="signer is not a signer"):
        sentry.sign_path(model, given)


def test_a_single_file_that_changed_is_named_by_its_name(pair: KeyPair, tmp_path: Path) -> None:
    (tmp_path / "weights.bin").write_bytes(b"good")
    bundle = sentry.sign_path(tmp_path / "weights.bin", pair.signer)
    (tmp_path / "weights.bin").write_bytes(b"evil")
    with pytest.raises(MismatchError, match=r"changed: weights\.bin \(bytes differ\)"):
        sentry.verify_path(tmp_path / "weights.bin", bundle, pair.trust)


def test_what_cannot_be_read_is_unavailable(pair: KeyPair, model: Path, tmp_path: Path) -> None:
    bundle = sentry.sign_path(model, pair.signer)
    with pytest.raises(UnavailableError, match="cannot read"):
        sentry.verify_path(tmp_path / "missing", bundle, pair.trust)
    with pytest.raises(UnavailableError, match="cannot read"):
        sentry.sign_path(tmp_path / "missing", pair.signer)
    with pytest.raises(UnavailableError, match="cannot write the signature"):
        bundle.write(tmp_path / "missing" / "sig")
    assert not (tmp_path / "missing").exists()


def test_an_unauthenticated_hint_may_be_absent(pair: KeyPair, model: Path) -> None:
    bundle = replace(sentry.sign_path(model, pair.signer), material=KeyMaterial(""))
    assert sentry.verify_path(model, bundle, pair.trust).signers == (pair.trust.identity,)


@pytest.mark.parametrize("name", [name for name in sentry.__all__ if name.endswith("Error")])
def test_every_error_survives_the_trip_out_of_a_process(name: str) -> None:
    error = getattr(sentry, name)("message", hint="hint")
    copy = pickle.loads(pickle.dumps(error))  # noqa: S301  (made here)
    assert (type(copy), str(copy), copy.hint) == (type(error), "message", "hint")
    assert isinstance(error, sentry.SentryError)
