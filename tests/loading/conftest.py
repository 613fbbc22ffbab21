# SPDX-License-Identifier: Apache-2.0
"""Small safetensors models, written by hand from the format's text, and signed."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from support import KeyPair, write_files

import sentry

# Dtype, shape and bytes of every tensor by its name.
Written = Mapping[str, tuple[str, Sequence[int], bytes]]

INDEX = "model.safetensors.index.json"


def pattern(nbytes: int, seed: int = 0) -> bytes:
    """Return bytes that differ from place to place."""
    return bytes((7 * at + (at >> 8) + seed) % 251 for at in range(nbytes))


def safetensors(tensors: Written, *, metadata: Mapping[str, str] | None = None, padding: int = 0) -> bytes:
    """Return a safetensors file; payloads lie in the order given."""
    header: dict[str, Any] = {} if metadata is None else {"__metadata__": dict(metadata)}
    at = 0
    for name, (dtype, shape, data) in tensors.items():
        header[name] = {"dtype": dtype, "shape": list(shape), "data_offsets": [at, at + len(data)]}
        at += len(data)
    text = json.dumps(header).encode() + b" " * padding
    return len(text).to_bytes(8, "little") + text + b"".join(data for _, _, data in tensors.values())


TWO: Written = {
    "a.weight": ("F32", (3, 5), pattern(60)),
    "odd": ("U8", (7,), pattern(7, 1)),
    "b.weight": ("BF16", (4, 2), pattern(16, 2)),
    "empty": ("F16", (0, 3), b""),
    "scalar": ("I64", (), pattern(8, 3)),
}
MORE: Written = {"c.weight": ("F16", (8, 1), pattern(16, 4)), "d.weight": ("F32", (2,), pattern(8, 5))}


def index_of(files: Mapping[str, Written]) -> bytes:
    """Return the index of a sharded model."""
    weight_map = {name: file for file, tensors in files.items() for name in tensors}
    return json.dumps({"metadata": {"total_size": 1}, "weight_map": weight_map}).encode()


SHARDS: Mapping[str, Written] = {"model-1-of-2.safetensors": TWO, "model-2-of-2.safetensors": MORE}


@dataclass(frozen=True)
class Signed:
    """A signed model on disk."""

    directory: Path
    pair: KeyPair

    @property
    def signature(self) -> Path:
        """Where its signature lies."""
        return self.directory / "model.sig"

    def load(self, path: str = "model.safetensors", **options: Any) -> sentry.VerifiedTensors:
        """Load a file of it."""
        return sentry.load_file(self.directory / path, self.signature, self.pair.trust, **options)

    def sign(self, **options: Any) -> Signed:
        """Sign it as it is now."""
        self.signature.unlink(missing_ok=True)
        sentry.sign_path(self.directory, self.pair.signer, **options).write(self.signature)
        return self


@pytest.fixture
def make_signed(tmp_path: Path, pair: KeyPair) -> Callable[..., Signed]:
    """Return a function that writes files and signs them."""

    def make(files: Mapping[str, bytes], name: str = "model", **options: Any) -> Signed:
        return Signed(write_files(tmp_path / name, files), pair).sign(**options)

    return make


@pytest.fixture
def single(make_signed: Callable[..., Signed]) -> Signed:
    """Return a model of one file, and another that is signed as well."""
    files = {"model.safetensors": safetensors(TWO), "other.safetensors": safetensors(MORE), "config.json": b"{}"}
    return make_signed(files)


@pytest.fixture
def sharded(make_signed: Callable[..., Signed]) -> Signed:
    """Return a model of two shards and their index."""
    files = {name: safetensors(tensors) for name, tensors in SHARDS.items()}
    return make_signed({**files, INDEX: index_of(SHARDS)})
