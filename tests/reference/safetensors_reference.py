# SPDX-License-Identifier: Apache-2.0
"""A slow, readable reader of safetensors headers, written from docs/format.md, "safetensors headers" and "JSON", alone.

It shares no code with the package, reads JSON character by character, and answers every refusal with a `ValueError`.
"""

from __future__ import annotations

import math
import re

MAX_DEPTH = 32
MAX_INTEGER = 2**63 - 1
MAX_HEADER = 100_000_000
MAX_DIMENSIONS = 64
BITS = {
    **dict.fromkeys(["BOOL", "U8", "I8", "F8_E4M3", "F8_E5M2", "F8_E8M0", "F8_E4M3FNUZ", "F8_E5M2FNUZ"], 8),
    **dict.fromkeys(["U16", "I16", "F16", "BF16"], 16),
    **dict.fromkeys(["U32", "I32", "F32"], 32),
    **dict.fromkeys(["U64", "I64", "F64", "C64"], 64),
    **dict.fromkeys(["F6_E2M3", "F6_E3M2"], 6),
    "F4": 4,
}
_NUMBER = re.compile(r"(-?(?:0|[1-9][0-9]*))(\.[0-9]+)?([eE][+-]?[0-9]+)?")
_ESCAPES = {'"': '"', "\\": "\\", "/": "/", "b": "\b", "f": "\f", "n": "\n", "r": "\r", "t": "\t"}

Tensor = tuple[str, str, tuple[int, ...], int, int]


class _Json:
    """One JSON document, read from left to right."""

    def __init__(self, text: str) -> None:
        self.text = text
        self.at = 0

    def document(self) -> object:
        value = self.value(0)
        self.space()
        if self.at != len(self.text):
            raise ValueError("something behind the value")
        return value

    def space(self) -> None:
        while self.at < len(self.text) and self.text[self.at] in " \t\n\r":
            self.at += 1

    def peek(self) -> str:
        self.space()
        return self.text[self.at : self.at + 1]

    def take(self, expected: str) -> None:
        if self.peek() != expected:
            raise ValueError(f"no {expected!r}")
        self.at += 1

    def value(self, depth: int) -> object:
        first = self.peek()
        if first and first in "{[":
            if depth == MAX_DEPTH:
                raise ValueError("too deep")
            return self.members(depth + 1) if first == "{" else self.array(depth + 1)
        if first == '"':
            return self.string()
        for word, meaning in (("true", True), ("false", False), ("null", None)):
            if self.text.startswith(word, self.at):
                self.at += len(word)
                return meaning
        return self.number()

    def members(self, depth: int) -> dict[str, object]:
        self.take("{")
        found: dict[str, object] = {}
        if self.peek() != "}":
            while True:
                if self.peek() != '"':
                    raise ValueError("a key is no string")
                key = self.string()
                self.take(":")
                if key in found:
                    raise ValueError("a key twice")
                found[key] = self.value(depth)
                if self.peek() == "}":
                    break
                self.take(",")
        self.take("}")
        return found

    def array(self, depth: int) -> list[object]:
        self.take("[")
        found: list[object] = []
        if self.peek() != "]":
            while True:
                found.append(self.value(depth))
                if self.peek() == "]":
                    break
                self.take(",")
        self.take("]")
        return found

    def number(self) -> object:
        match = _NUMBER.match(self.text, self.at)
        if not match:
            raise ValueError("no value")
        self.at = match.end()
        if match[2] is None and match[3] is None:
            if len(match[1]) > 20 or abs(int(match[1])) > MAX_INTEGER:
                raise ValueError("too large an integer")
            # Some readers make a float of it: it is no integer.
            return -0.0 if match[1] == "-0" else int(match[1])
        if not math.isfinite(float(match[0])):
            raise ValueError("not finite")
        return float(match[0])

    def string(self) -> str:
        self.take('"')
        units: list[str] = []
        while True:
            if self.at >= len(self.text):
                raise ValueError("a string without an end")
            character = self.text[self.at]
            self.at += 1
            if character == '"':
                break
            if character < " ":
                raise ValueError("a control character")
            units.append(self.escaped() if character == "\\" else character)
        # Two halves that stand together are one character; a half that is left over is none.
        return "".join(units).encode("utf-16-le", "surrogatepass").decode("utf-16-le")

    def escaped(self) -> str:
        kind = self.text[self.at : self.at + 1]
        self.at += 1
        if kind == "u":
            digits = self.text[self.at : self.at + 4]
            if not re.fullmatch("[0-9a-fA-F]{4}", digits):
                raise ValueError("no escape")
            self.at += 4
            return chr(int(digits, 16))
        if kind not in _ESCAPES:
            raise ValueError("no escape")
        return _ESCAPES[kind]


def read(data: bytes, file_nbytes: int, limit: int = MAX_HEADER) -> tuple[list[Tensor], dict[str, str]]:
    """Return the tensors in the order of their offsets, and the metadata.

    Args:
        data: The length field and the header.
        file_nbytes: Size of the whole file.
        limit: Longest header in bytes.

    Raises:
        ValueError: The header is refused.
    """
    nbytes = int.from_bytes(data[:8], "little")
    if len(data) < 8 or nbytes > limit or nbytes > file_nbytes - 8 or nbytes != len(data) - 8:
        raise ValueError("the length is wrong")
    text = data[8:].decode("utf-8")
    if not text.startswith("{"):
        raise ValueError("no object at the start")
    entries = _Json(text).document()
    assert isinstance(entries, dict)
    metadata = entries.pop("__metadata__", {})
    if type(metadata) is not dict or any(type(value) is not str for value in metadata.values()):
        raise ValueError("metadata")
    tensors = sorted((_tensor(name, entry) for name, entry in entries.items()), key=lambda tensor: tensor[3:])
    ends = [0, *(tensor[4] for tensor in tensors)]
    if [tensor[3] for tensor in tensors] != ends[:-1] or ends[-1] != file_nbytes - len(data):
        raise ValueError("gap, overlap or rest")
    return tensors, metadata


def _tensor(name: str, entry: object) -> Tensor:
    if type(entry) is not dict or set(entry) != {"dtype", "shape", "data_offsets"}:
        raise ValueError("fields")
    dtype, shape, offsets = entry["dtype"], entry["shape"], entry["data_offsets"]
    if type(dtype) is not str or dtype not in BITS:
        raise ValueError("dtype")
    for numbers in (shape, offsets):
        if type(numbers) is not list or any(type(number) is not int or number < 0 for number in numbers):
            raise ValueError("numbers")
    if len(shape) > MAX_DIMENSIONS or len(offsets) != 2 or offsets[0] > offsets[1]:
        raise ValueError("dimensions or range")
    if math.prod(size or 1 for size in shape) > MAX_INTEGER:
        raise ValueError("too many elements")
    if math.prod(shape) * BITS[dtype] != 8 * (offsets[1] - offsets[0]):
        raise ValueError("size")
    return name, dtype, tuple(shape), offsets[0], offsets[1]
