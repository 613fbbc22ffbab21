# SPDX-License-Identifier: Apache-2.0
"""The checks on models in memory, taken out in turn: then the attack that each stops must succeed.

The checks on files are in `test_removal.py`; what the attacks are refused for is tested in `models/`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from models.zoo import arrays, described, safetensors, statement_without_annotations
from reference import oms_reference, tensors_reference
from stand_ins import nothing
from support import KeyPair, forge, sign_payload
from test_removal import payload_of_the_first

import sentry
from sentry import model_comparison, model_headers, model_updating, model_verifying, watching
from sentry.formats import tensors
from sentry.model_comparison import Claim

HEADER, FILE = safetensors(described(arrays()))


@dataclass(frozen=True)
class Scene:
    """What an attack has to work with."""

    pair: KeyPair
    attacker: KeyPair

    def verify(self, model: Mapping[str, Any], **options: Any) -> None:
        """Verify a model against the signature of the small one, or another."""
        bundle = options.pop("bundle", None) or sentry.sign_model(arrays(), self.pair.signer)
        sentry.verify_model(model, bundle, self.pair.trust, **options)


Attack = Callable[[Scene], None]


def bytes_change(scene: Scene) -> None:
    scene.verify(arrays(norm=np.zeros(4, np.float16)))


def dtype_changes(scene: Scene) -> None:
    scene.verify(arrays(embed=arrays()["embed"].view(np.int32)))


def shape_changes(scene: Scene) -> None:
    scene.verify(arrays(embed=arrays()["embed"].reshape(4, 3)))


def tensor_goes(scene: Scene) -> None:
    scene.verify(arrays(norm=None))


def attacker_signs(scene: Scene) -> None:
    scene.verify(arrays(), bundle=sentry.sign_model(arrays(), scene.attacker.signer))


def attacker_signed_what_is_updated(scene: Scene) -> None:
    old = sentry.sign_model(arrays(), scene.attacker.signer)
    sentry.update_model(arrays(), old, scene.pair.signer, scene.pair.trust)


def bytes_of_a_file_change(scene: Scene) -> None:
    bundle = forge(scene.pair, {"w.safetensors": FILE})
    scene.verify(arrays(norm=np.zeros(4, np.float16)), bundle=bundle, header=HEADER)


def header_is_not_the_signed_one(scene: Scene) -> None:
    def edit(statement: Any) -> None:
        statement["predicate"]["resources"][0]["annotations"]["header_sha256"] = "00" * 32

    scene.verify(arrays(), bundle=forge(scene.pair, {"w.safetensors": FILE}, edit), header=HEADER)


def header_is_endless(scene: Scene) -> None:
    header, file = safetensors(described(arrays()), {"x": "y" * (8 * 1024 * 1024)})
    statement = statement_without_annotations({"w.safetensors": file})
    scene.verify(arrays(), bundle=sign_payload(scene.pair, oms_reference.payload(statement)), header=header)


def header_is_found_by_its_base_name(scene: Scene) -> None:
    bundle = forge(scene.pair, {"a/w.safetensors": FILE})
    scene.verify(arrays(), bundle=bundle, header={"w.safetensors": HEADER})


def tensor_is_in_two_files(scene: Scene) -> None:
    files = {"a.safetensors": FILE, "b.safetensors": FILE}
    scene.verify(arrays(), bundle=forge(scene.pair, files), header=dict.fromkeys(files, HEADER))


def predicate_is_another(_scene: Scene) -> None:
    value = tensors_reference.statement(tensors_reference.predicate("blake3", described(arrays())))
    tensors.decode_tensors(tensors_reference.payload({**value, "predicateType": "urn:other"}))


def subject_is_another(_scene: Scene) -> None:
    value = tensors_reference.statement(tensors_reference.predicate("blake3", described(arrays())))
    value["subject"][0]["digest"]["sha256"] = "00" * 32
    tensors.decode_tensors(tensors_reference.payload(value))


def tensor_is_listed_twice(_scene: Scene) -> None:
    tensors.decode_tensors(tensors_reference.write("blake3", described(arrays()) * 2))


def size_is_another(_scene: Scene) -> None:
    predicate = tensors_reference.predicate("blake3", described({"w": np.zeros(2)}))
    predicate["tensors"][0]["nbytes"] = 7
    tensors.decode_tensors(tensors_reference.payload(tensors_reference.statement(predicate)))


def array_is_exchanged_while_it_is_watched(scene: Scene) -> None:
    model = arrays()
    bundle = sentry.sign_model(model, scene.pair.signer)
    with sentry.Watch(model, bundle, scene.pair.trust, every=3600) as watch:
        model["norm"] = np.zeros(4, np.float16)
        watch.check()


def first_plan(self: Any, prepared: Any) -> Any:
    self._plan = self._plan or prepared.placement.plan()
    return self._plan


def by_base_name(header: Mapping[str, bytes], files: Mapping[str, Any]) -> dict[str, bytes]:
    return {path: header[path.rpartition("/")[2]] for path in files}


def last_one_counts(headers: Mapping[str, Any]) -> dict[str, Any]:
    return {entry.name: (entry.dtype, entry.shape) for parsed in headers.values() for entry in parsed.tensors}


def seven(*_arguments: object, **_options: object) -> int:
    return 7


ZEROS = SimpleNamespace(sha256=lambda _: SimpleNamespace(digest=lambda: bytes(32)))

# The check that is taken out, and what gets through then: object, attribute, stand-in, attack.
REMOVED: list[tuple[Any, str, object, Attack]] = [
    (Claim, "compare", nothing, bytes_change),
    (Claim, "compare", nothing, bytes_of_a_file_change),
    (model_comparison, "_difference", lambda *_: "", dtype_changes),
    (model_comparison, "_difference", lambda *_: "", shape_changes),
    (model_comparison, "compare_descriptions", nothing, tensor_goes),
    (model_verifying, "check_signatures", payload_of_the_first, attacker_signs),
    (model_updating, "check_signatures", payload_of_the_first, attacker_signed_what_is_updated),
    (model_headers, "hashlib", ZEROS, header_is_not_the_signed_one),
    (model_headers, "MAX_UNSIGNED_HEADER_BYTES", 100_000_000, header_is_endless),
    (model_headers, "_by_path", by_base_name, header_is_found_by_its_base_name),
    (model_headers, "_descriptions", last_one_counts, tensor_is_in_two_files),
    (tensors, "PREDICATE_TYPE", "urn:other", predicate_is_another),
    (tensors, "_check_subject", nothing, subject_is_another),
    (tensors, "_check_order", nothing, tensor_is_listed_twice),
    (tensors, "tensor_nbytes", seven, size_is_another),
    (watching._Runner, "_planned", first_plan, array_is_exchanged_while_it_is_watched),
]


@pytest.fixture
def scene(pair: KeyPair, attacker: KeyPair) -> Scene:
    return Scene(pair, attacker)


@pytest.mark.parametrize(("owner", "name", "stand_in", "attack"), REMOVED)
def test_an_attack_succeeds_exactly_where_its_check_is_missing(
    scene: Scene,
    monkeypatch: pytest.MonkeyPatch,
    owner: Any,
    name: str,
    stand_in: object,
    attack: Attack,
) -> None:
    monkeypatch.setattr(owner, name, stand_in)
    attack(scene)


@pytest.mark.parametrize("attack", list(dict.fromkeys(attack for *_, attack in REMOVED)))
def test_an_attack_is_refused_where_its_check_is_in_place(scene: Scene, attack: Attack) -> None:
    with pytest.raises(sentry.SentryError):
        attack(scene)
