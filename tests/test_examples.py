# SPDX-License-Identifier: Apache-2.0
"""Every example runs, shows a refusal, and leaves nothing behind."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import pytest
from support import KeyPair

import sentry

EXAMPLES = Path(__file__).parents[1] / "examples"
# What each needs beside the package's own dependencies; names in `sentry` stand with a dot.
NEEDS = {
    "load_verified.py": ("torch", "safetensors"),
    "sign_in_memory.py": ("torch", ".sign_model", ".verify_model"),
    "transformers_verified.py": ("torch", "transformers"),
}


def run(*command: str | Path, cwd: Path, env: Mapping[str, str] | None = None) -> subprocess.CompletedProcess[str]:
    places = os.pathsep.join([str(EXAMPLES.parent), *filter(None, [os.environ.get("PYTHONPATH")])])
    environment = {**os.environ, "PYTHONPATH": places, "TMPDIR": str(cwd), **(env or {})}
    return subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True, check=False, timeout=120)


def test_every_example_is_run() -> None:
    assert {path.name for path in EXAMPLES.iterdir() if path.suffix} == {*NEEDS, "vllm_verified.sh"}


@pytest.mark.parametrize("name", NEEDS)
def test_the_example_runs(name: str, tmp_path: Path) -> None:
    for needed in NEEDS[name]:
        if needed.startswith(".") and needed[1:] not in sentry.__all__:
            pytest.skip(f"sentry{needed} does not exist")
        if not needed.startswith(".") and importlib.util.find_spec(needed) is None:
            pytest.skip(f"{needed} is not installed")
    done = run(sys.executable, EXAMPLES / name, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "\nrefused: " in done.stdout
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith("tmp")] == []


@pytest.fixture
def commands(tmp_path: Path) -> Path:
    """Return a folder with `sentry` as this package has it, and a `vllm` that notes what it is asked to do."""
    folder = tmp_path / "bin"
    folder.mkdir()
    texts = {
        "sentry": f'exec "{sys.executable}" -m sentry "$@"',
        "vllm": f'''exec "{sys.executable}" -c 'import json, os, sys
asked = [sys.argv[1:], sorted(os.listdir(sys.argv[2])), os.environ["HF_HUB_OFFLINE"]]
json.dump(asked, open("asked.json", "w"))' "$@"''',
    }
    for name, text in texts.items():
        (folder / name).write_text(f"#!/bin/sh\n{text}\n")
        (folder / name).chmod(0o755)
    return folder


def serve(model: Path, pair: KeyPair, commands: Path) -> subprocess.CompletedProcess[str]:
    path = os.pathsep.join([str(commands), os.environ["PATH"]])
    script = EXAMPLES / "vllm_verified.sh"
    return run("bash", script, model, pair.public, "--port", "8001", cwd=commands.parent, env={"PATH": path})


def test_vllm_is_started_on_a_verified_copy(model: Path, pair: KeyPair, commands: Path) -> None:
    sentry.sign_path(model, pair.signer).write(model / "model.sig")
    done = serve(model, pair, commands)
    assert done.returncode == 0, done.stderr
    (serve_word, directory, *options), files, offline = json.loads((commands.parent / "asked.json").read_text())
    assert (serve_word, offline) == ("serve", "1")
    assert files == ["config.json", "model.sig", "sub", "w.safetensors"]
    assert options[:3] == ["--load-format", "sentry", "--model-loader-extra-config"]
    assert json.loads(options[3]) == {"key": str(pair.public)}
    assert options[4:] == ["--port", "8001"]
    assert not Path(directory).exists()


def test_vllm_is_not_started_on_a_changed_model(model: Path, pair: KeyPair, commands: Path) -> None:
    sentry.sign_path(model, pair.signer).write(model / "model.sig")
    (model / "config.json").write_text('{"layers": 3}')
    done = serve(model, pair, commands)
    assert done.returncode == 1
    assert "config.json" in done.stderr
    assert not (commands.parent / "asked.json").exists()
