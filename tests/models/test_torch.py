# SPDX-License-Identifier: Apache-2.0
"""Torch's modules and tensors: signed by their value under the names of the state dict, or refused by name."""

from __future__ import annotations

import io
import warnings
from collections.abc import Callable
from typing import Any

import pytest

torch: Any = pytest.importorskip("torch")

from models.zoo import safetensors  # noqa: E402  (torch is looked for first)
from reference import tensors_reference  # noqa: E402
from reference.tensors_reference import Tensor  # noqa: E402
from support import KeyPair, write_files  # noqa: E402

import sentry  # noqa: E402
from sentry.dtypes import TORCH_NAMES  # noqa: E402
from sentry.formats.tensors import decode_tensors  # noqa: E402
from sentry.named_tensors import name_tensors  # noqa: E402

# ComplexHalf and nested tensors announce themselves as experimental.
pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")


class Net(torch.nn.Module):  # type: ignore[misc]
    """A small module with tied weights, a persistent buffer and two that are not."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(7)
        self.embed = torch.nn.Embedding(5, 4)
        self.norm = torch.nn.BatchNorm1d(4)
        self.head = torch.nn.Linear(4, 5, bias=False)
        self.head.weight = self.embed.weight
        self.register_buffer("angles", torch.arange(3.0), persistent=False)
        self.norm.register_buffer("scratch", torch.zeros(2), persistent=False)


def payload_of(tensor: Any, dtype: str, data: bytes, shape: tuple[int, ...] | None = None) -> bytes:
    return tensors_reference.write("blake3", [Tensor("w", dtype, shape or tuple(tensor.shape), data)])


def signed(model: Any, pair: KeyPair) -> bytes:
    return sentry.sign_model(model, pair.signer).envelope.payload


def test_a_module_is_signed_by_its_state_dict_and_the_rest_is_named(pair: KeyPair) -> None:
    net = Net()
    bundle = sentry.sign_model(net, pair.signer)
    assert signed(net.state_dict(), pair) == bundle.envelope.payload
    evidence = sentry.verify_model(net, bundle, pair.trust)
    assert evidence.tensors == tuple(sorted(net.state_dict()))
    assert {"embed.weight", "head.weight"} <= set(evidence.tensors)
    assert evidence.not_covered == ("angles", "norm.scratch")
    net.angles += 1
    sentry.verify_model(net, bundle, pair.trust)
    with torch.no_grad():
        net.head.weight[0, 0] += 1
    with pytest.raises(sentry.MismatchError, match=r"changed: embed.weight \(bytes differ\), head.weight"):
        sentry.verify_model(net, bundle, pair.trust)


def test_a_tied_tensor_that_is_untied_with_other_bytes_is_found(pair: KeyPair) -> None:
    net = Net()
    bundle = sentry.sign_model(net, pair.signer)
    net.head.weight = torch.nn.Parameter(net.embed.weight.detach().clone())
    sentry.verify_model(net, bundle, pair.trust)
    with torch.no_grad():
        net.head.weight[0, 0] += 1
    with pytest.raises(sentry.MismatchError, match=r"changed: head.weight \(bytes differ\)$"):
        sentry.verify_model(net, bundle, pair.trust)


def test_a_module_of_another_shape_is_refused(pair: KeyPair) -> None:
    bundle = sentry.sign_model(Net(), pair.signer)
    with pytest.raises(sentry.MismatchError, match=r"missing: .*; not signed: bias, weight$"):
        sentry.verify_model(torch.nn.Linear(4, 5), bundle, pair.trust)
    with pytest.raises(sentry.MismatchError, match=r"embed.weight \(dtype BF16, signed F32\)"):
        sentry.verify_model(Net().to(torch.bfloat16), bundle, pair.trust)


@pytest.mark.parametrize("dtype", TORCH_NAMES)
@pytest.mark.parametrize("shape", [(4,), (2, 3, 8), (0, 3)], ids=str)
def test_every_dtype_is_signed_by_its_bytes(pair: KeyPair, dtype: str, shape: tuple[int, ...]) -> None:
    kind = getattr(torch, TORCH_NAMES[dtype])
    nbytes = kind.itemsize
    for size in shape:
        nbytes *= size
    data = bytes(index % 2 for index in range(nbytes))
    tensor = torch.empty(shape, dtype=kind)
    if nbytes:
        tensor = torch.frombuffer(bytearray(data), dtype=torch.uint8).view(kind).reshape(shape)
    elements = (*shape[:-1], shape[-1] * 2) if dtype == "F4" else shape
    assert signed({"w": tensor}, pair) == payload_of(tensor, dtype, data, elements)
    sentry.verify_model({"w": tensor}, sentry.sign_model({"w": tensor}, pair.signer), pair.trust)


COMPLEX = torch.tensor([1 + 2j, 3 - 4j], dtype=torch.complex64)
VALUES: dict[str, tuple[Callable[[], Any], list[Any], str]] = {
    "transposed": (lambda: torch.arange(6.0).reshape(2, 3).t(), [[0.0, 3.0], [1.0, 4.0], [2.0, 5.0]], "F32"),
    "columns": (lambda: torch.arange(6.0).reshape(2, 3)[:, ::2], [[0.0, 2.0], [3.0, 5.0]], "F32"),
    "expanded": (lambda: torch.ones(1).expand(3), [1.0, 1.0, 1.0], "F32"),
    "conjugated": (COMPLEX.conj, [1 - 2j, 3 + 4j], "C64"),
    "imaginary part of it": (lambda: COMPLEX.conj().imag, [-2.0, 4.0], "F32"),
    "negated": (lambda: torch._neg_view(torch.ones(2)), [-1.0, -1.0], "F32"),
}


@pytest.mark.parametrize(("make", "value", "dtype"), VALUES.values(), ids=VALUES.keys())
def test_views_are_signed_as_the_bytes_of_their_value(
    pair: KeyPair, make: Callable[[], Any], value: list[Any], dtype: str
) -> None:
    plain = torch.tensor(value, dtype=torch.complex64 if dtype == "C64" else torch.float32)
    written = payload_of(plain, dtype, plain.numpy().tobytes())
    assert signed({"w": make()}, pair) == written
    assert signed({"w": plain}, pair) == written
    assert name_tensors({"w": make()}).tensors[0].copied


@pytest.mark.parametrize(
    "make",
    [
        lambda: torch.tensor(1.0),
        lambda: torch.nn.Parameter(torch.ones(3)),
        lambda: torch.nn.Buffer(torch.ones(3)),
        lambda: torch.ones(3, requires_grad=True) * 1,
        lambda: torch.ones(5)[1:4],
        lambda: torch.ones(1, 3).t(),
    ],
    ids=["0-dim", "parameter", "buffer", "result", "slice", "transposed row"],
)
def test_plain_tensors_are_not_copied(make: Callable[[], Any]) -> None:
    tensor = make()
    (named,) = name_tensors({"w": tensor}).tensors
    assert not named.copied
    assert named.address == tensor.data_ptr()
    assert named.data is tensor


class Subclass(torch.Tensor):  # type: ignore[misc]
    """A tensor that may mean something else than its bytes."""


class WithState(torch.nn.Linear):  # type: ignore[misc]
    """A module that puts more than tensors into its state dict."""

    def get_extra_state(self) -> dict[str, int]:
        return {"step": 1}

    def set_extra_state(self, state: Any) -> None:
        del state


def freed() -> Any:
    tensor = torch.ones(3)
    tensor.untyped_storage().resize_(0)
    return tensor


REFUSED: dict[str, tuple[Callable[[], Any], str]] = {
    "meta": (lambda: torch.ones(2, device="meta"), "is on the meta device and has no bytes"),
    "sparse": (lambda: torch.eye(2).to_sparse(), "is sparse, nested or a zero tensor"),
    "compressed rows": (lambda: torch.eye(2).to_sparse_csr(), "is sparse, nested or a zero tensor"),
    "zero tensor": (lambda: torch._efficientzerotensor((2,)), "is sparse, nested or a zero tensor"),
    "nested": (lambda: torch.nested.nested_tensor([torch.ones(2), torch.ones(3)]), "nested"),
    "jagged": (
        lambda: torch.nested.nested_tensor([torch.ones(2), torch.ones(3)], layout=torch.jagged),
        "is a NestedTensor, which may mean more than its bytes",
    ),
    "quantised": (lambda: torch.quantize_per_tensor(torch.ones(2), 0.1, 0, torch.qint8), "is quantised: its scale"),
    "subclass": (lambda: torch.ones(2).as_subclass(Subclass), "is a Subclass, which may mean more than its bytes"),
    "uninitialised": (torch.nn.UninitializedParameter, "is a UninitializedParameter, which may mean more"),
    "4 bits": (lambda: torch.zeros(2, dtype=torch.uint8).view(torch.uint4), "is of type torch.uint4, which has no"),
    "1 bit": (lambda: torch.zeros(2, dtype=torch.uint8).view(torch.int1), "is of type torch.int1, which has no"),
    "bits": (lambda: torch.zeros(2, dtype=torch.uint8).view(torch.bits8), "is of type torch.bits8, which has no"),
    "two elements without dimension": (
        lambda: torch.zeros(1, dtype=torch.uint8).view(torch.float4_e2m1fn_x2).reshape(()),
        "holds 2 elements and has no dimension",
    ),
    "freed": (freed, "has given its memory back"),
    "a file object": (lambda: io.BytesIO(b"abc"), "is of type BytesIO, not an array"),
}  # fmt: skip


@pytest.mark.parametrize(("make", "reason"), REFUSED.values(), ids=REFUSED.keys())
def test_what_bytes_do_not_stand_for_is_refused_by_name(pair: KeyPair, make: Callable[[], Any], reason: str) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        value = make()
    bundle = sentry.sign_model({"w": torch.ones(2)}, pair.signer)
    with pytest.raises(sentry.RefusedError) as refused:
        sentry.sign_model({"w": value}, pair.signer)
    with pytest.raises(sentry.MismatchError) as mismatch:
        sentry.verify_model({"w": value}, bundle, pair.trust)
    for error in (refused.value, mismatch.value):
        assert str(error).startswith("the tensor 'w' ")
        assert reason in str(error)
        assert error.hint
    assert mismatch.value.changed == ("w",)


def test_extra_state_is_refused_by_name_and_can_be_left_out(pair: KeyPair) -> None:
    module = WithState(2, 2)
    with pytest.raises(sentry.RefusedError, match=r"the tensor '_extra_state' is of type dict, not an array") as caught:
        sentry.sign_model(module, pair.signer)
    assert caught.value.hint == "leave it out of the mapping: only arrays can be signed"
    state = {name: value for name, value in module.state_dict().items() if name != "_extra_state"}
    sentry.verify_model(state, sentry.sign_model(state, pair.signer), pair.trust)


def test_tensors_inside_a_transform_are_refused(pair: KeyPair) -> None:
    def sign(tensor: Any) -> Any:
        sentry.sign_model({"w": tensor}, pair.signer)
        return tensor

    with pytest.raises(sentry.SentryError):
        torch.func.vmap(sign)(torch.ones(3, 2))


def test_the_same_values_in_torch_and_numpy_are_one_statement(pair: KeyPair) -> None:
    state = Net().state_dict()
    assert signed(state, pair) == signed({name: tensor.numpy() for name, tensor in state.items()}, pair)


def test_tensors_on_the_host_are_not_reached_by_cuda(pair: KeyPair, monkeypatch: pytest.MonkeyPatch) -> None:
    class Cuda:
        name = "cuda:0"

    monkeypatch.setattr("sentry.engine._cuda", lambda _: Cuda())
    with pytest.raises(sentry.EngineError, match=r"the tensor 'w' lies on the host, where the engine cuda:0 does not"):
        sentry.sign_model({"w": torch.ones(2)}, pair.signer, engine="cuda")
    assert decode_tensors(signed({"w": torch.ones(2)}, pair)).tensors[0].name == "w"


def test_a_module_is_verified_against_the_file_that_it_was_loaded_from(pair: KeyPair, tmp_path: Any) -> None:
    state = torch.nn.Linear(3, 2).state_dict()
    tensors = [Tensor(name, "F32", tuple(tensor.shape), tensor.numpy().tobytes()) for name, tensor in state.items()]
    header, file = safetensors(tensors)
    model = write_files(tmp_path / "model", {"model.safetensors": file})
    bundle = sentry.sign_path(model, pair.signer)
    linear = torch.nn.Linear(3, 2)
    with pytest.raises(sentry.MismatchError, match="bytes differ somewhere in its file"):
        sentry.verify_model(linear, bundle, pair.trust, header=header)
    linear.load_state_dict(state)
    assert sentry.verify_model(linear, bundle, pair.trust, header=header).nbytes == len(file)
