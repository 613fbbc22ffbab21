# SPDX-License-Identifier: Apache-2.0
"""`sentry doctor`: what this machine can do."""

from __future__ import annotations

import dataclasses

import click

from sentry.cli.output import print_json
from sentry.errors import EngineError
from sentry.text import escape


@click.command("doctor")
@click.option("--json", "as_json", is_flag=True, help="Write the findings as JSON.")
def command(as_json: bool) -> None:
    """List engines, compiler, driver, cuFile, caches and packages, and test every engine.

    Each engine digests a random buffer, and must refuse the same buffer with one bit flipped. Exit code 3 if one fails;
    what is merely absent is no failure.
    """
    from sentry.doctor import examine

    findings = examine()
    if as_json:
        print_json([dataclasses.asdict(finding) for finding in findings])
    else:
        width = max(len(finding.subject) for finding in findings)
        for finding in findings:
            click.echo(f"{finding.subject:<{width}}  {finding.state:<6}  {escape(finding.detail)}")
    failed = [finding.subject for finding in findings if finding.state == "failed"]
    if failed:
        raise EngineError(f"failed: {', '.join(failed)}")
