# SPDX-License-Identifier: Apache-2.0
"""Verify models as they lie on disk: directories and single files.

The walk of the data: signatures are checked under the caller's trust; only then is the payload read; the tree is
listed and compared by name and size; the files are digested and compared; the tree is listed again. Whatever differs
raises. Not proved: that a file which is opened again later still has these bytes; loaders and copies that check what
they read are for that.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

from sentry import engine as engines
from sentry.bundle import Bundle
from sentry.comparison import Comparison
from sentry.engine.contract import Progress
from sentry.errors import MismatchError, RefusedError
from sentry.formats.digest import VERIFY_CHOICES
from sentry.paths import AnyPath, inside_model, relative_to_model
from sentry.signatures import (
    Signatures,
    check_signatures,
    check_trust,
    each_signature,
    file_manifest,
    hashes_to_recompute,
)
from sentry.tree import Tree
from sentry.trust import Trust
from sentry.verification import Verification


def verify_path(
    path: AnyPath,
    signature: Signatures,
    trust: Trust,
    *,
    hash: str | None = None,  # noqa: A002  (the field's word for it)
    ignore: Iterable[AnyPath] = (),
    ignore_unsigned: bool = False,
    insecure_legacy: bool = False,
    engine: str = "auto",
    progress: Progress | None = None,
) -> Verification:
    """Verify a model directory or a single file against its signature.

    Args:
        path: The model.
        signature: A signature file, a `Bundle`, or several: then each must verify, over the same payload.
        trust: Whose signature counts, for example `KeyTrust.from_file("public.pem")`.
        hash: What to recompute: `sha256`, `blake3`, `blake2b`, or `both` (SHA-256 and BLAKE3). By default BLAKE3 where
            every resource has it, else the signature's own hash.
        ignore: Paths to leave out beyond those that the signature names, relative to the current folder. Files that
            the signature lists are verified all the same.
        ignore_unsigned: Accept files that the signature does not list; they are reported as not covered.
        insecure_legacy: Accept signatures of model-signing 0.2 as well.
        engine: Where to hash: `auto`, `cpu`, `cuda`, or `cuda:N` for one GPU of several.
        progress: Called with the number of bytes hashed since the last call, from any thread.

    Returns:
        The evidence.

    Raises:
        SignatureError: The signature is missing, malformed, or not over this payload by the trusted signer.
        TrustError: No trust was given, or not of this signature's kind, or it lies inside the model.
        MismatchError: The model differs from what was signed; the names say where.
        UnavailableError: Something could not be read.
        ValueError: An argument has no meaning.
    """
    started = time.perf_counter()
    if hash is not None and hash not in VERIFY_CHOICES:
        raise ValueError(f"there is no hash {hash!r} to verify; known are {', '.join(VERIFY_CHOICES)}")
    chosen = engines.choose(engine)
    given = each_signature(signature)
    with _refusals_as_mismatches(), Tree(Path(path)) as tree:
        check_trust(trust, outside=tree.path if tree.is_directory else None)
        signed = check_signatures(given, trust, insecure_legacy=insecure_legacy)
        manifest = file_manifest(signed, insecure_legacy=insecure_legacy)
        hashes = hashes_to_recompute(manifest, hash)
        own_files = [item for item in given if not isinstance(item, Bundle)]
        comparison = Comparison(
            tree,
            manifest,
            ignore=relative_to_model(tree.path, ignore),
            signatures=[inside for item in own_files if (inside := inside_model(tree.path, item)) is not None],
            ignore_unsigned=ignore_unsigned,
        )
        comparison.compare_names_and_sizes()
        nbytes = comparison.compare_bytes(chosen.engine, hashes, progress=progress)
        comparison.compare_again()
    return Verification(
        path=tree.path,
        signers=signed.signers,
        manifest=manifest,
        payload_sha256=signed.sha256,
        hashes=hashes,
        nbytes=nbytes,
        not_covered=comparison.not_covered(),
        unchecked_hashes=tuple(name for name in manifest.hashes() if name not in hashes),
        engine=chosen.engine.name,
        engine_reason=chosen.explain(hashes),
        seconds=time.perf_counter() - started,
    )


@contextmanager
def _refusals_as_mismatches() -> Iterator[None]:
    """What a signer would refuse (a link in the place of a model, say), no signature vouches for."""
    try:
        yield
    except RefusedError as error:
        raise MismatchError(str(error), hint=error.hint) from None
