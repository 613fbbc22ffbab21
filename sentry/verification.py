# SPDX-License-Identifier: Apache-2.0
"""Evidence: what verify returns when it does not raise."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from sentry.formats.manifest import Manifest
from sentry.trust import Identity


@dataclass(frozen=True)
class Verification:
    """What was proved about a model, by whom it is vouched for, and what was not looked at.

    Attributes:
        path: The model as it was named.
        signers: Everyone whose signature over the payload was checked.
        manifest: The signed list of files.
        payload_sha256: Hex SHA-256 of the signed payload: the name to use for exactly this statement.
        hashes: The digest algorithms that were recomputed, over all of `files`. Others in the manifest are only claims.
        nbytes: How many bytes were hashed.
        not_covered: Paths that exist and that nobody vouches for; directories end in a slash.
        unchecked_hashes: Digest algorithms that the signature gives and that were not recomputed.
        engine: Name of the engine that computed the digests.
        engine_reason: Why it was that one.
        seconds: Wall time of the verification.
        not_read: Signed files that the caller did not ask for: there, of the signed size, and otherwise unknown.
    """

    path: Path
    signers: tuple[Identity, ...]
    manifest: Manifest = field(repr=False)
    payload_sha256: str
    hashes: tuple[str, ...]
    nbytes: int
    not_covered: tuple[str, ...]
    unchecked_hashes: tuple[str, ...]
    engine: str
    engine_reason: str
    seconds: float
    not_read: tuple[str, ...] = ()

    @property
    def files(self) -> tuple[str, ...]:
        """Paths of the verified files, relative to the model."""
        return tuple(path for path in self.manifest.by_path() if path not in self.not_read)

    def digest(self, path: str, hash_name: str | None = None) -> bytes:
        """Return the recomputed digest of one verified file.

        Args:
            path: Path relative to the model.
            hash_name: One of `hashes`; by default the first.

        Raises:
            KeyError: The file is not signed as a whole, was not read, or that hash was not recomputed.
        """
        hash_name = hash_name or self.hashes[0]
        for resource in self.manifest.resources:
            if resource.path == path and resource.end is None and hash_name in self.hashes and path in self.files:
                digest = resource.digest_under(hash_name, self.manifest.hash)
                if digest is not None:
                    return digest
        raise KeyError(path)

    def to_json(self) -> dict[str, object]:
        """Return the evidence as a JSON value (`sentry verify --json`)."""
        return {
            "verified": True,
            "path": str(self.path),
            "signers": [signer.to_json() for signer in self.signers],
            "name": self.manifest.artifact_name,
            "version": self.manifest.version,
            "parent": self.manifest.parent,
            "payload_sha256": self.payload_sha256,
            "hashes": list(self.hashes),
            "unchecked_hashes": list(self.unchecked_hashes),
            "files": len(self.files),
            "bytes": self.nbytes,
            "not_covered": list(self.not_covered),
            "not_read": list(self.not_read),
            "engine": self.engine,
            "engine_reason": self.engine_reason,
            "seconds": round(self.seconds, 6),
        }
