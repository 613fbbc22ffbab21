# SPDX-License-Identifier: Apache-2.0
"""vLLM's own loader."""

from torch import nn

from vllm.config import ModelConfig
from vllm.config.load import LoadConfig
from vllm.model_executor.model_loader.base_loader import BaseModelLoader


class DefaultModelLoader(BaseModelLoader):
    """Never asked for weights here; only for its check."""

    def __init__(self, load_config: LoadConfig):
        super().__init__(load_config)
        if load_config.model_loader_extra_config:
            raise ValueError("Unexpected extra config keys")

    def download_model(self, model_config: ModelConfig) -> None:
        raise NotImplementedError

    def load_weights(self, model: nn.Module, model_config: ModelConfig) -> None:
        raise NotImplementedError

    def track_weights_loading(
        self,
        model: nn.Module,
        loaded_weights: set[str] | None,
        quantized: bool = False,
    ) -> None:
        """Raise unless every parameter was loaded."""
        missing = {name for name, _ in model.named_parameters()} - (loaded_weights or set())
        if missing:
            raise ValueError(f"Following weights were not initialized from checkpoint: {missing}")
