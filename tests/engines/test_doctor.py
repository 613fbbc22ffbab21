# SPDX-License-Identifier: Apache-2.0
"""`sentry doctor` says what there is; what is absent is no failure, an engine that fails its test is one."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

from sentry import doctor
from sentry.cli import main
from sentry.engine import EngineChoice
from sentry.engine.contract import Engine
from sentry.engine.cpu import CpuEngine
from sentry.errors import EngineError

SUBJECTS = [
    "python", "engine cpu", "engine cuda", "compiler", "driver", "cuFile", "kernel cache",
    "blake3", "cryptography", "numpy", "cuda-core", "cuda-bindings", "torch", "safetensors",
]  # fmt: skip


class Faulty(CpuEngine):
    """An engine with one fault."""

    name = "faulty"

    def __init__(self, spoil: Callable[[dict[str, bytes], int], Mapping[str, bytes]]) -> None:
        super().__init__()
        self._spoil = spoil
        self._calls = 0
        self.first: dict[str, bytes] = {}

    def digest(self, *arguments: Any, **options: Any) -> Mapping[str, bytes]:
        self._calls += 1
        digests = dict(super().digest(*arguments, **options))
        if self._calls == 1:
            self.first = digests
        return self._spoil(digests, self._calls)


@pytest.fixture
def stand_in(monkeypatch: pytest.MonkeyPatch) -> Callable[[Engine | EngineError], None]:
    """Return a function that says what `cuda` stands for; without it, there is none."""
    standing: list[Engine | EngineError] = [EngineError("there is no usable GPU: none")]

    def choose(name: str) -> EngineChoice:
        if name == "cpu":
            return EngineChoice(CpuEngine(), "")
        if isinstance(standing[-1], EngineError):
            raise standing[-1]
        return EngineChoice(standing[-1], "")

    monkeypatch.setattr(doctor, "choose", choose)
    return standing.append


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return the kernel cache, which does not exist yet."""
    monkeypatch.setenv("SENTRY_CACHE_DIR", str(tmp_path / "kernels"))
    return tmp_path / "kernels"


def finding(subject: str) -> doctor.Finding:
    (found,) = [found for found in doctor.examine() if found.subject == subject]
    return found


@pytest.mark.usefixtures("stand_in")
def test_everything_is_listed_once_and_without_a_gpu_nothing_has_failed(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert main(["doctor"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line[:15].strip() for line in lines] == SUBJECTS
    assert not any(" failed " in line for line in lines)
    assert next(line for line in lines if line.startswith("engine cpu")).endswith("; refuses a tampered buffer")


@pytest.mark.usefixtures("stand_in")
def test_the_findings_are_json_as_well(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["doctor", "--json"]) == 0
    findings = json.loads(capsys.readouterr().out)
    assert [found["subject"] for found in findings] == SUBJECTS
    assert all(set(found) == {"subject", "state", "detail"} for found in findings)
    assert {found["state"] for found in findings} <= {"ok", "absent"}


@pytest.mark.usefixtures("stand_in")
def test_an_absent_gpu_says_why() -> None:
    assert finding("engine cuda") == doctor.Finding("engine cuda", "absent", "there is no usable GPU: none")


def test_a_working_gpu_is_reported_with_its_name(stand_in: Callable[[object], None], simulated: Engine) -> None:
    stand_in(simulated)
    assert finding("engine cuda") == doctor.Finding("engine cuda", "ok", "Host, sm_90; refuses a tampered buffer")


def test_every_engine_passes_its_own_test(engine: Engine) -> None:
    doctor.self_test(engine)


def one_wrong(name: str) -> Callable[[dict[str, bytes], int], Mapping[str, bytes]]:
    return lambda digests, _: {**digests, name: bytes(len(digests[name]))}


@pytest.mark.parametrize("name", doctor._TEST_HASHES)
def test_an_engine_that_computes_one_hash_wrongly_is_refused(name: str) -> None:
    with pytest.raises(EngineError, match=r"^the engine faulty computes wrong digests$"):
        doctor.self_test(Faulty(one_wrong(name)))


@pytest.mark.parametrize("names", [doctor._TEST_HASHES, *((name,) for name in doctor._TEST_HASHES)], ids=len)
def test_an_engine_that_does_not_notice_a_flipped_bit_is_refused(names: tuple[str, ...]) -> None:
    engine = Faulty(lambda digests, _: {**digests, **{name: engine.first[name] for name in names}})
    with pytest.raises(EngineError) as caught:
        doctor.self_test(engine)
    assert str(caught.value) == f"the engine faulty does not notice a tampered buffer under {', '.join(names)}"


def test_an_engine_that_leaves_a_hash_out_is_refused() -> None:
    with pytest.raises(EngineError, match=r"^the engine faulty computes wrong digests$"):
        doctor.self_test(
            Faulty(lambda digests, _: {name: value for name, value in digests.items() if name != "blake3"})
        )


def test_an_engine_that_fails_its_test_is_exit_code_3(
    stand_in: Callable[[object], None], capsys: pytest.CaptureFixture[str]
) -> None:
    stand_in(Faulty(one_wrong("blake3")))
    assert main(["doctor"]) == 3
    shown = capsys.readouterr()
    (line,) = [line for line in shown.out.splitlines() if line.startswith("engine cuda")]
    assert line.split(maxsplit=3)[2:] == ["failed", "the engine faulty computes wrong digests"]
    assert shown.err == "sentry: error: failed: engine cuda\n"
    assert main(["doctor", "--json"]) == 3
    assert "the engine faulty computes wrong digests" in capsys.readouterr().out


def test_a_gpu_that_breaks_in_its_test_has_failed(stand_in: Callable[[object], None]) -> None:
    def fail(*_: object) -> Mapping[str, bytes]:
        raise EngineError("a kernel failed: CUDA_ERROR_ILLEGAL_ADDRESS")

    stand_in(Faulty(fail))
    assert finding("engine cuda") == doctor.Finding(
        "engine cuda", "failed", "a kernel failed: CUDA_ERROR_ILLEGAL_ADDRESS"
    )


@pytest.mark.usefixtures("stand_in")
def test_the_cache_is_counted_and_not_made(cache: Path) -> None:
    assert finding("kernel cache") == doctor.Finding("kernel cache", "absent", f"{cache} (made at first use)")
    assert not cache.exists()
    cache.mkdir(mode=0o700)
    for number in range(3):
        (cache / f"{number}.cubin").write_bytes(bytes(10))
    (cache / "other").write_bytes(bytes(999))
    assert finding("kernel cache") == doctor.Finding("kernel cache", "ok", f"{cache}: 3 kernels, 30 bytes")


@pytest.mark.usefixtures("stand_in")
def test_a_cache_that_others_can_write_is_a_failure(cache: Path, capsys: pytest.CaptureFixture[str]) -> None:
    cache.mkdir()
    cache.chmod(0o777)
    assert finding("kernel cache").state == "failed"
    assert main(["doctor"]) == 3
    assert "failed: kernel cache" in capsys.readouterr().err


@pytest.mark.usefixtures("stand_in")
def test_a_link_to_nowhere_in_the_cache_breaks_nothing(cache: Path) -> None:
    cache.mkdir(mode=0o700)
    (cache / "a.cubin").symlink_to("nowhere")
    assert finding("kernel cache").state == "ok"


@pytest.mark.usefixtures("stand_in")
def test_what_is_shown_is_escaped(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("SENTRY_CACHE_DIR", str(tmp_path / "\x1b[2Jcache\n"))
    monkeypatch.setenv("CUFILE_ENV_PATH_JSON", "\x1b]8;;evil\x07")
    assert main(["doctor"]) == 0
    out = capsys.readouterr().out
    assert "\x1b" not in out
    assert len(out.splitlines()) == len(SUBJECTS)
