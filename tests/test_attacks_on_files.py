# SPDX-License-Identifier: Apache-2.0
"""Attacks by whoever can write the model's directory before it is read."""

from __future__ import annotations

import os
import shutil
import socket
import stat
from collections.abc import Callable
from pathlib import Path

import pytest
from support import SMALL_MODEL, KeyPair, forge

import sentry
from sentry.errors import MismatchError, RefusedError


@pytest.fixture
def bundle(pair: KeyPair, model: Path) -> sentry.Bundle:
    """Return the signature of the model."""
    return sentry.sign_path(model, pair.signer)


def make_device(path: Path) -> None:
    try:
        os.mknod(path, stat.S_IFCHR | 0o600, os.makedev(1, 5))
    except PermissionError:
        pytest.skip("device files cannot be made here")


def make_socket(path: Path) -> None:
    here = os.open(".", os.O_RDONLY)
    os.chdir(path.parent)  # the name of a socket is short
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(path.name)
    os.fchdir(here)
    os.close(here)


SPECIAL = {
    "a symbolic link": lambda path: path.symlink_to("config.json"),
    "a symbolic link to a directory": lambda path: path.symlink_to("sub"),
    "a symbolic link to nothing": lambda path: path.symlink_to("nothing"),
    "a symbolic link outside": lambda path: path.symlink_to("/etc/passwd"),
    "a FIFO": os.mkfifo,
    "a device file": make_device,
    "a socket": make_socket,
}


@pytest.mark.timeout(30)
@pytest.mark.parametrize("name", ["more", "sub/more", "config.json", "sub"])
@pytest.mark.parametrize("kind", SPECIAL)
def test_what_is_no_file_is_neither_signed_nor_verified(
    pair: KeyPair, model: Path, bundle: sentry.Bundle, kind: str, name: str
) -> None:
    """The attacker adds a link or a special file, or puts one in the place of a signed file or directory."""
    path = model / name
    if path.is_dir():
        shutil.rmtree(path)
    path.unlink(missing_ok=True)
    SPECIAL[kind](path)
    shown = kind.partition(" to ")[0].partition(" outside")[0]
    with pytest.raises(MismatchError, match=rf"{name} \({shown}\)"):
        sentry.verify_path(model, bundle, pair.trust)
    with pytest.raises(RefusedError, match=f"'{name}' is {shown}, which cannot be signed"):
        sentry.sign_path(model, pair.signer)
    if name in SMALL_MODEL:
        with pytest.raises(MismatchError, match=rf"{name} \({shown}\)"):
            sentry.verify_path(model, bundle, pair.trust, ignore_unsigned=True)


def test_a_link_to_the_model_is_not_the_model(pair: KeyPair, model: Path, bundle: sentry.Bundle) -> None:
    """The attacker can turn a link after it was verified."""
    link = model.with_name("link")
    link.symlink_to(model)
    with pytest.raises(MismatchError, match="is a symbolic link, not a model"):
        sentry.verify_path(link, bundle, pair.trust)
    with pytest.raises(RefusedError, match="is a symbolic link, not a model"):
        sentry.sign_path(link, pair.signer)


@pytest.mark.timeout(30)
@pytest.mark.parametrize("kind", ["a FIFO", "a device file", "a socket"])
def test_a_special_file_is_not_a_model(pair: KeyPair, tmp_path: Path, bundle: sentry.Bundle, kind: str) -> None:
    """The attacker gives a path that never ends."""
    SPECIAL[kind](tmp_path / "x")
    with pytest.raises(MismatchError, match=f"is {kind}, not a model"):
        sentry.verify_path(tmp_path / "x", bundle, pair.trust)


@pytest.mark.timeout(30)
def test_a_fifo_in_the_place_of_the_signature_does_not_block(pair: KeyPair, model: Path) -> None:
    """The attacker replaces the signature by a pipe that nobody writes to."""
    os.mkfifo(model / "model.sig")
    with pytest.raises(sentry.UnavailableError, match="is not a regular file"):
        sentry.verify_path(model, model / "model.sig", pair.trust)


def test_a_hard_link_is_an_ordinary_file(pair: KeyPair, model: Path, bundle: sentry.Bundle, tmp_path: Path) -> None:
    """The attacker keeps a second name of a signed file outside: it has the same bytes, and must be signed by name."""
    os.link(model / "config.json", tmp_path / "second")
    sentry.verify_path(model, bundle, pair.trust)
    os.link(model / "config.json", model / "second")
    with pytest.raises(MismatchError, match="not signed: second"):
        sentry.verify_path(model, bundle, pair.trust)


@pytest.mark.parametrize(
    "name", ["x\x1b[2Jverified", "[red]x.bin", "a\nsentry: verified", "\u202egnp.exe", "\x7f\x9b0m", "\u2028"]
)
@pytest.mark.parametrize("kind", ["file", "link", "missing", "changed"])
def test_a_hostile_name_cannot_act_on_a_terminal(
    pair: KeyPair, make_model: Callable[..., Path], name: str, kind: str
) -> None:
    """The attacker's file name moves the cursor, forges a line, or reverses the text."""
    model = make_model({name: b"x", "a": b"x"} if kind in {"missing", "changed"} else {"a": b"x"}, name="hostile")
    bundle = sentry.sign_path(model, pair.signer)
    if kind == "missing":
        (model / name).unlink()
    elif kind == "link":
        (model / name).symlink_to("a")
    else:
        (model / name).write_bytes(b"y")
    with pytest.raises(MismatchError) as caught:
        sentry.verify_path(model, bundle, pair.trust)
    assert str(caught.value).isprintable()
    assert name in (caught.value.missing + caught.value.changed + caught.value.unexpected)


@pytest.mark.parametrize("name", [b"\xff", b"caf\xe9", b"a/\xed\xa0\x80"])
def test_a_name_that_is_not_utf8_is_refused(pair: KeyPair, model: Path, bundle: sentry.Bundle, name: bytes) -> None:
    """The attacker's name cannot be written into a statement, and would be skipped by a careless walk."""
    path = os.path.join(os.fsencode(model), name)
    os.makedirs(os.path.dirname(path), exist_ok=True)
    with open(path, "wb"):
        pass
    with pytest.raises(RefusedError, match="is a name that is not UTF-8, which cannot be signed"):
        sentry.sign_path(model, pair.signer)
    with pytest.raises(MismatchError, match="a name that is not UTF-8"):
        sentry.verify_path(model, bundle, pair.trust)


@pytest.mark.parametrize(
    "names", [("README", "readme"), ("\u00e9", "e\u0301"), ("A/x", "a/y"), ("stra\u00dfe", "STRASSE")]
)
def test_names_that_are_one_on_another_system_are_not_signed(
    pair: KeyPair, make_model: Callable[..., Path], names: tuple[str, str]
) -> None:
    """Where case or Unicode form do not count, one file would replace the other."""
    model = make_model(dict.fromkeys(names, b"x"), name="colliding")
    if len(list(model.rglob("*"))) < 2:
        pytest.skip("this file system takes the two names for one")
    with pytest.raises(RefusedError, match="are one name where case or Unicode form do not count"):
        sentry.sign_path(model, pair.signer)


@pytest.mark.parametrize("files", [{}, {".git/HEAD": b"x"}, {"model.sig": b"x"}])
def test_an_empty_model_is_not_signed(pair: KeyPair, make_model: Callable[..., Path], files: dict[str, bytes]) -> None:
    """A signature over nothing would verify whatever a careless verifier ignores."""
    with pytest.raises(RefusedError, match="there is nothing to sign"):
        sentry.sign_path(make_model(files, name="empty"), pair.signer)


@pytest.mark.timeout(30)
def test_a_huge_file_under_a_small_signed_size_is_refused_without_reading_it(
    pair: KeyPair, model: Path, bundle: sentry.Bundle
) -> None:
    """The attacker makes a signed file 8 TB long, sparse."""
    try:
        os.truncate(model / "config.json", 8 * 10**12)
    except OSError:
        pytest.skip("this file system has no files of 8 TB")
    read: list[int] = []
    with pytest.raises(MismatchError, match=r"changed: config\.json \(sizes differ\)"):
        sentry.verify_path(model, bundle, pair.trust, progress=read.append)
    assert read == []


def test_a_private_key_inside_the_model_is_never_published(pair: KeyPair, model: Path, tmp_path: Path) -> None:
    """The signer keeps the private key beside the weights, or reaches it by a link there."""
    key = shutil.copy(pair.private, model / "sub" / "key.pem")
    os.chmod(key, 0o600)
    (tmp_path / "link.pem").symlink_to(key)
    for path in (key, tmp_path / "link.pem", model / "sub" / ".." / "sub" / "key.pem"):
        with pytest.raises(RefusedError, match="the private key lies inside the model"):
            sentry.sign_path(model, sentry.KeySigner.from_file(path))
        with pytest.raises(RefusedError, match="the private key lies inside the model"):
            sentry.sign_path(model, sentry.KeySigner.from_file(path), ignore=[model / "sub"])


def test_a_tree_deeper_than_any_model_is_refused(pair: KeyPair, tmp_path: Path) -> None:
    """The attacker nests directories until a recursive walk fails."""
    here = os.open(tmp_path, os.O_RDONLY)
    for _ in range(200):
        os.mkdir("d", dir_fd=here)
        below = os.open("d", os.O_RDONLY, dir_fd=here)
        os.close(here)
        here = below
    os.close(here)
    try:
        with pytest.raises(RefusedError, match="is nested deeper than 128 directories"):
            sentry.sign_path(tmp_path / "d", pair.signer)
        with pytest.raises(MismatchError, match="is nested deeper than 128 directories"):
            sentry.verify_path(tmp_path / "d", forge(pair, SMALL_MODEL), pair.trust)
    finally:
        shutil.rmtree(tmp_path / "d")
