# SPDX-License-Identifier: Apache-2.0
"""What the tests of the command line share: ways to run it, and a small model to run it on."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Self

import pytest

from sentry.cli import main
from sentry.trust.keys import generate

# Programs that change something about themselves and then become another one: the command line under test.
WITHOUT_ROOT = """
import ctypes, os, sys
for capability in (1, 2):  # CAP_DAC_OVERRIDE, CAP_DAC_READ_SEARCH: what lets root read and write everything
    if os.geteuid() == 0 and ctypes.CDLL(None, use_errno=True).prctl(24, capability, 0, 0, 0):
        sys.exit(99)
os.execv(sys.argv[1], sys.argv[1:])
"""
ON_A_FULL_DISK = """
import os, resource, sys
resource.setrlimit(resource.RLIMIT_FSIZE, (100, 100))
os.execv(sys.argv[1], sys.argv[1:])
"""
ON_A_TERMINAL = """
import os, pty, sys
sys.exit(os.waitstatus_to_exitcode(pty.spawn(sys.argv[1:])))
"""


@dataclass(frozen=True)
class Outcome:
    """How a command ended, and what it wrote."""

    code: int
    out: str
    err: str

    def succeeded(self) -> Self:
        """Insist on success, in silence but for the data."""
        assert (self.code, self.err) == (0, "")
        return self

    def refused(self, code: int, *words: str, hint: str | None = None) -> Self:
        """Insist on one clear line with these words, an exit code, and no data."""
        lines = self.err.splitlines()
        assert self.code == code, self
        assert self.out == ""
        assert len(lines) in {1, 2}, lines
        assert lines[0].startswith("sentry: error: ")
        assert all(line.startswith("sentry: hint: ") for line in lines[1:])
        assert not any(text in self.err for text in ("Traceback", "this is a bug", "Errno")), self.err
        for word in words:
            assert word in lines[0]
        if hint is not None:
            assert hint in lines[-1]
            assert len(lines) == 2
        return self


@dataclass
class Running:
    """A command that runs on a terminal; `said` is all that the terminal received."""

    process: subprocess.Popen[bytes]
    keyboard: IO[bytes]
    screen: IO[bytes]
    said: bytes = b""

    def wait_for(self, text: bytes) -> None:
        """Read until the terminal shows some text, or nothing more comes."""
        while text not in self.said:
            block = os.read(self.screen.fileno(), 4096)
            assert block, self.said
            self.said += block

    def type_line(self, text: str) -> None:
        """Type a line of text."""
        self.keyboard.write(text.encode() + b"\n")
        self.keyboard.flush()

    def finish(self) -> int:
        """Read what is left, and return the exit code."""
        with self.screen, self.keyboard:
            while block := os.read(self.screen.fileno(), 65536):
                self.said += block
        return self.process.wait(timeout=60)


# A shell's background job ignores Ctrl-C, and so would the programs that tests interrupt.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

Runner = Callable[..., Outcome]


def words(*arguments: str | bytes | Path, through: tuple[str, ...] = ()) -> list[str | bytes | Path]:
    """Return the command as the operating system gets it."""
    wrapper = [sys.executable, "-c", *through] if through else []
    # -B: where files may not grow, a compiled module would be left behind cut short, for everybody after.
    return [*wrapper, sys.executable, "-B", "-m", "sentry", *arguments]


def environment(extra: Mapping[str, str | bytes] | None) -> dict[bytes, bytes]:
    """Return this process's environment without what would change the command, and with something more."""
    keep = {key: value for key, value in os.environb.items() if not key.startswith((b"SENTRY_", b"PYTHON", b"COV"))}
    keep.update({os.fsencode(key): os.fsencode(value) for key, value in (extra or {}).items()})
    return {**keep, b"TERM": b"xterm-256color"}


@pytest.fixture
def command() -> Runner:
    """Return a function that runs the command line as a process of its own."""

    def run(
        *arguments: str | bytes | Path,
        cwd: Path | None = None,
        env: Mapping[str, str | bytes] | None = None,
        through: tuple[str, ...] = (),
        stdout: IO[bytes] | int = subprocess.PIPE,
    ) -> Outcome:
        done = subprocess.run(
            words(*arguments, through=through),
            cwd=cwd,
            env=environment(env),
            stdin=subprocess.DEVNULL,
            stdout=stdout,
            stderr=subprocess.PIPE,
            timeout=60,
            check=False,
        )
        return Outcome(done.returncode, (done.stdout or b"").decode(), done.stderr.decode())

    return run


@pytest.fixture
def unprivileged(command: Runner) -> Runner:
    """Return a function that runs the command line so that permissions count even for root."""

    def run(*arguments: str | Path) -> Outcome:
        outcome = command(*arguments, through=(WITHOUT_ROOT,))
        if outcome.code == 99:
            pytest.skip("root cannot drop its privileges here")
        return outcome

    return run


@pytest.fixture
def full_disk(command: Runner) -> Runner:
    """Return a function that runs the command line where no file can grow beyond 100 bytes."""
    return lambda *arguments: command(*arguments, through=(ON_A_FULL_DISK,))


@pytest.fixture
def terminal() -> Callable[..., Running]:
    """Return a function that starts the command line on a terminal of its own."""

    def run(*arguments: str | bytes | Path, unprivileged: bool = False) -> Running:
        inner = (sys.executable, "-c", WITHOUT_ROOT) if unprivileged else ()
        process = subprocess.Popen(
            words(*arguments, through=(ON_A_TERMINAL, *inner)),
            env=environment(None),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )
        assert process.stdin is not None
        assert process.stdout is not None
        return Running(process, process.stdin, process.stdout)

    return run


@pytest.fixture
def cli(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Runner:
    """Return a function that runs the command line in this process, which is faster."""
    monkeypatch.delenv("SENTRY_KEY_PASSWORD", raising=False)

    def run(*arguments: str | Path, cwd: Path | None = None) -> Outcome:
        if cwd is not None:
            monkeypatch.chdir(cwd)
        capsys.readouterr()
        code = main([os.fspath(argument) for argument in arguments])
        out, err = capsys.readouterr()
        return Outcome(code, out, err)

    return run


@pytest.fixture(scope="session")
def keys(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a directory with `private.pem`, `public.pem`, and a stranger's `other-public.pem`."""
    directory = tmp_path_factory.mktemp("keys")
    private, public = generate("ecdsa-p256")
    (directory / "private.pem").touch(mode=0o600)
    (directory / "private.pem").write_bytes(private)
    (directory / "public.pem").write_bytes(public)
    (directory / "other-public.pem").write_bytes(generate("ecdsa-p256")[1])
    return directory


@pytest.fixture
def private(keys: Path) -> Path:
    return keys / "private.pem"


@pytest.fixture
def public(keys: Path) -> Path:
    return keys / "public.pem"


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """Return a small model of three files."""
    directory = tmp_path / "model"
    (directory / "sub").mkdir(parents=True)
    (directory / "weights.bin").write_bytes(bytes(range(256)) * 16)
    (directory / "sub" / "config.json").write_text("{}")
    (directory / "empty").touch()
    return directory


@pytest.fixture
def signed(model: Path, cli: Runner, private: Path) -> Path:
    """Return the small model, signed."""
    cli("sign", model, "--key", private).succeeded()
    return model


@pytest.fixture
def tree_of() -> Callable[[Path], dict[str, bytes]]:
    """Return a function that tells every file below a directory, hidden ones too, with its content."""

    def tell(directory: Path) -> dict[str, bytes]:
        paths = sorted(path for path in directory.rglob("*") if path.is_file() and not path.is_symlink())
        return {str(path.relative_to(directory)): path.read_bytes() for path in paths}

    return tell
