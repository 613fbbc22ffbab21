# SPDX-License-Identifier: Apache-2.0
"""How fast a GPU's integer units let each hash be: operations per byte, counted from machine code for sm_90.

An SM starts 64 operations a clock on the ALU pipe (LOP3, SHF, PRMT, IADD3). Additions are written so that they run on
the other pipe (IMAD), which leaves the counts below for the ALU pipe; they bound every hash here, since all need more
time for it than for reading memory. roof = SMs x 64 x clock / (operations per byte).
"""

from __future__ import annotations

from dataclasses import dataclass

ALU_LANES = 64
# Operations on the ALU pipe for one block, additions moved to the other pipe.
BLAKE3_BLOCK = 463
SHA256_BLOCK = 1154
BLAKE2B_BLOCK = 1947
SHA3_PERMUTATION = 4692
# The same block of BLAKE3 with its additions where the compiler puts them.
BLAKE3_BLOCK_PLAIN = 579

LEAF_BYTES = 8192
MESSAGE_BYTES = 65536
RECORD_BYTES = 3072
# A record of 3 KiB: 48 blocks in 3 chunks, 2 nodes above them, 32 blocks of output for its element of the sum. The
# leaf's preimage (2 blocks) and adding up are not counted, so shares of this roof are a little too low.
RECORD_BLOCKS = RECORD_BYTES // 64 + 2 + 32


@dataclass(frozen=True)
class Roof:
    """What one hash costs the ALU pipe.

    Attributes:
        operations: In all, for `nbytes`.
        nbytes: Bytes of input.
        formula: The same in words.
    """

    operations: float
    nbytes: int
    formula: str

    @property
    def per_byte(self) -> float:
        """Operations per byte."""
        return self.operations / self.nbytes

    def bytes_per_second(self, mhz: float, sms: int) -> float:
        """Return the roof of a GPU with so many SMs at a clock."""
        return sms * ALU_LANES * mhz * 1e6 / self.per_byte


def padded_blocks(nbytes: int, block: int, padding: int) -> int:
    """Return how many blocks a message takes with at least `padding` bytes behind it."""
    return -(-(nbytes + padding) // block)


def _tree(name: str, operations: int, block: int, padding: int) -> Roof:
    """A leaf has a byte before it, a node has one before two digests; there is one node for each leaf but one."""
    leaf, node = (padded_blocks(nbytes, block, padding) for nbytes in (1 + LEAF_BYTES, 1 + 64))
    formula = f"{operations} per {block} B {name} block x ({leaf} a leaf + {node} a node) / {LEAF_BYTES} B"
    return Roof(operations * (leaf + node), LEAF_BYTES, formula)


def _flat_sha256() -> Roof:
    blocks = padded_blocks(MESSAGE_BYTES, 64, 9)
    return Roof(SHA256_BLOCK * blocks, MESSAGE_BYTES, f"{SHA256_BLOCK} per 64 B block x {blocks} / {MESSAGE_BYTES} B")


LATTICE, FLAT = "lthash-3072", "sha256-64K-messages"
ROOFS = {
    "blake3": Roof(BLAKE3_BLOCK * 17, 1024, f"{BLAKE3_BLOCK} per 64 B block x (16 a chunk + 1 a node) / 1024 B"),
    # SHA-256 pads by a byte and the length in 8; BLAKE2b by nothing; SHA-3 by at least one byte.
    "merkle-sha256-8192": _tree("SHA-256", SHA256_BLOCK, 64, 9),
    "merkle-blake2b-256-8192": _tree("BLAKE2b", BLAKE2B_BLOCK, 128, 0),
    "merkle-sha3-256-8192": _tree("SHA3-256", SHA3_PERMUTATION, 136, 1),
    LATTICE: Roof(
        BLAKE3_BLOCK * RECORD_BLOCKS, RECORD_BYTES, f"{BLAKE3_BLOCK} per block x (48 + 2 + 32) / {RECORD_BYTES} B"
    ),
    FLAT: _flat_sha256(),
}
LATTICE_PLAIN = Roof(
    BLAKE3_BLOCK_PLAIN * RECORD_BLOCKS,
    RECORD_BYTES,
    f"{BLAKE3_BLOCK_PLAIN} (additions not moved) per block x (48 + 2 + 32) / {RECORD_BYTES} B",
)
