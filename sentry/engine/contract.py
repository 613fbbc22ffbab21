# SPDX-License-Identifier: Apache-2.0
"""What every engine offers, and nothing else computes: segments in, digests out."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

from sentry.engine.checks import Records
from sentry.engine.segments import Message
from sentry.formats.lattice import LatticeSum

Progress = Callable[[int], None]


class Plan(Protocol):
    """Digests of the same memory, ready to be computed again."""

    def run(self) -> list[bytes]:
        """Return the digest of every message as its memory is now."""

    def close(self) -> None:
        """Give back whatever the plan holds."""


class Engine(Protocol):
    """What every engine offers. Nothing else computes digests of artifacts.

    A message is an array (torch, NumPy, CuPy, JAX, anything with DLPack or `__cuda_array_interface__`), a segment, or a
    sequence of those, which stands for their concatenation.
    """

    @property
    def name(self) -> str:
        """What the evidence calls it, for example `cpu` or `cuda:0`."""

    @property
    def threads(self) -> int:
        """How many host threads may work at once."""

    def describe(self) -> str:
        """Say in a few words what the engine runs on."""

    def split(self, streams: int) -> Engine:
        """Return an engine for one of several streams that run side by side."""

    def host_hashes(self, hashes: Sequence[str]) -> tuple[str, ...]:
        """Return those of the hashes that are computed on the host although the engine is not the host."""

    def digest(
        self, hashes: Sequence[str], segments: Message, *, progress: Progress | None = None
    ) -> Mapping[str, bytes]:
        """Digest the concatenation of the segments under every hash, from one read.

        Args:
            hashes: Names that `sentry.formats.digest.digest_bytes` knows.
            segments: What to read, in order.
            progress: Called with the number of bytes that were read since the last call.

        Raises:
            ShortReadError: A file ended before its range did.
            OSError: A file could not be read.
            EngineError: The engine failed, or does not reach a segment.
        """

    def digests(self, hash_name: str, messages: Sequence[Any]) -> list[bytes]:
        """Digest many messages under one hash, in one go."""

    def plan(self, hash_name: str, messages: Sequence[Any], *, background: bool = False) -> Plan:
        """Prepare the digests of memory that will be hashed again and again.

        Args:
            hash_name: Any name that `sentry.formats.digest.digest_bytes` knows.
            messages: Arrays, segments, or sequences of them.
            background: Run beside the work of others instead of in line with it, at the lowest priority that there is.
                Runs then follow what the memory's producers had been given when the plan was made, nothing later.
        """

    def subtrees(self, message: Any, group_chunks: int, *, first_chunk: int = 0) -> list[bytes]:  # noqa: ANN401
        """Return BLAKE3's chaining value of every run of `group_chunks` chunks of 1024 bytes, never as a root."""

    def leaves(self, hash_name: str, records: Records) -> list[bytes]:
        """Return the leaf of every record, from the contents of its fields in the caller's order of fields."""

    def leaves_and_sum(self, hash_name: str, records: Records) -> tuple[list[bytes], LatticeSum]:
        """Return every record's leaf and the lattice sum over them."""

    def lattice_sum(self, leaves: Sequence[bytes]) -> LatticeSum:
        """Return the lattice sum over leaves of 32 bytes."""
