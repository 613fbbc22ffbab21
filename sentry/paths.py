# SPDX-License-Identifier: Apache-2.0
"""Where a model's signature lies, and how paths that a caller names relate to the model."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from pathlib import Path

from sentry.text import escape

AnyPath = str | os.PathLike[str]

# Where a directory's signature lies unless the caller says otherwise; recorded as ignored in every signature.
SIGNATURE_NAME = "model.sig"

# Linux gives up on a path after as many.
MAX_LINKS = 40


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
            what = "is the model" if os.path.realpath(path) == os.path.realpath(model) else "lies outside the model"
            raise ValueError(f"the path to ignore {what}, seen from the current folder: {escape(os.fspath(path))}")
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
    """Say whether a file lies in a directory, or is reached by way of it: a link there is its writers' choice."""
    below = os.path.realpath(model).rstrip("/") + "/"
    return any(place.startswith(below) for place in _places_on_the_way(path))


def _places_on_the_way(path: Path) -> Iterator[str]:
    """Yield every place that the system looks at when it opens a path; the directory of each is free of links."""
    place, links = "/", 0
    pending = os.path.join(os.getcwd(), path).split("/")[::-1]
    while pending:
        component = pending.pop()
        if component in {"", "."}:
            continue
        if component == "..":
            place = os.path.dirname(place)
            continue
        directory, place = place, os.path.join(place, component)
        yield place
        if os.path.islink(place) and links < MAX_LINKS:
            links += 1
            pending += os.readlink(place).split("/")[::-1]
            place = "/" if pending[-1] == "" else directory
