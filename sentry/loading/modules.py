# SPDX-License-Identifier: Apache-2.0
"""Verified tensors in a `torch.nn.Module`: nothing is put there before everything is known to fit."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from sentry.loading.evidence import LoadVerification
from sentry.loading.loaded import load_file
from sentry.paths import AnyPath
from sentry.signatures import Signatures
from sentry.text import escape, join_names
from sentry.trust import Trust


@dataclass(frozen=True)
class ModuleLoad:
    """What was put into a module.

    Attributes:
        verification: What was proved about the tensors.
        missing: Names of the module that the model lacks; they were left as they were.
        unexpected: Names of the model that the module lacks; they were not used.
        still_meta: Buffers that belong to no checkpoint and have no values yet.
    """

    verification: LoadVerification
    missing: tuple[str, ...]
    unexpected: tuple[str, ...]
    still_meta: tuple[str, ...]


def load_model(
    module: Any,  # noqa: ANN401  (a torch.nn.Module; torch is not imported here)
    path: AnyPath,
    signature: Signatures | None = None,
    trust: Trust | None = None,
    *,
    strict: bool = True,
    device: object = "cpu",
    **options: Any,  # noqa: ANN401
) -> ModuleLoad:
    """Load a model into a module, and verify the very bytes that were loaded.

    A module on the meta device gets the loaded tensors themselves, in the signed dtypes, and no second copy is made.
    Otherwise they are copied into the module's own tensors, whose dtypes must be the signed ones.

    Args:
        module: The `torch.nn.Module`.
        path: As in `load_file`.
        signature: As in `load_file`.
        trust: As in `load_file`.
        strict: Whether the names must be exactly the module's. Tied tensors need to be there only once; where they are
            there twice, both must be the same.
        device: Where to load to.
        options: `root`, `reader`, `engine` and `hash` of `load_file`.

    Raises:
        ValueError: The model does not fit the module, which is as it was before.
        SentryError: As `load_file` does.
    """
    tensors = load_file(path, signature, trust, device=device, **options)
    own = _OwnTensors(module)
    chosen, missing, unexpected = own.choose(tensors)
    if strict and (missing or unexpected):
        parts = [
            f"{title}: {join_names(tuple(escape(name) for name in names))}"
            for title, names in (("the model lacks", missing), ("the module lacks", unexpected))
            if names
        ]
        raise ValueError(f"the model does not fit the module; {'; '.join(parts)}")
    _check_fit(chosen)
    own.put(chosen)
    still_meta = tuple(name for name, buffer in module.named_buffers() if buffer.is_meta)
    return ModuleLoad(tensors.verification, missing, unexpected, still_meta)


@dataclass(frozen=True)
class _Choice:
    """What one tensor of a module gets: under which name the model has it."""

    name: str
    own: Any
    loaded: Any


class _OwnTensors:
    """The tensors of a module's state dict: the objects themselves, each with all of its names and places.

    `load_state_dict` would ask hooks of the module, which may rename and convert, and stops half-way at an error.
    """

    def __init__(self, module: Any) -> None:  # noqa: ANN401
        self._names: dict[int, list[str]] = {}
        self._tensors: dict[int, Any] = {}
        self._places: dict[int, list[tuple[dict[str, Any], str]]] = {}
        for part in module.modules():
            for registry in (part._parameters, part._buffers):  # noqa: SLF001  (what `state_dict` reads as well)
                for leaf, tensor in registry.items():
                    if tensor is not None:
                        self._places.setdefault(id(tensor), []).append((registry, leaf))
        self._kept = module.state_dict(keep_vars=True)
        for name, tensor in self._kept.items():
            if id(tensor) not in self._places:
                raise ValueError(
                    f"{escape(name)} of the module's state dict is none of its parameters and buffers",
                )
            self._names.setdefault(id(tensor), []).append(name)
            self._tensors[id(tensor)] = tensor
        self._join_shared_memory()

    def _join_shared_memory(self) -> None:
        """Treat different tensors in the same memory as one, and refuse what overlaps otherwise."""
        ranges = sorted(
            (tensor.data_ptr(), tensor.data_ptr() + tensor.nbytes, key)
            for key, tensor in self._tensors.items()
            if not tensor.is_meta and tensor.numel()
        )
        for (begin, end, first), (other, other_end, second) in itertools.pairwise(ranges):
            if other >= end:
                continue
            if (begin, end) != (other, other_end):
                names = f"{escape(self._names[first][0])} and {escape(self._names[second][0])}"
                raise ValueError(f"{names} of the module overlap in memory")
            self._names[second] += self._names.pop(first)

    def choose(self, tensors: Mapping[str, Any]) -> tuple[list[_Choice], tuple[str, ...], tuple[str, ...]]:
        """Find what every tensor gets.

        Returns:
            The choices, names of the module that the model lacks, and names of the model that the module lacks.

        Raises:
            ValueError: The model has two values for what is one tensor in the module.
        """
        chosen: list[_Choice] = []
        missing: list[str] = []
        for key, names in self._names.items():
            there = sorted(name for name in names if name in tensors)
            if not there:
                missing += names
                continue
            for other in there[1:]:
                if not _same_bytes(tensors[there[0]], tensors[other]):
                    raise ValueError(
                        f"{escape(there[0])} and {escape(other)} are one tensor in the module and two in the model"
                    )
            chosen.append(_Choice(there[0], self._tensors[key], tensors[there[0]]))
        return chosen, tuple(sorted(missing)), tuple(sorted(tensors.keys() - self._kept.keys()))

    def put(self, chosen: Iterable[_Choice]) -> None:
        """Give every tensor its value: on the meta device the loaded tensor itself, elsewhere a copy in place."""
        import torch  # noqa: PLC0415

        with torch.no_grad():
            for choice in chosen:
                if not choice.own.is_meta:
                    choice.own.copy_(choice.loaded)
                    continue
                new = choice.loaded
                if isinstance(choice.own, torch.nn.Parameter):
                    new = torch.nn.Parameter(new, requires_grad=choice.own.requires_grad)
                for registry, leaf in self._places[id(choice.own)]:
                    registry[leaf] = new


def _same_bytes(first: Any, second: Any) -> bool:  # noqa: ANN401
    import torch  # noqa: PLC0415

    if first.dtype != second.dtype or first.shape != second.shape:
        return False
    return bool(torch.equal(first.reshape(-1).view(torch.uint8), second.reshape(-1).view(torch.uint8)))


def _check_fit(chosen: Iterable[_Choice]) -> None:
    """Refuse whatever could stop `put` half-way, or make it change what was signed."""
    import torch  # noqa: PLC0415

    for choice in chosen:
        name, own, loaded = escape(choice.name), choice.own, choice.loaded
        if type(own) not in (torch.Tensor, torch.nn.Parameter):
            raise ValueError(f"{name} of the module is a {type(own).__name__}, not a plain tensor")
        if loaded.shape != own.shape:
            raise ValueError(f"{name} has shape {tuple(loaded.shape)}, and the module wants {tuple(own.shape)}")
        if own.is_meta:
            if own.requires_grad and not (loaded.is_floating_point() or loaded.is_complex()):
                raise ValueError(f"{name} is {loaded.dtype}, and the module wants to train it")
            continue
        if loaded.dtype != own.dtype:
            raise ValueError(
                f"{name} is {loaded.dtype}, and the module's is {own.dtype}: a converted copy would not be what was "
                f"signed; use module.to({loaded.dtype}), or a module on the meta device"
            )
        if any(stride == 0 and size > 1 for stride, size in zip(own.stride(), own.shape, strict=True)):
            raise ValueError(f"{name} of the module has several elements in one place")
