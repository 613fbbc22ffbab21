# SPDX-License-Identifier: Apache-2.0
"""The contestants: this project's command line, model-signing's, and model-signing's Python API where only it can.

Signatures lie beside the model. Signing rows come first, so that every verifying row finds its signature.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from benchmarks.common import OURS, PEER, PEER_PYTHON, Contestant, run_cold

OUR_NAME = "sentry"
PEER_NAME = "model-signing"
DEFAULT = "default (sha256+blake3)"
PEER_DEFAULT = "default (sha256)"

# model-signing's command line offers no hash but SHA-256.
_PEER_BLAKE3 = """
import sys, model_signing
action, model, signature, key = sys.argv[1:]
hashing = model_signing.hashing.Config().use_file_serialization(hashing_algorithm="blake3")
if action == "sign":
    config = model_signing.signing.Config().use_elliptic_key_signer(private_key=key)
    config.set_hashing_config(hashing).sign(model, signature)
else:
    config = model_signing.verifying.Config().use_elliptic_key_verifier(public_key=key)
    config.set_hashing_config(hashing).verify(model, signature)
"""


class Contest:
    """Builds the rows for one model.

    Args:
        scratch: Folder for keys and signatures, outside the model.
    """

    def __init__(self, scratch: Path) -> None:
        self._scratch = scratch
        self._private = str(scratch / "private.pem")
        self._public = str(scratch / "public.pem")
        command = (str(OURS), "keygen", "--private", self._private, "--public", self._public)
        run_cold(command, output=scratch / "output")

    def rows(self, model: Path, *, peer_blake3: Sequence[str] = ("sign", "verify")) -> list[Contestant]:
        """Return every contestant of the sign and verify tables.

        Args:
            model: The model.
            peer_blake3: What the peer does with BLAKE3 as well: `sign`, and `verify` after it.
        """
        return [
            self._ours_sign(model, DEFAULT, ("sha256", "blake3")),
            self._ours_sign(model, "sha256", ("sha256",)),
            self._ours_sign(model, "blake3", ("blake3",)),
            self._peer(model, "sign", "--private_key", self._private),
            *(self._peer_blake3(model, action) for action in peer_blake3 if action == "sign"),
            self._ours_verify(model, "default (blake3)", DEFAULT, ("blake3",)),
            self._ours_verify(model, "sha256", "sha256", ("sha256",)),
            self._peer(model, "verify", "--public_key", self._public),
            *(self._peer_blake3(model, action) for action in peer_blake3 if action == "verify"),
        ]

    def help(self) -> list[Contestant]:
        """Return the rows that only start and stop."""
        return [
            Contestant(OUR_NAME, "--help", (str(OURS), "--help"), (), "--help"),
            Contestant(PEER_NAME, "--help", (str(PEER), "--help")),
        ]

    def _signature(self, name: str) -> str:
        return str(self._scratch / f"{name.partition(' ')[0]}.sig")

    def _ours_sign(self, model: Path, choice: str, hashes: tuple[str, ...]) -> Contestant:
        command = [str(OURS), "sign", str(model), "--key", self._private, "--signature", self._signature(choice)]
        if choice != DEFAULT:
            command += ["--hash", choice]
        return Contestant(OUR_NAME, f"sign {choice}", tuple(command), hashes, f"sign {PEER_DEFAULT}")

    def _ours_verify(self, model: Path, task: str, signed: str, hashes: tuple[str, ...]) -> Contestant:
        command = (str(OURS), "verify", str(model), "--key", self._public, "--signature", self._signature(signed))
        return Contestant(OUR_NAME, f"verify {task}", command, hashes, f"verify {PEER_DEFAULT}")

    def _peer(self, model: Path, action: str, *key: str) -> Contestant:
        command = (str(PEER), action, "key", str(model), "--signature", self._signature("peer"), *key)
        return Contestant(PEER_NAME, f"{action} {PEER_DEFAULT}", command, ("sha256",))

    def _peer_blake3(self, model: Path, action: str) -> Contestant:
        key = self._private if action == "sign" else self._public
        arguments = (action, str(model), self._signature("peer-blake3"), key)
        command = (str(PEER_PYTHON), "-c", _PEER_BLAKE3, *arguments)
        return Contestant(PEER_NAME, f"{action} blake3 (Python API)", command, ("blake3",))
