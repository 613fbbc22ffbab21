# SPDX-License-Identifier: Apache-2.0
"""A watch finds what changes in a model while it serves, says so, and ends when it is closed."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import pytest
from models.zoo import arrays, described, safetensors, statement_without_annotations
from reference import oms_reference
from support import KeyPair, sign_payload

import sentry
from sentry import Watch

SOON = 0.01
NEVER = 3600.0


def until(condition: Callable[[], object]) -> None:
    """Wait for what the watching thread does."""
    deadline = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.002)


def watchers() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name == "sentry-watch"]


def flip(array: Any) -> None:
    array.reshape(-1).view(np.uint8)[5] ^= 16


@pytest.fixture
def model() -> dict[str, Any]:
    return arrays()


@pytest.fixture
def bundle(pair: KeyPair, model: Mapping[str, Any]) -> sentry.Bundle:
    return sentry.sign_model(model, pair.signer)


def test_a_watch_verifies_at_once_and_again_and_ends(pair: KeyPair, model: Any, bundle: sentry.Bundle) -> None:
    with Watch(model, bundle, pair.trust, every=SOON) as watch:
        assert watch.runs >= 1
        assert watch.last.tensors == ("embed", "head", "norm", "steps")
        (thread,) = watchers()
        assert thread.daemon
        until(lambda: watch.runs >= 4)
        assert watch.check().payload_sha256 == watch.last.payload_sha256
        assert 0 < watch.duty_cycle <= 1
    assert not watchers()
    runs, duty = watch.runs, watch.duty_cycle
    time.sleep(3 * SOON)
    assert (watch.runs, watch.duty_cycle) == (runs, duty)
    watch.close()


def test_a_flipped_bit_reaches_the_callback_for_as_long_as_it_is_there(
    pair: KeyPair, model: Any, bundle: sentry.Bundle
) -> None:
    errors: list[Exception] = []
    with Watch(model, bundle, pair.trust, every=SOON, callback=errors.append) as watch:
        until(lambda: watch.runs >= 2)
        assert not errors
        flip(model["head"])
        until(lambda: len(errors) >= 2)
        assert isinstance(errors[0], sentry.MismatchError)
        assert errors[0].changed == ("head",)
        flip(model["head"])
        seen = watch.runs
        until(lambda: watch.runs >= seen + 3)
        watch.check()
    assert not watchers()


def test_a_flipped_bit_is_raised_by_check_and_close(pair: KeyPair, model: Any, bundle: sentry.Bundle) -> None:
    watch = Watch(model, bundle, pair.trust, every=SOON)
    flip(model["head"])
    until(lambda: not watchers())
    flip(model["head"])
    for act in (watch.check, watch.close, watch.close):
        with pytest.raises(sentry.MismatchError, match=r"changed: head \(bytes differ\)$"):
            act()


def test_a_flipped_bit_is_raised_at_the_end_of_the_block(pair: KeyPair, model: Any, bundle: sentry.Bundle) -> None:
    def serve() -> None:
        with Watch(model, bundle, pair.trust, every=SOON):
            flip(model["head"])
            until(lambda: not watchers())

    with pytest.raises(sentry.MismatchError, match=r"changed: head \(bytes differ\)$"):
        serve()


def test_check_finds_a_change_before_the_thread_looks(pair: KeyPair, model: Any, bundle: sentry.Bundle) -> None:
    with Watch(model, bundle, pair.trust, every=NEVER) as watch:
        flip(model["embed"])
        with pytest.raises(sentry.MismatchError, match=r"changed: embed \(bytes differ\)$"):
            watch.check()
        assert watch.runs == 2


def test_an_error_of_the_block_is_not_hidden(pair: KeyPair, model: Any, bundle: sentry.Bundle) -> None:
    def serve() -> None:
        with Watch(model, bundle, pair.trust, every=SOON):
            flip(model["embed"])
            until(lambda: not watchers())
            raise KeyError("of the block")

    with pytest.raises(KeyError, match="of the block"):
        serve()
    assert not watchers()


CHANGES: dict[str, tuple[Callable[[dict[str, Any]], object], str]] = {
    "another array under the name": (lambda model: model.update(norm=np.zeros(4, "f2")), r"norm \(bytes differ\)$"),
    "an array added": (lambda model: model.update(more=np.zeros(1)), "not signed: more$"),
    "an array removed": (lambda model: model.pop("norm"), "missing: norm$"),
    "another shape": (lambda model: model.update(norm=model["norm"].reshape(2, 2)), r"norm \(shape \[2, 2\]"),
    "no array": (lambda model: model.update(norm=None), "the tensor 'norm' is of type NoneType"),
}  # fmt: skip


@pytest.mark.parametrize(("change", "reason"), CHANGES.values(), ids=CHANGES.keys())
def test_tensors_that_are_exchanged_are_found(
    pair: KeyPair, model: Any, bundle: sentry.Bundle, change: Callable[[dict[str, Any]], object], reason: str
) -> None:
    with Watch(model, bundle, pair.trust, every=NEVER) as watch:
        change(model)
        with pytest.raises(sentry.MismatchError, match=reason):
            watch.check()


def test_tensors_that_are_exchanged_for_equal_ones_are_watched_from_then_on(
    pair: KeyPair, model: Any, bundle: sentry.Bundle
) -> None:
    with Watch(model, bundle, pair.trust, every=NEVER) as watch:
        model["norm"] = model["norm"].copy()
        watch.check()
        flip(model["norm"])
        with pytest.raises(sentry.MismatchError, match=r"norm \(bytes differ\)$"):
            watch.check()


def test_tensors_of_a_signed_file_are_watched(pair: KeyPair, model: Any) -> None:
    header, file = safetensors(described(model))
    bundle = sign_payload(pair, oms_reference.payload(statement_without_annotations({"w.safetensors": file})))
    with Watch(model, bundle, pair.trust, every=NEVER, header=header) as watch:
        flip(model["norm"])
        with pytest.raises(sentry.MismatchError, match="bytes differ somewhere in its file"):
            watch.check()


def test_a_model_that_is_wrong_at_the_start_is_not_watched(
    pair: KeyPair, attacker: KeyPair, model: Any, bundle: sentry.Bundle
) -> None:
    with pytest.raises(sentry.SignatureError):
        Watch(model, sentry.sign_model(model, attacker.signer), pair.trust, every=SOON)
    flip(model["norm"])
    with pytest.raises(sentry.MismatchError, match=r"norm \(bytes differ\)$"):
        Watch(model, bundle, pair.trust, every=SOON)
    assert not watchers()


@pytest.mark.parametrize("view", [np.asfortranarray, lambda array: array.astype(">f4")])
def test_what_only_a_copy_can_be_hashed_of_is_not_watched(
    pair: KeyPair, model: Any, bundle: sentry.Bundle, view: Callable[[Any], Any]
) -> None:
    model["embed"] = view(model["embed"])
    sentry.verify_model(model, bundle, pair.trust)
    with pytest.raises(sentry.EngineError, match=r"only a copy of the tensor 'embed' can be hashed, not its memory"):
        Watch(model, bundle, pair.trust, every=SOON)
    assert not watchers()


@pytest.mark.parametrize("every", [0, -1, float("nan"), float("inf"), 1e12])
def test_an_interval_that_is_none_is_refused(pair: KeyPair, model: Any, bundle: sentry.Bundle, every: float) -> None:
    with pytest.raises(ValueError, match="every must be a positive number of seconds"):
        Watch(model, bundle, pair.trust, every=every)


def test_a_closed_watch_checks_nothing(pair: KeyPair, model: Any, bundle: sentry.Bundle) -> None:
    watch = Watch(model, bundle, pair.trust, every=NEVER)
    watch.close()
    with pytest.raises(ValueError, match="the watch is closed"):
        watch.check()


def test_a_callback_that_fails_is_heard_of(pair: KeyPair, model: Any, bundle: sentry.Bundle) -> None:
    def fail(error: Exception) -> None:
        raise RuntimeError("the pager is broken") from error

    watch = Watch(model, bundle, pair.trust, every=SOON, callback=fail)
    flip(model["norm"])
    until(lambda: not watchers())
    with pytest.raises(RuntimeError, match="the pager is broken"):
        watch.close()


def test_a_callback_can_close_the_watch(pair: KeyPair, model: Any, bundle: sentry.Bundle) -> None:
    watch = Watch(model, bundle, pair.trust, every=SOON, callback=lambda _: watch.close())
    flip(model["norm"])
    until(lambda: not watchers())
    assert watch.runs >= 2


def test_what_keeps_the_watch_from_looking_is_heard_of(
    pair: KeyPair, model: Any, bundle: sentry.Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise OSError("no memory")

    watch = Watch(model, bundle, pair.trust, every=SOON)
    monkeypatch.setattr("sentry.engine.cpu.CpuPlan.run", fail)
    until(lambda: not watchers())
    with pytest.raises(OSError, match="no memory"):
        watch.close()


def test_checks_from_several_threads_are_all_right(pair: KeyPair, model: Any, bundle: sentry.Bundle) -> None:
    with Watch(model, bundle, pair.trust, every=SOON) as watch:
        found: list[str] = []
        threads = [threading.Thread(target=lambda: found.append(watch.check().payload_sha256)) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert len(found) == 8
        assert len(set(found)) == 1


def test_a_watch_that_is_ended_says_so(
    pair: KeyPair, model: Any, bundle: sentry.Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    watch = Watch(model, bundle, pair.trust, every=SOON)

    def end() -> None:
        raise SystemExit

    monkeypatch.setattr(watch, "_run", end)
    until(lambda: not watchers())
    with pytest.raises(sentry.EngineError, match="the watch was ended by SystemExit"):
        watch.close()
