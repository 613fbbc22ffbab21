# SPDX-License-Identifier: Apache-2.0
"""Names that an attacker chose never reach a terminal raw: not in listings, in errors, or beside the progress bar."""

from __future__ import annotations

import json
import os
import re
from pathlib import Path
from typing import Any

import pytest

from sentry import Bundle, KeySigner
from sentry.formats.bundle import KeyMaterial
from sentry.formats.manifest import Manifest, Resource
from sentry.formats.oms import encode_manifest

# What is dangerous, and how it must look.
HOSTILE = {
    "\x1b[31mverified\x1b[0m": r"\x1b[31mverified\x1b[0m",
    "\x1b]0;owned\x07": r"\x1b]0;owned\x07",
    "\x9b31mverified": r"\x9b31mverified",
    "a\nsentry: hint: all is well": r"a\nsentry: hint: all is well",
    "x\rverified  model": r"x\rverified  model",
    "b\x08\x08verified": r"b\x08\x08verified",
    "\u202egnp.nib": r"\u202egnp.nib",
    "\u2066isolate\u2069": r"\u2066isolate\u2069",
    "mod\u200bel": r"mod\u200bel",
    "line\u2028separator": r"line\u2028separator",
    "tab\tbed": r"tab\tbed",
    "back\\nslash": r"back\\nslash",
    "[x].bin": "[x].bin",
    "[bold red]verified": "[bold red]verified",
    "[link=https:example.org]click": "[link=https:example.org]click",
    ":warning:": ":warning:",
    "\U000e0001tag": r"\U000e0001tag",
}
# The same for a name that is not UTF-8, which can be found on disk but never in a signature.
NOT_UTF8 = os.fsdecode(b"\xff\x1b[7mverified")


@pytest.fixture
def hostile(tmp_path: Path) -> Path:
    """Return a model whose files have every hostile name, in a directory that has one too."""
    directory = tmp_path / "\x1b[41mmodel\n"
    directory.mkdir()
    for name in HOSTILE:
        (directory / name).write_text(name)
    (directory / "[").mkdir()
    (directory / "[" / "x].bin").touch()
    return directory


def shown_safely(said: bytes, *names: str) -> str:
    """Insist that no name reached the terminal raw, and that these are there, escaped."""
    for name, safe in HOSTILE.items():
        assert name == safe or name.encode() not in said, name
    assert b"\x1b[41m" not in said
    assert b"\x1b[7m" not in said
    assert b"\xff" not in said
    text = said.decode()
    for name in names:
        assert HOSTILE[name] in text, name
    assert not {character for character in text if 0x80 <= ord(character) < 0xA0}
    return text


def test_listings_show_hostile_file_names_escaped(terminal: Any, hostile: Path) -> None:
    running = terminal("digest", hostile)
    assert running.finish() == 0
    text = shown_safely(running.said, *HOSTILE)
    names = re.findall(r"[0-9a-f]{64}  (.*)\r\n", text)
    assert sorted(names) == sorted([*HOSTILE.values(), "[/x].bin"] * 2)


def test_signing_and_verifying_show_a_hostile_model_name_escaped(
    terminal: Any, hostile: Path, private: Path, public: Path
) -> None:
    text = ""
    for arguments in (("sign", hostile, "--key", private), ("verify", hostile, "--key", public)):
        running = terminal(*arguments)
        assert running.finish() == 0, running.said
        text = shown_safely(running.said)
    assert r"\x1b[41mmodel\n" in text


def test_errors_show_hostile_file_names_escaped_on_one_line(
    terminal: Any, signed: Path, public: Path, hostile: Path
) -> None:
    names = sorted(HOSTILE)
    for start in range(0, len(names), 8):
        part = names[start : start + 8]
        for name in part:
            (hostile / name).rename(signed / name)
        running = terminal("verify", signed, "--key", public)
        assert running.finish() == 1
        text = shown_safely(running.said, *part)
        assert [line for line in text.splitlines() if "sentry:" in line][1:] == []
        for name in part:
            (signed / name).unlink()


def test_errors_show_names_that_are_not_utf8_escaped(terminal: Any, signed: Path, private: Path, public: Path) -> None:
    (signed / NOT_UTF8).touch()
    for arguments in (("sign", signed, "--key", private), ("verify", signed, "--key", public)):
        running = terminal(*arguments)
        assert running.finish() == 1
        assert r"\udcff\x1b[7mverified" in shown_safely(running.said)


def test_what_is_not_covered_is_shown_escaped(terminal: Any, signed: Path, public: Path, hostile: Path) -> None:
    for name in HOSTILE:
        (hostile / name).rename(signed / name)
    (signed / NOT_UTF8).touch()
    running = terminal("verify", signed, "--key", public, "--ignore-unsigned")
    assert running.finish() == 0
    shown_safely(running.said, *HOSTILE)


@pytest.mark.parametrize("name", HOSTILE)
def test_a_signed_name_version_subject_and_hint_are_shown_escaped(
    cli: Any, model: Path, private: Path, public: Path, name: str
) -> None:
    digest = b"\0" * 32
    payload = encode_manifest(Manifest(name, "sha256", (Resource(name, digest),), (name,), None, name, name))
    signer = KeySigner.from_file(private)
    Bundle(KeyMaterial(name), signer.sign(payload).envelope).write(model / "model.sig")
    out = cli("inspect", model / "model.sig").succeeded().out
    assert out.count(HOSTILE[name]) == 6
    assert name == HOSTILE[name] or name not in out
    assert json.loads(cli("inspect", model / "model.sig", "--json").succeeded().out)["subject"] == name
    outcome = cli("verify", model, "--key", public).refused(1, "another key")
    assert not {character for character in name if not character.isprintable()} & set(outcome.err.replace("\n", "", 2))


@pytest.mark.parametrize("name", HOSTILE)
def test_the_evidence_shows_a_signed_name_and_version_escaped(
    cli: Any, model: Path, private: Path, public: Path, name: str
) -> None:
    cli("sign", model, "--key", private, "--name", name, "--version", name).succeeded()
    out = cli("verify", model, "--key", public).succeeded().out
    assert out.count(HOSTILE[name]) == 2
    proof = cli("verify", model, "--key", public, "--json").succeeded().out
    assert proof.isascii()
    assert json.loads(proof)["name"] == name


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_arguments_are_shown_escaped(cli: Any, model: Path, private: Path, tmp_path: Path, name: str) -> None:
    for arguments in (
        ("verify", model, "--key", tmp_path / name),
        ("sign", model, "--key", tmp_path / name),
        ("verify", tmp_path / name, "--key", private),
        ("sign", tmp_path / name, "--key", private),
        ("sign", model, "--key", private, "--ignore", tmp_path / name),
        ("sign", model, "--key", private, "--hash", name),
        ("digest", tmp_path / name),
        ("inspect", tmp_path / name),
        (name,),
        ("sign", f"--{name}"),
    ):
        outcome = cli(*arguments)
        outcome.refused(outcome.code)
        assert outcome.code in {2, 3}
        assert name == HOSTILE[name] or name not in outcome.err


def test_json_is_ascii_and_carries_hostile_names_as_they_are(
    cli: Any, hostile: Path, private: Path, public: Path
) -> None:
    cli("sign", hostile, "--key", private, "--json").succeeded()
    (hostile / NOT_UTF8).touch()
    digests = cli("inspect", hostile / "model.sig", "--json").succeeded().out
    assert digests.isascii()
    assert {item["name"] for item in json.loads(digests)["resources"]} == {*HOSTILE, "[/x].bin"}
    proof = cli("verify", hostile, "--key", public, "--ignore-unsigned", "--json").succeeded().out
    assert proof.isascii()
    assert json.loads(proof)["not_covered"] == [NOT_UTF8]
    assert json.loads(proof)["path"] == str(hostile)


def test_two_different_names_never_look_the_same(cli: Any, model: Path) -> None:
    for name in ("a\nb", "a\\nb", "a\\\\nb", "ab", "a\u200bb"):
        (model / name).touch()
    lines = cli("digest", model, "--hash", "sha256").succeeded().out.splitlines()
    assert len(set(lines)) == len(lines) == 3 + 5
