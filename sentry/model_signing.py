# SPDX-License-Identifier: Apache-2.0
"""Sign models in memory: every tensor by name, dtype, shape and bytes, hashed where it lies.

The walk of the data: the model is taken apart into named tensors, they are digested, the digests become a statement
(docs/format.md, "Tensor statements"), and the statement is signed. Code, and what the state dict leaves out, are not
in it.
"""

from __future__ import annotations

from sentry.bundle import Bundle
from sentry.formats.digest import digest_bytes
from sentry.formats.tensors import SignedTensor, TensorManifest, encode_tensors
from sentry.named_tensors import Model, name_tensors
from sentry.resident import Content, place
from sentry.trust import Signer


def sign_model(
    model: Model,
    signer: Signer,
    *,
    hash: str = "blake3",  # noqa: A002  (the field's word for it)
    name: str | None = None,
    version: str | None = None,
    engine: str = "auto",
) -> Bundle:
    """Sign the tensors of a model in memory.

    Args:
        model: A `torch.nn.Module` (its `state_dict()` counts: parameters and persistent buffers), a state dict, or a
            mapping of names to arrays: of torch, NumPy, CuPy, JAX. Tied tensors are signed under each of their names.
        signer: Who signs, for example `KeySigner.from_file("private.pem")`.
        hash: `blake3`, `sha256`, `sha3-256`, `blake2b`, `blake2b-256`, or a tree such as `merkle-sha256-8192`.
        name: Name to sign along.
        version: Version to sign along.
        engine: `auto`: tensors on GPUs are hashed there, those on the host by the CPU; `cpu`, `cuda` or `cuda:N` insist
            on one, and on all tensors lying there.

    Returns:
        The signature; `write` puts it on disk.

    Raises:
        RefusedError: A tensor whose bytes do not stand for its value, a name that is none, or no tensors at all.
        EngineError: An engine failed, or a tensor lies where the given one does not reach.
        ValueError: An argument has no meaning.
        TypeError: `signer` or `model` is none.
    """
    check_signer(signer)
    return signer.sign(
        encode_tensors(build_tensor_manifest(model, hash=hash, name=name, version=version, engine=engine))
    )


def check_signer(signer: Signer) -> None:
    """Refuse what cannot sign.

    Raises:
        TypeError: It is no signer.
    """
    if not isinstance(signer, Signer):
        raise TypeError("signer is not a signer; KeySigner.from_file('private.pem') makes one")


def build_tensor_manifest(
    model: Model,
    *,
    hash: str = "blake3",  # noqa: A002  (the field's word for it)
    name: str | None = None,
    version: str | None = None,
    parent: str | None = None,
    engine: str = "auto",
) -> TensorManifest:
    """Digest a model into the manifest that `sign_model` signs; arguments and errors are its own.

    `parent` is the hex SHA-256 of the payload that the new one updates.
    """
    digest_bytes(hash)
    tensors = name_tensors(model).tensors
    digests = place([Content((tensor,)) for tensor in tensors], hash, engine).digests()
    signed = [
        SignedTensor(tensor.name, tensor.dtype, tensor.shape, tensor.nbytes, digest)
        for tensor, digest in zip(tensors, digests, strict=True)
    ]
    return TensorManifest(hash, tuple(signed), name, version, parent)
