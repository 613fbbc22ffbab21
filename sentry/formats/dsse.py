# SPDX-License-Identifier: Apache-2.0
"""DSSE v1: what exactly is signed, and the envelope around it.

Implements docs/format.md, "Envelope" (https://github.com/secure-systems-lab/dsse, protocol.md and envelope.md).
Not checked here: the signature itself (`sentry.trust`) and the payload's content (`sentry.formats.statement`).
"""

from __future__ import annotations

from dataclasses import dataclass, field

from sentry.errors import FormatError
from sentry.formats.strict_json import Reader

IN_TOTO_PAYLOAD_TYPE = "application/vnd.in-toto+json"


@dataclass(frozen=True)
class Envelope:
    """One signed payload.

    Attributes:
        payload: The signed bytes, as they were signed; they are never serialised again.
        signature: The raw signature over `pae(payload)`.
        keyid: A hint that nobody signed; shown by nothing and compared by nothing.
    """

    payload: bytes = field(repr=False)
    signature: bytes = field(repr=False)
    keyid: str = field(default="", compare=False)


def pae(payload: bytes, payload_type: str = IN_TOTO_PAYLOAD_TYPE) -> bytes:
    """Return the pre-authentication encoding: the bytes that a DSSE signature covers."""
    kind = payload_type.encode("utf-8")
    return b"DSSEv1 %d %b %d %b" % (len(kind), kind, len(payload), payload)


def legacy_pae(payload: bytes) -> bytes:
    """Return what model-signing 0.2 signed by mistake: the Python text `b'…'` of the payload, under `DSSEV1`.

    Only for signatures of that time, and only when the caller asked for it by name.
    """
    kind = IN_TOTO_PAYLOAD_TYPE
    return f"DSSEV1 {len(kind)} {kind} {len(payload)} {payload!r}".encode()


def decode_envelope(value: object) -> Envelope:
    """Read the `dsseEnvelope` object of a bundle.

    Raises:
        FormatError: For another payload type, no or several signatures, or an unknown field.
    """
    reader = Reader(value, "the envelope")
    payload = reader.base64("payload")
    reader.constant("payloadType", IN_TOTO_PAYLOAD_TYPE)
    signatures = reader.array("signatures")
    reader.end()
    if len(signatures) != 1:
        raise FormatError(f"the envelope has {len(signatures)} signatures, not one")
    signature = Reader(signatures[0], "the signature")
    raw = signature.base64("sig")
    keyid = signature.raw("keyid") if signature.has("keyid") else ""
    signature.end()
    if not payload or not raw:
        raise FormatError("the envelope is empty")
    if keyid is not None and not isinstance(keyid, str):
        raise FormatError("the signature has a 'keyid' that is not a string")
    return Envelope(payload, raw, keyid or "")
