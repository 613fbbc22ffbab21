# SPDX-License-Identifier: Apache-2.0
"""Files in blocks, and which pieces of which tensors a block holds.

A large model has thousands of blocks, made while it is read: they are tuples, which cost least.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from sentry.readers import SourceFile


class Block(NamedTuple):
    """A range of one file's bytes.

    Attributes:
        file: Number of the file.
        begin: First byte, counted from the start of the file, and `end` the one behind the last.
    """

    file: int
    begin: int
    end: int


class Piece(NamedTuple):
    """What a block holds of one tensor.

    Attributes:
        tensor: Number of the tensor in the file.
        at: Where the piece begins in the block, in bytes.
        offset: Where it begins in the tensor.
        nbytes: Its length.
    """

    tensor: int
    at: int
    offset: int
    nbytes: int


class Layout:
    """Where the tensors of one file lie in it."""

    def __init__(self, file: SourceFile) -> None:
        self._entries = [entry for entry in enumerate(file.header.tensors) if entry[1].nbytes]
        self._begins = [file.payload_begin + entry.begin for _, entry in self._entries]

    def pieces(self, begin: int, end: int) -> Iterator[Piece]:
        """Yield what a range of the file holds of its tensors, in order."""
        index = max(0, bisect_right(self._begins, begin) - 1)
        while index < len(self._entries) and self._begins[index] < end:
            number, entry = self._entries[index]
            start = self._begins[index]
            first, last = max(begin, start), min(end, start + entry.nbytes)
            if first < last:
                yield Piece(number, first - begin, first - start, last - first)
            index += 1


def blocks(files: Sequence[SourceFile], block_bytes: int) -> Iterator[Block]:
    """Cut the files' tensors into blocks that end at multiples of the block size, counted from the files' starts."""
    for number, file in enumerate(files):
        begin = file.payload_begin
        while begin < file.nbytes:
            end = min(file.nbytes, (begin // block_bytes + 1) * block_bytes)
            yield Block(number, begin, end)
            begin = end
