# SPDX-License-Identifier: Apache-2.0
"""Which signed files a path means, opened once each, with headers read once: what is parsed is what will be hashed.

Every file is found by its exact path relative to the signed directory, opened by descriptor without following a link,
and checked for its signed size and header digest before its header is parsed.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Self

from sentry.atomic import unavailable
from sentry.comparison import files_in
from sentry.engine.contract import Engine
from sentry.engine.segments import FileRange, HostBytes, ShortReadError, read_all
from sentry.errors import FormatError, MismatchError
from sentry.formats import strict_json
from sentry.formats.manifest import SINGLE_FILE, Manifest, Resource, is_under
from sentry.formats.safetensors import (
    LENGTH_BYTES,
    MAX_HEADER_BYTES,
    MAX_UNSIGNED_HEADER_BYTES,
    header_nbytes,
)
from sentry.formats.strict_json import Reader
from sentry.readers import SourceFile
from sentry.text import escape, join_names
from sentry.tree import NotAFileError, Tree, stamp_of

SUFFIX = ".safetensors"
INDEX_SUFFIX = ".safetensors.index.json"
# What transformers and diffusers write for 100,000 tensors is a tenth of it.
MAX_INDEX_BYTES = 64 * 1024 * 1024
_CONVERT = "only safetensors files can be loaded; convert others and sign the result"


@dataclass(frozen=True)
class SignedFile:
    """An open file and what is signed of it.

    Attributes:
        source: What readers get.
        resources: The signed digests of it, in order.
        stamp: Its state when it was opened.
        listed: The tensors that the index puts there; None without an index.
    """

    source: SourceFile
    resources: tuple[Resource, ...] = field(repr=False)
    stamp: bytes = field(repr=False)
    listed: frozenset[str] | None = field(default=None, repr=False)

    def check_listed(self) -> None:
        """Refuse a shard whose tensors are not exactly those that the index puts there.

        Raises:
            MismatchError: Naming the first that is not.
        """
        found = {entry.name for entry in self.source.header.tensors}
        if self.listed is not None and found != self.listed:
            name = min(found ^ self.listed)
            where = "is in it, and not by the index" if name in found else "is not in it, though the index says so"
            raise MismatchError(f"{escape(self.source.path)} does not fit the index: {escape(name)} {where}")

    def check_unchanged(self) -> None:
        """Refuse a file that somebody wrote to since it was opened.

        Raises:
            MismatchError: Naming it.
        """
        if stamp_of(self.source.descriptor) != self.stamp:
            raise changed(self.source.path, "it changed while it was read")


class Sources:
    """The signed files of a model, found by what the manifest lists. Use it in a `with` block.

    Args:
        tree: The opened signed directory, or the signed file.
        manifest: What was signed.
        engine: Where the index is hashed.
        hashes: What to recompute of it.
    """

    def __init__(self, tree: Tree, manifest: Manifest, engine: Engine, hashes: Sequence[str]) -> None:
        self._tree = tree
        self._manifest = manifest
        self._engine = engine
        self._hashes = hashes
        self._files = files_in(tree, manifest)
        self._stack = contextlib.ExitStack()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_exception: object) -> None:
        self._stack.close()

    def open(self, path: str, *, is_directory: bool) -> list[SignedFile]:
        """Open what a path means: one safetensors file, or all shards of a directory or an index.

        Args:
            path: Relative to the signed directory, empty for itself; a signed single file is `SINGLE_FILE`.
            is_directory: Whether it is a directory.

        Raises:
            MismatchError: Something is not signed, missing, of another size, or has another header than was signed.
            UnavailableError: Something cannot be read.
        """
        if is_directory:
            path = self._file_of_directory(path + "/" if path else "")
        if not path.endswith(INDEX_SUFFIX):
            self._resources(path)
            if path != SINGLE_FILE and not path.endswith(SUFFIX):
                raise MismatchError(f"{escape(path)} is not a safetensors file", hint=_CONVERT)
            return [self._open_file(path)]
        weight_map = self._read_index(path)
        parent = path.rpartition("/")[0]
        by_shard: dict[str, set[str]] = {}
        for name, shard in weight_map.items():
            by_shard.setdefault(f"{parent}/{shard}" if parent else shard, set()).add(name)
        return [self._open_file(shard, frozenset(by_shard[shard])) for shard in sorted(by_shard)]

    def _file_of_directory(self, prefix: str) -> str:
        """Return the index of a directory, or its only safetensors file."""
        inside = [name for name in self._files if name.startswith(prefix) and "/" not in name[len(prefix) :]]
        for suffix, what in ((INDEX_SUFFIX, "indices"), (SUFFIX, "safetensors files and no index of them")):
            found = sorted(name for name in inside if name.endswith(suffix))
            if len(found) > 1:
                names = join_names(tuple(escape(name) for name in found))
                raise MismatchError(f"the directory has several signed {what}: {names}", hint="name the one to load")
            if found:
                return found[0]
        raise MismatchError(
            f"nothing that is signed in {escape(prefix) or 'the directory'} is a safetensors file",
            hint=_CONVERT,
        )

    def _resources(self, path: str) -> tuple[Resource, ...]:
        resources = self._files.get(path)
        if resources is not None:
            return resources
        shown = escape(path)
        if is_under(path, self._manifest.ignore_paths):
            raise MismatchError(
                f"{shown} lies under a path that the signer left out: nobody vouches for it", unexpected=[path]
            )
        raise MismatchError(f"{shown} is not signed", unexpected=[path])

    def _open(self, path: str) -> tuple[int, int, bytes]:
        """Open a signed file until the block ends; returns descriptor, size and stamp."""
        try:
            # The directories need not stay open: the file is what counts.
            with self._tree.directory(path.rpartition("/")[0]) as directory:
                descriptor, entry = self._stack.enter_context(self._tree.file(path, directory))
        except FileNotFoundError:
            raise MismatchError(f"{escape(path)} is signed and not there", missing=[path]) from None
        except NotAFileError:
            raise changed(path, "it is not a regular file, or lies behind a link") from None
        except OSError as error:
            raise unavailable(error, f"cannot read {escape(path)}") from None
        signed = _signed_size(self._resources(path))
        if signed is not None and signed != entry.nbytes:
            raise changed(path, "sizes differ")
        return descriptor, entry.nbytes, entry.stamp

    def _open_file(self, path: str, listed: frozenset[str] | None = None) -> SignedFile:
        resources = self._resources(path)
        descriptor, nbytes, stamp = self._open(path)
        try:
            header = _read_header(descriptor, nbytes, resources[0].header_sha256, path)
        except OSError as error:
            raise unavailable(error, f"cannot read {escape(path)}") from None
        except ShortReadError as error:
            raise changed(path, str(error)) from None
        return SignedFile(SourceFile(path, descriptor, header, nbytes), resources, stamp, listed)

    def _read_index(self, path: str) -> Mapping[str, str]:
        """Read an index, verify the bytes that were read, and only then parse them."""
        resources = self._resources(path)
        descriptor, nbytes, _ = self._open(path)
        if nbytes > MAX_INDEX_BYTES:
            raise changed(path, f"it is larger than {MAX_INDEX_BYTES} bytes")
        try:
            data = read_all(FileRange(descriptor, 0, nbytes))
        except OSError as error:
            raise unavailable(error, f"cannot read {escape(path)}") from None
        except ShortReadError as error:
            raise changed(path, str(error)) from None
        for resource in resources:
            part = data[resource.start : resource.end]
            for name, digest in self._engine.digest(self._hashes, [HostBytes(part)]).items():
                if digest != resource.digest_under(name, self._manifest.hash):
                    raise changed(path, "bytes differ")
        try:
            reader = Reader(strict_json.loads(data, what="index", max_bytes=MAX_INDEX_BYTES), "the index")
            weight_map = strict_json.string_map(reader.raw("weight_map"), what="the index's 'weight_map'")
        except FormatError as error:
            raise MismatchError(f"{escape(path)}: {error}") from None
        if not weight_map:
            raise MismatchError(f"{escape(path)} lists no tensors")
        return weight_map


def changed(path: str, why: str) -> MismatchError:
    """Return the error that a file is not what was signed."""
    return MismatchError(f"{escape(path)} is not what was signed ({why})", changed=[path])


def _signed_size(resources: Sequence[Resource]) -> int | None:
    last = resources[-1]
    return last.nbytes if last.end is None else last.end


def _read_header(descriptor: int, nbytes: int, signed_sha256: bytes | None, path: str) -> bytes:
    limit = MAX_UNSIGNED_HEADER_BYTES if signed_sha256 is None else MAX_HEADER_BYTES
    try:
        length = os.pread(descriptor, LENGTH_BYTES, 0)
        data = read_all(FileRange(descriptor, 0, header_nbytes(length, file_nbytes=nbytes, limit=limit)))
    except FormatError as error:
        raise MismatchError(f"{escape(path)} cannot be loaded: {error}", changed=[path]) from None
    if signed_sha256 is not None and hashlib.sha256(data).digest() != signed_sha256:
        raise changed(path, "the safetensors header is not the signed one")
    return data
