# SPDX-License-Identifier: Apache-2.0
"""Sign a model anew after an older signature of it, and name that signature's payload as the parent.

The walk of the data: the older signature is checked under the caller's trust; the tree is listed; its files are
digested, and compared with the older digests; the new manifest names its parent and is signed. It is the manifest that
`sign_path` would build, but for the parent. Digests are taken over without reading a file only where the caller asks
for it (`insecure_trust_times`), and then only for files that a private note (`sentry.stamps`) knows.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from sentry import engine as engines
from sentry.bundle import Bundle
from sentry.comparison import files_in
from sentry.engine.contract import Progress
from sentry.errors import RefusedError
from sentry.formats.digest import SIGN_CHOICES
from sentry.formats.manifest import Manifest, Resource
from sentry.formats.oms import encode_manifest
from sentry.paths import SIGNATURE_NAME, AnyPath
from sentry.signatures import Signatures, SignedPayload, check_signatures, check_trust, each_signature, file_manifest
from sentry.signing import Digesting, check_signer, ignored_in, subject_of
from sentry.stamps import Stamps
from sentry.tree import Listing, Tree
from sentry.trust import Identity, Signer, Trust

Files = Mapping[str, tuple[Resource, ...]]


@dataclass(frozen=True)
class Update:
    """A new signature, and what it changes.

    Attributes:
        bundle: The new signature.
        manifest: What it signs.
        payload_sha256: Hex SHA-256 of what it signs.
        parent: Hex SHA-256 of the older signature's payload, which the new one names.
        parent_signers: Everyone whose signature over that payload was checked.
        added: Files that the older signature does not list; `removed` those that only it lists.
        changed: Files whose bytes differ from the older digests.
        reused: Files that were not read, because nothing seemed to have touched them (`insecure_trust_times`).
        not_covered: Paths that exist and are left out, also those that the older signer chose; directories end in a
            slash.
        hashed_bytes: How many bytes were read and digested.
    """

    bundle: Bundle = field(repr=False)
    manifest: Manifest = field(repr=False)
    payload_sha256: str
    parent: str
    parent_signers: tuple[Identity, ...]
    added: tuple[str, ...]
    removed: tuple[str, ...]
    changed: tuple[str, ...]
    reused: tuple[str, ...]
    not_covered: tuple[str, ...]
    hashed_bytes: int

    def write(self, path: str | os.PathLike[str]) -> None:
        """Write the signature file, in full or not at all; an existing one is replaced.

        Raises:
            UnavailableError: It cannot be written.
        """
        self.bundle.write(path)


def update_path(
    path: AnyPath,
    old_signature: Signatures,
    signer: Signer,
    trust: Trust,
    *,
    ignore: Iterable[AnyPath] = (),
    name: str | None = None,
    version: str | None = None,
    insecure_trust_times: bool = False,
    engine: str = "auto",
    progress: Progress | None = None,
) -> Update:
    """Sign a model anew after checking an older signature of it.

    The choice of hash, shards, ignored paths, name and version are the older signature's.

    Args:
        path: The model as it is now.
        old_signature: The older signature: a file, a `Bundle`, or several over the same payload.
        signer: Who signs now.
        trust: Whose older signature counts.
        ignore: More paths to leave out, relative to the current folder.
        name: Name to sign along, instead of the older one.
        version: Version to sign along, instead of the older one.
        insecure_trust_times: Take over the signed digest of a file without reading it, if an update by this user noted
            the file's inode, size and times and they are the same now; and note them for the next update. Whoever can
            write the file, and set the clock or map it into memory, can change it unnoticed: its old digest is signed.
        engine: Where to hash: `auto`, `cpu`, `cuda`, or `cuda:N` for one GPU of several.
        progress: Called with the number of bytes hashed since the last call, from any thread.

    Returns:
        The new signature; `write` puts it on disk.

    Raises:
        SignatureError: The older signature is missing, malformed, not by the trusted signer, or not of files.
        TrustError: No trust was given, or not of this signature's kind, or it lies inside the model.
        MismatchError: The older signature is for a file and the model is a directory, or the other way round.
        RefusedError: The model must not be signed, or has no file in common with the older signature.
        UnavailableError: Something could not be read, or others can write the notes about files.
        ValueError: An argument has no meaning.
        TypeError: `signer` is none.
    """
    check_signer(signer)
    chosen = engines.choose(engine).engine
    given = each_signature(old_signature)
    with Tree(Path(path)) as tree:
        check_trust(trust, outside=tree.places)
        old = check_signatures(given, trust)
        old_manifest = file_manifest(old)
        changes = _Changes(files_in(tree, old_manifest), old, tree.path, trust_times=insecure_trust_times)
        hashes = _hashes(old_manifest)
        outline = Manifest(
            subject=subject_of(path),
            hash=hashes[0],
            resources=(),
            ignore_paths=tuple(sorted({*ignored_in(tree, ignore), *_ignored_before(tree, old_manifest)})),
            shard_bytes=old_manifest.shard_bytes,
            artifact_name=old_manifest.artifact_name if name is None else name,
            version=old_manifest.version if version is None else version,
            parent=old.sha256,
        )
        digesting = Digesting(chosen, hashes, keep_out=signer.source, progress=progress)
        manifest, listing = digesting.fill(outline, tree, known=changes.known)
    payload = encode_manifest(manifest)
    new = SignedPayload(payload, ())
    bundle = signer.sign(payload)
    changes.remember(new, listing)
    return changes.report(bundle, manifest, new, listing)


class _Changes:
    """What became of the files that the older signature lists."""

    def __init__(self, files: Files, old: SignedPayload, model: Path, *, trust_times: bool) -> None:
        self._files = files
        self._old = old
        self._model = model
        self._stamps = Stamps(old.sha256, model) if trust_times else None
        self._reused: dict[str, tuple[Resource, ...]] = {}
        self._started_ns = time.time_ns()

    def known(self, listing: Listing) -> Files:
        """Return the files that need not be read. Stamps are only ever noted for payloads that were built here."""
        if self._files.keys().isdisjoint(listing.files):
            raise RefusedError(
                "the model has no file in common with the older signature",
                hint="it is another model's: sign this one without it",
            )
        stamps = self._stamps.read() if self._stamps is not None else {}
        for path, entry in listing.files.items():
            if path in self._files and stamps.get(path) == entry.stamp:
                self._reused[path] = self._files[path]
        return self._reused

    def remember(self, new: SignedPayload, listing: Listing) -> None:
        """Note the stamps of the new payload's files; nobody asks for those of the older one again."""
        if self._stamps is not None:
            Stamps(new.sha256, self._model).write(listing.files, listed_ns=self._started_ns)
            self._stamps.forget()

    def report(self, bundle: Bundle, manifest: Manifest, new: SignedPayload, listing: Listing) -> Update:
        """Say what the new signature changes."""
        files = manifest.by_path()
        return Update(
            bundle=bundle,
            manifest=manifest,
            payload_sha256=new.sha256,
            parent=self._old.sha256,
            parent_signers=self._old.signers,
            added=tuple(sorted(files.keys() - self._files.keys())),
            removed=tuple(sorted(self._files.keys() - files.keys())),
            changed=tuple(
                sorted(path for path in files.keys() & self._files.keys() if _differ(files[path], self._files[path]))
            ),
            reused=tuple(sorted(self._reused)),
            not_covered=tuple(sorted(path for path in listing.ignored if path != SIGNATURE_NAME)),
            hashed_bytes=sum(item.nbytes or 0 for item in manifest.resources if item.path not in self._reused),
        )


def _hashes(manifest: Manifest) -> tuple[str, ...]:
    """Return the hashes that were signed, as far as they are a choice that a signer has."""
    hashes = manifest.hashes()
    return hashes if hashes in SIGN_CHOICES.values() else hashes[:1]


def _ignored_before(tree: Tree, manifest: Manifest) -> tuple[str, ...]:
    return manifest.ignore_paths if tree.is_directory else ()


def _differ(new: tuple[Resource, ...], old: tuple[Resource, ...]) -> bool:
    return [(item.start, item.digest) for item in new] != [(item.start, item.digest) for item in old]
