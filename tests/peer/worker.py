# SPDX-License-Identifier: Apache-2.0
"""The peer, model-signing, as a server: requests and answers are lines of JSON on standard input and output.

It is run by the peer's own Python, where nothing of this project is installed, and it saves the start-up time that the
peer's command line costs each time. A request names an `action` (`sign`, `verify` or `version`) and its arguments; an
answer is `{"ok": true}`, or `{"ok": false, "error": "ValueError: ..."}` with what the peer raised.
"""

import contextlib
import json
import os
import sys
from pathlib import Path
from typing import Any

from model_signing import __version__, hashing, signing, verifying

Request = dict[str, Any]

# The peer's own name for BLAKE2b is another one than it writes into signatures.
HASHES = {"sha256": "sha256", "blake2b": "blake2", "blake3": "blake3"}


def hashing_config(request: Request) -> hashing.Config | None:
    """Build the peer's configuration from `hash`, `shard_bytes` and `ignore`; None to let it guess."""
    if request.get("hash") is None:
        return None
    config = hashing.Config()
    name = HASHES[request["hash"]]
    if request.get("shard_bytes") is None:
        config.use_file_serialization(hashing_algorithm=name)
    else:
        config.use_shard_serialization(hashing_algorithm=name, shard_size=request["shard_bytes"])
    return config.set_ignored_paths(paths=request.get("ignore", []))


def sign(request: Request) -> None:
    """Sign `model` into `signature` with the private key `key`."""
    config = signing.Config().use_elliptic_key_signer(private_key=request["key"])
    config.set_hashing_config(hashing_config(request)).sign(Path(request["model"]), Path(request["signature"]))


def verify(request: Request) -> None:
    """Verify `model` against `signature` with the public key `key`; without `hash` the peer guesses it."""
    config = verifying.Config().use_elliptic_key_verifier(public_key=request["key"])
    guessed_or_given = hashing_config(request)
    if guessed_or_given is not None:
        config.set_hashing_config(guessed_or_given)
    config.set_ignore_unsigned_files(request.get("ignore_unsigned", False))
    config.verify(Path(request["model"]), Path(request["signature"]))


def answer(request: Request) -> Request:
    """Do what a request asks for."""
    if request["action"] == "version":
        return {"ok": True, "version": __version__}
    try:
        {"sign": sign, "verify": verify}[request["action"]](request)
    except Exception as error:  # noqa: BLE001  (whatever the peer raises is the answer)
        return {"ok": False, "error": f"{type(error).__name__}: {error}"}
    return {"ok": True}


def main() -> None:
    """Answer until there are no more requests."""
    answers = os.fdopen(os.dup(1), "w", encoding="ascii")
    # The peer prints warnings; they must not come between the answers.
    with contextlib.redirect_stdout(sys.stderr):
        for line in sys.stdin:
            print(json.dumps(answer(json.loads(line))), file=answers, flush=True)


if __name__ == "__main__":
    main()
