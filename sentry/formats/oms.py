# SPDX-License-Identifier: Apache-2.0
"""The OpenSSF Model Signing v1.0 statement: a manifest as the bytes that get signed.

Implements docs/format.md, "Manifest". Produces strictly, accepts liberally, refuses what that section
lists. Not checked here: the signature, which comes first, and the files, which come after.
"""

from __future__ import annotations

import posixpath
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from operator import attrgetter
from typing import TypeVar

from sentry.errors import FormatError, RefusedError
from sentry.formats.digest import DIGEST_BYTES, decode_hex
from sentry.formats.manifest import (
    SINGLE_FILE,
    Manifest,
    Resource,
    check_length,
    check_names_do_not_collide,
    check_path,
)
from sentry.formats.statement import MAX_PAYLOAD_BYTES, Statement, Subject, decode_statement, encode_statement
from sentry.formats.strict_json import MAX_INTEGER, Reader
from sentry.formats.tensors import PREDICATE_TYPE as TENSORS_PREDICATE_TYPE

PREDICATE_TYPE = "https://model_signing/signature/v1.0"
# What model-signing 0.2 wrote: files as subjects, no serialization, SHA-256 throughout.
LEGACY_PREDICATE_TYPE = "https://model_signing/Digests/v0.1"

Value = TypeVar("Value")


# ---------------------------------------------------------------------------------------------------------- produce


def encode_manifest(manifest: Manifest) -> bytes:
    """Serialise a manifest as the in-toto statement that gets signed.

    Raises:
        RefusedError: For a manifest that must not be signed: empty, or with names that collide somewhere.
    """
    if not manifest.resources:
        raise RefusedError("there is nothing to sign")
    _check_paths_to_sign(manifest)
    check_names_do_not_collide(sorted({resource.path for resource in manifest.resources}))
    manifest = replace(manifest, resources=tuple(sorted(manifest.resources, key=attrgetter("path", "start"))))
    serialization: dict[str, object] = {
        "method": "files" if manifest.shard_bytes is None else "shards",
        "hash_type": manifest.hash,
        "allow_symlinks": False,
        "ignore_paths": list(manifest.ignore_paths),
    }
    if manifest.shard_bytes is not None:
        serialization["shard_size"] = manifest.shard_bytes
    predicate = {
        "serialization": serialization,
        "resources": [_encode_resource(resource, manifest.hash) for resource in manifest.resources],
    }
    optional = {"name": manifest.artifact_name, "version": manifest.version, "parent": manifest.parent}
    annotations = {key: value for key, value in optional.items() if value is not None}
    subject = Subject(manifest.subject, {"sha256": manifest.root().hex()}, annotations)
    try:
        payload = encode_statement(Statement((subject,), PREDICATE_TYPE, predicate))
    except FormatError as error:
        raise RefusedError(str(error)) from None
    if len(payload) > MAX_PAYLOAD_BYTES:
        raise RefusedError(f"the manifest of so many files is larger than {MAX_PAYLOAD_BYTES} bytes")
    return payload


def _check_paths_to_sign(manifest: Manifest) -> None:
    """Refuse to sign a path that no verifier would accept."""
    try:
        for resource in manifest.resources:
            check_length(resource.name)
            check_path(resource.path)
    except FormatError as error:
        raise RefusedError(str(error)) from None


def _encode_resource(resource: Resource, hash_name: str) -> dict[str, object]:
    annotations: dict[str, str] = {}
    if resource.blake3 is not None and hash_name != "blake3":
        annotations["blake3"] = resource.blake3.hex()
    if resource.nbytes is not None:
        annotations["size"] = str(resource.nbytes)
    if resource.header_sha256 is not None:
        annotations["header_sha256"] = resource.header_sha256.hex()
    entry: dict[str, object] = {"name": resource.name, "algorithm": hash_name, "digest": resource.digest.hex()}
    if annotations:
        entry["annotations"] = annotations
    return entry


# ----------------------------------------------------------------------------------------------------------- accept


def decode_manifest(payload: bytes, *, legacy: bool = False) -> Manifest:
    """Read a manifest from a payload whose signature has been checked.

    Args:
        payload: The signed bytes.
        legacy: Accept the oldest predicate type as well.

    Raises:
        FormatError: If it is not an OMS v1.0 statement, or one that section "Manifest" refuses.
    """
    statement = decode_statement(payload)
    if statement.predicate_type == LEGACY_PREDICATE_TYPE and legacy:
        return _decode_legacy(statement)
    if statement.predicate_type == TENSORS_PREDICATE_TYPE:
        raise FormatError("the statement is about tensors in memory, which sentry.verify_model checks, not about files")
    if statement.predicate_type != PREDICATE_TYPE:
        raise FormatError(
            f"the statement's predicate type is {statement.predicate_type[:80]!r}, not {PREDICATE_TYPE!r}"
        )
    if len(statement.subjects) != 1:
        raise FormatError(f"the statement has {len(statement.subjects)} subjects, not one")
    subject = statement.subjects[0]
    reader = Reader(statement.predicate, "the predicate")
    serialization = _decode_serialization(reader.raw("serialization"))
    entries = reader.array("resources")
    reader.end()
    manifest = Manifest(
        subject.name,
        serialization.hash,
        tuple(_decode_resource(entry, serialization) for entry in entries),
        serialization.ignore_paths,
        serialization.shard_bytes,
        subject.annotations.get("name"),
        subject.annotations.get("version"),
        _decode_parent(subject.annotations.get("parent")),
    )
    _check_resources(manifest)
    expected = subject.digests.get("sha256")
    if expected is None or decode_hex(expected, nbytes=32, what="the subject's digest") != manifest.root():
        raise FormatError("the subject's digest is not that of the listed resources")
    return manifest


def _decode_parent(text: str | None) -> str | None:
    return None if text is None else decode_hex(text, nbytes=32, what="the subject's parent").hex()


@dataclass(frozen=True)
class _Serialization:
    hash: str
    shard_bytes: int | None
    ignore_paths: tuple[str, ...]

    def algorithms(self) -> tuple[str, ...]:
        """Return the spellings of a resource's algorithm that do not contradict `hash_type`."""
        if self.shard_bytes is None:
            return (self.hash,)
        return (self.hash, f"{self.hash}-sharded-{self.shard_bytes}")


def _decode_serialization(value: object) -> _Serialization:
    reader = Reader(value, "the serialization")
    method = reader.string("method")
    hash_name = reader.string("hash_type")
    reader.boolean("allow_symlinks")  # whatever the signer allowed, links are refused when the files are read
    ignored = reader.array("ignore_paths") if reader.has("ignore_paths") else []
    shard_bytes = _shard_bytes(reader.raw("shard_size")) if method == "shards" else None
    reader.end()
    if method not in {"files", "shards"}:
        raise FormatError(f"the serialization method {method[:80]!r} is unknown")
    if hash_name not in DIGEST_BYTES:
        raise FormatError(f"the hash type {hash_name[:80]!r} is unknown")
    return _Serialization(hash_name, shard_bytes, tuple(_decode_ignored(item) for item in ignored))


def _shard_bytes(value: object) -> int:
    # Protobuf's JSON writes the integers of a Struct as floats.
    if isinstance(value, float) and value.is_integer() and abs(value) <= MAX_INTEGER:
        value = int(value)
    if type(value) is not int or value <= 0:
        raise FormatError("the shard size is not a positive integer")
    return value


def _decode_ignored(value: object) -> str:
    if not isinstance(value, str) or not value or "\0" in value:
        raise FormatError("an ignored path is not a name")
    path = posixpath.normpath(value)
    if path == "." or path.startswith("/") or ".." in value.split("/"):
        raise FormatError(f"the ignored path {value[:80]!r} is the whole model or lies outside it")
    return path


def _decode_resource(value: object, serialization: _Serialization) -> Resource:
    if not isinstance(value, dict):
        raise FormatError("a resource is not an object")
    name, algorithm, digest = value.get("name"), value.get("algorithm"), value.get("digest")
    if not (isinstance(name, str) and isinstance(algorithm, str) and isinstance(digest, str)):
        raise FormatError("a resource lacks its name, algorithm or digest")
    check_length(name)
    if algorithm not in serialization.algorithms():
        raise FormatError(f"the algorithm {algorithm[:80]!r} of {name!r} is not the manifest's {serialization.hash!r}")
    raw = decode_hex(digest, nbytes=DIGEST_BYTES[serialization.hash], what=f"the digest of {name!r}")
    start, end = 0, None
    if serialization.shard_bytes is not None:
        name, start, end = _split_shard_name(name)
    check_path(name)
    annotations = value.get("annotations", {})
    if not isinstance(annotations, dict):
        raise FormatError(f"the annotations of {name!r} are not an object")
    blake3 = _annotation(annotations, "blake3", _digest32, name)
    if serialization.hash == "blake3" and blake3 not in {None, raw}:
        raise FormatError(f"{name!r} has two different BLAKE3 digests")
    nbytes = _annotation(annotations, "size", _size, name)
    header = _annotation(annotations, "header_sha256", _digest32, name)
    return Resource(name, raw, start, end, blake3, nbytes, header)


def _annotation(
    annotations: Mapping[str, object], key: str, decode: Callable[[object, str], Value], name: str
) -> Value | None:
    if key not in annotations:
        return None
    return decode(annotations[key], f"the annotation {key!r} of {name!r}")


def _digest32(value: object, what: str) -> bytes:
    if not isinstance(value, str):
        raise FormatError(f"{what} is not a string")
    return decode_hex(value, nbytes=32, what=what)


def _size(value: object, what: str) -> int:
    if isinstance(value, str) and value.isascii() and value.isdecimal() and len(value) <= 19:
        value = int(value) if value == str(int(value)) else None
    if type(value) is not int or not 0 <= value <= MAX_INTEGER:
        raise FormatError(f"{what} is not a size in bytes")
    return value


def _split_shard_name(name: str) -> tuple[str, int, int]:
    """Split `path:start:end` at the last two colons: paths may contain colons of their own."""
    path, *ends = name.rsplit(":", 2)
    if len(ends) != 2 or not all(end.isascii() and end.isdecimal() and len(end) <= 19 for end in ends):
        raise FormatError(f"the shard name {name!r} is not of the form path:start:end")
    start, end = int(ends[0]), int(ends[1])
    if [str(start), str(end)] != ends or end <= start:
        raise FormatError(f"the shard name {name!r} does not name a range")
    return path, start, end


def _check_resources(manifest: Manifest) -> None:
    if not manifest.resources:
        raise FormatError("the manifest lists no resources")
    names = {resource.name for resource in manifest.resources}
    if len(names) != len(manifest.resources):
        raise FormatError("the manifest lists a resource twice")
    files = manifest.by_path()
    if SINGLE_FILE in files and len(files) > 1:
        raise FormatError("the manifest lists a single file beside others")
    if manifest.shard_bytes is not None:
        for path, shards in files.items():
            _check_shards_cover(path, shards, manifest.shard_bytes)
    for resource in manifest.resources:
        if resource.start and resource.header_sha256 is not None:
            raise FormatError(f"{resource.name!r} has a header digest, and does not begin with the header")
        if resource.end is not None and resource.nbytes not in {None, resource.end - resource.start}:
            raise FormatError(f"the size of {resource.name!r} is not that of its range")


def _check_shards_cover(path: str, shards: tuple[Resource, ...], shard_bytes: int) -> None:
    expected = 0
    for index, shard in enumerate(shards):
        nbytes = (shard.end or 0) - shard.start
        whole = nbytes == shard_bytes or (index == len(shards) - 1 and nbytes < shard_bytes)
        if shard.start != expected or not whole:
            raise FormatError(f"the shards of {path!r} do not cover it without gap or overlap")
        expected += nbytes


def _decode_legacy(statement: Statement) -> Manifest:
    resources = []
    for subject in statement.subjects:
        check_length(subject.name)
        check_path(subject.name)
        digest = decode_hex(subject.digests.get("sha256", ""), nbytes=32, what=f"the digest of {subject.name!r}")
        resources.append(Resource(subject.name, digest))
    manifest = Manifest("", "sha256", tuple(resources), legacy=True)
    _check_resources(manifest)
    return manifest
