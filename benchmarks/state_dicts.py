# SPDX-License-Identifier: Apache-2.0
"""The tensors of well-known models: names, shapes and types exactly as their state dicts list them.

resnet152 and vgg19 are torchvision's, with BatchNorm's statistics; bert-base is `BertForMaskedLM`, gpt2 and gpt2-xl are
`GPT2LMHeadModel`, of transformers, whose state dicts list tied weights under both names. Nothing is fetched.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass

ITEM_BYTES = {"F32": 4, "I64": 8}


@dataclass(frozen=True)
class Entry:
    """One entry of a state dict.

    Attributes:
        name: Its key.
        shape: Its dimensions.
        dtype: As safetensors writes it.
        tied: The key of the entry whose memory it is; empty if it has its own.
    """

    name: str
    shape: tuple[int, ...]
    dtype: str = "F32"
    tied: str = ""

    @property
    def nbytes(self) -> int:
        """Length in bytes."""
        return math.prod(self.shape) * ITEM_BYTES[self.dtype]


Entries = Iterator[Entry]


def _pair(name: str, weight: tuple[int, ...], bias: int) -> Entries:
    yield Entry(f"{name}.weight", weight)
    yield Entry(f"{name}.bias", (bias,))


def _linear(name: str, inputs: int, outputs: int) -> Entries:
    return _pair(name, (outputs, inputs), outputs)


def _norm(name: str, width: int) -> Entries:
    return _pair(name, (width,), width)


def _batch_norm(name: str, width: int) -> Entries:
    yield from _norm(name, width)
    yield Entry(f"{name}.running_mean", (width,))
    yield Entry(f"{name}.running_var", (width,))
    yield Entry(f"{name}.num_batches_tracked", (), "I64")


def _convolution(name: str, norm: str, inputs: int, outputs: int, kernel: int) -> Entries:
    yield Entry(f"{name}.weight", (outputs, inputs, kernel, kernel))
    yield from _batch_norm(norm, outputs)


def _resnet152() -> Entries:
    yield from _convolution("conv1", "bn1", 3, 64, 7)
    inputs = 64
    for layer, (width, blocks) in enumerate(((64, 3), (128, 8), (256, 36), (512, 3)), 1):
        for number in range(blocks):
            block = f"layer{layer}.{number}"
            sizes = ((inputs, width, 1), (width, width, 3), (width, 4 * width, 1))
            for at, size in enumerate(sizes, 1):
                yield from _convolution(f"{block}.conv{at}", f"{block}.bn{at}", *size)
            if number == 0:
                yield from _convolution(f"{block}.downsample.0", f"{block}.downsample.1", inputs, 4 * width, 1)
            inputs = 4 * width
    yield from _linear("fc", inputs, 1000)


def _vgg19() -> Entries:
    inputs, at = 3, 0
    for width, layers in ((64, 2), (128, 2), (256, 4), (512, 4), (512, 4)):
        for _ in range(layers):
            yield from _pair(f"features.{at}", (width, inputs, 3, 3), width)
            inputs, at = width, at + 2  # a ReLU in between
        at += 1  # the pooling
    for at, (taken, given) in ((0, (512 * 7 * 7, 4096)), (3, (4096, 4096)), (6, (4096, 1000))):
        yield from _linear(f"classifier.{at}", taken, given)


def _bert_base() -> Entries:
    width, words = 768, 30522
    for kind, rows in (("word", words), ("position", 512), ("token_type", 2)):
        yield Entry(f"bert.embeddings.{kind}_embeddings.weight", (rows, width))
    yield from _norm("bert.embeddings.LayerNorm", width)
    for number in range(12):
        layer = f"bert.encoder.layer.{number}"
        for part in ("self.query", "self.key", "self.value", "output.dense"):
            yield from _linear(f"{layer}.attention.{part}", width, width)
        yield from _norm(f"{layer}.attention.output.LayerNorm", width)
        yield from _linear(f"{layer}.intermediate.dense", width, 4 * width)
        yield from _linear(f"{layer}.output.dense", 4 * width, width)
        yield from _norm(f"{layer}.output.LayerNorm", width)
    head = "cls.predictions"
    yield Entry(f"{head}.bias", (words,))
    yield from _linear(f"{head}.transform.dense", width, width)
    yield from _norm(f"{head}.transform.LayerNorm", width)
    yield Entry(f"{head}.decoder.weight", (words, width), tied="bert.embeddings.word_embeddings.weight")
    yield Entry(f"{head}.decoder.bias", (words,), tied=f"{head}.bias")


def _gpt2(width: int, layers: int) -> Entries:
    words = 50257
    yield Entry("transformer.wte.weight", (words, width))
    yield Entry("transformer.wpe.weight", (1024, width))
    for number in range(layers):
        block = f"transformer.h.{number}"
        yield from _norm(f"{block}.ln_1", width)
        # Its "Conv1D" layers keep their weights the other way round.
        yield from _linear_transposed(f"{block}.attn.c_attn", width, 3 * width)
        yield from _linear_transposed(f"{block}.attn.c_proj", width, width)
        yield from _norm(f"{block}.ln_2", width)
        yield from _linear_transposed(f"{block}.mlp.c_fc", width, 4 * width)
        yield from _linear_transposed(f"{block}.mlp.c_proj", 4 * width, width)
    yield from _norm("transformer.ln_f", width)
    yield Entry("lm_head.weight", (words, width), tied="transformer.wte.weight")


def _linear_transposed(name: str, inputs: int, outputs: int) -> Entries:
    return _pair(name, (inputs, outputs), outputs)


_LISTS: dict[str, Callable[[], Entries]] = {
    "resnet152": _resnet152,
    "bert-base": _bert_base,
    "vgg19": _vgg19,
    "gpt2": lambda: _gpt2(768, 12),
    "gpt2-xl": lambda: _gpt2(1600, 48),
}
MODELS = tuple(_LISTS)


def entries(model: str) -> list[Entry]:
    """Return the entries of one of `MODELS`, in the order of its state dict."""
    return list(_LISTS[model]())


def scaled(model: str, factor: int) -> list[Entry]:
    """Return the same entries with about 1/`factor` of the elements each, at least one, as rows of numbers."""
    return [
        Entry(entry.name, (max(1, math.prod(entry.shape) // factor),), entry.dtype, entry.tied)
        for entry in entries(model)
    ]
