# SPDX-License-Identifier: Apache-2.0
"""Snapshots as the Hugging Face cache lays them out."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path

REVISION = "0123456789abcdef0123456789abcdef01234567"


def write_snapshot(cache: Path, files: Mapping[str, bytes], *, revision: str = REVISION) -> Path:
    """Write blobs and a snapshot of links to them, and return the snapshot."""
    repository = cache / "models--org--name"
    snapshot = repository / "snapshots" / revision
    snapshot.mkdir(parents=True)
    (repository / "blobs").mkdir(exist_ok=True)
    for path, data in files.items():
        link_to_blob(snapshot, path, data)
    return snapshot


def link_to_blob(snapshot: Path, path: str, data: bytes) -> Path:
    """Put one more file into a snapshot, and return its blob."""
    blob = snapshot.parents[1] / "blobs" / hashlib.sha256(data).hexdigest()
    blob.write_bytes(data)
    link = snapshot / path
    link.parent.mkdir(parents=True, exist_ok=True)
    link.symlink_to("../" * (path.count("/") + 2) + f"blobs/{blob.name}")
    return blob


def move_to_store(blob: Path) -> Path:
    """Move a blob to the store that repositories share, leave a link, and return where it lies now."""
    name = hashlib.sha256(b"store" + blob.read_bytes()).hexdigest()
    held = blob.parents[2] / "blobs" / name[:2] / name
    held.parent.mkdir(parents=True, exist_ok=True)
    blob.rename(held)
    blob.symlink_to(f"../../blobs/{name[:2]}/{name}")
    return held
