# SPDX-License-Identifier: Apache-2.0
"""Names of digest algorithms, and the sets of them that a caller may ask for.

Implements docs/format.md, "Hashes". A name says everything that a digest depends on besides the bytes.
"""

from __future__ import annotations

import re
from types import MappingProxyType

from sentry.errors import FormatError

# Digest sizes in bytes: FIPS 180-4; RFC 7693 (64-byte digest, no key); the BLAKE3 paper, plain mode.
DIGEST_BYTES = MappingProxyType({"sha256": 32, "blake2b": 64, "blake3": 32})

# What `hash=` accepts when signing: the hash of the resources first, then the one in their annotations.
SIGN_CHOICES = MappingProxyType(
    {"sha256+blake3": ("sha256", "blake3"), "sha256": ("sha256",), "blake3": ("blake3",), "blake2b": ("blake2b",)}
)
DEFAULT_SIGN_CHOICE = "sha256+blake3"

# What `hash=` accepts when verifying; each of the named hashes is recomputed.
VERIFY_CHOICES = MappingProxyType({**SIGN_CHOICES, "both": ("sha256", "blake3")})

_HEX = re.compile(r"[0-9a-f]*")


def decode_hex(text: str, *, nbytes: int, what: str) -> bytes:
    """Decode lower-case hexadecimal of a known length.

    Raises:
        FormatError: For another length, upper case, or anything that is not hexadecimal.
    """
    if len(text) != 2 * nbytes or not _HEX.fullmatch(text):
        raise FormatError(f"{what} is not {2 * nbytes} lower-case hexadecimal digits")
    return bytes.fromhex(text)
