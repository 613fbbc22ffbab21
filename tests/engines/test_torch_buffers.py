# SPDX-License-Identifier: Apache-2.0
"""Torch's tensors become the segments of their bytes, whatever they hold, or are refused in words."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import pytest

torch: Any = pytest.importorskip("torch")

from engines.oracle import expected  # noqa: E402  (torch is looked for first)

from sentry.engine.buffers import as_messages, as_segment  # noqa: E402
from sentry.engine.cpu import CpuEngine  # noqa: E402
from sentry.engine.cuda import CudaEngine  # noqa: E402
from sentry.engine.segments import HostBytes  # noqa: E402
from sentry.engine.torch_tables import torch_tables  # noqa: E402
from sentry.errors import EngineError  # noqa: E402

DTYPES = [
    "float64", "float32", "float16", "bfloat16", "float8_e4m3fn", "float8_e5m2", "int64", "int8", "uint8", "uint16",
    "bool", "complex64", "complex128",
]  # fmt: skip
NOT_CONTIGUOUS = "an array is not contiguous, or a conjugated or negated view: its bytes are not those of its value"


class Subclass(torch.Tensor):  # type: ignore[misc]
    """A tensor that may mean something else than its bytes."""


def of_bytes(data: bytes, dtype: str, shape: tuple[int, ...]) -> Any:
    raw = torch.frombuffer(bytearray(data or b"\0"), dtype=torch.uint8)[: len(data)]
    return raw.view(getattr(torch, dtype)).reshape(shape) if data else torch.empty(shape, dtype=getattr(torch, dtype))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", [(), (3,), (0, 3), (2, 3)], ids=str)
def test_tensors_are_their_bytes(dtype: str, shape: tuple[int, ...]) -> None:
    count = 1
    for size in shape:
        count *= size
    # Zeros and ones, which every type has, and a bool has nothing else.
    data = bytes(index % 3 % 2 for index in range(count * torch.empty(0, dtype=getattr(torch, dtype)).element_size()))
    tensor = of_bytes(data, dtype, shape)
    segment = as_segment(tensor)
    assert isinstance(segment, HostBytes)
    assert bytes(segment.data) == data
    assert CpuEngine().digests("blake3", [tensor, [tensor, b"x"]]) == [
        expected("blake3", data),
        expected("blake3", data + b"x"),
    ]


def test_tensors_are_not_copied_and_a_plan_sees_what_becomes_of_them() -> None:
    tensor = torch.zeros(8, dtype=torch.uint8)
    plan = CpuEngine().plan("blake3", [tensor])
    tensor[3] = 9
    assert plan.run() == [expected("blake3", b"\0\0\0\x09\0\0\0\0")]


@pytest.mark.parametrize(
    "make",
    [
        lambda: torch.nn.Parameter(torch.ones(3)),
        lambda: torch.ones(3, requires_grad=True),
        lambda: torch.ones(3, requires_grad=True) * 1,
        lambda: torch.nn.Buffer(torch.ones(3)),
        lambda: torch.ones(5)[1:4],
        lambda: torch.ones(3).expand(1, 3),
        lambda: torch.ones(1, 3).t(),
    ],
    ids=["parameter", "leaf", "result", "buffer", "slice", "expanded by nothing", "transposed row"],
)
def test_parameters_buffers_and_contiguous_views_are_tensors(make: Callable[[], Any]) -> None:
    assert CpuEngine().digests("blake3", [make()]) == [expected("blake3", b"\x00\x00\x80?" * 3)]


REFUSED: dict[str, tuple[Callable[[], Any], str]] = {
    "transposed": (lambda: torch.zeros(4, 3).t(), NOT_CONTIGUOUS),
    "columns": (lambda: torch.zeros(4, 4)[:, ::2], NOT_CONTIGUOUS),
    "expanded": (lambda: torch.zeros(1).expand(4), NOT_CONTIGUOUS),
    "channels last": (lambda: torch.zeros(2, 3, 4, 5).to(memory_format=torch.channels_last), NOT_CONTIGUOUS),
    "conjugated": (lambda: torch.zeros(4, dtype=torch.complex64).conj(), NOT_CONTIGUOUS),
    "negated": (lambda: torch._neg_view(torch.zeros(4)), NOT_CONTIGUOUS),
    "imaginary part": (lambda: torch.zeros(4, dtype=torch.complex64).conj().imag, NOT_CONTIGUOUS),
    "sparse": (
        lambda: torch.eye(4).to_sparse(),
        "a sparse, nested or zero tensor does not hold the bytes of its value",
    ),
    "meta": (lambda: torch.zeros(4, device="meta"), "a meta tensor has no bytes to hash"),
    "subclass": (lambda: torch.zeros(4).as_subclass(Subclass), "tensors of type Subclass hide their bytes"),
    "meta subclass": (
        lambda: torch.zeros(4, device="meta").as_subclass(Subclass),
        "a meta tensor has no bytes to hash",
    ),
}
LEAKS: dict[str, Callable[[], Any]] = {
    "compressed rows": lambda: torch.eye(4).to_sparse_csr(),
    "nested": lambda: torch.nested.nested_tensor([torch.zeros(2), torch.zeros(3)]),
    "zero tensor": lambda: torch._efficientzerotensor((4,)),
}


@pytest.mark.parametrize(("make", "reason"), REFUSED.values(), ids=REFUSED.keys())
def test_tensors_whose_bytes_are_not_their_value_are_refused(make: Callable[[], Any], reason: str) -> None:
    tensor = make()
    for attempt in (as_segment, lambda item: as_messages([item]), lambda item: as_messages([[b"a", item]])):
        with pytest.raises(EngineError) as caught:
            attempt(tensor)
        assert str(caught.value) == reason


@pytest.mark.parametrize("make", LEAKS.values(), ids=LEAKS.keys())
def test_tensors_without_one_row_of_bytes_are_refused(make: Callable[[], Any]) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        tensor = make()
        with pytest.raises(EngineError):
            as_segment(tensor)


def test_tensors_on_the_host_have_no_tables() -> None:
    assert torch_tables([torch.zeros(3)]) is None
    assert torch_tables([torch.zeros(3, device="meta")]) is None


@pytest.mark.parametrize(
    "item", [torch.zeros(3), [torch.zeros(3), b"abc"], b"abc", HostBytes(b"")], ids=lambda item: type(item).__name__
)
def test_the_cuda_engine_refuses_host_memory_with_what_to_do(simulated: CudaEngine, item: Any) -> None:
    for attempt in (simulated.digests, simulated.plan):
        with pytest.raises(EngineError, match=r"^the bytes are in host memory$") as caught:
            attempt("blake3", [item])
        assert caught.value.hint == "use engine='cpu', or move them to the GPU"
    with pytest.raises(EngineError, match=r"^the bytes are in host memory$"):
        simulated.subtrees(item, 1)
