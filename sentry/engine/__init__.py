# SPDX-License-Identifier: Apache-2.0
"""Engines turn segments into digests. Which engine ran never shows in a digest; it is named in the evidence."""

from __future__ import annotations

import functools
import re
from collections.abc import Sequence
from dataclasses import dataclass

from sentry.engine.contract import Engine

_CUDA = re.compile(r"cuda(?::([0-9]{1,3}))?")


@dataclass(frozen=True)
class EngineChoice:
    """An engine, and why it was taken."""

    engine: Engine
    reason: str

    def explain(self, hashes: Sequence[str]) -> str:
        """Say why it was taken, and which of the hashes run elsewhere all the same."""
        on_host = self.engine.host_hashes(hashes)
        return f"{self.reason}; {' and '.join(on_host)} on the host as the bytes pass" if on_host else self.reason


def is_engine(name: str) -> bool:
    """Say whether `choose` knows a name; it may still not run here."""
    return name in {"auto", "cpu"} or _CUDA.fullmatch(name) is not None


def choose(name: str) -> EngineChoice:
    """Turn the `engine=` argument of the API into an engine.

    `auto` is for bytes that come from files: they reach the CPU first, which hashes them as fast as they come, so it
    takes the CPU and leaves the GPU to its owner. Bytes that already lie in a GPU's memory are hashed there, whatever
    the choice.

    Args:
        name: `auto`, `cpu`, `cuda`, or `cuda:N` for one GPU of several.

    Raises:
        ValueError: For another name.
        EngineError: The engine cannot run here.
    """
    match = _CUDA.fullmatch(name)
    if match:
        return EngineChoice(_cuda(int(match[1] or 0)), "asked for")
    if name == "cpu":
        return EngineChoice(_cpu(), "asked for")
    if name == "auto":
        return EngineChoice(_cpu(), "auto: files pass through the CPU anyway")
    raise ValueError(f"there is no engine {name!r}; known are auto, cpu, cuda and cuda:N")


def _cpu() -> Engine:
    from sentry.engine.cpu import CpuEngine  # noqa: PLC0415  (hashlib and blake3 are loaded when something is hashed)

    return CpuEngine()


@functools.cache
def _cuda(ordinal: int) -> Engine:
    """One engine per GPU and process: its kernels are loaded, and put to the test, once."""
    from sentry.engine.cuda import CudaEngine  # noqa: PLC0415

    return CudaEngine(ordinal)
