# SPDX-License-Identifier: Apache-2.0
"""Arrays of other libraries become the segments of their bytes, or are refused in words."""

from __future__ import annotations

import array
import ctypes
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from sentry.engine.buffers import as_messages, as_segment
from sentry.engine.cpu import CpuEngine
from sentry.engine.segments import DeviceBytes, FileRange, HostBytes
from sentry.engine.torch_tables import torch_tables
from sentry.errors import EngineError

NOT_CONTIGUOUS = "an array is not contiguous, or a conjugated or negated view: its bytes are not those of its value"
STRUCTURE = np.dtype([("a", "<i4"), ("b", "<f8")])


def bytes_of(segment: object) -> bytes:
    assert isinstance(segment, HostBytes)
    return bytes(segment.data)


def refusal(item: object) -> EngineError:
    with pytest.raises(EngineError) as caught:
        as_segment(item)
    return caught.value


@pytest.mark.parametrize(
    "dtype", ["<f4", ">f4", "f2", "?", "i1", "u8", "c8", "c16", "S3", "U2", "V5", STRUCTURE], ids=str
)
@pytest.mark.parametrize("shape", [(), (1,), (3,), (0,), (2, 0, 3), (2, 3, 4)], ids=str)
def test_numpy_arrays_are_their_bytes_in_row_major_order(dtype: Any, shape: tuple[int, ...]) -> None:
    values = np.frombuffer(bytes(range(256)) * 8, np.uint8)[: np.dtype(dtype).itemsize * int(np.prod(shape))]
    items = np.ndarray(shape, dtype, values.tobytes())
    assert bytes_of(as_segment(items)) == items.tobytes() == values.tobytes()


def test_numpy_arrays_are_not_copied() -> None:
    items = np.zeros(4, np.uint8)
    segment = as_segment(items)
    items[2] = 7
    assert bytes_of(segment) == b"\0\0\7\0"


@pytest.mark.parametrize(
    "item",
    [
        np.zeros((4, 4))[:, ::2],
        np.zeros((4, 4), order="F"),
        np.zeros(4)[::-1],
        np.broadcast_to(np.zeros(1), 4),
        np.zeros(3, STRUCTURE)["a"],
        memoryview(b"abcdef")[::2],
    ],
    ids=["columns", "column-major", "reversed", "broadcast", "one field", "view"],
)
def test_what_is_not_contiguous_on_the_host_is_refused(item: object) -> None:
    error = refusal(item)
    assert str(error) == NOT_CONTIGUOUS
    assert error.hint == "hash a contiguous copy of it"


@pytest.mark.parametrize(
    "item",
    [
        b"abcdefgh",
        bytearray(b"abcdefgh"),
        memoryview(b"abcdefgh"),
        memoryview(b"abcdefgh").cast("I"),
        memoryview(b"abcdefgh").cast("B", (2, 4)),
        array.array("H", b"abcdefgh"),
        np.frombuffer(b"abcdefgh", "<u4"),
        (ctypes.c_char * 8)(*b"abcdefgh"),  # type: ignore[misc]
    ],
    ids=lambda item: type(item).__name__,
)
def test_host_buffers_are_their_bytes(item: object) -> None:
    assert bytes_of(as_segment(item)) == b"abcdefgh"


def test_segments_stay_what_they_are() -> None:
    for segment in (HostBytes(b"a"), FileRange(3, 0, 10), DeviceBytes(4096, 10, 1)):
        assert as_segment(segment) is segment


@pytest.mark.parametrize(
    "item", ["text", 3, 1.5, None, object(), {1: 2}, {1}, range(3)], ids=lambda item: type(item).__name__
)
def test_objects_without_bytes_are_refused_by_their_type(item: object) -> None:
    assert str(refusal(item)) == f"a {type(item).__name__} offers no bytes to hash"


@pytest.mark.parametrize("dtype", ["O", [("a", "i4"), ("b", "O")]], ids=["objects", "a field of objects"])
def test_arrays_of_python_objects_are_refused(dtype: Any) -> None:
    refusal(np.zeros(3, dtype))


@pytest.mark.parametrize("dtype", ["M8[s]", "m8[us]"])
def test_arrays_that_numpy_lends_to_nobody_are_refused_or_hashed(dtype: str) -> None:
    items = np.zeros(3, dtype)
    try:
        segment = as_segment(items)
    except EngineError:
        return
    assert bytes_of(segment) == bytes(24)


def test_a_buffer_that_is_exported_no_more_is_refused() -> None:
    view = memoryview(b"abc")
    view.release()
    with pytest.raises((EngineError, ValueError)):
        as_segment(view)


class OnDlpackDevice:
    """An array that says by DLPack where it lies, and offers no bytes."""

    def __init__(self, kind: int, ordinal: int = 0) -> None:
        self._where = (kind, ordinal)

    def __dlpack_device__(self) -> tuple[int, int]:
        return self._where


class Exporter(OnDlpackDevice):
    """An array whose capsule is NumPy's: host memory that is called device memory."""

    def __init__(self, items: np.ndarray[Any, Any], kind: int = 2, ordinal: int = 1) -> None:
        super().__init__(kind, ordinal)
        self._items = items
        self.asked: dict[str, Any] = {}

    def __dlpack__(self, **options: Any) -> Any:
        self.asked = options
        return self._items.__dlpack__()


@pytest.mark.parametrize("kind", [4, 7, 8, 10, 12, 14, 16])
def test_dlpack_devices_that_are_neither_host_nor_cuda_are_refused_by_number(kind: int) -> None:
    assert str(refusal(OnDlpackDevice(kind))) == f"arrays on DLPack devices of type {kind} cannot be hashed"


@pytest.mark.parametrize("kind", [1, 3])
def test_host_arrays_without_a_buffer_are_refused_by_their_type(kind: int) -> None:
    assert str(refusal(OnDlpackDevice(kind))) == "a OnDlpackDevice offers no bytes to hash"


@pytest.mark.parametrize("kind", [2, 13])
def test_dlpack_arrays_on_cuda_are_where_they_say(kind: int) -> None:
    pytest.importorskip("cuda.core")
    items = np.arange(12, dtype=np.float32).reshape(3, 4)
    source = Exporter(items, kind, 1)
    segment = as_segment(source)
    assert segment == DeviceBytes(items.ctypes.data, 48, 1, 0)
    assert isinstance(segment, DeviceBytes)
    assert segment.owner is source
    # The producer is asked to order the legacy default stream behind its work, as the segment says: its stream is 0.
    assert source.asked["stream"] == 1


@pytest.mark.parametrize(
    "items",
    [np.zeros((4, 4), np.float32)[:, ::2], np.zeros((4, 4), order="F"), np.zeros((3, 4))[::2, :]],
    ids=["columns", "column-major", "rows"],
)
def test_dlpack_arrays_on_cuda_that_are_not_contiguous_are_refused(items: np.ndarray[Any, Any]) -> None:
    pytest.importorskip("cuda.core")
    assert str(refusal(Exporter(items))) == NOT_CONTIGUOUS


@pytest.mark.parametrize("shape", [(0,), (1, 12, 1), (12,), ()], ids=str)
def test_dlpack_arrays_on_cuda_of_any_shape_have_their_length(shape: tuple[int, ...]) -> None:
    pytest.importorskip("cuda.core")
    segment = as_segment(Exporter(np.zeros(shape, np.float32)))
    assert isinstance(segment, DeviceBytes)
    assert segment.nbytes == 4 * int(np.prod(shape))


def test_a_cuda_array_that_does_not_export_itself_is_refused() -> None:
    pytest.importorskip("cuda.core")
    refusal(OnDlpackDevice(2))


def interface(shape: tuple[int, ...], strides: tuple[int, ...] | None = None, **more: Any) -> Any:
    described = {"shape": shape, "strides": strides, "typestr": "<f4", "data": (4096, False), "version": 3, **more}
    return SimpleNamespace(__cuda_array_interface__=described)


class FakeView:
    """What cuda.core makes of the interface, without asking a driver where the memory lies."""

    def __init__(self, described: dict[str, Any]) -> None:
        self.ptr = described["data"][0]
        self.shape = described["shape"]
        self.dtype = np.dtype(described["typestr"])
        strides = described["strides"]
        self.strides = None if strides is None else tuple(step // self.dtype.itemsize for step in strides)
        self.device_id = 1

    @classmethod
    def from_cuda_array_interface(cls, item: Any, stream_ptr: int) -> FakeView:
        assert stream_ptr == -1
        return cls(item.__cuda_array_interface__)


@pytest.fixture
def fake_view(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("cuda.core")
    monkeypatch.setattr("cuda.core.utils.StridedMemoryView", FakeView)


@pytest.mark.usefixtures("fake_view")
@pytest.mark.parametrize(
    ("item", "nbytes", "stream"),
    [
        (interface((3, 4)), 48, 0),
        (interface((3, 4), (16, 4)), 48, 0),
        (interface((1, 4), (999, 4)), 16, 0),
        (interface((), ()), 4, 0),
        (interface((0,)), 0, 0),
        (interface((2,), stream=1), 8, 1),
        (interface((2,), stream=140_000), 8, 140_000),
        (interface((2,), stream=None), 8, 0),
    ],
)
def test_cuda_array_interfaces_are_taken_with_their_stream(item: object, nbytes: int, stream: int) -> None:
    assert as_segment(item) == DeviceBytes(4096, nbytes, 1, stream)


@pytest.mark.usefixtures("fake_view")
@pytest.mark.parametrize(("shape", "strides"), [((3, 2), (16, 8)), ((3, 4), (4, 12)), ((3,), (-4,)), ((3,), (0,))])
def test_cuda_array_interfaces_that_are_not_contiguous_are_refused(
    shape: tuple[int, ...], strides: tuple[int, ...]
) -> None:
    assert str(refusal(interface(shape, strides))) == NOT_CONTIGUOUS


def test_a_message_is_an_array_or_a_list_of_arrays_and_segments() -> None:
    items = np.arange(4, dtype=np.uint8)
    messages = as_messages([b"ab", [b"c", items, HostBytes(b"d")], (), (b"e",), HostBytes(b"f")])
    assert [[bytes_of(part) for part in message] for message in messages] == [
        [b"ab"], [b"c", bytes(range(4)), b"d"], [], [b"e"], [b"f"],
    ]  # fmt: skip


@pytest.mark.parametrize("item", [[1, 2], [[b"a"]], ["a"], [None]], ids=repr)
def test_lists_of_anything_else_are_refused(item: list[Any]) -> None:
    with pytest.raises(EngineError, match=rf"^a {type(item[0]).__name__} offers no bytes to hash$"):
        as_messages([item])
    with pytest.raises(EngineError):
        CpuEngine().digests("blake3", [item])


def test_there_are_no_tables_without_torch_tensors() -> None:
    assert torch_tables([]) is None
    assert torch_tables([np.zeros(3), b"abc"]) is None
