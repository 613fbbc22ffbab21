# SPDX-License-Identifier: Apache-2.0
"""Whoever writes to the model, before, during or after a load: each attempt is refused for its reason."""

from __future__ import annotations

import json
import os
import re
import shutil
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
from loading.conftest import INDEX, MORE, SHARDS, TWO, Signed, Written, index_of, safetensors
from support import KeyPair, forge, write_files

import sentry
from sentry import readers
from sentry.errors import MismatchError, SignatureError, TrustError
from sentry.formats.safetensors import parse_header
from sentry.loading import loaded
from sentry.readers import SourceFile, Tensors
from sentry.readers.place import Place
from sentry.readers.plain import PlainReader

torch = pytest.importorskip("torch")

Act = Callable[[Path], object]
Act0 = Callable[[], object]
TWO_BYTES = safetensors(TWO)


def renamed(tensors: Written, old: str, new: str) -> Written:
    return {new if name == old else name: entry for name, entry in tensors.items()}


def changed(tensors: Written, name: str, **values: Any) -> Written:
    dtype, shape, data = tensors[name]
    return {**tensors, name: (values.get("dtype", dtype), values.get("shape", shape), values.get("data", data))}


def swapped(tensors: Written) -> Written:
    """Two tensors of the same size with each other's names."""
    order = {"c.weight": "b.weight", "b.weight": "c.weight"}
    return {order.get(name, name): entry for name, entry in tensors.items()}


# Same size throughout: a size would give it away before anything is read.
SAME_SIZE: Mapping[str, tuple[bytes, str]] = {
    "one bit of the payload": (TWO_BYTES[:-1] + bytes([TWO_BYTES[-1] ^ 1]), "bytes differ"),
    "the first byte of the payload": (
        safetensors(changed(TWO, "a.weight", data=b"\xff" + TWO["a.weight"][2][1:])),
        "bytes differ",
    ),
    "a tensor renamed": (safetensors(renamed(TWO, "b.weight", "c.weight")), "header is not the signed one"),
    "a tensor reshaped": (safetensors(changed(TWO, "b.weight", shape=(2, 4))), "header is not the signed one"),
    "a tensor of another type": (
        safetensors(changed(TWO, "b.weight", dtype="F16"))[: len(TWO_BYTES)].ljust(len(TWO_BYTES), b"\0"),
        "header is not the signed one",
    ),
    "zeros": (bytes(len(TWO_BYTES)), "header is not the signed one"),
}


@pytest.mark.parametrize("what", SAME_SIZE)
def test_a_file_rewritten_after_signing_is_refused(single: Signed, what: str) -> None:
    data, reason = SAME_SIZE[what]
    (single.directory / "model.safetensors").write_bytes(data)
    with pytest.raises(MismatchError, match=reason) as caught:
        single.load()
    assert caught.value.changed == ("model.safetensors",)


@pytest.mark.parametrize("nbytes", [-1, 1, 10_000])
def test_a_file_of_another_size_is_refused_before_it_is_parsed(single: Signed, nbytes: int) -> None:
    with (single.directory / "model.safetensors").open("r+b") as file:
        file.truncate(len(TWO_BYTES) + nbytes)
    with pytest.raises(MismatchError, match="sizes differ"):
        single.load()


def test_two_tensors_swapped_under_a_signature_without_header_digests_are_refused(
    tmp_path: Path, pair: KeyPair
) -> None:
    both: Written = {**MORE, "b.weight": ("F16", (8, 1), bytes(16))}
    files = {"model.safetensors": safetensors(both)}
    directory = write_files(tmp_path / "model", files)
    bundle = forge(pair, files, lambda statement: [r.pop("annotations", None) for r in resources_of(statement)])
    assert sentry.load_file(directory, bundle, pair.trust, root=directory).verification.hashes == ("sha256",)
    (directory / "model.safetensors").write_bytes(safetensors(swapped(both)))
    with pytest.raises(MismatchError, match="bytes differ"):
        sentry.load_file(directory, bundle, pair.trust, root=directory)


def resources_of(statement: dict[str, Any]) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = statement["predicate"]["resources"]
    return found


def test_a_header_that_no_digest_covers_is_bounded_before_it_is_parsed(tmp_path: Path, pair: KeyPair) -> None:
    text = b"{" + b" " * (8 * 1024 * 1024) + b"}"
    files = {"model.safetensors": len(text).to_bytes(8, "little") + text}
    directory = write_files(tmp_path / "model", files)
    bundle = forge(pair, files, lambda statement: [r.pop("annotations", None) for r in resources_of(statement)])
    with pytest.raises(MismatchError, match="header is larger than 8388608 bytes"):
        sentry.load_file(directory, bundle, pair.trust, root=directory)


@pytest.mark.parametrize(
    ("act", "reason"),
    [
        (lambda d: shutil.move(d / "other.safetensors", d / "model.safetensors"), "sizes differ|header"),
        (lambda d: (d / "model.safetensors").unlink(), "signed and not there"),
        (lambda d: replace(d, lambda path: path.symlink_to(d / "other.safetensors")), "lies behind a link"),
        (lambda d: replace(d, lambda path: path.symlink_to("/dev/zero")), "lies behind a link"),
        (lambda d: replace(d, os.mkfifo), "not a regular file"),
        (lambda d: replace(d, os.mkdir), "not signed|several|nothing that is signed|not a regular file"),
    ],
)
def test_another_file_in_the_place_of_a_signed_one_is_refused(single: Signed, act: Act, reason: str) -> None:
    act(single.directory)
    with pytest.raises(MismatchError, match=reason):
        single.load()


def replace(directory: Path, make: Callable[[Path], object]) -> None:
    (directory / "model.safetensors").unlink()
    make(directory / "model.safetensors")


def test_a_directory_swapped_for_a_link_is_refused(make_signed: Callable[..., Signed]) -> None:
    signed = make_signed({"sub/model.safetensors": TWO_BYTES})
    (signed.directory / "sub").rename(signed.directory.parent / "elsewhere")
    (signed.directory / "sub").symlink_to(signed.directory.parent / "elsewhere")
    bundle, trust = signed.signature, signed.pair.trust
    with pytest.raises(MismatchError, match=r"lies outside|lies behind a link|not a directory"):
        sentry.load_file(signed.directory / "sub" / "model.safetensors", bundle, trust)


@pytest.fixture
def two_parts(make_signed: Callable[..., Signed]) -> Signed:
    return make_signed({"unet/m.safetensors": safetensors(MORE), "vae/m.safetensors": TWO_BYTES})


@pytest.mark.parametrize(("link", "path"), [("vae", "unet/m.safetensors"), ("vae", "unet"), (".", "unet/vae")])
def test_a_link_in_the_model_does_not_lead_to_another_signed_file(two_parts: Signed, link: str, path: str) -> None:
    (two_parts.directory / "unet").rename(two_parts.directory.parent / "away")
    (two_parts.directory / "unet").symlink_to(link)
    with pytest.raises(MismatchError, match=r"lies behind a link|is not signed|nothing that is signed"):
        two_parts.load(path)
    with pytest.raises(MismatchError, match=r"lies behind a link|is not signed|nothing that is signed"):
        two_parts.load(path, root=two_parts.directory)


def test_links_on_the_way_to_the_model_are_the_callers(two_parts: Signed, tmp_path: Path) -> None:
    (tmp_path / "current").symlink_to(two_parts.directory)
    assert two_parts.load("unet").keys() == MORE.keys()
    path = tmp_path / "current" / "vae" / "m.safetensors"
    trust, root = two_parts.pair.trust, two_parts.directory
    assert sentry.load_file(path, two_parts.signature, trust, root=root).keys() == TWO.keys()


def test_a_path_that_leads_up_again_is_refused(two_parts: Signed) -> None:
    with pytest.raises(MismatchError, match="leads up again"):
        two_parts.load("unet/../vae/m.safetensors")


def test_a_signed_single_file_is_only_loaded_under_its_own_path(tmp_path: Path, pair: KeyPair) -> None:
    directory = write_files(tmp_path / "model", {"a.safetensors": TWO_BYTES, "b.safetensors": TWO_BYTES})
    bundle = sentry.sign_path(directory / "a.safetensors", pair.signer)
    for path in ("b.safetensors", "nothing"):
        with pytest.raises(MismatchError, match=r"single file|the signature is for"):
            sentry.load_file(directory / path, bundle, pair.trust, root=directory / "a.safetensors")


@pytest.mark.parametrize("ignored", ["model.safetensors", "."])
def test_a_file_that_the_signer_left_out_is_not_loaded(single: Signed, ignored: str) -> None:
    sub = single.directory / "sub"
    sub.mkdir()
    shutil.move(single.directory / "model.safetensors", sub)
    single.sign(ignore=[sub / ignored] if ignored != "." else [sub])
    with pytest.raises(MismatchError, match="left out: nobody vouches for it"):
        single.load("sub/model.safetensors")


def test_a_file_that_is_not_listed_is_not_loaded(single: Signed) -> None:
    shutil.copy(single.directory / "model.safetensors", single.directory / "copy.safetensors")
    with pytest.raises(MismatchError, match=r"'?copy.safetensors'? is not signed"):
        single.load("copy.safetensors")


def test_a_file_is_looked_up_by_its_whole_path_not_by_its_name(make_signed: Callable[..., Signed]) -> None:
    signed = make_signed({"a/model.safetensors": TWO_BYTES, "b/other.safetensors": safetensors(MORE)})
    shutil.copy(signed.directory / "a" / "model.safetensors", signed.directory / "b" / "model.safetensors")
    with pytest.raises(MismatchError, match=r"b/model.safetensors is not signed"):
        signed.load("b/model.safetensors")


def test_files_of_the_same_name_in_two_signed_directories_are_not_swapped(make_signed: Callable[..., Signed]) -> None:
    first, second = make_signed({"m.safetensors": TWO_BYTES}), None
    second = make_signed({"m.safetensors": safetensors(changed(TWO, "odd", data=bytes(7)))}, name="second")
    with pytest.raises(MismatchError, match="lies outside of what was signed"):
        sentry.load_file(second.directory / "m.safetensors", first.signature, first.pair.trust)
    with pytest.raises(MismatchError, match="bytes differ"):
        sentry.load_file(second.directory / "m.safetensors", first.signature, first.pair.trust, root=second.directory)


def test_shards_with_each_others_names_are_refused(make_signed: Callable[..., Signed]) -> None:
    same = {name: (dtype, shape, bytes(len(data))) for name, (dtype, shape, data) in TWO.items()}
    files = {"model-1-of-2.safetensors": TWO, "model-2-of-2.safetensors": {f"{n}x": e for n, e in same.items()}}
    signed = make_signed({**{n: safetensors(t) for n, t in files.items()}, INDEX: index_of(files)})
    one, two = (signed.directory / name for name in files)
    one.rename(signed.directory / "t")
    two.rename(one)
    (signed.directory / "t").rename(two)
    with pytest.raises(MismatchError, match=r"sizes differ|header is not the signed one"):
        signed.load("")


@pytest.mark.parametrize(
    ("index", "reason"),
    [
        ({"weight_map": {}}, "lists no tensors"),
        ({}, "has no 'weight_map'"),
        ([], "not an object"),
        ({"weight_map": {"a": 1}}, "not an object of strings"),
        ({"weight_map": {"a.weight": "../model-1-of-2.safetensors"}}, "not signed"),
        ({"weight_map": {"a.weight": "/etc/passwd"}}, "not signed"),
        ({"weight_map": {"a.weight": "missing.safetensors"}}, "missing.safetensors is not signed"),
        ({"weight_map": {"a.weight": "model-1-of-2.safetensors"}}, "is in it, and not by the index"),
        (
            {"weight_map": {**dict.fromkeys(TWO, "model-1-of-2.safetensors"), "ghost": "model-1-of-2.safetensors"}},
            "ghost is not in it",
        ),
    ],
)
def test_a_signed_index_that_does_not_fit_is_refused(sharded: Signed, index: object, reason: str) -> None:
    (sharded.directory / INDEX).write_text(json.dumps(index))
    with pytest.raises(MismatchError, match=re.escape(reason)):
        sharded.sign().load("")


def test_an_index_with_a_tensor_twice_is_refused(sharded: Signed) -> None:
    text = (sharded.directory / INDEX).read_text()
    (sharded.directory / INDEX).write_text(text.replace('"odd":', '"odd": "model-2-of-2.safetensors", "odd":', 1))
    with pytest.raises(MismatchError, match="a key twice"):
        sharded.sign().load("")


def test_a_tensor_in_two_shards_is_refused(make_signed: Callable[..., Signed]) -> None:
    files = {**SHARDS, "model-2-of-2.safetensors": {**MORE, "odd": TWO["odd"]}}
    signed = make_signed({**{n: safetensors(t) for n, t in files.items()}, INDEX: index_of(files)})
    with pytest.raises(MismatchError, match="odd is in it, and not by the index"):
        signed.load("")


def test_an_index_changed_after_signing_is_not_parsed(sharded: Signed) -> None:
    path = sharded.directory / INDEX
    path.write_bytes(path.read_bytes().replace(b"odd", b"add"))
    with pytest.raises(MismatchError, match="bytes differ"):
        sharded.load("")


def test_a_missing_shard_is_refused(sharded: Signed) -> None:
    (sharded.directory / "model-2-of-2.safetensors").unlink()
    with pytest.raises(MismatchError, match=r"model-2-of-2.safetensors is signed and not there"):
        sharded.load("")


def test_an_index_that_was_taken_away_is_missed(sharded: Signed) -> None:
    (sharded.directory / INDEX).unlink()
    with pytest.raises(MismatchError, match=r"index.json is signed and not there"):
        sharded.load("")


def test_a_directory_with_several_files_and_no_index_is_refused(single: Signed) -> None:
    with pytest.raises(MismatchError, match="several signed safetensors files and no index"):
        single.load("")


def test_a_directory_without_safetensors_files_is_refused(make_signed: Callable[..., Signed]) -> None:
    with pytest.raises(MismatchError, match="nothing that is signed in the directory is a safetensors file"):
        make_signed({"pytorch_model.bin": b"x"}).load("")


@pytest.mark.parametrize("data", [b"", b"1234567", bytes(8) + b"x", safetensors(TWO) + b"x"])
def test_signed_files_that_are_no_strict_safetensors_are_refused(
    make_signed: Callable[..., Signed], data: bytes
) -> None:
    with pytest.raises(MismatchError, match=r"cannot be loaded: the (safetensors header|file|tensors)"):
        make_signed({"model.safetensors": data}).load()


def test_a_signature_by_somebody_else_is_refused(single: Signed, attacker: KeyPair) -> None:
    with pytest.raises(SignatureError, match=r"another key|does not verify"):
        sentry.load_file(single.directory / "model.safetensors", single.signature, attacker.trust)


def test_trust_that_lies_in_the_signed_directory_is_refused(single: Signed, attacker: KeyPair) -> None:
    shutil.copy(attacker.public, single.directory / "public.pem")
    sentry.sign_path(single.directory, attacker.signer).write(single.signature)
    trust = sentry.KeyTrust.from_file(single.directory / "public.pem")
    with pytest.raises(TrustError, match="lies inside the model"):
        sentry.load_file(single.directory / "model.safetensors", single.signature, trust)


def test_a_signature_for_a_single_file_is_not_one_for_a_directory(single: Signed) -> None:
    path = single.directory / "model.safetensors"
    bundle = sentry.sign_path(path, single.pair.signer)
    with pytest.raises(MismatchError, match="for a single file, not for a directory"):
        sentry.load_file(single.directory, bundle, single.pair.trust, root=single.directory)
    with pytest.raises(MismatchError, match=r"sizes differ|not what was signed"):
        sentry.load_file(single.directory / "other.safetensors", bundle, single.pair.trust)


# ------------------------------------------------------------------------------------------------- during the load


class Meddler(PlainReader):
    """A reader that does something before or after it reads."""

    name = "meddler"

    def __init__(self, *, before: Act0 | None = None, after: Callable[[list[Tensors]], object] | None = None) -> None:
        self._before = before
        self._after = after

    def load(self, files: Sequence[SourceFile], place: Place) -> list[Tensors]:
        if self._before:
            self._before()
        tensors = super().load(files, place)
        if self._after:
            tensors = self._after(tensors) or tensors  # type: ignore[assignment]
        return tensors


@pytest.fixture
def meddle(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Return a function that puts a meddling reader in the place of the plain one."""

    def put(**acts: Any) -> None:
        monkeypatch.setattr(loaded, "plan_readers", lambda *_: ([Meddler(**acts)], "a test"))

    return put


def rewrite(path: Path, data: bytes) -> None:
    with path.open("r+b") as file:
        file.write(data)


def test_a_rewrite_between_header_and_payload_is_refused(single: Signed, meddle: Callable[..., None]) -> None:
    path = single.directory / "model.safetensors"
    meddle(before=lambda: rewrite(path, TWO_BYTES[:-3] + b"bad"))
    with pytest.raises(MismatchError, match="bytes differ"):
        single.load()


def test_a_rewrite_after_reading_is_noticed_though_the_tensors_are_right(
    single: Signed, meddle: Callable[..., None]
) -> None:
    path = single.directory / "model.safetensors"
    meddle(after=lambda _: rewrite(path, TWO_BYTES[:-3] + b"bad"))
    with pytest.raises(MismatchError, match="it changed while it was read"):
        single.load()


@pytest.mark.parametrize(("nbytes", "reason"), [(-1, "became shorter while it was read"), (1, "it changed while")])
def test_a_file_truncated_or_grown_during_the_read_is_refused(
    single: Signed, meddle: Callable[..., None], nbytes: int, reason: str
) -> None:
    path = single.directory / "model.safetensors"
    meddle(before=lambda: os.truncate(path, len(TWO_BYTES) + nbytes))
    with pytest.raises(MismatchError, match=reason):
        single.load()


def test_a_rename_between_the_header_and_the_read_changes_nothing(single: Signed, meddle: Callable[..., None]) -> None:
    path = single.directory / "model.safetensors"
    evil = path.with_name("evil")
    evil.write_bytes(TWO_BYTES[:-3] + b"bad")
    meddle(before=lambda: evil.replace(path))
    # What is loaded is what was opened; that its name leads elsewhere by now changes its status.
    with pytest.raises(MismatchError, match="it changed while it was read"):
        single.load()


def test_a_header_swapped_under_the_reader_is_refused(single: Signed, monkeypatch: pytest.MonkeyPatch) -> None:
    real = parse_header
    path = single.directory / "model.safetensors"

    def swap(data: bytes, **options: Any) -> Any:
        header = real(data, **options)
        rewrite(path, safetensors(renamed(TWO, "b.weight", "c.weight")))
        return header

    monkeypatch.setattr(readers, "parse_header", swap)
    # The bytes that were parsed are the bytes that are hashed: only the file's state tells.
    with pytest.raises(MismatchError, match="it changed while it was read"):
        single.load()


def first(tensors: list[Tensors]) -> dict[str, Any]:
    return dict(tensors[0])


def other_tensor(name: str, make: Callable[[Any], Any]) -> Callable[[list[Tensors]], list[Tensors]]:
    def act(tensors: list[Tensors]) -> list[Tensors]:
        return [{**first(tensors), name: make(first(tensors)[name])}, *tensors[1:]]

    return act


def cut_off(tensor: Any) -> Any:
    """A tensor whose memory was given back under it: hashing it first would crash."""
    copy = tensor.clone()
    copy.untyped_storage().resize_(16)
    return copy


class Subclass(torch.Tensor):  # type: ignore[misc,name-defined]
    """A tensor that may answer anything."""


LIES: Mapping[str, tuple[Callable[[list[Tensors]], Any], str]] = {
    "transposed": (other_tensor("a.weight", lambda t: t.reshape(5, 3).t()), "elements in another order"),
    "negated": (other_tensor("a.weight", torch._neg_view), "conjugated or negated view"),
    "reshaped": (other_tensor("a.weight", lambda t: t.reshape(5, 3)), r"in shape \(5, 3\), not \(3, 5\)"),
    "of another type": (other_tensor("b.weight", lambda t: t.view(torch.float16)), "as torch.float16, not as BF16"),
    "of a subclass": (other_tensor("odd", lambda t: t.as_subclass(Subclass)), "something else than a plain tensor"),
    "a parameter": (other_tensor("a.weight", torch.nn.Parameter), "something else than a plain tensor"),
    "sparse": (other_tensor("a.weight", lambda t: t.to_sparse()), "something else than a plain tensor"),
    "on another device": (other_tensor("a.weight", lambda t: t.to("meta")), "on meta, not on cpu"),
    "not a tensor": (other_tensor("odd", lambda t: t.numpy()), "something else than a plain tensor"),
    "unaligned": (
        other_tensor("odd", lambda t: torch.cat([torch.zeros(1, dtype=t.dtype), t])[1:]),
        "at an address that is no multiple of 16",
    ),
    "beyond its memory": (other_tensor("a.weight", cut_off), "beyond the memory that it lies in"),
    "with other values": (other_tensor("a.weight", lambda t: t + 1), "bytes differ"),
    "under another name": (
        lambda tensors: [{("x" if n == "odd" else n): t for n, t in tensors[0].items()}],
        "other tensors than model.safetensors has: odd, x",
    ),
    "one less": (lambda tensors: [{n: t for n, t in tensors[0].items() if n != "odd"}], "has: odd"),
    "one more": (lambda tensors: [{**tensors[0], "extra": torch.zeros(1)}], "has: extra"),
    "none": (lambda _: [{}], "other tensors than"),
    "of more files": (lambda tensors: [*tensors, *tensors], "returned 2 files for 1"),
}


@pytest.mark.parametrize("lie", LIES)
def test_a_reader_that_returns_something_else_is_refused(single: Signed, meddle: Callable[..., None], lie: str) -> None:
    after, reason = LIES[lie]
    meddle(after=after)
    with pytest.raises(MismatchError, match=reason):
        single.load()


def test_a_reader_that_puts_two_tensors_into_the_same_memory_is_refused(
    make_signed: Callable[..., Signed], meddle: Callable[..., None]
) -> None:
    same = {"x": ("F32", (4,), bytes(16)), "y": ("F32", (4,), bytes(16))}
    signed = make_signed({"model.safetensors": safetensors(same)})
    assert signed.load().keys() == {"x", "y"}
    meddle(after=lambda tensors: [{"x": tensors[0]["x"], "y": tensors[0]["x"]}])
    with pytest.raises(MismatchError, match="put x and y into the same memory"):
        signed.load()


def test_nothing_of_a_refused_load_is_kept(single: Signed, meddle: Callable[..., None]) -> None:
    import gc  # noqa: PLC0415
    import weakref  # noqa: PLC0415

    seen: list[Any] = []

    def note(tensors: list[Tensors]) -> None:
        seen.extend(weakref.ref(tensor) for tensor in tensors[0].values())
        tensors[0]["odd"].add_(1)

    meddle(after=note)
    with pytest.raises(MismatchError, match="bytes differ"):
        single.load()
    gc.collect()
    assert seen
    assert all(reference() is None for reference in seen)
