# SPDX-License-Identifier: Apache-2.0
"""What the arguments of a load mean: which signature, which directory was signed, which of its files is wanted."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from sentry.bundle import Bundle
from sentry.errors import MismatchError, SignatureError, UnavailableError
from sentry.formats.manifest import SINGLE_FILE, Manifest
from sentry.paths import SIGNATURE_NAME, AnyPath, default_signature_path
from sentry.text import escape
from sentry.tree import Tree
from sentry.trust import Trust


def refuse_order_of_safetensors(signature: object, trust: object) -> None:
    """Refuse arguments in the order of the functions of the same names.

    Raises:
        TypeError: Saying what the order is.
    """
    word = signature.partition(":")[0] if isinstance(signature, str) else type(signature).__name__
    argument = "framework" if word in {"pt", "np", "torch", "numpy"} else "device"
    if argument == "framework" or word in {"cpu", "cuda", "int", "device"}:
        shown = str(signature)
        raise TypeError(f"{shown!r} stands where the signature belongs: (path, signature, trust, {argument}={shown!r})")
    if isinstance(signature, Trust):
        raise TypeError("signature and trust are in the wrong order: (path, signature, trust)")
    if isinstance(trust, (str, os.PathLike, Bundle)):
        raise TypeError(f"trust is a {type(trust).__name__}; KeyTrust.from_file('public.pem') makes one")


def signature_beside(path: AnyPath) -> Path:
    """Return where a model's signature lies by default: in the directory, or beside the file."""
    in_directory = Path(path if os.path.isdir(path) else os.path.dirname(os.path.abspath(path))) / SIGNATURE_NAME
    beside = default_signature_path(path)
    return beside if os.path.lexists(beside) and not os.path.lexists(in_directory) else in_directory


def signed_root(path: AnyPath, root: AnyPath | None, given: Sequence[AnyPath | Bundle], manifest: Manifest) -> Path:
    """Return the signed directory, or the signed file.

    Raises:
        MismatchError: The signature is for a single file, and another or a directory is meant.
        SignatureError: Nothing says which directory was signed.
    """
    if SINGLE_FILE in manifest.by_path():
        if os.path.isdir(path):
            raise MismatchError("the signature is for a single file, not for a directory")
        if root is not None and os.path.realpath(root) != os.path.realpath(path):
            raise MismatchError(f"the signature is for a single file, not for {escape(os.fspath(root))}")
        return Path(path)
    if root is not None:
        return Path(root)
    first = given[0]
    if isinstance(first, Bundle):
        raise SignatureError("a Bundle does not say which directory was signed", hint="pass it as root=")
    return Path(os.path.dirname(os.path.abspath(first)))


def inside_root(tree: Tree, path: AnyPath) -> tuple[str, bool]:
    """Return the path relative to the signed directory, and whether it is a directory.

    Links on the way to the signed directory are the caller's, and followed. Below it, the path is taken by its text:
    what a link there leads to is another file, with another signed name.

    Raises:
        MismatchError: It does not lie in the signed directory, or is not the signed file.
        UnavailableError: It is not there at all.
    """
    if not tree.is_directory:
        if not tree.is_at(path):
            raise MismatchError(f"the signature is for {escape(str(tree.path))}, not for {escape(os.fspath(path))}")
        return SINGLE_FILE, False
    place = "/"
    components = [part for part in os.path.join(os.getcwd(), path).split("/") if part not in {"", "."}]
    for depth in range(len(components) + 1):
        place = os.path.join(place, *components[depth - 1 : depth])
        if tree.is_at(place):
            inside = components[depth:]
            break
    else:
        if not os.path.lexists(path):
            raise UnavailableError(f"there is no {escape(os.fspath(path))}")
        raise MismatchError(
            f"{escape(os.fspath(path))} lies outside of what was signed, {escape(str(tree.path))}",
            hint="pass the signed directory as root=",
        )
    if ".." in inside:
        raise MismatchError(f"{escape(os.fspath(path))} leads up again below what was signed", hint="leave out the ..")
    return "/".join(inside), tree.has_directory("/".join(inside))
