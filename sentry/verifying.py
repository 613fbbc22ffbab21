# SPDX-License-Identifier: Apache-2.0
"""Verify models as they lie on disk: directories and single files.

The walk of the data: signatures are checked under the caller's trust; only then is the payload read; the tree is
listed and compared by name and size; the files are digested and compared; the tree is listed again. Whatever differs
raises. Not proved: that a file which is opened again later still has these bytes; loaders and copies that check what
they read are for that.
"""

from __future__ import annotations

import hashlib
import os
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from sentry import engine as engines
from sentry.bundle import Bundle
from sentry.comparison import Comparison
from sentry.engine.contract import Progress
from sentry.errors import FormatError, MismatchError, RefusedError, SignatureError, TrustError
from sentry.formats.digest import VERIFY_CHOICES
from sentry.formats.manifest import Manifest
from sentry.formats.oms import decode_manifest
from sentry.paths import AnyPath, inside_model, lies_in, relative_to_model
from sentry.text import escape
from sentry.tree import Tree
from sentry.trust import Identity, Trust
from sentry.verification import Verification


def verify_path(
    path: AnyPath,
    signature: AnyPath | Bundle | Sequence[AnyPath | Bundle],
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
    given = _as_sequence(signature)
    with _refusals_as_mismatches(), Tree(Path(path)) as tree:
        _refuse_trust_inside(tree, trust)
        bundles = [_read(item) for item in given]
        signers = _check_signatures(bundles, trust, insecure_legacy=insecure_legacy)
        payload = bundles[0].envelope.payload
        manifest = _read_manifest(payload, insecure_legacy=insecure_legacy)
        hashes = _hashes_to_recompute(manifest, hash)
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
        signers=signers,
        manifest=manifest,
        payload_sha256=hashlib.sha256(payload).hexdigest(),
        hashes=hashes,
        nbytes=nbytes,
        not_covered=comparison.not_covered(),
        unchecked_hashes=tuple(name for name in manifest.hashes() if name not in hashes),
        engine=chosen.engine.name,
        engine_reason=chosen.explain(hashes),
        seconds=time.perf_counter() - started,
    )


def _as_sequence(signature: AnyPath | Bundle | Sequence[AnyPath | Bundle]) -> list[AnyPath | Bundle]:
    if isinstance(signature, (str, os.PathLike, Bundle)):
        return [signature]
    signatures = list(signature)
    if not signatures:
        raise SignatureError("there is no signature")
    return signatures


@contextmanager
def _refusals_as_mismatches() -> Iterator[None]:
    """What a signer would refuse (a link in the place of a model, say), no signature vouches for."""
    try:
        yield
    except RefusedError as error:
        raise MismatchError(str(error), hint=error.hint) from None


def _refuse_trust_inside(tree: Tree, trust: Trust) -> None:
    if not isinstance(trust, Trust):
        raise TrustError(
            "no trust was given" + ("" if trust is None else f": {type(trust).__name__} is none"),
            hint="say whose signature counts: KeyTrust.from_file('public.pem')",
        )
    for source in trust.sources if tree.is_directory else ():
        if lies_in(source, tree.path):
            raise TrustError(
                f"{escape(str(source))} lies inside the model that it should vouch for",
                hint="keep a copy of the key that reached you another way",
            )


def _read(signature: AnyPath | Bundle) -> Bundle:
    if isinstance(signature, Bundle):
        return signature
    if not os.path.lexists(signature):
        raise SignatureError(
            f"there is no signature {escape(os.fspath(signature))}",
            hint="the signer makes it with `sentry sign`; --signature FILE says where else it lies",
        )
    try:
        return Bundle.read(signature)
    except FormatError as error:
        raise SignatureError(f"the signature {escape(os.fspath(signature))} is malformed: {error}") from None


def _check_signatures(bundles: Sequence[Bundle], trust: Trust, *, insecure_legacy: bool) -> tuple[Identity, ...]:
    signers = tuple(trust.verify(bundle, insecure_legacy=insecure_legacy) for bundle in bundles)
    if any(bundle.envelope.payload != bundles[0].envelope.payload for bundle in bundles):
        raise SignatureError("the signatures are not over the same payload")
    return signers


def _read_manifest(payload: bytes, *, insecure_legacy: bool) -> Manifest:
    try:
        return decode_manifest(payload, legacy=insecure_legacy)
    except FormatError as error:
        raise SignatureError(f"what was signed is not a model manifest: {error}") from None


def _hashes_to_recompute(manifest: Manifest, choice: str | None) -> tuple[str, ...]:
    available = manifest.hashes()
    wanted = available[-1:] if choice is None else VERIFY_CHOICES[choice]
    for name in wanted:
        if name not in available:
            raise SignatureError(
                f"the signature has no {name} digests",
                hint=f"it has {' and '.join(available)}; leave the choice of hash out to take the best of them",
            )
    return wanted
