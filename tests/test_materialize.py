# SPDX-License-Identifier: Apache-2.0
"""Verified copies: what they hold, how they lie on the disk, and when there is none."""

from __future__ import annotations

import os
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from snapshots import write_snapshot
from support import SMALL_MODEL, KeyPair, forge, write_files

import sentry
from sentry.materializing import BLOCK_BYTES

FILES = {**SMALL_MODEL, "big.bin": os.urandom(2 * BLOCK_BYTES + 1), "empty": b"", "a/b/c/d": b"deep"}


@pytest.fixture
def signed(pair: KeyPair, make_model: Callable[..., Path]) -> Path:
    """Return a model with its signature inside."""
    model = make_model(FILES)
    sentry.sign_path(model, pair.signer).write(model / "model.sig")
    return model


@pytest.fixture
def dest(tmp_path: Path) -> Path:
    """Return where the copy goes, in a directory of its own."""
    (tmp_path / "copies").mkdir()
    return tmp_path / "copies" / "copy"


def contents(directory: Path) -> dict[str, bytes]:
    return {str(path.relative_to(directory)): path.read_bytes() for path in directory.rglob("*") if path.is_file()}


def test_the_copy_holds_the_signed_files_and_the_signature(pair: KeyPair, signed: Path, dest: Path) -> None:
    evidence = sentry.materialize(signed, signed / "model.sig", pair.trust, dest)
    assert contents(dest) == contents(signed)
    assert evidence.path == dest
    assert set(evidence.files) == set(FILES)
    assert evidence.nbytes == sum(map(len, FILES.values()))
    assert evidence.not_covered == ()


def test_the_copy_can_be_verified_and_copied_again(pair: KeyPair, signed: Path, dest: Path) -> None:
    first = sentry.materialize(signed, signed / "model.sig", pair.trust, dest)
    second = sentry.verify_path(dest, dest / "model.sig", pair.trust, hash="both")
    third = sentry.materialize(dest, dest / "model.sig", pair.trust, dest.with_name("again"))
    assert first.payload_sha256 == second.payload_sha256 == third.payload_sha256


def test_only_the_owner_can_enter_and_nothing_is_a_link(pair: KeyPair, signed: Path, dest: Path) -> None:
    (signed / "config.json").chmod(0o4777)
    os.link(signed / "config.json", signed.parent / "other name")
    dest.parent.chmod(0o2777)
    sentry.materialize(signed, signed / "model.sig", pair.trust, dest)
    for path in (dest, *dest.rglob("*")):
        status = path.lstat()
        expected = 0o700 if path.is_dir() else 0o600
        assert stat.S_IMODE(status.st_mode) == expected, path
        assert not path.is_symlink()
        assert path.is_dir() or status.st_nlink == 1


def test_nothing_but_the_copy_is_left_beside_it(pair: KeyPair, signed: Path, dest: Path) -> None:
    sentry.materialize(signed, signed / "model.sig", pair.trust, dest)
    assert os.listdir(dest.parent) == ["copy"]


def test_a_copy_of_a_snapshot_is_made_of_files(pair: KeyPair, signed: Path, dest: Path, tmp_path: Path) -> None:
    signature = {"model.sig": (signed / "model.sig").read_bytes()}
    snapshot = write_snapshot(tmp_path / "hub", {**FILES, **signature})
    sentry.materialize(snapshot, snapshot / "model.sig", pair.trust, dest)
    assert contents(dest) == {**FILES, **signature}
    assert not [path for path in dest.rglob("*") if path.is_symlink()]


@pytest.mark.parametrize("options", [{"hash": "sha256"}, {"shard_bytes": 1000}, {"hash": "blake2b"}])
def test_every_kind_of_signature_is_checked_on_the_copy(
    pair: KeyPair, make_model: Callable[..., Path], dest: Path, options: dict[str, Any]
) -> None:
    model = make_model({**SMALL_MODEL, "big.bin": FILES["big.bin"]})
    evidence = sentry.materialize(model, sentry.sign_path(model, pair.signer, **options), pair.trust, dest)
    assert contents(dest) == contents(model)
    assert evidence.hashes == (options.get("hash", "blake3"),)


def test_both_hashes_can_be_recomputed(pair: KeyPair, signed: Path, dest: Path) -> None:
    evidence = sentry.materialize(signed, signed / "model.sig", pair.trust, dest, hash="both")
    assert evidence.hashes == ("sha256", "blake3")
    assert evidence.unchecked_hashes == ()


def test_progress_counts_every_byte_once(pair: KeyPair, signed: Path, dest: Path) -> None:
    counts: list[int] = []
    evidence = sentry.materialize(signed, signed / "model.sig", pair.trust, dest, progress=counts.append)
    assert sum(counts) == evidence.nbytes
    assert max(counts) == BLOCK_BYTES


# ----------------------------------------------------------------------------------------------------- what is left out


def test_ignored_files_are_left_out_and_named(pair: KeyPair, signed: Path, dest: Path) -> None:
    write_files(signed, {".git/config": b"x", "notes.txt": b"x"})
    bundle = sentry.sign_path(signed, pair.signer, ignore=[signed / "notes.txt"])
    evidence = sentry.materialize(signed, bundle, pair.trust, dest)
    assert evidence.not_covered == (".git/", "model.sig", "notes.txt")
    assert set(contents(dest)) == set(FILES)


def test_a_signed_file_under_an_ignored_path_is_copied(pair: KeyPair, signed: Path, dest: Path) -> None:
    """Ignoring covers what is not listed; what is listed is part of the model wherever it lies."""
    bundle = forge(pair, FILES, ignore_paths=["a", "model.sig"])
    sentry.materialize(signed, bundle, pair.trust, dest)
    assert contents(dest) == FILES


@pytest.mark.parametrize("name", ["new.txt", "sub/new.txt", "a/b/c/e"])
def test_unsigned_files_are_refused_or_left_out(pair: KeyPair, signed: Path, dest: Path, name: str) -> None:
    write_files(signed, {name: b"x"})
    with pytest.raises(sentry.MismatchError, match=f"not signed: {name}"):
        sentry.materialize(signed, signed / "model.sig", pair.trust, dest)
    assert os.listdir(dest.parent) == []
    evidence = sentry.materialize(signed, signed / "model.sig", pair.trust, dest, ignore_unsigned=True)
    assert evidence.not_covered == (name,)
    assert contents(dest) == {**FILES, "model.sig": (signed / "model.sig").read_bytes()}


def test_unsigned_links_are_left_out_as_well(pair: KeyPair, signed: Path, dest: Path) -> None:
    (signed / "link").symlink_to("config.json")
    evidence = sentry.materialize(signed, signed / "model.sig", pair.trust, dest, ignore_unsigned=True)
    assert evidence.not_covered == ("link",)
    assert not os.path.lexists(dest / "link")


def test_a_signature_outside_the_model_stays_there(pair: KeyPair, signed: Path, dest: Path, tmp_path: Path) -> None:
    (signed / "model.sig").rename(tmp_path / "far.sig")
    sentry.materialize(signed, tmp_path / "far.sig", pair.trust, dest)
    assert contents(dest) == FILES


def test_signatures_inside_keep_their_places(pair: KeyPair, make_model: Callable[..., Path], dest: Path) -> None:
    model = make_model(FILES)
    places = [model / "sub" / "new" / "one.sig", model / "two.sig"]
    places[0].parent.mkdir()
    for place in places:
        sentry.sign_path(model, pair.signer, ignore=places).write(place)
    sentry.materialize(model, places, pair.trust, dest)
    copies = [dest / place.relative_to(model) for place in places]
    assert len(sentry.verify_path(dest, copies, pair.trust).signers) == 2


# --------------------------------------------------------------------------------------------------------- single files


def test_a_single_file_is_copied_to_a_file(pair: KeyPair, signed: Path, dest: Path) -> None:
    bundle = sentry.sign_path(signed / "big.bin", pair.signer)
    evidence = sentry.materialize(signed / "big.bin", bundle, pair.trust, dest)
    status = dest.lstat()
    assert dest.read_bytes() == FILES["big.bin"]
    assert (stat.S_IMODE(status.st_mode), status.st_nlink) == (0o600, 1)
    assert os.listdir(dest.parent) == ["copy"]
    assert evidence.files == (".",)
    sentry.verify_path(dest, bundle, pair.trust)


def test_the_signature_beside_a_single_file_stays_there(pair: KeyPair, signed: Path, dest: Path) -> None:
    sentry.sign_path(signed / "big.bin", pair.signer).write(signed / "big.bin.sig")
    sentry.materialize(signed / "big.bin", signed / "big.bin.sig", pair.trust, dest)
    assert os.listdir(dest.parent) == ["copy"]


# ------------------------------------------------------------------------------------------------------------- refusals


def refused(
    model: Path, bundle: Any, trust: Any, dest: Path, kind: type[Exception], match: str, **options: Any
) -> None:
    """Insist on an error, and on a destination's directory as it was."""
    before = sorted(dest.parent.rglob("*")) if dest.parent.is_dir() else None
    with pytest.raises(kind, match=match):
        sentry.materialize(model, bundle, trust, dest, **options)
    assert before == (sorted(dest.parent.rglob("*")) if dest.parent.is_dir() else None)


def test_another_key_is_refused(attacker: KeyPair, signed: Path, dest: Path) -> None:
    refused(signed, signed / "model.sig", attacker.trust, dest, sentry.SignatureError, "made with another key")


def test_no_trust_is_refused(signed: Path, dest: Path) -> None:
    refused(signed, signed / "model.sig", None, dest, sentry.TrustError, "no trust was given")


def test_trust_that_lies_in_the_model_is_refused(attacker: KeyPair, signed: Path, dest: Path) -> None:
    bundle = sentry.sign_path(signed, attacker.signer, ignore=[signed / "public.pem"])
    (signed / "public.pem").write_bytes(attacker.public.read_bytes())
    trust = sentry.KeyTrust.from_file(signed / "public.pem")
    refused(signed, bundle, trust, dest, sentry.TrustError, "lies inside the model")


@pytest.mark.parametrize("what", ["missing", "malformed", "none"])
def test_a_signature_that_is_none_is_refused(pair: KeyPair, signed: Path, dest: Path, what: str) -> None:
    (signed / "model.sig").write_bytes(b"{}")
    given = {"missing": signed / "other.sig", "malformed": signed / "model.sig", "none": []}[what]
    reason = {"missing": "there is no signature", "malformed": "is malformed", "none": "there is no signature"}[what]
    refused(signed, given, pair.trust, dest, sentry.SignatureError, reason)


@pytest.mark.parametrize("name", ["config.json", "a/b/c/d", "big.bin"])
def test_changed_bytes_are_refused(pair: KeyPair, signed: Path, dest: Path, name: str) -> None:
    data = FILES[name]
    (signed / name).write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
    refused(signed, signed / "model.sig", pair.trust, dest, sentry.MismatchError, "bytes differ")


def test_a_missing_file_is_refused(pair: KeyPair, signed: Path, dest: Path) -> None:
    (signed / "a/b/c/d").unlink()
    refused(signed, signed / "model.sig", pair.trust, dest, sentry.MismatchError, "missing: a/b/c/d")


def test_a_link_in_place_of_a_model_is_refused(pair: KeyPair, signed: Path, dest: Path) -> None:
    signed.with_name("link").symlink_to("model")
    refused(
        signed.with_name("link"), signed / "model.sig", pair.trust, dest, sentry.MismatchError, "is a symbolic link"
    )


@pytest.mark.parametrize("there", ["file", "directory", "link", "dangling link"])
def test_a_destination_that_exists_is_refused(pair: KeyPair, signed: Path, dest: Path, there: str) -> None:
    if there == "file":
        dest.write_bytes(b"mine")
    elif there == "directory":
        dest.mkdir()
    else:
        dest.symlink_to(signed if there == "link" else "nowhere")
    refused(signed, signed / "model.sig", pair.trust, dest, sentry.UnavailableError, "exists already")


@pytest.mark.parametrize("place", ["copy", "sub/copy", "../link/copy", "sub/../copy"])
def test_a_destination_inside_the_model_is_refused(pair: KeyPair, signed: Path, place: str) -> None:
    signed.with_name("link").symlink_to(signed / "sub")
    refused(
        signed, signed / "model.sig", pair.trust, signed / place, sentry.UnavailableError, "copy lies inside the model"
    )


def test_a_destination_among_the_blobs_is_refused(pair: KeyPair, tmp_path: Path) -> None:
    snapshot = write_snapshot(tmp_path, SMALL_MODEL)
    bundle = sentry.sign_path(snapshot, pair.signer)
    dest = snapshot.parents[1] / "blobs" / "copy"
    refused(snapshot, bundle, pair.trust, dest, sentry.UnavailableError, "lies inside the model")


def test_a_destination_without_a_directory_is_refused(pair: KeyPair, signed: Path, dest: Path) -> None:
    refused(
        signed, signed / "model.sig", pair.trust, dest / "x" / "y", sentry.UnavailableError, "No such file or directory"
    )


@pytest.mark.parametrize(
    ("options", "reason"),
    [({"hash": "md5"}, "there is no hash 'md5'"), ({"engine": "tpu"}, "there is no engine 'tpu'")],
)
def test_an_argument_without_a_meaning_is_refused(
    pair: KeyPair, signed: Path, dest: Path, options: dict[str, str], reason: str
) -> None:
    refused(signed, signed / "model.sig", pair.trust, dest, ValueError, reason, **options)


def test_a_hash_that_was_not_signed_is_refused(pair: KeyPair, signed: Path, dest: Path) -> None:
    bundle = sentry.sign_path(signed, pair.signer, hash="sha256")
    refused(signed, bundle, pair.trust, dest, sentry.SignatureError, "has no blake3 digests", hash="both")


def test_a_missing_model_is_refused(pair: KeyPair, signed: Path, dest: Path) -> None:
    refused(
        signed / "nothing", signed / "model.sig", pair.trust, dest, sentry.UnavailableError, "No such file or directory"
    )


def test_no_descriptor_stays_open(pair: KeyPair, signed: Path, dest: Path) -> None:
    before = len(os.listdir("/proc/self/fd"))
    sentry.materialize(signed, signed / "model.sig", pair.trust, dest)
    with pytest.raises(sentry.UnavailableError, match="exists already"):
        sentry.materialize(signed, signed / "model.sig", pair.trust, dest)
    assert len(os.listdir("/proc/self/fd")) == before
