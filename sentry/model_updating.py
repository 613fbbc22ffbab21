# SPDX-License-Identifier: Apache-2.0
"""Sign the next version of a model in memory, with a reference to the statement that it comes from.

Every digest is recomputed: nothing else tells which tensors changed.
"""

from __future__ import annotations

from dataclasses import dataclass

from sentry.bundle import Bundle
from sentry.formats.tensors import TensorManifest, encode_tensors
from sentry.model_signing import build_tensor_manifest, check_signer
from sentry.model_verifying import tensor_manifest
from sentry.named_tensors import Model
from sentry.signatures import Signatures, check_signatures, each_signature
from sentry.trust import Signer, Trust


@dataclass(frozen=True)
class ModelChanges:
    """How two statements about tensors differ.

    Attributes:
        added: Names that only the new one has.
        removed: Names that only the old one has.
        changed: Names whose dtype, shape or bytes differ.
    """

    added: tuple[str, ...]
    removed: tuple[str, ...]
    changed: tuple[str, ...]


def update_model(
    model: Model,
    old_signature: Signatures,
    signer: Signer,
    trust: Trust,
    *,
    name: str | None = None,
    version: str | None = None,
    engine: str = "auto",
) -> Bundle:
    """Sign the tensors of a model that grew out of a signed one.

    Args:
        model: As for `sign_model`.
        old_signature: The signature that `sign_model` or `update_model` made of the earlier model. The earlier tensors
            are not needed, and are not looked at.
        signer: Who signs the new one.
        trust: Whose signature over the old one counts.
        name: Name to sign along; by default the old one.
        version: Version to sign along; by default the old one.
        engine: As for `sign_model`.

    Returns:
        The signature over the new tensors, under the old hash; its `parent` is the old payload's SHA-256.
        `changed_tensors(old, new)` says what differs.

    Raises:
        SignatureError: The old signature is missing, malformed, not by the trusted signer, or not over tensors.
        TrustError: No trust was given, or not of the old signature's kind.
        RefusedError: As for `sign_model`.
        EngineError: As for `sign_model`.
        ValueError: As for `sign_model`.
        TypeError: As for `sign_model`.
    """
    check_signer(signer)
    signed = check_signatures(each_signature(old_signature), trust)
    old = tensor_manifest(signed)
    manifest = build_tensor_manifest(
        model,
        hash=old.hash,
        name=old.name if name is None else name,
        version=old.version if version is None else version,
        parent=signed.sha256,
        engine=engine,
    )
    return signer.sign(encode_tensors(manifest))


def changed_tensors(old: TensorManifest, new: TensorManifest) -> ModelChanges:
    """Say how two statements differ, from their digests; `decode_tensors(bundle.envelope.payload)` reads one.

    Raises:
        ValueError: They use different hashes, and cannot be compared.
    """
    if old.hash != new.hash:
        raise ValueError(f"digests under {old.hash} and {new.hash} cannot be compared")
    before, after = old.by_name(), new.by_name()
    return ModelChanges(
        added=tuple(sorted(after.keys() - before.keys())),
        removed=tuple(sorted(before.keys() - after.keys())),
        changed=tuple(sorted(name for name in before.keys() & after.keys() if before[name] != after[name])),
    )
