# SPDX-License-Identifier: Apache-2.0
"""Verified tensors in a `torch.nn.Module`: nothing is put there before everything is known to fit."""

from __future__ import annotations

from collections.abc import Mapping
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
        strict: Whether the names must be exactly the module's. Tied tensors need to be there only once.
        device: Where to load to.
        options: `root`, `reader`, `engine` and `hash` of `load_file`.

    Raises:
        ValueError: The model does not fit the module, which is as it was before.
        SentryError: As `load_file` does.
    """
    tensors = load_file(path, signature, trust, device=device, **options)
    expected = dict(module.state_dict(keep_vars=True))
    tied = _tied(expected)
    available = {name: tensors[source] for name in expected if (source := _source(name, tied, tensors)) is not None}
    missing = tuple(sorted(expected.keys() - available.keys()))
    unexpected = tuple(sorted(tensors.keys() - expected.keys()))
    if strict and (missing or unexpected):
        parts = [
            f"{title}: {join_names(tuple(escape(name) for name in names))}"
            for title, names in (("the model lacks", missing), ("the module lacks", unexpected))
            if names
        ]
        raise ValueError(f"the model does not fit the module; {'; '.join(parts)}")
    on_meta = any(tensor.is_meta for tensor in expected.values())
    _check_fit(expected, available, dtypes=not on_meta)
    module.load_state_dict(available, strict=False, assign=on_meta)
    if on_meta:
        _tie_again(module, tied)
    still_meta = tuple(name for name, buffer in module.named_buffers() if buffer.is_meta)
    return ModuleLoad(tensors.verification, missing, unexpected, still_meta)


def _tied(tensors: Mapping[str, Any]) -> dict[str, list[str]]:
    """Return, for every name, all names of the same tensor."""
    groups: dict[int, list[str]] = {}
    for name, tensor in tensors.items():
        groups.setdefault(id(tensor), []).append(name)
    return {name: names for names in groups.values() for name in names}


def _source(name: str, tied: Mapping[str, list[str]], tensors: Mapping[str, Any]) -> str | None:
    """Return the name under which the model has what the module calls `name`."""
    return next((other for other in (name, *tied[name]) if other in tensors), None)


def _check_fit(expected: Mapping[str, Any], available: Mapping[str, Any], *, dtypes: bool) -> None:
    for name, tensor in available.items():
        wanted = expected[name]
        if tensor.shape != wanted.shape:
            raise ValueError(
                f"{escape(name)} has shape {tuple(tensor.shape)}, and the module wants {tuple(wanted.shape)}"
            )
        if dtypes and tensor.dtype != wanted.dtype:
            raise ValueError(
                f"{escape(name)} is {tensor.dtype}, and the module's is {wanted.dtype}: a converted copy would not be "
                f"what was signed; use module.to({tensor.dtype}), or a module on the meta device"
            )


def _tie_again(module: Any, tied: Mapping[str, list[str]]) -> None:  # noqa: ANN401
    """Assignment gave each name a tensor object of its own; tied ones become one again."""
    for name, names in tied.items():
        if name != names[0]:
            parent, _, leaf = name.rpartition(".")
            owner, _, owner_leaf = names[0].rpartition(".")
            setattr(module.get_submodule(parent), leaf, getattr(module.get_submodule(owner), owner_leaf))
