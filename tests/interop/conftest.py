# SPDX-License-Identifier: Apache-2.0
"""What the tests with model-signing share: the peer's API and command line, keys on every curve, trees of files."""

from __future__ import annotations

import itertools
import json
import os
import shutil
import subprocess
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import pytest

from sentry import Bundle, KeySigner, KeyTrust
from sentry.formats.manifest import Manifest
from sentry.formats.oms import decode_manifest
from sentry.trust.keys import generate

ROOT = Path(__file__).parent.parent.parent
PEER = ROOT / ".venv-peer" / "bin"
CURVES = ("ecdsa-p256", "ecdsa-p384", "ecdsa-p521")


@dataclass(frozen=True)
class Key:
    """An ECDSA key pair, as files and as what they hold."""

    private: Path
    public: Path

    @property
    def signer(self) -> KeySigner:
        return KeySigner.from_file(self.private)

    @property
    def trust(self) -> KeyTrust:
        return KeyTrust.from_file(self.public)


class PeerError(Exception):
    """What the peer raised."""


class Peer:
    """The peer's Python API, in a process of its own that lives as long as this object."""

    def __init__(self) -> None:
        self._process = subprocess.Popen(
            [PEER / "python", ROOT / "tests" / "peer" / "worker.py"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_exception: object) -> None:
        self._process.communicate(timeout=60)

    def sign(self, model: Path, signature: Path, key: Key, **options: object) -> Bundle:
        """Sign with the peer, and return what it wrote.

        Raises:
            PeerError: It refused.
        """
        self.ask("sign", model=str(model), signature=str(signature), key=str(key.private), **options)
        return Bundle.read(signature)

    def verify(self, model: Path, signature: Path, key: Key, **options: object) -> None:
        """Verify with the peer.

        Raises:
            PeerError: It refused.
        """
        self.ask("verify", model=str(model), signature=str(signature), key=str(key.public), **options)

    def ask(self, action: str, **arguments: object) -> dict[str, object]:
        """Send a request and return the answer.

        Raises:
            PeerError: The answer is an error.
        """
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps({"action": action, **arguments}) + "\n")
        self._process.stdin.flush()
        answer: dict[str, object] = json.loads(self._process.stdout.readline())
        if not answer["ok"]:
            raise PeerError(answer["error"])
        return answer


@pytest.fixture(scope="session")
def peer() -> Iterator[Peer]:
    """Return the peer's Python API; skips where it is not installed."""
    if not (PEER / "python").exists():
        pytest.skip("model-signing is not installed (make .venv-peer/.ready)")
    with Peer() as running:
        assert running.ask("version")["version"] == "1.1.1"
        yield running


@pytest.fixture(scope="session")
def peer_error() -> type[Exception]:
    """Return what the peer's refusals are raised as."""
    return PeerError


@pytest.fixture(scope="session")
def peer_command(peer: Peer) -> Callable[..., subprocess.CompletedProcess[str]]:
    """Return a function that runs the peer's command line."""
    assert peer is not None

    def run(*arguments: str | Path, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
        command = [PEER / "python", "-m", "model_signing", *arguments]
        return subprocess.run(command, cwd=cwd, capture_output=True, text=True, timeout=120, check=False)

    return run


@pytest.fixture(scope="session")
def keys(tmp_path_factory: pytest.TempPathFactory) -> Mapping[str, Key]:
    """Return a key pair on every curve, by the algorithm's name."""
    directory = tmp_path_factory.mktemp("keys")
    pairs = {}
    for algorithm in CURVES:
        private, public = generate(algorithm)
        pair = Key(directory / f"{algorithm}.pem", directory / f"{algorithm}-public.pem")
        pair.private.touch(mode=0o600)
        pair.private.write_bytes(private)
        pair.public.write_bytes(public)
        pairs[algorithm] = pair
    return pairs


@pytest.fixture(scope="session")
def key(keys: Mapping[str, Key]) -> Key:
    """Return a key pair on P-256."""
    return keys["ecdsa-p256"]


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """Return a small model: names that sort differently in different tools, an empty file, a dotfile, Unicode."""
    directory = tmp_path / "model"
    (directory / "a").mkdir(parents=True)
    (directory / "weights.bin").write_bytes(bytes(range(256)) * 16)
    (directory / "a" / "b").write_text("below")
    (directory / "a.b").write_text("beside")
    (directory / "a-b").write_text("before")
    (directory / "empty").touch()
    (directory / ".hidden").write_text("hidden")
    (directory / "n\u00e4me \u4e2d\u6587 \U0001f600").write_text("unicode")
    return directory


@pytest.fixture
def manifest_of() -> Callable[[Bundle], Manifest]:
    """Return a function that reads the manifest of a bundle."""
    return lambda bundle: decode_manifest(bundle.envelope.payload)


Tree = Mapping[str, bytes] | bytes


@pytest.fixture
def write_tree(tmp_path: Path) -> Callable[[Tree], Path]:
    """Return a function that writes a tree, or a single file, to a new place; the one before is gone."""
    count = itertools.count()

    def write(tree: Tree) -> Path:
        number = next(count)
        if number:
            shutil.rmtree(tmp_path / str(number - 1))
        model = tmp_path / str(number) / "model"
        model.parent.mkdir()
        if isinstance(tree, bytes):
            model.write_bytes(tree)
            return model
        model.mkdir()
        for path, content in tree.items():
            parent = os.path.dirname(os.path.join(model, path))
            os.makedirs(parent, exist_ok=True)
            with open(os.path.join(model, path), "wb") as file:
                file.write(content)
        return model

    return write
