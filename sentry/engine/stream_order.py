# SPDX-License-Identifier: Apache-2.0
"""The streams of one GPU, and whose work comes before theirs."""

from __future__ import annotations

import threading
from collections.abc import Iterable
from typing import Any

Handle = int


class Streams:
    """A stream for work that nobody else's stream is for, and one for work that may wait.

    Args:
        core: `cuda.core`.
        driver: `cuda.bindings.driver`.
        device: The GPU, current in this thread.
    """

    def __init__(self, core: Any, driver: Any, device: Any) -> None:  # noqa: ANN401  (cuda's, or a test's)
        self._core = core
        self._driver = driver
        self._device = device
        self._own = device.create_stream()
        self._lock = threading.Lock()
        self._background: Any = None

    def behind(self, producers: Iterable[Handle], *, background: bool = False) -> Any:  # noqa: ANN401
        """Return a stream whose work comes after everything that the producers' streams have been given so far."""
        streams = [self._foreign(handle) for handle in set(producers)]
        if len(streams) == 1 and not background:
            return streams[0]
        own = self._in_background() if background else self._own
        for stream in streams:
            own.wait(stream)
        return own

    def _in_background(self) -> Any:  # noqa: ANN401
        """Return the stream that gets the GPU when nobody of higher priority wants it; one for all plans."""
        with self._lock:
            if self._background is None:
                # The numerically greatest priority is the lowest; without an answer, the default's 0.
                (error, lowest, _highest) = self._driver.cuCtxGetStreamPriorityRange()
                options = self._core.StreamOptions(nonblocking=True, priority=0 if error else int(lowest))
                self._background = self._device.create_stream(options=options)
            return self._background

    def _foreign(self, handle: Handle) -> Any:  # noqa: ANN401
        # 0 and 1 both mean the legacy default stream (the CUDA array interface forbids 0 and says 1).
        return self._core.LEGACY_DEFAULT_STREAM if handle in {0, 1} else self._core.Stream.from_handle(handle)
