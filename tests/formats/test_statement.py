# SPDX-License-Identifier: Apache-2.0
"""in-toto Statement v1, read strictly."""

from __future__ import annotations

import json
from typing import Any

import pytest

from sentry.errors import FormatError
from sentry.formats import statement as statements
from sentry.formats.statement import STATEMENT_TYPE, Statement, Subject, decode_statement, encode_statement


def statement(**changes: Any) -> bytes:
    value: dict[str, Any] = {
        "_type": STATEMENT_TYPE,
        "subject": [{"name": "model", "digest": {"sha256": "00"}}],
        "predicateType": "urn:x",
        "predicate": {"a": 1},
        **changes,
    }
    return json.dumps({name: field for name, field in value.items() if field is not ...}).encode()


def subject(**changes: Any) -> dict[str, Any]:
    value: dict[str, Any] = {"name": "model", "digest": {"sha256": "00"}, **changes}
    return {"subject": [{name: field for name, field in value.items() if field is not ...}]}


def test_a_statement_is_written_and_read_back() -> None:
    value = Statement((Subject("m", {"sha256": "00"}, {"name": "é"}), Subject("n", {})), "urn:x", {"b": [1]})
    assert decode_statement(encode_statement(value)) == value


def test_the_same_statement_is_always_the_same_bytes() -> None:
    value = Statement((Subject("m", {"sha256": "00"}),), "urn:x", {})
    assert encode_statement(value) == (
        b'{"_type":"https://in-toto.io/Statement/v1","subject":[{"name":"m","digest":{"sha256":"00"}}],'
        b'"predicateType":"urn:x","predicate":{}}'
    )


@pytest.mark.parametrize("field", ["uri", "content", "downloadLocation", "mediaType"])
def test_what_in_toto_allows_in_a_subject_is_allowed(field: str) -> None:
    assert decode_statement(statement(**subject(**{field: "x"}))).subjects[0].name == "model"


def test_a_statement_may_have_several_subjects_and_no_predicate() -> None:
    value = decode_statement(statement(subject=subject()["subject"] * 2, predicate=...))
    assert (len(value.subjects), value.predicate) == (2, None)


@pytest.mark.parametrize(
    ("payload", "reason"),
    [
        (b"[]", "the statement is not an object"),
        (b"{", "the statement is not JSON"),
        (b"\xff", "the statement is not UTF-8"),
        (b'{"_type":1,"_type":1}', "the statement is not strict JSON"),
        (statement(_type="https://in-toto.io/Statement/v0.1"), "has '_type' 'https://in-toto.io/Statement/v0.1', not"),
        (statement(_type=...), "the statement has no '_type'"),
        (statement(predicateType=...), "the statement has no 'predicateType'"),
        (statement(predicateType=1), "has 'predicateType' that is not a string"),
        (statement(extra=1), "the statement has an unknown field 'extra'"),
        (statement(subject=...), "the statement has no 'subject'"),
        (statement(subject=[]), "the statement has no subject"),
        (statement(subject={}), "has 'subject' that is not an array"),
        (statement(subject=["model"]), "a subject is not an object"),
        (statement(**subject(name=...)), "a subject has no 'name'"),
        (statement(**subject(name=1)), "has 'name' that is not a string"),
        (statement(**subject(digest=...)), "a subject has no 'digest'"),
        (statement(**subject(digest="00")), "a subject's digest set is not an object of strings"),
        (statement(**subject(digest={"sha256": 1})), "a subject's digest set is not an object of strings"),
        (statement(**subject(annotations={"name": 1})), "a subject's annotations is not an object of strings"),
        (statement(**subject(annotations=[])), "a subject's annotations is not an object of strings"),
        (statement(**subject(uri=1)), "has 'uri' that is not a string"),
        (statement(**subject(sha256="00")), "a subject has an unknown field 'sha256'"),
    ],
)
def test_other_statements_are_refused(payload: bytes, reason: str) -> None:
    with pytest.raises(FormatError, match=reason):
        decode_statement(payload)


def test_an_absurdly_large_payload_is_refused_before_it_is_parsed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(statements, "MAX_PAYLOAD_BYTES", 100)
    with pytest.raises(FormatError, match="the statement is larger than 100 bytes"):
        decode_statement(b"[" * 101)
