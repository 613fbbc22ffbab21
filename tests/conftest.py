# SPDX-License-Identifier: Apache-2.0
"""What the tests share: keys, small models, data found beside the checkout, and how much of a campaign runs."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TypeVar

import pytest
from hypothesis import HealthCheck, settings

# Tests are not a package; what they share is imported by name.
sys.path.insert(0, str(Path(__file__).parent))

from support import SMALL_MODEL, KeyPair, write_files

Item = TypeVar("Item")

REPOSITORY = Path(__file__).parents[1]
SHARED_DATA = REPOSITORY.parent / "shared" / "data"
# A test's own fixtures are not written to between two examples, or are made anew in each.
_CHECKS = [HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
settings.register_profile(
    "share", deadline=None, print_blob=True, derandomize=False, max_examples=60, suppress_health_check=_CHECKS
)
settings.register_profile("whole", settings.get_profile("share"), max_examples=1000)


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--slow", action="store_true", help="run the long campaigns in full")


def pytest_configure(config: pytest.Config) -> None:
    settings.load_profile("whole" if config.getoption("--slow") else "share")


def pytest_collection_modifyitems(config: pytest.Config, items: Sequence[pytest.Item]) -> None:
    if config.getoption("--slow"):
        return
    for item in items:
        if item.get_closest_marker("slow"):
            item.add_marker(pytest.mark.skip(reason="a long campaign: pass --slow"))


@pytest.fixture(scope="session")
def share(pytestconfig: pytest.Config) -> Callable[[Sequence[Item], int], Sequence[Item]]:
    """Return a function that picks at most so many cases, evenly spread; with `--slow` all of them."""

    def pick(cases: Sequence[Item], at_most: int) -> Sequence[Item]:
        step = 1 if pytestconfig.getoption("--slow") else max(1, -(-len(cases) // at_most))
        return cases[::step]

    return pick


@pytest.fixture(scope="session")
def shared_data() -> Callable[[str], Path]:
    """Return a function that finds published data beside the checkout, or skips the test by the data's name."""

    def find(name: str) -> Path:
        path = SHARED_DATA / name
        if not path.exists():
            pytest.skip(f"{name} is not beside the checkout")
        return path

    return find


@pytest.fixture(scope="session")
def key_pairs(tmp_path_factory: pytest.TempPathFactory) -> Mapping[str, KeyPair]:
    """Return key pairs by name: one a curve, and an attacker's."""
    directory = tmp_path_factory.mktemp("key-pairs")
    curves = {"ecdsa-p256": "ecdsa-p256", "ecdsa-p384": "ecdsa-p384", "ecdsa-p521": "ecdsa-p521"}
    return {name: KeyPair.make(directory, name, curve) for name, curve in {**curves, "attacker": "ecdsa-p256"}.items()}


@pytest.fixture(scope="session")
def pair(key_pairs: Mapping[str, KeyPair]) -> KeyPair:
    """Return the signer's key pair."""
    return key_pairs["ecdsa-p256"]


@pytest.fixture(scope="session")
def attacker(key_pairs: Mapping[str, KeyPair]) -> KeyPair:
    """Return a key pair that nobody trusts."""
    return key_pairs["attacker"]


@pytest.fixture
def make_model(tmp_path: Path) -> Callable[..., Path]:
    """Return a function that makes a model directory of files given by path, or a small one."""

    def make(files: Mapping[str, bytes] = SMALL_MODEL, name: str = "model") -> Path:
        return write_files(tmp_path / name, files)

    return make


@pytest.fixture
def model(make_model: Callable[..., Path]) -> Path:
    """Return a small model directory."""
    return make_model()
