# SPDX-License-Identifier: Apache-2.0
"""What it costs to verify a resident model again and again: the GPU's time for one look, and what serving loses by it.

The model has gpt2-xl's tensors (6.5 GB, random). Serving is a loop of bfloat16 matrix products that keeps the GPU busy.
Loops with and without a watch take turns.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import sentry
from benchmarks.common import table
from benchmarks.gpu_tools import Target, machine, print_targets
from benchmarks.load import device_of, key_pair
from benchmarks.model_subjects import CudaSubject
from benchmarks.state_dicts import entries
from sentry.engine import choose

MODEL = "gpt2-xl"
SIZE = 8192
SECONDS = 4.0
ROUNDS = 5
EVERY = 1.0


def products(torch: Any, seconds: float) -> float:  # noqa: ANN401
    """Multiply matrices for some time, and return how many products a second were made."""
    a = torch.randn(SIZE, SIZE, device="cuda", dtype=torch.bfloat16)
    b = torch.randn(SIZE, SIZE, device="cuda", dtype=torch.bfloat16)
    out = torch.empty_like(a)
    for _ in range(20):
        torch.mm(a, b, out=out)
    torch.cuda.synchronize()
    began, count = time.perf_counter(), 0
    while (passed := time.perf_counter() - began) < seconds:
        for _ in range(20):  # some 35 ms of work at a time
            torch.mm(a, b, out=out)
        torch.cuda.synchronize()
        count += 20
    return count / passed


def gpu_seconds(torch: Any, state: dict[str, Any]) -> float:  # noqa: ANN401
    """Return the GPU's time for the digests of all tensors: between events before and after, copies included."""
    times = []
    with choose("cuda").engine.plan("blake3", list(state.values())) as plan:  # type: ignore[attr-defined]
        for _ in range(10):
            before, after = (torch.cuda.Event(enable_timing=True) for _ in range(2))
            before.record()
            plan.run()
            after.record()
            torch.cuda.synchronize()
            times.append(float(before.elapsed_time(after)) / 1e3)
    return statistics.median(times[2:])


def main() -> int:
    """Run the benchmark; the exit status says whether everything was right, not whether it was fast."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--json", type=Path, help="write the figures there as well")
    arguments = parser.parse_args()
    import torch  # noqa: PLC0415

    facts = machine(device_of("cuda"))
    for key, value in facts.items():
        print(f"{key}: {value}")
    state = CudaSubject(torch, "cuda").make(entries(MODEL))
    nbytes = sum(tensor.nbytes for tensor in state.values())
    with tempfile.TemporaryDirectory() as folder:
        signer, trust = key_pair(Path(folder))
    bundle = sentry.sign_model(state, signer)
    look = gpu_seconds(torch, state)
    without, watched, wall = [], [], []
    runs = 0
    for _ in range(ROUNDS):
        without.append(products(torch, SECONDS))
        with sentry.Watch(state, bundle, trust, every=EVERY) as watch:
            watched.append(products(torch, SECONDS))
            runs += watch.runs - 1
            duty = watch.duty_cycle
    with sentry.Watch(state, bundle, trust, every=3600) as watch:
        for _ in range(10):
            began = time.perf_counter()
            watch.check()
            wall.append(time.perf_counter() - began)
    ratios = [1 - after / before for before, after in zip(without, watched, strict=True)]
    slower = statistics.median(ratios)
    rows = [
        ["model, GB", f"{nbytes / 1e9:.2f}"],
        ["one look, GPU ms", f"{look * 1e3:.2f}"],
        ["one look, wall ms, GPU idle", f"{statistics.median(wall) * 1e3:.2f}"],
        ["looks while serving", f"{runs}"],
        ["duty cycle while serving, %", f"{duty * 100:.2f}"],
        [f"products of {SIZE}, a second", f"{statistics.median(without):.1f}"],
        ["the same while watched", f"{statistics.median(watched):.1f}"],
        ["slower, % (median of pairs)", f"{slower * 100:.2f}"],
    ]
    print("\n" + table(["watch", "measured"], rows))
    print_targets(
        [
            Target("one look, GPU time", "<= 5 ms", f"{look * 1e3:.2f} ms", look <= 0.005),
            Target("serving, slower", "<= 2 %", f"{slower * 100:.2f} %", slower <= 0.02),
        ],
        table,
    )
    if arguments.json:
        figures = {"machine": facts, "rows": dict(rows), "without": without, "watched": watched}
        arguments.json.write_text(json.dumps(figures, indent=1))
    return 0


if __name__ == "__main__":
    sys.exit(main())
