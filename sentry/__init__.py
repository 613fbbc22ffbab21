# SPDX-License-Identifier: Apache-2.0
"""Sentry authenticates machine-learning artifacts: who vouches for a model, and that nothing changed.

    >>> import sentry
    >>> bundle = sentry.sign_path("model", sentry.KeySigner.from_file("private.pem"))
    >>> bundle.write("model/model.sig")
    >>> sentry.verify_path("model", "model/model.sig", sentry.KeyTrust.from_file("public.pem"))

`verify_path` returns evidence, a `Verification`, or raises a `VerificationError`; it never returns a bool. Names are
loaded when they are first used, so that importing the package costs nothing.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from sentry.bundle import Bundle
    from sentry.errors import (
        EngineError,
        FormatError,
        MismatchError,
        RefusedError,
        SentryError,
        SignatureError,
        TrustError,
        UnavailableError,
        VerificationError,
    )
    from sentry.loading.loaded import VerifiedTensors, load_file
    from sentry.loading.modules import load_model
    from sentry.loading.opened import safe_open
    from sentry.materializing import materialize
    from sentry.model_signing import sign_model
    from sentry.model_updating import update_model
    from sentry.model_verification import ModelVerification
    from sentry.model_verifying import verify_model
    from sentry.signing import sign_path
    from sentry.trust.keys import KeySigner, KeyTrust
    from sentry.updating import Update, update_path
    from sentry.verification import Verification
    from sentry.verifying import verify_path
    from sentry.watching import Watch

__version__ = "0.1.0"

_HOMES = {
    "Bundle": "sentry.bundle",
    "EngineError": "sentry.errors",
    "FormatError": "sentry.errors",
    "KeySigner": "sentry.trust.keys",
    "KeyTrust": "sentry.trust.keys",
    "MismatchError": "sentry.errors",
    "ModelVerification": "sentry.model_verification",
    "RefusedError": "sentry.errors",
    "SentryError": "sentry.errors",
    "SignatureError": "sentry.errors",
    "TrustError": "sentry.errors",
    "UnavailableError": "sentry.errors",
    "Update": "sentry.updating",
    "Verification": "sentry.verification",
    "VerificationError": "sentry.errors",
    "VerifiedTensors": "sentry.loading.loaded",
    "Watch": "sentry.watching",
    "load_file": "sentry.loading.loaded",
    "load_model": "sentry.loading.modules",
    "materialize": "sentry.materializing",
    "safe_open": "sentry.loading.opened",
    "sign_model": "sentry.model_signing",
    "sign_path": "sentry.signing",
    "update_model": "sentry.model_updating",
    "update_path": "sentry.updating",
    "verify_model": "sentry.model_verifying",
    "verify_path": "sentry.verifying",
}

__all__ = [
    "Bundle",
    "EngineError",
    "FormatError",
    "KeySigner",
    "KeyTrust",
    "MismatchError",
    "ModelVerification",
    "RefusedError",
    "SentryError",
    "SignatureError",
    "TrustError",
    "UnavailableError",
    "Update",
    "Verification",
    "VerificationError",
    "VerifiedTensors",
    "Watch",
    "load_file",
    "load_model",
    "materialize",
    "safe_open",
    "sign_model",
    "sign_path",
    "update_model",
    "update_path",
    "verify_model",
    "verify_path",
]


def __getattr__(name: str) -> object:
    if name not in _HOMES:
        raise AttributeError(f"module 'sentry' has no attribute {name!r}")
    value = getattr(importlib.import_module(_HOMES[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
