# SPDX-License-Identifier: Apache-2.0
"""Verified loading inside other programs. Each module needs its own host, and is imported by its full name."""
