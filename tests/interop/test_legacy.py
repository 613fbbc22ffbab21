# SPDX-License-Identifier: Apache-2.0
"""Bundles in the shapes that older tools wrote, made here with nothing but json and cryptography."""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from sentry import Bundle, MismatchError, SignatureError, verify_path

PAYLOAD_TYPE = "application/vnd.in-toto+json"
HASHES: Mapping[str, hashes.HashAlgorithm] = {
    "ecdsa-p256": hashes.SHA256(),
    "ecdsa-p384": hashes.SHA384(),
    "ecdsa-p521": hashes.SHA512(),
}
Statement = dict[str, Any]


def read_files(model: Path) -> dict[str, bytes]:
    """Return the files of a model by their POSIX paths."""
    paths = [path for path in model.rglob("*") if path.is_file()]
    return {path.relative_to(model).as_posix(): path.read_bytes() for path in paths}


def encode(payload: bytes) -> bytes:
    """Return the bytes that DSSE signs."""
    return b"DSSEv1 %d %b %d %b" % (len(PAYLOAD_TYPE), PAYLOAD_TYPE.encode(), len(payload), payload)


def encode_with_mistake(payload: bytes) -> bytes:
    """Return the bytes that model-signing 0.2 signed: a Python text of bytes, under a misspelt tag."""
    return f"DSSEV1 {len(PAYLOAD_TYPE)} {PAYLOAD_TYPE} {len(payload)} {payload!r}".encode()


def statement_over(files: Mapping[str, bytes], **serialization: object) -> Statement:
    """Build an OMS v1.0 statement as model-signing 1.0 does: no annotations."""
    resources = [
        {"name": name, "algorithm": "sha256", "digest": hashlib.sha256(content).hexdigest()}
        for name, content in sorted(files.items())
    ]
    return with_resources(resources, method="files", **serialization)


def with_resources(resources: list[dict[str, str]], **serialization: object) -> Statement:
    """Build an OMS v1.0 statement over given resources."""
    root = hashlib.sha256(b"".join(bytes.fromhex(item["digest"]) for item in resources)).hexdigest()
    return {
        "_type": "https://in-toto.io/Statement/v1",
        "subject": [{"name": "model", "digest": {"sha256": root}}],
        "predicateType": "https://model_signing/signature/v1.0",
        "predicate": {
            "serialization": {"hash_type": "sha256", "allow_symlinks": False, **serialization},
            "resources": resources,
        },
    }


def statement_v01(files: Mapping[str, bytes]) -> Statement:
    """Build the statement of model-signing 0.2: every file is a subject."""
    return {
        "_type": "https://in-toto.io/Statement/v1",
        "subject": [
            {"name": name, "digest": {"sha256": hashlib.sha256(content).hexdigest()}}
            for name, content in sorted(files.items())
        ],
        "predicateType": "https://model_signing/Digests/v0.1",
        "predicate": {"unused": "Unused, just passed due to API requirements"},
    }


def shards(files: Mapping[str, bytes], nbytes: int, algorithm: str) -> list[dict[str, str]]:
    """List the shards of files as resources."""
    resources = []
    for name, content in sorted(files.items()):
        for start in range(0, len(content), nbytes):
            part = content[start : start + nbytes]
            resources.append(
                {
                    "name": f"{name}:{start}:{start + len(part)}",
                    "algorithm": algorithm,
                    "digest": hashlib.sha256(part).hexdigest(),
                }
            )
    return resources


def bundle_of(
    statement: Statement,
    key: Any,
    *,
    material: Mapping[str, object] | None = None,
    encoding: Callable[[bytes], bytes] = encode,
    algorithm: str = "ecdsa-p256",
) -> Bundle:
    """Sign a statement, and read the bundle as any signature file is read."""
    private = serialization.load_pem_private_key(key.private.read_bytes(), None)
    assert isinstance(private, ec.EllipticCurvePrivateKey)
    payload = json.dumps(statement, indent=2).encode()
    signature = private.sign(encoding(payload), ec.ECDSA(HASHES[algorithm]))
    document = {
        "mediaType": "application/vnd.dev.sigstore.bundle.v0.3+json",
        "verificationMaterial": {"publicKey": {}, "tlogEntries": []} if material is None else dict(material),
        "dsseEnvelope": {
            "payload": base64.b64encode(payload).decode(),
            "payloadType": PAYLOAD_TYPE,
            "signatures": [{"sig": base64.b64encode(signature).decode(), "keyid": ""}],
        },
    }
    return Bundle.decode(json.dumps(document).encode())


def raw_key(key: Any, encoding: serialization.Encoding) -> str:
    public = serialization.load_pem_public_key(key.public.read_bytes())
    return base64.b64encode(public.public_bytes(encoding, serialization.PublicFormat.SubjectPublicKeyInfo)).decode()


# ------------------------------------------------------------------------------------------------ how the key is named


MATERIALS: dict[str, Callable[[Any], dict[str, object]]] = {
    "no hint": lambda _: {"publicKey": {}},
    "an empty hint": lambda _: {"publicKey": {"hint": ""}},
    "a null hint": lambda _: {"publicKey": {"hint": None}},
    "the key in PEM": lambda key: {"publicKey": {"rawBytes": raw_key(key, serialization.Encoding.PEM)}},
    "the key in DER": lambda key: {"publicKey": {"rawBytes": raw_key(key, serialization.Encoding.DER)}},
    "the key and its curve": lambda key: {
        "publicKey": {
            "rawBytes": raw_key(key, serialization.Encoding.PEM),
            "keyDetails": "PKIX_ECDSA_P256_SHA_256",
        }
    },
}


@pytest.mark.parametrize("tlog", [{}, {"tlogEntries": []}], ids=["no log entries", "empty log entries"])
@pytest.mark.parametrize("material", MATERIALS)
def test_older_ways_to_name_the_key_verify(model: Path, key: Any, material: str, tlog: dict[str, object]) -> None:
    bundle = bundle_of(statement_over(read_files(model)), key, material={**MATERIALS[material](key), **tlog})
    assert verify_path(model, bundle, key.trust).signers == (key.signer.identity,)


@pytest.mark.parametrize("material", MATERIALS)
def test_older_ways_to_name_the_key_prove_nothing(model: Path, keys: Any, material: str) -> None:
    key, other = keys["ecdsa-p256"], keys["ecdsa-p384"]
    bundle = bundle_of(statement_over(read_files(model)), key, material=MATERIALS[material](key))
    with pytest.raises(SignatureError, match=r"another key|does not verify"):
        verify_path(model, bundle, other.trust)
    # A bundle that names the trusted key, and was signed with another one.
    bundle = bundle_of(
        statement_over(read_files(model)), other, material=MATERIALS[material](key), algorithm="ecdsa-p384"
    )
    with pytest.raises(SignatureError, match="does not verify"):
        verify_path(model, bundle, key.trust)


# ------------------------------------------------------------------------------------------------------ what is listed


@pytest.mark.parametrize("reverse", [False, True])
def test_resources_verify_in_any_order(model: Path, key: Any, reverse: bool) -> None:
    resources = statement_over(read_files(model))["predicate"]["resources"]
    resources.sort(key=lambda item: item["digest"], reverse=reverse)
    verification = verify_path(model, bundle_of(with_resources(resources, method="files"), key), key.trust)
    assert set(verification.files) == set(read_files(model))


def test_a_bundle_without_ignored_paths_needs_the_callers(model: Path, key: Any) -> None:
    bundle = bundle_of(statement_over(read_files(model)), key)
    (model / ".gitignore").touch()
    (model / "model.sig").touch()
    with pytest.raises(MismatchError) as caught:
        verify_path(model, bundle, key.trust)
    assert caught.value.unexpected == (".gitignore", "model.sig")
    verification = verify_path(model, bundle, key.trust, ignore=[model / ".gitignore", model / "model.sig"])
    assert verification.not_covered == (".gitignore", "model.sig")


@pytest.mark.parametrize("name", [".", "weights.bin"])
def test_a_single_file_verifies_under_both_its_names(model: Path, key: Any, name: str) -> None:
    file = model / "weights.bin"
    bundle = bundle_of(statement_over({name: file.read_bytes()}), key)
    verify_path(file, bundle, key.trust)
    file.rename(model / "renamed.bin")
    if name == ".":
        verify_path(model / "renamed.bin", bundle, key.trust)
    else:
        with pytest.raises(MismatchError, match=r"renamed\.bin"):
            verify_path(model / "renamed.bin", bundle, key.trust)


@pytest.mark.parametrize("size", [1000, 1000.0])
@pytest.mark.parametrize("algorithm", ["sha256", "sha256-sharded-1000"])
def test_shards_verify_in_every_spelling(model: Path, key: Any, algorithm: str, size: float) -> None:
    (model / "empty").unlink()
    resources = shards(read_files(model), 1000, algorithm)
    bundle = bundle_of(with_resources(resources, method="shards", shard_size=size), key)
    assert verify_path(model, bundle, key.trust).manifest.shard_bytes == 1000
    (model / "weights.bin").write_bytes(bytes(4096))
    with pytest.raises(MismatchError, match=r"weights\.bin"):
        verify_path(model, bundle, key.trust)


@pytest.mark.parametrize(
    ("algorithm", "size"),
    [("sha256-sharded-999", 1000), ("blake2b-sharded-1000", 1000), ("sha256", 999), ("sha256", 1000.5), ("sha256", 0)],
)
def test_shards_that_contradict_themselves_are_refused(model: Path, key: Any, algorithm: str, size: float) -> None:
    (model / "empty").unlink()
    resources = shards(read_files(model), 1000, algorithm)
    bundle = bundle_of(with_resources(resources, method="shards", shard_size=size), key)
    with pytest.raises(SignatureError, match="not a model manifest"):
        verify_path(model, bundle, key.trust)


# ---------------------------------------------------------------------------------------------------- the oldest format


@pytest.mark.parametrize("algorithm", HASHES)
def test_the_oldest_format_verifies_only_when_asked_for(model: Path, keys: Any, algorithm: str) -> None:
    key = keys[algorithm]
    statement = statement_v01(read_files(model))
    bundle = bundle_of(statement, key, encoding=encode_with_mistake, algorithm=algorithm)
    with pytest.raises(SignatureError, match="does not verify"):
        verify_path(model, bundle, key.trust)
    verification = verify_path(model, bundle, key.trust, insecure_legacy=True)
    assert verification.manifest.legacy
    assert set(verification.files) == set(read_files(model))
    (model / "a.b").write_text("changed")
    with pytest.raises(MismatchError, match=r"a\.b"):
        verify_path(model, bundle, key.trust, insecure_legacy=True)


def test_the_oldest_statement_under_a_right_encoding_is_refused_as_well(model: Path, key: Any) -> None:
    bundle = bundle_of(statement_v01(read_files(model)), key)
    with pytest.raises(SignatureError, match="predicate type"):
        verify_path(model, bundle, key.trust)
    assert verify_path(model, bundle, key.trust, insecure_legacy=True).manifest.legacy


def test_the_mistaken_encoding_of_a_new_statement_needs_asking_for(model: Path, key: Any) -> None:
    bundle = bundle_of(statement_over(read_files(model)), key, encoding=encode_with_mistake)
    with pytest.raises(SignatureError, match="does not verify"):
        verify_path(model, bundle, key.trust)


@pytest.mark.parametrize("encoding", [encode, encode_with_mistake])
def test_asking_for_the_oldest_format_forgives_no_wrong_signature(
    model: Path, keys: Any, encoding: Callable[[bytes], bytes]
) -> None:
    bundle = bundle_of(statement_v01(read_files(model)), keys["ecdsa-p384"], encoding=encoding, algorithm="ecdsa-p384")
    with pytest.raises(SignatureError, match="does not verify"):
        verify_path(model, bundle, keys["ecdsa-p256"].trust, insecure_legacy=True)
