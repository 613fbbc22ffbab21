# SPDX-License-Identifier: Apache-2.0
"""Sign a model that is in memory, on a CPU or a GPU, and verify it there later: no file is involved.

    python examples/sign_in_memory.py

Needs torch. On a GPU the tensors are hashed where they lie.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
from pathlib import Path

import torch

import sentry


def main() -> None:
    """Run the example."""
    with tempfile.TemporaryDirectory() as folder:
        run(Path(folder))


def run(folder: Path) -> None:
    """Sign, verify, change one weight, and fail to verify."""
    private, public = folder / "private.pem", folder / "public.pem"
    keygen = [sys.executable, "-m", "sentry", "keygen", "--private", str(private), "--public", str(public)]
    subprocess.run(keygen, check=True, stdout=subprocess.DEVNULL)
    signer, trust = sentry.KeySigner.from_file(private), sentry.KeyTrust.from_file(public)

    model = torch.nn.Sequential(torch.nn.Linear(32, 32), torch.nn.ReLU(), torch.nn.Linear(32, 1))
    if torch.cuda.is_available():
        model = model.cuda()
    bundle = sentry.sign_model(model, signer, name="tiny")
    bundle.write(folder / "tiny.sig")
    sentry.verify_model(model, sentry.Bundle.read(folder / "tiny.sig"), trust)
    print("verified:", len(model.state_dict()), "tensors")

    with torch.no_grad():
        model[0].bias[0] += 1
    try:
        sentry.verify_model(model, bundle, trust)
    except sentry.MismatchError as error:
        print("refused:", error)
    else:
        sys.exit("the changed model was verified")


if __name__ == "__main__":
    main()
