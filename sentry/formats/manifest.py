# SPDX-License-Identifier: Apache-2.0
"""What a signature over files vouches for: resources (files or shards), and the rules that their names follow.

Implements docs/format.md, "Manifest". The bytes of it are the business of `sentry.formats.oms`.
"""

from __future__ import annotations

import hashlib
import unicodedata
from collections.abc import Iterable
from dataclasses import dataclass, field
from operator import attrgetter

from sentry.errors import FormatError, RefusedError

# A signed single file goes by this name: the one spelling that the reference tool verifies.
SINGLE_FILE = "."
# Never part of a model; model-signing leaves out the same by default.
GIT_PATHS = (".git", ".gitattributes", ".github", ".gitignore")
# Deeper trees cannot be walked with one descriptor a level, and no model has them.
MAX_DEPTH = 128
# Linux's PATH_MAX, and room for the two numbers of a shard.
MAX_NAME = 4096 + 40


@dataclass(frozen=True, slots=True)
class Resource:
    """One signed file, or one shard of it.

    Attributes:
        path: POSIX path relative to the model, or `SINGLE_FILE`.
        digest: Digest of the bytes under the manifest's hash.
        start: First byte, and `end` the one behind the last; `end` is None for a whole file.
        blake3: Second digest of the same bytes, from the annotations.
        nbytes: Signed size, from the annotations; for a shard its own.
        header_sha256: SHA-256 of a safetensors file's length field and header, from the annotations.
    """

    path: str
    digest: bytes
    start: int = 0
    end: int | None = None
    blake3: bytes | None = None
    nbytes: int | None = None
    header_sha256: bytes | None = None

    @property
    def name(self) -> str:
        """The name under which the resource is listed."""
        return self.path if self.end is None else f"{self.path}:{self.start}:{self.end}"

    def digest_under(self, hash_name: str, manifest_hash: str) -> bytes | None:
        """Return the signed digest under one hash, or None where the signer gave none."""
        if hash_name == manifest_hash:
            return self.digest
        return self.blake3 if hash_name == "blake3" else None


@dataclass(frozen=True)
class Manifest:
    """The files that one signature vouches for.

    Attributes:
        subject: Informative name of the model, usually its directory's.
        hash: Digest algorithm of the resources (`hash_type`).
        resources: Signed files or shards, sorted by path when produced here.
        ignore_paths: Paths whose content the signer left out, relative to the model.
        shard_bytes: Size of a shard in bytes, or None for whole files.
        artifact_name: Name that the signer gave the artifact, if any.
        version: Version that the signer gave it, if any.
        parent: Hex SHA-256 of the payload that this one updates, if any.
        legacy: Whether it was read from the oldest format.
    """

    subject: str
    hash: str
    resources: tuple[Resource, ...] = field(repr=False)
    ignore_paths: tuple[str, ...] = ()
    shard_bytes: int | None = None
    artifact_name: str | None = None
    version: str | None = None
    parent: str | None = None
    legacy: bool = False

    def root(self) -> bytes:
        """Return OMS's root digest: SHA-256 of the resource digests in listed order. It does not bind the names."""
        state = hashlib.sha256()
        for resource in self.resources:
            state.update(resource.digest)
        return state.digest()

    def hashes(self) -> tuple[str, ...]:
        """Return the hashes under which every resource has a signed digest."""
        second = self.hash != "blake3" and all(resource.blake3 for resource in self.resources)
        return (self.hash, "blake3") if second else (self.hash,)

    def by_path(self) -> dict[str, tuple[Resource, ...]]:
        """Group the resources by file, shards in ascending order."""
        if self.shard_bytes is None:
            return {resource.path: (resource,) for resource in self.resources}
        files: dict[str, list[Resource]] = {}
        for resource in sorted(self.resources, key=attrgetter("start")):
            files.setdefault(resource.path, []).append(resource)
        return {path: tuple(shards) for path, shards in files.items()}


def is_under(path: str, ignore_paths: Iterable[str]) -> bool:
    """Say whether a path is one of the ignored paths or lies below one."""
    return any(path == ignored or path.startswith(ignored + "/") for ignored in ignore_paths)


def check_length(name: str) -> None:
    """Refuse a resource name that no path could have, before it is shown in any message.

    Raises:
        FormatError: It is longer than a path can be.
    """
    if len(name) > MAX_NAME:
        raise FormatError(f"the resource name {name[:80]!r}… is longer than a path can be")


def check_path(path: str) -> None:
    """Refuse a resource path that could lead out of the model or be spelled in two ways.

    Raises:
        FormatError: For an absolute path, an empty, `.` or `..` component (but for the single file's name), or NUL.
    """
    parts = path.split("/")
    if path != SINGLE_FILE and not {"", ".", ".."}.isdisjoint(parts):
        raise FormatError(f"the resource name {path!r} is not a plain relative path")
    if "\0" in path or len(parts) > MAX_DEPTH:
        raise FormatError(f"the resource name {path[:80]!r} is not one that a file can have")


def check_names_do_not_collide(paths: Iterable[str]) -> None:
    """Refuse paths that one file system would keep apart and another would not (every parent counts as well).

    Raises:
        RefusedError: Naming the first two that collide.
    """
    seen: dict[str, str] = {}
    for path in paths:
        parts = path.split("/")
        for depth in range(1, len(parts) + 1):
            name = "/".join(parts[:depth])
            folded = name if name.isascii() and name.islower() else fold_name(name)
            if seen.setdefault(folded, name) != name:
                raise RefusedError(
                    f"{name!r} and {seen[folded]!r} are one name where case or Unicode form do not count"
                )


def fold_name(name: str) -> str:
    """Map a name to what file systems that ignore case and Unicode form take it for (NFC, case folding)."""
    return unicodedata.normalize("NFC", unicodedata.normalize("NFC", name).casefold())
