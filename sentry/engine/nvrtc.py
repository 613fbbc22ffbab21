# SPDX-License-Identifier: Apache-2.0
"""Compile the kernels at first use, and keep the result in a private cache on disk.

Whoever can write the cache could make every check pass, so the directory must be ours alone (mode 0700, no links), and
what is loaded has to prove itself in every process (`sentry.engine.selftest`). The key of an entry is everything that
decides the machine code: sources, options, compiler and architecture.
"""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from sentry.atomic import write_atomic
from sentry.engine.kernels import DIRECTORY, MODULES, Module
from sentry.errors import EngineError, UnavailableError
from sentry.private import default_cache, read_sealed, seal
from sentry.private import private_directory as any_private_directory

MAX_CUBIN_BYTES = 16 * 1024 * 1024


def load_module(name: str, arch: str) -> Mapping[str, Any]:
    """Compile (or take from the cache) one module, load it, and return its kernels by name.

    Args:
        name: A key of `sentry.engine.kernels.MODULES`.
        arch: Architecture of the current device, for example `sm_90`.

    Raises:
        EngineError: The compiler is missing or refuses, or the driver refuses the code.
    """
    from cuda.core import ObjectCode  # noqa: PLC0415

    module = MODULES[name]
    cubin = compile_module(module, arch)
    try:
        code = ObjectCode.from_cubin(cubin, name=name)
        return {kernel: code.get_kernel(kernel) for kernel, _ in module.kernels}
    except Exception as error:
        raise EngineError(
            f"the driver does not load the kernels for {arch}: {error}",
            hint=f"remove the kernel cache {default_cache()}; if that does not help, update the driver",
        ) from error


def compile_module(module: Module, arch: str, *, cache: Path | None = None) -> bytes:
    """Return the machine code of one module.

    Args:
        module: What to compile.
        arch: For which architecture.
        cache: Where to keep it; by default a directory of the user's.
    """
    directory = private_directory(cache or default_cache())
    entry = directory / f"{_key(module, arch)}.cubin" if directory is not None else None
    # A driver that is given half a file, or another one, may crash: hence the seal.
    if entry is not None and (kept := read_sealed(entry, max_bytes=MAX_CUBIN_BYTES)):
        return kept
    cubin = _compile(module, arch)
    if entry is not None:
        # A full disk makes the next start slower, nothing else.
        with contextlib.suppress(UnavailableError):
            write_atomic(entry, [seal(entry, cubin), cubin], what="compiled kernel", mode=0o600)
    return cubin


def private_directory(path: Path, *, create: bool = True) -> Path | None:
    """Make sure that the cache is ours alone; None if it cannot be made (read-only home): then nothing is cached.

    Raises:
        EngineError: It is a link, somebody else's, or writable for others, or lies in a directory that is.
    """
    try:
        return any_private_directory(path, what="kernel cache", create=create)
    except UnavailableError as error:
        raise EngineError(str(error), hint=error.hint) from None


def _key(module: Module, arch: str) -> str:
    state = hashlib.sha256(repr((module, arch, compiler_version())).encode())
    for source in sorted(DIRECTORY.glob("*.cu*")):
        state.update(source.name.encode() + b"\0" + source.read_bytes() + b"\0")
    return state.hexdigest()


def compiler_version() -> str:
    """Return NVRTC's version.

    Raises:
        EngineError: It is not installed.
    """
    try:
        from cuda.bindings import nvrtc  # noqa: PLC0415

        status, major, minor = nvrtc.nvrtcVersion()
    except Exception as error:
        raise EngineError(
            "NVRTC, the compiler of the kernels, is not installed", hint="pip install 'artifact-sentry[cuda]'"
        ) from error
    if status:
        raise EngineError(f"NVRTC does not answer: {status}")
    return f"{major}.{minor}"


def _compile(module: Module, arch: str) -> bytes:
    from cuda.core import Program, ProgramOptions  # noqa: PLC0415

    options = ProgramOptions(
        name=module.source,
        arch=arch,
        std="c++17",
        include_path=str(DIRECTORY),
        define_macro=list(module.macros) or None,
        device_as_default_execution_space=False,
    )
    try:
        program = Program((DIRECTORY / module.source).read_text(encoding="ascii"), "c++", options)
        return bytes(program.compile("cubin").code)
    except Exception as error:
        raise EngineError(f"{module.source} does not compile for {arch}: {error}") from error
