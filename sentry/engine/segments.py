# SPDX-License-Identifier: Apache-2.0
"""Where bytes lie. A message to be hashed is a list of segments, wherever each of them is."""

from __future__ import annotations

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


Segment = FileRange | HostBytes


class ShortReadError(UnavailableError):
    """A file ended before the range that was asked for; whoever knows the file's name turns it into words."""
