# SPDX-License-Identifier: Apache-2.0
"""Whether tensors are what a header says, before their bytes are hashed.

A reader may be somebody else's code. A tensor that is transposed or negated has the right address and size, and other
values than its bytes; one that shares memory with another can change after it was verified.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from typing import Any

from sentry.errors import MismatchError
from sentry.formats.safetensors import TensorEntry
from sentry.readers import SourceFile
from sentry.readers.place import Place
from sentry.text import escape, join_names

ALIGNMENT = 16


def check_tensors(files: Sequence[SourceFile], loaded: Sequence[Mapping[str, Any]], place: Place, reader: str) -> None:
    """Refuse tensors that are not exactly those of the files' headers, each in memory of its own.

    Args:
        files: What was to be read.
        loaded: For each file its tensors by name.
        place: Where they were to be put.
        reader: Who put them there, for messages.

    Raises:
        MismatchError: Naming the first that is wrong, and how.
    """
    if len(loaded) != len(files):
        raise MismatchError(f"the reader {reader} returned {len(loaded)} files for {len(files)}")
    ranges: list[tuple[int, int, str]] = []
    for file, tensors in zip(files, loaded, strict=True):
        entries = {entry.name: entry for entry in file.header.tensors}
        if entries.keys() != tensors.keys():
            names = join_names(tuple(escape(name) for name in sorted(entries.keys() ^ tensors.keys())))
            raise MismatchError(f"the reader {reader} returned other tensors than {escape(file.path)} has: {names}")
        for name, entry in entries.items():
            wrong = _wrong_with(tensors[name], entry, place)
            if wrong:
                raise MismatchError(f"the reader {reader} returned {escape(name)} {wrong}", changed=[name])
            if entry.nbytes:
                begin = _address(tensors[name])
                ranges.append((begin, begin + entry.nbytes, name))
    ranges.sort()
    for (_, end, first), (begin, _, second) in itertools.pairwise(ranges):
        if begin < end:
            raise MismatchError(
                f"the reader {reader} put {escape(first)} and {escape(second)} into the same memory",
                changed=[first, second],
            )


def _address(array: Any) -> int:  # noqa: ANN401
    return int(array.data_ptr() if hasattr(array, "data_ptr") else array.ctypes.data)


def _wrong_with(array: Any, entry: TensorEntry, place: Place) -> str | None:  # noqa: ANN401
    return _wrong_torch(array, entry, place) if place.framework == "pt" else _wrong_numpy(array, entry, place)


def _wrong_torch(tensor: Any, entry: TensorEntry, place: Place) -> str | None:  # noqa: ANN401, PLR0911
    import torch  # noqa: PLC0415

    if type(tensor) is not torch.Tensor or tensor.layout is not torch.strided or tensor.is_nested:
        return "as something else than a plain tensor"
    device = torch.device(str(place))
    if tensor.device != device:
        return f"on {tensor.device}, not on {device}"
    if tensor.dtype is not place.dtype_of(entry.dtype):
        return f"as {tensor.dtype}, not as {entry.dtype}"
    shape = place.shape_of(entry)
    if tuple(tensor.shape) != shape:
        return f"in shape {tuple(tensor.shape)}, not {shape}"
    if tensor.is_conj() or tensor.is_neg():
        return "as a conjugated or negated view"
    if not tensor.is_contiguous() or not _row_major(tensor.stride(), shape):
        return "with its elements in another order"
    if not entry.nbytes:
        return None
    storage = tensor.untyped_storage()
    offset = tensor.data_ptr() - storage.data_ptr()
    if tensor.nbytes != entry.nbytes or offset < 0 or offset + entry.nbytes > storage.nbytes():
        return "beyond the memory that it lies in"
    if tensor.data_ptr() % ALIGNMENT:
        return f"at an address that is no multiple of {ALIGNMENT}"
    return None


def _wrong_numpy(array: Any, entry: TensorEntry, place: Place) -> str | None:  # noqa: ANN401
    import numpy as np  # noqa: PLC0415

    if type(array) is not np.ndarray:
        return "as something else than a plain array"
    if array.dtype != place.dtype_of(entry.dtype) or array.shape != entry.shape:
        return f"as {array.dtype} in shape {array.shape}, not as {entry.dtype} in shape {entry.shape}"
    if not array.flags.c_contiguous or array.nbytes != entry.nbytes:
        return "with its elements in another order"
    return None


def _row_major(strides: Sequence[int], shape: Sequence[int]) -> bool:
    """Say whether strides in elements are those of row-major order; where a dimension is 1 or 0 they mean nothing."""
    expected = 1
    for stride, size in zip(reversed(strides), reversed(shape), strict=True):
        if size == 0:
            return True
        if size > 1 and stride != expected:
            return False
        expected *= size
    return True
