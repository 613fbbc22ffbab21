# SPDX-License-Identifier: Apache-2.0
"""What the GPU benchmarks share: CUDA events, the SM clock while something runs, a bandwidth ceiling, targets.

Nothing here needs a GPU to be imported. Times on the GPU come from events around the launches, on the stream that they
run on; the launches of many repetitions are queued ahead, so that the host is not what is measured.
"""

from __future__ import annotations

import contextlib
import statistics
import subprocess
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Self

import numpy as np

from sentry.engine.gpu import Bound, Gpu

# The clock needs some 100 ms to settle; below this much work a reading would be of another moment.
SECONDS_UNDER_LOAD = 0.6
MAX_REPETITIONS = 1000
WARM_UP = 3
READ_THREADS, READ_BLOCKS_PER_SM = 256, 16
READ_KERNEL = """
extern "C" __global__ void read_all(const uint4* from, unsigned long long units, unsigned* out) {
    unsigned sum = 0;
    unsigned long long step = (unsigned long long)gridDim.x * blockDim.x;
#pragma unroll 8
    for (unsigned long long i = blockIdx.x * (unsigned long long)blockDim.x + threadIdx.x; i < units; i += step) {
        uint4 q = from[i];
        sum += q.x ^ q.y ^ q.z ^ q.w;
    }
    if (sum == 1) *out = sum;  // almost never: the sum only has to be needed
}
"""


@dataclass(frozen=True)
class Target:
    """What is to be reached, and what was."""

    what: str
    goal: str
    measured: str
    reached: bool

    def cells(self) -> list[str]:
        """Return its row of the table."""
        return [self.what, self.goal, self.measured, "reached" if self.reached else "MISSED"]


@dataclass(frozen=True)
class Timing:
    """Repetitions on the GPU: median in seconds, and when they began and ended by the host's monotonic clock."""

    seconds: float
    repetitions: int
    began: float
    ended: float


class Clock:
    """Reads the SM clock again and again in a thread: `with Clock(bus_id) as clock: ...; clock.mhz(timing)`."""

    def __init__(self, bus_id: str) -> None:
        self._read = _clock_reader(bus_id)
        self._samples: list[tuple[float, float]] = []
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._sample, daemon=True)

    def mhz(self, timing: Timing) -> float | None:
        """Return the median clock while the repetitions ran, without their first quarter; None if none was read."""
        since = timing.began + (timing.ended - timing.began) / 4
        during = [mhz for at, mhz in self._samples if since <= at <= timing.ended]
        return statistics.median(during) if during else None

    def _sample(self) -> None:
        while not self._stop.wait(0.01):
            mhz = self._read()
            if mhz is not None:
                self._samples.append((time.monotonic(), mhz))

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_exception: object) -> None:
        self._stop.set()
        self._thread.join()


class Timer:
    """Times launches by events.

    Args:
        stream: What they run on: a stream of cuda.core.
    """

    def __init__(self, stream: Any) -> None:  # noqa: ANN401
        from cuda.bindings import driver  # noqa: PLC0415  (this module is imported where there is no CUDA, too)

        self._driver = driver
        self._stream = stream
        self._events: list[Any] = []

    def time(self, enqueue: Callable[[], object], *, least: int = 20, seconds: float = SECONDS_UNDER_LOAD) -> Timing:
        """Return the median over at least `least` repetitions that together keep the GPU busy for about `seconds`."""
        for _ in range(WARM_UP):
            enqueue()
        once, _, _ = self._run(enqueue, 3)
        repetitions = max(least, min(MAX_REPETITIONS, int(seconds / statistics.median(once))))
        times, began, ended = self._run(enqueue, repetitions)
        return Timing(statistics.median(times), repetitions, began, ended)

    def _run(self, enqueue: Callable[[], object], repetitions: int) -> tuple[list[float], float, float]:
        while len(self._events) <= repetitions:
            self._events.append(self._checked(self._driver.cuEventCreate(0)))
        self._stream.sync()
        began = time.monotonic()
        self._record(0)
        for number in range(repetitions):
            enqueue()
            self._record(number + 1)
        self._stream.sync()
        ended = time.monotonic()
        pairs = zip(self._events[:repetitions], self._events[1 : repetitions + 1], strict=True)
        times = [self._checked(self._driver.cuEventElapsedTime(*pair)) / 1e3 for pair in pairs]
        return times, began, ended

    def _record(self, number: int) -> None:
        self._checked(self._driver.cuEventRecord(self._events[number], self._stream.handle))

    def _checked(self, returned: tuple[Any, ...]) -> Any:  # noqa: ANN401
        if returned[0]:
            raise RuntimeError(f"an event failed: {returned[0].name}")
        return returned[1] if len(returned) > 1 else None


def enqueue(bound: Bound) -> None:
    """Give the launches of a bound schedule to its stream, without the result's copy and without waiting."""
    public = getattr(bound, "enqueue", None)
    if public is not None:
        public()
        return
    for config, kernel, cells in bound._launches:  # noqa: SLF001  (a run waits; here many are queued)
        bound._launch(bound._stream, config, kernel, *cells)  # noqa: SLF001


def read_bandwidth(gpu: Gpu, timer: Timer, address: int, *, nbytes: int, sms: int) -> float:
    """Return the bytes per second at which a kernel that does nothing else reads the same memory."""
    from cuda.core import LaunchConfig, Program, ProgramOptions, launch  # noqa: PLC0415

    code = Program(READ_KERNEL, "c++", ProgramOptions(arch=gpu.arch, std="c++17")).compile("cubin")
    kernel = code.get_kernel("read_all")
    stream = gpu.stream_behind(())
    out = gpu.allocate(16, stream)
    config = LaunchConfig(grid=sms * READ_BLOCKS_PER_SM, block=READ_THREADS)
    cells = (address, np.uint64(nbytes // 16), int(out.handle))
    timing = timer.time(lambda: launch(stream, config, kernel, *cells), seconds=0.2)
    out.close(stream)
    return nbytes / timing.seconds


def wall_seconds(run: Callable[[], object], repetitions: int) -> float:
    """Return the median of the wall time of a call, after two that are not counted."""
    times = []
    for _ in range(repetitions + 2):
        began = time.perf_counter()
        run()
        times.append(time.perf_counter() - began)
    return statistics.median(times[2:])


def machine(device: Any) -> dict[str, str]:  # noqa: ANN401  (cuda.core's Device; None without a GPU)
    """Describe with what the figures were made."""
    if device is None:
        return {"GPU": "none", "commit": _commit()}
    query = ["nvidia-smi", "--query-gpu=name,driver_version,power.limit,clocks.max.sm", "--format=csv,noheader"]
    return {
        "GPU": f"{device.name}, {device.properties.multiprocessor_count} SMs",
        "nvidia-smi": _output(query),
        "cuda-core": _version("cuda-core"),
        "commit": _commit(),
    }


def ratio(value: float) -> str:
    """Format a factor."""
    return f"{value:.1f}x"


def number(value: float | None, digits: int = 0, *, scale: float = 1.0) -> str:
    """Format a number that may be missing."""
    return "-" if value is None else f"{value * scale:.{digits}f}"


def print_targets(targets: Sequence[Target], table: Callable[[Sequence[str], Sequence[Sequence[str]]], str]) -> None:
    """Print what was to be reached."""
    print("\n" + table(["target", "goal", "measured", "verdict"], [target.cells() for target in targets]))


def _commit() -> str:
    return _output(["git", "describe", "--always", "--dirty", "--abbrev=12"])


def _version(package: str) -> str:
    import importlib.metadata  # noqa: PLC0415

    with contextlib.suppress(importlib.metadata.PackageNotFoundError):
        return importlib.metadata.version(package)
    return "unknown"


def _output(command: Sequence[str]) -> str:
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=20)
    except (OSError, subprocess.TimeoutExpired):
        return "unknown"
    return done.stdout.strip() or "unknown"


def _clock_reader(bus_id: str) -> Callable[[], float | None]:
    """Return a function that reads the SM clock in MHz: by NVML where Python has it, else by nvidia-smi."""
    try:
        import pynvml  # noqa: PLC0415

        pynvml.nvmlInit()
        handle = pynvml.nvmlDeviceGetHandleByPciBusId(bus_id)
        pynvml.nvmlDeviceGetClockInfo(handle, pynvml.NVML_CLOCK_SM)
    except Exception:  # noqa: BLE001  (whatever is wrong with NVML, nvidia-smi may still do)
        return lambda: _clock_of_smi(bus_id)

    def read() -> float | None:
        try:
            return float(pynvml.nvmlDeviceGetClockInfo(handle, pynvml.NVML_CLOCK_SM))
        except pynvml.NVMLError:
            return None

    return read


def _clock_of_smi(bus_id: str) -> float | None:
    text = _output(["nvidia-smi", "-i", bus_id, "--query-gpu=clocks.sm", "--format=csv,noheader,nounits"])
    try:
        return float(text)
    except ValueError:
        return None
