# SPDX-License-Identifier: Apache-2.0
"""The GPU benchmarks' parts that need no GPU: roofs, tensor lists, and a run of models.py on the CPU engine."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks.roofs import FLAT, LATTICE, LATTICE_PLAIN, ROOFS, padded_blocks
from benchmarks.state_dicts import MODELS, entries, scaled

REPOSITORY = Path(__file__).resolve().parent.parent
H100_SMS = 132


@pytest.mark.parametrize(
    ("name", "slow", "fast"),
    [
        ("blake3", 1.93, 2.18),
        # The design's ranges for blocks alone are 0.82 to 0.93, 0.98 to 1.10 and 0.43 to 0.49; trees add 1.6 to 3 %.
        ("merkle-sha256-8192", 0.80, 0.91),
        ("merkle-blake2b-256-8192", 0.95, 1.07),
        ("merkle-sha3-256-8192", 0.42, 0.47),
        (FLAT, 0.82, 0.93),
        (LATTICE, 1.20, 1.35),
    ],
)
def test_the_roofs_of_an_h100_are_those_of_the_counts(name: str, slow: float, fast: float) -> None:
    assert ROOFS[name].bytes_per_second(1755, H100_SMS) / 1e12 == pytest.approx(slow, abs=0.006)
    assert ROOFS[name].bytes_per_second(1980, H100_SMS) / 1e12 == pytest.approx(fast, abs=0.006)


def test_records_have_a_second_lower_roof_for_additions_that_are_not_moved() -> None:
    assert LATTICE_PLAIN.bytes_per_second(1755, H100_SMS) / 1e12 == pytest.approx(0.96, abs=0.005)


def test_a_block_count_includes_the_padding() -> None:
    assert [padded_blocks(nbytes, 64, 9) for nbytes in (0, 55, 56, 65, 8193)] == [1, 1, 2, 2, 129]
    assert [padded_blocks(nbytes, 136, 1) for nbytes in (0, 135, 136, 8193)] == [1, 1, 2, 61]


@pytest.mark.parametrize(
    ("model", "tensors", "megabytes"),
    [("resnet152", 932, 241), ("bert-base", 204, 532), ("vgg19", 38, 575), ("gpt2", 149, 652), ("gpt2-xl", 581, 6552)],
)
def test_the_tensor_lists_have_the_published_counts_and_sizes(model: str, tensors: int, megabytes: int) -> None:
    listed = entries(model)
    by_name = {entry.name: entry for entry in listed}
    assert (len(listed), len(by_name)) == (tensors, tensors)
    assert round(sum(entry.nbytes for entry in listed) / 1e6) == megabytes
    assert all(by_name[entry.tied].shape == entry.shape for entry in listed if entry.tied)
    assert [entry.name for entry in scaled(model, 4096)] == list(by_name)


def run_models(*options: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "benchmarks/models.py", *options]
    path = os.pathsep.join([str(REPOSITORY), *filter(None, [os.environ.get("PYTHONPATH")])])
    environment = {**os.environ, "PYTHONPATH": path, "CUDA_VISIBLE_DEVICES": ""}
    return subprocess.run(command, cwd=REPOSITORY, env=environment, capture_output=True, text=True, check=False)


def test_the_benchmark_of_models_runs_on_the_cpu_engine(tmp_path: Path) -> None:
    report = tmp_path / "report.json"
    finished = run_models("--cpu", "--only", "resnet152", "--only", "gpt2", "--json", str(report))
    assert finished.returncode == 0, finished.stderr
    rows = json.loads(report.read_text())["rows"]
    wanted = [(model, name) for model in ("resnet152", "gpt2") for name in ("blake3", "merkle-sha256-8192")]
    assert [(row["model"], row["hash_name"]) for row in rows] == wanted
    assert all(row["first"] > 0 and row["plan"] > 0 for row in rows)


def test_without_a_gpu_the_benchmark_of_models_says_what_it_needs() -> None:
    finished = run_models("--only", "vgg19")
    assert finished.returncode == 2
    assert finished.stderr.startswith("error: ")
    assert "--cpu" in finished.stderr


def test_every_listed_model_can_be_measured() -> None:
    assert set(MODELS) == {"resnet152", "bert-base", "vgg19", "gpt2", "gpt2-xl"}
