# SPDX-License-Identifier: Apache-2.0
"""Verify a model in memory again and again, while it serves.

What is hashed is the memory that the model uses, where it lies; on a GPU on a stream of the lowest priority. Found are
bytes that change and tensors that are exchanged. Not found: what changes and changes back between two runs, and code.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping
from typing import Self

from sentry.errors import EngineError
from sentry.model_verification import ModelVerification
from sentry.model_verifying import Prepared, prepare, read_manifest
from sentry.named_tensors import Model
from sentry.resident import ResidentPlan
from sentry.signatures import Signatures, SignedPayload, check_signatures, each_signature
from sentry.trust import Trust

_Place = tuple[str, int, int | None]


class Watch:
    """A model that is verified every so often, by a thread of its own, until the watch is closed.

    Construction verifies the model like `verify_model` and raises what that raises. Afterwards every run takes the
    model as it is then: tensors that were exchanged for others are verified as well.

        with sentry.Watch(model, "model.sig", trust, every=60):
            serve(model)

    A run reads memory while others may write it. In a model that is being trained or loaded, or whose weights are
    swapped, a run can see half of a step and report a mismatch that no single moment shows: watch models that rest. On
    a GPU, runs follow the work that was queued when the tensors were first seen, and nothing later.

    The stream on a GPU has the lowest priority that the driver knows, which is also the default one's: to be served
    first, give the work of serving a stream of higher priority.

    Args:
        model: As for `verify_model`; every tensor must be hashed where it lies, without a copy.
        signature: As for `verify_model`. It is read once.
        trust: Whose signature counts.
        every: Seconds from the start of one run to the start of the next; a run that takes longer delays the next.
        callback: Called, in the watching thread, with the error of every run that failed; watching goes on. Without it,
            the first error ends the watch, and is raised by `check`, `close` and the end of the `with` block.
        header: As for `verify_model`.
        engine: As for `verify_model`.

    Raises:
        VerificationError: As for `verify_model`.
        EngineError: An engine failed, or a tensor cannot be hashed where it lies: not contiguous, say.
        ValueError: `every` is not a positive number, or there is no such engine.
        TypeError: As for `verify_model`.
    """

    def __init__(
        self,
        model: Model,
        signature: Signatures,
        trust: Trust,
        *,
        every: float,
        callback: Callable[[Exception], object] | None = None,
        header: bytes | Mapping[str, bytes] | None = None,
        engine: str = "auto",
    ) -> None:
        if not 0 < every <= threading.TIMEOUT_MAX:
            raise ValueError("every must be a positive number of seconds, and one that the system can wait")
        self._runner = _Runner(model, check_signatures(each_signature(signature), trust), header, engine)
        self._every = every
        self._callback = callback
        self._error: Exception | None = None
        self._stop = threading.Event()
        try:
            self._last = self._runner.run()
        except BaseException:
            self._runner.close()
            raise
        self._runs, self._busy = 1, 0.0
        self._started = time.perf_counter()
        self._closed_at: float | None = None
        # One run at a time; also guards the counts.
        self._lock = threading.Lock()
        self._thread = threading.Thread(target=self._watch, name="sentry-watch", daemon=True)
        self._thread.start()

    @property
    def last(self) -> ModelVerification:
        """The evidence of the last run that succeeded."""
        return self._last

    @property
    def runs(self) -> int:
        """How many runs there were, the first and failed ones included."""
        return self._runs

    @property
    def duty_cycle(self) -> float:
        """The fraction of the time since construction, up to closing, that was spent verifying."""
        until = time.perf_counter() if self._closed_at is None else self._closed_at
        return min(1.0, self._busy / max(until - self._started, 1e-9))

    def check(self) -> ModelVerification:
        """Verify now.

        Returns:
            The evidence.

        Raises:
            VerificationError: The model differs from what was signed, now or when the thread last looked.
            EngineError: An engine failed.
            ValueError: The watch is closed.
        """
        self._raise_stored()
        return self._run()

    def close(self) -> None:
        """End the thread, and give back what it holds; a second call only raises again.

        Raises:
            Exception: What a run raised, if there is no callback.
        """
        self._end()
        self._raise_stored()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_exception: object) -> None:
        self._end()
        if kind is None:  # what is already on its way says more
            self._raise_stored()

    def _end(self) -> None:
        self._stop.set()
        if threading.current_thread() is not self._thread:  # a callback may close the watch
            self._thread.join()
        with self._lock:
            if self._closed_at is None:
                self._closed_at = time.perf_counter()
                self._runner.close()

    def _raise_stored(self) -> None:
        if self._error is not None:
            raise self._error

    def _run(self) -> ModelVerification:
        with self._lock:
            if self._closed_at is not None:
                raise ValueError("the watch is closed")
            started = time.perf_counter()
            try:
                self._last = self._runner.run()
            finally:
                self._runs += 1
                self._busy += time.perf_counter() - started
            return self._last

    def _watch(self) -> None:
        wait = self._every
        while not self._stop.wait(wait):
            started = time.perf_counter()
            try:
                self._run()
            except Exception as error:  # noqa: BLE001  (whatever ends verification must be heard of)
                if not self._report(error):
                    return
            except BaseException as error:  # noqa: BLE001  (a thread that is made to end watches no more)
                self._error = EngineError(f"the watch was ended by {type(error).__name__}")
                return
            wait = max(0.0, self._every - (time.perf_counter() - started))

    def _report(self, error: Exception) -> bool:
        """Hand an error on, and say whether to go on watching."""
        if self._callback is None:
            self._error = error
            return False
        try:
            self._callback(error)
        except Exception as failure:  # noqa: BLE001  (raised by `check` and `close`)
            self._error = failure
            return False
        return True


class _Runner:
    """Verifies the model as it is, and keeps the plans for as long as its tensors stay where they are."""

    def __init__(
        self, model: Model, signed: SignedPayload, header: bytes | Mapping[str, bytes] | None, engine: str
    ) -> None:
        self._model = model
        self._signed = signed
        self._manifest = read_manifest(signed)
        self._header = dict(header) if isinstance(header, Mapping) else header
        self._engine = engine
        self._plan: ResidentPlan | None = None
        self._places: list[_Place] = []

    def run(self) -> ModelVerification:
        """Verify once.

        Raises:
            VerificationError: The model differs from what was signed.
            EngineError: An engine failed, or a tensor cannot be hashed where it lies.
        """
        started = time.perf_counter()
        # Names, dtypes and shapes are compared every time: a module may have got other tensors.
        prepared = prepare(self._model, self._signed, self._manifest, header=self._header, engine=self._engine)
        prepared.claim.compare(self._planned(prepared).run())
        return prepared.evidence(time.perf_counter() - started)

    def close(self) -> None:
        """Give back what the plan holds."""
        plan, self._plan = self._plan, None
        if plan is not None:
            plan.close()

    def _planned(self, prepared: Prepared) -> ResidentPlan:
        places = [(tensor.name, tensor.address, tensor.gpu) for tensor in prepared.named.tensors]
        if self._plan is None or places != self._places:
            self.close()
            self._plan, self._places = prepared.placement.plan(), places
        return self._plan
