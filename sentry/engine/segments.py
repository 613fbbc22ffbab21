# SPDX-License-Identifier: Apache-2.0
"""Where bytes lie. A message to be hashed is a list of segments, wherever each of them is."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, field

from sentry.errors import UnavailableError


@dataclass(frozen=True, slots=True)
class FileRange:
    """Part of an open file, read with `pread`: no cursor, no mapping, the descriptor stays the caller's."""

    descriptor: int
    offset: int
    nbytes: int


@dataclass(frozen=True, slots=True)
class HostBytes:
    """Bytes in host memory; nobody may write them before the digest is known."""

    data: bytes | memoryview = field(repr=False)

    @property
    def nbytes(self) -> int:
        """Number of bytes."""
        return len(self.data) if isinstance(self.data, bytes) else self.data.nbytes


@dataclass(frozen=True, slots=True)
class DeviceBytes:
    """Bytes in the memory of a GPU; nobody may write them before the digest is known.

    Attributes:
        pointer: Device address.
        nbytes: Number of bytes.
        device: Ordinal of the GPU.
        stream: Handle of the stream on which the bytes were written last; None if they are known to be written.
        owner: Whatever keeps the memory alive.
    """

    pointer: int
    nbytes: int
    device: int
    stream: int | None = None
    owner: object = field(default=None, repr=False, compare=False)


Segment = FileRange | HostBytes | DeviceBytes
Message = Sequence[Segment]


class ShortReadError(UnavailableError):
    """A file ended before the range that was asked for; whoever knows the file's name turns it into words."""


def read_all(segment: FileRange | HostBytes) -> bytes:
    """Return the bytes of a segment that is not on a device.

    Raises:
        ShortReadError: The file ends before the range.
        OSError: The file cannot be read.
    """
    if isinstance(segment, HostBytes):
        return bytes(segment.data)
    parts, done = [], 0
    while done < segment.nbytes:
        part = os.pread(segment.descriptor, segment.nbytes - done, segment.offset + done)
        if not part:
            raise ShortReadError("a file became shorter while it was read")
        parts.append(part)
        done += len(part)
    return b"".join(parts)
