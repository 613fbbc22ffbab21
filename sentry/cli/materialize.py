# SPDX-License-Identifier: Apache-2.0
"""`sentry materialize`: make a verified copy of a model."""

from __future__ import annotations

from pathlib import Path

import click

from sentry.cli.output import (
    PATH,
    engine_option,
    hash_option,
    key_option,
    load_trust,
    print_json,
    print_verification,
    progress_bar,
    resolve,
    signature_option,
)
from sentry.paths import default_signature_path


@click.command("materialize")
@click.argument("path", type=PATH)
@click.argument("dest", type=PATH)
@key_option
@signature_option
@hash_option
@click.option("--ignore-unsigned", is_flag=True, help="Leave out files that the signature does not list.")
@engine_option
@click.option("--json", "as_json", is_flag=True, help="Write the evidence as JSON.")
def command(
    path: Path,
    dest: Path,
    key: Path | None,
    signature: tuple[Path, ...],
    hash_choice: str | None,
    ignore_unsigned: bool,
    engine: str,
    as_json: bool,
) -> None:
    """Copy the model at PATH to DEST while it is verified.

    DEST must not exist, and exists afterwards only if everything is as it was signed. Signed files are copied, and
    signatures that lie in the model; links of a Hugging Face snapshot become files. PATH may be hf:ORG/NAME@REVISION.

    \b
    Example:
      sentry materialize model/ copy/ --key public.pem
    """
    from sentry.materializing import materialize

    trust = load_trust(key)
    source = resolve(path)
    with progress_bar("copying", source) as progress:
        verification = materialize(
            source,
            signature or default_signature_path(source),
            trust,
            dest,
            hash=hash_choice,
            ignore_unsigned=ignore_unsigned,
            engine=engine,
            progress=progress,
        )
    if as_json:
        print_json(verification.to_json())
    else:
        print_verification(verification, done="copied", source=path)
