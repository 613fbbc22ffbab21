# SPDX-License-Identifier: Apache-2.0
"""What the CUDA engine owes to others in the process, and to the memory it is given: contexts, order, room, place."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import pytest
from engines.fake_cuda import LEGACY, FakeCuda
from engines.oracle import expected
from engines.places import Simulated
from reference.write_vectors import noise

from sentry.engine.cuda import CudaEngine
from sentry.engine.segments import DeviceBytes, HostBytes
from sentry.errors import EngineError
from sentry.formats.record import FieldType, Kind, Preimage, lay_out


def record(segment: DeviceBytes) -> Preimage:
    """Lay out a record with one field of the segment's length."""
    return lay_out("sample", "", "k", (FieldType("data", Kind.BYTES, "", (), segment.nbytes),), hash_name="blake3")


def bytes_on(device: int, nbytes: int = 700, stream: int | None = None) -> DeviceBytes:
    return Simulated(noise(nbytes), device=device, stream=stream).segment


def plan_and_run(engine: CudaEngine, segment: DeviceBytes) -> Any:
    with engine.plan("blake3", [segment, segment]) as plan:
        plan.run()
        return plan.run()


OPERATIONS: dict[str, Callable[[CudaEngine, DeviceBytes], Any]] = {
    "digests": lambda engine, segment: engine.digests("blake3", [segment]),
    "plan": plan_and_run,
    "subtrees": lambda engine, segment: engine.subtrees(segment, 1),
    "leaves": lambda engine, segment: engine.leaves("blake3", [(record(segment), [segment])]),
    "leaves and sum": lambda engine, segment: engine.leaves_and_sum("blake3", [(record(segment), [segment])]),
    "lattice sum": lambda engine, _: engine.lattice_sum([bytes(32)]),
    "digest": lambda engine, segment: engine.digest(["merkle-sha256-1024"], [segment, HostBytes(b"abc")]),
    "digest of host memory": lambda engine, _: engine.digest(["blake3"], [HostBytes(noise(3000))]),
}
every_operation = pytest.mark.parametrize("operation", OPERATIONS.values(), ids=OPERATIONS.keys())


@pytest.fixture
def fresh(fake_cuda: FakeCuda, simulated: CudaEngine) -> FakeCuda:
    """Return the fake with nothing remembered, and no context in this thread."""
    OPERATIONS["digests"](simulated, bytes_on(0))
    fake_cuda.driver.cuCtxSetCurrent(None)
    fake_cuda.log.clear()
    fake_cuda.broken.clear()
    return fake_cuda


@pytest.mark.parametrize("device", [0, 1])
@pytest.mark.parametrize("stream", [None, LEGACY])
@pytest.mark.parametrize("name", OPERATIONS)
def test_the_gpu_is_asked_for_work_only_while_its_context_is_current(
    fresh: FakeCuda, simulated: CudaEngine, name: str, stream: int | None, device: int
) -> None:
    OPERATIONS[name](simulated, bytes_on(device, stream=stream))
    assert not fresh.broken


@pytest.mark.parametrize("before", [None, 0, 1])
@every_operation
def test_the_threads_own_context_is_current_again_afterwards(
    fresh: FakeCuda,
    simulated: CudaEngine,
    operation: Callable[[CudaEngine, DeviceBytes], Any],
    before: int | None,
) -> None:
    fresh.driver.cuCtxSetCurrent(before)
    for device in (0, 1):
        operation(simulated, bytes_on(device))
        assert fresh.current == before


@every_operation
def test_the_threads_own_context_is_current_again_after_a_failure(
    fresh: FakeCuda, simulated: CudaEngine, operation: Callable[[CudaEngine, DeviceBytes], Any]
) -> None:
    fresh.driver.cuCtxSetCurrent(1)
    with fresh.only(10), pytest.raises(EngineError, match=r"^the GPU has no room: CUDA_ERROR_OUT_OF_MEMORY"):
        operation(simulated, bytes_on(0))
    assert fresh.current == 1


@every_operation
def test_no_device_memory_is_kept(
    fresh: FakeCuda, simulated: CudaEngine, operation: Callable[[CudaEngine, DeviceBytes], Any]
) -> None:
    segment = bytes_on(0)
    before = fresh.in_use
    for _ in range(5):
        operation(simulated, segment)
        with fresh.only(10), pytest.raises(EngineError):
            operation(simulated, segment)
    assert fresh.in_use == before


def test_a_plan_holds_its_memory_until_it_is_closed(fresh: FakeCuda, simulated: CudaEngine) -> None:
    before = fresh.in_use
    plan = simulated.plan("blake3", [bytes_on(0), bytes_on(1)])
    held = fresh.in_use
    assert held > before
    plan.run()
    plan.run()
    assert fresh.in_use == held
    plan.close()
    assert fresh.in_use == before


def test_a_plan_keeps_the_memory_that_it_reads_alive(simulated: CudaEngine) -> None:
    segments = [bytes_on(0)]
    plan = simulated.plan("blake3", segments)
    segments.clear()
    assert plan.run() == [expected("blake3", noise(700))]
    plan.close()


@pytest.mark.parametrize("room", [0, 100, 15_000])
def test_what_to_do_when_the_gpu_is_full_is_said(fresh: FakeCuda, simulated: CudaEngine, room: int) -> None:
    segments = [bytes_on(0, 500_000)]
    with fresh.only(room), pytest.raises(EngineError) as caught:
        simulated.digests("blake3", segments)
    assert caught.value.hint == "free memory on the GPU, or use engine='cpu'"
    assert simulated.digests("blake3", segments) == [expected("blake3", noise(500_000))]


def launch_streams(log: list[tuple[Any, ...]]) -> set[int]:
    return {entry[1] for entry in log if entry[0] == "launch"}


def test_work_goes_onto_the_stream_that_wrote_the_bytes(fresh: FakeCuda, simulated: CudaEngine) -> None:
    simulated.digests("blake3", [bytes_on(0, stream=77), bytes_on(0, stream=77)])
    assert launch_streams(fresh.log) == {77}
    assert [entry for entry in fresh.log if entry[0] == "wait"] == []
    assert fresh.log[-1] == ("sync", 77)


@pytest.mark.parametrize("legacy", [0, 1])
def test_either_name_of_the_default_stream_is_that_stream(fresh: FakeCuda, simulated: CudaEngine, legacy: int) -> None:
    simulated.digests("blake3", [bytes_on(0, stream=legacy)])
    assert launch_streams(fresh.log) == {LEGACY}


def test_work_on_bytes_of_several_streams_waits_for_all_of_them(fresh: FakeCuda, simulated: CudaEngine) -> None:
    simulated.digests("blake3", [bytes_on(0, stream=77), bytes_on(0, stream=78), bytes_on(0)])
    (own,) = launch_streams(fresh.log)
    assert own not in {77, 78, LEGACY}
    first_work = next(at for at, entry in enumerate(fresh.log) if entry[0] == "launch")
    assert {("wait", own, 77), ("wait", own, 78)} <= set(fresh.log[:first_work])


def test_results_are_zeroed_before_every_run(fresh: FakeCuda, simulated: CudaEngine) -> None:
    for nbytes, launches in ((100, 1), (5000, 2)):
        with simulated.plan("blake3", [bytes_on(0, nbytes)]) as plan:
            for _ in range(2):
                fresh.log.clear()
                plan.run()
                assert [entry[0] for entry in fresh.log] == ["fill", *["launch"] * launches, "copy out", "sync"]


def test_memory_is_hashed_on_the_gpu_where_it_lies(fresh: FakeCuda, simulated: CudaEngine) -> None:
    devices: list[int | None] = []
    original = fresh.core.Device
    fresh.core.Device = lambda ordinal: devices.append(ordinal) or original(ordinal)  # type: ignore[func-returns-value]
    segments = [bytes_on(number % 2, 100 + number) for number in range(9)]
    digests = simulated.digests("sha256", segments)
    fresh.core.Device = original
    assert digests == [expected("sha256", noise(100 + number)) for number in range(9)]
    assert set(devices) <= {1}


def test_parts_of_one_message_on_two_gpus_are_refused(simulated: CudaEngine) -> None:
    with pytest.raises(EngineError, match=r"^the parts of one message lie on several GPUs$"):
        simulated.digests("blake3", [[bytes_on(0), bytes_on(1)]])


def test_fields_of_records_on_two_gpus_are_refused_with_what_to_do(simulated: CudaEngine) -> None:
    records = [(record(item), [item]) for item in (bytes_on(0), bytes_on(1))]
    with pytest.raises(EngineError, match=r"^the fields of these records lie on several GPUs$") as caught:
        simulated.leaves("blake3", records)
    assert caught.value.hint == "digest them GPU by GPU"


def test_memory_of_a_gpu_that_there_is_not_is_refused(simulated: CudaEngine) -> None:
    with pytest.raises(EngineError, match=r"^there is no usable GPU: "):
        simulated.digests("blake3", [bytes_on(2)])


@every_operation
def test_two_threads_at_once_get_their_own_digests(
    simulated: CudaEngine, operation: Callable[[CudaEngine, DeviceBytes], Any]
) -> None:
    right = [operation(simulated, bytes_on(0, size)) for size in (700, 5000)]
    results: dict[int, list[Any]] = {0: [], 1: []}

    def work(number: int, size: int) -> None:
        results[number] = [operation(simulated, bytes_on(number, size)) for _ in range(3)]

    threads = [threading.Thread(target=work, args=item) for item in enumerate((700, 5000))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=120)
    assert results == {number: [right[number]] * 3 for number in (0, 1)}
