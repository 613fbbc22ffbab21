# SPDX-License-Identifier: Apache-2.0
"""Tensor statements, read and written: one value, one payload, and everything else is refused."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
from reference import tensors_reference as reference

from sentry.errors import FormatError, RefusedError
from sentry.formats import strict_json
from sentry.formats.tensors import SignedTensor, TensorManifest, decode_tensors, encode_tensors

VECTORS = json.loads(reference.VECTORS.read_text(encoding="ascii"))
PAIR = [reference.tensor("b", "F32", 2, 3), reference.tensor("a", "I64", 0, 7)]
MANIFEST = decode_tensors(reference.write("blake3", PAIR))


def test_the_vector_file_is_the_references() -> None:
    assert reference.VECTORS.read_text(encoding="ascii") == reference.text()


@pytest.mark.parametrize("vector", VECTORS, ids=lambda vector: f"{vector['title']}-{vector['hash']}")
def test_payloads_of_the_vector_file_are_read_and_written_byte_for_byte(vector: dict[str, Any]) -> None:
    payload = vector["payload"].encode()
    manifest = decode_tensors(payload)
    described = [[tensor.name, tensor.dtype, list(tensor.shape)] for tensor in manifest.tensors]
    assert described == sorted([name, dtype, list(map(int, shape))] for name, dtype, shape in vector["tensors"])
    assert encode_tensors(manifest) == payload
    assert encode_tensors(replace(manifest, tensors=manifest.tensors[::-1])) == payload
    assert (manifest.hash, manifest.name) == (vector["hash"], vector["annotations"].get("name"))


def test_what_is_written_is_what_the_reference_accepts() -> None:
    reference.verify(encode_tensors(MANIFEST), PAIR)
    with pytest.raises(AssertionError):
        reference.verify(encode_tensors(MANIFEST), PAIR[:1])


# ------------------------------------------------------------------------------------------------------ what is refused

Edit = Callable[[dict[str, Any]], object]


def signed(edit: Edit, *, sealed: bool = True) -> bytes:
    """Write a statement that was edited; `sealed` makes its subject fit."""
    value = reference.statement(reference.predicate("blake3", PAIR, name="tiny"))
    edit(value)
    if sealed and isinstance(value["predicate"], dict) and value["subject"]:
        sha256 = hashlib.sha256(reference.canonical(value["predicate"]).encode()).hexdigest()
        value["subject"][0]["digest"] = {"sha256": sha256}
    return reference.payload(value)


def of_predicate(**changes: Any) -> Edit:
    return lambda value: value["predicate"].update(changes)


def of_tensor(number: int = 0, **changes: Any) -> Edit:
    return lambda value: value["predicate"]["tensors"][number].update(changes)


def of_subject(**changes: Any) -> Edit:
    return lambda value: value["subject"][0].update(changes)


REFUSED: dict[str, tuple[Edit, str]] = {
    "another predicate type": (
        lambda value: value.update(predicateType="urn:artifact-sentry:tensors:v2"),
        "predicate type is 'urn:artifact-sentry:tensors:v2'",
    ),
    "a predicate that is no object": (lambda value: value.update(predicate=[]), "the predicate is not an object"),
    "an unknown field": (of_predicate(extra="x"), "the predicate has an unknown field 'extra'"),
    "no hash": (lambda value: value["predicate"].pop("hash"), "the predicate has no 'hash'"),
    "an unknown hash": (of_predicate(hash="md5"), "there is no hash 'md5'"),
    "a hash of another length": (of_predicate(hash="blake2b"), "is not 128 lower-case hexadecimal digits"),
    "no tensors": (of_predicate(tensors=[]), "the statement lists no tensors"),
    "a tensor that is no object": (of_predicate(tensors=["a"]), "a tensor is not an object"),
    "an unknown field of a tensor": (of_tensor(offset="0"), "a tensor has an unknown field 'offset'"),
    "a tensor without a shape": (lambda v: v["predicate"]["tensors"][0].pop("shape"), "a tensor has no 'shape'"),
    "a name twice": (of_tensor(1, name="a"), "lists the tensor 'a' twice"),
    "names out of order": (of_tensor(0, name="c"), "the tensor 'b' is not in the order of names"),
    "an empty name": (of_tensor(0, name=""), "a tensor has an empty name"),
    "an unknown dtype": (of_tensor(0, dtype="F128"), "unknown dtype 'F128'"),
    "sizes that do not fit": (of_tensor(1, nbytes=20), "has 20 bytes, and its dtype and shape say otherwise"),
    "a shape that does not fit": (of_tensor(1, shape=[2, 2]), "has 24 bytes, and its dtype and shape say otherwise"),
    "half a byte": (of_tensor(1, dtype="F4", shape=[3], nbytes=1), "ends within a byte"),
    "a negative size": (of_tensor(1, shape=[-2, -3]), "the shape of the tensor 'b' is not in non-negative integers"),
    "a boolean size": (of_tensor(0, nbytes=False), "the size of the tensor 'a' is not in non-negative integers"),
    "a small number as a string": (of_tensor(1, nbytes="24"), "the size of the tensor 'b' is not in non-negative"),
    "a large number as a number": (of_tensor(0, shape=[0, 2**53]), "the shape of the tensor 'a' is not in non-neg"),
    "leading zeros": (of_tensor(0, shape=[0, "09007199254740992"]), "the shape of the tensor 'a' is not in non-neg"),
    "beyond 63 bits": (of_tensor(0, shape=[0, str(2**63)]), "the shape of the tensor 'a' is not in non-negative"),
    "other digits": (of_tensor(0, shape=[0, "٩٠٠٧١٩٩٢٥٤٧٤٠٩٩٣"]), "the shape of the tensor 'a' is not in non-neg"),
    "too many elements": (of_tensor(0, shape=[0, str(2**62), 4]), "more elements than there are bytes anywhere"),
    "too many dimensions": (of_tensor(0, shape=[0] * 65), "has more than 64 dimensions"),
    "an upper-case digest": (of_tensor(0, digest="AB" * 32), "is not 64 lower-case hexadecimal digits"),
    "a short digest": (of_tensor(0, digest="ab" * 31), "is not 64 lower-case hexadecimal digits"),
    "an empty version": (of_predicate(version=""), "the predicate's 'version' is empty"),
    "a version that is no text": (of_predicate(version=1), "has 'version' that is not a string"),
    "a parent that is no digest": (of_predicate(parent="ab"), "the predicate's parent is not 64 lower-case"),
    "no subject": (lambda value: value.update(subject=[]), "the statement has no subject"),
    "two subjects": (lambda v: v.update(subject=v["subject"] * 2), "the statement has 2 subjects, not one"),
    "a subject of another name": (of_subject(name="other"), "the subject is called 'other', not 'tiny'"),
    "a subject with annotations": (of_subject(annotations={"name": "x"}), "the subject has annotations"),
}  # fmt: skip


@pytest.mark.parametrize(("edit", "reason"), REFUSED.values(), ids=REFUSED.keys())
def test_a_statement_that_is_not_exactly_as_described_is_refused(edit: Edit, reason: str) -> None:
    with pytest.raises(FormatError) as caught:
        decode_tensors(signed(edit))
    assert reason in str(caught.value)


@pytest.mark.parametrize(
    "edit",
    [
        of_tensor(0, name="A"),
        of_predicate(version="2"),
        of_subject(digest={"sha256": "00" * 32}),
        of_subject(digest={}),
        lambda value: value["subject"][0]["digest"].update(sha512="00" * 64),
        lambda value: value["subject"][0]["digest"].update(sha256=value["subject"][0]["digest"]["sha256"].upper()),
    ],
)
def test_a_subject_that_is_not_the_predicates_is_refused(edit: Edit) -> None:
    with pytest.raises(FormatError, match="the subject's digest is not that of the predicate"):
        decode_tensors(signed(edit, sealed=False))


def test_a_key_twice_is_refused() -> None:
    payload = reference.write("blake3", PAIR).replace(b'"dtype":', b'"dtype":"U8","dtype":', 1)
    with pytest.raises(FormatError, match="an object has a key twice"):
        decode_tensors(payload)


TENSOR = SignedTensor("w", "U8", (2,), 2, bytes(32))
NOT_SIGNED: dict[str, tuple[TensorManifest, str]] = {
    "nothing": (TensorManifest("blake3", ()), "lists no tensors"),
    "a name twice": (TensorManifest("blake3", (TENSOR, TENSOR)), "lists the tensor 'w' twice"),
    "no text": (TensorManifest("blake3", (replace(TENSOR, name="\udcff"),)), "a string is not Unicode text"),
    "sizes that do not fit": (TensorManifest("blake3", (replace(TENSOR, nbytes=3),)), "has 3 bytes"),
    "an unknown hash": (TensorManifest("md5", (TENSOR,)), "there is no hash 'md5'"),
    "an empty version": (TensorManifest("blake3", (TENSOR,), version=""), "'version' is empty"),
}


@pytest.mark.parametrize(("manifest", "reason"), NOT_SIGNED.values(), ids=NOT_SIGNED.keys())
def test_what_no_verifier_would_accept_is_not_signed(manifest: TensorManifest, reason: str) -> None:
    with pytest.raises(RefusedError, match="cannot be signed") as caught:
        encode_tensors(manifest)
    assert reason in str(caught.value)


# ------------------------------------------------------------------------------------------------------ canonical JSON


@pytest.mark.parametrize(
    ("value", "text"),
    [
        ({"b": 1, "a": [], "B": {}}, '{"B":{},"a":[],"b":1}'),
        (['\u20ac$\x0f\nA\'B"\\\\"/', "\x7f\u2028"], '["\u20ac$\\u000f\\nA\'B\\"\\\\\\\\\\"/","\x7f\u2028"]'),
        ([0, -1, 2**53 - 1, -(2**53) + 1], "[0,-1,9007199254740991,-9007199254740991]"),
    ],
)
def test_canonical_json_is_that_of_rfc_8785(value: object, text: str) -> None:
    assert strict_json.canonical(value) == text.encode()
    assert reference.canonical(value) == text


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        ({"é": 1}, "a key is not ASCII"),
        ([2**53], "an integer is too large"),
        ([1.0], "a float has no canonical form"),
        ([True], "a bool has no canonical form"),
        ({"a": None}, "a NoneType has no canonical form"),
        ({1: "a"}, "a key is not ASCII"),
        (["\ud800"], "a string is not Unicode text"),
    ],
)
def test_what_has_no_canonical_form_here_is_refused(value: object, reason: str) -> None:
    with pytest.raises(FormatError, match=reason):
        strict_json.canonical(value)
