# SPDX-License-Identifier: Apache-2.0
"""Attacks by whoever can write the model's directory while it is read.

The attacker acts from the progress callback: between two blocks of the first file, which is the largest.
"""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from support import SMALL_MODEL, KeyPair, forge, on_first_block, write_files

import sentry
from sentry.errors import MismatchError, RefusedError

LARGE = 3 * 1024 * 1024
MODEL = {**SMALL_MODEL, "big.bin": bytes(LARGE)}
Action = Callable[[Path], object]


@pytest.fixture
def model(make_model: Callable[..., Path]) -> Path:
    """Return a model with a file large enough to be read first and in several blocks."""
    return make_model(MODEL)


@pytest.fixture
def bundle(pair: KeyPair, model: Path) -> sentry.Bundle:
    """Return the signature of the model."""
    return sentry.sign_path(model, pair.signer)


def overwrite(path: Path, data: bytes) -> None:
    with path.open("r+b") as file:
        file.write(data)


def swap_for_link(model: Path) -> None:
    (model / "sub").rename(model.with_name("elsewhere"))
    (model / "sub").symlink_to(model.with_name("elsewhere"))


def put_back(path: Path) -> None:
    """Change a file and restore its bytes and its modification time, as `touch -r` would."""
    status = path.stat()
    overwrite(path, b"evil")
    overwrite(path, MODEL[path.name][:4])
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))


def fifo_for_file(model: Path) -> None:
    (model / "config.json").unlink()
    os.mkfifo(model / "config.json")


WHILE_READING: dict[str, tuple[Action, str]] = {
    "the file grows": (lambda m: os.truncate(m / "big.bin", LARGE + 1), "it changed while it was read"),
    "the file shrinks": (lambda m: os.truncate(m / "big.bin", LARGE // 2), "it became shorter while it was read"),
    "the file is emptied": (lambda m: os.truncate(m / "big.bin", 0), "it became shorter while it was read"),
    "a byte behind the reader changes": (lambda m: overwrite(m / "big.bin", b"evil"), "it changed while it was read"),
    "the file changes and is put back": (lambda m: put_back(m / "big.bin"), "it changed while it was read"),
    "the file is unlinked": (lambda m: (m / "big.bin").unlink(), "it changed while it was read"),
    "the file is replaced": (
        lambda m: os.replace(write_files(m.parent / "x", {"y": bytes(LARGE)}) / "y", m / "big.bin"),
        "it changed while it was read",
    ),
    "a file still to be read goes": (lambda m: (m / "config.json").unlink(), "it is gone"),
    "a file still to be read becomes a pipe": (fifo_for_file, "it is not a regular file any more"),
    "a directory still to be read becomes a link": (swap_for_link, "it is gone"),
    "a file is added": (lambda m: write_files(m, {"sub/added": b""}), "changed while it was"),
    "a link is added": (lambda m: (m / "added").symlink_to("sub"), "changed while it was"),
    "a file is replaced by a copy": (
        lambda m: os.replace(shutil.copy(m / "config.json", m.parent / "copy"), m / "config.json"),
        "changed while it was",
    ),
    "a file's mode changes": (lambda m: (m / "config.json").chmod(0o777), "changed while it was"),
}


@pytest.mark.timeout(30)
@pytest.mark.parametrize("what", WHILE_READING)
def test_a_model_that_changes_while_it_is_verified_is_refused(
    pair: KeyPair, model: Path, bundle: sentry.Bundle, what: str
) -> None:
    """The attacker acts between two blocks of the first file that is read."""
    act, reason = WHILE_READING[what]
    with pytest.raises(MismatchError, match=reason):
        sentry.verify_path(model, bundle, pair.trust, progress=on_first_block(lambda: act(model)))


@pytest.mark.timeout(30)
@pytest.mark.parametrize("what", WHILE_READING)
def test_a_model_that_changes_while_it_is_signed_is_refused(pair: KeyPair, model: Path, what: str) -> None:
    """The attacker acts while the signer reads, so that the digests belong to no one state of the model."""
    act, reason = WHILE_READING[what]
    with pytest.raises(RefusedError, match=reason):
        sentry.sign_path(model, pair.signer, progress=on_first_block(lambda: act(model)))


@pytest.mark.timeout(30)
def test_a_directory_that_is_moved_away_is_still_the_one_that_was_opened(
    pair: KeyPair, model: Path, bundle: sentry.Bundle
) -> None:
    """The attacker puts another directory under the model's path while the first is read."""

    def act() -> None:
        model.rename(model.with_name("moved"))
        write_files(model, {"config.json": b"evil"})

    evidence = sentry.verify_path(model, bundle, pair.trust, progress=on_first_block(act))
    assert evidence.nbytes == sum(map(len, MODEL.values()))


@pytest.mark.timeout(60)
def test_a_file_that_never_stops_growing_ends_at_its_first_size(pair: KeyPair, model: Path) -> None:
    """The attacker appends as fast as the reader reads, under a signature that gives no sizes."""
    bundle = forge(pair, MODEL, lambda s: [entry.pop("annotations") for entry in s["predicate"]["resources"]])

    def grow(nbytes: int) -> None:
        os.truncate(model / "big.bin", (model / "big.bin").stat().st_size + nbytes)

    started = time.monotonic()
    with pytest.raises(MismatchError, match="it changed while it was read"):
        sentry.verify_path(model, bundle, pair.trust, progress=grow)
    assert time.monotonic() - started < 20
