# SPDX-License-Identifier: Apache-2.0
"""Models of NumPy arrays, and of what looks like arrays: signed as the reference signs them, or refused by name."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from models.zoo import NUMPY_DTYPES, arrays, described
from reference import tensors_reference
from support import KeyPair

import sentry
from sentry.formats.tensors import decode_tensors
from sentry.named_tensors import name_tensors


def noise_of(dtype: str, shape: tuple[int, ...]) -> Any:
    values = np.random.default_rng(7).integers(0, 2 if dtype == "bool" else 100, shape)
    return np.asarray(values).astype(dtype)


@pytest.mark.parametrize("hash_name", ["blake3", "sha256", "blake2b", "merkle-sha256-1024"])
def test_a_model_is_signed_as_the_reference_signs_it(pair: KeyPair, hash_name: str) -> None:
    bundle = sentry.sign_model(arrays(), pair.signer, hash=hash_name, name="tiny", version="1")
    written = tensors_reference.write(hash_name, described(arrays()), name="tiny", version="1")
    assert bundle.envelope.payload == written
    evidence = sentry.verify_model(arrays(), bundle, pair.trust)
    assert evidence.hashes == (hash_name,)
    assert evidence.tensors == ("embed", "head", "norm", "steps")
    assert (evidence.name, evidence.nbytes, evidence.engine) == ("tiny", 112, "cpu")
    assert evidence.signers == (pair.trust.identity,)
    assert evidence.to_json()["verified"] is True
    assert evidence.to_json()["tensors"] == 4
    assert evidence.engine_reason == "auto: tensors are hashed where they lie"


@pytest.mark.parametrize("dtype", NUMPY_DTYPES)
@pytest.mark.parametrize("shape", [(), (0, 3), (5,), (2, 3, 4)], ids=str)
def test_every_dtype_and_shape_is_signed_by_its_value(pair: KeyPair, dtype: str, shape: tuple[int, ...]) -> None:
    array = noise_of(dtype, shape)
    written = tensors_reference.write("blake3", described({"w": array}))
    for same in (
        array,
        array.astype(array.dtype.newbyteorder(">")),
        np.array(array, order="F"),
        array[..., None][..., 0],
    ):
        assert sentry.sign_model({"w": same}, pair.signer).envelope.payload == written


def test_views_that_are_not_contiguous_are_signed_as_their_value(pair: KeyPair) -> None:
    array = noise_of("float32", (6, 8))
    for view in (array.T, array[::2, 1:], array[:, ::-1], np.broadcast_to(array[0], (3, 8))):
        written = tensors_reference.write("blake3", described({"w": np.array(view)}))
        assert sentry.sign_model({"w": view}, pair.signer).envelope.payload == written
        sentry.verify_model({"w": view}, sentry.sign_model({"w": np.array(view)}, pair.signer), pair.trust)


def test_only_what_must_be_is_copied() -> None:
    array = noise_of("float32", (6, 8))
    model = {"a": array, "b": array.T, "c": array.astype(">f4"), "d": array[0], "e": array[0, 0:1].reshape(())}
    assert [tensor.copied for tensor in name_tensors(model).tensors] == [False, True, True, False, False]


class Foreign:
    """An array of a library that only offers the common protocols."""

    def __init__(self, array: Any) -> None:
        self._array = array
        self.dtype, self.shape = array.dtype, array.shape

    def __array__(self, dtype: Any = None, copy: Any = None) -> Any:
        del dtype, copy
        return self._array

    def __dlpack_device__(self) -> tuple[int, int]:
        return (1, 0)


def test_arrays_of_other_libraries_are_signed_by_their_value(pair: KeyPair) -> None:
    model = {name: Foreign(array) for name, array in arrays().items()}
    assert sentry.sign_model(model, pair.signer).envelope.payload == tensors_reference.write(
        "blake3", described(arrays())
    )


class Matrix(np.ndarray):
    """An array that may mean something else than its bytes."""


class Gone(Foreign):
    """An array whose memory is gone."""

    def __dlpack_device__(self) -> tuple[int, int]:
        raise RuntimeError("Array has been \x1b[31mdeleted")


STRUCTURED = np.zeros(2, [("a", "f4"), ("b", "i4")])
REFUSED: dict[str, tuple[Any, str]] = {
    "a list": ([1.0], r"the tensor 'w' is of type list, not an array"),
    "bytes": (b"abc", r"the tensor 'w' is of type bytes, not an array"),
    "nothing": (None, r"the tensor 'w' is of type NoneType, not an array"),
    "a number": (1.0, r"the tensor 'w' is of type float, not an array"),
    "a numpy scalar": (np.float32(1), r"the tensor 'w' is of type float32, not an array"),
    "objects": (np.array([None]), r"the tensor 'w' is of type object, which has no canonical bytes"),
    "text": (np.array(["a"]), r"the tensor 'w' is of type <U1, which has no canonical bytes"),
    "records": (STRUCTURED, r"the tensor 'w' is of type \[\('a', '<f4'\), \('b', '<i4'\)\], which has no"),
    "dates": (np.zeros(1, "M8[s]"), r"the tensor 'w' is of type datetime64\[s\], which has no canonical bytes"),
    "long floats": (np.zeros(1, np.longdouble), r"the tensor 'w' is of type float128, which has no canonical bytes"),
    "a subclass": (np.zeros(2).view(Matrix), r"the tensor 'w' is a Matrix, which may mean more than its bytes"),
    "a masked array": (np.ma.zeros(2), r"the tensor 'w' is a MaskedArray, which may mean more than its bytes"),
    "a deleted one": (Gone(np.zeros(2)), r"does not hand out its memory: Array has been \\x1b\[31mdeleted"),
    "no memory": (SimpleNamespace(dtype=np.dtype("f4"), shape=(1,)), r"the tensor 'w' is of type object, which has no"),
}


@pytest.mark.parametrize(("value", "reason"), REFUSED.values(), ids=REFUSED.keys())
def test_what_bytes_do_not_stand_for_is_refused_by_name(pair: KeyPair, value: Any, reason: str) -> None:
    with pytest.raises(sentry.RefusedError, match=reason) as caught:
        sentry.sign_model({"v": np.zeros(2), "w": value}, pair.signer)
    assert caught.value.hint
    bundle = sentry.sign_model({"v": np.zeros(2), "w": np.zeros(2)}, pair.signer)
    with pytest.raises(sentry.MismatchError, match=reason) as mismatch:
        sentry.verify_model({"v": np.zeros(2), "w": value}, bundle, pair.trust)
    assert mismatch.value.changed == ("w",)
    assert mismatch.value.hint


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("", "a tensor has an empty name"),
        (7, "a tensor is called 7, which is not a plain string"),
        (b"w", "a tensor is called b'w', which is not a plain string"),
        ("w\udcff", r"the name 'w\\udcff' is not Unicode text"),
    ],
)
def test_a_name_that_is_none_is_refused(pair: KeyPair, name: Any, reason: str) -> None:
    with pytest.raises(sentry.RefusedError, match=reason) as caught:
        sentry.sign_model({name: np.zeros(2)}, pair.signer)
    assert caught.value.hint


@pytest.mark.parametrize("name", ["\x1b[31m", "a\nb", "\u202ew", " ", "é", "e\u0301", "a" * 5000])
def test_other_names_are_signed_and_shown_without_their_effect(pair: KeyPair, name: str) -> None:
    model = {name: np.zeros(2), "w": np.zeros(1)}
    bundle = sentry.sign_model(model, pair.signer)
    assert set(sentry.verify_model(model, bundle, pair.trust).tensors) == {name, "w"}
    with pytest.raises(sentry.MismatchError) as caught:
        sentry.verify_model({**model, name: np.ones(2)}, bundle, pair.trust)
    assert caught.value.changed == (name,)
    assert str(caught.value).isprintable()


@pytest.mark.parametrize(
    "model", [None, [np.zeros(2)], np.zeros(2), "model", object()], ids=lambda item: str(type(item))
)
def test_what_is_no_model_is_refused(pair: KeyPair, model: Any) -> None:
    with pytest.raises(TypeError, match=r"a model is a torch.nn.Module, or a mapping of names to arrays"):
        sentry.sign_model(model, pair.signer)


ARGUMENTS: dict[str, tuple[Callable[[KeyPair], object], type[Exception], str]] = {
    "no tensors": (lambda pair: sentry.sign_model({}, pair.signer), sentry.RefusedError, "lists no tensors"),
    "no signer": (lambda _: sentry.sign_model(arrays(), None), TypeError, "signer is not a signer"),  # type: ignore[arg-type]
    "another hash": (
        lambda pair: sentry.sign_model(arrays(), pair.signer, hash="md5"),
        ValueError,
        "there is no hash 'md5'",
    ),
    "another engine": (
        lambda pair: sentry.sign_model(arrays(), pair.signer, engine="tpu"),
        ValueError,
        "there is no engine 'tpu'",
    ),
    "another engine to verify": (
        lambda pair: sentry.verify_model(arrays(), "x.sig", pair.trust, engine="tpu"),
        ValueError,
        "there is no engine 'tpu'",
    ),
    "an empty name": (
        lambda pair: sentry.sign_model(arrays(), pair.signer, name=""),
        sentry.RefusedError,
        "'name' is empty",
    ),
}


@pytest.mark.parametrize(("act", "kind", "reason"), ARGUMENTS.values(), ids=ARGUMENTS.keys())
def test_arguments_without_a_meaning_are_refused(
    pair: KeyPair, act: Callable[[KeyPair], object], kind: type[Exception], reason: str
) -> None:
    with pytest.raises(kind, match=reason):
        act(pair)


def test_the_manifest_says_what_was_hashed(pair: KeyPair) -> None:
    manifest = decode_tensors(sentry.sign_model(arrays(), pair.signer).envelope.payload)
    assert [(tensor.name, tensor.dtype, tensor.shape, tensor.nbytes) for tensor in manifest.tensors] == [
        ("embed", "F32", (3, 4), 48),
        ("head", "F32", (3, 4), 48),
        ("norm", "F16", (4,), 8),
        ("steps", "I64", (), 8),
    ]
