# SPDX-License-Identifier: Apache-2.0
"""Where tensors are to lie, and memory for them there: each in an allocation of its own, aligned, and ours."""

from __future__ import annotations

import re
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

from sentry.dtypes import NUMPY_NAMES, TORCH_NAMES, TORCH_PACKED
from sentry.errors import UnavailableError
from sentry.formats.safetensors import TensorEntry
from sentry.text import escape

# As safetensors spells them.
FRAMEWORKS = MappingProxyType({"pt": "pt", "torch": "pt", "pytorch": "pt", "np": "np", "numpy": "np"})
_DEVICE = re.compile(r"cpu(?::0)?|cuda(?::([0-9]{1,3}))?")


@dataclass(frozen=True)
class Room:
    """Memory for one tensor.

    Attributes:
        array: What the caller gets: a `torch.Tensor` or a `numpy.ndarray`.
        raw: The same memory as a flat array of bytes.
    """

    array: Any
    raw: Any


@dataclass(frozen=True)
class Place:
    """Where tensors are to lie.

    Attributes:
        framework: `pt` or `np`.
        ordinal: Which GPU; None for the host.
    """

    framework: str
    ordinal: int | None = None

    @classmethod
    def of(cls, framework: str, device: object) -> Place:
        """Read the `framework=` and `device=` arguments as safetensors' users write them.

        Args:
            framework: `pt` or `np`.
            device: `cpu`, `cuda`, `cuda:N`, a number, or a `torch.device`.

        Raises:
            ValueError: They mean nothing, or not together.
        """
        if framework not in FRAMEWORKS:
            raise ValueError(f"there is no framework {framework!r}; known are {', '.join(FRAMEWORKS)}")
        framework = FRAMEWORKS[framework]
        match = _DEVICE.fullmatch(f"cuda:{device}" if type(device) is int else str(device))
        if match is None:
            raise ValueError(f"there is no device {str(device)!r}; known are cpu, cuda, cuda:N and N")
        if match[0].startswith("cpu"):
            return cls(framework)
        if framework == "np":
            raise ValueError("NumPy's arrays lie on the host: leave device out, or load with framework='pt'")
        return cls(framework, int(match[1]) if match[1] else _current_gpu())

    def check_available(self) -> None:
        """Refuse a GPU that is not there.

        Raises:
            UnavailableError: torch does not see it.
        """
        if self.ordinal is None:
            return
        import torch  # noqa: PLC0415

        count = torch.cuda.device_count() if torch.cuda.is_available() else 0
        if self.ordinal >= count:
            raise UnavailableError(f"there is no {self}: torch sees {count} GPUs", hint="load to device='cpu'")

    def __str__(self) -> str:
        return "cpu" if self.ordinal is None else f"cuda:{self.ordinal}"

    def check_dtype(self, entry: TensorEntry) -> None:
        """Refuse a dtype that the framework does not have, or not in this shape.

        Raises:
            UnavailableError: Naming the tensor.
        """
        name = escape(entry.name[:80])
        if self.dtype_of(entry.dtype) is None:
            library = "torch" if self.framework == "pt" else "NumPy (with ml_dtypes, if installed)"
            raise UnavailableError(f"{library} has no dtype for {entry.dtype}, which {name} has")
        packed = TORCH_PACKED.get(entry.dtype, 1) if self.framework == "pt" else 1
        if packed > 1 and (not entry.shape or entry.shape[-1] % packed):
            raise UnavailableError(f"torch packs {packed} elements of {entry.dtype}, and a row of {name} has odd ones")

    def allocate(self, entry: TensorEntry) -> Room:
        """Allocate memory for a tensor; its content is whatever lay there.

        Raises:
            UnavailableError: There is no room, or the framework has no such tensors.
        """
        self.check_dtype(entry)
        dtype, shape = self.dtype_of(entry.dtype), self.shape_of(entry)
        try:
            if self.framework == "np":
                import numpy as np  # noqa: PLC0415

                raw = np.empty(entry.nbytes, np.uint8)
                return Room(raw.view(dtype).reshape(shape), raw)
            import torch  # noqa: PLC0415

            raw = torch.empty(entry.nbytes, dtype=torch.uint8, device=str(self))
            return Room(raw.view(dtype).reshape(shape), raw)
        except (MemoryError, AssertionError, RuntimeError, ValueError) as error:
            # torch says OutOfMemoryError of GPUs, which is a RuntimeError, and a RuntimeError of the host.
            reason = str(error).splitlines()[0] if str(error) else ""
            if isinstance(error, MemoryError) or "memory" in reason:
                raise no_room(str(self)) from None
            raise UnavailableError(f"{self} cannot hold {escape(entry.name[:80])}: {reason}") from None

    def shape_of(self, entry: TensorEntry) -> tuple[int, ...]:
        """Return the shape that the framework's array has: torch packs two F4 into one element."""
        packed = TORCH_PACKED.get(entry.dtype, 1) if self.framework == "pt" else 1
        if packed == 1 or not entry.shape:
            return entry.shape
        return (*entry.shape[:-1], entry.shape[-1] // packed)

    def dtype_of(self, name: str) -> Any:  # noqa: ANN401  (torch's and NumPy's dtypes have nothing in common)
        """Return the framework's dtype by its canonical name; None if it has none."""
        if self.framework == "pt":
            import torch  # noqa: PLC0415

            return getattr(torch, TORCH_NAMES.get(name, ""), None)
        import numpy as np  # noqa: PLC0415

        other = NUMPY_NAMES.get(name, "")
        if not hasattr(np, other):
            try:
                import ml_dtypes  # noqa: PLC0415
            except ImportError:
                return None
            return np.dtype(getattr(ml_dtypes, other)) if hasattr(ml_dtypes, other) else None
        return np.dtype(other)


def no_room(device: str) -> UnavailableError:
    """Return the error that says that memory is short."""
    return UnavailableError(f"{device} has no room for the model", hint="free memory there, or load to another device")


def _current_gpu() -> int:
    import torch  # noqa: PLC0415

    return int(torch.cuda.current_device()) if torch.cuda.is_available() else 0
