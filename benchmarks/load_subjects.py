# SPDX-License-Identifier: Apache-2.0
"""A model to load: the tensor list of Llama-3.1-8B in four files, with random weights."""

from __future__ import annotations

import json
import os
from pathlib import Path

Tensors = list[tuple[str, tuple[int, ...]]]

# As the published model is cut: 16 GB in files of 5 GB at most.
FILES = 4
MAX_FILE_BYTES = 5_000_000_000


def llama_8b() -> Tensors:
    """Return names and shapes of Llama-3.1-8B's tensors: 291 of bfloat16, 16.06 GB."""
    hidden, wide, kv, words = 4096, 14336, 1024, 128256
    tensors: Tensors = [("model.embed_tokens.weight", (words, hidden))]
    for layer in range(32):
        parts = {
            "input_layernorm": (hidden,), "mlp.down_proj": (hidden, wide), "mlp.gate_proj": (wide, hidden),
            "mlp.up_proj": (wide, hidden), "post_attention_layernorm": (hidden,), "self_attn.k_proj": (kv, hidden),
            "self_attn.o_proj": (hidden, hidden), "self_attn.q_proj": (hidden, hidden),
            "self_attn.v_proj": (kv, hidden),
        }  # fmt: skip
        tensors += [(f"model.layers.{layer}.{name}.weight", shape) for name, shape in parts.items()]
    return [*tensors, ("model.norm.weight", (hidden,)), ("lm_head.weight", (words, hidden))]


def max_file_bytes(tensors: Tensors) -> int:
    """Return where to cut a part of the model, so that it has about as many files as the whole."""
    total = sum(_nbytes(shape) for _, shape in tensors)
    return min(MAX_FILE_BYTES, total // FILES * 5 // 4)


def write_model(directory: Path, tensors: Tensors, *, max_file_bytes: int = MAX_FILE_BYTES) -> int:
    """Write tensors of bfloat16 as a sharded model with its index, and return how many bytes they take."""
    shards: list[Tensors] = [[]]
    taken = 0
    for tensor in tensors:
        if taken + _nbytes(tensor[1]) > max_file_bytes and shards[-1]:
            shards.append([])
            taken = 0
        shards[-1].append(tensor)
        taken += _nbytes(tensor[1])
    # Random bytes at the speed of a copy: one stretch, from other places each time.
    noise = os.urandom(64 * 1024 * 1024) * 2
    weight_map = {}
    for number, shard in enumerate(shards, 1):
        name = f"model-{number:05}-of-{len(shards):05}.safetensors"
        weight_map.update({tensor: name for tensor, _ in shard})
        _write_file(directory / name, shard, noise)
    total = sum(_nbytes(shape) for _, shape in tensors)
    index = {"metadata": {"total_size": total}, "weight_map": weight_map}
    (directory / "model.safetensors.index.json").write_text(json.dumps(index))
    return total


def _nbytes(shape: tuple[int, ...]) -> int:
    nbytes = 2
    for size in shape:
        nbytes *= size
    return nbytes


def _write_file(path: Path, tensors: Tensors, noise: bytes) -> None:
    header: dict[str, object] = {"__metadata__": {"format": "pt"}}
    at = 0
    for name, shape in tensors:
        header[name] = {"dtype": "BF16", "shape": shape, "data_offsets": [at, at + _nbytes(shape)]}
        at += _nbytes(shape)
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    with path.open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        view = memoryview(noise)
        half, turn = len(noise) // 2, 0
        while at:
            turn += 1
            begin = turn * 7919 % half
            file.write(view[begin : begin + min(at, half)])
            at -= min(at, half)
