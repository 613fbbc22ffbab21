# SPDX-License-Identifier: Apache-2.0
"""The bundle in its three forms: what is accepted, what is refused, and the specification's own vectors."""

from __future__ import annotations

import base64
import json
import os
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jsonschema
import pytest

import sentry
from sentry.errors import FormatError
from sentry.formats import bundle as bundles
from sentry.formats.bundle import (
    MEDIA_TYPE,
    BundleContent,
    CertificateMaterial,
    KeyMaterial,
    SigstoreMaterial,
)
from sentry.formats.dsse import IN_TOTO_PAYLOAD_TYPE, Envelope
from sentry.formats.oms import decode_manifest

ENVELOPE = {
    "payload": base64.b64encode(b"payload").decode(),
    "payloadType": IN_TOTO_PAYLOAD_TYPE,
    "signatures": [{"sig": base64.b64encode(b"signature").decode(), "keyid": ""}],
}
CERTIFICATE = {"rawBytes": base64.b64encode(b"certificate").decode()}
KEY_FORM: dict[str, Any] = {"publicKey": {"hint": "ab"}, "tlogEntries": []}
CHAIN_FORM: dict[str, Any] = {"x509CertificateChain": {"certificates": [CERTIFICATE] * 2}, "tlogEntries": []}
KEYLESS_FORM: dict[str, Any] = {
    "certificate": CERTIFICATE,
    "tlogEntries": [{"logIndex": "1"}],
    "timestampVerificationData": {"rfc3161Timestamps": []},
}


def without(form: dict[str, Any], name: str) -> dict[str, Any]:
    return {key: value for key, value in form.items() if key != name}


def bundle(material: Any, **changes: Any) -> bytes:
    value = {"mediaType": MEDIA_TYPE, "verificationMaterial": material, "dsseEnvelope": ENVELOPE, **changes}
    return json.dumps({name: field for name, field in value.items() if field is not ...}).encode()


@pytest.mark.parametrize(
    ("form", "material"),
    [
        (KEY_FORM, KeyMaterial("ab")),
        (without(KEY_FORM, "tlogEntries"), KeyMaterial("ab")),
        ({"publicKey": {}}, KeyMaterial("")),
        ({"publicKey": {"hint": None}}, KeyMaterial("")),
        ({"publicKey": {"rawBytes": "YWI="}}, KeyMaterial("", b"ab")),
        ({"publicKey": {"hint": "ab", "rawBytes": "YWI=", "keyDetails": "x"}}, KeyMaterial("ab", b"ab")),
        ({**KEY_FORM, "timestampVerificationData": {}}, KeyMaterial("ab")),
        (CHAIN_FORM, CertificateMaterial((b"certificate", b"certificate"))),
        (without(CHAIN_FORM, "tlogEntries"), CertificateMaterial((b"certificate", b"certificate"))),
        (
            KEYLESS_FORM,
            SigstoreMaterial(b"certificate", b'[{"logIndex":"1"}]', b'{"rfc3161Timestamps":[]}'),
        ),
    ],
)
def test_every_form_of_signer_is_read(form: Any, material: object) -> None:
    content = BundleContent.decode(bundle(form))
    assert content == BundleContent(material, Envelope(b"payload", b"signature"))  # type: ignore[arg-type]
    assert BundleContent.decode(content.encode()) == content


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "the bundle is not JSON"),
        (b"[]", "the bundle is not an object"),
        (bundle(KEY_FORM)[:-1], "the bundle is not JSON"),
        (bundle(KEY_FORM) + b"{}", "the bundle is not JSON"),
        (bundle(KEY_FORM)[:-1] + b',"mediaType":"x"}', "has a key twice"),
        (bundle(KEY_FORM, mediaType=...), "the bundle has no 'mediaType'"),
        (bundle(KEY_FORM, mediaType=MEDIA_TYPE.replace("v0.3", "v0.2")), "has 'mediaType'"),
        (bundle(KEY_FORM, mediaType="application/vnd.dev.sigstore.bundle+json;version=0.3"), "has 'mediaType'"),
        (bundle(KEY_FORM, extra={}), "the bundle has an unknown field 'extra'"),
        (bundle(...), "the bundle has no 'verificationMaterial'"),
        (bundle(KEY_FORM, dsseEnvelope=...), "the bundle has no 'dsseEnvelope'"),
        (bundle(KEY_FORM, messageSignature={}), "the bundle has an unknown field 'messageSignature'"),
        (bundle([]), "the verification material is not an object"),
        (bundle({"tlogEntries": []}), "has 0 signers, not one"),
        (bundle({**KEY_FORM, **CHAIN_FORM}), "has 2 signers, not one"),
        (bundle({**KEY_FORM, **KEYLESS_FORM}), "has 2 signers, not one"),
        (bundle({**KEY_FORM, "extra": 1}), "the verification material has an unknown field 'extra'"),
        (bundle({**KEY_FORM, "tlogEntries": None}), "has 'tlogEntries' that is not an array"),
        (bundle({**KEY_FORM, "tlogEntries": [{}]}), "has log entries, which nothing here could check"),
        (bundle({**CHAIN_FORM, "tlogEntries": [{}]}), "has log entries, which nothing here could check"),
        (bundle({**KEY_FORM, "timestampVerificationData": {"a": 1}}), "a key bundle has timestamps"),
        (bundle({"publicKey": "ab"}), "the public key is not an object"),
        (bundle({"publicKey": {"hint": 1}}), "has a 'hint' that is not a string"),
        (bundle({"publicKey": {"keyDetails": 1}}), "has 'keyDetails' that is not a string"),
        (bundle({"publicKey": {"rawBytes": "YWJ="}}), "'rawBytes' is not canonical base64"),
        (bundle({"publicKey": {"key": "x"}}), "the public key has an unknown field 'key'"),
        (bundle({"x509CertificateChain": []}), "the certificate chain is not an object"),
        (bundle({"x509CertificateChain": {"certificates": []}}), "the certificate chain is empty"),
        (bundle({"x509CertificateChain": {"certificates": [{"rawBytes": ""}]}}), "a certificate is empty"),
        (bundle({"x509CertificateChain": {"certificates": [{"der": ""}]}}), "a certificate has no 'rawBytes'"),
        (bundle({"x509CertificateChain": {"certificates": [CERTIFICATE], "x": 1}}), "chain has an unknown field 'x'"),
        (bundle(without(KEYLESS_FORM, "tlogEntries")), "a keyless bundle has no log entry"),
        (bundle({**KEYLESS_FORM, "tlogEntries": []}), "a keyless bundle has no log entry"),
        (bundle({**KEYLESS_FORM, "certificate": {**CERTIFICATE, "x": 1}}), "a certificate has an unknown field 'x'"),
    ],
)
def test_other_bundles_are_refused(data: bytes, reason: str) -> None:
    with pytest.raises(FormatError, match=reason):
        BundleContent.decode(data)


def test_an_oversized_bundle_is_refused_before_it_is_parsed(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    import sentry.bundle  # noqa: PLC0415

    monkeypatch.setattr(bundles, "MAX_BUNDLE_BYTES", 50)
    monkeypatch.setattr(sentry.bundle, "MAX_BUNDLE_BYTES", 50)
    (tmp_path / "sig").write_bytes(b"[" * 51)
    with pytest.raises(FormatError, match="the bundle is larger than 50 bytes"):
        BundleContent.decode(b"[" * 51)
    with pytest.raises(FormatError, match="is larger than 50 bytes"):
        sentry.Bundle.read(tmp_path / "sig")


def test_a_sparse_signature_file_is_refused_without_reading_it(tmp_path: Path) -> None:
    (tmp_path / "sig").touch()
    os.truncate(tmp_path / "sig", 10**13)
    tracemalloc.start()
    try:
        with pytest.raises(FormatError, match=f"is larger than {bundles.MAX_BUNDLE_BYTES} bytes"):
            sentry.Bundle.read(tmp_path / "sig")
        assert tracemalloc.get_traced_memory()[1] < 1_000_000
    finally:
        tracemalloc.stop()


def test_an_empty_signature_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "sig").touch()
    with pytest.raises(FormatError, match="the signature file is empty"):
        sentry.Bundle.read(tmp_path / "sig")


VECTORS = "oms/test-vectors/v1.0"


@pytest.mark.parametrize(("name", "kind"), [("key", KeyMaterial), ("certificate", CertificateMaterial)])
def test_the_specification_s_valid_bundles_are_read(shared_data: Any, name: str, kind: type) -> None:
    content = sentry.Bundle.read(shared_data(f"{VECTORS}/valid/{name}.bundle.json"))
    manifest = decode_manifest(content.envelope.payload)
    assert isinstance(content.material, kind)
    assert [resource.path for resource in manifest.resources] == ["signme-1", "signme-2"]


def test_the_specification_s_keyless_bundle_is_read_and_stays_opaque(shared_data: Any) -> None:
    content = sentry.Bundle.read(shared_data(f"{VECTORS}/valid/sigstore.bundle.json"))
    assert isinstance(content.material, SigstoreMaterial)
    assert BundleContent.decode(content.encode()).envelope == content.envelope


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("empty", "is empty"),
        ("missing-envelope", "has no 'dsseEnvelope'"),
        ("missing-tlog-entries", "a keyless bundle has no log entry"),
        ("missing-verification-material", "has no 'verificationMaterial'"),
    ],
)
def test_the_specification_s_invalid_bundles_are_refused(shared_data: Any, name: str, reason: str) -> None:
    with pytest.raises(FormatError, match=reason):
        sentry.Bundle.read(shared_data(f"{VECTORS}/invalid/{name}.bundle.json"))


def test_the_specification_s_invalid_payload_is_refused(shared_data: Any) -> None:
    content = sentry.Bundle.read(shared_data(f"{VECTORS}/invalid-payload/wrong-predicate.bundle.json"))
    with pytest.raises(FormatError, match="the statement's predicate type is 'https://example"):
        decode_manifest(content.envelope.payload)


@pytest.mark.parametrize("choice", ["sha256+blake3", "sha256", "blake3", "blake2b"])
@pytest.mark.parametrize("shard_bytes", [None, 5])
def test_what_is_signed_fits_the_specification_s_schemas(
    shared_data: Callable[[str], Path], pair: Any, model: Path, choice: str, shard_bytes: int | None
) -> None:
    bundle = sentry.sign_path(model, pair.signer, hash=choice, shard_bytes=shard_bytes, name="n", version="1")
    value = json.loads(bundle.encode())
    statement = json.loads(bundle.envelope.payload)
    documents = {
        "bundle": value,
        "envelope": value["dsseEnvelope"],
        "statement": statement,
        "predicate": statement["predicate"],
    }
    for name, document in documents.items():
        schema = json.loads(shared_data(f"oms/schemas/v1.0/{name}.schema.json").read_text())
        jsonschema.validate(document, without_references(schema))


def without_references(schema: Any) -> Any:
    """Drop references to the other documents, each of which is validated by itself; local ones stay."""
    if isinstance(schema, dict):
        if not str(schema.get("$ref", "#")).startswith("#"):
            return {}
        return {key: without_references(value) for key, value in schema.items() if key != "$id"}
    return [without_references(item) for item in schema] if isinstance(schema, list) else schema
