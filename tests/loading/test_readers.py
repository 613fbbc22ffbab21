# SPDX-License-Identifier: Apache-2.0
"""Readers and what watches them, without a GPU: the ring moves bytes between host addresses here."""

from __future__ import annotations

import contextlib
import ctypes
import itertools
import os
import random
import sys
import threading
import time
import types
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import pytest
from blake3 import blake3
from hypothesis import given
from hypothesis import strategies as st
from loading.conftest import MORE, TWO, Written, pattern, safetensors

from sentry.engine.cpu import CpuEngine
from sentry.engine.segments import HostBytes, ShortReadError
from sentry.errors import EngineError, MismatchError, UnavailableError
from sentry.formats.manifest import Resource
from sentry.formats.safetensors import header_nbytes, parse_header
from sentry.loading import plan as planning
from sentry.loading.comparing import ArrivingDigests, PassingDigests
from sentry.loading.plan import plan_hashing, plan_readers
from sentry.loading.sources import SignedFile
from sentry.readers import ReaderUnavailableError, SourceFile
from sentry.readers.fast import FastSafetensorsReader, InstantTensorReader
from sentry.readers.mover import Mark
from sentry.readers.pieces import Block, Layout, blocks
from sentry.readers.place import Place
from sentry.readers.plain import PlainReader
from sentry.readers.ring import Observer, RingReader

torch = pytest.importorskip("torch")

HOST = Place("pt")


@dataclass(frozen=True)
class LaterMark:
    """Waits until the copies before it have been made."""

    done: threading.Event

    def synchronize(self) -> None:
        assert self.done.wait(20)


class HostMover:
    """Copies between host addresses, some time after it was asked to, as a GPU does."""

    def __init__(self, _ordinal: int | None) -> None:
        self._waiting: list[tuple[int, int, int] | threading.Event] = []
        self._wanted = threading.Semaphore(0)
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._random = random.Random(1)  # noqa: S311
        self._kept: list[Any] = []

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_exception: object) -> None:
        LaterMark(self._put_event()).synchronize()

    def _run(self) -> None:
        for number in itertools.count():
            self._wanted.acquire()
            item = self._waiting[number]
            if isinstance(item, threading.Event):
                item.set()
            else:
                time.sleep(self._random.random() / 5000)
                ctypes.memmove(*item)

    def ready(self) -> None:
        """There is nothing to wait for."""

    def pinned(self, nbytes: int) -> Any:
        self._kept.append(torch.empty(nbytes, dtype=torch.uint8))
        return self._kept[-1]

    def copy(self, destination: int, source: int, nbytes: int) -> None:
        self._waiting.append((destination, source, nbytes))
        self._wanted.release()

    def mark(self) -> Mark:
        return LaterMark(self._put_event())

    def _put_event(self) -> threading.Event:
        event = threading.Event()
        self._waiting.append(event)
        self._wanted.release()
        return event


def ring(observer: Observer | None = None, **options: Any) -> RingReader:
    return RingReader(observer, mover=HostMover, **{"block_bytes": 16, "threads": 3, "more_blocks": 2, **options})


@pytest.fixture
def open_file(tmp_path: Path) -> Iterator[Callable[..., SourceFile]]:
    """Return a function that writes and opens a safetensors file."""
    opened: list[int] = []

    def write(tensors: Written) -> SourceFile:
        data = safetensors(tensors)
        path = tmp_path / f"{len(opened)}.safetensors"
        path.write_bytes(data)
        opened.append(os.open(path, os.O_RDWR))
        length = header_nbytes(data[:8], file_nbytes=len(data))
        return SourceFile(path.name, opened[-1], data[:length], len(data))

    yield write
    for descriptor in opened:
        os.close(descriptor)


def content(file: SourceFile) -> bytes:
    return os.pread(file.descriptor, file.nbytes, 0)


def signed(file: SourceFile, *bounds: int) -> SignedFile:
    """Return the file with whole-file digests, or with those of ranges."""
    data = content(file)
    if not bounds:
        return SignedFile(file, (Resource(file.path, blake3(data).digest()),), b"")
    ends = [*bounds, len(data)]
    ranges = zip([0, *bounds], ends, strict=True)
    return SignedFile(file, tuple(Resource(file.path, blake3(data[a:b]).digest(), a, b) for a, b in ranges), b"")


def assert_read(files: Sequence[SourceFile], loaded: Sequence[Any]) -> None:
    for file, tensors in zip(files, loaded, strict=True):
        data = content(file)[file.payload_begin :]
        assert list(tensors) == [entry.name for entry in file.header.tensors]
        for entry in file.header.tensors:
            found = bytes(tensors[entry.name].reshape(-1).view(torch.uint8).numpy())
            assert found == data[entry.begin : entry.end]


LONG: Written = {
    f"t{at}": ("U8", (size,), pattern(size, at)) for at, size in enumerate((1, 300, 0, 4096, 17, 65, 2000))
}


@pytest.mark.parametrize("threads", [1, 2, 8])
@pytest.mark.parametrize("block_bytes", [1, 16, 1000, 1 << 20])
def test_the_ring_brings_every_byte_to_its_place(
    open_file: Callable[..., SourceFile], threads: int, block_bytes: int
) -> None:
    small = [open_file(TWO), open_file(MORE), open_file({})]
    files = small if block_bytes == 1 else [*small, open_file(LONG)]
    assert_read(files, ring(threads=threads, block_bytes=block_bytes).load(files, HOST))


def test_plain_reads_bring_every_byte_to_its_place(open_file: Callable[..., SourceFile]) -> None:
    many = {f"t{at}": ("U8", (1,), bytes([at % 256])) for at in range(1500)}  # more than one call takes
    files = [open_file(TWO), open_file(LONG), open_file(many)]
    assert_read(files, PlainReader().load(files, HOST))


@given(sizes=st.lists(st.integers(0, 70), max_size=12), block=st.integers(1, 90))
def test_blocks_and_pieces_cover_every_tensor_once(sizes: list[int], block: int) -> None:
    data = safetensors({f"t{at}": ("U8", (size,), bytes(size)) for at, size in enumerate(sizes)})
    length = header_nbytes(data[:8], file_nbytes=len(data))
    file = SourceFile("f", -1, data[:length], len(data))
    seen = {number: [0] * entry.nbytes for number, entry in enumerate(file.header.tensors)}
    for one in blocks([file], block):
        assert one.begin // block == (one.end - 1) // block
        for piece in Layout(file).pieces(one.begin, one.end):
            entry = file.header.tensors[piece.tensor]
            assert one.begin + piece.at == file.payload_begin + entry.begin + piece.offset
            for at in range(piece.offset, piece.offset + piece.nbytes):
                seen[piece.tensor][at] += 1
    assert all(count == 1 for counts in seen.values() for count in counts)


@pytest.mark.parametrize("reader", [ring(), ring(block_bytes=1 << 20), PlainReader()])
def test_a_file_that_ends_early_is_an_error_and_no_thread_stays(
    open_file: Callable[..., SourceFile], reader: Any
) -> None:
    files = [open_file(LONG), open_file(LONG)]
    os.truncate(files[1].descriptor, files[1].nbytes - 1)
    before = threading.active_count()
    with pytest.raises(ShortReadError):
        reader.load(files, HOST)
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("sentry-")]
    assert threading.active_count() <= before + 1  # the mover's own


class Refuses(HostMover):
    """A GPU that refuses a copy."""

    def copy(self, destination: int, source: int, nbytes: int) -> None:
        raise EngineError(f"the GPU refused a copy of {nbytes} bytes from {source} to {destination}")


class FailsLater(HostMover):
    """A GPU that fails after it took the copies."""

    def mark(self) -> Mark:
        class Failing:
            def synchronize(self) -> None:
                raise EngineError("an illegal memory access was encountered")

        return Failing()


@pytest.mark.parametrize(("mover", "reason"), [(Refuses, "refused a copy"), (FailsLater, "illegal memory access")])
def test_a_failing_gpu_ends_the_load(open_file: Callable[..., SourceFile], mover: type[HostMover], reason: str) -> None:
    reader = RingReader(mover=mover, block_bytes=16, threads=3, more_blocks=2)
    with pytest.raises(EngineError, match=reason):
        reader.load([open_file(LONG)], HOST)
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("sentry-")]


def digest(hash_name: str, data: bytes) -> bytes:
    return CpuEngine(1).digest([hash_name], [HostBytes(data)])[hash_name]


class FailingObserver(Observer):
    """Raises when it sees the second file."""

    def passing(self, block: Block, data: memoryview) -> None:
        del data
        if block.file == 1:
            raise ValueError("not this one")


def test_an_observer_that_fails_ends_the_load(open_file: Callable[..., SourceFile]) -> None:
    with pytest.raises(ValueError, match="not this one"):
        ring(FailingObserver()).load([open_file(LONG), open_file(LONG)], HOST)


# ------------------------------------------------------------------------------------------------------- observers


@pytest.mark.parametrize("range_bytes", [1024, 2048, 1 << 20])
def test_ranges_are_hashed_as_they_arrive(open_file: Callable[..., SourceFile], range_bytes: int) -> None:
    files = [open_file(TWO), open_file(LONG), open_file({})]
    watched = [signed(file) for file in files]
    observer = ArrivingDigests(CpuEngine(2), watched, HOST, range_bytes=range_bytes)
    assert_read(files, ring(observer, block_bytes=256).load(files, HOST))
    assert observer.digests() == {"blake3": [[file.resources[0].digest] for file in watched]}


def test_a_range_that_never_arrived_is_noticed(open_file: Callable[..., SourceFile]) -> None:
    file = signed(open_file(LONG))
    observer = ArrivingDigests(CpuEngine(2), [file], HOST, range_bytes=1024)
    rooms = [[HOST.allocate(entry) for entry in file.source.header.tensors]]
    observer.start([file.source], rooms)
    for block in list(blocks([file.source], 256))[:-1]:
        observer.arrived(block)
    with pytest.raises(MismatchError, match="was not read to its end"):
        observer.digests()


def test_an_arriving_range_is_hashed_from_where_it_lies(open_file: Callable[..., SourceFile]) -> None:
    file = signed(open_file(LONG))
    observer = ArrivingDigests(CpuEngine(2), [file], HOST, range_bytes=1024)
    ring(observer, block_bytes=256).load([file.source], HOST)
    wrong = ArrivingDigests(CpuEngine(2), [file], HOST, range_bytes=1024)
    rooms = [[HOST.allocate(entry) for entry in file.source.header.tensors]]
    for room in rooms[0]:
        room.raw.zero_()
    wrong.start([file.source], rooms)
    for block in blocks([file.source], 256):
        wrong.arrived(block)
    assert wrong.digests() != observer.digests()


@pytest.mark.parametrize("bounds", [(), (1,), (100, 250, 251), (2048, 4096)])
@pytest.mark.parametrize("hash_name", ["blake3", "sha256", "blake2b"])
def test_files_are_hashed_on_the_host_in_order_as_they_pass(
    open_file: Callable[..., SourceFile], bounds: tuple[int, ...], hash_name: str
) -> None:
    files = [signed(open_file(LONG), *bounds), signed(open_file(TWO)), signed(open_file(LONG))]
    observer = PassingDigests([hash_name], files)
    sources = [file.source for file in files]
    assert_read(sources, ring(observer, block_bytes=100).load(sources, HOST))
    expected = [[digest(hash_name, content(f.source)[r.start : r.end]) for r in f.resources] for f in files]
    assert observer.digests() == {hash_name: expected}


# -------------------------------------------------------------------------------------------------- other loaders


def fake_instanttensor(monkeypatch: pytest.MonkeyPatch, change: Callable[[list[Any]], list[Any]]) -> list[Any]:
    """Put an InstantTensor in its place that reads files as they are, and may return something else."""
    calls: list[Any] = []

    class Source:
        def __init__(self, paths: list[str], **options: Any) -> None:
            calls.append((paths, options))
            self._paths = paths

        def __enter__(self) -> Self:
            return self

        def __exit__(self, *_exception: object) -> None:
            calls.append("closed")

        def tensors(self) -> Iterator[Any]:
            found = []
            for path in sorted(self._paths):
                data = Path(path).read_bytes()
                length = header_nbytes(data[:8], file_nbytes=len(data))
                for entry in parse_header(data[:length], file_nbytes=len(data)).tensors:
                    room = HOST.allocate(entry)
                    raw = bytearray(data[length + entry.begin : length + entry.end])
                    if raw:
                        room.raw.copy_(torch.frombuffer(raw, dtype=torch.uint8))
                    found.append((entry.name, room.array))
            return iter(change(found))

    module = types.ModuleType("instanttensor")
    module.safe_open = Source  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "instanttensor", module)
    monkeypatch.setattr(torch.cuda, "device", lambda _: contextlib.nullcontext())
    monkeypatch.setattr(torch.cuda, "synchronize", lambda: None)
    return calls


def test_instanttensor_is_given_descriptors_and_is_closed_before_anything_is_returned(
    open_file: Callable[..., SourceFile], monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = fake_instanttensor(monkeypatch, lambda found: found)
    files = [open_file(TWO), open_file(MORE)]
    loaded = InstantTensorReader().load(files, HOST)
    assert [{name: tensors[name] for name in sorted(tensors)}.keys() for tensors in loaded] == [
        dict.fromkeys(sorted(TWO)).keys(),
        dict.fromkeys(sorted(MORE)).keys(),
    ]
    assert sorted(calls[0][0]) == sorted(f"/proc/self/fd/{file.descriptor}" for file in files)
    assert calls[-1] == "closed"


def test_another_loader_that_fails_makes_room_for_the_next(
    open_file: Callable[..., SourceFile], monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(_found: list[Any]) -> list[Any]:
        raise RuntimeError("No available backend\nsecond line")

    fake_instanttensor(monkeypatch, fail)
    with pytest.raises(ReaderUnavailableError, match=r"^InstantTensor failed: No available backend$"):
        InstantTensorReader().load([open_file(TWO)], HOST)


def test_another_loader_without_room_for_its_buffer_makes_room_for_the_next(
    open_file: Callable[..., SourceFile], monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(_found: list[Any]) -> list[Any]:
        raise torch.OutOfMemoryError("CUDA out of memory")

    fake_instanttensor(monkeypatch, fail)
    with pytest.raises(ReaderUnavailableError, match="no room for its buffer beside the model"):
        InstantTensorReader().load([open_file(TWO)], HOST)


@pytest.mark.parametrize("reader", [InstantTensorReader, FastSafetensorsReader])
def test_other_loaders_that_are_not_installed_say_so(
    open_file: Callable[..., SourceFile], monkeypatch: pytest.MonkeyPatch, reader: Callable[[], Any]
) -> None:
    monkeypatch.setitem(sys.modules, reader().name, None)
    with pytest.raises(ReaderUnavailableError, match=r"not installed|halted"):
        reader().load([open_file(TWO)], HOST)


def test_other_loaders_are_not_asked_for_files_without_tensors(
    open_file: Callable[..., SourceFile], monkeypatch: pytest.MonkeyPatch
) -> None:
    fake_instanttensor(monkeypatch, lambda found: found)
    with pytest.raises(ReaderUnavailableError, match="does not read files without bytes"):
        InstantTensorReader().load([open_file({})], HOST)


# ------------------------------------------------------------------------------------------------------- decisions


def test_the_host_is_read_to_by_plain_reads() -> None:
    readers, reason = plan_readers("auto", HOST, None)
    assert [reader.name for reader in readers] == ["plain"]
    assert "plain reads" in reason


@pytest.mark.parametrize(
    ("module", "expected"), [(False, ["instanttensor", "ring"]), (True, ["instanttensor", "cufile", "ring"])]
)
def test_a_gpu_is_read_to_by_the_fastest_first(
    monkeypatch: pytest.MonkeyPatch, module: bool, expected: list[str]
) -> None:
    monkeypatch.setattr(planning, "has_kernel_module", lambda: module)
    readers, reason = plan_readers("auto", Place("pt", 0), None)
    assert [reader.name for reader in readers] == expected
    assert ("file system module is not loaded" in reason) is not module


def test_only_the_ring_shows_its_bytes_to_the_host(open_file: Callable[..., SourceFile]) -> None:
    observer = PassingDigests(["sha256"], [signed(open_file(TWO))])
    readers, reason = plan_readers("auto", Place("pt", 0), observer)
    assert [reader.name for reader in readers] == ["ring"]
    assert "the host has to see the bytes" in reason
    with pytest.raises(UnavailableError, match="does not show its bytes to the host"):
        plan_readers("instanttensor", Place("pt", 0), observer)


def test_a_gpu_without_the_cuda_engine_is_hashed_for_on_the_host() -> None:
    try:
        plan_hashing("cuda", ["blake3"], Place("pt", 0))
    except EngineError:
        plan = plan_hashing("auto", ["blake3"], Place("pt", 0))
        assert plan.at_host
        assert "the CUDA engine does not run here" in plan.reason
    assert plan_hashing("cpu", ["blake3"], Place("pt", 0)).at_host
