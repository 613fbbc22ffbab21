# SPDX-License-Identifier: Apache-2.0
"""Errors of the program that a model is loaded into, as errors of this package.

A signed configuration can be nonsense, and then a host fails in ways of its own: callers catch one kind of error.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from sentry.errors import SentryError, UnavailableError
from sentry.text import escape

# Hosts tell long stories: lists of everything that they know, and advice. The whole text is in the cause.
_LONGEST_REASON = 300


@contextmanager
def host_errors(problem: str, *, hint: str | None = None) -> Iterator[None]:
    """Turn whatever a host raises into an error of ours, with the original as its cause.

    Args:
        problem: What could not be done, the beginning of the sentence.
        hint: What to do about it.

    Raises:
        UnavailableError: The host raised something; errors of ours pass as they are.
    """
    try:
        yield
    except SentryError:
        raise
    except Exception as error:
        text = escape(" ".join(str(error).split()))
        short = text if len(text) <= _LONGEST_REASON else f"{text[:_LONGEST_REASON]}..."
        # A bare `KeyError: 'x'` would say nothing without the kind.
        raise UnavailableError(f"{problem}: {type(error).__name__}: {short}", hint=hint) from error
