# SPDX-License-Identifier: Apache-2.0
"""CUDA's Python libraries as far as the engine uses them, on the host: the engine's own code runs without a GPU.

Kernels are those of `host_kernels`. The rules of the driver that are easily broken are kept: work needs a context that
is current in the thread and belongs to the memory's GPU (`broken` lists what had none), memory is finite, and what is
allocated is counted until it is freed. Work happens at once, so nothing here shows whether streams are ordered; `log`
says what they were told.
"""

from __future__ import annotations

import ctypes
import threading
import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from engines.host_kernels import Cell, HostKernels, poisoned

from sentry.engine import gpu, nvrtc
from sentry.engine.kernels import MODULES

LEGACY = 1
# Of a driver that knows priorities below the default, which is 0.
LOWEST_PRIORITY = 2


class FakeStream:
    """A stream: its handle, the GPU that it belongs to (None: the current one's default stream)."""

    def __init__(self, cuda: FakeCuda, handle: int, device: int | None) -> None:
        self.cuda = cuda
        self.handle = handle
        self.device = device

    def wait(self, other: FakeStream) -> None:
        self.cuda.log.append(("wait", self.handle, other.handle))

    def sync(self) -> None:
        self.cuda.log.append(("sync", self.handle))


class FakeBuffer:
    """Device memory, counted until it is closed or dropped."""

    def __init__(self, cuda: FakeCuda, nbytes: int) -> None:
        memory = poisoned(nbytes)
        self._memory: object = memory
        self.handle = memory.pointer
        self._free = weakref.finalize(self, cuda.free, nbytes)

    def close(self, stream: FakeStream | None = None) -> None:
        del stream
        self._free()
        self._memory = None


class FakeCuda:
    """What `sentry.engine.gpu` imports, in one object.

    Args:
        kernels: What runs.
        devices: How many GPUs there are.
    """

    def __init__(self, kernels: HostKernels, devices: int = 2) -> None:
        self.kernels = kernels
        self.devices = devices
        self.capability = (9, 0)
        self.room: int | None = None
        self.in_use = 0
        self.log: list[tuple[Any, ...]] = []
        self.broken: set[str] = set()
        self.loaded: list[str] = []
        self._thread = threading.local()
        self._handles = iter(range(100, 1_000_000))
        self._streams: dict[int, int] = {}
        self.core = SimpleNamespace(
            Device=self._device,
            StreamOptions=lambda nonblocking, priority: SimpleNamespace(nonblocking=nonblocking, priority=priority),
            LaunchConfig=lambda grid, block: SimpleNamespace(grid=grid, block=block),
            launch=self._launch,
            Stream=SimpleNamespace(from_handle=lambda handle: FakeStream(self, handle, self._streams.get(handle, 0))),
            LEGACY_DEFAULT_STREAM=FakeStream(self, LEGACY, None),
            LegacyPinnedMemoryResource=lambda: SimpleNamespace(allocate=lambda nbytes: FakeBuffer(self, nbytes)),
        )
        self.driver = SimpleNamespace(
            cuCtxGetCurrent=lambda: (0, self.current),
            cuCtxSetCurrent=self._set_current,
            cuCtxGetStreamPriorityRange=lambda: (0, LOWEST_PRIORITY, -5),
            cuMemcpyHtoDAsync=lambda to, source, nbytes, stream: self._copy("copy in", to, source, nbytes, stream),
            cuMemcpyDtoHAsync=lambda to, source, nbytes, stream: self._copy("copy out", to, source, nbytes, stream),
            cuMemsetD8Async=self._fill,
        )

    @property
    def current(self) -> int | None:
        """The GPU whose context is current in this thread."""
        return getattr(self._thread, "device", None)

    def install(self, patch: pytest.MonkeyPatch) -> None:
        """Put it in the place of the libraries."""
        patch.setattr(gpu, "_libraries", lambda: (self.core, self.driver))
        patch.setattr(nvrtc, "load_module", self._load)

    def free(self, nbytes: int) -> None:
        """Take memory back."""
        self.in_use -= nbytes

    @contextmanager
    def only(self, nbytes: int) -> Iterator[None]:
        """Leave no more room than so many bytes."""
        self.room = self.in_use + nbytes
        try:
            yield
        finally:
            self.room = None

    def _load(self, module: str, arch: str) -> dict[str, tuple[str, str]]:
        self.loaded.append(f"{module} for {arch}")
        return {kernel: (module, kernel) for kernel, _ in MODULES[module].kernels}

    def _set_current(self, device: int | None) -> tuple[int]:
        self._thread.device = device
        return (0,)

    def _device(self, ordinal: int) -> SimpleNamespace:
        if ordinal >= self.devices:
            raise ValueError(f"device_id must be within [0, {self.devices}), got {ordinal}")
        return SimpleNamespace(
            compute_capability=self.capability,
            name="Host",
            set_current=lambda: self._set_current(ordinal),
            create_stream=lambda options=None: self._create_stream(ordinal, options),
            allocate=lambda nbytes, stream: self._allocate(nbytes, stream, ordinal),
        )

    def _create_stream(self, ordinal: int, options: SimpleNamespace | None) -> FakeStream:
        self._check("create_stream", ordinal)
        handle = next(self._handles)
        if options is not None:
            self.log.append(("background stream", handle, options.nonblocking, options.priority))
        self._streams[handle] = ordinal
        return FakeStream(self, handle, ordinal)

    def _allocate(self, nbytes: int, stream: FakeStream, ordinal: int) -> FakeBuffer:
        self._check("allocate", ordinal if stream.device is None else stream.device)
        if self.room is not None and self.in_use + nbytes > self.room:
            raise RuntimeError("CUDA_ERROR_OUT_OF_MEMORY: the API call failed")
        self.in_use += nbytes
        return FakeBuffer(self, nbytes)

    def _check(self, what: str, device: int | None) -> None:
        if self.current is None or (device is not None and device != self.current):
            self.broken.add(what)

    def _check_handle(self, what: str, handle: int) -> None:
        self.log.append((what, handle))
        self._check(what, self._streams.get(handle))

    def _copy(self, what: str, to: int, source: int, nbytes: int, handle: int) -> tuple[int]:
        self._check_handle(what, handle)
        ctypes.memmove(to, source, nbytes)
        return (0,)

    def _fill(self, address: int, value: int, nbytes: int, handle: int) -> tuple[int]:
        self._check_handle("fill", handle)
        ctypes.memset(address, value, nbytes)
        return (0,)

    def _launch(self, stream: FakeStream, config: SimpleNamespace, kernel: tuple[str, str], *cells: Any) -> None:
        self.log.append(("launch", stream.handle, *kernel))
        self._check("launch", stream.device)
        # As cuda.core passes them: Python integers as addresses.
        typed = [Cell(int(cell), wide=not isinstance(cell, np.uint32)) for cell in cells]
        self.kernels.launch(kernel, config.grid, config.block, typed)
