# SPDX-License-Identifier: Apache-2.0
"""Loading that verifies what it loads: `load_file`, `load_model`, `safe_open`. docs/loading.md walks through it."""
