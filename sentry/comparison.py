# SPDX-License-Identifier: Apache-2.0
"""Compare a tree with a signed manifest: names and sizes first, then every byte, then the names once more."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager
from typing import NoReturn

from sentry.atomic import unavailable
from sentry.engine.contract import Engine, Progress
from sentry.errors import MismatchError
from sentry.formats.manifest import SINGLE_FILE, Manifest, Resource, is_under
from sentry.hashing import ChangedError, OpenFile, map_files, safetensors_header_sha256
from sentry.text import escape, join_names
from sentry.tree import Tree

# What to digest instead of an opened file of the model: its copy, which is made from the one descriptor.
Detour = Callable[[OpenFile], AbstractContextManager[OpenFile]]
# Says of a path, relative to the model, whether a file is wanted.
Selection = Callable[[str], bool]


class Comparison:
    """One comparison of an opened tree with a manifest whose signature has been checked.

    Args:
        tree: The opened model.
        manifest: What was signed.
        ignore: Paths relative to the model that the caller leaves out, beyond those of the manifest.
        signatures: Signature files that lie inside the model: left out, and nothing that needs to be reported.
        ignore_unsigned: Report files that the manifest does not list instead of refusing them.
        only: Says of a signed file whether its bytes are wanted; names and sizes are compared of all. None: of every.
    """

    def __init__(
        self,
        tree: Tree,
        manifest: Manifest,
        *,
        ignore: Iterable[str] = (),
        signatures: Iterable[str] = (),
        ignore_unsigned: bool = False,
        only: Selection | None = None,
    ) -> None:
        self._tree = tree
        self._manifest = manifest
        self._files = files_in(tree, manifest)
        # Asked once for each: what is copied and what is reported must not be two answers.
        self._wanted = [path for path in self._files if only is None or only(path)]
        self._signatures = frozenset(signatures)
        self._ignored = frozenset((*manifest.ignore_paths, *ignore, *self._signatures))
        self._ignore_unsigned = ignore_unsigned
        self._listing = tree.list(self._ignored)
        self._unsigned = sorted(self._listing.files.keys() - self._files.keys())
        self._irregular = dict(self._listing.irregular)

    def compare_names_and_sizes(self) -> None:
        """Refuse files that are missing, not signed, not files, or of another size, before any is read.

        Raises:
            MismatchError: Naming them.
        """
        unexpected = [] if self._ignore_unsigned else [*self._unsigned, *self._irregular]
        listed_links = [path for path in self._irregular if path in self._files]
        present = self._listing.files
        absent = self._files.keys() - present.keys() - self._irregular.keys()
        missing = [path for path in absent if not is_under(path, self._ignored)]
        changed = [
            path for path in self._files.keys() & present.keys() if self._size_differs(path, present[path].nbytes)
        ]
        if missing or unexpected or listed_links or changed:
            self._refuse(missing, {*unexpected, *listed_links}, changed, "sizes differ")

    def compare_bytes(
        self,
        engine: Engine,
        hashes: Sequence[str],
        *,
        detour: Detour = contextlib.nullcontext,
        progress: Progress | None = None,
    ) -> int:
        """Digest every signed file that is wanted, and compare.

        Args:
            engine: Where to hash.
            hashes: What to recompute; the manifest has a digest under each for every resource.
            detour: Copies an opened file of the signed size; then it is the copy that is digested.
            progress: Called with the number of bytes hashed since the last call.

        Returns:
            The number of bytes that were hashed.

        Raises:
            MismatchError: Naming the files that differ, that are gone, or that changed meanwhile.
            UnavailableError: A file cannot be read.
        """

        def check(engine: Engine, file: OpenFile) -> tuple[int, str | None]:
            # The size that counts is the opened file's: a longer one is never read to its end.
            if self._size_differs(file.path, file.nbytes):
                return file.nbytes, "sizes differ"
            with detour(file) as seen:
                return seen.nbytes, self._check_file(engine, seen, hashes, progress)

        present = self._listing.files
        sizes = {path: present[path].nbytes if path in present else 0 for path in self._wanted}
        total = 0
        changed: list[str] = []
        missing: list[str] = []
        reasons: set[str] = set()
        try:
            for path, result in map_files(self._tree, sizes, engine, check, listed=present):
                if isinstance(result, ChangedError):
                    (changed if path in present else missing).append(path)
                    reasons.add(str(result))
                    continue
                nbytes, reason = result
                total += nbytes
                if reason is not None:
                    changed.append(path)
                    reasons.add(reason)
        except OSError as error:
            raise unavailable(error, f"cannot read {escape(str(error.filename))}") from None
        if changed or missing:
            self._refuse(missing, (), changed, "; ".join(sorted(reasons)))
        return total

    def compare_again(self) -> None:
        """List the tree once more.

        Raises:
            MismatchError: Something was added, removed, replaced or rewritten since the first listing.
        """
        if not self._listing.same_as(self._tree.list(self._ignored)):
            raise MismatchError("the model changed while it was verified", hint="verify it when nobody writes to it")

    def not_covered(self) -> tuple[str, ...]:
        """Return the paths that exist and that the signature says nothing about."""
        left_out = [path for path in self._listing.ignored if path not in self._signatures and path not in self._files]
        unsigned = [*self._unsigned, *self._irregular] if self._ignore_unsigned else []
        return tuple(sorted((*left_out, *unsigned)))

    def not_read(self) -> tuple[str, ...]:
        """Return the signed files whose bytes were not wanted."""
        return tuple(sorted(self._files.keys() - set(self._wanted)))

    def _size_differs(self, path: str, nbytes: int) -> bool:
        signed = _signed_size(self._files[path])
        return signed is not None and signed != nbytes

    def _check_file(
        self, engine: Engine, file: OpenFile, hashes: Sequence[str], progress: Progress | None
    ) -> str | None:
        """Return what differs, or None."""
        resources = self._files[file.path]
        for resource in resources:
            end = file.nbytes if resource.end is None else resource.end
            digests = file.digest_range(engine, hashes, resource.start, end, progress=progress)
            for name, digest in digests.items():
                if digest != resource.digest_under(name, self._manifest.hash):
                    return "bytes differ" if len(hashes) == 1 else f"bytes differ from the signed {name} digest"
        header = resources[0].header_sha256
        if header is not None and safetensors_header_sha256(engine, file) != header:
            return "the safetensors header is not the signed one"
        return None

    def _refuse(self, missing: Iterable[str], unexpected: Iterable[str], changed: Iterable[str], why: str) -> NoReturn:
        names = {
            "changed": tuple(sorted(changed)),
            "missing": tuple(sorted(missing)),
            "not signed": tuple(sorted(unexpected)),
        }
        parts = []
        for title, paths in names.items():
            if paths:
                shown = tuple(self._describe(path) for path in paths)
                parts.append(f"{title}: {join_names(shown)}" + (f" ({why})" if title == "changed" else ""))
        raise MismatchError(
            "the model is not what was signed; " + "; ".join(parts),
            missing=names["missing"],
            unexpected=names["not signed"],
            changed=names["changed"],
        )

    def _describe(self, path: str) -> str:
        kind = self._irregular.get(path)
        name = escape(self._tree.path.name if path == SINGLE_FILE else path)
        return name if kind is None else f"{name} ({kind})"


def files_in(tree: Tree, manifest: Manifest) -> Mapping[str, tuple[Resource, ...]]:
    """Return the signed files by their path in this tree; a single file has two spellings of its name.

    Raises:
        MismatchError: A directory was signed and this is a file, or the other way round.
    """
    files = manifest.by_path()
    if tree.is_directory:
        if SINGLE_FILE in files:
            raise MismatchError("the signature is for a single file, not for a directory")
        return files
    if files.keys() not in ({SINGLE_FILE}, {tree.path.name}):
        raise MismatchError(f"the signature is not for a single file {escape(tree.path.name)}")
    return dict(zip([SINGLE_FILE], files.values(), strict=True))


def _signed_size(resources: Sequence[Resource]) -> int | None:
    last = resources[-1]
    return last.nbytes if last.end is None else last.end
