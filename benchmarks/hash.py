# SPDX-License-Identifier: Apache-2.0
"""Hash random bytes that lie in a GPU's memory: GB/s, the share of the ALU roof at the clock read meanwhile, targets.

    python3 benchmarks/hash.py [--quick] [--json FILE]

Every case is compared with the CPU engine before it is timed: on short pieces, aligned and not, on a slice from the
middle, and on the sample that the CPU figures come from; BLAKE3 on everything. Formulas: `benchmarks/roofs.py`.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from benchmarks.common import table
from benchmarks.gpu_tools import (
    Clock,
    Target,
    Timer,
    Timing,
    enqueue,
    machine,
    number,
    print_targets,
    read_bandwidth,
    wall_seconds,
)
from benchmarks.hash_cases import Memory, Trial, bind_digests, check_digests, cpu_seconds, flat_trial, lattice_trial
from benchmarks.roofs import FLAT, LATTICE, LATTICE_PLAIN, ROOFS
from sentry.engine.cpu import CpuEngine
from sentry.engine.cuda import CudaEngine
from sentry.engine.gpu import Gpu
from sentry.engine.segments import HostBytes
from sentry.errors import EngineError

MIB = 1024 * 1024
TREES = ("blake3", "merkle-sha256-8192", "merkle-blake2b-256-8192", "merkle-sha3-256-8192")
SMALL = {"8 KiB": 8 * 1024, "1 MiB": MIB, "64 MiB": 64 * MIB}
# The least share of the roof at the full size.
SHARES = {
    "blake3": 0.85,
    "merkle-sha256-8192": 0.92,
    "merkle-blake2b-256-8192": 0.88,
    "merkle-sha3-256-8192": 0.88,
    LATTICE: 0.88,
}
SMALL_GOAL_SECONDS = 80e-6
SCRATCH_GOAL = 1 / 16


@dataclass(frozen=True)
class Sizes:
    """How much is hashed, in bytes and records."""

    memory: int
    sample: int
    records: int


FULL = Sizes(8192 * MIB, 512 * MIB, 1024 * 1024)
QUICK = Sizes(256 * MIB, 32 * MIB, 64 * 1024)


@dataclass(frozen=True)
class Row:
    """Figures of one case at its full size; rates in bytes per second, None where nothing was measured."""

    name: str
    nbytes: int
    seconds: float
    mhz: float | None
    roof: float | None
    end_to_end: float
    cpu_all: float
    cpu_one: float
    scratch: float

    @property
    def share(self) -> float | None:
        """Share of the roof."""
        return self.nbytes / self.seconds / self.roof if self.roof else None

    def cells(self) -> list[str]:
        """Return its row of the table."""
        return [
            self.name,
            number(self.nbytes, 2, scale=1e-9),
            number(self.seconds, 3, scale=1e3),
            number(self.nbytes / self.seconds, scale=1e-9),
            number(self.mhz),
            number(self.roof, scale=1e-9),
            number(self.share, 1, scale=100),
            number(self.end_to_end, 3, scale=1e3),
            number(self.cpu_all, 2, scale=1e-9),
            number(self.cpu_one, 2, scale=1e-9),
        ]


class Bench:
    """One GPU, memory full of random bytes, and the means to time what runs over it."""

    def __init__(self, sizes: Sizes, device: Any, clock: Clock) -> None:  # noqa: ANN401  (cuda.core's Device)
        self.sizes = sizes
        self.gpu = Gpu(0)
        self.engine = CudaEngine(0)
        self.sms = int(device.properties.multiprocessor_count)
        self._clock = clock
        self.stream = self.gpu.stream_behind(())
        self.timer = Timer(self.stream)
        self.memory = Memory(self.gpu, self.stream, sizes.memory)
        self.sample = self.memory.read(sizes.memory - sizes.sample, sizes.sample)
        self.bandwidth = read_bandwidth(self.gpu, self.timer, self.memory.address, nbytes=sizes.memory, sms=self.sms)

    def tree(self, name: str) -> Row:
        """Check and time one tree hash over the whole memory as one message."""
        check_digests(self.engine, self.memory, name, self.sample)
        cpu_all, cpu_one = cpu_seconds(name, self.sample)
        bound, scratch = bind_digests(self.gpu, name, self.memory.address, self.sizes.memory)
        with bound, self.engine.plan(name, [self.memory.segment(0, self.sizes.memory)]) as plan:
            timing = self.timer.time(lambda: enqueue(bound))
            end_to_end = wall_seconds(plan.run, 20)
            if plan.run() != [bound.run()]:
                raise AssertionError(f"{name}: the plan and the schedule disagree")
            if name == "blake3" and plan.run() != [self.memory.blake3]:
                raise AssertionError("blake3 of the whole memory is wrong")
        rates = (len(self.sample) / cpu_all, len(self.sample) / cpu_one)
        return self._row(name, self.sizes.memory, timing, end_to_end, rates, scratch)

    def special(self, name: str, trial: Trial) -> Row:
        """Time what is not one message."""
        with trial.bound as bound:
            timing = self.timer.time(lambda: enqueue(bound))
            end_to_end = wall_seconds(bound.run, 20)
        rates = (trial.cpu_bytes / trial.cpu_all, trial.cpu_bytes / trial.cpu_one)
        return self._row(name, trial.nbytes, timing, end_to_end, rates, trial.scratch_bytes)

    def small(self, name: str, label: str, nbytes: int) -> list[str]:
        """Time one tree hash over a small piece; what counts is the time until the digest is there."""
        bound, _ = bind_digests(self.gpu, name, self.memory.address, nbytes)
        with bound, self.engine.plan(name, [self.memory.segment(0, nbytes)]) as plan:
            seconds = wall_seconds(plan.run, 200)
            on_gpu = self.timer.time(lambda: enqueue(bound), least=200, seconds=0.05).seconds
            if plan.run() != CpuEngine().digests(name, [HostBytes(self.memory.read(0, nbytes).tobytes())]):
                raise AssertionError(f"{name} of {label}: the GPU and the CPU disagree")
        rate = number(nbytes / seconds, 1, scale=1e-9)
        return [name, label, number(seconds, 1, scale=1e6), rate, number(on_gpu, 1, scale=1e6)]

    def _row(
        self, name: str, nbytes: int, timing: Timing, end_to_end: float, rates: tuple[float, float], scratch: int
    ) -> Row:
        mhz = self._clock.mhz(timing)
        roof = ROOFS[name].bytes_per_second(mhz, self.sms) if mhz else None
        print(f"{name}: {nbytes / timing.seconds / 1e9:.0f} GB/s in {timing.repetitions} runs", file=sys.stderr)
        return Row(name, nbytes, timing.seconds, mhz, roof, end_to_end, *rates, scratch / nbytes)


def targets(rows: Sequence[Row], small: Sequence[Sequence[str]]) -> list[Target]:
    """Compare what was measured with what is to be reached."""
    found = []
    for row in rows:
        if row.name in SHARES:
            goal, share = SHARES[row.name], row.share
            measured = number(share, 1, scale=100) + " %"
            found.append(Target(f"{row.name}, share of roof", f">= {goal:.0%}", measured, (share or 0) >= goal))
        if row.name == LATTICE and row.share is not None:
            plain = row.share * LATTICE_PLAIN.operations / ROOFS[LATTICE].operations
            title = f"{row.name}, share of the roof of plain additions"
            found.append(Target(title, f">= {goal:.0%}", f"{plain:.1%}", plain >= goal))
    (latency,) = [float(cells[2]) for cells in small if cells[:2] == ["blake3", "1 MiB"]]
    reached = latency <= SMALL_GOAL_SECONDS * 1e6
    found.append(Target("blake3 of 1 MiB, plan, end to end", "<= 80 us", f"{latency:.1f} us", reached))
    most = max(rows, key=lambda row: row.scratch)
    limit = f"<= {SCRATCH_GOAL:.2%}"
    found.append(Target(f"scratch ({most.name})", limit, f"{most.scratch:.2%}", most.scratch <= SCRATCH_GOAL))
    return found


def report(bench: Bench, rows: Sequence[Row], small: Sequence[Sequence[str]], facts: dict[str, str]) -> None:
    """Print facts, formulas and tables, the tables last."""
    for key, value in facts.items():
        print(f"{key}: {value}")
    print(f"\nroof = {bench.sms} SMs x 64 ALU lanes x SM clock / (ALU operations per byte):")
    for row in rows:
        print(f"  {row.name}: {ROOFS[row.name].formula}")
    lattice = next(row for row in rows if row.name == LATTICE)
    if lattice.mhz:
        plain = LATTICE_PLAIN.bytes_per_second(lattice.mhz, bench.sms)
        share = lattice.nbytes / lattice.seconds / plain
        print(f"  {LATTICE}, other roof: {LATTICE_PLAIN.formula}: {plain / 1e9:.0f} GB/s, share {share:.1%}")
    print(f"read-only bandwidth of the same memory: {bench.bandwidth / 1e9:.0f} GB/s")
    threads = bench.engine.threads
    headers = ["hash", "GB", "ms", "GB/s", "SM MHz", "roof GB/s", "share %", "end to end ms", f"CPU {threads} GB/s"]
    print("\n" + table([*headers, "CPU 1 GB/s"], [row.cells() for row in rows]))
    print("\n" + table(["small, with a plan", "size", "end to end us", "GB/s", "launches us"], small))


def run(sizes: Sizes, device: Any) -> tuple[Bench, list[Row], list[list[str]]]:  # noqa: ANN401  (cuda.core's Device)
    """Check and time every case."""
    with Clock(device.pci_bus_id) as clock:
        bench = Bench(sizes, device, clock)
        cases: list[tuple[str, Callable[[], Row]]] = [(name, lambda name=name: bench.tree(name)) for name in TREES]  # type: ignore[misc]
        cases += [
            (
                LATTICE,
                lambda: bench.special(LATTICE, lattice_trial(bench.engine, bench.gpu, bench.memory, sizes.records)),
            ),
            (FLAT, lambda: bench.special(FLAT, flat_trial(bench.engine, bench.gpu, bench.memory, bench.sample))),
        ]
        rows = []
        for name, case in cases:
            began = time.monotonic()
            rows.append(case())
            print(f"{name} took {time.monotonic() - began:.1f} s in all", file=sys.stderr)
        small = [bench.small(name, label, nbytes) for name in TREES for label, nbytes in SMALL.items()]
    return bench, rows, small


def main() -> int:
    """Run the benchmark; the exit status says whether everything was right, not whether it was fast."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="small sizes: is everything right, not how fast is it")
    parser.add_argument("--json", type=Path, help="write the figures there as well")
    arguments = parser.parse_args()
    try:
        Gpu(0)
    except EngineError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    from cuda.core import Device  # noqa: PLC0415

    device = Device(0)
    device.set_current()
    bench, rows, small = run(QUICK if arguments.quick else FULL, device)
    facts = machine(device)
    report(bench, rows, small, facts)
    found = targets(rows, small)
    print_targets(found, table)
    if arguments.json:
        figures = {"machine": facts, "read_only": bench.bandwidth, "rows": [asdict(row) for row in rows]}
        figures |= {"small": small, "targets": [target.cells() for target in found]}
        arguments.json.write_text(json.dumps(figures, indent=1) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
