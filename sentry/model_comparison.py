# SPDX-License-Identifier: Apache-2.0
"""Compare the tensors of a model with what a signature says of them.

Names, dtypes and shapes come first: they cost nothing. Digests are compared one by one with the signed ones; a
tensor is never looked up by its digest.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NoReturn

from sentry.errors import MismatchError
from sentry.formats.manifest import Manifest
from sentry.formats.tensors import TensorManifest
from sentry.named_tensors import NamedTensors
from sentry.resident import Content
from sentry.text import escape, join_names

Description = tuple[str, tuple[int, ...]]  # dtype and shape


@dataclass(frozen=True)
class Claim:
    """What a signature says of tensors whose names, dtypes and shapes are already the signed ones.

    Attributes:
        manifest: What was signed.
        hash: The hash that is recomputed.
        contents: What is to be hashed.
        digests: What must come out, in the same order.
        unchecked_hashes: Hashes that the signature gives besides.
        unchecked_files: Signed files that none of the tensors come from.
    """

    manifest: TensorManifest | Manifest
    hash: str
    contents: tuple[Content, ...] = field(repr=False)
    digests: tuple[bytes, ...] = field(repr=False)
    unchecked_hashes: tuple[str, ...] = ()
    unchecked_files: tuple[str, ...] = ()

    def compare(self, found: Sequence[bytes]) -> None:
        """Compare recomputed digests with the signed ones.

        Raises:
            MismatchError: Naming the tensors whose bytes differ; of a file, all tensors that are in it.
        """
        changed: dict[str, str] = {}
        for content, digest, signed in zip(self.contents, found, self.digests, strict=True):
            if digest != signed:
                why = "bytes differ" if content.header is None else "bytes differ somewhere in its file"
                changed |= {tensor.name: why for tensor in content.tensors}
        if changed:
            refuse((), (), changed)
        # A file without tensors still has a header.
        if any(digest != signed for digest, signed in zip(found, self.digests, strict=True)):
            raise MismatchError("a safetensors file without tensors is not the signed one")


def claim_of_tensors(manifest: TensorManifest, named: NamedTensors) -> Claim:
    """Compare what can be compared without hashing, and say what is to be hashed.

    Raises:
        MismatchError: A tensor is missing, not signed, or of another dtype or shape.
    """
    compare_descriptions({tensor.name: (tensor.dtype, tensor.shape) for tensor in manifest.tensors}, named)
    contents = tuple(Content((tensor,)) for tensor in named.tensors)
    signed = manifest.by_name()
    return Claim(manifest, manifest.hash, contents, tuple(signed[tensor.name].digest for tensor in named.tensors))


def compare_descriptions(signed: Mapping[str, Description], named: NamedTensors) -> None:
    """Compare names, dtypes and shapes.

    Raises:
        MismatchError: A tensor is missing, not signed, or of another dtype or shape.
    """
    found = {tensor.name: (tensor.dtype, tensor.shape) for tensor in named.tensors}
    changed = {name: _difference(found[name], signed[name]) for name in found.keys() & signed.keys()}
    changed = {name: why for name, why in changed.items() if why}
    missing, unexpected = signed.keys() - found.keys(), found.keys() - signed.keys()
    if missing or unexpected or changed:
        refuse(missing, unexpected, changed)


def _difference(found: Description, signed: Description) -> str:
    parts = []
    if found[0] != signed[0]:
        parts.append(f"dtype {found[0]}, signed {signed[0]}")
    if found[1] != signed[1]:
        parts.append(f"shape {list(found[1])}, signed {list(signed[1])}")
    return "; ".join(parts)


def refuse(missing: Iterable[str], unexpected: Iterable[str], changed: Mapping[str, str]) -> NoReturn:
    """Say what differs.

    Args:
        missing: Names that are signed and absent.
        unexpected: Names that are present and not signed.
        changed: Names of tensors that differ, and in what.

    Raises:
        MismatchError: Always.
    """
    missing, unexpected = tuple(sorted(missing)), tuple(sorted(unexpected))
    lists = {
        "changed": tuple(f"{escape(name)} ({why})" for name, why in sorted(changed.items())),
        "missing": tuple(map(escape, missing)),
        "not signed": tuple(map(escape, unexpected)),
    }
    parts = [f"{title}: {join_names(names)}" for title, names in lists.items() if names]
    raise MismatchError(
        "the tensors are not what was signed; " + "; ".join(parts),
        missing=missing,
        unexpected=unexpected,
        changed=tuple(sorted(changed)),
    )
