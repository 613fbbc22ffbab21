# SPDX-License-Identifier: Apache-2.0
"""OpenSSF Model Signing v1.0 with keys, written to be read: slow, whole files in memory, no code of the package.

A tree is a mapping of POSIX paths to contents. `statement` and `payload` say what is signed, and `sign` makes a
signature file of it. `oms_verifier.py` reads one.
"""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Mapping, Sequence
from typing import Any

from blake3 import blake3
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

MEDIA_TYPE = "application/vnd.dev.sigstore.bundle.v0.3+json"
PAYLOAD_TYPE = "application/vnd.in-toto+json"
STATEMENT_TYPE = "https://in-toto.io/Statement/v1"
PREDICATE_TYPE = "https://model_signing/signature/v1.0"
HASHES = {
    "sha256": lambda data: hashlib.sha256(data).digest(),
    "blake2b": lambda data: hashlib.blake2b(data).digest(),
    "blake3": lambda data: blake3(data).digest(),
}
CURVE_HASHES = {"secp256r1": hashes.SHA256(), "secp384r1": hashes.SHA384(), "secp521r1": hashes.SHA512()}


def header_sha256(path: str, data: bytes) -> str | None:
    """Hash the length field and the header of a safetensors file."""
    if not path.endswith(".safetensors") or len(data) < 8:
        return None
    end = 8 + int.from_bytes(data[:8], "little")
    return hashlib.sha256(data[:end]).hexdigest() if end <= len(data) and end <= 8 + 100_000_000 else None


def resource(path: str, data: bytes, choice: str, shard: tuple[int, int] | None = None) -> dict[str, Any]:
    """Describe one file, or the bytes of it from one position up to another."""
    start, end = shard or (0, len(data))
    part = data[start:end]
    annotations = {"size": str(len(part))}
    if choice == "sha256+blake3":
        annotations = {"blake3": HASHES["blake3"](part).hex(), **annotations}
    header = header_sha256(path, data)
    if header is not None and start == 0:
        annotations["header_sha256"] = header
    algorithm = choice.partition("+")[0]
    name = path if shard is None else f"{path}:{start}:{end}"
    return {"name": name, "algorithm": algorithm, "digest": HASHES[algorithm](part).hex(), "annotations": annotations}


def statement(
    subject: str,
    files: Mapping[str, bytes],
    *,
    choice: str = "sha256+blake3",
    ignore_paths: Sequence[str] = (".git", ".gitattributes", ".github", ".gitignore", "model.sig"),
    shard_bytes: int | None = None,
    **annotations: str,
) -> dict[str, Any]:
    """Describe a tree: files in the order of their paths' code points, shards in the order of their bytes."""
    resources = []
    for path in sorted(files):
        data = files[path]
        if shard_bytes is None:
            resources.append(resource(path, data, choice))
            continue
        starts = range(0, len(data), shard_bytes)
        resources += [resource(path, data, choice, (start, min(start + shard_bytes, len(data)))) for start in starts]
    serialization: dict[str, Any] = {
        "method": "files" if shard_bytes is None else "shards",
        "hash_type": choice.partition("+")[0],
        "allow_symlinks": False,
        "ignore_paths": list(ignore_paths),
    }
    if shard_bytes is not None:
        serialization["shard_size"] = shard_bytes
    described: dict[str, Any] = {"name": subject, "digest": {"sha256": root(resources)}}
    if annotations:
        described["annotations"] = annotations
    return {
        "_type": STATEMENT_TYPE,
        "subject": [described],
        "predicateType": PREDICATE_TYPE,
        "predicate": {"serialization": serialization, "resources": resources},
    }


def root(resources: Sequence[Mapping[str, Any]]) -> str:
    """Hash the concatenated resource digests, in listed order; the names are not in it."""
    return hashlib.sha256(b"".join(bytes.fromhex(entry["digest"]) for entry in resources)).hexdigest()


def payload(value: Mapping[str, Any]) -> bytes:
    """Serialise a statement: no white space, UTF-8, keys in the order given."""
    return json.dumps(value, separators=(",", ":"), ensure_ascii=False).encode()


def pae(body: bytes) -> bytes:
    """Return what is signed in the place of a payload."""
    kind = PAYLOAD_TYPE.encode()
    return b" ".join([b"DSSEv1", str(len(kind)).encode(), kind, str(len(body)).encode(), body])


def hint(key: ec.EllipticCurvePublicKey) -> str:
    """Name a public key."""
    pem = key.public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
    return hashlib.sha256(pem).hexdigest()


def bundle(body: bytes, signature: bytes, key_hint: str) -> bytes:
    """Write a signature file."""
    return payload(
        {
            "mediaType": MEDIA_TYPE,
            "verificationMaterial": {"publicKey": {"hint": key_hint}, "tlogEntries": []},
            "dsseEnvelope": {
                "payload": base64.b64encode(body).decode(),
                "payloadType": PAYLOAD_TYPE,
                "signatures": [{"sig": base64.b64encode(signature).decode(), "keyid": ""}],
            },
        }
    )


def sign(body: bytes, key: ec.EllipticCurvePrivateKey) -> bytes:
    """Sign a payload and write the signature file."""
    signature = key.sign(pae(body), ec.ECDSA(CURVE_HASHES[key.curve.name]))
    return bundle(body, signature, hint(key.public_key()))
