# SPDX-License-Identifier: Apache-2.0
"""What only a GPU can show of loading: every reader, every way to hash, and memory that is changed there."""

from __future__ import annotations

import os
import random
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
from engines.conftest import require_cuda
from loading.conftest import INDEX, Signed, index_of, pattern, safetensors
from support import KeyPair, write_files

import sentry
from sentry.errors import MismatchError, UnavailableError
from sentry.loading import comparing, loaded
from sentry.readers import ReaderUnavailableError, SourceFile, Tensors
from sentry.readers.gds import CuFileReader
from sentry.readers.place import Place
from sentry.readers.ring import RingReader

READERS = ("ring", "instanttensor", "fastsafetensors", "cufile", "auto")
MIB = 1024 * 1024
MEMORY = Path("/dev/shm")  # noqa: S108


@pytest.fixture
def torch() -> Any:
    """Return torch, where it has a GPU."""
    require_cuda()
    module = pytest.importorskip("torch")
    if not module.cuda.is_available():
        pytest.skip("this torch has no GPU")
    return module


def tensors(seed: int, count: int, largest: int) -> dict[str, tuple[str, Sequence[int], bytes]]:
    """Return tensors of odd sizes, so that blocks and chunks straddle them."""
    pick = random.Random(seed)  # noqa: S311
    noise = pick.randbytes(largest)
    sizes = [pick.choice((1, 16, 1023, 1024, 1025, pick.randrange(largest))) for _ in range(count)]
    return {f"{seed}.{at}": ("U8", (size,), noise[-size:]) for at, size in enumerate(sizes)}


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a sharded model that is larger than the ring."""
    shards = {"a.safetensors": tensors(1, 12, 30 * MIB), "b.safetensors": tensors(2, 40, 3 * MIB)}
    shards["b.safetensors"] = {
        **shards["b.safetensors"],
        "empty": ("F32", (0,), b""),
        "half": ("BF16", (3, 5), pattern(30)),
    }
    files = {name: safetensors(part) for name, part in shards.items()}
    return write_files(tmp_path_factory.mktemp("gpu") / "model", {**files, INDEX: index_of(shards)})


def sign(model: Path, pair: KeyPair, **options: Any) -> Signed:
    return Signed(model, pair).sign(**options)


def assert_right(found: Mapping[str, Any], model: Path, pair: KeyPair) -> None:
    """Compare with a load to the host, byte by byte."""
    expected = sentry.load_file(model, sentry.sign_path(model, pair.signer), pair.trust, root=model)
    import torch  # noqa: PLC0415

    assert found.keys() == expected.keys()
    for name, tensor in expected.items():
        assert found[name].device.type == "cuda"
        assert found[name].dtype is tensor.dtype
        assert torch.equal(found[name].cpu().reshape(-1).view(torch.uint8), tensor.reshape(-1).view(torch.uint8))


def load(signed: Signed, reader: str, **options: Any) -> sentry.VerifiedTensors:
    """Load, or skip by the reason where a reader of others is not there."""
    try:
        return signed.load("", device="cuda", reader=reader, **options)
    except UnavailableError as error:
        if isinstance(error.__cause__, ReaderUnavailableError):
            pytest.skip(str(error))
        raise


@pytest.mark.parametrize("reader", READERS)
def test_every_reader_loads_what_was_signed(torch: Any, model: Path, pair: KeyPair, reader: str) -> None:
    del torch
    found = load(sign(model, pair), reader)
    assert_right(found, model, pair)
    evidence = found.verification
    assert (evidence.engine, evidence.device, evidence.verified_at) == ("cuda:0", "cuda:0", "device")
    assert reader in {evidence.reader, "auto"}


@pytest.mark.parametrize(
    "options", [{"hash": "sha256"}, {"hash": "blake2b"}, {"hash": "sha256", "shard_bytes": 1_000_003}]
)
def test_hashes_that_a_gpu_cannot_split_are_computed_as_the_bytes_pass(
    torch: Any, model: Path, pair: KeyPair, options: dict[str, Any]
) -> None:
    del torch
    found = load(sign(model, pair, **options), "auto")
    assert_right(found, model, pair)
    assert (found.verification.reader, found.verification.verified_at) == ("ring", "host")


@pytest.mark.parametrize("options", [{"engine": "cpu"}, {"hash": "both"}])
def test_the_host_hashes_where_it_is_asked_to(torch: Any, model: Path, pair: KeyPair, options: dict[str, Any]) -> None:
    del torch
    found = load(sign(model, pair), "auto", **options)
    assert_right(found, model, pair)
    assert (found.verification.engine, found.verification.verified_at) == ("cpu", "host")


@pytest.mark.parametrize("shard_bytes", [1024, 1_000_003])
def test_ranges_of_files_are_hashed_on_the_gpu(torch: Any, model: Path, pair: KeyPair, shard_bytes: int) -> None:
    del torch
    found = load(sign(model, pair, shard_bytes=max(shard_bytes, 100_000)), "ring")
    assert_right(found, model, pair)
    assert found.verification.verified_at == "device"


def test_ranges_are_hashed_while_others_arrive(
    torch: Any, model: Path, pair: KeyPair, monkeypatch: pytest.MonkeyPatch
) -> None:
    del torch
    seen: list[int] = []
    real = comparing.ArrivingDigests._hash_range

    def count(self: Any, file: int, number: int) -> list[bytes]:
        seen.append(number)
        return real(self, file, number)

    monkeypatch.setattr(comparing, "RANGE_BYTES", 8 * MIB)
    monkeypatch.setattr(comparing.ArrivingDigests.__init__, "__kwdefaults__", {"range_bytes": 8 * MIB})
    monkeypatch.setattr(comparing.ArrivingDigests, "_hash_range", count)
    assert_right(load(sign(model, pair), "ring"), model, pair)
    assert len(seen) > 3


@pytest.mark.parametrize("reader", READERS)
@pytest.mark.parametrize("at", [-1, 5_000_000])
def test_every_reader_is_caught_with_one_wrong_bit(
    torch: Any, model: Path, pair: KeyPair, reader: str, at: int
) -> None:
    del torch
    signed = sign(model, pair)
    path = model / "a.safetensors"
    data = path.read_bytes()
    changed = bytearray(data)
    changed[at] ^= 64
    path.write_bytes(changed)
    try:
        with pytest.raises(MismatchError, match=r"bytes differ\): a.safetensors"):
            load(signed, reader)
    finally:
        path.write_bytes(data)


class FlipsABit(RingReader):
    """Reads, and changes one bit on the GPU before anybody looks."""

    def load(self, files: Sequence[SourceFile], place: Place) -> list[Tensors]:
        found = super().load(files, place)
        next(tensor for tensor in found[1].values() if tensor.numel() > 4)[3] ^= 1
        return found


def test_a_bit_flipped_in_the_memory_of_the_gpu_is_noticed(
    torch: Any, model: Path, pair: KeyPair, monkeypatch: pytest.MonkeyPatch
) -> None:
    del torch
    signed = sign(model, pair)
    monkeypatch.setattr(FlipsABit, "name", "flips")
    monkeypatch.setattr(loaded, "plan_readers", lambda *_: ([FlipsABit()], "a test"))
    with pytest.raises(MismatchError, match=r"bytes differ\): b.safetensors"):
        signed.load("", device="cuda")


def test_nothing_stays_on_the_gpu_after_a_refusal(torch: Any, model: Path, pair: KeyPair) -> None:
    signed = sign(model, pair)
    load(signed, "ring")
    torch.cuda.synchronize()
    before = torch.cuda.memory_allocated()
    path = model / "b.safetensors"
    data = path.read_bytes()
    path.write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
    try:
        with pytest.raises(MismatchError):
            load(signed, "ring")
    finally:
        path.write_bytes(data)
    assert torch.cuda.memory_allocated() == before


def test_a_model_without_room_is_an_error(torch: Any, make_signed: Callable[..., Signed]) -> None:
    signed = make_signed({"model.safetensors": safetensors({"w": ("U8", (64 * MIB,), bytes(64 * MIB))})})
    free = torch.cuda.mem_get_info()[0]
    torch.cuda.empty_cache()
    torch.cuda.set_per_process_memory_fraction(32 * MIB / (free + 1))
    try:
        with pytest.raises(UnavailableError, match="cuda:0 has no room for the model"):
            signed.load(device="cuda", reader="ring")
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)
    signed.load(device="cuda", reader="ring")


def test_a_module_on_the_meta_device_is_filled_on_the_gpu(torch: Any, make_signed: Callable[..., Signed]) -> None:
    written = {"0.weight": ("F32", (3, 2), pattern(24)), "0.bias": ("F32", (3,), pattern(12))}
    signed = make_signed({"m.safetensors": safetensors(written)})
    with torch.device("meta"):
        module = torch.nn.Sequential(torch.nn.Linear(2, 3))
    sentry.load_model(module, signed.directory, signed.signature, signed.pair.trust, device="cuda")
    assert module[0].weight.device.type == "cuda"
    assert bytes(module[0].bias.detach().cpu().view(torch.uint8).numpy()) == pattern(12)


def test_cufile_says_why_it_does_not_take_a_file(torch: Any, model: Path, tmp_path: Path) -> None:
    del torch, model
    if not MEMORY.is_dir():
        pytest.skip("there is no tmpfs")
    path = MEMORY / f"sentry-{os.getpid()}.safetensors"
    path.write_bytes(safetensors({"w": ("U8", (4096,), bytes(4096))}))
    try:
        signed = Signed(tmp_path, KeyPair.make(tmp_path, "k", "ecdsa-p256"))
        bundle = sentry.sign_path(path, signed.pair.signer)
        with pytest.raises(UnavailableError, match=r"the reader cufile cannot be used: cuFile does not (take|start)"):
            sentry.load_file(path, bundle, signed.pair.trust, device="cuda", reader="cufile")
    finally:
        path.unlink()
    assert CuFileReader.name == "cufile"
