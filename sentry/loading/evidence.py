# SPDX-License-Identifier: Apache-2.0
"""Evidence of a verified load: what was proved about tensors that are now in memory."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from sentry.formats.manifest import Manifest
from sentry.trust import Identity


@dataclass(frozen=True)
class LoadVerification:
    """What was proved about loaded tensors: their bytes, as they lie in memory, are those that somebody signed.

    Attributes:
        root: The signed directory, or the signed file.
        signers: Everyone whose signature over the payload was checked.
        manifest: The signed list of files. Only `files` were looked at.
        payload_sha256: Hex SHA-256 of the signed payload.
        files: Paths of the loaded files, relative to `root`.
        tensors: How many tensors they hold.
        nbytes: How many bytes were hashed.
        hashes: The digest algorithms that were recomputed.
        unchecked_hashes: Digest algorithms that the signature gives and that were not recomputed.
        device: Where the tensors lie: `cpu`, or `cuda:0`, for example.
        verified_at: `device` if the bytes were hashed in a GPU's memory, `host` if in the host's.
        reader: Which reader moved the bytes.
        reader_reason: Why it was that one, and why others were not.
        engine: Which engine computed the digests.
        engine_reason: Why it was that one.
        seconds: Wall time of the load, verification included.
    """

    root: Path
    signers: tuple[Identity, ...]
    manifest: Manifest = field(repr=False)
    payload_sha256: str
    files: tuple[str, ...]
    tensors: int
    nbytes: int
    hashes: tuple[str, ...]
    unchecked_hashes: tuple[str, ...]
    device: str
    verified_at: str
    reader: str
    reader_reason: str
    engine: str
    engine_reason: str
    seconds: float

    def to_json(self) -> dict[str, object]:
        """Return the evidence as a JSON value."""
        return {
            "verified": True,
            "root": str(self.root),
            "signers": [signer.to_json() for signer in self.signers],
            "name": self.manifest.artifact_name,
            "version": self.manifest.version,
            "payload_sha256": self.payload_sha256,
            "files": list(self.files),
            "tensors": self.tensors,
            "bytes": self.nbytes,
            "hashes": list(self.hashes),
            "unchecked_hashes": list(self.unchecked_hashes),
            "device": self.device,
            "verified_at": self.verified_at,
            "reader": self.reader,
            "reader_reason": self.reader_reason,
            "engine": self.engine,
            "engine_reason": self.engine_reason,
            "seconds": round(self.seconds, 6),
        }
