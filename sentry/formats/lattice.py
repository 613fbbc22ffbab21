# SPDX-License-Identifier: Apache-2.0
"""LtHash16-1024: a sum over a set of leaves that can be split, merged, added to and subtracted from.

Implements docs/format.md, "Lattice sums" (Bellare and Micciancio's LtHash as Lewi et al. fixed its parameters, with
BLAKE3 as the extendable-output function). The sum does not prove completeness: over repeated elements it is linear
algebra modulo 2^16. Nothing here computes elements from leaves; engines do.
"""

from __future__ import annotations

import sys
from array import array
from collections.abc import Callable
from dataclasses import dataclass, field

from sentry.errors import FormatError

LANES = 1024
STATE_BYTES = 2 * LANES
_LANE_MASK = 0xFFFF


@dataclass(frozen=True)
class LatticeSum:
    """A state: 1024 lanes of 16 bits, little-endian.

    Raises:
        FormatError: The state is not 2048 bytes long.
    """

    state: bytes = field(default=bytes(STATE_BYTES), repr=False)

    def __post_init__(self) -> None:
        if len(self.state) != STATE_BYTES:
            raise FormatError(f"a lattice state has {STATE_BYTES} bytes, not {len(self.state)}")

    def __add__(self, other: LatticeSum) -> LatticeSum:
        """Return the sum over both multisets."""
        return self._lanewise(other, lambda a, b: (a + b) & _LANE_MASK)

    def __sub__(self, other: LatticeSum) -> LatticeSum:
        """Return the sum without the other multiset's elements; removing what was never added goes unnoticed."""
        return self._lanewise(other, lambda a, b: (a - b) & _LANE_MASK)

    def _lanewise(self, other: LatticeSum, combine: Callable[[int, int], int]) -> LatticeSum:
        lanes = array("H", map(combine, _lanes(self.state), _lanes(other.state)))
        return LatticeSum(_to_little_endian(lanes).tobytes())


def _lanes(state: bytes) -> array[int]:
    return _to_little_endian(array("H", state))


def _to_little_endian(lanes: array[int]) -> array[int]:
    if sys.byteorder != "little":
        lanes.byteswap()
    return lanes
