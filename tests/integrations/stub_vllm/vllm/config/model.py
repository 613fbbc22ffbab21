# SPDX-License-Identifier: Apache-2.0
"""Which model is loaded."""

from dataclasses import dataclass


@dataclass
class ModelConfig:
    """The fields that the plug-in reads."""

    model: str
    quantization: str | None = None
