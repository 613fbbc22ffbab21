# SPDX-License-Identifier: Apache-2.0
"""What only a GPU can show of models in memory: torch's tensors there, and watches beside other work."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Any

import pytest
from engines.conftest import require_cuda
from models.zoo import arrays, described, safetensors
from support import KeyPair, forge

import sentry
from sentry.engine.contract import Engine

MEBIBYTE = 1024 * 1024
HEADER, FILE = safetensors(described(arrays()))


@pytest.fixture
def torch() -> Any:
    """Return torch, where it has a GPU."""
    module = pytest.importorskip("torch")
    if not module.cuda.is_available():
        require_cuda()
        pytest.skip("this torch has no GPU")
    return module


def net(torch: Any, device: str) -> Any:
    torch.manual_seed(7)
    module = torch.nn.Sequential(torch.nn.Linear(300, 500), torch.nn.BatchNorm1d(500), torch.nn.Linear(500, 10))
    return module.to(device)


def test_a_module_on_a_gpu_is_what_was_signed_on_the_host(pair: KeyPair, cuda: Engine, torch: Any) -> None:
    del cuda
    bundle = sentry.sign_model(net(torch, "cpu"), pair.signer)
    module = net(torch, "cuda")
    assert sentry.sign_model(module, pair.signer).envelope.payload == bundle.envelope.payload
    evidence = sentry.verify_model(module, bundle, pair.trust)
    assert evidence.engine == "cuda:0"
    module[0].cpu()
    assert sentry.verify_model(module, bundle, pair.trust).engine == "cpu+cuda:0"
    with torch.no_grad():
        module[2].weight[3, 3] += 1
    with pytest.raises(sentry.MismatchError, match=r"changed: 2.weight \(bytes differ\)$"):
        sentry.verify_model(module, bundle, pair.trust)


@pytest.mark.parametrize("make", [lambda t: t.t(), lambda t: t[:, ::2], lambda t: t.to(dtype=t.dtype).expand(2, 5, 6)])
def test_views_on_a_gpu_are_hashed_as_their_value(
    pair: KeyPair, cuda: Engine, torch: Any, make: Callable[[Any], Any]
) -> None:
    del cuda
    tensor = make(torch.arange(30.0).reshape(5, 6))
    on_gpu = make(torch.arange(30.0, device="cuda").reshape(5, 6))
    bundle = sentry.sign_model({"w": tensor}, pair.signer)
    assert sentry.sign_model({"w": on_gpu}, pair.signer).envelope.payload == bundle.envelope.payload


@pytest.mark.parametrize("choice", ["sha256+blake3", "sha256"])
def test_tensors_on_a_gpu_are_verified_against_their_file(pair: KeyPair, cuda: Engine, torch: Any, choice: str) -> None:
    del cuda
    model = {name: torch.from_numpy(array).cuda() for name, array in arrays().items()}
    bundle = forge(pair, {"w.safetensors": FILE}, choice=choice)
    evidence = sentry.verify_model(model, bundle, pair.trust, header=HEADER)
    assert ("copied to the host" in evidence.engine_reason) == (choice == "sha256")
    model["norm"][2] = 5
    with pytest.raises(sentry.MismatchError, match="bytes differ somewhere in its file"):
        sentry.verify_model(model, bundle, pair.trust, header=HEADER)


def test_a_watch_beside_work_on_the_gpu_finds_a_flipped_bit(pair: KeyPair, cuda: Engine, torch: Any) -> None:
    del cuda
    module = net(torch, "cuda").eval()
    found = threading.Event()
    inputs = torch.ones(64, 300, device="cuda")
    bundle = sentry.sign_model(module, pair.signer)
    with sentry.Watch(module, bundle, pair.trust, every=0.01, callback=lambda _: found.set()) as watch:
        deadline = time.monotonic() + 60
        while watch.runs < 5:
            module(inputs)
            assert time.monotonic() < deadline
        assert not found.is_set()
        with torch.no_grad():
            module[0].weight.view(torch.int32)[0, 0] ^= 1
        torch.cuda.synchronize()
        assert found.wait(60)


def test_a_plan_in_the_background_has_the_digests_of_any_other(cuda: Engine, torch: Any) -> None:
    tensors = [torch.arange(number * MEBIBYTE // 4, dtype=torch.int32, device="cuda") for number in (1, 3, 40)]
    with cuda.plan("blake3", tensors, background=True) as plan:  # type: ignore[attr-defined]
        for _ in range(3):
            assert plan.run() == cuda.digests("blake3", tensors)
            torch._foreach_add_(tensors, 1)
            torch.cuda.synchronize()
