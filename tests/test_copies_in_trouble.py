# SPDX-License-Identifier: Apache-2.0
"""Copies on a system in trouble: whatever fails, nothing is left, and memory stays bounded."""

from __future__ import annotations

import errno
import os
import resource
from collections.abc import Callable
from pathlib import Path

import pytest
from support import SMALL_MODEL, KeyPair

import sentry
from sentry.errors import UnavailableError

MODEL = {**SMALL_MODEL, "big.bin": bytes(3 * 1024 * 1024)}


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


def test_a_progress_callback_that_raises_leaves_no_copy(
    pair: KeyPair, model: Path, bundle: sentry.Bundle, dest: Path
) -> None:
    def interrupt(_nbytes: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        sentry.materialize(model, bundle, pair.trust, dest, progress=interrupt)
    assert os.listdir(dest.parent) == []


@pytest.mark.parametrize("call", ["write", "fsync", "mkdir", "rename"])
def test_a_system_that_fails_leaves_no_copy_and_blames_the_copy(
    pair: KeyPair, model: Path, bundle: sentry.Bundle, dest: Path, monkeypatch: pytest.MonkeyPatch, call: str
) -> None:
    def full(*_arguments: object, **_options: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, call, full)
    with pytest.raises(UnavailableError, match=r"cannot write .*copy: No space left on device"):
        sentry.materialize(model, bundle, pair.trust, dest)
    assert os.listdir(dest.parent) == []


def test_memory_does_not_grow_with_the_file(pair: KeyPair, make_model: Callable[..., Path], dest: Path) -> None:
    nbytes = 200 * 1024 * 1024
    model = make_model({"small": b"x"})
    (model / "huge").touch()
    os.truncate(model / "huge", nbytes)
    bundle = sentry.sign_path(model, pair.signer, hash="blake3")
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    sentry.materialize(model, bundle, pair.trust, dest)
    assert (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * 1024 < nbytes // 2
