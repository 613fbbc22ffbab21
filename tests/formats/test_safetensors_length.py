# SPDX-License-Identifier: Apache-2.0
"""The length field of a safetensors file: header, payload and file are exactly as long as it says, within limits."""

from __future__ import annotations

import pytest

from sentry.errors import FormatError
from sentry.formats.safetensors import MAX_HEADER_BYTES, MAX_UNSIGNED_HEADER_BYTES, header_nbytes, parse_header


def packed(text: bytes, nbytes: int) -> bytes:
    """Put a length field before a header."""
    return nbytes.to_bytes(8, "little") + text


TEXT = b'{"w":{"dtype":"U8","shape":[4],"data_offsets":[0,4]}}'
GOOD = packed(TEXT, len(TEXT))


@pytest.mark.parametrize("nbytes", range(8))
def test_a_file_without_a_length_field_is_refused(nbytes: int) -> None:
    with pytest.raises(FormatError, match="too short for a safetensors file"):
        header_nbytes(GOOD[:nbytes], file_nbytes=nbytes)
    with pytest.raises(FormatError, match="too short for a safetensors file"):
        parse_header(GOOD[:nbytes], file_nbytes=nbytes)


@pytest.mark.parametrize("more", [1, 2, 1000])
def test_a_header_that_is_longer_than_the_file_is_refused(more: int) -> None:
    data = packed(GOOD[8:], len(GOOD) - 8 + 4 + more)
    with pytest.raises(FormatError, match="longer than the file"):
        parse_header(data, file_nbytes=len(data) + 4)


@pytest.mark.parametrize("length", [2**63, 2**64 - 1, 2**32, MAX_HEADER_BYTES + 1])
def test_a_header_above_the_limit_is_refused_before_anything_else(length: int) -> None:
    with pytest.raises(FormatError, match="larger than 100000000 bytes"):
        header_nbytes(length.to_bytes(8, "little"), file_nbytes=2**63)


def test_the_limits_are_exact() -> None:
    for limit in (MAX_HEADER_BYTES, MAX_UNSIGNED_HEADER_BYTES):
        length = limit.to_bytes(8, "little")
        assert header_nbytes(length, file_nbytes=8 + limit, limit=limit) == 8 + limit
        with pytest.raises(FormatError, match="longer than the file"):
            header_nbytes(length, file_nbytes=7 + limit, limit=limit)
        with pytest.raises(FormatError, match=f"larger than {limit} bytes"):
            header_nbytes((limit + 1).to_bytes(8, "little"), file_nbytes=2**40, limit=limit)
    with pytest.raises(FormatError, match="larger than 10 bytes"):
        parse_header(GOOD, file_nbytes=len(GOOD) + 4, limit=10)


@pytest.mark.parametrize("change", [-1, 1, -(len(GOOD) - 8)])
def test_a_header_of_another_length_than_its_field_says_is_refused(change: int) -> None:
    data = packed(GOOD[8:], len(GOOD) - 8 + change)
    with pytest.raises(FormatError, match="not as long as its length field says"):
        parse_header(data, file_nbytes=len(data) + 100)


def test_big_endian_lengths_are_refused() -> None:
    data = GOOD[:8][::-1] + GOOD[8:]
    with pytest.raises(FormatError, match="larger than"):
        parse_header(data, file_nbytes=len(data) + 4)


@pytest.mark.parametrize("payload", [0, 3, 5, 2**62])
def test_the_tensors_end_with_the_file(payload: int) -> None:
    with pytest.raises(FormatError, match=f"take 4 bytes, and the file has {payload} for them"):
        parse_header(GOOD, file_nbytes=len(GOOD) + payload)
