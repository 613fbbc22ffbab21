# SPDX-License-Identifier: Apache-2.0
"""A plug-in for vLLM: `--load-format sentry` loads weights that are verified, or none.

vLLM finds `register` by its entry point in every process. Weights reach the model only after the last byte of them has
been verified, and no other loader ever takes over. Not covered: what vLLM reads from the directory itself, such as the
configuration and the tokenizer; start it on a directory that `sentry materialize` made, where those have been verified.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from sentry.errors import TrustError, UnavailableError
from sentry.loading.loaded import load_file
from sentry.paths import default_signature_path
from sentry.text import escape
from sentry.trust.keys import KeyTrust

LOAD_FORMAT = "sentry"


@dataclass(frozen=True)
class Options:
    """What `--model-loader-extra-config` says.

    Attributes:
        key: The public key whose signature counts, in a PEM file outside the model.
        signature: The signature; by default `model.sig` in the model's directory.
        device: Where weights are verified; by default where the model's parameters lie. `cpu` saves the GPU's memory.
        reader: How weights are read; see `sentry.load_file`.
        engine: Where they are hashed.
    """

    key: str
    signature: str | None = None
    device: str | None = None
    reader: str = "auto"
    engine: str = "auto"

    @classmethod
    def parse(cls, given: object) -> Self:
        """Check what vLLM hands over.

        Raises:
            TrustError: No key is named.
            ValueError: There is something else in it than the attributes above, or no object at all.
        """
        fields = cls.__dataclass_fields__
        if not isinstance(given, dict):
            raise ValueError("model_loader_extra_config is not an object")  # noqa: TRY004
        if unknown := sorted(str(name) for name in given if name not in fields):
            raise ValueError(f"model_loader_extra_config has what is not known: {', '.join(map(escape, unknown))}")
        if wrong := sorted(name for name, value in given.items() if not isinstance(value, str) or not value):
            raise ValueError(f"model_loader_extra_config has what is no text: {', '.join(wrong)}")
        if "key" not in given:
            raise TrustError(
                "no trust was given: model_loader_extra_config names no key",
                hint="""--model-loader-extra-config '{"key": "public.pem"}' says whose signature counts""",
            )
        return cls(**given)


def register() -> None:
    """Tell vLLM of the load format; vLLM calls this in every one of its processes, maybe more than once."""
    from vllm.config.load import LoadConfig  # noqa: PLC0415
    from vllm.model_executor.model_loader import register_model_loader  # noqa: PLC0415
    from vllm.model_executor.model_loader.base_loader import BaseModelLoader  # noqa: PLC0415
    from vllm.model_executor.model_loader.default_loader import DefaultModelLoader  # noqa: PLC0415

    class SentryModelLoader(BaseModelLoader):  # type: ignore[misc, unused-ignore]
        """Loads verified weights, or raises."""

        def __init__(self, load_config: LoadConfig) -> None:
            super().__init__(load_config)
            self._options = Options.parse(load_config.model_loader_extra_config)

        def download_model(self, model_config: Any) -> None:  # noqa: ANN401
            """Download nothing: say whether there is a directory to verify."""
            find_directory(model_config.model)

        def load_weights(self, model: Any, model_config: Any) -> None:  # noqa: ANN401
            """Verify all weights, and then hand them to the model."""
            loaded = load_verified(model, find_directory(model_config.model), self._options)
            # As vLLM does after its own loading: the ranks' parameters must all have come from the checkpoint.
            if loaded is not None and model_config.quantization is None:
                DefaultModelLoader(LoadConfig()).track_weights_loading(model, loaded, quantized=False)

    register_model_loader(LOAD_FORMAT)(SentryModelLoader)


def find_directory(model: object) -> Path:
    """Return the model's directory.

    Args:
        model: What vLLM was told to serve.

    Raises:
        UnavailableError: It is not a directory on this machine.
    """
    if not isinstance(model, str) or not os.path.isdir(model):
        raise UnavailableError(
            f"{escape(str(model))} is not a directory, and nothing is downloaded to be verified",
            hint="copy the model and its signature to this machine, and serve that directory",
        )
    return Path(model)


def load_verified(model: Any, directory: Path, options: Options) -> Any:  # noqa: ANN401
    """Verify a directory's weights and hand all of them to a model of vLLM.

    Args:
        model: The model, built but empty.
        directory: Where the signed weights lie.
        options: Whose signature counts, and how to read.

    Returns:
        What the model's `load_weights` returns: the names that it filled, or None.

    Raises:
        VerificationError: The weights are not what was signed; the model has been given none of them.
        UnavailableError: The model wants weights from other places as well.
    """
    # Attributes by which a model asks vLLM's own loader for files that are not the checkpoint's.
    for attribute in ("secondary_weights", "allow_patterns_overrides"):
        if getattr(model, attribute, None):
            raise UnavailableError(f"{type(model).__name__} wants other weights than the checkpoint's ({attribute})")
    tensors = load_file(
        directory,
        options.signature or default_signature_path(directory),
        KeyTrust.from_file(options.key),
        root=directory,
        device=options.device or _device_of(model),
        reader=options.reader,
        engine=options.engine,
    )
    return model.load_weights(_hand_out(dict(tensors)))


def _hand_out(tensors: dict[str, Any]) -> Iterator[tuple[str, Any]]:
    """Yield every tensor and let go of it: the model copies what it wants."""
    for name in list(tensors):
        yield name, tensors.pop(name)


def _device_of(model: Any) -> str:  # noqa: ANN401
    devices = (str(parameter.device) for parameter in model.parameters())
    # Layers that are quantised while they are loaded have no memory before.
    return next((device for device in devices if device != "meta"), "cpu")
