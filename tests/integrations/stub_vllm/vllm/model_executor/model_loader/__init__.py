# SPDX-License-Identifier: Apache-2.0
"""The registry of loaders."""

from collections.abc import Callable

from vllm.config.load import LoadConfig
from vllm.model_executor.model_loader.base_loader import BaseModelLoader
from vllm.model_executor.model_loader.default_loader import DefaultModelLoader

_LOAD_FORMAT_TO_MODEL_LOADER: dict[str, type[BaseModelLoader]] = {"auto": DefaultModelLoader}


def register_model_loader(load_format: str) -> Callable[[type[BaseModelLoader]], type[BaseModelLoader]]:
    """Register a loader."""

    def wrap(cls: type[BaseModelLoader]) -> type[BaseModelLoader]:
        if not issubclass(cls, BaseModelLoader):
            raise ValueError("The model loader must be a subclass of `BaseModelLoader`.")  # noqa: TRY004
        _LOAD_FORMAT_TO_MODEL_LOADER[load_format] = cls
        return cls

    return wrap


def get_model_loader(load_config: LoadConfig) -> BaseModelLoader:
    """Make the loader of a load format."""
    load_format = load_config.load_format
    if load_format not in _LOAD_FORMAT_TO_MODEL_LOADER:
        raise ValueError(f"Load format `{load_format}` is not supported")
    return _LOAD_FORMAT_TO_MODEL_LOADER[load_format](load_config)
