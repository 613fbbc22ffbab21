# SPDX-License-Identifier: Apache-2.0
"""What only a GPU can show: memory that comes back, work in the order of streams, threads, and a poisoned cache."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from engines.conftest import require_cuda
from engines.oracle import NAMES, expected
from engines.places import OnGpu
from reference.write_vectors import noise

from sentry import private
from sentry.engine import nvrtc
from sentry.engine.contract import Engine
from sentry.engine.cuda import CudaEngine
from sentry.engine.kernels import DIRECTORY, MODULES
from sentry.engine.segments import FileRange, HostBytes
from sentry.errors import EngineError

MEBIBYTE = 1024 * 1024
# A constant that every digest of a module depends on, and what it is planted as.
CHANGED_CONSTANTS = {
    "blake3": ("0x6a09e667", "0x6a09e668"),
    "sha256": ("0x428a2f98", "0x428a2f99"),
}


@pytest.fixture
def torch() -> Any:
    """Return torch, where it has a GPU."""
    module = pytest.importorskip("torch")
    if not module.cuda.is_available():
        require_cuda()
        pytest.skip("this torch has no GPU")
    return module


@pytest.fixture
def cupy() -> Any:
    """Return CuPy."""
    return pytest.importorskip("cupy")


@pytest.fixture
def context_of_another(cuda: Engine) -> Iterator[Any]:
    """Make a context current that is not the engine's, and return how to ask which one is."""
    del cuda
    from cuda.bindings import driver  # noqa: PLC0415

    (error, device) = driver.cuDeviceGet(0)
    assert not error
    created = driver.cuCtxCreate(None, 0, device)
    assert not created[0], created[0]
    yield lambda: int(driver.cuCtxGetCurrent()[1])
    driver.cuCtxDestroy(created[1])


def free_bytes() -> int:
    from cuda.bindings import driver  # noqa: PLC0415
    from cuda.core import Device  # noqa: PLC0415

    Device(0).set_current()
    Device(0).sync()
    error, free, _ = driver.cuMemGetInfo()
    assert not error, error
    return int(free)


def test_a_thousand_calls_leave_no_device_memory_behind(cuda: Engine, tmp_path: Path) -> None:
    segment = OnGpu(noise(3 * MEBIBYTE)).segment
    path = tmp_path / "file"
    path.write_bytes(noise(2 * MEBIBYTE))

    def once(number: int) -> None:
        cuda.digests(("blake3", "merkle-sha256-8192", "sha3-256")[number % 3], [segment] if number % 3 < 2 else [])
        cuda.subtrees(segment, 1024)
        cuda.lattice_sum([bytes(32)] * (1 + number % 50))
        with cuda.plan("blake3", [segment]) as plan:  # type: ignore[attr-defined]
            plan.run()
        if number % 100 == 0:
            with path.open("rb") as file:
                cuda.digest(["blake3"], [FileRange(file.fileno(), 0, 2 * MEBIBYTE)])

    for number in range(20):
        once(number)
    before = free_bytes()
    for number in range(1000):
        once(number)
    assert before - free_bytes() <= MEBIBYTE


def test_failed_calls_leave_no_device_memory_behind(cuda: Engine) -> None:
    segment = OnGpu(noise(MEBIBYTE)).segment
    before = free_bytes()
    for _ in range(100):
        with pytest.raises(EngineError):
            cuda.digests("blake3", [segment, HostBytes(b"abc")])
    assert before - free_bytes() <= MEBIBYTE


def test_work_on_torchs_current_stream_comes_after_what_was_written_there(cuda: Engine, torch: Any) -> None:
    items = torch.zeros(64 * MEBIBYTE // 4, dtype=torch.int32, device="cuda")
    torch.cuda.synchronize()
    for round_ in range(1, 6):
        with torch.cuda.stream(torch.cuda.Stream()):
            items.zero_()
            for _ in range(round_):
                items.add_(1)
                items.mul_(3)
            digests = cuda.digests("blake3", [items])
            copy = items.cpu().numpy().tobytes()
        torch.cuda.synchronize()
        assert digests == [expected("blake3", copy)]


def test_a_plan_follows_the_stream_that_it_was_made_on(cuda: Engine, torch: Any) -> None:
    stream = torch.cuda.Stream()
    with torch.cuda.stream(stream):
        items = torch.zeros(16 * MEBIBYTE, dtype=torch.uint8, device="cuda")
        plan = cuda.plan("blake3", [items])
        for value in range(5):
            items.fill_(value)
            assert plan.run() == [expected("blake3", bytes([value]) * (16 * MEBIBYTE))]
        plan.close()


def test_the_current_context_is_what_it_was(cuda: Engine, context_of_another: Any) -> None:
    segment = OnGpu(noise(5000)).segment
    before = context_of_another()
    cuda.digests("blake3", [segment])
    with cuda.plan("sha256", [segment]) as plan:  # type: ignore[attr-defined]
        plan.run()
    cuda.digest(["blake3"], [HostBytes(noise(5000))])
    cuda.lattice_sum([bytes(32)])
    assert context_of_another() == before


def test_torchs_current_device_is_what_it_was(cuda: Engine, torch: Any) -> None:
    last = torch.cuda.device_count() - 1
    with torch.cuda.device(last):
        cuda.digests("blake3", [torch.zeros(5000, device="cuda:0")])
        assert torch.cuda.current_device() == last
        assert torch.zeros(1, device="cuda").get_device() == last


@pytest.mark.parametrize("work", ["digests", "plan", "digest", "lattice"])
def test_a_thread_without_a_context_gets_its_digests(cuda: Engine, work: str) -> None:
    segment = OnGpu(noise(70_000)).segment
    plan = cuda.plan("blake3", [segment])
    right = expected("blake3", noise(70_000))
    results: list[Any] = []

    def run() -> None:
        if work == "digests":
            results.append(cuda.digests("blake3", [segment]) == [right])
        elif work == "plan":
            results.append(plan.run() == [right])
        elif work == "digest":
            results.append(cuda.digest(["blake3"], [HostBytes(noise(70_000))])["blake3"] == right)
        else:
            results.append(len(cuda.lattice_sum([bytes(32)]).state) == 2048)

    thread = threading.Thread(target=run)
    thread.start()
    thread.join(timeout=60)
    plan.close()
    assert results == [True]


def test_two_threads_at_once_get_their_own_digests(cuda: Engine) -> None:
    data = [noise(300_000, number) for number in range(2)]
    segments = [OnGpu(item).segment for item in data]
    results: dict[int, list[list[bytes]]] = {}

    def work(number: int) -> None:
        results[number] = [cuda.digests(name, [segments[number]]) for name in NAMES[:4] * 20]

    threads = [threading.Thread(target=work, args=(number,)) for number in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=120)
    for number in range(2):
        assert results[number] == [[expected(name, data[number])] for name in NAMES[:4]] * 20


@pytest.mark.parametrize("name", ["blake3", "merkle-sha256-8192", "sha3-256"])
def test_932_torch_tensors_in_one_call_have_their_own_digests(cuda: Engine, torch: Any, name: str) -> None:
    tensors = [torch.randn(1 + number * number % 5003, device="cuda") for number in range(932)]
    together = cuda.digests(name, tensors)
    assert together == [expected(name, tensor.cpu().numpy().tobytes()) for tensor in tensors]
    assert together[::50] == [cuda.digests(name, [tensor])[0] for tensor in tensors[::50]]


@pytest.mark.parametrize("dtype", ["bfloat16", "float16", "bool", "complex64", "float8_e4m3fn", "int64"])
def test_torch_tensors_of_any_type_and_shape(cuda: Engine, torch: Any, dtype: str) -> None:
    for shape in ((), (0,), (3,), (2, 0, 5), (17, 33)):
        tensor = torch.zeros(shape, dtype=getattr(torch, dtype), device="cuda")
        raw = tensor.cpu().reshape(-1).view(torch.uint8).numpy().tobytes()
        assert cuda.digests("blake3", [tensor, [tensor, tensor]]) == [
            expected("blake3", raw),
            expected("blake3", raw * 2),
        ]


def test_torch_views_that_are_not_their_bytes_are_refused(cuda: Engine, torch: Any) -> None:
    complexes = torch.zeros(4, 4, dtype=torch.complex64, device="cuda")
    with pytest.raises(EngineError, match=r"^a sparse, nested or zero tensor"):
        cuda.digests("blake3", [complexes, complexes.to_sparse()])
    for view in (complexes.t()[1:], complexes.conj(), torch._neg_view(complexes)):
        with pytest.raises(EngineError, match=r"^an array is not contiguous"):
            cuda.digests("blake3", [complexes, view])
    with pytest.raises(EngineError, match=r"^the bytes are in host memory$"):
        cuda.digests("blake3", [complexes, complexes.cpu()])


def test_a_plan_keeps_tensors_alive_when_the_callers_list_is_emptied(cuda: Engine, torch: Any) -> None:
    tensors = [torch.full((MEBIBYTE,), 7, dtype=torch.uint8, device="cuda")]
    plan = cuda.plan("blake3", tensors)
    tensors.clear()
    others = [torch.zeros(MEBIBYTE, dtype=torch.uint8, device="cuda") for _ in range(8)]
    assert plan.run() == [expected("blake3", b"\x07" * MEBIBYTE)]
    plan.close()
    del others


def test_cupy_arrays_have_the_digests_of_their_bytes(cuda: Engine, cupy: Any) -> None:
    for items in (
        cupy.arange(1000, dtype="f4"),
        cupy.zeros((3, 0)),
        cupy.arange(24).reshape(2, 3, 4),
        cupy.arange(9)[1:],
    ):
        with cupy.cuda.Stream(non_blocking=True):
            changed = items + 1
            assert cuda.digests("blake3", [changed]) == [expected("blake3", changed.get().tobytes())]
    with pytest.raises(EngineError, match=r"^an array is not contiguous"):
        cuda.digests("blake3", [cupy.zeros((4, 4))[:, ::2]])


def cached(module: str, arch: str, cache: Path) -> tuple[Path, bytes]:
    code = nvrtc.compile_module(MODULES[module], arch, cache=cache)
    return cache / f"{nvrtc._key(MODULES[module], arch)}.cubin", code


def plant(entry: Path, code: bytes) -> None:
    entry.write_bytes(private.seal(entry, code) + code)


@pytest.mark.parametrize("planted", ["another module's", "a changed constant's"])
@pytest.mark.parametrize("module", CHANGED_CONSTANTS)
def test_wrong_code_in_the_cache_is_caught_when_it_is_loaded(
    cuda: Engine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, module: str, planted: str
) -> None:
    arch = cuda.describe().split(", ")[-1]
    cache = tmp_path / "cache"
    monkeypatch.setenv(private.CACHE_VARIABLE, str(cache))
    entry, good = cached(module, arch, cache)
    if planted == "another module's":
        plant(entry, cached("sha3-256" if module == "sha256" else "lattice", arch, cache)[1])
    else:
        sources = tmp_path / "sources"
        sources.mkdir()
        right, wrong = CHANGED_CONSTANTS[module]
        for path in DIRECTORY.glob("*.cu*"):
            text = path.read_text(encoding="ascii")
            (sources / path.name).write_text(text.replace(right, wrong).replace(right.upper(), wrong), encoding="ascii")
        with monkeypatch.context() as patch:
            patch.setattr(nvrtc, "DIRECTORY", sources)
            bad = nvrtc._compile(MODULES[module], arch)
        assert bad != good
        plant(entry, bad)
    segment = OnGpu(b"abc").segment
    for _ in range(2):
        with pytest.raises(EngineError):
            CudaEngine(0).digests(module, [segment])
    plant(entry, good)
    assert CudaEngine(0).digests(module, [segment]) == [expected(module, b"abc")]
    assert cuda.digests(module, [segment]) == [expected(module, b"abc")]


@pytest.mark.parametrize("spoil", [lambda code: code[: len(code) // 2], lambda _: b"garbage", lambda _: b""])
def test_a_damaged_cache_is_not_loaded(
    cuda: Engine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, spoil: Callable[[bytes], bytes]
) -> None:
    monkeypatch.setenv(private.CACHE_VARIABLE, str(tmp_path / "cache"))
    entry, _ = cached("blake3", cuda.describe().split(", ")[-1], tmp_path / "cache")
    whole = entry.read_bytes()
    entry.write_bytes(spoil(whole))
    assert CudaEngine(0).digests("blake3", [OnGpu(b"abc").segment]) == [expected("blake3", b"abc")]
    assert entry.read_bytes() == whole
