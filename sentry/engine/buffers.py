# SPDX-License-Identifier: Apache-2.0
"""Arrays of other libraries as segments: torch tensors, DLPack, `__cuda_array_interface__`, and host buffers.

Nothing is copied. An array whose bytes do not lie one after the other in row-major order, or do not lie there as their
value (conjugated and negated views), is refused: hashing what lies there would be the digest of something else.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Any

from sentry.engine.segments import DeviceBytes, FileRange, HostBytes, Message, Segment
from sentry.errors import EngineError

# DLPack's device types (dlpack.h): CPU, CUDA, CUDA pinned host memory, CUDA managed memory.
_DLPACK_HOST = (1, 3)
_DLPACK_CUDA = (2, 13)

_COPY = "hash a contiguous copy of it"

Array = Any  # there is no common type: whatever offers one of the protocols


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
    if ordinal < 0 and tensor.device.type != "cpu":
        raise EngineError(f"tensors on {tensor.device.type} cannot be hashed")
    try:
        if ordinal < 0:
            return HostBytes(memoryview(tensor.detach().reshape(-1).view(torch.uint8).numpy()))
        pointer = tensor.data_ptr()
    except RuntimeError as error:  # tensors inside torch.func transforms stand for others
        raise EngineError("a tensor does not hand out its memory", hint=_COPY) from error
    if ordinal not in streams:
        streams[ordinal] = torch.cuda.current_stream(ordinal).cuda_stream
    return DeviceBytes(pointer, tensor.nbytes, ordinal, streams[ordinal], tensor)


def _device_segment(array: Array, ordinal: int | None) -> DeviceBytes:
    from cuda.core.utils import StridedMemoryView  # noqa: PLC0415  (only there when there is something on a GPU)

    # DLPack: the producer orders the legacy default stream (1) behind its own work, and the engine its stream behind
    # that one. The other interface names the producer's stream, and needs no call for it (-1).
    try:
        if hasattr(array, "__dlpack__"):
            view = StridedMemoryView.from_dlpack(array, stream_ptr=1)
        else:
            view = StridedMemoryView.from_cuda_array_interface(array, stream_ptr=-1)
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
