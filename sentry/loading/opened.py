# SPDX-License-Identifier: Apache-2.0
"""`safe_open`, with the methods that users of safetensors know; everything is loaded and verified on entry."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Self

from sentry.loading.arguments import refuse_order_of_safetensors
from sentry.loading.evidence import LoadVerification
from sentry.loading.loaded import VerifiedTensors, load_file
from sentry.paths import AnyPath
from sentry.readers.place import Place
from sentry.signatures import Signatures
from sentry.trust import Trust


def safe_open(
    path: AnyPath,
    signature: Signatures | None = None,
    trust: Trust | None = None,
    **options: Any,  # noqa: ANN401
) -> VerifiedFile:
    """Open a safetensors file, or all shards of a model, for a `with` block.

    Unlike the function of the same name in safetensors, this one reads everything on entry: a digest speaks of whole
    files, and nothing is handed out before it was compared.

    Args:
        path: As in `load_file`.
        signature: As in `load_file`.
        trust: As in `load_file`.
        options: `root`, `device`, `framework`, `reader`, `engine` and `hash` of `load_file`.

    Returns:
        The tensors behind safetensors' methods. Entering the block raises what `load_file` raises.
    """
    refuse_order_of_safetensors(signature, trust)
    Place.of(options.get("framework", "pt"), options.get("device", "cpu"))
    return VerifiedFile(path, signature, trust, options)


class VerifiedFile:
    """Verified tensors behind the methods of `safetensors.safe_open`; usable inside its `with` block."""

    def __init__(
        self, path: AnyPath, signature: Signatures | None, trust: Trust | None, options: Mapping[str, Any]
    ) -> None:
        self._arguments = (path, signature, trust)
        self._options = options
        self._tensors: VerifiedTensors | None = None

    def __enter__(self) -> Self:
        self._tensors = load_file(*self._arguments, **self._options)
        return self

    def __exit__(self, *_exception: object) -> None:
        self._tensors = None

    @property
    def verification(self) -> LoadVerification:
        """What was proved."""
        return self._opened().verification

    def keys(self) -> list[str]:
        """Return the names of the tensors, sorted."""
        return sorted(self._opened())

    def offset_keys(self) -> list[str]:
        """Return the names of the tensors in the order of the files."""
        return list(self._opened())

    def metadata(self) -> dict[str, str] | None:
        """Return the files' `__metadata__`; None where there is none."""
        return dict(self._opened().metadata) or None

    def get_tensor(self, name: str) -> Any:  # noqa: ANN401
        """Return a tensor.

        Raises:
            KeyError: There is none of this name.
        """
        return self._opened()[name]

    def get_slice(self, name: str) -> TensorSlice:
        """Return a tensor to take parts of.

        Raises:
            KeyError: There is none of this name.
        """
        return TensorSlice(self._opened()[name])

    def _opened(self) -> VerifiedTensors:
        if self._tensors is None:
            raise ValueError("the file is not open: use it inside its `with` block")
        return self._tensors


class TensorSlice:
    """A verified tensor; indexing it gives a view of a part."""

    def __init__(self, tensor: Any) -> None:  # noqa: ANN401
        self._tensor = tensor

    def __getitem__(self, index: Any) -> Any:  # noqa: ANN401
        return self._tensor[index]

    def get_shape(self) -> list[int]:
        """Return the dimensions."""
        return list(self._tensor.shape)

    def get_dtype(self) -> Any:  # noqa: ANN401
        """Return the framework's dtype."""
        return self._tensor.dtype
