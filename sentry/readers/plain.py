# SPDX-License-Identifier: Apache-2.0
"""Plain reads into host memory: `preadv` from several threads, straight into the tensors."""

from __future__ import annotations

import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

from sentry.engine.segments import ShortReadError
from sentry.readers import SourceFile, Tensors
from sentry.readers.pieces import Block, Layout, blocks
from sentry.readers.place import Place, Room

BLOCK_BYTES = 16 * 1024 * 1024
# A call takes at most so many buffers (Linux: IOV_MAX).
MAX_BUFFERS = 1024


class PlainReader:
    """Reads into host memory that nothing else knows."""

    name = "plain"

    def load(self, files: Sequence[SourceFile], place: Place) -> list[Tensors]:
        """Read all tensors of all files; see `sentry.readers.Reader`."""
        rooms = [[place.allocate(entry) for entry in file.header.tensors] for file in files]
        layouts = [Layout(file) for file in files]
        raw = [
            [memoryview(room.raw if place.framework == "np" else room.raw.numpy()) for room in all_] for all_ in rooms
        ]

        def read(block: Block) -> None:
            views = [
                raw[block.file][piece.tensor][piece.offset : piece.offset + piece.nbytes]
                for piece in layouts[block.file].pieces(block.begin, block.end)
            ]
            read_into(files[block.file].descriptor, views, block.begin)

        with ThreadPoolExecutor(len(os.sched_getaffinity(0)), thread_name_prefix="sentry-read") as pool:
            for _ in pool.map(read, blocks(files, BLOCK_BYTES)):
                pass
        return [
            {entry.name: room.array for entry, room in zip(file.header.tensors, all_, strict=True)}
            for file, all_ in zip(files, rooms, strict=True)
        ]


def _bytes_of(room: Room, place: Place) -> memoryview:
    return memoryview(room.raw.numpy() if place.framework == "pt" else room.raw)


def read_into(descriptor: int, views: Sequence[memoryview], offset: int) -> None:
    """Fill buffers from a file, one after the other.

    Raises:
        ShortReadError: The file ends before they are full.
        OSError: It cannot be read.
    """
    pending = [view for view in views if len(view)]
    while pending:
        nbytes = os.preadv(descriptor, pending[:MAX_BUFFERS], offset)
        if nbytes == 0:
            raise ShortReadError("a file became shorter while it was read")
        offset += nbytes
        while pending and nbytes >= len(pending[0]):
            nbytes -= len(pending.pop(0))
        if nbytes:
            pending[0] = pending[0][nbytes:]
