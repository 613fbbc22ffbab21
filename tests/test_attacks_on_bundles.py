# SPDX-License-Identifier: Apache-2.0
"""Attacks by whoever can write the signature file and everything else in the model's directory."""

from __future__ import annotations

import hashlib
import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
from reference import oms_reference
from support import SAFETENSORS, SMALL_MODEL, Edit, KeyPair, sign_payload

import sentry
from sentry.errors import FormatError, MismatchError, SignatureError, TrustError
from sentry.formats.bundle import KeyMaterial
from sentry.formats.oms import LEGACY_PREDICATE_TYPE

EVIL = b'{"layers": 6}'


@pytest.mark.parametrize("spot", ["in it", "below it", "linked into it", "linked from it", "through a linked folder"])
def test_a_directory_that_was_rewritten_coherently_is_refused_however_its_own_key_is_named(
    attacker: KeyPair, pair: KeyPair, model: Path, tmp_path: Path, spot: str
) -> None:
    """The attacker replaces the model, its signature, and the public key that is published beside the weights."""
    (model / "config.json").write_bytes(EVIL)
    shutil.copy(attacker.public, model / "public.pem")
    shutil.copy(attacker.public, model / "sub" / "public.pem")
    (tmp_path / "link.pem").symlink_to(model / "public.pem")
    (tmp_path / "folder").symlink_to(model)
    bundle = sentry.sign_path(model, attacker.signer)
    bundle.write(model / "model.sig")
    key = {
        "in it": model / "public.pem",
        "below it": model / "sub" / ".." / "sub" / "public.pem",
        "linked into it": tmp_path / "link.pem",
        "linked from it": model / "key.pem",
        "through a linked folder": tmp_path / "folder" / "public.pem",
    }[spot]
    if spot == "linked from it":
        key.symlink_to(attacker.public)
    with pytest.raises(TrustError, match="lies inside the model that it should vouch for"):
        sentry.verify_path(model, model / "model.sig", sentry.KeyTrust.from_file(key))
    with pytest.raises(SignatureError, match="the signature was made with another key"):
        sentry.verify_path(model, model / "model.sig", pair.trust)


@pytest.mark.parametrize("hint", ["prefix", "capitals", "padded", "attacker"])
def test_a_key_is_never_matched_by_part_of_its_name(pair: KeyPair, model: Path, hint: str) -> None:
    """The bundle names something like the trusted key."""
    own = pair.trust.identity.name
    hints = {"prefix": own[:32], "capitals": own.upper(), "padded": own + " ", "attacker": "00" * 32}
    bundle = replace(sentry.sign_path(model, pair.signer), material=KeyMaterial(hints[hint]))
    with pytest.raises(SignatureError, match="the signature was made with another key"):
        sentry.verify_path(model, bundle, pair.trust)


def test_the_attacker_s_signature_under_the_trusted_key_s_name_is_refused(
    pair: KeyPair, attacker: KeyPair, model: Path
) -> None:
    """The hint, which nobody signs, names the trusted key."""
    bundle = replace(sentry.sign_path(model, attacker.signer), material=KeyMaterial(pair.trust.identity.name))
    with pytest.raises(SignatureError, match="the signature does not verify under this key"):
        sentry.verify_path(model, bundle, pair.trust)


@pytest.mark.parametrize(
    ("edit", "reason"),
    [
        (lambda b: b["verificationMaterial"].update(tlogEntries=[{"logIndex": "1"}]), "has log entries"),
        (lambda b: b["dsseEnvelope"].update(payloadType="text/plain"), "has 'payloadType'"),
        (lambda b: b["dsseEnvelope"]["signatures"].append(b["dsseEnvelope"]["signatures"][0]), "has 2 signatures"),
        (lambda b: b["dsseEnvelope"]["signatures"].clear(), "has 0 signatures"),
        (lambda b: b.update(messageSignature={}), "has an unknown field"),
        (lambda b: b["verificationMaterial"].update(certificate={"rawBytes": "AA=="}), "has 2 signers"),
        (lambda b: b.update(mediaType="application/json"), "has 'mediaType'"),
    ],
)
def test_a_signature_file_that_offers_more_than_can_be_checked_is_refused(
    pair: KeyPair, model: Path, edit: Edit, reason: str
) -> None:
    """The attacker adds material that a careless verifier would read instead, or not at all."""
    value = json.loads(sentry.sign_path(model, pair.signer).encode())
    edit(value)
    (model / "model.sig").write_text(json.dumps(value))
    with pytest.raises(SignatureError, match=f"is malformed: .*{reason}"):
        sentry.verify_path(model, model / "model.sig", pair.trust)


def test_one_signature_has_one_spelling(pair: KeyPair, model: Path) -> None:
    """The attacker writes the same signature differently, to get past a list of revoked signature files."""
    data = sentry.sign_path(model, pair.signer).encode()
    signature = json.loads(data)["dsseEnvelope"]["signatures"][0]["sig"]
    assert data.count(signature.encode()) == 1
    for other in (signature + "=", signature + signature[:4] + "\\n" + signature[4:], signature[:-1] + "-"):
        with pytest.raises(FormatError, match=r"'sig' is not (standard|canonical) base64"):
            sentry.Bundle.decode(data.replace(signature.encode(), other.encode()))


@pytest.mark.parametrize("kind", ["absent", "empty", "directory", "truncated", "link to nothing"])
def test_taking_the_signature_away_is_never_an_acceptance(pair: KeyPair, model: Path, kind: str) -> None:
    """The attacker deletes or empties the signature."""
    path = model / "model.sig"
    if kind == "directory":
        path.mkdir()
    elif kind == "link to nothing":
        path.symlink_to("nothing")
    elif kind != "absent":
        path.write_bytes(b"" if kind == "empty" else sentry.sign_path(model, pair.signer).encode()[:-1])
    with pytest.raises(SignatureError if kind in {"absent", "empty", "truncated"} else sentry.SentryError):
        sentry.verify_path(model, path, pair.trust)


def test_the_oldest_format_is_accepted_only_when_asked_for_by_name(pair: KeyPair, model: Path) -> None:
    """The attacker presents a statement of the format that binds least."""
    subjects = [
        {"name": name, "digest": {"sha256": hashlib.sha256(data).hexdigest()}} for name, data in SMALL_MODEL.items()
    ]
    statement = {"_type": oms_reference.STATEMENT_TYPE, "subject": subjects, "predicateType": LEGACY_PREDICATE_TYPE}
    bundle = sign_payload(pair, oms_reference.payload(statement))
    with pytest.raises(SignatureError, match="predicate type"):
        sentry.verify_path(model, bundle, pair.trust)
    evidence = sentry.verify_path(model, bundle, pair.trust, insecure_legacy=True)
    assert (evidence.manifest.legacy, evidence.hashes) == (True, ("sha256",))
    (model / "w.safetensors").write_bytes(SAFETENSORS[:-1] + b"X")
    with pytest.raises(MismatchError, match="bytes differ"):
        sentry.verify_path(model, bundle, pair.trust, insecure_legacy=True)
