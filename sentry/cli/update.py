# SPDX-License-Identifier: Apache-2.0
"""`sentry update`: sign a model anew after an older signature of it."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import TYPE_CHECKING

import click

from sentry.cli.output import (
    PATH,
    KeyUsageError,
    check_ignored,
    engine_option,
    load_signer,
    load_trust,
    print_json,
    print_names,
    print_table,
    progress_bar,
)
from sentry.cli.sign import check_signature_target, note_missing
from sentry.formats.manifest import SINGLE_FILE
from sentry.paths import default_signature_path, inside_model
from sentry.text import escape, file_size

if TYPE_CHECKING:
    from sentry.trust import Identity
    from sentry.updating import Update


@click.command("update")
@click.argument("path", type=PATH)
@click.option("--key", type=PATH, required=True, help="Private key (PEM) of who signs now.")
@click.option("--password-file", type=PATH, help="File with the key's password; SENTRY_KEY_PASSWORD works as well.")
@click.option("--insecure-key-mode", is_flag=True, help="Use the key although other users can read it.")
@click.option("--trust-key", type=PATH, help="Public key (PEM) of the older signature's signer.")
@click.option("--old-signature", type=PATH, help="The older signature.  [default: PATH/model.sig or PATH.sig]")
@click.option("--signature", type=PATH, help="Where to write.  [default: PATH/model.sig or PATH.sig]")
@click.option(
    "--ignore",
    type=PATH,
    multiple=True,
    help="Leave this out, beyond what the older signature leaves out; relative to the current folder. May be repeated.",
)
@click.option("--name", help="Name of the artifact, instead of the older one.")
@click.option("--version", help="Version of the artifact, instead of the older one.")
@click.option(
    "--insecure-trust-times",
    is_flag=True,
    help="Do not read files whose inode, size and times are as an earlier update noted them.",
)
@engine_option
@click.option("--json", "as_json", is_flag=True, help="Write the result as JSON.")
def command(
    path: Path,
    key: Path,
    password_file: Path | None,
    insecure_key_mode: bool,
    trust_key: Path | None,
    old_signature: Path | None,
    signature: Path | None,
    ignore: tuple[Path, ...],
    name: str | None,
    version: str | None,
    insecure_trust_times: bool,
    engine: str,
    as_json: bool,
) -> None:
    """Sign the model at PATH anew after checking an older signature of it, and name that one as the parent.

    Hash, shards, ignored paths, name and version are kept.

    \b
    Example:
      sentry update model/ --key private.pem --trust-key public.pem
    """
    from sentry.updating import update_path

    started = time.perf_counter()
    if trust_key is None:
        raise KeyUsageError("no trust was given", hint="say whose older signature counts: --trust-key public.pem")
    check_ignored(path, ignore)
    note_missing(ignore)
    trust = load_trust(trust_key)
    signer = load_signer(key, password_file, insecure_key_mode=insecure_key_mode)
    target = signature or default_signature_path(path)
    if os.path.lexists(path):
        check_signature_target(path, target)
    inside = (target,) if inside_model(path, target) is not None else ()
    with progress_bar("signing", path) as progress:
        update = update_path(
            path,
            old_signature or default_signature_path(path),
            signer,
            trust,
            ignore=(*ignore, *inside),
            name=name,
            version=version,
            insecure_trust_times=insecure_trust_times,
            engine=engine,
            progress=progress,
        )
    update.write(target)
    seconds = time.perf_counter() - started
    if as_json:
        print_json(_to_json(update, target, signer.identity, seconds))
    else:
        _print(update, path, target, signer.identity, seconds)


def _to_json(update: Update, target: Path, signer: Identity, seconds: float) -> dict[str, object]:
    return {
        "signature": str(target),
        "signer": signer.to_json(),
        "name": update.manifest.artifact_name,
        "version": update.manifest.version,
        "payload_sha256": update.payload_sha256,
        "parent": update.parent,
        "parent_signers": [identity.to_json() for identity in update.parent_signers],
        "files": len(update.manifest.by_path()),
        "added": list(update.added),
        "removed": list(update.removed),
        "changed": list(update.changed),
        "reused": list(update.reused),
        "not_covered": list(update.not_covered),
        "hashed_bytes": update.hashed_bytes,
        "seconds": round(seconds, 6),
    }


def _print(update: Update, path: Path, target: Path, signer: Identity, seconds: float) -> None:
    manifest = update.manifest
    rows = [
        ("signed", escape(str(path))),
        ("signature", escape(str(target))),
        ("signer", f"{signer.method} {signer.name} ({signer.algorithm})"),
        ("parent", update.parent),
        *(("parent signer", f"{old.method} {old.name} ({old.algorithm})") for old in update.parent_signers),
    ]
    rows += [("name", escape(manifest.artifact_name))] if manifest.artifact_name else []
    rows += [("version", escape(manifest.version))] if manifest.version else []
    rows += [
        ("files", f"{len(manifest.by_path())}, of which {len(update.reused)} were not read"),
        ("hashed", file_size(update.hashed_bytes)),
        ("time", f"{seconds:.2f} s"),
    ]
    print_table(rows)
    for title, names in (("added", update.added), ("removed", update.removed), ("changed", update.changed)):
        print_names(title, (path.name if name == SINGLE_FILE else name for name in names))
    print_names("not covered by the signature", update.not_covered, limit=None)
