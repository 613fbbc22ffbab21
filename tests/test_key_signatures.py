# SPDX-License-Identifier: Apache-2.0
"""Signatures with bare keys: whose they are, over what, and what an unsigned hint is worth."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import pytest
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, utils
from support import CURVES, KeyPair

import sentry
from sentry.errors import SignatureError, TrustError
from sentry.formats.bundle import CertificateMaterial, KeyMaterial
from sentry.formats.dsse import Envelope, legacy_pae, pae
from sentry.trust import KEY_ALGORITHMS
from sentry.trust.keys import ALGORITHMS, KeyTrust, generate

PAYLOAD = b'{"it": "is not read"}'


def envelope(bundle: sentry.Bundle, **changes: Any) -> sentry.Bundle:
    return replace(bundle, envelope=replace(bundle.envelope, **changes))


@pytest.mark.parametrize("algorithm", CURVES)
def test_the_hash_goes_with_the_curve(key_pairs: Mapping[str, KeyPair], algorithm: str) -> None:
    pair = key_pairs[algorithm]
    own = {"ecdsa-p256": hashes.SHA256(), "ecdsa-p384": hashes.SHA384(), "ecdsa-p521": hashes.SHA512()}
    for name, hash_algorithm in own.items():
        signature = pair.key.sign(pae(PAYLOAD), ec.ECDSA(hash_algorithm))
        bundle = sentry.Bundle(KeyMaterial(""), Envelope(PAYLOAD, signature))
        if name == algorithm:
            assert pair.trust.verify(bundle).algorithm == algorithm
        else:
            with pytest.raises(SignatureError, match="the signature does not verify under this key"):
                pair.trust.verify(bundle)


@pytest.mark.parametrize("algorithm", CURVES)
def test_a_made_key_signs_and_is_told_apart_from_another(algorithm: str) -> None:
    assert set(KEY_ALGORITHMS) == set(ALGORITHMS) == set(CURVES)
    (_, first), (_, second) = generate(algorithm), generate(algorithm)
    assert first != second


def test_the_fingerprint_is_the_hash_of_the_public_key_file(pair: KeyPair) -> None:
    hint = hashlib.sha256(pair.public.read_bytes()).hexdigest()
    assert pair.signer.sign(PAYLOAD).material == KeyMaterial(hint)
    assert pair.trust.identity.name == pair.signer.identity.name == hint


def test_two_signatures_over_one_payload_differ(pair: KeyPair) -> None:
    # A nonce that repeats, or that is a constant, gives the private key away.
    r_values = {utils.decode_dss_signature(pair.signer.sign(PAYLOAD).envelope.signature)[0] for _ in range(20)}
    assert len(r_values) == 20


@pytest.mark.parametrize("algorithm", CURVES)
def test_a_key_on_any_curve_refuses_another_key_s_signature(
    key_pairs: Mapping[str, KeyPair], attacker: KeyPair, algorithm: str
) -> None:
    bundle = attacker.signer.sign(PAYLOAD)
    trust = key_pairs[algorithm].trust
    with pytest.raises(SignatureError, match="the signature was made with another key") as caught:
        trust.verify(bundle)
    assert caught.value.hint is not None
    assert trust.identity.name in caught.value.hint
    with pytest.raises(SignatureError, match="the signature does not verify under this key"):
        trust.verify(replace(bundle, material=KeyMaterial("")))
    with pytest.raises(SignatureError, match="the signature does not verify under this key"):
        trust.verify(replace(bundle, material=KeyMaterial(trust.identity.name)))


@pytest.mark.parametrize(
    "raw_key",
    [
        lambda pem, _: pem,
        lambda pem, _: pem.strip(),
        lambda _, der: der,
    ],
)
def test_the_spellings_of_the_raw_key_that_older_tools_wrote_are_accepted(
    pair: KeyPair, raw_key: Callable[[bytes, bytes], bytes]
) -> None:
    der = pair.key.public_key().public_bytes(
        serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo
    )
    bundle = pair.signer.sign(PAYLOAD)
    pair.trust.verify(replace(bundle, material=KeyMaterial("", raw_key(pair.public.read_bytes(), der))))


def test_another_raw_key_is_refused(pair: KeyPair, attacker: KeyPair) -> None:
    bundle = pair.signer.sign(PAYLOAD)
    with pytest.raises(SignatureError, match="the signature was made with another key"):
        pair.trust.verify(replace(bundle, material=KeyMaterial("", attacker.public.read_bytes())))


@pytest.mark.parametrize("change", [lambda p: p + b" ", lambda p: p[:-1], lambda p: b"", lambda p: p.upper()])  # noqa: ARG005
def test_a_signature_over_other_bytes_is_refused(pair: KeyPair, change: Callable[[bytes], bytes]) -> None:
    bundle = pair.signer.sign(PAYLOAD)
    with pytest.raises(SignatureError, match="the signature does not verify under this key"):
        pair.trust.verify(envelope(bundle, payload=change(PAYLOAD)))


def test_other_spellings_and_values_of_a_signature_are_refused(pair: KeyPair) -> None:
    bundle = pair.signer.sign(PAYLOAD)
    signature = bundle.envelope.signature
    r, s = utils.decode_dss_signature(signature)
    order = 0xFFFFFFFF00000000FFFFFFFFFFFFFFFFBCE6FAADA7179E84F3B9CAC2FC632551
    raw = r.to_bytes(32, "big") + s.to_bytes(32, "big")
    long_form = b"\x30\x81" + signature[1:]
    others = [
        b"",
        b"\0",
        raw,
        signature + b"\0",
        signature[:-1],
        long_form,
        utils.encode_dss_signature(0, 0),
        utils.encode_dss_signature(r, 0),
        utils.encode_dss_signature(r, order),
        utils.encode_dss_signature(r + order, s),
        utils.encode_dss_signature(s, r),
    ]
    for other in others:
        with pytest.raises(SignatureError, match="the signature does not verify under this key"):
            pair.trust.verify(envelope(bundle, signature=other))


@pytest.mark.parametrize("encode", [legacy_pae, lambda payload: payload, lambda payload: pae(payload, "text/plain")])
def test_a_signature_over_another_encoding_is_refused(pair: KeyPair, encode: Callable[[bytes], bytes]) -> None:
    signature = pair.key.sign(encode(PAYLOAD), ec.ECDSA(hashes.SHA256()))
    bundle = sentry.Bundle(KeyMaterial(""), Envelope(PAYLOAD, signature))
    with pytest.raises(SignatureError, match="the signature does not verify under this key"):
        pair.trust.verify(bundle)
    if encode is legacy_pae:
        assert pair.trust.verify(bundle, insecure_legacy=True) == pair.trust.identity


def test_a_certificate_s_signature_is_not_a_key_s_even_if_the_key_is_the_same(pair: KeyPair) -> None:
    bundle = replace(pair.signer.sign(PAYLOAD), material=CertificateMaterial((b"certificate",)))
    with pytest.raises(TrustError, match="the signature was not made with a bare key"):
        pair.trust.verify(bundle)


def test_a_key_given_as_an_object_is_trusted_and_has_no_file(pair: KeyPair) -> None:
    trust = KeyTrust(pair.key.public_key())
    assert trust.sources == ()
    assert trust.verify(pair.signer.sign(PAYLOAD)) == pair.trust.identity
