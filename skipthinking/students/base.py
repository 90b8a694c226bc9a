"""The student: a causal or encoder-decoder transformer, and everything the framework asks of it."""

from __future__ import annotations

import copy
import json
import logging
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn

from skipthinking.data.batches import Batch
from skipthinking.files import replacing_folder
from skipthinking.records import UserError
from skipthinking.students.heads import measure_targets
from skipthinking.students.measures import Measure, nll
from skipthinking.students.sharding import gathered

__all__ = ["Choose", "LoRA", "Student"]

Choose = Callable[[list[int], Tensor, Tensor], Tensor]
"""Maps the indices of B prompts, their ids so far (B, L) and the scores (B, V) of the next token to new scores."""

logging.getLogger("transformers").setLevel(logging.ERROR)  # its hints are about nothing that a run can change


@dataclass(frozen=True, kw_only=True)
class LoRA:
    """Low-rank adaptation through peft; checkpoints then hold the adapter only.

    Attributes:
        r: Rank.
        alpha: Scale; updates are multiplied by alpha / r.
        dropout: Dropout before the adapter.
        target_modules: Names of the layers to adapt, or "all-linear".
    """

    r: int = 16
    alpha: int = 32
    dropout: float = 0.0
    target_modules: str | list[str] = "all-linear"


class Student(nn.Module, ABC):
    """A model with its tokenizer: :meth:`prepare` makes the tokenizer, then :meth:`build` the weights."""

    model: Any
    tokenizer: Any

    def __init__(self, *, lora: LoRA | None, gradient_checkpointing: bool) -> None:
        super().__init__()
        self.lora, self.gradient_checkpointing = lora, gradient_checkpointing
        self.tokenizer = None
        self.model = None

    # ------------------------------------------------------------------------------- what differs

    @property
    @abstractmethod
    def config(self) -> Any:
        """The transformers config; needs no weights."""

    @abstractmethod
    def make_tokenizer(self, texts: Sequence[str], words: Sequence[str]) -> Any:
        """Loads the tokenizer, or trains it on the texts, with each word as one token."""

    @abstractmethod
    def make_model(self, trained: bool) -> Any:
        """Creates the model with its initial weights, in float32 if all of them are trained."""

    # ---------------------------------------------------------------------------------- life cycle

    trains_tokenizer: bool = False
    """Whether :meth:`prepare` needs the training texts."""

    @property
    def has_tokenizer(self) -> bool:
        """Whether the tokenizer has been made."""
        return self.tokenizer is not None

    @property
    def built(self) -> bool:
        """Whether the weights have been made."""
        return self.model is not None

    def prepare(self, texts: Sequence[str] = (), words: Sequence[str] = ()) -> None:
        """Makes the tokenizer.

        Args:
            texts: Training texts, for students that train their own.
            words: Texts that are single tokens of such a tokenizer.
        """
        if self.tokenizer is None:
            self.tokenizer = self.make_tokenizer(texts, words)

    def build(self, trained: bool = True) -> None:
        """Makes the model; later calls do nothing.

        Args:
            trained: Whether the student may be trained; without an adapter its weights are then in float32.
        """
        if self.model is not None:
            return
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(torch.initial_seed())  # initial weights depend on the seed alone, not on earlier draws
            model = self.make_model(trained and self.lora is None)
            model.generation_config = self._greedy(model.generation_config)
            if self.gradient_checkpointing:
                model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
                if self.lora:
                    model.enable_input_require_grads()
            if self.lora:
                model = _adapt(model, self.lora, self.encoder_decoder)
        self.model = model

    def _greedy(self, hub: Any) -> Any:
        """Greedy decoding with the hub's end tokens, and none of its sampling settings."""
        from transformers import GenerationConfig

        known = hub.eos_token_id if isinstance(hub.eos_token_id, list) else [hub.eos_token_id]
        ends = sorted({self.tokenizer.eos_token_id, *(id for id in known if id is not None)})
        return GenerationConfig(
            do_sample=False,
            eos_token_id=ends,
            pad_token_id=self.pad_id,
            bos_token_id=hub.bos_token_id,
            decoder_start_token_id=hub.decoder_start_token_id,
        )

    def tokenizer_state(self) -> str | None:
        """The trained tokenizer as JSON, for checkpoints; None if it comes from a name or folder."""
        return None

    def restore_tokenizer(self, state: str | None) -> None:
        """Takes the tokenizer of a checkpoint, if it holds one."""

    # ----------------------------------------------------------------------------------- properties

    @property
    def encoder_decoder(self) -> bool:
        """Whether prompts go to an encoder."""
        return bool(self.config.is_encoder_decoder)

    @property
    def context_length(self) -> int:
        """Most tokens of prompt and completion together; of an encoder-decoder student, of each by itself.

        It is what the positions allow. The tokenizer's limit counts for encoder-decoder students, and if positions have
        no limit.
        """
        config = self.config.get_text_config(decoder=True)
        # T5's n_positions bounds nothing: its positions are relative.
        names = ("max_position_embeddings",) if self.encoder_decoder else ("max_position_embeddings", "n_positions")
        limits = [limit for name in names if (limit := getattr(config, name, None))]
        if self.encoder_decoder or not limits:
            limits.append(getattr(self.tokenizer, "model_max_length", None) or 2**20)
        return min(*map(int, limits), 2**20)

    @property
    def pad_id(self) -> int:
        """Fills batches up; it is never attended to, so EOS serves if the tokenizer has no padding token."""
        pad = self.tokenizer.pad_token_id
        return int(self.tokenizer.eos_token_id if pad is None else pad)

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return next(self.parameters()).device

    # ----------------------------------------------------------------------------------------- use

    def token_nll(self, batch: Batch, change: Callable[[Tensor], Tensor] | None = None) -> Tensor:
        """NLL of every token with weight > 0, in row-major order, float32, shape (N,).

        Only target positions reach the vocabulary. A causal batch is right-padded, so no token sees its padding and it
        needs no mask.

        Args:
            batch: The batch.
            change: Changes the input embeddings, shape (B, L, D), before the model sees them: those of prompt and
                completion except the last token; of an encoder-decoder student, those of the prompt.
        """
        keep, targets, inputs = self._inputs(batch)
        if change is not None:
            inputs["inputs_embeds"] = change(self.embeddings(inputs.pop("input_ids")))
        return measure_targets(self.model, keep, targets, inputs, nll).squeeze(-1)

    def embeddings(self, ids: Tensor) -> Tensor:
        """Input embeddings of token ids, shape (*ids.shape, D)."""
        return self.model.get_input_embeddings()(ids)

    def measure(self, batch: Batch, measure: Measure) -> Tensor:
        """Measures every token with weight > 0, in row-major order, shape (N, K)."""
        return measure_targets(self.model, *self._inputs(batch), measure)

    def _inputs(self, batch: Batch) -> tuple[Tensor, Tensor, dict[str, Any]]:
        """Positions whose next token is a target, these tokens, and the model's inputs."""
        keep_BL = batch.weights_BL > 0
        if batch.prompts_BP is None:
            last = batch.tokens_BL.shape[1]
            return keep_BL[:, 1:last], batch.tokens_BL[keep_BL], {"input_ids": batch.tokens_BL[:, : last - 1]}
        assert batch.prompt_lengths_B is not None
        width = batch.prompts_BP.shape[1]
        start = torch.full_like(batch.tokens_BL[:, :1], self.config.decoder_start_token_id)
        inputs = {
            "input_ids": batch.prompts_BP,
            "attention_mask": torch.arange(width, device=start.device)[None, :] < batch.prompt_lengths_B[:, None],
            "decoder_input_ids": torch.cat([start, batch.tokens_BL[:, :-1]], dim=1),
        }
        return keep_BL, batch.tokens_BL[keep_BL], inputs

    def disable_dropout(self) -> None:
        """Sets every dropout probability to zero, for good; gradient checkpointing goes on."""
        for module in self.modules():
            if isinstance(module, nn.Dropout):
                module.p = 0.0
            # Attention layers hand their probability to the kernel as a plain number.
            for name, value in vars(module).items():
                if "dropout" in name and isinstance(value, float):
                    setattr(module, name, 0.0)

    @contextmanager
    def frozen(self) -> Iterator[None]:
        """Evaluation mode with whole weights and without gradients; the mode of every layer is restored afterwards."""
        modes = {module: module.training for module in self.modules()}
        self.eval()
        try:
            with torch.no_grad(), gathered(self):
                yield
        finally:
            for module, mode in modes.items():
                module.training = mode

    @torch.no_grad()
    def generate(
        self,
        prompts: Sequence[Tensor],
        max_new_tokens: int,
        begun: Sequence[Tensor] | None = None,
        choose: Choose | None = None,
    ) -> list[list[int]]:
        """Greedy completions, one per prompt: new ids up to and including EOS.

        A prompt that leaves less room than ``max_new_tokens`` in the context is completed separately, up to the limit.

        Args:
            prompts: Prompt ids.
            max_new_tokens: Most new tokens of each.
            begun: Start of each completion that is given already; it is not returned.
            choose: Changes the scores before the best next token is taken; sampling is greedy decoding of noisy scores.
        """
        given = list(begun) if begun is not None else [torch.empty(0, dtype=torch.long)] * len(prompts)
        if not self.encoder_decoder:
            prompts = [torch.cat([prompt.cpu(), part.cpu()]) for prompt, part in zip(prompts, given, strict=True)]
        before = given if self.encoder_decoder else prompts  # what shares the context with the new tokens
        rooms = [min(max_new_tokens, self.context_length - len(ids)) for ids in before]
        # The decoder input of an encoder-decoder can't be left-padded, so starts of equal length go together.
        together: dict[int, list[int]] = {}
        for i, room in enumerate(rooms):
            if room == max_new_tokens:
                together.setdefault(len(given[i]) if self.encoder_decoder else 0, []).append(i)
        groups = [*together.values(), *([i] for i, room in enumerate(rooms) if 0 < room < max_new_tokens)]
        out: list[list[int]] = [[] for _ in prompts]
        for group in groups:
            parts = torch.stack([given[i] for i in group]) if self.encoder_decoder else None
            draw = [partial(choose, group)] if choose else []
            made = self._generate([prompts[i] for i in group], rooms[group[0]], parts, draw)
            for i, ids in zip(group, made, strict=True):
                out[i] = ids
        return out

    def _generate(
        self, prompts: Sequence[Tensor], max_new_tokens: int, begun: Tensor | None, draw: list[Any]
    ) -> list[list[int]]:
        width = max(map(len, prompts))
        ids = torch.full((len(prompts), width), self.pad_id, dtype=torch.long)
        mask = torch.zeros_like(ids)
        for i, prompt in enumerate(prompts):
            place = slice(0, len(prompt)) if self.encoder_decoder else slice(width - len(prompt), width)
            ids[i, place], mask[i, place] = prompt.cpu(), 1
        inputs = {"input_ids": ids.to(self.device), "attention_mask": mask.to(self.device)}
        if begun is not None:
            start = torch.full((len(prompts), 1), self.config.decoder_start_token_id, dtype=torch.long)
            inputs["decoder_input_ids"] = torch.cat([start, begun.cpu()], dim=1).to(self.device)
            width = inputs["decoder_input_ids"].shape[1]
        # Ranks answer different numbers of prompts; sharded weights are gathered by now, so no rank waits for another.
        made = self.model.generate(**inputs, max_new_tokens=max_new_tokens, logits_processor=draw, synced_gpus=False)
        ends = set(self.model.generation_config.eos_token_id)
        return [until_end(row, ends) for row in made[:, width:].tolist()]

    def export(self, folder: Path, state: Mapping[str, Tensor] | None = None, marks: str | None = None) -> None:
        """Writes model and tokenizer so that transformers' ``from_pretrained`` loads them; LoRA is merged.

        Args:
            folder: Destination; replaced as one.
            state: All weights, if those of the model are sharded.
            marks: Regular expression of markers in its completions that are no part of their text. It is written into
                config.json for whoever decodes them.
        """
        if state is not None:
            self.model = None
            self.build()
            self.model.load_state_dict(state)
        model = copy.deepcopy(self.model).merge_and_unload() if self.lora else self.model
        model.config.completion_marks = marks  # replaces those of the model that this one was trained from
        with replacing_folder(folder) as partial, _no_progress():
            model.save_pretrained(partial)
            self.tokenizer.save_pretrained(partial)


@contextmanager
def _no_progress() -> Iterator[None]:
    """Hides transformers' progress bars: these take no time."""
    from transformers.utils import logging as hub_logging

    shown = hub_logging.is_progress_bar_enabled()
    hub_logging.disable_progress_bar()
    try:
        yield
    finally:
        if shown:
            hub_logging.enable_progress_bar()


def until_end(ids: list[int], ends: set[int]) -> list[int]:
    for i, id in enumerate(ids):
        if id in ends:
            return ids[: i + 1]
    return ids


def _adapt(model: Any, lora: LoRA, encoder_decoder: bool) -> Any:
    from peft import LoraConfig, get_peft_model

    task: Literal["SEQ_2_SEQ_LM", "CAUSAL_LM"] = "SEQ_2_SEQ_LM" if encoder_decoder else "CAUSAL_LM"
    try:
        return get_peft_model(
            model,
            LoraConfig(
                r=lora.r,
                lora_alpha=lora.alpha,
                lora_dropout=lora.dropout,
                target_modules=lora.target_modules,
                task_type=task,
            ),
        )
    except ValueError as error:
        raise UserError(f"Expected LoRA settings that fit the model, got {lora}: {error}") from error


def tokenizer_from_json(text: str, **settings: Any) -> Any:
    """A fast tokenizer from its JSON."""
    from tokenizers import Tokenizer
    from transformers import PreTrainedTokenizerFast

    return PreTrainedTokenizerFast(tokenizer_object=Tokenizer.from_str(json.dumps(json.loads(text))), **settings)
