# SPDX-License-Identifier: Apache-2.0
"""Bad models, bad signatures and bad arguments: one clear line, the right exit code, and nothing written."""

from __future__ import annotations

import json
import os
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

# ------------------------------------------------------------------------------------------- models not to be signed


def remove_all(model: Path) -> None:
    for path in (model / "weights.bin", model / "empty", model / "sub" / "config.json"):
        path.unlink()


def replace_directory(model: Path) -> None:
    remove_all(model)
    (model / "sub").rmdir()
    (model / "sub").touch()


def add(*names: str) -> Callable[[Path], None]:
    """Return a function that adds empty files to a model."""

    def spoil(model: Path) -> None:
        for name in names:
            (model / name).parent.mkdir(exist_ok=True)
            (model / name).touch()

    return spoil


def add_socket(model: Path) -> None:
    # A socket's path is limited to some 100 bytes; its name in the current directory is not.
    before = Path.cwd()
    os.chdir(model)
    with socket.socket(socket.AF_UNIX) as server:
        server.bind("odd")
    os.chdir(before)


BAD_MODELS: dict[str, tuple[Callable[[Path], object], str]] = {
    "empty": (remove_all, "nothing to sign"),
    "link": (lambda model: (model / "odd").symlink_to("weights.bin"), "'odd' is a symbolic link"),
    "link to a directory": (lambda model: (model / "odd").symlink_to("sub"), "'odd' is a symbolic link"),
    "dangling link": (lambda model: (model / "odd").symlink_to("nowhere"), "'odd' is a symbolic link"),
    "FIFO": (lambda model: os.mkfifo(model / "odd"), "'odd' is a FIFO"),
    "socket": (add_socket, "'odd' is a socket"),
    "non-UTF-8 name": (lambda model: Path(os.fsdecode(os.fsencode(model) + b"/odd\xff")).touch(), "not UTF-8"),
    "names that differ in case": (lambda model: (model / "WEIGHTS.bin").touch(), "are one name"),
    "names that differ in Unicode form": (add("\u00e9", "e\u0301"), "are one name"),
    "names that differ in folded case": (add("stra\u00dfe", "STRASSE"), "are one name"),
    "directories that differ in case": (add("SUB/other"), "are one name"),
}


@pytest.mark.parametrize("case", BAD_MODELS)
def test_a_model_that_must_not_be_signed_is_refused(
    cli: Any, model: Path, private: Path, tree_of: Any, case: str
) -> None:
    spoil, reason = BAD_MODELS[case]
    spoil(model)
    before = tree_of(model)
    cli("sign", model, "--key", private).refused(1, reason)
    assert tree_of(model) == before


@pytest.mark.parametrize("case", ["link", "link to a directory", "FIFO", "socket", "non-UTF-8 name"])
def test_a_model_that_gained_something_odd_is_not_authentic(cli: Any, signed: Path, public: Path, case: str) -> None:
    BAD_MODELS[case][0](signed)
    cli("verify", signed, "--key", public).refused(1, "not signed", "odd")


@pytest.mark.skipif(not Path("/dev/null").exists(), reason="no device files here")
@pytest.mark.parametrize(("verb", "key"), [("sign", "private.pem"), ("verify", "public.pem")])
def test_a_device_file_is_not_a_model(cli: Any, keys: Path, tmp_path: Path, verb: str, key: str) -> None:
    signature = ("--signature", tmp_path / "x.sig")
    cli(verb, "/dev/null", "--key", keys / key, *signature).refused(1, "/dev/null", "a device file")
    assert not (tmp_path / "x.sig").exists()


@pytest.mark.parametrize(("verb", "key"), [("sign", "private.pem"), ("verify", "public.pem")])
def test_a_link_to_a_model_is_refused_with_its_target(
    cli: Any, signed: Path, keys: Path, tmp_path: Path, verb: str, key: str
) -> None:
    (tmp_path / "link").symlink_to(signed)
    cli(verb, tmp_path / "link", "--key", keys / key).refused(1, "a symbolic link", hint=str(signed))


def test_an_empty_file_cannot_be_signed_in_shards(cli: Any, model: Path, private: Path) -> None:
    cli("sign", model, "--key", private, "--shard-bytes", "100").refused(1, "empty", hint="--shard-bytes")
    assert not (model / "model.sig").exists()


# ------------------------------------------------------------------------------------------------------- missing things


@pytest.mark.parametrize("verb", ["sign", "verify", "digest"])
@pytest.mark.parametrize("name", ["absent", "model/weights.bin/absent", "a" * 300])
def test_a_missing_model_could_not_be_read(
    cli: Any, model: Path, keys: Path, tmp_path: Path, verb: str, name: str
) -> None:
    key = {"sign": ("--key", keys / "private.pem"), "verify": ("--key", keys / "public.pem"), "digest": ()}[verb]
    assert model.exists()
    cli(verb, tmp_path / name, *key).refused(3, "cannot read")


@pytest.mark.parametrize(("verb", "key"), [("sign", "private.pem"), ("verify", "public.pem"), ("digest", None)])
def test_an_empty_path_is_not_the_current_directory(
    cli: Any, signed: Path, keys: Path, verb: str, key: str | None
) -> None:
    outcome = cli(verb, "", *(("--key", keys / key) if key else ()), cwd=signed)
    assert outcome.code in {2, 3}
    assert outcome.out == ""


def test_a_missing_signature_is_not_authentic(cli: Any, model: Path, public: Path) -> None:
    cli("verify", model, "--key", public).refused(1, "no signature", "model.sig")
    cli("verify", model, "--key", public, "--signature", "gone.sig").refused(1, "no signature", "gone.sig")


def test_a_missing_file_to_inspect_could_not_be_read(cli: Any, tmp_path: Path) -> None:
    cli("inspect", tmp_path / "gone.sig").refused(3, "cannot read", "gone.sig")


# --------------------------------------------------------------------------------------------------- changed artifacts


CHANGES: dict[str, tuple[Callable[[Path], object], tuple[str, ...]]] = {
    "a byte": (lambda m: (m / "weights.bin").write_bytes(b"\1" + bytes(range(1, 256)) * 16 + b"\0" * 15), ("changed",)),
    "a size": (lambda m: (m / "weights.bin").write_bytes(b"short"), ("changed", "weights.bin", "sizes differ")),
    "a removal": (lambda m: (m / "empty").unlink(), ("missing", "empty")),
    "an addition": (lambda m: (m / "more").touch(), ("not signed", "more")),
    "a rename": (lambda m: (m / "empty").rename(m / "void"), ("missing: empty", "not signed: void")),
    "a file for a directory": (replace_directory, ("missing",)),
}


@pytest.mark.parametrize("case", CHANGES)
def test_a_changed_model_is_not_authentic(cli: Any, signed: Path, public: Path, case: str) -> None:
    change, reasons = CHANGES[case]
    change(signed)
    cli("verify", signed, "--key", public).refused(1, "not what was signed", *reasons)
    cli("verify", signed, "--key", public, "--json").refused(1, *reasons)


def test_a_signature_by_another_key_is_not_authentic(cli: Any, signed: Path, keys: Path) -> None:
    cli("verify", signed, "--key", keys / "other-public.pem").refused(1, "another key", hint="trusted key")


def with_payload_byte_changed(data: bytes) -> bytes:
    bundle = json.loads(data)
    payload = bundle["dsseEnvelope"]["payload"]
    bundle["dsseEnvelope"]["payload"] = payload[:40] + ("A" if payload[40] != "A" else "B") + payload[41:]
    return json.dumps(bundle).encode()


BAD_SIGNATURES: dict[str, tuple[Callable[[bytes], bytes], str]] = {
    "empty": (lambda _: b"", "empty"),
    "truncated": (lambda data: data[: len(data) // 2], "not JSON"),
    "garbage": (lambda _: bytes(range(256)), "not UTF-8"),
    "another document": (lambda _: b'{"hello": "world"}', "mediaType"),
    "a list": (lambda _: b"[]", "not an object"),
    "a byte-order mark": (lambda data: b"\xef\xbb\xbf" + data, "not"),
    "a changed payload": (with_payload_byte_changed, "does not verify"),
    "deep nesting": (lambda _: b"[" * 100_000, "more values than any bundle needs"),
    "two documents": (lambda data: data + data, "not JSON"),
}


@pytest.mark.parametrize("case", BAD_SIGNATURES)
def test_a_bad_signature_is_not_authentic(cli: Any, signed: Path, public: Path, case: str) -> None:
    spoil, reason = BAD_SIGNATURES[case]
    signature = signed / "model.sig"
    signature.write_bytes(spoil(signature.read_bytes()))
    cli("verify", signed, "--key", public).refused(1, reason)
    if case != "a changed payload":
        cli("inspect", signature).refused(1, reason)


def test_an_oversized_signature_is_refused_before_it_is_read(cli: Any, signed: Path, public: Path) -> None:
    os.truncate(signed / "model.sig", 10 * 1024**3)
    cli("verify", signed, "--key", public).refused(1, "larger than")
    cli("inspect", signed / "model.sig").refused(1, "larger than")


@pytest.mark.parametrize("make", [os.mkfifo, os.mkdir])
def test_a_signature_that_is_no_file_could_not_be_read(
    cli: Any, model: Path, public: Path, tmp_path: Path, make: Callable[[Path], None]
) -> None:
    make(tmp_path / "odd.sig")
    outcome = cli("verify", model, "--key", public, "--signature", tmp_path / "odd.sig")
    outcome.refused(outcome.code, "odd.sig")
    assert outcome.code in {1, 3}
    cli("inspect", tmp_path / "odd.sig").refused(3, "odd.sig")


# ------------------------------------------------------------------------------------------------------ bad arguments


def test_verify_without_a_key_asks_whom_to_trust(cli: Any, signed: Path) -> None:
    cli("verify", signed).refused(2, "no trust", hint="--key")


def test_sign_without_a_key_is_a_usage_error(cli: Any, model: Path) -> None:
    cli("sign", model).refused(2, "--key", hint="sentry sign --help")


@pytest.mark.parametrize(
    "arguments",
    [
        ("--engine", "abacus"),
        ("--hash", "md5"),
        ("--shard-bytes", "0"),
        ("--shard-bytes", "-5"),
        ("--shard-bytes", "many"),
        ("--shard-bytes", str(10**20)),
    ],
)
def test_an_argument_that_means_nothing_is_a_usage_error(
    cli: Any, model: Path, private: Path, arguments: tuple[str, str]
) -> None:
    (model / "empty").unlink()
    cli("sign", model, "--key", private, *arguments).refused(2, arguments[0])
    assert not (model / "model.sig").exists()


@pytest.mark.parametrize(("option", "value"), [("--engine", "abacus"), ("--hash", "md5")])
def test_verify_and_digest_know_no_other_engine_or_hash(
    cli: Any, signed: Path, public: Path, option: str, value: str
) -> None:
    cli("verify", signed, "--key", public, option, value).refused(2, value)
    cli("digest", signed, option, value).refused(2, value)


@pytest.mark.parametrize("choice", ["both", "blake2b", "sha256", "sha256+blake3"])
def test_a_hash_that_the_signature_lacks_is_refused(
    cli: Any, model: Path, private: Path, public: Path, choice: str
) -> None:
    cli("sign", model, "--key", private, "--hash", "blake3").succeeded()
    cli("verify", model, "--key", public, "--hash", choice).refused(1, "has no", hint="blake3")


def test_the_signature_never_replaces_a_file_that_is_no_signature(
    cli: Any, model: Path, private: Path, tree_of: Any
) -> None:
    before = tree_of(model)
    file = model / "weights.bin"
    for path, signature in ((file, file), (model, file), (model, model / "sub" / "config.json")):
        outcome = cli("sign", path, "--key", private, "--signature", signature)
        assert outcome.code != 0
        assert tree_of(model) == before
