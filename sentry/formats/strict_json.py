# SPDX-License-Identifier: Apache-2.0
"""Strict JSON (RFC 8259 within RFC 7493's limits), for bytes that an attacker may have written.

Implements docs/format.md, "JSON". Refused: duplicate keys, NaN and infinities, numbers that overflow, integers above
2^63, lone surrogates, a byte-order mark, bytes that are not UTF-8, deep nesting, and documents above a size limit.
Not checked: the shape of the document, which is its reader's work (the `Reader` helps).
"""

from __future__ import annotations

import base64
import binascii
import json
import math
from collections.abc import Mapping
from typing import NoReturn, TypeVar

from sentry.errors import FormatError

Kind = TypeVar("Kind", str, bool, list[object])

_TYPE_NAMES = {str: "a string", bool: "true or false", list: "an array"}
# Deep enough for a Sigstore bundle (7 levels) and far from the interpreter's recursion limit.
MAX_DEPTH = 32
MAX_INTEGER = 2**63 - 1
# RFC 7493 §2.2: what every reader of JSON keeps exactly.
MAX_EXACT_INTEGER = 2**53 - 1


def loads(data: bytes, *, what: str, max_bytes: int) -> object:
    """Parse one JSON document.

    Args:
        data: The document, UTF-8.
        what: What the document is, for messages ("bundle").
        max_bytes: Refuse longer documents before looking at them.

    Raises:
        FormatError: For everything that the module's docstring lists.
    """
    if len(data) > max_bytes:
        raise FormatError(f"the {what} is larger than {max_bytes} bytes")
    try:
        text = data.decode("utf-8")
    except UnicodeDecodeError:
        raise FormatError(f"the {what} is not UTF-8") from None
    try:
        value = json.loads(
            text,
            object_pairs_hook=_unique_pairs,
            parse_constant=_refuse_constant,
            parse_float=_finite_float,
            parse_int=_bounded_int,
        )
    except RecursionError:
        raise FormatError(f"the {what} is nested too deeply") from None
    except FormatError as error:
        raise FormatError(f"the {what} is not strict JSON: {error}") from None
    except ValueError:
        raise FormatError(f"the {what} is not JSON") from None
    _check_tree([value], what, look_for_surrogates=b"\\ud" in data or b"\\uD" in data)
    return value


def dumps(value: object) -> bytes:
    """Serialise compactly, as UTF-8, keys in the order given.

    Raises:
        FormatError: If a string in it is not Unicode text (a file name that is not UTF-8, say).
    """
    text = json.dumps(value, separators=(",", ":"), ensure_ascii=False, allow_nan=False)
    try:
        return text.encode("utf-8")
    except UnicodeEncodeError:
        raise FormatError("a name is not UTF-8") from None


def canonical(value: object) -> bytes:
    """Serialise as RFC 8785 does, where every such value has exactly one form.

    Args:
        value: Strings, integers below 2^53, arrays, and objects whose keys are ASCII: those sort alike in UTF-16, which
            the RFC wants, and in code points.

    Raises:
        FormatError: For anything else.
    """
    _check_canonical(value)
    text = json.dumps(value, separators=(",", ":"), ensure_ascii=False, sort_keys=True)
    try:
        return text.encode("utf-8")
    except UnicodeEncodeError:
        raise FormatError("a string is not Unicode text") from None


def _check_canonical(value: object) -> None:
    if isinstance(value, dict):
        if not all(isinstance(key, str) and key.isascii() for key in value):
            raise FormatError("a key is not ASCII, and has no canonical place")
        for item in value.values():
            _check_canonical(item)
    elif isinstance(value, list):
        for item in value:
            _check_canonical(item)
    elif type(value) is int:
        if abs(value) > MAX_EXACT_INTEGER:
            raise FormatError("an integer is too large for a canonical form")
    elif not isinstance(value, str):
        raise FormatError(f"a {type(value).__name__} has no canonical form here")


def decode_base64(text: str, *, what: str) -> bytes:
    """Decode canonical standard base64 (RFC 4648 §4, padded): one spelling for one byte string.

    Raises:
        FormatError: For other alphabets, white space, missing padding, or stray bits behind the last byte.
    """
    try:
        data = base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        raise FormatError(f"{what} is not standard base64") from None
    if binascii.b2a_base64(data, newline=False) != text.encode("ascii"):
        raise FormatError(f"{what} is not canonical base64")
    return data


class Reader:
    """Reads the fields of one JSON object strictly: each exactly once, none left over.

    Args:
        value: What should be an object.
        what: Its name in messages.

    Raises:
        FormatError: From every method, when the field is missing or of another type.
    """

    def __init__(self, value: object, what: str) -> None:
        if not isinstance(value, dict):
            raise FormatError(f"{what} is not an object")
        self._fields: dict[str, object] = value
        self._what = what
        self._seen: set[str] = set()

    def has(self, name: str) -> bool:
        """Say whether the field is present."""
        return name in self._fields

    def raw(self, name: str) -> object:
        """Return the field's value, unchecked."""
        self._seen.add(name)
        if name not in self._fields:
            raise FormatError(f"{self._what} has no {name!r}")
        return self._fields[name]

    def string(self, name: str) -> str:
        """Return a string field."""
        return self._typed(name, str)

    def boolean(self, name: str) -> bool:
        """Return a boolean field."""
        return self._typed(name, bool)

    def array(self, name: str) -> list[object]:
        """Return an array field."""
        return self._typed(name, list)

    def base64(self, name: str) -> bytes:
        """Return the bytes of a field in canonical base64."""
        return decode_base64(self.string(name), what=f"{self._what}'s {name!r}")

    def constant(self, name: str, expected: str) -> None:
        """Insist on one value of a string field."""
        found = self.string(name)
        if found != expected:
            self._fail(f"has {name!r} {found[:80]!r}, not {expected!r}")

    def end(self) -> None:
        """Refuse fields that nothing asked for."""
        unknown = self._fields.keys() - self._seen
        if unknown:
            self._fail(f"has an unknown field {min(unknown)[:80]!r}")

    def _typed(self, name: str, kind: type[Kind]) -> Kind:
        value = self.raw(name)
        if type(value) is not kind:
            self._fail(f"has {name!r} that is not {_TYPE_NAMES[kind]}")
        return value

    def _fail(self, message: str) -> NoReturn:
        raise FormatError(f"{self._what} {message}")


def string_map(value: object, *, what: str) -> Mapping[str, str]:
    """Check that a value is an object of strings, and return it."""
    if not isinstance(value, dict) or not all(isinstance(item, str) for item in value.values()):
        raise FormatError(f"{what} is not an object of strings")
    return value


def _unique_pairs(pairs: list[tuple[str, object]]) -> dict[str, object]:
    fields = dict(pairs)
    if len(fields) != len(pairs):
        raise FormatError("an object has a key twice")
    return fields


def _refuse_constant(_text: str) -> NoReturn:
    raise FormatError("NaN and infinities are not JSON")


def _finite_float(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise FormatError("a number is too large")
    return value


def _bounded_int(text: str) -> int | float:
    # What other parsers make a float of must not be an integer here.
    if text == "-0":
        return -0.0
    # Twenty characters hold every allowed value with its sign; int() is not asked for 5,000 digits.
    if len(text) > 20 or abs(value := int(text)) > MAX_INTEGER:
        raise FormatError("an integer is too large")
    return value


def _check_tree(value: object, what: str, *, look_for_surrogates: bool) -> None:
    """Walk the containers level by level: bounded depth, and no surrogate that pairs with nothing."""
    level = [value]
    for _ in range(MAX_DEPTH + 1):
        below: list[object] = []
        for item in level:
            if isinstance(item, dict):
                below.extend(item.values())
                if look_for_surrogates:
                    below.extend(item.keys())
            elif isinstance(item, list):
                below.extend(item)
        if look_for_surrogates:
            for item in below:
                if isinstance(item, str):
                    _check_text(item, what)
        level = [item for item in below if isinstance(item, (dict, list))]
        if not level:
            return
    raise FormatError(f"the {what} is nested too deeply")


def _check_text(text: str, what: str) -> None:
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        raise FormatError(f"the {what} holds half a surrogate pair") from None
