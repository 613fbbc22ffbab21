# SPDX-License-Identifier: Apache-2.0
"""Models in memory as named tensors: canonical dtype, shape, and the bytes of the value where they lie.

Takes a `torch.nn.Module`, a state dict, or any mapping of names to arrays. What a digest of bytes would not stand for
(tensors without bytes, wrappers, quantised values, objects) is refused by name. Tied tensors are two.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from operator import attrgetter
from types import MappingProxyType
from typing import Any

from sentry.dtypes import NUMPY_NAMES, TORCH_NAMES, TORCH_PACKED
from sentry.engine.buffers import as_segment
from sentry.engine.segments import DeviceBytes
from sentry.errors import EngineError, RefusedError
from sentry.formats.safetensors import tensor_nbytes
from sentry.formats.tensors import DTYPE_BITS
from sentry.text import escape

_OF_TORCH: Mapping[str, str] = MappingProxyType({other: name for name, other in TORCH_NAMES.items()})
_OF_NUMPY: Mapping[str, str] = MappingProxyType({other: name for name, other in NUMPY_NAMES.items()})
_PLAIN = "pass the plain arrays that it is made of, each under a name of its own"
_LEAVE_OUT = "leave it out of the mapping: only arrays can be signed"

Model = Any  # a module, or a mapping: torch is not imported to say so
Array = Any  # whatever the engines take


class TensorRefusedError(RefusedError):
    """A tensor whose bytes would not stand for its value.

    Args:
        message: Which, and why.
        hint: What to do about it.
        name: Its name in the model.
    """

    def __init__(self, message: str = "", *, hint: str | None = None, name: str = "") -> None:
        super().__init__(message, hint=hint)
        self.name = name


@dataclass(frozen=True, slots=True)
class NamedTensor:
    """One tensor of a model.

    Attributes:
        name: Its name.
        dtype: Its element type, as safetensors writes it.
        shape: Its dimensions, in elements.
        nbytes: Number of bytes.
        data: What an engine hashes: contiguous, row-major, little-endian.
        gpu: Ordinal of the GPU where `data` lies; None for the host.
        address: Where it lies there.
        copied: Whether `data` is a copy, because the bytes of the array itself are not those of its value.
    """

    name: str
    dtype: str
    shape: tuple[int, ...]
    nbytes: int
    data: Array = field(repr=False, compare=False)
    gpu: int | None
    address: int = field(repr=False)
    copied: bool = False


@dataclass(frozen=True)
class NamedTensors:
    """The tensors of a model.

    Attributes:
        tensors: By code points of their names.
        not_covered: Names of parameters and buffers that the model has and that its state dict leaves out.
    """

    tensors: tuple[NamedTensor, ...]
    not_covered: tuple[str, ...] = ()

    @property
    def nbytes(self) -> int:
        """Number of bytes of all tensors."""
        return sum(tensor.nbytes for tensor in self.tensors)


def name_tensors(model: Model) -> NamedTensors:
    """Take a model apart into its tensors.

    Args:
        model: A `torch.nn.Module` (its `state_dict()` counts), a state dict, or a mapping of names to arrays: of torch,
            NumPy, CuPy, JAX, or whatever else the engines take.

    Raises:
        TensorRefusedError: A name or a value is none that can be signed.
        TypeError: It is no model.
    """
    torch = sys.modules.get("torch")
    not_covered: tuple[str, ...] = ()
    if torch is not None and isinstance(model, torch.nn.Module):
        # The parameters themselves: detached from them, a subclass would look like a plain tensor.
        module, model = model, model.state_dict(keep_vars=True)
        owned = [*module.named_parameters(remove_duplicate=False), *module.named_buffers(remove_duplicate=False)]
        not_covered = tuple(sorted({name for name, _ in owned} - model.keys()))
    if not isinstance(model, Mapping):
        raise TypeError("a model is a torch.nn.Module, or a mapping of names to arrays")
    tensors = [_name_tensor(_checked_name(name), value) for name, value in model.items()]
    if len({tensor.name for tensor in tensors}) != len(tensors):
        raise TypeError("the mapping has a name twice")
    return NamedTensors(tuple(sorted(tensors, key=attrgetter("name"))), not_covered)


def to_host(tensor: NamedTensor) -> NamedTensor:
    """Return the tensor in host memory, copied there if it lies on a GPU.

    Raises:
        EngineError: Its library offers no way.
    """
    if tensor.gpu is None:
        return tensor
    owner = tensor.data.owner if isinstance(tensor.data, DeviceBytes) else tensor.data
    for way in ("cpu", "get", "__array__"):  # torch, CuPy, JAX
        if hasattr(owner, way):
            return _name_tensor(tensor.name, getattr(owner, way)())
    raise EngineError(f"the tensor '{escape(tensor.name)}' cannot be copied to the host")


def _checked_name(name: object) -> str:
    if type(name) is not str:  # a subclass can be one name in one place and another elsewhere
        raise TensorRefusedError(
            f"a tensor is called {escape(repr(name)[:80])}, which is not a plain string", hint="name tensors by strings"
        )
    if not name:
        raise TensorRefusedError("a tensor has an empty name", hint="give every tensor a name")
    try:
        name.encode("utf-8")
    except UnicodeEncodeError:
        raise TensorRefusedError(
            f"the name '{escape(name)}' is not Unicode text", hint="rename the tensor", name=name
        ) from None
    return name


def _name_tensor(name: str, value: Array) -> NamedTensor:
    torch, numpy = sys.modules.get("torch"), sys.modules.get("numpy")
    if torch is not None and isinstance(value, torch.Tensor):
        return _of_torch(name, value, torch)
    if numpy is not None and isinstance(value, numpy.ndarray):
        return _of_numpy(name, value, numpy)
    if not hasattr(value, "dtype") or not hasattr(value, "shape") or isinstance(value, getattr(numpy, "generic", ())):
        raise _refused(name, f"is of type {type(value).__name__}, not an array", _LEAVE_OUT)
    return _of_another_library(name, value)


# ------------------------------------------------------------------------------------------------------------- torch


def _of_torch(name: str, tensor: Any, torch: Any) -> NamedTensor:  # noqa: ANN401
    dtype = _torch_dtype(name, tensor, torch)
    packed = TORCH_PACKED.get(dtype, 1)
    shape = tuple(int(size) for size in tensor.shape)
    if packed > 1:
        if not shape:
            raise _refused(name, f"holds {packed} elements and has no dimension", "reshape it to one dimension")
        shape = (*shape[:-1], shape[-1] * packed)
    ordinal = tensor.get_device()
    if ordinal < 0 and tensor.device.type != "cpu":
        raise _refused(name, f"lies on {tensor.device.type}, which no engine reaches", "move it to the host")
    _check_within_storage(name, tensor)
    try:
        plain = tensor.is_contiguous() and not tensor.is_conj() and not tensor.is_neg()
        data = tensor if plain else tensor.detach().resolve_conj().resolve_neg().contiguous()
        address = data.data_ptr()
    except RuntimeError:  # inside torch.func transforms, tensors stand for others
        raise _refused(name, "does not hand out its memory", "use it outside of transforms") from None
    if data.nbytes and not address:
        raise _refused(name, "has given its memory back", "gather or load the model's weights first")
    return NamedTensor(name, dtype, shape, data.nbytes, data, None if ordinal < 0 else ordinal, address, not plain)


def _check_within_storage(name: str, tensor: Any) -> None:  # noqa: ANN401
    """Refuse a tensor that reaches beyond the memory that it lies in: reading it would read anything, or crash."""
    if not tensor.numel():
        return
    last = tensor.storage_offset() + sum(
        (size - 1) * stride for size, stride in zip(tensor.shape, tensor.stride(), strict=True)
    )
    try:
        held = tensor.untyped_storage().nbytes()
    except (NotImplementedError, RuntimeError):
        raise _refused(name, "does not hand out its memory", "use it outside of transforms") from None
    if held and (last + 1) * tensor.element_size() > held:  # none at all is what memory that was given back looks like
        raise _refused(name, "reaches beyond the memory that it lies in", "make a copy before its storage is resized")


def _torch_dtype(name: str, tensor: Any, torch: Any) -> str:  # noqa: ANN401
    """Return the canonical dtype of a tensor that holds the bytes of its value."""
    if type(tensor) not in (torch.Tensor, torch.nn.Parameter):
        raise _refused(name, f"is a {type(tensor).__name__}, which may mean more than its bytes", _PLAIN)
    if tensor.is_meta:
        raise _refused(name, "is on the meta device and has no bytes", "load the model's weights first")
    if tensor.is_nested or tensor.layout is not torch.strided or tensor._is_zerotensor():  # noqa: SLF001
        raise _refused(name, "is sparse, nested or a zero tensor", "make it a plain tensor: to_dense()")
    if tensor.is_quantized:
        raise _refused(
            name, "is quantised: its scale is not among its bytes", "sign int_repr(), scale and zero point instead"
        )
    dtype = _OF_TORCH.get(str(tensor.dtype).removeprefix("torch."))
    if dtype is None:
        raise _refused(name, f"is of type {tensor.dtype}, which has no canonical bytes", "view it as uint8")
    return dtype


# --------------------------------------------------------------------------------------------- NumPy, and all others


def _of_numpy(name: str, array: Any, numpy: Any) -> NamedTensor:  # noqa: ANN401
    if type(array) is not numpy.ndarray:
        raise _refused(name, f"is a {type(array).__name__}, which may mean more than its bytes", _PLAIN)
    dtype = _numpy_dtype(name, array.dtype)
    shape = array.shape
    little = array.dtype.newbyteorder("<") if array.dtype.isbuiltin == 1 or array.dtype.byteorder == ">" else None
    value = array if little is None else array.astype(little, copy=False)
    value = numpy.ascontiguousarray(value)
    copied = array.nbytes > 0 and not numpy.may_share_memory(value, array)
    data = value.reshape(-1).view(numpy.uint8)
    return NamedTensor(name, dtype, shape, data.nbytes, data, None, data.__array_interface__["data"][0], copied)


def _numpy_dtype(name: str, dtype: Any) -> str:  # noqa: ANN401
    canonical = _OF_NUMPY.get(getattr(dtype, "name", str(dtype)))
    if canonical is None or getattr(dtype, "hasobject", False):
        raise _refused(
            name, f"is of type {escape(str(dtype)[:80])}, which has no canonical bytes", "convert it to a numeric type"
        )
    return canonical


def _of_another_library(name: str, array: Array) -> NamedTensor:
    try:
        return _on_gpu(name, array) if _lies_on_gpu(array) else _through_numpy(name, array)
    except RefusedError:
        raise
    except Exception as error:  # noqa: BLE001  (sharded over devices, deleted, of another shape: the library's words)
        hint = getattr(error, "hint", None) or _PLAIN
        raise _refused(name, f"does not hand out its memory: {escape(str(error)[:200])}", hint) from None


def _lies_on_gpu(array: Array) -> bool:
    if hasattr(array, "__dlpack_device__"):
        return array.__dlpack_device__()[0] not in {1, 3}  # dlpack.h: CPU, and CUDA's pinned host memory
    return hasattr(array, "__cuda_array_interface__")


def _through_numpy(name: str, array: Array) -> NamedTensor:
    import numpy as np  # noqa: PLC0415  (whoever has such an array has it)

    # Whether that is a view depends on the library; whoever must not have a copy cannot count on it.
    return replace(_of_numpy(name, np.asarray(array), np), copied=True)


def _on_gpu(name: str, array: Array) -> NamedTensor:
    dtype = _numpy_dtype(name, array.dtype)
    shape = tuple(int(size) for size in array.shape)
    plain = getattr(getattr(array, "flags", None), "c_contiguous", True)
    segment = as_segment(array if plain else array.copy(order="C"))
    if not isinstance(segment, DeviceBytes) or segment.nbytes != tensor_nbytes(
        dtype, shape, what="it", dtype_bits=DTYPE_BITS
    ):
        raise _refused(name, "has other bytes than its dtype and shape say", _PLAIN)
    return NamedTensor(name, dtype, shape, segment.nbytes, segment, segment.device, segment.pointer, not plain)


def _refused(name: str, what: str, hint: str) -> TensorRefusedError:
    return TensorRefusedError(f"the tensor '{escape(name)}' {what}", hint=hint, name=name)
