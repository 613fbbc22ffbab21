# SPDX-License-Identifier: Apache-2.0
"""Show what signing a model is good for: sign, verify, flip one byte, see the refusal, restore it, verify.

    python scripts/demo.py MODEL_DIR

Works on a copy of MODEL_DIR in a fresh folder `demo` below the current one, and prints every command that it runs, what
the command says, and how long it takes. Exits with 1 if any step did not do what it should.
"""

from __future__ import annotations

import argparse
import json
import os
import shlex
import shutil
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

FOLDER = Path("demo")
# Where the environment's own `sentry` and `python` are.
BIN = Path(sys.executable).parent
# A file that says that the folder is ours, so that a rerun may remove it.
MARK = ".made-by-scripts-demo"
WEIGHTS = "model.safetensors"
# The same command flips the byte and flips it back.
FLIP = 'f = open({path}, "r+b"); f.seek({offset}); b = f.read(1)[0]; f.seek({offset}); f.write(bytes([b ^ 1]))'


class DemoError(Exception):
    """The demo cannot run, or a step did not do what it should."""


@dataclass(frozen=True)
class Step:
    """One step.

    Attributes:
        title: What it is for.
        command: What is run, in the demo's folder.
        exit_code: How it must end.
        says: What its output must contain.
    """

    title: str
    command: tuple[str, ...]
    exit_code: int = 0
    says: str = ""


def steps(model: str, middle: int) -> list[Step]:
    """Return the steps of the demo.

    Args:
        model: Name of the model's directory.
        middle: Position of the byte to flip.
    """
    weights = f"{model}/{WEIGHTS}"
    flip = ("python", "-c", FLIP.format(path=json.dumps(weights), offset=middle))
    verify = ("sentry", "verify", model, "--key", "public.pem")
    return [
        Step("Make a key pair", ("sentry", "keygen", "--private", "private.pem", "--public", "public.pem")),
        Step("Sign", ("sentry", "sign", model, "--key", "private.pem"), says="signature"),
        Step("Verify", verify, says="verified"),
        Step(f"Flip one bit of byte {middle:,} of {WEIGHTS}", flip),
        Step("Verify the changed model: refused", verify, exit_code=1, says=f"changed: {WEIGHTS}"),
        Step("Flip it back", flip),
        Step("Verify again", verify, says="verified"),
    ]


def run(step: Step, number: int) -> float:
    """Run a step and show it; return its seconds.

    Raises:
        DemoError: It did not do what it should.
    """
    print(f"\n{number}. {step.title}\n\n$ {shlex.join(step.command)}", flush=True)
    environment = {**os.environ, "PATH": f"{BIN}{os.pathsep}{os.environ.get('PATH', '')}"}
    started = time.perf_counter()
    done = subprocess.run(
        step.command,
        cwd=FOLDER,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        stdin=subprocess.DEVNULL,
        text=True,
        check=False,
    )
    seconds = time.perf_counter() - started
    print(f"{done.stdout}[exit code {done.returncode}, {seconds:.2f} s]", flush=True)
    if done.returncode != step.exit_code:
        raise DemoError(f"step {number} should have ended with exit code {step.exit_code}")
    if step.says not in done.stdout:
        raise DemoError(f"step {number} should have said {step.says!r}")
    return seconds


def prepare(model: Path) -> Path:
    """Copy the model into a fresh folder, and return the copy.

    Raises:
        DemoError: There is no such model, or the folder holds something that is not the demo's.
    """
    if not (model / WEIGHTS).is_file() or (model / WEIGHTS).stat().st_size == 0:
        raise DemoError(f"{model} is not a model directory with a {WEIGHTS}")
    if FOLDER.exists():
        if not (FOLDER / MARK).is_file():
            raise DemoError(f"the folder {FOLDER} exists, and this demo did not make it")
        shutil.rmtree(FOLDER)
    FOLDER.mkdir()
    (FOLDER / MARK).touch()
    return Path(shutil.copytree(model, FOLDER / model.resolve().name, ignore=shutil.ignore_patterns("model.sig")))


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; return its exit code."""
    parser = argparse.ArgumentParser(description="Sign, verify and tamper with a copy of a model.")
    parser.add_argument("model", type=Path, help=f"a model directory with a {WEIGHTS}")
    options = parser.parse_args(arguments)
    seconds: dict[str, float] = {}
    try:
        model = prepare(options.model)
        nbytes = sum(path.stat().st_size for path in model.rglob("*") if path.is_file())
        print(f"The model: {model.name}, {nbytes / 1e6:,.1f} MB. Programs are taken from {BIN} first.\n\n$ cd {FOLDER}")
        for number, step in enumerate(steps(model.name, (model / WEIGHTS).stat().st_size // 2), start=1):
            seconds[f"{number}. {step.title}"] = run(step, number)
    except (DemoError, OSError) as error:
        print(f"demo: error: {error}", file=sys.stderr)
        return 1
    width = max(len(title) for title in seconds)
    print("\nSeconds, each step a process of its own:\n")
    for title, took in seconds.items():
        print(f"  {title:<{width}}  {took:6.2f}")
    print(f"\nEvery step did what it should. The keys, the model and its signature are in {FOLDER}{os.sep}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
