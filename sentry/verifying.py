# SPDX-License-Identifier: Apache-2.0
"""Verify models as they lie on disk: directories and single files.

The walk of the data: signatures are checked under the caller's trust; only then is the payload read; the tree is
listed and compared by name and size; the files are digested and compared; the tree is listed again. Whatever differs
raises. Not proved: that a file which is opened again later still has these bytes; loaders and copies that check what
they read are for that.
"""

from __future__ import annotations

import time
from collections.abc import Collection, Iterable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field

from sentry import engine as engines
from sentry.bundle import Bundle
from sentry.comparison import Comparison, Detour, Selection
from sentry.engine import EngineChoice
from sentry.engine.contract import Progress
from sentry.errors import MismatchError, RefusedError
from sentry.formats.digest import VERIFY_CHOICES
from sentry.hub import resolve_model
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
        path: The model, or `hf:org/name@revision` for one on the Hugging Face Hub (docs/cli.md, "Models on a hub").
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
        UnavailableError: Something could not be read, or not be fetched.
        ValueError: An argument has no meaning.
    """
    options = Options(
        engine=choose_engine(engine, hash),
        hash=hash,
        ignore=tuple(ignore),
        ignore_unsigned=ignore_unsigned,
        insecure_legacy=insecure_legacy,
        progress=progress,
    )
    given = each_signature(signature)
    model = resolve_model(path)
    with refusals_as_mismatches(), Tree(model) as tree:
        return verify_tree(tree, given, trust, own=own_signatures(tree, given), options=options)


@dataclass(frozen=True)
class Options:
    """How to verify an opened model; what is not explained here is explained at `verify_path`.

    Attributes:
        engine: The engine, and why it was taken.
        only: Says whose bytes are wanted, by path.
        detour: Makes copies of the files, which are then digested in their place.
        started: When the work began, in seconds of `time.perf_counter`.
    """

    engine: EngineChoice
    hash: str | None = None
    ignore: tuple[AnyPath, ...] = ()
    ignore_unsigned: bool = False
    insecure_legacy: bool = False
    progress: Progress | None = None
    only: Selection | None = None
    detour: Detour = nullcontext
    started: float = field(default_factory=time.perf_counter)


def choose_engine(engine: str, hash: str | None) -> EngineChoice:  # noqa: A002
    """Turn the arguments `engine` and `hash` of a verification into the engine.

    Raises:
        ValueError: One of them has no meaning.
        EngineError: The engine cannot run here.
    """
    if hash is not None and hash not in VERIFY_CHOICES:
        raise ValueError(f"there is no hash {hash!r} to verify; known are {', '.join(VERIFY_CHOICES)}")
    return engines.choose(engine)


def verify_tree(
    tree: Tree, signatures: Sequence[AnyPath | Bundle], trust: Trust, *, own: Collection[str], options: Options
) -> Verification:
    """Verify an opened model.

    Args:
        tree: The model.
        signatures: All of them must verify.
        trust: Whose signature counts.
        own: Where those of them lie that lie in the model.
        options: The rest.

    Returns:
        The evidence.

    Raises:
        VerificationError: As in `verify_path`.
        UnavailableError: Something could not be read.
    """
    check_trust(trust, outside=tree.places)
    signed = check_signatures(signatures, trust, insecure_legacy=options.insecure_legacy)
    manifest = file_manifest(signed, insecure_legacy=options.insecure_legacy)
    hashes = hashes_to_recompute(manifest, options.hash)
    comparison = Comparison(
        tree,
        manifest,
        ignore=relative_to_model(tree.path, options.ignore),
        signatures=own,
        ignore_unsigned=options.ignore_unsigned,
        only=options.only,
    )
    comparison.compare_names_and_sizes()
    engine = options.engine.engine
    nbytes = comparison.compare_bytes(engine, hashes, detour=options.detour, progress=options.progress)
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
        engine=engine.name,
        engine_reason=options.engine.explain(hashes),
        seconds=time.perf_counter() - options.started,
        not_read=comparison.not_read(),
    )


def own_signatures(tree: Tree, signatures: Iterable[AnyPath | Bundle]) -> dict[str, AnyPath]:
    """Return the signature files that lie in a model, by their paths relative to it."""
    files = [item for item in signatures if not isinstance(item, Bundle)]
    return {inside: item for item in files if (inside := inside_model(tree.path, item)) is not None}


@contextmanager
def refusals_as_mismatches() -> Iterator[None]:
    """What a signer would refuse (a link in the place of a model, say), no signature vouches for."""
    try:
        yield
    except RefusedError as error:
        raise MismatchError(str(error), hint=error.hint) from None
