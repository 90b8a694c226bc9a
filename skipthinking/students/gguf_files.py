"""GGUF files, the format of llama.cpp: quantized weights, tokenizer and chat template in a single file."""

from __future__ import annotations

import io
import struct
from collections.abc import Callable
from contextlib import redirect_stderr
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from skipthinking.records import UserError
from skipthinking.students.base import without_progress
from skipthinking.students.memory import is_device_error

__all__ = ["GGUF", "find_gguf"]

# What transformers and gguf raise for a file that they cannot read.
_FAULTS = (OSError, ValueError, RuntimeError, ImportError, LookupError, ArithmeticError, TypeError, struct.error)

# Values of tokenizer.ggml.pre for which llama.cpp makes a piece of every digit before it splits text as GPT-2 does.
_SINGLE_DIGITS = ("smollm", "starcoder", "refact", "command-r", "codeshell", "exaone", "minerva-7b")


@dataclass(frozen=True, kw_only=True, slots=True)
class GGUF:
    """A GGUF file with a causal model of an architecture that transformers reads.

    Its methods raise UserError if the file is broken, or has another kind of model.

    Attributes:
        path: The file.
    """

    path: Path

    def config(self) -> Any:
        """The config of the model."""
        from transformers import AutoConfig

        config = self._load(AutoConfig.from_pretrained, str(self.path.parent))
        if config.is_encoder_decoder:
            raise self._misfit(f"{config.model_type} is an encoder-decoder model.")
        return config

    def tokenizer(self) -> Any:
        """The tokenizer with the chat template.

        AutoTokenizer would first read the config, which takes seconds, and prefer a tokenizer.json beside the file.
        """
        from tokenizers import pre_tokenizers
        from transformers import PreTrainedTokenizerFast

        tokenizer = self._load(PreTrainedTokenizerFast, name_or_path=str(self.path.parent))
        if self.metadata().get("tokenizer.ggml.pre") in _SINGLE_DIGITS:
            backend = tokenizer.backend_tokenizer
            digits = pre_tokenizers.Digits(individual_digits=True)
            backend.pre_tokenizer = pre_tokenizers.Sequence([digits, backend.pre_tokenizer])
        return tokenizer

    def model(self, config: Any, **settings: Any) -> tuple[Any, dict[str, Any]]:
        """The model with dequantized weights, and transformers' report of missing ones.

        Args:
            config: The result of :meth:`config`, which takes seconds to read.
            settings: Other arguments of ``from_pretrained``.
        """
        from transformers import AutoModelForCausalLM, GgufConfig

        # Otherwise weights may stay packed where a kernel is installed, and transformers refuses to save the model.
        unpacked = GgufConfig(dequantize=True)
        settings.update(config=config, quantization_config=unpacked)
        model, report = self._load(AutoModelForCausalLM.from_pretrained, str(self.path.parent), **settings)
        generation = model.generation_config
        ends = generation.eos_token_id if isinstance(generation.eos_token_id, list) else [generation.eos_token_id]
        # The end of a turn, which differs from EOS in Gemma 2 for one: 107 and 1.
        generation.eos_token_id = [*ends, self.metadata().get("tokenizer.ggml.eot_token_id")]
        return model, report

    def metadata(self) -> dict[str, Any]:
        """Its key-value pairs, such as general.license."""
        from transformers.integrations.gguf import read_gguf_metadata

        return dict(read_gguf_metadata(str(self.path))[0])

    def _load(self, load: Callable[..., Any], *folder: str, **settings: Any) -> Any:
        try:
            # The bar of dequantization is written to stderr, whatever transformers' settings.
            with without_progress(), redirect_stderr(io.StringIO()):
                return load(*folder, gguf_file=self.path.name, **settings)
        except _FAULTS as error:
            if is_device_error(error):
                raise
            raise self._misfit(f"{' '.join(str(error).split())[:300]} ({type(error).__name__})") from error

    def _misfit(self, reason: str) -> UserError:
        return UserError(
            f"Expected a GGUF file with a causal model that transformers reads, got {str(self.path)!r}: {reason} Fix "
            "model.student.name, fetch the file again, or give the folder or hub name of the original model."
        )


def find_gguf(name: str, gguf_file: str | None, revision: str | None) -> GGUF | None:
    """The GGUF file of a model; None if the model has another format.

    Args:
        name: A GGUF file, a folder, or a hub name.
        gguf_file: Name of the file in the folder or on the hub; not needed if the folder has one GGUF file and no
            config.json.
        revision: Branch, tag or commit on the hub.

    Raises:
        UserError: There is no such file, the folder has several and ``gguf_file`` is missing, or the package gguf is
            not installed.
    """
    path = Path(name)
    if path.is_dir():
        path = _in_folder(path, gguf_file)
    elif name.endswith(".gguf") and gguf_file is not None:
        raise UserError(
            f"Expected a folder or a hub name beside gguf_file, got model.student.name={name} and "
            f"model.student.gguf_file={gguf_file}. Leave out model.student.gguf_file."
        )
    elif gguf_file is not None:
        path = _from_hub(name, gguf_file, revision)
    if path.suffix != ".gguf":
        return None
    if not path.is_file():
        raise UserError(f"Expected a GGUF file, got {str(path)!r}, which does not exist. Fix model.student.name.")
    if find_spec("gguf") is None:
        raise UserError(
            f"Expected the package gguf, which reads {str(path)!r}, got none. Install it: pip install "
            "'skipthinking[gguf]'."
        )
    return GGUF(path=path)


def _in_folder(folder: Path, gguf_file: str | None) -> Path:
    names = sorted(path.name for path in folder.glob("*.gguf"))
    if gguf_file is not None and gguf_file not in names:
        raise UserError(
            f"Expected a GGUF file of {str(folder)!r} ({', '.join(names) or 'it has none'}), got {gguf_file!r}. Fix "
            "model.student.gguf_file, or leave it out for a model in another format."
        )
    if gguf_file is None and (not names or (folder / "config.json").exists()):
        return folder
    if gguf_file is None and len(names) > 1:
        raise UserError(
            f"Expected one GGUF file in {str(folder)!r}, got {len(names)}: {', '.join(names)}. Set "
            f"model.student.gguf_file: {names[0]}, for example."
        )
    return folder / (gguf_file or names[0])


def _from_hub(name: str, gguf_file: str, revision: str | None) -> Path:
    from transformers.utils import cached_file

    try:
        return Path(str(cached_file(name, gguf_file, revision=revision)))
    except OSError as error:
        raise UserError(
            f"Expected a GGUF file in a folder or on the hub, got {gguf_file!r} of {name!r}: "
            f"{' '.join(str(error).split())[:300]} Fix model.student.name or model.student.gguf_file, or check the "
            "network."
        ) from error
