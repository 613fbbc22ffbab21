# SPDX-License-Identifier: Apache-2.0
"""What moves bytes from pinned memory to a GPU: a stream of its own, and marks to wait for."""

from __future__ import annotations

from typing import Any, Protocol, Self

from sentry.errors import EngineError
from sentry.readers import ReaderUnavailableError
from sentry.readers.place import no_room


class Mover(Protocol):
    """What the ring asks of a GPU. Used by one thread; marks are waited for by another."""

    def __enter__(self) -> Self:
        """Get hold of the GPU."""

    def __exit__(self, *exception: object) -> None:
        """Wait until nothing is being copied any more."""

    def ready(self) -> None:
        """Wait until everything has happened that was queued for memory that is about to be filled."""

    def pinned(self, nbytes: int) -> Any:  # noqa: ANN401  (a tensor of bytes)
        """Return a block of pinned memory."""

    def copy(self, destination: int, source: int, nbytes: int) -> None:
        """Queue a copy between addresses."""

    def mark(self) -> Mark:
        """Return something that waits for all copies so far."""


class Mark(Protocol):
    """A point in the queue of copies."""

    def synchronize(self) -> None:
        """Wait until the GPU has got there."""


class CudaMover:
    """Moves bytes on a stream of its own; pinned memory is torch's, which keeps it for the next load.

    Args:
        ordinal: Which GPU.

    Raises:
        ReaderUnavailableError: The CUDA bindings are not installed.
    """

    def __init__(self, ordinal: int | None) -> None:
        import torch  # noqa: PLC0415

        try:
            from cuda.bindings import driver  # noqa: PLC0415
        except ImportError:
            raise ReaderUnavailableError("cuda-bindings is not installed (it is in artifact-sentry[cuda])") from None
        if not torch.cuda.is_available():
            raise ReaderUnavailableError("torch has no GPU here")
        self._torch = torch
        self._memcpy = driver.cuMemcpyHtoDAsync
        self._device = torch.cuda.device(ordinal)

    def __enter__(self) -> Self:
        self._device.__enter__()
        self._stream = self._torch.cuda.Stream()
        return self

    def __exit__(self, *exception: object) -> None:
        try:
            # The pinned blocks are torch's again after this.
            self._stream.synchronize()
        finally:
            self._device.__exit__(*exception)

    def ready(self) -> None:
        """Wait for torch's current stream: memory that it hands out again may still be used by work queued there."""
        self._torch.cuda.current_stream().synchronize()

    def pinned(self, nbytes: int) -> Any:  # noqa: ANN401
        """Return a block of pinned memory.

        Raises:
            UnavailableError: There is none left.
        """
        try:
            return self._torch.empty(nbytes, dtype=self._torch.uint8, pin_memory=True)
        except RuntimeError:  # torch.OutOfMemoryError is one
            raise no_room("the host's pinned memory") from None

    def copy(self, destination: int, source: int, nbytes: int) -> None:
        """Queue a copy from the host's memory to the GPU's.

        Raises:
            EngineError: The driver refused it.
        """
        (error,) = self._memcpy(destination, source, nbytes, self._stream.cuda_stream)
        if error:
            raise EngineError(f"the GPU refused a copy: {error.name}")

    def mark(self) -> Mark:
        """Return something that waits for all copies so far."""
        event: Mark = self._torch.cuda.Event()
        event.record(self._stream)  # type: ignore[attr-defined]
        return event
