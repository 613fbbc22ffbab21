# SPDX-License-Identifier: Apache-2.0
"""What the benchmarks share: synthetic models, cold processes, contestants that take turns, tables, the machine.

Times are wall times of whole processes, interpreter start included; memory is what the kernel counted for the child
(`ru_maxrss` from `wait4`, which includes pages of mapped files). This process stays small: a child inherits its mark.
"""

from __future__ import annotations

import contextlib
import json
import os
import platform
import random
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from blake3 import __version__ as blake3_version
from cryptography import __version__ as cryptography_version

from sentry import __version__

REPOSITORY = Path(__file__).resolve().parent.parent
OURS = Path(sys.executable).parent / "sentry"
PEER_PYTHON = REPOSITORY / ".venv-peer" / "bin" / "python"
PEER = PEER_PYTHON.parent / "model_signing"

MIB = 1024 * 1024
FILES_PER_DIRECTORY = 500
# What else must fit into memory beside a model that is to stay in the page cache.
HEADROOM_BYTES = 2_000_000_000


@dataclass(frozen=True)
class Model:
    """A synthetic model: so many files of so many pseudo-random bytes."""

    name: str
    files: int
    file_bytes: int

    @property
    def nbytes(self) -> int:
        """Number of bytes in all files."""
        return self.files * self.file_bytes

    def scaled(self, factor: float) -> Model:
        """Return a model of about `factor` times the bytes: smaller files, or fewer of them if they are small."""
        if self.file_bytes > MIB:
            return Model(self.name, self.files, max(1, int(self.file_bytes * factor)))
        if self.files == 1:
            return self
        return Model(self.name, max(1, int(self.files * factor)), self.file_bytes)

    def write(self, folder: Path) -> None:
        """Write the files, and wait until they are on the disk: nothing may be written back while we measure."""
        block = random.Random(f"{self.name}").randbytes(MIB)  # noqa: S311  (bytes to hash, not to guess)
        for index in range(self.files):
            directory = folder / f"{index // FILES_PER_DIRECTORY:03d}" if self.files > FILES_PER_DIRECTORY else folder
            directory.mkdir(parents=True, exist_ok=True)
            with (directory / f"{index:05d}.bin").open("wb") as file:
                for start in range(0, self.file_bytes, MIB):
                    # A counter in front: no two blocks are equal, and none costs a random generator's time.
                    mark = (index << 32 | start // MIB).to_bytes(8, "little")
                    file.write((mark + block[8:])[: self.file_bytes - start])
        os.sync()


def warm(folder: Path) -> None:
    """Read every file once, so that all contestants find it in the page cache."""
    buffer = memoryview(bytearray(MIB))
    for directory, _, names in os.walk(folder):
        for name in names:
            with open(os.path.join(directory, name), "rb", buffering=0) as file:
                while file.readinto(buffer):
                    pass


@dataclass(frozen=True)
class Sample:
    """One run of one process."""

    seconds: float
    peak_kib: int


def run_cold(command: Sequence[str], *, output: Path) -> Sample:
    """Run a command as a process of its own and return its wall time and peak memory.

    Args:
        command: The program's path, and its arguments.
        output: Where its standard output and error go.

    Raises:
        RuntimeError: It failed; the message holds the end of what it wrote.
    """
    actions = [
        (os.POSIX_SPAWN_OPEN, 1, str(output), os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600),
        (os.POSIX_SPAWN_DUP2, 1, 2),
    ]
    started = time.perf_counter()
    process = os.posix_spawn(command[0], list(command), os.environ, file_actions=actions)
    _, status, usage = os.wait4(process, 0)
    seconds = time.perf_counter() - started
    if status != 0:
        raise RuntimeError(f"{' '.join(command)} failed: {output.read_text(errors='replace')[-2000:]}")
    return Sample(seconds, usage.ru_maxrss)


@dataclass(frozen=True)
class Contestant:
    """One row of a table.

    Attributes:
        who: The project.
        task: What it does, for example `sign sha256`.
        command: How to do it.
        hashes: The hashes that it computes, whose bare cost is its ceiling.
        rival: The peer's task that it is compared with; empty for the peer itself.
    """

    who: str
    task: str
    command: tuple[str, ...] = field(repr=False)
    hashes: tuple[str, ...] = ()
    rival: str = ""


@dataclass
class Result:
    """All runs of one contestant."""

    contestant: Contestant
    samples: list[Sample] = field(default_factory=list)

    @property
    def minimum(self) -> float:
        """Seconds of the fastest run."""
        return min(sample.seconds for sample in self.samples)

    @property
    def median(self) -> float:
        """Median of the seconds."""
        return statistics.median(sample.seconds for sample in self.samples)

    @property
    def peak_mib(self) -> float:
        """Largest peak memory of any run."""
        return max(sample.peak_kib for sample in self.samples) / 1024


@dataclass(frozen=True)
class Ceiling:
    """The least that a task over a model can cost on this machine: wall and processor seconds."""

    wall: float
    cpu: float


Ceilings = dict[str, Ceiling]


def measure(
    model: Path, contestants: Sequence[Contestant], *, runs: int, scratch: Path
) -> tuple[list[Result], Ceilings]:
    """Let the contestants take turns, and measure the bare hashes and reads in every round as well."""
    results = [Result(contestant) for contestant in contestants]
    ceilings: Ceilings = {}
    output = scratch / "output"
    for _ in range(runs):
        for result in results:
            result.samples.append(run_cold(result.contestant.command, output=output))
        run_cold((sys.executable, str(REPOSITORY / "benchmarks" / "ceilings.py"), str(model)), output=output)
        for name, (wall, cpu) in json.loads(output.read_text()).items():
            best = ceilings.get(name, Ceiling(wall, cpu))
            ceilings[name] = Ceiling(min(wall, best.wall), min(cpu, best.cpu))
    return results, ceilings


def bare_hash(ceilings: Ceilings, hashes: Sequence[str]) -> float:
    """Return the seconds that these hashes alone take side by side: the slowest, or all shared out over the cores."""
    if not hashes:
        return 0.0
    used = [ceilings[name] for name in hashes]
    return max(*(one.wall for one in used), sum(one.cpu for one in used) / len(os.sched_getaffinity(0)))


@contextlib.contextmanager
def scratch_folder(parent: str | None) -> Iterator[Path]:
    """Make a folder for models and signatures, and delete it at the end whatever happens."""
    folder = Path(tempfile.mkdtemp(prefix="sentry-benchmark-", dir=parent))
    try:
        yield folder
    finally:
        shutil.rmtree(folder)


@contextlib.contextmanager
def written(model: Model, scratch: Path) -> Iterator[Path]:
    """Write a model and read it once; delete it at the end.

    Raises:
        MemoryError: It could not stay in memory, so that the figures would be the disk's.
    """
    if model.nbytes + HEADROOM_BYTES > memory_available():
        raise MemoryError(f"{model.name} does not fit into memory beside {HEADROOM_BYTES / 1e9:.0f} GB for the rest")
    folder = scratch / "model"
    try:
        model.write(folder)
        warm(folder)
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def memory_available() -> int:
    """Return the bytes that the kernel could give to new work, the page cache included."""
    for line in Path("/proc/meminfo").read_text().splitlines():
        if line.startswith("MemAvailable:"):
            return int(line.split()[1]) * 1024
    raise RuntimeError("/proc/meminfo has no MemAvailable")


def table(headers: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Lay out a Markdown table, its first column to the left and the others to the right."""
    widths = [max(len(line[column]) for line in (headers, *rows)) for column in range(len(headers))]

    def line(cells: Sequence[str]) -> str:
        first = f"{cells[0]:<{widths[0]}}"
        return "| " + " | ".join([first, *(f"{c:>{w}}" for c, w in zip(cells[1:], widths[1:], strict=True))]) + " |"

    rule = ["-" * widths[0], *("-" * (width - 1) + ":" for width in widths[1:])]
    return "\n".join([line(headers), line(rule), *(line(row) for row in rows)])


def machine(folder: Path) -> dict[str, str]:
    """Describe where and with what the figures were made."""
    peer = "import importlib.metadata as m; print(m.version('model-signing'))"
    return {
        "processor": f"{_processor()}, {len(os.sched_getaffinity(0))} cores",
        "memory": f"{os.sysconf('SC_PHYS_PAGES') * os.sysconf('SC_PAGE_SIZE') / 2**30:.0f} GiB",
        "system": f"{platform.system()} {platform.release()}",
        "models on": f"{_words('stat', '-f', '-c', '%T', str(folder))}, page cache warm",
        "Python": platform.python_version(),
        "sentry": f"{__version__}, blake3 {blake3_version}, cryptography {cryptography_version}",
        "commit": _words("git", "-C", str(REPOSITORY), "describe", "--always", "--dirty", "--abbrev=12"),
        "model-signing": f"{_words(str(PEER_PYTHON), '-c', peer)}, Python {_words(str(PEER_PYTHON), '-V').split()[-1]}",
        "load before": f"{os.getloadavg()[0]:.2f}",
    }


def _processor() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.machine()


def _words(*command: str) -> str:
    return subprocess.run(command, capture_output=True, text=True, check=False).stdout.strip() or "unknown"
