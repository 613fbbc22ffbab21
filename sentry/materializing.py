# SPDX-License-Identifier: Apache-2.0
"""Verified copies of models, for programs that can only be given a path.

The walk of the data is that of `sentry.verifying`, with one detour: every signed file is opened once and copied into a
new directory that only its owner can enter, and it is the copy that is digested. The copy gets its name when everything
has been compared. Not proved: that whoever acts as the same user leaves it alone afterwards.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import shutil
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Self

from sentry.atomic import unavailable
from sentry.bundle import Bundle
from sentry.comparison import Selection
from sentry.engine.contract import Progress
from sentry.engine.segments import ShortReadError
from sentry.errors import UnavailableError
from sentry.formats.manifest import SINGLE_FILE
from sentry.hashing import OpenFile, StoppedError, parent_of
from sentry.hub import resolve_model
from sentry.paths import AnyPath, lies_in
from sentry.signatures import Signatures, check_trust, each_signature, read_signature
from sentry.text import escape
from sentry.tree import Tree
from sentry.trust import Trust
from sentry.verification import Verification
from sentry.verifying import Options, choose_engine, own_signatures, refusals_as_mismatches, verify_tree

# As in `sentry.engine.cpu`: blocks that stay in the second-level cache are copied fastest.
BLOCK_BYTES = 1024 * 1024
# What a single file is called until it is published.
SINGLE_FILE_NAME = "file"
_DIRECTORY = os.O_RDONLY | os.O_CLOEXEC | os.O_DIRECTORY
_NEW_FILE = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW


def materialize(
    path: AnyPath,
    signature: Signatures,
    trust: Trust,
    dest: AnyPath,
    *,
    hash: str | None = None,  # noqa: A002  (the field's word for it)
    ignore_unsigned: bool = False,
    only: Selection | None = None,
    engine: str = "auto",
    progress: Progress | None = None,
) -> Verification:
    """Copy a model while it is verified; the copy exists only if it is what was signed.

    The copy holds the signed files, and those of the signatures that lie in the model, under their own names; nothing
    else. Files have mode 0600 and directories 0700; none is a link. It can be verified again.

    Args:
        path: The model: a directory, a single file, a Hugging Face snapshot, or `hf:org/name@revision`.
        signature: A signature file, a `Bundle`, or several: then each must verify, over the same payload.
        trust: Whose signature counts, for example `KeyTrust.from_file("public.pem")`.
        dest: The copy's path. Nothing may be there; the directory that will hold it must exist.
        hash: What to recompute, as in `verify_path`.
        ignore_unsigned: Leave files out that the signature does not list; they are reported as not covered.
        only: Says of a signed file, by its path in the model, whether to copy it; asked once for each. The others must
            be there, of the signed size, but are not read; they are reported as `not_read`, and such a copy cannot be
            verified again.
        engine: Where to hash: `auto`, `cpu`, `cuda`, or `cuda:N` for one GPU of several.
        progress: Called with the number of bytes copied since the last call, from any thread.

    Returns:
        The evidence; its path is the copy's, and `not_covered` names what was left out.

    Raises:
        SignatureError: The signature is missing, malformed, or not over this payload by the trusted signer.
        TrustError: No trust was given, or not of this signature's kind, or it lies inside the model.
        MismatchError: The model differs from what was signed, or changed meanwhile; the names say where.
        UnavailableError: `dest` exists or lies inside the model; something could not be read, fetched or written.
        ValueError: An argument has no meaning.
    """
    started = time.perf_counter()
    chosen = choose_engine(engine, hash)
    given = each_signature(signature)
    model = resolve_model(path)
    with refusals_as_mismatches(), Tree(model) as tree:
        _check_place(Path(dest), tree)
        check_trust(trust)
        own = own_signatures(tree, given)
        # Read once: what is copied is what was checked.
        bundles = [read_signature(item) for item in given]
        with _Copy(Path(dest), progress) as copy:
            options = Options(chosen, hash, ignore_unsigned=ignore_unsigned, only=only, detour=copy.of, started=started)
            verification = verify_tree(tree, bundles, trust, own=own, options=options)
            for inside, item in own.items():
                # One that is itself signed has been copied like any other file.
                if inside not in verification.files:
                    copy.write(inside, bundles[given.index(item)])
            copy.publish(single_file=not tree.is_directory)
    return replace(verification, path=Path(dest), seconds=time.perf_counter() - started)


def _check_place(dest: Path, tree: Tree) -> None:
    if os.path.lexists(dest):
        raise UnavailableError(f"{escape(str(dest))} exists already", hint="name a place where nothing is")
    if any(lies_in(dest, place) for place in tree.places):
        raise UnavailableError(f"{escape(str(dest))} lies inside the model", hint="name a place outside it")


class _Copy:
    """A copy under way, in a directory without a lasting name beside the one that it will get.

    Leaving the `with` block removes whatever has not been published.
    """

    def __init__(self, dest: Path, progress: Progress | None) -> None:
        self._dest = dest
        self._progress = progress
        self._temporary = f".sentry.{secrets.token_hex(8)}.tmp"

    def __enter__(self) -> Self:
        with contextlib.ExitStack() as stack, self._errors():
            self._parent = os.open(self._dest.parent, _DIRECTORY)
            stack.callback(os.close, self._parent)
            os.mkdir(self._temporary, 0o700, dir_fd=self._parent)
            stack.callback(shutil.rmtree, self._temporary, ignore_errors=True, dir_fd=self._parent)
            self._root = os.open(self._temporary, _DIRECTORY | os.O_NOFOLLOW, dir_fd=self._parent)
            stack.callback(os.close, self._root)
            os.fchmod(self._root, 0o700)  # a directory inherits more from some parents
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *_exception: object) -> None:
        self._stack.close()

    @contextlib.contextmanager
    def of(self, file: OpenFile) -> Iterator[OpenFile]:
        """Copy an opened file of the model, and yield the copy: its size is the one that the file had when opened.

        Raises:
            ShortReadError: The file ends before.
            OSError: It cannot be read.
            UnavailableError: The copy cannot be written.
        """
        with self._new_file(file.path) as descriptor:
            for block in _blocks(file):
                with self._errors():
                    _write_all(descriptor, block)
                if self._progress:
                    self._progress(len(block))
            yield replace(file, descriptor=descriptor)

    def write(self, path: str, bundle: Bundle) -> None:
        """Write a signature into the copy.

        Raises:
            UnavailableError: It cannot be written.
        """
        with self._new_file(path) as descriptor, self._errors():
            for part in bundle.encode_parts():
                _write_all(descriptor, memoryview(part))

    def publish(self, *, single_file: bool) -> None:
        """Give the copy its name, unless something has taken it.

        Raises:
            UnavailableError: Something has, or it cannot be done.
        """
        name = self._dest.name
        with self._errors():
            if single_file:
                # Unlike a renamed file, a linked one replaces nothing; its first name goes with the directory.
                os.link(SINGLE_FILE_NAME, name, src_dir_fd=self._root, dst_dir_fd=self._parent, follow_symlinks=False)
            else:
                os.fsync(self._root)
                status = os.stat(self._temporary, dir_fd=self._parent, follow_symlinks=False)
                if not os.path.samestat(status, os.fstat(self._root)):
                    raise UnavailableError(
                        f"cannot write {escape(str(self._dest))}: the copy was moved away while it was made",
                        hint="put it where only you can write",
                    )
                # The system renames a directory over nothing but an empty directory.
                os.rename(self._temporary, name, src_dir_fd=self._parent, dst_dir_fd=self._parent)
            os.fsync(self._parent)

    @contextlib.contextmanager
    def _new_file(self, path: str) -> Iterator[int]:
        """Make a file that was not there, and the directories that lead to it; flush it to the disk in the end."""
        name = SINGLE_FILE_NAME if path == SINGLE_FILE else path.rpartition("/")[2]
        with contextlib.ExitStack() as stack:
            with self._errors():
                directory = self._root
                for component in filter(None, parent_of(path).split("/")):
                    with contextlib.suppress(FileExistsError):
                        os.mkdir(component, 0o700, dir_fd=directory)
                    directory = os.open(component, _DIRECTORY | os.O_NOFOLLOW, dir_fd=directory)
                    stack.callback(os.close, directory)
                descriptor = os.open(name, _NEW_FILE, 0o600, dir_fd=directory)
                stack.callback(os.close, descriptor)
            yield descriptor
            with self._errors():
                os.fsync(descriptor)

    @contextlib.contextmanager
    def _errors(self) -> Iterator[None]:
        """What the system says of the copy must not be taken for news of the model."""
        try:
            yield
        except OSError as error:
            raise unavailable(error, f"cannot write {escape(str(self._dest))}") from None


def _blocks(file: OpenFile) -> Iterator[memoryview]:
    """Yield the bytes of a file up to the size that it had when opened; a block is valid until the next one."""
    buffer, done = memoryview(bytearray(min(BLOCK_BYTES, file.nbytes))), 0
    while done < file.nbytes:
        if file.stop.is_set():
            raise StoppedError("stopped")
        block = buffer[: os.preadv(file.descriptor, [buffer[: file.nbytes - done]], done)]
        if not block:
            raise ShortReadError("a file became shorter while it was read")
        done += len(block)
        yield block


def _write_all(descriptor: int, data: memoryview) -> None:
    while data:
        data = data[os.write(descriptor, data) :]
