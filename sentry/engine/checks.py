# SPDX-License-Identifier: Apache-2.0
"""What every engine refuses before it starts, so that no two engines make something different of it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from sentry.engine.buffers import as_messages
from sentry.engine.segments import Message
from sentry.formats.record import Preimage

LEAF_BYTES = 32

Records = Sequence[tuple[Preimage, Sequence[Any]]]


def check_group(group_chunks: int) -> None:
    """Refuse a run of chunks that is no subtree.

    Raises:
        ValueError: It is not a power of two.
    """
    if group_chunks < 1 or group_chunks.bit_count() != 1:
        raise ValueError(f"{group_chunks} chunks are no subtree: a power of two is")


def check_leaves(leaves: Sequence[bytes]) -> None:
    """Refuse leaves that are none.

    Raises:
        ValueError: One is not 32 bytes long.
    """
    if any(len(leaf) != LEAF_BYTES for leaf in leaves):
        raise ValueError(f"a leaf has {LEAF_BYTES} bytes")


def contents_of(hash_name: str, records: Records) -> list[Message]:
    """Return the contents of all fields of all records, each as the preimage says it is.

    Raises:
        ValueError: A preimage is laid out for another hash, another number of fields, or another length.
    """
    contents: list[Message] = []
    for preimage, fields in records:
        messages = as_messages(fields)
        if preimage.hash_name != hash_name:
            raise ValueError(f"a record is laid out for {preimage.hash_name}, not {hash_name}")
        if tuple(sum(part.nbytes for part in message) for message in messages) != preimage.nbytes:
            raise ValueError("the contents of a record are not as many, or not as long, as its fields say")
        contents += messages
    return contents
