# SPDX-License-Identifier: Apache-2.0
"""The other half of the reference: accept a signature file and a tree under a public key, or raise `Refused`.

Links, special files, single files and names that collide are not modelled: a tree is a mapping of paths to contents.
"""

from __future__ import annotations

import base64
import json
import math
import posixpath
from collections.abc import Mapping, Sequence
from typing import Any, NoReturn

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric import ec
from reference.oms_reference import (
    CURVE_HASHES,
    HASHES,
    MEDIA_TYPE,
    PAYLOAD_TYPE,
    PREDICATE_TYPE,
    STATEMENT_TYPE,
    header_sha256,
    hint,
    pae,
    root,
)


class Refused(Exception):  # noqa: N818  (it is an answer, not an accident)
    """The verdict of `verify` when it is not yes."""


def refuse(why: str) -> NoReturn:
    raise Refused(why)


def parse(data: bytes) -> Any:
    """Parse strict JSON: no key twice, no NaN, no number out of range, no half surrogate pair."""

    def pairs(items: list[tuple[str, Any]]) -> dict[str, Any]:
        return dict(items) if len(dict(items)) == len(items) else refuse("a key twice")

    def integer(text: str) -> int:
        return int(text) if len(text) <= 20 and -(2**63) < int(text) < 2**63 else refuse("a large integer")

    def real(text: str) -> float:
        return float(text) if math.isfinite(float(text)) else refuse("a large number")

    try:
        value = json.loads(
            data.decode("utf-8"), object_pairs_hook=pairs, parse_int=integer, parse_float=real, parse_constant=refuse
        )
        json.dumps(value, ensure_ascii=False).encode("utf-8")
    except (ValueError, RecursionError):
        refuse("not strict JSON")
    return value


def fields(value: Any, required: Mapping[str, type], optional: Mapping[str, type] | None = None) -> dict[str, Any]:
    """Insist on an object with these fields of these types, and no others."""
    known = {**required, **(optional or {})}
    if not isinstance(value, dict) or not required.keys() <= value.keys() <= known.keys():
        refuse("not the expected fields")
    if not all(type(value[name]) is known[name] for name in value):
        refuse("a field of another type")
    return value


def unbase64(text: str) -> bytes:
    """Decode the one canonical spelling."""
    try:
        data = base64.b64decode(text, validate=True)
    except ValueError:
        refuse("not base64")
    return data if base64.b64encode(data).decode() == text else refuse("not canonical base64")


def signed_payload(signature_file: bytes, key: ec.EllipticCurvePublicKey) -> bytes:
    """Check the signature of a key bundle, and return its payload."""
    top = fields(parse(signature_file), {"mediaType": str, "verificationMaterial": dict, "dsseEnvelope": dict})
    material = fields(top["verificationMaterial"], {"publicKey": dict}, {"tlogEntries": list})
    public = fields(material["publicKey"], {}, {"hint": str, "rawBytes": str, "keyDetails": str})
    envelope = fields(top["dsseEnvelope"], {"payload": str, "payloadType": str, "signatures": list})
    if (top["mediaType"], envelope["payloadType"]) != (MEDIA_TYPE, PAYLOAD_TYPE):
        refuse("another type")
    if material.get("tlogEntries") or len(envelope["signatures"]) != 1:
        refuse("log entries, or not one signature")
    if public.get("hint", "") not in {"", hint(key)}:
        refuse("another key")
    entry = fields(envelope["signatures"][0], {"sig": str}, {"keyid": str})
    body = unbase64(envelope["payload"])
    try:
        key.verify(unbase64(entry["sig"]), pae(body), ec.ECDSA(CURVE_HASHES[key.curve.name]))
    except InvalidSignature:
        refuse("the signature does not verify")
    return body


def is_plain(path: str) -> bool:
    """Say whether a path can only lead to a place inside the tree."""
    return path == "." or not ({"", ".", ".."} & set(path.split("/")) or "\0" in path)


def signed_ranges(body: bytes) -> tuple[list[dict[str, Any]], list[str], str]:
    """Read a payload into what it says of each range of each file, the ignored paths, and the hash."""
    top = fields(parse(body), {"_type": str, "subject": list, "predicateType": str, "predicate": dict})
    if (top["_type"], top["predicateType"], len(top["subject"])) != (STATEMENT_TYPE, PREDICATE_TYPE, 1):
        refuse("not one model's statement")
    subject = fields(top["subject"][0], {"name": str, "digest": dict}, {"annotations": dict})
    predicate = fields(top["predicate"], {"serialization": dict, "resources": list})
    how = predicate["serialization"]
    sharded = how.get("method") == "shards"
    kinds: dict[str, type] = {"method": str, "hash_type": str, "allow_symlinks": bool}
    fields(how, {**kinds, "shard_size": type(how.get("shard_size"))} if sharded else kinds, {"ignore_paths": list})
    name, size = how["hash_type"], how.get("shard_size", 1)
    if how["method"] not in {"files", "shards"} or name not in HASHES or type(size) not in {int, float} or size < 1:
        refuse("an unknown serialization")
    if size != int(size):
        refuse("a shard size with a fraction")
    ignored = how.get("ignore_paths", [])
    for path in ignored:
        if not isinstance(path, str) or posixpath.normpath(path or ".") == "." or path.startswith("/"):
            refuse("an ignored path that is the whole model")
        if ".." in path.split("/") or "\0" in path:
            refuse("an ignored path outside")
    spellings = {name, f"{name}-sharded-{int(size)}"} if sharded else {name}
    ranges = [read_resource(entry, name, spellings, sharded=sharded) for entry in predicate["resources"]]
    if not ranges or len({(entry["path"], entry["start"], entry["end"]) for entry in ranges}) != len(ranges):
        refuse("no resources, or one twice")
    if "." in {entry["path"] for entry in ranges} and len({entry["path"] for entry in ranges}) > 1:
        refuse("a single file beside others")
    check_coverage(ranges, int(size), sharded=sharded)
    if subject["digest"].get("sha256") != root(predicate["resources"]):
        refuse("the root is not that of the resources")
    return ranges, [posixpath.normpath(path) for path in ignored], name


def read_resource(entry: Any, name: str, spellings: set[str], *, sharded: bool) -> dict[str, Any]:
    """Read one resource into its path, range, digests by hash, size and header digest."""
    if not isinstance(entry, dict) or not all(isinstance(entry.get(key), str) for key in ("name", "digest")):
        refuse("not a resource")
    annotations = entry.get("annotations", {})
    if entry.get("algorithm") not in spellings or not isinstance(annotations, dict):
        refuse("an algorithm that contradicts the hash type, or annotations that are none")
    path, start, end = read_shard_name(entry["name"]) if sharded else (entry["name"], 0, None)
    if not is_plain(path):
        refuse("a path that leads outside")
    digests = {name: entry["digest"]}
    if "blake3" in annotations and digests.setdefault("blake3", annotations["blake3"]) != annotations["blake3"]:
        refuse("two digests under one hash")
    for hash_name, digest in digests.items():
        check_hexadecimal(digest, len(HASHES[hash_name](b"")))
    size, header = annotations.get("size"), annotations.get("header_sha256")
    if "size" in annotations and not (
        isinstance(size, str) and size.isascii() and size.isdigit() and size == str(int(size))
    ):
        refuse("a size that is none")
    if "header_sha256" in annotations:
        check_hexadecimal(header, 32)
    length = int(size) if isinstance(size, str) else None
    if end is not None and length not in {None, end - start}:
        refuse("a size that is not the range's")
    return {"path": path, "start": start, "end": end, "digests": digests, "size": length, "header": header}


def read_shard_name(name: str) -> tuple[str, int, int]:
    """Split a shard's name at its last two colons."""
    path, *numbers = name.rsplit(":", 2)
    if len(numbers) != 2 or not all(map(is_number, numbers)):
        refuse("not the name of a shard")
    return path, int(numbers[0]), int(numbers[1])


def is_number(text: str) -> bool:
    """Say whether a text is a number in its one decimal spelling."""
    return text.isascii() and text.isdigit() and str(int(text)) == text


def check_hexadecimal(text: Any, nbytes: int) -> None:
    """Insist on lower-case hexadecimal of a known length."""
    if not isinstance(text, str) or len(text) != 2 * nbytes or set(text) - set("0123456789abcdef"):
        refuse("a digest that is not lower-case hexadecimal of its length")


def check_coverage(ranges: Sequence[Mapping[str, Any]], size: int, *, sharded: bool) -> None:
    """Insist that shards follow each other without gap or overlap, all full but a file's last."""
    for path in {entry["path"] for entry in ranges} if sharded else ():
        shards = sorted((entry["start"], entry["end"]) for entry in ranges if entry["path"] == path)
        last = shards[-1][1]
        if shards != [(start, min(start + size, last)) for start in range(0, last, size)]:
            refuse("shards with a gap or an overlap")


def verify(
    signature_file: bytes,
    tree: Mapping[str, bytes],
    key: ec.EllipticCurvePublicKey,
    *,
    recompute: Sequence[str] | None = None,
    ignore_unsigned: bool = False,
) -> tuple[str, ...]:
    """Accept a directory under its signature, or raise `Refused`; return the hashes that were recomputed."""
    ranges, ignored, name = signed_ranges(signed_payload(signature_file, key))
    if recompute is None:
        recompute = ["blake3"] if all("blake3" in entry["digests"] for entry in ranges) else [name]
    signed = {entry["path"] for entry in ranges}
    unsigned = [
        path
        for path in tree.keys() - signed
        if not any(path == under or path.startswith(under + "/") for under in ignored)
    ]
    if unsigned and not ignore_unsigned:
        refuse("files that are not signed")
    for entry in ranges:
        if entry["path"] not in tree:
            refuse("a file is missing")
        check_range(entry, tree[entry["path"]], recompute)
    for path in signed:
        end = max((entry["end"] or 0) for entry in ranges if entry["path"] == path)
        if end and len(tree[path]) != end:
            refuse("a file longer or shorter than its shards")
    return tuple(recompute)


def check_range(entry: Mapping[str, Any], data: bytes, recompute: Sequence[str]) -> None:
    """Compare one range of a file with what was signed."""
    part = data[entry["start"] : entry["end"]]
    if entry["size"] not in {None, len(part)}:
        refuse("sizes differ")
    for name in recompute:
        if name not in entry["digests"]:
            refuse("a hash that was not signed")
        if HASHES[name](part).hex() != entry["digests"][name]:
            refuse("bytes differ")
    if entry["header"] is not None and entry["header"] != header_sha256(entry["path"], data):
        refuse("headers differ")
