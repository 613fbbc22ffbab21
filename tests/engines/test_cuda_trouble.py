# SPDX-License-Identifier: Apache-2.0
"""Whatever is wrong with a GPU, its driver or its compiler is an `EngineError` that says what, and what to do."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from engines.fake_cuda import FakeCuda
from engines.host_kernels import HostKernels
from engines.oracle import expected
from engines.places import Simulated
from reference.write_vectors import noise

from sentry.engine import choose, gpu, is_engine, nvrtc
from sentry.engine.cpu import CpuEngine
from sentry.engine.cuda import CudaEngine
from sentry.engine.kernels import MODULES, Module
from sentry.engine.segments import DeviceBytes, HostBytes
from sentry.errors import EngineError

INSTALL = "pip install 'artifact-sentry[cuda]'"
ON_CPU = "use engine='cpu'; `sentry doctor` says what this machine has"


@pytest.fixture
def broken(host_kernels: HostKernels, monkeypatch: pytest.MonkeyPatch) -> FakeCuda:
    """Return a machine of its own that a test may break."""
    fake = FakeCuda(host_kernels, devices=1)
    fake.install(monkeypatch)
    # What proves itself elsewhere need not do so here.
    monkeypatch.setattr(gpu, "prove", lambda *_: None)
    return fake


def failing(message: str) -> Callable[..., Any]:
    def fail(*_arguments: Any, **_options: Any) -> Any:
        raise RuntimeError(message)

    return fail


def refusal(attempt: Callable[[], object]) -> EngineError:
    with pytest.raises(EngineError) as caught:
        attempt()
    return caught.value


@pytest.mark.parametrize("name", ["cuda.core", "cuda.bindings"])
def test_without_cudas_libraries_it_says_how_to_install_them(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.setitem(sys.modules, name, None)
    error = refusal(lambda: CudaEngine(0))
    assert str(error).startswith("the CUDA engine is not installed (")
    assert error.hint == INSTALL


def test_without_a_driver_there_is_no_engine(broken: FakeCuda) -> None:
    broken.core.Device = failing("Failed to dlopen libcuda.so.1")
    error = refusal(lambda: CudaEngine(0))
    assert str(error) == "there is no usable GPU: Failed to dlopen libcuda.so.1"
    assert error.hint == ON_CPU


@pytest.mark.parametrize("ordinal", [1, 7, 999])
def test_a_gpu_that_there_is_not_is_no_engine(broken: FakeCuda, ordinal: int) -> None:
    assert str(refusal(lambda: CudaEngine(ordinal))).startswith(
        "there is no usable GPU: device_id must be within [0, 1)"
    )
    assert broken.in_use == 0


@pytest.mark.parametrize("capability", [(7, 5), (7, 0), (6, 1), (3, 5)])
def test_a_card_that_is_too_old_is_refused(broken: FakeCuda, capability: tuple[int, int]) -> None:
    broken.capability = capability
    message = str(refusal(lambda: CudaEngine(0)))
    assert message == f"Host has compute capability {capability}, the kernels need 8.0"


@pytest.mark.parametrize(
    ("capability", "arch"), [((8, 0), "sm_80"), ((8, 9), "sm_89"), ((9, 0), "sm_90"), ((12, 0), "sm_120")]
)
def test_kernels_are_compiled_for_the_card(broken: FakeCuda, capability: tuple[int, int], arch: str) -> None:
    broken.capability = capability
    engine = CudaEngine(0)
    assert engine.describe() == f"Host, {arch}"
    engine.digests("blake3", [Simulated(b"abc").segment])
    assert broken.loaded == [f"blake3 for {arch}"]


@pytest.mark.parametrize("trouble", ["not installed", "no library", "an error code"])
def test_without_a_compiler_it_says_how_to_get_one(monkeypatch: pytest.MonkeyPatch, trouble: str) -> None:
    bindings = pytest.importorskip("cuda.bindings")
    versions: dict[str, Any] = {
        "no library": failing("libnvrtc.so.13: cannot open shared object file"),
        "an error code": lambda: ("NVRTC_ERROR_INTERNAL_ERROR", 0, 0),
    }
    if trouble == "not installed":
        monkeypatch.setitem(sys.modules, "cuda.bindings.nvrtc", None)
        monkeypatch.delattr(bindings, "nvrtc", raising=False)
    else:
        monkeypatch.setattr(bindings, "nvrtc", SimpleNamespace(nvrtcVersion=versions[trouble]), raising=False)
        monkeypatch.setitem(sys.modules, "cuda.bindings.nvrtc", bindings.nvrtc)
    error = refusal(nvrtc.compiler_version)
    if trouble == "an error code":
        assert str(error) == "NVRTC does not answer: NVRTC_ERROR_INTERNAL_ERROR"
    else:
        assert str(error) == "NVRTC, the compiler of the kernels, is not installed"
        assert error.hint == "pip install 'artifact-sentry[cuda]'"


@pytest.fixture
def compiler() -> None:
    """Skip a test where there is no NVRTC."""
    pytest.importorskip("cuda.core")
    try:
        nvrtc.compiler_version()
    except EngineError as error:
        pytest.skip(str(error))


@pytest.mark.usefixtures("compiler")
def test_a_kernel_that_does_not_compile_shows_the_compilers_log(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "bad.cu").write_text("__global__ void f() { nonsense; }", encoding="ascii")
    monkeypatch.setattr(nvrtc, "DIRECTORY", tmp_path)
    module = Module("bad.cu", (("A", "1"),), (("f", 1),))
    message = str(refusal(lambda: nvrtc.compile_module(module, "sm_90", cache=tmp_path / "cache")))
    assert message.startswith("bad.cu does not compile for sm_90: ")
    assert 'bad.cu(1): error: identifier "nonsense" is undefined' in message
    assert list((tmp_path / "cache").iterdir()) == []
    missing = refusal(
        lambda: nvrtc.compile_module(Module("no.cu", (("A", "1"),), ()), "sm_90", cache=tmp_path / "cache")
    )
    assert str(missing).startswith("no.cu does not compile for sm_90: [Errno 2] ")


@pytest.mark.usefixtures("compiler")
@pytest.mark.parametrize("macros", [(("A", "1"),), (("A", "1"), ("B", '"x"')), ()], ids=["one", "two", "none"])
def test_a_module_with_any_number_of_macros_is_compiled(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, macros: tuple[tuple[str, str], ...]
) -> None:
    (tmp_path / "good.cu").write_text('extern "C" __global__ void f() {}', encoding="ascii")
    monkeypatch.setattr(nvrtc, "DIRECTORY", tmp_path)
    code = nvrtc.compile_module(Module("good.cu", macros, (("f", 1),)), "sm_90", cache=tmp_path / "cache")
    assert code.startswith(b"\x7fELF")


def test_there_are_modules_with_and_without_macros() -> None:
    assert {bool(module.macros) for module in MODULES.values()} == {True, False}


def host_digest(engine: CudaEngine) -> Any:
    return engine.digest(["blake3"], [HostBytes(noise(3000))])


def device_digests(engine: CudaEngine) -> Any:
    return engine.digests("blake3", [Simulated(noise(3000)).segment])


def large_host_digest(engine: CudaEngine) -> Any:
    return engine.digest(["blake3", "sha256"], [HostBytes(noise(3 * 1024 * 1024))])


every_path = pytest.mark.parametrize("attempt", [host_digest, device_digests, large_host_digest])


@every_path
def test_a_kernel_that_fails_is_an_error_and_there_is_no_digest(
    broken: FakeCuda, monkeypatch: pytest.MonkeyPatch, attempt: Callable[[CudaEngine], Any]
) -> None:
    broken.core.launch = failing("CUDA_ERROR_ILLEGAL_ADDRESS: the kernel read where it must not")
    engine = CudaEngine(0)
    monkeypatch.setattr(CpuEngine, "digest", failing("the CPU was asked"))
    message = str(refusal(lambda: attempt(engine)))
    assert message == "a kernel failed: CUDA_ERROR_ILLEGAL_ADDRESS: the kernel read where it must not"


@every_path
@pytest.mark.parametrize("name", ["cuMemcpyHtoDAsync", "cuMemcpyDtoHAsync", "cuMemsetD8Async"])
def test_a_copy_that_is_refused_is_an_error(broken: FakeCuda, attempt: Callable[[CudaEngine], Any], name: str) -> None:
    engine = CudaEngine(0)
    setattr(broken.driver, name, lambda *_: (SimpleNamespace(name="CUDA_ERROR_UNKNOWN"),))
    assert str(refusal(lambda: attempt(engine))) == "the GPU refused a copy: CUDA_ERROR_UNKNOWN"


@every_path
def test_a_driver_that_does_not_answer_is_an_error(broken: FakeCuda, attempt: Callable[[CudaEngine], Any]) -> None:
    engine = CudaEngine(0)
    broken.driver.cuCtxGetCurrent = failing("CUDA_ERROR_DEINITIALIZED")
    assert str(refusal(lambda: attempt(engine))) == "the GPU does not answer: CUDA_ERROR_DEINITIALIZED"


def test_a_host_without_page_locked_memory_is_an_error_every_time(broken: FakeCuda) -> None:
    engine = CudaEngine(0)
    original = broken.core.LegacyPinnedMemoryResource
    broken.core.LegacyPinnedMemoryResource = lambda: SimpleNamespace(allocate=failing("cannot allocate"))
    for _ in range(6):
        error = refusal(lambda: large_host_digest(engine))
        assert str(error) == "the host has no page-locked memory left: cannot allocate"
    broken.core.LegacyPinnedMemoryResource = original
    assert large_host_digest(engine)["blake3"] == expected("blake3", noise(3 * 1024 * 1024))


def test_after_a_failure_the_engine_works_again(broken: FakeCuda) -> None:
    engine = CudaEngine(0)
    launch = broken.core.launch
    broken.core.launch = failing("once")
    refusal(lambda: device_digests(engine))
    broken.core.launch = launch
    assert device_digests(engine) == [expected("blake3", noise(3000))]
    assert broken.in_use == 0


@pytest.mark.parametrize("name", ["auto", "cpu", "cuda", "cuda:0", "cuda:12", "cuda:999"])
def test_names_of_engines(name: str) -> None:
    assert is_engine(name)


@pytest.mark.parametrize(
    "name", ["", "gpu", "CUDA", "cuda:", "cuda:-1", "cuda:x", "cuda:1234", "cuda:0\n", "cuda:\u0661"]
)
def test_other_names_are_refused(name: str) -> None:
    assert not is_engine(name)
    with pytest.raises(ValueError, match=r"^there is no engine .*; known are auto, cpu, cuda and cuda:N$"):
        choose(name)


@pytest.mark.usefixtures("broken")
def test_memory_of_a_gpu_that_is_gone_is_refused() -> None:
    engine = CudaEngine(0)
    error = refusal(lambda: engine.digests("blake3", [DeviceBytes(4096, 10, 5)]))
    assert str(error).startswith("there is no usable GPU: ")
