# SPDX-License-Identifier: Apache-2.0
"""Every command and option does what its help says, writes data to standard output only, and exits with 0."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from blake3 import blake3

from sentry import Bundle, __version__
from sentry.formats.oms import decode_manifest

HASHES = ("sha256+blake3", "sha256", "blake3", "blake2b")


def evidence(cli: Any, *arguments: Any) -> dict[str, Any]:
    value = json.loads(cli(*arguments, "--json").succeeded().out)
    assert isinstance(value, dict)
    return value


def test_version_is_the_packages(cli: Any) -> None:
    assert cli("--version").succeeded().out == f"sentry {__version__}\n"


@pytest.mark.parametrize("algorithm", ["ecdsa-p256", "ecdsa-p384", "ecdsa-p521"])
def test_a_made_key_signs_and_its_public_half_verifies(cli: Any, tmp_path: Path, model: Path, algorithm: str) -> None:
    private, public = tmp_path / "k.pem", tmp_path / "p.pem"
    cli("keygen", "--private", private, "--public", public, "--algorithm", algorithm).succeeded()
    cli("sign", model, "--key", private).succeeded()
    (signer,) = evidence(cli, "verify", model, "--key", public)["signers"]
    assert signer == {
        "method": "key",
        "name": hashlib.sha256(public.read_bytes()).hexdigest(),
        "algorithm": algorithm,
    }


@pytest.mark.parametrize("choice", HASHES)
def test_every_hash_signs_and_the_evidence_names_what_was_recomputed(
    cli: Any, model: Path, private: Path, public: Path, choice: str
) -> None:
    result = evidence(cli, "sign", model, "--key", private, "--hash", choice)
    assert (result["hash"], result["files"], result["bytes"]) == (choice, 3, 4098)
    proof = evidence(cli, "verify", model, "--key", public)
    assert proof["verified"] is True
    assert (proof["files"], proof["bytes"], proof["not_covered"]) == (3, 4098, [])
    assert proof["payload_sha256"] == result["payload_sha256"]
    assert proof["hashes"] == choice.split("+")[-1:]
    assert proof["unchecked_hashes"] == choice.split("+")[:-1]


@pytest.mark.parametrize(("choice", "recomputed"), [("sha256", ["sha256"]), ("both", ["sha256", "blake3"])])
def test_verify_recomputes_the_hash_that_was_asked_for(
    cli: Any, signed: Path, public: Path, choice: str, recomputed: list[str]
) -> None:
    proof = evidence(cli, "verify", signed, "--key", public, "--hash", choice)
    assert proof["hashes"] == recomputed
    assert set(proof["hashes"]).isdisjoint(proof["unchecked_hashes"])


def test_shards_name_and_version_are_signed_and_shown(cli: Any, model: Path, private: Path, public: Path) -> None:
    (model / "empty").unlink()
    extra = ("--shard-bytes", "1000", "--name", "acme/net", "--version", "1.2", "--engine", "cpu")
    cli("sign", model, "--key", private, *extra).succeeded()
    proof = evidence(cli, "verify", model, "--key", public, "--engine", "cpu")
    assert (proof["name"], proof["version"], proof["engine"]) == ("acme/net", "1.2", "cpu")
    shown = cli("verify", model, "--key", public).succeeded().out
    assert "acme/net" in shown
    assert "1.2" in shown
    claims = evidence(cli, "inspect", model / "model.sig")
    assert claims["shard_bytes"] == 1000
    assert [item["name"] for item in claims["resources"]][-1] == "weights.bin:4000:4096"


def test_sign_prints_signer_files_and_place(cli: Any, model: Path, private: Path) -> None:
    out = cli("sign", model, "--key", private).succeeded().out
    rows = dict(line.split(maxsplit=1) for line in out.splitlines())
    assert rows["signed"] == str(model)
    assert rows["signature"] == str(model / "model.sig")
    assert rows["files"].startswith("3,")
    assert "ecdsa-p256" in rows["signer"]


def test_verify_prints_what_was_proved_and_what_was_not_covered(cli: Any, signed: Path, public: Path) -> None:
    (signed / ".git").mkdir()
    out = cli("verify", signed, "--key", public).succeeded().out
    rows, _, names = out.partition("not covered by the signature")
    assert {line.split(maxsplit=1)[0] for line in rows.splitlines()} >= {"verified", "signer", "files", "hash", "time"}
    assert "GB/s" not in rows  # a rate of a few bytes would say nothing
    assert ".git/" in names
    assert evidence(cli, "verify", signed, "--key", public)["not_covered"] == [".git/"]


def test_ignored_files_are_recorded_by_sign_and_reported_by_verify(
    cli: Any, model: Path, private: Path, public: Path
) -> None:
    cli("sign", model, "--key", private, "--ignore", model / "sub", "--ignore", model / "empty").succeeded()
    claims = evidence(cli, "inspect", model / "model.sig")
    assert {"sub", "empty"} <= set(claims["ignore_paths"])
    assert [item["name"] for item in claims["resources"]] == ["weights.bin"]
    assert evidence(cli, "verify", model, "--key", public)["not_covered"] == ["empty", "sub/"]


def test_verify_can_ignore_more_files_and_says_so(cli: Any, signed: Path, public: Path) -> None:
    (signed / "extra.txt").write_text("added")
    cli("verify", signed, "--key", public).refused(1, "not signed", "extra.txt")
    proof = evidence(cli, "verify", signed, "--key", public, "--ignore", signed / "extra.txt")
    assert proof["not_covered"] == ["extra.txt"]
    assert evidence(cli, "verify", signed, "--key", public, "--ignore-unsigned")["not_covered"] == ["extra.txt"]


def test_files_that_the_signature_lists_are_verified_although_ignored(cli: Any, signed: Path, public: Path) -> None:
    (signed / "weights.bin").write_bytes(b"\0" * 4096)
    cli("verify", signed, "--key", public, "--ignore", signed / "weights.bin").refused(1, "changed", "weights.bin")
    (signed / "weights.bin").unlink()
    cli("verify", signed, "--key", public, "--ignore", signed / "weights.bin").refused(1, "missing", "weights.bin")


def test_every_signature_that_is_given_must_verify(cli: Any, signed: Path, public: Path, tmp_path: Path) -> None:
    second = tmp_path / "second.sig"
    second.write_bytes((signed / "model.sig").read_bytes())
    both = ("--signature", signed / "model.sig", "--signature", second)
    assert len(evidence(cli, "verify", signed, "--key", public, *both)["signers"]) == 2
    second.write_bytes(b"{}")
    cli("verify", signed, "--key", public, *both).refused(1, "second.sig")


def test_a_second_signature_over_another_payload_is_refused(
    cli: Any, signed: Path, private: Path, public: Path, tmp_path: Path
) -> None:
    second = tmp_path / "second.sig"
    cli("sign", signed, "--key", private, "--name", "another", "--signature", second).succeeded()
    both = ("--signature", signed / "model.sig", "--signature", second)
    cli("verify", signed, "--key", public, *both).refused(1, "same payload")


def test_a_single_file_is_signed_beside_itself(cli: Any, model: Path, private: Path, public: Path) -> None:
    file = model / "weights.bin"
    cli("sign", file, "--key", private).succeeded()
    assert (model / "weights.bin.sig").exists()
    assert evidence(cli, "verify", file, "--key", public)["files"] == 1


def test_inspect_says_that_nothing_was_verified(cli: Any, signed: Path) -> None:
    (signed / "weights.bin").unlink()
    assert "nothing was verified" in cli("inspect", signed / "model.sig").succeeded().out
    claims = evidence(cli, "inspect", signed / "model.sig")
    assert claims["verified"] is False
    assert claims["hashes"] == ["sha256", "blake3"]
    assert {item["name"]: item["bytes"] for item in claims["resources"]} == {
        "empty": 0,
        "sub/config.json": 2,
        "weights.bin": 4096,
    }


@pytest.mark.parametrize("choice", HASHES)
def test_digest_prints_a_line_per_file_and_hash_as_the_usual_tools_do(cli: Any, model: Path, choice: str) -> None:
    functions: dict[str, Callable[[bytes], Any]] = {
        "sha256": hashlib.sha256,
        "blake2b": hashlib.blake2b,
        "blake3": blake3,
    }
    names = ("empty", "sub/config.json", "weights.bin")
    expected = {
        hash_name: {name: functions[hash_name]((model / name).read_bytes()).hexdigest() for name in names}
        for hash_name in choice.split("+")
    }
    lines = [f"{text}  {name}\n" for digests in expected.values() for name, text in digests.items()]
    assert cli("digest", model, "--hash", choice).succeeded().out == "".join(lines)
    assert evidence(cli, "digest", model, "--hash", choice, "--engine", "cpu")["digests"] == expected


def test_digest_lists_exactly_what_sign_would_sign(cli: Any, signed: Path) -> None:
    (signed / ".git").mkdir()
    (signed / ".git" / "HEAD").write_text("ref")
    manifest = decode_manifest(Bundle.read(signed / "model.sig").envelope.payload)
    digests = evidence(cli, "digest", signed)["digests"]["sha256"]
    assert digests == {item.path: item.digest.hex() for item in manifest.resources}


def test_the_same_model_gives_the_same_payload(cli: Any, signed: Path, private: Path, tmp_path: Path) -> None:
    again = evidence(cli, "sign", signed, "--key", private, "--signature", tmp_path / "again.sig")
    payload = Bundle.read(signed / "model.sig").envelope.payload
    assert again["payload_sha256"] == hashlib.sha256(payload).hexdigest()


def test_the_module_runs_as_a_command(command: Any, signed: Path, public: Path) -> None:
    outcome = command("verify", signed, "--key", public).succeeded()
    assert outcome.out.startswith("verified")
    assert command("verify", signed, "--key", public, "--json").succeeded().out.startswith("{")
