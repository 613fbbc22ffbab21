# SPDX-License-Identifier: Apache-2.0
"""Strict JSON: what other parsers let through is refused here, each for its reason."""

from __future__ import annotations

import base64
import contextlib
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sentry.errors import FormatError
from sentry.formats import strict_json
from sentry.formats.strict_json import MAX_DEPTH, MAX_INTEGER, Reader


def loads(data: bytes) -> object:
    return strict_json.loads(data, what="document", max_bytes=10_000)


def nested(depth: int) -> bytes:
    return b"[" * depth + b"]" * depth


@pytest.mark.parametrize(
    ("data", "value"),
    [
        (b'{"a":[1,-2.5,true,null,"\xc3\xa9"]}', {"a": [1, -2.5, True, None, "é"]}),
        (b' \t\r\n{"a" : 1 }\n', {"a": 1}),
        (b'"\\ud83d\\ude00"', "\U0001f600"),
        (b'"\\u0000\\u001b"', "\0\x1b"),
        (str(MAX_INTEGER).encode(), MAX_INTEGER),
        (str(-MAX_INTEGER).encode(), -MAX_INTEGER),
        (b'{"\\u0061":1}', {"a": 1}),
        (b"1e3", 1000.0),
    ],
)
def test_plain_json_is_read(data: bytes, value: object) -> None:
    assert loads(data) == value


def test_minus_zero_is_no_integer() -> None:
    assert [type(loads(text)) for text in (b"-0", b"0", b"-1", b"-0.0")] == [float, int, int, float]


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b'{"a":1,"a":1}', "has a key twice"),
        (b'{"a":1,"\\u0061":2}', "has a key twice"),
        (b'[{"b":{"a":1,"a":2}}]', "has a key twice"),
        (b"NaN", "NaN and infinities are not JSON"),
        (b"[-Infinity]", "NaN and infinities are not JSON"),
        (b"[Infinity]", "NaN and infinities are not JSON"),
        (b"1e400", "a number is too large"),
        (b"-1e400", "a number is too large"),
        (b"9" * 400 + b".0", "a number is too large"),
        (b"9223372036854775808", "an integer is too large"),
        (b"-9223372036854775808", "an integer is too large"),
        (b"9" * 5000, "an integer is too large"),
        (b"[" + b"1" * 5000 + b"]", "an integer is too large"),
        (b'"\\ud800"', "half a surrogate pair"),
        (b'{"\\udfff":1}', "half a surrogate pair"),
        (b'["\\uD83D\\uD83D"]', "half a surrogate pair"),
        (b'[[[{"a":["\\udc00\\ud800"]}]]]', "half a surrogate pair"),
        (b"\xef\xbb\xbf{}", "is not JSON"),
        (b'"\xff"', "is not UTF-8"),
        (b'"\xed\xa0\x80"', "is not UTF-8"),
        (b'"\xc0\xaf"', "is not UTF-8"),
        ('{"a":1}'.encode("utf-16"), "is not UTF-8"),
        (nested(MAX_DEPTH + 1), "nested too deeply"),
        (nested(4000), "nested too deeply"),
        (b'{"a":' * 1500 + b"1" + b"}" * 1500, "nested too deeply"),
        (b'["\\ud83d\\ude00",' + nested(MAX_DEPTH) + b"]", "nested too deeply"),
        (b" " * 10_001, "larger than 10000 bytes"),
        (b'{"a":1}' + b" " * 10_000, "larger than 10000 bytes"),
        (b"", "is not JSON"),
        (b"{", "is not JSON"),
        (b"{}{}", "is not JSON"),
        (b"{'a':1}", "is not JSON"),
        (b'{"a":1,}', "is not JSON"),
        (b"[01]", "is not JSON"),
        (b"// comment\n{}", "is not JSON"),
        (b'"a\nb"', "is not JSON"),
        (b'{"a":1}\0', "is not JSON"),
    ],
)
def test_what_is_not_strict_json_is_refused(data: bytes, reason: str) -> None:
    with pytest.raises(FormatError, match=reason):
        loads(data)


def test_the_deepest_allowed_nesting_is_read() -> None:
    loads(nested(MAX_DEPTH))


def test_a_refusal_names_the_document() -> None:
    with pytest.raises(FormatError, match="the document is not"):
        loads(b"\xff")


@given(st.binary(max_size=40) | st.text(max_size=40).map(str.encode))
def test_no_bytes_raise_anything_but_a_format_error(data: bytes) -> None:
    with contextlib.suppress(FormatError):
        loads(data)


_values: Any = st.recursive(
    st.none() | st.booleans() | st.integers(-MAX_INTEGER, MAX_INTEGER) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=5), inner, max_size=4),
    max_leaves=10,
)


@given(_values)
def test_what_is_written_is_read_back(value: object) -> None:
    assert loads(strict_json.dumps(value)) == value


def test_writing_is_compact_and_keeps_the_order_of_keys() -> None:
    assert strict_json.dumps({"b": ["é", 1], "a": None}) == b'{"b":["\xc3\xa9",1],"a":null}'


def test_half_a_surrogate_pair_is_not_written() -> None:
    with pytest.raises(FormatError, match="a name is not UTF-8"):
        strict_json.dumps(["\udcff"])


@given(st.binary(max_size=60))
def test_canonical_base64_is_decoded(data: bytes) -> None:
    assert strict_json.decode_base64(base64.b64encode(data).decode(), what="it") == data


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("AB==", "not canonical base64"),  # stray bits: the canonical spelling of this byte is AA==
        ("AAF=", "not canonical base64"),
        ("AA", "not standard base64"),
        ("AA=", "not standard base64"),
        ("AA===", "base64"),
        ("AA==AA==", "base64"),
        ("A", "not standard base64"),
        ("AA\n==", "not standard base64"),
        ("AAAA\n", "not standard base64"),
        (" AAAA", "not standard base64"),
        ("__--", "not standard base64"),
        ("AAA\u0100", "not standard base64"),
        ("ＡＡＡＡ", "not standard base64"),  # noqa: RUF001  (full-width letters are the point)
    ],
)
def test_other_spellings_of_base64_are_refused(text: str, reason: str) -> None:
    with pytest.raises(FormatError, match=reason):
        strict_json.decode_base64(text, what="it")


@pytest.mark.parametrize(
    ("value", "read", "reason"),
    [
        ([], lambda reader: reader, "the thing is not an object"),
        ("text", lambda reader: reader, "the thing is not an object"),
        (None, lambda reader: reader, "the thing is not an object"),
        ({}, lambda reader: reader.string("a"), "the thing has no 'a'"),
        ({"a": 1}, lambda reader: reader.string("a"), "has 'a' that is not a string"),
        ({"a": None}, lambda reader: reader.string("a"), "has 'a' that is not a string"),
        ({"a": 1}, lambda reader: reader.boolean("a"), "has 'a' that is not true or false"),
        ({"a": {}}, lambda reader: reader.array("a"), "has 'a' that is not an array"),
        ({"a": "x"}, lambda reader: reader.constant("a", "y"), "has 'a' 'x', not 'y'"),
        ({"a": "x"}, lambda reader: reader.base64("a"), "the thing's 'a' is not standard base64"),
        ({"a": 1, "b": 2}, lambda reader: (reader.raw("a"), reader.end()), "has an unknown field 'b'"),
    ],
)
def test_an_object_is_read_strictly(value: object, read: Any, reason: str) -> None:
    with pytest.raises(FormatError, match=reason):
        read(Reader(value, "the thing"))


@pytest.mark.parametrize("value", [[], "x", {"a": 1}, {"a": None}, {"a": {"b": "c"}}])
def test_a_map_of_strings_holds_strings(value: object) -> None:
    with pytest.raises(FormatError, match="it is not an object of strings"):
        strict_json.string_map(value, what="it")


def test_messages_show_only_the_start_of_a_long_value() -> None:
    reader = Reader(json.loads('{"a":"%s"}' % ("x" * 5000)), "the thing")
    with pytest.raises(FormatError) as caught:
        reader.constant("a", "y")
    assert len(str(caught.value)) < 200
