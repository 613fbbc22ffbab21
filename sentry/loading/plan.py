# SPDX-License-Identifier: Apache-2.0
"""Who reads, who hashes, and where: decided before the first byte is read, and said in the evidence."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from sentry import engine as engines
from sentry.engine.contract import Engine
from sentry.errors import EngineError, UnavailableError
from sentry.readers import Reader
from sentry.readers.fast import FastSafetensorsReader, InstantTensorReader
from sentry.readers.gds import CuFileReader, has_kernel_module
from sentry.readers.place import Place
from sentry.readers.plain import PlainReader
from sentry.readers.ring import Observer, RingReader

READERS = ("auto", "plain", "ring", "instanttensor", "fastsafetensors", "cufile")
_FOR_GPUS: Mapping[str, Callable[[], Reader]] = {
    "instanttensor": InstantTensorReader,
    "cufile": CuFileReader,
    "ring": RingReader,
    "fastsafetensors": FastSafetensorsReader,
}
_SLOWER = "fastsafetensors is used when asked for: the ring is faster"
_NO_MODULE = "cufile would copy through the host here: NVIDIA's file system module is not loaded"


@dataclass(frozen=True)
class HashPlan:
    """Where the digests are computed.

    Attributes:
        engine: The engine.
        reason: Why it is that one.
        at_host: Whether the bytes are hashed on the host on their way to a GPU.
    """

    engine: Engine
    reason: str
    at_host: bool = False


def plan_hashing(engine: str, hashes: Sequence[str], place: Place) -> HashPlan:
    """Decide where to hash what will lie in a place.

    Args:
        engine: `auto`, `cpu`, `cuda` or `cuda:N`.
        hashes: What will be recomputed.
        place: Where the tensors will lie.

    Raises:
        ValueError: There is no such engine.
        EngineError: It cannot run here, or does not reach that place.
    """
    if place.ordinal is None:
        if engine not in {"auto", "cpu"} and engines.is_engine(engine):
            raise EngineError("the tensors are to lie on the host", hint="use engine='auto', or load them to a GPU")
        chosen = engines.choose(engine).engine
        return HashPlan(chosen, "asked for" if engine == "cpu" else "auto: the tensors lie on the host")
    if engine == "cpu":
        return HashPlan(engines.choose("cpu").engine, "asked for", at_host=True)
    if engine == "auto":
        try:
            chosen = engines.choose(f"cuda:{place.ordinal}").engine
        except EngineError as error:
            reason = f"auto: the CUDA engine does not run here ({error})"
            return HashPlan(engines.choose("cpu").engine, reason, at_host=True)
        reason = "auto: the tensors lie on the GPU"
    else:
        chosen, reason = engines.choose(engine).engine, "asked for"
        if chosen.name != str(place):
            raise EngineError(f"{chosen.name} does not reach tensors on {place}", hint="use engine='auto'")
    on_host = chosen.host_hashes(hashes)
    if on_host:
        # All of them there: the bytes pass anyway.
        why = f"{' and '.join(on_host)} cannot be split over a GPU, and is computed on the host as the bytes pass"
        return HashPlan(engines.choose("cpu").engine, why, at_host=True)
    return HashPlan(chosen, reason)


def plan_readers(reader: str, place: Place, observer: Observer | None) -> tuple[list[Reader], str]:
    """Return the readers to try in turn, and why others are not among them.

    Args:
        reader: The caller's choice.
        place: Where the tensors will lie.
        observer: Sees the bytes on their way through the built-in ring; None if nobody needs to.

    Raises:
        ValueError: There is no such reader, or it does not read to that place.
        UnavailableError: The choice is a reader that does not show its bytes, and somebody must see them.
    """
    if reader not in READERS:
        raise ValueError(f"there is no reader {reader!r}; known are {', '.join(READERS)}")
    if place.ordinal is None:
        if reader not in {"auto", "plain"}:
            raise ValueError(f"the reader {reader} reads to GPUs, not to the host")
        return [PlainReader()], "asked for" if reader == "plain" else "auto: plain reads are all that the host needs"
    if reader == "plain":
        raise ValueError("the reader plain reads to the host, not to GPUs; the built-in one for them is ring")
    must_see = observer is not None and observer.in_order
    if must_see and reader not in {"auto", "ring"}:
        raise UnavailableError(
            f"the reader {reader} does not show its bytes to the host, which has to hash them",
            hint="use reader='ring', or a signature with BLAKE3 digests",
        )
    if reader == "ring" or must_see:
        return [RingReader(observer)], "asked for" if reader == "ring" else "auto: the host has to see the bytes"
    if reader != "auto":
        return [_FOR_GPUS[reader]()], "asked for"
    others: list[Reader] = [InstantTensorReader()]
    reasons = [_SLOWER]
    if has_kernel_module():
        others.append(CuFileReader())
    else:
        reasons.insert(0, _NO_MODULE)
    return [*others, RingReader(observer)], "; ".join(reasons)
