# SPDX-License-Identifier: Apache-2.0
"""Lattice sums: a commutative group over 1024 lanes of 16 bits, with the values of the reference."""

from __future__ import annotations

import json
import struct

import pytest
from blake3 import blake3
from hypothesis import given
from hypothesis import strategies as st
from reference import trees, write_vectors

from sentry.engine.cpu import CpuEngine
from sentry.errors import FormatError
from sentry.formats.lattice import LANES, STATE_BYTES, LatticeSum

VECTORS = json.loads(write_vectors.VECTORS.read_text(encoding="ascii"))["lattice"]

# Sums of random lanes, and of lanes at the edges of 16 bits.
sums = st.one_of(
    st.integers(0, 2**32).map(lambda seed: LatticeSum(write_vectors.noise(STATE_BYTES, seed))),
    st.sampled_from([0, 1, 0x7FFF, 0x8000, 0xFFFF]).map(lambda lane: LatticeSum(struct.pack("<H", lane) * LANES)),
)


def sum_over(leaves: list[bytes]) -> LatticeSum:
    return CpuEngine().lattice_sum(leaves)


@pytest.mark.parametrize(("count", "checksum"), VECTORS.items())
def test_sums_are_those_of_the_vector_file(count: str, checksum: str) -> None:
    state = sum_over([write_vectors.leaf(index) for index in range(int(count))])
    assert blake3(state.state).hexdigest() == checksum


def test_the_element_of_hello_is_that_of_an_independent_implementation() -> None:
    # From the crate solana-lattice-hash; the XOF's input is the string itself.
    element = trees.blake3(b"hello", STATE_BYTES)
    assert struct.unpack_from("<2H", element) == (0x8FEA, 0x3D16)
    assert blake3(b"hello").digest(length=STATE_BYTES) == element


def test_the_empty_sum_is_zero_and_changes_nothing() -> None:
    some = sum_over([write_vectors.leaf(1)])
    assert LatticeSum().state == bytes(STATE_BYTES)
    assert sum_over([]) == LatticeSum()
    assert some + LatticeSum() == LatticeSum() + some == some - LatticeSum() == some


@given(sums, sums, sums)
def test_sums_are_associative_and_commutative(a: LatticeSum, b: LatticeSum, c: LatticeSum) -> None:
    assert (a + b) + c == a + (b + c)
    assert a + b == b + a


@given(sums, sums)
def test_subtraction_undoes_addition(a: LatticeSum, b: LatticeSum) -> None:
    assert (a + b) - b == a == (a - b) + b
    assert a - a == LatticeSum()
    assert LatticeSum() - (LatticeSum() - a) == a


@given(sums, sums)
def test_every_lane_is_added_modulo_two_to_the_sixteenth_and_no_carry_leaves_it(a: LatticeSum, b: LatticeSum) -> None:
    lanes = [struct.unpack(f"<{LANES}H", state.state) for state in (a, b)]
    plus = [(x + y) % 65536 for x, y in zip(*lanes, strict=True)]
    minus = [(x - y) % 65536 for x, y in zip(*lanes, strict=True)]
    assert (a + b).state == struct.pack(f"<{LANES}H", *plus)
    assert (a - b).state == struct.pack(f"<{LANES}H", *minus)


def test_a_sum_can_be_made_in_parts_in_any_order_and_samples_replaced() -> None:
    leaves = [write_vectors.leaf(index) for index in range(12)]
    whole = sum_over(leaves)
    assert sum_over(leaves[7:]) + sum_over(leaves[:7]) == sum_over(leaves[::-1]) == whole
    assert whole - sum_over([leaves[3]]) == sum_over(leaves[:3] + leaves[4:])
    assert whole != sum_over(leaves[:-1])
    assert whole != sum_over([*leaves, leaves[0]])


@pytest.mark.parametrize("nbytes", [0, 1, STATE_BYTES - 2, STATE_BYTES - 1, STATE_BYTES + 1, 2 * STATE_BYTES])
def test_a_state_of_another_length_is_refused(nbytes: int) -> None:
    with pytest.raises(FormatError, match=f"^a lattice state has 2048 bytes, not {nbytes}$"):
        LatticeSum(bytes(nbytes))


def test_a_state_is_not_shown_with_its_two_thousand_bytes() -> None:
    assert repr(LatticeSum()) == "LatticeSum()"
