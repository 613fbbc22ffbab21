# SPDX-License-Identifier: Apache-2.0
"""Attacks on how trees are walked, and on the files around them."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from support import KeyPair

import sentry
from sentry.cli import main
from sentry.formats.bundle import MAX_BUNDLE_TOKENS
from sentry.paths import lies_in

LARGE = 3 * 1024 * 1024


@pytest.fixture
def model(tmp_path: Path) -> Path:
    (tmp_path / "model" / "sub").mkdir(parents=True)
    (tmp_path / "model" / "big.bin").write_bytes(os.urandom(LARGE))
    (tmp_path / "model" / "sub" / "w.bin").write_bytes(b"good")
    return tmp_path / "model"


def swap_while_reading(model: Path) -> Callable[[int], None]:
    """Return a hook that puts another directory in `sub`'s place while files are read, and the first one back."""
    other, away = model.parent / "other", model.parent / "away"
    other.mkdir()
    (other / "w.bin").write_bytes(b"evil")
    calls: list[int] = []

    def hook(_nbytes: int) -> None:
        calls.append(1)
        if len(calls) == 1:
            (model / "sub").rename(away)
            other.rename(model / "sub")
        elif not other.exists() and away.exists() and calls.count(1) > LARGE // (1024 * 1024):
            (model / "sub").rename(other)
            away.rename(model / "sub")

    return hook


def test_a_directory_renamed_away_and_back_is_refused_by_verify(pair: KeyPair, model: Path) -> None:
    """Both listings show the signed files; what was read in between lay in another directory."""
    bundle = sentry.sign_path(model, pair.signer)
    with pytest.raises(sentry.MismatchError, match=r"sub/w\.bin"):
        sentry.verify_path(model, bundle, pair.trust, progress=swap_while_reading(model))


def test_a_directory_renamed_away_and_back_is_not_signed(pair: KeyPair, model: Path) -> None:
    """The same against the signer: it would vouch for bytes that are in neither listing."""
    with pytest.raises(sentry.RefusedError, match="changed"):
        sentry.sign_path(model, pair.signer, progress=swap_while_reading(model))


def test_a_locale_in_which_names_are_not_utf8_is_refused(
    pair: KeyPair, model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Under ISO 8859-1 two different names on disk are read as the same signed name."""
    bundle = sentry.sign_path(model, pair.signer)
    monkeypatch.setattr(sys, "getfilesystemencoding", lambda: "iso8859-1")
    with pytest.raises(sentry.UnavailableError, match="not read as UTF-8"):
        sentry.verify_path(model, bundle, pair.trust)


def test_a_signature_that_is_a_directory_leaves_no_descriptor_open(pair: KeyPair, model: Path) -> None:
    """A hostile model could use up a service's descriptors."""
    (model / "model.sig").mkdir()
    before = len(os.listdir("/proc/self/fd"))
    for _ in range(5):
        with pytest.raises(sentry.UnavailableError, match="not a regular file"):
            sentry.verify_path(model, model / "model.sig", pair.trust)
    assert len(os.listdir("/proc/self/fd")) == before


@pytest.mark.parametrize("filler", [b"[],", b"{},", b"0,"])
def test_a_bundle_of_countless_values_is_refused_before_it_is_parsed(filler: bytes) -> None:
    """Nothing is signed yet, and such a file takes a hundred times its size in memory."""
    with pytest.raises(sentry.FormatError, match="more values than any bundle needs"):
        sentry.Bundle.decode(b"[" + filler * (MAX_BUNDLE_TOKENS + 1) + b"0]")


def test_a_signature_never_replaces_a_special_file(pair: KeyPair, model: Path) -> None:
    """As root, writing to `/dev/null` would turn it into a regular file."""
    os.mkfifo(model.parent / "fifo")
    bundle = sentry.sign_path(model, pair.signer)
    with pytest.raises(sentry.UnavailableError, match="it is not a regular file"):
        bundle.write(model.parent / "fifo")
    arguments = ["sign", str(model), "--key", str(pair.private), "--signature", str(model.parent / "fifo")]
    assert main(arguments) == 3


def test_the_private_key_under_another_name_is_not_signed(pair: KeyPair, model: Path) -> None:
    """A hard link to the key would be published with the model."""
    os.link(pair.private, model / "harmless.bin")
    with pytest.raises(sentry.RefusedError, match="the private key lies inside the model"):
        sentry.sign_path(model, sentry.KeySigner.from_file(pair.private))


def test_a_key_given_by_a_relative_name_is_still_found_inside_the_model(
    pair: KeyPair, model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The folder may have changed between loading the key and verifying."""
    bundle = sentry.sign_path(model, pair.signer)
    (model / "public.pem").write_bytes(pair.public.read_bytes())
    monkeypatch.chdir(model)
    trust = sentry.KeyTrust.from_file("public.pem")
    monkeypatch.chdir(model.parent)
    with pytest.raises(sentry.TrustError, match="lies inside the model"):
        sentry.verify_path(model, bundle, trust)


@pytest.mark.parametrize("hop", ["file", "directory", "relative"])
def test_a_key_reached_by_way_of_the_model_is_refused(pair: KeyPair, model: Path, hop: str) -> None:
    """Whoever writes the model could point a link in it at a key of their own; both ends of the way lie outside."""
    bundle = sentry.sign_path(model, pair.signer, ignore=[model / "sub"])
    outside, key = model.parent / "outside.pem", model.parent / "public.pem"
    key.write_bytes(pair.public.read_bytes())
    if hop == "file":
        (model / "sub" / "link").symlink_to(key)
        outside.symlink_to(model / "sub" / "link")
    elif hop == "directory":
        (model / "sub" / "link").symlink_to(model.parent)
        outside.symlink_to(model / "sub" / "link" / "public.pem")
    else:
        (model / "sub" / "link").symlink_to("../../public.pem")
        outside.symlink_to("model/sub/link")
    with pytest.raises(sentry.TrustError, match="lies inside the model"):
        sentry.verify_path(model, bundle, sentry.KeyTrust.from_file(outside))


def test_links_that_lead_in_a_circle_end(tmp_path: Path) -> None:
    """The way to a path ends where the system would give up."""
    (tmp_path / "a").symlink_to("b")
    (tmp_path / "b").symlink_to("a")
    assert not lies_in(tmp_path / "a", tmp_path / "model")


def test_a_dotted_path_through_a_link_does_not_hide_a_file(pair: KeyPair, model: Path) -> None:
    """`link/../model/x` leads elsewhere than its text says, and must not stand for the model's own `x`."""
    (model.parent / "far" / "deep").mkdir(parents=True)
    (model.parent / "far" / "model").mkdir()
    (model.parent / "link").symlink_to("far/deep")
    bundle = sentry.sign_path(model, pair.signer)
    bundle.write(model.parent / "far" / "model" / "x.py")
    (model / "x.py").write_bytes(b"evil")
    with pytest.raises(sentry.MismatchError, match=r"not signed: x\.py"):
        sentry.verify_path(model, model.parent / "link" / ".." / "model" / "x.py", pair.trust)
