# SPDX-License-Identifier: Apache-2.0
"""The OMS statement: written one way, read in every way that is harmless, refused in all others."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
from reference import oms_reference
from support import SMALL_MODEL, Edit, seal

from sentry.errors import FormatError, RefusedError
from sentry.formats.manifest import Manifest, Resource
from sentry.formats.oms import LEGACY_PREDICATE_TYPE, decode_manifest, encode_manifest


def payload(edit: Edit | None = None, *, sealed: bool = True, **options: Any) -> bytes:
    statement = oms_reference.statement("model", SMALL_MODEL, **options)
    if edit is not None:
        edit(statement)
    return oms_reference.payload(seal(statement) if sealed else statement)


def first(statement: Any) -> Any:
    return statement["predicate"]["resources"][0]


def how(statement: Any) -> Any:
    return statement["predicate"]["serialization"]


def resource(**changes: Any) -> Callable[[Any], None]:
    def edit(statement: Any) -> None:
        first(statement).update(changes)

    return edit


def serialization(**changes: Any) -> Callable[[Any], None]:
    def edit(statement: Any) -> None:
        fields = {**how(statement), **changes}
        statement["predicate"]["serialization"] = {key: value for key, value in fields.items() if value is not ...}

    return edit


def annotated(**changes: Any) -> Callable[[Any], None]:
    return lambda statement: first(statement)["annotations"].update(changes)


# ------------------------------------------------------------------------------------------------------------ produce


def test_what_is_written_is_read_back() -> None:
    manifest = decode_manifest(payload(name="n", version="1", parent="ab" * 32))
    assert (manifest.artifact_name, manifest.version, manifest.parent) == ("n", "1", "ab" * 32)
    assert encode_manifest(manifest) == payload(name="n", version="1", parent="ab" * 32)


def test_resources_are_sorted_by_the_code_points_of_their_paths() -> None:
    names = ["é", "a/b", "Z", "a.b", "\U0001f600", "\uffff", "a"]
    manifest = Manifest("m", "blake3", tuple(Resource(name, b"\0" * 32) for name in names))
    written = json.loads(encode_manifest(manifest))["predicate"]["resources"]
    assert [entry["name"] for entry in written] == ["Z", "a", "a.b", "a/b", "é", "\uffff", "\U0001f600"]


def test_a_second_blake3_digest_is_not_written_beside_the_first() -> None:
    manifest = Manifest("m", "blake3", (Resource("a", b"\0" * 32, blake3=b"\0" * 32),))
    assert "annotations" not in json.loads(encode_manifest(manifest))["predicate"]["resources"][0]


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"resources": ()}, "there is nothing to sign"),
        ({"resources": (Resource("A", b"x"), Resource("a", b"x"))}, "are one name where case or Unicode form"),
        ({"resources": (Resource("\udcff", b"x"),)}, "a name is not UTF-8"),
        ({"subject": "\udcff"}, "a name is not UTF-8"),
    ],
)
def test_a_manifest_that_must_not_be_signed_is_refused(changes: dict[str, Any], reason: str) -> None:
    manifest = Manifest("model", "sha256", (Resource("a", b"\0" * 32),))
    with pytest.raises(RefusedError, match=reason):
        encode_manifest(replace(manifest, **changes))


# ------------------------------------------------------------------------------------------------------------- accept


def test_any_order_of_resources_is_accepted() -> None:
    manifest = decode_manifest(payload(lambda statement: statement["predicate"]["resources"].reverse()))
    assert [resource.path for resource in manifest.resources] == ["w.safetensors", "sub/vocab.txt", "config.json"]


@pytest.mark.parametrize("name", [".", "model.bin"])
def test_both_names_of_a_single_file_are_accepted(name: str) -> None:
    statement = oms_reference.statement("m", {name: b"x"})
    assert list(decode_manifest(oms_reference.payload(statement)).by_path()) == [name]


@pytest.mark.parametrize("spelling", ["sha256", "sha256-sharded-4"])
def test_both_spellings_of_a_shard_s_algorithm_are_accepted(spelling: str) -> None:
    assert decode_manifest(payload(resource(algorithm=spelling), shard_bytes=4)).shard_bytes == 4


@pytest.mark.parametrize("size", [4, 4.0])
def test_a_shard_size_is_accepted_as_integer_and_integral_float(size: float) -> None:
    assert decode_manifest(payload(serialization(shard_size=size), shard_bytes=4)).shard_bytes == 4


def test_missing_ignore_paths_are_accepted() -> None:
    assert decode_manifest(payload(serialization(ignore_paths=...))).ignore_paths == ()


def test_ignored_paths_are_read_in_one_spelling() -> None:
    assert decode_manifest(payload(serialization(ignore_paths=["a/", "./b", "c//d/"]))).ignore_paths == (
        "a",
        "b",
        "c/d",
    )


def test_the_name_of_a_shard_is_parsed_from_its_last_two_colons() -> None:
    statement = oms_reference.statement("m", {"a:0:9:x": b"12345", "b:0:4": b"1"}, shard_bytes=4)
    manifest = decode_manifest(oms_reference.payload(statement))
    assert {path: len(shards) for path, shards in manifest.by_path().items()} == {"a:0:9:x": 2, "b:0:4": 1}


def test_unknown_annotations_of_a_resource_are_accepted() -> None:
    decode_manifest(payload(annotated(mtime="12")))


def test_links_that_the_signer_allowed_are_a_matter_for_the_reader_of_files() -> None:
    decode_manifest(payload(serialization(allow_symlinks=True)))


# ------------------------------------------------------------------------------------------------------------- refuse


@pytest.mark.parametrize(
    ("edit", "reason"),
    [
        (lambda s: s.update(predicateType="https://slsa.dev/provenance/v1"), "predicate type is 'https://slsa.dev"),
        (lambda s: s.update(predicateType=LEGACY_PREDICATE_TYPE), "predicate type is"),
        (lambda s: s.update(predicateType="https://model_signing/signature/v1.1"), "predicate type is"),
        (lambda s: s["subject"].append(s["subject"][0]), "the statement has 2 subjects, not one"),
        (lambda s: s.pop("predicate"), "the predicate is not an object"),
        (lambda s: s["predicate"].update(x=1), "the predicate has an unknown field 'x'"),
        (lambda s: s["predicate"].pop("serialization"), "the predicate has no 'serialization'"),
        (lambda s: s["predicate"].update(resources={}), "has 'resources' that is not an array"),
        (lambda s: s["predicate"]["resources"].clear(), "the manifest lists no resources"),
        (lambda s: s["predicate"]["resources"].append(first(s)), "the manifest lists a resource twice"),
        (lambda s: s["predicate"]["resources"].append([]), "a resource is not an object"),
        (resource(name="."), "the manifest lists a single file beside others"),
        (resource(name="../x"), "is not a plain relative path"),
        (resource(name="/etc/passwd"), "is not a plain relative path"),
        (resource(name="a//b"), "is not a plain relative path"),
        (resource(name=""), "is not a plain relative path"),
        (resource(name="a\0"), "is not one that a file can have"),
        (resource(name="a" * 5000), "is longer than a path can be"),
        (resource(name=None), "a resource lacks its name, algorithm or digest"),
        (resource(algorithm="sha512"), "the algorithm 'sha512' of 'config.json' is not the manifest's 'sha256'"),
        (resource(algorithm="blake3"), "the algorithm 'blake3' of 'config.json' is not the manifest's 'sha256'"),
        (resource(algorithm="SHA256"), "is not the manifest's 'sha256'"),
        (resource(algorithm="sha256-sharded-4"), "is not the manifest's 'sha256'"),
        (resource(annotations=[]), "the annotations of 'config.json' are not an object"),
        (annotated(blake3="00"), "the annotation 'blake3' of 'config.json' is not 64 lower-case"),
        (annotated(blake3=None), "the annotation 'blake3' of 'config.json' is not a string"),
        (annotated(header_sha256="zz" * 32), "the annotation 'header_sha256' of 'config.json' is not 64 lower-case"),
        (annotated(size="-1"), "the annotation 'size' of 'config.json' is not a size in bytes"),
        (annotated(size="1e3"), "is not a size in bytes"),
        (annotated(size="013"), "is not a size in bytes"),
        (lambda s: s["subject"][0].update(annotations={"parent": "ab"}), "the subject's parent is not 64 lower-case"),
        (annotated(size="\u0661"), "is not a size in bytes"),  # a digit, but not an ASCII one
        (annotated(size="9" * 20), "is not a size in bytes"),
        (annotated(size="9999999999999999999"), "is not a size in bytes"),
        (annotated(size=1.5), "is not a size in bytes"),
        (annotated(size=True), "is not a size in bytes"),
        (annotated(size=None), "is not a size in bytes"),
        (serialization(hash_type="md5"), "the hash type 'md5' is unknown"),
        (serialization(hash_type="SHA256"), "the hash type 'SHA256' is unknown"),
        (serialization(hash_type="sha256+blake3"), "the hash type 'sha256.blake3' is unknown"),
        (serialization(hash_type=...), "the serialization has no 'hash_type'"),
        (serialization(hash_type="blake3"), "the algorithm 'sha256' of 'config.json' is not the manifest's 'blake3'"),
        (serialization(method="tree"), "the serialization method 'tree' is unknown"),
        (serialization(method=...), "the serialization has no 'method'"),
        (serialization(method="shards"), "the serialization has no 'shard_size'"),
        (serialization(shard_size=4), "the serialization has an unknown field 'shard_size'"),
        (serialization(allow_symlinks=...), "the serialization has no 'allow_symlinks'"),
        (serialization(allow_symlinks="no"), "has 'allow_symlinks' that is not true or false"),
        (serialization(x=1), "the serialization has an unknown field 'x'"),
        (serialization(ignore_paths=None), "has 'ignore_paths' that is not an array"),
        (serialization(ignore_paths=[1]), "an ignored path is not a name"),
        (serialization(ignore_paths=[""]), "an ignored path is not a name"),
        (serialization(ignore_paths=["a\0"]), "an ignored path is not a name"),
        (serialization(ignore_paths=["."]), "the ignored path '.' is the whole model or lies outside it"),
        (serialization(ignore_paths=["./"]), "is the whole model or lies outside it"),
        (serialization(ignore_paths=["a/.."]), "is the whole model or lies outside it"),
        (serialization(ignore_paths=["../x"]), "is the whole model or lies outside it"),
        (serialization(ignore_paths=["x", "/x"]), "is the whole model or lies outside it"),
    ],
)
def test_a_statement_with_one_fault_is_refused_for_it(edit: Edit, reason: str) -> None:
    with pytest.raises(FormatError, match=reason):
        decode_manifest(payload(edit))


@pytest.mark.parametrize("digest", ["00" * 31, "00" * 33, "00" * 64, "AA" * 32, "zz" * 32, ""])
def test_a_digest_of_another_spelling_is_refused(digest: str) -> None:
    with pytest.raises(FormatError, match=r"the digest of 'config\.json' is not 64 lower-case hexadecimal digits"):
        decode_manifest(payload(resource(digest=digest), sealed=False))


@pytest.mark.parametrize(
    ("digests", "reason"),
    [
        ({"sha256": "00" * 32}, "the subject's digest is not that of the listed resources"),
        ({}, "the subject's digest is not that of the listed resources"),
        ({"sha512": "00" * 64}, "the subject's digest is not that of the listed resources"),
        ({"sha256": "00"}, "the subject's digest is not 64 lower-case hexadecimal digits"),
    ],
)
def test_a_root_that_is_not_the_resources_is_refused(digests: dict[str, str], reason: str) -> None:
    with pytest.raises(FormatError, match=reason):
        decode_manifest(payload(lambda s: s["subject"][0].update(digest=digests), sealed=False))


@pytest.mark.parametrize("size", [0, -4, 4.5, "4", None, True, 1e300])
def test_another_shard_size_is_refused(size: Any) -> None:
    with pytest.raises(FormatError, match="the shard size is not a positive integer"):
        decode_manifest(payload(serialization(shard_size=size), shard_bytes=4))


@pytest.mark.parametrize("name", ["config.json", "config.json:0", "a:b:c", "a:-1:4", "a: 0:4", "a:0:\u0664", "a:0x0:4"])
def test_a_shard_name_without_a_range_is_refused(name: str) -> None:
    with pytest.raises(FormatError, match="is not of the form path:start:end"):
        decode_manifest(payload(resource(name=name), shard_bytes=4))


@pytest.mark.parametrize("name", ["a:00:4", "a:0:04", "a:4:4", "a:4:0", "a:0:0"])
def test_a_shard_name_with_no_proper_range_is_refused(name: str) -> None:
    with pytest.raises(FormatError, match="does not name a range"):
        decode_manifest(payload(resource(name=name), shard_bytes=4))


@pytest.mark.parametrize("name", ["config.json:0:3", "config.json:1:5", "other:4:8", "config.json:0:5"])
def test_shards_with_a_gap_or_an_overlap_are_refused(name: str) -> None:
    with pytest.raises(FormatError, match="without gap or overlap"):
        decode_manifest(payload(lambda s: (resource(name=name)(s), first(s)["annotations"].pop("size")), shard_bytes=4))


def test_a_shard_whose_size_is_not_its_range_is_refused() -> None:
    with pytest.raises(FormatError, match=r"the size of 'config\.json:0:4' is not that of its range"):
        decode_manifest(payload(annotated(size="3"), shard_bytes=4))


def test_two_blake3_digests_of_one_file_are_refused() -> None:
    with pytest.raises(FormatError, match=r"'config\.json' has two different BLAKE3 digests"):
        decode_manifest(payload(annotated(blake3="00" * 32), choice="blake3"))


# ------------------------------------------------------------------------------------------------------------- legacy


def legacy(*subjects: tuple[str, str]) -> bytes:
    entries = [{"name": name, "digest": {"sha256": digest}} for name, digest in subjects]
    return oms_reference.payload(
        {"_type": oms_reference.STATEMENT_TYPE, "subject": entries, "predicateType": LEGACY_PREDICATE_TYPE}
    )


def test_the_oldest_format_is_read_only_when_asked_for() -> None:
    manifest = decode_manifest(legacy(("a", "00" * 32)), legacy=True)
    assert manifest.legacy
    assert manifest.resources == (Resource("a", b"\0" * 32),)
    with pytest.raises(FormatError, match="predicate type"):
        decode_manifest(legacy(("a", "00" * 32)))


@pytest.mark.parametrize(
    ("subjects", "reason"),
    [
        ([("../a", "00" * 32)], "is not a plain relative path"),
        ([("a", "00")], "the digest of 'a' is not 64 lower-case hexadecimal digits"),
        ([("a", "00" * 32)] * 2, "the manifest lists a resource twice"),
        ([("a" * 5000, "00" * 32)], "is longer than a path can be"),
    ],
)
def test_the_oldest_format_is_read_as_strictly(subjects: list[tuple[str, str]], reason: str) -> None:
    with pytest.raises(FormatError, match=reason):
        decode_manifest(legacy(*subjects), legacy=True)
