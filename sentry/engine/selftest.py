# SPDX-License-Identifier: Apache-2.0
"""Kernels prove themselves before anything is believed of them.

In every process, every module that is loaded digests random bytes that no cache could have known, and the same bytes
with one bit flipped; both results must be the CPU engine's. A module that answers from memory, or always says yes, is
caught; so is a miscompiled one.
"""

from __future__ import annotations

import os
import secrets
from collections.abc import Callable, Sequence

from sentry.engine.cpu import CpuEngine
from sentry.errors import EngineError
from sentry.formats.digest import TREE_HASHES
from sentry.formats.lattice import LatticeSum
from sentry.formats.record import FieldType, Kind, Preimage, lay_out

# Empty, one byte, around a block, around a chunk, several tiles; all but the first may lie unaligned.
LENGTHS = (0, 1, 63, 64, 65, 1023, 1024, 1025, 3 * 1024 + 7, 129 * 1024 + 1)

Digests = Callable[[str, Sequence[bytes]], list[bytes]]
Leaves = Callable[[Sequence[tuple[Preimage, Sequence[bytes]]]], list[bytes]]
Subtrees = Callable[[bytes, int], list[bytes]]
Lattice = Callable[[Sequence[bytes]], LatticeSum]


def names_of(module: str) -> tuple[str, ...]:
    """Return the digest names that exercise every kernel of a module."""
    return (module, f"merkle-{module}-1024") if module in TREE_HASHES else (module,)


def prove(module: str, digests: Digests, lattice: Lattice) -> None:
    """Put a module's kernels to the test.

    Args:
        module: A key of `sentry.engine.kernels.MODULES`.
        digests: Digests byte strings with the module under test.
        lattice: Sums leaves with the module under test.

    Raises:
        EngineError: A result differs from the CPU engine's.
    """
    cpu = CpuEngine(threads=1)
    if module == "lattice":
        leaves = [os.urandom(32) for _ in range(300)]
        for sample in (leaves, [_tampered(leaves[0]), *leaves[1:]]):
            if lattice(sample) != cpu.lattice_sum(sample):
                raise _caught(module)
        return
    messages = [os.urandom(length) for length in LENGTHS]
    tampered = [_tampered(message) for message in messages]
    for name in names_of(module):
        for sample in (messages, tampered):
            if digests(name, sample) != cpu.digests(name, sample):
                raise _caught(module)


def prove_structures(leaves: Leaves, subtrees: Subtrees) -> None:
    """Put the kernels that only records and subtree values use to the test.

    Args:
        leaves: Computes the leaves of records with the module under test.
        subtrees: Computes the subtree values of a byte string, by a number of chunks.

    Raises:
        EngineError: A result differs from the CPU engine's.
    """
    cpu = CpuEngine(threads=1)
    contents = [os.urandom(length) for length in (0, 5, 3000)]
    fields = tuple(FieldType(str(number), Kind.BYTES, "", (), len(item)) for number, item in enumerate(contents))
    preimage = lay_out("sample", "", "self-test", fields[::-1], hash_name="blake3")
    for sample in (contents, [*contents[:2], _tampered(contents[2])]):
        records = [(preimage, sample[::-1])]
        if leaves(records) != cpu.leaves("blake3", records) or subtrees(sample[2], 2) != cpu.subtrees(sample[2], 2):
            raise _caught("blake3")


def _tampered(data: bytes) -> bytes:
    if not data:
        return data
    changed = bytearray(data)
    changed[secrets.randbelow(len(data))] ^= 1 << secrets.randbelow(8)
    return bytes(changed)


def _caught(module: str) -> EngineError:
    return EngineError(
        f"the kernels of {module} compute wrong digests on this GPU",
        hint="remove the kernel cache (`sentry doctor` says where); if that does not help, the GPU or driver is broken",
    )
