# SPDX-License-Identifier: Apache-2.0
"""The checks behind copies, snapshots and hubs are taken out in turn, as in `test_removal.py`: then attacks succeed."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from snapshots import write_snapshot
from stand_ins import no, nothing, yes
from support import SMALL_MODEL, KeyPair, forge, on_first_block

import sentry
from sentry import hub, materializing, signing, tree, verifying
from sentry.comparison import Comparison
from sentry.snapshots import Blobs
from sentry.tree import Entry, Listing
from sentry.trust import keys

LARGE = 2 * 1024 * 1024
FILES = {**SMALL_MODEL, "big.bin": bytes(LARGE)}


@dataclass(frozen=True)
class Scene:
    """What an attack has to work with."""

    model: Path
    pair: KeyPair
    attacker: KeyPair
    bundle: sentry.Bundle

    def copy(self, **options: Any) -> object:
        """Copy the model as it is now."""
        dest = options.pop("dest", self.model.with_name("copy"))
        return sentry.materialize(self.model, options.pop("bundle", self.bundle), self.pair.trust, dest, **options)

    def snapshot(self) -> Path:
        """Return a snapshot of a small model."""
        return write_snapshot(self.model.parent, SMALL_MODEL)


Attack = Callable[[Scene], object]


# ------------------------------------------------------------------------------------------------------------- attacks


def bytes_change(scene: Scene) -> None:
    (scene.model / "config.json").write_bytes(b"X" * len(SMALL_MODEL["config.json"]))
    scene.copy()


def file_is_longer_than_signed(scene: Scene) -> None:
    def edit(statement: Any) -> None:
        statement["predicate"]["resources"][0]["annotations"]["size"] = "1"

    scene.copy(bundle=forge(scene.pair, FILES, edit))


def file_is_added(scene: Scene) -> None:
    (scene.model / "evil.py").touch()
    scene.copy()


def file_changes_behind_the_copier(scene: Scene) -> None:
    def act() -> None:
        with (scene.model / "big.bin").open("r+b") as file:
            file.write(b"evil")

    scene.copy(progress=on_first_block(act))


def file_is_added_meanwhile(scene: Scene) -> None:
    scene.copy(progress=on_first_block((scene.model / "evil.py").touch))


def trust_lies_in_the_model(scene: Scene) -> None:
    key = Path(shutil.copy(scene.attacker.public, scene.model))
    bundle = sentry.sign_path(scene.model, scene.attacker.signer)
    sentry.materialize(scene.model, bundle, sentry.KeyTrust.from_file(key), scene.model.with_name("copy"))


def copy_goes_into_the_model(scene: Scene) -> None:
    # In an ignored place, where no listing shows it.
    (scene.model / ".git").mkdir()
    scene.copy(dest=scene.model / ".git" / "copy")


def copy_is_exchanged(scene: Scene) -> None:
    def act() -> None:
        (unfinished,) = scene.model.parent.glob(".sentry.*")
        unfinished.rename(scene.model.with_name("away"))
        unfinished.mkdir()

    scene.copy(progress=on_first_block(act))


def copy_takes_the_place_of_an_empty_directory(scene: Scene) -> None:
    scene.model.with_name("copy").mkdir()
    scene.copy()


def key_lies_among_the_blobs(scene: Scene) -> None:
    snapshot = scene.snapshot()
    key = Path(shutil.copy(scene.attacker.public, snapshot.parents[1] / "blobs"))
    bundle = sentry.sign_path(snapshot, scene.attacker.signer)
    sentry.verify_path(snapshot, bundle, sentry.KeyTrust.from_file(key))


def private_key_lies_among_the_blobs(scene: Scene) -> None:
    snapshot = scene.snapshot()
    key = Path(shutil.copy(scene.pair.private, snapshot.parents[1] / "blobs"))
    key.chmod(0o600)
    sentry.sign_path(snapshot, sentry.KeySigner.from_file(key))


def link_leads_elsewhere(scene: Scene) -> None:
    link = scene.snapshot() / "config.json"
    blob = link.readlink().name
    link.unlink()
    link.symlink_to(f"/elsewhere/{blob}")
    sentry.sign_path(link.parent, scene.pair.signer)


def links_lie_in_no_snapshot(scene: Scene) -> None:
    snapshots = scene.snapshot().parent
    other = snapshots.rename(snapshots.with_name("other"))
    snapshots.mkdir()
    sentry.sign_path(next(other.iterdir()), scene.pair.signer)


def token_is_open(scene: Scene) -> None:
    with contextlib.chdir(scene.model):
        Path(hub.TOKEN_FILE).write_text("token")
        Path(hub.TOKEN_FILE).chmod(0o644)
        hub._token()


def token_is_a_header(scene: Scene) -> None:
    with contextlib.chdir(scene.model):
        Path(hub.TOKEN_FILE).touch(mode=0o600)
        Path(hub.TOKEN_FILE).write_text("token\r\nHost: elsewhere")
        hub._token()


def repository_leads_outside(_scene: Scene) -> None:
    hub.parse_reference("hf:../../elsewhere")


def revision_is_an_option(_scene: Scene) -> None:
    hub.parse_reference("hf:org/name@--force")


# ----------------------------------------------------------------------------------------------------------- stand-ins


def entry_of(status: Any) -> Entry:
    return Entry(status.st_size, b"same")


def last_part_of_the_link(_blobs: Blobs, link: str, directory: int, _depth: int) -> str:
    return os.readlink(link, dir_fd=directory).rpartition("/")[2]


# The check that is taken out, and what gets through then: object, attribute, stand-in, attack.
REMOVED: list[tuple[Any, str, object, Attack]] = [
    (Comparison, "_check_file", lambda *_: None, bytes_change),
    (Comparison, "_size_differs", no, file_is_longer_than_signed),
    (Comparison, "compare_names_and_sizes", nothing, file_is_added),
    (Comparison, "compare_again", nothing, file_is_added_meanwhile),
    (Listing, "same_as", yes, file_is_added_meanwhile),
    (tree, "_entry", entry_of, file_changes_behind_the_copier),
    (verifying, "check_trust", nothing, trust_lies_in_the_model),
    (tree.Tree, "places", (), trust_lies_in_the_model),
    (tree.Tree, "places", (), copy_goes_into_the_model),
    (tree.Tree, "places", (), key_lies_among_the_blobs),
    (materializing, "_check_place", nothing, copy_goes_into_the_model),
    (materializing, "_check_place", nothing, copy_takes_the_place_of_an_empty_directory),
    (materializing, "lies_in", no, copy_goes_into_the_model),
    (signing, "lies_in", no, private_key_lies_among_the_blobs),
    (Blobs, "named_by", last_part_of_the_link, link_leads_elsewhere),
    (os.path, "samestat", yes, links_lie_in_no_snapshot),
    (os.path, "samestat", yes, copy_is_exchanged),
    (keys, "others_can_read", no, token_is_open),
    (hub, "is_exposed", no, token_is_open),
    (hub, "_TOKEN", re.compile(r"(?s).*"), token_is_a_header),
    (hub, "_is_repository", yes, repository_leads_outside),
    (hub, "_REVISION", re.compile(r".*"), revision_is_an_option),
]


@pytest.fixture
def scene(pair: KeyPair, attacker: KeyPair, make_model: Callable[..., Path]) -> Scene:
    model = make_model(FILES)
    return Scene(model, pair, attacker, sentry.sign_path(model, pair.signer))


@pytest.mark.parametrize(("owner", "name", "stand_in", "attack"), REMOVED)
def test_an_attack_succeeds_exactly_where_its_check_is_missing(
    scene: Scene, monkeypatch: pytest.MonkeyPatch, owner: Any, name: str, stand_in: object, attack: Attack
) -> None:
    monkeypatch.setattr(owner, name, stand_in)
    attack(scene)


@pytest.mark.parametrize("attack", list(dict.fromkeys(attack for *_, attack in REMOVED)))
def test_an_attack_is_refused_where_its_check_is_in_place(scene: Scene, attack: Attack) -> None:
    with pytest.raises((sentry.SentryError, ValueError)):
        attack(scene)
    assert not list(scene.model.parent.glob("copy/*"))
