# SPDX-License-Identifier: Apache-2.0
"""Torch's tensors on a GPU are taken apart all at once only where they are what they seem to be.

The tensors lie in host memory and are said to lie on a GPU; the engine runs on host-compiled kernels.
"""

from __future__ import annotations

import gc
import warnings
import weakref
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest

torch: Any = pytest.importorskip("torch")

from engines.oracle import expected  # noqa: E402  (torch is looked for first)

from sentry.engine.cuda import CudaEngine  # noqa: E402
from sentry.engine.torch_tables import torch_tables  # noqa: E402

STREAM = 1


@pytest.fixture(autouse=True)
def said_to_be_on_gpus(monkeypatch: pytest.MonkeyPatch) -> None:
    """Say that every tensor lies on the first GPU, or on the one that its attribute `ordinal` names."""
    monkeypatch.setattr(torch.Tensor, "get_device", lambda tensor: getattr(tensor, "ordinal", 0))
    monkeypatch.setattr(torch.cuda, "current_stream", lambda _: SimpleNamespace(cuda_stream=STREAM))


def on(ordinal: int) -> Any:
    tensor = torch.zeros(3)
    tensor.ordinal = ordinal
    return tensor


def nested() -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return torch.nested.nested_tensor([torch.zeros(2), torch.zeros(3)])


def compressed() -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return torch.eye(4).to_sparse_csr()


def test_tables_hold_address_and_length_of_every_tensor() -> None:
    tensors = [torch.zeros(3), torch.nn.Parameter(torch.zeros(2, 5)), torch.zeros(0), torch.zeros((), dtype=torch.bool)]
    tables = torch_tables(tensors)
    assert tables is not None
    assert (tables.ordinal, tables.stream) == (0, STREAM)
    assert tables.pointers.tolist() == [tensor.data_ptr() for tensor in tensors]
    assert tables.nbytes.tolist() == [12, 40, 0, 1]


@pytest.mark.parametrize(
    "make",
    [
        lambda: torch.zeros(4, 3).t(),
        lambda: torch.zeros(4, dtype=torch.complex64).conj(),
        lambda: torch._neg_view(torch.zeros(4)),
        lambda: torch.eye(4).to_sparse(),
        compressed,
        lambda: on(1),
        lambda: on(-1),
        lambda: torch.zeros(4).as_subclass(type("Subclass", (torch.Tensor,), {})),
        lambda: b"abc",
        nested,
        lambda: torch._efficientzerotensor((4,)),
    ],
    ids=[
        "transposed", "conjugated", "negated", "sparse", "compressed rows", "on another GPU", "on the host", "subclass",
        "no tensor", "nested", "zero tensor",
    ],
)  # fmt: skip
def test_there_are_no_tables_with_a_tensor_that_is_not_its_bytes_on_the_one_gpu(make: Callable[[], Any]) -> None:
    assert torch_tables([torch.zeros(3), make(), torch.zeros(3)]) is None


def test_digests_by_tables_are_those_of_each_tensor(simulated: CudaEngine) -> None:
    tensors = [torch.arange(number * 37 % 1500) for number in range(100)]
    assert simulated.digests("blake3", tensors) == [expected("blake3", item.numpy().tobytes()) for item in tensors]


def test_a_plan_keeps_the_tensors_alive_when_the_callers_list_is_emptied(simulated: CudaEngine) -> None:
    tensors = [torch.full((5000,), 7, dtype=torch.uint8)]
    alive = weakref.ref(tensors[0])
    plan = simulated.plan("blake3", tensors)
    tensors.clear()
    gc.collect()
    assert alive() is not None
    assert plan.run() == [expected("blake3", b"\x07" * 5000)]
    plan.close()
