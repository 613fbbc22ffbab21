# SPDX-License-Identifier: Apache-2.0
"""When the machine does not play along: full disks, closed streams, missing permissions, interruptions."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from sentry import KeySigner
from sentry.formats.manifest import Manifest, Resource
from sentry.formats.oms import encode_manifest

WITHOUT_STREAM = "import os, sys; os.close(int(sys.argv[1])); os.execv(sys.argv[2], sys.argv[2:])"
MODULE = (sys.executable, "-B", "-m", "sentry")


# ---------------------------------------------------------------------------------------------------------- full disks


def test_a_full_disk_leaves_no_signature_and_no_rest(full_disk: Any, model: Path, private: Path, tree_of: Any) -> None:
    before = tree_of(model)
    full_disk("sign", model, "--key", private).refused(3, "cannot write the signature", "File too large")
    assert tree_of(model) == before


def test_a_full_disk_leaves_the_old_signature_alone(full_disk: Any, signed: Path, private: Path, tree_of: Any) -> None:
    before = tree_of(signed)
    full_disk("sign", signed, "--key", private, "--hash", "sha256").refused(3, "cannot write the signature")
    assert tree_of(signed) == before


def test_a_full_disk_leaves_no_key(full_disk: Any, tmp_path: Path, tree_of: Any) -> None:
    full_disk("keygen", "--private", tmp_path / "k.pem", "--public", tmp_path / "p.pem").refused(3, "cannot write")
    assert tree_of(tmp_path) == {}


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full here")
@pytest.mark.parametrize("verb", ["sign", "verify", "digest", "inspect"])
def test_output_that_cannot_be_written_is_one_clear_line(
    command: Any, signed: Path, private: Path, public: Path, verb: str
) -> None:
    arguments = {
        "sign": (signed, "--key", private),
        "verify": (signed, "--key", public),
        "digest": (signed,),
        "inspect": (signed / "model.sig",),
    }[verb]
    for extra in ((), ("--json",)):
        with open("/dev/full", "wb") as full:
            command(verb, *arguments, *extra, stdout=full).refused(3, "No space left")


# ------------------------------------------------------------------------------------------------------ closed streams


def test_a_reader_that_leaves_is_no_statement_about_the_model(command: Any, signed: Path, public: Path) -> None:
    reader, writer = os.pipe()
    os.close(reader)
    with open(writer, "wb") as pipe:
        outcome = command("verify", signed, "--key", public, stdout=pipe)
    assert outcome.code == 3
    assert "Traceback" not in outcome.err
    assert len(outcome.err.splitlines()) <= 1


@pytest.mark.parametrize("stream", [0, 1, 2])
def test_a_closed_stream_changes_no_verdict(command: Any, signed: Path, keys: Path, stream: int) -> None:
    through = (WITHOUT_STREAM, str(stream))
    outcome = command("verify", signed, "--key", keys / "public.pem", through=through)
    assert (outcome.code, outcome.err) == (0, "")
    outcome = command("verify", signed, "--key", keys / "other-public.pem", through=through)
    assert (outcome.code, outcome.out) == (1, "")


@pytest.mark.parametrize("stream", [0, 1, 2])
def test_a_closed_stream_does_not_keep_a_model_from_being_signed(
    command: Any, model: Path, keys: Path, cli: Any, stream: int
) -> None:
    outcome = command("sign", model, "--key", keys / "private.pem", through=(WITHOUT_STREAM, str(stream)))
    assert (outcome.code, outcome.err) == (0, "")
    cli("verify", model, "--key", keys / "public.pem").succeeded()


def test_an_encrypted_key_needs_a_password_where_nobody_can_type_one(
    command: Any, cli: Any, model: Path, tmp_path: Path
) -> None:
    (tmp_path / "password").write_text("secret")
    pair = ("--private", tmp_path / "k.pem", "--public", tmp_path / "p.pem")
    cli("keygen", *pair, "--password-file", tmp_path / "password").succeeded()
    outcome = command("sign", model, "--key", tmp_path / "k.pem", through=(WITHOUT_STREAM, "0"))
    outcome.refused(3, "encrypted", hint="--password-file")


def test_a_terminal_of_another_encoding_changes_no_verdict(
    command: Any, model: Path, private: Path, public: Path
) -> None:
    (model / "\u4e2d\u6587").touch()
    env = {"PYTHONIOENCODING": "latin-1"}
    command("sign", model, "--key", private, env=env).succeeded()
    command("verify", model, "--key", public, env=env).succeeded()
    assert "\\u4e2d\\u6587" in command("digest", model, env=env).succeeded().out


# --------------------------------------------------------------------------------------------------------- permissions


def test_an_unreadable_file_could_not_be_read(unprivileged: Any, signed: Path, private: Path, public: Path) -> None:
    (signed / "weights.bin").chmod(0)
    before = (signed / "model.sig").read_bytes()
    for arguments in (("sign", signed, "--key", private), ("verify", signed, "--key", public), ("digest", signed)):
        unprivileged(*arguments).refused(3, "cannot read", "weights.bin", "Permission denied")
    assert (signed / "model.sig").read_bytes() == before


def test_an_unreadable_directory_could_not_be_read(
    unprivileged: Any, signed: Path, private: Path, public: Path
) -> None:
    (signed / "sub").chmod(0)
    try:
        for arguments in (("sign", signed, "--key", private), ("verify", signed, "--key", public), ("digest", signed)):
            unprivileged(*arguments).refused(3, "cannot read", "sub", "Permission denied")
    finally:
        (signed / "sub").chmod(0o700)


def test_a_model_below_an_unreadable_directory_could_not_be_read(
    unprivileged: Any, signed: Path, private: Path, public: Path
) -> None:
    signed.parent.chmod(0)
    try:
        for arguments in (("sign", signed, "--key", private), ("verify", signed, "--key", public), ("digest", signed)):
            unprivileged(*arguments).refused(3, "model", "Permission denied")
    finally:
        signed.parent.chmod(0o700)


def test_an_unreadable_signature_could_not_be_read(unprivileged: Any, signed: Path, public: Path) -> None:
    (signed / "model.sig").chmod(0)
    unprivileged("verify", signed, "--key", public).refused(3, "signature", "Permission denied")
    given = ("--signature", signed / "model.sig")
    unprivileged("verify", signed, "--key", public, *given).refused(3, "signature", "Permission denied")
    unprivileged("inspect", signed / "model.sig").refused(3, "signature", "Permission denied")


def test_an_unreadable_key_could_not_be_read(unprivileged: Any, signed: Path, tmp_path: Path) -> None:
    (tmp_path / "k.pem").touch(mode=0)
    for verb in ("sign", "verify"):
        unprivileged(verb, signed, "--key", tmp_path / "k.pem").refused(3, "k.pem", "Permission denied")


def test_a_read_only_model_is_left_as_it_was(unprivileged: Any, model: Path, private: Path, tree_of: Any) -> None:
    before = tree_of(model)
    model.chmod(0o500)
    try:
        outcome = unprivileged("sign", model, "--key", private)
        outcome.refused(3, "cannot write", "Permission denied", hint="--signature")
    finally:
        model.chmod(0o700)
    assert tree_of(model) == before


def test_keys_are_not_made_in_a_read_only_directory(unprivileged: Any, tmp_path: Path, tree_of: Any) -> None:
    (tmp_path / "locked").mkdir(mode=0o500)
    pair = ("--private", tmp_path / "k.pem", "--public", tmp_path / "locked" / "p.pem")
    unprivileged("keygen", *pair).refused(3, "cannot write the public key", "Permission denied")
    assert tree_of(tmp_path) == {}


def test_a_directory_that_can_be_listed_but_not_entered_is_one_clear_line_on_a_terminal(
    terminal: Any, unprivileged: Any, signed: Path
) -> None:
    (signed / "sub").chmod(0o400)
    try:
        unprivileged("digest", signed).refused(3, "cannot read", "config.json", "Permission denied")
        running = terminal("digest", signed, unprivileged=True)
        assert running.finish() == 3
    finally:
        (signed / "sub").chmod(0o700)
    assert running.said.count(b"sentry: error: cannot read") == 1
    assert b"this is a bug" not in running.said


def test_a_tree_deeper_than_any_model_is_one_clear_line_on_a_terminal(terminal: Any, tmp_path: Path) -> None:
    deep = tmp_path / "deep"
    deep.mkdir()
    with contextlib.chdir(deep):
        for _ in range(1100):
            Path("d").mkdir()
            os.chdir("d")
    try:
        running = terminal("digest", deep)
        assert running.finish() == 1
    finally:
        # Deeper than shutil.rmtree, and so pytest, can go.
        subprocess.run(["rm", "-rf", deep], check=True)
    assert running.said.count(b"sentry: error: ") == 1
    assert b"nested deeper" in running.said


# ------------------------------------------------------------------------------------------------------- interruptions


def wait_until_it_reads(process: subprocess.Popen[str]) -> None:
    """Wait until a process has read more than its own program, which means that it hashes."""
    statistics = Path(f"/proc/{process.pid}/io")
    deadline = time.monotonic() + 60
    while int(statistics.read_text().split()[1]) < 200_000_000:
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.02)


@pytest.mark.parametrize("verb", ["sign", "verify", "digest"])
def test_an_interruption_ends_soon_in_one_line_and_leaves_nothing(
    model: Path, keys: Path, tmp_path: Path, verb: str
) -> None:
    # A sparse file, hashed as zeros: longer than anybody wants to wait for.
    nbytes = 1 << 40
    os.truncate(model / "weights.bin", nbytes)
    signature = tmp_path / "x.sig"
    arguments: list[object] = [verb, model]
    if verb == "sign":
        arguments += ["--key", keys / "private.pem", "--signature", signature]
    if verb == "verify":
        paths = {"weights.bin": nbytes, "empty": 0, "sub/config.json": 2}
        resources = tuple(Resource(path, bytes(32), nbytes=size) for path, size in paths.items())
        payload = encode_manifest(Manifest("model", "blake3", resources))
        KeySigner.from_file(keys / "private.pem").sign(payload).write(signature)
        arguments += ["--key", keys / "public.pem", "--signature", signature]
    before = set(tmp_path.iterdir())
    process = subprocess.Popen(
        [*MODULE, *map(str, arguments)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    try:
        wait_until_it_reads(process)
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=10)
    finally:
        process.kill()
        process.communicate()
    assert (process.returncode, out) == (130, "")
    assert err.strip() == "sentry: error: interrupted"
    assert set(tmp_path.iterdir()) == before
