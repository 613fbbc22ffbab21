# SPDX-License-Identifier: Apache-2.0
"""The standard's own JSON Schemas and vectors: what we emit passes, what is valid decodes, what is invalid does not."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from jsonschema import Draft202012Validator
from referencing import Registry, Resource

from sentry import Bundle, FormatError, sign_path
from sentry.formats.bundle import CertificateMaterial, KeyMaterial, SigstoreMaterial
from sentry.formats.oms import decode_manifest

# Data of others is read where it lies, beside the checkout, and never copied into the project.
OMS = Path(__file__).parent.parent.parent.parent / "shared" / "data" / "oms"
VECTORS = OMS / "test-vectors" / "v1.0"

pytestmark = pytest.mark.skipif(
    not OMS.is_dir(), reason="the standard's schemas and vectors are not beside the checkout"
)

Check = Callable[[object], None]


@pytest.fixture(scope="module")
def validators() -> dict[str, Check]:
    """Return a function per schema that raises for what does not pass."""
    schemas = {path.name.split(".")[0]: json.loads(path.read_text()) for path in (OMS / "schemas/v1.0").iterdir()}
    registry: Registry[Any] = Registry().with_resources(
        (schema["$id"], Resource.from_contents(schema)) for schema in schemas.values()
    )
    for schema in schemas.values():
        Draft202012Validator.check_schema(schema)
    return {name: Draft202012Validator(schema, registry=registry).validate for name, schema in schemas.items()}


def vectors(folder: str) -> list[Any]:
    """Return the standard's vectors in a folder as parameters, named after their files."""
    return [pytest.param(path, id=path.name.split(".")[0]) for path in sorted((VECTORS / folder).glob("*.json"))]


@pytest.fixture
def full_model(model: Path) -> Path:
    """Return a model that has every annotation: a safetensors header, too."""
    header = b'{"w":{"dtype":"U8","shape":[4],"data_offsets":[0,4]}}'
    (model / "w.safetensors").write_bytes(len(header).to_bytes(8, "little") + header + b"data")
    return model


SHAPES: dict[str, Callable[[Path], dict[str, Any]]] = {
    "files": lambda _: {},
    "shards": lambda _: {"shard_bytes": 1000},
    "tiny shards": lambda _: {"shard_bytes": 1},
    "ignored paths": lambda model: {"ignore": [model / "a", model / "a.b"]},
    "name and version": lambda _: {"name": "acme/n\u00e4me", "version": "1.0-\u03b2"},
    "everything": lambda model: {"shard_bytes": 64, "ignore": [model / "a"], "name": "n", "version": "v"},
}


@pytest.mark.parametrize("shape", [*SHAPES, "a single file"])
@pytest.mark.parametrize("choice", ["sha256+blake3", "sha256", "blake3", "blake2b"])
def test_every_bundle_that_we_emit_passes_the_schemas(
    full_model: Path, key: Any, validators: dict[str, Check], choice: str, shape: str
) -> None:
    if shape == "a single file":
        bundle = sign_path(full_model / "weights.bin", key.signer, hash=choice)
    else:
        options = SHAPES[shape](full_model)
        if "shard_bytes" in options:
            (full_model / "empty").unlink()
        bundle = sign_path(full_model, key.signer, hash=choice, **options)
    document = json.loads(bundle.encode())
    validators["bundle"](document)
    validators["envelope"](document["dsseEnvelope"])
    payload = json.loads(bundle.envelope.payload)
    validators["statement"](payload)
    validators["predicate"](payload["predicate"])
    assert Bundle.decode(bundle.encode()) == bundle
    assert decode_manifest(bundle.envelope.payload).root().hex() == payload["subject"][0]["digest"]["sha256"]


@pytest.mark.parametrize("algorithm", ["ecdsa-p256", "ecdsa-p384", "ecdsa-p521"])
def test_bundles_of_every_key_pass_the_schema(
    model: Path, keys: Any, validators: dict[str, Check], algorithm: str
) -> None:
    document = json.loads(sign_path(model, keys[algorithm].signer).encode())
    validators["bundle"](document)
    assert document["verificationMaterial"] == {
        "publicKey": {"hint": keys[algorithm].signer.identity.name},
        "tlogEntries": [],
    }


def test_a_bundle_written_by_the_command_line_passes_the_schemas(
    model: Path, key: Any, validators: dict[str, Check], capsys: pytest.CaptureFixture[str]
) -> None:
    from sentry.cli import main  # noqa: PLC0415  (only this test needs the command line)

    assert main(["sign", os.fspath(model), "--key", os.fspath(key.private), "--name", "n", "--version", "v"]) == 0
    assert capsys.readouterr().err == ""
    bundle = Bundle.read(model / "model.sig")
    validators["bundle"](json.loads((model / "model.sig").read_bytes()))
    validators["statement"](json.loads(bundle.envelope.payload))


def test_the_schemas_do_refuse_something(validators: dict[str, Check]) -> None:
    for name in ("bundle", "envelope", "statement", "predicate"):
        with pytest.raises(Exception, match="is a required property"):
            validators[name]({})


@pytest.mark.parametrize("path", vectors("valid"))
def test_a_valid_vector_decodes(path: Path, validators: dict[str, Check]) -> None:
    data = path.read_bytes()
    validators["bundle"](json.loads(data))
    bundle = Bundle.decode(data)
    kinds = {"key": KeyMaterial, "certificate": CertificateMaterial, "sigstore": SigstoreMaterial}
    assert type(bundle.material) is kinds[path.name.split(".")[0]]
    manifest = decode_manifest(bundle.envelope.payload)
    resources = json.loads(bundle.envelope.payload)["predicate"]["resources"]
    assert [resource.name for resource in manifest.resources] == [resource["name"] for resource in resources]
    assert [resource.digest.hex() for resource in manifest.resources] == [item["digest"] for item in resources]


@pytest.mark.parametrize("path", vectors("valid"))
def test_a_valid_vector_survives_being_written_again(path: Path, validators: dict[str, Check]) -> None:
    bundle = Bundle.decode(path.read_bytes())
    validators["bundle"](json.loads(bundle.encode()))
    assert Bundle.decode(bundle.encode()) == bundle
    before, after = json.loads(path.read_bytes()), json.loads(bundle.encode())
    before["verificationMaterial"].setdefault("tlogEntries", [])
    assert after["verificationMaterial"] == before["verificationMaterial"]


@pytest.mark.parametrize("path", vectors("invalid"))
def test_an_invalid_vector_is_refused(path: Path) -> None:
    with pytest.raises(FormatError):
        Bundle.decode(path.read_bytes())


@pytest.mark.parametrize("path", vectors("invalid-payload"))
def test_a_vector_with_an_invalid_payload_is_refused(path: Path) -> None:
    bundle = Bundle.decode(path.read_bytes())
    with pytest.raises(FormatError, match="predicate type"):
        decode_manifest(bundle.envelope.payload)


@pytest.mark.parametrize("folder", ["invalid", "invalid-payload"])
def test_the_command_line_refuses_invalid_vectors_in_one_line(folder: str, capsys: pytest.CaptureFixture[str]) -> None:
    from sentry.cli import main  # noqa: PLC0415  (only this test needs the command line)

    for path in sorted((VECTORS / folder).glob("*.json")):
        assert main(["inspect", os.fspath(path)]) == 1
        out, err = capsys.readouterr()
        assert out == ""
        assert err.startswith("sentry: error: ")
        assert len(err.splitlines()) == 1
