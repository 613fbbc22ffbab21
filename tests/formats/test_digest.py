# SPDX-License-Identifier: Apache-2.0
"""Digest names, and published vectors for every algorithm, through the engine that computes them."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from sentry.engine.cpu import CpuEngine
from sentry.engine.segments import HostBytes
from sentry.errors import FormatError
from sentry.formats.digest import DIGEST_BYTES, SIGN_CHOICES, VERIFY_CHOICES, decode_hex

BLAKE2B_ABC = (
    "ba80a53f981c4d0d6a2797b69f12f6e94c212f14685ac4b74b12bb6fdbffa2d1"
    "7d87c5392aab792dc252d5de4533cc9518d38aa8dbf1925ab92386edd4009923"
)
BLAKE2B_EMPTY = (
    "786a02f742015903c6c6fd852552d272912f4740e15847618a86e217f71f5419"
    "d25e1031afee585313896444934eb04b903a685b1448b755d56f701afe9be2ce"
)
# FIPS 180-4 examples; RFC 7693 appendix A and the empty message of the BLAKE2 test vectors; the BLAKE3 test vectors.
VECTORS = [
    ("sha256", b"abc", "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"),
    ("sha256", b"", "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"),
    (
        "sha256",
        b"abcdbcdecdefdefgefghfghighijhijkijkljklmklmnlmnomnopnopq",
        "248d6a61d20638b8e5c026930c3e6039a33ce45964ff2167f6ecedd419db06c1",
    ),
    ("blake2b", b"abc", BLAKE2B_ABC),
    ("blake2b", b"", BLAKE2B_EMPTY),
    ("blake3", b"", "af1349b9f5f9a1a6a0404dea36dcc9499bcb25c9adc112b7cc9a93cae41f3262"),
]


@pytest.mark.parametrize(("name", "message", "digest"), VECTORS)
def test_published_digests_are_computed(name: str, message: bytes, digest: str) -> None:
    assert CpuEngine().digest([name], [HostBytes(message)])[name].hex() == digest
    assert len(bytes.fromhex(digest)) == DIGEST_BYTES[name]


def test_all_published_blake3_digests_are_computed(shared_data: Callable[[str], Path]) -> None:
    cases = json.loads(shared_data("blake3/test_vectors.json").read_text())["cases"]
    assert len(cases) == 35
    for case in cases:
        message = bytes(index % 251 for index in range(case["input_len"]))
        # The published digest is an extended one; its first 32 bytes are the plain digest.
        assert CpuEngine().digest(["blake3"], [HostBytes(message)])["blake3"].hex() == case["hash"][:64]


def test_both_stands_for_the_two_hashes_of_the_default() -> None:
    assert VERIFY_CHOICES["both"] == SIGN_CHOICES["sha256+blake3"] == ("sha256", "blake3")


@pytest.mark.parametrize("choices", [SIGN_CHOICES, VERIFY_CHOICES])
def test_every_choice_names_known_hashes(choices: dict[str, tuple[str, ...]]) -> None:
    assert {name for names in choices.values() for name in names} == set(DIGEST_BYTES)


def test_hexadecimal_is_decoded() -> None:
    assert decode_hex("00ff", nbytes=2, what="it") == b"\x00\xff"


@pytest.mark.parametrize(
    "text", ["", "00f", "00ff00", "00FF", "0xff", "00fg", " 0ff", "00f\n", "00f\u0663", "-0ff", "0_ff"]
)
def test_other_spellings_of_a_digest_are_refused(text: str) -> None:
    with pytest.raises(FormatError, match="it is not 4 lower-case hexadecimal digits"):
        decode_hex(text, nbytes=2, what="it")
