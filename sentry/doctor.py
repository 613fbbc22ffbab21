# SPDX-License-Identifier: Apache-2.0
"""What this machine can do, and whether every engine that it has notices a tampered buffer."""

from __future__ import annotations

import importlib.metadata
import os
import platform
from dataclasses import dataclass
from typing import Any

from sentry.engine import choose
from sentry.engine.contract import Engine
from sentry.engine.segments import HostBytes
from sentry.errors import EngineError

# Large enough for several tiles and the ring, small enough to be instant; not a multiple of anything.
_TEST_BYTES = 3 * 1024 * 1024 + 77
_TEST_HASHES = ("blake3", "sha256", "blake2b", "merkle-sha256-8192", "merkle-sha3-256-8192", "merkle-blake2b-256-8192")
_PACKAGES = ("blake3", "cryptography", "numpy", "cuda-core", "cuda-bindings", "torch", "safetensors")


@dataclass(frozen=True)
class Finding:
    """One line of the report.

    Attributes:
        subject: What was looked at.
        state: `ok`, `absent`, or `failed`.
        detail: What was found.
    """

    subject: str
    state: str
    detail: str


def examine() -> list[Finding]:
    """Look at engines, compiler, driver, cuFile, caches and packages, and put every engine to the test."""
    found = [Finding("python", "ok", f"{platform.python_version()} on {platform.system()} {platform.machine()}")]
    found.append(_engine("cpu"))
    cuda = _engine("cuda")
    found += [cuda, _compiler(), _driver(), _cufile(), _cache()]
    found += [_package(name) for name in _PACKAGES]
    return found


def self_test(engine: Engine) -> None:
    """Digest a random buffer, then tamper with one bit of it: the first must match, the second must not.

    Raises:
        EngineError: The engine computes a wrong digest, or does not notice.
    """
    reference = choose("cpu").engine
    data = bytearray(os.urandom(_TEST_BYTES))
    signed = reference.digest(_TEST_HASHES, [HostBytes(bytes(data))])
    if engine.digest(_TEST_HASHES, [HostBytes(bytes(data))]) != signed:
        raise EngineError(f"the engine {engine.name} computes wrong digests")
    data[_TEST_BYTES // 2] ^= 1
    tampered = engine.digest(_TEST_HASHES, [HostBytes(bytes(data))])
    accepted = [name for name in _TEST_HASHES if tampered[name] == signed[name]]
    if accepted:
        raise EngineError(f"the engine {engine.name} does not notice a tampered buffer under {', '.join(accepted)}")


def _engine(name: str) -> Finding:
    try:
        engine = choose(name).engine
    except EngineError as error:
        return Finding(f"engine {name}", "absent", str(error))
    try:
        self_test(engine)
    except EngineError as error:
        return Finding(f"engine {name}", "failed", str(error))
    return Finding(f"engine {name}", "ok", f"{engine.describe()}; refuses a tampered buffer")


def _compiler() -> Finding:
    from sentry.engine.nvrtc import compiler_version  # noqa: PLC0415

    try:
        return Finding("compiler", "ok", f"NVRTC {compiler_version()}")
    except EngineError as error:
        return Finding("compiler", "absent", str(error))


def _driver() -> Finding:
    try:
        from cuda.bindings import driver  # noqa: PLC0415

        error, version = driver.cuDriverGetVersion()
    except Exception as error:  # noqa: BLE001  (whatever is wrong with it, it is not there)
        return Finding("driver", "absent", _first_line(error))
    if error or not version:
        return Finding("driver", "absent", "no NVIDIA driver")
    return Finding("driver", "ok", f"CUDA {version // 1000}.{version % 1000 // 10}")


def _cufile() -> Finding:
    config = os.environ.get("CUFILE_ENV_PATH_JSON")
    detail = f"CUFILE_ENV_PATH_JSON={config}" if config else "CUFILE_ENV_PATH_JSON is not set"
    try:
        from cuda.bindings import cufile  # noqa: PLC0415

        version: Any = cufile.get_version()
    except Exception as error:  # noqa: BLE001  (the same)
        return Finding("cuFile", "absent", f"{_first_line(error)}; {detail}")
    return Finding("cuFile", "ok", f"{version}; {detail}")


def _cache() -> Finding:
    from sentry.engine.nvrtc import private_directory  # noqa: PLC0415
    from sentry.private import default_cache  # noqa: PLC0415

    path = default_cache()
    try:
        directory = private_directory(path, create=False)
    except EngineError as error:
        return Finding("kernel cache", "failed", str(error))
    if directory is None:
        return Finding("kernel cache", "absent", f"{path} (made at first use)")
    entries = [entry.lstat().st_size for entry in directory.glob("*.cubin")]
    return Finding("kernel cache", "ok", f"{path}: {len(entries)} kernels, {sum(entries)} bytes")


def _package(name: str) -> Finding:
    try:
        return Finding(name, "ok", importlib.metadata.version(name))
    except importlib.metadata.PackageNotFoundError:
        return Finding(name, "absent", "not installed")


def _first_line(error: BaseException) -> str:
    return (str(error) or type(error).__name__).splitlines()[0]
