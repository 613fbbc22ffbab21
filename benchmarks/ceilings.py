# SPDX-License-Identifier: Apache-2.0
"""What a model's bytes cost at the very least: the bare hash over memory, and bare reads. Run as `ceilings.py MODEL`.

Writes `{name: [wall seconds, processor seconds]}` as JSON, without the interpreter's start. Files above 1 MiB are
shared out over the cores, as a signer may do; below, one thread does them all, as the interpreter allows no more.
"""

from __future__ import annotations

import functools
import hashlib
import json
import mmap
import os
import sys
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Protocol

from blake3 import blake3

MIB = 1024 * 1024
# Bytes in memory that stand for the model's: more than the caches hold.
BLOCK_BYTES = 64 * MIB

Work = Callable[[str, int], None]


class _State(Protocol):
    def update(self, data: memoryview, /) -> object: ...

    def digest(self) -> bytes: ...


def main() -> None:
    """Measure, and write the figures."""
    files = [
        (os.path.join(directory, name), os.path.getsize(os.path.join(directory, name)))
        for directory, _, names in os.walk(sys.argv[1])
        for name in names
    ]
    memory = memoryview(os.urandom(1024) * (BLOCK_BYTES // 1024))
    sha256 = functools.partial(_hash, hashlib.sha256, memory)
    threads = blake3.AUTO if any(nbytes > MIB for _, nbytes in files) else 1
    tree = functools.partial(_hash, functools.partial(blake3, max_threads=threads), memory)
    figures = {
        "sha256": _timed(sha256, files, side_by_side=True),
        "blake3": _timed(tree, files, side_by_side=False),
        "read": _timed(_read, files, side_by_side=True),
    }
    print(json.dumps(figures))


def _hash(new: Callable[[], _State], memory: memoryview, _path: str, nbytes: int) -> None:
    state = new()
    for start in range(0, nbytes, len(memory)):
        state.update(memory[: nbytes - start])
    state.digest()


def _read(path: str, nbytes: int) -> None:
    # Buffers are a thread's own; one of the engine's block size stays in the cache, and starts on a page.
    buffer = memoryview(mmap.mmap(-1, MIB))[:nbytes]
    descriptor = os.open(path, os.O_RDONLY)
    offset = 0
    while offset < nbytes:
        offset += os.preadv(descriptor, [buffer], offset)
    os.close(descriptor)


def _timed(work: Work, files: Sequence[tuple[str, int]], *, side_by_side: bool) -> tuple[float, float]:
    large = side_by_side and all(nbytes > MIB for _, nbytes in files)
    wall, cpu = time.perf_counter(), time.process_time()
    if large:
        with ThreadPoolExecutor(min(len(files), len(os.sched_getaffinity(0)))) as pool:
            list(pool.map(lambda file: work(*file), files))
    else:
        for path, nbytes in files:
            work(path, nbytes)
    return time.perf_counter() - wall, time.process_time() - cpu


if __name__ == "__main__":
    main()
