# SPDX-License-Identifier: Apache-2.0
"""The command line: options in, API calls, words and exit codes out. docs/cli.md describes it.

Exit codes: 0 done or verified; 1 not authentic, or refused to sign; 2 usage; 3 could not be done.
"""

from __future__ import annotations

import io
import os
import sys
from collections.abc import Sequence

import click

from sentry import __version__
from sentry.cli import digest, doctor, inspect, keygen, materialize, sign, update, verify
from sentry.cli.output import KeyUsageError, report
from sentry.errors import FormatError, RefusedError, SentryError, VerificationError


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="sentry", message="%(prog)s %(version)s")
def cli() -> None:
    """Sign and verify machine-learning models, in OpenSSF Model Signing v1.0.

    \b
    Try it:
      sentry keygen --private private.pem --public public.pem
      sentry sign model/ --key private.pem
      sentry verify model/ --key public.pem
    """


for _module in (keygen, sign, update, verify, materialize, inspect, digest, doctor):
    cli.add_command(_module.command)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit code; every refusal is one line, none is a traceback.

    Args:
        arguments: Words after the program's name; by default the process's.
    """
    try:
        code = cli.main(args=None if arguments is None else list(arguments), prog_name="sentry", standalone_mode=False)
    except click.exceptions.NoArgsIsHelpError as error:
        click.echo(error.format_message(), err=True)
        return 2
    except (click.ClickException, click.Abort, SentryError) as error:
        return _report_expected(error)
    except SystemExit:
        return 3  # click's answer when the reader of our output is gone
    except OSError as error:
        return report(3, f"cannot write the output: {error.strerror or error}", None)
    except Exception as error:
        if os.environ.get("SENTRY_TRACEBACK"):
            raise
        return report(3, f"{type(error).__name__}: {error}", "this is a bug; set SENTRY_TRACEBACK=1 to see where")
    return code if isinstance(code, int) else 0


def _report_expected(error: click.ClickException | click.Abort | SentryError) -> int:
    if isinstance(error, click.Abort):
        return report(130, "interrupted", None)
    if isinstance(error, SentryError):
        not_authentic = isinstance(error, (VerificationError, FormatError, RefusedError))
        return report(1 if not_authentic else 3, str(error), error.hint)
    hint = error.hint if isinstance(error, KeyUsageError) else None
    if hint is None and isinstance(error, click.UsageError) and error.ctx is not None:
        hint = f"try: {error.ctx.command_path} --help"
    return report(2, error.format_message(), hint)


def run() -> None:
    """Entry point of the `sentry` command."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    code = main()
    for stream in (sys.stdout, sys.stderr):
        try:
            if stream is not None:
                stream.flush()
        except OSError:
            # What could not be written has been reported; the interpreter must not fail over it once more.
            os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())
            code = code or 3
    sys.exit(code)
