# SPDX-License-Identifier: Apache-2.0
"""`sentry verify`: verify a model."""

from __future__ import annotations

from pathlib import Path

import click

from sentry.cli.output import (
    PATH,
    check_ignored,
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


@click.command("verify")
@click.argument("path", type=PATH)
@key_option
@signature_option
@hash_option
@click.option(
    "--ignore",
    type=PATH,
    multiple=True,
    help="Leave unsigned files at this path out; relative to the current folder, no patterns. May be repeated.",
)
@click.option("--ignore-unsigned", is_flag=True, help="Accept files that the signature does not list.")
@click.option("--insecure-legacy-v0.1", "insecure_legacy", is_flag=True, help="Accept signatures of model-signing 0.2.")
@engine_option
@click.option("--json", "as_json", is_flag=True, help="Write the evidence as JSON.")
def command(
    path: Path,
    key: Path | None,
    signature: tuple[Path, ...],
    hash_choice: str | None,
    ignore: tuple[Path, ...],
    ignore_unsigned: bool,
    insecure_legacy: bool,
    engine: str,
    as_json: bool,
) -> None:
    """Verify the model at PATH, a directory or a single file, or hf:ORG/NAME@REVISION on the Hugging Face Hub.

    Prints what was proved, and what was not covered. Anything else is an error and a non-zero exit code.

    \b
    Example:
      sentry verify model/ --key public.pem
    """
    from sentry.verifying import verify_path

    trust = load_trust(key)
    path = resolve(path)
    check_ignored(path, ignore)
    with progress_bar("verifying", path) as progress:
        verification = verify_path(
            path,
            signature or default_signature_path(path),
            trust,
            hash=hash_choice,
            ignore=ignore,
            ignore_unsigned=ignore_unsigned,
            insecure_legacy=insecure_legacy,
            engine=engine,
            progress=progress,
        )
    if as_json:
        print_json(verification.to_json())
    else:
        print_verification(verification)
