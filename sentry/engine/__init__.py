# SPDX-License-Identifier: Apache-2.0
"""Engines turn segments into digests. Which engine ran never shows in a digest; it is named in the evidence."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from sentry.engine.segments import Segment

CHOICES = ("auto", "cpu")

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


@dataclass(frozen=True)
class EngineChoice:
    """An engine, and why it was taken."""

    engine: Engine
    reason: str


def choose(name: str) -> EngineChoice:
    """Turn the `engine=` argument of the API into an engine.

    Args:
        name: One of `CHOICES`.

    Raises:
        ValueError: For another name.
    """
    from sentry.engine.cpu import CpuEngine  # noqa: PLC0415  (hashlib and blake3 are loaded when something is hashed)

    if name == "cpu":
        return EngineChoice(CpuEngine(), "asked for")
    if name == "auto":
        return EngineChoice(CpuEngine(), "the only engine in this version")
    raise ValueError(f"there is no engine {name!r}; known are {', '.join(CHOICES)}")
