# SPDX-License-Identifier: Apache-2.0
"""Sign and verify synthetic models with this project and with model-signing, side by side; check the targets.

    .venv/bin/python benchmarks/sign.py --runs 5

How to read the tables is in benchmarks/README.md.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from benchmarks.common import (
    PEER,
    Ceilings,
    Model,
    Result,
    bare_hash,
    machine,
    measure,
    run_cold,
    scratch_folder,
    table,
    written,
)
from benchmarks.contestants import DEFAULT, OUR_NAME, PEER_NAME, Contest

TINY = Model("8KB", 1, 8192)
MODELS = (
    TINY,
    Model("2GB", 1, 2_000_000_000),
    Model("4x500MB", 4, 500_000_000),
    Model("50000x3KB", 50_000, 3072),
)
# There the peer spends its time between the files: another hash changes nothing, and its process takes long.
WITHOUT_PEER_BLAKE3 = "50000x3KB"


@dataclass(frozen=True)
class Target:
    """At least so many times faster than the peer's default."""

    model: str
    task: str
    ratio: float


TARGETS = (
    Target("2GB", "verify default (blake3)", 2.0),
    Target("2GB", "sign blake3", 2.0),
    Target("2GB", "sign sha256", 1.0),
    Target("2GB", f"sign {DEFAULT}", 0.9),
    Target("50000x3KB", "verify default (blake3)", 3.0),
    Target("50000x3KB", f"sign {DEFAULT}", 2.5),
    Target("8KB", "--help", 2.5),
    Target("8KB", "verify default (blake3)", 2.5),
)
PEAK_MIB = {"50000x3KB": 200.0}
PEAK_MIB_ELSEWHERE = 150.0


@dataclass(frozen=True)
class Section:
    """Everything measured on one model."""

    model: Model
    results: list[Result]
    ceilings: Ceilings

    def ratio(self, result: Result) -> float | None:
        """Return the peer's minimum over ours, or None for the peer's own rows."""
        for other in self.results:
            if other.contestant.who == PEER_NAME and other.contestant.task == result.contestant.rival:
                return other.minimum / result.minimum
        return None

    def print(self) -> None:
        """Print the table of this model."""
        print(f"\n### {self.model.name}: {self.model.files} x {self.model.file_bytes:,} bytes\n")
        headers = ("project, task", "minimum s", "median s", "peer/ours", "peak MiB", "bare hash s", "bare read s")
        print(table(headers, [self._row(result) for result in self.results]))

    def _row(self, result: Result) -> tuple[str, ...]:
        contestant, ratio = result.contestant, self.ratio(result)
        ceiling = ("-", "-")
        if contestant.hashes:
            ceiling = (f"{bare_hash(self.ceilings, contestant.hashes):.3f}", f"{self.ceilings['read'].wall:.3f}")
        return (
            f"{contestant.who} {contestant.task}",
            f"{result.minimum:.3f}",
            f"{result.median:.3f}",
            "-" if ratio is None else f"{ratio:.2f}",
            f"{result.peak_mib:.0f}",
            *ceiling,
        )

    def to_json(self) -> dict[str, object]:
        """Return every sample as a JSON value."""
        rows = [
            {
                "who": result.contestant.who,
                "task": result.contestant.task,
                "minimum": result.minimum,
                "median": result.median,
                "ratio": self.ratio(result),
                "samples": [asdict(sample) for sample in result.samples],
            }
            for result in self.results
        ]
        ceilings = {name: asdict(ceiling) for name, ceiling in self.ceilings.items()}
        return {"model": asdict(self.model), "rows": rows, "ceilings": ceilings}


def measure_model(model: Model, contest: Contest, *, runs: int, scratch: Path) -> Section:
    """Write a model, measure every row on it, and delete it."""
    with written(model, scratch) as folder:
        rows = contest.rows(folder, peer_blake3=() if model.name == WITHOUT_PEER_BLAKE3 else ("sign", "verify"))
        if model.name == TINY.name:
            rows = contest.help() + rows
            # The first run of each loads its modules from the disk and compiles them.
            for row in rows if runs > 1 else ():
                run_cold(row.command, output=scratch / "output")
        results, ceilings = measure(folder, rows, runs=runs, scratch=scratch)
    return Section(model, results, ceilings)


def check_targets(sections: Sequence[Section]) -> list[tuple[str, ...]]:
    """Return a row for each target: what, wanted, found, verdict."""
    rows: list[tuple[str, ...]] = []
    for section in sections:
        ours = {r.contestant.task: r for r in section.results if r.contestant.who == OUR_NAME}
        for target in TARGETS:
            if target.model == section.model.name:
                found = section.ratio(ours[target.task]) or 0.0
                verdict = "reached" if found >= target.ratio else "MISSED"
                title = f"{target.model}: {target.task}, peer/ours"
                rows.append((title, f">= {target.ratio:.1f}", f"{found:.2f}", verdict))
        limit = PEAK_MIB.get(section.model.name, PEAK_MIB_ELSEWHERE)
        peak = max(result.peak_mib for result in ours.values())
        verdict = "reached" if peak <= limit else "MISSED"
        rows.append((f"{section.model.name}: peak MiB, any row", f"<= {limit:.0f}", f"{peak:.0f}", verdict))
    return rows


def parse_arguments() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--runs", type=int, default=5, help="rounds; in each, every contestant has one turn")
    parser.add_argument("--only", action="append", choices=[model.name for model in MODELS], help="may be repeated")
    parser.add_argument("--scale", type=float, default=1.0, help="shrink the models (targets are for 1)")
    parser.add_argument("--folder", help="where the models lie while they are measured; by default the temporary one")
    parser.add_argument("--json", type=Path, help="write every sample to this file as well")
    return parser.parse_args()


def main() -> int:
    """Measure, print, and return the exit code."""
    options = parse_arguments()
    if not PEER.exists():
        print("there is no model-signing to compare with: run `make .venv-peer/.ready`", file=sys.stderr)
        return 3
    with scratch_folder(options.folder) as scratch:
        about = machine(scratch)
        print(table(("about", "this run"), list(about.items())))
        contest = Contest(scratch)
        sections = []
        for model in MODELS:
            if options.only is None or model.name in options.only:
                scaled = model.scaled(options.scale)
                sections.append(measure_model(scaled, contest, runs=options.runs, scratch=scratch))
                sections[-1].print()
    targets = check_targets(sections)
    print(f"\n### Targets{'' if options.scale == 1 else ' (of the full size, which this was not)'}\n")
    print(table(("target", "wanted", "found", "verdict"), targets))
    if options.json:
        report = {"about": about, "models": [section.to_json() for section in sections], "targets": targets}
        options.json.write_text(json.dumps(report, indent=2) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
