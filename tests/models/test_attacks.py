# SPDX-License-Identifier: Apache-2.0
"""Attacks on signed models in memory: each is refused, for the reason that it is one."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from models.zoo import arrays, described
from reference import tensors_reference
from support import KeyPair, sign_payload

import sentry
from sentry.formats.bundle import KeyMaterial

Model = dict[str, Any]


def flipped(array: Any, bit: int) -> Any:
    """Flip one bit of a copy."""
    copy = array.copy()
    copy.reshape(-1).view(np.uint8)[bit // 8] ^= 1 << (bit % 8)
    return copy


def edited(**changes: Any) -> Callable[[Model], Model]:
    return lambda _: arrays(**changes)


def swapped(model: Model) -> Model:
    return {**model, "embed": model["head"], "head": model["embed"]}


def renamed(model: Model) -> Model:
    return {"Embed" if name == "embed" else name: array for name, array in model.items()}


BASE = arrays()
ATTACKS: dict[str, tuple[Callable[[Model], Model], dict[str, tuple[str, ...]], str]] = {
    "a bit flipped": (
        edited(embed=flipped(BASE["embed"], 200)),
        {"changed": ("embed",)},
        r"^the tensors are not what was signed; changed: embed \(bytes differ\)$",
    ),
    "two tensors swapped": (
        swapped,
        {"changed": ("embed", "head")},
        r"changed: embed \(bytes differ\), head \(bytes differ\)$",
    ),
    "a tensor renamed": (
        renamed,
        {"missing": ("embed",), "unexpected": ("Embed",)},
        r"; missing: embed; not signed: Embed$",
    ),
    "a tensor transposed": (
        edited(embed=BASE["embed"].reshape(4, 3)),
        {"changed": ("embed",)},
        r"changed: embed \(shape \[4, 3\], signed \[3, 4\]\)$",
    ),
    "a tensor flattened": (
        edited(steps=BASE["steps"].reshape(1)),
        {"changed": ("steps",)},
        r"changed: steps \(shape \[1\], signed \[\]\)$",
    ),
    "a tensor of another type": (
        edited(embed=BASE["embed"].view(np.int32)),
        {"changed": ("embed",)},
        r"changed: embed \(dtype I32, signed F32\)$",
    ),
    "a tensor of another type and shape": (
        edited(embed=BASE["embed"].view(np.uint8)),
        {"changed": ("embed",)},
        r"changed: embed \(dtype U8, signed F32; shape \[3, 16\], signed \[3, 4\]\)$",
    ),
    "a tensor added": (edited(extra=np.zeros(1)), {"unexpected": ("extra",)}, r"; not signed: extra$"),
    "an empty tensor added": (edited(extra=np.zeros(0)), {"unexpected": ("extra",)}, r"; not signed: extra$"),
    "a tensor removed": (edited(norm=None), {"missing": ("norm",)}, r"; missing: norm$"),
    "nothing left": (
        lambda _: {},
        {"missing": ("embed", "head", "norm", "steps")},
        r"; missing: embed, head, norm, steps$",
    ),
    "negative zero": (
        lambda model: {**model, "embed": np.where(model["embed"] == 0, np.float32(-0.0), model["embed"])},
        {"changed": ("embed",)},
        r"changed: embed \(bytes differ\)$",
    ),
}


@pytest.fixture
def bundle(pair: KeyPair) -> sentry.Bundle:
    return sentry.sign_model(arrays(), pair.signer)


@pytest.mark.parametrize(("attack", "names", "reason"), ATTACKS.values(), ids=ATTACKS.keys())
def test_a_model_that_is_not_the_signed_one_is_refused(
    pair: KeyPair,
    bundle: sentry.Bundle,
    attack: Callable[[Model], Model],
    names: dict[str, tuple[str, ...]],
    reason: str,
) -> None:
    with pytest.raises(sentry.MismatchError, match=reason) as caught:
        sentry.verify_model(attack(arrays()), bundle, pair.trust)
    found = {kind: getattr(caught.value, kind) for kind in ("missing", "unexpected", "changed")}
    assert {kind: listed for kind, listed in found.items() if listed} == names


def test_every_flipped_bit_is_found(pair: KeyPair, bundle: sentry.Bundle) -> None:
    for name, array in arrays().items():
        for bit in range(0, 8 * array.nbytes, 29):
            with pytest.raises(sentry.MismatchError, match=rf"changed: {name} \(bytes differ\)$"):
                sentry.verify_model(arrays(**{name: flipped(array, bit)}), bundle, pair.trust)


def test_tied_tensors_are_two_and_each_must_be_right(pair: KeyPair) -> None:
    tied = arrays(head=BASE["embed"], embed=BASE["embed"])
    bundle = sentry.sign_model(tied, pair.signer)
    sentry.verify_model(tied, bundle, pair.trust)
    sentry.verify_model({**tied, "head": BASE["embed"].copy()}, bundle, pair.trust)
    with pytest.raises(sentry.MismatchError, match=r"changed: head \(bytes differ\)$"):
        sentry.verify_model({**tied, "head": BASE["head"]}, bundle, pair.trust)


# ----------------------------------------------------------------------------------------------------- the signature


def test_a_signature_of_another_model_is_refused(pair: KeyPair) -> None:
    other = sentry.sign_model(arrays(embed=BASE["head"]), pair.signer)
    with pytest.raises(sentry.MismatchError, match=r"changed: embed \(bytes differ\)$"):
        sentry.verify_model(arrays(), other, pair.trust)


def test_a_signature_by_a_key_that_nobody_trusts_is_refused(pair: KeyPair, attacker: KeyPair) -> None:
    bundle = sentry.sign_model(arrays(), attacker.signer)
    with pytest.raises(sentry.SignatureError):
        sentry.verify_model(arrays(), bundle, pair.trust)
    renamed = replace(bundle, material=KeyMaterial(pair.trust.identity.name))
    with pytest.raises(sentry.SignatureError, match="the signature does not verify"):
        sentry.verify_model(arrays(), renamed, pair.trust)


def test_a_payload_that_was_edited_is_refused(pair: KeyPair, bundle: sentry.Bundle) -> None:
    payload = tensors_reference.write("blake3", described(arrays(embed=BASE["head"])))
    edited = replace(bundle, envelope=replace(bundle.envelope, payload=payload))
    with pytest.raises(sentry.SignatureError, match="the signature does not verify"):
        sentry.verify_model(arrays(embed=BASE["head"]), edited, pair.trust)


def test_the_signature_is_checked_before_the_model_is_looked_at(pair: KeyPair, attacker: KeyPair) -> None:
    with pytest.raises(sentry.SignatureError):
        sentry.verify_model({"w": object()}, sentry.sign_model(arrays(), attacker.signer), pair.trust)


@pytest.mark.parametrize("trust", [None, "public.pem", object()], ids=["none", "a path", "an object"])
def test_no_trust_is_no_verification(bundle: sentry.Bundle, trust: Any) -> None:
    with pytest.raises(sentry.TrustError, match="no trust was given"):
        sentry.verify_model(arrays(), bundle, trust)


@pytest.mark.parametrize(
    ("payload", "reason"),
    [
        (b"{", "what was signed is malformed: the statement is not JSON"),
        (b"[]", "what was signed is malformed: the statement is not an object"),
        ({"predicateType": "urn:artifact-sentry:dataset:v1"}, "what was signed is not a model manifest: "),
        ({"predicateType": "urn:artifact-sentry:tensors:v2"}, "what was signed is not a model manifest: "),
        ({"subject": [{"name": "model", "digest": {}}]}, "what was signed is malformed: the subject's digest"),
    ],
)  # fmt: skip
def test_a_statement_of_another_kind_is_refused(pair: KeyPair, payload: Any, reason: str) -> None:
    if isinstance(payload, dict):
        value = json.loads(tensors_reference.write("blake3", described(arrays())))
        payload = tensors_reference.payload({**value, **payload})
    with pytest.raises(sentry.SignatureError, match=reason):
        sentry.verify_model(arrays(), sign_payload(pair, payload), pair.trust)


def test_a_tensor_statement_never_verifies_files(pair: KeyPair, bundle: sentry.Bundle, model: Path) -> None:
    with pytest.raises(sentry.SignatureError, match="what was signed is not a model manifest"):
        sentry.verify_path(model, bundle, pair.trust)


def test_signatures_over_different_payloads_are_refused(pair: KeyPair, bundle: sentry.Bundle) -> None:
    other = sentry.sign_model(arrays(), pair.signer, version="2")
    with pytest.raises(sentry.SignatureError, match="the signatures are not over the same payload"):
        sentry.verify_model(arrays(), [bundle, other], pair.trust)
    with pytest.raises(sentry.SignatureError, match="there is no signature"):
        sentry.verify_model(arrays(), [], pair.trust)


def test_a_signature_file_is_read(pair: KeyPair, bundle: sentry.Bundle, tmp_path: Path) -> None:
    bundle.write(tmp_path / "tensors.sig")
    assert sentry.verify_model(arrays(), tmp_path / "tensors.sig", pair.trust).nbytes == 112
    with pytest.raises(sentry.SignatureError, match="there is no signature"):
        sentry.verify_model(arrays(), tmp_path / "none.sig", pair.trust)


def test_a_header_beside_a_tensor_statement_is_refused(pair: KeyPair, bundle: sentry.Bundle) -> None:
    with pytest.raises(sentry.SignatureError, match="the signature is over tensors, and a header was given"):
        sentry.verify_model(arrays(), bundle, pair.trust, header=b"\2\0\0\0\0\0\0\0{}")


class _Scaled:
    """Stands in for libraries' parameters that mean more than their bytes."""


def test_a_parameter_that_means_more_than_its_bytes_is_refused(pair: KeyPair) -> None:
    torch = pytest.importorskip("torch")
    subclass = type("Scaled", (torch.nn.Parameter, _Scaled), {})
    module = torch.nn.Linear(2, 2)
    bundle = sentry.sign_model(module, pair.signer)
    module.weight = subclass(module.weight.detach())
    with pytest.raises(sentry.MismatchError, match="is a Scaled, which may mean more than its bytes"):
        sentry.verify_model(module, bundle, pair.trust)


def test_a_tensor_that_reaches_beyond_its_memory_is_refused(pair: KeyPair) -> None:
    torch = pytest.importorskip("torch")
    tensor = torch.zeros(1 << 20)
    tensor.untyped_storage().resize_(16)
    with pytest.raises(sentry.RefusedError, match="reaches beyond the memory that it lies in"):
        sentry.sign_model({"w": tensor}, pair.signer)


def test_a_name_that_is_two_names_is_refused(pair: KeyPair) -> None:
    np = pytest.importorskip("numpy")
    name = type("Name", (str,), {"__str__": lambda _: "w"})("other")
    with pytest.raises(sentry.RefusedError, match="not a plain string"):
        sentry.sign_model({name: np.zeros(3)}, pair.signer)


def test_a_signature_over_tensors_is_not_mistaken_for_one_over_files(pair: KeyPair, tmp_path: Path) -> None:
    bundle = sentry.sign_model(arrays(), pair.signer)
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "x").write_bytes(b"x")
    with pytest.raises(sentry.SignatureError, match=r"about tensors in memory, which sentry.verify_model checks"):
        sentry.verify_path(tmp_path / "model", bundle, pair.trust)
