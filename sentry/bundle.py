# SPDX-License-Identifier: Apache-2.0
"""Signature files: a bundle with its place on disk."""

from __future__ import annotations

from os import PathLike
from pathlib import Path

from sentry.atomic import read_limited, write_atomic
from sentry.errors import FormatError
from sentry.formats.bundle import MAX_BUNDLE_BYTES, BundleContent


class Bundle(BundleContent):
    """A signature: what was signed (`envelope`) and what helps to find the signer (`material`).

    Reading one verifies nothing. The format is docs/format.md, "Bundle".
    """

    @classmethod
    def read(cls, path: str | PathLike[str]) -> Bundle:
        """Read a signature file.

        Raises:
            FormatError: It is not a bundle.
            UnavailableError: It cannot be read.
        """
        data, _ = read_limited(Path(path), max_bytes=MAX_BUNDLE_BYTES, what="signature")
        if not data:
            raise FormatError("the signature file is empty")
        return cls.decode(data)

    def write(self, path: str | PathLike[str]) -> None:
        """Write the signature file, in full or not at all; an existing one is replaced.

        Raises:
            UnavailableError: It cannot be written.
        """
        write_atomic(Path(path), self.encode_parts(), what="signature")
