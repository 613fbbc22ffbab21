# SPDX-License-Identifier: Apache-2.0
"""How fast models get into a GPU's memory, verified and not, beside the loaders that people use.

All contestants take turns, so that whatever else the machine does hits them alike; the first round is not counted. Each
returns all tensors, which are dropped before the next begins; torch keeps its memory, for all of them.
"""

from __future__ import annotations

import argparse
import gc
import json
import shutil
import statistics
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Self

import sentry
from benchmarks import loaders
from benchmarks.common import scratch_folder, table, warm
from benchmarks.gpu_tools import Target, machine, print_targets
from benchmarks.load_subjects import llama_8b, max_file_bytes, write_model
from benchmarks.loaders import Load

FASTEST, SLOWEST = "InstantTensor", "safetensors"
EVERY = ("instanttensor", "ring", "fastsafetensors")
MORE_MEMORY = 512 * 1024 * 1024


@dataclass
class Row:
    """One contestant."""

    name: str
    seconds: list[float] = field(default_factory=list)
    more_bytes: int = 0
    why_not: str = ""

    @property
    def median(self) -> float:
        """Median of its times, in seconds."""
        return statistics.median(self.seconds)


class Contest:
    """Contestants over one model on one kind of storage.

    Args:
        directory: The model.
        device: Where to load to.
        on_disk: Whether it lies on a block device.
    """

    def __init__(self, directory: Path, device: str, *, on_disk: bool) -> None:
        files = sorted(directory.glob("*.safetensors"))
        self.nbytes = sum(file.stat().st_size for file in files)
        self._device = device
        keys = directory.parent / f"{directory.name}-keys"
        keys.mkdir()
        signer, trust = key_pair(keys)
        both, sha256 = keys / "both.sig", keys / "sha256.sig"
        sentry.sign_path(directory, signer).write(both)
        sentry.sign_path(directory, signer, hash="sha256").write(sha256)
        ours = partial(loaders.verified, directory, both, trust, device=device)
        on_gpu = device != "cpu"
        # A disk that reads a gigabyte a second is the same for all that do not find the file in memory.
        readers = (["ring", "cufile"] if on_disk else [*EVERY]) if on_gpu else ["plain"]
        self._loads: dict[str, Load] = {SLOWEST: partial(loaders.safetensors, files, device)}
        if on_gpu:
            self._loads["fastsafetensors"] = partial(loaders.fastsafetensors, files, device)
            self._loads["Run:ai streamer"] = partial(loaders.runai, files, device)
            self._loads[FASTEST] = partial(loaders.instanttensor, files, device)
        if not on_disk:
            self._loads["SHA-256, then safetensors"] = partial(loaders.verify_then_load, files, device)
        for reader in readers:
            self._loads[f"ours unverified, {reader}"] = partial(loaders.unverified, reader, files, device)
            self._loads[f"ours verified, {reader}"] = partial(ours, reader=reader)
        self._loads["ours verified, auto"] = partial(ours, reader="auto")
        if not on_disk:
            by_sha256 = partial(loaders.verified, directory, sha256, trust, "auto", device)
            self._loads["ours verified, sha256 only"] = by_sha256
        self.rows = {name: Row(name) for name in self._loads}

    def run(self, rounds: int) -> None:
        """Let everybody have so many turns, after one that is not counted."""
        for number in range(rounds + 1):
            for name, load in self._loads.items():
                row = self.rows[name]
                if not row.why_not:
                    self._turn(row, load, counted=number > 0)
            print(f"round {number}: done", file=sys.stderr)

    def _turn(self, row: Row, load: Load, *, counted: bool) -> None:
        try:
            if counted:
                row.seconds.append(self._time(load))
            else:
                with _Memory(self._device) as memory:
                    self._time(load)
                row.more_bytes = memory.peak - self.nbytes
        except Exception as error:  # noqa: BLE001  (a peer that does not run here is a row that says so)
            cause = error.__cause__ or error
            row.why_not = f"{type(cause).__name__}: {(str(cause).splitlines() or [''])[0]}"[:100]

    def _time(self, load: Load) -> float:
        _settle(self._device)
        began = time.perf_counter()
        loaded = load()
        _settle(self._device)
        seconds = time.perf_counter() - began
        del loaded
        gc.collect()
        return seconds


class _Memory:
    """Watches how much of a GPU's memory is taken beyond what was taken before."""

    def __init__(self, device: str) -> None:
        self._on_gpu = device != "cpu"
        self.peak = 0
        self._stop = threading.Event()

    def __enter__(self) -> Self:
        if self._on_gpu:
            import torch  # noqa: PLC0415

            torch.cuda.empty_cache()
            self._before = torch.cuda.mem_get_info()[0]
            self._thread = threading.Thread(target=self._watch, args=(torch,), daemon=True)
            self._thread.start()
        return self

    def __exit__(self, *_exception: object) -> None:
        self._stop.set()
        if self._on_gpu:
            self._thread.join()

    def _watch(self, torch: Any) -> None:  # noqa: ANN401
        while not self._stop.wait(0.0002):
            self.peak = max(self.peak, self._before - torch.cuda.mem_get_info()[0])


def _settle(device: str) -> None:
    if device != "cpu":
        import torch  # noqa: PLC0415

        torch.cuda.synchronize()


def key_pair(folder: Path) -> tuple[sentry.KeySigner, sentry.KeyTrust]:
    """Make keys in a folder."""
    from sentry.cli import main  # noqa: PLC0415

    private, public = folder / "private.pem", folder / "public.pem"
    if main(["keygen", "--private", str(private), "--public", str(public)]):
        raise RuntimeError("no keys")
    return sentry.KeySigner.from_file(private), sentry.KeyTrust.from_file(public)


def report(contest: Contest, storage: str) -> None:
    """Print the table of one kind of storage."""
    rows = []
    for row in contest.rows.values():
        if row.why_not:
            rows.append([row.name, "-", "-", "-", "-", row.why_not])
            continue
        fastest = min(row.seconds)
        rows.append([
            row.name,
            f"{row.median * 1e3:.0f}",
            f"{fastest * 1e3:.0f}",
            f"{contest.nbytes / row.median / 1e9:.1f}",
            f"{row.more_bytes / 2**20:.0f}" if row.more_bytes >= 0 else "-",
            "",
        ])  # fmt: skip
    headers = [storage, "median ms", "fastest ms", "GB/s", "memory beyond the model, MiB", "why not"]
    print("\n" + table(headers, rows))


def targets(contest: Contest) -> list[Target]:
    """Judge what is to be reached from tmpfs.

    Contestants are compared round by round, and the median of the rounds counts: what slows a whole round down is the
    machine's doing.
    """
    rows: Mapping[str, Row] = contest.rows
    peers = [row for name, row in rows.items() if "verified" not in name and row.seconds]
    best = min(peers, key=lambda row: row.median)
    ours = rows["ours verified, auto"]
    share, times = _ratio(best, ours), _ratio(rows[SLOWEST], ours)
    found = [
        Target(f"verified, of the fastest ({best.name})", ">= 0.97x", f"{share:.3f}x", share >= 0.97),
        Target("verified, times safetensors", ">= 10x", f"{times:.1f}x", times >= 10),
    ]
    for reader in EVERY:
        checked, plain = rows[f"ours verified, {reader}"], rows[f"ours unverified, {reader}"]
        if checked.seconds and plain.seconds:
            pairs = zip(checked.seconds, plain.seconds, strict=True)
            more = statistics.median(after - before for after, before in pairs) * 1e3
            found.append(Target(f"verified, more than unverified, {reader}", "<= 12 ms", f"{more:.1f} ms", more <= 12))
    ring = contest.nbytes / rows["ours unverified, ring"].median / 1e9
    found.append(Target("built-in reader, from tmpfs", ">= 35 GB/s", f"{ring:.1f} GB/s", ring >= 35))
    for name in ("auto", "ring"):
        more_bytes = rows[f"ours verified, {name}"].more_bytes
        found.append(
            Target(
                f"memory beyond the model, {name}",
                "<= 512 MiB",
                f"{more_bytes / 2**20:.0f} MiB",
                more_bytes <= MORE_MEMORY,
            )
        )
    return found


def _ratio(slow: Row, fast: Row) -> float:
    return statistics.median(a / b for a, b in zip(slow.seconds, fast.seconds, strict=True))


def main() -> int:
    """Run the benchmark; the exit status says whether everything was right, not whether it was fast."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", default="cuda:0", help="where to load to; with cpu, figures mean little")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--tensors", type=int, help="only so many of the model's tensors")
    parser.add_argument("--memory", type=Path, default=Path("/dev/shm"), help="a folder in memory")  # noqa: S108
    parser.add_argument("--disk", type=Path, help="a folder on a disk; without it, memory only")
    parser.add_argument("--disk-tensors", type=int, help="only so many of the tensors from the disk")
    parser.add_argument("--json", type=Path, help="write the figures there as well")
    arguments = parser.parse_args()
    tensors = llama_8b()[: arguments.tensors]
    figures: dict[str, Any] = {"machine": machine(device_of(arguments.device))}
    for key, value in figures["machine"].items():
        print(f"{key}: {value}")
    storages: Sequence[tuple[str, Path | None]] = (("tmpfs", arguments.memory), ("disk", arguments.disk))
    for storage, parent in storages:
        if parent is None:
            continue
        with scratch_folder(str(parent)) as folder:
            directory = folder / "model"
            directory.mkdir()
            chosen = tensors[: arguments.disk_tensors] if storage == "disk" else tensors
            write_model(directory, chosen, max_file_bytes=max_file_bytes(chosen))
            warm(directory)
            contest = Contest(directory, arguments.device, on_disk=storage == "disk")
            contest.run(arguments.rounds)
            report(contest, storage)
            figures[storage] = [asdict(row) for row in contest.rows.values()]
            if storage == "tmpfs" and arguments.device != "cpu":
                print_targets(targets(contest), table)
            if arguments.json:  # what has been measured is kept, whatever happens to the rest
                arguments.json.write_text(json.dumps(figures, indent=1))
            shutil.rmtree(directory)
    return 0


def device_of(name: str) -> Any:  # noqa: ANN401
    """Return what describes a device in the report; None for the host."""
    if name == "cpu":
        return None
    from cuda.core import Device  # noqa: PLC0415

    return Device(0)


if __name__ == "__main__":
    sys.exit(main())
