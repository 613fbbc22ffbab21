# SPDX-License-Identifier: Apache-2.0
"""Engines turn segments into digests. Which engine ran never shows in a digest; it is named in the evidence."""

from __future__ import annotations

from dataclasses import dataclass

from sentry.engine.contract import Engine

CHOICES = ("auto", "cpu")


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
