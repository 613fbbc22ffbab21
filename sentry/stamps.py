# SPDX-License-Identifier: Apache-2.0
"""What files looked like when their digests were signed: a private note, never signed, never published.

A stamp (`sentry.tree.Entry`) says where a file's inode is, how large it is and when it last changed. Equal stamps make
it likely that nothing was written in between, and prove nothing: whoever sets the clock, or writes through a shared
memory mapping, changes bytes without changing them. Files that changed shortly before they were listed are not noted at
all, as a later change could fall into the same tick of the file system's clock.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
from collections.abc import Mapping
from pathlib import Path

from sentry.atomic import write_atomic
from sentry.errors import FormatError, UnavailableError
from sentry.formats import strict_json
from sentry.formats.digest import decode_hex
from sentry.paths import lies_in
from sentry.private import CACHE_VARIABLE, default_cache, private_directory, read_sealed, seal
from sentry.tree import STAMP_BYTES, Entry

FORMAT = "artifact-sentry stamps v1"
MAX_STAMPS_BYTES = 192 * 1024 * 1024
# The coarsest clock of a file system in use (FAT's) has ticks of two seconds.
RACY_NS = 2_000_000_000


class Stamps:
    """The note about one signed payload and one place on this machine.

    Args:
        payload_sha256: Hex SHA-256 of the payload whose digests the stamps stand for.
        model: The model.

    Raises:
        UnavailableError: The directory of notes is one that others can write, or lies inside the model.
    """

    def __init__(self, payload_sha256: str, model: Path) -> None:
        directory = private_directory(default_cache(), what="directory of stamps")
        if directory is not None and lies_in(directory, model):
            raise UnavailableError(
                "the directory of stamps lies inside the model", hint=f"set {CACHE_VARIABLE} to a directory of your own"
            )
        name = hashlib.sha256(payload_sha256.encode() + b"\0" + os.fsencode(os.path.realpath(model))).hexdigest()
        self._entry = None if directory is None else directory / f"{name}.stamps"

    def read(self) -> Mapping[str, bytes]:
        """Return the stamps by path; nothing where there is no note of ours."""
        data = None if self._entry is None else read_sealed(self._entry, max_bytes=MAX_STAMPS_BYTES)
        try:
            return {} if data is None else _decode(data)
        except FormatError:
            return {}

    def write(self, files: Mapping[str, Entry], *, listed_ns: int) -> None:
        """Note the stamps of files whose digests are signed in the payload.

        Args:
            files: The files as they were listed before they were hashed, and found again afterwards.
            listed_ns: Time at which the listing began, in nanoseconds since 1970.
        """
        if self._entry is None:
            return
        stamps = {path: entry.stamp.hex() for path, entry in files.items() if entry.changed_ns < listed_ns - RACY_NS}
        data = strict_json.dumps({"format": FORMAT, "files": stamps})
        # A full disk makes the next update slower, nothing else.
        with contextlib.suppress(UnavailableError):
            write_atomic(self._entry, [seal(self._entry, data), data], what="stamps", mode=0o600)

    def forget(self) -> None:
        """Remove the note."""
        if self._entry is not None:
            with contextlib.suppress(OSError):
                os.unlink(self._entry)


def _decode(data: bytes) -> Mapping[str, bytes]:
    reader = strict_json.Reader(strict_json.loads(data, what="note", max_bytes=MAX_STAMPS_BYTES), "the note")
    reader.constant("format", FORMAT)
    files = strict_json.string_map(reader.raw("files"), what="the note's files")
    reader.end()
    return {path: decode_hex(text, nbytes=STAMP_BYTES, what="a stamp") for path, text in files.items()}
