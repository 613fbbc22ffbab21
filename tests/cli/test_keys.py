# SPDX-License-Identifier: Apache-2.0
"""Keys and passwords: made whole or not at all, never overwritten, taken from files, environment and prompt."""

from __future__ import annotations

import os
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import dsa, ec, ed25519, rsa
from cryptography.hazmat.primitives.asymmetric.types import PrivateKeyTypes

PASSWORD = "correct horse \u00e9"  # noqa: S105  (made up here)


@pytest.fixture
def pair(tmp_path: Path) -> tuple[str, Path, str, Path]:
    return ("--private", tmp_path / "new.pem", "--public", tmp_path / "new-public.pem")


@pytest.fixture
def password_file(tmp_path: Path) -> Path:
    path = tmp_path / "password"
    path.write_text(PASSWORD + "\n", encoding="utf-8")
    return path


@pytest.fixture
def encrypted(cli: Any, pair: tuple[Any, ...], password_file: Path) -> Path:
    """Return an encrypted private key."""
    cli("keygen", *pair, "--password-file", password_file).succeeded()
    return Path(pair[1])


def write_key(directory: Path, key: PrivateKeyTypes) -> tuple[Path, Path]:
    """Write a key pair as PEM."""
    private, public = directory / "k.pem", directory / "p.pem"
    private.touch(mode=0o600)
    private.write_bytes(
        key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )
    public.write_bytes(
        key.public_key().public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
    )
    return private, public


# ------------------------------------------------------------------------------------------------------------- keygen


def test_a_new_private_key_can_be_read_by_its_owner_alone(cli: Any, pair: tuple[Any, ...]) -> None:
    before = os.umask(0)
    try:
        cli("keygen", *pair).succeeded()
    finally:
        os.umask(before)
    assert stat.S_IMODE(pair[1].stat().st_mode) == 0o600


@pytest.mark.parametrize("existing", [1, 3])
def test_keygen_never_overwrites_and_leaves_nothing_half_made(
    cli: Any, pair: tuple[Any, ...], tmp_path: Path, tree_of: Any, existing: int
) -> None:
    pair[existing].write_text("precious")
    cli("keygen", *pair).refused(3, pair[existing].name, "exists")
    assert tree_of(tmp_path) == {pair[existing].name: b"precious"}


def test_keygen_does_not_follow_a_link_to_overwrite(cli: Any, pair: tuple[Any, ...], tmp_path: Path) -> None:
    (tmp_path / "precious").write_text("precious")
    pair[1].symlink_to(tmp_path / "precious")
    cli("keygen", *pair).refused(3, "exists")
    assert (tmp_path / "precious").read_text() == "precious"
    assert not pair[3].exists()


def test_keygen_does_not_write_both_keys_to_one_file(cli: Any, tmp_path: Path, tree_of: Any) -> None:
    outcome = cli("keygen", "--private", tmp_path / "one.pem", "--public", tmp_path / "one.pem")
    outcome.refused(2, "the two halves of the key go into two files")
    assert tree_of(tmp_path) == {}


@pytest.mark.parametrize("missing", [1, 3])
def test_keygen_into_a_missing_directory_leaves_nothing(
    cli: Any, pair: tuple[Any, ...], tmp_path: Path, tree_of: Any, missing: int
) -> None:
    arguments = list(pair)
    arguments[missing] = tmp_path / "gone" / "key.pem"
    cli("keygen", *arguments).refused(3, "cannot write", "gone")
    assert tree_of(tmp_path) == {}


def test_keygen_knows_no_other_algorithm(cli: Any, pair: tuple[Any, ...], tmp_path: Path, tree_of: Any) -> None:
    cli("keygen", *pair, "--algorithm", "rsa-2048").refused(2, "rsa-2048")
    assert tree_of(tmp_path) == {}


@pytest.mark.parametrize("content", ["", "\n", "\r\n"])
def test_an_empty_password_never_makes_an_unencrypted_key(
    cli: Any, pair: tuple[Any, ...], tmp_path: Path, content: str
) -> None:
    (tmp_path / "password").write_text(content)
    outcome = cli("keygen", *pair, "--password-file", tmp_path / "password")
    outcome.refused(outcome.code, "empty")
    assert outcome.code in {2, 3}
    assert not pair[1].exists()


@pytest.mark.parametrize("nbytes", [2000, 100_000])
def test_a_password_that_is_too_long_is_refused(cli: Any, pair: tuple[Any, ...], tmp_path: Path, nbytes: int) -> None:
    (tmp_path / "password").write_bytes(b"x" * nbytes)
    outcome = cli("keygen", *pair, "--password-file", tmp_path / "password")
    outcome.refused(outcome.code, "password")
    assert not pair[1].exists()


# ---------------------------------------------------------------------------------------------------------- passwords


def test_an_encrypted_key_is_encrypted(encrypted: Path) -> None:
    assert encrypted.read_bytes().startswith(b"-----BEGIN ENCRYPTED PRIVATE KEY-----")


def test_a_password_comes_from_a_file(cli: Any, model: Path, encrypted: Path, password_file: Path) -> None:
    cli("sign", model, "--key", encrypted, "--password-file", password_file).succeeded()


def test_a_password_comes_from_the_environment(command: Any, model: Path, encrypted: Path) -> None:
    command("sign", model, "--key", encrypted, env={"SENTRY_KEY_PASSWORD": PASSWORD}).succeeded()


def test_a_password_comes_from_a_prompt_that_does_not_show_it(
    terminal: Any, cli: Any, model: Path, encrypted: Path, pair: tuple[Any, ...]
) -> None:
    running = terminal("sign", model, "--key", encrypted)
    running.wait_for(b"Password")
    running.type_line(PASSWORD)
    assert running.finish() == 0
    assert b"correct horse" not in running.said
    cli("verify", model, "--key", pair[3]).succeeded()


def test_a_wrong_password_at_the_prompt_could_not_open_the_key(terminal: Any, model: Path, encrypted: Path) -> None:
    running = terminal("sign", model, "--key", encrypted)
    running.wait_for(b"Password")
    running.type_line("wrong")
    assert running.finish() == 3
    assert running.said.count(b"sentry: error: ") == 1
    assert b"does not open" in running.said
    assert not (model / "model.sig").exists()


def test_ctrl_c_at_the_prompt_ends_in_one_line(terminal: Any, model: Path, encrypted: Path) -> None:
    running = terminal("sign", model, "--key", encrypted)
    running.wait_for(b"Password")
    running.keyboard.write(b"\x03")
    running.keyboard.flush()
    assert running.finish() == 130
    assert running.said.count(b"sentry: error: interrupted") == 1
    assert b"Traceback" not in running.said
    assert not (model / "model.sig").exists()


def test_an_encrypted_key_without_a_password_asks_for_one_in_a_hint(command: Any, model: Path, encrypted: Path) -> None:
    command("sign", model, "--key", encrypted).refused(3, "encrypted", hint="--password-file")
    assert not (model / "model.sig").exists()


@pytest.mark.parametrize("password", ["wrong", "", b"\xff\xfe", "x" * 2000])
def test_a_wrong_password_could_not_open_the_key(
    command: Any, model: Path, encrypted: Path, password: str | bytes
) -> None:
    command("sign", model, "--key", encrypted, env={"SENTRY_KEY_PASSWORD": password}).refused(3, "private key")
    assert not (model / "model.sig").exists()


def test_a_wrong_or_missing_password_file_could_not_open_the_key(
    cli: Any, model: Path, encrypted: Path, tmp_path: Path
) -> None:
    (tmp_path / "wrong").write_text("wrong")
    cli("sign", model, "--key", encrypted, "--password-file", tmp_path / "wrong").refused(3, "does not open")
    cli("sign", model, "--key", encrypted, "--password-file", tmp_path / "gone").refused(3, "password file", "gone")


# -------------------------------------------------------------------------------------------------- keys of other kinds


OTHER_KEYS: dict[str, Callable[[], PrivateKeyTypes]] = {
    "RSA": lambda: rsa.generate_private_key(65537, 2048),
    "Ed25519": ed25519.Ed25519PrivateKey.generate,
    "DSA": lambda: dsa.generate_private_key(2048),
    "secp256k1": lambda: ec.generate_private_key(ec.SECP256K1()),
    "P-224": lambda: ec.generate_private_key(ec.SECP224R1()),
}


@pytest.mark.parametrize("kind", OTHER_KEYS)
@pytest.mark.filterwarnings("ignore::cryptography.utils.CryptographyDeprecationWarning")
def test_a_key_of_another_kind_is_a_usage_error(command: Any, signed: Path, tmp_path: Path, kind: str) -> None:
    private, public = write_key(tmp_path, OTHER_KEYS[kind]())
    before = (signed / "model.sig").read_bytes()
    command("sign", signed, "--key", private).refused(2, "P-256, P-384 and P-521")
    command("verify", signed, "--key", public).refused(2, "P-256, P-384 and P-521")
    assert (signed / "model.sig").read_bytes() == before


@pytest.mark.parametrize("content", [b"", b"hello", b"-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n"])
def test_a_file_that_is_no_key_is_a_usage_error(cli: Any, signed: Path, tmp_path: Path, content: bytes) -> None:
    (tmp_path / "k.pem").touch(mode=0o600)
    (tmp_path / "k.pem").write_bytes(content)
    cli("sign", signed, "--key", tmp_path / "k.pem").refused(2, "k.pem", "not a private key")
    cli("verify", signed, "--key", tmp_path / "k.pem").refused(2, "k.pem")


def test_the_wrong_half_of_a_key_pair_is_a_usage_error(cli: Any, signed: Path, keys: Path) -> None:
    cli("verify", signed, "--key", keys / "private.pem").refused(2, "is a private key", hint="openssl ec")
    sign = cli("sign", signed, "--key", keys / "public.pem")
    sign.refused(2, "is a public key; signing needs the private one")


@pytest.mark.parametrize("verb", ["sign", "verify"])
@pytest.mark.parametrize("make", [None, os.mkdir, os.mkfifo, lambda path: path.write_bytes(b"x" * 100_000)])
def test_a_key_that_cannot_be_read_is_one_clear_line(
    cli: Any, signed: Path, tmp_path: Path, verb: str, make: Callable[[Path], object] | None
) -> None:
    if make is not None:
        make(tmp_path / "k.pem")
    outcome = cli(verb, signed, "--key", tmp_path / "k.pem")
    outcome.refused(outcome.code, "k.pem")
    assert outcome.code in {2, 3}


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o644, 0o660])
def test_a_private_key_that_others_can_read_is_refused_unless_asked_for(
    cli: Any, model: Path, tmp_path: Path, private: Path, mode: int
) -> None:
    key = tmp_path / "shared.pem"
    key.write_bytes(private.read_bytes())
    key.chmod(mode)
    cli("sign", model, "--key", key).refused(1, "other users can read", hint="chmod 600")
    assert not (model / "model.sig").exists()
    cli("sign", model, "--key", key, "--insecure-key-mode").succeeded()
