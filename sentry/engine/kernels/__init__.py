# SPDX-License-Identifier: Apache-2.0
"""Which kernels there are, and how each module of them is compiled; see docs/kernels.md.

Adding a sequential hash is one header and one line in `HASHES`. Nothing here imports CUDA.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

DIRECTORY = Path(__file__).parent


@dataclass(frozen=True)
class Module:
    """One translation unit.

    Attributes:
        source: Its file.
        macros: What is defined for it: name and value.
        kernels: Its kernels with their register budgets.
    """

    source: str
    macros: tuple[tuple[str, str], ...]
    kernels: tuple[tuple[str, int], ...]


def _hash(header: str, policy: str, *, leaves: int, nodes: int | None) -> Module:
    macros = (("SENTRY_HEADER", f'"{header}"'), ("SENTRY_HASH", policy))
    kernels = (("leaves", leaves), ("flat", leaves))
    if nodes is None:
        return Module("hashes.cu", (*macros, ("SENTRY_FLAT_ONLY", "1")), kernels)
    return Module("hashes.cu", macros, (*kernels, ("nodes", nodes)))


# Sequential hashes by name, with the registers that `leaves` and `flat`, and `nodes`, may use.
HASHES = MappingProxyType(
    {
        "sha256": _hash("sha256.cuh", "Sha256", leaves=64, nodes=64),
        "sha3-256": _hash("sha3.cuh", "Sha3_256", leaves=128, nodes=128),
        "blake2b-256": _hash("blake2b.cuh", "Blake2b<32>", leaves=128, nodes=128),
        "blake2b": _hash("blake2b.cuh", "Blake2b<64>", leaves=128, nodes=None),
    }
)

MODULES = MappingProxyType(
    {
        "blake3": Module("blake3.cu", (), (("chunks", 64), ("nodes", 64), ("fill_holes", 32))),
        "lattice": Module("lthash.cu", (), (("lattice_partial", 96), ("lattice_finish", 64))),
        **HASHES,
    }
)
