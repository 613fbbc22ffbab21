# SPDX-License-Identifier: Apache-2.0
"""Verified tensors in modules: on the meta device without a copy, elsewhere into what is there, or not at all."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import pytest
from loading.conftest import Signed, Written, pattern, safetensors

import sentry
from sentry.errors import MismatchError
from sentry.loading import modules
from sentry.loading.loaded import VerifiedTensors

torch = pytest.importorskip("torch")

LINEAR: Written = {"0.weight": ("F32", (3, 2), pattern(24)), "0.bias": ("F32", (3,), pattern(12, 1))}


def linear() -> Any:
    return torch.nn.Sequential(torch.nn.Linear(2, 3))


def tied() -> Any:
    module = torch.nn.ModuleDict({"a": torch.nn.Linear(2, 2, bias=False), "b": torch.nn.Linear(2, 2, bias=False)})
    module["b"].weight = module["a"].weight
    return module


def load(module: Any, signed: Signed, **options: Any) -> modules.ModuleLoad:
    return sentry.load_model(module, signed.directory / "m.safetensors", signed.signature, signed.pair.trust, **options)


@pytest.fixture
def sign(make_signed: Callable[..., Signed]) -> Callable[[Written], Signed]:
    return lambda tensors: make_signed({"m.safetensors": safetensors(tensors)})


def raw(tensor: Any) -> bytes:
    return bytes(tensor.detach().reshape(-1).view(torch.uint8).numpy())


def test_a_module_on_the_meta_device_gets_the_loaded_tensors_themselves(
    sign: Callable[[Written], Signed], monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[Mapping[str, Any]] = []

    def watch(*arguments: Any, **options: Any) -> VerifiedTensors:
        seen.append(sentry.load_file(*arguments, **options))
        return seen[-1]  # type: ignore[return-value]

    monkeypatch.setattr(modules, "load_file", watch)
    with torch.device("meta"):
        module = linear()
    result = load(module, sign(LINEAR))
    assert result.verification.tensors == 2
    for name, tensor in module.state_dict().items():
        assert raw(tensor) == LINEAR[name][2]
        assert tensor.data_ptr() == seen[0][name].data_ptr()
    assert module[0].weight.requires_grad


def test_a_module_with_values_gets_new_ones_in_its_own_memory(sign: Callable[[Written], Signed]) -> None:
    module = linear()
    addresses = {name: tensor.data_ptr() for name, tensor in module.state_dict().items()}
    load(module, sign(LINEAR))
    assert {name: raw(tensor) for name, tensor in module.state_dict().items()} == {n: e[2] for n, e in LINEAR.items()}
    assert {name: tensor.data_ptr() for name, tensor in module.state_dict().items()} == addresses


@pytest.mark.parametrize("meta", [False, True])
@pytest.mark.parametrize("name", ["a.weight", "b.weight"])
def test_tied_tensors_need_to_be_there_once_and_stay_tied(
    sign: Callable[[Written], Signed], name: str, meta: bool
) -> None:
    with torch.device("meta" if meta else "cpu"):
        module = tied()
    load(module, sign({name: ("F32", (2, 2), pattern(16))}))
    assert module["a"].weight is module["b"].weight
    assert raw(module["a"].weight) == pattern(16)


def test_buffers_of_no_checkpoint_are_named(sign: Callable[[Written], Signed]) -> None:
    with torch.device("meta"):
        module = linear()
        module.register_buffer("table", torch.zeros(3), persistent=False)
    assert load(module, sign(LINEAR)).still_meta == ("table",)


@pytest.mark.parametrize("meta", [False, True])
@pytest.mark.parametrize(
    ("tensors", "reason"),
    [
        ({"0.weight": LINEAR["0.weight"]}, "the model lacks: 0.bias"),
        ({**LINEAR, "1.weight": LINEAR["0.bias"]}, "the module lacks: 1.weight"),
        ({"x": LINEAR["0.weight"]}, r"the model lacks: 0.bias, 0.weight; the module lacks: x"),
        ({**LINEAR, "0.weight": ("F32", (2, 3), pattern(24))}, r"0.weight has shape \(2, 3\)"),
    ],
)
def test_a_model_that_does_not_fit_leaves_the_module_as_it_was(
    sign: Callable[[Written], Signed], tensors: Written, reason: str, meta: bool
) -> None:
    with torch.device("meta" if meta else "cpu"):
        module = linear()
    before = {} if meta else {name: raw(tensor) for name, tensor in module.state_dict().items()}
    with pytest.raises(ValueError, match=reason):
        load(module, sign(tensors))
    assert (
        all(tensor.is_meta for tensor in module.state_dict().values())
        if meta
        else before == {name: raw(tensor) for name, tensor in module.state_dict().items()}
    )


def test_a_conversion_is_refused_where_it_would_hide_what_was_signed(sign: Callable[[Written], Signed]) -> None:
    half = {"0.weight": ("F16", (3, 2), pattern(12)), "0.bias": ("F16", (3,), pattern(6))}
    with pytest.raises(ValueError, match="would not be what was signed"):
        load(linear(), sign(half))
    load(linear().to(torch.float16), sign(half))


def test_names_that_do_not_matter_are_reported(sign: Callable[[Written], Signed]) -> None:
    result = load(linear(), sign({"0.weight": LINEAR["0.weight"], "x": LINEAR["0.bias"]}), strict=False)
    assert (result.missing, result.unexpected) == (("0.bias",), ("x",))


def test_a_module_is_not_touched_by_a_model_that_is_not_authentic(sign: Callable[[Written], Signed]) -> None:
    signed, module = sign(LINEAR), linear()
    before = {name: raw(tensor) for name, tensor in module.state_dict().items()}
    (signed.directory / "m.safetensors").write_bytes(safetensors({**LINEAR, "0.bias": ("F32", (3,), bytes(12))}))
    with pytest.raises(MismatchError, match="bytes differ"):
        load(module, signed)
    assert {name: raw(tensor) for name, tensor in module.state_dict().items()} == before


class Renames(torch.nn.Module):  # type: ignore[misc,name-defined]
    """A wrapper whose state dict has other names than its parameters, as those of training frameworks have."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = linear()
        self._register_state_dict_hook(self._rename)

    @staticmethod
    def _rename(_module: Any, state: dict[str, Any], prefix: str, _metadata: Any) -> None:
        for name in list(state):
            state[name.replace(prefix + "inner.", prefix)] = state.pop(name)


def test_names_of_a_state_dict_are_resolved_by_the_tensors_behind_them(sign: Callable[[Written], Signed]) -> None:
    module = Renames()
    load(module, sign(LINEAR))
    assert raw(module.inner[0].weight) == LINEAR["0.weight"][2]


def test_a_state_dict_of_copies_is_refused(sign: Callable[[Written], Signed]) -> None:
    module = linear()
    module._register_state_dict_hook(lambda _m, state, *_: {name: t.clone() for name, t in state.items()})
    with pytest.raises(ValueError, match="none of its parameters and buffers"):
        load(module, sign(LINEAR))


def shared(kind: str) -> Any:
    """Return a module with one tensor under two names, tied in one of several ways."""
    with torch.device("meta" if kind == "meta" else "cpu"):
        module = tied()
    if kind == "memory":
        module["b"].weight = torch.nn.Parameter(module["a"].weight.data)
    return module


@pytest.mark.parametrize("kind", ["object", "memory", "meta"])
def test_two_signed_values_for_one_tensor_are_refused(sign: Callable[[Written], Signed], kind: str) -> None:
    two = {name: ("F32", (2, 2), pattern(16, seed)) for seed, name in enumerate(("a.weight", "b.weight"))}
    with pytest.raises(ValueError, match="are one tensor in the module and two in the model"):
        load(shared(kind), sign(two))
    same = {name: ("F32", (2, 2), pattern(16)) for name in ("a.weight", "b.weight")}
    module = shared(kind)
    load(module, sign(same))
    assert raw(module["b"].weight) == pattern(16)


def test_tensors_that_overlap_in_the_module_are_refused(sign: Callable[[Written], Signed]) -> None:
    memory = torch.zeros(4)
    module = torch.nn.Module()
    module.register_buffer("a", memory[:3])
    module.register_buffer("b", memory[1:])
    with pytest.raises(ValueError, match="a and b of the module overlap in memory"):
        load(module, sign({name: ("F32", (3,), pattern(12)) for name in "ab"}))


def test_a_buffer_with_one_place_for_several_elements_is_refused(sign: Callable[[Written], Signed]) -> None:
    module = torch.nn.Module()
    module.register_buffer("a", torch.zeros(1).expand(3))
    with pytest.raises(ValueError, match="several elements in one place"):
        load(module, sign({"a": ("F32", (3,), pattern(12))}))


def test_integers_for_what_is_to_be_trained_are_refused_before_anything_is_placed(
    sign: Callable[[Written], Signed],
) -> None:
    with torch.device("meta"):
        module = linear()
    with pytest.raises(ValueError, match="wants to train it"):
        load(module, sign({**LINEAR, "0.bias": ("I32", (3,), pattern(12))}))
    assert all(tensor.is_meta for tensor in module.state_dict().values())
