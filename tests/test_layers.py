# SPDX-License-Identifier: Apache-2.0
"""The layers of the package, found by walking its imports, and what importing it costs."""

from __future__ import annotations

import ast
import resource
import statistics
import subprocess
import sys
from collections.abc import Iterator
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "sentry"
# The lowest layer whose modules may import a module; the first entry that a name starts with counts.
LAYERS = [
    (0, ("sentry.errors", "sentry.text")),
    (1, ("sentry.formats",)),
    (
        2,
        (
            "sentry.engine",
            "sentry.trust",
            "sentry.tree",
            "sentry.snapshots",
            "sentry.hashing",
            "sentry.atomic",
            "sentry.bundle",
            "sentry.paths",
            "sentry.dtypes",
            "sentry.readers",
            "sentry.named_tensors",
            "sentry.resident",
            "sentry.private",
            "sentry.stamps",
        ),
    ),
    (
        3,
        (
            "sentry.verification",
            "sentry.comparison",
            "sentry.signatures",
            "sentry.signing",
            "sentry.hub",
            "sentry.materializing",
            "sentry.verifying",
            "sentry.updating",
            "sentry.doctor",
            "sentry.loading",
            "sentry.model_comparison",
            "sentry.model_headers",
            "sentry.model_signing",
            "sentry.model_updating",
            "sentry.model_verification",
            "sentry.model_verifying",
            "sentry.watching",
        ),
    ),
    (4, ("sentry.integrations",)),
    (5, ("sentry.cli", "sentry.__main__")),
]
PURE_FORMATS = {
    "__future__",
    "array",
    "base64",
    "binascii",
    "collections",
    "dataclasses",
    "enum",
    "functools",
    "hashlib",
    "itertools",
    "json",
    "math",
    "operator",
    "posixpath",
    "re",
    "struct",
    "sys",
    "types",
    "typing",
    "unicodedata",
    "sentry",
}
# Modules that are made of numpy, and are themselves imported late.
OVER_NUMPY = {
    "sentry.engine.blake3_numpy",
    "sentry.engine.cuda",
    "sentry.engine.cuda_plan",
    "sentry.engine.gpu",
    "sentry.engine.gpu_stream",
    "sentry.engine.schedule",
    "sentry.engine.schedules",
    "sentry.engine.torch_tables",
}
HEAVY = {
    "numpy",
    "torch",
    "cuda",
    "sigstore",
    "transformers",
    "datasets",
    "vllm",
    "safetensors",
    "rich",
    "huggingface_hub",
}
# What each third-party package is for, and the only places that may know it.
HOMES = {
    "cryptography": ("sentry.trust",),
    "blake3": ("sentry.engine.cpu",),
    "click": ("sentry.cli",),
    "rich": ("sentry.cli",),
    "transformers": ("sentry.integrations.transformers", "sentry.integrations.adoption"),
    "huggingface_hub": ("sentry.hub", "sentry.integrations.transformers"),
    "vllm": ("sentry.integrations.vllm",),
}


def modules() -> dict[str, ast.Module]:
    found = {}
    for path in sorted(PACKAGE.rglob("*.py")):
        parts = path.relative_to(PACKAGE.parent).with_suffix("").parts
        name = ".".join(parts[:-1] if parts[-1] == "__init__" else parts)
        found[name] = ast.parse(path.read_text(encoding="utf-8"))
    return found


MODULES = modules()


def imports(tree: ast.AST, *, late: bool = True) -> Iterator[str]:
    """Yield the full names that a module imports; those for type checkers only are no imports."""
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "relative imports are not used"
            assert node.module is not None
            for alias in node.names:
                full = f"{node.module}.{alias.name}"
                yield full if full in MODULES else node.module
        elif isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING":
            continue
        elif late or not isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
            yield from imports(node, late=late)


def is_name(node: ast.Attribute, name: str) -> bool:
    return isinstance(node.value, ast.Name) and node.value.id == name


def layer_of(name: str) -> int:
    if name == "sentry":
        return 5
    return next(
        layer
        for layer, prefixes in LAYERS
        if any(name == prefix or name.startswith(prefix + ".") for prefix in prefixes)
    )


def test_every_module_has_a_layer() -> None:
    assert all(layer_of(name) >= 0 for name in MODULES)
    assert len(MODULES) > 20


@pytest.mark.parametrize("name", MODULES)
def test_modules_import_only_their_own_layer_or_lower_ones(name: str) -> None:
    used = {module for module in imports(MODULES[name]) if module.split(".")[0] == "sentry"}
    assert {module for module in used if layer_of(module) > layer_of(name)} == set()


def test_no_import_is_part_of_a_cycle() -> None:
    # Late imports count as well: they hide a cycle from the interpreter, not from the reader.
    graph = {name: {module for module in imports(tree) if module in MODULES} for name, tree in MODULES.items()}
    assert list(TopologicalSorter(graph).static_order())


@pytest.mark.parametrize("name", [name for name in MODULES if name.startswith("sentry.formats")])
def test_formats_are_pure(name: str) -> None:
    assert {module.split(".")[0] for module in imports(MODULES[name])} <= PURE_FORMATS
    calls = {ast.unparse(node.func) for node in ast.walk(MODULES[name]) if isinstance(node, ast.Call)}
    assert calls.isdisjoint({"open", "print", "input", "eval", "exec", "__import__"})
    of_sys = {node.attr for node in ast.walk(MODULES[name]) if isinstance(node, ast.Attribute) and is_name(node, "sys")}
    assert of_sys <= {"byteorder"}


@pytest.mark.parametrize("name", MODULES)
def test_heavy_packages_are_imported_only_inside_functions(name: str) -> None:
    early = set(imports(MODULES[name], late=False))
    allowed = {"numpy"} if name in OVER_NUMPY else set()
    assert {module.split(".")[0] for module in early} & HEAVY <= allowed
    assert name in OVER_NUMPY or early.isdisjoint(OVER_NUMPY)


@pytest.mark.parametrize("package", HOMES)
def test_every_third_party_package_has_its_home(package: str) -> None:
    users = {name for name, tree in MODULES.items() if package in {used.split(".")[0] for used in imports(tree)}}
    assert users
    assert all(name.startswith(HOMES[package]) for name in users)


# Where the kernel cache lies, and what cuFile is told; never anything that decides what verifies.
ENVIRONMENT = {
    "sentry.private": {"os.environ"},
    "sentry.doctor": {"os.environ"},
    "sentry.readers.gds": {"os.environ"},
}


@pytest.mark.parametrize("name", [name for name in MODULES if not name.startswith("sentry.cli")])
def test_the_library_neither_prints_nor_exits_nor_reads_arguments(name: str) -> None:
    calls = {ast.unparse(node.func) for node in ast.walk(MODULES[name]) if isinstance(node, ast.Call)}
    uses = {ast.unparse(node) for node in ast.walk(MODULES[name]) if isinstance(node, ast.Attribute)}
    assert calls.isdisjoint({"print", "exit", "quit", "input", "sys.exit", "os._exit", "warnings.warn"})
    assert uses.isdisjoint({"sys.argv", "sys.stdout", "sys.stderr", "os.environ"} - ENVIRONMENT.get(name, set()))


# Page-aligned blocks to read into.
ANONYMOUS_MEMORY = {"sentry.engine.cpu": {"mmap"}}
# Page-locked memory, which the driver hands out as an address.
RAW_MEMORY = {"sentry.engine.gpu": {"ctypes"}}


@pytest.mark.parametrize("name", MODULES)
def test_nothing_maps_files_or_loads_code(name: str) -> None:
    used = {module.split(".")[0] for module in imports(MODULES[name])}
    assert used.isdisjoint(
        {"pickle", "marshal", "shelve", "random"}
        | ({"mmap"} - ANONYMOUS_MEMORY.get(name, set()))
        | ({"ctypes"} - RAW_MEMORY.get(name, set()))
    )


def test_the_one_module_that_maps_memory_maps_no_file() -> None:
    calls = [
        ast.unparse(node)
        for name in ANONYMOUS_MEMORY
        for node in ast.walk(MODULES[name])
        if isinstance(node, ast.Call) and ast.unparse(node.func).startswith("mmap.")
    ]
    assert calls == ["mmap.mmap(-1, BLOCK_BYTES, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)"]


@pytest.mark.parametrize("name", MODULES)
def test_files_say_what_they_are_and_stay_short(name: str) -> None:
    path = PACKAGE.parent / name.replace(".", "/")
    source = (path / "__init__.py" if path.is_dir() else path.with_suffix(".py")).read_text(encoding="utf-8")
    assert source.startswith('# SPDX-License-Identifier: Apache-2.0\n"""')
    assert source.count("\n") <= 300


def run(code: str) -> float:
    """Run code in a process of its own, and return the processor time that it took."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run([sys.executable, "-c", code], check=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def test_importing_the_package_loads_none_of_its_dependencies() -> None:
    run(
        "import sys; before = set(sys.modules); import sentry; loaded = set(sys.modules) - before;"
        "heavy = {'cryptography', 'blake3', 'click', 'rich', 'hashlib', 'json', 'concurrent', 'unicodedata'};"
        "assert not heavy & {name.split('.')[0] for name in loaded}, loaded"
    )


def test_importing_the_package_costs_less_than_a_tenth_of_a_second() -> None:
    rounds = [(run("import sentry"), run("pass")) for _ in range(7)]
    assert statistics.median(loaded - bare for loaded, bare in rounds) < 0.1


def test_the_public_names_are_the_documented_ones() -> None:
    run(
        "import sentry;"
        "missing = [name for name in sentry.__all__ if getattr(sentry, name, None) is None];"
        "assert not missing and set(sentry.__all__) <= set(dir(sentry));"
        "assert sorted(sentry.__all__) == sorted(sentry._HOMES)"
    )
