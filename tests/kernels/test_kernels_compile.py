# SPDX-License-Identifier: Apache-2.0
"""Every kernel compiles for every supported architecture within its register budget, without spilling."""

from __future__ import annotations

import pytest
from kernels import compiler

from sentry.engine.kernels import DIRECTORY, MODULES

ARCHITECTURES = ["sm_80", "sm_86", "sm_89", "sm_90", "sm_100", "sm_120"]
COMPILER = compiler.find()


@pytest.mark.skipif(COMPILER is None, reason="neither the NVRTC wheel nor nvcc is installed")
@pytest.mark.parametrize("name", list(MODULES))
@pytest.mark.parametrize("arch", ARCHITECTURES)
def test_kernels_compile_within_their_budget(arch: str, name: str) -> None:
    module = MODULES[name]
    found = compiler.usage(module, DIRECTORY, arch, str(COMPILER))
    assert set(found) == {kernel for kernel, _ in module.kernels}
    for kernel, budget in module.kernels:
        assert (found[kernel].spills, found[kernel].stack) == (0, 0), f"{kernel} spills: {found[kernel]}"
        assert found[kernel].registers <= budget, f"{kernel}: {found[kernel]}"


def test_blake3_and_sha256_stay_within_64_registers() -> None:
    assert max(budget for name in ("blake3", "sha256") for _, budget in MODULES[name].kernels) <= 64
