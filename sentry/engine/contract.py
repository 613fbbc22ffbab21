# SPDX-License-Identifier: Apache-2.0
"""What every engine offers, and nothing else computes: segments in, digests out."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Protocol

from sentry.engine.segments import Segment

Progress = Callable[[int], None]


class Engine(Protocol):
    """What every engine offers. Nothing else computes digests of artifacts."""

    @property
    def name(self) -> str:
        """What the evidence calls it, for example `cpu`."""

    @property
    def threads(self) -> int:
        """How many host threads may work at once."""

    def split(self, streams: int) -> Engine:
        """Return an engine for one of several streams that run side by side."""

    def digest(
        self, hashes: Sequence[str], segments: Sequence[Segment], *, progress: Progress | None = None
    ) -> Mapping[str, bytes]:
        """Digest the concatenation of the segments under every hash, from one read.

        Args:
            hashes: Names from `sentry.formats.digest.DIGEST_BYTES`.
            segments: What to read, in order.
            progress: Called with the number of bytes that were read since the last call.

        Raises:
            ShortReadError: A file ended before its range did.
            OSError: A file could not be read.
        """

    def digests(self, hash_name: str, messages: Sequence[Sequence[Segment]]) -> list[bytes]:
        """Digest many messages under one hash."""
