# SPDX-License-Identifier: Apache-2.0
"""Signatures over safetensors files, checked against the tensors that were loaded from them.

A safetensors file is its header and its tensors, one after the other. With the header at hand, tensors in memory make
up the file again, and its digest must be the signed one (docs/format.md, "Files in memory"). The header may come from
anywhere: it is compared with its signed digest before it is parsed, and hashed with the tensors.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping

from sentry.errors import FormatError, MismatchError, SignatureError
from sentry.formats.manifest import SINGLE_FILE, Manifest, Resource
from sentry.formats.safetensors import (
    LENGTH_BYTES,
    MAX_HEADER_BYTES,
    MAX_UNSIGNED_HEADER_BYTES,
    Header,
    parse_header,
)
from sentry.model_comparison import Claim, Description, compare_descriptions
from sentry.named_tensors import NamedTensors
from sentry.resident import Content
from sentry.signatures import hashes_to_recompute
from sentry.text import escape, join_names

Headers = bytes | Mapping[str, bytes]


def claim_of_files(manifest: Manifest, header: Headers | None, named: NamedTensors) -> Claim:
    """Put the tensors back into their files, and say what is to be hashed.

    Raises:
        SignatureError: The signature is not one that tensors can be checked against, or headers are not given for
            exactly its safetensors files.
        MismatchError: A header is not the signed one, or the tensors are not those that the headers describe.
    """
    files = _safetensors_files(manifest)
    given = _by_path(header, files)
    (hash_name,) = hashes_to_recompute(manifest, None)
    headers = {path: _checked(resource, given[path]) for path, resource in files.items()}
    compare_descriptions(_descriptions(headers), named)
    tensors = {tensor.name: tensor for tensor in named.tensors}
    contents = [
        Content(tuple(tensors[entry.name] for entry in parsed.tensors), parsed.data) for parsed in headers.values()
    ]
    digests = [resource.digest_under(hash_name, manifest.hash) or b"" for resource in files.values()]
    return Claim(
        manifest,
        hash_name,
        tuple(contents),
        tuple(digests),
        unchecked_hashes=tuple(name for name in manifest.hashes() if name != hash_name),
        unchecked_files=tuple(sorted(manifest.by_path().keys() - files.keys())),
    )


def _safetensors_files(manifest: Manifest) -> dict[str, Resource]:
    if manifest.shard_bytes is not None:
        raise SignatureError(
            "the signature is over shards, which tensors in memory cannot be checked against",
            hint="sign whole files (leave out --shard-bytes), or sign the model in memory: sign_model",
        )
    files = {
        resource.path: resource
        for resource in sorted(manifest.resources, key=lambda resource: resource.path)
        if resource.path == SINGLE_FILE or resource.path.endswith(".safetensors")
    }
    if not files:
        raise SignatureError(
            "the signature lists no safetensors file", hint="sign the model in memory, with sign_model"
        )
    return files


def _by_path(header: Headers | None, files: Mapping[str, Resource]) -> Mapping[str, bytes]:
    """Return the headers by exactly the signed paths: a file is never found by its base name."""
    if header is None:
        raise SignatureError(
            "the signature is over files, and no header was given to put the tensors back into them",
            hint="pass header=, the first 8 bytes of the safetensors file and the JSON behind them",
        )
    if isinstance(header, bytes):
        if len(files) > 1:
            raise SignatureError(
                f"the signature lists {len(files)} safetensors files, and one header was given",
                hint="pass header=, a mapping of every file's path to its header",
            )
        return dict.fromkeys(files, header)
    if not isinstance(header, Mapping) or not all(isinstance(item, bytes) for item in header.values()):
        raise TypeError("header must be bytes, or a mapping of paths to bytes")
    if strange := sorted(map(str, header.keys() - files.keys())):
        raise SignatureError(f"no such safetensors file is signed: {join_names(tuple(map(escape, strange)))}")
    if lacking := sorted(files.keys() - header.keys()):
        raise SignatureError(
            f"no header was given for {join_names(tuple(map(escape, lacking)))}",
            hint="pass the header of every signed safetensors file",
        )
    return header


def _checked(resource: Resource, data: bytes) -> Header:
    """Compare a header with its signed digest, and only then parse it."""
    what = f"the header given for '{escape(resource.path)}'"
    if resource.header_sha256 is not None and hashlib.sha256(data).digest() != resource.header_sha256:
        raise MismatchError(f"{what} is not the signed one")
    limit = MAX_UNSIGNED_HEADER_BYTES if resource.header_sha256 is None else MAX_HEADER_BYTES
    if len(data) > LENGTH_BYTES + limit:
        raise MismatchError(f"{what} is larger than {limit} bytes")
    try:
        return parse_header(data, file_nbytes=resource.nbytes, limit=limit)
    except FormatError as error:
        raise MismatchError(f"{what} does not describe the file: {error}") from None


def _descriptions(headers: Mapping[str, Header]) -> dict[str, Description]:
    found: dict[str, Description] = {}
    for path, parsed in headers.items():
        for entry in parsed.tensors:
            if entry.name in found:
                raise MismatchError(
                    f"the tensor '{escape(entry.name)}' of '{escape(path)}' is in another file as well",
                    changed=[entry.name],
                )
            found[entry.name] = (entry.dtype, entry.shape)
    return found
