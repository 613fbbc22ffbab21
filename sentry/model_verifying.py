# SPDX-License-Identifier: Apache-2.0
"""Verify models in memory: the tensors that will be used, where they lie.

The walk of the data: signatures are checked under the caller's trust; only then is the payload read; the model's
tensors are compared by name, dtype and shape; their bytes are digested and compared. Whatever differs
raises. Not proved: that memory which somebody can still write (a mapped file, say) stays as it was; nor anything about
code.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass

from sentry import engine as engines
from sentry.errors import FormatError, MismatchError, SignatureError
from sentry.formats.manifest import Manifest
from sentry.formats.statement import decode_statement
from sentry.formats.tensors import PREDICATE_TYPE, TensorManifest, decode_tensors, read_tensors
from sentry.model_comparison import Claim, claim_of_tensors
from sentry.model_headers import Headers, claim_of_files
from sentry.model_verification import ModelVerification
from sentry.named_tensors import Model, NamedTensors, TensorRefusedError, name_tensors
from sentry.resident import Placement, place
from sentry.signatures import Signatures, SignedPayload, check_signatures, each_signature, file_manifest
from sentry.trust import Trust


def verify_model(
    model: Model,
    signature: Signatures,
    trust: Trust,
    *,
    header: bytes | Mapping[str, bytes] | None = None,
    engine: str = "auto",
) -> ModelVerification:
    """Verify the tensors of a model in memory against a signature.

    Args:
        model: A `torch.nn.Module` (its `state_dict()` counts), a state dict, or a mapping of names to arrays.
        signature: A signature file, a `Bundle`, or several: then each must verify, over the same payload. By
            `sign_model`, or over the safetensors files that the tensors were loaded from.
        trust: Whose signature counts, for example `KeyTrust.from_file("public.pem")`.
        header: With a signature over files: the length field and the header of the signed safetensors file, or those of
            each by its signed path.
        engine: `auto`: tensors on GPUs are hashed there, those on the host by the CPU; `cpu`, `cuda` or `cuda:N` insist
            on one, and on all tensors lying there.

    Returns:
        The evidence.

    Raises:
        SignatureError: The signature is missing, malformed, of another kind, or not over this payload by the trusted
            signer; or headers were not given for exactly the signed safetensors files.
        TrustError: No trust was given, or not of this signature's kind.
        MismatchError: The tensors differ from what was signed, or cannot be what was signed; the names say where.
        EngineError: An engine failed, or a tensor lies where the given one does not reach.
        ValueError: There is no such engine.
        TypeError: `model` or `header` is none.
    """
    started = time.perf_counter()
    if not engines.is_engine(engine):
        engines.choose(engine)
    signed = check_signatures(each_signature(signature), trust)
    prepared = prepare(model, signed, read_manifest(signed), header=header, engine=engine)
    prepared.claim.compare(prepared.placement.digests())
    return prepared.evidence(time.perf_counter() - started)


@dataclass(frozen=True)
class Prepared:
    """Everything that is known before the bytes are hashed.

    Attributes:
        signed: What was signed, and by whom.
        named: The tensors of the model.
        claim: What the signature says of them.
        placement: Who hashes them.
    """

    signed: SignedPayload
    named: NamedTensors
    claim: Claim
    placement: Placement

    def evidence(self, seconds: float) -> ModelVerification:
        """Return what is proved once the digests have been compared, and never before."""
        return ModelVerification(
            signers=self.signed.signers,
            manifest=self.claim.manifest,
            payload_sha256=self.signed.sha256,
            hashes=(self.claim.hash,),
            nbytes=sum(content.nbytes for content in self.claim.contents),
            tensors=tuple(tensor.name for tensor in self.named.tensors),
            not_covered=self.named.not_covered,
            unchecked_hashes=self.claim.unchecked_hashes,
            unchecked_files=self.claim.unchecked_files,
            engine=self.placement.name,
            engine_reason=self.placement.reason,
            seconds=seconds,
        )


def read_manifest(signed: SignedPayload) -> TensorManifest | Manifest:
    """Read a signed payload as a manifest of tensors, or of the files that tensors come from.

    Raises:
        SignatureError: It is neither.
    """
    try:
        statement = decode_statement(signed.payload)
        if statement.predicate_type == PREDICATE_TYPE:
            return read_tensors(statement)
    except FormatError as error:
        raise SignatureError(f"what was signed is malformed: {error}") from None
    return file_manifest(signed)


def prepare(
    model: Model,
    signed: SignedPayload,
    manifest: TensorManifest | Manifest,
    *,
    header: Headers | None,
    engine: str,
) -> Prepared:
    """Compare everything but the bytes, and choose who hashes them.

    Raises:
        SignatureError: What was signed says too little of tensors, or headers were not given as they should be.
        MismatchError: Names, dtypes, shapes or headers differ.
        EngineError: A tensor lies where the engine does not reach.
    """
    if not isinstance(manifest, TensorManifest):
        named = _name_tensors(model)
        claim = claim_of_files(manifest, header, named)
    elif header is None:
        named = _name_tensors(model)
        claim = claim_of_tensors(manifest, named)
    else:
        raise SignatureError(
            "the signature is over tensors, and a header was given as if it were over files",
            hint="leave header out",
        )
    return Prepared(signed, named, claim, place(claim.contents, claim.hash, engine))


def tensor_manifest(signed: SignedPayload) -> TensorManifest:
    """Read a signed payload as a manifest of tensors.

    Raises:
        SignatureError: It is none.
    """
    try:
        return decode_tensors(signed.payload)
    except FormatError as error:
        raise SignatureError(f"what was signed is not a tensor statement: {error}") from None


def _name_tensors(model: Model) -> NamedTensors:
    """What a signer would refuse, no signature vouches for."""
    try:
        return name_tensors(model)
    except TensorRefusedError as error:
        raise MismatchError(str(error), hint=error.hint, changed=[error.name]) from None
