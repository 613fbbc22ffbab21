# SPDX-License-Identifier: Apache-2.0
"""`sentry update`: what it prints, where it writes, and what it refuses before anything is written."""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path
from typing import Any

import pytest

from sentry import Bundle, private, stamps


@pytest.fixture(autouse=True)
def notes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Keep the notes of a test to itself, and let what was written just now count as old."""
    monkeypatch.setenv(private.CACHE_VARIABLE, str(tmp_path / "notes"))
    monkeypatch.setattr(stamps, "RACY_NS", -5_000_000_000)
    return tmp_path / "notes"


@pytest.fixture
def update(cli: Any, signed: Path, private_key: Path, public: Path) -> Any:
    """Return a function that updates the signed model."""
    return lambda *more: cli("update", signed, "--key", private_key, "--trust-key", public, *more)


@pytest.fixture
def private_key(keys: Path) -> Path:
    return keys / "private.pem"


def payload_sha256(path: Path) -> str:
    return hashlib.sha256(Bundle.read(path).envelope.payload).hexdigest()


def test_an_update_replaces_the_signature_and_names_it(update: Any, signed: Path, cli: Any, public: Path) -> None:
    parent = payload_sha256(signed / "model.sig")
    (signed / "weights.bin").write_bytes(b"changed")
    (signed / "new").write_bytes(b"new")
    (signed / "empty").unlink()
    (signed / ".git").mkdir()
    shown = update().succeeded().out
    for words in (
        "added (1):\n  new",
        "removed (1):\n  empty",
        "changed (1):\n  weights.bin",
        f"parent         {parent}",
    ):
        assert words in shown
    assert "not covered by the signature (1):\n  .git/" in shown
    proof = json.loads(cli("verify", signed, "--key", public, "--json").succeeded().out)
    assert (proof["parent"], proof["not_covered"]) == (parent, [".git/"])


def test_the_json_says_the_same(update: Any, signed: Path, public: Path) -> None:
    parent = payload_sha256(signed / "model.sig")
    (signed / "weights.bin").write_bytes(b"changed")
    result = json.loads(update("--json", "--name", "n", "--version", "2").succeeded().out)
    assert result["payload_sha256"] == payload_sha256(signed / "model.sig")
    assert result["signature"] == str(signed / "model.sig")
    assert result["parent_signers"] == [result["signer"]]
    assert result["signer"]["name"] == hashlib.sha256(public.read_bytes()).hexdigest()
    assert (result["parent"], result["name"], result["version"]) == (parent, "n", "2")
    assert (result["added"], result["removed"], result["changed"]) == ([], [], ["weights.bin"])
    assert (result["files"], result["reused"], result["hashed_bytes"]) == (3, [], 9)


def test_trusting_times_reads_only_what_changed(update: Any, signed: Path, cli: Any, public: Path) -> None:
    update("--insecure-trust-times").succeeded()
    (signed / "weights.bin").write_bytes(b"changed")
    result = json.loads(update("--insecure-trust-times", "--json").succeeded().out)
    assert (result["reused"], result["hashed_bytes"]) == (["empty", "sub/config.json"], 7)
    cli("verify", signed, "--key", public, "--hash", "both").succeeded()


def test_signatures_may_lie_elsewhere(update: Any, signed: Path, tmp_path: Path, cli: Any, public: Path) -> None:
    before = (signed / "model.sig").read_bytes()
    (signed / "model.sig").rename(tmp_path / "old.sig")
    update("--old-signature", tmp_path / "old.sig", "--signature", tmp_path / "new.sig").succeeded()
    assert (tmp_path / "old.sig").read_bytes() == before
    assert not (signed / "model.sig").exists()
    cli("verify", signed, "--key", public, "--signature", tmp_path / "new.sig").succeeded()


def test_a_signature_inside_the_model_leaves_itself_out(update: Any, signed: Path, cli: Any, public: Path) -> None:
    update("--signature", signed / "v2.sig").succeeded()
    cli("verify", signed, "--key", public, "--signature", signed / "v2.sig").succeeded()


def test_more_can_be_ignored(update: Any, signed: Path) -> None:
    (signed / "logs").mkdir()
    result = json.loads(update("--ignore", signed / "logs", "--json").succeeded().out)
    assert result["not_covered"] == ["logs/"]


def test_a_single_file_goes_by_its_name(cli: Any, tmp_path: Path, private_key: Path, public: Path) -> None:
    path = tmp_path / "w.bin"
    path.write_bytes(b"1")
    cli("sign", path, "--key", private_key).succeeded()
    path.write_bytes(b"2")
    shown = cli("update", path, "--key", private_key, "--trust-key", public).succeeded().out
    assert "changed (1):\n  w.bin\n" in shown
    assert "\nparent    " in cli("verify", path, "--key", public).succeeded().out


def test_names_of_an_attacker_are_spelled_out(update: Any, signed: Path) -> None:
    (signed / "evil\x1b[2J\nverified").touch()
    shown = update().succeeded().out
    assert "  evil\\x1b[2J\\nverified\n" in shown
    assert "\x1b" not in shown


def test_an_update_asks_for_trust(cli: Any, signed: Path, private_key: Path) -> None:
    before = (signed / "model.sig").read_bytes()
    cli("update", signed, "--key", private_key).refused(2, "no trust was given", hint="--trust-key public.pem")
    assert (signed / "model.sig").read_bytes() == before


def test_another_signers_model_is_refused(cli: Any, signed: Path, private_key: Path, keys: Path) -> None:
    before = (signed / "model.sig").read_bytes()
    other = keys / "other-public.pem"
    cli("update", signed, "--key", private_key, "--trust-key", other).refused(1, "made with another key")
    assert (signed / "model.sig").read_bytes() == before


def test_a_missing_signature_is_refused(update: Any, signed: Path) -> None:
    (signed / "model.sig").unlink()
    update().refused(1, "there is no signature")
    assert not (signed / "model.sig").exists()


def test_a_missing_model_is_refused(cli: Any, tmp_path: Path, private_key: Path, public: Path) -> None:
    cli("update", tmp_path / "no", "--key", private_key, "--trust-key", public).refused(3, "cannot read", "no")


@pytest.mark.parametrize("key", ["--key", "--trust-key"])
def test_a_key_of_another_kind_is_refused(cli: Any, signed: Path, private_key: Path, public: Path, key: str) -> None:
    files = {"--key": private_key, "--trust-key": public, key: signed / "weights.bin"}
    (signed / "weights.bin").chmod(0o600)
    arguments = [argument for pair in files.items() for argument in pair]
    outcome = cli("update", signed, *arguments)
    assert outcome.code in {1, 2}
    assert outcome.err.startswith("sentry: error: ")


def test_a_path_to_ignore_outside_the_model_is_refused(update: Any, tmp_path: Path) -> None:
    update("--ignore", tmp_path / "elsewhere").refused(2, "lies outside the model")


def test_a_link_is_refused(update: Any, signed: Path) -> None:
    (signed / "odd").symlink_to("weights.bin")
    update().refused(1, "'odd' is a symbolic link")


def test_what_is_no_signature_is_not_replaced(update: Any, signed: Path) -> None:
    update("--signature", signed / "weights.bin").refused(1, "exists, and is not a signature")


def test_notes_that_others_can_write_are_refused(update: Any, signed: Path, notes: Path) -> None:
    before = (signed / "model.sig").read_bytes()
    notes.mkdir()
    notes.chmod(0o777)
    update("--insecure-trust-times").refused(3, "is not a private directory", hint="SENTRY_CACHE_DIR")
    assert (signed / "model.sig").read_bytes() == before
    update().succeeded()
    assert os.listdir(notes) == []
