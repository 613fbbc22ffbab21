# SPDX-License-Identifier: Apache-2.0
"""The kernels themselves, as host code under UBSan, against published vectors and at every length that matters."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import pytest
from blake3 import blake3
from engines.host_kernels import HostKernels, hold
from engines.oracle import SMALL_NAMES, expected, unit_of
from reference.write_vectors import noise, pattern

from sentry.engine import schedule as plain
from sentry.engine import schedules
from sentry.engine.blake3_numpy import CHUNK_BYTES
from sentry.engine.kernels import DIRECTORY, MODULES
from sentry.engine.schedule import Schedule, Shape
from sentry.formats.digest import digest_bytes
from sentry.formats.lattice import STATE_BYTES

PUBLISHED = Path(__file__).parents[3] / "shared" / "data" / "blake3" / "test_vectors.json"
# BLAKE3 of the elements of two strings, from the tests of the crate solana-lattice-hash.
ELEMENTS = {
    b"hello": "4f9c1ab89ccd5ed0b6eb21936f99e598cf854b6db6c6773d0b51294618576455",
    b"world!": "ab35b90ab3313097572b8d0d2b987901900778bc73f8d6dce5d2af86d7e712f5",
}
# The numbers that a schedule and the kernels must agree on, by file.
SHARED = {
    "tree.cuh": {"TREE_THREADS": plain.TREE_THREADS, "TREE_TILE": Shape().tile},
    "blake3.cu": {"CHUNK_THREADS": Shape().block, "CHUNK_BYTES": CHUNK_BYTES},
    "lthash.cu": {
        "LATTICE_THREADS": schedules.LATTICE_THREADS,
        "FINISH_THREADS": schedules.FINISH_THREADS,
        "LATTICE_WORDS": STATE_BYTES // 4,
    },
}


def digests(kernels: HostKernels, name: str, messages: list[bytes], residues: tuple[int, ...] = (0,)) -> list[bytes]:
    inputs, _held = hold([[message] for message in messages], residues=residues)
    result = kernels.run(schedules.digests(name, inputs, Shape()))
    size = digest_bytes(name)
    return [result[at : at + size] for at in range(0, len(result), size)]


def test_undefined_behaviour_would_end_the_process(host_kernels: HostKernels) -> None:
    for module in MODULES:
        assert re.search(rb"__ubsan_handle_\w+_abort", host_kernels.library(module).read_bytes())


def test_blake3s_own_vectors(host_kernels: HostKernels) -> None:
    if not PUBLISHED.exists():
        pytest.skip("blake3 is not beside the checkout")
    cases = json.loads(PUBLISHED.read_text(encoding="utf-8"))["cases"]
    messages = [pattern(case["input_len"]) for case in cases]
    assert [digest.hex() for digest in digests(host_kernels, "blake3", messages)] == [
        case["hash"][:64] for case in cases
    ]


@pytest.mark.parametrize("text", ELEMENTS)
def test_lattice_elements_of_an_independent_implementation(host_kernels: HostKernels, text: bytes) -> None:
    schedule = Schedule()
    leaf = schedule.table(np.frombuffer(text.ljust(32, b"\0"), np.uint8))
    partial, state = schedule.scratch(STATE_BYTES), schedule.result(STATE_BYTES)
    threads, finishers = schedules.LATTICE_THREADS, schedules.FINISH_THREADS
    schedule.launch("lattice", "lattice_partial", threads, threads, leaf, 1, len(text), schedules.ONE, partial)
    schedule.launch("lattice", "lattice_finish", 16 * finishers, finishers, partial, 1, state)
    assert blake3(host_kernels.run(schedule)).hexdigest() == ELEMENTS[text]


@pytest.mark.parametrize("name", SMALL_NAMES)
def test_every_length_around_blocks_and_units_at_every_alignment(host_kernels: HostKernels, name: str) -> None:
    block, unit = unit_of(name)
    around = {base + step for base in (block, 2 * block, unit, 2 * unit, 3 * unit) for step in (-1, 0, 1)}
    messages = [noise(nbytes, nbytes) for nbytes in sorted({*range(9), *around})]
    right = [expected(name, message) for message in messages]
    for residue in (-1, -2, *range(16)):
        assert digests(host_kernels, name, messages, (residue,)) == right, residue


@pytest.mark.parametrize("name", ["blake3", "merkle-sha256-1024", "merkle-sha3-256-1024", "merkle-blake2b-256-1024"])
def test_every_number_of_chunks_up_to_a_hundred(host_kernels: HostKernels, name: str) -> None:
    messages = [noise(1024 * count - (count % 3), count) for count in range(2, 101)]
    assert digests(host_kernels, name, messages, (-1, 0, 5)) == [expected(name, message) for message in messages]


@pytest.mark.parametrize("file", SHARED)
def test_schedules_and_kernels_agree_on_their_constants(file: str) -> None:
    text = (DIRECTORY / file).read_text(encoding="ascii")
    assert {name: int(value) for name, value in re.findall(r"#define (\w+) (\d+)\b", text)}.items() >= SHARED[
        file
    ].items()
