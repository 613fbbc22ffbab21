# SPDX-License-Identifier: Apache-2.0
"""Plug-ins."""

DEFAULT_PLUGINS_GROUP = "vllm.general_plugins"
