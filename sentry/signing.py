# SPDX-License-Identifier: Apache-2.0
"""Sign models as they lie on disk: directories and single files.

The walk of the data: the tree is listed, its files are digested where they lie, the tree is listed again, the digests
become a manifest (docs/format.md, "Manifest"), and the manifest is signed.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import chain
from operator import attrgetter
from pathlib import Path

from sentry import engine as engines
from sentry.atomic import unavailable
from sentry.bundle import Bundle
from sentry.engine.contract import Engine, Progress
from sentry.errors import RefusedError
from sentry.formats.digest import DEFAULT_SIGN_CHOICE, SIGN_CHOICES
from sentry.formats.manifest import GIT_PATHS, Manifest, Resource
from sentry.formats.oms import encode_manifest
from sentry.formats.strict_json import MAX_INTEGER
from sentry.hashing import ChangedError, OpenFile, map_files, safetensors_header_sha256
from sentry.paths import SIGNATURE_NAME, AnyPath, lies_in, relative_to_model
from sentry.text import escape
from sentry.tree import Entry, Listing, Tree
from sentry.trust import Signer

# Which of the listed files need not be read, by path, with the resources that stand for them.
Known = Callable[[Listing], Mapping[str, tuple[Resource, ...]]]

_TRY_AGAIN = "sign it when nobody writes to it"


def sign_path(
    path: AnyPath,
    signer: Signer,
    *,
    hash: str = DEFAULT_SIGN_CHOICE,  # noqa: A002  (the field's word for it)
    ignore: Iterable[AnyPath] = (),
    shard_bytes: int | None = None,
    name: str | None = None,
    version: str | None = None,
    engine: str = "auto",
    progress: Progress | None = None,
) -> Bundle:
    """Sign a model directory or a single file, in OpenSSF Model Signing v1.0.

    Args:
        path: The model. A directory's `.git`, `.github`, `.gitignore`, `.gitattributes` and `model.sig` are left out.
        signer: Who signs, for example `KeySigner.from_file("private.pem")`.
        hash: `sha256+blake3`, `sha256`, `blake3` or `blake2b`.
        ignore: More paths to leave out, relative to the current folder. They are recorded in the signature.
        shard_bytes: Sign ranges of at most this many bytes instead of whole files.
        name: Name to sign along; a verifier never takes it from the directory.
        version: Version to sign along.
        engine: Where to hash: `auto`, `cpu`, `cuda`, or `cuda:N` for one GPU of several.
        progress: Called with the number of bytes hashed since the last call, from any thread.

    Returns:
        The signature; `write` puts it on disk.

    Raises:
        RefusedError: The model must not be signed: empty, links, special files, names that collide, files that change.
        UnavailableError: Something could not be read.
        ValueError: An argument has no meaning.
        TypeError: `signer` is none.
    """
    check_signer(signer)
    manifest = build_manifest(
        path,
        hash=hash,
        ignore=ignore,
        shard_bytes=shard_bytes,
        name=name,
        version=version,
        keep_out=signer.source,
        engine=engine,
        progress=progress,
    )
    return signer.sign(encode_manifest(manifest))


def build_manifest(
    path: AnyPath,
    *,
    hash: str = DEFAULT_SIGN_CHOICE,  # noqa: A002  (the field's word for it)
    ignore: Iterable[AnyPath] = (),
    shard_bytes: int | None = None,
    name: str | None = None,
    version: str | None = None,
    keep_out: Path | None = None,
    engine: str = "auto",
    progress: Progress | None = None,
) -> Manifest:
    """Digest a model into the manifest that `sign_path` signs; arguments and errors are its own.

    `keep_out` is a secret that must not lie inside the model.
    """
    _check_arguments(hash, shard_bytes)
    chosen = engines.choose(engine).engine
    with Tree(Path(path)) as tree:
        outline = Manifest(
            subject=subject_of(path),
            hash=SIGN_CHOICES[hash][0],
            resources=(),
            ignore_paths=ignored_in(tree, ignore),
            shard_bytes=shard_bytes,
            artifact_name=name,
            version=version,
        )
        digesting = Digesting(chosen, SIGN_CHOICES[hash], keep_out=keep_out, progress=progress)
        return digesting.fill(outline, tree)[0]


def check_signer(signer: object) -> None:
    """Refuse what cannot sign, before anything is hashed.

    Raises:
        TypeError: It is no signer.
    """
    if not isinstance(signer, Signer):
        raise TypeError("signer is not a signer; KeySigner.from_file('private.pem') makes one")


def subject_of(path: AnyPath) -> str:
    """Return the informative name of a model: its own."""
    return os.path.basename(os.path.abspath(path)) or "model"


def ignored_in(tree: Tree, ignore: Iterable[AnyPath]) -> tuple[str, ...]:
    """Return the paths that are left out of a model, relative to it, and get recorded."""
    ignored = relative_to_model(tree.path, ignore)
    return tuple(sorted({*GIT_PATHS, SIGNATURE_NAME, *ignored}) if tree.is_directory else ignored)


@dataclass(frozen=True)
class Digesting:
    """How the files of a manifest are digested.

    Attributes:
        engine: Where to hash.
        hashes: The manifest's hash, and the second one, if any.
        keep_out: A secret that must not lie inside the model.
        progress: Called with the number of bytes hashed since the last call, from any thread.
    """

    engine: Engine
    hashes: Sequence[str]
    keep_out: Path | None = None
    progress: Progress | None = None

    def fill(self, outline: Manifest, tree: Tree, *, known: Known | None = None) -> tuple[Manifest, Listing]:
        """Digest a tree into a manifest that has everything but its resources.

        Args:
            outline: The manifest without resources.
            tree: The opened model.
            known: Says which of the listed files need not be read, and the resources that stand for them.

        Returns:
            The manifest, and the files as they were listed before and after they were hashed.

        Raises:
            RefusedError: The model must not be signed.
            UnavailableError: Something could not be read.
        """
        listing = tree.list(outline.ignore_paths)
        if self.keep_out is not None and (
            any(lies_in(self.keep_out, place) for place in tree.places) or listing.has_file(self.keep_out)
        ):
            raise RefusedError("the private key lies inside the model", hint="move it out: models get published")
        _refuse_what_cannot_be_signed(listing, outline.shard_bytes)
        reused = known(listing) if known is not None else {}
        unread = {path: entry for path, entry in listing.files.items() if path not in reused}
        worker = _Worker(self.hashes, outline.shard_bytes, self.progress)
        resources = [*chain.from_iterable(reused.values()), *_hash_files(tree, unread, self.engine, worker)]
        if not listing.same_as(tree.list(outline.ignore_paths)):
            raise RefusedError("the model changed while it was hashed", hint=_TRY_AGAIN)
        return replace(outline, resources=tuple(sorted(resources, key=attrgetter("path", "start")))), listing


class _Worker:
    """Turns an open file into the resources that get signed."""

    def __init__(self, hashes: Sequence[str], shard_bytes: int | None, progress: Progress | None) -> None:
        self._hashes = hashes
        self._shard_bytes = shard_bytes
        self._progress = progress

    def __call__(self, engine: Engine, file: OpenFile) -> list[Resource]:
        header = safetensors_header_sha256(engine, file) if file.name.endswith(".safetensors") else None
        if self._shard_bytes is None:
            return [self._resource(engine, file, 0, None, header)]
        starts = range(0, file.nbytes, self._shard_bytes)
        return [
            self._resource(
                engine, file, start, min(start + self._shard_bytes, file.nbytes), header if start == 0 else None
            )
            for start in starts
        ]

    def _resource(self, engine: Engine, file: OpenFile, start: int, end: int | None, header: bytes | None) -> Resource:
        stop = file.nbytes if end is None else end
        digests = file.digest_range(engine, self._hashes, start, stop, progress=self._progress)
        second = digests["blake3"] if len(self._hashes) > 1 else None
        return Resource(file.path, digests[self._hashes[0]], start, end, second, stop - start, header)


def _check_arguments(hash_choice: str, shard_bytes: int | None) -> None:
    if hash_choice not in SIGN_CHOICES:
        raise ValueError(f"there is no hash {hash_choice!r} to sign with; known are {', '.join(SIGN_CHOICES)}")
    if shard_bytes is not None and not 0 < shard_bytes <= MAX_INTEGER:
        raise ValueError("shard_bytes must be positive, and below 2^63")


def _refuse_what_cannot_be_signed(listing: Listing, shard_bytes: int | None) -> None:
    for path, kind in sorted(listing.irregular.items()):
        hint = "sign a copy in which files stand in place of links: cp -rL" if "link" in kind else None
        raise RefusedError(f"'{escape(path)}' is {kind}, which cannot be signed", hint=hint)
    if not listing.files:
        raise RefusedError("there is nothing to sign: the model has no files")
    empty = [path for path, entry in listing.files.items() if entry.nbytes == 0]
    if shard_bytes is not None and empty:
        raise RefusedError(
            f"'{escape(min(empty))}' is empty, and shards cannot list an empty file",
            hint="sign whole files (leave out --shard-bytes), or ignore it",
        )


def _hash_files(tree: Tree, files: Mapping[str, Entry], engine: Engine, worker: _Worker) -> tuple[Resource, ...]:
    sizes = {path: entry.nbytes for path, entry in files.items()}
    resources: list[Resource] = []
    try:
        for path, result in map_files(tree, sizes, engine, worker, listed=files):
            if isinstance(result, ChangedError):
                raise RefusedError(f"{escape(path)}: {result}", hint=_TRY_AGAIN)
            resources += result
    except OSError as error:
        raise unavailable(error, f"cannot read {escape(str(error.filename))}") from None
    return tuple(resources)
