# SPDX-License-Identifier: Apache-2.0
"""The kernels compiled as host code, and schedules run on them: what a GPU would be asked to do, without one.

Libraries are kept in a directory by the content that they are made of; processes that want the same one at once wait
for the first. All memory that kernels see lies between unreadable pages, and is full of a pattern before it is written.
"""

from __future__ import annotations

import ctypes
import fcntl
import hashlib
import os
import shutil
import subprocess
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from kernels.memory import Guarded

from sentry.engine.kernels import DIRECTORY, MODULES
from sentry.engine.schedule import Inputs, Pointer, Schedule

SHIM = Path(__file__).parents[1] / "kernels"
POISON = 0xA5
# The shim keeps the running block in globals.
_RUNNING = threading.Lock()


@dataclass(frozen=True)
class Cell:
    """One argument of a kernel as the driver passes it: 32 or 64 bits."""

    value: int
    wide: bool


class HostKernels:
    """The modules of the registry as host libraries, compiled when they are first wanted.

    Args:
        cache: Where libraries are kept.
    """

    def __init__(self, cache: Path) -> None:
        self._cache = cache
        self._libraries: dict[str, ctypes.CDLL] = {}
        self.launched: set[tuple[str, str]] = set()

    @staticmethod
    def compiler() -> str | None:
        """Return the path of the compiler, if there is one."""
        return shutil.which(os.environ.get("CXX", "g++"))

    def launch(self, name: tuple[str, str], grid: int, block: int, cells: Sequence[Cell]) -> None:
        """Run a kernel, given by module and name, block by block."""
        module, kernel = name
        holders = [ctypes.c_uint64(cell.value) if cell.wide else ctypes.c_uint32(cell.value) for cell in cells]
        pointers = (ctypes.c_void_p * len(holders))(*[ctypes.addressof(holder) for holder in holders])
        with _RUNNING:
            if module not in self._libraries:
                self._libraries[module] = ctypes.CDLL(str(self.library(module)))
            self.launched.add(name)
            getattr(self._libraries[module], f"run_{kernel}")(grid, block, pointers)

    def run(self, schedule: Schedule) -> bytes:
        """Run a schedule in memory of its own and return the result."""
        sizes = {
            "tables": len(schedule.tables),
            "scratch": schedule.scratch_bytes,
            "result": schedule.result_bytes,
        }
        spaces = {name: poisoned(nbytes) for name, nbytes in sizes.items()}
        tables = spaces["tables"].pointer
        ctypes.memmove(tables, bytes(schedule.tables), len(schedule.tables))
        for offset, count, space in schedule.relocations:
            entries = (ctypes.c_uint64 * count).from_address(tables + offset)
            for number in range(count):
                entries[number] += spaces[space].pointer
        for item in schedule.launches:
            cells = [
                Cell(spaces[argument.space].pointer + argument.offset, wide=True)
                if isinstance(argument, Pointer)
                else Cell(int(argument), wide=isinstance(argument, np.uint64))
                for argument in item.arguments
            ]
            self.launch((item.module, item.kernel), item.grid, item.block, cells)
        return ctypes.string_at(spaces["result"].pointer, schedule.result_bytes)

    def library(self, name: str) -> Path:
        """Return the library of a module; undefined behaviour in it ends the process with a line that says where."""
        module = MODULES[name]
        exports = "".join(f"SHIM_EXPORT({kernel})\n" for kernel, _ in module.kernels)
        source = f'#include "host_shim.h"\n#include "{module.source}"\n{exports}'
        macros = [f"-D{macro}={value}" for macro, value in module.macros]
        sanitizer = ["-fsanitize=undefined", "-fno-sanitize-recover=all"]
        language = ["-O1", "-g0", "-std=c++17", "-fPIC", "-shared", "-x", "c++", "-Wno-unknown-pragmas"]
        flags = [*sanitizer, *language, *macros]
        command = [self.compiler() or "g++", *flags, f"-I{DIRECTORY}", f"-I{SHIM}", "-"]
        state = hashlib.sha256(repr((source, flags)).encode())
        for path in sorted([*DIRECTORY.glob("*.cu*"), SHIM / "host_shim.h"]):
            state.update(path.read_bytes())
        library = self._cache / f"{name}-{state.hexdigest()[:24]}.so"
        with open(self._cache / f"{name}.lock", "w", encoding="ascii") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            if not library.exists():
                partial = library.with_suffix(".partial")
                done = subprocess.run(
                    [*command, "-o", str(partial)], input=source, text=True, capture_output=True, check=False
                )
                assert done.returncode == 0, done.stderr
                partial.rename(library)
        return library


def poisoned(nbytes: int) -> Guarded:
    """Return memory that ends (to 16 bytes) at an unreadable page, full of a pattern."""
    return Guarded(bytes([POISON]) * nbytes, residue=0)


def hold(messages: Sequence[Sequence[bytes]], *, residues: Sequence[int] = (0,)) -> tuple[Inputs, list[Guarded]]:
    """Put messages, each a list of segments, into guarded memory.

    Args:
        messages: The messages.
        residues: Where segments start modulo 16, in turn; -1 for right in front of an unreadable page, -2 for right
            behind one.
    """
    held = []
    for number, segment in enumerate(part for message in messages for part in message):
        residue = residues[number % len(residues)]
        if residue == -2:
            held.append(Guarded(segment, at_start=True))
        else:
            held.append(Guarded(segment, residue=None if residue < 0 else residue))
    inputs = Inputs(
        np.array([item.pointer for item in held], np.uint64),
        np.array([item.nbytes for item in held], np.uint64),
        np.cumsum([0, *(len(message) for message in messages)]).astype(np.uint32),
    )
    return inputs, held
