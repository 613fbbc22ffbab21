# SPDX-License-Identifier: Apache-2.0
"""A directory that is ours alone: what lies there decides what is hashed and what is verified.

Whoever could write it could make every check pass. So it has mode 0700, is owned by the user, and no link; its files
are read without following links, and begin with a seal that binds them to their name, against half files and mix-ups.
A seal is no signature: who acts as the user can write one.
"""

from __future__ import annotations

import hashlib
import os
import stat
from pathlib import Path

from sentry.errors import UnavailableError
from sentry.text import escape

CACHE_VARIABLE = "SENTRY_CACHE_DIR"
SEAL_BYTES = 32


def default_cache() -> Path:
    """Return the directory: `SENTRY_CACHE_DIR`, else one below the user's cache directory."""
    chosen = os.environ.get(CACHE_VARIABLE)
    if chosen:
        return Path(chosen)
    base = os.environ.get("XDG_CACHE_HOME") or os.path.join(os.path.expanduser("~"), ".cache")
    return Path(base) / "artifact-sentry"


def private_directory(path: Path, *, what: str, create: bool = True) -> Path | None:
    """Make sure that a directory is ours alone; None if it cannot be made (read-only home): then nothing is kept.

    Args:
        path: The directory.
        what: What it is, for messages ("kernel cache").
        create: Whether to make it.

    Raises:
        UnavailableError: It is a link, somebody else's, or writable for others, or lies in a directory that is.
    """
    try:
        if create:
            path.mkdir(mode=0o700, parents=True, exist_ok=True)
        status = os.lstat(path)
    except OSError:
        return None
    ours = stat.S_ISDIR(status.st_mode) and status.st_uid == os.geteuid() and not stat.S_IMODE(status.st_mode) & 0o077
    if not ours or not all(map(_keeps_entries, Path(os.path.realpath(path)).parents)):
        raise UnavailableError(
            f"the {what} {escape(str(path))} is not a private directory",
            hint=f"whoever can write it decides what is verified: remove it, or set {CACHE_VARIABLE}",
        )
    return path


def seal(entry: Path, data: bytes) -> bytes:
    """Return what stands before an entry's content."""
    return hashlib.sha256(entry.name.encode() + b"\0" + data).digest()


def read_sealed(entry: Path, *, max_bytes: int) -> bytes | None:
    """Return an entry's content behind its seal; None where there is none that only we could have written.

    Args:
        entry: The file, in a private directory.
        max_bytes: Largest size, with the seal.
    """
    try:
        # O_NONBLOCK: a FIFO in its place must not make us wait for a writer.
        descriptor = os.open(entry, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
    except OSError:
        return None
    try:
        status = os.fstat(descriptor)
        ours = stat.S_ISREG(status.st_mode) and status.st_uid == os.geteuid() and not status.st_mode & 0o022
        if not ours or status.st_size > max_bytes:
            return None
        with open(descriptor, "rb", closefd=False) as file:
            content = file.read(max_bytes)
    finally:
        os.close(descriptor)
    data = content[SEAL_BYTES:]
    return data if data and content[:SEAL_BYTES] == seal(entry, data) else None


def _keeps_entries(directory: Path) -> bool:
    """Say whether nobody but its owner, or root, can put something else in the place of our entry."""
    status = os.stat(directory)
    trusted = status.st_uid in {0, os.geteuid()}
    return trusted and (not status.st_mode & stat.S_IWOTH or bool(status.st_mode & stat.S_ISVTX))
