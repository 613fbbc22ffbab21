# SPDX-License-Identifier: Apache-2.0
"""`sentry verify`: verify a model."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from sentry.cli.output import (
    PATH,
    KeyUsageError,
    check_ignored,
    engine_option,
    load_trust,
    print_json,
    print_names,
    print_table,
    progress_bar,
)
from sentry.formats.digest import VERIFY_CHOICES
from sentry.paths import default_signature_path
from sentry.text import escape, file_size

# Below this, start-up is all that a rate would show.
RATE_BYTES = 10_000_000

if TYPE_CHECKING:
    from sentry.verification import Verification


@click.command("verify")
@click.argument("path", type=PATH)
@click.option("--key", type=PATH, help="Public key (PEM) of the signer that you trust.")
@click.option(
    "--signature",
    type=PATH,
    multiple=True,
    help="Signature file; each one given must verify.  [default: PATH/model.sig or PATH.sig]",
)
@click.option(
    "--hash",
    "hash_choice",
    type=click.Choice(list(VERIFY_CHOICES)),
    help="What to recompute.  [default: blake3 where signed]",
)
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
    """Verify the model at PATH, a directory or a single file.

    Prints what was proved, and what was not covered. Anything else is an error and a non-zero exit code.

    \b
    Example:
      sentry verify model/ --key public.pem
    """
    from sentry.verifying import verify_path

    if key is None:
        raise KeyUsageError("no trust was given", hint="say whose signature counts: --key public.pem")
    check_ignored(path, ignore)
    trust = load_trust(key)
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
        _print(verification)


def _print(verification: Verification) -> None:
    manifest = verification.manifest
    unchecked = ", ".join(verification.unchecked_hashes)
    rate = f", {verification.nbytes / verification.seconds / 1e9:.2f} GB/s" if verification.nbytes > RATE_BYTES else ""
    rows = [("verified", escape(str(verification.path)))]
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
