# SPDX-License-Identifier: Apache-2.0
"""Keys, small models and signed lies: what a signer whose key is trusted, or who is not, could have written.

Lies are built from the reference in `reference/`, never from the code under test.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec
from reference import oms_reference

import sentry

JsonObject = dict[str, Any]
Edit = Callable[[JsonObject], object]

CURVES = {"ecdsa-p256": ec.SECP256R1(), "ecdsa-p384": ec.SECP384R1(), "ecdsa-p521": ec.SECP521R1()}
_HEADER = json.dumps({"w": {"dtype": "U8", "shape": [4], "data_offsets": [0, 4]}}).encode()
SAFETENSORS = len(_HEADER).to_bytes(8, "little") + _HEADER + b"\x01\x02\x03\x04"
SMALL_MODEL = {"config.json": b'{"layers": 2}', "sub/vocab.txt": b"a\nb\n", "w.safetensors": SAFETENSORS}


def write_private_key(path: Path, data: bytes) -> Path:
    """Write a file that only its owner can read."""
    path.touch(mode=0o600)
    path.write_bytes(data)
    return path


def write_files(directory: Path, files: Mapping[str, bytes]) -> Path:
    """Write files given by their paths, and return the directory."""
    directory.mkdir(parents=True, exist_ok=True)
    for name, data in files.items():
        path = directory / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    return directory


@dataclass(frozen=True)
class KeyPair:
    """A key pair in two PEM files."""

    key: ec.EllipticCurvePrivateKey
    private: Path
    public: Path

    @classmethod
    def make(cls, directory: Path, name: str, algorithm: str) -> KeyPair:
        """Make a key pair, with `cryptography` alone."""
        key = ec.generate_private_key(CURVES[algorithm])
        private = key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
        public = key.public_key().public_bytes(
            serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
        )
        pair = cls(key, write_private_key(directory / f"{name}.pem", private), directory / f"{name}.pub.pem")
        pair.public.write_bytes(public)
        return pair

    @cached_property
    def signer(self) -> sentry.KeySigner:
        """The private half, read from its file."""
        return sentry.KeySigner.from_file(self.private)

    @cached_property
    def trust(self) -> sentry.KeyTrust:
        """The public half, read from its file."""
        return sentry.KeyTrust.from_file(self.public)


def sign_payload(pair: KeyPair, payload: bytes) -> sentry.Bundle:
    """Sign any bytes as the payload of a bundle."""
    return sentry.Bundle.decode(oms_reference.sign(payload, pair.key))


def seal(statement: JsonObject) -> JsonObject:
    """Put the root of the listed digests into the statement's subject."""
    resources = statement.get("predicate", {}).get("resources", [])
    digests = [bytes.fromhex(resource["digest"]) for resource in resources if isinstance(resource, dict)]
    statement["subject"][0]["digest"] = {"sha256": hashlib.sha256(b"".join(digests)).hexdigest()}
    return statement


def forge(
    pair: KeyPair, files: Mapping[str, bytes], edit: Edit | None = None, *, sealed: bool = True, **options: Any
) -> sentry.Bundle:
    """Sign a statement about files after editing it.

    Args:
        pair: Who signs.
        files: What the statement speaks of before it is edited.
        edit: Changes the statement in place.
        sealed: Whether the root digest is made to fit the edited statement.
        options: For `oms_reference.statement`.
    """
    statement = oms_reference.statement("model", files, **options)
    if edit is not None:
        edit(statement)
    if sealed:
        seal(statement)
    return sign_payload(pair, oms_reference.payload(statement))


def on_first_block(action: Callable[[], object]) -> Callable[[int], None]:
    """Return a progress callback that does something when the first block of the first file has been read."""
    calls: list[int] = []

    def progress(nbytes: int) -> None:
        calls.append(nbytes)
        if len(calls) == 1:
            time.sleep(0.03)  # file systems stamp in steps of some milliseconds
            action()

    return progress
