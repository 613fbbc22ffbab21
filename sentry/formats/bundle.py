# SPDX-License-Identifier: Apache-2.0
"""The Sigstore bundle v0.3 as OpenSSF Model Signing uses it: key, certificate and keyless forms.

Implements docs/format.md, "Bundle". Unknown fields are refused, so that every byte of a signature file either counts
or is white space. Not checked here: certificates and log entries, which stay opaque until `sentry.trust` reads them.
"""

from __future__ import annotations

import base64
from dataclasses import dataclass, field
from typing import Self

from sentry.errors import FormatError
from sentry.formats import strict_json
from sentry.formats.dsse import IN_TOTO_PAYLOAD_TYPE, Envelope, decode_envelope
from sentry.formats.strict_json import Reader

MEDIA_TYPE = "application/vnd.dev.sigstore.bundle.v0.3+json"
# A payload of the largest size in base64, and room for the rest.
MAX_BUNDLE_BYTES = 192 * 1024 * 1024
# Arrays, objects and commas: log entries and certificates take a few hundred, and base64 has none of them.
MAX_BUNDLE_TOKENS = 20_000


@dataclass(frozen=True)
class KeyMaterial:
    """Signed with a bare key. Neither field is signed: they help to say early that another key was used.

    Attributes:
        hint: Lower-case hex SHA-256 of the public key's PEM text; empty in bundles from before model-signing 1.1.
        raw_key: The public key as those older bundles carry it, if at all.
    """

    hint: str
    raw_key: bytes = b""


@dataclass(frozen=True)
class CertificateMaterial:
    """Signed with a certificate's key.

    Attributes:
        certificates: DER, leaf first.
        timestamps: The `timestampVerificationData` object as compact JSON, empty if absent.
    """

    certificates: tuple[bytes, ...] = field(repr=False)
    timestamps: bytes = field(default=b"", repr=False)


@dataclass(frozen=True)
class SigstoreMaterial:
    """Signed keyless, with a short-lived certificate and transparency-log entries.

    Attributes:
        certificate: DER.
        log_entries: The `tlogEntries` array as compact JSON.
        timestamps: The `timestampVerificationData` object as compact JSON, empty if absent.
    """

    certificate: bytes = field(repr=False)
    log_entries: bytes = field(repr=False)
    timestamps: bytes = field(default=b"", repr=False)


Material = KeyMaterial | CertificateMaterial | SigstoreMaterial


@dataclass(frozen=True)
class BundleContent:
    """What a signature file says: the envelope, and what is needed to find its signer."""

    material: Material
    envelope: Envelope

    def encode(self) -> bytes:
        """Serialise as a signature file."""
        return b"".join(self.encode_parts())

    def encode_parts(self) -> tuple[bytes, ...]:
        """Serialise as a signature file, in pieces, so that a large payload is not held once more."""
        material = strict_json.dumps(_material_to_json(self.material))
        signature = base64.b64encode(self.envelope.signature)
        return (
            b'{"mediaType":"%b","verificationMaterial":%b,' % (MEDIA_TYPE.encode(), material),
            b'"dsseEnvelope":{"payload":"',
            base64.b64encode(self.envelope.payload),
            b'","payloadType":"%b","signatures":[{"sig":"%b","keyid":""}]}}'
            % (IN_TOTO_PAYLOAD_TYPE.encode(), signature),
        )

    @classmethod
    def decode(cls, data: bytes) -> Self:
        """Read a signature file. Nothing is verified.

        Raises:
            FormatError: For anything that is not exactly such a bundle.
        """
        # Nothing is signed yet: a file of brackets would take a hundred times its size in memory.
        if sum(map(data.count, (b"[", b"{", b","))) > MAX_BUNDLE_TOKENS:
            raise FormatError("the bundle has more values than any bundle needs")
        value = strict_json.loads(data, what="bundle", max_bytes=MAX_BUNDLE_BYTES)
        reader = Reader(value, "the bundle")
        reader.constant("mediaType", MEDIA_TYPE)
        material = _decode_material(reader.raw("verificationMaterial"))
        envelope = decode_envelope(reader.raw("dsseEnvelope"))
        reader.end()
        return cls(material, envelope)


def _material_to_json(material: Material) -> dict[str, object]:
    if isinstance(material, KeyMaterial):
        key: dict[str, object] = {"hint": material.hint}
        if material.raw_key:
            key["rawBytes"] = base64.b64encode(material.raw_key).decode("ascii")
        return {"publicKey": key, "tlogEntries": []}
    if isinstance(material, CertificateMaterial):
        certificates = [_raw_bytes(certificate) for certificate in material.certificates]
        value: dict[str, object] = {"x509CertificateChain": {"certificates": certificates}, "tlogEntries": []}
    else:
        value = {"certificate": _raw_bytes(material.certificate), "tlogEntries": _opaque(material.log_entries)}
    if material.timestamps:
        value["timestampVerificationData"] = _opaque(material.timestamps)
    return value


def _decode_material(value: object) -> Material:
    reader = Reader(value, "the verification material")
    forms = [name for name in ("publicKey", "x509CertificateChain", "certificate") if reader.has(name)]
    if len(forms) != 1:
        raise FormatError(f"the verification material has {len(forms)} signers, not one")
    form = reader.raw(forms[0])
    entries = reader.array("tlogEntries") if reader.has("tlogEntries") else []
    timestamps = b""
    if reader.has("timestampVerificationData"):
        timestamps = strict_json.dumps(reader.raw("timestampVerificationData"))
    reader.end()
    if forms[0] == "certificate":
        if not entries:
            raise FormatError("a keyless bundle has no log entry")
        return SigstoreMaterial(_decode_certificate(form), strict_json.dumps(entries), timestamps)
    if entries:
        raise FormatError("a key or certificate bundle has log entries, which nothing here could check")
    if forms[0] == "publicKey":
        if timestamps not in {b"", b"{}"}:
            raise FormatError("a key bundle has timestamps, which nothing here could check")
        return _decode_key(form)
    return CertificateMaterial(_decode_chain(form), timestamps)


def _decode_key(value: object) -> KeyMaterial:
    reader = Reader(value, "the public key")
    hint = reader.raw("hint") if reader.has("hint") else None
    raw_key = reader.base64("rawBytes") if reader.has("rawBytes") else b""
    # model-signing 1.0 wrote the curve here as well; the trusted key decides, so nothing reads it.
    if reader.has("keyDetails"):
        reader.string("keyDetails")
    reader.end()
    if hint is not None and not isinstance(hint, str):
        raise FormatError("the public key has a 'hint' that is not a string")
    return KeyMaterial(hint or "", raw_key)


def _decode_chain(value: object) -> tuple[bytes, ...]:
    reader = Reader(value, "the certificate chain")
    certificates = tuple(_decode_certificate(item) for item in reader.array("certificates"))
    reader.end()
    if not certificates:
        raise FormatError("the certificate chain is empty")
    return certificates


def _decode_certificate(value: object) -> bytes:
    reader = Reader(value, "a certificate")
    data = reader.base64("rawBytes")
    reader.end()
    if not data:
        raise FormatError("a certificate is empty")
    return data


def _raw_bytes(data: bytes) -> dict[str, str]:
    return {"rawBytes": base64.b64encode(data).decode("ascii")}


def _opaque(text: bytes) -> object:
    return strict_json.loads(text, what="verification material", max_bytes=MAX_BUNDLE_BYTES)
