# SPDX-License-Identifier: Apache-2.0
"""The benchmarks run, and their tables have a row for each contestant. No figure is judged here."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parent.parent

pytestmark = pytest.mark.skipif(
    not (REPOSITORY / ".venv-peer" / "bin" / "model_signing").exists(), reason="model-signing is not installed"
)

OUR_ROWS = ["sign default (sha256+blake3)", "sign sha256", "sign blake3", "verify default (blake3)", "verify sha256"]
PEER_ROWS = ["sign default (sha256)", "verify default (sha256)"]


def run(script: str, folder: Path, *options: str) -> tuple[str, dict[str, object]]:
    report = folder / "report.json"
    command = [sys.executable, f"benchmarks/{script}", "--runs", "1", "--scale", "0.001", "--folder", str(folder)]
    finished = subprocess.run(
        [*command, "--json", str(report), *options], cwd=REPOSITORY, capture_output=True, text=True, check=True
    )
    assert sorted(folder.iterdir()) == [report], "models and keys are deleted at the end"
    return finished.stdout, json.loads(report.read_text())


def check_rows(table: str, project: str, tasks: list[str]) -> None:
    for task in tasks:
        assert f"| {project} {task} " in table


def test_the_table_of_sign_has_a_row_for_each_contestant_and_checks_the_targets(tmp_path: Path) -> None:
    table, report = run("sign.py", tmp_path, "--only", "8KB")
    check_rows(table, "sentry", ["--help", *OUR_ROWS])
    peer_blake3 = ["sign blake3 (Python API)", "verify blake3 (Python API)"]
    check_rows(table, "model-signing", ["--help", *PEER_ROWS, *peer_blake3])
    targets = report["targets"]
    assert isinstance(targets, list)
    assert [verdict in {"reached", "MISSED"} for *_, verdict in targets] == [True] * 3


def test_the_headline_table_has_a_row_for_each_contestant_and_the_published_figures(tmp_path: Path) -> None:
    table, _report = run("headline.py", tmp_path, "--only", "14GB")
    check_rows(table, "sentry", OUR_ROWS)
    check_rows(table, "model-signing", PEER_ROWS)
    check_rows(table, "published elsewhere: model-signing", ["sign", "verify"])
