# SPDX-License-Identifier: Apache-2.0
"""Who signs, and whose signature counts."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, runtime_checkable

from sentry.bundle import Bundle

# Kinds of keys that can be made; the curves behind the names are in `sentry.trust.keys`.
KEY_ALGORITHMS = ("ecdsa-p256", "ecdsa-p384", "ecdsa-p521")


@dataclass(frozen=True)
class Identity:
    """A signer whose signature was checked.

    Attributes:
        method: How the identity is known: `key`.
        name: The identity itself: for a key, the lower-case hex SHA-256 of its PEM text (the bundle's hint).
        algorithm: The signature algorithm, which follows from the trusted key: `ecdsa-p256`, for example.
    """

    method: str
    name: str
    algorithm: str

    def to_json(self) -> dict[str, object]:
        """Return the identity as a JSON value."""
        return {"method": self.method, "name": self.name, "algorithm": self.algorithm}


@runtime_checkable
class Signer(Protocol):
    """Whoever can sign a payload."""

    @property
    def identity(self) -> Identity:
        """What a verifier will know the signer by."""

    @property
    def source(self) -> Path | None:
        """The file that holds the secret, if it is one: it must not lie in what is signed."""

    def sign(self, payload: bytes) -> Bundle:
        """Sign an in-toto payload."""


@runtime_checkable
class Trust(Protocol):
    """Whoever decides whether a signature counts."""

    @property
    def sources(self) -> tuple[Path, ...]:
        """The files that trust was read from: they must not lie in what is verified."""

    def verify(self, bundle: Bundle, *, insecure_legacy: bool = False) -> Identity:
        """Check the bundle's signature over its payload, before anything in the payload is read.

        Raises:
            SignatureError: The signature does not verify.
            TrustError: It was made in another way than the one that is trusted.
        """
