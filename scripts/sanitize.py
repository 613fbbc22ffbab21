# SPDX-License-Identifier: Apache-2.0
"""Run every kernel on small inputs, for compute-sanitizer to watch, and compare the results with the CPU engine's.

    compute-sanitizer --tool memcheck --error-exitcode 9 python3 scripts/sanitize.py

Every segment has an allocation of its own that ends where the segment ends, and starts at every alignment in turn, so
that one byte read too many is one that the tool sees.
"""

from __future__ import annotations

import random
import sys
from collections.abc import Sequence
from typing import Any

import numpy as np
from cuda.bindings import driver
from cuda.core import Device

from sentry.engine.cpu import CpuEngine
from sentry.engine.cuda import CudaEngine
from sentry.engine.segments import DeviceBytes, HostBytes
from sentry.formats.record import FieldType, Kind, Preimage, lay_out

# Around a word, a block, a chunk and a leaf of every hash; the last two make trees of several tiles.
SHORT = (0, 1, 3, 4, 5, 8, 31, 63, 64, 65, 127, 128, 129, 135, 136, 137, 1023, 1024, 1025, 2047, 3072, 8191, 8192, 8193)
LONG = (64 * 1024 + 1, 1024 * 1024 + 1025)
FLAT = ("sha256", "sha3-256", "blake2b-256", "blake2b")
TREES = ("blake3", *(f"merkle-{name}-{leaf}" for name in FLAT[:3] for leaf in (1024, 8192)))
# More warps than one round of the lattice kernel's grid holds on a small GPU, and not a multiple of a block.
LEAVES = 9001
# Longer than two groups of the ring, and not whole.
STREAMED_BYTES = 2 * 1024 * 1024 + 4099


class Exact:
    """Puts bytes into device memory that starts and ends with them, but for the offset that is asked for."""

    def __init__(self, seed: int) -> None:
        self._random = random.Random(seed)  # noqa: S311  (bytes to hash, not to guess)
        self._taken: list[int] = []

    def put(self, nbytes: int) -> tuple[DeviceBytes, HostBytes]:
        """Return fresh random bytes on the device and on the host; offsets go round from 0 to 15."""
        data = self._random.randbytes(nbytes)
        offset = len(self._taken) % 16
        base = int(_checked(driver.cuMemAlloc(max(1, offset + nbytes))))
        self._taken.append(base)
        if nbytes:
            source = np.frombuffer(data, np.uint8)
            _checked(driver.cuMemcpyHtoD(base + offset, source.ctypes.data, nbytes))
        return DeviceBytes(base + offset, nbytes, 0), HostBytes(data)

    def free(self) -> None:
        """Give everything back."""
        for base in self._taken:
            _checked(driver.cuMemFree(base))
        self._taken.clear()


def check_digests(engine: CudaEngine, memory: Exact) -> None:
    """Digests under every hash: one segment each, then some of many segments; through a plan that runs twice."""
    cpu = CpuEngine()
    for name in (*TREES, *FLAT):
        singles = [memory.put(nbytes) for nbytes in (*SHORT, *(LONG if name in TREES else LONG[:1]))]
        pieces = [memory.put(nbytes) for nbytes in (0, 1, 7, 0, 1017, 64, 3, 2045, 8190, 33, 0)]
        pairs = [*([single] for single in singles), pieces, pieces[3:6]]
        on_host = [[host for _, host in pair] for pair in pairs]
        with engine.plan(name, [[device for device, _ in pair] for pair in pairs]) as plan:
            expect(f"{name}, twice", [plan.run(), plan.run()], [cpu.digests(name, on_host)] * 2)
        memory.free()


def check_subtrees(engine: CudaEngine, memory: Exact) -> None:
    """BLAKE3 values below the root."""
    cpu = CpuEngine()
    for nbytes, group, first in ((0, 1, 0), (1, 4, 8), (5 * 1024 + 1, 1, 3), (70 * 1024, 16, 1 << 20), (1029, 2048, 0)):
        device, host = memory.put(nbytes)
        got = engine.subtrees(device, group, first_chunk=first)
        expect(f"subtrees of {nbytes} bytes by {group}", got, cpu.subtrees(host, group, first_chunk=first))
    memory.free()


def check_records(engine: CudaEngine, memory: Exact) -> None:
    """Leaves of records with an empty and a full field, and their sum; then a sum over more leaves."""
    cpu = CpuEngine()
    for name in ("blake3", "sha256", "merkle-sha256-1024", "blake2b"):
        sizes = [(0, 3072), (1, 1), (8193, 17)] * 11
        parts = [[memory.put(nbytes) for nbytes in fields] for fields in sizes]
        # Every other record lists its fields the other way round.
        parts = [row[::-1] if number % 2 else row for number, row in enumerate(parts)]
        preimages = [_preimage(number, fields, name) for number, fields in enumerate(sizes)]
        on_device = [(preimage, [part[0] for part in row]) for preimage, row in zip(preimages, parts, strict=True)]
        on_host = [(preimage, [part[1] for part in row]) for preimage, row in zip(preimages, parts, strict=True)]
        expect(f"records, {name}", engine.leaves_and_sum(name, on_device), cpu.leaves_and_sum(name, on_host))
        memory.free()
    leaves = [number.to_bytes(32, "little") for number in range(LEAVES)]
    for count in (1, 33, LEAVES):
        expect(f"the sum of {count} leaves", engine.lattice_sum(leaves[:count]), cpu.lattice_sum(leaves[:count]))


def check_streams(engine: CudaEngine) -> None:
    """Bytes that come from the host, through the pinned ring."""
    data = random.Random(7).randbytes(STREAMED_BYTES)  # noqa: S311  (the same)
    names = ("blake3", "merkle-sha256-8192", "sha256")
    got = engine.digest(names, [HostBytes(data[:5]), HostBytes(data[5:])])
    expect("bytes from the host", dict(got), dict(CpuEngine().digest(names, [HostBytes(data)])))


def expect(what: str, got: object, wanted: object) -> None:
    """Compare and say so.

    Raises:
        AssertionError: They differ.
    """
    if got != wanted:
        raise AssertionError(f"{what}: the GPU and the CPU disagree")
    print(f"ok: {what}", flush=True)


def _preimage(number: int, sizes: Sequence[int], hash_name: str) -> Preimage:
    fields = tuple(FieldType(f"field {at}", Kind.BYTES, "", (), nbytes) for at, nbytes in enumerate(sizes))
    return lay_out("sample", "sanitize", "k" * number, fields[::-1] if number % 2 else fields, hash_name=hash_name)


def _checked(returned: tuple[Any, ...]) -> Any:  # noqa: ANN401  (whatever the driver's function returns)
    if returned[0]:
        raise RuntimeError(f"the driver refuses: {returned[0]}")
    return returned[1] if len(returned) > 1 else None


def main() -> int:
    """Run everything on the first GPU."""
    Device(0).set_current()
    engine = CudaEngine(0)
    memory = Exact(seed=4)
    check_digests(engine, memory)
    check_subtrees(engine, memory)
    check_records(engine, memory)
    check_streams(engine)
    return 0


if __name__ == "__main__":
    sys.exit(main())
