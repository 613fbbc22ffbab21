# SPDX-License-Identifier: Apache-2.0
"""Load a model into `transformers` from verified bytes only: weights, configuration, tokenizer and code.

Weights are read once, verified in the memory that the model then uses, and never written out again. Everything small
that the signature covers is verified while it is copied to a fresh directory, and `transformers` sees that copy alone.
Nothing is fetched from a hub. Not proved: that the model's code, if it is allowed to run, is harmless.
"""

from __future__ import annotations

import importlib.util
import shutil
import tempfile
import weakref
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from sentry.atomic import unavailable
from sentry.errors import MismatchError, UnavailableError
from sentry.hub import resolve_model
from sentry.integrations.adoption import adopt, find_model_class, load_config
from sentry.integrations.host import host_errors
from sentry.integrations.remote_code import VerifiedCode, auto_map, check_auto_maps
from sentry.loading.evidence import LoadVerification
from sentry.loading.loaded import load_file
from sentry.materializing import materialize
from sentry.paths import AnyPath
from sentry.signatures import Signatures, each_signature
from sentry.text import escape
from sentry.trust import Trust
from sentry.verification import Verification

# Large files that `transformers` would not need beside the weights that it is given: other frameworks' weights too.
WEIGHT_SUFFIXES = (
    ".safetensors", ".bin", ".pt", ".pth", ".ckpt", ".h5", ".msgpack", ".gguf", ".onnx", ".onnx_data", ".tflite", ".ot",
    ".npz", ".pkl", ".pickle",
)  # fmt: skip


@dataclass(frozen=True)
class VerifiedModel:
    """A model whose every byte was verified. Use it in a `with` block, or call `close` when you are done.

    Attributes:
        model: The model, in evaluation mode.
        directory: The verified copy of everything signed except weights: for tokenizers, processors, templates.
        verification: The evidence for the weights.
        files: The evidence for the files in `directory`.
        unused: Signed tensors that the model does not use, because its class says that it needs none of these names.
    """

    model: Any
    directory: Path
    verification: LoadVerification
    files: Verification
    unused: tuple[str, ...] = ()
    _code: VerifiedCode | None = field(default=None, repr=False)
    _remove: weakref.finalize[..., Any] | None = field(default=None, repr=False)

    def tokenizer(self, **options: object) -> Any:  # noqa: ANN401  (transformers' classes are known at run time)
        """Load the tokenizer from the verified copy.

        Args:
            options: What `from_pretrained` of the tokenizer takes besides.

        Raises:
            VerificationError: The tokenizer's code is not allowed to run, or has no such class.
            UnavailableError: There is no tokenizer, `transformers` cannot load it, or the copy was removed.
        """
        from transformers import AutoTokenizer  # noqa: PLC0415

        if self._remove is not None and not self._remove.alive:
            # Whatever lies there now, nobody has verified.
            raise UnavailableError(
                "the verified copy was removed", hint="load the tokenizer before you close the model"
            )
        cls: Any = AutoTokenizer
        options = {**options, "local_files_only": True}
        references = auto_map(self.directory, "tokenizer_config.json").get("AutoTokenizer", [])
        if references and self._code is not None:
            cls = self._code.find(references[-1])  # the fast one, where there are two
        else:
            options["trust_remote_code"] = False
        with host_errors("the tokenizer cannot be loaded"):
            tokenizer = cls.from_pretrained(str(self.directory), **options)
            # Code of the model may bring a tokenizer of any kind.
            if cls is AutoTokenizer:
                _check_vocabulary(tokenizer, self.directory)
        return tokenizer

    def close(self) -> None:
        """Remove the verified copy, if it is a temporary one.

        The model itself stays usable, except that code that came with it can import no more of its files.
        """
        if self._remove is not None:
            self._remove()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def from_pretrained(
    directory: AnyPath,
    signature: Signatures,
    trust: Trust,
    *,
    auto_class: Any = None,  # noqa: ANN401  (a class of a package that may be absent)
    device: str = "cpu",
    dtype: Any = None,  # noqa: ANN401  (torch.dtype, likewise)
    trust_remote_code: bool = False,
    reader: str = "auto",
    engine: str = "auto",
    workdir: AnyPath | None = None,
    **model_kwargs: object,
) -> VerifiedModel:
    """Load a verified model, as `Cls.from_pretrained(directory)` would load it unverified.

    Args:
        directory: A signed model directory with safetensors weights, in one file or sharded; `hf:org/name@revision`
            fetches one from the hub first.
        signature: Its signature file, a `Bundle`, or several that must all verify.
        trust: Whose signature counts.
        auto_class: An auto class such as `transformers.AutoModelForCausalLM`, its name, or a model's class. By default
            the one class that the signed configuration names in `architectures`.
        device: Where the weights go: `cpu`, `cuda`, `cuda:1`.
        dtype: The type to convert weights to; by default the configuration's, else the checkpoint's.
        trust_remote_code: Run code that comes with the model, from the verified copy. It must be signed with the rest.
        reader: How weights are read; see `sentry.load_file`.
        engine: Where to hash.
        workdir: Where the verified copy is made and stays. By default a temporary directory that goes with the result.
            Code that came with the model cannot be imported from it after that.
        model_kwargs: Fields of the configuration to override, `attn_implementation`, `experts_implementation`.

    Returns:
        The model, the copy, and the evidence.

    Raises:
        VerificationError: Something is not what was signed, is not signed, or must not be used.
        MismatchError: The weights do not fit the model: names are missing, unexpected, or of other shapes.
        UnavailableError: There is no configuration, there are no safetensors weights, a package is missing, or
            `transformers` or the model's code failed, for whatever reason; the original error is the cause.
        TypeError: `trust_remote_code` is neither True nor False.
        ValueError: An argument has no meaning, or would have other bytes used than those that are signed.
    """
    # A text like "no" would count as yes.
    if not isinstance(trust_remote_code, bool):
        raise TypeError("trust_remote_code is neither True nor False")
    _check_packages()
    directory = resolve_model(directory)
    given = each_signature(signature)  # both steps below read these, whatever the caller passed
    parent = _make_place(workdir)
    copy = Path(parent, "model")
    code = VerifiedCode(copy) if trust_remote_code else None
    try:
        files = materialize(directory, given, trust, copy, only=is_small, engine=engine)
        _check_supported(copy, files.not_read)
        check_auto_maps(copy, files.files, trusted=trust_remote_code)
        config = load_config(copy, code, model_kwargs)
        cls, config = find_model_class(config, auto_class, code, copy)
        weights = load_file(directory, given, trust, root=directory, device=device, reader=reader, engine=engine)
        _check_same_statement(files, weights.verification)
        model, unused = adopt(cls, config, dict(weights), device=device, dtype=dtype, directory=copy)
    except BaseException:
        if code is not None:
            code.forget()
        shutil.rmtree(parent, ignore_errors=True)
        raise
    remove = None if workdir is not None else _remove_with(model, copy, code)
    return VerifiedModel(model, copy, weights.verification, files, unused, code, remove)


def _make_place(workdir: AnyPath | None) -> str:
    """Make a directory of our own, in which the copy is made."""
    try:
        return tempfile.mkdtemp(prefix="sentry-", dir=workdir)
    except OSError as error:
        raise unavailable(error, f"cannot make a copy in {escape(str(workdir or tempfile.gettempdir()))}") from error


def _remove_with(model: Any, copy: Path, code: VerifiedCode | None) -> weakref.finalize[Any, Any]:  # noqa: ANN401
    """Have the copy removed when the model goes, or when the result is called earlier."""
    remove = weakref.finalize(model, _remove_copy, copy, code)
    if code is not None:
        weakref.finalize(model, code.forget)
    return remove


def _remove_copy(copy: Path, code: VerifiedCode | None) -> None:
    """Remove a verified copy, and the directory that only its owner can enter around it."""
    if code is None or not code.imported:
        shutil.rmtree(copy.parent, ignore_errors=True)
        return
    code.close()
    shutil.rmtree(copy, ignore_errors=True)
    # The code knows where it lay, and may read there later: the directory keeps others from taking its place.
    code.when_the_process_ends(_remove_tree, copy.parent)


def _remove_tree(path: Path) -> None:
    shutil.rmtree(path, ignore_errors=True)


def _check_same_statement(one: Verification, other: LoadVerification) -> None:
    """Refuse parts of two versions: a signature file may be replaced between two readings, by another valid one."""
    if one.payload_sha256 != other.payload_sha256:
        raise MismatchError("the signature was exchanged while the model was being loaded")


def _check_vocabulary(tokenizer: Any, directory: Path) -> None:  # noqa: ANN401
    """Refuse what transformers makes where there is no vocabulary: a tokenizer that knows its special tokens alone."""
    # That file can say outright that all tokens are added ones.
    if not (directory / "tokenizer.json").is_file() and len(tokenizer) <= len(tokenizer.added_tokens_decoder):
        raise UnavailableError("there is no tokenizer among the signed files, or one without a vocabulary")


def is_small(path: str) -> bool:
    """Say whether a signed file is one to copy: no weights, of whatever framework."""
    return not path.lower().endswith(WEIGHT_SUFFIXES)


def _check_packages() -> None:
    """Refuse before anything is read what this environment would do with bytes from elsewhere."""
    with host_errors("transformers cannot be used", hint="pip install 'artifact-sentry[transformers]'"):
        import transformers  # noqa: F401, PLC0415
        from huggingface_hub import is_offline_mode  # noqa: PLC0415

    # Some models ask that package for kernels while they are built, whatever `local_files_only` says.
    if _has_package("kernels") and not is_offline_mode():
        raise UnavailableError(
            "the package kernels is installed, and would fetch code from a hub",
            hint="set HF_HUB_OFFLINE=1 before Python starts, or uninstall kernels",
        )


def _has_package(name: str) -> bool:
    spec = importlib.util.find_spec(name)
    return spec is not None and spec.origin is not None  # else a mere folder of that name


def _check_supported(copy: Path, weights: tuple[str, ...]) -> None:
    if not (copy / "config.json").is_file():
        raise UnavailableError("there is no signed config.json", hint="is this a model directory of transformers?")
    if not any(path.endswith(".safetensors") and "/" not in path for path in weights):
        pickles = [path for path in weights if path.endswith((".bin", ".pt", ".pth", ".ckpt"))]
        found = f"only {escape(pickles[0])}, a pickle, which runs code when it is read" if pickles else "none"
        raise UnavailableError(
            f"only safetensors weights are loaded, and there is {found}",
            hint="convert them: save_pretrained(..., safe_serialization=True), and sign again",
        )
