# SPDX-License-Identifier: Apache-2.0
"""The help text exists for every command, names every option, and what it shows can be pasted."""

from __future__ import annotations

from typing import Any

import click
import pytest

from sentry.cli import cli as group

COMMANDS = ("keygen", "sign", "update", "verify", "materialize", "inspect", "digest", "doctor")
OPTIONS = {
    "keygen": {"--private", "--public", "--algorithm"},
    "sign": {
        "--key",
        "--password-file",
        "--insecure-key-mode",
        "--signature",
        "--hash",
        "--shard-bytes",
        "--ignore",
        "--name",
        "--version",
        "--engine",
        "--json",
    },
    "update": {
        "--key",
        "--password-file",
        "--insecure-key-mode",
        "--trust-key",
        "--old-signature",
        "--signature",
        "--ignore",
        "--name",
        "--version",
        "--insecure-trust-times",
        "--engine",
        "--json",
    },
    "verify": {
        "--key",
        "--signature",
        "--hash",
        "--ignore",
        "--ignore-unsigned",
        "--insecure-legacy-v0.1",
        "--engine",
        "--json",
    },
    "materialize": {"--key", "--signature", "--hash", "--ignore-unsigned", "--engine", "--json"},
    "inspect": {"--json"},
    "digest": {"--hash", "--engine", "--json"},
    "doctor": {"--json"},
}


def test_the_help_lists_every_command(cli: Any) -> None:
    listed = cli("--help").succeeded().out.partition("Commands:")[2]
    assert [line.split()[0] for line in listed.strip().splitlines()] == sorted(COMMANDS)
    assert set(group.commands) == set(COMMANDS)


@pytest.mark.parametrize("name", COMMANDS)
@pytest.mark.parametrize("flag", ["--help", "-h"])
def test_the_help_of_a_command_names_every_option(cli: Any, name: str, flag: str) -> None:
    shown = cli(name, flag).succeeded().out
    assert shown.startswith(f"Usage: sentry {name}")
    declared = {text for option in group.commands[name].params for text in option.opts if text.startswith("--")}
    assert OPTIONS[name] <= declared
    assert not {text for text in declared if text not in shown}


@pytest.mark.parametrize("name", COMMANDS)
def test_every_option_says_what_it_is_for(name: str) -> None:
    options = [option for option in group.commands[name].params if isinstance(option, click.Option)]
    assert not [option.name for option in options if not option.help]


@pytest.mark.parametrize("arguments", [(), *((name,) for name in COMMANDS)])
def test_the_examples_of_the_help_stand_on_lines_of_their_own(cli: Any, arguments: tuple[str, ...]) -> None:
    shown = cli(*arguments, "--help").succeeded().out
    assert "\\" not in shown
    assert "\b" not in shown
    examples = [line.strip() for line in shown.splitlines() if "sentry " in line and "Usage" not in line]
    for example in examples:
        assert example.count("sentry ") == 1 or example.startswith("Sign"), example


@pytest.mark.parametrize("name", [name for name in COMMANDS if name != "doctor"])
def test_a_command_without_its_arguments_is_a_usage_error(cli: Any, name: str) -> None:
    cli(name).refused(2, "Missing", hint=f"sentry {name} --help")


def test_an_unknown_command_is_a_usage_error(cli: Any) -> None:
    cli("sing").refused(2, "sing", hint="sentry --help")


def test_an_unknown_option_is_a_usage_error(cli: Any, model: Any, private: Any) -> None:
    cli("sign", model, "--key", private, "--fast").refused(2, "--fast", hint="sentry sign --help")


def test_no_command_at_all_is_a_usage_error(cli: Any) -> None:
    assert cli().code == 2
