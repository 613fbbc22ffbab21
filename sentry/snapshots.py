# SPDX-License-Identifier: Apache-2.0
"""Snapshots in a Hugging Face cache: directories whose files are links into their repository's `blobs`.

    models--org--name/blobs/0a1b…
    models--org--name/snapshots/REVISION/sub/config.json -> ../../../blobs/0a1b…

Such a link stands for the file of that name in that very directory, and for nothing else: its text must be the one that
the place of the link asks for. What it names must be a regular file, or, as version 2 of the hub's library keeps large
files, a link into the store that the cache's repositories share, again with exactly the text that its place asks for:

    models--org--name/blobs/0a1b… -> ../../blobs/f0/f0e1…
    blobs/f0/f0e1…

Nothing here follows a link.
"""

from __future__ import annotations

import contextlib
import os
import re
import stat
from collections.abc import Iterator
from pathlib import Path

# O_PATH: what lies above a model may be closed to reading, and is only passed through.
_PASSAGE = os.O_PATH | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_DIRECTORY
_SNAPSHOTS, _BLOBS = "snapshots", "blobs"
# Files of the store are named by 32 bytes of hash (huggingface_hub 2.4, `utils/_shared_blobs.py`).
_IN_STORE = re.compile(r"\.\./\.\./blobs/([0-9a-f]{2})/(\1[0-9a-f]{62})")


class Blobs:
    """The `blobs` directory of the repository that a snapshot belongs to, held open.

    Attributes:
        descriptor: Of the directory; only good to open and to look at what is in it.
        store: Of the directory that the cache's repositories share; None where there is none.
    """

    def __init__(self, descriptor: int, store: int | None = None) -> None:
        self.descriptor = descriptor
        self.store = store

    @classmethod
    def of(cls, root: int) -> Blobs | None:
        """Return the blobs that an opened directory's links may stand for, or None where it is no snapshot.

        Args:
            root: Descriptor of the directory. The names of its parents are found from it, not from any path.
        """
        opened: list[int] = []
        try:
            opened.append(os.open("..", _PASSAGE, dir_fd=root))
            opened.append(os.open("..", _PASSAGE, dir_fd=opened[0]))
            named = os.stat(_SNAPSHOTS, dir_fd=opened[1], follow_symlinks=False)
            if not os.path.samestat(named, os.fstat(opened[0])):
                return None
            blobs = os.open(_BLOBS, _PASSAGE, dir_fd=opened[1])
        except OSError:
            return None
        else:
            return cls(blobs, _store_beside(opened[1]))
        finally:
            for descriptor in opened:
                os.close(descriptor)

    def close(self) -> None:
        """Let go of the directories."""
        os.close(self.descriptor)
        if self.store is not None:
            os.close(self.store)

    def named_by(self, link: str, directory: int, depth: int) -> str | None:
        """Return the name of the blob that an entry of a snapshot stands for; None if it is no link, or another one.

        Args:
            link: The entry's own name.
            directory: Descriptor of the directory that holds it.
            depth: How many directories of the snapshot lead to it.

        Raises:
            OSError: It cannot be read.
        """
        status = os.stat(link, dir_fd=directory, follow_symlinks=False)
        if not stat.S_ISLNK(status.st_mode):
            return None
        start = "../" * (depth + 2) + _BLOBS + "/"
        text = os.readlink(link, dir_fd=directory)
        name = text.removeprefix(start)
        return name if text.startswith(start) and "/" not in name and name not in {"", ".", ".."} else None

    def status(self, link: str, directory: int, depth: int) -> os.stat_result | None:
        """Return the status of the regular file that a link of the snapshot stands for, or None if there is none.

        The arguments are those of `named_by`.

        Raises:
            OSError: The link cannot be read.
        """
        name = self.named_by(link, directory, depth)
        if name is None:
            return None
        try:
            with self.holder(name) as (held, holder):
                status = os.stat(held, dir_fd=holder, follow_symlinks=False)
        except (FileNotFoundError, NotADirectoryError):
            return None
        return status if stat.S_ISREG(status.st_mode) else None

    @contextlib.contextmanager
    def holder(self, name: str) -> Iterator[tuple[str, int]]:
        """Find what holds a blob's bytes: the blob, or the file of the store that it is a link to.

        Args:
            name: The blob's name.

        Yields:
            A name and the descriptor of the directory where it lies; it may be anything there, a link included.

        Raises:
            OSError: The blob or the store cannot be read.
        """
        shared = None
        if self.store is not None and stat.S_ISLNK(os.lstat(name, dir_fd=self.descriptor).st_mode):
            shared = _IN_STORE.fullmatch(os.readlink(name, dir_fd=self.descriptor))
        if self.store is None or shared is None:
            yield name, self.descriptor
            return
        directory = os.open(shared[1], _PASSAGE, dir_fd=self.store)
        try:
            yield shared[2], directory
        finally:
            os.close(directory)


def _store_beside(repository: int) -> int | None:
    try:
        cache = os.open("..", _PASSAGE, dir_fd=repository)
    except OSError:
        return None
    try:
        return os.open(_BLOBS, _PASSAGE, dir_fd=cache)
    except OSError:
        return None
    finally:
        os.close(cache)


def blobs_paths(snapshot: Path) -> tuple[Path, Path]:
    """Return where the blobs of a snapshot lie: its repository's, and those that repositories share."""
    repository = Path(os.path.realpath(snapshot)).parents[1]
    return repository / _BLOBS, repository.parent / _BLOBS
