# SPDX-License-Identifier: Apache-2.0
"""What stands in the place of a check that is taken out."""

from __future__ import annotations


def nothing(*_arguments: object, **_options: object) -> None:
    """Stand in for what refuses."""


def yes(*_arguments: object, **_options: object) -> bool:
    """Stand in for a question."""
    return True


def no(*_arguments: object, **_options: object) -> bool:
    """Stand in for a question."""
    return False
