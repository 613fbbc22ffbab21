# SPDX-License-Identifier: Apache-2.0
"""Configuration."""

from vllm.config.model import ModelConfig as ModelConfig
