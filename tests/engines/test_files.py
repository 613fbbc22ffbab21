# SPDX-License-Identifier: Apache-2.0
"""Files and host memory through every engine: any length around its blocks, progress, and files that end too early."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from engines.oracle import NAMES, SMALL_NAMES, expected
from engines.places import Place
from reference.write_vectors import noise

from sentry.engine.contract import Engine
from sentry.engine.cpu import CpuEngine
from sentry.engine.segments import DeviceBytes, FileRange, HostBytes, Segment, ShortReadError
from sentry.errors import EngineError

MEBIBYTE = 1024 * 1024
# Around a group and a CPU block (1 MiB), the CPU engine's inline limit (4 MiB), and a block of the GPU's ring (8 MiB).
SIZES = [0, 1, 65, *(size * MEBIBYTE + by for size in (1, 2, 4, 8) for by in (-1, 0, 1))]
SLOW_SIZES = (4 * MEBIBYTE - 1, 4 * MEBIBYTE, 8 * MEBIBYTE - 1)
LARGE = 17 * MEBIBYTE + 12_345
PAIR = ("blake3", "merkle-sha256-8192")


@pytest.fixture(scope="module")
def data() -> bytes:
    return noise(LARGE)


@pytest.fixture
def descriptor(tmp_path: Path, data: bytes) -> Iterator[int]:
    path = tmp_path / "data"
    path.write_bytes(data)
    opened = os.open(path, os.O_RDONLY)
    yield opened
    os.close(opened)


@pytest.mark.parametrize("nbytes", SIZES)
def test_a_file_of_any_length_has_its_digests(
    engine: Engine, engine_kind: str, descriptor: int, data: bytes, nbytes: int, *, thorough: bool
) -> None:
    if engine_kind == "simulated" and nbytes in SLOW_SIZES and not thorough:
        pytest.skip("a long campaign: pass --slow")
    digests = engine.digest(PAIR, [FileRange(descriptor, 7, nbytes)])
    assert digests == {name: expected(name, data[7 : 7 + nbytes]) for name in PAIR}


@pytest.mark.parametrize("nbytes", [0, 1, MEBIBYTE - 1, MEBIBYTE, MEBIBYTE + 1])
def test_host_memory_of_any_length_has_its_digests(engine: Engine, data: bytes, nbytes: int) -> None:
    for view in (data[:nbytes], memoryview(data)[:nbytes], memoryview(bytearray(data[:nbytes]))):
        digests = engine.digest(PAIR, [HostBytes(view)])
        assert digests == {name: expected(name, data[:nbytes]) for name in PAIR}


def test_a_file_longer_than_the_ring_has_its_digests(engine: Engine, descriptor: int, data: bytes) -> None:
    hashes = ("blake3", "sha256", "merkle-sha256-8192")
    assert engine.digest(hashes, [FileRange(descriptor, 0, LARGE)]) == {name: expected(name, data) for name in hashes}


def test_every_hash_at_once_from_one_read(engine: Engine, descriptor: int, data: bytes) -> None:
    seen: list[int] = []
    digests = engine.digest(SMALL_NAMES, [FileRange(descriptor, 3, MEBIBYTE + 5)], progress=seen.append)
    assert digests == {name: expected(name, data[3 : 3 + MEBIBYTE + 5]) for name in SMALL_NAMES}
    assert sum(seen) == MEBIBYTE + 5


def test_pieces_of_files_and_of_host_memory_are_one_message(engine: Engine, descriptor: int, data: bytes) -> None:
    segments: list[Segment] = [
        FileRange(descriptor, 0, 1000),
        HostBytes(data[1000:1001]),
        HostBytes(b""),
        FileRange(descriptor, 5, 0),
        FileRange(descriptor, 1001, MEBIBYTE),
        HostBytes(memoryview(data)[1001 + MEBIBYTE : 2 * MEBIBYTE + 77]),
    ]
    assert engine.digest(PAIR, segments) == {name: expected(name, data[: 2 * MEBIBYTE + 77]) for name in PAIR}


def test_no_segment_is_the_empty_string(engine: Engine) -> None:
    assert engine.digest(NAMES, []) == {name: expected(name, b"") for name in NAMES}
    assert engine.digest([], [HostBytes(b"abc")]) == {}


@pytest.mark.parametrize("nbytes", [0, 1, 100_000, 5 * MEBIBYTE + 1])
def test_progress_adds_up_to_the_bytes_read(engine: Engine, descriptor: int, nbytes: int) -> None:
    seen: list[int] = []
    segments = [FileRange(descriptor, 0, nbytes), HostBytes(b"abc")]
    engine.digest(["blake3"], segments, progress=seen.append)  # type: ignore[arg-type]
    assert sum(seen) == nbytes + 3
    assert all(step > 0 for step in seen)


@pytest.mark.parametrize(
    ("offset", "nbytes"), [(LARGE - 10, 11), (LARGE, 1), (LARGE + 1000, 1), (0, LARGE + 1), (5, 10**15)]
)
def test_a_file_that_ends_too_early_is_an_error(engine: Engine, descriptor: int, offset: int, nbytes: int) -> None:
    with pytest.raises(ShortReadError, match=r"^a file became shorter while it was read$"):
        engine.digest(
            ["merkle-sha256-1048576" if nbytes < MEBIBYTE else "sha256"], [FileRange(descriptor, offset, nbytes)]
        )


def test_after_a_failed_read_the_engine_goes_on(engine: Engine, descriptor: int, data: bytes) -> None:
    for _ in range(6):
        with pytest.raises(ShortReadError):
            engine.digest(["blake3"], [FileRange(descriptor, LARGE, 1)])
    assert engine.digest(["blake3"], [FileRange(descriptor, 0, 5000)])["blake3"] == expected("blake3", data[:5000])


def test_a_descriptor_that_cannot_be_read_is_an_error(engine: Engine, tmp_path: Path) -> None:
    opened = os.open(tmp_path / "new", os.O_WRONLY | os.O_CREAT)
    with pytest.raises(OSError, match=r"Bad file descriptor"):
        engine.digest(["blake3"], [FileRange(opened, 0, 10)])
    os.close(opened)


def test_the_evidence_says_which_hashes_the_host_computes(engine: Engine, engine_kind: str) -> None:
    on_host = ("sha256", "sha3-256", "blake2b", "blake2b-256")
    assert engine.host_hashes(NAMES) == (() if engine_kind == "cpu" else on_host)


@pytest.mark.parametrize("name", ["blake3", "sha256", "merkle-sha256-1024"])
def test_memory_on_the_engine_and_a_file_are_one_message(
    engine: Engine, place: Place, descriptor: int, data: bytes, name: str
) -> None:
    segments = [HostBytes(data[:99]), place(data[99:2000], 9).segment, FileRange(descriptor, 2000, 3001)]
    assert engine.digest([name], segments) == {name: expected(name, data[:5001])}
    assert engine.digests(name, [segments, segments[::-1]])[0] == expected(name, data[:5001])


def test_progress_is_told_of_files_beside_memory_of_the_engine(engine: Engine, place: Place, descriptor: int) -> None:
    seen: list[int] = []
    engine.digest(["blake3"], [place(b"abc").segment, FileRange(descriptor, 0, 1000)], progress=seen.append)
    assert sum(seen) >= 1000


def test_memory_of_a_gpu_is_out_of_the_cpus_reach() -> None:
    segment = DeviceBytes(4096, 10, 0)
    attempts: list[Callable[[], object]] = [
        lambda: CpuEngine().digest(["blake3"], [HostBytes(b"abc"), segment]),
        lambda: CpuEngine().digests("blake3", [segment]),
        lambda: CpuEngine().plan("blake3", [segment]).run(),
        lambda: CpuEngine().subtrees(segment, 1),
    ]
    for attempt in attempts:
        with pytest.raises(EngineError, match=r"^the bytes are in a GPU's memory$") as caught:
            attempt()
        assert caught.value.hint == "use engine='cuda', or move them to the host"
