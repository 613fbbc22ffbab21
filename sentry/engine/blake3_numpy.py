# SPDX-License-Identifier: Apache-2.0
"""BLAKE3's chaining values of subtrees, on the CPU: what the blake3 wheel computes and does not hand out.

All chunks of a message go through the compression function side by side, one numpy lane each. Source: the BLAKE3 paper,
section 2 (tables 1 to 3).
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

Words = npt.NDArray[np.uint32]

CHUNK_BYTES = 1024
BLOCK_BYTES = 64
CHUNK_START, CHUNK_END, PARENT, ROOT, DERIVE_KEY_CONTEXT = 1, 2, 4, 8, 32
IV = np.array(
    [0x6A09E667, 0xBB67AE85, 0x3C6EF372, 0xA54FF53A, 0x510E527F, 0x9B05688C, 0x1F83D9AB, 0x5BE0CD19], np.uint32
)
_PERMUTATION = [2, 6, 3, 10, 7, 0, 4, 13, 1, 11, 12, 5, 9, 14, 15, 8]
_COLUMNS = [(0, 4, 8, 12), (1, 5, 9, 13), (2, 6, 10, 14), (3, 7, 11, 15)]
_DIAGONALS = [(0, 5, 10, 15), (1, 6, 11, 12), (2, 7, 8, 13), (3, 4, 9, 14)]


def subtree_values(message: bytes, group_chunks: int, *, first_chunk: int = 0) -> list[bytes]:
    """Return the chaining value, never finalised as a root, of every run of chunks.

    Args:
        message: The bytes.
        group_chunks: Chunks of 1024 bytes in a run, a power of two; the last run may be shorter.
        first_chunk: Number of the message's first chunk in a longer message.
    """
    values = _chunk_values(message, first_chunk)
    while group_chunks > 1 and len(values) > 1:
        values = _pair(values)
        group_chunks //= 2
    return [row.astype("<u4").tobytes() for row in values]


def root_of(values: list[bytes]) -> bytes:
    """Merge the values of neighbouring subtrees, two or more, to the digest; all but the last are equally large."""
    level = np.frombuffer(b"".join(values), "<u4").reshape(len(values), 8)
    while len(level) > 2:
        level = _pair(level)
    flags = PARENT | ROOT
    words = _compress(IV[:, None], level.reshape(16, 1), np.zeros(1, np.uint64), BLOCK_BYTES, flags)
    return words[:, 0].astype("<u4").tobytes()


def derivation_key(context: str) -> Words:
    """Return the key words of key-derivation mode under a context of at most 64 bytes."""
    data = context.encode("utf-8")
    if len(data) > BLOCK_BYTES:
        raise ValueError("the context is longer than one block")
    words = np.frombuffer(data.ljust(BLOCK_BYTES, b"\0"), "<u4")[:, None]
    flags = CHUNK_START | CHUNK_END | ROOT | DERIVE_KEY_CONTEXT
    return _compress(IV[:, None], words, np.zeros(1, np.uint64), len(data), flags)[:, 0]


def _chunk_values(message: bytes, first_chunk: int) -> Words:
    """Chaining values of all chunks, one row each."""
    full = len(message) // CHUNK_BYTES
    rows = []
    if full:
        data = np.frombuffer(message, "<u4", count=full * CHUNK_BYTES // 4).reshape(full, 16, 16)
        value = np.tile(IV[:, None], (1, full))
        counters = np.arange(first_chunk, first_chunk + full, dtype=np.uint64)
        for block in range(16):
            flags = (CHUNK_START if block == 0 else 0) | (CHUNK_END if block == 15 else 0)
            value = _compress(value, data[:, block].T, counters, BLOCK_BYTES, flags)
        rows.append(value.T)
    rest = message[full * CHUNK_BYTES :]
    if rest or not full:
        rows.append(_last_chunk(rest, first_chunk + full).T)
    return np.concatenate(rows)


def _last_chunk(data: bytes, index: int) -> Words:
    blocks = [data[at : at + BLOCK_BYTES] for at in range(0, len(data), BLOCK_BYTES)] or [b""]
    value = IV[:, None]
    for number, block in enumerate(blocks):
        flags = (CHUNK_START if number == 0 else 0) | (CHUNK_END if number == len(blocks) - 1 else 0)
        words = np.frombuffer(block.ljust(BLOCK_BYTES, b"\0"), "<u4")[:, None]
        value = _compress(value, words, np.array([index], np.uint64), len(block), flags)
    return value


def _pair(values: Words) -> Words:
    """One level up: neighbours merge, an odd last value moves up unchanged."""
    pairs = len(values) // 2
    children = values[: 2 * pairs].reshape(pairs, 16).T
    key = np.tile(IV[:, None], (1, pairs))
    merged = _compress(key, children, np.zeros(pairs, np.uint64), BLOCK_BYTES, PARENT).T
    return np.concatenate([merged, values[2 * pairs :]])


def _compress(value: Words, block: Words, counters: npt.NDArray[np.uint64], nbytes: int, flags: int) -> Words:
    lanes = block.shape[1]
    state = np.empty((16, lanes), np.uint32)
    state[:8], state[8:12] = value, IV[:4, None]
    state[12], state[13] = counters & np.uint64(0xFFFFFFFF), counters >> np.uint64(32)
    state[14], state[15] = nbytes, flags
    order = list(range(16))
    for _ in range(7):
        for turn, lines in enumerate((_COLUMNS, _DIAGONALS)):
            for number, (a, b, c, d) in enumerate(lines):
                at = 8 * turn + 2 * number
                _mix(state, (a, b, c, d), block[order[at]], block[order[at + 1]])
        order = [order[index] for index in _PERMUTATION]
    return state[:8] ^ state[8:]


def _mix(state: Words, line: tuple[int, int, int, int], x: Words, y: Words) -> None:
    a, b, c, d = (state[index] for index in line)
    for word, first, second in ((x, 16, 12), (y, 8, 7)):
        a += b + word
        d[:] = _rotate(d ^ a, first)
        c += d
        b[:] = _rotate(b ^ c, second)


def _rotate(words: Words, bits: int) -> Words:
    return (words >> np.uint32(bits)) | (words << np.uint32(32 - bits))
