# SPDX-License-Identifier: Apache-2.0
"""Every check of an update is taken out in turn: then the attack that it stops must succeed."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from stand_ins import no, nothing, yes
from support import SMALL_MODEL, KeyPair, on_first_block, write_files

import sentry
from sentry import private, signatures, signing, stamps, tree, updating
from sentry.signatures import SignedPayload
from sentry.tree import Entry, Listing
from sentry.trust.keys import KeySigner, KeyTrust

FILES = {**SMALL_MODEL, "big.bin": bytes(2 * 1024 * 1024)}


@dataclass(frozen=True)
class Scene:
    """What an attack has to work with."""

    model: Path
    pair: KeyPair
    attacker: KeyPair
    bundle: sentry.Bundle


Attack = Callable[[Scene], None]


def update(scene: Scene, **options: Any) -> sentry.Update:
    """Sign the model as it is now, after the scene's signature."""
    old = options.pop("bundle", scene.bundle)
    return sentry.update_path(scene.model, old, scene.pair.signer, options.pop("trust", scene.pair.trust), **options)


def parent_is_the_attackers(scene: Scene) -> None:
    update(scene, bundle=sentry.sign_path(scene.model, scene.attacker.signer))


def parent_is_trusted_by_a_key_in_the_model(scene: Scene) -> None:
    shutil.copy(scene.attacker.public, scene.model / "public.pem")
    bundle = sentry.sign_path(scene.model, scene.attacker.signer)
    update(scene, bundle=bundle, trust=KeyTrust.from_file(scene.model / "public.pem"))


def file_is_added_while_it_is_signed_anew(scene: Scene) -> None:
    update(scene, progress=on_first_block(lambda: write_files(scene.model, {"evil.py": b"x"})))


def notes_are_open_for_others(scene: Scene) -> None:
    notes = private.default_cache()
    notes.mkdir()
    notes.chmod(0o777)
    update(scene, insecure_trust_times=True)


def notes_came_with_the_model(scene: Scene) -> None:
    notes = scene.model / ".git" / "notes"
    notes.parent.mkdir()
    notes.mkdir(mode=0o700)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(private.CACHE_VARIABLE, str(notes))
        update(scene, insecure_trust_times=True)


def file_is_written_behind_the_notes(scene: Scene) -> None:
    """Verify what was true before the last update: only a digest that was taken over unread says so."""
    noted = update(scene, insecure_trust_times=True)
    write_files(scene.model, {"config.json": b"X" * len(SMALL_MODEL["config.json"])})
    again = update(scene, bundle=noted.bundle, insecure_trust_times=True)
    write_files(scene.model, {"config.json": SMALL_MODEL["config.json"]})
    sentry.verify_path(scene.model, again.bundle, scene.pair.trust)


def file_is_written_twice_in_one_tick(scene: Scene) -> None:
    """The same, where the file system's clock stands still for a while."""
    now = time.time_ns()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tree, "_entry", lambda status: entry_of(status, now))
        file_is_written_behind_the_notes(scene)


def private_key_lies_in_the_model(scene: Scene) -> None:
    (scene.model / ".git").mkdir()
    key = Path(shutil.copy(scene.pair.private, scene.model / ".git" / "key.pem"))
    key.chmod(0o600)
    sentry.update_path(scene.model, scene.bundle, KeySigner.from_file(key), scene.pair.trust)


def model_is_another(scene: Scene) -> None:
    other = write_files(scene.model.parent / "other", {"x": b"1"})
    sentry.update_path(other, scene.bundle, scene.pair.signer, scene.pair.trust)


def entry_of(status: Any, times: int = 0) -> Entry:
    return Entry(status.st_size, tree._STAMP.pack(status.st_dev, status.st_ino, status.st_size, times, times))


def payload_of_the_first(bundles: Any, *_: object) -> SignedPayload:
    return SignedPayload(bundles[0].envelope.payload, ())


# The check that is taken out, and what gets through then: object, attribute, stand-in, attack.
REMOVED: list[tuple[Any, str, object, Attack]] = [
    (updating, "check_signatures", payload_of_the_first, parent_is_the_attackers),
    (updating, "check_trust", nothing, parent_is_trusted_by_a_key_in_the_model),
    (signatures, "lies_in", no, parent_is_trusted_by_a_key_in_the_model),
    (signing, "lies_in", no, private_key_lies_in_the_model),
    (Listing, "same_as", yes, file_is_added_while_it_is_signed_anew),
    (updating._Changes, "known", lambda *_: {}, model_is_another),
    (stamps, "private_directory", lambda path, **_: path, notes_are_open_for_others),
    (stamps, "lies_in", no, notes_came_with_the_model),
    (tree, "_entry", entry_of, file_is_written_behind_the_notes),
    (stamps, "RACY_NS", -(10**10), file_is_written_twice_in_one_tick),
]


@pytest.fixture
def scene(
    pair: KeyPair, attacker: KeyPair, make_model: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Scene:
    monkeypatch.setenv(private.CACHE_VARIABLE, str(tmp_path / "notes"))
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
    with pytest.raises(sentry.SentryError):
        attack(scene)
