# SPDX-License-Identifier: Apache-2.0
"""Hash the files of a tree: many at once, each read once, none that changes meanwhile.

Large files go first, a thread each; small ones are taken a directory at a time. Memory does not grow with the model.
"""

from __future__ import annotations

import os
import struct
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from itertools import groupby, islice
from typing import TypeVar

from sentry.engine.contract import Engine, Progress
from sentry.engine.segments import FileRange, ShortReadError
from sentry.errors import SentryError
from sentry.formats.manifest import SINGLE_FILE
from sentry.tree import Entry, NotAFileError, Tree, stamp_of

# Above this a file is a task of its own; below, opening it costs about as much as hashing it.
LARGE_BYTES = 1024 * 1024
# Small files a task: enough to make the hand-over negligible, few enough to keep every thread busy.
BATCH_FILES = 512
# Reading a file below this size spends its time in the interpreter, where a second thread only gets in the way.
INTERPRETER_BOUND_BYTES = 64 * 1024
# As many bytes of the other small files are worth a stream of their own.
STREAM_BYTES = 64 * 1024 * 1024
# The format's own limit (docs of safetensors); longer headers are not safetensors.
MAX_SAFETENSORS_HEADER = 100_000_000

Result = TypeVar("Result")


class ChangedError(SentryError):
    """A file changed, vanished, or became something else while it was read."""


class StoppedError(SentryError):
    """The work was given up half-way; never seen outside this module's threads."""


@dataclass(frozen=True, slots=True)
class OpenFile:
    """A file that is being hashed.

    Attributes:
        path: POSIX path relative to the tree.
        name: Its own name, which for a single file is not its path.
        descriptor: Open for reading.
        nbytes: Size when it was opened.
        stop: Set when the digests are not wanted any more, because of an error elsewhere or an interruption.
    """

    path: str
    name: str
    descriptor: int
    nbytes: int
    stop: threading.Event

    def digest_range(
        self, engine: Engine, hashes: Sequence[str], start: int, end: int, *, progress: Progress | None = None
    ) -> Mapping[str, bytes]:
        """Digest the bytes from `start` up to, not including, `end` under every hash, from one read.

        Raises:
            ShortReadError: The file ends before.
            StoppedError: Nobody waits for the digest any more.
        """

        def count(nbytes: int) -> None:
            if self.stop.is_set():
                raise StoppedError("stopped")
            if progress:
                progress(nbytes)

        return engine.digest(hashes, [FileRange(self.descriptor, start, end - start)], progress=count)


# Files of one directory: its path, and theirs.
Batch = tuple[str, list[str]]
Work = Callable[[Engine, OpenFile], Result]


def safetensors_header_sha256(engine: Engine, file: OpenFile) -> bytes | None:
    """Return the SHA-256 of a safetensors file's length field and header; None for what cannot be such a file."""
    if file.nbytes < 8:
        return None
    length = os.pread(file.descriptor, 8, 0)
    if len(length) < 8:
        raise ShortReadError("a file became shorter while it was read")
    (header_bytes,) = struct.unpack("<Q", length)
    if header_bytes > min(file.nbytes - 8, MAX_SAFETENSORS_HEADER):
        return None
    return file.digest_range(engine, ["sha256"], 0, 8 + header_bytes)["sha256"]


def map_files(
    tree: Tree,
    entries: Mapping[str, int],
    engine: Engine,
    work: Work[Result],
    *,
    listed: Mapping[str, Entry],
) -> Iterator[tuple[str, Result | ChangedError]]:
    """Do some work on every file, several at a time, in no particular order.

    Args:
        tree: The opened model.
        entries: Path to expected size in bytes, which only decides how the work is divided.
        engine: Its threads are shared between the files that are worked on at once.
        work: Called with an engine for one stream and the open file, in any thread.
        listed: The files as the tree listed them; one that is another by the time it is opened counts as changed.

    Yields:
        Path and result; the result is a `ChangedError` for a file that is gone, or changed while it was worked on.

    Raises:
        OSError: A file could not be read; its `filename` says which.
    """
    large = sorted((path for path, nbytes in entries.items() if nbytes > LARGE_BYTES), key=entries.__getitem__)
    small = sorted(path for path, nbytes in entries.items() if nbytes <= LARGE_BYTES)
    medium = sum(nbytes for nbytes in map(entries.__getitem__, small) if nbytes > INTERPRETER_BOUND_BYTES)
    streams = max(1, min(engine.threads, len(large) + medium // STREAM_BYTES))
    shared = engine.split(streams)
    tasks = [(parent_of(path), [path]) for path in reversed(large)] + list(_batches(small))
    stop = threading.Event()
    with ThreadPoolExecutor(streams, thread_name_prefix="sentry-file") as pool:
        try:
            futures = [pool.submit(_work_on_batch, tree, batch, shared, work, (listed, stop)) for batch in tasks]
            for future in as_completed(futures):
                yield from future.result()
        finally:
            stop.set()
            pool.shutdown(wait=True, cancel_futures=True)


def parent_of(path: str) -> str:
    """Return the path of the directory that holds a path; the root is the empty path."""
    return path.rpartition("/")[0]


def _batches(paths: Iterable[str]) -> Iterator[Batch]:
    """Cut sorted paths into runs that share a directory."""
    for parent, group in groupby(paths, parent_of):
        while batch := list(islice(group, BATCH_FILES)):
            yield parent, batch


def _work_on_batch(
    tree: Tree,
    batch: Batch,
    engine: Engine,
    work: Work[Result],
    context: tuple[Mapping[str, Entry], threading.Event],
) -> list[tuple[str, Result | ChangedError]]:
    parent, paths = batch
    listed, stop = context
    results: list[tuple[str, Result | ChangedError]] = []

    def on_open_file(path: str, descriptor: int, nbytes: int) -> Result:
        name = tree.path.name if path == SINGLE_FILE else path.rpartition("/")[2]
        return work(engine, OpenFile(path, name, descriptor, nbytes, stop))

    try:
        with tree.directory(parent) as directory:
            results.extend(
                (path, _work_on_file(tree, path, directory, on_open_file, listed.get(path))) for path in paths
            )
    except (FileNotFoundError, NotAFileError):
        results += [(path, ChangedError("it is gone")) for path in paths[len(results) :]]
    return results


def _work_on_file(
    tree: Tree, path: str, directory: int, work: Callable[[str, int, int], Result], listed: Entry | None
) -> Result | ChangedError:
    try:
        with tree.file(path, directory) as (descriptor, entry):
            # A directory renamed away and back leaves no trace in the listings: the opened file must be the listed one.
            if listed is not None and entry.stamp != listed.stamp:
                return ChangedError("it changed while it was read")
            result = work(path, descriptor, entry.nbytes)
            if stamp_of(descriptor) != entry.stamp:
                return ChangedError("it changed while it was read")
            return result
    except FileNotFoundError:
        return ChangedError("it is gone")
    except NotAFileError:
        return ChangedError("it is not a regular file any more")
    except ShortReadError:
        return ChangedError("it became shorter while it was read")
    except OSError as error:
        error.filename = path
        raise
