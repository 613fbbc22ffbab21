# SPDX-License-Identifier: Apache-2.0
"""A stand-in for the package huggingface_hub: the names that are used here, with the signatures of version 2."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from typing import Any


@dataclass
class FakeHub:
    """Records downloads, and answers each with a directory or an error.

    Attributes:
        answer: What to return, what to raise, or what to call.
        calls: The arguments of every download.
    """

    answer: Path | Exception | Callable[[], Path] | None = None
    calls: list[tuple[str, str | None, bool | str | None]] = field(default_factory=list)

    def snapshot_download(  # the parameters that could matter here, in their order
        self,
        repo_id: str,
        *,
        repo_type: str | None = None,
        revision: str | None = None,
        cache_dir: str | Path | None = None,
        local_dir: str | Path | None = None,
        force_download: bool = False,
        token: bool | str | None = None,
        local_files_only: bool = False,
        allow_patterns: list[str] | str | None = None,
        ignore_patterns: list[str] | str | None = None,
    ) -> str:
        """Pretend to download a repository's files."""
        assert (repo_type, cache_dir, local_dir, allow_patterns, ignore_patterns) == (None,) * 5
        assert not force_download
        assert not local_files_only
        self.calls.append((repo_id, revision, token))
        if isinstance(self.answer, Exception):
            raise self.answer
        assert self.answer is not None
        return str(self.answer() if callable(self.answer) else self.answer)

    def module(self) -> Any:
        """Return the package."""
        module: Any = ModuleType("huggingface_hub")
        module.snapshot_download = self.snapshot_download
        return module


def hub_error(name: str, *bases: type[Exception], message: str = "") -> Exception:
    """Return an error of a class of the library's, by its name."""
    error = type(name, bases or (Exception,), {})(message)
    assert isinstance(error, Exception)
    return error
