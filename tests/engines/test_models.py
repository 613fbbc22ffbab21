# SPDX-License-Identifier: Apache-2.0
"""Models whose tensors lie on GPUs are hashed there, whatever else they hold; watches stay in the background."""

from __future__ import annotations

import time
from typing import Any

import numpy as np
import pytest
from engines.fake_cuda import LOWEST_PRIORITY, FakeCuda
from engines.oracle import expected
from engines.places import Simulated
from models.zoo import arrays, described, safetensors
from reference import tensors_reference
from reference.write_vectors import noise
from support import KeyPair, forge

import sentry
from sentry import named_tensors, resident
from sentry.engine.cuda import CudaEngine
from sentry.engine.segments import DeviceBytes
from sentry.named_tensors import NamedTensor


class OnFake:
    """An array that says that it lies on a GPU; `get` copies it to the host."""

    def __init__(self, array: Any, device: int = 0, *, stream: int | None = None) -> None:
        self.dtype, self.shape = array.dtype, array.shape
        self.flags = array.flags
        self.device = device
        self.array = np.array(array)
        self.memory = Simulated(self.array.tobytes(), device=device, stream=stream)

    def __dlpack_device__(self) -> tuple[int, int]:
        return (2, self.device)

    def copy(self, order: str) -> OnFake:
        assert order == "C"
        return OnFake(np.ascontiguousarray(self.array), self.device)

    def get(self) -> Any:
        return self.array

    @property
    def segment(self) -> DeviceBytes:
        segment = self.memory.segment
        return DeviceBytes(segment.pointer, segment.nbytes, segment.device, segment.stream, self)


def write(model: dict[str, Any], name: str) -> None:
    """Change the first byte of a tensor on the fake GPU."""
    model[name].memory.write(b"\xff")


@pytest.fixture
def fake(simulated: CudaEngine, monkeypatch: pytest.MonkeyPatch) -> CudaEngine:
    """Return the engine that every GPU of this test leads to."""

    def named(ordinal: int) -> Any:
        engine = simulated
        assert ordinal in {0, 1}
        return engine

    monkeypatch.setattr("sentry.engine._cuda", named)
    monkeypatch.setattr(named_tensors, "as_segment", lambda array: array.segment)
    return simulated


def placed(**where: int) -> dict[str, Any]:
    """Return the small model with tensors on GPUs; the others stay on the host."""
    return {
        name: array if where.get(name) is None else OnFake(array, where[name] or 0) for name, array in arrays().items()
    }


ON_GPU = {"embed": 0, "head": 0, "norm": 0, "steps": 0}


@pytest.mark.parametrize(
    ("where", "name"),
    [
        (ON_GPU, "cuda:0"),
        ({"embed": 0, "norm": 0}, "cpu+cuda:0"),
        ({"embed": 0, "norm": 1}, "cpu+cuda:0+cuda:1"),
        (dict.fromkeys(ON_GPU, 1), "cuda:1"),
    ],
)  # fmt: skip
def test_tensors_are_hashed_where_they_lie(pair: KeyPair, fake: CudaEngine, where: dict[str, int], name: str) -> None:
    del fake
    bundle = sentry.sign_model(placed(**where), pair.signer)
    assert bundle.envelope.payload == tensors_reference.write("blake3", described(arrays()))
    evidence = sentry.verify_model(placed(**where), bundle, pair.trust)
    assert evidence.engine == name
    assert evidence.engine_reason == "auto: tensors are hashed where they lie"
    changed = placed(**where)
    write(changed, "embed")
    with pytest.raises(sentry.MismatchError, match=r"changed: embed \(bytes differ\)$"):
        sentry.verify_model(changed, bundle, pair.trust)


def test_every_engine_hashes_a_model_in_one_call(
    pair: KeyPair, fake: CudaEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[int] = []
    digests = fake.digests

    def count(hash_name: str, messages: Any) -> list[bytes]:
        calls.append(len(messages))
        return digests(hash_name, messages)

    monkeypatch.setattr(fake, "digests", count)
    sentry.sign_model(placed(embed=0, norm=0, steps=1), pair.signer)
    assert calls == [3]


@pytest.mark.parametrize(
    ("engine", "where", "reason"),
    [
        ("cpu", {"embed": 0}, r"the tensor 'embed' lies on cuda:0, where the engine cpu does not reach"),
        ("cuda", {"embed": 0}, r"the tensor 'head' lies on the host, where the engine cuda:0 does not reach"),
        ("cuda:0", {**ON_GPU, "norm": 1}, r"the tensor 'norm' lies on cuda:1, where the engine cuda:0 does not reach"),
    ],
)
def test_an_engine_that_is_asked_for_must_reach_every_tensor(
    pair: KeyPair, fake: CudaEngine, engine: str, where: dict[str, int], reason: str
) -> None:
    del fake
    with pytest.raises(sentry.EngineError, match=reason):
        sentry.sign_model(placed(**where), pair.signer, engine=engine)
    bundle = sentry.sign_model(arrays(), pair.signer)
    with pytest.raises(sentry.EngineError, match=reason):
        sentry.verify_model(placed(**where), bundle, pair.trust, engine=engine)


def test_the_engine_that_is_asked_for_is_named(pair: KeyPair, fake: CudaEngine) -> None:
    del fake
    bundle = sentry.sign_model(placed(**ON_GPU), pair.signer, engine="cuda")
    evidence = sentry.verify_model(placed(**ON_GPU), bundle, pair.trust, engine="cuda:0")
    assert (evidence.engine, evidence.engine_reason) == ("cuda:0", "asked for")


def test_arrays_on_a_gpu_that_are_not_contiguous_are_hashed_as_their_value(pair: KeyPair, fake: CudaEngine) -> None:
    del fake
    array = arrays()["embed"].T
    written = tensors_reference.write("blake3", described({"w": np.array(array)}))
    assert sentry.sign_model({"w": OnFake(array)}, pair.signer).envelope.payload == written


def test_an_array_on_a_gpu_whose_shape_is_a_lie_is_refused(pair: KeyPair, fake: CudaEngine) -> None:
    del fake
    array = OnFake(np.zeros(4, np.float32))
    array.shape = (5,)
    with pytest.raises(sentry.RefusedError, match="the tensor 'w' has other bytes than its dtype and shape say"):
        sentry.sign_model({"w": array}, pair.signer)


# ----------------------------------------------------------------------------------------------------- signed files

HEADER, FILE = safetensors(described(arrays()))


@pytest.mark.parametrize(
    ("choice", "where", "name", "reason"),
    [
        ("sha256+blake3", ON_GPU, "cuda:0", ""),
        ("sha256+blake3", {"embed": 0}, "cuda:0", "; tensors on the host with their file, on its GPU"),
        ("blake3", {"embed": 0, "head": 1}, "cuda:0+cuda:1", "1 of 1 files copied to the host tensor by tensor"),
        ("sha256", ON_GPU, "cuda:0", "; 1 of 1 files copied to the host tensor by tensor, sha256 there"),
        ("blake2b", {"embed": 0}, "cuda:0", "; 1 of 1 files copied to the host tensor by tensor, blake2b there"),
    ],
)  # fmt: skip
def test_tensors_of_a_signed_file_are_hashed_on_the_gpu_where_that_can_be(
    pair: KeyPair, fake: CudaEngine, choice: str, where: dict[str, int], name: str, reason: str
) -> None:
    del fake
    bundle = forge(pair, {"w.safetensors": FILE}, choice=choice)
    evidence = sentry.verify_model(placed(**where), bundle, pair.trust, header=HEADER)
    assert evidence.engine == name
    assert reason in evidence.engine_reason
    changed = placed(**where)
    write(changed, "embed")
    changed["embed"].array[0, 0] = -1
    with pytest.raises(sentry.MismatchError, match="bytes differ somewhere in its file"):
        sentry.verify_model(changed, bundle, pair.trust, header=HEADER)


def test_what_is_only_hashed_on_the_host_is_not_watched_on_a_gpu(pair: KeyPair, fake: CudaEngine) -> None:
    del fake
    for choice, where in (("sha256", ON_GPU), ("blake3", {"embed": 0, "head": 1})):
        bundle = forge(pair, {"w.safetensors": FILE}, choice=choice)
        with pytest.raises(sentry.EngineError, match=f"a file under {choice}, or over several GPUs, cannot be hashed"):
            sentry.Watch(placed(**where), bundle, pair.trust, every=1, header=HEADER)


def test_a_tensor_that_no_way_leads_to_the_host_is_an_error() -> None:
    tensor = NamedTensor("w", "U8", (1,), 1, DeviceBytes(1, 1, 0), 0, 1)
    with pytest.raises(sentry.EngineError, match="the tensor 'w' cannot be copied to the host"):
        named_tensors.to_host(tensor)


# ---------------------------------------------------------------------------------------------------------- watching


def test_a_watch_on_a_gpu_finds_a_flipped_bit_and_gives_its_memory_back(
    pair: KeyPair, fake: CudaEngine, fake_cuda: FakeCuda
) -> None:
    del fake
    model = placed(embed=0, head=1)
    bundle = sentry.sign_model(model, pair.signer)
    before = fake_cuda.in_use
    errors: list[Exception] = []
    with sentry.Watch(model, bundle, pair.trust, every=0.01, callback=errors.append) as watch:
        assert watch.last.engine == "cpu+cuda:0+cuda:1"
        assert fake_cuda.in_use > before
        write(model, "head")
        deadline = time.monotonic() + 30
        while not errors:
            assert time.monotonic() < deadline
            time.sleep(0.002)
    assert isinstance(errors[0], sentry.MismatchError)
    assert errors[0].changed == ("head",)
    assert fake_cuda.in_use == before


def test_a_file_on_a_gpu_is_watched_with_its_header(pair: KeyPair, fake: CudaEngine, fake_cuda: FakeCuda) -> None:
    del fake
    model = placed(**ON_GPU)
    before = fake_cuda.in_use
    with sentry.Watch(model, forge(pair, {"w.safetensors": FILE}), pair.trust, every=3600, header=HEADER) as watch:
        watch.check()
        write(model, "steps")
        with pytest.raises(sentry.MismatchError, match="bytes differ somewhere in its file"):
            watch.check()
    assert fake_cuda.in_use == before


def background_of(cuda: FakeCuda) -> int:
    (handle,) = {entry[1] for entry in cuda.log if entry[0] == "background stream"}
    return int(handle)


def test_a_plan_in_the_background_stays_on_a_stream_of_the_lowest_priority(
    fake_cuda: FakeCuda, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake_cuda.install(monkeypatch)
    engine = CudaEngine(0)
    segments = [Simulated(noise(700), stream=stream).segment for stream in (71, 72)]
    engine.digests("blake3", segments)
    fake_cuda.log.clear()
    with engine.plan("blake3", [segments[0]], background=True) as first:
        handle = background_of(fake_cuda)
        assert ("background stream", handle, True, LOWEST_PRIORITY) in fake_cuda.log
        assert fake_cuda.log.index(("wait", handle, 71)) < fake_cuda.log.index(("copy in", handle))
        with engine.plan("blake3", segments, background=True) as second:
            assert first.run() == [expected("blake3", noise(700))]
            assert second.run() == [expected("blake3", noise(700))] * 2
    assert {entry[2] for entry in fake_cuda.log if entry[0] == "wait"} == {71, 72}
    worked = {entry[1] for entry in fake_cuda.log if entry[0] in {"launch", "copy in", "copy out", "fill", "sync"}}
    assert worked == {handle}
    assert background_of(fake_cuda) == handle
    assert not fake_cuda.broken


def test_host_bytes_of_a_plan_in_the_background_are_copied_there_as_well(
    fake_cuda: FakeCuda, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake_cuda.install(monkeypatch)
    engine = CudaEngine(0)
    segment = Simulated(noise(700), stream=71).segment
    engine.digests("blake3", [segment])
    fake_cuda.log.clear()
    with engine.plan("blake3", [[b"header", segment]], background=True) as plan:
        assert plan.run() == [expected("blake3", b"header" + noise(700))]
    handle = background_of(fake_cuda)
    assert {entry[1] for entry in fake_cuda.log if entry[0] in {"launch", "copy in", "copy out"}} == {handle}


def test_nothing_is_placed_where_there_is_nothing() -> None:
    placement = resident.place([], "blake3", "auto")
    assert placement.digests() == []
    assert placement.name == "cpu"
