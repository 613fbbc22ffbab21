# SPDX-License-Identifier: Apache-2.0
"""A model's own code runs when it is signed and allowed to, from the verified copy, and otherwise not at all."""

from __future__ import annotations

import gc
import importlib
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from support import KeyPair

import sentry

torch = pytest.importorskip("torch", reason="torch is not installed")
transformers = pytest.importorskip("transformers", reason="transformers is not installed")

from integrations.small_models import edit_json, load, own_code, sign  # noqa: E402

from sentry.integrations import transformers as integration  # noqa: E402


@pytest.mark.parametrize("auto_class", [None, "AutoModel"])
def test_signed_code_runs_from_the_copy_when_it_is_allowed_to(
    publish: Callable[..., Path], pair: KeyPair, auto_class: str | None
) -> None:
    directory = publish(change=own_code)
    with load(directory, pair, trust_remote_code=True, auto_class=auto_class) as verified:
        assert torch.equal(verified.model.line.weight, torch.arange(16.0).reshape(4, 4))
        file = sys.modules[type(verified.model).__module__].__file__
        assert file is not None
        assert Path(file).parent == verified.directory


def test_code_does_not_run_unless_it_is_allowed_to(publish: Callable[..., Path], pair: KeyPair) -> None:
    with pytest.raises(sentry.UnavailableError, match="cannot be loaded") as caught:
        load(publish(change=own_code), pair)
    assert "trust_remote_code=True" in str(caught.value.hint)


def test_code_of_a_known_kind_of_model_does_not_run_either(publish: Callable[..., Path], pair: KeyPair) -> None:
    change = edit_json("config.json", auto_map={"AutoModel": "modeling_x.OtherModel"}, architectures=["OtherModel"])
    with pytest.raises(sentry.VerificationError, match="comes with the model"):
        load(publish(change=change), pair)


@pytest.mark.parametrize("trusted", [False, True])
@pytest.mark.parametrize(
    ("reference", "reason"),
    [
        ("someone/else--modeling_tiny.TinyModel", "another repository"),
        ("modeling_tiny", "names no class"),
        ("../modeling_tiny.TinyModel", "names no class"),
        ("os.path.join", "names no class"),
        (7, "does not name classes"),
    ],
)
@pytest.mark.parametrize("name", ["config.json", "tokenizer_config.json"])
def test_code_from_elsewhere_is_refused(
    publish: Callable[..., Path], pair: KeyPair, name: str, reference: object, reason: str, *, trusted: bool
) -> None:
    change = edit_json(name, auto_map={"AutoModel": reference})
    with pytest.raises(sentry.VerificationError, match=reason):
        load(publish(change=change), pair, trust_remote_code=trusted)


def test_code_that_is_not_signed_is_refused(publish: Callable[..., Path], pair: KeyPair) -> None:
    def change(directory: Path) -> None:
        own_code(directory)
        (directory / "modeling_tiny.py").unlink()

    with pytest.raises(sentry.MismatchError, match=r"not signed: modeling_tiny\.py"):
        load(publish(change=change), pair, trust_remote_code=True)


def test_a_missing_class_is_refused(publish: Callable[..., Path], pair: KeyPair) -> None:
    def change(directory: Path) -> None:
        own_code(directory, AutoConfig="configuration_tiny.OtherConfig")

    with pytest.raises(sentry.VerificationError, match="has no class"):
        load(publish(change=change), pair, trust_remote_code=True)


def test_two_models_with_code_of_one_name_do_not_mix(
    publish: Callable[..., Path], pair: KeyPair, tmp_path: Path
) -> None:
    first = publish(change=own_code)
    second = tmp_path / "second"
    shutil.copytree(first, second)
    code = (second / "modeling_tiny.py").read_text()
    (second / "modeling_tiny.py").write_text(code.replace("self.line(x)", "-self.line(x)"))
    sign(second, pair)
    one, other = (load(directory, pair, trust_remote_code=True) for directory in (first, second))
    with torch.no_grad():
        assert torch.equal(one.model(torch.ones(4)), -other.model(torch.ones(4)))
    one.close()
    other.close()


# Code that imports more of itself, from a folder too, when it first runs; and what somebody plants in its place.
LATE = """        from .late import late
        from .folder.later import later
        return later(late(self.line(x)))"""
PLANTED = "raise SystemExit('planted code runs')"


def imports_late(directory: Path) -> None:
    own_code(directory)
    code = directory / "modeling_tiny.py"
    code.write_text(code.read_text().replace("        return self.line(x)", LATE) + "\nfrom . import folder\n")
    (directory / "folder").mkdir()
    (directory / "folder" / "__init__.py").touch()
    (directory / "late.py").write_text("def late(x): return x\n")
    (directory / "folder" / "later.py").write_text("def later(x): return x + 1\n")


def plant(directory: Path) -> None:
    (directory / "folder").mkdir(parents=True, exist_ok=True)
    for name in ("late.py", "later.py", "folder/__init__.py", "folder/later.py", "tokenizer.json"):
        (directory / name).write_text(PLANTED)


def modules_of_models() -> set[str]:
    return {name for name in sys.modules if name.startswith("sentry_verified_") and "." in name}


def test_code_imports_more_of_itself_while_the_copy_is_there(publish: Callable[..., Path], pair: KeyPair) -> None:
    with load(publish(change=imports_late), pair, trust_remote_code=True) as verified, torch.no_grad():
        assert torch.equal(verified.model(torch.zeros(4)), torch.ones(4))
    # What it has imported, it keeps.
    with torch.no_grad():
        assert torch.equal(verified.model(torch.zeros(4)), torch.ones(4))


def test_nothing_is_imported_from_where_the_copy_was(publish: Callable[..., Path], pair: KeyPair) -> None:
    with load(publish(change=imports_late), pair, trust_remote_code=True) as verified:
        package = type(verified.model).__module__.rpartition(".")[0]
    assert not verified.directory.exists()
    plant(verified.directory)
    try:
        for call in (
            lambda: verified.model(torch.ones(4)),
            lambda: importlib.import_module(f"{package}.late"),
            lambda: importlib.import_module(f"{package}.folder.later"),
            lambda: importlib.reload(sys.modules[f"{package}.folder"]),
        ):
            with pytest.raises(ImportError):
                call()
        with pytest.raises(sentry.UnavailableError, match="copy was removed"):
            verified.tokenizer()
    finally:
        shutil.rmtree(verified.directory)


def test_nobody_else_can_take_the_place_of_code_that_ran(publish: Callable[..., Path], pair: KeyPair) -> None:
    with load(publish(change=own_code), pair, trust_remote_code=True) as verified:
        place = verified.directory.parent
    assert list(place.iterdir()) == []
    assert place.stat().st_mode & 0o777 == 0o700
    place.rmdir()


def test_the_place_goes_when_the_process_ends(publish: Callable[..., Path], pair: KeyPair, tmp_path: Path) -> None:
    directory = publish(change=own_code)
    (tmp_path / "temporary").mkdir()
    program = f"""
import sentry
from sentry.integrations.transformers import from_pretrained
trust = sentry.KeyTrust.from_file({str(pair.public)!r})
arguments = ({str(directory)!r}, {str(directory / "model.sig")!r}, trust)
closed = from_pretrained(*arguments, trust_remote_code=True)
closed.close()
kept = from_pretrained(*arguments, trust_remote_code=True)
assert closed.directory.parent.exists() and kept.directory.exists()
"""
    environment = {**os.environ, "TMPDIR": str(tmp_path / "temporary")}
    done = subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert not [path.name for path in (tmp_path / "temporary").iterdir() if path.name.startswith("sentry-")]


def test_imports_end_when_the_model_goes(publish: Callable[..., Path], pair: KeyPair) -> None:
    before = modules_of_models()
    verified = load(publish(change=imports_late), pair, trust_remote_code=True)
    directory, cls = verified.directory, type(verified.model)
    assert modules_of_models() > before
    del verified
    gc.collect()
    assert modules_of_models() == before
    plant(directory)
    try:
        with pytest.raises(ImportError):
            cls(cls.config_class())(torch.ones(4))
    finally:
        shutil.rmtree(directory)


def test_a_failed_load_leaves_no_code(
    publish: Callable[..., Path], pair: KeyPair, monkeypatch: pytest.MonkeyPatch
) -> None:
    before, seen = modules_of_models(), []

    def fail(cls: type, *_: object, **__: object) -> None:
        seen.append(cls)
        raise sentry.UnavailableError("stopped")

    monkeypatch.setattr(integration, "adopt", fail)
    with pytest.raises(sentry.UnavailableError, match="stopped"):
        load(publish(change=imports_late), pair, trust_remote_code=True)
    (cls,) = seen
    assert modules_of_models() == before
    with pytest.raises(ImportError):
        importlib.import_module(f"{cls.__module__.rpartition('.')[0]}.late")


def test_code_that_cannot_be_imported_is_told(publish: Callable[..., Path], pair: KeyPair) -> None:
    def change(directory: Path) -> None:
        own_code(directory)
        (directory / "modeling_tiny.py").write_text("from . import configuration_tiny, missing\n")

    before = modules_of_models()
    with pytest.raises(sentry.UnavailableError, match=r"imported from modeling_tiny\.py: ImportError") as caught:
        load(publish(change=change), pair, trust_remote_code=True)
    assert isinstance(caught.value.__cause__, ImportError)
    assert modules_of_models() == before
