# SPDX-License-Identifier: Apache-2.0
"""A copy of some of a model's files: the rest is compared by name and size only, and the evidence says so."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from support import SMALL_MODEL, KeyPair

import sentry

WEIGHTS = "w.safetensors"


@pytest.fixture
def signed(model: Path, pair: KeyPair) -> Path:
    """Return a small signed model; two of its three files are wanted below."""
    sentry.sign_path(model, pair.signer).write(model / "model.sig")
    return model


def copy(signed: Path, pair: KeyPair, dest: Path) -> sentry.Verification:
    return sentry.materialize(signed, signed / "model.sig", pair.trust, dest, only=lambda path: path != WEIGHTS)


def test_only_wanted_files_are_copied_and_vouched_for(signed: Path, pair: KeyPair, tmp_path: Path) -> None:
    evidence = copy(signed, pair, tmp_path / "copy")
    copied = {path.relative_to(tmp_path / "copy").as_posix() for path in (tmp_path / "copy").rglob("*")}
    assert copied == {"config.json", "sub", "sub/vocab.txt", "model.sig"}
    assert (set(evidence.files), evidence.not_read) == (set(SMALL_MODEL) - {WEIGHTS}, (WEIGHTS,))
    assert evidence.nbytes == sum(len(data) for name, data in SMALL_MODEL.items() if name != WEIGHTS)
    assert json.loads(json.dumps(evidence.to_json()))["not_read"] == [WEIGHTS]
    assert evidence.digest("config.json")
    with pytest.raises(KeyError):
        evidence.digest(WEIGHTS)


def test_every_file_is_asked_about_once(signed: Path, pair: KeyPair, tmp_path: Path) -> None:
    asked: list[str] = []

    def first_time(path: str) -> bool:
        asked.append(path)
        return asked.count(path) == 1

    evidence = sentry.materialize(signed, signed / "model.sig", pair.trust, tmp_path / "copy", only=first_time)
    assert sorted(asked) == sorted(SMALL_MODEL)
    assert (set(evidence.files), evidence.not_read) == (set(SMALL_MODEL), ())


def test_the_rest_is_not_read(signed: Path, pair: KeyPair, tmp_path: Path) -> None:
    content = bytearray((signed / WEIGHTS).read_bytes())
    content[-1] ^= 1
    (signed / WEIGHTS).write_bytes(content)
    assert WEIGHTS in copy(signed, pair, tmp_path / "copy").not_read


def test_a_partial_copy_does_not_verify_as_the_model(signed: Path, pair: KeyPair, tmp_path: Path) -> None:
    copy(signed, pair, tmp_path / "copy")
    with pytest.raises(sentry.MismatchError) as caught:
        sentry.verify_path(tmp_path / "copy", tmp_path / "copy" / "model.sig", pair.trust)
    assert caught.value.missing == (WEIGHTS,)


@pytest.mark.parametrize(
    ("damage", "reason"),
    [
        (lambda model: (model / "config.json").write_bytes(b'{"layers": 3}'), r"changed: config\.json"),
        (lambda model: (model / WEIGHTS).unlink(), r"missing: w\.safetensors"),
        (lambda model: (model / WEIGHTS).write_bytes(b"short"), r"changed: w\.safetensors \(sizes differ\)"),
        (lambda model: (model / "more.safetensors").write_bytes(b""), r"not signed: more\.safetensors"),
    ],
)
def test_what_can_be_seen_without_reading_is_refused(
    signed: Path, pair: KeyPair, tmp_path: Path, damage: Callable[[Path], object], reason: str
) -> None:
    damage(signed)
    with pytest.raises(sentry.MismatchError, match=reason):
        copy(signed, pair, tmp_path / "copy")
    assert not (tmp_path / "copy").exists()
