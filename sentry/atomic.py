# SPDX-License-Identifier: Apache-2.0
"""Small files in one piece: read with a limit, written whole or not at all."""

from __future__ import annotations

import contextlib
import os
import secrets
import stat
from collections.abc import Iterable
from pathlib import Path

from sentry.errors import FormatError, UnavailableError
from sentry.text import escape


def read_limited(path: Path, *, max_bytes: int, what: str) -> tuple[bytes, os.stat_result]:
    """Read a regular file of bounded size, opened once.

    Args:
        path: The file; links are followed.
        max_bytes: Refuse larger files before reading them.
        what: What the file is, for messages ("signature").

    Raises:
        UnavailableError: Missing, unreadable, or not a regular file.
        FormatError: Too large.
    """
    try:
        # O_NONBLOCK: opening a FIFO must not wait for its writer.
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode):
            os.close(descriptor)
            raise UnavailableError(f"the {what} {escape(str(path))} is not a regular file")
        with open(descriptor, "rb") as file:
            data = b"" if status.st_size > max_bytes else file.read(status.st_size + 1)
    except OSError as error:
        raise unavailable(error, f"cannot read the {what} {escape(str(path))}") from None
    if max(len(data), status.st_size) > max_bytes:
        raise FormatError(f"the {what} {escape(str(path))} is larger than {max_bytes} bytes")
    return data, status


def write_atomic(path: Path, parts: Iterable[bytes], *, what: str, mode: int = 0o666, replace: bool = True) -> None:
    """Write a file that is either there in full or not there.

    Args:
        path: Where to. The directory must exist.
        parts: The content.
        what: What the file is, for messages.
        mode: Permissions, before the process's umask.
        replace: Whether an existing file may be replaced.

    Raises:
        UnavailableError: Full disk, no permission, no such directory, or the file exists and may not be replaced.
    """
    if replace and os.path.lexists(path) and not stat.S_ISREG(os.lstat(path).st_mode):
        raise UnavailableError(f"cannot write the {what} {escape(str(path))}: it is not a regular file")
    # A new file gets its name at once, which fails if the name is taken; a replaced one when it is complete.
    target = path.with_name(f".sentry.{secrets.token_hex(8)}.tmp") if replace else path
    try:
        descriptor = os.open(target, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW, mode)
    except OSError as error:
        raise unavailable(error, f"cannot write the {what} {escape(str(path))}") from None
    try:
        with open(descriptor, "wb") as file:
            file.writelines(parts)
            file.flush()
            os.fsync(descriptor)
        if replace:
            os.replace(target, path)
    except BaseException as error:
        with contextlib.suppress(OSError):
            os.unlink(target)
        if isinstance(error, OSError):
            raise unavailable(error, f"cannot write the {what} {escape(str(path))}") from None
        raise


def unavailable(error: OSError, doing: str) -> UnavailableError:
    """Turn an operating system's error into one sentence."""
    return UnavailableError(f"{doing}: {error.strerror or error}")
