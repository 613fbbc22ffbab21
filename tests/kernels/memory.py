# SPDX-License-Identifier: Apache-2.0
"""Memory between two unreadable pages: a kernel that reads outside a segment dies instead of passing."""

import ctypes
import mmap

PAGE = mmap.PAGESIZE
_libc = ctypes.CDLL(None, use_errno=True)
_libc.mprotect.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]


class Guarded:
    """Holds `data` at an address of the wanted residue mod 16, touching a guard page at one end if possible.

    At the end of the pages the residue is given by the length; at the start it must be 0. Any other
    combination lies as near to the end as the residue allows.
    """

    def __init__(self, data: bytes, *, residue: int | None = None, at_start: bool = False) -> None:
        room = (len(data) + 16 + PAGE - 1) // PAGE * PAGE
        self._map = mmap.mmap(-1, room + 2 * PAGE)
        base = ctypes.addressof(ctypes.c_char.from_buffer(self._map))
        for guard in (base, base + PAGE + room):
            assert _libc.mprotect(guard, PAGE, 0) == 0
        first, stop = base + PAGE, base + PAGE + room
        self.pointer = first if at_start else stop - len(data)
        if residue is not None and not at_start:
            self.pointer -= (self.pointer - residue) % 16
        self.nbytes = len(data)
        ctypes.memmove(self.pointer, data, len(data))

    @property
    def segment(self) -> tuple[int, int]:
        return self.pointer, self.nbytes
