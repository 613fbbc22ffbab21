# SPDX-License-Identifier: Apache-2.0
"""The digests of loaded files, from wherever their bytes are seen: resident, arriving on a GPU, or passing the host.

The digest of a safetensors file is that of its header followed by its tensors in the order of their offsets. Chunks
that straddle two tensors are the engine's business; here a file is a list of segments.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

from sentry.engine.buffers import as_segment
from sentry.engine.contract import Engine
from sentry.engine.cpu import State, new_state
from sentry.engine.segments import DeviceBytes, HostBytes, Segment
from sentry.errors import MismatchError
from sentry.formats.manifest import Manifest
from sentry.loading.sources import SignedFile
from sentry.readers import SourceFile
from sentry.readers.pieces import Block
from sentry.readers.place import Place, Room
from sentry.readers.ring import Observer
from sentry.text import escape, join_names

# How many bytes of a file become one value while the rest is still arriving: launches cost the interpreter's time,
# which the readers need, and what is left at the end is hashed in a millisecond.
RANGE_BYTES = 2 * 1024 * 1024 * 1024
CHUNK_BYTES = 1024

# Under every hash, for every file: the digests of its resources in order.
Digests = Mapping[str, Sequence[Sequence[bytes]]]


def compare(files: Sequence[SignedFile], manifest: Manifest, digests: Digests) -> None:
    """Compare recomputed digests with the signed ones.

    Raises:
        MismatchError: Naming the files that differ.
    """
    wrong = set()
    for name, of_files in digests.items():
        for file, found in zip(files, of_files, strict=True):
            signed = [resource.digest_under(name, manifest.hash) for resource in file.resources]
            if list(found) != signed:
                wrong.add(file.source.path)
    if wrong:
        paths = tuple(sorted(wrong))
        shown = join_names(tuple(escape(path) for path in paths))
        raise MismatchError(f"what was loaded is not what was signed (bytes differ): {shown}", changed=paths)


def resident_digests(
    engine: Engine, hashes: Sequence[str], files: Sequence[SignedFile], loaded: Sequence[Mapping[str, Any]]
) -> Digests:
    """Digest files whose tensors lie in memory."""
    messages = []
    for file, tensors in zip(files, loaded, strict=True):
        segments = _segments(file.source, tensors)
        messages += [_cut(segments, resource.start, resource.end) for resource in file.resources]
    return {name: _by_file(_digests(engine, name, messages), files) for name in hashes}


def _digests(engine: Engine, hash_name: str, messages: Sequence[Sequence[Segment]]) -> list[bytes]:
    if engine.name != "cpu" or len(messages) == 1:
        return engine.digests(hash_name, messages)
    # A file a thread: what is sequential inside a file is not across files.
    streams = min(engine.threads, len(messages))
    shared = engine.split(streams)
    with ThreadPoolExecutor(streams, thread_name_prefix="sentry-hash") as pool:
        return list(pool.map(lambda message: shared.digests(hash_name, [message])[0], messages))


def _by_file(digests: Sequence[bytes], files: Sequence[SignedFile]) -> list[list[bytes]]:
    pending = iter(digests)
    return [[next(pending) for _ in file.resources] for file in files]


def _segments(source: SourceFile, tensors: Mapping[str, Any]) -> list[Segment]:
    entries = [entry for entry in source.header.tensors if entry.nbytes]
    arrays = [tensors[entry.name] for entry in entries]
    return [HostBytes(source.header_data), *(_on_gpu(arrays) or map(_segment, arrays))]


def _on_gpu(arrays: Sequence[Any]) -> list[Segment]:
    """Return the segments of plain torch tensors on one GPU, all at once; nothing where that is not what there is."""
    if not arrays or not getattr(arrays[0], "is_cuda", False):
        return []
    from sentry.engine.torch_tables import torch_tables  # noqa: PLC0415

    tables = torch_tables(arrays)
    if tables is None:
        return []
    pointers, sizes = tables.pointers.tolist(), tables.nbytes.tolist()
    return [
        DeviceBytes(pointer, nbytes, tables.ordinal, tables.stream, array)
        for pointer, nbytes, array in zip(pointers, sizes, arrays, strict=True)
    ]


def _segment(array: Any) -> Segment:  # noqa: ANN401
    if hasattr(array, "data_ptr"):
        return as_segment(array)
    # Types that NumPy does not know itself offer no buffer; their bytes do.
    return HostBytes(memoryview(array.reshape(-1).view("u1")))


def _cut(segments: Sequence[Segment], begin: int, end: int | None) -> list[Segment]:
    """Return a range of the bytes that the segments make up."""
    parts: list[Segment] = []
    at = 0
    for segment in segments:
        first = max(begin - at, 0)
        last = segment.nbytes if end is None else min(end - at, segment.nbytes)
        if first < last:
            parts.append(_part(segment, first, last))
        at += segment.nbytes
    return parts


def _part(segment: Segment, first: int, last: int) -> Segment:
    if first == 0 and last == segment.nbytes:
        return segment
    if isinstance(segment, DeviceBytes):
        pointer = segment.pointer + first
        return DeviceBytes(pointer, last - first, segment.device, segment.stream, segment.owner)
    if isinstance(segment, HostBytes):
        return HostBytes(memoryview(segment.data)[first:last])
    raise TypeError("only bytes in memory can be cut here")


class ArrivingDigests(Observer):
    """Hashes each range of a file on the GPU as soon as it has arrived there, under BLAKE3.

    Args:
        engine: An engine that hashes in the GPU's memory.
        files: What will arrive; their resources are whole files.
        place: Where.
        range_bytes: A power of two of 1024 bytes at least; a multiple of the ring's blocks.
    """

    def __init__(
        self, engine: Engine, files: Sequence[SignedFile], place: Place, *, range_bytes: int = RANGE_BYTES
    ) -> None:
        self._engine = engine
        self._files = files
        self._place = place
        self._range_bytes = range_bytes
        self._segments: list[list[Segment]] = []
        self._missing: list[list[int]] = []
        self._values: list[dict[int, Future[list[bytes]]]] = [{} for _ in files]
        # One thread: the GPU runs one range after the other anyway.
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="sentry-arriving")

    def start(self, files: Sequence[SourceFile], rooms: Sequence[Sequence[Room]]) -> None:
        """Note where every byte will lie, and how many are missing in every range."""
        for number, (source, of_file) in enumerate(zip(files, rooms, strict=True)):
            arrays = {entry.name: room.array for entry, room in zip(source.header.tensors, of_file, strict=True)}
            # Nothing is on its way when a range is hashed: the copies have been waited for.
            self._segments.append([
                DeviceBytes(part.pointer, part.nbytes, part.device, None, part.owner)
                if isinstance(part, DeviceBytes) else part
                for part in _segments(source, arrays)
            ])  # fmt: skip
            bounds = range(0, source.nbytes, self._range_bytes)
            self._missing.append([min(self._range_bytes, source.nbytes - begin) for begin in bounds])
            self._count(number, 0, len(source.header_data))

    def arrived(self, block: Block) -> None:
        """Hash the block's range if it was the last that it lacked."""
        self._count(block.file, block.begin, block.end)

    def _count(self, file: int, begin: int, end: int) -> None:
        missing = self._missing[file]
        for number in range(begin // self._range_bytes, (end - 1) // self._range_bytes + 1):
            first = number * self._range_bytes
            missing[number] -= min(end, first + self._range_bytes) - max(begin, first)
            # A file of one range has no inner node: it waits for the end.
            if missing[number] == 0 and len(missing) > 1:
                self._values[file][number] = self._pool.submit(self._hash_range, file, number)

    def _hash_range(self, file: int, number: int) -> list[bytes]:
        begin = number * self._range_bytes
        parts = _cut(self._segments[file], begin, begin + self._range_bytes)
        chunks = self._range_bytes // CHUNK_BYTES
        return self._engine.subtrees(parts, chunks, first_chunk=number * chunks)

    def digests(self) -> Digests:
        """Return the digests when everything has arrived.

        Raises:
            EngineError: The GPU failed.
            MismatchError: Something never arrived.
        """
        from sentry.engine.blake3_numpy import root_of  # noqa: PLC0415

        with self._pool:
            small = [number for number, missing in enumerate(self._missing) if len(missing) == 1]
            found = dict(
                zip(small, self._engine.digests("blake3", [self._segments[number] for number in small]), strict=True)
            )
            for number, missing in enumerate(self._missing):
                if any(missing):
                    raise MismatchError(f"{escape(self._files[number].source.path)} was not read to its end")
                if number not in found:
                    futures = self._values[number]
                    found[number] = root_of([value for at in range(len(missing)) for value in futures[at].result()])
        return {"blake3": [[found[number]] for number in range(len(self._files))]}

    def close(self) -> None:
        """Give up what has not been hashed."""
        self._pool.shutdown(wait=True, cancel_futures=True)


class PassingDigests(Observer):
    """Hashes every file on the host, block by block in order, as its bytes pass the ring.

    Args:
        engine: Its hash states are used; its threads are shared between the files.
        hashes: What to compute.
        files: What will pass.
    """

    in_order = True

    def __init__(self, hashes: Sequence[str], files: Sequence[SignedFile]) -> None:
        self._hashes = hashes
        self._files = [_PassingFile(hashes, file) for file in files]
        self._lock = threading.Lock()

    def passing(self, block: Block, data: memoryview) -> None:
        """Take in a block."""
        self._files[block.file].update(data)

    def digests(self) -> Digests:
        """Return the digests when everything has passed."""
        return {name: [file.digests(name) for file in self._files] for name in self._hashes}

    def close(self) -> None:
        """Do nothing: no memory is held."""


class _PassingFile:
    """The states of one file's resources, which follow each other."""

    def __init__(self, hashes: Sequence[str], file: SignedFile) -> None:
        self._file = file
        self._states: list[dict[str, State]] = [{name: new_state(name) for name in hashes} for _ in file.resources]
        self._at = 0
        self.update(memoryview(file.source.header_data))

    def update(self, data: memoryview) -> None:
        """Take in the next bytes of the file."""
        for states, part in self._parts(data):
            for state in states.values():
                state.update(part)
        self._at += len(data)

    def _parts(self, data: memoryview) -> Iterator[tuple[dict[str, State], memoryview]]:
        for states, resource in zip(self._states, self._file.resources, strict=True):
            end = self._file.source.nbytes if resource.end is None else resource.end
            first, last = max(resource.start - self._at, 0), min(end - self._at, len(data))
            if first < last:
                yield states, data[first:last]

    def digests(self, name: str) -> list[bytes]:
        """Return the digests of the resources; what never passed is in none of them."""
        return [states[name].digest() for states in self._states]
