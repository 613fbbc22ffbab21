# SPDX-License-Identifier: Apache-2.0
"""The CUDA engine: the same digests as the CPU engine, of whatever lies in a GPU's memory, where it lies.

Work runs on the stream that wrote the bytes (torch's current stream, say), or on the engine's own, ordered behind the
producers'. The memory decides the GPU; nothing is copied between GPUs, and nothing falls back to the CPU. Files and
host memory pass through a ring of pinned buffers; flat hashes other than BLAKE3 are sequential, and are computed on the
host as the bytes pass (`host_hashes` names them).
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from sentry.engine import schedules
from sentry.engine.buffers import as_messages
from sentry.engine.checks import Records, check_group, check_leaves, contents_of
from sentry.engine.contract import Progress
from sentry.engine.cpu import digest_in_threads, new_state
from sentry.engine.cuda_plan import CudaPlan, GpuBatch, PlanPart
from sentry.engine.gpu import Gpu
from sentry.engine.gpu_stream import GROUP_BYTES, GpuState, PinnedRings
from sentry.engine.schedule import Inputs, Schedule, Shape
from sentry.engine.segments import DeviceBytes, FileRange, Message, read_all
from sentry.engine.torch_tables import torch_tables
from sentry.errors import EngineError
from sentry.formats.digest import digest_bytes, tree_of
from sentry.formats.lattice import LatticeSum

# Small inputs are latency-bound: smaller blocks spread them over more of the chip.
SMALL_BYTES = 8 * 1024 * 1024
SHAPE, SMALL_SHAPE = Shape(), Shape(block=32)
_NOTHING = Inputs(np.zeros(1, np.uint64), np.zeros(0, np.uint64), np.zeros(1, np.uint32))


class CudaEngine:
    """Hashes on GPUs.

    Args:
        ordinal: The GPU for work that comes from the host; memory on a GPU is hashed where it is.
        threads: How many host threads may feed it.

    Raises:
        EngineError: No driver, no such GPU, or one that is too old.
    """

    def __init__(self, ordinal: int = 0, *, threads: int | None = None) -> None:
        self.ordinal = ordinal
        self.name = f"cuda:{ordinal}"
        self.threads = threads or len(os.sched_getaffinity(0))
        self._lock = threading.Lock()
        self._gpus = {ordinal: Gpu(ordinal)}
        self._rings = PinnedRings()

    def describe(self) -> str:
        """Say in a few words what the engine runs on."""
        gpu = self._gpus[self.ordinal]
        return f"{gpu.name}, {gpu.arch}"

    def split(self, streams: int) -> CudaEngine:
        """Return the engine itself: one GPU serves all streams, and its rings are shared."""
        del streams
        return self

    def host_hashes(self, hashes: Sequence[str]) -> tuple[str, ...]:
        """Return those of the hashes that are computed on the host when bytes come from there."""
        return tuple(name for name in hashes if name != "blake3" and tree_of(name) is None)

    def digest(
        self, hashes: Sequence[str], segments: Message, *, progress: Progress | None = None
    ) -> Mapping[str, bytes]:
        """Digest the concatenation of the segments under every hash.

        Raises:
            ShortReadError: A file ended before its range did.
            OSError: A file could not be read.
            EngineError: The GPU failed.
        """
        host = [segment for segment in segments if not isinstance(segment, DeviceBytes)]
        if len(host) < len(segments):
            digests = {name: self.digests(name, [segments])[0] for name in hashes}
            if progress:
                progress(sum(segment.nbytes for segment in segments))
            return digests
        on_host = self.host_hashes(hashes)
        gpu = self._gpus[self.ordinal]
        states = {name: new_state(name) if name in on_host else GpuState(gpu, name) for name in hashes}
        if sum(segment.nbytes for segment in host) <= GROUP_BYTES:
            # One group: there is nothing to overlap, and threads would cost more than the copy.
            data = memoryview(b"".join(read_all(segment) for segment in host))
            for state in states.values():
                state.update(data)
            if progress:
                progress(len(data))
        else:
            with self._rings.ring(gpu) as ring:
                digest_in_threads(list(states.values()), segments, ring, progress)
        return {name: state.digest() for name, state in states.items()}

    def digests(self, hash_name: str, messages: Sequence[Any]) -> list[bytes]:
        """Digest many messages under one hash, in one go per GPU.

        Args:
            hash_name: Any name that `sentry.formats.digest.digest_bytes` knows.
            messages: Arrays, segments, or sequences of them.
        """
        with self.plan(hash_name, messages) as plan:
            return plan.run()

    def plan(self, hash_name: str, messages: Sequence[Any], *, background: bool = False) -> CudaPlan:
        """Prepare the digests of memory that will be hashed again and again.

        Args:
            hash_name: Any name that `sentry.formats.digest.digest_bytes` knows.
            messages: Arrays, segments, or sequences of them.
            background: Run on a stream of the lowest priority, not on the producers'.

        Raises:
            EngineError: An array lies on the host or in the wrong form, or a GPU fails.
        """
        size = digest_bytes(hash_name)
        batches = self._inputs(messages, background=background)
        parts: list[PlanPart] = []
        try:
            for batch in batches:
                shape = SMALL_SHAPE if int(batch.inputs.nbytes.sum()) <= SMALL_BYTES else SHAPE
                schedule = schedules.digests(hash_name, batch.inputs, shape)
                gpu = self._gpu(batch.ordinal)
                parts.append(PlanPart(batch, gpu.bind(schedule, batch.producers, background=background)))
        except BaseException:
            for part in parts:
                part.bound.close()
            for batch in batches:
                batch.release()
            raise
        return CudaPlan(parts, len(messages), size)

    def subtrees(self, message: Any, group_chunks: int, *, first_chunk: int = 0) -> list[bytes]:  # noqa: ANN401
        """Return BLAKE3's chaining value of every run of `group_chunks` chunks of 1024 bytes, never as a root.

        Args:
            message: An array, a segment, or a sequence of them, on one GPU.
            group_chunks: A power of two.
            first_chunk: Number of the message's first chunk in a longer message.
        """
        check_group(group_chunks)
        result = self._run_once(
            self._inputs([message]), lambda inputs: schedules.subtrees(inputs, group_chunks, SHAPE, first_chunk)
        )
        return [result[at : at + 32] for at in range(0, len(result), 32)]

    def _run_once(self, batches: Sequence[GpuBatch], make: Callable[[Inputs], Schedule]) -> bytes:
        (batch,) = batches
        try:
            return self._gpu(batch.ordinal).run(make(batch.inputs), batch.producers)
        finally:
            batch.release()

    def leaves(self, hash_name: str, records: Records) -> list[bytes]:
        """Return the leaf of every record, from the contents of its fields in the preimage's order of fields."""
        return self._leaves(hash_name, records, lattice=False)[0]

    def leaves_and_sum(self, hash_name: str, records: Records) -> tuple[list[bytes], LatticeSum]:
        """Return every record's leaf and the lattice sum over them; the leaves stay on the GPU in between."""
        return self._leaves(hash_name, records, lattice=True)

    def lattice_sum(self, leaves: Sequence[bytes]) -> LatticeSum:
        """Return the lattice sum over leaves of 32 bytes."""
        check_leaves(leaves)
        if not leaves:
            return LatticeSum()
        return LatticeSum(self._gpus[self.ordinal].run(schedules.lattice_sum(b"".join(leaves), len(leaves)), ()))

    def _leaves(self, hash_name: str, records: Records, *, lattice: bool) -> tuple[list[bytes], LatticeSum]:
        if not records:
            return [], LatticeSum()
        preimages = [preimage for preimage, _ in records]
        contents = contents_of(hash_name, records)
        batches = self._inputs(contents) if contents else [GpuBatch(self.ordinal, (), _NOTHING, set(), None)]
        if len(batches) > 1:
            raise EngineError("the fields of these records lie on several GPUs", hint="digest them GPU by GPU")
        result = self._run_once(
            batches, lambda inputs: schedules.leaves(hash_name, preimages, inputs, SHAPE, lattice=lattice)
        )
        state = LatticeSum(result[32 * len(records) :]) if lattice else LatticeSum()
        return [result[32 * at : 32 * at + 32] for at in range(len(records))], state

    def _gpu(self, ordinal: int) -> Gpu:
        with self._lock:
            if ordinal not in self._gpus:
                self._gpus[ordinal] = Gpu(ordinal)
            return self._gpus[ordinal]

    def _inputs(self, items: Sequence[Any], *, background: bool = False) -> list[GpuBatch]:
        """Sort messages by GPU."""
        items = tuple(items)  # what is hashed later is what was given now
        fast = torch_tables(items)
        if fast is not None:
            inputs = Inputs.one_segment_each(fast.pointers, fast.nbytes)
            return [GpuBatch(fast.ordinal, range(len(items)), inputs, {fast.stream}, items)]
        by_gpu: dict[int, list[int]] = {}
        messages = as_messages(items)
        for position, message in enumerate(messages):
            by_gpu.setdefault(_ordinal_of(message, self.ordinal), []).append(position)
        return [
            self._gather([messages[position] for position in positions], positions, ordinal, background=background)
            for ordinal, positions in by_gpu.items()
        ]

    def _gather(
        self, messages: Sequence[Message], positions: Sequence[int], ordinal: int, *, background: bool
    ) -> GpuBatch:
        """Build the tables of messages on one GPU; what lies on the host is copied there first."""
        segments = [segment for message in messages for segment in message]
        producers = {item.stream for item in segments if isinstance(item, DeviceBytes) and item.stream is not None}
        host = b"".join(read_all(item) for item in segments if not isinstance(item, DeviceBytes))
        staged = self._gpu(ordinal).stage(host, producers, background=background) if host else None
        at = 0 if staged is None else staged.address
        pointers = []
        for item in segments:
            if isinstance(item, DeviceBytes):
                pointers.append(item.pointer)
            else:
                pointers.append(at)
                at += item.nbytes
        firsts = np.cumsum([0, *(len(message) for message in messages)]).astype(np.uint32)
        nbytes = np.array([item.nbytes for item in segments], np.uint64)
        return GpuBatch(
            ordinal, positions, Inputs(np.array(pointers, np.uint64), nbytes, firsts), producers, segments, staged
        )


def _ordinal_of(message: Message, default: int) -> int:
    ordinals = {segment.device for segment in message if isinstance(segment, DeviceBytes)}
    if len(ordinals) > 1:
        raise EngineError("the parts of one message lie on several GPUs")
    if message and not ordinals and not any(isinstance(segment, FileRange) for segment in message):
        raise EngineError("the bytes are in host memory", hint="use engine='cpu', or move them to the GPU")
    return ordinals.pop() if ordinals else default
