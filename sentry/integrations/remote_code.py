# SPDX-License-Identifier: Apache-2.0
"""Code that comes with a model: found in its configurations, imported from a verified copy and from nowhere else.

A hub's own machinery copies such code into a cache that other programs write to as well, and imports it from there.
Here the files that were verified are the files that are imported. Not judged: what the code does; the signer vouches.
"""

from __future__ import annotations

import importlib
import json
import secrets
import sys
import weakref
from collections.abc import Callable, Collection, Iterator
from pathlib import Path
from types import ModuleType

from sentry.errors import MismatchError, UnavailableError, VerificationError
from sentry.integrations.host import host_errors
from sentry.text import escape


def auto_map(directory: Path, file_name: str = "config.json") -> dict[str, list[str]]:
    """Return which classes one configuration file wants from code that comes with the model.

    Args:
        directory: A verified copy of the model.
        file_name: The configuration file in it; a missing one wants nothing.

    Returns:
        The name of an auto class to references like `modeling_tiny.TinyModel`; tokenizers have up to two.

    Raises:
        VerificationError: The file cannot be parsed, or its `auto_map` is none.
    """
    path = directory / file_name
    if not path.is_file():
        return {}
    try:
        content = json.loads(path.read_bytes())
    except (ValueError, RecursionError) as error:
        raise VerificationError(f"{escape(file_name)} cannot be parsed: {escape(str(error))}") from None
    entries = content.get("auto_map") if isinstance(content, dict) else None
    if entries is None:
        return {}
    # Tokenizers of old had a bare pair of references.
    entries = {"AutoTokenizer": entries} if isinstance(entries, list) else entries
    if not isinstance(entries, dict):
        raise VerificationError(f"auto_map in {escape(file_name)} is not an object")
    return {name: list(_references(value, file_name)) for name, value in entries.items()}


def check_auto_maps(directory: Path, signed: Collection[str], *, trusted: bool) -> None:
    """Refuse configurations that reach for code which nobody signed.

    Args:
        directory: A verified copy of the model.
        signed: Paths of the files that were verified.
        trusted: Whether code that comes with the model may run. If not, missing code is no one's concern.

    Raises:
        VerificationError: A configuration names code of another repository, or none of this one.
        MismatchError: It names a file that is not signed.
    """
    for path in sorted(directory.glob("*.json")):
        for references in auto_map(directory, path.name).values():
            for reference in references:
                name = f"{split_reference(reference)[0]}.py"
                if trusted and name not in signed:
                    raise MismatchError(
                        f"{escape(path.name)} names code that is not signed: {escape(name)}", missing=[name]
                    )


def split_reference(reference: str) -> tuple[str, str]:
    """Return the module and the class that a reference names.

    Raises:
        VerificationError: It names another repository, or is no `module.Class`.
    """
    if "--" in reference:
        raise VerificationError(
            f"auto_map names code of another repository: {escape(reference)}",
            hint="copy that code into the model, name it without the repository, and sign again",
        )
    module, _, name = reference.partition(".")
    if not module.isidentifier() or not name.isidentifier():
        raise VerificationError(f"auto_map names no class in a file of the model: {escape(reference)}")
    return module, name


class VerifiedCode:
    """The Python files of a verified copy, as one package that nothing else can add to. Imports run its code.

    Args:
        directory: The copy; it must stay where it is until `close`.
    """

    def __init__(self, directory: Path) -> None:
        # Two models may bring files of one name: each gets a package of its own, under a name that none can guess.
        self._package = ModuleType(f"sentry_verified_{secrets.token_hex(8)}", "Code that came with a verified model.")
        self._package.__path__ = [str(directory)]
        self._directory = directory
        self._imported = False
        self._closed = False

    @property
    def imported(self) -> bool:
        """Whether any of the code has run, and may know where it lies."""
        return self._imported

    def find(self, reference: str) -> type:
        """Import a class.

        Args:
            reference: A checked entry of `auto_map`, like `modeling_tiny.TinyModel`.

        Raises:
            VerificationError: The file has no such class.
            UnavailableError: The code fails while it is imported, or was closed.
        """
        module, name = split_reference(reference)
        if self._closed:
            raise UnavailableError("the verified copy of the model's code was closed")
        self._imported = True
        sys.modules[self._package.__name__] = self._package
        with host_errors(f"the model's code cannot be imported from {escape(module)}.py"):
            found = getattr(importlib.import_module(f"{self._package.__name__}.{module}"), name, None)
        if not isinstance(found, type):
            raise VerificationError(f"the model's code has no class {escape(reference)}")
        return found

    def close(self) -> None:
        """End all imports from the copy, before it goes: whoever takes its path next must not be imported.

        What has been imported stays usable. Importing more, as some code does when it first runs, is an `ImportError`.
        """
        self._closed = True
        for _, module in self._modules():
            # Of subpackages too: each one has a path of its own.
            if hasattr(module, "__path__"):
                module.__path__ = []
        self._package.__path__ = []
        for place in list(sys.path_importer_cache):
            if Path(place).is_relative_to(self._directory):
                sys.path_importer_cache.pop(place, None)

    def forget(self) -> None:
        """Close, and let go of the modules: for when no model uses them.

        The package itself stays, empty: were its name free, Python would look for it wherever it looks for others.
        """
        self.close()
        for name, module in self._modules():
            if module is not self._package:
                sys.modules.pop(name, None)

    def when_the_process_ends(self, call: Callable[..., object], *arguments: object) -> None:
        """Call something when Python exits, which is when no code that was imported can run any more."""
        weakref.finalize(self._package, call, *arguments)

    def _modules(self) -> list[tuple[str, ModuleType]]:
        name = self._package.__name__
        return [item for item in list(sys.modules.items()) if item[0] == name or item[0].startswith(f"{name}.")]


def _references(value: object, file_name: str) -> Iterator[str]:
    for reference in value if isinstance(value, list) else [value]:
        if reference is None:  # a tokenizer that exists in one of two forms only
            continue
        if not isinstance(reference, str):
            raise VerificationError(f"auto_map in {escape(file_name)} does not name classes")
        yield reference
