# SPDX-License-Identifier: Apache-2.0
"""Models and signatures are found however they are named: relative, with slashes, from inside, elsewhere."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest


@pytest.mark.parametrize("name", ["model", "model/", "./model", "model/.", "model/sub/..", "../{}/model"])
def test_a_relative_path_is_relative_to_the_current_folder(
    cli: Any, model: Path, keys: Path, tmp_path: Path, name: str
) -> None:
    name = name.format(tmp_path.name)
    cli("sign", name, "--key", keys / "private.pem", cwd=tmp_path).succeeded()
    assert (model / "model.sig").is_file()
    cli("verify", name, "--key", keys / "public.pem").succeeded()
    claims = json.loads(cli("inspect", model / "model.sig", "--json").out)
    assert claims["subject"]
    assert len(claims["resources"]) == 3


def test_the_current_folder_can_be_signed_and_verified(cli: Any, model: Path, keys: Path) -> None:
    cli("sign", ".", "--key", keys / "private.pem", cwd=model).succeeded()
    assert json.loads(cli("inspect", "model.sig", "--json").out)["subject"] == "model"
    cli("verify", ".", "--key", keys / "public.pem").succeeded()
    cli("verify", "../model", "--key", keys / "public.pem").succeeded()


def test_a_folder_inside_the_model_can_name_it_as_its_parent(cli: Any, model: Path, keys: Path) -> None:
    cli("sign", "..", "--key", keys / "private.pem", cwd=model / "sub").succeeded()
    assert (model / "model.sig").is_file()
    cli("verify", "..", "--key", keys / "public.pem").succeeded()


def test_a_single_file_is_found_by_its_bare_name(cli: Any, model: Path, keys: Path) -> None:
    cli("sign", "weights.bin", "--key", keys / "private.pem", cwd=model).succeeded()
    cli("verify", "weights.bin", "--key", keys / "public.pem").succeeded()
    cli("verify", "sub/../weights.bin", "--key", keys / "public.pem").succeeded()


def test_a_moved_and_renamed_model_still_verifies(cli: Any, signed: Path, public: Path, tmp_path: Path) -> None:
    signed.rename(tmp_path / "other name")
    cli("verify", tmp_path / "other name", "--key", public).succeeded()


@pytest.mark.parametrize("name", ["other.sig", "sub/deep.sig", ".hidden.sig"])
def test_a_signature_elsewhere_inside_the_model_is_not_part_of_it(cli: Any, model: Path, keys: Path, name: str) -> None:
    signature = model / name
    cli("sign", model, "--key", keys / "private.pem", "--signature", signature).succeeded()
    assert not (model / "model.sig").exists()
    given = ("--signature", signature)
    proof = json.loads(cli("verify", model, "--key", keys / "public.pem", *given, "--json").succeeded().out)
    assert (proof["files"], proof["not_covered"]) == (3, [])
    assert name in json.loads(cli("inspect", signature, "--json").out)["ignore_paths"]
    cli("sign", model, "--key", keys / "private.pem", "--signature", signature).succeeded()


def test_a_signature_that_was_moved_within_the_model_is_found_where_it_is_named(
    cli: Any, signed: Path, public: Path
) -> None:
    (signed / "model.sig").rename(signed / "sub" / "moved.sig")
    cli("verify", signed, "--key", public, "--signature", signed / "sub" / "moved.sig").succeeded()


def test_a_signature_outside_the_model_leaves_it_as_it_was(
    cli: Any, model: Path, keys: Path, tmp_path: Path, tree_of: Any
) -> None:
    before = tree_of(model)
    cli("sign", model, "--key", keys / "private.pem", "--signature", tmp_path / "out.sig").succeeded()
    assert tree_of(model) == before
    cli("verify", model, "--key", keys / "public.pem", "--signature", tmp_path / "out.sig").succeeded()


def test_a_path_to_leave_out_that_is_not_there_is_said(cli: Any, model: Path, private: Path) -> None:
    outcome = cli("sign", model, "--key", private, "--ignore", model / "*.txt")
    assert outcome.code == 0
    assert outcome.err == f"sentry: note: there is no {model}/*.txt to leave out yet\n"


def test_a_signature_for_a_directory_that_is_missing_is_not_written(
    cli: Any, model: Path, private: Path, tmp_path: Path
) -> None:
    target = tmp_path / "missing" / "x.sig"
    cli("sign", model, "--key", private, "--signature", target).refused(3, "cannot write the signature")
    assert not target.parent.exists()


@pytest.mark.parametrize("verb", ["sign", "verify"])
@pytest.mark.parametrize("ignored", ["outside", "..", "model", "model/../outside", "/", "model-2"])
def test_ignoring_something_outside_the_model_is_a_usage_error(
    cli: Any, signed: Path, keys: Path, tmp_path: Path, verb: str, ignored: str
) -> None:
    key = keys / ("private.pem" if verb == "sign" else "public.pem")
    before = (signed / "model.sig").read_bytes()
    cli(verb, "model", "--key", key, "--ignore", ignored, cwd=tmp_path).refused(
        2, "is the model" if ignored == "model" else "outside the model", "seen from the current folder"
    )
    assert (signed / "model.sig").read_bytes() == before


@pytest.mark.parametrize("ignored", ["sub", "sub/", "./sub", "../model/sub", "sub/../sub"])
def test_ignored_paths_are_relative_to_the_current_folder(cli: Any, model: Path, private: Path, ignored: str) -> None:
    cli("sign", ".", "--key", private, "--ignore", ignored, cwd=model).succeeded()
    claims = json.loads(cli("inspect", "model.sig", "--json").out)
    assert "sub" in claims["ignore_paths"]
    assert [item["name"] for item in claims["resources"]] == ["empty", "weights.bin"]


def test_a_neighbour_whose_name_begins_alike_is_not_ignored(cli: Any, model: Path, private: Path) -> None:
    (model / "sub.txt").touch()
    cli("sign", model, "--key", private, "--ignore", model / "sub").succeeded()
    claims = json.loads(cli("inspect", model / "model.sig", "--json").out)
    assert [item["name"] for item in claims["resources"]] == ["empty", "sub.txt", "weights.bin"]


@pytest.mark.parametrize("name", ["-model", "two words", "\u4e2d\u6587 \U0001f600", "a\tb"])
def test_odd_but_valid_model_names_work(cli: Any, model: Path, keys: Path, tmp_path: Path, name: str) -> None:
    model.rename(tmp_path / name)
    cli("sign", "--key", keys / "private.pem", "--", name, cwd=tmp_path).succeeded()
    cli("verify", "--key", keys / "public.pem", "--", name).succeeded()


@pytest.mark.parametrize("place", ["key.pem", "sub/key.pem"])
def test_a_private_key_inside_the_model_is_refused(cli: Any, model: Path, private: Path, place: str) -> None:
    (model / place).touch(mode=0o600)
    (model / place).write_bytes(private.read_bytes())
    cli("sign", model, "--key", model / place).refused(1, "inside the model", hint="move it out")
    assert not (model / "model.sig").exists()


@pytest.mark.parametrize("through_link", [False, True])
def test_a_trusted_key_inside_the_model_is_refused(
    cli: Any, signed: Path, public: Path, tmp_path: Path, through_link: bool
) -> None:
    (signed / "public.pem").write_bytes(public.read_bytes())
    key = signed / "public.pem"
    if through_link:
        key = tmp_path / "link.pem"
        key.symlink_to(signed / "public.pem")
    cli("verify", signed, "--key", key, "--ignore-unsigned").refused(1, "inside the model")
