# SPDX-License-Identifier: Apache-2.0
"""Signing and trusting with bare ECDSA keys, the OMS `key` method.

Implements docs/format.md, "Signatures". The algorithm follows from the trusted key, never from the bundle. Private
keys are used in `cryptography`, on the CPU, and nowhere else.
"""

from __future__ import annotations

import hashlib
import os
import stat
from os import PathLike
from pathlib import Path
from types import MappingProxyType

from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from sentry.atomic import read_limited
from sentry.bundle import Bundle
from sentry.errors import FormatError, RefusedError, SignatureError, TrustError, UnavailableError
from sentry.formats.bundle import KeyMaterial
from sentry.formats.dsse import Envelope, legacy_pae, pae
from sentry.text import escape
from sentry.trust import Identity

# Curve by its SECG name: our name for the algorithm, its hash (the pairing of Sigstore's registry), the curve itself.
_CURVES: dict[str, tuple[str, hashes.HashAlgorithm, ec.EllipticCurve]] = {
    "secp256r1": ("ecdsa-p256", hashes.SHA256(), ec.SECP256R1()),
    "secp384r1": ("ecdsa-p384", hashes.SHA384(), ec.SECP384R1()),
    "secp521r1": ("ecdsa-p521", hashes.SHA512(), ec.SECP521R1()),
}
ALGORITHMS = MappingProxyType({name: curve for name, _, curve in _CURVES.values()})
# A P-521 key in PEM takes 400 bytes; the rest is for comments and parameters.
MAX_KEY_BYTES = 64 * 1024
_NO_PRIVATE_KEY = "not a private key in PEM"
# OpenSSL's limit.
MAX_PASSWORD_BYTES = 1023


class PasswordRequiredError(UnavailableError):
    """The private key is encrypted, and no password was given."""


class KeySigner:
    """Signs with an ECDSA private key."""

    def __init__(self, key: ec.EllipticCurvePrivateKey, *, source: Path | None = None) -> None:
        self.source = source
        self._key = key
        self._algorithm, self._hash = _algorithm_of(key.public_key())

    @classmethod
    def from_file(
        cls,
        path: str | PathLike[str],
        *,
        password: str | bytes | None = None,
        insecure_key_mode: bool = False,
    ) -> KeySigner:
        """Read a private key in PEM, as OpenSSL writes it: SEC 1 or PKCS #8, P-256, P-384 or P-521.

        Args:
            path: The key file.
            password: The password of an encrypted key; text is encoded as UTF-8.
            insecure_key_mode: Use the key even though other users of the machine can read it.

        Raises:
            RefusedError: Others can read the file.
            UnavailableError: It cannot be read, or the password is missing (`PasswordRequiredError`) or wrong.
            FormatError: It is not a private key of a supported kind.
        """
        source = Path(os.path.abspath(path))
        data, status = read_limited(source, max_bytes=MAX_KEY_BYTES, what="private key")
        if b"PRIVATE KEY-----" not in data:
            kind = "a public key; signing needs the private one" if b"PUBLIC KEY-----" in data else _NO_PRIVATE_KEY
            raise FormatError(f"{escape(str(source))} is {kind}")
        if not insecure_key_mode and is_exposed(source, status):
            raise RefusedError(
                f"other users can read the private key {escape(str(source))}",
                hint=f"run: chmod 600 {escape(str(source))}; if that is impossible, --insecure-key-mode accepts it",
            )
        return cls(_load_private(data, password, source), source=source)

    @property
    def identity(self) -> Identity:
        """What a verifier will know the signer by."""
        return Identity("key", fingerprint(self._key.public_key()), self._algorithm)

    def public_key_pem(self) -> bytes:
        """Return the public half as PEM text."""
        return _pem(self._key.public_key())

    def sign(self, payload: bytes) -> Bundle:
        """Sign an in-toto payload: ECDSA over its DSSE encoding, DER."""
        signature = self._key.sign(pae(payload), ec.ECDSA(self._hash))
        return Bundle(KeyMaterial(fingerprint(self._key.public_key())), Envelope(payload, signature))


class KeyTrust:
    """Trusts whatever one ECDSA public key signed."""

    def __init__(self, key: ec.EllipticCurvePublicKey, *, source: Path | None = None) -> None:
        self._key = key
        self._algorithm, self._hash = _algorithm_of(key)
        self._source = source

    @classmethod
    def from_file(cls, path: str | PathLike[str]) -> KeyTrust:
        """Read a public key in PEM (SubjectPublicKeyInfo).

        Raises:
            UnavailableError: It cannot be read.
            FormatError: It is not a public key of a supported kind.
        """
        source = Path(os.path.abspath(path))
        data, _ = read_limited(source, max_bytes=MAX_KEY_BYTES, what="public key")
        if b"PRIVATE KEY-----" in data:
            raise FormatError(
                f"{escape(str(source))} is a private key; trust needs the public one",
                hint=f"run: openssl ec -in {escape(str(source))} -pubout -out public.pem",
            )
        if data.count(b"-----BEGIN") > 1:
            raise FormatError(f"{escape(str(source))} holds several blocks of PEM; trust needs exactly one public key")
        try:
            key = serialization.load_pem_public_key(data)
        except (ValueError, UnsupportedAlgorithm):
            raise FormatError(f"{escape(str(source))} is not a public key in PEM") from None
        if not isinstance(key, ec.EllipticCurvePublicKey):
            raise _unknown_type(source)
        return cls(key, source=source)

    @property
    def sources(self) -> tuple[Path, ...]:
        """The file that the key was read from."""
        return () if self._source is None else (self._source,)

    @property
    def identity(self) -> Identity:
        """Who signed, if a signature verifies under this key."""
        return Identity("key", fingerprint(self._key), self._algorithm)

    def verify(self, bundle: Bundle, *, insecure_legacy: bool = False) -> Identity:
        """Check a bundle's signature over its payload under this key.

        Args:
            bundle: The signature.
            insecure_legacy: Accept the encoding that model-signing 0.2 signed by mistake as well.

        Raises:
            SignatureError: It was made with another key, or over other bytes.
            TrustError: It was not made with a bare key at all.
        """
        material = bundle.material
        if not isinstance(material, KeyMaterial):
            raise TrustError("the signature was not made with a bare key", hint="a public key cannot verify it")
        self._check_hints(material)
        payload, signature = bundle.envelope.payload, bundle.envelope.signature
        if self._verifies(signature, pae(payload)):
            return self.identity
        if insecure_legacy and self._verifies(signature, legacy_pae(payload)):
            return self.identity
        raise SignatureError("the signature does not verify under this key")

    def _check_hints(self, material: KeyMaterial) -> None:
        """Say early, and clearly, that another key signed. What is not there proves nothing and costs nothing."""
        if material.hint and material.hint != fingerprint(self._key):
            raise SignatureError(
                "the signature was made with another key",
                hint=f"it names the key {escape(material.hint[:64])}, the trusted key is {fingerprint(self._key)}",
            )
        spellings = (_pem(self._key), _pem(self._key).strip(), _der(self._key))
        if material.raw_key and material.raw_key not in spellings:
            raise SignatureError("the signature was made with another key")

    def _verifies(self, signature: bytes, data: bytes) -> bool:
        try:
            self._key.verify(signature, data, ec.ECDSA(self._hash))
        except InvalidSignature:
            return False
        return True


def generate(algorithm: str, *, password: str | bytes | None = None) -> tuple[bytes, bytes]:
    """Make a key pair.

    Args:
        algorithm: One of `ALGORITHMS`.
        password: Encrypt the private key with it: 1 to 1023 bytes.

    Returns:
        The private key (PKCS #8) and the public key (SubjectPublicKeyInfo) as PEM text.
    """
    key = ec.generate_private_key(ALGORITHMS[algorithm])
    secret = _password_bytes(password)
    if secret is not None and not 0 < len(secret) <= MAX_PASSWORD_BYTES:
        raise ValueError(f"a password has 1 to {MAX_PASSWORD_BYTES} bytes")
    encryption: serialization.KeySerializationEncryption = serialization.NoEncryption()
    if secret is not None:
        encryption = serialization.BestAvailableEncryption(secret)
    private = key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, encryption)
    return private, _pem(key.public_key())


def fingerprint(key: ec.EllipticCurvePublicKey) -> str:
    """Return OMS's hint for a key: lower-case hex SHA-256 of its PEM text."""
    return hashlib.sha256(_pem(key)).hexdigest()


def others_can_read(mode: int) -> bool:
    """Say whether a file's mode lets its group or everybody read it."""
    return bool(stat.S_IMODE(mode) & (stat.S_IRGRP | stat.S_IROTH))


def is_exposed(path: Path, status: os.stat_result) -> bool:
    """Say whether a file is no place for a secret: others can read it, and it is not how containers get secrets."""
    return others_can_read(status.st_mode) and not _on_secret_mount(path, status)


def _on_secret_mount(path: Path, status: os.stat_result) -> bool:
    """Recognise how containers get secrets: a read-only mount of its own, where the mode cannot be changed.

    A world-readable key in a container's image does not count: that is the root file system, read-only or not.
    """
    try:
        read_only = bool(os.statvfs(path).f_flag & os.ST_RDONLY)
        return read_only and status.st_dev != os.stat("/").st_dev
    except OSError:
        return False


def _load_private(data: bytes, password: str | bytes | None, source: Path) -> ec.EllipticCurvePrivateKey:
    secret: bytes | None = None
    try:
        key = serialization.load_pem_private_key(data, None)
    except TypeError:
        secret = _password_bytes(password)
        if secret is None:
            raise PasswordRequiredError(
                f"the private key {escape(str(source))} is encrypted",
                hint="pass --password-file FILE, or set SENTRY_KEY_PASSWORD",
            ) from None
        try:
            key = serialization.load_pem_private_key(data, secret)
        except (ValueError, TypeError, UnsupportedAlgorithm):
            raise UnavailableError(f"the password does not open the private key {escape(str(source))}") from None
    except (ValueError, UnsupportedAlgorithm):
        raise FormatError(f"{escape(str(source))} is {_NO_PRIVATE_KEY}") from None
    if not isinstance(key, ec.EllipticCurvePrivateKey):
        raise _unknown_type(source)
    return key


def _algorithm_of(key: ec.EllipticCurvePublicKey) -> tuple[str, hashes.HashAlgorithm]:
    if key.curve.name not in _CURVES:
        raise FormatError(f"keys on the curve {key.curve.name} are not supported; P-256, P-384 and P-521 are")
    name, hash_algorithm, _ = _CURVES[key.curve.name]
    return name, hash_algorithm


def _unknown_type(source: Path) -> FormatError:
    return FormatError(f"{escape(str(source))} is not an ECDSA key; P-256, P-384 and P-521 are supported")


def _password_bytes(password: str | bytes | None) -> bytes | None:
    return password.encode("utf-8") if isinstance(password, str) else password


def _pem(key: ec.EllipticCurvePublicKey) -> bytes:
    return key.public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)


def _der(key: ec.EllipticCurvePublicKey) -> bytes:
    return key.public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)
