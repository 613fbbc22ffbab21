# SPDX-License-Identifier: Apache-2.0
"""Keys: what OpenSSL makes is read, what is no such key is refused for its reason, and secrets stay secret."""

from __future__ import annotations

import base64
import os
import pickle
import shutil
import subprocess
from collections.abc import Callable, Mapping
from pathlib import Path
from types import SimpleNamespace

import pytest
from support import KeyPair

from sentry.errors import FormatError, RefusedError, UnavailableError
from sentry.trust.keys import MAX_KEY_BYTES, KeySigner, KeyTrust, PasswordRequiredError

CURVES = {"prime256v1": "ecdsa-p256", "secp384r1": "ecdsa-p384", "secp521r1": "ecdsa-p521"}
PASSWORD = "correct horse"  # noqa: S105  (of keys that live as long as the test)

# How OpenSSL writes a private key, in its own words; {} is the key that `ecparam -genkey` wrote.
FORMS = {
    "SEC 1 with parameters": "cat {}",
    "SEC 1": "openssl ec -in {}",
    "PKCS #8": "openssl pkcs8 -topk8 -nocrypt -in {}",
    "SEC 1, encrypted": f"openssl ec -aes256 -passout 'pass:{PASSWORD}' -in {{}}",
    "PKCS #8, encrypted": f"openssl pkcs8 -topk8 -passout 'pass:{PASSWORD}' -in {{}}",
    "PKCS #8, scrypt": f"openssl pkcs8 -topk8 -scrypt -passout 'pass:{PASSWORD}' -in {{}}",
}


def shell(command: str) -> bytes:
    return subprocess.run(command, shell=True, check=True, capture_output=True).stdout  # noqa: S602


def write(path: Path, data: bytes, mode: int = 0o600) -> Path:
    path.write_bytes(data)
    path.chmod(mode)
    return path


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """Return a function that gives a key file by what `openssl` is asked for, made once."""
    if shutil.which("openssl") is None:
        pytest.skip("openssl is not installed")
    directory = tmp_path_factory.mktemp("openssl")

    def make(command: str) -> Path:
        path = directory / str(abs(hash(command)))
        return path if path.exists() else write(path, shell(command))

    return make


def curve_key(curve: str) -> str:
    return f"openssl ecparam -name {curve} -genkey"


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("curve", CURVES)
def test_keys_are_read_as_openssl_writes_them(made: Callable[[str], Path], curve: str, form: str) -> None:
    original = made(curve_key(curve))
    path = made(FORMS[form].format(original))
    public = made(f"openssl ec -in {original} -pubout")
    assert (b"EC PARAMETERS" in path.read_bytes()) == (form == "SEC 1 with parameters")
    password = PASSWORD if "ENCRYPTED" in path.read_text() else None
    assert (password is not None) == ("encrypted" in form or "scrypt" in form)
    signer = KeySigner.from_file(path, password=password)
    trust = KeyTrust.from_file(public)
    assert trust.verify(signer.sign(b"payload")) == signer.identity == trust.identity
    assert signer.identity.algorithm == CURVES[curve]
    assert signer.public_key_pem() == public.read_bytes()


@pytest.mark.parametrize("form", ["SEC 1, encrypted", "PKCS #8, encrypted", "PKCS #8, scrypt"])
@pytest.mark.parametrize("password", ["wrong", b"wrong", "", b"x" * 5000, PASSWORD + " ", PASSWORD.upper()])
def test_a_wrong_password_opens_nothing(made: Callable[[str], Path], form: str, password: str | bytes) -> None:
    path = made(FORMS[form].format(made(curve_key("prime256v1"))))
    with pytest.raises(UnavailableError, match="the password does not open the private key"):
        KeySigner.from_file(path, password=password)


@pytest.mark.parametrize("form", ["SEC 1, encrypted", "PKCS #8, encrypted"])
def test_a_missing_password_is_asked_for(made: Callable[[str], Path], form: str) -> None:
    path = made(FORMS[form].format(made(curve_key("prime256v1"))))
    with pytest.raises(PasswordRequiredError, match="is encrypted") as caught:
        KeySigner.from_file(path)
    assert caught.value.hint is not None
    assert "SENTRY_KEY_PASSWORD" in caught.value.hint


def test_a_password_for_a_key_that_has_none_is_not_needed(pair: KeyPair) -> None:
    assert KeySigner.from_file(pair.private, password="unused").identity == pair.signer.identity  # noqa: S106


OTHER_KINDS = [
    ("openssl genrsa 2048", "is not an ECDSA key; P-256, P-384 and P-521 are supported"),
    ("openssl genpkey -algorithm ed25519", "is not an ECDSA key; P-256, P-384 and P-521 are supported"),
    ("openssl genpkey -algorithm x25519", "is not an ECDSA key; P-256, P-384 and P-521 are supported"),
    (curve_key("secp256k1"), "keys on the curve secp256k1 are not supported"),
    (curve_key("prime192v1"), "keys on the curve secp192r1 are not supported|is not a private key in PEM"),
]


@pytest.mark.parametrize(("command", "reason"), OTHER_KINDS)
def test_keys_of_other_kinds_do_not_sign(made: Callable[[str], Path], command: str, reason: str) -> None:
    with pytest.raises(FormatError, match=reason):
        KeySigner.from_file(made(command))


@pytest.mark.parametrize(("command", "reason"), OTHER_KINDS)
def test_keys_of_other_kinds_are_not_trusted(made: Callable[[str], Path], command: str, reason: str) -> None:
    public = made(f"openssl pkey -in {made(command)} -pubout")
    with pytest.raises(FormatError, match=reason.replace("private", "public")):
        KeyTrust.from_file(public)


def explicit_public_key(made: Callable[[str], Path], tmp_path: Path, generator_y: str) -> Path:
    """Return a public key that spells its curve out, with another generator's y in the place of P-256's own."""
    key = made(f"{curve_key('prime256v1')} -param_enc explicit")
    der = made(f"openssl ec -in {key} -pubout -outform DER -param_enc explicit").read_bytes()
    own = bytes.fromhex("4fe342e2fe1a7f9b8ee7eb4a7c0f9e162bce33576b315ececbb6406837bf51f5")
    assert own in der
    text = base64.encodebytes(der.replace(own, bytes.fromhex(generator_y))).decode()
    pem = f"-----BEGIN PUBLIC KEY-----\n{text}-----END PUBLIC KEY-----\n"
    return write(tmp_path / "public.pem", pem.encode())


def test_a_curve_spelled_out_is_trusted_only_if_it_is_the_curve(made: Callable[[str], Path], tmp_path: Path) -> None:
    # On a curve with a generator of their own choice, anybody can sign for any public key.
    own = "4fe342e2fe1a7f9b8ee7eb4a7c0f9e162bce33576b315ececbb6406837bf51f5"
    negated = "b01cbd1c01e58065711814b583f061e9d431cca994cea1313449bf97c840ae0a"
    assert KeyTrust.from_file(explicit_public_key(made, tmp_path, own)).identity.algorithm == "ecdsa-p256"
    with pytest.raises(FormatError, match=r"is not a public key in PEM|not supported"):
        KeyTrust.from_file(explicit_public_key(made, tmp_path, negated))


GARBAGE = [
    b"",
    b"not a key",
    b"-----BEGIN PUBLIC KEY-----\nAAAA\n-----END PUBLIC KEY-----\n",
    b"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n",
    b"-----BEGIN PUBLIC KEY-----",
    b"\x30\x59\x30\x13",
]
PRIVATE_GARBAGE = [
    b"-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n",
    b"-----BEGIN EC PRIVATE KEY-----\n!\n-----END EC PRIVATE KEY-----\n",
    b"-----BEGIN OPENSSH PRIVATE KEY-----\nAAAA\n-----END OPENSSH PRIVATE KEY-----\n",
    b"-----BEGIN PRIVATE KEY-----",
]


@pytest.mark.parametrize("data", GARBAGE + PRIVATE_GARBAGE)
def test_what_is_no_private_key_is_refused(tmp_path: Path, data: bytes) -> None:
    with pytest.raises(FormatError, match=r"is not a private key in PEM|is a public key; signing needs"):
        KeySigner.from_file(write(tmp_path / "key", data))


@pytest.mark.parametrize("data", GARBAGE)
def test_what_is_no_public_key_is_refused(tmp_path: Path, data: bytes) -> None:
    with pytest.raises(FormatError, match="is not a public key in PEM"):
        KeyTrust.from_file(write(tmp_path / "key", data))


def test_a_damaged_encrypted_key_is_refused(made: Callable[[str], Path], tmp_path: Path) -> None:
    whole = made(FORMS["PKCS #8, encrypted"].format(made(curve_key("prime256v1")))).read_text().splitlines()
    damaged = "\n".join([*whole[:2], whole[2][:10], *whole[4:]]).encode()
    with pytest.raises((FormatError, UnavailableError), match="private key"):
        KeySigner.from_file(write(tmp_path / "key", damaged), password=PASSWORD)


def test_a_public_key_does_not_sign(pair: KeyPair) -> None:
    # Its mode is no matter: anybody may read it.
    with pytest.raises(FormatError, match="is a public key; signing needs the private one"):
        KeySigner.from_file(pair.public)


def test_a_private_key_is_not_trust_and_the_hint_says_how_to_get_one(pair: KeyPair) -> None:
    with pytest.raises(FormatError, match="is a private key; trust needs the public one") as caught:
        KeyTrust.from_file(pair.private)
    assert caught.value.hint is not None
    assert "-pubout" in caught.value.hint


@pytest.mark.parametrize("read", [KeySigner.from_file, KeyTrust.from_file])
def test_a_key_file_of_absurd_size_is_refused(tmp_path: Path, read: Callable[[Path], object]) -> None:
    with pytest.raises(FormatError, match=f"is larger than {MAX_KEY_BYTES} bytes"):
        read(write(tmp_path / "key", b"-" * (MAX_KEY_BYTES + 1)))


@pytest.mark.timeout(20)
@pytest.mark.parametrize("read", [KeySigner.from_file, KeyTrust.from_file])
def test_a_key_file_that_is_none_is_unavailable(tmp_path: Path, read: Callable[[Path], object]) -> None:
    os.mkfifo(tmp_path / "fifo", 0o600)
    (tmp_path / "loop").symlink_to("loop")
    with pytest.raises(UnavailableError, match="is not a regular file"):
        read(tmp_path / "fifo")
    with pytest.raises(UnavailableError, match="is not a regular file"):
        read(Path("/dev/zero"))
    for name in ("", "missing", "missing/key", "loop"):
        with pytest.raises(UnavailableError, match=r"cannot read the|is not a regular file"):
            read(tmp_path / name)


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o644, 0o660, 0o440, 0o404, 0o4644])
def test_a_private_key_that_others_can_read_is_refused_unless_asked(pair: KeyPair, tmp_path: Path, mode: int) -> None:
    path = write(tmp_path / "key.pem", pair.private.read_bytes(), mode)
    with pytest.raises(RefusedError, match="other users can read the private key") as caught:
        KeySigner.from_file(path)
    assert caught.value.hint is not None
    assert "chmod 600" in caught.value.hint
    assert KeySigner.from_file(path, insecure_key_mode=True).identity == pair.signer.identity


@pytest.mark.parametrize("mode", [0o600, 0o400, 0o700, 0o610, 0o622])
def test_a_private_key_that_only_its_owner_can_read_signs(pair: KeyPair, tmp_path: Path, mode: int) -> None:
    KeySigner.from_file(write(tmp_path / "key.pem", pair.private.read_bytes(), mode))


def test_a_link_to_a_key_has_the_key_s_mode(pair: KeyPair, tmp_path: Path) -> None:
    write(tmp_path / "open.pem", pair.private.read_bytes(), 0o644)
    (tmp_path / "link.pem").symlink_to("open.pem")
    with pytest.raises(RefusedError, match="other users can read"):
        KeySigner.from_file(tmp_path / "link.pem")


@pytest.mark.parametrize(
    ("flags", "root_device", "accepted"),
    [
        (os.ST_RDONLY, "other", True),
        (os.ST_RDONLY | os.ST_NOSUID, "other", True),
        (os.ST_RDONLY, "same", False),  # a key in a container's image: the root file system
        (0, "other", False),
        (os.ST_NOSUID, "other", False),
        (0, "same", False),
    ],
)
def test_only_a_read_only_mount_of_its_own_excuses_an_open_mode(
    pair: KeyPair, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, flags: int, root_device: str, *, accepted: bool
) -> None:
    path = write(tmp_path / "key.pem", pair.private.read_bytes(), 0o644)
    device = path.stat().st_dev
    real = os.stat
    root = SimpleNamespace(st_dev=device if root_device == "same" else device + 1)
    monkeypatch.setattr(os, "statvfs", lambda _path: SimpleNamespace(f_flag=flags))
    monkeypatch.setattr(os, "stat", lambda name, **more: root if name == "/" else real(name, **more))
    if accepted:
        KeySigner.from_file(path)
    else:
        with pytest.raises(RefusedError, match="other users can read"):
            KeySigner.from_file(path)


def secrets_of(pair: KeyPair) -> list[str]:
    number = pair.key.private_numbers().private_value
    lines = pair.private.read_text().splitlines()[1:-1]
    return [str(number), f"{number:x}", *lines]


def test_no_text_or_pickle_of_a_signer_shows_the_secret(pair: KeyPair) -> None:
    shown = repr(pair.signer) + str(pair.signer) + repr(vars(pair.signer)) + repr(pair.signer.identity)
    with pytest.raises(TypeError) as caught:
        pickle.dumps(pair.signer)
    shown += str(caught.value)
    assert not [secret for secret in secrets_of(pair) if secret in shown]


@pytest.mark.parametrize("damage", [(b"PRIVATE", b"PRIVATE "), (b"\nM", b"\n!"), (b"--END", b"-END"), (b"\n", b"x")])
def test_a_refusal_never_repeats_the_key(pair: KeyPair, tmp_path: Path, damage: tuple[bytes, bytes]) -> None:
    path = write(tmp_path / "key.pem", pair.private.read_bytes().replace(*damage))
    for read in (KeySigner.from_file, KeyTrust.from_file):
        with pytest.raises(FormatError) as caught:
            read(path)
        told = repr(caught.value) + str(caught.value.hint) + repr(caught.value.__cause__)
        assert not [secret for secret in secrets_of(pair) if secret in told]
        assert caught.value.__suppress_context__ or caught.value.__context__ is None


def test_a_wrong_password_is_not_repeated(made: Callable[[str], Path]) -> None:
    path = made(FORMS["PKCS #8, encrypted"].format(made(curve_key("prime256v1"))))
    with pytest.raises(UnavailableError) as caught:
        KeySigner.from_file(path, password="hunter2")  # noqa: S106
    assert "hunter2" not in repr(caught.value) + str(caught.value.hint)


def test_a_file_with_two_public_keys_is_refused(tmp_path: Path, key_pairs: Mapping[str, KeyPair]) -> None:
    both = tmp_path / "both.pem"
    both.write_bytes(b"".join(key_pairs[name].public.read_bytes() for name in ("attacker", "ecdsa-p256")))
    with pytest.raises(FormatError, match="several blocks of PEM; trust needs exactly one public key"):
        KeyTrust.from_file(both)
