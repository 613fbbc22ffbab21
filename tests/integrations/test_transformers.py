# SPDX-License-Identifier: Apache-2.0
"""Models come into transformers from verified bytes only, complete, and without a second copy of their weights."""

from __future__ import annotations

import gc
import importlib
import importlib.util
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from support import KeyPair

import sentry

torch = pytest.importorskip("torch", reason="torch is not installed")
transformers = pytest.importorskip("transformers", reason="transformers is not installed")

from integrations.small_models import bert, edit_json, llama, load  # noqa: E402

from sentry.integrations import transformers as integration  # noqa: E402


@pytest.mark.parametrize("make", [bert, llama])
def test_a_verified_model_computes_what_the_plain_one_does(
    publish: Callable[..., Path], pair: KeyPair, make: Callable[..., Any]
) -> None:
    directory = publish(make())
    ids = torch.arange(2, 10)[None]
    with load(directory, pair) as verified, torch.no_grad():
        plain = type(verified.model).from_pretrained(directory)
        assert torch.equal(verified.model(ids)[0], plain(ids)[0])
        assert not verified.model.training
        assert verified.verification.payload_sha256 == verified.files.payload_sha256


def test_shards_are_put_together(publish: Callable[..., Path], pair: KeyPair) -> None:
    model = llama()
    directory = publish(model, max_shard_size="10KB")
    assert len(list(directory.glob("*.safetensors"))) > 1
    with load(directory, pair) as verified:
        loaded = verified.model.state_dict()
    assert all(torch.equal(tensor, loaded[name]) for name, tensor in model.state_dict().items())


def test_weights_are_used_where_they_were_verified(
    publish: Callable[..., Path], pair: KeyPair, monkeypatch: pytest.MonkeyPatch
) -> None:
    directory = publish()
    plain: Any = sentry.load_file
    seen: dict[str, int] = {}

    def spy(*arguments: Any, **options: Any) -> Any:
        tensors = plain(*arguments, **options)
        seen.update({name: tensor.data_ptr() for name, tensor in tensors.items()})
        return tensors

    monkeypatch.setattr(integration, "load_file", spy)
    with load(directory, pair) as verified:
        assert {name: tensor.data_ptr() for name, tensor in verified.model.named_parameters()} == seen


@pytest.mark.parametrize("make", [bert, llama])
def test_weights_on_another_device_stay_there(
    publish: Callable[..., Path], pair: KeyPair, make: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    # The device "meta" stands for any: what was moved from it could not be.
    directory = publish(make())
    plain: Any = sentry.load_file

    def elsewhere(*arguments: Any, **options: Any) -> Any:
        assert options.pop("device") == "meta"
        tensors = plain(*arguments, **options)
        tensors.update({name: tensor.to("meta") for name, tensor in tensors.items()})
        return tensors

    monkeypatch.setattr(integration, "load_file", elsewhere)
    with load(directory, pair, device="meta") as verified:
        assert {tensor.device.type for tensor in verified.model.parameters()} == {"meta"}
        assert {tensor.device.type for tensor in verified.model.buffers()} == {"meta"}
        assert {type(tensor) for tensor in verified.model.parameters()} == {torch.nn.Parameter}


@pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no GPU")
def test_a_model_on_a_gpu_takes_its_memory_once(publish: Callable[..., Path], pair: KeyPair) -> None:
    directory = publish(bert(hidden_size=1024, intermediate_size=4096, num_hidden_layers=4))
    size = (directory / "model.safetensors").stat().st_size
    load(directory, pair, device="cuda").close()  # contexts and workspaces are there from now on
    gc.collect()
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_reserved()
    with load(directory, pair, device="cuda") as verified:
        assert {tensor.device.type for tensor in verified.model.state_dict().values()} == {"cuda"}
        assert torch.cuda.max_memory_reserved() - before < 1.5 * size


def test_tied_weights_stay_tied(publish: Callable[..., Path], pair: KeyPair) -> None:
    with load(publish(llama(tie_word_embeddings=True)), pair) as verified:
        assert verified.model.lm_head.weight is verified.model.model.embed_tokens.weight


@pytest.mark.parametrize("choice", ["AutoModelForCausalLM", "LlamaForCausalLM", None])
def test_the_class_can_be_named(publish: Callable[..., Path], pair: KeyPair, choice: str | None) -> None:
    directory = publish(llama())
    for auto_class in (choice, choice and getattr(transformers, choice)):
        with load(directory, pair, auto_class=auto_class) as verified:
            assert type(verified.model) is transformers.LlamaForCausalLM


def test_types_are_converted_on_request(publish: Callable[..., Path], pair: KeyPair) -> None:
    with load(publish(), pair, dtype=torch.bfloat16) as verified:
        assert {tensor.dtype for tensor in verified.model.parameters()} == {torch.bfloat16}


def test_signed_settings_of_text_generation_count(publish: Callable[..., Path], pair: KeyPair) -> None:
    directory = publish(llama(), edit_json("generation_config.json", max_new_tokens=7))
    with load(directory, pair) as verified:
        assert verified.model.generation_config.max_new_tokens == 7


def test_fields_of_the_configuration_can_be_overridden(publish: Callable[..., Path], pair: KeyPair) -> None:
    with load(publish(), pair, hidden_dropout_prob=0.5, attn_implementation="eager") as verified:
        assert verified.model.config.hidden_dropout_prob == 0.5
        assert verified.model.config._attn_implementation == "eager"


def test_the_copy_holds_what_is_signed_except_weights(publish: Callable[..., Path], pair: KeyPair) -> None:
    def add(directory: Path) -> None:
        (directory / "sub").mkdir()
        (directory / "sub" / "vocabulary.txt").write_text("a\n")
        (directory / "tf_model.h5").write_bytes(b"weights of another framework")

    with load(publish(change=add), pair) as verified:
        copied = {path.relative_to(verified.directory).as_posix() for path in verified.directory.rglob("*")}
        assert copied == {"config.json", "model.sig", "sub", "sub/vocabulary.txt"}
        assert verified.files.not_read == ("model.safetensors", "tf_model.h5")
        assert verified.files.files


def test_a_temporary_copy_goes_when_it_is_closed_or_the_model_goes(publish: Callable[..., Path], pair: KeyPair) -> None:
    directory = publish()
    with load(directory, pair) as verified:
        assert verified.directory.is_dir()
    assert not verified.directory.parent.exists()
    copy = load(directory, pair).directory
    gc.collect()
    assert not copy.exists()


def test_a_copy_in_a_place_of_ones_own_stays(publish: Callable[..., Path], pair: KeyPair, tmp_path: Path) -> None:
    (tmp_path / "work").mkdir()
    load(publish(), pair, workdir=tmp_path / "work").close()
    assert len(list((tmp_path / "work").rglob("config.json"))) == 1


def test_the_tokenizer_comes_from_the_copy(publish: Callable[..., Path], pair: KeyPair) -> None:
    tokenizers = importlib.import_module("tokenizers")

    def add(directory: Path) -> None:
        plain = tokenizers.Tokenizer(tokenizers.models.WordLevel({"a": 0, "b": 1, "?": 2}, unk_token="?"))  # noqa: S106
        plain.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
        transformers.PreTrainedTokenizerFast(tokenizer_object=plain, unk_token="?").save_pretrained(directory)  # noqa: S106

    directory = publish(change=add)
    with load(directory, pair) as verified:
        shutil.rmtree(directory)
        assert verified.tokenizer()("b a c")["input_ids"] == [1, 0, 2]


def test_a_missing_tokenizer_is_told(publish: Callable[..., Path], pair: KeyPair) -> None:
    with load(publish(), pair) as verified, pytest.raises(sentry.UnavailableError, match="no tokenizer"):
        verified.tokenizer()
