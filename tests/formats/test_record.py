# SPDX-License-Identifier: Apache-2.0
"""Records: the preimage of a leaf, byte by byte, and what has no place in it."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from reference import trees, write_vectors

from sentry.errors import FormatError
from sentry.formats.digest import digest_bytes
from sentry.formats.record import LEAF_CONTEXT, ROLES, FieldType, Kind, Preimage, lay_out

VECTORS = json.loads(write_vectors.VECTORS.read_text(encoding="ascii"))["records"]
FIELD = FieldType("data", Kind.TENSOR, "F32", (2, 3), 24)
OTHER = FieldType("label", Kind.SCALAR, "I64", (), 8)


def lay(
    role: str = "sample",
    source: str = "s",
    key: str = "k",
    fields: tuple[FieldType, ...] = (FIELD, OTHER),
    hash_name: str = "blake3",
) -> Preimage:
    return lay_out(role, source, key, fields, hash_name=hash_name)


@pytest.mark.parametrize("vector", VECTORS, ids=lambda vector: f"{vector['hash']}-{vector['role']}-{vector['key']}")
def test_leaves_are_those_of_the_vector_file(vector: dict[str, Any]) -> None:
    fields = tuple(
        FieldType(name, Kind(kind), dtype, tuple(shape), nbytes)
        for name, kind, dtype, shape, nbytes in vector["fields"]
    )
    preimage = lay(vector["role"], vector["source"], vector["key"], fields, vector["hash"])
    digests = [trees.digest(vector["hash"], write_vectors.pattern(field.nbytes)) for field in fields]
    assert trees.blake3(preimage.fill(digests), context=LEAF_CONTEXT).hex() == vector["leaf"]


def test_the_preimage_is_laid_out_byte_by_byte_as_described() -> None:
    preimage = lay("tensor", "", "w\u00e9", (FIELD,), "sha256")
    expected = [
        ("role", "06000000" + b"tensor".hex()),
        ("source", "00000000"),
        ("key", "03000000" + "77c3a9"),
        ("number of fields", "0100"),
        ("name", "04000000" + b"data".hex()),
        ("kind", "02"),
        ("dtype", "03000000" + b"F32".hex()),
        ("number of dimensions", "02"),
        ("dimensions", "0200000000000000" + "0300000000000000"),
        ("nbytes", "1800000000000000"),
        ("hash", "06000000" + b"sha256".hex()),
        ("digest", "ab" * 32),
    ]
    assert preimage.fill([b"\xab" * 32]).hex() == "".join(text for _, text in expected)
    assert preimage.template.endswith(bytes(32))
    assert preimage.holes == (len(preimage.template) - 32,)
    assert preimage.order == (0,)


def test_a_record_without_fields_is_its_names_alone() -> None:
    preimage = lay("page", "src", "0", ())
    assert preimage.template.hex() == "04000000" + b"page".hex() + "03000000" + b"src".hex() + "0100000030" + "0000"
    assert (preimage.holes, preimage.order) == ((), ())
    assert preimage.fill([]) == preimage.template


def test_the_kinds_have_the_numbers_of_the_format() -> None:
    numbers = {"BYTES": 0, "UTF8": 1, "TENSOR": 2, "SCALAR": 3, "NESTED": 4, "NULL": 255}
    assert {kind.name: kind.value for kind in Kind} == numbers
    assert ROLES == ("tensor", "sample", "page")


@given(st.permutations(list("bBaé\u20acz")), st.sampled_from(["blake3", "blake2b", "merkle-sha256-8192"]))
def test_the_callers_order_of_fields_does_not_matter(names: list[str], hash_name: str) -> None:
    size = digest_bytes(hash_name)
    fields = tuple(FieldType(name, Kind.BYTES, "", (), ord(name)) for name in names)
    contents = [trees.HASHES["blake2b"](name.encode())[:size] for name in names]
    filled = lay(fields=fields, hash_name=hash_name).fill(contents)
    described = [
        trees.Field(name, 0, "", (), ord(name), content) for name, content in zip(names, contents, strict=True)
    ]
    assert filled == trees.record_preimage("sample", "s", "k", described, hash_name)


CHANGES: dict[str, Callable[[], Preimage]] = {
    "role": lambda: lay(role="page"),
    "source": lambda: lay(source="t"),
    "key": lambda: lay(key="l"),
    "a byte moved from source to key": lambda: lay(source="", key="sk"),
    "hash of the same size": lambda: lay(hash_name="sha256"),
    "a field less": lambda: lay(fields=(FIELD,)),
    "name": lambda: lay(fields=(replace(FIELD, name="datb"), OTHER)),
    "kind": lambda: lay(fields=(replace(FIELD, kind=Kind.BYTES, dtype="", shape=()), OTHER)),
    "dtype": lambda: lay(fields=(replace(FIELD, dtype="I32"), OTHER)),
    "shape": lambda: lay(fields=(replace(FIELD, shape=(3, 2)), OTHER)),
    "a dimension of one more": lambda: lay(fields=(replace(FIELD, shape=(2, 3, 1)), OTHER)),
    "nbytes": lambda: lay(fields=(replace(FIELD, nbytes=25), OTHER)),
}


@pytest.mark.parametrize("changed", CHANGES.values(), ids=CHANGES.keys())
def test_everything_about_a_record_is_in_its_preimage(changed: Callable[[], Preimage]) -> None:
    assert changed().template != lay().template


def test_the_largest_record_that_the_format_has_room_for_is_laid_out() -> None:
    field = FieldType("x", Kind.TENSOR, "U8", (2**64 - 1,) * 255, 2**64 - 1)
    assert lay(fields=(field,)).template.count(b"\xff" * 8) == 256


REFUSED: dict[str, tuple[Callable[[], Preimage], str]] = {
    "an unknown role": (lambda: lay(role="file"), "there is no role 'file'"),
    "a role in another case": (lambda: lay(role="Tensor"), "there is no role 'Tensor'"),
    "an endless role": (lambda: lay(role="x" * 1000), f"there is no role '{'x' * 80}'"),
    "one name twice": (lambda: lay(fields=(FIELD, FIELD)), "a record has two fields of one name"),
    "one name with two contents": (
        lambda: lay(fields=(FIELD, replace(OTHER, name="data"))),
        "a record has two fields of one name",
    ),
    "an unknown hash": (lambda: lay(hash_name="md5"), "there is no hash 'md5'"),
    "an unknown hash and no field": (lambda: lay(fields=(), hash_name="md5"), "there is no hash 'md5'"),
    "a negative length": (
        lambda: lay(fields=(replace(FIELD, nbytes=-1),)),
        "the field 'data' has no such shape or size",
    ),
    "a negative dimension": (
        lambda: lay(fields=(replace(FIELD, shape=(-1,)),)),
        "the field 'data' has no such shape or size",
    ),
    "too many dimensions": (
        lambda: lay(fields=(replace(FIELD, shape=(1,) * 256),)),
        "the field 'data' has no such shape or size",
    ),
}
# What struct and the text codec refuse in words, and with errors, of their own.
LEAKS: dict[str, Callable[[], Preimage]] = {
    "a length of 65 bits": lambda: lay(fields=(replace(FIELD, nbytes=2**64),)),
    "a dimension of 65 bits": lambda: lay(fields=(replace(FIELD, shape=(2**64,)),)),
    "more fields than 16 bits count": lambda: lay(
        fields=tuple(replace(FIELD, name=str(number)) for number in range(65536))
    ),
    "a key that is not text": lambda: lay(key="\ud800"),
    "a source that is not text": lambda: lay(source="\udfff"),
    "a field name that is not text": lambda: lay(fields=(replace(FIELD, name="\ud800"),)),
}
TAKEN: dict[str, Callable[[], Preimage]] = {
    "an unknown kind": lambda: lay(fields=(replace(FIELD, kind=7),)),  # type: ignore[arg-type]
    "a tensor with a source": lambda: lay(role="tensor", source="s", fields=(FIELD,)),
    "a scalar with dimensions": lambda: lay(fields=(replace(OTHER, shape=(2,)),)),
    "bytes with an element type": lambda: lay(fields=(replace(FIELD, kind=Kind.BYTES),)),
    "nothing with a length": lambda: lay(fields=(replace(FIELD, kind=Kind.NULL),)),
}


@pytest.mark.parametrize(("attempt", "reason"), REFUSED.values(), ids=REFUSED.keys())
def test_what_has_no_place_in_the_format_is_refused_for_its_reason(
    attempt: Callable[[], Preimage], reason: str
) -> None:
    with pytest.raises(FormatError) as caught:
        attempt()
    assert str(caught.value) == reason


@pytest.mark.parametrize("attempt", LEAKS.values(), ids=LEAKS.keys())
def test_what_does_not_fit_is_refused_as_a_format_error(attempt: Callable[[], Preimage]) -> None:
    with pytest.raises(FormatError):
        attempt()


@pytest.mark.parametrize("attempt", TAKEN.values(), ids=TAKEN.keys())
def test_what_contradicts_itself_is_refused(attempt: Callable[[], Preimage]) -> None:
    with pytest.raises(FormatError):
        attempt()


@pytest.mark.parametrize("sizes", [(32,), (32, 32, 32), (64, 32), (31, 32)])
def test_digests_that_do_not_fit_the_holes_are_refused(sizes: tuple[int, ...]) -> None:
    with pytest.raises(FormatError):
        lay().fill([bytes(size) for size in sizes])
