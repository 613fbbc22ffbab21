# SPDX-License-Identifier: Apache-2.0
"""Load safetensors weights verified: sign a tiny model, load it, flip one bit, see nothing handed out.

    python examples/load_verified.py

Needs torch and safetensors. Everything happens in a temporary folder.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
from pathlib import Path

import torch
from safetensors.torch import save_file

import sentry


def main() -> None:
    """Run the example."""
    with tempfile.TemporaryDirectory() as folder:
        run(Path(folder))


def run(folder: Path) -> None:
    """Publish, load, tamper, and fail to load."""
    # Who publishes: a key pair, a model, a signature over every file of it.
    private, public = folder / "private.pem", folder / "public.pem"
    keygen = [sys.executable, "-m", "sentry", "keygen", "--private", str(private), "--public", str(public)]
    subprocess.run(keygen, check=True, stdout=subprocess.DEVNULL)
    model = folder / "model"
    model.mkdir()
    weights = model / "model.safetensors"
    save_file({"layer.weight": torch.randn(32, 32), "layer.bias": torch.zeros(32)}, weights)
    sentry.sign_path(model, sentry.KeySigner.from_file(private)).write(model / "model.sig")

    # Who loads: the public key came another way than the model. Where safetensors has `load_file(path)`, this has a
    # signature and a trusted key too, and hands out tensors only if their bytes are the signed ones.
    trust = sentry.KeyTrust.from_file(public)
    tensors = sentry.load_file(weights, model / "model.sig", trust, device="cpu")
    print("loaded:", {name: tuple(tensor.shape) for name, tensor in tensors.items()})
    print("signed by:", tensors.verification.signers[0].name)

    # A module can take them over without a copy.
    layer = torch.nn.ModuleDict({"layer": torch.nn.Linear(32, 32)})
    layer.load_state_dict(tensors, assign=True)

    # Whoever writes to the storage: one bit.
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1
    weights.write_bytes(content)
    try:
        sentry.load_file(weights, model / "model.sig", trust)
    except sentry.MismatchError as error:
        print("refused:", error)
    else:
        sys.exit("the changed file was loaded")


if __name__ == "__main__":
    main()
