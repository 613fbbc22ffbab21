# SPDX-License-Identifier: Apache-2.0
"""Snapshots in a Hugging Face cache: directories whose files are links into their repository's `blobs`.

    models--org--name/blobs/0a1b…
    models--org--name/snapshots/REVISION/sub/config.json -> ../../../blobs/0a1b…

Such a link stands for the file of that name in that very directory, and for nothing else: its text must be the one that
the place of the link asks for, and what it names must be a regular file. Nothing here follows a link.
"""

from __future__ import annotations

import os
import stat
from pathlib import Path

# O_PATH: what lies above a model may be closed to reading, and is only passed through.
_PASSAGE = os.O_PATH | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_DIRECTORY
_SNAPSHOTS, _BLOBS = "snapshots", "blobs"


class Blobs:
    """The `blobs` directory of the repository that a snapshot belongs to, held open.

    Attributes:
        descriptor: Of the directory; only good to open and to look at what is in it.
    """

    def __init__(self, descriptor: int) -> None:
        self.descriptor = descriptor

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
            return cls(os.open(_BLOBS, _PASSAGE, dir_fd=opened[1]))
        except OSError:
            return None
        finally:
            for descriptor in opened:
                os.close(descriptor)

    def close(self) -> None:
        """Let go of the directory."""
        os.close(self.descriptor)

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
            status = os.stat(name, dir_fd=self.descriptor, follow_symlinks=False)
        except FileNotFoundError:
            return None
        return status if stat.S_ISREG(status.st_mode) else None


def blobs_path(snapshot: Path) -> Path:
    """Return where the blobs of a snapshot lie."""
    return Path(os.path.realpath(snapshot)).parents[1] / _BLOBS
