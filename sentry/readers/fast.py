# SPDX-License-Identifier: Apache-2.0
"""Fast loaders of others: InstantTensor and fastsafetensors, if they are installed.

They open the files once more, by way of our descriptors: `/proc/self/fd/N` is the file that is open, whatever its name
leads to by now. They are closed, and the GPU has finished what they gave it, before anything is hashed.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from sentry.errors import SentryError
from sentry.readers import ReaderUnavailableError, SourceFile, Tensors
from sentry.readers.place import Place


class InstantTensorReader:
    """InstantTensor (https://github.com/scitix/InstantTensor): asynchronous reads, or a mapping of files in memory.

    Its buffer on the GPU holds at least the largest tensor: so much more memory is needed until it is closed.

    Args:
        options: Beyond the defaults of its `safe_open`.
    """

    name = "instanttensor"

    def __init__(self, **options: Any) -> None:  # noqa: ANN401
        self._options = options

    def load(self, files: Sequence[SourceFile], place: Place) -> list[Tensors]:
        """Read all tensors of all files; see `sentry.readers.Reader`."""
        module = _module("instanttensor")
        if any(file.payload_begin == file.nbytes for file in files):
            raise ReaderUnavailableError("it does not read files without bytes of tensors")
        # Files come in the order of their names.
        ordered = sorted(files, key=_path)
        with _of_others(place, "InstantTensor") as torch:
            paths = [_path(file) for file in ordered]
            with module.safe_open(paths, framework="pt", device=place.ordinal, **self._options) as source:
                # It is reading by now; our own headers are parsed meanwhile.
                owners = [file.descriptor for file in ordered for _ in file.header.tensors]
                tensors = list(source.tensors())
            torch.cuda.synchronize()
        found: dict[int, dict[str, Any]] = {file.descriptor: {} for file in ordered}
        # What comes too much or too little, or under another name, is noticed by whoever checks the tensors.
        for owner, (name, tensor) in zip(owners + owners[-1:] * len(tensors), tensors, strict=False):
            found[owner][name] = tensor
        return [found[file.descriptor] for file in files]


class FastSafetensorsReader:
    """fastsafetensors (https://github.com/foundation-model-stack/fastsafetensors), without GPUDirect Storage."""

    name = "fastsafetensors"

    def load(self, files: Sequence[SourceFile], place: Place) -> list[Tensors]:
        """Read all tensors of all files; see `sentry.readers.Reader`."""
        module = _module("fastsafetensors")
        if any(file.payload_begin == file.nbytes for file in files):
            raise ReaderUnavailableError("it does not read files without bytes of tensors")
        with _of_others(place, "fastsafetensors") as torch:
            loader = module.SafeTensorsFileLoader(module.SingleGroup(), str(place), nogds=True)
            try:
                loader.add_filenames({0: [_path(file) for file in files]})
                buffers = loader.copy_files_to_device()
                try:
                    found = [
                        {entry.name: buffers.get_tensor(entry.name) for entry in file.header.tensors} for file in files
                    ]
                    torch.cuda.synchronize()
                finally:
                    buffers.close()
            finally:
                loader.close()
        return [{name: _aligned(tensor) for name, tensor in tensors.items()} for tensors in found]


def _module(name: str) -> Any:  # noqa: ANN401
    import importlib  # noqa: PLC0415

    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise ReaderUnavailableError(f"{name} is not installed" if error.name == name else str(error)) from None


def _path(file: SourceFile) -> str:
    return f"/proc/self/fd/{file.descriptor}"


def _aligned(tensor: Any) -> Any:  # noqa: ANN401
    return tensor if tensor.data_ptr() % 16 == 0 else tensor.clone()


@contextmanager
def _of_others(place: Place, what: str) -> Iterator[Any]:
    """Run another loader's code on the right GPU; whatever stops it, the next reader may know better."""
    import torch  # noqa: PLC0415

    try:
        with warnings.catch_warnings(), torch.cuda.device(place.ordinal):
            warnings.simplefilter("ignore")
            yield torch
    except torch.OutOfMemoryError as error:
        raise ReaderUnavailableError(f"{what} has no room for its buffer beside the model") from error
    except SentryError:
        raise
    except Exception as error:
        first = (str(error).splitlines() or [""])[0]
        raise ReaderUnavailableError(f"{what} failed: {first or type(error).__name__}") from error
