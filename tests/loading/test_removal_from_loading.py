# SPDX-License-Identifier: Apache-2.0
"""The checks of a load are taken out in turn: then the attack that each of them stops must succeed."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from loading.conftest import INDEX, MORE, SHARDS, TWO, Signed, index_of, safetensors
from stand_ins import nothing
from support import KeyPair, write_files

import sentry
from sentry import readers
from sentry.loading import checks, loaded, modules, sources
from sentry.loading.sources import SignedFile
from sentry.readers import SourceFile, Tensors
from sentry.readers.place import Place
from sentry.readers.plain import PlainReader
from sentry.signatures import SignedPayload
from sentry.tree import Tree

torch = pytest.importorskip("torch")

DATA = safetensors(TWO)
NAME = "model.safetensors"
SAME = {"x": ("F32", (4,), bytes(16)), "y": ("F32", (4,), bytes(16))}


@dataclass(frozen=True)
class Scene:
    """What an attack has to work with."""

    make: Callable[..., Signed]
    attacker: KeyPair
    patch: pytest.MonkeyPatch

    def single(self) -> Signed:
        """Return a signed model of one file."""
        return self.make({NAME: DATA})

    def read_with(self, reader: object) -> None:
        """Put another reader in the place of the plain one."""
        self.patch.setattr(loaded, "plan_readers", lambda *_: ([reader], "a test"))


Attack = Callable[[Scene], object]


def one_bit_differs(scene: Scene) -> None:
    signed = scene.single()
    (signed.directory / NAME).write_bytes(DATA[:-1] + bytes([DATA[-1] ^ 1]))
    signed.load()


def signer_is_another(scene: Scene) -> None:
    signed = scene.single()
    sentry.load_file(signed.directory, sentry.sign_path(signed.directory, scene.attacker.signer), signed.pair.trust,
                     root=signed.directory)  # fmt: skip


def trust_lies_in_the_model(scene: Scene) -> None:
    signed = scene.single()
    shutil.copy(scene.attacker.public, signed.directory / "public.pem")
    sentry.sign_path(signed.directory, scene.attacker.signer).write(signed.signature)
    sentry.load_file(signed.directory, signed.signature, sentry.KeyTrust.from_file(signed.directory / "public.pem"))


class After(PlainReader):
    """Reads, and does something afterwards."""

    def __init__(self, act: Callable[[list[Tensors]], list[Tensors] | None]) -> None:
        self._act = act

    def load(self, files: Sequence[SourceFile], place: Place) -> list[Tensors]:
        found = super().load(files, place)
        return self._act(found) or found


def file_is_rewritten_after_the_read(scene: Scene) -> None:
    signed = scene.single()

    def rewrite(_found: list[Tensors]) -> None:
        (signed.directory / NAME).write_bytes(bytes(len(DATA)))

    scene.read_with(After(rewrite))
    signed.load()


def two_tensors_share_memory(scene: Scene) -> None:
    signed = scene.make({NAME: safetensors(SAME)})
    scene.read_with(After(lambda found: [{"x": found[0]["x"], "y": found[0]["x"]}]))
    signed.load()


def tensor_is_of_another_type(scene: Scene) -> None:
    signed = scene.single()
    scene.read_with(After(lambda found: [{**found[0], "b.weight": found[0]["b.weight"].view(torch.float16)}]))
    signed.load()


def shard_has_more_than_the_index_says(scene: Scene) -> None:
    files = {**SHARDS, "model-2-of-2.safetensors": {**MORE, "odd": TWO["odd"]}}
    signed = scene.make({**{name: safetensors(part) for name, part in files.items()}, INDEX: index_of(SHARDS)})
    signed.load("")


def index_is_another(scene: Scene) -> None:
    """An index that leaves a shard out."""
    signed = scene.make({**{name: safetensors(part) for name, part in SHARDS.items()}, INDEX: index_of(SHARDS)})
    path = signed.directory / INDEX
    left = {name: part for name, part in SHARDS.items() if part is TWO}
    path.write_bytes(index_of(left).ljust(path.stat().st_size))
    signed.load("")


def file_is_larger_than_signed(scene: Scene) -> None:
    """Under a digest that does not cover the header's length alone, nothing else would stop a large file early."""
    signed = scene.single()
    (signed.directory / NAME).write_bytes(safetensors({**TWO, "more": ("U8", (5,), bytes(5))}))
    signed.load()


def unlisted_file_is_loaded(scene: Scene) -> None:
    signed = scene.single()
    write_files(signed.directory, {"other.safetensors": DATA})
    signed.load("other.safetensors")


def link_leads_to_another_signed_file(scene: Scene) -> None:
    signed = scene.make({"unet/m.safetensors": DATA, "vae/m.safetensors": safetensors(MORE)})
    (signed.directory / "unet").rename(signed.directory.parent / "away")
    (signed.directory / "unet").symlink_to("vae")
    signed.load("unet/m.safetensors")


def module_gets_half(scene: Scene) -> None:
    written = {"weight": ("F32", (3, 2), bytes(24)), "bias": ("F32", (2,), bytes(8))}
    signed = scene.make({NAME: safetensors(written)})
    module = torch.nn.Linear(2, 3)
    before = module.weight.clone()
    try:
        sentry.load_model(module, signed.directory / NAME, signed.signature, signed.pair.trust)
    except RuntimeError:
        assert not torch.equal(before, module.weight)  # torch has copied one by then


def module_converts(scene: Scene) -> None:
    signed = scene.make({NAME: safetensors({"weight": ("F16", (3, 2), bytes(12)), "bias": ("F16", (3,), bytes(6))})})
    sentry.load_model(torch.nn.Linear(2, 3), signed.directory / NAME, signed.signature, signed.pair.trust)


# --------------------------------------------------------------------------------------------------------- stand-ins


def unchecked(bundles: Sequence[Any], *_: object, **__: object) -> SignedPayload:
    return SignedPayload(bundles[0].envelope.payload, ())


def links_resolved(tree: Tree, path: Path) -> tuple[str, bool]:
    return os.path.relpath(os.path.realpath(path), os.path.realpath(tree.path)), False


def any_resources(self: sources.Sources, path: str) -> Any:
    return self._files.get(path) or next(iter(self._files.values()))


REMOVED: list[tuple[object, str, object, Attack]] = [
    (loaded, "compare", nothing, one_bit_differs),
    (loaded, "check_signatures", unchecked, signer_is_another),
    (loaded, "check_trust", nothing, trust_lies_in_the_model),
    (SignedFile, "check_unchanged", nothing, file_is_rewritten_after_the_read),
    (loaded, "check_tensors", nothing, two_tensors_share_memory),
    (checks, "_wrong_with", nothing, tensor_is_of_another_type),
    (SignedFile, "check_listed", nothing, shard_has_more_than_the_index_says),
    (sources.Sources, "_resources", any_resources, unlisted_file_is_loaded),
    (loaded, "inside_root", links_resolved, link_leads_to_another_signed_file),
    (modules, "_check_fit", nothing, module_gets_half),
    (modules, "_check_fit", nothing, module_converts),
]


@pytest.fixture
def scene(make_signed: Callable[..., Signed], attacker: KeyPair, monkeypatch: pytest.MonkeyPatch) -> Scene:
    return Scene(make_signed, attacker, monkeypatch)


@pytest.mark.parametrize(("owner", "name", "stand_in", "attack"), REMOVED)
def test_an_attack_succeeds_exactly_where_its_check_is_missing(
    scene: Scene, monkeypatch: pytest.MonkeyPatch, owner: Any, name: str, stand_in: object, attack: Attack
) -> None:
    monkeypatch.setattr(owner, name, stand_in)
    attack(scene)


@pytest.mark.parametrize(
    "attack", [*dict.fromkeys(a for *_, a in REMOVED), index_is_another, file_is_larger_than_signed]
)
def test_an_attack_is_refused_where_its_check_is_in_place(scene: Scene, attack: Attack) -> None:
    with pytest.raises((sentry.SentryError, ValueError)):
        attack(scene)


def test_a_header_is_compared_before_it_is_parsed(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    signed = scene.single()
    (signed.directory / NAME).write_bytes(DATA[:8] + b"[" + DATA[9:])
    monkeypatch.setattr(readers, "parse_header", nothing)
    with pytest.raises(sentry.MismatchError, match="the safetensors header is not the signed one"):
        signed.load()
