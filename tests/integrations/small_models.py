# SPDX-License-Identifier: Apache-2.0
"""Tiny models of transformers, published and signed, for the tests of this folder."""

from __future__ import annotations

import importlib
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import transformers
from support import KeyPair

import sentry
from sentry.integrations.transformers import from_pretrained

SMALL = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 64, "vocab_size": 50}
# A model that comes with its own code, in two files of which one imports the other.
CODE = {
    "configuration_tiny.py": """
from transformers import PreTrainedConfig

class TinyConfig(PreTrainedConfig):
    model_type = "tiny-of-our-own"
    width: int = 4
""",
    "modeling_tiny.py": """
import torch
from transformers import PreTrainedModel
from .configuration_tiny import TinyConfig

class TinyModel(PreTrainedModel):
    config_class = TinyConfig

    def __init__(self, config):
        super().__init__(config)
        self.line = torch.nn.Linear(config.width, config.width)
        self.post_init()

    def forward(self, x):
        return self.line(x)
""",
}
AUTO_MAP = {"AutoConfig": "configuration_tiny.TinyConfig", "AutoModel": "modeling_tiny.TinyModel"}


def sign(directory: Path, pair: KeyPair) -> None:
    sentry.sign_path(directory, pair.signer).write(directory / "model.sig")


def bert(**options: Any) -> Any:
    torch.manual_seed(7)
    return transformers.BertModel(transformers.BertConfig(**{**SMALL, **options})).eval()


def llama(**options: Any) -> Any:
    torch.manual_seed(7)
    return transformers.LlamaForCausalLM(transformers.LlamaConfig(**{**SMALL, **options})).eval()


def load(directory: Path, pair: KeyPair, **options: Any) -> Any:
    return from_pretrained(directory, directory / "model.sig", pair.trust, **options)


def edit_json(name: str, **fields: Any) -> Callable[[Path], None]:
    def edit(directory: Path) -> None:
        path = directory / name
        content = json.loads(path.read_text()) if path.exists() else {}
        path.write_text(json.dumps({**content, **fields}))

    return edit


def edit_weights(edit: Callable[[dict[str, Any]], object]) -> Callable[[Path], None]:
    def change(directory: Path) -> None:
        files = importlib.import_module("safetensors.torch")
        tensors = files.load((directory / "model.safetensors").read_bytes())
        edit(tensors)
        files.save_file(tensors, directory / "model.safetensors", metadata={"format": "pt"})

    return change


def own_code(directory: Path, **auto_map: str) -> None:
    """Give a published model its own code."""
    shutil.rmtree(directory, ignore_errors=True)
    directory.mkdir()
    for name, text in CODE.items():
        (directory / name).write_text(text)
    config = {"model_type": "tiny-of-our-own", "architectures": ["TinyModel"], "auto_map": {**AUTO_MAP, **auto_map}}
    (directory / "config.json").write_text(json.dumps(config))
    weights = {"line.weight": torch.arange(16.0).reshape(4, 4), "line.bias": torch.zeros(4)}
    importlib.import_module("safetensors.torch").save_file(
        weights, directory / "model.safetensors", metadata={"format": "pt"}
    )
