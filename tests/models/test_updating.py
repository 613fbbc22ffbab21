# SPDX-License-Identifier: Apache-2.0
"""The next version of a signed model refers to the one before it."""

from __future__ import annotations

import hashlib
from dataclasses import replace

import numpy as np
import pytest
from models.zoo import arrays
from support import KeyPair

import sentry
from sentry.formats.tensors import TensorManifest, decode_tensors
from sentry.model_updating import ModelChanges, changed_tensors


def manifest_of(bundle: sentry.Bundle) -> TensorManifest:
    return decode_tensors(bundle.envelope.payload)


@pytest.fixture
def old(pair: KeyPair) -> sentry.Bundle:
    return sentry.sign_model(arrays(), pair.signer, hash="merkle-sha256-1024", name="tiny", version="1")


def test_an_update_keeps_hash_and_name_and_names_its_parent(pair: KeyPair, old: sentry.Bundle) -> None:
    model = arrays(norm=None, head=np.zeros((3, 4), np.float32), more=np.ones(2))
    new = sentry.update_model(model, old, pair.signer, pair.trust, version="2")
    evidence = sentry.verify_model(model, new, pair.trust)
    assert evidence.manifest.parent == hashlib.sha256(old.envelope.payload).hexdigest()
    assert evidence.to_json()["parent"] == evidence.manifest.parent
    assert (evidence.name, evidence.manifest.version, evidence.hashes) == ("tiny", "2", ("merkle-sha256-1024",))
    assert changed_tensors(manifest_of(old), manifest_of(new)) == ModelChanges(("more",), ("norm",), ("head",))
    with pytest.raises(sentry.MismatchError):
        sentry.verify_model(model, old, pair.trust)


def test_version_and_name_are_the_old_ones_unless_given(pair: KeyPair, old: sentry.Bundle) -> None:
    same = manifest_of(sentry.update_model(arrays(), old, pair.signer, pair.trust))
    assert (same.name, same.version) == ("tiny", "1")
    assert changed_tensors(manifest_of(old), same) == ModelChanges((), (), ())
    assert manifest_of(sentry.update_model(arrays(), old, pair.signer, pair.trust, name="big")).name == "big"


def test_a_tensor_of_another_shape_counts_as_changed(pair: KeyPair, old: sentry.Bundle) -> None:
    new = sentry.update_model(arrays(norm=np.ones((2, 2), np.float16)), old, pair.signer, pair.trust)
    assert changed_tensors(manifest_of(old), manifest_of(new)).changed == ("norm",)


def test_the_old_signature_must_be_by_a_trusted_signer(pair: KeyPair, attacker: KeyPair) -> None:
    foreign = sentry.sign_model(arrays(), attacker.signer)
    with pytest.raises(sentry.SignatureError):
        sentry.update_model(arrays(), foreign, pair.signer, pair.trust)
    with pytest.raises(sentry.TrustError, match="no trust was given"):
        sentry.update_model(arrays(), foreign, pair.signer, None)  # type: ignore[arg-type]


def test_an_old_payload_that_was_edited_is_refused(pair: KeyPair, old: sentry.Bundle) -> None:
    other = sentry.sign_model(arrays(norm=None), pair.signer)
    with pytest.raises(sentry.SignatureError, match="the signature does not verify"):
        sentry.update_model(
            arrays(),
            replace(old, envelope=replace(old.envelope, payload=other.envelope.payload)),
            pair.signer,
            pair.trust,
        )


def test_without_a_signer_nothing_is_looked_at(pair: KeyPair, old: sentry.Bundle) -> None:
    with pytest.raises(TypeError, match="signer is not a signer"):
        sentry.update_model(arrays(), old, None, pair.trust)  # type: ignore[arg-type]


def test_digests_under_different_hashes_are_not_compared(pair: KeyPair, old: sentry.Bundle) -> None:
    other = manifest_of(sentry.sign_model(arrays(), pair.signer))
    with pytest.raises(ValueError, match="digests under merkle-sha256-1024 and blake3 cannot be compared"):
        changed_tensors(manifest_of(old), other)
