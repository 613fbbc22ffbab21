# SPDX-License-Identifier: Apache-2.0
"""`sentry inspect`: show what a signature says, without believing it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from sentry.cli.output import PATH, print_json, print_names, print_table
from sentry.errors import FormatError
from sentry.text import escape

if TYPE_CHECKING:
    from sentry.formats.bundle import Material
    from sentry.formats.manifest import Manifest

_WARNING = "nothing was verified: anyone can write such a file"


@click.command("inspect")
@click.argument("signature", type=PATH)
@click.option("--json", "as_json", is_flag=True, help="Write everything as JSON.")
def command(signature: Path, as_json: bool) -> None:
    """Show what the file SIGNATURE claims. Nothing is verified."""
    from sentry.bundle import Bundle
    from sentry.formats.oms import decode_manifest

    try:
        bundle = Bundle.read(signature)
        manifest = decode_manifest(bundle.envelope.payload, legacy=True)
    except FormatError as error:
        raise FormatError(f"{escape(str(signature))}: {error}") from None
    if as_json:
        print_json(_to_json(bundle.material, manifest))
        return
    print_table(
        [
            ("note", _WARNING),
            ("signed with", escape(_describe(bundle.material))),
            ("subject", escape(manifest.subject)),
            ("name", escape(manifest.artifact_name or "-")),
            ("version", escape(manifest.version or "-")),
            ("hashes", ", ".join(manifest.hashes())),
            ("format", "model-signing 0.2" if manifest.legacy else "OMS v1.0"),
        ]
    )
    print_names("files", manifest.by_path())
    print_names("ignored by the signer", manifest.ignore_paths)


def _describe(material: Material) -> str:
    from sentry.formats.bundle import CertificateMaterial, KeyMaterial

    if isinstance(material, KeyMaterial):
        return f"key {material.hint or 'without a hint'}"
    if isinstance(material, CertificateMaterial):
        return f"certificate, chain of {len(material.certificates)}"
    return "keyless (Sigstore)"


def _to_json(material: Material, manifest: Manifest) -> dict[str, object]:
    return {
        "verified": False,
        "note": _WARNING,
        "signed_with": _describe(material),
        "subject": manifest.subject,
        "name": manifest.artifact_name,
        "version": manifest.version,
        "parent": manifest.parent,
        "hashes": list(manifest.hashes()),
        "shard_bytes": manifest.shard_bytes,
        "legacy": manifest.legacy,
        "ignore_paths": list(manifest.ignore_paths),
        "resources": [
            {
                "name": resource.name,
                "bytes": resource.nbytes,
                **{
                    name: digest.hex()
                    for name in (manifest.hash, "blake3")
                    if (digest := resource.digest_under(name, manifest.hash)) is not None
                },
            }
            for resource in manifest.resources
        ],
    }
