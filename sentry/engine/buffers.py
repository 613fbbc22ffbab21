# SPDX-License-Identifier: Apache-2.0
"""Arrays of other libraries as segments: torch tensors, DLPack, `__cuda_array_interface__`, and host buffers.

Nothing is copied. An array whose bytes do not lie one after the other in row-major order, or do not lie there as their
value (conjugated and negated views), is refused: hashing what lies there would be the digest of something else.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from sentry.engine.segments import DeviceBytes, FileRange, HostBytes, Message, Segment
from sentry.errors import EngineError

# DLPack's device types (dlpack.h): CPU, CUDA, CUDA pinned host memory, CUDA managed memory.
_DLPACK_HOST = (1, 3)
_DLPACK_CUDA = (2, 13)

_COPY = "hash a contiguous copy of it"

Array = Any  # there is no common type: whatever offers one of the protocols


@dataclass(frozen=True)
class TorchTables:
    """Tensors on one GPU: its ordinal, their addresses and lengths in bytes, and the current stream."""

    ordinal: int
    pointers: npt.NDArray[np.uint64]
    nbytes: npt.NDArray[np.uint64]
    stream: int


def as_messages(items: Sequence[Array | Message]) -> list[Message]:
    """Turn what an engine was given into messages: an array is one, a list of segments and arrays another."""
    torch = sys.modules.get("torch")
    plain = (torch.Tensor, torch.nn.Parameter) if torch is not None else ()
    messages: list[Message] = []
    streams: dict[int, int] = {}
    for item in items:
        if type(item) in plain:
            messages.append((_torch_segment(item, torch, streams),))
        elif isinstance(item, (list, tuple)):
            messages.append(tuple(as_segment(part) for part in item))
        else:
            messages.append((as_segment(item),))
    return messages


def torch_tables(items: Sequence[Any]) -> TorchTables | None:
    """Take many contiguous torch tensors on one GPU apart, without an object or a Python call for each.

    Returns:
        None where that is not what there is; the slow path then says what is wrong, if something is.
    """
    torch = sys.modules.get("torch")
    if torch is None or not items or not set(map(type, items)) <= {torch.Tensor, torch.nn.Parameter}:
        return None
    tensor, count = torch.Tensor, len(items)
    ordinals = set(map(tensor.get_device, items))
    if len(ordinals) > 1 or min(ordinals) < 0:
        return None
    try:
        plain = all(map(tensor.is_contiguous, items)) and not any(map(tensor.is_neg, items))
        if not plain or any(map(tensor.is_conj, items)):
            return None
        pointers = np.fromiter(map(tensor.data_ptr, items), np.uint64, count)
        nbytes = np.fromiter(map(tensor.nbytes.__get__, items), np.uint64, count)
    except RuntimeError:  # sparse, nested and such tensors have no bytes of their own
        return None
    ordinal = ordinals.pop()
    return TorchTables(ordinal, pointers, nbytes, torch.cuda.current_stream(ordinal).cuda_stream)


def as_segment(array: Array | Segment) -> Segment:
    """Turn one array into the segment of its bytes.

    Raises:
        EngineError: Its bytes are not there (meta tensors), or not as the value's row-major bytes.
    """
    if isinstance(array, (FileRange, HostBytes, DeviceBytes)):
        return array
    torch = sys.modules.get("torch")
    if torch is not None and isinstance(array, torch.Tensor):
        return _torch_segment(array, torch, {})
    if hasattr(array, "__dlpack_device__"):
        kind, ordinal = array.__dlpack_device__()
        if kind in _DLPACK_CUDA:
            return _device_segment(array, ordinal)
        if kind not in _DLPACK_HOST:
            raise EngineError(f"arrays on DLPack devices of type {kind} cannot be hashed")
    elif hasattr(array, "__cuda_array_interface__"):
        return _device_segment(array, None)
    return _host_segment(array)


def _torch_segment(tensor: Any, torch: Any, streams: dict[int, int]) -> Segment:  # noqa: ANN401
    """The fast path: `__dlpack__` costs 2 microseconds a tensor, this a quarter of one."""
    if tensor.is_meta:
        raise EngineError("a meta tensor has no bytes to hash")
    if tensor.layout is not torch.strided or tensor.is_nested or tensor._is_zerotensor():  # noqa: SLF001
        raise EngineError("a sparse, nested or zero tensor does not hold the bytes of its value", hint=_COPY)
    if not tensor.is_contiguous() or tensor.is_conj() or tensor.is_neg():
        raise _not_contiguous()
    if type(tensor) not in (torch.Tensor, torch.nn.Parameter):
        raise EngineError(
            f"tensors of type {type(tensor).__name__} hide their bytes",
            hint="pass the plain tensors that it is made of",
        )
    ordinal = tensor.get_device()
    if ordinal < 0:
        if tensor.device.type != "cpu":
            raise EngineError(f"tensors on {tensor.device.type} cannot be hashed")
        return HostBytes(memoryview(tensor.detach().reshape(-1).view(torch.uint8).numpy()))
    if ordinal not in streams:
        streams[ordinal] = torch.cuda.current_stream(ordinal).cuda_stream
    return DeviceBytes(tensor.data_ptr(), tensor.nbytes, ordinal, streams[ordinal], tensor)


def _device_segment(array: Array, ordinal: int | None) -> DeviceBytes:
    from cuda.core.utils import StridedMemoryView  # noqa: PLC0415  (only there when there is something on a GPU)

    # -1: no ordering yet; the engine orders its stream behind the producer's, which is the legacy default stream (0)
    # unless the array says otherwise.
    try:
        view = StridedMemoryView.from_any_interface(array, stream_ptr=-1)
    except Exception as error:
        raise EngineError(f"a {type(array).__name__} does not hand out its memory: {error}") from error
    nbytes = view.dtype.itemsize
    expected = 1
    for size, stride in zip(reversed(view.shape), reversed(view.strides or ()), strict=False):
        if size > 1 and stride != expected:
            raise _not_contiguous()
        expected *= size
    for size in view.shape:
        nbytes *= size
    interface = getattr(array, "__cuda_array_interface__", None) or {}
    return DeviceBytes(
        view.ptr, nbytes, view.device_id if ordinal is None else ordinal, interface.get("stream") or 0, array
    )


def _host_segment(array: Array) -> HostBytes:
    try:
        view = memoryview(array)
    except TypeError:
        raise EngineError(f"a {type(array).__name__} offers no bytes to hash") from None
    except (BufferError, ValueError) as error:
        raise EngineError(f"a {type(array).__name__} cannot be hashed: {error}") from None
    if getattr(getattr(array, "dtype", None), "hasobject", False) or view.format.lstrip("@=<>!") == "O":
        raise EngineError("an array of Python objects holds their addresses, not their bytes")
    if not view.c_contiguous:
        raise _not_contiguous()
    return HostBytes(view.cast("B") if view.nbytes else b"")


def _not_contiguous() -> EngineError:
    return EngineError(
        "an array is not contiguous, or a conjugated or negated view: its bytes are not those of its value",
        hint=_COPY,
    )
