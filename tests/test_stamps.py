# SPDX-License-Identifier: Apache-2.0
"""Notes about files decide which files an update leaves unread: none but our own counts, and none that may be stale."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from support import SMALL_MODEL, KeyPair, write_files

import sentry
from sentry import private, stamps
from sentry.errors import UnavailableError
from sentry.formats import strict_json

DATA = SMALL_MODEL["config.json"]
EVIL = b"X" * len(DATA)


@pytest.fixture(autouse=True)
def notes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Keep the notes of a test to itself, and return where they lie."""
    monkeypatch.setenv(private.CACHE_VARIABLE, str(tmp_path / "notes"))
    # What was written just now counts as old, as it would some seconds later.
    monkeypatch.setattr(stamps, "RACY_NS", -5_000_000_000)
    return tmp_path / "notes"


@pytest.fixture
def old(model: Path, pair: KeyPair) -> sentry.Bundle:
    """Return a signature whose files were noted."""
    return update(model, sentry.sign_path(model, pair.signer), pair).bundle


def update(model: Path, older: sentry.Bundle, pair: KeyPair, *, trust_times: bool = True) -> sentry.Update:
    return sentry.update_path(model, older, pair.signer, pair.trust, insecure_trust_times=trust_times)


def only_note(notes: Path) -> Path:
    (note,) = notes.iterdir()
    return note


def plant(note: Path, content: object) -> None:
    """Write a note as whoever acts as the user would."""
    data = strict_json.dumps(content)
    note.write_bytes(private.seal(note, data) + data)


def test_what_was_noted_is_not_read_again(model: Path, old: sentry.Bundle, pair: KeyPair, notes: Path) -> None:
    write_files(model, {"config.json": EVIL})
    result = update(model, old, pair)
    assert (result.changed, result.reused) == (("config.json",), ("sub/vocab.txt", "w.safetensors"))
    assert result.hashed_bytes == len(EVIL)
    assert update(model, result.bundle, pair).hashed_bytes == 0
    assert len(list(notes.iterdir())) == 1
    assert only_note(notes).stat().st_mode & 0o777 == 0o600


def test_nothing_is_noted_or_taken_over_unless_it_was_asked_for(
    model: Path, pair: KeyPair, notes: Path, old: sentry.Bundle
) -> None:
    assert update(model, old, pair, trust_times=False).reused == ()
    before = only_note(notes).read_bytes()
    first = update(model, old, pair, trust_times=False)
    assert only_note(notes).read_bytes() == before
    assert update(model, first.bundle, pair).reused == ()


# ------------------------------------------------------------------------------------------------ files that changed


def rewrite_with_times_restored(path: Path) -> None:
    status = path.stat()
    time.sleep(0.02)  # file systems stamp in steps of some milliseconds
    path.write_bytes(EVIL)
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))


def replace_with_times_restored(path: Path) -> None:
    status = path.stat()
    (path.parent / "aside").write_bytes(EVIL)
    os.utime(path.parent / "aside", ns=(status.st_atime_ns, status.st_mtime_ns))
    (path.parent / "aside").rename(path)


def rewrite_by_another_name(path: Path) -> None:
    time.sleep(0.02)
    os.link(path, path.parent.parent / "other-name")
    (path.parent.parent / "other-name").write_bytes(EVIL)


def grow(path: Path) -> None:
    time.sleep(0.02)
    path.write_bytes(EVIL + b"X")


@pytest.mark.parametrize(
    "change", [rewrite_with_times_restored, replace_with_times_restored, rewrite_by_another_name, grow]
)
def test_a_file_that_was_touched_is_read(
    model: Path, old: sentry.Bundle, pair: KeyPair, change: Callable[[Path], None]
) -> None:
    change(model / "config.json")
    result = update(model, old, pair)
    assert result.changed == ("config.json",)
    assert sentry.verify_path(model, result.bundle, pair.trust).files == tuple(sorted(SMALL_MODEL))


def test_a_file_that_was_written_shortly_before_is_not_noted(
    model: Path, pair: KeyPair, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stamps, "RACY_NS", 2_000_000_000)
    first = update(model, sentry.sign_path(model, pair.signer), pair)
    assert update(model, first.bundle, pair).reused == ()
    time.sleep(2.1)
    write_files(model, {"config.json": EVIL})
    second = update(model, first.bundle, pair)
    assert update(model, second.bundle, pair).reused == ("sub/vocab.txt", "w.safetensors")


def test_a_file_from_the_future_is_not_noted(model: Path, pair: KeyPair, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stamps, "RACY_NS", 0)
    monkeypatch.setattr(time, "time_ns", lambda: 10**18)
    first = update(model, sentry.sign_path(model, pair.signer), pair)
    assert update(model, first.bundle, pair).reused == ()


def test_swapped_files_are_read(model: Path, old: sentry.Bundle, pair: KeyPair) -> None:
    (model / "config.json").rename(model / "aside")
    (model / "sub" / "vocab.txt").rename(model / "config.json")
    (model / "aside").rename(model / "sub" / "vocab.txt")
    result = update(model, old, pair)
    assert result.changed == ("config.json", "sub/vocab.txt")
    sentry.verify_path(model, result.bundle, pair.trust)


def test_a_copy_of_the_model_elsewhere_is_read(model: Path, old: sentry.Bundle, pair: KeyPair) -> None:
    model.rename(model.with_name("moved"))
    assert update(model.with_name("moved"), old, pair).reused == ()


@pytest.mark.usefixtures("old")
def test_another_signature_of_the_same_model_has_notes_of_its_own(model: Path, pair: KeyPair) -> None:
    assert update(model, sentry.sign_path(model, pair.signer), pair).reused == ()


def test_the_model_by_way_of_a_linked_directory_is_the_same(model: Path, old: sentry.Bundle, pair: KeyPair) -> None:
    (model.parent / "link").symlink_to(model.parent)
    assert len(update(model.parent / "link" / "model", old, pair).reused) == 3


# ------------------------------------------------------------------------------------------- notes that are not ours


def by_a_link(note: Path) -> None:
    note.rename(note.parent.parent / "elsewhere")
    note.symlink_to(note.parent.parent / "elsewhere")


def by_a_fifo(note: Path) -> None:
    note.unlink()
    os.mkfifo(note)


def by_a_directory(note: Path) -> None:
    note.unlink()
    note.mkdir()


SPOILED: dict[str, Callable[[Path], object]] = {
    "a link": by_a_link,
    "a FIFO": by_a_fifo,
    "a directory": by_a_directory,
    "writable for the group": lambda note: note.chmod(0o620),
    "writable for all": lambda note: note.chmod(0o602),
    "empty": lambda note: note.write_bytes(b""),
    "only a seal": lambda note: os.truncate(note, private.SEAL_BYTES),
    "cut": lambda note: os.truncate(note, note.stat().st_size - 1),
    "another byte": lambda note: note.write_bytes(note.read_bytes()[:-1] + b"]"),
    "no seal": lambda note: note.write_bytes(note.read_bytes()[private.SEAL_BYTES :]),
    "too large": lambda note: os.truncate(note, stamps.MAX_STAMPS_BYTES + 1),
    "no JSON": lambda note: note.write_bytes(private.seal(note, b"x") + b"x"),
    "another format": lambda note: plant(note, {"format": "v2", "files": {}}),
    "no files": lambda note: plant(note, {"format": stamps.FORMAT}),
    "a list of files": lambda note: plant(note, {"format": stamps.FORMAT, "files": []}),
    "a short stamp": lambda note: plant(note, {"format": stamps.FORMAT, "files": {"config.json": "00"}}),
    "an unknown field": lambda note: plant(note, {"format": stamps.FORMAT, "files": {}, "x": ""}),
}


@pytest.mark.parametrize("case", SPOILED)
def test_a_note_that_is_not_wholly_ours_is_no_note(
    model: Path, old: sentry.Bundle, pair: KeyPair, notes: Path, case: str
) -> None:
    SPOILED[case](only_note(notes))
    result = update(model, old, pair)
    assert result.reused == ()
    sentry.verify_path(model, result.bundle, pair.trust)


def test_a_note_of_another_payload_under_this_ones_name_is_no_note(
    model: Path, old: sentry.Bundle, pair: KeyPair, notes: Path
) -> None:
    data = only_note(notes).read_bytes()
    other = update(model, sentry.sign_path(model, pair.signer, version="2"), pair)
    for note in notes.iterdir():
        note.write_bytes(data)
    # Under its own name the note still counts; under the other payload's it does not.
    assert update(model, other.bundle, pair).reused == ()
    assert len(update(model, old, pair).reused) == 3


def test_a_note_of_somebody_else_is_no_note(
    model: Path, old: sentry.Bundle, pair: KeyPair, notes: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stamps, "private_directory", lambda path, **_: path)
    monkeypatch.setattr(os, "geteuid", lambda: notes.stat().st_uid + 1)
    assert update(model, old, pair).reused == ()


@pytest.mark.parametrize("mode", [0o777, 0o770, 0o701, 0o740, 0o1777])
def test_a_directory_of_notes_that_others_can_enter_is_refused(
    model: Path, old: sentry.Bundle, pair: KeyPair, notes: Path, mode: int
) -> None:
    notes.chmod(mode)
    with pytest.raises(UnavailableError, match=r"the directory of stamps .* is not a private directory") as caught:
        update(model, old, pair)
    assert caught.value.hint is not None
    # Nobody who does not ask for the notes depends on them.
    assert update(model, old, pair, trust_times=False).reused == ()


def test_a_directory_of_notes_that_is_a_link_or_somebody_elses_is_refused(
    model: Path, old: sentry.Bundle, pair: KeyPair, notes: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(os, "geteuid", lambda: model.stat().st_uid + 1)
        with pytest.raises(UnavailableError, match="is not a private directory"):
            update(model, old, pair)
    notes.rename(notes.with_name("target"))
    notes.symlink_to(notes.with_name("target"))
    with pytest.raises(UnavailableError, match="is not a private directory"):
        update(model, old, pair)


@pytest.mark.parametrize("where", [".git/notes", "notes"])
def test_notes_that_came_with_the_model_are_refused(
    model: Path, old: sentry.Bundle, pair: KeyPair, monkeypatch: pytest.MonkeyPatch, where: str
) -> None:
    (model / ".git").mkdir()
    (model / where).mkdir(mode=0o700)
    monkeypatch.setenv(private.CACHE_VARIABLE, str(model / where))
    with pytest.raises(UnavailableError, match="the directory of stamps lies inside the model"):
        update(model, old, pair)


@pytest.mark.parametrize("where", ["/proc/nothing", "file/notes"])
def test_where_nothing_can_be_noted_every_file_is_read(
    model: Path, pair: KeyPair, monkeypatch: pytest.MonkeyPatch, where: str
) -> None:
    (model.parent / "file").touch()
    monkeypatch.setenv(private.CACHE_VARIABLE, str(model.parent / where))
    first = update(model, sentry.sign_path(model, pair.signer), pair)
    assert update(model, first.bundle, pair).reused == ()


def test_a_full_disk_makes_the_next_update_slower_and_nothing_else(
    model: Path, old: sentry.Bundle, pair: KeyPair, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_room(*_arguments: Any, **_options: Any) -> None:
        raise UnavailableError("no space left")

    monkeypatch.setattr(stamps, "write_atomic", no_room)
    result = update(model, old, pair)
    assert len(result.reused) == 3
    assert update(model, result.bundle, pair).reused == ()
