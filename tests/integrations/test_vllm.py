# SPDX-License-Identifier: Apache-2.0
"""The plug-in for vLLM hands out verified weights or raises; the stub that stands for vLLM has vLLM's signatures."""

from __future__ import annotations

import ast
import importlib
import os
import sys
import tomllib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from support import KeyPair

import sentry
from sentry.integrations import vllm as plug_in

HERE = Path(__file__).parent
STUB = HERE / "stub_vllm"
RECORD = HERE / "vllm_signatures.txt"
# Set it to an unpacked wheel of vLLM to compare the record with that.
SOURCE = "SENTRY_VLLM_SOURCE"
LOADERS = "vllm/model_executor/model_loader"
# What the plug-in calls, overrides or reads; in classes by dots.
USED = {
    f"{LOADERS}/__init__.py": ["register_model_loader", "get_model_loader"],
    f"{LOADERS}/base_loader.py": [
        "BaseModelLoader.__init__", "BaseModelLoader.download_model", "BaseModelLoader.load_weights",
    ],
    f"{LOADERS}/default_loader.py": ["DefaultModelLoader.__init__", "DefaultModelLoader.track_weights_loading"],
    "vllm/config/load.py": ["LoadConfig.load_format", "LoadConfig.model_loader_extra_config"],
    "vllm/config/model.py": ["ModelConfig.model", "ModelConfig.quantization"],
}  # fmt: skip


def describe(root: Path) -> list[str]:
    """Return one line for every name in `USED`, read from source text: nothing is imported."""
    lines = [f"{file}: {name}{_signature(root / file, name)}" for file, names in USED.items() for name in names]
    base = ast.parse((root / LOADERS / "base_loader.py").read_text(encoding="utf-8"))
    abstract = [node.name for node in ast.walk(base) if isinstance(node, ast.FunctionDef) and _is_abstract(node)]
    group = ast.parse((root / "vllm/plugins/__init__.py").read_text(encoding="utf-8"))
    (constant,) = (text for node in group.body if (text := ast.unparse(node)).startswith("DEFAULT_PLUGINS_GROUP = "))
    return [*lines, f"abstract methods of a loader: {', '.join(abstract)}", constant]


def _signature(path: Path, name: str) -> str:
    body = ast.parse(path.read_text(encoding="utf-8")).body
    for part in name.split("."):
        node = next(node for node in body if part in {getattr(node, "name", None), ast.unparse(_target(node))})
        body = getattr(node, "body", [])
    return f"({', '.join(_arguments(node.args))})" if isinstance(node, ast.FunctionDef) else ""


def _is_abstract(node: ast.FunctionDef) -> bool:
    return any("abstractmethod" in ast.unparse(decorator) for decorator in node.decorator_list)


def _arguments(arguments: ast.arguments) -> Iterator[str]:
    """Yield arguments without their types, which the stub states more narrowly."""
    assert not any([arguments.posonlyargs, arguments.kwonlyargs, arguments.vararg, arguments.kwarg])
    first_default = len(arguments.args) - len(arguments.defaults)
    for index, argument in enumerate(arguments.args):
        default = f"={ast.unparse(arguments.defaults[index - first_default])}" if index >= first_default else ""
        yield argument.arg + default


def _target(node: ast.stmt) -> ast.AST:
    return node.target if isinstance(node, ast.AnnAssign) else ast.Name("")


# ------------------------------------------------------------------------------------------------ the stub and the real


def test_the_stub_has_the_recorded_signatures() -> None:
    recorded = [line for line in RECORD.read_text(encoding="utf-8").splitlines() if line and not line.startswith("#")]
    assert describe(STUB) == recorded


def test_vllm_has_the_recorded_signatures() -> None:
    if SOURCE not in os.environ:
        pytest.skip(f"vllm is not unpacked: {SOURCE} names no directory")
    recorded = [line for line in RECORD.read_text(encoding="utf-8").splitlines() if line and not line.startswith("#")]
    assert describe(Path(os.environ[SOURCE])) == recorded


def test_the_entry_point_is_the_one_that_vllm_looks_for() -> None:
    project = tomllib.loads((HERE.parents[1] / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    (group,) = project["entry-points"]
    assert f"DEFAULT_PLUGINS_GROUP = {group!r}" in RECORD.read_text(encoding="utf-8")
    (value,) = project["entry-points"][group].values()
    module, _, name = value.partition(":")
    assert getattr(importlib.import_module(module), name) is plug_in.register


def test_the_plug_in_can_be_imported_without_vllm() -> None:
    assert "vllm" not in sys.modules
    with pytest.raises(ImportError):
        plug_in.register()


# ---------------------------------------------------------------------------------------------------------- the plug-in


@pytest.fixture
def vllm(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """Return the stub's registry with the plug-in in it."""
    pytest.importorskip("torch", reason="torch is not installed")
    monkeypatch.syspath_prepend(str(STUB))
    registry = importlib.import_module("vllm.model_executor.model_loader")
    plug_in.register()
    yield registry
    for name in [name for name in sys.modules if name.split(".")[0] == "vllm"]:
        del sys.modules[name]


@pytest.fixture
def published(tmp_path: Path, pair: KeyPair) -> Path:
    """Return a signed model with two tensors."""
    torch = pytest.importorskip("torch", reason="torch is not installed")
    files = pytest.importorskip("safetensors.torch", reason="safetensors is not installed")
    directory = tmp_path / "published"
    directory.mkdir()
    files.save_file(
        {"weight": torch.arange(12.0).reshape(3, 4), "bias": torch.ones(3)}, directory / "model.safetensors"
    )
    (directory / "config.json").write_text("{}")
    sentry.sign_path(directory, pair.signer).write(directory / "model.sig")
    return directory


def empty_model(**attributes: Any) -> Any:
    """Make a model as vLLM's are: it copies what it is given, and says which parameters it filled."""
    torch = importlib.import_module("torch")

    class Model(torch.nn.Linear):  # type: ignore[misc, name-defined]
        given: dict[str, Any]

        def load_weights(self, weights: Iterator[tuple[str, Any]]) -> set[str]:
            self.given = dict(weights)
            for name, tensor in self.given.items():
                self.get_parameter(name).data.copy_(tensor)
            return set(self.given)

    model = Model(4, 3)
    model.given = {}
    for name, value in attributes.items():
        setattr(model, name, value)
    return model


def loader(vllm: Any, extra: Any, load_format: str = "sentry") -> Any:
    config = importlib.import_module("vllm.config.load")
    return vllm.get_model_loader(config.LoadConfig(load_format=load_format, model_loader_extra_config=extra))


def model_config(directory: object, quantization: str | None = None) -> Any:
    return importlib.import_module("vllm.config").ModelConfig(str(directory), quantization)


def test_verified_weights_reach_the_model(vllm: Any, published: Path, pair: KeyPair) -> None:
    model = empty_model()
    ours = loader(vllm, {"key": str(pair.public)})
    ours.download_model(model_config(published))
    ours.load_weights(model, model_config(published))
    assert model.weight.tolist() == [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9, 10, 11]]
    assert model.bias.tolist() == [1, 1, 1]


def test_a_signature_can_lie_elsewhere(vllm: Any, published: Path, pair: KeyPair, tmp_path: Path) -> None:
    (published / "model.sig").rename(tmp_path / "elsewhere.sig")
    model = empty_model()
    options = {"key": str(pair.public), "signature": str(tmp_path / "elsewhere.sig"), "device": "cpu"}
    loader(vllm, options).load_weights(model, model_config(published))
    assert model.given


def test_options_reach_the_loader(vllm: Any, published: Path, pair: KeyPair, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: dict[str, Any] = {}
    plain: Any = sentry.load_file
    monkeypatch.setattr(plug_in, "load_file", lambda *given, **named: seen.update(named) or plain(*given, **named))
    extra = {"key": str(pair.public), "reader": "auto", "engine": "cpu"}
    loader(vllm, extra).load_weights(empty_model(), model_config(published))
    assert seen == {"root": published, "device": "cpu", "reader": "auto", "engine": "cpu"}


def _flip(directory: Path) -> None:
    content = bytearray((directory / "model.safetensors").read_bytes())
    content[-1] ^= 1
    (directory / "model.safetensors").write_bytes(content)


@pytest.mark.parametrize(
    ("damage", "error"),
    [
        (_flip, sentry.MismatchError),
        (lambda directory: (directory / "model.sig").unlink(), sentry.SignatureError),
        (lambda directory: (directory / "model.sig").write_text("{}"), sentry.SignatureError),
        (lambda directory: (directory / "model.safetensors").unlink(), sentry.SentryError),
    ],
)
def test_weights_that_do_not_verify_never_reach_the_model(
    vllm: Any, published: Path, pair: KeyPair, damage: Callable[[Path], object], error: type[Exception]
) -> None:
    damage(published)
    model = empty_model()
    with pytest.raises(error):
        loader(vllm, {"key": str(pair.public)}).load_weights(model, model_config(published))
    assert model.given == {}


def test_a_stranger_is_refused(vllm: Any, published: Path, attacker: KeyPair) -> None:
    model = empty_model()
    with pytest.raises(sentry.VerificationError):
        loader(vllm, {"key": str(attacker.public)}).load_weights(model, model_config(published))
    assert model.given == {}


def test_a_key_inside_the_model_is_refused(vllm: Any, published: Path, pair: KeyPair) -> None:
    (published / "key.pem").write_bytes(pair.public.read_bytes())
    (published / "model.sig").unlink()
    sentry.sign_path(published, pair.signer).write(published / "model.sig")
    with pytest.raises(sentry.TrustError, match="lies inside the model"):
        loader(vllm, {"key": str(published / "key.pem")}).load_weights(empty_model(), model_config(published))


@pytest.mark.parametrize(
    ("extra", "error", "reason"),
    [
        ({}, sentry.TrustError, "names no key"),
        ({"signature": "model.sig"}, sentry.TrustError, "names no key"),
        ({"key": "public.pem", "insecure": "yes"}, ValueError, "not known: insecure"),
        ({"key": None}, ValueError, "no text: key"),
        ({"key": ""}, ValueError, "no text: key"),
        ({"key": "public.pem", "engine": 1}, ValueError, "no text: engine"),
        ([("key", "public.pem")], ValueError, "not an object"),
    ],
    ids=str,
)
def test_options_that_are_not_understood_are_refused(
    vllm: Any, extra: object, error: type[Exception], reason: str
) -> None:
    with pytest.raises(error, match=reason):
        loader(vllm, extra)


@pytest.mark.parametrize("name", ["organisation/model", "/no/such/directory", None])
def test_nothing_is_downloaded(vllm: Any, pair: KeyPair, name: str | None) -> None:
    ours = loader(vllm, {"key": str(pair.public)})
    with pytest.raises(sentry.UnavailableError, match="nothing is downloaded"):
        ours.download_model(model_config(name))
    with pytest.raises(sentry.UnavailableError, match="nothing is downloaded"):
        ours.load_weights(empty_model(), model_config(name))


@pytest.mark.parametrize("attribute", ["secondary_weights", "allow_patterns_overrides"])
def test_models_that_want_other_weights_are_refused(vllm: Any, published: Path, pair: KeyPair, attribute: str) -> None:
    model = empty_model(**{attribute: ["other"]})
    with pytest.raises(sentry.UnavailableError, match=attribute):
        loader(vllm, {"key": str(pair.public)}).load_weights(model, model_config(published))
    assert model.given == {}


def test_parameters_that_no_weight_filled_are_an_error(
    vllm: Any, published: Path, pair: KeyPair, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = empty_model()
    monkeypatch.setattr(type(model), "load_weights", lambda _, weights: {name for name, _ in weights} - {"bias"})
    ours = loader(vllm, {"key": str(pair.public)})
    with pytest.raises(ValueError, match="bias"):
        ours.load_weights(model, model_config(published))
    ours.load_weights(model, model_config(published, "fp8"))  # vLLM's own rule: quantised models have parameters more


def test_other_load_formats_stay_what_they_were(vllm: Any) -> None:
    with pytest.raises(ValueError, match="not supported"):
        loader(vllm, {}, "sentri")
    assert type(loader(vllm, {}, "auto")).__name__ == "DefaultModelLoader"
