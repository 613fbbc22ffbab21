# SPDX-License-Identifier: Apache-2.0
"""Tensors in memory against signatures over the safetensors files that they were loaded from."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from models.zoo import arrays, described, safetensors, statement_without_annotations
from reference import oms_reference
from support import KeyPair, forge, seal, sign_payload, write_files

import sentry
from sentry.formats.tensors import encode_tensors
from sentry.model_signing import build_tensor_manifest

MODEL = arrays()
FIRST = {name: MODEL[name] for name in ("head", "norm")}
SECOND = {name: MODEL[name] for name in ("steps", "embed")}
HEADER, FILE = safetensors(described(MODEL), {"format": "np"})
HEADERS = {"a/1.safetensors": safetensors(described(FIRST))[0], "a/2.safetensors": safetensors(described(SECOND))[0]}
FILES = {"a/1.safetensors": safetensors(described(FIRST))[1], "a/2.safetensors": safetensors(described(SECOND))[1]}


def one(pair: KeyPair, directory: Path, **options: Any) -> sentry.Bundle:
    """Sign a model of one safetensors file, and others."""
    write_files(directory / "model", {"model.safetensors": FILE, "config.json": b"{}"})
    return sentry.sign_path(directory / "model", pair.signer, **options)


@pytest.mark.parametrize("choice", ["sha256+blake3", "sha256", "blake3", "blake2b"])
def test_tensors_of_a_signed_file_are_verified_under_its_best_hash(pair: KeyPair, tmp_path: Path, choice: str) -> None:
    evidence = sentry.verify_model(MODEL, one(pair, tmp_path, hash=choice, name="tiny"), pair.trust, header=HEADER)
    assert evidence.hashes == (choice.rsplit("+", maxsplit=1)[-1],)
    assert evidence.unchecked_hashes == (("sha256",) if "+" in choice else ())
    assert evidence.tensors == ("embed", "head", "norm", "steps")
    assert evidence.nbytes == len(FILE)
    assert evidence.unchecked_files == ("config.json",)
    assert evidence.name == "tiny"
    assert evidence.to_json()["unchecked_files"] == ["config.json"]


def test_tensors_of_several_files_are_verified(pair: KeyPair) -> None:
    evidence = sentry.verify_model(MODEL, forge(pair, FILES), pair.trust, header=HEADERS)
    assert evidence.nbytes == sum(map(len, FILES.values()))


def test_a_signed_single_file_is_verified(pair: KeyPair, tmp_path: Path) -> None:
    write_files(tmp_path, {"model.safetensors": FILE})
    bundle = sentry.sign_path(tmp_path / "model.safetensors", pair.signer)
    for header in (HEADER, {".": HEADER}):
        sentry.verify_model(MODEL, bundle, pair.trust, header=header)
    with pytest.raises(sentry.SignatureError, match=r"no such safetensors file is signed: model.safetensors"):
        sentry.verify_model(MODEL, bundle, pair.trust, header={"model.safetensors": HEADER})


def test_a_signature_without_sizes_and_header_digests_is_verified(pair: KeyPair) -> None:
    value = statement_without_annotations(FILES)
    bundle = sign_payload(pair, oms_reference.payload(value))
    sentry.verify_model(MODEL, bundle, pair.trust, header=HEADERS)
    changed = {**HEADERS, "a/1.safetensors": safetensors(described(FIRST), {"a": "b"})[0]}
    with pytest.raises(sentry.MismatchError, match=r"changed: head \(bytes differ somewhere in its file\), norm"):
        sentry.verify_model(MODEL, bundle, pair.trust, header=changed)


def test_without_a_signed_digest_a_long_header_is_not_parsed(pair: KeyPair) -> None:
    bundle = sign_payload(pair, oms_reference.payload(statement_without_annotations({"w.safetensors": FILE})))
    long = safetensors(described(MODEL), {"x": "y" * 8 * 1024 * 1024})[0]
    with pytest.raises(sentry.MismatchError, match=r"'w.safetensors' is larger than 8388608 bytes"):
        sentry.verify_model(MODEL, bundle, pair.trust, header=long)


Given = bytes | Mapping[str, bytes] | None
TWO_FILES: dict[str, tuple[Given, type[Exception], str]] = {
    "none": (None, sentry.SignatureError, "the signature is over files, and no header was given"),
    "one for two": (HEADER, sentry.SignatureError, "the signature lists 2 safetensors files, and one header was given"),
    "only one of two": (
        {"a/1.safetensors": HEADERS["a/1.safetensors"]},
        sentry.SignatureError,
        r"no header was given for a/2\.safetensors",
    ),
    "by base name": (
        {"1.safetensors": HEADERS["a/1.safetensors"], "a/2.safetensors": HEADERS["a/2.safetensors"]},
        sentry.SignatureError,
        r"no such safetensors file is signed: 1\.safetensors",
    ),
    "exchanged": (
        {"a/1.safetensors": HEADERS["a/2.safetensors"], "a/2.safetensors": HEADERS["a/1.safetensors"]},
        sentry.MismatchError,
        r"the header given for 'a/1\.safetensors' is not the signed one",
    ),
    "no bytes": ({"a/1.safetensors": "x", "a/2.safetensors": "y"}, TypeError, "header must be bytes, or a mapping"),  # type: ignore[dict-item]
    "a string": ("x", TypeError, "header must be bytes, or a mapping"),  # type: ignore[dict-item]
}


@pytest.mark.parametrize(("header", "kind", "reason"), TWO_FILES.values(), ids=TWO_FILES.keys())
def test_headers_must_be_those_of_exactly_the_signed_files(
    pair: KeyPair, header: Given, kind: type[Exception], reason: str
) -> None:
    with pytest.raises(kind, match=reason):
        sentry.verify_model(MODEL, forge(pair, FILES), pair.trust, header=header)


def swapped_tensors() -> dict[str, Any]:
    return {**MODEL, "head": MODEL["embed"], "embed": MODEL["head"]}


ATTACKS: dict[str, tuple[dict[str, Any], str]] = {
    "a bit": (
        arrays(norm=np.array([1, 1, 1, 2], np.float16)),
        r"changed: embed \(bytes differ somewhere in its file\)",
    ),
    "two tensors swapped": (swapped_tensors(), r"changed: embed \(bytes differ somewhere in its file\), head"),
    "a tensor renamed": (
        {**{name: array for name, array in MODEL.items() if name != "norm"}, "norm2": MODEL["norm"]},
        r"missing: norm; not signed: norm2$",
    ),
    "a tensor reshaped": (arrays(embed=MODEL["embed"].reshape(4, 3)), r"embed \(shape \[4, 3\], signed \[3, 4\]\)$"),
    "a tensor of another type": (arrays(embed=MODEL["embed"].view("i4")), r"embed \(dtype I32, signed F32\)$"),
    "a tensor added": (arrays(more=np.zeros(0)), r"not signed: more$"),
    "a tensor removed": (arrays(steps=None), r"missing: steps$"),
}


@pytest.mark.parametrize(("model", "reason"), ATTACKS.values(), ids=ATTACKS.keys())
def test_tensors_that_are_not_the_files_are_refused(
    pair: KeyPair, tmp_path: Path, model: dict[str, Any], reason: str
) -> None:
    with pytest.raises(sentry.MismatchError, match=reason):
        sentry.verify_model(model, one(pair, tmp_path), pair.trust, header=HEADER)


def test_the_header_of_another_file_is_refused(pair: KeyPair, tmp_path: Path) -> None:
    other = safetensors(described(MODEL))[0]
    with pytest.raises(sentry.MismatchError, match=r"the header given for 'model\.safetensors' is not the signed one"):
        sentry.verify_model(MODEL, one(pair, tmp_path), pair.trust, header=other)


def test_names_exchanged_in_header_and_model_alike_are_refused(pair: KeyPair) -> None:
    # Nothing but the digest knows the header here.
    bundle = sign_payload(pair, oms_reference.payload(statement_without_annotations({"w.safetensors": FILE})))
    model = swapped_tensors()
    with pytest.raises(sentry.MismatchError, match="bytes differ somewhere in its file"):
        sentry.verify_model(model, bundle, pair.trust, header=HEADER)
    exchanged = HEADER.replace(b'"embed"', b'"headX"').replace(b'"head"', b'"embed"').replace(b'"headX"', b'"head"')
    with pytest.raises(sentry.MismatchError, match="bytes differ somewhere in its file"):
        sentry.verify_model(model, bundle, pair.trust, header=exchanged)


def test_a_name_in_two_files_is_refused(pair: KeyPair) -> None:
    files = {"a.safetensors": FILE, "b.safetensors": FILE}
    with pytest.raises(sentry.MismatchError, match=r"'embed' of 'b\.safetensors' is in another file as well"):
        sentry.verify_model(MODEL, forge(pair, files), pair.trust, header=dict.fromkeys(files, HEADER))


def test_a_signed_size_that_is_not_the_files_is_refused(pair: KeyPair) -> None:
    def edit(statement: Any) -> None:
        statement["predicate"]["resources"][0]["annotations"]["size"] = str(len(FILE) + 1)

    with pytest.raises(sentry.MismatchError, match=r"does not describe the file: the tensors take 112 bytes"):
        sentry.verify_model(MODEL, forge(pair, {"w.safetensors": FILE}, edit), pair.trust, header=HEADER)


def test_a_file_with_bytes_behind_its_tensors_is_refused(pair: KeyPair) -> None:
    files = {"w.safetensors": FILE + b"x"}
    with pytest.raises(sentry.MismatchError, match=r"the tensors take 112 bytes, and the file has 113 for them"):
        sentry.verify_model(MODEL, forge(pair, files), pair.trust, header=HEADER)
    bare = sign_payload(pair, oms_reference.payload(seal(statement_without_annotations(files))))
    with pytest.raises(sentry.MismatchError, match="bytes differ somewhere in its file"):
        sentry.verify_model(MODEL, bare, pair.trust, header=HEADER)


NO_USE: dict[str, tuple[Callable[[KeyPair], sentry.Bundle], str]] = {
    "shards": (lambda pair: forge(pair, {"w.safetensors": FILE}, shard_bytes=64), "the signature is over shards"),
    "no safetensors": (lambda pair: forge(pair, {"w.bin": FILE}), "the signature lists no safetensors file"),
    "only in a name": (
        lambda pair: forge(pair, {"w.safetensors/x.bin": FILE, "w.safetensors.bak": FILE}),
        "the signature lists no safetensors file",
    ),
}


@pytest.mark.parametrize(("make", "reason"), NO_USE.values(), ids=NO_USE.keys())
def test_signatures_that_tensors_cannot_be_checked_against_are_refused(
    pair: KeyPair, make: Callable[[KeyPair], sentry.Bundle], reason: str
) -> None:
    with pytest.raises(sentry.SignatureError, match=reason) as caught:
        sentry.verify_model(MODEL, make(pair), pair.trust, header=HEADER)
    assert caught.value.hint


def test_a_file_without_tensors_is_verified_by_its_header(pair: KeyPair) -> None:
    header, file = safetensors([], {"a": "b"})
    bundle = sign_payload(pair, oms_reference.payload(statement_without_annotations({"w.safetensors": file})))
    sentry.verify_model({}, bundle, pair.trust, header=header)
    with pytest.raises(sentry.MismatchError, match="a safetensors file without tensors is not the signed one"):
        sentry.verify_model({}, bundle, pair.trust, header=safetensors([], {"a": "c"})[0])


def test_a_signer_who_lies_about_one_of_two_hashes_is_found_where_that_one_is_checked(pair: KeyPair) -> None:
    def edit(statement: Any) -> None:
        statement["predicate"]["resources"][0]["annotations"]["blake3"] = "00" * 32

    with pytest.raises(sentry.MismatchError, match="bytes differ somewhere in its file"):
        sentry.verify_model(MODEL, forge(pair, {"w.safetensors": FILE}, edit), pair.trust, header=HEADER)


def test_a_tensor_statement_is_not_an_update_of_files(pair: KeyPair, tmp_path: Path) -> None:
    with pytest.raises(sentry.SignatureError, match="what was signed is not a tensor statement"):
        sentry.update_model(MODEL, one(pair, tmp_path), pair.signer, pair.trust)
    assert encode_tensors(build_tensor_manifest(MODEL)) == sentry.sign_model(MODEL, pair.signer).envelope.payload
