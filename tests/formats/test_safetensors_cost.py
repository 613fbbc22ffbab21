# SPDX-License-Identifier: Apache-2.0
"""No safetensors header takes more time or memory than a small multiple of what its size alone asks for."""

from __future__ import annotations

import gc
import time
import tracemalloc
from collections.abc import Callable

import pytest

from sentry.errors import FormatError
from sentry.formats.safetensors import MAX_UNSIGNED_HEADER_BYTES, parse_header

Build = Callable[[int], str]


def in_a_shape(text: str) -> str:
    return f'{{"w":{{"dtype":"U8","shape":[{text}],"data_offsets":[0,4]}}}}'


def many(item: str) -> Build:
    """Return a function that builds an array of as many equal items as fit."""
    return lambda room: '{"w":[' + ",".join([item] * (room // (len(item) + 1))) + "]}"


def tensors_without_bytes(room: int) -> str:
    entry = '"dtype":"U8","shape":[0],"data_offsets":[0,0]'
    return "{" + ",".join(f'"{number:06}":{{{entry}}}' for number in range(room // (len(entry) + 12))) + "}"


# Each builds a header of about so many bytes.
COSTLY: dict[str, Build] = {
    "[": lambda room: '{"w":' + "[" * room,
    "{": lambda room: '{"w":' + '{"":' * (room // 4),
    "digits": lambda room: in_a_shape("9" * room),
    "digits behind a point": lambda room: in_a_shape("0." + "9" * room),
    "digits of an exponent": lambda room: in_a_shape("1e" + "9" * room),
    "digits of a negative exponent": lambda room: in_a_shape("1e-" + "9" * room),
    "zeros in a shape": lambda room: in_a_shape(",".join("0" * (room // 2))),
    "arrays": many("[]"),
    "objects": many("{}"),
    "strings": many('"ab"'),
    "arrays, 31 deep": many("[" * 30 + "]" * 30),
    "escapes": lambda room: '{"' + r"\u0041" * (room // 6) + '":0}',
    "half pairs": lambda room: '{"' + r"\ud800" * (room // 6) + '":0}',
    "names with half pairs": lambda room: '{"w":["\\ud800",' + ",".join(['"é"'] * (room // 5)) + "]}",
    "backslashes": lambda room: '{"' + "\\" * room,
    "spaces": lambda room: "{" + " " * room,
    "keys": lambda room: "{" + ",".join(f'"{number}":0' for number in range(room // 12)) + "}",
    "the same key": lambda room: "{" + ",".join(['"k":0'] * (room // 6)) + "}",
    "tensors without bytes": tensors_without_bytes,
}
SMALL = 256 * 1024
# Measured on one slow core: 0.6 seconds a MiB, and 46 times the input (arrays in arrays, both).
SECONDS = 20
TIMES_THE_INPUT = 64


def refuse(text: str) -> int:
    """Insist on a refusal, and return the header's size."""
    data = len(text.encode()).to_bytes(8, "little") + text.encode()
    assert len(data) <= MAX_UNSIGNED_HEADER_BYTES + 8
    # One byte of payload that no tensor has: every header here is refused, the last at the last step.
    with pytest.raises(FormatError):
        parse_header(data, file_nbytes=len(data) + 1, limit=MAX_UNSIGNED_HEADER_BYTES)
    return len(data)


def seconds(text: str) -> float:
    """Return the processor time of a refusal; what the collector finds elsewhere in this process is not its cost."""
    gc.disable()
    try:
        started = time.process_time()
        refuse(text)
        return time.process_time() - started
    finally:
        gc.enable()


@pytest.mark.parametrize("case", COSTLY)
def test_the_largest_header_takes_seconds_at_most_and_time_is_not_quadratic(case: str) -> None:
    build = COSTLY[case]
    small = min(seconds(build(SMALL)) for _ in range(3))
    large = seconds(build(MAX_UNSIGNED_HEADER_BYTES - 64))
    assert large < SECONDS
    # 32 times the size: 1024 times the time, if it were quadratic. Below a hundredth of a second, noise decides.
    assert large < 200 * max(small, 0.01)


@pytest.mark.parametrize("case", COSTLY)
def test_memory_is_bounded_by_a_multiple_of_the_header(case: str) -> None:
    text = COSTLY[case](SMALL)
    tracemalloc.start()
    try:
        nbytes = refuse(text)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < TIMES_THE_INPUT * nbytes


@pytest.mark.parametrize("nest", ["[" * 32768 + "]" * 32768, '{"":' * 13_000 + "0" + "}" * 13_000])
def test_nested_containers_are_refused_however_deep_the_caller_is(nest: str) -> None:
    def below(levels: int) -> None:
        if levels:
            below(levels - 1)
        else:
            refuse(f'{{"w":{nest}}}')
            refuse(f'{{"w":{"[" * 500}{"]" * 500}}}')

    for levels in (0, 300, 600):
        below(levels)
