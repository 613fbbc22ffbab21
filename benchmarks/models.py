# SPDX-License-Identifier: Apache-2.0
"""Digest every tensor of whole models in a GPU's memory: from a Python mapping of tensors to all digests.

    python3 benchmarks/models.py [--only MODEL ...] [--json FILE]
    python3 benchmarks/models.py --cpu      # the CPU engine on small copies: does it all run?

The tensor lists are real (`benchmarks/state_dicts.py`), the weights random. "First call" is `engine.digests` with
kernels loaded and nothing prepared, as the published figures are: on the resident state dict, again and again. "Fresh"
is the same on tensors that were made the moment before, each time others, whose objects no cache of the processor
holds. "Plan" is `plan.run()`, everything prepared. Digests are compared with the
CPU engine's for some tensors, and a changed element must change its tensor's digest and no other.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import statistics
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from benchmarks.common import table
from benchmarks.gpu_tools import Target, machine, number, print_targets, ratio, wall_seconds
from benchmarks.model_subjects import CpuSubject, CudaSubject, State, Steps, Subject
from benchmarks.state_dicts import MODELS, Entry, entries, scaled
from sentry.engine.cpu import CpuEngine

HASHES = ("blake3", "merkle-sha256-8192")
# How often, on a GPU and with --cpu.
FRESH_CALLS, PLAN_RUNS = {"cuda": 5, "cpu": 1}, {"cuda": 30, "cpu": 1}
CPU_SCALE = 4096
# Milliseconds that the published prototype takes on the same type of card: its SHA-256 Merkle hash in place, and
# copying to the host and hashing with SHA-256 there (H100 80GB HBM3, resident state dicts, median of 5).
PUBLISHED_IN_PLACE = {"resnet152": 5.00, "bert-base": 4.55, "vgg19": 7.37, "gpt2": 7.58, "gpt2-xl": 38.1}
PUBLISHED_COPY = {"resnet152": 357, "bert-base": 1018, "vgg19": 1539, "gpt2": 1280, "gpt2-xl": 17054}
COPIED = "resnet152"
BLAKE3_PLAN, BLAKE3_FIRST = 10.0, 4.0
SHA256_MODEL, SHA256_PLAN = "gpt2-xl", 4.5


@dataclass(frozen=True)
class Row:
    """Figures of one model under one hash, in seconds."""

    model: str
    hash_name: str
    tensors: int
    nbytes: int
    fresh: float
    first: float
    plan: float
    steps: Steps | None

    @property
    def published(self) -> float:
        """What the published prototype takes."""
        return PUBLISHED_IN_PLACE[self.model] / 1e3

    def cells(self) -> list[str]:
        """Return its row of the table."""
        return [
            f"{self.model} ({self.tensors}, {self.nbytes / 1e6:.0f} MB)",
            self.hash_name,
            number(self.published, 2, scale=1e3),
            number(self.fresh, 3, scale=1e3),
            number(self.first, 3, scale=1e3),
            ratio(self.published / self.first),
            number(self.plan, 3, scale=1e3),
            ratio(self.published / self.plan),
            number(self.nbytes / self.plan, scale=1e-9),
        ]


def measure(subject: Subject, model: str, listed: Sequence[Entry], hash_name: str) -> Row:
    """Time calls on fresh tensors, calls on the same ones, then a plan; check the digests."""
    warm = next(iter(subject.make([Entry("warm", (64,))]).values()))
    subject.engine.digests(hash_name, [warm])
    fresh: list[float] = []
    state: State = {}
    for _ in range(FRESH_CALLS[subject.kind]):
        # The old tensors are still there: the new ones lie elsewhere.
        state = subject.make(listed)
        subject.wait()
        began = time.perf_counter()
        digests = dict(zip(state, subject.engine.digests(hash_name, list(state.values())), strict=True))
        fresh.append(time.perf_counter() - began)
    spot_check(subject, hash_name, state, digests)
    first = wall_seconds(
        lambda: dict(zip(state, subject.engine.digests(hash_name, list(state.values())), strict=True)),
        PLAN_RUNS[subject.kind],
    )
    with subject.engine.plan(hash_name, list(state.values())) as plan:
        seconds = wall_seconds(plan.run, PLAN_RUNS[subject.kind])
        if plan.run() != list(digests.values()):
            raise AssertionError(f"{model}: the plan and the first call disagree")
        tamper(subject, plan, state, listed)
    steps = subject.steps(hash_name, list(state.values()))
    nbytes = sum(entry.nbytes for entry in listed)
    return Row(model, hash_name, len(listed), nbytes, statistics.median(fresh), first, seconds, steps)


def spot_check(subject: Subject, hash_name: str, state: State, digests: dict[str, bytes]) -> None:
    """Compare some digests with the CPU engine's: the smallest and largest tensors, the first, middle and last.

    Raises:
        AssertionError: One is wrong.
    """
    names = list(state)
    by_size = sorted(names, key=lambda name: subject.nbytes(state[name]))
    chosen = {names[0], names[len(names) // 2], names[-1], by_size[0], by_size[-1], by_size[len(names) // 2]}
    for name in sorted(chosen):
        if CpuEngine().digests(hash_name, [subject.to_host(state[name])]) != [digests[name]]:
            raise AssertionError(f"the {hash_name} digest of {name} is wrong")


def tamper(subject: Subject, plan: Any, state: State, listed: Sequence[Entry]) -> None:  # noqa: ANN401  (any Plan)
    """Change one element of one tensor that has no second name: its digest must change, and no other.

    Raises:
        AssertionError: Another set of digests changed.
    """
    twins = {entry.tied for entry in listed}
    untied = [at for at, entry in enumerate(listed) if entry.name not in twins and not entry.tied]
    at = untied[len(untied) // 2]
    before = plan.run()
    flat = state[listed[at].name].reshape(-1)
    flat[-1:] += 1
    subject.wait()
    changed = [number for number, pair in enumerate(zip(before, plan.run(), strict=True)) if pair[0] != pair[1]]
    if changed != [at]:
        raise AssertionError(f"a change of tensor {at} changed the digests of {changed}")


def copy_and_hash(subject: Subject) -> float:
    """Return the seconds of copying every tensor of one model to the host and hashing it with SHA-256 there."""
    state = subject.make(entries(COPIED))
    subject.wait()
    return wall_seconds(lambda: [hashlib.sha256(subject.to_host(item).data) for item in state.values()], 3)


def targets(rows: Sequence[Row]) -> list[Target]:
    """Compare what was measured with what is to be reached."""
    found = []
    for row in rows:
        first, plan = row.published / row.first, row.published / row.plan
        if row.hash_name == "blake3":
            what = f"{row.model}, blake3"
            found.append(Target(f"{what}, plan", f">= {ratio(BLAKE3_PLAN)}", ratio(plan), plan >= BLAKE3_PLAN))
            found.append(
                Target(f"{what}, first call", f">= {ratio(BLAKE3_FIRST)}", ratio(first), first >= BLAKE3_FIRST)
            )
        elif row.model == SHA256_MODEL:
            what = f"{row.model}, {row.hash_name}, plan"
            found.append(Target(what, f">= {ratio(SHA256_PLAN)}", ratio(plan), plan >= SHA256_PLAN))
    return found


def report(rows: Sequence[Row], copied: float | None) -> None:
    """Print the tables."""
    stepped = [(row, row.steps) for row in rows if row.steps]
    if not stepped:
        lines = [[row.model, row.hash_name, str(row.tensors), str(row.nbytes)] for row in rows]
        print("\n" + table(["small copy, CPU engine", "hash", "tensors", "bytes"], lines))
        return
    lines = [[f"{row.model}, {row.hash_name}", *steps.cells()] for row, steps in stepped]
    print("\n" + table(["where the time goes, us", *Steps.HEADERS], lines))
    headers = ["model (tensors, size)", "hash", "published ms", "fresh ms"]
    headers += ["first call ms", "faster", "plan ms", "faster", "GB/s"]
    print("\n" + table(headers, [row.cells() for row in rows]))
    print("published: SHA-256 Merkle in place, the prototype's figures for the same type of card, not measured here")
    if copied is not None:
        published = PUBLISHED_COPY[COPIED]
        print(f"{COPIED}, copy to host + SHA-256: {copied * 1e3:.0f} ms here, {published} ms published")


def subject_of(*, on_cpu: bool) -> Subject:
    """Return what is measured.

    Raises:
        RuntimeError: There is no torch, or it has no GPU.
    """
    if on_cpu:
        return CpuSubject()
    try:
        import torch  # noqa: PLC0415
    except ImportError:
        raise RuntimeError("this benchmark needs torch, whose tensors it digests; --cpu does without") from None
    if not torch.cuda.is_available():
        raise RuntimeError("torch finds no GPU here; --cpu runs the CPU engine on small copies")
    return CudaSubject(torch, "cuda")


def main() -> int:
    """Run the benchmark; the exit status says whether everything was right, not whether it was fast."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--cpu", action="store_true", help="the CPU engine on small copies; figures mean nothing")
    parser.add_argument("--only", action="append", choices=MODELS, help="these models only")
    parser.add_argument("--json", type=Path, help="write the figures there as well")
    arguments = parser.parse_args()
    try:
        subject = subject_of(on_cpu=arguments.cpu)
    except RuntimeError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    rows = []
    for model in arguments.only or MODELS:
        listed = scaled(model, CPU_SCALE) if arguments.cpu else entries(model)
        for hash_name in HASHES:
            rows.append(measure(subject, model, listed, hash_name))
            print(f"{model}, {hash_name}: done", file=sys.stderr)
    copied = None if arguments.cpu else copy_and_hash(subject)
    facts = machine(subject.device)
    for key, value in facts.items():
        print(f"{key}: {value}")
    report(rows, copied)
    found = [] if arguments.cpu else targets(rows)
    if found:
        print_targets(found, table)
    if arguments.json:
        figures: dict[str, Any] = {"machine": facts, "rows": [asdict(row) for row in rows], "copy_and_hash": copied}
        figures["targets"] = [target.cells() for target in found]
        arguments.json.write_text(json.dumps(figures, indent=1) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
