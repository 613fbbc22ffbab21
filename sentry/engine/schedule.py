# SPDX-License-Identifier: Apache-2.0
"""What a GPU is asked to do, worked out on the host: tables, scratch space, launches. Nothing here touches CUDA.

A schedule is plain data, so the same one runs on a GPU (`sentry.engine.gpu`) and, in the tests, on the kernels
compiled as host code. Addresses are symbolic until then: an offset into the uploaded tables, the scratch space or the
result. The shape of the launches never shows in a digest (docs/kernels.md).
"""

from __future__ import annotations

import functools
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
import numpy.typing as npt

Space = Literal["tables", "scratch", "result"]
Counts = npt.NDArray[np.int64]

VALUE_BYTES = 32
# Threads a block in the tree kernels; `TREE_THREADS` of kernels/tree.cuh.
TREE_THREADS = 128
# Prefix tables are 32 bits wide: 4 TiB of chunks in one schedule.
MAX_SLOTS = 2**32 - 1
# Tables are read by 16-byte accesses.
ALIGNMENT = 256


@dataclass(frozen=True, slots=True)
class Shape:
    """Launch shape; it decides speed, never a digest.

    Attributes:
        block: Threads a block of the chunk, leaf and flat kernels: a multiple of 32 up to 128.
        serial: Messages of up to this many values are reduced by one thread each.
        tile: Values a block in the tree: a power of two from 2 to 1024.
    """

    block: int = 128
    serial: int = 8
    tile: int = 1024


@dataclass(frozen=True, slots=True)
class Pointer:
    """An address that is known when the schedule runs."""

    space: Space
    offset: int


Argument = Pointer | int | np.uint64


@dataclass(frozen=True, slots=True)
class Launch:
    """One kernel launch. Plain integers are passed as 32 bits, `numpy.uint64` as 64."""

    module: str
    kernel: str
    grid: int
    block: int
    arguments: tuple[Argument, ...]


@dataclass(frozen=True)
class Inputs:
    """Device memory to be digested: messages, each the concatenation of its segments.

    Attributes:
        pointers: Device address of every segment.
        nbytes: Length of every segment in bytes.
        first_segment: For every message its first segment, and their total behind the last.
        one_each: Every message is one segment.
    """

    pointers: npt.NDArray[np.uint64]
    nbytes: npt.NDArray[np.uint64]
    first_segment: npt.NDArray[np.uint32]
    one_each: bool = False

    @classmethod
    def one_segment_each(cls, pointers: npt.NDArray[np.uint64], nbytes: npt.NDArray[np.uint64]) -> Inputs:
        """Take every segment for a message of its own."""
        return cls(pointers, nbytes, np.arange(len(pointers) + 1, dtype=np.uint32), one_each=True)

    @property
    def messages(self) -> int:
        """Number of messages."""
        return len(self.first_segment) - 1

    @functools.cached_property
    def segment_starts(self) -> npt.NDArray[np.uint64]:
        """Where each segment starts in the concatenation of all, and the total length."""
        starts = np.zeros(len(self.nbytes) + 1, np.uint64)
        self.nbytes.cumsum(out=starts[1:])
        return starts

    @functools.cached_property
    def message_bytes(self) -> Counts:
        """Length of every message in bytes."""
        if self.one_each:
            return self.nbytes.astype(np.int64)
        edges = self.segment_starts[self.first_segment].astype(np.int64)
        return edges[1:] - edges[:-1]


@dataclass
class Schedule:
    """Launches, in order, and the memory that they need.

    Attributes:
        tables: Bytes to be uploaded before the first launch.
        relocations: Parts of the tables that hold offsets into a space and must become addresses: the part's offset
            in bytes, its number of 64-bit entries, the space.
        scratch_bytes: Device memory that only the launches use.
        result_bytes: Device memory that holds the result afterwards.
        launches: What to run.
    """

    tables: bytearray = field(default_factory=bytearray, repr=False)
    relocations: list[tuple[int, int, Space]] = field(default_factory=list)
    scratch_bytes: int = 0
    result_bytes: int = 0
    launches: list[Launch] = field(default_factory=list)

    def table(self, array: npt.NDArray[np.generic]) -> Pointer:
        """Add a table."""
        offset = _aligned(len(self.tables))
        self.tables.extend(bytes(offset - len(self.tables)))
        self.tables += array.tobytes()
        return Pointer("tables", offset)

    def addresses(self, offsets: npt.NDArray[np.uint64], space: Space) -> Pointer:
        """Add a table of addresses, given as offsets into a space."""
        pointer = self.table(offsets.astype(np.uint64))
        self.relocations.append((pointer.offset, len(offsets), space))
        return pointer

    def scratch(self, nbytes: int) -> Pointer:
        """Reserve scratch space."""
        offset = self.scratch_bytes
        self.scratch_bytes = _aligned(offset + nbytes)
        return Pointer("scratch", offset)

    def result(self, nbytes: int) -> Pointer:
        """Reserve the result."""
        offset = self.result_bytes
        self.result_bytes = offset + nbytes
        return Pointer("result", offset)

    def launch(self, module: str, kernel: str, threads: int, block: int, *arguments: Argument) -> None:
        """Add a launch of as many blocks as the threads need."""
        if threads:
            self.launches.append(Launch(module, kernel, -(-threads // block), block, arguments))


def _aligned(offset: int) -> int:
    return -(-offset // ALIGNMENT) * ALIGNMENT
