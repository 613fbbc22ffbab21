# SPDX-License-Identifier: Apache-2.0
"""The mutation campaign: whatever is changed in a signature file or in a model is refused, and in no other way.

A changed signature file may decode to the same bundle (white space, the unauthenticated `keyid`); then it is the same
signature. Everything else is a `VerificationError` or, before there is a bundle to verify, a `FormatError`.
"""

from __future__ import annotations

import os
import random
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from support import SMALL_MODEL, KeyPair, forge, write_files

import sentry
from sentry.errors import FormatError, MismatchError, VerificationError
from sentry.formats.oms import decode_manifest

STRUCTURE = b'"\\{}[]:, \n'
# Positions are shared out between tests, so that they run side by side.
PARTS = 4


@pytest.fixture(scope="module")
def signed(pair: KeyPair, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, bytes]:
    """Return a signed model and its signature file's bytes; nothing of the model is changed."""
    model = write_files(tmp_path_factory.mktemp("mutations") / "model", SMALL_MODEL)
    sentry.sign_path(model, pair.signer, name="n", version="1").write(model / "model.sig")
    return model, (model / "model.sig").read_bytes()


def replacements(position: int, original: int) -> list[int]:
    """Return what a byte is replaced by: one flipped bit, two other characters, and one that means structure."""
    choices = [
        original ^ (1 << (position % 7)),
        original ^ 0x80,
        ord("A") if original != ord("A") else ord("B"),
        (original + 1) % 127,
        STRUCTURE[position % len(STRUCTURE)],
    ]
    return sorted({choice for choice in choices if choice != original})


def refused_or_the_same(data: bytes, original: sentry.Bundle, pair: KeyPair) -> bool:
    """Say whether a changed signature file is refused (True) or says what the original says (False)."""
    try:
        bundle = sentry.Bundle.decode(data)
    except FormatError:
        return True
    if bundle == original:
        return False
    with pytest.raises(VerificationError):
        pair.trust.verify(bundle)
    return True


@pytest.mark.parametrize("part", range(PARTS))
def test_every_changed_byte_of_a_signature_file_is_refused_or_changes_nothing(
    signed: tuple[Path, bytes], pair: KeyPair, part: int
) -> None:
    data = signed[1]
    original = sentry.Bundle.decode(data)
    harmless = []
    for position in range(part, len(data), PARTS):
        values = replacements(position, data[position])
        assert len(values) >= 3
        for value in values:
            changed = data[:position] + bytes([value]) + data[position + 1 :]
            if not refused_or_the_same(changed, original, pair):
                harmless.append((position, value))
    # No byte between the first and the last may be replaced: the file is written without white space.
    assert harmless == []


@pytest.mark.parametrize("part", range(PARTS))
def test_every_inserted_or_deleted_byte_of_a_signature_file_is_refused_or_is_white_space(
    signed: tuple[Path, bytes], pair: KeyPair, part: int
) -> None:
    data = signed[1]
    original = sentry.Bundle.decode(data)
    keyid = data.index(b'"keyid":""') + len(b'"keyid":"')
    for position in range(part, len(data), PARTS):
        assert refused_or_the_same(data[:position] + data[position + 1 :], original, pair), position
        for extra in (b'"', b"A", b"=", b",", b"\0", b" "):
            refused = refused_or_the_same(data[:position] + extra + data[position:], original, pair)
            assert refused or extra == b" " or position == keyid, (position, extra)


@pytest.mark.parametrize("part", range(PARTS))
def test_every_truncation_of_a_signature_file_is_refused(signed: tuple[Path, bytes], part: int) -> None:
    data = signed[1]
    for length in range(part, len(data), PARTS):
        with pytest.raises(FormatError):
            sentry.Bundle.decode(data[:length])


def test_a_changed_signature_file_on_disk_is_refused(
    signed: tuple[Path, bytes], pair: KeyPair, tmp_path: Path, share: Callable[..., Sequence[int]]
) -> None:
    model, data = signed
    for position in share(range(len(data)), 800):
        for value in replacements(position, data[position])[:2]:
            (tmp_path / "sig").write_bytes(data[:position] + bytes([value]) + data[position + 1 :])
            with pytest.raises(VerificationError):
                sentry.verify_path(model, tmp_path / "sig", pair.trust)


def test_a_payload_that_is_damaged_and_signed_again_raises_nothing_unexpected(
    signed: tuple[Path, bytes], pair: KeyPair, share: Callable[..., Sequence[int]]
) -> None:
    payload = sentry.Bundle.decode(signed[1]).envelope.payload
    for position in share(range(len(payload)), 5000):
        for value in replacements(position, payload[position]):
            changed = payload[:position] + bytes([value]) + payload[position + 1 :]
            try:
                manifest = decode_manifest(changed)
            except FormatError:
                continue
            # What may change without a fault in the format is what the signer was free to say.
            assert {resource.path for resource in manifest.resources} or manifest.ignore_paths
    for position in share(range(len(payload)), 100):
        changed = payload[:position] + bytes([payload[position] ^ 1]) + payload[position + 1 :]
        try:
            sentry.verify_path(signed[0], pair.signer.sign(changed), pair.trust)
        except VerificationError:
            continue


def each_byte() -> Iterator[tuple[str, int]]:
    for name, data in SMALL_MODEL.items():
        yield from ((name, position) for position in range(len(data)))


@pytest.mark.parametrize("shard_bytes", [None, 7])
def test_every_changed_byte_of_a_model_is_refused(pair: KeyPair, model: Path, shard_bytes: int | None) -> None:
    bundle = sentry.sign_path(model, pair.signer, shard_bytes=shard_bytes)
    for name, position in each_byte():
        data = bytearray(SMALL_MODEL[name])
        data[position] ^= 1 << (position % 8)
        (model / name).write_bytes(data)
        with pytest.raises(MismatchError) as caught:
            sentry.verify_path(model, bundle, pair.trust)
        assert caught.value.changed == (name,)
        (model / name).write_bytes(SMALL_MODEL[name])
    sentry.verify_path(model, bundle, pair.trust)


@pytest.mark.parametrize("choice", ["sha256", "blake3", "both"])
def test_every_inserted_or_deleted_byte_of_a_model_is_refused(pair: KeyPair, model: Path, choice: str) -> None:
    bundle = sentry.sign_path(model, pair.signer)
    for name, position in each_byte():
        data = SMALL_MODEL[name]
        changes = [data[:position] + data[position + 1 :], data[:position] + b"\0" + data[position:], data[:position]]
        (model / name).write_bytes(changes[position % 3])
        with pytest.raises(MismatchError, match="sizes differ"):
            sentry.verify_path(model, bundle, pair.trust, hash=choice)
        (model / name).write_bytes(data)


@pytest.mark.parametrize("name", SMALL_MODEL)
@pytest.mark.parametrize("sizes", [True, False])
def test_every_rename_removal_and_swap_in_a_model_is_refused(
    pair: KeyPair, model: Path, name: str, *, sizes: bool
) -> None:
    def edit(statement: Any) -> None:
        for resource in statement["predicate"]["resources"]:
            resource["annotations"].pop("size")

    bundle = forge(pair, SMALL_MODEL, None if sizes else edit)
    path = model / name
    for other in ("renamed", "sub/renamed", name.upper(), name + " ", "." + name.replace("/", ""), name[:-1]):
        (model / other).parent.mkdir(exist_ok=True)
        path.rename(model / other)
        with pytest.raises(MismatchError) as caught:
            sentry.verify_path(model, bundle, pair.trust)
        assert (caught.value.missing, caught.value.unexpected) == ((name,), (other,))
        (model / other).rename(path)
    for other in SMALL_MODEL.keys() - {name}:
        path.rename(model / "aside")
        (model / other).rename(path)
        (model / "aside").rename(model / other)
        with pytest.raises(MismatchError) as caught:
            sentry.verify_path(model, bundle, pair.trust)
        assert caught.value.changed == tuple(sorted((name, other)))
        path.rename(model / "aside")
        (model / other).rename(path)
        (model / "aside").rename(model / other)
    path.unlink()
    with pytest.raises(MismatchError) as caught:
        sentry.verify_path(model, bundle, pair.trust)
    assert caught.value.missing == (name,)


@pytest.mark.parametrize("name", ["added", ".added", "sub/added", "new/added", ".GIT/x", "sub/.git/x", "\n"])
@pytest.mark.parametrize("data", [b"", b"x"])
def test_every_addition_to_a_model_is_refused(pair: KeyPair, model: Path, name: str, data: bytes) -> None:
    bundle = sentry.sign_path(model, pair.signer)
    (model / name).parent.mkdir(exist_ok=True, parents=True)
    (model / name).write_bytes(data)
    with pytest.raises(MismatchError) as caught:
        sentry.verify_path(model, bundle, pair.trust)
    assert caught.value.unexpected == (name,)


def test_an_empty_directory_more_or_less_changes_no_file(pair: KeyPair, model: Path) -> None:
    # The format lists files: a directory without any is neither signed nor noticed.
    bundle = sentry.sign_path(model, pair.signer)
    (model / "empty").mkdir()
    sentry.verify_path(model, bundle, pair.trust)


@pytest.mark.slow
def test_random_damage_to_a_signature_file_raises_nothing_unexpected(signed: tuple[Path, bytes], pair: KeyPair) -> None:
    seed = int.from_bytes(os.urandom(8))
    chance = random.Random(seed)  # noqa: S311  (a campaign, not a key)
    data = signed[1]
    original = sentry.Bundle.decode(data)
    for _ in range(200_000):
        changed = bytearray(data)
        for _ in range(chance.randint(1, 4)):
            start = chance.randrange(len(changed))
            changed[start : start + chance.randint(0, 3)] = chance.choice(
                [b"", bytes([chance.randrange(256)]), bytes([chance.choice(STRUCTURE)]), data[start : start + 9]]
            )
        try:
            refused_or_the_same(bytes(changed), original, pair)
        except BaseException as error:
            error.add_note(f"seed {seed}")
            raise
