# SPDX-License-Identifier: Apache-2.0
"""Both directions with the standard's reference tool: what we sign it verifies, and what it signs we verify.

Its known limits are asserted as what they are, so that a newer release that lifts one is noticed.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

from sentry import MismatchError, SignatureError, sign_path, update_path, verify_path
from sentry.formats.manifest import GIT_PATHS

CURVES = ("ecdsa-p256", "ecdsa-p384", "ecdsa-p521")
FILES = {"weights.bin", "a/b", "a.b", "a-b", "empty", ".hidden", "n\u00e4me \u4e2d\u6587 \U0001f600"}
# The hash that we sign with, and what the peer has to be told to verify it (None: it finds out by itself).
OURS = {"sha256+blake3": None, "sha256": None, "blake3": None, "blake2b": "blake2b"}
CHANGES: dict[str, Callable[[Path], object]] = {
    "a byte": lambda model: (model / "weights.bin").write_bytes(bytes(4096)),
    "a removal": lambda model: (model / "a.b").unlink(),
    "an addition": lambda model: (model / "more").touch(),
    "a rename": lambda model: (model / "a.b").rename(model / "a.c"),
    "a swap": lambda model: [
        (model / "a.b").rename(model / "x"),
        (model / "a-b").rename(model / "a.b"),
        (model / "x").rename(model / "a-b"),
    ],
    "a link": lambda model: (model / "link").symlink_to("a.b"),
}


def sign(model: Path, key: Any, **options: Any) -> Path:
    """Sign with our API, and return where the signature is: inside the model."""
    signature = model / "model.sig" if model.is_dir() else model.with_name(model.name + ".sig")
    sign_path(model, key.signer, **options).write(signature)
    return signature


# ------------------------------------------------------------------------------------------------- its command line


@pytest.mark.parametrize("algorithm", CURVES)
def test_its_command_line_verifies_our_default_bundle(
    peer_command: Any, model: Path, keys: Mapping[str, Any], algorithm: str
) -> None:
    signature = sign(model, keys[algorithm])
    arguments = ("verify", "key", model, "--signature", signature, "--public_key", keys[algorithm].public)
    done = peer_command(*arguments)
    assert (done.returncode, done.stdout.strip()) == (0, "Verification succeeded"), done.stderr
    (model / "weights.bin").write_bytes(bytes(4096))
    done = peer_command(*arguments)
    assert done.returncode == 1
    assert "Hash mismatch for 'weights.bin'" in done.stderr


@pytest.mark.parametrize("algorithm", CURVES)
def test_we_verify_what_its_command_line_signs(
    peer_command: Any, model: Path, keys: Mapping[str, Any], algorithm: str
) -> None:
    signature = model / "model.sig"
    arguments = ("sign", "key", model, "--signature", signature, "--private_key", keys[algorithm].private)
    done = peer_command(*arguments, "--ignore-paths", model / "a")
    assert done.returncode == 0, done.stderr
    verification = verify_path(model, signature, keys[algorithm].trust)
    assert set(verification.files) == FILES - {"a/b"}
    assert verification.hashes == ("sha256",)
    assert verification.signers == (keys[algorithm].signer.identity,)
    assert verification.not_covered == ("a/",)
    assert set(verification.manifest.ignore_paths) == {*GIT_PATHS, "a", "model.sig"}


def test_its_command_line_and_ours_verify_a_single_file(peer_command: Any, model: Path, key: Any) -> None:
    file, signature = model / "weights.bin", sign(model / "weights.bin", key)
    done = peer_command("verify", "key", file, "--signature", signature, "--public_key", key.public)
    assert done.returncode == 0, done.stderr
    done = peer_command("sign", "key", file, "--signature", signature, "--private_key", key.private)
    assert done.returncode == 0, done.stderr
    assert verify_path(file, signature, key.trust).files == (".",)


def test_its_command_line_can_ignore_what_we_did_not_sign(peer_command: Any, model: Path, key: Any) -> None:
    signature = sign(model, key)
    (model / "more").touch()
    arguments = ("verify", "key", model, "--signature", signature, "--public_key", key.public)
    refused, accepted = peer_command(*arguments), peer_command(*arguments, "--ignore_unsigned_files")
    assert refused.returncode == 1
    assert "Extra files found in model 'model': more" in refused.stderr
    assert accepted.returncode == 0, accepted.stderr


@pytest.mark.parametrize("choice", ["blake3", "blake2b"])
def test_its_command_line_knows_no_hash_but_sha256(peer_command: Any, model: Path, key: Any, choice: str) -> None:
    signature = sign(model, key, hash=choice)
    done = peer_command("verify", "key", model, "--signature", signature, "--public_key", key.public)
    assert done.returncode == 1
    assert "Hash mismatch" in done.stderr


def test_its_command_line_verifies_an_updated_signature(
    peer_command: Any, model: Path, keys: Mapping[str, Any]
) -> None:
    key = keys["ecdsa-p256"]
    old = sign(model, key)
    (model / "weights.bin").write_bytes(bytes(4096))
    update_path(model, old, key.signer, key.trust).write(old)
    done = peer_command("verify", "key", model, "--signature", old, "--public_key", key.public)
    assert (done.returncode, done.stdout.strip()) == (0, "Verification succeeded"), done.stderr


# ----------------------------------------------------------------------------------------------------------- its API


@pytest.mark.parametrize("algorithm", CURVES)
@pytest.mark.parametrize("choice", OURS)
def test_its_api_verifies_what_we_sign(
    peer: Any, peer_error: Any, model: Path, keys: Mapping[str, Any], algorithm: str, choice: str
) -> None:
    signature = sign(model, keys[algorithm], hash=choice, ignore=[model / "a"], name="acme/net", version="1")
    options = {"hash": OURS[choice]}
    peer.verify(model, signature, keys[algorithm], **options)
    stranger = keys[CURVES[CURVES.index(algorithm) - 1]]
    with pytest.raises(peer_error, match="Key mismatch"):
        peer.verify(model, signature, stranger, **options)
    with pytest.raises(SignatureError, match="another key"):
        verify_path(model, signature, stranger.trust)


@pytest.mark.parametrize("algorithm", CURVES)
@pytest.mark.parametrize("hash_name", ["sha256", "blake2b", "blake3"])
def test_we_verify_what_its_api_signs(
    peer: Any, model: Path, keys: Mapping[str, Any], algorithm: str, hash_name: str
) -> None:
    signature = model.parent / "its.sig"
    peer.sign(model, signature, keys[algorithm], hash=hash_name, ignore=["a"])
    verification = verify_path(model, signature, keys[algorithm].trust)
    assert set(verification.files) == FILES - {"a/b"}
    assert verification.hashes == (hash_name,)
    assert verification.unchecked_hashes == ()
    assert verification.not_covered == ("a/",)
    assert verification.manifest.subject == "model"


def test_its_verifier_cannot_guess_blake2b(peer: Any, peer_error: Any, model: Path, key: Any) -> None:
    signature = sign(model, key, hash="blake2b")
    with pytest.raises(peer_error, match="Unsupported hashing method blake2b"):
        peer.verify(model, signature, key)


@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.parametrize("choice", ["sha256+blake3", "sha256", "blake3"])
def test_its_api_refuses_our_bundle_of_a_changed_model(
    peer: Any, peer_error: Any, model: Path, key: Any, choice: str, change: str
) -> None:
    signature = sign(model, key, hash=choice)
    CHANGES[change](model)
    with pytest.raises(peer_error, match=r"Signature mismatch|symlink"):
        peer.verify(model, signature, key)


@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.parametrize("hash_name", ["sha256", "blake2b", "blake3"])
def test_we_refuse_its_bundle_of_a_changed_model(peer: Any, model: Path, key: Any, hash_name: str, change: str) -> None:
    signature = model.parent / "its.sig"
    peer.sign(model, signature, key, hash=hash_name)
    verify_path(model, signature, key.trust)
    CHANGES[change](model)
    with pytest.raises(MismatchError, match="not what was signed"):
        verify_path(model, signature, key.trust)


def test_both_refuse_a_payload_of_which_one_byte_changed(peer: Any, peer_error: Any, model: Path, key: Any) -> None:
    for signature in (sign(model, key), model.parent / "its.sig"):
        if signature.parent != model:
            peer.sign(model, signature, key, hash="sha256", ignore=["model.sig"])
        text = signature.read_text()
        at = re.search('"payload": ?"', text)
        assert at is not None
        place = at.end() + 60
        signature.write_text(text[:place] + ("A" if text[place] != "A" else "B") + text[place + 1 :])
        with pytest.raises(peer_error, match="InvalidSignature"):
            peer.verify(model, signature, key)
        with pytest.raises(SignatureError, match="does not verify"):
            verify_path(model, signature, key.trust)


def test_we_both_ignore_unsigned_files_when_asked_to(peer: Any, peer_error: Any, model: Path, key: Any) -> None:
    ours, its = sign(model, key), model.parent / "its.sig"
    peer.sign(model, its, key, hash="sha256", ignore=["model.sig"])
    (model / "more").touch()
    with pytest.raises(peer_error, match="Extra files"):
        peer.verify(model, ours, key)
    peer.verify(model, ours, key, ignore_unsigned=True)
    with pytest.raises(MismatchError) as caught:
        verify_path(model, its, key.trust)
    assert caught.value.unexpected == ("more",)
    assert verify_path(model, its, key.trust, ignore_unsigned=True).not_covered == ("model.sig", "more")


def test_its_signature_that_ignores_everything_is_refused_by_us_alone(peer: Any, model: Path, key: Any) -> None:
    signature = model.parent / "its.sig"
    peer.sign(model, signature, key, hash="sha256", ignore=["."])
    peer.verify(model, signature, key)
    with pytest.raises(SignatureError, match=r"whole model|no resources"):
        verify_path(model, signature, key.trust)


# ------------------------------------------------------------------------------------------------------------ shards


@pytest.mark.parametrize("shard_bytes", [1, 5, 1000, 4096, 1_000_000])
@pytest.mark.parametrize("hash_name", ["sha256", "blake2b"])
def test_we_verify_its_shards(peer: Any, model: Path, key: Any, hash_name: str, shard_bytes: int) -> None:
    (model / "empty").unlink()
    signature = model.parent / "its.sig"
    peer.sign(model, signature, key, hash=hash_name, shard_bytes=shard_bytes)
    verification = verify_path(model, signature, key.trust)
    assert verification.manifest.shard_bytes == shard_bytes
    assert set(verification.files) == FILES - {"empty"}
    assert verification.hashes == (hash_name,)
    for change in ("a byte", "a removal", "an addition"):
        CHANGES[change](model)
        with pytest.raises(MismatchError):
            verify_path(model, signature, key.trust)


def test_its_shards_say_nothing_about_an_empty_file(peer: Any, model: Path, key: Any) -> None:
    signature = model.parent / "its.sig"
    peer.sign(model, signature, key, hash="sha256", shard_bytes=1000)
    with pytest.raises(MismatchError) as caught:
        verify_path(model, signature, key.trust)
    assert caught.value.unexpected == ("empty",)
    assert verify_path(model, signature, key.trust, ignore_unsigned=True).not_covered == ("empty",)


def test_its_verifier_cannot_guess_its_own_shards(peer: Any, peer_error: Any, model: Path, key: Any) -> None:
    signature = model.parent / "its.sig"
    peer.sign(model, signature, key, hash="sha256", shard_bytes=1000)
    with pytest.raises(peer_error, match="'float' object cannot be interpreted as an integer"):
        peer.verify(model, signature, key)
    peer.verify(model, signature, key, hash="sha256", shard_bytes=1000)


@pytest.mark.parametrize("options", [{}, {"hash": "sha256", "shard_bytes": 1000}])
def test_its_verifier_refuses_the_standards_spelling_of_shards(
    peer: Any, peer_error: Any, model: Path, key: Any, options: dict[str, object]
) -> None:
    # The standard's schema knows `sha256`; the peer compares with its own `sha256-sharded-1000`.
    (model / "empty").unlink()
    signature = sign(model, key, hash="sha256", shard_bytes=1000)
    with pytest.raises(peer_error, match="Actual 'Digest\\(algorithm='sha256-sharded-1000'"):
        peer.verify(model, signature, key, **options)
    assert verify_path(model, signature, key.trust).manifest.shard_bytes == 1000


def test_its_blake3_has_no_shards(peer: Any, peer_error: Any, model: Path, key: Any, manifest_of: Any) -> None:
    (model / "empty").unlink()
    its = peer.sign(model, model.parent / "its.sig", key, hash="blake3", shard_bytes=1000)
    assert manifest_of(its).shard_bytes is None
    signature = sign(model, key, hash="blake3", shard_bytes=1000)
    with pytest.raises(peer_error, match="Missing files"):
        peer.verify(model, signature, key)
    assert verify_path(model, signature, key.trust).hashes == ("blake3",)
