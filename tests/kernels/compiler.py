# SPDX-License-Identifier: Apache-2.0
"""Compile kernels to machine code with NVRTC (or nvcc), without a GPU, and read the resource report."""

import ctypes
import importlib.util
import re
import shutil
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path

from sentry.engine.kernels import Module

PATTERN = re.compile(
    r"Function properties for (\w+)\s+(?:ptxas +\. +)?(\d+) bytes stack frame, (\d+) bytes spill stores, (\d+) bytes spill loads"
    r"[^U]*Used (\d+) registers"
)


@dataclass(frozen=True)
class Usage:
    """What one kernel takes per thread."""

    registers: int
    stack: int
    spills: int


def find() -> str | None:
    """Path of libnvrtc (from the pip wheel) or of nvcc; None if neither is here."""
    for package in ("nvidia.cu13", "nvidia.cuda_nvrtc"):
        try:
            spec = importlib.util.find_spec(package)
        except ModuleNotFoundError:
            continue
        for folder in spec.submodule_search_locations or [] if spec else []:
            libraries = [p for p in sorted(Path(folder, "lib").glob("libnvrtc.so.*")) if "builtins" not in p.name]
            if libraries:
                return str(libraries[0])
    return shutil.which("nvcc")


def usage(module: Module, directory: Path, arch: str, compiler: str) -> dict[str, Usage]:
    """Compile a module of the registry for one architecture; its kernels' resources."""
    build = _nvcc if Path(compiler).name == "nvcc" else _nvrtc
    log = build(module, directory, arch, compiler)
    return {name: Usage(int(r), int(s), int(a) + int(b)) for name, s, a, b, r in PATTERN.findall(log)}


def _macros(module: Module) -> list[str]:
    return [f"-D{name}={value}" for name, value in module.macros]


def _nvcc(module: Module, directory: Path, arch: str, compiler: str) -> str:
    with tempfile.TemporaryDirectory() as out:
        command = [compiler, "-cubin", f"-arch={arch}", "-Xptxas=-v", "-o", f"{out}/x.cubin", *_macros(module)]
        done = subprocess.run([*command, str(directory / module.source)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stderr


def _nvrtc(module: Module, directory: Path, arch: str, compiler: str) -> str:
    library = ctypes.CDLL(compiler)
    program = ctypes.c_void_p()
    source = (directory / module.source).read_bytes()
    created = library.nvrtcCreateProgram(ctypes.byref(program), source, module.source.encode(), 0, None, None)
    assert created == 0, f"nvrtcCreateProgram: {created}"
    options = [f"--gpu-architecture={arch}", "-std=c++17", f"-I{directory}", "--ptxas-options=-v", *_macros(module)]
    array = (ctypes.c_char_p * len(options))(*[o.encode() for o in options])
    status = library.nvrtcCompileProgram(program, len(options), array)
    size = ctypes.c_size_t()
    library.nvrtcGetProgramLogSize(program, ctypes.byref(size))
    log = ctypes.create_string_buffer(size.value)
    library.nvrtcGetProgramLog(program, log)
    library.nvrtcDestroyProgram(ctypes.byref(program))
    assert status == 0, log.value.decode()
    return log.value.decode()
