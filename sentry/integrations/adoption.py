# SPDX-License-Identifier: Apache-2.0
"""From a verified configuration and verified tensors to a model of `transformers`, without another copy of either.

Not checked here: signatures. The directory and the tensors have been verified by whoever calls.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from sentry.errors import MismatchError, UnavailableError, VerificationError
from sentry.integrations.host import host_errors
from sentry.integrations.remote_code import VerifiedCode, auto_map, split_reference
from sentry.text import escape

# Arguments that may differ from the signed configuration, beside the fields that it has itself.
_MODEL_ARGUMENTS = frozenset({"attn_implementation", "experts_implementation"})
# Fields that say where other bytes come from, or what the weights mean: the signed value stands.
_FIXED_FIELDS = frozenset(
    {
        "auto_map",
        "architectures",
        "model_type",
        "name_or_path",
        "_name_or_path",
        "quantization_config",
        "transformers_weights",
    }
)


def load_config(directory: Path, code: VerifiedCode | None, overrides: Mapping[str, object]) -> Any:  # noqa: ANN401
    """Load the configuration of a verified copy.

    Args:
        directory: The copy.
        code: The code that came with the model, if it may run.
        overrides: Fields of the configuration with other values than the signed ones.

    Raises:
        VerificationError: The configuration wants code that may not run, or code from a hub.
        UnavailableError: `transformers` cannot load it.
        ValueError: A field may not be overridden.
    """
    from transformers import AutoConfig  # noqa: PLC0415

    options: dict[str, Any] = {"local_files_only": True}
    references = auto_map(directory).get("AutoConfig", [])
    if references and code is not None:
        cls: Any = code.find(references[0])
    else:
        # Said outright: where it is left open, transformers asks the terminal.
        cls, options["trust_remote_code"] = AutoConfig, False
    hint = "trust_remote_code=True runs the model's own code, if you trust the signer with that"
    with host_errors("the configuration cannot be loaded", hint=hint if references and not code else None):
        config = cls.from_pretrained(str(directory), **options)
        allowed = _MODEL_ARGUMENTS | (set(config.to_dict()) - _FIXED_FIELDS)
    if refused := sorted(set(overrides) - allowed):
        raise ValueError(f"no fields of the signed configuration that may be overridden: {', '.join(refused)}")
    if overrides:
        with host_errors("the configuration cannot be loaded with these fields overridden"):
            config = cls.from_pretrained(str(directory), **options, **overrides)
    _refuse_hub_kernels(config)
    return config


def find_model_class(
    config: Any,  # noqa: ANN401
    auto_class: Any,  # noqa: ANN401
    code: VerifiedCode | None,
    directory: Path,
) -> tuple[Any, Any]:
    """Return the model's class, and the part of the configuration that it takes.

    Args:
        config: The verified configuration.
        auto_class: An auto class, a model's class, the name of one in `transformers`, or None for the signed choice.
        code: The code that came with the model, if it may run.
        directory: The verified copy.

    Raises:
        VerificationError: The class is in code that may not run.
        UnavailableError: The signed choice is none, or a class cannot be imported.
        ValueError: The caller's choice is no class, or one that has no model for this configuration.
    """
    if auto_class is not None:
        return _find_named(config, auto_class, code, directory)
    import transformers  # noqa: PLC0415

    names = getattr(config, "architectures", None)
    if not isinstance(names, list) or len(names) != 1 or not isinstance(names[0], str):
        raise UnavailableError("the signed configuration does not name one class", hint="pass auto_class")
    own = {split_reference(reference)[1]: reference for found in auto_map(directory).values() for reference in found}
    if code is not None and names[0] in own:
        return code.find(own[names[0]]), config
    with host_errors("the signed configuration names no model of transformers", hint="pass auto_class"):
        if names[0] in own and not hasattr(transformers, names[0]):
            raise VerificationError(
                f"the class {escape(names[0])} is in code that comes with the model",
                hint="trust_remote_code=True runs it, if you trust the signer with that",
            )
        return _find_named(config, names[0], code, directory)


def _find_named(
    config: Any,  # noqa: ANN401
    auto_class: Any,  # noqa: ANN401
    code: VerifiedCode | None,
    directory: Path,
) -> tuple[Any, Any]:
    import transformers  # noqa: PLC0415

    found = auto_class
    if isinstance(auto_class, str):
        with host_errors(f"transformers cannot import {escape(auto_class)}"):
            found = getattr(transformers, auto_class, None)
    if not isinstance(found, type):
        raise ValueError(f"transformers has no class {escape(str(auto_class))}")  # noqa: TRY004  (a wrong name)
    if issubclass(found, transformers.PreTrainedModel):
        return found, config
    references = auto_map(directory).get(found.__name__, [])
    if references and code is not None:
        return code.find(references[0]), config
    return _class_of_transformers(config, found)


def adopt(
    cls: Any,  # noqa: ANN401
    config: Any,  # noqa: ANN401
    tensors: dict[str, Any],
    *,
    device: str,
    dtype: Any,  # noqa: ANN401
    directory: Path,
) -> tuple[Any, tuple[str, ...]]:
    """Make a model of tensors that lie where they should; they are not copied unless their type must change.

    Args:
        cls: The model's class.
        config: Its configuration.
        tensors: Every weight by name.
        device: Where the tensors lie.
        dtype: The type to convert to, or None.
        directory: The verified copy, for the settings of text generation.

    Returns:
        The model, and the names of tensors that it does not use because its class says that it needs none of them.

    Raises:
        MismatchError: Weights are missing, unexpected, or of another shape than the configuration says.
        UnavailableError: `transformers` cannot make the model.
    """
    with host_errors(f"no {escape(cls.__name__)} can be made of the signed configuration and weights"):
        loading, unfiltered = _without_excuses(cls)
        model, report = loading.from_pretrained(
            None,
            config=config,
            state_dict=_stay_where_they_are(tensors),
            generation_config=_generation_config(directory) if cls.can_generate() else None,
            dtype="auto" if dtype is None else dtype,
            # So that all differences are named below; none is accepted.
            ignore_mismatched_sizes=True,
            output_loading_info=True,
            local_files_only=True,
            trust_remote_code=False,
        )
        model.__class__ = cls
    if not unfiltered:
        raise UnavailableError("this version of transformers does not say which weights it loaded")
    missing, unexpected = sorted(unfiltered["missing"]), sorted(report["unexpected_keys"])
    changed = sorted(str(item[0]) if isinstance(item, tuple) else str(item) for item in report["mismatched_keys"])
    if missing or unexpected or changed or report.get("error_msgs"):
        parts = {"missing": missing, "unexpected": unexpected, "of another shape": changed}
        told = "; ".join(f"{what}: {_first(names)}" for what, names in parts.items() if names)
        raise MismatchError(
            f"the weights do not fit {escape(cls.__name__)}: {told or 'transformers could not convert them'}",
            hint="they are what was signed; auto_class says which model to make of them",
            missing=missing,
            unexpected=unexpected,
            changed=changed,
        )
    # What no checkpoint stores, such as tables of positions, was computed on the host; weights do not move.
    with host_errors(f"the model cannot be used on {escape(device)}"):
        return model.to(device), tuple(sorted(unfiltered["unexpected"]))


def _without_excuses(cls: Any) -> tuple[Any, dict[str, frozenset[str]]]:  # noqa: ANN401
    """Return a class to load with, and where it notes the weights that are missing and unexpected.

    Some classes name weights that may be missing (`_keys_to_ignore_on_load_missing`): transformers leaves these at
    their initial values and out of its report. The names are noted here before it does so.
    """
    noted: dict[str, frozenset[str]] = {}

    class Loading(cls):  # type: ignore[misc, unused-ignore]
        """The same class; a model of it becomes one of the original when it is loaded."""

        def _adjust_missing_and_unexpected_keys(self, loading_info: Any) -> None:  # noqa: ANN401
            # Tied weights have been taken out of the missing ones by now.
            noted["missing"] = frozenset(loading_info.missing_keys)
            noted["unexpected"] = frozenset(loading_info.unexpected_keys)
            super()._adjust_missing_and_unexpected_keys(loading_info)

    # transformers looks classes up by these.
    Loading.__module__, Loading.__name__, Loading.__qualname__ = cls.__module__, cls.__name__, cls.__qualname__
    return Loading, noted


def _stay_where_they_are(tensors: Mapping[str, Any]) -> dict[str, Any]:
    """Return the same tensors, such that transformers cannot move them.

    Left alone it puts every tensor into the host's memory. Told of another device (`device_map`), it first allocates as
    much memory there as the model needs, which is what the verified weights already occupy.
    """
    import torch  # noqa: PLC0415

    class Placed(torch.Tensor):  # type: ignore[misc, unused-ignore]
        """A tensor that changes its type on request, and never its place."""

        def to(self, device: object = None, dtype: Any = None) -> Any:  # type: ignore[override, unused-ignore]  # noqa: ANN401, ARG002
            """Return a plain tensor in the same place."""
            plain = self.as_subclass(torch.Tensor)
            return plain if dtype is None else plain.to(dtype=dtype)

    return {name: tensor.as_subclass(Placed) for name, tensor in tensors.items()}


def _first(names: list[str], at_most: int = 5) -> str:
    shown = ", ".join(map(escape, names[:at_most]))
    return f"{shown} and {len(names) - at_most} more" if len(names) > at_most else shown


def _class_of_transformers(config: Any, auto_class: Any) -> tuple[Any, Any]:  # noqa: ANN401
    """Look a class up as `AutoModel.from_pretrained` does, which itself needs a path to weights."""
    mapping = getattr(auto_class, "_model_mapping", {})  # the one way to ask; pinned and tested
    with host_errors(f"transformers cannot import the class for {escape(type(config).__name__)}"):
        found = mapping.get(type(config), None)
    if found is None:
        raise ValueError(f"{escape(auto_class.__name__)} has no model for {escape(type(config).__name__)}")
    if isinstance(found, (list, tuple)):
        by_name = {cls.__name__: cls for cls in found}
        wanted = getattr(config, "architectures", None) or []
        found = next((by_name[name] for name in wanted if name in by_name), found[0])
    text_config = config.sub_configs.get("text_config")
    if text_config is not None and found.config_class is text_config:  # the text half of a model of several media
        config = config.get_text_config()
    return found, config


def _generation_config(directory: Path) -> Any:  # noqa: ANN401
    from transformers import GenerationConfig  # noqa: PLC0415

    if (directory / "generation_config.json").is_file():
        return GenerationConfig.from_pretrained(str(directory), local_files_only=True)
    # Models of old keep these settings among the model's own.
    return GenerationConfig.from_pretrained(
        str(directory), config_file_name="config.json", local_files_only=True, _from_model_config=True
    )


def _refuse_hub_kernels(config: Any) -> None:  # noqa: ANN401
    """Refuse implementations that are named like repositories: their code would be fetched from a hub."""
    parts = [config, *(getattr(config, name, None) for name in getattr(config, "sub_configs", {}))]
    for part, name in ((part, name) for part in parts for name in ("_attn_implementation", "_experts_implementation")):
        value = getattr(part, name, None)
        if any("/" in text for text in _strings(value)):
            raise VerificationError(
                f"{name.removeprefix('_')} names code on a hub: {escape(str(value))}",
                hint="pass an implementation that transformers has, such as attn_implementation='sdpa'",
            )


def _strings(value: object) -> Iterable[str]:
    values = value.values() if isinstance(value, dict) else [value]
    return [item for item in values if isinstance(item, str)]
