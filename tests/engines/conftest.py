# SPDX-License-Identifier: Apache-2.0
"""Engines that every test of theirs runs on: the CPU's, CUDA's on host-compiled kernels, and CUDA's on a GPU.

`SENTRY_REQUIRE_GPU=1` turns the skipping of tests that need a GPU into failures.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from functools import cache
from pathlib import Path

import pytest

# Tests are not a package; what they share is imported by name.
if str(Path(__file__).parents[1]) not in sys.path:
    sys.path.insert(0, str(Path(__file__).parents[1]))

from engines.fake_cuda import FakeCuda
from engines.host_kernels import HostKernels
from engines.places import OnGpu, OnHost, Place, Simulated

from sentry.engine import choose
from sentry.engine.contract import Engine
from sentry.engine.cpu import CpuEngine
from sentry.engine.cuda import CudaEngine
from sentry.errors import EngineError

REQUIRE_GPU = "SENTRY_REQUIRE_GPU"


def pytest_collection_modifyitems(config: pytest.Config, items: Sequence[pytest.Item]) -> None:
    """Leave long campaigns out where nothing above does."""
    if config.getoption("--slow", default=False):
        return
    for item in items:
        if item.path.is_relative_to(Path(__file__).parent) and item.get_closest_marker("slow"):
            item.add_marker(pytest.mark.skip(reason="a long campaign: pass --slow"))


@cache
def cuda_engine() -> Engine | str:
    """Return the engine of the first GPU, or why there is none."""
    try:
        return choose("cuda").engine
    except EngineError as error:
        return str(error)


def require_cuda() -> Engine:
    """Return the engine of the first GPU, or skip the test by the reason, or fail where a GPU is required."""
    engine = cuda_engine()
    if not isinstance(engine, str):
        return engine
    if os.environ.get(REQUIRE_GPU) == "1":
        pytest.fail(f"{REQUIRE_GPU}=1, but: {engine}")
    pytest.skip(f"the CUDA engine: {engine}")


@pytest.fixture(scope="session")
def host_kernels(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> HostKernels:
    """Return the kernels as host code, kept from session to session where pytest keeps a cache."""
    if HostKernels.compiler() is None:
        pytest.skip("there is no C++ compiler to compile the kernels with")
    kept = getattr(request.config, "cache", None)
    directory = kept.mkdir("sentry-host-kernels") if kept else tmp_path_factory.mktemp("host-kernels")
    return HostKernels(directory)


@pytest.fixture(scope="session")
def fake_cuda(host_kernels: HostKernels) -> FakeCuda:
    """Return two GPUs that are none; `simulated` puts them in their place."""
    return FakeCuda(host_kernels)


@pytest.fixture(scope="session")
def _kept() -> dict[str, CudaEngine]:
    return {}


@pytest.fixture
def simulated(fake_cuda: FakeCuda, _kept: dict[str, CudaEngine], monkeypatch: pytest.MonkeyPatch) -> CudaEngine:
    """Return the CUDA engine on host-compiled kernels; its kernels prove themselves once a session."""
    fake_cuda.install(monkeypatch)
    if "engine" not in _kept:
        _kept["engine"] = CudaEngine(0)
    return _kept["engine"]


@pytest.fixture
def thorough(request: pytest.FixtureRequest) -> bool:
    """Say whether time does not matter."""
    return bool(request.config.getoption("--slow", default=False))


@pytest.fixture
def cuda() -> Engine:
    """Return the CUDA engine on a GPU."""
    return require_cuda()


@pytest.fixture(params=["cpu", "simulated", "cuda"])
def engine_kind(request: pytest.FixtureRequest) -> str:
    """Return which engine a test runs on."""
    kind: str = request.param
    return kind


@pytest.fixture
def engine(engine_kind: str, request: pytest.FixtureRequest) -> Engine:
    """Return each engine in turn."""
    if engine_kind == "cpu":
        return CpuEngine()
    found: Engine = request.getfixturevalue(engine_kind)
    return found


@pytest.fixture
def place(engine_kind: str) -> Place:
    """Return what puts bytes into the memory that the engine hashes."""
    places: dict[str, Place] = {"cpu": OnHost, "simulated": Simulated, "cuda": OnGpu}
    return places[engine_kind]
