# SPDX-License-Identifier: Apache-2.0
"""`sentry sign`: sign a model."""

from __future__ import annotations

import hashlib
import os
import time
from collections.abc import Iterable
from pathlib import Path

import click

from sentry.cli.output import PATH, check_ignored, engine_option, load_signer, print_json, print_table, progress_bar
from sentry.errors import RefusedError, UnavailableError
from sentry.formats.digest import DEFAULT_SIGN_CHOICE, SIGN_CHOICES
from sentry.formats.strict_json import MAX_INTEGER
from sentry.paths import default_signature_path, inside_model
from sentry.text import escape, file_size

# Every bundle names its media type near its start, whoever wrote it.
BUNDLE_MARK = b"application/vnd.dev.sigstore.bundle"


@click.command("sign")
@click.argument("path", type=PATH)
@click.option("--key", type=PATH, required=True, help="Private key (PEM, ECDSA P-256, P-384 or P-521).")
@click.option("--password-file", type=PATH, help="File with the key's password; SENTRY_KEY_PASSWORD works as well.")
@click.option("--insecure-key-mode", is_flag=True, help="Use the key although other users can read it.")
@click.option("--signature", type=PATH, help="Where to write.  [default: PATH/model.sig or PATH.sig]")
@click.option(
    "--hash",
    "hash_choice",
    type=click.Choice(list(SIGN_CHOICES)),
    default=DEFAULT_SIGN_CHOICE,
    show_default=True,
    help="Digests to sign; every OMS tool verifies sha256, this one also verifies blake3.",
)
@click.option(
    "--shard-bytes",
    type=click.IntRange(1, MAX_INTEGER),
    help="Sign ranges of N bytes instead of whole files; not for empty files.",
)
@click.option(
    "--ignore",
    type=PATH,
    multiple=True,
    help="Leave this file or directory out; relative to the current folder, no patterns. May be repeated.",
)
@click.option("--name", help="Name of the artifact, signed along.")
@click.option("--version", help="Version of the artifact, signed along.")
@engine_option
@click.option("--json", "as_json", is_flag=True, help="Write the result as JSON.")
def command(
    path: Path,
    key: Path,
    password_file: Path | None,
    insecure_key_mode: bool,
    signature: Path | None,
    hash_choice: str,
    shard_bytes: int | None,
    ignore: tuple[Path, ...],
    name: str | None,
    version: str | None,
    engine: str,
    as_json: bool,
) -> None:
    """Sign the model at PATH, a directory or a single file.

    \b
    Example:
      sentry sign model/ --key private.pem
    """
    from sentry.formats.oms import encode_manifest
    from sentry.signing import build_manifest

    started = time.perf_counter()
    check_ignored(path, ignore)
    note_missing(ignore)
    signer = load_signer(key, password_file, insecure_key_mode=insecure_key_mode)
    target = signature or default_signature_path(path)
    if os.path.lexists(path):
        check_signature_target(path, target)
    inside = (target,) if inside_model(path, target) is not None else ()
    with progress_bar("signing", path) as progress:
        manifest = build_manifest(
            path,
            hash=hash_choice,
            ignore=(*ignore, *inside),
            shard_bytes=shard_bytes,
            name=name,
            version=version,
            keep_out=signer.source,
            engine=engine,
            progress=progress,
        )
    nfiles, nbytes = len(manifest.by_path()), sum(resource.nbytes or 0 for resource in manifest.resources)
    payload = encode_manifest(manifest)
    del manifest
    bundle = signer.sign(payload)
    bundle.write(target)
    facts = {
        "signature": str(target),
        "signer": signer.identity.to_json(),
        "hash": hash_choice,
        "files": nfiles,
        "bytes": nbytes,
        "payload_sha256": hashlib.sha256(payload).hexdigest(),
        "seconds": round(time.perf_counter() - started, 6),
    }
    if as_json:
        print_json(facts)
        return
    print_table(
        [
            ("signed", escape(str(path))),
            ("signature", escape(str(target))),
            ("signer", f"{signer.identity.method} {signer.identity.name} ({signer.identity.algorithm})"),
            ("files", f"{nfiles}, {file_size(nbytes)}"),
            ("hash", hash_choice),
            ("time", f"{facts['seconds']:.2f} s"),
        ]
    )


def note_missing(ignore: Iterable[Path]) -> None:
    """Say which paths to leave out do not exist: a slip, or a file that comes later."""
    for missing in (item for item in ignore if not os.path.lexists(item)):
        click.echo(f"sentry: note: there is no {escape(str(missing))} to leave out yet", err=True)


def check_signature_target(path: Path, target: Path) -> None:
    """Notice before the hashing what would make writing the signature fail, or destroy something else.

    Raises:
        UnavailableError: It could not be written.
        RefusedError: It would replace something that is no signature.
    """
    if not target.parent.is_dir():
        raise UnavailableError(f"cannot write the signature: there is no directory {escape(str(target.parent))}")
    if not os.access(target.parent, os.W_OK):
        raise UnavailableError(
            f"cannot write the signature {escape(str(target))}: Permission denied",
            hint="--signature FILE puts it elsewhere",
        )
    if os.path.lexists(target) and (target.is_symlink() or not target.is_file()):
        raise UnavailableError(f"cannot write the signature: {escape(str(target))} is not a regular file")
    if target.is_file():
        if path.is_file() and os.path.samefile(target, path):
            raise RefusedError("the signature would replace the model")
        with target.open("rb") as file:
            if BUNDLE_MARK not in file.read(512):
                raise RefusedError(f"{escape(str(target))} exists, and is not a signature")
