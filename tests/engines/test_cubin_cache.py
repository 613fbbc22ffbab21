# SPDX-License-Identifier: Apache-2.0
"""Compiled kernels are kept in a directory that is ours alone, under a name that says all they depend on."""

from __future__ import annotations

import os
import stat
import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from sentry import private
from sentry.engine import nvrtc
from sentry.engine.kernels import MODULES, Module
from sentry.errors import EngineError, UnavailableError

MODULE = MODULES["sha256"]
CODE = b"machine code"


@pytest.fixture
def compiled(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, str]]:
    """Put a compiler in place that gives `CODE`, and return what it was asked for."""
    asked: list[tuple[str, str]] = []

    def compile_it(module: Module, arch: str) -> bytes:
        asked.append((module.source, arch))
        return CODE

    monkeypatch.setattr(nvrtc, "_compile", compile_it)
    monkeypatch.setattr(nvrtc, "compiler_version", lambda: "13.0")
    return asked


def only_entry(cache: Path) -> Path:
    (entry,) = cache.iterdir()
    return entry


def test_what_was_compiled_once_is_taken_from_the_cache(tmp_path: Path, compiled: list[Any]) -> None:
    cache = tmp_path / "a" / "b"
    for _ in range(3):
        assert nvrtc.compile_module(MODULE, "sm_90", cache=cache) == CODE
    assert len(compiled) == 1
    assert stat.S_IMODE(cache.stat().st_mode) == 0o700
    assert stat.S_IMODE(only_entry(cache).stat().st_mode) == 0o600
    assert only_entry(cache).suffix == ".cubin"


def test_everything_that_decides_the_code_is_in_its_key(
    tmp_path: Path, compiled: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    sources = tmp_path / "sources"
    sources.mkdir()
    (sources / "a.cu").write_bytes(b"1")
    monkeypatch.setattr(nvrtc, "DIRECTORY", sources)
    cache = tmp_path / "cache"

    def is_new(module: Module = MODULE, arch: str = "sm_90") -> bool:
        before = len(compiled)
        nvrtc.compile_module(module, arch, cache=cache)
        return len(compiled) > before

    assert is_new()
    assert not is_new()
    assert is_new(arch="sm_80")
    assert is_new(MODULES["sha3-256"])
    assert is_new(replace(MODULE, macros=(*MODULE.macros, ("X", "1"))))
    (sources / "a.cu").write_bytes(b"2")
    assert is_new()
    (sources / "header.cuh").write_bytes(b"")
    assert is_new()
    (sources / "header.cuh").rename(sources / "other.cuh")
    assert is_new()
    monkeypatch.setattr(nvrtc, "compiler_version", lambda: "13.1")
    assert is_new()
    assert not is_new()


def link_to_a_directory(path: Path) -> None:
    target = path.with_name("target")
    target.mkdir(mode=0o700)
    path.symlink_to(target)


def with_mode(mode: int) -> Callable[[Path], None]:
    def make(path: Path) -> None:
        path.mkdir()
        path.chmod(mode)

    return make


@pytest.mark.parametrize(
    "make",
    [
        link_to_a_directory,
        with_mode(0o777),
        with_mode(0o770),
        with_mode(0o701),
        with_mode(0o740),
        with_mode(0o1777),
    ],
    ids=["a link", "writable for all", "for the group", "others may enter", "the group may read", "sticky"],
)
def test_a_cache_that_is_not_ours_alone_is_refused(
    tmp_path: Path, compiled: list[Any], make: Callable[[Path], None]
) -> None:
    path = tmp_path / "cache"
    make(path)
    with pytest.raises(EngineError) as caught:
        nvrtc.compile_module(MODULE, "sm_90", cache=path)
    assert str(caught.value) == f"the kernel cache {path} is not a private directory"
    assert caught.value.hint == "whoever can write it decides what is verified: remove it, or set SENTRY_CACHE_DIR"
    assert compiled == []
    assert list(path.iterdir()) == []


def test_a_cache_that_is_somebody_elses_is_refused(
    tmp_path: Path, compiled: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: tmp_path.stat().st_uid + 1)
    with pytest.raises(EngineError, match=r"is not a private directory$"):
        nvrtc.compile_module(MODULE, "sm_90", cache=tmp_path / "cache")
    assert compiled == []


@pytest.mark.parametrize("where", ["a file", "below a file", "a dangling link", "where nothing can be made"])
def test_without_a_directory_nothing_is_kept_and_all_works(tmp_path: Path, compiled: list[Any], where: str) -> None:
    (tmp_path / "file").write_bytes(b"")
    (tmp_path / "link").symlink_to(tmp_path / "nothing")
    path = {
        "a file": tmp_path / "file",
        "below a file": tmp_path / "file" / "cache",
        "a dangling link": tmp_path / "link",
        "where nothing can be made": Path("/proc/nothing"),
    }[where]
    for _ in range(2):
        assert nvrtc.compile_module(MODULE, "sm_90", cache=path) == CODE
    assert len(compiled) == 2
    assert (tmp_path / "file").read_bytes() == b""
    assert not (tmp_path / "nothing").exists()


def test_a_disk_that_is_full_makes_the_next_start_slower_and_nothing_else(
    tmp_path: Path, compiled: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_room(*_arguments: Any, **_options: Any) -> None:
        raise UnavailableError("no space left")

    monkeypatch.setattr(nvrtc, "write_atomic", no_room)
    for _ in range(2):
        assert nvrtc.compile_module(MODULE, "sm_90", cache=tmp_path / "cache") == CODE
    assert len(compiled) == 2


def plant(entry: Path, content: bytes) -> None:
    """Write an entry as whoever can write the cache would."""
    entry.write_bytes(private.seal(entry, content) + content)


def replace_by_link(entry: Path) -> None:
    target = entry.parents[1] / "elsewhere"
    target.write_bytes(b"planted")
    entry.unlink()
    entry.symlink_to(target)


def replace_by_fifo(entry: Path) -> None:
    entry.unlink()
    os.mkfifo(entry)


def replace_by_directory(entry: Path) -> None:
    entry.unlink()
    entry.mkdir()


def make_huge(entry: Path) -> None:
    os.truncate(entry, nvrtc.MAX_CUBIN_BYTES + 1)


@pytest.mark.parametrize(
    "spoil",
    [
        replace_by_link,
        pytest.param(replace_by_directory),
        make_huge,
        lambda entry: entry.write_bytes(b""),
        lambda entry: os.truncate(entry, private.SEAL_BYTES),
        lambda entry: os.truncate(entry, entry.stat().st_size - 1),
        lambda entry: entry.write_bytes(entry.read_bytes()[:-1] + b"?"),
        lambda entry: entry.write_bytes(CODE),
    ],
    ids=["a link", "a directory", "too large", "empty", "only a seal", "a cut", "another byte", "no seal"],
)
def test_an_entry_that_is_no_plain_file_of_ours_is_not_taken(
    tmp_path: Path, compiled: list[Any], spoil: Callable[[Path], object]
) -> None:
    cache = tmp_path / "cache"
    nvrtc.compile_module(MODULE, "sm_90", cache=cache)
    spoil(only_entry(cache))
    assert nvrtc.compile_module(MODULE, "sm_90", cache=cache) == CODE
    assert len(compiled) == 2


def test_an_entry_under_another_name_is_not_taken(tmp_path: Path, compiled: list[Any]) -> None:
    cache = tmp_path / "cache"
    nvrtc.compile_module(MODULE, "sm_90", cache=cache)
    entry = only_entry(cache)
    entry.rename(cache / f"{nvrtc._key(MODULE, 'sm_80')}.cubin")
    assert nvrtc.compile_module(MODULE, "sm_80", cache=cache) == CODE
    assert len(compiled) == 2


def test_an_entry_that_is_a_fifo_is_not_waited_for(tmp_path: Path, compiled: list[Any]) -> None:
    cache = tmp_path / "cache"
    nvrtc.compile_module(MODULE, "sm_90", cache=cache)
    entry = only_entry(cache)
    replace_by_fifo(entry)
    reader = threading.Thread(target=lambda: nvrtc.compile_module(MODULE, "sm_90", cache=cache))
    reader.start()
    reader.join(timeout=1)
    waits = reader.is_alive()
    if waits:
        os.close(os.open(entry, os.O_WRONLY))
        reader.join(timeout=30)
    assert not waits
    assert len(compiled) == 2


def test_an_entry_that_is_somebody_elses_is_not_taken(
    tmp_path: Path, compiled: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    cache = tmp_path / "cache"
    nvrtc.compile_module(MODULE, "sm_90", cache=cache)
    monkeypatch.setattr(nvrtc, "private_directory", lambda path: path)
    monkeypatch.setattr(os, "geteuid", lambda: tmp_path.stat().st_uid + 1)
    assert nvrtc.compile_module(MODULE, "sm_90", cache=cache) == CODE
    assert len(compiled) == 2


@pytest.mark.parametrize("content", [b"garbage", CODE[:3], b"\x7fELF" + bytes(100)], ids=["garbage", "cut", "header"])
def test_code_that_the_driver_does_not_load_is_an_error(
    tmp_path: Path, compiled: list[Any], monkeypatch: pytest.MonkeyPatch, content: bytes
) -> None:
    pytest.importorskip("cuda.core")
    loaded: list[bytes] = []

    class ObjectCode:
        @staticmethod
        def from_cubin(cubin: bytes, name: str) -> None:
            loaded.append(cubin)
            raise RuntimeError(f"CUDA_ERROR_INVALID_IMAGE in {name}")

    monkeypatch.setattr("cuda.core.ObjectCode", ObjectCode)
    monkeypatch.setenv(private.CACHE_VARIABLE, str(tmp_path / "cache"))
    nvrtc.compile_module(MODULE, "sm_90")
    plant(only_entry(tmp_path / "cache"), content)
    with pytest.raises(EngineError) as caught:
        nvrtc.load_module("sha256", "sm_90")
    assert str(caught.value) == "the driver does not load the kernels for sm_90: CUDA_ERROR_INVALID_IMAGE in sha256"
    assert loaded == [content]
    assert len(compiled) == 1


def test_the_cache_is_where_the_environment_says(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/someone")
    monkeypatch.setenv("XDG_CACHE_HOME", "/xdg")
    monkeypatch.setenv("SENTRY_CACHE_DIR", "/chosen")
    assert private.default_cache() == Path("/chosen")
    monkeypatch.setenv("SENTRY_CACHE_DIR", "")
    assert private.default_cache() == Path("/xdg/artifact-sentry")
    monkeypatch.setenv("XDG_CACHE_HOME", "")
    assert private.default_cache() == Path("/home/someone/.cache/artifact-sentry")
