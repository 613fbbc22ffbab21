# SPDX-License-Identifier: Apache-2.0
"""`sentry digest`: print the digests that would be signed."""

from __future__ import annotations

from pathlib import Path

import click

from sentry.cli.output import PATH, engine_option, print_json, progress_bar
from sentry.formats.digest import DEFAULT_SIGN_CHOICE, SIGN_CHOICES
from sentry.formats.manifest import SINGLE_FILE
from sentry.text import escape


@click.command("digest")
@click.argument("path", type=PATH)
@click.option(
    "--hash",
    "hash_choice",
    type=click.Choice(list(SIGN_CHOICES)),
    default=DEFAULT_SIGN_CHOICE,
    show_default=True,
    help="What to compute.",
)
@engine_option
@click.option("--json", "as_json", is_flag=True, help="Write the digests as JSON.")
def command(path: Path, hash_choice: str, engine: str, as_json: bool) -> None:
    """Print one `HEX  NAME` line per file and hash, of the files that `sentry sign PATH` would sign.

    Lines come hash by hash; sha256sum and b3sum write the same for plain names.
    """
    from sentry.signing import build_manifest

    with progress_bar("hashing", path) as progress:
        manifest = build_manifest(path, hash=hash_choice, engine=engine, progress=progress)
    table: dict[str, dict[str, str]] = {name: {} for name in SIGN_CHOICES[hash_choice]}
    for resource in manifest.resources:
        for name, digests in table.items():
            digest = resource.digest_under(name, manifest.hash)
            if digest is not None:
                digests[path.name if resource.path == SINGLE_FILE else resource.path] = digest.hex()
    if as_json:
        print_json({"path": str(path), "digests": table})
        return
    for digests in table.values():
        for path_in_model, text in digests.items():
            click.echo(f"{text}  {escape(path_in_model)}")
