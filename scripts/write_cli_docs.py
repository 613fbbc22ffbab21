# SPDX-License-Identifier: Apache-2.0
"""Write the generated part of docs/cli.md: every command and option, as `click` knows them.

    python scripts/write_cli_docs.py [--check]

The rest of the file is written by hand and left alone. With --check nothing is written; the exit code is 1 if the file
is not current.
"""

from __future__ import annotations

import argparse
import inspect
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import click

from sentry.cli import cli

PAGE = Path(__file__).parents[1] / "docs" / "cli.md"
BEGIN = "<!-- begin: written by `make docs` -->"
END = "<!-- end: written by `make docs` -->"
# click's mark of a paragraph that keeps its lines.
VERBATIM = "\b"


def reference() -> str:
    """Return the generated part, between the two marks."""
    lines = [line for name in cli.commands for line in _command(name, cli.commands[name])]
    return "\n".join(lines).rstrip() + "\n"


def insert(page: str) -> str:
    """Return the page with its generated part renewed.

    Raises:
        ValueError: The page lacks the marks, or has them twice.
    """
    if page.count(BEGIN) != 1 or page.count(END) != 1:
        raise ValueError(f"{PAGE.name} needs one line {BEGIN!r} and one line {END!r}")
    before, _, rest = page.partition(BEGIN)
    _, _, after = rest.partition(END)
    return f"{before}{BEGIN}\n\n{reference()}\n{END}{after}"


def _command(name: str, command: click.Command) -> Iterator[str]:
    context = click.Context(command, info_name=name, parent=click.Context(cli, info_name="sentry"))
    yield f"### sentry {name}"
    yield ""
    yield from ("```", command.get_usage(context).removeprefix("Usage: "), "```", "")
    yield from _help(command.help or "")
    yield "| option | meaning |"
    yield "|---|---|"
    for parameter in command.params:
        if isinstance(parameter, click.Option):
            yield _option(parameter)
    yield ""


def _help(text: str) -> Iterator[str]:
    """Turn a help text into Markdown: paragraphs, and code blocks for those that keep their lines."""
    # A raw docstring spells click's mark with two characters.
    for paragraph in inspect.cleandoc(text).replace("\\b\n", f"{VERBATIM}\n").split("\n\n"):
        first, *rest = paragraph.splitlines()
        if first != VERBATIM:
            yield from (" ".join((first, *rest)), "")
            continue
        title, *code = rest
        yield from (title, "", "```console", *(f"$ {line.strip()}" for line in code), "```", "")


def _option(option: click.Option) -> str:
    names = ", ".join(option.opts)
    text, _, default = (option.help or "").partition("  [default: ")
    meaning = [text] if text else []
    if isinstance(option.type, click.Choice):
        meaning += [f"One of {', '.join(f'`{choice}`' for choice in option.type.choices)}."]
    meaning += ["Required."] if option.required else []
    meaning += [f"Default: `{option.default}`."] if option.show_default else []
    meaning += [f"Default: {default.removesuffix(']')}."] if default else []
    cell = " ".join(meaning).replace("|", "\\|")
    return f"| `{names}{_value(option)}` | {cell} |"


def _value(option: click.Option) -> str:
    """Return how the option's value is called."""
    if option.is_flag:
        return ""
    if isinstance(option.type, click.Path):
        return " PATH"
    return " N" if isinstance(option.type, click.IntRange) else f" {option.opts[0].lstrip('-').upper()}"


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; return its exit code."""
    parser = argparse.ArgumentParser(description="Write the generated part of docs/cli.md.")
    parser.add_argument("--check", action="store_true", help="only say whether it is current")
    options = parser.parse_args(arguments)
    page = PAGE.read_text(encoding="utf-8")
    renewed = insert(page)
    if options.check:
        if page != renewed:
            print("docs/cli.md is not current; run: make docs", file=sys.stderr)
        return int(page != renewed)
    PAGE.write_text(renewed, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
