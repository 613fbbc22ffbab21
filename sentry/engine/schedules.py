# SPDX-License-Identifier: Apache-2.0
"""The schedules of the engine's operations: digests, subtree values, record leaves, lattice sums (docs/kernels.md)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from sentry.engine.blake3_numpy import CHUNK_BYTES, IV, Words, derivation_key
from sentry.engine.schedule import (
    MAX_SLOTS,
    TREE_THREADS,
    VALUE_BYTES,
    Argument,
    Counts,
    Inputs,
    Pointer,
    Schedule,
    Shape,
)
from sentry.errors import EngineError
from sentry.formats.digest import digest_bytes, tree_of
from sentry.formats.lattice import STATE_BYTES
from sentry.formats.record import LEAF_CONTEXT, Preimage

# The kernels multiply by it so that additions run on the otherwise idle pipe; the compiler must not know its value.
ONE = 1
DERIVE_KEY_MATERIAL = 64
LATTICE_THREADS = 256
FINISH_THREADS = 512
# Blocks that add up leaves before the sums are added: three for each of the 132 processors of an H100, which all run at
# once; each goes over many leaves.
LATTICE_BLOCKS = 396

Prefix: TypeAlias = npt.NDArray[np.uint32]
KeyWords: TypeAlias = tuple[np.uint64, np.uint64, np.uint64, np.uint64]
Batch: TypeAlias = tuple[Pointer, Pointer, Pointer]


@dataclass(frozen=True)
class Blake3Mode:
    """Key words and mode flags of BLAKE3; plain hashing by default."""

    key: Words
    flags: int


PLAIN = Blake3Mode(IV, 0)


def digests(hash_name: str, inputs: Inputs, shape: Shape) -> Schedule:
    """Digest every message; the result holds the digests one after the other."""
    schedule = Schedule()
    out = schedule.result(inputs.messages * digest_bytes(hash_name))
    _add_digests(schedule, hash_name, _batch(schedule, inputs), inputs, shape, out)
    return schedule


def subtrees(inputs: Inputs, group_chunks: int, shape: Shape, first_chunk: int = 0) -> Schedule:
    """BLAKE3 chaining values, never finalised as roots, of every run of `group_chunks` chunks of one message.

    The message's chunks are numbered from `first_chunk` on: it may be part of a longer one.
    """
    schedule = Schedule()
    batch = _batch(schedule, inputs)
    words = _key_words(IV)
    first = _slots(inputs.message_bytes, CHUNK_BYTES)
    count = int(first[-1])
    if first_chunk + count > MAX_SLOTS + 1:
        raise EngineError("the chunk numbers of so long a message do not fit the kernel", hint="4 TB is the limit")
    steps = []
    while group_chunks > 1:
        steps.append(min(group_chunks, shape.tile))
        group_chunks //= steps[-1]
    values = (schedule.scratch if steps else schedule.result)(VALUE_BYTES * count)
    _add_chunks(schedule, batch, first, shape, words, 0, values, root=0, first_chunk=first_chunk)
    for number, tile in enumerate(steps):
        tiles = -(-count // tile)
        out = (schedule.result if number == len(steps) - 1 else schedule.scratch)(VALUE_BYTES * tiles)
        entry = schedule.table(np.array([[0, count, 0, 0]], np.uint32))
        schedule.launch(
            "blake3", "nodes", tiles * TREE_THREADS, TREE_THREADS,
            values, entry, 1, tiles, 0, tile, *words, 0, 0, ONE, out, out,
        )  # fmt: skip
        values, count = out, tiles
    return schedule


def leaves(hash_name: str, preimages: Sequence[Preimage], contents: Inputs, shape: Shape, *, lattice: bool) -> Schedule:
    """Leaves of records: digest every field's content, put the digests into the preimages, hash those.

    Args:
        hash_name: Digest algorithm of the contents.
        preimages: One per record.
        contents: Every field of every record in the caller's order, a message each.
        shape: Launch shape.
        lattice: Add the sum over the leaves behind them.
    """
    schedule = Schedule()
    size = digest_bytes(hash_name)
    out = schedule.result(VALUE_BYTES * len(preimages))
    filled = schedule.scratch(size * contents.messages)
    _add_digests(schedule, hash_name, _batch(schedule, contents), contents, shape, filled)
    # Each starts at an address that lets the kernel read 16 bytes at a time.
    templates = [preimage.template for preimage in preimages]
    text = schedule.table(np.frombuffer(b"".join(item + bytes(-len(item) % 16) for item in templates), np.uint8))
    lengths = np.array([len(item) for item in templates], np.uint64)
    room = (lengths + np.uint64(15)) // np.uint64(16) * np.uint64(16)
    starts = room.cumsum(dtype=np.uint64) - room + np.uint64(text.offset)
    _add_holes(schedule, preimages, starts, filled, size)
    inputs = Inputs.one_segment_each(starts, lengths)
    batch = (schedule.addresses(starts, "tables"), *_batch(schedule, inputs)[1:])
    mode = Blake3Mode(derivation_key(LEAF_CONTEXT), DERIVE_KEY_MATERIAL)
    _add_digests(schedule, "blake3", batch, inputs, shape, out, mode)
    if lattice:
        _add_lattice(schedule, out, len(preimages))
    return schedule


def lattice_sum(leaf_bytes: bytes, count: int) -> Schedule:
    """Sum over leaves of 32 bytes that lie one after the other on the host."""
    schedule = Schedule()
    _add_lattice(schedule, schedule.table(np.frombuffer(leaf_bytes, np.uint8)), count)
    return schedule


def _batch(schedule: Schedule, inputs: Inputs) -> Batch:
    return (
        schedule.table(inputs.pointers),
        schedule.table(inputs.segment_starts),
        schedule.table(inputs.first_segment),
    )


def _key_words(key: Words) -> KeyWords:
    """Eight key words as four kernel arguments: constants there cost no register, a table would cost a load each."""
    first, second, third, fourth = np.ascontiguousarray(key, np.uint32).view(np.uint64)
    return first, second, third, fourth


def _slots(nbytes: Counts, unit: int) -> Prefix:
    """Prefix sum of the number of chunks or leaves of each message; an empty message has one."""
    ends = np.maximum(1, (nbytes + (unit - 1)) // unit).cumsum()
    if len(ends) and ends[-1] > MAX_SLOTS:
        raise EngineError("too much memory for one call", hint="digest it in parts of at most 4 TB")
    first = np.zeros(len(ends) + 1, np.uint32)
    first[1:] = ends
    return first


def _add_digests(
    schedule: Schedule,
    hash_name: str,
    batch: Batch,
    inputs: Inputs,
    shape: Shape,
    out: Pointer,
    mode: Blake3Mode = PLAIN,
) -> None:
    tree = tree_of(hash_name)
    count = inputs.messages
    if hash_name == "blake3":
        words = _key_words(mode.key)
        first = _slots(inputs.message_bytes, CHUNK_BYTES)
        slots = int(first[-1])
        # A message of one chunk needs no tree.
        values = out if slots == count else schedule.scratch(VALUE_BYTES * slots)
        _add_chunks(schedule, batch, first, shape, words, mode.flags, values, root=1)
        if values != out:
            _add_reduction(schedule, "blake3", values, first, (*words, mode.flags, 1, ONE), shape, out)
    elif tree is None:
        schedule.launch(hash_name, "flat", count, shape.block, *batch, count, ONE, out)
    else:
        base, leaf_bytes = tree
        first = _slots(inputs.message_bytes, leaf_bytes)
        slots = int(first[-1])
        values = out if slots == count else schedule.scratch(VALUE_BYTES * slots)
        table = schedule.table(first)
        schedule.launch(base, "leaves", slots, shape.block, *batch, table, count, slots, leaf_bytes, ONE, values)
        if values != out:
            _add_reduction(schedule, base, values, first, (ONE,), shape, out)


def _add_chunks(
    schedule: Schedule,
    batch: Batch,
    first: Prefix,
    shape: Shape,
    words: KeyWords,
    flags: int,
    out: Pointer,
    *,
    root: int,
    first_chunk: int = 0,
) -> None:
    slots = int(first[-1])
    table = schedule.table(first)
    schedule.launch(
        "blake3", "chunks", slots, shape.block,
        *batch, table, len(first) - 1, slots, first_chunk, *words, flags, root, ONE, out,
    )  # fmt: skip


def _add_reduction(
    schedule: Schedule,
    module: str,
    values: Pointer,
    first: Prefix,
    extra: tuple[Argument, ...],
    shape: Shape,
    out: Pointer,
) -> None:
    """Add tree levels until every message has one value; see kernels/tree.cuh for the table of a level."""
    # For every message that is left: where its values start, how many there are, where its digest goes.
    starts, counts, where = first[:-1], first[1:] - first[:-1], np.arange(len(first) - 1, dtype=np.uint32)
    while len(counts):
        is_large = counts > shape.serial
        large = np.flatnonzero(is_large)
        small = np.flatnonzero(~is_large)
        tiles = (counts[large] + np.uint32(shape.tile - 1)) // np.uint32(shape.tile)
        first_tile = tiles.cumsum(dtype=np.uint32) - tiles
        n_tiles = int(first_tile[-1] + tiles[-1]) if len(tiles) else 0
        order = np.concatenate([large, small])
        table = np.zeros((len(order), 4), np.uint32)
        table[:, 0], table[:, 1], table[:, 2] = starts[order], counts[order], where[order]
        table[: len(large), 3] = first_tile
        entries = schedule.table(table)
        next_values = schedule.scratch(VALUE_BYTES * n_tiles)
        blocks = n_tiles + -(-len(small) // TREE_THREADS)
        schedule.launch(
            module, "nodes", blocks * TREE_THREADS, TREE_THREADS,
            values, entries, len(large), n_tiles, len(small), shape.tile, *extra, next_values, out,
        )  # fmt: skip
        # The next level's values are this level's tiles.
        more = tiles > 1
        starts, counts, where = first_tile[more], tiles[more], where[large[more]]
        values = next_values


def _add_holes(
    schedule: Schedule, preimages: Sequence[Preimage], starts: npt.NDArray[np.uint64], digests: Pointer, size: int
) -> None:
    """Add the copy of each field's digest into its record's preimage."""
    where, which, first_field = [], [], 0
    for preimage, start in zip(preimages, starts.tolist(), strict=True):
        where += [start + hole for hole in preimage.holes]
        which += [first_field + index for index in preimage.order]
        first_field += len(preimage.order)
    to = schedule.addresses(np.array(where, np.uint64), "tables")
    fields = schedule.table(np.array(which, np.uint32))
    words = size // 4
    schedule.launch("blake3", "fill_holes", len(where) * words, 256, to, fields, len(where), digests, words)


def _add_lattice(schedule: Schedule, leaf_values: Pointer, count: int) -> None:
    blocks = max(1, min(LATTICE_BLOCKS, count))
    partial = schedule.scratch(STATE_BYTES * blocks)
    state = schedule.result(STATE_BYTES)
    threads = blocks * LATTICE_THREADS
    schedule.launch(
        "lattice", "lattice_partial", threads, LATTICE_THREADS, leaf_values, count, VALUE_BYTES, ONE, partial
    )
    schedule.launch("lattice", "lattice_finish", 16 * FINISH_THREADS, FINISH_THREADS, partial, blocks, state)
