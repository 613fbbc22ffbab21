# SPDX-License-Identifier: Apache-2.0
"""State dicts of random weights, on a GPU or the host, and the engine that `benchmarks/models.py` digests them with."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Protocol, TypeVar

import numpy as np

from benchmarks.gpu_tools import Timer, enqueue, number
from benchmarks.state_dicts import Entry
from sentry.engine import schedules
from sentry.engine.cpu import CpuEngine
from sentry.engine.cuda import SHAPE, SMALL_BYTES, SMALL_SHAPE, CudaEngine
from sentry.engine.gpu import Gpu
from sentry.engine.schedule import Inputs
from sentry.engine.segments import HostBytes
from sentry.engine.torch_tables import torch_tables

State = dict[str, Any]
Result = TypeVar("Result")
STEP_RUNS = 20
SEED = 20


@dataclass(frozen=True)
class Steps:
    """Where the time of a first call goes, in seconds: each step alone, and the kernels by events.

    Attributes:
        tables: Addresses and lengths out of the tensors.
        schedule: Tables and launches worked out.
        bind: Memory allocated, tables copied to the GPU.
        run: Launches, and the digests copied back.
        kernels: What the GPU was busy with, of `run`.
        launches: How many.
    """

    HEADERS: ClassVar = ("tables", "schedule", "bind", "run", "kernels", "launches")

    tables: float
    schedule: float
    bind: float
    run: float
    kernels: float
    launches: int

    def cells(self) -> list[str]:
        """Return its cells under `HEADERS`."""
        times = (self.tables, self.schedule, self.bind, self.run, self.kernels)
        return [*(number(seconds, scale=1e6) for seconds in times), str(self.launches)]


class Subject(Protocol):
    """Where the tensors are, and the engine for them."""

    kind: str
    engine: Any
    device: Any

    def make(self, listed: Sequence[Entry]) -> State:
        """Return a state dict of fresh random tensors."""

    def wait(self) -> None:
        """Wait until everything is written."""

    def nbytes(self, item: Any) -> int:  # noqa: ANN401
        """Return a tensor's length in bytes."""

    def to_host(self, item: Any) -> HostBytes:  # noqa: ANN401
        """Copy a tensor's bytes to the host."""

    def steps(self, hash_name: str, items: Sequence[Any]) -> Steps | None:
        """Take a first call apart; None where it has no parts."""


class CudaSubject:
    """torch tensors on a GPU."""

    kind = "cuda"

    def __init__(self, torch: Any, where: str) -> None:  # noqa: ANN401  (the module)
        self._torch = torch
        self._where = where
        ordinal = torch.device(where).index or 0
        self._generator = torch.Generator(where).manual_seed(SEED)
        # torch makes its context the current one when something is first allocated.
        self._first = torch.zeros(1, device=where)
        self.engine = CudaEngine(ordinal)
        self._gpu = Gpu(ordinal)
        from cuda.core import Device  # noqa: PLC0415

        self.device = Device(ordinal)

    def make(self, listed: Sequence[Entry]) -> State:
        """Return a state dict of fresh random tensors; tied ones share their memory, as they do in a real one."""
        torch = self._torch
        state: State = {}
        for entry in listed:
            if entry.tied:
                state[entry.name] = state[entry.tied].detach()
            elif entry.dtype == "F32":
                state[entry.name] = torch.empty(entry.shape, device=self._where).normal_(generator=self._generator)
            else:
                new = torch.empty(entry.shape, dtype=torch.int64, device=self._where)
                state[entry.name] = new.random_(0, 2**40, generator=self._generator)
        return state

    def wait(self) -> None:
        """Wait until everything is written."""
        self._torch.cuda.synchronize()

    def nbytes(self, item: Any) -> int:  # noqa: ANN401
        """Return a tensor's length in bytes."""
        return int(item.nbytes)

    def to_host(self, item: Any) -> HostBytes:  # noqa: ANN401
        """Copy a tensor's bytes to the host."""
        return HostBytes(memoryview(item.cpu().reshape(-1).view(self._torch.uint8).numpy()))

    def steps(self, hash_name: str, items: Sequence[Any]) -> Steps:
        """Take a first call apart."""
        took_tables, tables = _median(lambda: _inputs(items))
        inputs, stream = tables
        shape = SMALL_SHAPE if int(inputs.nbytes.sum()) <= SMALL_BYTES else SHAPE
        took_schedule, schedule = _median(lambda: schedules.digests(hash_name, inputs, shape))
        binds = []
        for _ in range(STEP_RUNS):
            began = time.perf_counter()
            bound = self._gpu.bind(schedule, {stream})
            binds.append(time.perf_counter() - began)
            bound.close()
        with self._gpu.bind(schedule, {stream}) as bound:
            took_run, _ = _median(bound.run)
            timer = Timer(self._gpu.stream_behind({stream}))
            kernels = timer.time(lambda: enqueue(bound), seconds=0.05).seconds
        launches = len(schedule.launches)
        return Steps(took_tables, took_schedule, statistics.median(binds), took_run, kernels, launches)


class CpuSubject:
    """NumPy arrays on the host."""

    kind = "cpu"
    device = None

    def __init__(self) -> None:
        self.engine = CpuEngine()
        self._generator = np.random.default_rng(SEED)

    def make(self, listed: Sequence[Entry]) -> State:
        """Return a state dict of fresh random arrays."""
        state: State = {}
        for entry in listed:
            if entry.tied:
                state[entry.name] = state[entry.tied]
            elif entry.dtype == "F32":
                state[entry.name] = self._generator.standard_normal(entry.shape, np.float32)
            else:
                state[entry.name] = self._generator.integers(0, 2**40, entry.shape)
        return state

    def wait(self) -> None:
        """Do nothing: arrays are written at once."""

    def nbytes(self, item: Any) -> int:  # noqa: ANN401
        """Return an array's length in bytes."""
        return int(item.nbytes)

    def to_host(self, item: Any) -> HostBytes:  # noqa: ANN401
        """Return an array's bytes."""
        return HostBytes(item.tobytes())

    def steps(self, hash_name: str, items: Sequence[Any]) -> None:
        """Return nothing: there are no parts."""
        del hash_name, items


def _inputs(items: Sequence[Any]) -> tuple[Inputs, int]:
    found = torch_tables(items)
    if found is None:
        raise AssertionError("the tensors do not take the fast path")
    return Inputs.one_segment_each(found.pointers, found.nbytes), found.stream


def _median(work: Callable[[], Result]) -> tuple[float, Result]:
    times = []
    for _ in range(STEP_RUNS):
        began = time.perf_counter()
        result = work()
        times.append(time.perf_counter() - began)
    return statistics.median(times), result
