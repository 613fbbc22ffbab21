# SPDX-License-Identifier: Apache-2.0
"""Slow, readable reference of every tree, sum and record leaf, from the papers; it shares no code with the package.

Sources: the BLAKE3 paper, sections 2.1 to 2.6; RFC 9162, section 2.1.1; Lewi et al., "Securing Update Propagation with
Homomorphic Hashing" (LtHash16 with 1024 lanes); docs/format.md for the layout of records. The sequential hashes below
the trees are hashlib's.
"""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Callable, Sequence
from typing import NamedTuple

IV = (0x6A09E667, 0xBB67AE85, 0x3C6EF372, 0xA54FF53A, 0x510E527F, 0x9B05688C, 0x1F83D9AB, 0x5BE0CD19)
PERMUTATION = (2, 6, 3, 10, 7, 0, 4, 13, 1, 11, 12, 5, 9, 14, 15, 8)
BLOCK_BYTES, CHUNK_BYTES = 64, 1024
CHUNK_START, CHUNK_END, PARENT, ROOT, KEYED_HASH, DERIVE_KEY_CONTEXT, DERIVE_KEY_MATERIAL = 1, 2, 4, 8, 16, 32, 64
LANES = 1024
LEAF_CONTEXT = "artifact-sentry v1 record leaf"
WORD = 0xFFFFFFFF

Words = tuple[int, ...]
Hash = Callable[[bytes], bytes]

# The hashes that trees are made of, and the flat ones, by the names that the package gives them.
HASHES: dict[str, Hash] = {
    "sha256": lambda data: hashlib.sha256(data).digest(),
    "sha3-256": lambda data: hashlib.sha3_256(data).digest(),
    "blake2b": lambda data: hashlib.blake2b(data).digest(),
    "blake2b-256": lambda data: hashlib.blake2b(data, digest_size=32).digest(),
}


def rotate_right(word: int, bits: int) -> int:
    return (word >> bits | word << (32 - bits)) & WORD


def compress(value: Words, block: Words, counter: int, nbytes: int, flags: int) -> Words:
    """Section 2.2: sixteen words out of a chaining value, a block, and what they stand for."""
    state = [*value, *IV[:4], counter & WORD, counter >> 32, nbytes, flags]

    def quarter(a: int, b: int, c: int, d: int, x: int, y: int) -> None:
        state[a] = (state[a] + state[b] + x) & WORD
        state[d] = rotate_right(state[d] ^ state[a], 16)
        state[c] = (state[c] + state[d]) & WORD
        state[b] = rotate_right(state[b] ^ state[c], 12)
        state[a] = (state[a] + state[b] + y) & WORD
        state[d] = rotate_right(state[d] ^ state[a], 8)
        state[c] = (state[c] + state[d]) & WORD
        state[b] = rotate_right(state[b] ^ state[c], 7)

    words = block
    for _ in range(7):
        quarter(0, 4, 8, 12, words[0], words[1])
        quarter(1, 5, 9, 13, words[2], words[3])
        quarter(2, 6, 10, 14, words[4], words[5])
        quarter(3, 7, 11, 15, words[6], words[7])
        quarter(0, 5, 10, 15, words[8], words[9])
        quarter(1, 6, 11, 12, words[10], words[11])
        quarter(2, 7, 8, 13, words[12], words[13])
        quarter(3, 4, 9, 14, words[14], words[15])
        words = tuple(words[index] for index in PERMUTATION)
    low = [state[i] ^ state[i + 8] for i in range(8)]
    high = [state[i + 8] ^ value[i] for i in range(8)]
    return (*low, *high)


class Output(NamedTuple):
    """A last compression that has not happened yet: only its user knows whether it is the root."""

    value: Words
    block: Words
    counter: int
    nbytes: int
    flags: int

    def chaining_value(self) -> Words:
        return compress(self.value, self.block, self.counter, self.nbytes, self.flags)[:8]

    def root_bytes(self, length: int) -> bytes:
        """Section 2.6: as many bytes as wanted."""
        out = b""
        for number in range(-(-length // BLOCK_BYTES)):
            words = compress(self.value, self.block, number, self.nbytes, self.flags | ROOT)
            out += struct.pack("<16I", *words)
        return out[:length]


def chunk_output(chunk: bytes, index: int, key: Words, mode: int) -> Output:
    """Section 2.4: the blocks of one chunk, one after the other."""
    blocks = [chunk[at : at + BLOCK_BYTES] for at in range(0, len(chunk), BLOCK_BYTES)] or [b""]
    value = key
    for number, block in enumerate(blocks):
        flags = mode | (CHUNK_START if number == 0 else 0) | (CHUNK_END if number == len(blocks) - 1 else 0)
        words = struct.unpack("<16I", block.ljust(BLOCK_BYTES, b"\0"))
        output = Output(value, words, index, len(block), flags)
        if number == len(blocks) - 1:
            return output
        value = output.chaining_value()
    raise AssertionError


def subtree_output(data: bytes, first_chunk: int, key: Words, mode: int) -> Output:
    """Section 2.1: the left subtree is the largest power of two of chunks that leaves something for the right."""
    if len(data) <= CHUNK_BYTES:
        return chunk_output(data, first_chunk, key, mode)
    chunks = -(-len(data) // CHUNK_BYTES)
    split = largest_power_of_two_below(chunks)
    left = subtree_output(data[: split * CHUNK_BYTES], first_chunk, key, mode).chaining_value()
    right = subtree_output(data[split * CHUNK_BYTES :], first_chunk + split, key, mode).chaining_value()
    return Output(key, (*left, *right), 0, BLOCK_BYTES, mode | PARENT)


def blake3(data: bytes, length: int = 32, *, key: bytes | None = None, context: str | None = None) -> bytes:
    """BLAKE3 in its three modes: plain, keyed by 32 bytes, deriving a key under a context."""
    words, mode = IV, 0
    if key is not None:
        words, mode = struct.unpack("<8I", key), KEYED_HASH
    if context is not None:
        derived = subtree_output(context.encode(), 0, IV, DERIVE_KEY_CONTEXT).root_bytes(32)
        words, mode = struct.unpack("<8I", derived), DERIVE_KEY_MATERIAL
    return subtree_output(data, 0, words, mode).root_bytes(length)


def subtree_values(data: bytes, group_chunks: int, first_chunk: int = 0) -> list[bytes]:
    """Chaining values of every run of `group_chunks` chunks, never as a root; an empty message has one."""
    size = group_chunks * CHUNK_BYTES
    return [
        struct.pack(
            "<8I", *subtree_output(data[at : at + size], first_chunk + at // CHUNK_BYTES, IV, 0).chaining_value()
        )
        for at in range(0, max(1, len(data)), size)
    ]


def largest_power_of_two_below(count: int) -> int:
    power = 1
    while 2 * power < count:
        power *= 2
    return power


def tree_hash(leaves: Sequence[bytes], hash_bytes: Hash) -> bytes:
    """RFC 9162, section 2.1.1: the Merkle tree hash of an ordered list."""
    if not leaves:
        return hash_bytes(b"")
    if len(leaves) == 1:
        return hash_bytes(b"\x00" + leaves[0])
    split = largest_power_of_two_below(len(leaves))
    return hash_bytes(b"\x01" + tree_hash(leaves[:split], hash_bytes) + tree_hash(leaves[split:], hash_bytes))


def merkle(data: bytes, hash_name: str, leaf_bytes: int) -> bytes:
    """The tree hash over consecutive leaves of a byte string."""
    return tree_hash([data[at : at + leaf_bytes] for at in range(0, len(data), leaf_bytes)], HASHES[hash_name])


def digest(name: str, data: bytes) -> bytes:
    """Any digest by its name: blake3, a flat hash, or merkle-HASH-LEAFBYTES."""
    if name == "blake3":
        return blake3(data)
    if name in HASHES:
        return HASHES[name](data)
    prefix, rest = name.split("-", 1)
    hash_name, leaf_bytes = rest.rsplit("-", 1)
    if prefix != "merkle":
        raise ValueError(name)
    return merkle(data, hash_name, int(leaf_bytes))


def lattice_element(leaf: bytes) -> list[int]:
    return list(struct.unpack(f"<{LANES}H", blake3(leaf, 2 * LANES)))


def lattice_sum(leaves: Sequence[bytes]) -> bytes:
    """LtHash16-1024: the sum of the elements, lane by lane, modulo 2^16."""
    lanes = [0] * LANES
    for leaf in leaves:
        lanes = [(lane + more) % 65536 for lane, more in zip(lanes, lattice_element(leaf), strict=True)]
    return struct.pack(f"<{LANES}H", *lanes)


class Field(NamedTuple):
    """One field of a record, its content by digest."""

    name: str
    kind: int
    dtype: str
    shape: tuple[int, ...]
    nbytes: int
    digest: bytes


def prefixed(text: str) -> bytes:
    return len(text.encode()).to_bytes(4, "little") + text.encode()


def record_preimage(role: str, source: str, key: str, fields: Sequence[Field], hash_name: str) -> bytes:
    """docs/format.md, "Records": what a leaf is the hash of."""
    out = prefixed(role) + prefixed(source) + prefixed(key) + len(fields).to_bytes(2, "little")
    for field in sorted(fields, key=lambda field: field.name.encode()):
        out += prefixed(field.name) + bytes([field.kind]) + prefixed(field.dtype) + bytes([len(field.shape)])
        out += b"".join(size.to_bytes(8, "little") for size in field.shape) + field.nbytes.to_bytes(8, "little")
        out += prefixed(hash_name) + field.digest
    return out


def record_leaf(role: str, source: str, key: str, fields: Sequence[Field], hash_name: str) -> bytes:
    return blake3(record_preimage(role, source, key, fields, hash_name), context=LEAF_CONTEXT)
