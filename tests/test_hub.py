# SPDX-License-Identifier: Apache-2.0
"""Models on a hub: which names are taken, what is downloaded, what is said when it cannot be, and where tokens go.

Downloads are pretended; the one test against the real library looks at its signature.
"""

from __future__ import annotations

import errno
import inspect
import os
import sys
import traceback
from pathlib import Path

import pytest
from fake_hub import FakeHub, hub_error
from snapshots import link_to_blob, write_snapshot
from support import SMALL_MODEL, KeyPair

import sentry
from sentry import hub
from sentry.errors import RefusedError, UnavailableError

TOKEN = "hf_AbCdEfGhIjKlMnOpQrStUvWxYz"  # noqa: S105  (nobody's)


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return the current folder, an empty one."""
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    return tmp_path / "here"


@pytest.fixture
def snapshot(tmp_path: Path) -> Path:
    """Return what the hub sends."""
    return write_snapshot(tmp_path / "hub", SMALL_MODEL)


@pytest.fixture
def fake(here: Path, snapshot: Path, monkeypatch: pytest.MonkeyPatch) -> FakeHub:
    """Put a pretended library in the real one's place."""
    del here
    pretended = FakeHub(answer=snapshot)
    monkeypatch.setitem(sys.modules, "huggingface_hub", pretended.module())
    return pretended


def write_token(text: str = TOKEN, mode: int = 0o600) -> Path:
    path = Path(hub.TOKEN_FILE)
    path.touch(mode=0o600)
    path.write_text(text)
    path.chmod(mode)
    return path


# ---------------------------------------------------------------------------------------------------------- references


@pytest.mark.parametrize(
    ("reference", "repository", "revision"),
    [
        ("hf:org/name@v1.0", "org/name", "v1.0"),
        ("hf:org/name", "org/name", "main"),
        ("hf:name@main", "name", "main"),
        ("hf:gpt2", "gpt2", "main"),
        ("hf:a/b@refs/pr/1", "a/b", "refs/pr/1"),
        ("hf:sentence-transformers/all-MiniLM-L6-v2@" + "c" * 40, "sentence-transformers/all-MiniLM-L6-v2", "c" * 40),
        ("hf:Org_1/n.a-m_e@f-x", "Org_1/n.a-m_e", "f-x"),
    ],
)
def test_a_reference_is_taken_apart(reference: str, repository: str, revision: str) -> None:
    assert hub.parse_reference(reference) == (repository, revision)


@pytest.mark.parametrize(
    "reference",
    [
        *("hf:", "hf:@main", "hf:/name", "hf:org/", "hf:org//name", "hf:org/name/sub", "hf:org/name/sub/file@main"),
        *("hf:../name", "hf:org/..", "hf:org/a..b", "hf:org/.name", "hf:.org/name", "hf:-org/name", "hf:org/-name"),
        *("hf:org/name-", "hf:org/name.", "hf:org/na--me", "hf:org/name.git", "hf:org/na me", "hf:org/name\n"),
        *("hf:org/n\u0430me", "hf:org/na%2fme", "hf:org\\name", "hf:org/na\0me", "hf:https://host/name", "org/name"),
        *("hf:org/" + "n" * 93, "hf:datasets/org/name"),
    ],
)
def test_a_reference_without_a_model_is_refused(reference: str) -> None:
    with pytest.raises(ValueError, match="names no model on the hub"):
        hub.parse_reference(reference)


@pytest.mark.parametrize(
    "revision",
    [
        *("", "..", "../x", "a/../b", "a..b", "-x", "a/-x", "/a", "a/", "a//b", ".a"),
        *("a@b", "a b", "a\n", "é", "~1", "r" * 256),
    ],
)
def test_a_reference_without_a_revision_is_refused(revision: str) -> None:
    with pytest.raises(ValueError, match="names no revision"):
        hub.parse_reference(f"hf:org/name@{revision}")


def test_hidden_characters_of_a_reference_are_spelled_out() -> None:
    with pytest.raises(ValueError, match=r"hf:org/\\x1b\[2J names no model"):
        hub.parse_reference("hf:org/\x1b[2J")


@pytest.mark.parametrize("path", ["model", "./hf:name", "/abs/hf:name", "HF:org/name", "a/hf:b"])
def test_other_paths_are_left_alone(fake: FakeHub, path: str) -> None:
    assert hub.resolve_model(path) == Path(path)
    assert fake.calls == []


# ----------------------------------------------------------------------------------------------------------- downloads


def test_a_model_is_downloaded_by_its_revision(fake: FakeHub, snapshot: Path) -> None:
    assert hub.fetch("hf:org/name@v1") == snapshot
    assert hub.resolve_model(Path("hf:org/name")) == snapshot
    assert fake.calls == [("org/name", "v1", None), ("org/name", "main", None)]


def test_verify_and_materialize_fetch_what_is_on_a_hub(
    fake: FakeHub, pair: KeyPair, snapshot: Path, tmp_path: Path
) -> None:
    bundle = sentry.sign_path(snapshot, pair.signer)
    assert sentry.verify_path("hf:org/name@v1", bundle, pair.trust).path == snapshot
    sentry.materialize("hf:org/name@v1", bundle, pair.trust, tmp_path / "copy")
    assert fake.calls == [("org/name", "v1", None)] * 2
    assert (tmp_path / "copy" / "config.json").read_bytes() == SMALL_MODEL["config.json"]


def test_what_the_hub_changed_is_refused(fake: FakeHub, pair: KeyPair, snapshot: Path) -> None:
    """The signature counts, not the revision: a hub can put anything behind a name."""
    bundle = sentry.sign_path(snapshot, pair.signer)
    link_to_blob(snapshot, "evil.py", b"evil")
    with pytest.raises(sentry.MismatchError, match=r"not signed: evil\.py"):
        sentry.verify_path(f"hf:org/name@{'c' * 40}", bundle, pair.trust)
    assert len(fake.calls) == 1


def test_arguments_are_checked_before_anything_is_fetched(fake: FakeHub, pair: KeyPair) -> None:
    with pytest.raises(ValueError, match="there is no hash"):
        sentry.verify_path("hf:org/name", "x.sig", pair.trust, hash="md5")
    with pytest.raises(sentry.SignatureError, match="there is no signature"):
        sentry.verify_path("hf:org/name", [], pair.trust)
    with pytest.raises(ValueError, match="names no model"):
        sentry.verify_path("hf:../name", "x.sig", pair.trust)
    assert fake.calls == []


# ------------------------------------------------------------------------------------------------------------ troubles


def test_a_missing_library_is_said_with_what_to_install(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    del here
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(UnavailableError, match="takes the package huggingface_hub") as caught:
        hub.fetch("hf:org/name")
    assert caught.value.hint == "pip install 'artifact-sentry[hub]'"


class RepositoryNotFoundError(OSError):
    """As in the library: what is gated, and what is not there, have one base."""


TROUBLES: dict[str, tuple[Exception, str, str]] = {
    "gated": (hub_error("GatedRepoError", RepositoryNotFoundError), "its owner has to let you in", "token"),
    "not there": (RepositoryNotFoundError("404"), "no such model, or it is private", "token"),
    "revision not there": (hub_error("RevisionNotFoundError", OSError), "no such revision", "commits"),
    "offline": (hub_error("OfflineModeIsEnabled", ConnectionError), "switched off", "HF_HUB_OFFLINE"),
    "no network": (hub_error("LocalEntryNotFoundError", FileNotFoundError), "cannot be reached", "network"),
    "refused": (ConnectionRefusedError(errno.ECONNREFUSED, "x"), "Connection refused", "network"),
    "full disk": (OSError(errno.ENOSPC, "x"), "No space left on device", "disk"),
    "proxy": (hub_error("ProxyError"), "ProxyError", "network"),
    "bug": (TypeError("x"), "TypeError", "network"),
}


@pytest.mark.parametrize("what", TROUBLES)
def test_a_download_that_fails_says_why(fake: FakeHub, what: str) -> None:
    fake.answer, reason, hint = TROUBLES[what]
    with pytest.raises(UnavailableError, match=f"cannot fetch hf:org/name@v1: .*{reason}") as caught:
        hub.fetch("hf:org/name@v1")
    assert hint in (caught.value.hint or "")


def test_the_cause_of_a_library_error_counts(fake: FakeHub) -> None:
    fake.answer = hub_error("LocalEntryNotFoundError", FileNotFoundError)
    fake.answer.__cause__ = hub_error("OfflineModeIsEnabled", ConnectionError)
    with pytest.raises(UnavailableError, match="switched off"):
        hub.fetch("hf:org/name")


def test_a_snapshot_that_is_not_there_is_refused(fake: FakeHub, tmp_path: Path) -> None:
    fake.answer = tmp_path / "nothing"
    with pytest.raises(UnavailableError, match="there is no snapshot"):
        hub.fetch("hf:org/name")


# -------------------------------------------------------------------------------------------------------------- tokens


@pytest.mark.parametrize("text", [TOKEN, f"{TOKEN}\n", f"  {TOKEN}\r\n"])
def test_a_token_in_the_current_folder_is_used(fake: FakeHub, text: str) -> None:
    write_token(text)
    hub.fetch("hf:org/name")
    assert fake.calls == [("org/name", "main", TOKEN)]


@pytest.mark.parametrize("mode", [0o644, 0o640, 0o604, 0o666])
def test_a_token_that_others_can_read_is_refused(fake: FakeHub, pair: KeyPair, mode: int) -> None:
    write_token(mode=mode)
    with pytest.raises(RefusedError, match="other users can read the access token") as caught:
        sentry.verify_path("hf:org/name", "x.sig", pair.trust)
    assert caught.value.hint == "run: chmod 600 hf_access_token"
    assert fake.calls == []


@pytest.mark.parametrize("text", ["", "\n", "two words", f"{TOKEN}\n{TOKEN}", "t\u00e9", "\x1b[2J", "a\0b"])
def test_a_file_without_a_token_is_refused(fake: FakeHub, text: str) -> None:
    write_token(text)
    with pytest.raises(UnavailableError, match="holds no access token"):
        hub.fetch("hf:org/name")
    assert fake.calls == []


@pytest.mark.parametrize("what", ["too long", "a directory", "a dangling link", "a FIFO"])
def test_a_token_that_cannot_be_read_is_refused(fake: FakeHub, what: str) -> None:
    path = Path(hub.TOKEN_FILE)
    if what == "too long":
        write_token("x" * (hub.MAX_TOKEN_BYTES + 1))
    elif what == "a directory":
        path.mkdir()
    elif what == "a FIFO":
        os.mkfifo(path)
    else:
        path.symlink_to("nowhere")
    reason = {"too long": "larger than", "a dangling link": "cannot read the access token"}
    with pytest.raises(UnavailableError, match=reason.get(what, "not a regular file")):
        hub.fetch("hf:org/name")
    assert fake.calls == []


@pytest.mark.parametrize("what", TROUBLES)
def test_a_token_is_in_no_message(
    fake: FakeHub, what: str, capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    """The library's messages may quote the request; none of them is repeated, nor shown as a cause."""
    write_token()
    original = TROUBLES[what][0]
    fake.answer = type(original)(f"authorization: Bearer {TOKEN}")
    fake.answer.__cause__ = ValueError(TOKEN)
    with pytest.raises(UnavailableError) as caught:
        hub.fetch("hf:org/name")
    shown = "".join(traceback.format_exception(caught.value))
    assert TOKEN not in shown + str(caught.value.hint) + caplog.text + "".join(capsys.readouterr())


# ---------------------------------------------------------------------------------------------------- the real library


def test_the_real_library_takes_what_it_is_given() -> None:
    library = pytest.importorskip("huggingface_hub", reason="huggingface_hub is not installed")
    parameters = inspect.signature(library.snapshot_download).parameters
    pretended = inspect.signature(FakeHub().snapshot_download).parameters
    assert set(pretended) <= set(parameters)
    assert next(iter(parameters)) == "repo_id"
    assert {pretended[name].kind for name in pretended if name != "repo_id"} == {inspect.Parameter.KEYWORD_ONLY}
    errors = __import__("huggingface_hub.errors", fromlist=["errors"])
    assert all(hasattr(errors, name) for name, *_ in hub._REASONS)
