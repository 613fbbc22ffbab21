# SPDX-License-Identifier: Apache-2.0
"""What `benchmarks/hash.py` hashes: random memory, records, many messages; each is checked here before it is timed."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt
from blake3 import blake3

from benchmarks.roofs import MESSAGE_BYTES, RECORD_BYTES
from sentry.engine import schedules
from sentry.engine.cpu import CpuEngine
from sentry.engine.cuda import SHAPE, SMALL_BYTES, SMALL_SHAPE, CudaEngine
from sentry.engine.gpu import Bound, Gpu
from sentry.engine.schedule import Inputs, Schedule
from sentry.engine.segments import DeviceBytes, HostBytes
from sentry.formats.record import FieldType, Kind, Preimage, lay_out

Bytes = npt.NDArray[np.uint8]

MIB = 1024 * 1024
TILE_BYTES = 64 * MIB
# Pieces that are compared with the CPU engine: how far from an aligned address, and length.
PIECES = ((0, 3 * MIB + 777), (5, 2 * MIB + 1), (3, 8192), (0, 0))
SLICE_BYTES, SLICE_OFFSET = 12 * MIB + 4099, 1
CHECKED_RECORDS = 4096
CPU_RECORDS = 16384


class Memory:
    """A GPU's memory, full of random bytes without a repetition.

    Attributes:
        address: Where it starts.
        nbytes: Its size.
        blake3: The digest of all of it, computed on the host as the bytes went by.
    """

    def __init__(self, gpu: Gpu, stream: Any, nbytes: int) -> None:  # noqa: ANN401  (cuda.core's Stream)
        self._gpu = gpu
        self._stream = stream
        self._buffer = gpu.allocate(nbytes, stream)
        self.address = int(self._buffer.handle)
        self.nbytes = nbytes
        state = blake3(max_threads=blake3.AUTO)
        threads = len(os.sched_getaffinity(0))
        tiles = -(-nbytes // TILE_BYTES)
        with ThreadPoolExecutor(threads) as pool:
            for first in range(0, tiles, threads):
                numbers = range(first, min(tiles, first + threads))
                for number, tile in zip(numbers, pool.map(_random_tile, numbers), strict=True):
                    at = number * TILE_BYTES
                    part = tile[: nbytes - at]
                    gpu.copy_in(self.address + at, part, stream)
                    state.update(memoryview(part))  # type: ignore[arg-type]
                    stream.sync()
        self.blake3 = state.digest()

    def segment(self, offset: int, nbytes: int) -> DeviceBytes:
        """Return a part of it as an engine wants it."""
        return DeviceBytes(self.address + offset, nbytes, self._gpu.ordinal, None, self._buffer)

    def read(self, offset: int, nbytes: int) -> Bytes:
        """Copy a part of it to the host."""
        out = np.empty(nbytes, np.uint8)
        if nbytes:
            self._gpu.copy_out(out, self.address + offset, self._stream)
            self._stream.sync()
        return out


@dataclass(frozen=True)
class Trial:
    """Something checked and ready to be timed, with the CPU engine's figures for `cpu_bytes` of it.

    Attributes:
        bound: What runs.
        nbytes: Bytes of input.
        scratch_bytes: Device memory that only the launches use.
        cpu_bytes: What the CPU engine hashed.
        cpu_all: Seconds with all threads.
        cpu_one: Seconds with one thread.
    """

    bound: Bound
    nbytes: int
    scratch_bytes: int
    cpu_bytes: int
    cpu_all: float
    cpu_one: float


def bind_digests(gpu: Gpu, name: str, address: int, nbytes: int) -> tuple[Bound, int]:
    """Prepare the digest of one message as the engine's plans do; returns the scratch space as well."""
    inputs = Inputs.one_segment_each(np.array([address], np.uint64), np.array([nbytes], np.uint64))
    schedule = schedules.digests(name, inputs, SMALL_SHAPE if nbytes <= SMALL_BYTES else SHAPE)
    return gpu.bind(schedule, ()), schedule.scratch_bytes


def check_digests(engine: CudaEngine, memory: Memory, name: str, sample: Bytes) -> None:
    """Compare with the CPU engine: short pieces, then a slice from the middle, the sample and all of these as one.

    Two calls, because the shape of the launches depends on the sum of the lengths.

    Raises:
        AssertionError: A digest is wrong.
    """
    end = (memory.nbytes - len(sample), len(sample))
    for pieces in (PIECES, (*PIECES, (memory.nbytes // 2 + SLICE_OFFSET, SLICE_BYTES), end)):
        segments = [memory.segment(*piece) for piece in pieces]
        host = [HostBytes(memory.read(*piece).tobytes()) for piece in pieces]
        joined = [host[:-1]] if len(host) > len(PIECES) else []
        got = engine.digests(name, [*segments, *([segments[:-1]] if joined else [])])
        if got != CpuEngine().digests(name, [*host, *joined]):
            raise AssertionError(f"{name}: the GPU and the CPU disagree")


def cpu_seconds(name: str, sample: Bytes) -> tuple[float, float]:
    """Return the CPU engine's seconds for the sample as one message: with all threads, with one."""
    message = [HostBytes(memoryview(sample))]  # type: ignore[arg-type]
    return _seconds(lambda: CpuEngine().digest([name], message)), _seconds(
        lambda: CpuEngine(threads=1).digest([name], message)
    )


def lattice_trial(engine: CudaEngine, gpu: Gpu, memory: Memory, records: int) -> Trial:
    """Prepare contents digests, leaves and their sum over records of one field each, after a check on some of them."""
    records = min(records, memory.nbytes // RECORD_BYTES)
    preimages = _preimages(records)
    starts = [RECORD_BYTES * number for number in range(records)]
    on_gpu = [
        (preimage, [memory.segment(start, RECORD_BYTES)])
        for preimage, start in zip(preimages[:CHECKED_RECORDS], starts, strict=False)
    ]
    count = min(records, CPU_RECORDS)
    data = memory.read(0, count * RECORD_BYTES).tobytes()
    on_cpu = [
        (preimage, [HostBytes(data[start : start + RECORD_BYTES])])
        for preimage, start in zip(preimages[:count], starts, strict=False)
    ]
    if engine.leaves_and_sum("blake3", on_gpu) != CpuEngine().leaves_and_sum("blake3", on_cpu[:CHECKED_RECORDS]):
        raise AssertionError("the GPU and the CPU disagree about leaves or their sum")
    pointers = np.uint64(memory.address) + np.array(starts, np.uint64)
    inputs = Inputs.one_segment_each(pointers, np.full(records, RECORD_BYTES, np.uint64))
    schedule = schedules.leaves("blake3", preimages, inputs, SHAPE, lattice=True)
    cpu_all = _seconds(lambda: CpuEngine().leaves_and_sum("blake3", on_cpu))
    cpu_one = _seconds(lambda: CpuEngine(threads=1).leaves_and_sum("blake3", on_cpu))
    return _trial(gpu, schedule, records * RECORD_BYTES, len(data), (cpu_all, cpu_one))


def flat_trial(engine: CudaEngine, gpu: Gpu, memory: Memory, sample: Bytes) -> Trial:
    """Prepare flat SHA-256 of all the memory as messages of 64 KiB, after a check on those of the sample."""
    first = memory.nbytes - len(sample)
    starts = range(0, len(sample), MESSAGE_BYTES)
    on_cpu = [HostBytes(memoryview(sample)[start : start + MESSAGE_BYTES]) for start in starts]  # type: ignore[arg-type]
    on_gpu = [memory.segment(first + start, message.nbytes) for start, message in zip(starts, on_cpu, strict=True)]
    if engine.digests("sha256", on_gpu) != CpuEngine().digests("sha256", on_cpu):
        raise AssertionError("sha256: the GPU and the CPU disagree")
    count = memory.nbytes // MESSAGE_BYTES
    pointers = np.uint64(memory.address) + np.arange(count, dtype=np.uint64) * np.uint64(MESSAGE_BYTES)
    inputs = Inputs.one_segment_each(pointers, np.full(count, MESSAGE_BYTES, np.uint64))
    schedule = schedules.digests("sha256", inputs, SHAPE)
    cpu_all = _seconds(lambda: CpuEngine().digests("sha256", on_cpu))
    cpu_one = _seconds(lambda: CpuEngine(threads=1).digests("sha256", on_cpu))
    return _trial(gpu, schedule, count * MESSAGE_BYTES, len(sample), (cpu_all, cpu_one))


def _trial(gpu: Gpu, schedule: Schedule, nbytes: int, cpu_bytes: int, cpu: tuple[float, float]) -> Trial:
    return Trial(gpu.bind(schedule, ()), nbytes, schedule.scratch_bytes, cpu_bytes, *cpu)


def _preimages(records: int) -> list[Preimage]:
    """Lay out one record's preimage and change the key in it: a million would take long to lay out one by one."""
    field = FieldType("data", Kind.TENSOR, "U8", (RECORD_BYTES,), RECORD_BYTES)
    mark = "00000000"
    first = lay_out("sample", "benchmark", mark, (field,), hash_name="blake3")
    head, tail = first.template.split(mark.encode())
    return [replace(first, template=b"%b%08d%b" % (head, number, tail)) for number in range(records)]


def _random_tile(number: int) -> Bytes:
    generator = np.random.Generator(np.random.SFC64(number))
    return generator.integers(0, 2**64 - 1, TILE_BYTES // 8, dtype=np.uint64, endpoint=True).view(np.uint8)


def _seconds(work: Callable[[], object]) -> float:
    began = time.perf_counter()
    work()
    return time.perf_counter() - began
