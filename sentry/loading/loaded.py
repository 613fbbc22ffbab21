# SPDX-License-Identifier: Apache-2.0
"""The walk of a verified load, up to a `dict` of tensors: `load_file`.

Signatures are checked under the caller's trust; the signed files are found, opened once, and their headers parsed; a
reader fills memory that nobody else has; the bytes there are hashed when no reader can write them any more; one
comparison decides whether the caller gets anything.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from sentry.atomic import unavailable
from sentry.engine.segments import ShortReadError
from sentry.errors import MismatchError, UnavailableError
from sentry.formats.digest import VERIFY_CHOICES
from sentry.formats.manifest import Manifest
from sentry.hub import resolve_model
from sentry.loading.arguments import inside_root, refuse_order_of_safetensors, signature_beside, signed_root
from sentry.loading.checks import check_tensors
from sentry.loading.comparing import ArrivingDigests, Digests, PassingDigests, compare, resident_digests
from sentry.loading.evidence import LoadVerification
from sentry.loading.plan import HashPlan, plan_hashing, plan_readers
from sentry.loading.sources import SignedFile, Sources
from sentry.paths import AnyPath
from sentry.readers import Reader, ReaderUnavailableError, Tensors
from sentry.readers.place import Place
from sentry.signatures import (
    Signatures,
    SignedPayload,
    check_signatures,
    check_trust,
    each_signature,
    file_manifest,
    hashes_to_recompute,
)
from sentry.text import escape
from sentry.tree import Tree
from sentry.trust import Trust
from sentry.verifying import refusals_as_mismatches


class VerifiedTensors(dict[str, Any]):
    """Tensors by name, as `safetensors.torch.load_file` returns them, and the evidence.

    Attributes:
        verification: What was proved about them. It speaks of the moment of loading: whoever changes a tensor
            afterwards has changed it.
        metadata: The files' `__metadata__`.
        headers: The files' length fields and headers by their signed paths, as `verify_model` and `Watch` want them to
            check these tensors again under the same signature.
    """

    verification: LoadVerification
    metadata: Mapping[str, str]
    headers: Mapping[str, bytes]


def load_file(
    path: AnyPath,
    signature: Signatures | None = None,
    trust: Trust | None = None,
    *,
    root: AnyPath | None = None,
    device: object = "cpu",
    framework: str = "pt",
    reader: str = "auto",
    engine: str = "auto",
    hash: str | None = None,  # noqa: A002  (the field's word for it)
) -> VerifiedTensors:
    """Load a safetensors file, or all shards of a model, and verify the very bytes that were loaded.

    Args:
        path: A `.safetensors` file, a directory with one or with an index of several, or the index; or a model on the
            Hugging Face Hub, `hf:org/name@revision`.
        signature: A signature file, a `Bundle`, or several: then each must verify, over the same payload. By default
            `model.sig` in the directory, or `NAME.sig` beside a file.
        trust: Whose signature counts, for example `KeyTrust.from_file("public.pem")`.
        root: The signed directory; by default the one that holds the signature. A `Bundle` does not say.
        device: Where the tensors are to lie: `cpu`, `cuda`, `cuda:N`, a number, or a `torch.device`.
        framework: `pt` for `torch.Tensor`, `np` for `numpy.ndarray`.
        reader: Who moves the bytes: `auto`, `plain` (to the host), `ring`, `instanttensor`, `fastsafetensors` or
            `cufile` (to GPUs). The evidence says which did, and why no other.
        engine: Where to hash: `auto`, `cpu`, `cuda` or `cuda:N`.
        hash: What to recompute, as in `verify_path`; by default BLAKE3 where it is signed.

    Returns:
        The tensors, each in memory of its own; `.verification` is the evidence.

    Raises:
        SignatureError: The signature is missing, malformed, or not over this payload by the trusted signer.
        TrustError: No trust was given, or it lies inside the signed directory.
        MismatchError: What was loaded is not what was signed. Nothing is returned then.
        UnavailableError: Something could not be read, or there is no room.
        EngineError: The engine cannot run here.
        ValueError: An argument has no meaning.
        TypeError: The arguments are in safetensors' order.
    """
    started = time.perf_counter()
    refuse_order_of_safetensors(signature, trust)
    if hash is not None and hash not in VERIFY_CHOICES:
        raise ValueError(f"there is no hash {hash!r} to verify; known are {', '.join(VERIFY_CHOICES)}")
    path = resolve_model(path)
    place = Place.of(framework, device)
    plan_readers(reader, place, None)
    place.check_available()
    given = each_signature(signature_beside(path) if signature is None else signature)
    check_trust(trust)
    with refusals_as_mismatches():
        signed = check_signatures(given, trust)  # type: ignore[arg-type]
        manifest = file_manifest(signed)
        hashes = hashes_to_recompute(manifest, hash)
        plan = plan_hashing(engine, hashes, place)
        with Tree(signed_root(path, root, given, manifest)) as tree:
            check_trust(trust, outside=tree.places)
            with Sources(tree, manifest, plan.engine, hashes) as sources:
                inside, is_directory = inside_root(tree, path)
                files = sources.open(inside, is_directory=is_directory)
                load = _Load(files, manifest, hashes, place, plan)
                loaded = load.run(reader)
    tensors = VerifiedTensors()
    for of_file in loaded:
        tensors.update(of_file)
    tensors.metadata = {key: value for file in files for key, value in file.source.header.metadata.items()}
    tensors.headers = {file.source.path: file.source.header_data for file in files}
    tensors.verification = load.evidence(tree.path, signed, started)
    return tensors


class _Load:
    """One load of files that are open."""

    def __init__(
        self, files: Sequence[SignedFile], manifest: Manifest, hashes: Sequence[str], place: Place, plan: HashPlan
    ) -> None:
        self._files = files
        self._sources = [file.source for file in files]
        self._manifest = manifest
        self._hashes = hashes
        self._place = place
        self._plan = plan
        self.reader = ""
        self.reader_reason = ""

    def run(self, reader: str) -> list[Tensors]:
        """Read, check, hash and compare; returns the tensors of each file only if all is as it was signed."""
        observer = self._observer()
        try:
            readers, self.reader_reason = plan_readers(reader, self._place, observer)
            with _read_errors(self._files):
                loaded = self._read(readers, chosen=reader)
            digests = self._look_and_digest(loaded, observer if self.reader == "ring" else None)
            compare(self._files, self._manifest, digests)
            for file in self._files:
                file.check_unchanged()
        finally:
            if observer is not None:
                observer.close()
        return loaded

    def _look_and_digest(self, loaded: Sequence[Tensors], observer: ArrivingDigests | PassingDigests | None) -> Digests:
        """Look at the tensors, and return their digests: on a GPU at the same time, since it hashes by itself."""

        def digest() -> Digests:
            if observer is not None:
                return observer.digests()
            return resident_digests(self._plan.engine, self._hashes, self._files, loaded)

        if self._place.ordinal is None:
            self._look_at(loaded)
            return digest()
        with ThreadPoolExecutor(1, thread_name_prefix="sentry-check") as pool:
            looked_at = pool.submit(self._look_at, loaded)
            try:
                return digest()
            finally:
                looked_at.result()

    def _look_at(self, loaded: Sequence[Tensors]) -> None:
        for file in self._files:
            file.check_listed()
        check_tensors(self._sources, loaded, self._place, self.reader)

    def evidence(self, root: Path, signed: SignedPayload, started: float) -> LoadVerification:
        """Return the evidence of a load that `run` has finished."""
        return LoadVerification(
            root=root,
            signers=signed.signers,
            manifest=self._manifest,
            payload_sha256=signed.sha256,
            files=tuple(source.path for source in self._sources),
            tensors=sum(len(source.header.tensors) for source in self._sources),
            nbytes=sum(source.nbytes for source in self._sources),
            hashes=tuple(self._hashes),
            unchecked_hashes=tuple(name for name in self._manifest.hashes() if name not in self._hashes),
            device=str(self._place),
            verified_at="host" if self._plan.at_host or self._place.ordinal is None else "device",
            reader=self.reader,
            reader_reason=self.reader_reason,
            engine=self._plan.engine.name,
            engine_reason=self._plan.reason,
            seconds=time.perf_counter() - started,
        )

    def _observer(self) -> ArrivingDigests | PassingDigests | None:
        if self._place.ordinal is None:
            return None
        if self._plan.at_host:
            return PassingDigests(self._hashes, self._files)
        whole_files = self._manifest.shard_bytes is None
        if whole_files and tuple(self._hashes) == ("blake3",):
            return ArrivingDigests(self._plan.engine, self._files, self._place)
        return None

    def _read(self, readers: Sequence[Reader], *, chosen: str) -> list[Tensors]:
        """Let the first reader that can do it read."""
        for reader in readers:
            try:
                loaded = reader.load(self._sources, self._place)
            except ReaderUnavailableError as error:
                if chosen != "auto":
                    raise UnavailableError(f"the reader {chosen} cannot be used: {error}") from error
                self.reader_reason = f"{reader.name}: {error}; {self.reader_reason}"
                continue
            self.reader = reader.name
            return loaded
        raise UnavailableError(f"no reader can be used: {self.reader_reason}")


@contextmanager
def _read_errors(files: Sequence[SignedFile]) -> Iterator[None]:
    """Turn what reading raises into words."""
    try:
        yield
    except ShortReadError:
        short = [file.source.path for file in files if os.fstat(file.source.descriptor).st_size < file.source.nbytes]
        shown = escape(short[0]) if short else "a file"
        raise MismatchError(f"{shown} became shorter while it was read", changed=short) from None
    except OSError as error:
        raise unavailable(error, f"cannot read {escape(str(error.filename or 'the model'))}") from None
