# SPDX-License-Identifier: Apache-2.0
"""Models on the Hugging Face Hub, named `hf:org/name@revision`: fetched into its cache, then verified like any other.

What the hub sends is believed of nothing: the signature says what is authentic. Not looked at here: that signature. A
revision only says which files to ask for.
"""

from __future__ import annotations

import os
import re
from pathlib import Path

from sentry.atomic import read_limited
from sentry.errors import FormatError, RefusedError, UnavailableError
from sentry.paths import AnyPath
from sentry.text import escape
from sentry.trust.keys import is_exposed

SCHEME = "hf:"
DEFAULT_REVISION = "main"
# In the current folder; looked for before the hub's own places.
TOKEN_FILE = "hf_access_token"  # noqa: S105  (a file's name)
MAX_TOKEN_BYTES = 4096
# The hub's rules for names (huggingface_hub, `validate_repo_id`), and of Git's for revisions what can be a path.
MAX_REPOSITORY = 96
MAX_REVISION = 255
_WORD = r"[A-Za-z0-9_](?:[A-Za-z0-9._-]*[A-Za-z0-9_])?"
_REPOSITORY = re.compile(rf"(?:{_WORD}/)?{_WORD}")
_REVISION = re.compile(rf"{_WORD}(?:/{_WORD})*")
_TOKEN = re.compile(r"[\x21-\x7e]+")
# The library's errors by name, the more special ones first: their classes are not there before it is installed.
_REASONS = (
    ("GatedRepoError", "its owner has to let you in", f"ask on the model's page; put a token into {TOKEN_FILE}"),
    ("RevisionNotFoundError", "there is no such revision", "branches, tags and commits are revisions"),
    ("RepositoryNotFoundError", "there is no such model, or it is private", f"put a token into {TOKEN_FILE}"),
    ("OfflineModeIsEnabled", "the hub is switched off", "unset HF_HUB_OFFLINE"),
    ("LocalEntryNotFoundError", "the hub cannot be reached, and the cache lacks it", "check the network"),
)
_OTHER_HINT = "check the network and the disk; the cache keeps what has arrived"


def resolve_model(path: AnyPath) -> Path:
    """Return a path unchanged, or fetch the model that `hf:org/name@revision` names.

    Args:
        path: A path, or such a reference. A file whose name begins with `hf:` is reached by its absolute path.

    Raises:
        ValueError: The reference is malformed.
        UnavailableError: It cannot be fetched.
        RefusedError: Other users can read the token.
    """
    text = os.fspath(path)
    return fetch(text) if text.startswith(SCHEME) else Path(path)


def fetch(reference: str) -> Path:
    """Fetch a model from the Hugging Face Hub, into the hub's own cache.

    Nothing is verified: whoever controls the hub, the network or the cache chooses the files, whatever the revision.

    Args:
        reference: `hf:org/name@revision` or `hf:name@revision`; without a revision, `main`.

    Returns:
        The directory of the snapshot.

    Raises:
        ValueError: The reference is malformed.
        UnavailableError: It cannot be fetched.
        RefusedError: Other users can read the token.
    """
    repository, revision = parse_reference(reference)
    token = _token()
    try:
        import huggingface_hub  # noqa: PLC0415  (an extra, and slow to load)
    except ImportError:
        raise UnavailableError(
            "fetching a model from the hub takes the package huggingface_hub",
            hint="pip install 'artifact-sentry[hub]'",
        ) from None
    try:
        place = huggingface_hub.snapshot_download(repository, revision=revision, token=token)
    except Exception as error:  # noqa: BLE001  (the library's, its HTTP client's, the system's)
        raise _not_fetched(reference, error) from None
    snapshot = Path(place)
    if not snapshot.is_dir():
        raise UnavailableError(f"cannot fetch {escape(reference)}: there is no snapshot where the hub's cache says")
    return snapshot


def parse_reference(reference: str) -> tuple[str, str]:
    """Take `hf:org/name@revision` apart into the repository and the revision.

    Raises:
        ValueError: It is malformed.
    """
    repository, separator, revision = reference.removeprefix(SCHEME).partition("@")
    revision = revision if separator else DEFAULT_REVISION
    if not reference.startswith(SCHEME) or not _is_repository(repository):
        raise ValueError(f"{escape(reference[:300])} names no model on the hub: hf:org/name@revision does")
    if len(revision) > MAX_REVISION or ".." in revision or not _REVISION.fullmatch(revision):
        raise ValueError(f"{escape(reference[:300])} names no revision: hf:org/name@revision does")
    return repository, revision


def _is_repository(name: str) -> bool:
    return (
        len(name) <= MAX_REPOSITORY
        and _REPOSITORY.fullmatch(name) is not None
        and not any(part in name for part in ("..", "--"))
        and not name.endswith(".git")
    )


def _token() -> str | None:
    """Return the token in the current folder; None leaves it to the library, which looks in places of its own."""
    path = Path(TOKEN_FILE)
    if not os.path.lexists(path):
        return None
    try:
        data, status = read_limited(path, max_bytes=MAX_TOKEN_BYTES, what="access token")
    except FormatError as error:
        raise UnavailableError(str(error)) from None
    if is_exposed(path, status):
        raise RefusedError(f"other users can read the access token {TOKEN_FILE}", hint=f"run: chmod 600 {TOKEN_FILE}")
    token = data.decode("latin-1").strip()
    if not _TOKEN.fullmatch(token):
        raise UnavailableError(f"the file {TOKEN_FILE} holds no access token")
    return token


def _not_fetched(reference: str, error: Exception) -> UnavailableError:
    """Say why, in our own words: the library's may quote headers, addresses or what a server sent."""
    kinds = (*type(error).__mro__, *type(error.__cause__).__mro__)
    names = {kind.__name__ for kind in kinds}
    for name, reason, hint in _REASONS:
        if name in names:
            return UnavailableError(f"cannot fetch {escape(reference)}: {reason}", hint=hint)
    # A system's error has a number and a fixed text for it; the messages of others are not repeated.
    reason = os.strerror(error.errno) if isinstance(error, OSError) and error.errno else type(error).__name__
    return UnavailableError(f"cannot fetch {escape(reference)}: {reason}", hint=_OTHER_HINT)
