# SPDX-License-Identifier: Apache-2.0
"""Kernels that answer from memory, always say yes, or compute wrongly are caught before they are believed."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import pytest
from engines.fake_cuda import FakeCuda
from engines.host_kernels import HostKernels
from engines.places import Simulated

from sentry.engine import nvrtc
from sentry.engine.cpu import CpuEngine
from sentry.engine.gpu import Gpu
from sentry.engine.kernels import MODULES
from sentry.engine.schedule import Inputs, Shape
from sentry.engine.schedules import digests as digests_schedule
from sentry.engine.selftest import LENGTHS, names_of, prove
from sentry.errors import EngineError
from sentry.formats.lattice import LatticeSum

Digests = Callable[[str, Sequence[bytes]], list[bytes]]
HASH_MODULES = [name for name in MODULES if name != "lattice"]
CPU = CpuEngine(threads=1)


def no_lattice(_leaves: Sequence[bytes]) -> LatticeSum:
    raise AssertionError


def assert_caught(module: str, digests: Digests, lattice: Callable[[Sequence[bytes]], LatticeSum] = no_lattice) -> None:
    with pytest.raises(EngineError) as caught:
        prove(module, digests, lattice)
    assert str(caught.value) == f"the kernels of {module} compute wrong digests on this GPU"
    assert caught.value.hint == (
        "remove the kernel cache (`sentry doctor` says where); if that does not help, the GPU or driver is broken"
    )


class FromMemory:
    """Computes once for every hash, and then gives the same answer for all messages of the same lengths."""

    def __init__(self) -> None:
        self._known: dict[Any, Any] = {}

    def digests(self, name: str, messages: Sequence[bytes]) -> list[bytes]:
        key = (name, tuple(map(len, messages)))
        if key not in self._known:
            self._known[key] = CPU.digests(name, messages)
        known: list[bytes] = self._known[key]
        return known

    def lattice(self, leaves: Sequence[bytes]) -> LatticeSum:
        if len(leaves) not in self._known:
            self._known[len(leaves)] = CPU.lattice_sum(leaves)
        known: LatticeSum = self._known[len(leaves)]
        return known


@pytest.mark.parametrize("module", MODULES)
def test_right_kernels_pass(module: str) -> None:
    prove(module, CPU.digests, CPU.lattice_sum)


@pytest.mark.parametrize("module", MODULES)
def test_answers_from_memory_are_caught(module: str) -> None:
    memory = FromMemory()
    assert_caught(module, memory.digests, memory.lattice)


@pytest.mark.parametrize("module", MODULES)
def test_answers_of_an_earlier_process_are_caught(module: str) -> None:
    memory = FromMemory()
    for _ in range(2):
        with pytest.raises(EngineError):
            prove(module, memory.digests, memory.lattice)


@pytest.mark.parametrize("module", MODULES)
def test_the_same_answer_for_everything_is_caught(module: str) -> None:
    assert_caught(module, lambda _, messages: [bytes(32)] * len(messages), lambda _: LatticeSum())


@pytest.mark.parametrize("number", range(len(LENGTHS)), ids=lambda number: str(LENGTHS[number]))
@pytest.mark.parametrize("module", HASH_MODULES)
def test_one_length_computed_wrongly_is_caught(module: str, number: int) -> None:
    def digests(name: str, messages: Sequence[bytes]) -> list[bytes]:
        right = CPU.digests(name, messages)
        right[number] = bytes([right[number][0] ^ 1]) + right[number][1:]
        return right

    assert_caught(module, digests)


@pytest.mark.parametrize("module", ["sha256", "sha3-256", "blake2b-256"])
def test_trees_computed_wrongly_are_caught(module: str) -> None:
    def digests(name: str, messages: Sequence[bytes]) -> list[bytes]:
        return CPU.digests(name.replace("-1024", "-2048"), messages)

    assert_caught(module, digests)


@pytest.mark.parametrize("module", HASH_MODULES)
def test_digests_in_another_order_or_number_are_caught(module: str) -> None:
    assert_caught(module, lambda name, messages: CPU.digests(name, messages)[::-1])
    assert_caught(module, lambda name, messages: CPU.digests(name, messages)[:-1])


def test_a_sum_that_leaves_out_a_leaf_or_a_carry_is_caught() -> None:
    def masked(leaves: Sequence[bytes]) -> LatticeSum:
        return LatticeSum(CPU.lattice_sum(leaves).state[:-1] + b"\0")

    assert_caught("lattice", CPU.digests, lambda leaves: CPU.lattice_sum(leaves[1:]))
    assert_caught("lattice", CPU.digests, lambda leaves: CPU.lattice_sum([*leaves, leaves[0]]))
    # The byte is zero anyway once in 256 times; both samples would have to be so lucky.
    assert_caught("lattice", CPU.digests, masked)


@pytest.fixture
def fresh_gpu(fake_cuda: FakeCuda, monkeypatch: pytest.MonkeyPatch) -> Gpu:
    """Return a GPU on host-compiled kernels, none of them loaded."""
    fake_cuda.install(monkeypatch)
    return Gpu(0)


@pytest.mark.parametrize("module", ["sha256", "sha3-256", "blake2b-256", "blake2b", "lattice", "blake3"])
def test_every_kernel_of_a_module_has_to_prove_itself(fresh_gpu: Gpu, host_kernels: HostKernels, module: str) -> None:
    kernels = {kernel for kernel, _ in MODULES[module].kernels}
    if module == "blake2b":
        kernels.discard("leaves")  # compiled, but digests of 64 bytes form no trees
    host_kernels.launched.clear()
    fresh_gpu.kernel(module, MODULES[module].kernels[0][0])
    assert host_kernels.launched == {(module, kernel) for kernel in kernels}


def test_a_module_is_loaded_and_tested_once(fresh_gpu: Gpu, fake_cuda: FakeCuda) -> None:
    fake_cuda.loaded.clear()
    for kernel in ("leaves", "flat", "nodes", "leaves"):
        fresh_gpu.kernel("sha256", kernel)
    assert fake_cuda.loaded == ["sha256 for sm_90"]


@pytest.mark.parametrize(
    ("asked", "planted"), [("sha256", "sha3-256"), ("blake2b-256", "sha256"), ("blake2b", "sha256")]
)
def test_another_modules_code_in_the_cache_is_caught_and_never_used(
    fresh_gpu: Gpu, monkeypatch: pytest.MonkeyPatch, asked: str, planted: str
) -> None:
    original = nvrtc.load_module
    monkeypatch.setattr(nvrtc, "load_module", lambda name, arch: original(planted if name == asked else name, arch))
    memory = Simulated(b"abc").segment
    schedule = digests_schedule(asked, Inputs.one_segment_each(*tables_of(memory)), Shape())
    for _ in range(2):
        with pytest.raises(EngineError, match=rf"^the kernels of {asked} compute wrong digests on this GPU$"):
            fresh_gpu.run(schedule, ())
    monkeypatch.setattr(nvrtc, "load_module", original)
    assert fresh_gpu.run(schedule, ()) == CPU.digests(asked, [b"abc"])[0]


def tables_of(memory: Any) -> tuple[Any, Any]:
    import numpy as np  # noqa: PLC0415

    return np.array([memory.pointer], np.uint64), np.array([memory.nbytes], np.uint64)


def test_a_module_that_failed_its_test_leaves_no_memory_behind(
    fresh_gpu: Gpu, fake_cuda: FakeCuda, monkeypatch: pytest.MonkeyPatch
) -> None:
    original = nvrtc.load_module
    monkeypatch.setattr(nvrtc, "load_module", lambda _, arch: original("sha3-256", arch))
    before = fake_cuda.in_use
    for _ in range(3):
        with pytest.raises(EngineError, match=r"^the kernels of sha256 compute wrong digests"):
            fresh_gpu.kernel("sha256", "flat")
    assert fake_cuda.in_use == before


def test_the_names_of_a_module_are_its_flat_hash_and_its_tree() -> None:
    assert names_of("sha256") == ("sha256", "merkle-sha256-1024")
    assert names_of("blake3") == ("blake3",)
    assert names_of("blake2b") == ("blake2b",)
