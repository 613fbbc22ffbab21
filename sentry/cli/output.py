# SPDX-License-Identifier: Apache-2.0
"""What the commands share: words on the terminal, a progress bar, keys and passwords.

Names and messages may hold text of an attacker; everything that is shown passes through `sentry.text.escape`.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from sentry.engine import is_engine
from sentry.errors import FormatError, UnavailableError
from sentry.formats.digest import VERIFY_CHOICES
from sentry.text import escape, file_size, visible

if TYPE_CHECKING:
    from sentry.engine.contract import Progress
    from sentry.trust.keys import KeySigner, KeyTrust
    from sentry.verification import Verification

# Below this, start-up is all that a rate would show.
RATE_BYTES = 10_000_000
PASSWORD_VARIABLE = b"SENTRY_KEY_PASSWORD"


class PathType(click.Path):
    """A path as it was typed; whether it can be used is found out when it is, and has its own exit code."""

    def __init__(self) -> None:
        super().__init__(path_type=Path, readable=False)

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:  # noqa: ANN401
        """Refuse the empty path, which would mean the current folder: `sentry sign "$UNSET"`."""
        if value == "":
            self.fail("the path is empty", param, ctx)
        return super().convert(value, param, ctx)


PATH = PathType()


def _engine_name(_context: click.Context, _parameter: click.Parameter, value: str) -> str:
    if not is_engine(value):
        raise click.BadParameter(f"there is no engine {value!r}: auto, cpu, cuda, or cuda:N")
    return value


hash_option = click.option(
    "--hash",
    "hash_choice",
    type=click.Choice(list(VERIFY_CHOICES)),
    help="What to recompute.  [default: blake3 where signed]",
)
key_option = click.option("--key", type=PATH, help="Public key (PEM) of the signer that you trust.")
signature_option = click.option(
    "--signature",
    type=PATH,
    multiple=True,
    help="Signature file; each one given must verify.  [default: PATH/model.sig or PATH.sig]",
)
engine_option = click.option(
    "--engine",
    default="auto",
    show_default=True,
    callback=_engine_name,
    help="Where to hash: auto, cpu, cuda, or cuda:N.",
)


class KeyUsageError(click.UsageError):
    """A key on the command line is not one that could be used; `hint` says what would be."""

    def __init__(self, message: str, hint: str | None) -> None:
        super().__init__(message)
        self.hint = hint


def report(exit_code: int, message: str, hint: str | None) -> int:
    """Write the error, and the hint if there is one, a line each, and return the exit code."""
    # Whether anybody can read it or not, the exit code is the answer.
    with suppress(OSError):
        click.echo(f"sentry: error: {visible(message)}", err=True)
        if hint:
            click.echo(f"sentry: hint: {visible(hint)}", err=True)
    return exit_code


def print_json(value: object) -> None:
    """Write data to standard output, as ASCII: nothing in it can act on a terminal."""
    click.echo(json.dumps(value, indent=2))


def print_table(rows: Iterable[tuple[str, str]]) -> None:
    """Write aligned `title  text` rows to standard output. Texts must be escaped already."""
    rows = list(rows)
    width = max(len(title) for title, _ in rows)
    for title, text in rows:
        click.echo(f"{title:<{width}}  {text}")


def print_names(title: str, names: Iterable[str], *, limit: int | None = 20) -> None:
    """Write a list of untrusted names under a title, the first few of many."""
    names = list(names)
    if not names:
        return
    click.echo(f"{title} ({len(names)}):")
    for name in names[:limit]:
        click.echo(f"  {escape(name)}")
    if limit is not None and len(names) > limit:
        click.echo(f"  and {len(names) - limit} more")


@contextmanager
def progress_bar(title: str, path: Path) -> Iterator[Progress | None]:
    """Show a progress bar on a terminal; elsewhere nothing."""
    if sys.stderr is None or not sys.stderr.isatty():
        yield None
        return
    from rich.console import Console
    from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TransferSpeedColumn

    columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TransferSpeedColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task(title, total=_size_of(path))
        yield lambda nbytes: bar.advance(task, nbytes)


def _size_of(path: Path) -> int:
    """Estimate how much there is to hash; only the bar's length depends on it."""
    total, pending = 0, [os.fspath(path)]
    while pending:
        try:
            with os.scandir(pending.pop()) as entries:
                for entry in entries:
                    if entry.is_dir(follow_symlinks=False):
                        pending.append(entry.path)
                    else:
                        with suppress(OSError):  # a snapshot's link counts as its blob
                            total += entry.stat().st_size
        except NotADirectoryError:
            return path.stat().st_size
        except OSError:
            continue
    return total


def load_signer(key: Path, password_file: Path | None, *, insecure_key_mode: bool) -> KeySigner:
    """Read a private key; its password comes from a file, the environment or a prompt, never from the command line."""
    from sentry.trust.keys import KeySigner, PasswordRequiredError

    password = read_password(password_file)
    try:
        try:
            return KeySigner.from_file(key, password=password, insecure_key_mode=insecure_key_mode)
        except PasswordRequiredError:
            if sys.stdin is None or not sys.stdin.isatty():
                raise
            typed: str = click.prompt(f"Password of {escape(str(key))}", hide_input=True, err=True)
            return KeySigner.from_file(key, password=typed, insecure_key_mode=insecure_key_mode)
    except FormatError as error:
        raise KeyUsageError(str(error), error.hint) from None


def load_trust(key: Path | None) -> KeyTrust:
    """Read a public key; that one is given is checked here, so that every command says the same."""
    from sentry.trust.keys import KeyTrust

    if key is None:
        raise KeyUsageError("no trust was given", hint="say whose signature counts: --key public.pem")
    try:
        return KeyTrust.from_file(key)
    except FormatError as error:
        raise KeyUsageError(str(error), error.hint) from None


def read_password(password_file: Path | None) -> bytes | None:
    """Return the password from a file (without its line end) or from the environment.

    Raises:
        UnavailableError: The file cannot be read, or there is no password in it.
    """
    from sentry.atomic import read_limited
    from sentry.trust.keys import MAX_PASSWORD_BYTES

    if password_file is None:
        return os.environb.get(PASSWORD_VARIABLE)
    try:
        data, _ = read_limited(password_file, max_bytes=MAX_PASSWORD_BYTES + 2, what="password file")
    except FormatError as error:
        raise UnavailableError(str(error)) from None
    password = data.rstrip(b"\r\n")
    if not password:
        raise UnavailableError(f"the password file {escape(str(password_file))} is empty")
    if len(password) > MAX_PASSWORD_BYTES:
        raise UnavailableError(f"the password is longer than {MAX_PASSWORD_BYTES} bytes")
    return password


def check_ignored(model: Path, ignored: Iterable[Path]) -> None:
    """Refuse a path to ignore that lies outside the model, as a usage error."""
    from sentry.paths import relative_to_model

    try:
        relative_to_model(model, ignored)
    except ValueError as error:
        raise click.UsageError(str(error)) from None


def resolve(path: Path) -> Path:
    """Return the path of a model that may lie on a hub; then it is fetched first."""
    from sentry.hub import SCHEME, parse_reference, resolve_model

    if os.fspath(path).startswith(SCHEME):
        try:
            parse_reference(os.fspath(path))
        except ValueError as error:
            raise click.UsageError(str(error)) from None
    return resolve_model(path)


def print_verification(verification: Verification, *, done: str = "verified", source: Path | None = None) -> None:
    """Write the evidence as a table.

    Args:
        verification: The evidence.
        done: What the first row is called.
        source: Where a copy came from.
    """
    manifest = verification.manifest
    unchecked = ", ".join(verification.unchecked_hashes)
    rate = f", {verification.nbytes / verification.seconds / 1e9:.2f} GB/s" if verification.nbytes > RATE_BYTES else ""
    rows = [(done, escape(str(verification.path)))]
    rows += [("from", escape(str(source)))] if source is not None else []
    rows += [("signer", f"{signer.method} {signer.name} ({signer.algorithm})") for signer in verification.signers]
    rows += [("name", escape(manifest.artifact_name))] if manifest.artifact_name else []
    rows += [("version", escape(manifest.version))] if manifest.version else []
    rows += [("parent", manifest.parent)] if manifest.parent else []
    rows += [
        ("files", f"{len(verification.files)}, {file_size(verification.nbytes)}"),
        (
            "hash",
            " and ".join(verification.hashes) + (f" (signed too, not recomputed: {unchecked})" if unchecked else ""),
        ),
        ("engine", f"{verification.engine} ({verification.engine_reason})"),
        ("time", f"{verification.seconds:.2f} s{rate}"),
    ]
    print_table(rows)
    print_names("not covered by the signature", verification.not_covered, limit=None)
