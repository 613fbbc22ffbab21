# SPDX-License-Identifier: Apache-2.0
"""Codecs: bytes in, values out, and back. Nothing here reads a file, a clock or a random number."""
