# SPDX-License-Identifier: Apache-2.0
"""`sentry keygen`: make a key pair."""

from __future__ import annotations

import os
from pathlib import Path

import click

from sentry.atomic import write_atomic
from sentry.cli.output import PATH, print_table, read_password
from sentry.errors import UnavailableError
from sentry.text import escape
from sentry.trust import KEY_ALGORITHMS


@click.command("keygen")
@click.option("--private", "private_path", type=PATH, required=True, help="Where to write the private key (mode 0600).")
@click.option("--public", "public_path", type=PATH, required=True, help="Where to write the public key.")
@click.option(
    "--algorithm", type=click.Choice(KEY_ALGORITHMS), default=KEY_ALGORITHMS[0], show_default=True, help="Kind of key."
)
@click.option("--password-file", type=PATH, help="Encrypt the private key with the password in this file.")
def command(private_path: Path, public_path: Path, algorithm: str, password_file: Path | None) -> None:
    """Make a key pair as PEM files. Existing files are never overwritten.

    Keep the private key; give the public key to whoever should trust it, by another route than the models.
    """
    from sentry.trust.keys import generate

    if private_path == public_path:
        raise click.UsageError("the two halves of the key go into two files")
    for path in (private_path, public_path):
        if os.path.lexists(path):
            raise UnavailableError(
                f"{escape(str(path))} exists, and keys are never overwritten", hint="name another file, or move it away"
            )
    password = read_password(password_file) if password_file else None
    private, public = generate(algorithm, password=password)
    write_atomic(private_path, [private], what="private key", mode=0o600, replace=False)
    try:
        write_atomic(public_path, [public], what="public key", replace=False)
    except BaseException:
        private_path.unlink(missing_ok=True)
        raise
    print_table([("private key", escape(str(private_path))), ("public key", escape(str(public_path)))])
