# SPDX-License-Identifier: Apache-2.0
"""Attacks by whoever can write the model, or the directory of the copy, while the copy is made.

The attacker acts from the progress callback: between two blocks of the first file, which is the largest.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from snapshots import link_to_blob, write_snapshot
from support import SMALL_MODEL, KeyPair, forge, on_first_block, write_files

import sentry
from sentry import materializing, signatures
from sentry.errors import MismatchError, UnavailableError

LARGE = 3 * 1024 * 1024
MODEL = {**SMALL_MODEL, "big.bin": bytes(LARGE)}


@pytest.fixture
def model(make_model: Callable[..., Path]) -> Path:
    """Return a model with a file large enough to be read first and in several blocks."""
    return make_model(MODEL)


@pytest.fixture
def bundle(pair: KeyPair, model: Path) -> sentry.Bundle:
    """Return the signature of the model."""
    return sentry.sign_path(model, pair.signer)


@pytest.fixture
def dest(tmp_path: Path) -> Path:
    """Return where the copy goes, in a directory of its own."""
    (tmp_path / "copies").mkdir()
    return tmp_path / "copies" / "copy"


def overwrite(path: Path, data: bytes, *, at: int = 0) -> None:
    with path.open("r+b") as file:
        file.seek(at)
        file.write(data)


def put_back(path: Path) -> None:
    """Change a byte behind the reader, let it be copied, and restore bytes and modification time."""
    status = path.stat()
    overwrite(path, b"evil")
    overwrite(path, MODEL[path.name][:4])
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))


def replace(path: Path, data: bytes) -> None:
    os.replace(write_files(path.parents[1] / "x", {"y": data}) / "y", path)


def swap_directory(model: Path, kind: str) -> None:
    other = write_files(model.with_name("other"), {"vocab.txt": SMALL_MODEL["sub/vocab.txt"]})
    (model / "sub").rename(model.with_name("away"))
    if kind == "link":
        (model / "sub").symlink_to(other)
    else:
        other.rename(model / "sub")


def fifo_for_file(model: Path) -> None:
    (model / "config.json").unlink()
    os.mkfifo(model / "config.json")


def link_for_file(model: Path) -> None:
    (model / "config.json").rename(model.with_name("elsewhere"))
    (model / "config.json").symlink_to(model.with_name("elsewhere"))


WHILE_COPYING: dict[str, tuple[Callable[[Path], object], str]] = {
    "the file grows": (lambda m: os.truncate(m / "big.bin", LARGE + 1), "it changed while it was read"),
    "the file shrinks": (lambda m: os.truncate(m / "big.bin", LARGE // 2), "it became shorter while it was read"),
    "a byte behind the reader changes": (lambda m: overwrite(m / "big.bin", b"evil"), "it changed while it was read"),
    "a byte before the reader changes": (
        lambda m: overwrite(m / "big.bin", b"evil", at=LARGE - 4),
        "bytes differ|it changed while it was read",
    ),
    "the file changes and is put back": (lambda m: put_back(m / "big.bin"), "it changed while it was read"),
    "the file is unlinked": (lambda m: (m / "big.bin").unlink(), "it changed while it was read"),
    "the file is replaced by an equal one": (
        lambda m: replace(m / "big.bin", bytes(LARGE)),
        "it changed while it was read",
    ),
    "the file is renamed": (lambda m: (m / "big.bin").rename(m / "other.bin"), "it changed while it was read"),
    "a file still to be read is rewritten": (
        lambda m: overwrite(m / "config.json", b"E"),
        "it changed while it was read",
    ),
    "a file still to be read is swapped": (
        lambda m: replace(m / "config.json", SMALL_MODEL["config.json"]),
        "it changed while it was read",
    ),
    "a file still to be read grows": (
        lambda m: os.truncate(m / "config.json", 1 << 40),
        "it changed while it was read|sizes differ",
    ),
    "a file still to be read goes": (lambda m: (m / "config.json").unlink(), "it is gone"),
    "a file still to be read becomes a pipe": (fifo_for_file, "it is not a regular file any more"),
    "a file still to be read becomes a link": (link_for_file, "it is not a regular file any more"),
    "a directory still to be read is swapped": (lambda m: swap_directory(m, "directory"), "it changed while"),
    "a directory still to be read becomes a link": (lambda m: swap_directory(m, "link"), "it is gone"),
    "a file is added": (lambda m: write_files(m, {"sub/added": b""}), "changed while it was verified"),
}


@pytest.mark.timeout(30)
@pytest.mark.parametrize("what", WHILE_COPYING)
def test_a_model_that_changes_while_it_is_copied_leaves_no_copy(
    pair: KeyPair, model: Path, bundle: sentry.Bundle, dest: Path, what: str
) -> None:
    act, reason = WHILE_COPYING[what]
    with pytest.raises(MismatchError, match=reason):
        sentry.materialize(model, bundle, pair.trust, dest, progress=on_first_block(lambda: act(model)))
    assert os.listdir(dest.parent) == []


@pytest.mark.parametrize("change", ["rewritten", "swapped", "grown", "truncated"])
def test_a_single_file_that_changes_while_it_is_copied_leaves_no_copy(
    pair: KeyPair, model: Path, dest: Path, change: str
) -> None:
    path = model / "big.bin"
    bundle = sentry.sign_path(path, pair.signer)
    act = {
        "rewritten": lambda: overwrite(path, b"evil"),
        "swapped": lambda: replace(path, b"evil"),
        "grown": lambda: os.truncate(path, LARGE + 1),
        "truncated": lambda: os.truncate(path, 1),
    }[change]
    with pytest.raises(MismatchError, match="while it was read"):
        sentry.materialize(path, bundle, pair.trust, dest, progress=on_first_block(act))
    assert os.listdir(dest.parent) == []


def test_a_blob_that_is_swapped_while_it_is_copied_leaves_no_copy(pair: KeyPair, dest: Path, tmp_path: Path) -> None:
    snapshot = write_snapshot(tmp_path / "hub", SMALL_MODEL)
    blob = link_to_blob(snapshot, "big.bin", bytes(LARGE))
    bundle = sentry.sign_path(snapshot, pair.signer)
    swap = on_first_block(lambda: replace(blob, bytes(LARGE)))
    with pytest.raises(MismatchError, match="it changed while it was read"):
        sentry.materialize(snapshot, bundle, pair.trust, dest, progress=swap)
    assert os.listdir(dest.parent) == []


def test_the_copy_has_the_bytes_that_were_digested(
    pair: KeyPair, model: Path, bundle: sentry.Bundle, dest: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A reader that lies to whoever reads a second time: only what was written can be digested."""
    real = os.preadv
    seen: dict[tuple[int, int, int], int] = {}

    def preadv(descriptor: int, buffers: Any, offset: int) -> int:
        status = os.fstat(descriptor)
        key = (status.st_dev, status.st_ino, offset)
        done = real(descriptor, buffers, offset)
        seen[key] = seen.get(key, 0) + 1
        return done

    monkeypatch.setattr(os, "preadv", preadv)
    originals = {(status.st_dev, status.st_ino) for path in model.rglob("*") if (status := path.stat())}
    sentry.materialize(model, bundle, pair.trust, dest)
    assert {count for (device, inode, _), count in seen.items() if (device, inode) in originals} == {1}


@pytest.mark.timeout(60)
def test_an_endless_file_is_not_copied_beyond_its_signed_size(
    pair: KeyPair, model: Path, bundle: sentry.Bundle, dest: Path
) -> None:
    """A sparse file of a terabyte would fill the disk of whoever copies first and compares then."""
    os.truncate(model / "big.bin", 1 << 40)
    with pytest.raises(MismatchError, match=r"changed: big\.bin \(sizes differ\)"):
        sentry.materialize(model, bundle, pair.trust, dest)
    assert os.listdir(dest.parent) == []


@pytest.mark.timeout(60)
def test_a_file_that_never_stops_growing_is_copied_up_to_its_first_size(pair: KeyPair, model: Path, dest: Path) -> None:
    """The attacker appends as fast as the reader reads, under a signature that gives no sizes."""
    bundle = forge(pair, MODEL, lambda s: [entry.pop("annotations") for entry in s["predicate"]["resources"]])
    copied: list[int] = []

    def grow(nbytes: int) -> None:
        copied.append(nbytes)
        os.truncate(model / "big.bin", (model / "big.bin").stat().st_size + nbytes)

    with pytest.raises(MismatchError, match="it changed while it was read"):
        sentry.materialize(model, bundle, pair.trust, dest, progress=grow)
    assert sum(copied) <= sum(map(len, MODEL.values()))


@pytest.mark.parametrize("there", ["file", "link", "full directory"])
@pytest.mark.parametrize("single", [False, True])
def test_what_takes_the_copys_name_meanwhile_is_not_replaced(
    pair: KeyPair, model: Path, dest: Path, there: str, *, single: bool
) -> None:
    """The attacker waits for the check that nothing is there."""
    source = model / "big.bin" if single else model
    bundle = sentry.sign_path(source, pair.signer)

    def take() -> None:
        if there == "file":
            dest.write_bytes(b"mine")
        elif there == "link":
            dest.symlink_to(model.parent)
        else:
            write_files(dest, {"mine": b"mine"})

    with pytest.raises(UnavailableError, match="cannot write"):
        sentry.materialize(source, bundle, pair.trust, dest, progress=on_first_block(take))
    assert os.listdir(dest.parent) == ["copy"]
    assert dest.is_symlink() or b"mine" in {path.read_bytes() for path in (dest, dest / "mine") if path.is_file()}


def test_a_directory_that_is_moved_does_not_take_the_copy_elsewhere(
    pair: KeyPair, model: Path, bundle: sentry.Bundle, dest: Path
) -> None:
    """The attacker puts a link to a place of theirs where the copy's directory was."""
    theirs = write_files(dest.parents[1] / "theirs", {})

    def act() -> None:
        dest.parent.rename(dest.parents[1] / "moved")
        dest.parent.symlink_to(theirs)

    sentry.materialize(model, bundle, pair.trust, dest, progress=on_first_block(act))
    assert os.listdir(theirs) == []
    assert os.listdir(dest.parents[1] / "moved") == ["copy"]


@pytest.mark.parametrize("kind", ["directory", "link"])
def test_another_directory_in_the_copys_place_is_not_published(
    pair: KeyPair, model: Path, bundle: sentry.Bundle, dest: Path, kind: str
) -> None:
    """The attacker can write where the copy will be, though not into it."""

    def act() -> None:
        (unfinished,) = dest.parent.iterdir()
        unfinished.rename(dest.parents[1] / "away")
        theirs = write_files(dest.parents[1] / "theirs", {"config.json": b"evil"})
        theirs.rename(unfinished) if kind == "directory" else unfinished.symlink_to(theirs)

    with pytest.raises(UnavailableError, match="the copy was moved away while it was made"):
        sentry.materialize(model, bundle, pair.trust, dest, progress=on_first_block(act))
    assert not os.path.lexists(dest)


@pytest.mark.parametrize("name", ["../evil", "/evil", "a/../../evil", "a//b"])
def test_a_signed_name_does_not_lead_out_of_the_copy(pair: KeyPair, model: Path, dest: Path, name: str) -> None:
    bundle = forge(pair, {**MODEL, name: b"x"})
    with pytest.raises(sentry.SignatureError, match="not a plain relative path"):
        sentry.materialize(model, bundle, pair.trust, dest)
    assert os.listdir(dest.parent) == []


def test_a_signature_is_read_once(
    pair: KeyPair, model: Path, bundle: sentry.Bundle, dest: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The attacker exchanges the signature between the check and the copy; the copy gets the one that was checked."""
    bundle.write(model / "model.sig")
    real = signatures.read_signature

    def read_and_replace(signature: Any) -> sentry.Bundle:
        read = real(signature)
        (model / "model.sig").write_bytes(b"evil")
        return read

    monkeypatch.setattr(materializing, "read_signature", read_and_replace)
    sentry.materialize(model, model / "model.sig", pair.trust, dest)
    assert (dest / "model.sig").read_bytes() == bundle.encode()
