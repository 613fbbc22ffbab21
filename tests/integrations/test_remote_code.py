# SPDX-License-Identifier: Apache-2.0
"""A model's own code runs when it is signed and allowed to, from the verified copy, and otherwise not at all."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from support import KeyPair

import sentry

torch = pytest.importorskip("torch", reason="torch is not installed")
transformers = pytest.importorskip("transformers", reason="transformers is not installed")

from integrations.small_models import edit_json, load, own_code, sign  # noqa: E402


@pytest.mark.parametrize("auto_class", [None, "AutoModel"])
def test_signed_code_runs_from_the_copy_when_it_is_allowed_to(
    publish: Callable[..., Path], pair: KeyPair, auto_class: str | None
) -> None:
    directory = publish(change=own_code)
    with load(directory, pair, trust_remote_code=True, auto_class=auto_class) as verified:
        assert torch.equal(verified.model.line.weight, torch.arange(16.0).reshape(4, 4))
        file = sys.modules[type(verified.model).__module__].__file__
        assert file is not None
        assert Path(file).parent == verified.directory


def test_code_does_not_run_unless_it_is_allowed_to(publish: Callable[..., Path], pair: KeyPair) -> None:
    with pytest.raises(sentry.UnavailableError, match="cannot be loaded") as caught:
        load(publish(change=own_code), pair)
    assert "trust_remote_code=True" in str(caught.value.hint)


def test_code_of_a_known_kind_of_model_does_not_run_either(publish: Callable[..., Path], pair: KeyPair) -> None:
    change = edit_json("config.json", auto_map={"AutoModel": "modeling_x.OtherModel"}, architectures=["OtherModel"])
    with pytest.raises(sentry.VerificationError, match="comes with the model"):
        load(publish(change=change), pair)


@pytest.mark.parametrize("trusted", [False, True])
@pytest.mark.parametrize(
    ("reference", "reason"),
    [
        ("someone/else--modeling_tiny.TinyModel", "another repository"),
        ("modeling_tiny", "names no class"),
        ("../modeling_tiny.TinyModel", "names no class"),
        ("os.path.join", "names no class"),
        (7, "does not name classes"),
    ],
)
@pytest.mark.parametrize("name", ["config.json", "tokenizer_config.json"])
def test_code_from_elsewhere_is_refused(
    publish: Callable[..., Path], pair: KeyPair, name: str, reference: object, reason: str, *, trusted: bool
) -> None:
    change = edit_json(name, auto_map={"AutoModel": reference})
    with pytest.raises(sentry.VerificationError, match=reason):
        load(publish(change=change), pair, trust_remote_code=trusted)


def test_code_that_is_not_signed_is_refused(publish: Callable[..., Path], pair: KeyPair) -> None:
    def change(directory: Path) -> None:
        own_code(directory)
        (directory / "modeling_tiny.py").unlink()

    with pytest.raises(sentry.MismatchError, match=r"not signed: modeling_tiny\.py"):
        load(publish(change=change), pair, trust_remote_code=True)


def test_a_missing_class_is_refused(publish: Callable[..., Path], pair: KeyPair) -> None:
    def change(directory: Path) -> None:
        own_code(directory, AutoConfig="configuration_tiny.OtherConfig")

    with pytest.raises(sentry.VerificationError, match="has no class"):
        load(publish(change=change), pair, trust_remote_code=True)


def test_two_models_with_code_of_one_name_do_not_mix(
    publish: Callable[..., Path], pair: KeyPair, tmp_path: Path
) -> None:
    first = publish(change=own_code)
    second = tmp_path / "second"
    shutil.copytree(first, second)
    code = (second / "modeling_tiny.py").read_text()
    (second / "modeling_tiny.py").write_text(code.replace("self.line(x)", "-self.line(x)"))
    sign(second, pair)
    one, other = (load(directory, pair, trust_remote_code=True) for directory in (first, second))
    with torch.no_grad():
        assert torch.equal(one.model(torch.ones(4)), -other.model(torch.ones(4)))
    one.close()
    other.close()
