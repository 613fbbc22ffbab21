# SPDX-License-Identifier: Apache-2.0
"""Who loads a model in `load.py`: other loaders, which verify nothing, and ours with and without verification."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import sentry
from sentry.formats.safetensors import header_nbytes
from sentry.loading.checks import check_tensors
from sentry.readers import Reader, SourceFile
from sentry.readers.fast import FastSafetensorsReader, InstantTensorReader
from sentry.readers.gds import CuFileReader
from sentry.readers.place import Place
from sentry.readers.plain import PlainReader
from sentry.readers.ring import RingReader

Load = Callable[[], Any]

READERS: dict[str, type[Any]] = {
    "ring": RingReader,
    "instanttensor": InstantTensorReader,
    "fastsafetensors": FastSafetensorsReader,
    "cufile": CuFileReader,
    "plain": PlainReader,
}
HASH_BLOCK = 8 * 1024 * 1024


def safetensors(files: Sequence[Path], device: str) -> dict[str, Any]:
    """Load as most people do."""
    from safetensors.torch import load_file  # noqa: PLC0415

    tensors: dict[str, Any] = {}
    for file in files:
        tensors.update(load_file(file, device=device))
    return tensors


def fastsafetensors(files: Sequence[Path], device: str) -> dict[str, Any]:
    """Load with fastsafetensors, without GPUDirect Storage."""
    from fastsafetensors import SafeTensorsFileLoader, SingleGroup  # noqa: PLC0415

    loader = SafeTensorsFileLoader(SingleGroup(), device, nogds=True)
    loader.add_filenames({0: [str(file) for file in files]})
    buffers = loader.copy_files_to_device()
    tensors = {name: buffers.get_tensor(name) for name in loader.get_keys()}
    buffers.close()
    loader.close()
    return tensors


def runai(files: Sequence[Path], device: str) -> dict[str, Any]:
    """Load with Run:ai's streamer, and move every tensor to the GPU."""
    from runai_model_streamer import SafetensorsStreamer  # noqa: PLC0415

    with SafetensorsStreamer() as streamer:
        streamer.stream_files([str(file) for file in files])
        return {name: tensor.to(device) for name, tensor in streamer.get_tensors()}


def instanttensor(files: Sequence[Path], device: str) -> dict[str, Any]:
    """Load with InstantTensor as its documentation says."""
    from instanttensor import safe_open  # noqa: PLC0415

    with safe_open([str(file) for file in files], framework="pt", device=device) as source:
        return dict(source.tensors())


def verify_then_load(files: Sequence[Path], device: str) -> dict[str, Any]:
    """Load as one who checks today: SHA-256 of all files, a thread each, then safetensors, which reads them again."""

    def sha256(file: Path) -> str:
        state = hashlib.sha256()
        buffer = memoryview(bytearray(HASH_BLOCK))
        with file.open("rb", buffering=0) as opened:
            while nbytes := opened.readinto(buffer):
                state.update(buffer[:nbytes])
        return state.hexdigest()

    with ThreadPoolExecutor(len(files)) as pool:
        list(pool.map(sha256, files))
    return safetensors(files, device)


def unverified(reader: str, files: Sequence[Path], device: str) -> list[Any]:
    """Load as ours does, up to the moment when it would hash: open, parse headers, read, check the tensors."""
    place = Place.of("pt", device)
    chosen: Reader = READERS[reader]()
    with ExitStack() as stack:
        sources = []
        for file in files:
            descriptor = os.open(file, os.O_RDONLY | os.O_CLOEXEC)
            stack.callback(os.close, descriptor)
            nbytes = os.fstat(descriptor).st_size
            length = header_nbytes(os.pread(descriptor, 8, 0), file_nbytes=nbytes)
            sources.append(SourceFile(file.name, descriptor, os.pread(descriptor, length, 0), nbytes))
        loaded = chosen.load(sources, place)
        check_tensors(sources, loaded, place, reader)
    return loaded


def verified(directory: Path, signature: Path, trust: sentry.KeyTrust, reader: str, device: str) -> Any:  # noqa: ANN401
    """Load with ours, and verify."""
    return sentry.load_file(directory, signature, trust, root=directory, reader=reader, device=device)
