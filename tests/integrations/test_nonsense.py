# SPDX-License-Identifier: Apache-2.0
"""Signed nonsense fails with one kind of error, whatever transformers makes of it, and nothing is left behind."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from support import KeyPair

import sentry

torch = pytest.importorskip("torch", reason="torch is not installed")
transformers = pytest.importorskip("transformers", reason="transformers is not installed")

from integrations.small_models import edit_json, llama, load, own_code  # noqa: E402


def writes(name: str, text: str) -> Callable[[Path], object]:
    return lambda directory: (directory / name).write_text(text)


@pytest.fixture(autouse=True)
def _leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    (tmp_path / "temporary").mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "temporary"))
    yield
    assert list((tmp_path / "temporary").glob("sentry-*")) == []  # torch leaves something of its own


@pytest.mark.parametrize(
    ("fields", "reason", "cause"),
    [
        ({"architectures": [5]}, "does not name one class", None),
        ({"architectures": 5}, "does not name one class", None),
        ({"architectures": "BertModel"}, "does not name one class", None),
        ({"architectures": []}, "does not name one class", None),
        ({"architectures": ["BertModel", "BertForMaskedLM"]}, "does not name one class", None),
        ({"architectures": ["pipeline"]}, "names no model of transformers", ValueError),
        ({"architectures": ["AutoConfig"]}, "names no model of transformers", ValueError),
        ({"model_type": 5}, "configuration cannot be loaded", Exception),
        ({"hidden_size": "x"}, "configuration cannot be loaded", Exception),
        ({"dtype": "evil"}, "configuration cannot be loaded", AttributeError),
        ({"hidden_size": 0}, "no BertModel can be made", ZeroDivisionError),
        ({"quantization_config": {"quant_method": "fp8"}}, "no BertModel can be made", (ImportError, RuntimeError)),
        ({"transformers_weights": "../../x"}, "no BertModel can be made", ValueError),
    ],
    ids=str,
)
def test_a_configuration_of_nonsense_is_told(
    publish: Callable[..., Path], pair: KeyPair, fields: dict[str, object], reason: str, cause: Any
) -> None:
    with pytest.raises(sentry.UnavailableError, match=reason) as caught:
        load(publish(change=edit_json("config.json", **fields)), pair)
    if cause is not None:
        assert isinstance(caught.value.__cause__, cause)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 500


def test_settings_of_text_generation_that_are_none_are_told(publish: Callable[..., Path], pair: KeyPair) -> None:
    with pytest.raises(sentry.UnavailableError, match="no LlamaForCausalLM can be made"):
        load(publish(llama(), writes("generation_config.json", "[]")), pair)


@pytest.mark.parametrize("line", ["import no_such_module", "1 / 0", "class :"])
@pytest.mark.parametrize("name", ["configuration_tiny", "modeling_tiny"])
def test_code_that_fails_is_told(publish: Callable[..., Path], pair: KeyPair, name: str, line: str) -> None:
    def change(directory: Path) -> None:
        own_code(directory)
        (directory / f"{name}.py").write_text(line)

    with pytest.raises(sentry.UnavailableError, match=rf"cannot be imported from {name}\.py") as caught:
        load(publish(change=change), pair, trust_remote_code=True)
    assert isinstance(caught.value.__cause__, (ImportError, ZeroDivisionError, SyntaxError))


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("[]", "tokenizer cannot be loaded: AttributeError"),
        ('{"tokenizer_class": 5}', "tokenizer cannot be loaded: AttributeError"),
        ('{"tokenizer_class": "RagTokenizer"}', "tokenizer cannot be loaded: TypeError"),
        ('{"tokenizer_class": "BertTokenizer"}', "without a vocabulary"),
        ('{"tokenizer_class": "GPT2Tokenizer", "vocab_file": "/etc/passwd"}', "without a vocabulary"),
    ],
)
def test_a_tokenizer_without_a_vocabulary_is_refused(
    publish: Callable[..., Path], pair: KeyPair, text: str, reason: str
) -> None:
    with (
        load(publish(change=writes("tokenizer_config.json", text)), pair) as verified,
        pytest.raises(sentry.UnavailableError, match=reason),
    ):
        verified.tokenizer()


def test_a_file_that_the_tokenizer_does_not_read_is_no_vocabulary(publish: Callable[..., Path], pair: KeyPair) -> None:
    with (
        load(publish(change=writes("vocabulary.txt", "a\nb\n")), pair) as verified,
        pytest.raises(sentry.UnavailableError, match="without a vocabulary"),
    ):
        verified.tokenizer()


def test_a_vocabulary_alone_will_do(publish: Callable[..., Path], pair: KeyPair) -> None:
    words = "[PAD]\n[UNK]\n[CLS]\n[SEP]\n[MASK]\nhello\n"
    with load(publish(change=writes("vocab.txt", words)), pair) as verified:
        assert verified.tokenizer()("hello")["input_ids"] == [2, 5, 3]


def test_bytes_need_no_vocabulary(publish: Callable[..., Path], pair: KeyPair) -> None:
    with load(publish(change=edit_json("tokenizer_config.json", tokenizer_class="ByT5Tokenizer")), pair) as verified:
        assert verified.tokenizer()("a")["input_ids"] == [100, 1]


@pytest.mark.parametrize("value", ["no", "", 0, 1, None])
def test_whether_code_may_run_is_true_or_false(publish: Callable[..., Path], pair: KeyPair, value: object) -> None:
    with pytest.raises(TypeError, match="neither True nor False"):
        load(publish(), pair, trust_remote_code=value)


def test_a_place_that_does_not_exist_is_told(publish: Callable[..., Path], pair: KeyPair, tmp_path: Path) -> None:
    with pytest.raises(sentry.UnavailableError, match=r"cannot make a copy in .*none: No such file"):
        load(publish(), pair, workdir=tmp_path / "none")


def test_fields_that_transformers_cannot_take_are_told(publish: Callable[..., Path], pair: KeyPair) -> None:
    with pytest.raises(sentry.UnavailableError, match="with these fields overridden"):
        load(publish(), pair, hidden_size="x")
