# SPDX-License-Identifier: Apache-2.0
"""What transformers must not be given is refused, each for one stated reason, and nothing is left behind."""

from __future__ import annotations

import importlib
import importlib.util
from collections.abc import Callable
from importlib.machinery import ModuleSpec
from pathlib import Path
from typing import Any

import pytest
from support import KeyPair

import sentry

torch = pytest.importorskip("torch", reason="torch is not installed")
transformers = pytest.importorskip("transformers", reason="transformers is not installed")

from integrations.small_models import edit_json, edit_weights, load, own_code, sign  # noqa: E402

from sentry.integrations import transformers as integration  # noqa: E402


@pytest.mark.parametrize("name", ["config.json", "model.safetensors"])
def test_a_changed_file_is_refused(publish: Callable[..., Path], pair: KeyPair, name: str, tmp_path: Path) -> None:
    directory = publish()
    content = bytearray((directory / name).read_bytes())
    content[-3] ^= 1
    (directory / name).write_bytes(content)
    (tmp_path / "work").mkdir()
    with pytest.raises(sentry.MismatchError, match=name):
        load(directory, pair, workdir=tmp_path / "work")
    assert list((tmp_path / "work").iterdir()) == []


def test_a_stranger_is_refused(publish: Callable[..., Path], attacker: KeyPair) -> None:
    with pytest.raises(sentry.VerificationError):
        load(publish(), attacker)


def test_a_signature_that_is_exchanged_between_the_two_steps_is_refused(
    publish: Callable[..., Path], pair: KeyPair, monkeypatch: pytest.MonkeyPatch
) -> None:
    directory = publish()
    plain: Any = sentry.load_file

    def late(*arguments: Any, **options: Any) -> Any:
        edit_json("config.json", hidden_act="relu")(directory)
        sign(directory, pair)
        return plain(*arguments, **options)

    monkeypatch.setattr(integration, "load_file", late)
    with pytest.raises(sentry.MismatchError, match="exchanged"):
        load(directory, pair)


def _pickles(directory: Path) -> None:
    (directory / "model.safetensors").rename(directory / "pytorch_model.bin")


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda path: (path / "config.json").unlink(), "no signed config.json"),
        (_pickles, "only pytorch_model.bin, a pickle"),
        (lambda path: (path / "model.safetensors").unlink(), "there is none"),
        (edit_json("config.json", model_type="no-such-model"), "cannot be loaded"),
    ],
)
def test_a_directory_without_the_needed_files_is_refused(
    publish: Callable[..., Path], pair: KeyPair, change: Callable[[Path], object], reason: str
) -> None:
    with pytest.raises(sentry.UnavailableError, match=reason):
        load(publish(change=change), pair)


@pytest.mark.parametrize(
    ("edit", "reason"),
    [
        (lambda tensors: tensors.pop("pooler.dense.bias"), "missing: pooler.dense.bias"),
        (lambda tensors: tensors.update(extra=torch.zeros(1)), "unexpected: extra"),
        (lambda tensors: tensors.update({"pooler.dense.bias": torch.zeros(3)}), "another shape: pooler.dense.bias"),
    ],
)
def test_weights_that_do_not_fit_are_refused(
    publish: Callable[..., Path], pair: KeyPair, edit: Callable[[dict[str, Any]], object], reason: str
) -> None:
    with pytest.raises(sentry.MismatchError, match=reason):
        load(publish(change=edit_weights(edit)), pair)


def radio() -> Any:
    """Make a model whose class lets `lambda1` be missing; here they are not what they are initially."""
    small = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 64}
    model = transformers.RadioModel(transformers.RadioConfig(**small, image_size=32, patch_size=16))
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.endswith("lambda1"):
                parameter.fill_(7.0)
    return model


def test_weights_that_a_class_lets_be_missing_are_refused_too(publish: Callable[..., Path], pair: KeyPair) -> None:
    def drop(tensors: dict[str, Any]) -> None:
        for name in [name for name in tensors if name.endswith("lambda1")]:
            del tensors[name]

    with pytest.raises(sentry.MismatchError, match="missing: ") as caught:
        load(publish(radio(), edit_weights(drop)), pair)
    assert caught.value.missing == ("encoder.layer.0.layer_scale1.lambda1", "encoder.layer.0.layer_scale2.lambda1")


def test_the_same_weights_are_used_when_they_are_there(publish: Callable[..., Path], pair: KeyPair) -> None:
    with load(publish(radio()), pair) as verified:
        assert verified.model.encoder.layer[0].layer_scale1.lambda1.tolist() == [7.0] * 32


def test_code_of_the_model_cannot_let_weights_be_missing(publish: Callable[..., Path], pair: KeyPair) -> None:
    def change(directory: Path) -> None:
        own_code(directory)
        code = directory / "modeling_tiny.py"
        excuse = "_keys_to_ignore_on_load_missing = ['line.bias']"
        code.write_text(code.read_text().replace("config_class = TinyConfig", f"config_class = TinyConfig; {excuse}"))
        edit_weights(lambda tensors: tensors.pop("line.bias"))(directory)

    with pytest.raises(sentry.MismatchError, match=r"missing: line\.bias"):
        load(publish(change=change), pair, trust_remote_code=True)


def test_persistent_buffers_may_not_be_missing(publish: Callable[..., Path], pair: KeyPair) -> None:
    layers = {f"{part}_{what}": 1 for part in ("encoder", "decoder") for what in ("layers", "attention_heads")}
    config = transformers.BartConfig(d_model=16, encoder_ffn_dim=16, decoder_ffn_dim=16, vocab_size=50, **layers)
    model = transformers.BartForConditionalGeneration(config)
    with pytest.raises(sentry.MismatchError, match="missing: final_logits_bias"):
        load(publish(model, edit_weights(lambda tensors: tensors.pop("final_logits_bias"))), pair)


def test_tensors_that_a_class_does_not_want_are_listed(publish: Callable[..., Path], pair: KeyPair) -> None:
    change = edit_weights(lambda tensors: tensors.update({"embeddings.position_ids": torch.arange(512)[None]}))
    with load(publish(change=change), pair) as verified:
        assert verified.unused == ("embeddings.position_ids",)
        assert type(verified.model) is transformers.BertModel


def test_a_version_that_does_not_tell_what_it_loaded_is_refused(
    publish: Callable[..., Path], pair: KeyPair, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        transformers.PreTrainedModel, "_finalize_model_loading", staticmethod(lambda _model, _config, info: info)
    )
    with pytest.raises(sentry.UnavailableError, match="does not say which weights"):
        load(publish(), pair)


def test_a_package_that_fetches_kernels_is_refused_unless_the_hub_is_off(
    publish: Callable[..., Path], pair: KeyPair, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: ModuleSpec(name, None, origin="somewhere"))
    with pytest.raises(sentry.UnavailableError, match="fetch code from a hub"):
        load(publish(), pair)


@pytest.mark.parametrize(
    "options",
    [
        {"auto_map": {}},
        {"quantization_config": {}},
        {"name_or_path": "other"},
        {"_name_or_path": "other"},
        {"subfolder": "other"},
        {"revision": "main"},
        {"gguf_file": "x.gguf"},
        {"device_map": "auto"},
        {"adapter_kwargs": {}},
        {"ignore_mismatched_sizes": True},
        {"auto_class": "NoSuchClass"},
        {"auto_class": "AutoModelForCausalLM", "model_type": "llama"},
        {"auto_class": "AutoModelForDepthEstimation"},
    ],
    ids=str,
)
def test_arguments_that_would_have_other_bytes_used_are_refused(
    publish: Callable[..., Path], pair: KeyPair, options: dict[str, Any]
) -> None:
    with pytest.raises(ValueError, match=r"overridden|no class|no model for"):
        load(publish(), pair, **options)


def test_kernels_from_a_hub_are_refused(publish: Callable[..., Path], pair: KeyPair) -> None:
    with pytest.raises(sentry.VerificationError, match="code on a hub"):
        load(publish(), pair, attn_implementation="somebody/flash")
