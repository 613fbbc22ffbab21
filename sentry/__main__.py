# SPDX-License-Identifier: Apache-2.0
"""`python -m sentry`: the command line."""

from sentry.cli import run

run()
