# SPDX-License-Identifier: Apache-2.0
"""Model directories, walked by descriptor: every name is opened relative to its parent, and no link is ever followed.

The links of a Hugging Face snapshot are no exception: they are read, and name files of one directory that is held open
(`sentry.snapshots`). What is listed is compared with what is listed again at the end, so that a tree
that changes meanwhile is noticed. Hard links are ordinary files here: whoever can write one can write the file anyway.
"""

from __future__ import annotations

import contextlib
import errno
import os
import stat
import struct
import sys
from collections.abc import Collection, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Self

from sentry.atomic import unavailable
from sentry.errors import RefusedError, UnavailableError
from sentry.formats.manifest import MAX_DEPTH, SINGLE_FILE
from sentry.paths import AnyPath
from sentry.snapshots import Blobs, blobs_paths
from sentry.text import escape

_DIRECTORY = os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_DIRECTORY
# O_NONBLOCK: a FIFO swapped in for a file must not make us wait for a writer.
_FILE = os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK
_KINDS = {
    stat.S_IFLNK: "a symbolic link",
    stat.S_IFIFO: "a FIFO",
    stat.S_IFSOCK: "a socket",
    stat.S_IFCHR: "a device file",
    stat.S_IFBLK: "a device file",
}
# Device, inode, size, modification and change time.
_STAMP = struct.Struct("=QQqqq")
STAMP_BYTES = _STAMP.size


class NotAFileError(RefusedError):
    """A path leads to something that is not a regular file, or through something that is not a directory."""


@dataclass(frozen=True, slots=True)
class Entry:
    """One regular file.

    Attributes:
        nbytes: Its size.
        stamp: Device, inode, size, and the times of the last change of content and of status: what changes when
            somebody replaces or rewrites the file.
    """

    nbytes: int
    stamp: bytes

    @property
    def changed_ns(self) -> int:
        """When content or status last changed, in nanoseconds since 1970, by the file system's clock."""
        return int(_STAMP.unpack(self.stamp)[4])


@dataclass(frozen=True)
class Listing:
    """What is in a tree.

    Attributes:
        files: Regular files by POSIX path relative to the root; a single file is listed as `SINGLE_FILE`.
        ignored: Paths that exist and were asked to be left out; directories end in a slash and were not entered.
        irregular: What is neither a regular file nor a directory, and names that are not UTF-8: path to what it is.
    """

    files: dict[str, Entry] = field(default_factory=dict)
    ignored: list[str] = field(default_factory=list)
    irregular: dict[str, str] = field(default_factory=dict)

    def has_file(self, path: Path) -> bool:
        """Say whether one of the files is this very file, under whatever name."""
        try:
            status = os.stat(path)
        except OSError:
            return False
        identity = struct.pack("=QQ", status.st_dev, status.st_ino)
        return any(entry.stamp.startswith(identity) for entry in self.files.values())

    def same_as(self, other: Listing) -> bool:
        """Say whether nothing that counts was added, removed, replaced or rewritten between two listings."""
        return self.files == other.files and self.irregular == other.irregular


class Tree:
    """An opened model: a directory or a single file. Use it in a `with` block.

    Args:
        path: The model.

    Raises:
        RefusedError: It is a link, or neither a regular file nor a directory.
        UnavailableError: It is missing or unreadable.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        if sys.getfilesystemencoding() != "utf-8":
            raise UnavailableError(
                "file names are not read as UTF-8 in this locale", hint="set LC_ALL=C.UTF-8, or PYTHONUTF8=1"
            )
        try:
            kind = stat.S_IFMT(os.lstat(path).st_mode)
            if kind in _KINDS:
                hint = f"name its target: {os.path.realpath(path)}" if kind == stat.S_IFLNK else None
                raise RefusedError(f"{escape(str(path))} is {_KINDS[kind]}, not a model", hint=hint)
            self._root = os.open(path, _DIRECTORY if kind == stat.S_IFDIR else _FILE)
        except OSError as error:
            raise unavailable(error, f"cannot read {escape(str(path))}") from None
        self.is_directory = kind == stat.S_IFDIR
        self._blobs = Blobs.of(self._root) if self.is_directory else None

    @property
    def places(self) -> tuple[Path, ...]:
        """The directories whose content came with the model: its own, and for a snapshot its blobs'."""
        own = (self.path,) if self.is_directory else ()
        return own if self._blobs is None else (*own, *blobs_paths(self.path))

    def is_at(self, path: AnyPath) -> bool:
        """Say whether a path leads to the root of this tree, or to this file."""
        try:
            return os.path.samestat(os.stat(path), os.fstat(self._root))
        except OSError:
            return False

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_exception: object) -> None:
        os.close(self._root)
        if self._blobs is not None:
            self._blobs.close()

    def list(self, ignore: Collection[str] = ()) -> Listing:
        """List the tree.

        Args:
            ignore: Paths, relative to the root, that are named in the listing but not entered.

        Raises:
            RefusedError: The tree is deeper than any model.
            UnavailableError: A directory cannot be read.
        """
        listing = Listing()
        if not self.is_directory:
            listing.files[SINGLE_FILE] = _entry(os.fstat(self._root))
            return listing
        self._list_directory(self._root, "", frozenset(ignore), listing)
        return listing

    def _list_directory(self, descriptor: int, prefix: str, ignore: frozenset[str], listing: Listing) -> None:
        if prefix.count("/") > MAX_DEPTH:
            raise RefusedError(f"{escape(prefix[:80])}… is nested deeper than {MAX_DEPTH} directories")
        path = prefix
        try:
            with os.scandir(descriptor) as entries:
                for entry in entries:
                    path = prefix + entry.name
                    self._list_entry(entry, path, descriptor, ignore, listing)
        except OSError as error:
            raise unavailable(error, f"cannot read {escape(path)} in {escape(str(self.path))}") from None

    def _list_entry(
        self, entry: os.DirEntry[str], path: str, directory: int, ignore: frozenset[str], listing: Listing
    ) -> None:
        status = entry.stat(follow_symlinks=False)
        kind = stat.S_IFMT(status.st_mode)
        if path in ignore:
            listing.ignored.append(path + "/" if kind == stat.S_IFDIR else path)
        elif not _is_utf8(entry.name):
            listing.irregular[path] = "a name that is not UTF-8"
        elif kind == stat.S_IFREG:
            listing.files[path] = _entry(status)
        elif kind == stat.S_IFDIR:
            with _opened(entry.name, _DIRECTORY, directory) as below:
                self._list_directory(below, path + "/", ignore, listing)
        elif kind == stat.S_IFLNK and (blob := self._blob_status(path, directory)) is not None:
            listing.files[path] = _entry(blob)
        else:
            listing.irregular[path] = _KINDS.get(kind, "a special file")

    def _blob_status(self, path: str, directory: int) -> os.stat_result | None:
        if self._blobs is None:
            return None
        return self._blobs.status(path.rpartition("/")[2], directory, path.count("/"))

    @contextlib.contextmanager
    def directory(self, path: str) -> Iterator[int]:
        """Open a directory of the tree (empty path: its root), one component after the other.

        Raises:
            FileNotFoundError: It is not there.
            NotAFileError: A component is a link or not a directory.
        """
        with contextlib.ExitStack() as stack:
            descriptor = self._root
            for component in path.split("/") if path else ():
                descriptor = stack.enter_context(_opened(component, _DIRECTORY, descriptor))
            yield descriptor

    def has_directory(self, path: str) -> bool:
        """Say whether a path of the tree is a directory; one that lies behind a link is none."""
        try:
            with self.directory(path):
                return True
        except (OSError, NotAFileError):
            return False

    @contextlib.contextmanager
    def file(self, path: str, directory: int) -> Iterator[tuple[int, Entry]]:
        """Open a regular file of the tree, or the blob that it stands for.

        Args:
            path: Relative to the root; a single file's tree knows only `SINGLE_FILE`.
            directory: Descriptor of the directory that holds it, from `directory`.

        Raises:
            FileNotFoundError: It is not there.
            NotAFileError: It is a link, or not a regular file.
        """
        if not self.is_directory:
            if path != SINGLE_FILE:
                raise FileNotFoundError(path)
            yield self._root, _entry(os.fstat(self._root))
            return
        with contextlib.ExitStack() as stack:
            name = path.rpartition("/")[2]
            blob = None if self._blobs is None else self._blobs.named_by(name, directory, path.count("/"))
            if self._blobs is not None and blob is not None:
                name, directory = stack.enter_context(self._blobs.holder(blob))
            descriptor = stack.enter_context(_opened(name, _FILE, directory))
            status = os.fstat(descriptor)
            if not stat.S_ISREG(status.st_mode):
                raise NotAFileError(f"{escape(name)} is not a regular file")
            yield descriptor, _entry(status)


def stamp_of(descriptor: int) -> bytes:
    """Return the stamp of an open file as it is now."""
    return _entry(os.fstat(descriptor)).stamp


def _entry(status: os.stat_result) -> Entry:
    times = (status.st_mtime_ns, status.st_ctime_ns)
    return Entry(status.st_size, _STAMP.pack(status.st_dev, status.st_ino, status.st_size, *times))


@contextlib.contextmanager
def _opened(name: str, flags: int, directory: int) -> Iterator[int]:
    try:
        descriptor = os.open(name, flags, dir_fd=directory)
    except NotADirectoryError:
        raise NotAFileError(f"{escape(name)} is not a directory") from None
    except OSError as error:
        # O_NOFOLLOW's answer for a link, and a socket's for any open.
        if error.errno in {errno.ELOOP, errno.ENXIO}:
            raise NotAFileError(f"{escape(name)} is not a regular file") from None
        raise
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def _is_utf8(name: str) -> bool:
    try:
        name.encode("utf-8")
    except UnicodeEncodeError:
        return False
    return True
