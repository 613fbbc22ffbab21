# SPDX-License-Identifier: Apache-2.0
"""Bytes in the memory that an engine hashes: the host's for the CPU, a GPU's for CUDA."""

from __future__ import annotations

import ctypes
from typing import Any, Protocol

from kernels.memory import Guarded

from sentry.engine.segments import DeviceBytes, HostBytes, Segment


class Placed(Protocol):
    """Bytes that lie somewhere, and can be written again."""

    @property
    def segment(self) -> Segment:
        """What an engine is given."""

    def write(self, data: bytes, at: int = 0) -> None:
        """Write over them."""


class Place(Protocol):
    """Puts bytes into memory; `residue` is the address modulo 16."""

    def __call__(self, data: bytes, residue: int = 0) -> Placed:
        """Put them there."""


class OnHost:
    """Bytes in host memory."""

    def __init__(self, data: bytes, residue: int = 0) -> None:
        self._memory = memoryview(bytearray(residue + len(data)))[residue:]
        self._memory[:] = data
        self.segment = HostBytes(self._memory)

    def write(self, data: bytes, at: int = 0) -> None:
        self._memory[at : at + len(data)] = data


class Simulated:
    """Bytes between unreadable pages, called device memory."""

    def __init__(self, data: bytes, residue: int = 0, *, device: int = 0, stream: int | None = None) -> None:
        memory = Guarded(data, residue=residue)
        self.segment = DeviceBytes(memory.pointer, len(data), device, stream, memory)

    def write(self, data: bytes, at: int = 0) -> None:
        ctypes.memmove(self.segment.pointer + at, data, len(data))


class OnGpu:
    """Bytes in the memory of a GPU, allocated by cuda.core, so that no array library is needed."""

    def __init__(self, data: bytes, residue: int = 0, *, device: int = 0) -> None:
        from cuda.bindings import driver  # noqa: PLC0415
        from cuda.core import Device  # noqa: PLC0415

        self._driver: Any = driver
        self._device = Device(device)
        self._device.set_current()
        stream = self._device.default_stream
        buffer = self._device.allocate(residue + max(1, len(data)), stream=stream)
        stream.sync()
        self.segment = DeviceBytes(int(buffer.handle) + residue, len(data), device, None, buffer)
        self.write(data)

    def write(self, data: bytes, at: int = 0) -> None:
        self._device.set_current()
        if data:
            (error,) = self._driver.cuMemcpyHtoD(self.segment.pointer + at, data, len(data))
            assert not error, error
