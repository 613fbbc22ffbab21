# SPDX-License-Identifier: Apache-2.0
"""How weights are loaded."""

from dataclasses import dataclass, field
from typing import Any


@dataclass
class LoadConfig:
    """The fields that the plug-in reads."""

    load_format: str = "auto"
    model_loader_extra_config: Any = field(default_factory=dict)
