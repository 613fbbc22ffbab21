# SPDX-License-Identifier: Apache-2.0
"""The built-in reader for GPUs: `preadv` into a ring of pinned blocks, copies to the GPU behind it.

Threads do nothing but read; one hands what they have read to the GPU, and one waits until it is there and gives the
blocks back. The ring is small on purpose: what has just been read is copied from the processor's cache. torch keeps
pinned memory for the next load, so that it is pinned once. Whoever wants to see the bytes on the host, or to know which
ranges have arrived, passes an `Observer`.
"""

from __future__ import annotations

import functools
import os
import threading
from collections.abc import Callable, Iterator, Sequence
from queue import SimpleQueue
from typing import Any

from sentry.readers import SourceFile, Tensors
from sentry.readers.mover import CudaMover, Mark, Mover
from sentry.readers.pieces import Block, Layout, blocks
from sentry.readers.place import Place, Room
from sentry.readers.plain import read_into

# Measured on an H100's host with 16 cores, from tmpfs: 12 threads with blocks of 4 MiB reach 38 GB/s, 8 threads 31,
# blocks of 8 MiB 35. Two cores are left to the threads that do not read, and two to the rest of the process.
BLOCK_BYTES = 4 * 1024 * 1024
MAX_THREADS = 12
SPARE_CORES = 4
# Being copied, or waiting for it, beyond those that are being read.
MORE_BLOCKS = 8


class Observer:
    """Sees what passes the ring. This one looks at nothing."""

    # Whether every file's bytes must pass in order, through one thread.
    in_order = False

    def start(self, files: Sequence[SourceFile], rooms: Sequence[Sequence[Room]]) -> None:
        """Learn what will be copied to the GPU, and where to; blocks may have passed before."""

    def passing(self, block: Block, data: memoryview) -> None:
        """See a block on the host; called from the threads that read."""

    def arrived(self, block: Block) -> None:
        """Learn that a block lies on the GPU, and that nobody will write it again; called from one thread."""


class RingReader:
    """Reads into a GPU's memory through pinned memory.

    Args:
        observer: Sees what passes.
        threads: How many threads read.
        block_bytes: Size of a block of the ring.
        more_blocks: Blocks beyond one a thread.
        mover: Makes what moves bytes to the GPU with this ordinal.
    """

    name = "ring"

    def __init__(
        self,
        observer: Observer | None = None,
        *,
        threads: int | None = None,
        block_bytes: int = BLOCK_BYTES,
        more_blocks: int = MORE_BLOCKS,
        mover: Callable[[int | None], Mover] | None = None,
    ) -> None:
        self._observer = observer or Observer()
        self._threads = threads or max(1, min(MAX_THREADS, len(os.sched_getaffinity(0)) - SPARE_CORES))
        self._block_bytes = block_bytes
        self._more_blocks = more_blocks
        self._mover = mover or CudaMover

    def load(self, files: Sequence[SourceFile], place: Place) -> list[Tensors]:
        """Read all tensors of all files; see `sentry.readers.Reader`."""

        def allocate() -> list[list[Room]]:
            return [[place.allocate(entry) for entry in file.header.tensors] for file in files]

        with self._mover(place.ordinal) as mover:
            queues = self._queues(files)
            count = min(len(queues) + self._more_blocks, self._count(files) + 1)
            pinned = [mover.pinned(self._block_bytes) for _ in range(count)]
            rooms = _Ring(files, self._observer, mover, pinned).run(queues, allocate)
        return [
            {entry.name: room.array for entry, room in zip(file.header.tensors, of_file, strict=True)}
            for file, of_file in zip(files, rooms, strict=True)
        ]

    def _count(self, files: Sequence[SourceFile]) -> int:
        """Return about how many blocks there are."""
        return sum(file.nbytes // self._block_bytes + 1 for file in files)

    def _queues(self, files: Sequence[SourceFile]) -> list[Iterator[Block]]:
        """Divide the work: blocks in turn to whoever is free, or whole files where the order matters."""
        if not self._observer.in_order:
            return [_Shared(blocks(files, self._block_bytes))] * max(1, min(self._threads, self._count(files)))
        by_file: dict[int, list[Block]] = {}
        for block in blocks(files, self._block_bytes):
            by_file.setdefault(block.file, []).append(block)
        lanes: list[list[Block]] = [[] for _ in range(max(1, min(self._threads, len(by_file))))]
        # The largest first, each to the lane that has least to do.
        for part in sorted(by_file.values(), key=len, reverse=True):
            min(lanes, key=len).extend(part)
        return [iter(lane) for lane in lanes]


class _Shared:
    """One iterator for several threads: a generator's `next` must not be called by two at once."""

    def __init__(self, work: Iterator[Block]) -> None:
        self._work = work
        self._lock = threading.Lock()

    def __iter__(self) -> Iterator[Block]:
        return self

    def __next__(self) -> Block:
        with self._lock:
            return next(self._work)


class _Ring:
    """One load: the blocks go round from `free` to `filled` to `copied` and back."""

    def __init__(
        self,
        files: Sequence[SourceFile],
        observer: Observer,
        mover: Mover,
        pinned: Sequence[Any],
    ) -> None:
        self._files = files
        self._observer = observer
        self._mover = mover
        self._views = [memoryview(block.numpy()) for block in pinned]
        self._sources = [block.data_ptr() for block in pinned]
        self._targets: list[list[int]] = []
        self._layouts: list[Layout] = []
        self._free: SimpleQueue[int] = SimpleQueue()
        self._filled: SimpleQueue[tuple[Block, int] | None] = SimpleQueue()
        self._copied: SimpleQueue[tuple[list[tuple[Block, int]], Mark] | None] = SimpleQueue()
        self._errors: list[BaseException] = []
        self._stop = threading.Event()

    def run(self, queues: Sequence[Iterator[Block]], allocate: Callable[[], list[list[Room]]]) -> list[list[Room]]:
        """Read everything into what `allocate` returns, which is called when reading has begun.

        Raises:
            BaseException: The first error of any thread; all have ended by then.
        """
        for slot in range(len(self._views)):
            self._free.put(slot)
        threads = [self._thread("read", functools.partial(self._read, queue)) for queue in queues]
        waiter = self._thread("wait", self._wait)
        rooms: list[list[Room]] = []
        try:
            rooms = allocate()
            self._targets = [[room.raw.data_ptr() for room in of_file] for of_file in rooms]
            self._layouts = [Layout(file) for file in self._files]
            self._observer.start(self._files, rooms)
            self._mover.ready()
            self._copy_all(readers=len(threads))
        except BaseException as error:  # noqa: BLE001  (raised again when the threads have ended)
            self._give_up(error)
        self._copied.put(None)
        for thread in (*threads, waiter):
            thread.join()
        if self._errors:
            raise self._errors[0]
        return rooms

    def _thread(self, name: str, work: Callable[[], None]) -> threading.Thread:
        def run() -> None:
            try:
                work()
            except BaseException as error:  # noqa: BLE001  (raised again in the thread that waits)
                self._give_up(error)
            finally:
                if name == "read":
                    self._filled.put(None)

        thread = threading.Thread(target=run, name=f"sentry-{name}", daemon=True)
        thread.start()
        return thread

    def _give_up(self, error: BaseException) -> None:
        self._errors.append(error)
        self._stop.set()
        # Whoever waits for a block finds that it is not wanted any more.
        for _ in range(2 * MAX_THREADS):
            self._free.put(0)

    def _read(self, queue: Iterator[Block]) -> None:
        for block in queue:
            slot = self._free.get()
            if self._stop.is_set():
                return
            view = self._views[slot][: block.end - block.begin]
            read_into(self._files[block.file].descriptor, [view], block.begin)
            self._observer.passing(block, view)
            self._filled.put((block, slot))

    def _copy_all(self, *, readers: int) -> None:
        while readers:
            batch, item = [], self._filled.get()
            while True:
                if item is None:
                    readers -= 1
                else:
                    self._copy(*item)
                    batch.append(item)
                if self._filled.empty():
                    break
                item = self._filled.get()
            if batch:
                self._copied.put((batch, self._mover.mark()))

    def _copy(self, block: Block, slot: int) -> None:
        source, targets = self._sources[slot], self._targets[block.file]
        for piece in self._layouts[block.file].pieces(block.begin, block.end):
            self._mover.copy(targets[piece.tensor] + piece.offset, source + piece.at, piece.nbytes)

    def _wait(self) -> None:
        while (item := self._copied.get()) is not None:
            batch, mark = item
            mark.synchronize()
            for block, slot in batch:
                self._observer.arrived(block)
                self._free.put(slot)
