# SPDX-License-Identifier: Apache-2.0
"""Names of digest algorithms, and the sets of them that a caller may ask for.

Implements docs/format.md, "Hashes". A name says everything that a digest depends on besides the bytes.
"""

from __future__ import annotations

import re
from types import MappingProxyType

from sentry.errors import FormatError

# Digest sizes in bytes of what OMS manifests may use: FIPS 180-4; RFC 7693 (64-byte digest, no key); the BLAKE3 paper,
# plain mode.
DIGEST_BYTES = MappingProxyType({"sha256": 32, "blake2b": 64, "blake3": 32})
# Those of everything that the engines compute over one byte string: FIPS 202 and RFC 7693 besides.
FLAT_BYTES = MappingProxyType({**DIGEST_BYTES, "sha3-256": 32, "blake2b-256": 32})
# What RFC 9162 trees may be made of, and the sizes of their leaves.
TREE_HASHES = ("sha256", "sha3-256", "blake2b-256")
MIN_LEAF_BYTES, MAX_LEAF_BYTES = 1024, 1024 * 1024

# What `hash=` accepts when signing: the hash of the resources first, then the one in their annotations.
SIGN_CHOICES = MappingProxyType(
    {"sha256+blake3": ("sha256", "blake3"), "sha256": ("sha256",), "blake3": ("blake3",), "blake2b": ("blake2b",)}
)
DEFAULT_SIGN_CHOICE = "sha256+blake3"

# What `hash=` accepts when verifying; each of the named hashes is recomputed.
VERIFY_CHOICES = MappingProxyType({**SIGN_CHOICES, "both": ("sha256", "blake3")})

_HEX = re.compile(r"[0-9a-f]*")
_TREE = re.compile(r"merkle-([a-z0-9-]+)-([1-9][0-9]{3,6})")


def decode_hex(text: str, *, nbytes: int, what: str) -> bytes:
    """Decode lower-case hexadecimal of a known length.

    Raises:
        FormatError: For another length, upper case, or anything that is not hexadecimal.
    """
    if len(text) != 2 * nbytes or not _HEX.fullmatch(text):
        raise FormatError(f"{what} is not {2 * nbytes} lower-case hexadecimal digits")
    return bytes.fromhex(text)


def tree_of(hash_name: str) -> tuple[str, int] | None:
    """Take `merkle-HASH-LEAFBYTES` apart into the hash and the leaf size in bytes; None for a flat hash.

    Raises:
        FormatError: The name is neither; a digest under an unknown name means nothing.
    """
    if hash_name in FLAT_BYTES:
        return None
    match = _TREE.fullmatch(hash_name)
    if match and match[1] in TREE_HASHES:
        leaf_bytes = int(match[2])
        if MIN_LEAF_BYTES <= leaf_bytes <= MAX_LEAF_BYTES and leaf_bytes.bit_count() == 1:
            return match[1], leaf_bytes
    raise FormatError(f"there is no hash {hash_name[:80]!r}")


def digest_bytes(hash_name: str) -> int:
    """Return the size in bytes of a digest under any known name.

    Raises:
        FormatError: The name is unknown.
    """
    tree = tree_of(hash_name)
    return FLAT_BYTES[hash_name if tree is None else tree[0]]
