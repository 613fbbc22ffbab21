# SPDX-License-Identifier: Apache-2.0
"""Loading what is as it was signed: every form of a model, every dtype, every way to say what is wanted."""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from loading.conftest import INDEX, MORE, SHARDS, TWO, Signed, Written, pattern, safetensors
from snapshots import write_snapshot
from support import KeyPair

import sentry
from sentry.dtypes import NUMPY_NAMES, TORCH_NAMES, TORCH_PACKED
from sentry.errors import EngineError, MismatchError, SignatureError, TrustError, UnavailableError
from sentry.formats.safetensors import DTYPE_BITS
from sentry.readers.place import Place

torch = pytest.importorskip("torch")


def raw(array: Any) -> bytes:
    """Return the bytes of an array or a tensor."""
    if isinstance(array, np.ndarray):
        return array.tobytes()
    return bytes(array.contiguous().reshape(-1).view(torch.uint8).numpy())


def assert_is(tensors: Mapping[str, Any], *written: Written) -> None:
    """Check values, dtypes and shapes."""
    expected = {name: entry for part in written for name, entry in part.items()}
    assert tensors.keys() == expected.keys()
    for name, (_, shape, data) in expected.items():
        assert tuple(tensors[name].shape) == tuple(shape)
        assert raw(tensors[name]) == data


@pytest.mark.parametrize("framework", ["pt", "np"])
def test_a_file_is_loaded_and_the_evidence_says_what_was_proved(single: Signed, framework: str) -> None:
    written = {name: entry for name, entry in TWO.items() if framework == "pt" or entry[0] != "BF16"}
    (single.directory / "model.safetensors").write_bytes(safetensors(written))
    tensors = single.sign().load(framework=framework)
    assert_is(tensors, written)
    evidence = tensors.verification
    assert evidence.files == ("model.safetensors",)
    assert evidence.tensors == len(written)
    assert evidence.nbytes == len(safetensors(written))
    assert evidence.hashes == ("blake3",)
    assert evidence.unchecked_hashes == ("sha256",)
    assert (evidence.reader, evidence.verified_at, evidence.device) == ("plain", "host", "cpu")
    assert evidence.signers == (single.pair.trust.identity,)
    assert evidence.to_json()["verified"] is True


@pytest.mark.parametrize("path", ["", INDEX])
def test_a_sharded_model_is_loaded_by_its_directory_or_its_index(sharded: Signed, path: str) -> None:
    tensors = sharded.load(path)
    assert_is(tensors, TWO, MORE)
    assert tensors.verification.files == tuple(sorted(SHARDS))


def test_one_shard_is_loaded_by_its_name(sharded: Signed) -> None:
    assert_is(sharded.load("model-2-of-2.safetensors"), MORE)


def test_a_directory_with_one_safetensors_file_needs_no_index(make_signed: Callable[..., Signed]) -> None:
    signed = make_signed({"sub/weights.safetensors": safetensors(TWO), "sub/notes.txt": b"x"})
    assert_is(signed.load("sub"), TWO)


def test_a_single_file_with_a_signature_of_its_own_is_loaded(tmp_path: Path, pair: KeyPair) -> None:
    path = tmp_path / "weights.safetensors"
    path.write_bytes(safetensors(TWO))
    bundle = sentry.sign_path(path, pair.signer)
    bundle.write(tmp_path / "weights.safetensors.sig")
    assert_is(sentry.load_file(path, tmp_path / "weights.safetensors.sig", pair.trust), TWO)
    assert_is(sentry.load_file(path, bundle, pair.trust), TWO)
    assert_is(sentry.load_file(path, bundle, pair.trust, root=path), TWO)


def test_a_signature_is_found_beside_a_single_file(tmp_path: Path, pair: KeyPair) -> None:
    path = tmp_path / "weights.safetensors"
    path.write_bytes(safetensors(TWO))
    sentry.sign_path(path, pair.signer).write(tmp_path / "weights.safetensors.sig")
    assert_is(sentry.load_file(path, trust=pair.trust), TWO)


def test_a_snapshot_of_a_hub_is_loaded_from_its_blobs(tmp_path: Path, sharded: Signed) -> None:
    files = {path.name: path.read_bytes() for path in sharded.directory.iterdir()}
    snapshot = write_snapshot(tmp_path / "hub", files)
    assert (snapshot / "model-1-of-2.safetensors").is_symlink()
    assert_is(sentry.load_file(snapshot, trust=sharded.pair.trust), TWO, MORE)
    assert_is(sentry.load_file(snapshot / "model-2-of-2.safetensors", trust=sharded.pair.trust), MORE)
    blob = (snapshot / "model-2-of-2.safetensors").resolve()
    blob.write_bytes(blob.read_bytes()[:-1] + b"x")
    with pytest.raises(MismatchError, match="bytes differ"):
        sentry.load_file(snapshot, trust=sharded.pair.trust)


def test_a_bundle_is_told_which_directory_was_signed(single: Signed) -> None:
    bundle = sentry.Bundle.read(single.signature)
    path = single.directory / "model.safetensors"
    assert_is(sentry.load_file(path, bundle, single.pair.trust, root=single.directory), TWO)
    with pytest.raises(SignatureError, match="which directory was signed"):
        sentry.load_file(path, bundle, single.pair.trust)


def test_a_signature_that_lies_elsewhere_is_told_which_directory_was_signed(single: Signed, tmp_path: Path) -> None:
    moved = single.signature.rename(tmp_path / "moved.sig")
    path = single.directory / "model.safetensors"
    assert_is(sentry.load_file(path, moved, single.pair.trust, root=single.directory), TWO)
    (tmp_path / "elsewhere").mkdir()
    moved = moved.rename(tmp_path / "elsewhere" / "moved.sig")
    with pytest.raises(MismatchError, match="lies outside of what was signed"):
        sentry.load_file(path, moved, single.pair.trust)


@pytest.mark.parametrize("hash_name", ["sha256+blake3", "sha256", "blake3", "blake2b"])
def test_every_kind_of_signature_is_enough(single: Signed, hash_name: str) -> None:
    assert_is(single.sign(hash=hash_name).load(), TWO)


@pytest.mark.parametrize("shard_bytes", [1, 13, 64, 10**6])
def test_signatures_over_ranges_of_files_are_enough(sharded: Signed, shard_bytes: int) -> None:
    tensors = sharded.sign(shard_bytes=shard_bytes).load("")
    assert_is(tensors, TWO, MORE)
    assert tensors.verification.hashes == ("blake3",)


def test_both_hashes_are_recomputed_when_asked_for(single: Signed) -> None:
    assert single.load(hash="both").verification.hashes == ("sha256", "blake3")
    with pytest.raises(SignatureError, match="has no blake3 digests"):
        single.sign(hash="sha256").load(hash="both")


@pytest.mark.parametrize("dtype", sorted(DTYPE_BITS))
def test_every_dtype_is_loaded_or_refused_by_name(make_signed: Callable[..., Signed], dtype: str) -> None:
    data = pattern(DTYPE_BITS[dtype] * 16 // 8)
    data = bytes(byte & 1 for byte in data) if dtype == "BOOL" else data
    signed = make_signed({"model.safetensors": safetensors({"w": (dtype, (2, 8), data)})})
    known = hasattr(torch, TORCH_NAMES.get(dtype, ""))
    if known:
        tensor = signed.load()["w"]
        assert tensor.dtype is getattr(torch, TORCH_NAMES[dtype])
        assert tuple(tensor.shape) == (2, 8 // TORCH_PACKED.get(dtype, 1))
        assert raw(tensor) == data
    else:
        with pytest.raises(UnavailableError, match=f"torch has no dtype for {dtype}"):
            signed.load()
    if Place("np").dtype_of(dtype) is not None:
        assert raw(signed.load(framework="np")["w"]) == data
        assert hasattr(np, NUMPY_NAMES[dtype]) or "ml_dtypes" in sys.modules
    else:
        with pytest.raises(UnavailableError, match=f"no dtype for {dtype}"):
            signed.load(framework="np")


@pytest.mark.parametrize(
    ("entry", "framework", "reason"),
    [
        (("F4", (2, 1), b"x"), "pt", "torch packs 2 elements of F4"),
        (("F64", (2**62, 0), b""), "np", "cpu cannot hold w"),
    ],
)
def test_tensors_that_the_framework_cannot_hold_are_refused(
    make_signed: Callable[..., Signed], entry: tuple[str, tuple[int, ...], bytes], framework: str, reason: str
) -> None:
    with pytest.raises(UnavailableError, match=reason):
        make_signed({"model.safetensors": safetensors({"w": entry})}).load(framework=framework)


def test_tensors_are_aligned_and_each_has_memory_of_its_own(single: Signed) -> None:
    tensors = single.load()
    storages = {name: tensor.untyped_storage() for name, tensor in tensors.items() if tensor.numel()}
    assert all(tensor.data_ptr() % 16 == 0 for tensor in tensors.values())
    assert len({storage.data_ptr() for storage in storages.values()}) == len(storages)
    assert all(storage.nbytes() == tensors[name].nbytes for name, storage in storages.items())


def test_no_tensor_is_backed_by_the_file(single: Signed) -> None:
    tensors = single.load()
    with (single.directory / "model.safetensors").open("r+b") as file:
        file.write(b"\xff" * len(safetensors(TWO)))
    assert_is(tensors, TWO)


def test_metadata_and_padding_are_part_of_the_header(make_signed: Callable[..., Signed]) -> None:
    data = safetensors(TWO, metadata={"format": "pt"}, padding=5)
    tensors = make_signed({"model.safetensors": data}).load()
    assert_is(tensors, TWO)
    assert tensors.metadata == {"format": "pt"}


def test_a_file_without_tensors_is_loaded(make_signed: Callable[..., Signed]) -> None:
    assert make_signed({"model.safetensors": safetensors({})}).load() == {}


def test_files_larger_than_a_block_are_loaded(make_signed: Callable[..., Signed]) -> None:
    large = {"x": ("U8", (40_000_003,), bytes(40_000_003)), "y": ("F32", (25,), pattern(100))}
    assert_is(make_signed({"model.safetensors": safetensors(large)}).load(), large)


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (("cuda",), "'cuda' stands where the signature belongs"),
        (("cpu",), "'cpu' stands where the signature belongs"),
        (("cuda:1",), r"trust, device='cuda:1'"),
        ((0,), "'0' stands where the signature belongs"),
        ((torch.device("cpu"),), "'cpu' stands where the signature belongs"),
        (("pt", "cpu"), r"trust, framework='pt'"),
    ],
)
def test_arguments_in_the_order_of_safetensors_are_refused(
    single: Signed, arguments: tuple[Any, ...], reason: str
) -> None:
    with pytest.raises(TypeError, match=reason):
        sentry.load_file(single.directory / "model.safetensors", *arguments)
    with pytest.raises(TypeError, match=reason), sentry.safe_open(single.directory, *arguments):
        pass


def test_signature_and_trust_the_wrong_way_round_are_refused(single: Signed) -> None:
    with pytest.raises(TypeError, match="wrong order"):
        sentry.load_file(single.directory, single.pair.trust, single.signature)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("options", "error", "reason"),
    [
        ({"framework": "tf"}, ValueError, "no framework 'tf'"),
        ({"device": "cuda:99"}, UnavailableError, "there is no cuda:99: torch sees"),
        ({"device": "tpu"}, ValueError, "no device 'tpu'"),
        ({"device": "cuda:0", "framework": "np"}, ValueError, "NumPy's arrays lie on the host"),
        ({"reader": "mmap"}, ValueError, "no reader 'mmap'"),
        ({"reader": "ring"}, ValueError, "reads to GPUs, not to the host"),
        ({"device": "cuda:0", "reader": "plain"}, ValueError, "reads to the host, not to GPUs"),
        ({"engine": "gpu"}, ValueError, "no engine 'gpu'"),
        ({"engine": "cuda"}, EngineError, "the tensors are to lie on the host"),
        ({"hash": "md5"}, ValueError, "no hash 'md5'"),
        ({"root": "/nonexistent"}, UnavailableError, "cannot read /nonexistent"),
    ],
)
def test_arguments_that_mean_nothing_are_refused(
    single: Signed, options: dict[str, Any], error: type[Exception], reason: str
) -> None:
    with pytest.raises(error, match=re.escape(reason)):
        single.load(**options)


def test_trust_that_is_only_a_path_is_refused(single: Signed) -> None:
    with pytest.raises(TypeError, match=r"trust is a str; KeyTrust.from_file"):
        sentry.load_file(single.directory, single.signature, "public.pem")  # type: ignore[arg-type]


@pytest.mark.parametrize(("device", "framework"), [("cpu:0", "torch"), (torch.device("cpu"), "pytorch")])
def test_what_safetensors_calls_things_is_understood(single: Signed, device: object, framework: str) -> None:
    assert_is(single.load(device=device, framework=framework), TWO)
    assert isinstance(single.load("other.safetensors", framework="numpy")["c.weight"], np.ndarray)


def test_safe_open_refuses_arguments_before_the_block(single: Signed) -> None:
    with pytest.raises(ValueError, match="no framework 'tf'"):
        sentry.safe_open(single.directory, single.signature, single.pair.trust, framework="tf")


def test_a_path_that_is_not_there_is_not_called_unsigned(single: Signed, tmp_path: Path) -> None:
    with pytest.raises(UnavailableError, match=r"there is no .*/modle"):
        sentry.load_file(tmp_path / "modle", single.signature, single.pair.trust)


def test_signed_files_of_other_kinds_are_not_loaded(single: Signed) -> None:
    with pytest.raises(MismatchError, match=r"config.json is not a safetensors file") as caught:
        single.load("config.json")
    assert "convert others" in str(caught.value.hint)


def test_loaded_tensors_can_be_verified_again_under_the_same_signature(sharded: Signed) -> None:
    tensors = sharded.load("")
    evidence = sentry.verify_model(tensors, sharded.signature, sharded.pair.trust, header=tensors.headers)
    assert evidence.tensors == tuple(sorted(tensors))
    with sentry.Watch(tensors, sharded.signature, sharded.pair.trust, every=60, header=tensors.headers) as watch:
        tensors["odd"][2] ^= 1
        with pytest.raises(MismatchError, match=r"bytes differ|changed"):
            watch.check()


def test_loading_needs_trust_and_a_signature(single: Signed) -> None:
    path = single.directory / "model.safetensors"
    with pytest.raises(TrustError, match="no trust was given"):
        sentry.load_file(path, single.signature)
    assert_is(sentry.load_file(path, None, single.pair.trust), TWO)
    single.signature.unlink()
    with pytest.raises(SignatureError, match="there is no signature"):
        sentry.load_file(path, None, single.pair.trust)
    with pytest.raises(SignatureError, match="there is no signature"):
        sentry.load_file(path, [], single.pair.trust)


def test_safe_open_has_the_methods_of_safetensors(single: Signed) -> None:
    (single.directory / "model.safetensors").write_bytes(safetensors(TWO, metadata={"format": "pt"}))
    single.sign()
    opened = sentry.safe_open(single.directory / "model.safetensors", single.signature, single.pair.trust)
    with pytest.raises(ValueError, match="not open"):
        opened.keys()
    with opened as file:
        assert file.keys() == sorted(TWO)
        assert file.offset_keys() == list(TWO)
        assert file.metadata() == {"format": "pt"}
        assert raw(file.get_tensor("odd")) == TWO["odd"][2]
        part = file.get_slice("a.weight")
        assert part.get_shape() == [3, 5]
        assert part.get_dtype() is torch.float32
        assert raw(part[1:2, :]) == TWO["a.weight"][2][20:40]
        assert file.verification.files == ("model.safetensors",)
        with pytest.raises(KeyError, match="nothing"):
            file.get_tensor("nothing")


def test_safe_open_says_so_where_there_is_no_metadata(single: Signed) -> None:
    with sentry.safe_open(single.directory / "model.safetensors", single.signature, single.pair.trust) as file:
        assert file.metadata() is None
