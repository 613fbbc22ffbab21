# SPDX-License-Identifier: Apache-2.0
"""From signature files to a payload that somebody trusted has signed: the first step of every verification.

Nothing of a payload is read before its signatures have been checked. Not looked at here: the artifact.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from sentry.bundle import Bundle
from sentry.errors import FormatError, SignatureError, TrustError
from sentry.formats.digest import VERIFY_CHOICES
from sentry.formats.manifest import Manifest
from sentry.formats.oms import decode_manifest
from sentry.paths import AnyPath, lies_in
from sentry.text import escape
from sentry.trust import Identity, Trust

# One signature, or several that must all verify.
Signatures = AnyPath | Bundle | Sequence[AnyPath | Bundle]


@dataclass(frozen=True)
class SignedPayload:
    """A payload whose signatures have been checked.

    Attributes:
        payload: The signed bytes.
        signers: Everyone whose signature over them was checked.
    """

    payload: bytes = field(repr=False)
    signers: tuple[Identity, ...]

    @property
    def sha256(self) -> str:
        """Hex SHA-256 of the payload: the name to use for exactly this statement."""
        return hashlib.sha256(self.payload).hexdigest()


def each_signature(signature: Signatures) -> list[AnyPath | Bundle]:
    """Return the signatures one by one.

    Raises:
        SignatureError: There is none.
    """
    if isinstance(signature, (str, os.PathLike, Bundle)):
        return [signature]
    signatures = list(signature or ())
    if not signatures:
        raise SignatureError("there is no signature")
    return signatures


def check_signatures(
    signatures: Sequence[AnyPath | Bundle], trust: Trust, *, insecure_legacy: bool = False
) -> SignedPayload:
    """Check every signature under the caller's trust.

    Raises:
        SignatureError: One is missing, malformed, not by the trusted signer, or over another payload than the first.
        TrustError: No trust was given, or not of a signature's kind.
    """
    check_trust(trust)
    bundles = [read_signature(item) for item in signatures]
    signers = tuple(trust.verify(bundle, insecure_legacy=insecure_legacy) for bundle in bundles)
    if any(bundle.envelope.payload != bundles[0].envelope.payload for bundle in bundles):
        raise SignatureError("the signatures are not over the same payload")
    return SignedPayload(bundles[0].envelope.payload, signers)


def check_trust(trust: Trust | None, *, outside: Iterable[Path] = ()) -> None:
    """Refuse trust that is none, or that lies in the directory it should vouch for.

    Args:
        trust: Whose signature counts.
        outside: Directories that may be an attacker's work.

    Raises:
        TrustError: It is none, or was read from a file inside one of `outside`.
    """
    if not isinstance(trust, Trust):
        raise TrustError(
            "no trust was given" + ("" if trust is None else f": {type(trust).__name__} is none"),
            hint="say whose signature counts: KeyTrust.from_file('public.pem')",
        )
    for place in outside:
        for source in trust.sources:
            if lies_in(source, place):
                raise TrustError(
                    f"{escape(str(source))} lies inside the model that it should vouch for",
                    hint="keep a copy of the key that reached you another way",
                )


def file_manifest(signed: SignedPayload, *, insecure_legacy: bool = False) -> Manifest:
    """Read a signed payload as a manifest of files.

    Raises:
        SignatureError: It is none.
    """
    try:
        return decode_manifest(signed.payload, legacy=insecure_legacy)
    except FormatError as error:
        raise SignatureError(f"what was signed is not a model manifest: {error}") from None


def hashes_to_recompute(manifest: Manifest, choice: str | None) -> tuple[str, ...]:
    """Turn the `hash=` argument of verification into the hashes that it means for this manifest.

    Raises:
        SignatureError: The manifest lacks one of them.
    """
    available = manifest.hashes()
    wanted = available[-1:] if choice is None else VERIFY_CHOICES[choice]
    for name in wanted:
        if name not in available:
            raise SignatureError(
                f"the signature has no {name} digests",
                hint=f"it has {' and '.join(available)}; leave the choice of hash out to take the best of them",
            )
    return wanted


def read_signature(signature: AnyPath | Bundle) -> Bundle:
    """Read a signature file; nothing in it is believed yet.

    Raises:
        SignatureError: It is missing or malformed.
        UnavailableError: It cannot be read.
    """
    if isinstance(signature, Bundle):
        return signature
    if not os.path.lexists(signature):
        raise SignatureError(
            f"there is no signature {escape(os.fspath(signature))}",
            hint="the signer makes it with `sentry sign`; --signature FILE says where else it lies",
        )
    try:
        return Bundle.read(signature)
    except FormatError as error:
        raise SignatureError(f"the signature {escape(os.fspath(signature))} is malformed: {error}") from None
