# SPDX-License-Identifier: Apache-2.0
"""cuFile's reader over a cuFile that is none: what it registers, and what it does when something fails."""

from __future__ import annotations

import contextlib
import ctypes
import os
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from loading.conftest import TWO, pattern, safetensors

from sentry.engine.segments import ShortReadError
from sentry.formats.safetensors import header_nbytes
from sentry.readers import ReaderUnavailableError, SourceFile
from sentry.readers.gds import CONFIGURATION, CuFileReader
from sentry.readers.place import Place

torch = pytest.importorskip("torch")
bindings = pytest.importorskip("cuda.bindings")

FLAGS_THAT_CUFILE_REFUSES = os.O_NONBLOCK | os.O_NOFOLLOW


class FakeCuFile:
    """Reads into host memory, a part at a time, and writes down what it is asked."""

    FileHandleType = SimpleNamespace(OPAQUE_FD=1)

    def __init__(self) -> None:
        self.log: list[str] = []
        self.at_most = 100
        self.refuses = ""
        self.result: int | None = None

    def Descr(self) -> Any:  # noqa: N802
        return SimpleNamespace(type=0, handle=SimpleNamespace(fd=-1), fs_ops=None, ptr=None)

    def driver_open(self) -> None:
        if self.refuses == "driver":
            raise RuntimeError("no driver\nat all")
        self.log.append("open")

    def driver_close(self) -> None:
        self.log.append("close")

    def handle_deregister(self, handle: int) -> None:
        os.fstat(handle)  # it must still be open
        self.log.append("deregister")

    def read(self, handle: int, base: int, nbytes: int, offset: int, at: int) -> int:
        if self.result is not None:
            return self.result
        data = os.pread(handle, min(nbytes, self.at_most), offset)
        ctypes.memmove(base + at, data, len(data))
        return len(data)


@pytest.fixture
def cufile(monkeypatch: pytest.MonkeyPatch) -> FakeCuFile:
    fake = FakeCuFile()
    described: list[Any] = []

    def describe() -> Any:
        described.append(FakeCuFile.Descr(fake))
        return described[-1]

    def register(_pointer: object) -> int:
        if fake.refuses == "file":
            raise RuntimeError("5027: not supported")
        descriptor: int = described[-1].handle.fd
        fake.log.append("register")
        return descriptor

    monkeypatch.setattr(fake, "Descr", describe)
    monkeypatch.setattr(fake, "handle_register", register, raising=False)
    monkeypatch.setattr(bindings, "cufile", fake, raising=False)
    monkeypatch.setitem(sys.modules, "cuda.bindings.cufile", fake)
    monkeypatch.setattr(torch.cuda, "device", lambda _: contextlib.nullcontext())
    monkeypatch.setattr(torch.cuda, "synchronize", lambda: None)
    monkeypatch.setattr(torch.cuda, "set_device", lambda _: None)
    monkeypatch.setenv("CUFILE_ENV_PATH_JSON", str(CONFIGURATION))
    return fake


@pytest.fixture
def source(tmp_path: Path) -> SourceFile:
    data = safetensors({**TWO, "long": ("U8", (5000,), pattern(5000))})
    path = tmp_path / "m.safetensors"
    path.write_bytes(data)
    descriptor = os.open(path, os.O_RDONLY | FLAGS_THAT_CUFILE_REFUSES)
    return SourceFile(path.name, descriptor, data[: header_nbytes(data[:8], file_nbytes=len(data))], len(data))


def test_every_byte_is_read_from_the_file_that_is_open(cufile: FakeCuFile, source: SourceFile, tmp_path: Path) -> None:
    (tmp_path / "m.safetensors").rename(tmp_path / "away")
    (tmp_path / "m.safetensors").write_bytes(bytes(source.nbytes))
    (found,) = CuFileReader().load([source], Place("pt"))
    assert bytes(found["long"].numpy()) == pattern(5000)
    assert cufile.log == ["open", "register", "deregister", "close"]


def test_what_is_registered_has_no_flags_that_cufile_refuses(
    cufile: FakeCuFile, source: SourceFile, monkeypatch: pytest.MonkeyPatch
) -> None:
    import fcntl  # noqa: PLC0415

    flags: list[int] = []
    monkeypatch.setattr(cufile, "handle_deregister", lambda handle: flags.append(fcntl.fcntl(handle, fcntl.F_GETFL)))
    CuFileReader().load([source], Place("pt"))
    assert flags
    assert all(not flag & FLAGS_THAT_CUFILE_REFUSES for flag in flags)


@pytest.mark.parametrize(
    ("refuses", "reason"),
    [("driver", r"^cuFile does not start: no driver$"), ("file", r"^cuFile does not take m.safetensors: 5027")],
)
def test_a_cufile_that_refuses_makes_room_for_the_next_reader(
    cufile: FakeCuFile, source: SourceFile, refuses: str, reason: str
) -> None:
    cufile.refuses = refuses
    with pytest.raises(ReaderUnavailableError, match=reason):
        CuFileReader().load([source], Place("pt"))
    assert cufile.log == ([] if refuses == "driver" else ["open", "close"])


def test_another_file_behind_the_descriptor_is_refused(
    cufile: FakeCuFile, source: SourceFile, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os.path, "sameopenfile", lambda *_: False)
    with pytest.raises(ReaderUnavailableError, match="it is another file"):
        CuFileReader().load([source], Place("pt"))
    assert cufile.log == ["open", "close"]


@pytest.mark.parametrize(("result", "error"), [(0, ShortReadError), (-5, OSError)])
def test_a_read_that_fails_ends_the_load_and_gives_everything_back(
    cufile: FakeCuFile, source: SourceFile, result: int, error: type[Exception]
) -> None:
    cufile.result = result
    with pytest.raises(error):
        CuFileReader().load([source], Place("pt"))
    assert cufile.log == ["open", "register", "deregister", "close"]
