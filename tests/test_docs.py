# SPDX-License-Identifier: Apache-2.0
"""The documentation is current: its links, commands, outputs and bytes are those of the code."""

from __future__ import annotations

import ast
import hashlib
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Callable
from functools import cache
from pathlib import Path

import click
import pytest
from reference import oms_reference
from support import KeyPair

from scripts import write_cli_docs
from sentry import Bundle, KeyTrust, verify_path
from sentry.cli import cli, main
from sentry.formats.dsse import pae
from sentry.formats.oms import decode_manifest, encode_manifest
from sentry.signing import build_manifest

REPOSITORY = Path(__file__).parents[1]
PAGES = sorted([*REPOSITORY.glob("*.md"), *REPOSITORY.glob("docs/**/*.md"), *REPOSITORY.glob("benchmarks/*.md")])
README = REPOSITORY / "README.md"
PEER = REPOSITORY / ".venv-peer" / "bin"

_FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
_LINK = re.compile(r"\]\(([^)\s]+)\)")
_TEST_FILE = re.compile(r"tests/[\w/]+\.py")
# Absolute paths of somebody's machine, addresses, and names that only resolve inside a network.
_PRIVATE = re.compile(
    r"(?<![\w.])/(?:work|home|root|tmp|Users|mnt|opt|srv|var)/|\blocalhost\b|\b\d{1,3}(?:\.\d{1,3}){3}\b"
    r"|\b[\w-]+\.(?:internal|local|lan|corp|example)\b"
)


def blocks(text: str, language: str) -> list[str]:
    return [body for found, body in _FENCE.findall(text) if found == language]


def commands(text: str) -> list[str]:
    return [line[2:] for block in blocks(text, "console") for line in block.splitlines() if line.startswith("$ ")]


@cache
def sections(page: Path) -> dict[str, str]:
    """Return a page's sections by title, each with its subsections."""
    text = _FENCE.sub(lambda match: match[0].replace("\n#", "\n\\#"), page.read_text(encoding="utf-8"))
    heads = list(re.finditer(r"^(#+) (.+)$", text, re.MULTILINE))
    found = {}
    for index, head in enumerate(heads):
        ends = [later.start() for later in heads[index + 1 :] if len(later[1]) <= len(head[1])]
        found[head[2]] = text[head.end() : ends[0] if ends else len(text)]
    return found


def anchor(title: str) -> str:
    return re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-")


# ------------------------------------------------------------------------------------------------------------- pages


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_relative_link_resolves(page: Path) -> None:
    for link in _LINK.findall(_FENCE.sub("", page.read_text(encoding="utf-8"))):
        if re.match(r"[a-z]+:", link):
            continue
        path, _, fragment = link.partition("#")
        target = page.parent / path if path else page
        assert target.exists(), f"{page.name} links to {link}"
        if fragment:
            assert fragment in map(anchor, sections(target)), f"{page.name} links to {link}"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_test_file_that_a_page_names_exists(page: Path) -> None:
    for name in _TEST_FILE.findall(page.read_text(encoding="utf-8")):
        assert (REPOSITORY / name).is_file(), f"{page.name} names {name}"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_no_page_names_a_private_host_or_a_path_of_one_machine(page: Path) -> None:
    assert _PRIVATE.findall(page.read_text(encoding="utf-8")) == []


def test_the_readme_is_short_and_begins_with_two_commands() -> None:
    text = README.read_text(encoding="utf-8")
    assert len(text.splitlines()) <= 140
    assert [command.split("#")[0].strip() for command in commands(text)[:2]] == ["make demo", "make test"]


def test_every_section_that_the_code_refers_to_exists() -> None:
    titles = sections(REPOSITORY / "docs" / "format.md")
    named = [
        (path, title)
        for path in (REPOSITORY / "sentry").rglob("*.py")
        for title in re.findall(r'docs/format\.md,\s+"([^"]+)"', ast.get_docstring(ast.parse(path.read_text())) or "")
    ]
    assert named
    assert [(path.name, title) for path, title in named if title not in titles] == []


# ---------------------------------------------------------------------------------------------------------- commands


def test_the_generated_part_of_the_command_lines_page_is_current() -> None:
    assert write_cli_docs.main(["--check"]) == 0, "run: make docs"


def test_a_stale_page_is_noticed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    page = tmp_path / "cli.md"
    page.write_text(write_cli_docs.PAGE.read_text().replace("--ignore-unsigned` | ", "--ignore-unsigned` | Not "))
    monkeypatch.setattr(write_cli_docs, "PAGE", page)
    assert write_cli_docs.main(["--check"]) == 1
    assert write_cli_docs.main([]) == 0
    assert page.read_bytes() == (REPOSITORY / "docs" / "cli.md").read_bytes()


@pytest.mark.parametrize("text", ["", f"{write_cli_docs.BEGIN}", f"{write_cli_docs.END}{write_cli_docs.END}"])
def test_a_page_without_its_marks_is_not_written(text: str) -> None:
    with pytest.raises(ValueError, match="needs one line"):
        write_cli_docs.insert(text)


def test_every_command_and_option_is_on_the_command_lines_page() -> None:
    reference = sections(write_cli_docs.PAGE)["Reference"]
    for name, command in cli.commands.items():
        assert f"### sentry {name}\n" in reference
        for option in (parameter for parameter in command.params if isinstance(parameter, click.Option)):
            assert option.opts[0] in reference


@pytest.mark.parametrize("page", [README, write_cli_docs.PAGE], ids=lambda page: page.name)
def test_every_documented_command_parses(page: Path) -> None:
    lines = [shlex.split(line, comments=True) for line in commands(page.read_text(encoding="utf-8"))]
    ours = [words[1:] for words in lines if words[0] == "sentry"]
    assert ours
    for name, *arguments in ours:
        cli.commands[name].make_context(name, arguments)


def test_the_readmes_quick_start_works_when_it_is_pasted(tmp_path: Path) -> None:
    paste(sections(README)["Quick start"], tmp_path)


def test_the_readmes_other_tools_work_when_they_are_pasted(tmp_path: Path, make_model: Callable[..., Path]) -> None:
    need("openssl", PEER / "model_signing")
    make_model()
    paste(sections(README)["Keys from OpenSSL"] + sections(README)["Other OMS tools"], tmp_path)


def test_the_command_lines_page_works_when_it_is_pasted(tmp_path: Path, make_model: Callable[..., Path]) -> None:
    need("openssl")
    make_model()
    paste(write_cli_docs.PAGE.read_text(encoding="utf-8"), tmp_path)


def test_the_command_lines_page_shows_what_verify_prints(
    model: Path, pair: KeyPair, capsys: pytest.CaptureFixture[str]
) -> None:
    (model / ".git").mkdir()
    main(["sign", str(model), "--key", str(pair.private), "--name", "tiny", "--version", "1.0.0"])
    capsys.readouterr()
    assert main(["verify", str(model), "--key", str(pair.public)]) == 0
    (documented,) = (
        block for block in blocks(sections(write_cli_docs.PAGE)["What `verify` prints"], "") if "engine" in block
    )
    titles = [line.split("  ")[0] for line in documented.splitlines()]
    assert [line.split("  ")[0] for line in capsys.readouterr().out.splitlines()] == titles


def test_the_command_lines_page_lists_every_json_field(
    model: Path, pair: KeyPair, capsys: pytest.CaptureFixture[str]
) -> None:
    documented = sections(write_cli_docs.PAGE)["JSON"]
    verify = ["verify", str(model), "--key", str(pair.public)]
    for arguments in (
        ["sign", str(model), "--key", str(pair.private)],
        ["update", str(model), "--key", str(pair.private), "--trust-key", str(pair.public)],
        verify,
        ["inspect", str(model / "model.sig")],
        ["digest", str(model)],
    ):
        assert main([*arguments, "--json"]) == 0
        for field in json.loads(capsys.readouterr().out):
            assert f"`{field}`" in documented, f"{arguments[0]} writes {field}"


def need(*programs: str | Path) -> None:
    """Skip the test where a program is missing."""
    for program in programs:
        if shutil.which(program) is None:
            pytest.skip(f"{Path(program).name} is not installed")


def paste(text: str, folder: Path) -> None:
    """Run every command and every Python block: each ends as documented, and prints the error that stands below it."""
    for language, body in _FENCE.findall(text):
        if language == "console":
            for entry in re.split(r"^\$ ", body, flags=re.MULTILINE)[1:]:
                line, _, shown = entry.partition("\n")
                _run_as_documented(line, shown, folder)
        elif language == "python":
            subprocess.run([sys.executable, "-c", body], cwd=folder, check=True, timeout=60)


def _run_as_documented(line: str, shown: str, folder: Path) -> None:
    documented = re.search(r"# exits with (\d+)", line)
    path = os.pathsep.join([str(Path(sys.executable).parent), str(PEER), os.environ["PATH"]])
    done = subprocess.run(
        ["bash", "-c", line],
        cwd=folder,
        env={**os.environ, "PATH": path},
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert done.returncode == (int(documented[1]) if documented else 0), f"{line}\n{done.stderr}"
    assert shown.strip() in done.stderr


# ------------------------------------------------------------------------------------------------- the worked example


@pytest.fixture
def example(tmp_path: Path) -> Path:
    """Return the example of docs/format.md, made by the commands that stand there."""
    text = sections(REPOSITORY / "docs" / "format.md")["Worked example"]
    for line in commands(text):
        subprocess.run(["bash", "-c", line], cwd=tmp_path, check=True, timeout=60)
    return tmp_path / "example"


def test_the_worked_examples_bytes_are_right(example: Path, tmp_path: Path) -> None:
    text = sections(REPOSITORY / "docs" / "format.md")["Worked example"]
    payload, bundle = (block.strip().encode() for block in blocks(text, "json"))
    root, payload_sha256, pae_start, pae_sha256, pem, hint, signature = (block.strip() for block in blocks(text, ""))
    manifest = build_manifest(example)
    assert encode_manifest(manifest) == payload
    assert manifest.root().hex() == root
    files = {path.name: path.read_bytes() for path in example.iterdir()}
    assert oms_reference.payload(oms_reference.statement("example", files)) == payload
    assert hashlib.sha256(payload).hexdigest() == payload_sha256
    assert pae(payload).startswith(bytes.fromhex(pae_start))
    assert hashlib.sha256(pae(payload)).hexdigest() == pae_sha256
    assert hashlib.sha256(f"{pem}\n".encode()).hexdigest() == hint
    for number in (len(payload), len(pae(payload))):
        assert f"{number} bytes" in text
    assert f"{len(bundle):,} bytes" in text
    for resource in manifest.resources:
        for digest in (resource.digest, resource.blake3, resource.header_sha256):
            assert digest is None or f"`{digest.hex()}`" in text
    decoded = Bundle.decode(bundle)
    assert decoded.encode() == bundle
    assert decoded.envelope.signature.hex() == "".join(signature.split())
    (tmp_path / "public.pem").write_text(f"{pem}\n")
    verification = verify_path(example, decoded, KeyTrust.from_file(tmp_path / "public.pem"), hash="both")
    assert verification.payload_sha256 == payload_sha256
    assert verification.signers[0].name == hint
    assert decode_manifest(payload) == manifest
