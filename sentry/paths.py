# SPDX-License-Identifier: Apache-2.0
"""Where a model's signature lies, and how paths that a caller names relate to the model."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path

from sentry.text import escape

AnyPath = str | os.PathLike[str]

# Where a directory's signature lies unless the caller says otherwise; recorded as ignored in every signature.
SIGNATURE_NAME = "model.sig"


def default_signature_path(path: AnyPath) -> Path:
    """Return where the signature of a model lies by default: inside a directory, beside a file."""
    model = Path(path)
    return model / SIGNATURE_NAME if os.path.isdir(model) else model.with_name(model.name + ".sig")


def relative_to_model(model: Path, paths: Iterable[AnyPath]) -> list[str]:
    """Turn paths relative to the current folder into POSIX paths relative to the model.

    Raises:
        ValueError: A path is the model itself or lies outside it.
    """
    inside = []
    for path in paths:
        relative = inside_model(model, path)
        if relative is None:
            raise ValueError(f"the path to ignore lies outside the model: {escape(os.fspath(path))}")
        inside.append(relative)
    return inside


def inside_model(model: Path, path: AnyPath) -> str | None:
    """Return a path relative to the model, or None where it is not below it.

    The path's own last component may be a link: it is the name that counts. Links above it are resolved.
    """
    parent, name = os.path.split(os.fspath(path).rstrip("/"))
    # Links are resolved before `..` is: by the text alone, `link/../x` would be another file.
    place = os.path.realpath(path) if name in {"", ".", ".."} else os.path.join(os.path.realpath(parent), name)
    relative = os.path.relpath(place, os.path.realpath(model))
    if relative in {".", ".."} or relative.startswith("../"):
        return None
    return relative


def lies_in(path: Path, model: Path) -> bool:
    """Say whether a file lies in a directory, by the name it was given or by what that name leads to."""
    return inside_model(model, path) is not None or inside_model(model, os.path.realpath(path)) is not None
