# SPDX-License-Identifier: Apache-2.0
"""Readers move bytes of opened safetensors files into memory. They judge nothing and are trusted with nothing.

A reader is given descriptors that are open already, and headers that were parsed from the bytes that get hashed. What
it returns is checked against those headers and hashed afterwards, when nothing of the reader can write there any more.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Protocol

from sentry.errors import FormatError, MismatchError
from sentry.formats.safetensors import Header, parse_header
from sentry.readers.place import Place
from sentry.text import escape

Tensors = Mapping[str, Any]


@dataclass(frozen=True)
class SourceFile:
    """A safetensors file that is open.

    Attributes:
        path: POSIX path relative to the signed directory, for messages.
        descriptor: Open for reading; whoever opened it closes it.
        header_data: Its length field and header; these bytes are parsed, and these are hashed.
        nbytes: Its size.
    """

    path: str
    descriptor: int
    header_data: bytes = field(repr=False)
    nbytes: int

    @property
    def payload_begin(self) -> int:
        """Where the tensors' bytes begin; they end with the file."""
        return len(self.header_data)

    @cached_property
    def header(self) -> Header:
        """The header, parsed when it is first needed: reading can have begun by then.

        Raises:
            MismatchError: It is not one that a verified load accepts.
        """
        try:
            return parse_header(self.header_data, file_nbytes=self.nbytes)
        except FormatError as error:
            raise MismatchError(f"{escape(self.path)} cannot be loaded: {error}", changed=[self.path]) from None


class ReaderUnavailableError(Exception):
    """A reader cannot read these files here; nothing has been read, and another may. Its text says why."""


class Reader(Protocol):
    """What every reader offers."""

    @property
    def name(self) -> str:
        """What the evidence calls it."""

    def load(self, files: Sequence[SourceFile], place: Place) -> list[Tensors]:
        """Read all tensors of all files.

        Returns:
            For each file its tensors by name. Nothing of the reader writes to them any more.

        Raises:
            ReaderUnavailableError: It cannot run here.
            ShortReadError: A file ended early.
            OSError: A file could not be read.
            UnavailableError: There is no room.
        """
