# SPDX-License-Identifier: Apache-2.0
"""What a loader is."""

from abc import ABC, abstractmethod

from torch import nn

from vllm.config import ModelConfig
from vllm.config.load import LoadConfig


class BaseModelLoader(ABC):
    """Base class for loaders."""

    def __init__(self, load_config: LoadConfig):
        self.load_config = load_config

    @abstractmethod
    def download_model(self, model_config: ModelConfig) -> None:
        """Download a model."""

    @abstractmethod
    def load_weights(self, model: nn.Module, model_config: ModelConfig) -> None:
        """Load weights into a model."""
