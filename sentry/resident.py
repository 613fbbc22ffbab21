# SPDX-License-Identifier: Apache-2.0
"""Tensors and the engines that reach them: what lies on a GPU is hashed there, what lies on the host by the CPU.

A *content* is what one digest stands for: a tensor, or a file's header and the tensors behind it. One call per engine
digests all contents that it reaches.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from sentry import engine as engines
from sentry.engine.buffers import as_segment
from sentry.engine.contract import Engine, Plan
from sentry.engine.cpu import new_state
from sentry.engine.segments import HostBytes, Segment
from sentry.errors import EngineError
from sentry.named_tensors import NamedTensor, to_host
from sentry.text import escape

AUTO = "auto: tensors are hashed where they lie"


@dataclass(frozen=True)
class Content:
    """What one digest stands for.

    Attributes:
        tensors: In the order of their bytes.
        header: Bytes in front of them, if they make up a file; None for a single tensor by itself.
    """

    tensors: tuple[NamedTensor, ...]
    header: bytes | None = field(default=None, repr=False)

    @property
    def gpus(self) -> set[int]:
        """Ordinals of the GPUs that it lies on."""
        return {tensor.gpu for tensor in self.tensors if tensor.gpu is not None}

    @property
    def nbytes(self) -> int:
        """Number of bytes."""
        return len(self.header or b"") + sum(tensor.nbytes for tensor in self.tensors)

    def message(self) -> Any:  # noqa: ANN401  (what engines take has no common type)
        """Return what an engine hashes."""
        if self.header is None:
            return self.tensors[0].data
        return [HostBytes(self.header), *(tensor.data for tensor in self.tensors)]


@dataclass(frozen=True)
class _Part:
    """The contents, by position, that one engine hashes."""

    engine: Engine
    positions: tuple[int, ...]


@dataclass(frozen=True)
class Placement:
    """Which engine hashes which contents.

    Attributes:
        contents: All of them.
        hash: Name of the hash.
        parts: Who hashes what.
        copied: Positions of contents that are hashed on the host, copied there tensor by tensor.
        name: What the evidence calls the engine: `cpu`, `cuda:0`, `cpu+cuda:0`.
        reason: Why it is that one.
    """

    contents: tuple[Content, ...] = field(repr=False)
    hash: str
    parts: tuple[_Part, ...] = field(repr=False)
    copied: tuple[int, ...] = field(repr=False)
    name: str
    reason: str

    def digests(self) -> list[bytes]:
        """Return the digest of every content.

        Raises:
            EngineError: An engine failed.
        """
        results = {position: self._on_host(self.contents[position]) for position in self.copied}
        for part in self.parts:
            messages = [self.contents[position].message() for position in part.positions]
            results |= zip(part.positions, part.engine.digests(self.hash, messages), strict=True)
        return [results[position] for position in range(len(self.contents))]

    def plan(self) -> ResidentPlan:
        """Prepare the digests to be computed again and again, without disturbing other work on the GPUs.

        Raises:
            EngineError: An engine failed, or not every byte can be hashed where it lies.
        """
        if self.copied:
            raise EngineError(
                f"a file under {self.hash}, or over several GPUs, cannot be hashed where its tensors lie",
                hint="sign the model in memory, with sign_model",
            )
        for content in self.contents:
            for tensor in content.tensors:
                if tensor.copied:
                    raise EngineError(
                        f"only a copy of the tensor '{escape(tensor.name)}' can be hashed, not its memory",
                        hint="make it contiguous, little-endian and plain",
                    )
        plans: list[tuple[tuple[int, ...], Plan]] = []
        try:
            for part in self.parts:
                messages = [self.contents[position].message() for position in part.positions]
                plans.append((part.positions, part.engine.plan(self.hash, messages, background=True)))
        except BaseException:
            for _, plan in plans:
                plan.close()
            raise
        return ResidentPlan(plans, len(self.contents))

    def _on_host(self, content: Content) -> bytes:
        state = new_state(self.hash, parallel=True)
        for segment in _host_segments(content):
            state.update(memoryview(segment.data))
        return state.digest()


class ResidentPlan:
    """Digests of the same memory on one or more engines, ready to be computed again; `close` it."""

    def __init__(self, plans: Sequence[tuple[tuple[int, ...], Plan]], count: int) -> None:
        self._plans = plans
        self._count = count

    def run(self) -> list[bytes]:
        """Return the digest of every content as its memory is now."""
        results: dict[int, bytes] = {}
        for positions, plan in self._plans:
            results |= zip(positions, plan.run(), strict=True)
        return [results[position] for position in range(self._count)]

    def close(self) -> None:
        """Give back whatever the plans hold."""
        for _, plan in self._plans:
            plan.close()


def place(contents: Sequence[Content], hash_name: str, engine: str) -> Placement:
    """Choose who hashes what.

    Args:
        contents: What is to be hashed.
        hash_name: Under which hash.
        engine: `auto`: GPUs what lies on them, the CPU the rest; `cpu`, `cuda` or `cuda:N`: that one, for all.

    Raises:
        EngineError: The engine cannot run here, or a tensor lies where it does not reach.
        ValueError: There is no such engine.
    """
    if engine != "auto":
        return _forced(tuple(contents), hash_name, engine)
    on_cpu = tuple(at for at, content in enumerate(contents) if not content.gpus)
    on_gpu = tuple(at for at, content in enumerate(contents) if content.gpus)
    parts, names = [], []
    if on_cpu or not contents:
        parts.append(_Part(engines.choose("cpu").engine, on_cpu))
        names.append("cpu")
    gpus = sorted({gpu for at in on_gpu for gpu in contents[at].gpus})
    copied: tuple[int, ...] = ()
    if on_gpu:
        # One engine reaches all GPUs: the memory decides which of them works.
        cuda = engines.choose(f"cuda:{gpus[0]}").engine
        copied = tuple(at for at in on_gpu if _must_be_copied(contents[at], hash_name, cuda))
        parts.append(_Part(cuda, tuple(at for at in on_gpu if at not in set(copied))))
        names += [f"cuda:{gpu}" for gpu in gpus]
    return _placement(tuple(contents), hash_name, parts, copied, names, AUTO)


def _forced(contents: tuple[Content, ...], hash_name: str, name: str) -> Placement:
    choice = engines.choose(name)
    engine = choice.engine
    for content in contents:
        for tensor in content.tensors:
            place_name = "cpu" if tensor.gpu is None else f"cuda:{tensor.gpu}"
            if place_name != engine.name:
                lies = "on the host" if tensor.gpu is None else f"on {place_name}"
                raise EngineError(
                    f"the tensor '{escape(tensor.name)}' lies {lies}, where the engine {engine.name} does not reach",
                    hint="use engine='auto', or move the tensor",
                )
    copied = tuple(at for at, content in enumerate(contents) if _must_be_copied(content, hash_name, engine))
    rest = tuple(at for at in range(len(contents)) if at not in set(copied))
    return _placement(contents, hash_name, [_Part(engine, rest)], copied, [engine.name], choice.reason)


def _placement(
    contents: tuple[Content, ...],
    hash_name: str,
    parts: Sequence[_Part],
    copied: tuple[int, ...],
    names: Sequence[str],
    reason: str,
) -> Placement:
    if copied:
        reason += f"; {len(copied)} of {len(contents)} files copied to the host tensor by tensor, {hash_name} there"
    if any(_is_mixed(content) for at, content in enumerate(contents) if at not in set(copied)):
        reason += "; tensors on the host with their file, on its GPU"
    used = tuple(part for part in parts if part.positions)
    return Placement(contents, hash_name, used, copied, "+".join(names), reason)


def _is_mixed(content: Content) -> bool:
    return bool(content.gpus) and any(tensor.gpu is None for tensor in content.tensors)


def _must_be_copied(content: Content, hash_name: str, engine: Engine) -> bool:
    """Say whether a file can only be hashed on the host: by a sequential hash, or because it lies on several GPUs."""
    if content.header is None or not content.gpus:
        return False
    return bool(engine.host_hashes([hash_name])) or len(content.gpus) > 1


def _host_segments(content: Content) -> Iterator[HostBytes]:
    """Yield a content's bytes, one tensor at a time in host memory."""
    yield HostBytes(content.header or b"")
    for tensor in content.tensors:
        segment: Segment = as_segment(to_host(tensor).data)
        if not isinstance(segment, HostBytes):
            raise EngineError(f"the tensor '{escape(tensor.name)}' was not copied to the host")
        yield segment
