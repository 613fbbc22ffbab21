# SPDX-License-Identifier: Apache-2.0
"""Every error that this project raises on purpose.

Each class can be made from one string, so that it survives the trip out of a worker process. A ``hint`` says what the
reader can do about it; the command line prints it on a line of its own.
"""

from __future__ import annotations

from collections.abc import Iterable


class SentryError(Exception):
    """Root of the tree: catch this to catch everything that the project raises on purpose.

    Args:
        message: What went wrong, in one sentence. Untrusted names in it are escaped where it is shown, not here.
        hint: What to do about it, if there is something to do.
    """

    def __init__(self, message: str = "", *, hint: str | None = None) -> None:
        super().__init__(message)
        self.hint = hint


class VerificationError(SentryError):
    """The artifact is not authentic, or nothing shows that it is."""


class SignatureError(VerificationError):
    """A signature is missing, malformed, or does not verify."""


class TrustError(VerificationError):
    """The signer is not one that the caller trusts, or no trust was given."""


class MismatchError(VerificationError):
    """The artifact differs from what was signed.

    Args:
        message: What differs.
        hint: What to do about it.
        missing: Names that are signed and absent.
        unexpected: Names that are present and not signed.
        changed: Names whose bytes differ, or that changed while they were read.
    """

    def __init__(
        self,
        message: str = "",
        *,
        hint: str | None = None,
        missing: Iterable[str] = (),
        unexpected: Iterable[str] = (),
        changed: Iterable[str] = (),
    ) -> None:
        super().__init__(message, hint=hint)
        self.missing = tuple(missing)
        self.unexpected = tuple(unexpected)
        self.changed = tuple(changed)


class FormatError(SentryError, ValueError):
    """Bytes that cannot be parsed as what they claim to be. Inside verify it becomes a `SignatureError`."""


class RefusedError(SentryError):
    """The artifact or the key is one that must not be used for signing."""


class UnavailableError(SentryError):
    """It could not be done: unreadable, full disk, wrong password, no network."""


class EngineError(SentryError, RuntimeError):
    """An engine cannot run, or failed while it ran. Never followed by a silent change of engine."""
