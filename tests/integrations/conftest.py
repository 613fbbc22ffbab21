# SPDX-License-Identifier: Apache-2.0
"""What the tests of integrations share: published models and no network."""

from __future__ import annotations

import importlib
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from support import KeyPair


@pytest.fixture(autouse=True)
def _no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        pytest.fail("something wants the network")

    monkeypatch.setattr(socket.socket, "connect", refuse)


@pytest.fixture
def publish(tmp_path: Path, pair: KeyPair) -> Callable[..., Path]:
    """Return a function that writes and signs a model, after a change to its files."""
    small_models = importlib.import_module("integrations.small_models")

    def make(model: Any = None, change: Callable[[Path], object] = lambda _: None, **options: Any) -> Path:
        directory = tmp_path / "published"
        (model or small_models.bert()).save_pretrained(directory, **options)
        change(directory)
        small_models.sign(directory, pair)
        return directory

    return make
