# SPDX-License-Identifier: Apache-2.0
"""Every check that matters is taken out in turn: then the attack that it stops must succeed.

An attack that is refused with and without the check would show nothing. What is left of the attacks themselves is
tested, with their reasons, in the files named after them.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
from blake3 import blake3
from reference import oms_reference
from stand_ins import no, nothing, yes
from support import SMALL_MODEL, KeyPair, forge, on_first_block, sign_payload, write_files

import sentry
from sentry import comparison, signatures, signing, tree, verifying
from sentry.comparison import Comparison
from sentry.formats import manifest, oms
from sentry.formats.bundle import KeyMaterial
from sentry.signatures import SignedPayload
from sentry.tree import Entry, Listing
from sentry.trust import keys
from sentry.trust.keys import KeySigner, KeyTrust

LARGE = 2 * 1024 * 1024


@dataclass(frozen=True)
class Scene:
    """What an attack has to work with."""

    model: Path
    pair: KeyPair
    attacker: KeyPair
    bundle: sentry.Bundle

    def verify(self, **options: Any) -> object:
        """Verify the model as it is now."""
        return sentry.verify_path(self.model, options.pop("bundle", self.bundle), self.pair.trust, **options)


Attack = Callable[[Scene], None]


def payload_of_the_first(bundles: Sequence[Any], *_: object, **__: object) -> SignedPayload:
    return SignedPayload(bundles[0].envelope.payload, ())


def attacker_signs_under_the_trusted_name(scene: Scene) -> None:
    bundle = sentry.sign_path(scene.model, scene.attacker.signer)
    scene.verify(bundle=replace(bundle, material=KeyMaterial(scene.pair.trust.identity.name)))


def bytes_change(scene: Scene) -> None:
    (scene.model / "config.json").write_bytes(b"X" * len(SMALL_MODEL["config.json"]))
    scene.verify()


def file_is_added(scene: Scene) -> None:
    write_files(scene.model, {"evil.py": b"x"})
    scene.verify()


def link_is_added(scene: Scene) -> None:
    (scene.model / "sub2").symlink_to("/tmp")  # noqa: S108  (never read)
    scene.verify()


def file_goes(scene: Scene) -> None:
    (scene.model / "config.json").unlink()
    scene.verify()


def file_grows_under_its_signed_digest(scene: Scene) -> None:
    scene.verify(bundle=forge(scene.pair, FILES, lambda s: first(s)["annotations"].update(size="1000")))


def file_changes_behind_the_reader(scene: Scene) -> None:
    def act() -> None:
        with (scene.model / "big.bin").open("r+b") as file:
            file.write(b"evil")

    scene.verify(progress=on_first_block(act))


def file_is_added_meanwhile(scene: Scene) -> None:
    scene.verify(progress=on_first_block(lambda: write_files(scene.model, {"evil.py": b"x"})))


def trust_lies_in_the_model(scene: Scene) -> None:
    shutil.copy(scene.attacker.public, scene.model / "public.pem")
    bundle = sentry.sign_path(scene.model, scene.attacker.signer)
    sentry.verify_path(scene.model, bundle, KeyTrust.from_file(scene.model / "public.pem"))


def private_key_lies_in_the_model(scene: Scene) -> None:
    # In an ignored place, where no listing shows it.
    (scene.model / ".git").mkdir()
    key = Path(shutil.copy(scene.pair.private, scene.model / ".git" / "key.pem"))
    key.chmod(0o600)
    sentry.sign_path(scene.model, KeySigner.from_file(key))


def private_key_is_open(scene: Scene) -> None:
    key = Path(shutil.copy(scene.pair.private, scene.model.parent / "key.pem"))
    key.chmod(0o644)
    KeySigner.from_file(key)


def predicate_is_another(scene: Scene) -> None:
    statement = {**oms_reference.statement("model", FILES), "predicateType": "urn:other"}
    scene.verify(bundle=sign_payload(scene.pair, oms_reference.payload(statement)))


def root_is_another(scene: Scene) -> None:
    scene.verify(
        bundle=forge(scene.pair, FILES, lambda s: s["subject"][0].update(digest={"sha256": "00" * 32}), sealed=False)
    )


def path_leads_outside(scene: Scene) -> None:
    oms.decode_manifest(forge(scene.pair, {"../outside": b"x"}).envelope.payload)


def everything_is_ignored(scene: Scene) -> None:
    oms.decode_manifest(forge(scene.pair, FILES, ignore_paths=["."]).envelope.payload)


def hash_is_one_that_was_not_signed(scene: Scene) -> None:
    scene.verify(bundle=sentry.sign_path(scene.model, scene.pair.signer, hash="sha256"), hash="blake3")


def second_digest_is_of_other_bytes(scene: Scene) -> None:
    split = forge(scene.pair, FILES, lambda s: first(s)["annotations"].update(blake3=blake3(b"x").hexdigest()))
    scene.verify(bundle=split, hash="both")


def header_is_another(scene: Scene) -> None:
    def edit(statement: Any) -> None:
        statement["predicate"]["resources"][-1]["annotations"]["header_sha256"] = "00" * 32

    scene.verify(bundle=forge(scene.pair, FILES, edit))


def second_signature_is_over_another_payload(scene: Scene) -> None:
    scene.verify(bundle=[scene.bundle, sentry.sign_path(scene.model, scene.pair.signer, version="2")])


def names_collide(scene: Scene) -> None:
    write_files(scene.model, {"CONFIG.json": b"x"})
    sentry.sign_path(scene.model, scene.pair.signer)


def first(statement: Any) -> Any:
    return next(entry for entry in statement["predicate"]["resources"] if entry["name"] == "config.json")


FILES = {**SMALL_MODEL, "big.bin": bytes(LARGE)}
_names_and_sizes = Comparison.compare_names_and_sizes


def without_missing(self: Comparison) -> None:
    """Compare as ever, but take what is not there for ignored."""
    self._files = {path: entry for path, entry in self._files.items() if path in self._listing.files}
    self._wanted = list(self._files)
    _names_and_sizes(self)


def without_irregular(self: Comparison) -> None:
    self._irregular = {}
    _names_and_sizes(self)


def without_unsigned(self: Comparison) -> None:
    self._unsigned = []
    _names_and_sizes(self)


def sha256_only(_manifest: manifest.Manifest, _choice: str | None) -> tuple[str, ...]:
    return ("sha256",)


def entry_of(status: Any) -> Entry:
    return Entry(status.st_size, b"same")


# The check that is taken out, and what gets through then: object, attribute, stand-in, attack.
REMOVED: list[tuple[Any, str, object, Attack]] = [
    (KeyTrust, "_verifies", yes, attacker_signs_under_the_trusted_name),
    (Comparison, "_check_file", lambda *_: None, bytes_change),
    (Comparison, "compare_names_and_sizes", without_unsigned, file_is_added),
    (Comparison, "compare_names_and_sizes", without_irregular, link_is_added),
    (Comparison, "compare_names_and_sizes", without_missing, file_goes),
    (Comparison, "_size_differs", no, file_grows_under_its_signed_digest),
    (Comparison, "compare_again", nothing, file_is_added_meanwhile),
    (Listing, "same_as", yes, file_is_added_meanwhile),
    (tree, "_entry", entry_of, file_changes_behind_the_reader),
    (verifying, "check_trust", nothing, trust_lies_in_the_model),
    (signatures, "lies_in", no, trust_lies_in_the_model),
    (signing, "lies_in", no, private_key_lies_in_the_model),
    (keys, "others_can_read", no, private_key_is_open),
    (oms, "PREDICATE_TYPE", "urn:other", predicate_is_another),
    (manifest.Manifest, "root", lambda _: bytes(32), root_is_another),
    (oms, "check_path", nothing, path_leads_outside),
    (oms, "_decode_ignored", str, everything_is_ignored),
    (verifying, "hashes_to_recompute", sha256_only, hash_is_one_that_was_not_signed),
    (verifying, "hashes_to_recompute", sha256_only, second_digest_is_of_other_bytes),
    (comparison, "safetensors_header_sha256", lambda *_: bytes(32), header_is_another),
    (verifying, "check_signatures", payload_of_the_first, second_signature_is_over_another_payload),
    (oms, "check_names_do_not_collide", nothing, names_collide),
]


@pytest.fixture
def scene(pair: KeyPair, attacker: KeyPair, make_model: Callable[..., Path]) -> Scene:
    model = make_model(FILES)
    return Scene(model, pair, attacker, sentry.sign_path(model, pair.signer))


@pytest.mark.parametrize(("owner", "name", "stand_in", "attack"), REMOVED)
def test_an_attack_succeeds_exactly_where_its_check_is_missing(
    scene: Scene,
    monkeypatch: pytest.MonkeyPatch,
    owner: Any,
    name: str,
    stand_in: object,
    attack: Callable[[Scene], None],
) -> None:
    monkeypatch.setattr(owner, name, stand_in)
    attack(scene)


@pytest.mark.parametrize("attack", list(dict.fromkeys(attack for *_, attack in REMOVED)))
def test_an_attack_is_refused_where_its_check_is_in_place(scene: Scene, attack: Attack) -> None:
    with pytest.raises(sentry.SentryError):
        attack(scene)


def test_a_change_behind_the_reader_is_found_before_the_second_listing(
    scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Listing, "same_as", yes)
    with pytest.raises(sentry.MismatchError, match="it changed while it was read"):
        file_changes_behind_the_reader(scene)
