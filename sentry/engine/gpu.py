# SPDX-License-Identifier: Apache-2.0
"""One GPU: its context, its loaded kernels, and schedules run on it.

Results are zeroed before every run, so that a kernel that did not run cannot leave an old digest behind. The thread's
current context is put back after every call: other libraries rely on it.
"""

from __future__ import annotations

import ctypes
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, Self

import numpy as np
import numpy.typing as npt

from sentry.engine import nvrtc, schedules
from sentry.engine.schedule import ALIGNMENT, Argument, Inputs, Pointer, Schedule, Shape
from sentry.engine.selftest import prove, prove_structures
from sentry.engine.stream_order import Handle, Streams
from sentry.errors import EngineError
from sentry.formats.digest import digest_bytes
from sentry.formats.lattice import LatticeSum
from sentry.formats.record import Preimage

# The kernels use warp reductions that older cards lack.
MIN_COMPUTE_CAPABILITY = (8, 0)
_INSTALL = "pip install 'artifact-sentry[cuda]'"
_ON_CPU = "use engine='cpu'; `sentry doctor` says what this machine has"


class Gpu:
    """A GPU that schedules run on.

    Args:
        ordinal: Which one.

    Raises:
        EngineError: No driver, no such GPU, or one that is too old.
    """

    def __init__(self, ordinal: int) -> None:
        self.ordinal = ordinal
        self._core, self._driver = _libraries()
        with _as_engine_error("there is no usable GPU"):
            self._device = self._core.Device(ordinal)
            capability = tuple(self._device.compute_capability)
            self.name = str(self._device.name)
        if capability < MIN_COMPUTE_CAPABILITY:
            raise EngineError(f"{self.name} has compute capability {capability}, the kernels need 8.0", hint=_ON_CPU)
        self.arch = f"sm_{capability[0]}{capability[1]}"
        self._modules: dict[str, Mapping[str, Any]] = {}
        self._on_trial: dict[str, Mapping[str, Any]] = {}
        # Held while a module is loaded and tested; the test itself asks for kernels again.
        self._lock = threading.RLock()
        with self.current():
            self._streams = Streams(self._core, self._driver, self._device)

    @contextmanager
    def current(self) -> Iterator[None]:
        """Make this GPU the thread's current one, for the time being."""
        with _as_engine_error("the GPU does not answer"):
            (error, before) = self._driver.cuCtxGetCurrent()
            self._device.set_current()
        try:
            yield
        finally:
            if not error:
                self._driver.cuCtxSetCurrent(before)

    def stream_behind(self, producers: Iterable[Handle], *, background: bool = False) -> Any:  # noqa: ANN401
        """Return a stream (cuda.core's) whose work comes after all that the producers' streams were given so far."""
        return self._streams.behind(producers, background=background)

    def run(self, schedule: Schedule, producers: Iterable[Handle]) -> bytes:
        """Run a schedule once and return its result."""
        with self.bind(schedule, producers) as bound:
            return bound.run()

    def bind(self, schedule: Schedule, producers: Iterable[Handle], *, background: bool = False) -> Bound:
        """Prepare a schedule that is to run many times."""
        with self.current():
            return Bound(self, schedule, self.stream_behind(producers, background=background))

    def upload(self, data: bytes, stream: Any) -> Any:  # noqa: ANN401  (cuda.core's Stream and Buffer)
        """Copy bytes to the GPU; the buffer is freed when it is dropped."""
        with _as_engine_error("the GPU has no room"):
            buffer = self._device.allocate(max(1, len(data)), stream=stream)
            if data:
                self.copy_in(int(buffer.handle), np.frombuffer(data, np.uint8), stream)
        return buffer

    def stage(self, data: bytes, producers: Iterable[Handle], *, background: bool = False) -> Staged:
        """Copy bytes from the host to the GPU, ahead of work that follows the producers' streams."""
        with self.current():
            stream = self.stream_behind(producers, background=background)
            return Staged(self, self.upload(data, stream), stream)

    def copy_in(self, address: int, array: npt.NDArray[np.uint8], stream: Any) -> None:  # noqa: ANN401
        """Copy host memory to a device address, on a stream."""
        self._check(self._driver.cuMemcpyHtoDAsync(address, array.ctypes.data, array.nbytes, stream.handle))

    def copy_out(self, array: npt.NDArray[np.uint8], address: int, stream: Any) -> None:  # noqa: ANN401
        """Copy from a device address to host memory, on a stream."""
        self._check(self._driver.cuMemcpyDtoHAsync(array.ctypes.data, address, array.nbytes, stream.handle))

    def zero(self, address: int, nbytes: int, stream: Any) -> None:  # noqa: ANN401
        """Fill device memory with zeros, on a stream."""
        if nbytes:
            self._check(self._driver.cuMemsetD8Async(address, 0, nbytes, stream.handle))

    def allocate(self, nbytes: int, stream: Any) -> Any:  # noqa: ANN401
        """Allocate device memory, in the order of a stream."""
        with _as_engine_error("the GPU has no room"):
            return self._device.allocate(max(1, nbytes), stream=stream)

    def pinned_ring(self, blocks: int, nbytes: int) -> tuple[Any, list[memoryview]]:
        """Allocate page-locked host memory; returns its owner and the blocks in it."""
        with self.current(), _as_engine_error("the host has no page-locked memory left"):
            owner = self._core.LegacyPinnedMemoryResource().allocate(blocks * nbytes)
        memory = (ctypes.c_ubyte * (blocks * nbytes)).from_address(int(owner.handle))
        whole = memoryview(memory).cast("B")
        return owner, [whole[at : at + nbytes] for at in range(0, blocks * nbytes, nbytes)]

    def kernel(self, module: str, name: str) -> Any:  # noqa: ANN401  (cuda.core's Kernel)
        """Return a kernel; its module is compiled, loaded and put to the test at first use."""
        with self._lock:
            if module in self._on_trial:
                return self._on_trial[module][name]
            if module not in self._modules:
                self._modules[module] = self._load(module)
            return self._modules[module][name]

    def _load(self, module: str) -> Mapping[str, Any]:
        """Load a module, which nobody else sees before it has passed its test."""
        loaded = nvrtc.load_module(module, self.arch)
        self._on_trial[module] = loaded
        try:
            prove(module, self._digests_of, self._lattice_of)
            if module == "blake3":
                prove_structures(self._leaves_of, self._subtrees_of)
        finally:
            del self._on_trial[module]
        return loaded

    def _digests_of(self, hash_name: str, messages: Sequence[bytes]) -> list[bytes]:
        result = self._run_on(messages, lambda inputs: schedules.digests(hash_name, inputs, Shape()))
        size = digest_bytes(hash_name)
        return [result[at : at + size] for at in range(0, len(result), size)]

    def _leaves_of(self, records: Sequence[tuple[Preimage, Sequence[bytes]]]) -> list[bytes]:
        preimages = [preimage for preimage, _ in records]
        contents = [content for _, fields in records for content in fields]
        result = self._run_on(
            contents, lambda inputs: schedules.leaves("blake3", preimages, inputs, Shape(), lattice=False)
        )
        return [result[at : at + 32] for at in range(0, len(result), 32)]

    def _subtrees_of(self, message: bytes, group_chunks: int) -> list[bytes]:
        result = self._run_on([message], lambda inputs: schedules.subtrees(inputs, group_chunks, Shape()))
        return [result[at : at + 32] for at in range(0, len(result), 32)]

    def _run_on(self, messages: Sequence[bytes], make: Callable[[Inputs], Schedule]) -> bytes:
        """Copy messages to the GPU and run a schedule over them."""
        nbytes = np.array([len(message) for message in messages], np.uint64)
        staged = self.stage(b"".join(messages), ())
        try:
            starts = np.uint64(staged.address) + np.cumsum(nbytes, dtype=np.uint64) - nbytes
            return self.run(make(Inputs.one_segment_each(starts, nbytes)), ())
        finally:
            staged.close()

    def _lattice_of(self, leaves: Sequence[bytes]) -> LatticeSum:
        return LatticeSum(self.run(schedules.lattice_sum(b"".join(leaves), len(leaves)), ()))

    def launcher(self) -> Any:  # noqa: ANN401
        """Return cuda.core's `launch` and `LaunchConfig`."""
        return self._core.launch, self._core.LaunchConfig

    def _check(self, returned: tuple[Any, ...]) -> None:
        if returned[0]:
            raise EngineError(f"the GPU refused a copy: {returned[0].name}")


class Staged:
    """Bytes of the host in a GPU's memory; `close` gives them back."""

    def __init__(self, gpu: Gpu, buffer: Any, stream: Any) -> None:  # noqa: ANN401  (cuda.core's Buffer and Stream)
        self._gpu = gpu
        self._buffer = buffer
        self._stream = stream
        self.address = int(buffer.handle)

    def close(self) -> None:
        """Give the memory back, once."""
        buffer, self._buffer = self._buffer, None
        if buffer is not None:
            with self._gpu.current():
                buffer.close(self._stream)


class Bound:
    """A schedule with its memory on a GPU, ready to run; `close` it, or use it in a `with` block."""

    def __init__(self, gpu: Gpu, schedule: Schedule, stream: Any) -> None:  # noqa: ANN401
        self._gpu = gpu
        self._stream = stream
        # Kernels first: loading one may fail, and there is nothing to give back yet.
        kernels = [gpu.kernel(item.module, item.kernel) for item in schedule.launches]
        scratch_at = -(-len(schedule.tables) // ALIGNMENT) * ALIGNMENT
        result_at = scratch_at + -(-schedule.scratch_bytes // ALIGNMENT) * ALIGNMENT
        self._memory = gpu.allocate(result_at + schedule.result_bytes, stream)
        base = int(self._memory.handle)
        self._bases = {"tables": base, "scratch": base + scratch_at, "result": base + result_at}
        self._result = np.zeros(schedule.result_bytes, np.uint8)
        try:
            self._upload(schedule)
        except BaseException:
            self._memory.close(stream)
            raise
        self._launch, config = gpu.launcher()
        self._launches = [
            (config(grid=item.grid, block=item.block), kernel, self._cells(item.arguments))
            for item, kernel in zip(schedule.launches, kernels, strict=True)
        ]

    def run(self) -> bytes:
        """Run the launches and return the result.

        Raises:
            EngineError: Something on the GPU failed; there is no result then.
        """
        with self._gpu.current(), _as_engine_error("a kernel failed"):
            self._gpu.zero(self._bases["result"], self._result.nbytes, self._stream)
            for config, kernel, cells in self._launches:
                self._launch(self._stream, config, kernel, *cells)
            self._gpu.copy_out(self._result, self._bases["result"], self._stream)
            self._stream.sync()
        return self._result.tobytes()

    def close(self) -> None:
        """Give the memory back."""
        with self._gpu.current():
            self._memory.close(self._stream)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_exception: object) -> None:
        self.close()

    def _upload(self, schedule: Schedule) -> None:
        if not schedule.tables:
            return
        tables = np.frombuffer(schedule.tables, np.uint8).copy()
        for offset, count, space in schedule.relocations:
            tables[offset : offset + 8 * count].view(np.uint64)[:] += np.uint64(self._bases[space])
        self._gpu.copy_in(self._bases["tables"], tables, self._stream)
        self._tables = tables  # alive until the copy has happened

    def _cells(self, arguments: tuple[Argument, ...]) -> tuple[Any, ...]:
        return tuple(
            self._bases[item.space] + item.offset if isinstance(item, Pointer)
            else item if isinstance(item, np.uint64)
            else np.uint32(item)
            for item in arguments
        )  # fmt: skip


def _libraries() -> tuple[Any, Any]:
    try:
        import cuda.core  # noqa: PLC0415
        from cuda.bindings import driver  # noqa: PLC0415
    except ImportError as error:
        raise EngineError(f"the CUDA engine is not installed ({error})", hint=_INSTALL) from None
    return cuda.core, driver


@contextmanager
def _as_engine_error(what: str) -> Iterator[None]:
    """Turn whatever the CUDA libraries raise into an `EngineError`."""
    try:
        yield
    except EngineError:
        raise
    except Exception as error:
        hint = "free memory on the GPU, or use engine='cpu'" if "OUT_OF_MEMORY" in str(error) else _ON_CPU
        raise EngineError(f"{what}: {error}", hint=hint) from error
