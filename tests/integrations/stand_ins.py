# SPDX-License-Identifier: Apache-2.0
"""Slow and plain stand-ins for the loader and the copier, for tests of what is built upon them."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import sentry
from sentry.paths import AnyPath
from sentry.signatures import Signatures
from sentry.trust import Trust


class VerifiedTensors(dict[str, Any]):
    """Tensors by name, and the evidence for them."""

    verification: sentry.Verification


def load_file(
    path: AnyPath, signature: Signatures, trust: Trust, *, root: AnyPath | None = None, device: str = "cpu", **_: Any
) -> VerifiedTensors:
    """Verify the whole model, and then read its weights."""
    from safetensors.torch import load  # noqa: PLC0415

    directory = Path(path)
    tensors = VerifiedTensors()
    tensors.verification = sentry.verify_path(root or directory, signature, trust)
    index = directory / "model.safetensors.index.json"
    names = set(json.loads(index.read_bytes())["weight_map"].values()) if index.exists() else {"model.safetensors"}
    for name in sorted(names):
        tensors.update({key: value.to(device) for key, value in load((directory / name).read_bytes()).items()})
    return tensors


def materialize(
    path: AnyPath,
    signature: Signatures,
    trust: Trust,
    dest: AnyPath,
    *,
    only: Callable[[str], bool] = lambda _: True,
    **_: Any,
) -> sentry.Verification:
    """Verify the whole model, and then copy files."""
    verification = sentry.verify_path(path, signature, trust)
    Path(dest).mkdir()
    for name in filter(only, verification.files):
        target = Path(dest, name)
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(Path(path, name).read_bytes())
    return verification


def install(monkeypatch: pytest.MonkeyPatch) -> None:
    """Put the stand-ins where the package has nothing of that name yet."""
    for function in (load_file, materialize):
        if function.__name__ not in sentry.__all__:
            monkeypatch.setattr(sentry, function.__name__, function, raising=False)
