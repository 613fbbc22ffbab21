# SPDX-License-Identifier: Apache-2.0
"""As much of vLLM as the plug-in touches: names and signatures are vLLM's, bodies are not."""
