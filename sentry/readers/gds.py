# SPDX-License-Identifier: Apache-2.0
"""GPUDirect Storage: cuFile reads from our own descriptor straight into the GPU's memory.

Libraries that take a path open it again, and a rename in between mixes two files; the registration here is of the
descriptor whose header was parsed. Where the kernel module is missing, cuFile's compatibility mode copies through host
memory; it needs a file on a block device, a `cufile.json` that allows it (ours does, `CUFILE_ENV_PATH_JSON` names
another), and udev's record of the device.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from sentry.engine.segments import ShortReadError
from sentry.readers import ReaderUnavailableError, SourceFile, Tensors
from sentry.readers.pieces import Block, Layout, blocks
from sentry.readers.place import Place

CONFIGURATION = Path(__file__).with_name("cufile.json")
CONFIGURATION_VARIABLE = "CUFILE_ENV_PATH_JSON"
# What the kernel module shows when it is loaded.
KERNEL_MODULE = Path("/proc/driver/nvidia-fs")
BLOCK_BYTES = 16 * 1024 * 1024
THREADS = 16


class CuFileReader:
    """Reads with cuFile."""

    name = "cufile"

    def load(self, files: Sequence[SourceFile], place: Place) -> list[Tensors]:
        """Read all tensors of all files; see `sentry.readers.Reader`."""
        import torch  # noqa: PLC0415

        with torch.cuda.device(place.ordinal), _registered(files) as (cufile, handles):
            rooms = [[place.allocate(entry) for entry in file.header.tensors] for file in files]
            # cuFile knows no streams: what was queued for this memory before must have happened.
            torch.cuda.synchronize()
            layouts = [Layout(file) for file in files]
            bases = [[room.raw.data_ptr() for room in of_file] for of_file in rooms]

            def read(block: Block) -> None:
                torch.cuda.set_device(place.ordinal)
                for piece in layouts[block.file].pieces(block.begin, block.end):
                    base = bases[block.file][piece.tensor]
                    offset = block.begin + piece.at
                    _read_all(cufile, handles[block.file], (base, piece.offset), piece.nbytes, offset)

            with ThreadPoolExecutor(THREADS, thread_name_prefix="sentry-cufile") as pool:
                for _ in pool.map(read, blocks(files, BLOCK_BYTES)):
                    pass
        return [
            {entry.name: room.array for entry, room in zip(file.header.tensors, of_file, strict=True)}
            for file, of_file in zip(files, rooms, strict=True)
        ]


def has_kernel_module() -> bool:
    """Say whether reads bypass the host's memory."""
    return KERNEL_MODULE.exists()


def _read_all(cufile: Any, handle: int, target: tuple[int, int], nbytes: int, offset: int) -> None:  # noqa: ANN401
    base, at = target
    while nbytes:
        done = cufile.read(handle, base, nbytes, offset, at)
        if done < 0:
            raise OSError(-done, "cuFile could not read")
        if done == 0:
            raise ShortReadError("a file became shorter while it was read")
        nbytes, offset, at = nbytes - done, offset + done, at + done


@contextmanager
def _registered(files: Sequence[SourceFile]) -> Iterator[tuple[Any, list[int]]]:
    """Register the files' descriptors with cuFile.

    Raises:
        ReaderUnavailableError: cuFile is not there, or takes none of such files.
    """
    # Read once, when the library is loaded.
    os.environ.setdefault(CONFIGURATION_VARIABLE, str(CONFIGURATION))
    try:
        from cuda.bindings import cufile  # noqa: PLC0415

        cufile.driver_open()
    except Exception as error:
        raise ReaderUnavailableError(f"cuFile does not start: {_first_line(error)}") from error
    handles: list[int] = []
    with contextlib.ExitStack() as stack:
        stack.callback(cufile.driver_close)
        for file in files:
            try:
                # The same open file again, without the flags that it was opened with and that cuFile refuses.
                descriptor = os.open(f"/proc/self/fd/{file.descriptor}", os.O_RDONLY | os.O_CLOEXEC)
                stack.callback(os.close, descriptor)
                if not os.path.sameopenfile(descriptor, file.descriptor):
                    raise OSError("it is another file")  # noqa: TRY301
                description = cufile.Descr()
                description.type = cufile.FileHandleType.OPAQUE_FD
                description.handle.fd = descriptor
                description.fs_ops = 0
                handles.append(cufile.handle_register(description.ptr))
            except Exception as error:
                raise ReaderUnavailableError(f"cuFile does not take {file.path}: {_first_line(error)}") from error
            stack.callback(cufile.handle_deregister, handles[-1])
        yield cufile, handles


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [""])[0] or type(error).__name__
