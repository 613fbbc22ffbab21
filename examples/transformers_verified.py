# SPDX-License-Identifier: Apache-2.0
"""Load a model into transformers verified: weights, configuration and tokenizer; then change its configuration.

    python examples/transformers_verified.py

Needs the extra `transformers`. The model is a tiny Llama with random weights, made in a temporary folder.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from pathlib import Path

import torch
import transformers

import sentry
from sentry.integrations.transformers import from_pretrained


def main() -> None:
    """Run the example."""
    with tempfile.TemporaryDirectory() as folder:
        run(Path(folder))


def run(folder: Path) -> None:
    """Publish, load, tamper, and fail to load."""
    private, public = folder / "private.pem", folder / "public.pem"
    keygen = [sys.executable, "-m", "sentry", "keygen", "--private", str(private), "--public", str(public)]
    subprocess.run(keygen, check=True, stdout=subprocess.DEVNULL)
    directory = folder / "model"
    config = transformers.LlamaConfig(
        hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=2, vocab_size=100
    )
    transformers.LlamaForCausalLM(config).save_pretrained(directory)
    sentry.sign_path(directory, sentry.KeySigner.from_file(private)).write(directory / "model.sig")

    # Instead of `AutoModelForCausalLM.from_pretrained(directory)`. The weights are verified where the model uses them;
    # all other signed files come from a verified copy in `verified.directory`, which is removed with the `with` block.
    trust = sentry.KeyTrust.from_file(public)
    with from_pretrained(directory, directory / "model.sig", trust, auto_class="AutoModelForCausalLM") as verified:
        with torch.no_grad():
            logits = verified.model(torch.tensor([[1, 2, 3]])).logits
        print("loaded:", type(verified.model).__name__, tuple(logits.shape))
        print("weights:", verified.verification.files, "other files:", verified.files.files)
        # With a tokenizer among the signed files: verified.tokenizer()

    # A changed configuration computes something else with the same weights.
    settings = json.loads((directory / "config.json").read_text())
    (directory / "config.json").write_text(json.dumps({**settings, "rms_norm_eps": 0.1}))
    try:
        from_pretrained(directory, directory / "model.sig", trust)
    except sentry.MismatchError as error:
        print("refused:", error)
    else:
        sys.exit("the changed configuration was used")


if __name__ == "__main__":
    main()
