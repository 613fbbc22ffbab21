# SPDX-License-Identifier: Apache-2.0
"""A real model, all-MiniLM-L6-v2: embeddings from verified weights equal those from plain ones to the bit."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
from support import KeyPair

import sentry

torch = pytest.importorskip("torch", reason="torch is not installed")
transformers = pytest.importorskip("transformers", reason="transformers is not installed")

from safetensors.torch import load_file  # noqa: E402

from sentry.integrations.transformers import from_pretrained  # noqa: E402

PUBLISHED = Path(__file__).parents[2] / ".cache" / "all-MiniLM-L6-v2"
# [CLS] ... [SEP], a sentence each; the second one is padded.
TOKENS = [[101, 7592, 2088, 102], [101, 4937, 102, 0]]
MASK = [[1, 1, 1, 1], [1, 1, 1, 0]]


@pytest.fixture(scope="module")
def minilm(tmp_path_factory: pytest.TempPathFactory, pair: KeyPair) -> Path:
    """Return the signed model, or skip the test by the model's name."""
    if not (PUBLISHED / "model.safetensors").is_file():
        pytest.skip("all-MiniLM-L6-v2 is not fetched; `make demo` or `make test` does it")
    directory = tmp_path_factory.mktemp("minilm") / "model"
    shutil.copytree(PUBLISHED, directory)
    sentry.sign_path(directory, pair.signer).write(directory / "model.sig")
    return directory


def embed(model: Any) -> Any:
    """Return one vector for each sentence: the mean over its tokens."""
    mask = torch.tensor(MASK)
    with torch.no_grad():
        hidden = model(input_ids=torch.tensor(TOKENS), attention_mask=mask).last_hidden_state
    return (hidden * mask[..., None]).sum(dim=1) / mask.sum(dim=1, keepdim=True)


def build(directory: Path, tensors: dict[str, Any]) -> Any:
    """Put tensors into a fresh model, with torch alone."""
    config = transformers.BertConfig.from_pretrained(directory, local_files_only=True)
    model = transformers.BertModel(config).eval()
    # Positions are stored as well in this file, and counted by the model itself.
    tensors = {name: tensor for name, tensor in tensors.items() if name != "embeddings.position_ids"}
    model.load_state_dict(tensors, strict=True)
    return model


def test_verified_tensors_give_the_plain_embeddings(minilm: Path, pair: KeyPair) -> None:
    plain = embed(build(minilm, load_file(minilm / "model.safetensors")))
    verified = sentry.load_file(minilm, minilm / "model.sig", pair.trust)
    assert len(verified) == 104
    assert torch.equal(embed(build(minilm, dict(verified))), plain)
    assert not torch.equal(plain[0], plain[1])


def test_a_verified_model_gives_the_plain_embeddings(minilm: Path, pair: KeyPair) -> None:
    plain = embed(build(minilm, load_file(minilm / "model.safetensors")))
    with from_pretrained(minilm, minilm / "model.sig", pair.trust) as verified:
        assert torch.equal(embed(verified.model), plain)
        tokens = verified.tokenizer()(["hello world", "cat"], padding=True)
        assert (tokens["input_ids"], tokens["attention_mask"]) == (TOKENS, MASK)


def test_one_flipped_bit_is_refused(minilm: Path, pair: KeyPair, tmp_path: Path) -> None:
    shutil.copytree(minilm, tmp_path / "copy")
    with (tmp_path / "copy" / "model.safetensors").open("r+b") as file:
        file.seek(-1, 2)
        last = file.read(1)[0]
        file.seek(-1, 2)
        file.write(bytes([last ^ 1]))
    with pytest.raises(sentry.MismatchError, match=r"model\.safetensors"):
        from_pretrained(tmp_path / "copy", tmp_path / "copy" / "model.sig", pair.trust)
