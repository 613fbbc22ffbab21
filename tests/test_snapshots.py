# SPDX-License-Identifier: Apache-2.0
"""Hugging Face snapshots: a link that names a blob of the same repository is that blob, every other link is refused."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest
from snapshots import REVISION, link_to_blob, move_to_store, write_snapshot
from support import SMALL_MODEL, KeyPair, on_first_block, write_files

import sentry
from sentry.tree import NotAFileError, Tree, stamp_of

LARGE = 2 * 1024 * 1024
FILES = {**SMALL_MODEL, "a/b/c/deep.bin": b"deep"}


@pytest.fixture
def snapshot(tmp_path: Path) -> Path:
    """Return a snapshot in a cache."""
    return write_snapshot(tmp_path / "hub", FILES)


@pytest.fixture
def bundle(pair: KeyPair, make_model: Callable[..., Path]) -> sentry.Bundle:
    """Return a signature of the same files, made where they are files."""
    return sentry.sign_path(make_model(FILES), pair.signer)


def blobs(snapshot: Path) -> Path:
    return snapshot.parents[1] / "blobs"


def test_a_snapshot_verifies_under_the_signature_of_the_files(
    pair: KeyPair, snapshot: Path, bundle: sentry.Bundle
) -> None:
    assert set(sentry.verify_path(snapshot, bundle, pair.trust).files) == set(FILES)


def test_a_snapshot_is_signed_as_the_files_that_it_stands_for(
    pair: KeyPair, snapshot: Path, make_model: Callable[..., Path]
) -> None:
    bundle = sentry.sign_path(snapshot, pair.signer)
    assert sentry.verify_path(make_model(FILES), bundle, pair.trust).manifest.subject == REVISION


def test_a_signature_that_was_published_with_the_snapshot_is_found_in_it(
    pair: KeyPair, snapshot: Path, bundle: sentry.Bundle
) -> None:
    link_to_blob(snapshot, "model.sig", bundle.encode())
    assert sentry.verify_path(snapshot, snapshot / "model.sig", pair.trust).not_covered == ()


def test_regular_files_may_lie_among_the_links(pair: KeyPair, snapshot: Path, bundle: sentry.Bundle) -> None:
    """Where links cannot be made, the hub's library copies."""
    (snapshot / "config.json").unlink()
    (snapshot / "config.json").write_bytes(FILES["config.json"])
    sentry.verify_path(snapshot, bundle, pair.trust)


def test_a_snapshot_is_found_by_way_of_links_above_it(
    pair: KeyPair, snapshot: Path, bundle: sentry.Bundle, tmp_path: Path
) -> None:
    (tmp_path / "elsewhere").symlink_to(snapshot.parent)
    sentry.verify_path(tmp_path / "elsewhere" / REVISION, bundle, pair.trust)


def test_the_snapshot_itself_must_be_a_directory(pair: KeyPair, snapshot: Path, bundle: sentry.Bundle) -> None:
    (snapshot.parent / "main").symlink_to(REVISION)
    with pytest.raises(sentry.MismatchError, match="is a symbolic link, not a model"):
        sentry.verify_path(snapshot.parent / "main", bundle, pair.trust)


def test_the_listing_and_the_opened_file_agree_on_the_blob(snapshot: Path) -> None:
    with Tree(snapshot) as tree:
        listed = tree.list().files["a/b/c/deep.bin"]
        with tree.directory("a/b/c") as directory, tree.file("a/b/c/deep.bin", directory) as (descriptor, entry):
            assert entry == listed
            assert stamp_of(descriptor) == listed.stamp
            assert os.pread(descriptor, 10, 0) == b"deep"


def relink(text: str, path: str = "config.json") -> Callable[[Path], None]:
    """Return an attack that points one link of the snapshot elsewhere."""

    def act(snapshot: Path) -> None:
        (snapshot / path).unlink()
        (snapshot / path).symlink_to(text.format(blob=f"blobs/{_blob(snapshot)}", absolute=blobs(snapshot)))

    return act


def _blob(snapshot: Path) -> str:
    data = FILES["config.json"]
    return next(path.name for path in blobs(snapshot).iterdir() if path.is_file() and path.read_bytes() == data)


def blob_becomes_a_link(snapshot: Path) -> None:
    blob = blobs(snapshot) / _blob(snapshot)
    blob.rename(blobs(snapshot).parent / "far")
    blob.symlink_to("../far")


def blob_becomes_a_link_to_a_blob(snapshot: Path) -> None:
    blob = blobs(snapshot) / _blob(snapshot)
    blob.rename(blobs(snapshot) / "other")
    blob.symlink_to("other")


def blob_becomes_a_directory(snapshot: Path) -> None:
    (blobs(snapshot) / _blob(snapshot)).unlink()
    (blobs(snapshot) / os.readlink(snapshot / "config.json").rpartition("/")[2]).mkdir()


def blob_becomes_a_fifo(snapshot: Path) -> None:
    name = _blob(snapshot)
    (blobs(snapshot) / name).unlink()
    os.mkfifo(blobs(snapshot) / name)


def blob_goes(snapshot: Path) -> None:
    (blobs(snapshot) / _blob(snapshot)).unlink()


def directory_becomes_a_link(snapshot: Path) -> None:
    (snapshot / "sub").rename(blobs(snapshot) / "sub")
    (snapshot / "sub").symlink_to("../../blobs/sub")


def retarget(snapshot: Path, text: str) -> None:
    (snapshot / "config.json").unlink()
    (snapshot / "config.json").symlink_to(text)


def move(place: Path, name: str, *, leave_link: bool = False) -> None:
    """Give a directory another name, and perhaps leave a link behind."""
    place.rename(place.with_name(name))
    if leave_link:
        place.symlink_to(name)


REFUSED: dict[str, Callable[[Path], None]] = {
    "an absolute link": relink("{absolute}/x"),
    "a link that goes up once too often": relink("../../../models--org--name/{blob}"),
    "a link that goes up too little": relink("../{blob}"),
    "a link that goes up deeper than it lies": relink("../../../{blob}"),
    "a deep link that goes up like a shallow one": relink("../../{blob}", "a/b/c/deep.bin"),
    "a link with a dot on the way": relink(".././../{blob}"),
    "a link with a doubled slash": relink("../..//{blob}"),
    "a link with a slash at its end": relink("../../{blob}/"),
    "a link below the blobs": relink("../../blobs/sub/x"),
    "a link that leaves the blobs again": relink("../../blobs/../{blob}"),
    "a link to the blobs": relink("../../blobs"),
    "a link to the blobs by their parent": relink("../../blobs/.."),
    "a link to nothing in the blobs": relink("../../blobs/"),
    "a link to itself in the blobs": relink("../../blobs/."),
    "a link within the snapshot": relink("w.safetensors"),
    "a link to a file of the system": relink("/etc/hostname"),
    "a blob that is a link out of the blobs": blob_becomes_a_link,
    "a blob that is a link to a blob": blob_becomes_a_link_to_a_blob,
    "a blob that is a directory": blob_becomes_a_directory,
    "a blob that is a FIFO": blob_becomes_a_fifo,
    "a blob that is not there": blob_goes,
    "a directory that is a link": directory_becomes_a_link,
}


@pytest.mark.timeout(30)
@pytest.mark.parametrize("what", REFUSED)
def test_every_other_link_is_refused(pair: KeyPair, snapshot: Path, bundle: sentry.Bundle, what: str) -> None:
    REFUSED[what](snapshot)
    with pytest.raises(sentry.MismatchError, match=r"\(a symbolic link\)"):
        sentry.verify_path(snapshot, bundle, pair.trust)
    with pytest.raises(sentry.RefusedError, match="is a symbolic link, which cannot be signed"):
        sentry.sign_path(snapshot, pair.signer)


@pytest.mark.timeout(30)
@pytest.mark.parametrize("what", REFUSED)
def test_what_is_not_listed_is_not_opened_either(snapshot: Path, what: str) -> None:
    """A file under an ignored path is in no listing; only opening decides."""
    path = "a/b/c/deep.bin" if what.startswith("a deep") else "sub/vocab.txt" if "directory that" in what else ""
    path = path or "config.json"
    REFUSED[what](snapshot)
    with (
        Tree(snapshot) as tree,
        pytest.raises((NotAFileError, FileNotFoundError)),
        tree.directory(path.rpartition("/")[0]) as directory,
        tree.file(path, directory),
    ):
        pass


@pytest.mark.parametrize(
    "arrange",
    [
        lambda s: move(s.parent, "revisions"),
        lambda s: move(blobs(s), "objects"),
        lambda s: move(blobs(s), "objects", leave_link=True),
        lambda s: move(s.parent, "far", leave_link=True),
    ],
    ids=["snapshots elsewhere", "no blobs", "blobs a link", "snapshots a link"],
)
def test_links_are_refused_where_there_is_no_cache(
    pair: KeyPair, snapshot: Path, bundle: sentry.Bundle, arrange: Callable[[Path], object]
) -> None:
    arrange(snapshot)
    place = snapshot if snapshot.exists() else snapshot.parents[1] / "revisions" / REVISION
    with pytest.raises(sentry.MismatchError, match=r"not signed: .*\(a symbolic link\)"):
        sentry.verify_path(place, bundle, pair.trust)


def test_a_directory_below_a_snapshot_is_none(pair: KeyPair, snapshot: Path) -> None:
    with pytest.raises(sentry.RefusedError, match="is a symbolic link"):
        sentry.sign_path(snapshot / "sub", pair.signer)


@pytest.mark.parametrize("place", ["blobs", "snapshot"])
def test_a_key_that_came_with_the_snapshot_is_refused(
    pair: KeyPair, attacker: KeyPair, snapshot: Path, place: str
) -> None:
    blob = link_to_blob(snapshot, "public.pem", attacker.public.read_bytes())
    bundle = sentry.sign_path(snapshot, attacker.signer)
    trust = sentry.KeyTrust.from_file(blob if place == "blobs" else snapshot / "public.pem")
    with pytest.raises(sentry.TrustError, match="lies inside the model"):
        sentry.verify_path(snapshot, bundle, trust)
    with pytest.raises(sentry.SignatureError, match="made with another key"):
        sentry.verify_path(snapshot, bundle, pair.trust)


def test_a_private_key_among_the_blobs_does_not_sign(pair: KeyPair, snapshot: Path) -> None:
    key = blobs(snapshot) / "key.pem"
    key.touch(mode=0o600)
    key.write_bytes(pair.private.read_bytes())
    with pytest.raises(sentry.RefusedError, match="the private key lies inside the model"):
        sentry.sign_path(snapshot, sentry.KeySigner.from_file(key))


WHILE_READING: dict[str, tuple[Callable[[Path, Path], object], str]] = {
    "the blob is rewritten": (lambda _, blob: blob.write_bytes(b"evil" * (LARGE // 4)), "it changed while it was read"),
    "the blob is replaced": (
        lambda s, blob: os.replace(write_files(s.parents[2], {"new": bytes(LARGE)}) / "new", blob),
        "it changed while it was read",
    ),
    "the link is pointed at an equal blob": (
        lambda s, _: retarget(s, "../../blobs/copy"),
        "it changed while it was read",
    ),
    "the link goes astray": (
        lambda s, _: retarget(s, "/etc/hostname"),
        "it is not a regular file any more",
    ),
}


@pytest.mark.parametrize("what", WHILE_READING)
def test_a_snapshot_that_changes_while_it_is_verified_is_refused(pair: KeyPair, snapshot: Path, what: str) -> None:
    act, reason = WHILE_READING[what]
    blob = link_to_blob(snapshot, "big.bin", bytes(LARGE))
    bundle = sentry.sign_path(snapshot, pair.signer)
    (blobs(snapshot) / "copy").write_bytes(FILES["config.json"])
    with pytest.raises(sentry.MismatchError, match=reason):
        sentry.verify_path(snapshot, bundle, pair.trust, progress=on_first_block(lambda: act(snapshot, blob)))


def test_no_descriptor_stays_open(pair: KeyPair, snapshot: Path, bundle: sentry.Bundle) -> None:
    before = len(os.listdir("/proc/self/fd"))
    for _ in range(3):
        sentry.verify_path(snapshot, bundle, pair.trust)
    assert len(os.listdir("/proc/self/fd")) == before


# ------------------------------------------------------------------------------------ the store of all repositories


@pytest.fixture
def held(snapshot: Path) -> Path:
    """Return where a file of the snapshot lies in the store."""
    return move_to_store((snapshot / "config.json").resolve())


def test_files_in_the_store_that_repositories_share_are_the_snapshots(
    pair: KeyPair, snapshot: Path, bundle: sentry.Bundle, held: Path, tmp_path: Path
) -> None:
    assert held.is_file()
    assert set(sentry.verify_path(snapshot, bundle, pair.trust).files) == set(FILES)
    sentry.materialize(snapshot, bundle, pair.trust, tmp_path / "copy")
    assert (tmp_path / "copy" / "config.json").read_bytes() == FILES["config.json"]
    held.write_bytes(b"X" * held.stat().st_size)
    with pytest.raises(sentry.MismatchError, match=r"changed: config.json \(bytes differ\)"):
        sentry.verify_path(snapshot, bundle, pair.trust)


def test_a_key_in_the_store_vouches_for_nothing(
    pair: KeyPair, snapshot: Path, bundle: sentry.Bundle, held: Path
) -> None:
    key = held.with_name("public.pem")
    key.write_bytes(pair.public.read_bytes())
    with pytest.raises(sentry.TrustError, match="lies inside the model"):
        sentry.verify_path(snapshot, bundle, sentry.KeyTrust.from_file(key))


@pytest.mark.parametrize(
    "text",
    [
        "../../blobs/{held.name}",
        "../../blobs/00/{held.name}",
        "../../blobs/{held.parent.name}/{held.name}/",
        "../../blobs/{held.parent.name}/../{held.parent.name}/{held.name}",
        "../blobs/{held.parent.name}/{held.name}",
        "../../../hub/blobs/{held.parent.name}/{held.name}",
        "{held}",
    ],
)
def test_other_links_among_the_blobs_are_refused(
    pair: KeyPair, snapshot: Path, bundle: sentry.Bundle, held: Path, text: str
) -> None:
    (link,) = [path for path in blobs(snapshot).iterdir() if path.is_symlink()]
    link.unlink()
    link.symlink_to(text.format(held=held))
    with pytest.raises(sentry.MismatchError, match=r"config.json \(a symbolic link\)"):
        sentry.verify_path(snapshot, bundle, pair.trust)


@pytest.mark.parametrize("what", ["file", "directory"])
def test_a_link_in_the_store_is_refused(
    pair: KeyPair, snapshot: Path, bundle: sentry.Bundle, held: Path, what: str
) -> None:
    place = held if what == "file" else held.parent
    away = place.rename(place.with_name("away"))
    place.symlink_to(away)
    with pytest.raises(sentry.MismatchError, match=r"config.json \(a symbolic link\)"):
        sentry.verify_path(snapshot, bundle, pair.trust)
