# SPDX-License-Identifier: Apache-2.0
"""Evidence: what verifying a model in memory returns when it does not raise."""

from __future__ import annotations

from dataclasses import dataclass, field

from sentry.formats.manifest import Manifest
from sentry.formats.tensors import TensorManifest
from sentry.trust import Identity


@dataclass(frozen=True)
class ModelVerification:
    """What was proved about the tensors of a model in memory, by whom they are vouched for, and what was not looked at.

    Attributes:
        signers: Everyone whose signature over the payload was checked.
        manifest: The signed list of tensors, or of the files that they came from.
        payload_sha256: Hex SHA-256 of the signed payload: the name to use for exactly this statement.
        hashes: The digest algorithms that were recomputed, over every tensor.
        nbytes: How many bytes were hashed.
        tensors: Names of the verified tensors.
        not_covered: Names of parameters and buffers that the model has and that its state dict leaves out: nobody
            vouches for them.
        unchecked_hashes: Digest algorithms that the signature gives and that were not recomputed.
        unchecked_files: Signed files that tensors do not come from (configuration, say), and that were not looked at.
        engine: Names of the engines that computed the digests, joined by `+`.
        engine_reason: Why it was those.
        seconds: Wall time of the verification.
    """

    signers: tuple[Identity, ...]
    manifest: TensorManifest | Manifest = field(repr=False)
    payload_sha256: str
    hashes: tuple[str, ...]
    nbytes: int
    tensors: tuple[str, ...] = field(repr=False)
    not_covered: tuple[str, ...]
    unchecked_hashes: tuple[str, ...]
    unchecked_files: tuple[str, ...]
    engine: str
    engine_reason: str
    seconds: float

    @property
    def name(self) -> str | None:
        """The name that the signer gave the artifact, if any."""
        return self.manifest.name if isinstance(self.manifest, TensorManifest) else self.manifest.artifact_name

    def to_json(self) -> dict[str, object]:
        """Return the evidence as a JSON value."""
        return {
            "verified": True,
            "signers": [signer.to_json() for signer in self.signers],
            "name": self.name,
            "version": self.manifest.version,
            "parent": self.manifest.parent,
            "payload_sha256": self.payload_sha256,
            "hashes": list(self.hashes),
            "unchecked_hashes": list(self.unchecked_hashes),
            "unchecked_files": list(self.unchecked_files),
            "tensors": len(self.tensors),
            "bytes": self.nbytes,
            "not_covered": list(self.not_covered),
            "engine": self.engine,
            "engine_reason": self.engine_reason,
            "seconds": round(self.seconds, 6),
        }
