# SPDX-License-Identifier: Apache-2.0
"""safetensors headers: every rule of docs/format.md has an input that breaks nothing else, and its own reason."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from reference import safetensors_reference

from sentry.errors import FormatError
from sentry.formats.safetensors import (
    DTYPE_BITS,
    MAX_DIMENSIONS,
    MAX_HEADER_BYTES,
    Header,
    header_nbytes,
    parse_header,
)

W = '"w":{"dtype":"U8","shape":[4],"data_offsets":[0,4]}'


def packed(text: str | bytes, nbytes: int | None = None) -> bytes:
    """Put a length field before a header."""
    data = text.encode() if isinstance(text, str) else text
    return (len(data) if nbytes is None else nbytes).to_bytes(8, "little") + data


def parse(text: str | bytes, payload: int = 4) -> Header:
    """Parse a header of a file whose payload has so many bytes."""
    data = packed(text)
    return parse_header(data, file_nbytes=len(data) + payload)


def tensor(dtype: object = "U8", shape: object = (4,), offsets: object = (0, 4), **more: object) -> dict[str, object]:
    return {"dtype": dtype, "shape": shape, "data_offsets": offsets, **more}


def header(**tensors: object) -> str:
    return json.dumps(tensors)


def without(field: str) -> str:
    entry = tensor()
    del entry[field]
    return header(w=entry)


def shape(text: str) -> str:
    """Return a header whose tensor has a shape as it is written here."""
    return f'{{"w":{{"dtype":"U8","shape":[{text}],"data_offsets":[0,4]}}}}'


def offsets(text: str) -> str:
    return f'{{"w":{{"dtype":"U8","shape":[4],"data_offsets":[{text}]}}}}'


def metadata(text: str) -> str:
    return f'{{"__metadata__":{text},{W}}}'


REFUSED: dict[str, tuple[str | bytes, str]] = {
    # JSON
    "empty": ("", "does not begin with"),
    "leading space": (" {" + W + "}", "does not begin with"),
    "leading line break": ("\n{" + W + "}", "does not begin with"),
    "byte-order mark": (b"\xef\xbb\xbf{" + W.encode() + b"}", "does not begin with"),
    "UTF-16": (("{" + W + "}").encode("utf-16-le"), "is not JSON"),
    "an array": ("[" + W + "]", "does not begin with"),
    "a string": ('"w"', "does not begin with"),
    "null": ("null", "does not begin with"),
    "cut": ("{" + W, "is not JSON"),
    "text behind": ("{" + W + "}x", "is not JSON"),
    "another object behind": ("{" + W + "}{}", "is not JSON"),
    "a zero behind": ("{" + W + "}\0", "is not JSON"),
    "a form feed behind": ("{" + W + "}\f", "is not JSON"),
    "a comment": ("{/**/" + W + "}", "is not JSON"),
    "a comma too many": ("{" + W + ",}", "is not JSON"),
    "single quotes": ("{" + W.replace('"', "'") + "}", "is not JSON"),
    "a control character": (header(w=tensor()).replace('"w"', '"w\n"'), "is not JSON"),
    "not UTF-8": (b'{"\xff":' + W.encode()[4:] + b"}", "is not UTF-8"),
    "overlong UTF-8": (b'{"\xc1\xb7":' + W.encode()[4:] + b"}", "is not UTF-8"),
    "a raw surrogate": (b'{"\xed\xa0\x80":' + W.encode()[4:] + b"}", "is not UTF-8"),
    "a lone high surrogate": (r'{"\ud800":' + W[4:] + "}", "half a surrogate pair"),
    "a lone low surrogate": (r'{"\uDC00":' + W[4:] + "}", "half a surrogate pair"),
    "halves in the wrong order": (r'{"\udc00\ud800":' + W[4:] + "}", "half a surrogate pair"),
    "half a pair in the metadata": (metadata(r'{"a":"\ud800"}'), "half a surrogate pair"),
    "a tensor twice": ("{" + W + "," + W + "}", "a key twice"),
    "a tensor twice, once with an escape": ("{" + W + r',"\u0077":' + W[4:] + "}", "a key twice"),
    "metadata twice": ('{"__metadata__":{},"__metadata__":{},' + W + "}", "a key twice"),
    "metadata twice, once with an escape": (r'{"__metadata__":{},"\u005f_metadata__":{},' + W + "}", "a key twice"),
    "a dtype twice": ("{" + W.replace('"shape"', '"dtype":"U8","shape"') + "}", "a key twice"),
    "a field twice, once with an escape": ("{" + W.replace('"shape"', r'"\u0064type":"U8","shape"') + "}", "key twice"),
    "a key twice in the metadata": (metadata('{"a":"1","a":"1"}'), "a key twice"),
    "NaN": (shape("NaN"), "NaN and infinities"),
    "infinity": (offsets("0,Infinity"), "NaN and infinities"),
    "minus infinity": (offsets("-Infinity,4"), "NaN and infinities"),
    "a number beyond all doubles": (shape("1e400"), "a number is too large"),
    "2^63": (shape("9223372036854775808"), "an integer is too large"),
    "-2^63": (offsets("-9223372036854775808,4"), "an integer is too large"),
    "2^64 + 4": (offsets("0,18446744073709551620"), "an integer is too large"),
    "5,000 digits": (shape("4" * 5000), "an integer is too large"),
    "a leading zero": (shape("04"), "is not JSON"),
    "a plus sign": (shape("+4"), "is not JSON"),
    "a hexadecimal number": (shape("0x4"), "is not JSON"),
    "an underscore in a number": (shape("1_0"), "is not JSON"),
    "another script's digit": (shape("٤"), "is not JSON"),
    "33 levels": (metadata("[" * 32 + "]" * 32), "nested too deeply"),
    "100,000 levels": (metadata("[" * 100_000 + "]" * 100_000), "nested too deeply"),
    # the metadata
    "metadata: null": (metadata("null"), "the safetensors metadata is not an object of strings"),
    "metadata: an array": (metadata("[]"), "the safetensors metadata is not an object of strings"),
    "metadata: a string": (metadata('"a"'), "the safetensors metadata is not an object of strings"),
    "metadata: a number": (metadata('{"a":1}'), "the safetensors metadata is not an object of strings"),
    "metadata: null within": (metadata('{"a":null}'), "the safetensors metadata is not an object of strings"),
    "metadata: an object within": (metadata('{"a":{}}'), "the safetensors metadata is not an object of strings"),
    "metadata: a tensor": (metadata(json.dumps(tensor())), "the safetensors metadata is not an object of strings"),
    # fields
    "a tensor: null": ('{"w":null}', "the tensor 'w' is not an object"),
    "a tensor: an array": ('{"w":["U8",[4],[0,4]]}', "the tensor 'w' is not an object"),
    "a tensor: a string": ('{"w":"U8"}', "the tensor 'w' is not an object"),
    "metadata under another name": ('{"__metadata":{"a":"b"},' + W + "}", "the tensor '__metadata' has no 'dtype'"),
    "metadata in other letters": ('{"__METADATA__":{"a":"b"},' + W + "}", "the tensor '__METADATA__' has no 'dtype'"),
    "no dtype": (without("dtype"), "the tensor 'w' has no 'dtype'"),
    "no shape": (without("shape"), "the tensor 'w' has no 'shape'"),
    "no offsets": (without("data_offsets"), "the tensor 'w' has no 'data_offsets'"),
    "an unknown field": (header(w=tensor(strides=[1])), "the tensor 'w' has an unknown field 'strides'"),
    "a field in other letters": (header(w=tensor(Shape=[4])), "the tensor 'w' has an unknown field 'Shape'"),
    "dtype: a number": (header(w=tensor(8)), "'dtype' that is not a string"),
    "dtype: an array": (header(w=tensor(["U8"])), "'dtype' that is not a string"),
    "shape: a number": (header(w=tensor(shape=4)), "'shape' that is not an array"),
    "shape: null": (header(w=tensor(shape=None)), "'shape' that is not an array"),
    "shape: an object": (header(w=tensor(shape={"0": 4})), "'shape' that is not an array"),
    "offsets: an object": (header(w=tensor(offsets={"0": 0, "1": 4})), "'data_offsets' that is not an array"),
    "dtype: unknown": (header(w=tensor("U4")), "the tensor 'w' has an unknown dtype 'U4'"),
    "dtype: in other letters": (header(w=tensor("u8")), "the tensor 'w' has an unknown dtype 'u8'"),
    "dtype: empty": (header(w=tensor("")), "the tensor 'w' has an unknown dtype ''"),
    "dtype: with a space": (header(w=tensor("U8 ")), "the tensor 'w' has an unknown dtype 'U8 '"),
    # integers
    "shape: a float": (shape("4.0"), "the shape of the tensor 'w' are not non-negative integers"),
    "shape: an exponent": (shape("4e0"), "the shape of the tensor 'w' are not non-negative integers"),
    "shape: a large exponent": (shape("1e2"), "the shape of the tensor 'w' are not non-negative integers"),
    "shape: negative": (shape("-4"), "the shape of the tensor 'w' are not non-negative integers"),
    "shape: two negative": (shape("-2,-2"), "the shape of the tensor 'w' are not non-negative integers"),
    "shape: true": (shape("4,true"), "the shape of the tensor 'w' are not non-negative integers"),
    "shape: false": (shape("false"), "the shape of the tensor 'w' are not non-negative integers"),
    "shape: a string": (shape('"4"'), "the shape of the tensor 'w' are not non-negative integers"),
    "shape: null within": (shape("4,null"), "the shape of the tensor 'w' are not non-negative integers"),
    "shape: nested": (shape("[4]"), "the shape of the tensor 'w' are not non-negative integers"),
    "offsets: floats": (offsets("0.0,4.0"), "the offsets of the tensor 'w' are not non-negative integers"),
    "offsets: an exponent": (offsets("0,4E0"), "the offsets of the tensor 'w' are not non-negative integers"),
    "offsets: minus zero": (offsets("-0,4"), "the offsets of the tensor 'w' are not non-negative integers"),
    "offsets: negative": (offsets("-4,0"), "the offsets of the tensor 'w' are not non-negative integers"),
    "offsets: false": (offsets("false,4"), "the offsets of the tensor 'w' are not non-negative integers"),
    "offsets: strings": (offsets('"0","4"'), "the offsets of the tensor 'w' are not non-negative integers"),
    "offsets: none": (offsets(""), "the offsets of the tensor 'w' are not a range"),
    "offsets: one": (offsets("4"), "the offsets of the tensor 'w' are not a range"),
    "offsets: three": (offsets("0,2,4"), "the offsets of the tensor 'w' are not a range"),
    "offsets: backwards": (offsets("4,0"), "the offsets of the tensor 'w' are not a range"),
    # sizes
    "65 dimensions": (shape(",".join(["1"] * 65)), "the tensor 'w' has more than 64 dimensions"),
    "10,000 dimensions": (shape(",".join(["1"] * 10_000)), "the tensor 'w' has more than 64 dimensions"),
    "2^63 elements": (shape("2147483648,4294967296"), "more elements than there are bytes anywhere"),
    "2^64 + 4 elements": (shape("4611686018427387905,4"), "more elements than there are bytes anywhere"),
    "zero hides an overflow": (shape("0,4294967296,4294967296"), "more elements than there are bytes anywhere"),
    "zero behind an overflow": (shape("4294967296,4294967296,0"), "more elements than there are bytes anywhere"),
    "more dimensions hide an overflow": (shape(",".join(["2"] * 63)), "more elements than there are bytes anywhere"),
    "too few bytes": (header(w=tensor(shape=[5])), "not as far apart as its shape says"),
    "too many bytes": (header(w=tensor(shape=[3])), "not as far apart as its shape says"),
    "bits taken for bytes": (header(w=tensor("F32", [4])), "not as far apart as its shape says"),
    "nothing for something": (header(w=tensor(shape=[1], offsets=[0, 0])), "not as far apart as its shape says"),
    "something for nothing": (header(w=tensor(shape=[0])), "not as far apart as its shape says"),
    "half a byte": (header(w=tensor("F4", [7])), "the tensor 'w' ends within a byte"),
    "half a byte of a scalar": (header(w=tensor("F4", [], [0, 1])), "the tensor 'w' ends within a byte"),
    "six bits": (header(w=tensor("F6_E2M3", [1], [0, 1])), "the tensor 'w' ends within a byte"),
    "18 bits": (header(w=tensor("F6_E3M2", [3], [0, 2])), "the tensor 'w' ends within a byte"),
    # cover
    "the first does not begin at 0": (header(w=tensor(shape=[3], offsets=[1, 4])), "'w' does not begin where"),
    "a gap": (header(a=tensor(shape=[1], offsets=[0, 1]), b=tensor(shape=[2], offsets=[2, 4])), "'b' does not begin"),
    "an overlap": (header(a=tensor(shape=[3], offsets=[0, 3]), b=tensor(shape=[2], offsets=[2, 4])), "'b' does not"),
    "the same bytes twice": (header(a=tensor(), b=tensor()), "'b' does not begin where"),
    "one within the other": (header(a=tensor(), b=tensor(shape=[1], offsets=[1, 2])), "'b' does not begin where"),
    "nothing within another": (header(a=tensor(), b=tensor(shape=[0], offsets=[2, 2])), "'b' does not begin where"),
    "nothing behind the end": (header(a=tensor(), b=tensor(shape=[0], offsets=[5, 5])), "'b' does not begin where"),
    "bytes behind the last": (header(w=tensor(shape=[3], offsets=[0, 3])), "take 3 bytes, and the file has 4 for them"),
    "a payload of no tensor": ("{}", "take 0 bytes, and the file has 4 for them"),
    "a payload too short": (header(w=tensor(shape=[5], offsets=[0, 5])), "take 5 bytes, and the file has 4 for them"),
    "a petabyte": (header(w=tensor(shape=[10**15], offsets=[0, 10**15])), "and the file has 4 for them"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_a_header_that_readers_could_understand_differently_is_refused(case: str) -> None:
    text, reason = REFUSED[case]
    with pytest.raises(FormatError, match=reason):
        parse(text)
    data = packed(text)
    with pytest.raises(ValueError):  # noqa: PT011  (the reference gives reasons of its own)
        safetensors_reference.read(data, len(data) + 4)


ACCEPTED: dict[str, tuple[str, int]] = {
    "no tensors": ("{}", 0),
    "only metadata": ('{"__metadata__":{"format":"pt"}}', 0),
    "empty metadata": (metadata("{}"), 4),
    "spaces behind": ("{" + W + "}" + " " * 100, 4),
    "line breaks within and behind": ("{\n" + W.replace(",", " ,\r\n\t") + "\n}\n", 4),
    "a scalar": (header(w=tensor("I32", [])), 4),
    "nothing alone": (header(w=tensor(shape=[0], offsets=[0, 0])), 0),
    "nothing of many dimensions": (header(w=tensor("F64", [3, 0, 5], [0, 0])), 0),
    "nothing first, between and last": (
        header(
            a=tensor(shape=[0], offsets=[0, 0]), b=tensor(), c=tensor(shape=[0], offsets=[4, 4]),
            d=tensor(shape=[2], offsets=[4, 6]), e=tensor(shape=[0], offsets=[6, 6]),
        ),
        6,
    ),
    "any order": (header(b=tensor(offsets=[4, 8]), a=tensor(), n=tensor(shape=[0], offsets=[0, 0])), 8),
    "fields in any order": ('{"w":{"data_offsets":[0,4],"shape":[4],"dtype":"U8"}}', 4),
    "64 dimensions": (header(w=tensor(shape=[1] * 63 + [4])), 4),
    "a name of nothing": (header(**{"": tensor()}), 4),
    "a name with an escape": (r'{"\u0000\n\ud83d\ude00":' + W[4:] + "}", 4),
    "a name beyond ASCII": (json.dumps({"größe": tensor()}, ensure_ascii=False), 4),
    "the largest size": (header(w=tensor(shape=[2**63 - 1, 0], offsets=[0, 0])), 0),
    "packed four bits": (header(w=tensor("F4", [3, 2], [0, 3])), 3),
    "packed six bits": (header(w=tensor("F6_E2M3", [4], [0, 3]), v=tensor("F6_E3M2", [2, 2], [3, 6])), 6),
    "unaligned": (header(a=tensor(shape=[1], offsets=[0, 1]), b=tensor("F64", [1], [1, 9])), 9),
}  # fmt: skip


@pytest.mark.parametrize("case", ACCEPTED)
def test_a_header_that_is_one_description_of_every_byte_is_read_as_the_reference_reads_it(case: str) -> None:
    text, payload = ACCEPTED[case]
    parsed = parse(text, payload)
    data = packed(text)
    tensors, strings = safetensors_reference.read(data, len(data) + payload)
    found = [(entry.name, entry.dtype, entry.shape, entry.begin, entry.end) for entry in parsed.tensors]
    assert (found, parsed.metadata, parsed.data) == (tensors, strings, data)
    assert sum(entry.nbytes for entry in parsed.tensors) == payload


@pytest.mark.parametrize("dtype", DTYPE_BITS)
def test_every_dtype_takes_its_bits(dtype: str) -> None:
    nbytes = 8 * 3 * DTYPE_BITS[dtype] // 8
    assert parse(header(w=tensor(dtype, [3, 8], [0, nbytes])), nbytes).tensors[0].nbytes == nbytes
    for wrong in (nbytes - 1, nbytes + 1):
        with pytest.raises(FormatError, match="not as far apart"):
            parse(header(w=tensor(dtype, [3, 8], [0, wrong])), wrong)


def test_the_dtypes_are_the_documented_ones() -> None:
    assert dict(DTYPE_BITS) == safetensors_reference.BITS
    assert MAX_DIMENSIONS == safetensors_reference.MAX_DIMENSIONS
    assert MAX_HEADER_BYTES == safetensors_reference.MAX_HEADER


def test_long_names_do_not_make_long_messages() -> None:
    for text in (header(**{"w" * 10_000: 1}), header(w=tensor("U" * 10_000)), header(w=tensor(**{"x" * 10_000: 1}))):
        with pytest.raises(FormatError) as caught:
            parse(text)
        assert len(str(caught.value)) < 300


# --------------------------------------------------------------------------------------------- what others write


def test_what_the_safetensors_package_writes_is_read(tmp_path: Path) -> None:
    package: Any = pytest.importorskip("safetensors.numpy")
    numpy = pytest.importorskip("numpy")
    arrays = {
        "a": numpy.arange(6, dtype="<f4").reshape(2, 3),
        "b": numpy.zeros((0, 4), dtype="<i8"),
        "c": numpy.array(3, dtype="<u2"),
        "größe": numpy.ones(3, dtype=bool),
    }
    path = tmp_path / "w.safetensors"
    package.save_file(arrays, path, metadata={"format": "np"})
    data = path.read_bytes()
    parsed = parse_header(data[: header_nbytes(data[:8], file_nbytes=len(data))], file_nbytes=len(data))
    assert parsed.metadata == {"format": "np"}
    assert {entry.name: entry.shape for entry in parsed.tensors} == {name: a.shape for name, a in arrays.items()}
    for entry in parsed.tensors:
        payload = data[len(parsed.data) :]
        assert payload[entry.begin : entry.end] == arrays[entry.name].tobytes()
