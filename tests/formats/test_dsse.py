# SPDX-License-Identifier: Apache-2.0
"""DSSE: the published encoding, one signature an envelope, one payload type."""

from __future__ import annotations

import base64
from typing import Any

import pytest

from sentry.errors import FormatError
from sentry.formats.dsse import IN_TOTO_PAYLOAD_TYPE, Envelope, decode_envelope, legacy_pae, pae


def envelope(**changes: Any) -> dict[str, Any]:
    value: dict[str, Any] = {
        "payload": base64.b64encode(b"payload").decode(),
        "payloadType": IN_TOTO_PAYLOAD_TYPE,
        "signatures": [{"sig": base64.b64encode(b"signature").decode(), "keyid": ""}],
    }
    value.update(changes)
    return {name: field for name, field in value.items() if field is not ...}


def signature(**changes: Any) -> dict[str, Any]:
    value = {"sig": base64.b64encode(b"signature").decode(), "keyid": "", **changes}
    return {"signatures": [{name: field for name, field in value.items() if field is not ...}]}


def test_the_published_encoding_is_computed() -> None:
    # protocol.md of secure-systems-lab/dsse, "Test Vectors".
    assert pae(b"hello world", "http://example.com/HelloWorld") == (
        b"DSSEv1 29 http://example.com/HelloWorld 11 hello world"
    )


@pytest.mark.parametrize(
    ("payload", "encoded"),
    [
        (b"", b"DSSEv1 28 application/vnd.in-toto+json 0 "),
        (b" 1 x", b"DSSEv1 28 application/vnd.in-toto+json 4  1 x"),
        (b"\xff\n", b"DSSEv1 28 application/vnd.in-toto+json 2 \xff\n"),
    ],
)
def test_lengths_count_bytes(payload: bytes, encoded: bytes) -> None:
    assert pae(payload) == encoded


def test_the_length_of_the_type_counts_bytes() -> None:
    assert pae(b"x", "é") == b"DSSEv1 2 \xc3\xa9 1 x"


def test_the_legacy_encoding_is_python_s_spelling_of_the_bytes() -> None:
    assert legacy_pae(b"it's\n") == b'DSSEV1 28 application/vnd.in-toto+json 5 b"it\'s\\n"'


@pytest.mark.parametrize("keyid", ["", "anything", None, ...])
def test_an_envelope_is_read_and_its_keyid_counts_for_nothing(keyid: Any) -> None:
    assert decode_envelope(envelope(**signature(keyid=keyid))) == Envelope(b"payload", b"signature", "other")


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"payloadType": "application/json"}, "has 'payloadType' 'application/json', not"),
        ({"payloadType": "application/vnd.in-toto+JSON"}, "has 'payloadType'"),
        ({"payloadType": None}, "has 'payloadType' that is not a string"),
        ({"payloadType": ...}, "the envelope has no 'payloadType'"),
        ({"payload": ...}, "the envelope has no 'payload'"),
        ({"payload": None}, "has 'payload' that is not a string"),
        ({"payload": "cGF5bG9hZB=="}, "'payload' is not canonical base64"),
        ({"payload": "cGF5bG9hZA"}, "'payload' is not standard base64"),
        ({"payload": "cGF5\nbG9hZA=="}, "'payload' is not standard base64"),
        ({"payload": ""}, "the envelope is empty"),
        ({"signatures": ...}, "the envelope has no 'signatures'"),
        ({"signatures": {}}, "has 'signatures' that is not an array"),
        ({"signatures": []}, "the envelope has 0 signatures, not one"),
        ({"signatures": signature()["signatures"] * 2}, "the envelope has 2 signatures, not one"),
        ({"signatures": ["MEUC"]}, "the signature is not an object"),
        ({"extra": 1}, "the envelope has an unknown field 'extra'"),
        (signature(sig=""), "the envelope is empty"),
        (signature(sig=...), "the signature has no 'sig'"),
        (signature(sig=7), "has 'sig' that is not a string"),
        (signature(sig="AB=="), "'sig' is not canonical base64"),
        (signature(sig="-_=="), "'sig' is not standard base64"),
        (signature(keyid=7), "has a 'keyid' that is not a string"),
        (signature(cert="x"), "the signature has an unknown field 'cert'"),
    ],
)
def test_other_envelopes_are_refused(changes: dict[str, Any], reason: str) -> None:
    with pytest.raises(FormatError, match=reason):
        decode_envelope(envelope(**changes))
