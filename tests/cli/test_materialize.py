# SPDX-License-Identifier: Apache-2.0
"""`sentry materialize`, and models on a hub: words, exit codes, and what is left on the disk."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any

import pytest
from fake_hub import FakeHub, hub_error
from snapshots import link_to_blob, write_snapshot


@pytest.fixture
def hub(tmp_path: Path, model: Path, private: Path, cli: Any, monkeypatch: pytest.MonkeyPatch) -> FakeHub:
    """Put a pretended library in the real one's place; it sends a signed model."""
    cli("sign", model, "--key", private).succeeded()
    files = {str(path.relative_to(model)): path.read_bytes() for path in model.rglob("*") if path.is_file()}
    pretended = FakeHub(answer=write_snapshot(tmp_path / "hub", files))
    monkeypatch.setitem(sys.modules, "huggingface_hub", pretended.module())
    monkeypatch.chdir(tmp_path)
    return pretended


def test_a_copy_is_made_and_described(cli: Any, signed: Path, public: Path, tmp_path: Path, tree_of: Any) -> None:
    dest = tmp_path / "copy"
    shown = cli("materialize", signed, dest, "--key", public).succeeded().out
    assert tree_of(dest) == tree_of(signed)
    assert [line.split("  ")[0] for line in shown.splitlines()] == [
        *("copied", "from", "signer", "files", "hash", "engine", "time"),
    ]
    cli("verify", dest, "--key", public).succeeded()


def test_the_evidence_is_that_of_verify(cli: Any, signed: Path, public: Path, tmp_path: Path) -> None:
    copied = json.loads(cli("materialize", signed, tmp_path / "copy", "--key", public, "--json").succeeded().out)
    verified = json.loads(cli("verify", tmp_path / "copy", "--key", public, "--json").succeeded().out)
    assert {**copied, "seconds": 0} == {**verified, "seconds": 0}


def test_a_single_file_is_copied(cli: Any, model: Path, keys: Path, tmp_path: Path) -> None:
    cli("sign", model / "weights.bin", "--key", keys / "private.pem").succeeded()
    cli("materialize", model / "weights.bin", tmp_path / "w", "--key", keys / "public.pem").succeeded()
    assert (tmp_path / "w").read_bytes() == (model / "weights.bin").read_bytes()


def test_unsigned_files_are_left_out_on_request(cli: Any, signed: Path, public: Path, tmp_path: Path) -> None:
    (signed / "new").touch()
    dest = tmp_path / "copy"
    cli("materialize", signed, dest, "--key", public).refused(1, "not signed: new")
    assert not dest.exists()
    shown = cli("materialize", signed, dest, "--key", public, "--ignore-unsigned").succeeded().out
    assert shown.endswith("not covered by the signature (1):\n  new\n")
    assert not (dest / "new").exists()


def test_a_changed_model_exits_with_1_and_leaves_nothing(cli: Any, signed: Path, public: Path, tmp_path: Path) -> None:
    (signed / "weights.bin").write_bytes(b"evil" * 1024)
    before = sorted(os.listdir(tmp_path))
    cli("materialize", signed, tmp_path / "copy", "--key", public).refused(1, "changed: weights.bin (bytes differ)")
    assert sorted(os.listdir(tmp_path)) == before


def test_another_key_exits_with_1(cli: Any, signed: Path, keys: Path, tmp_path: Path) -> None:
    cli("materialize", signed, tmp_path / "copy", "--key", keys / "other-public.pem").refused(1, "another key")


def test_a_missing_signature_exits_with_1(cli: Any, model: Path, public: Path, tmp_path: Path) -> None:
    outcome = cli("materialize", model, tmp_path / "copy", "--key", public)
    outcome.refused(1, "there is no signature", hint="--signature")


def test_a_missing_key_is_a_usage_error(cli: Any, signed: Path, tmp_path: Path) -> None:
    cli("materialize", signed, tmp_path / "copy").refused(2, "no trust was given", hint="--key")


def test_a_missing_destination_is_a_usage_error(cli: Any, signed: Path, public: Path) -> None:
    cli("materialize", signed, "--key", public).refused(2, "DEST", hint="sentry materialize --help")


def test_a_destination_that_exists_exits_with_3(cli: Any, signed: Path, public: Path, tmp_path: Path) -> None:
    (tmp_path / "copy").mkdir()
    cli("materialize", signed, tmp_path / "copy", "--key", public).refused(3, "exists already", hint="nothing is")


def test_a_destination_inside_the_model_exits_with_3(cli: Any, signed: Path, public: Path) -> None:
    cli("materialize", signed, signed / "copy", "--key", public).refused(3, "lies inside the model")


def test_a_destination_that_cannot_be_written_exits_with_3(
    unprivileged: Any, signed: Path, public: Path, tmp_path: Path
) -> None:
    (tmp_path / "locked").mkdir(mode=0o500)
    place = tmp_path / "locked" / "copy"
    unprivileged("materialize", signed, place, "--key", public).refused(3, "cannot write", "Permission denied")


def test_a_full_disk_exits_with_3_and_leaves_nothing(
    full_disk: Any, signed: Path, public: Path, tmp_path: Path
) -> None:
    before = sorted(os.listdir(tmp_path))
    full_disk("materialize", signed, tmp_path / "copy", "--key", public).refused(3, "cannot write", "File too large")
    assert sorted(os.listdir(tmp_path)) == before


def test_hostile_names_are_spelled_out(cli: Any, signed: Path, public: Path, tmp_path: Path) -> None:
    (signed / "\x1b[2Jnew").touch()
    cli("materialize", signed, tmp_path / "copy", "--key", public).refused(1, r"not signed: \x1b[2Jnew")


# --------------------------------------------------------------------------------------------------- models on a hub


def test_a_model_on_a_hub_is_verified_with_its_own_signature(cli: Any, hub: FakeHub, public: Path) -> None:
    shown = cli("verify", "hf:org/name@v1", "--key", public).succeeded().out
    assert str(hub.answer) in shown
    assert hub.calls == [("org/name", "v1", None)]


def test_a_model_on_a_hub_is_copied_with_its_own_signature(
    cli: Any, hub: FakeHub, public: Path, model: Path, tmp_path: Path, tree_of: Any
) -> None:
    shown = cli("materialize", "hf:org/name", tmp_path / "copy", "--key", public).succeeded().out
    assert "from    hf:org/name\n" in shown
    assert tree_of(tmp_path / "copy") == tree_of(model)
    assert hub.calls == [("org/name", "main", None)]


@pytest.mark.parametrize("command", ["verify", "materialize"])
@pytest.mark.parametrize("reference", ["hf:", "hf:../x", "hf:org/name@-x", "hf:org/name/file", "hf:org/name@a..b"])
def test_a_malformed_reference_is_a_usage_error(
    cli: Any, hub: FakeHub, public: Path, tmp_path: Path, command: str, reference: str
) -> None:
    dest = [tmp_path / "copy"] if command == "materialize" else []
    cli(command, reference, *dest, "--key", public).refused(2, "names no", hint=f"sentry {command} --help")
    assert hub.calls == []


@pytest.mark.parametrize("command", ["verify", "materialize"])
def test_a_hub_that_cannot_be_reached_exits_with_3(
    cli: Any, hub: FakeHub, public: Path, tmp_path: Path, command: str
) -> None:
    hub.answer = hub_error("LocalEntryNotFoundError", FileNotFoundError)
    dest = [tmp_path / "copy"] if command == "materialize" else []
    cli(command, "hf:org/name", *dest, "--key", public).refused(3, "cannot be reached", hint="network")


def test_a_missing_library_exits_with_3(cli: Any, public: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    cli("verify", "hf:org/name", "--key", public).refused(3, "huggingface_hub", hint="artifact-sentry[hub]")


def test_a_token_that_others_can_read_exits_with_1(cli: Any, hub: FakeHub, public: Path, tmp_path: Path) -> None:
    (tmp_path / "hf_access_token").write_text("hf_secret")
    (tmp_path / "hf_access_token").chmod(0o644)
    outcome = cli("verify", "hf:org/name", "--key", public).refused(1, "access token", hint="chmod 600")
    assert "hf_secret" not in outcome.err
    assert hub.calls == []


def test_a_file_that_the_hub_added_exits_with_1(cli: Any, hub: FakeHub, public: Path) -> None:
    assert isinstance(hub.answer, Path)
    link_to_blob(hub.answer, "evil.py", b"evil")
    cli("verify", "hf:org/name", "--key", public).refused(1, "not signed: evil.py")
