# SPDX-License-Identifier: Apache-2.0
"""The field's headline table: models of 8 KB to 14 GB, signed and verified by this project and by model-signing.

    .venv/bin/python benchmarks/headline.py

The published figures were made by their authors on another machine and are printed for orientation only; the rows
below them come from this one, taking turns. How to read the table is in benchmarks/README.md.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from benchmarks.common import (
    PEER,
    Ceilings,
    Model,
    Result,
    bare_hash,
    machine,
    measure,
    scratch_folder,
    table,
    written,
)
from benchmarks.contestants import OUR_NAME, Contest

MODELS = (
    Model("8KB", 1, 8192),
    Model("215MB", 1, 215_000_000),
    Model("2.8GB", 1, 2_800_000_000),
    Model("3.3GB", 1, 3_300_000_000),
    Model("14GB", 4, 3_500_000_000),
)
# Seconds that the peer's authors published for their own machine: signed, verified.
PUBLISHED = {"8KB": ("1", "-"), "215MB": ("1", "-"), "14GB": ("2.1", "1.8")}
# Short runs vary most and cost least.
SHORT_BYTES = 1_000_000_000
SHORT_RUNS = 5


class Table:
    """Collects one column for each model and one row for each contestant."""

    def __init__(self) -> None:
        self.models: list[Model] = []
        self.results: list[list[Result]] = []
        self.ceilings: list[Ceilings] = []

    def add(self, model: Model, results: list[Result], ceilings: Ceilings) -> None:
        """Add the figures of one model; every model has the same contestants in the same order."""
        self.models.append(model)
        self.results.append(results)
        self.ceilings.append(ceilings)

    def print(self) -> None:
        """Print the fastest run of each contestant, the ceilings, and the published figures."""
        rows: list[tuple[str, ...]] = []
        for index, action in enumerate(("sign", "verify")):
            published = [PUBLISHED.get(model.name, ("-", "-"))[index] for model in self.models]
            rows.append((f"published elsewhere: model-signing {action}", *published))
        for same in zip(*self.results, strict=True):
            name = f"{same[0].contestant.who} {same[0].contestant.task}"
            rows.append((name, *(f"{result.minimum:.2f} ({result.median:.2f})" for result in same)))
        rows += [
            (f"bare hash: {name}", *(f"{bare_hash(each, [name]):.2f}" for each in self.ceilings))
            for name in ("sha256", "blake3")
        ]
        rows.append(("bare read", *(f"{each['read'].wall:.2f}" for each in self.ceilings)))
        names = [f"{model.name} ({model.files} file{'s' if model.files > 1 else ''})" for model in self.models]
        print("\nSeconds, fastest run (median):\n")
        print(table(("project, task", *names), rows))
        peak = max(r.peak_mib for column in self.results for r in column if r.contestant.who == OUR_NAME)
        print(f"\nLargest peak memory of any {OUR_NAME} row: {peak:.0f} MiB")

    def to_json(self) -> list[dict[str, object]]:
        """Return every sample as a JSON value."""
        return [
            {
                "model": asdict(model),
                "rows": [
                    {
                        "who": result.contestant.who,
                        "task": result.contestant.task,
                        "samples": [asdict(sample) for sample in result.samples],
                    }
                    for result in results
                ],
                "ceilings": {name: asdict(ceiling) for name, ceiling in ceilings.items()},
            }
            for model, results, ceilings in zip(self.models, self.results, self.ceilings, strict=True)
        ]


def measure_all(models: Sequence[Model], *, runs: int, scratch: Path) -> Table:
    """Write, measure and delete one model after the other; one that memory cannot hold is left out by name."""
    contest = Contest(scratch)
    figures = Table()
    for model in models:
        turns = max(runs, SHORT_RUNS) if runs > 1 and model.nbytes < SHORT_BYTES else runs
        try:
            with written(model, scratch) as folder:
                rows = contest.rows(folder, peer_blake3=())
                figures.add(model, *measure(folder, rows, runs=turns, scratch=scratch))
        except MemoryError as error:
            print(f"left out: {error}", file=sys.stderr)
    return figures


def parse_arguments() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--runs", type=int, default=2, help="rounds; models below 1 GB get at least 5 unless it is 1")
    parser.add_argument("--only", action="append", choices=[model.name for model in MODELS], help="may be repeated")
    parser.add_argument("--scale", type=float, default=1.0, help="shrink the models above 1 MiB")
    parser.add_argument("--folder", help="where the models lie while they are measured; by default the temporary one")
    parser.add_argument("--json", type=Path, help="write every sample to this file as well")
    return parser.parse_args()


def main() -> int:
    """Measure, print, and return the exit code."""
    options = parse_arguments()
    if not PEER.exists():
        print("there is no model-signing to compare with: run `make .venv-peer/.ready`", file=sys.stderr)
        return 3
    models = [m.scaled(options.scale) for m in MODELS if options.only is None or m.name in options.only]
    with scratch_folder(options.folder) as scratch:
        about = machine(scratch)
        print(table(("about", "this run"), list(about.items())))
        figures = measure_all(models, runs=options.runs, scratch=scratch)
    figures.print()
    if options.json:
        options.json.write_text(json.dumps({"about": about, "models": figures.to_json()}, indent=2) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
