"""The student: a causal or encoder-decoder transformer, with training losses, generation and export."""

from __future__ import annotations

import copy
import json
import logging
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn

from skipthinking.data.batches import Batch
from skipthinking.data.packing import Layout
from skipthinking.files import replacing_folder
from skipthinking.records import UserError
from skipthinking.settings import Configurable
from skipthinking.students.compiling import compile_layers, uncompiled
from skipthinking.students.completions import NO_PREFIX, Choose, Completions
from skipthinking.students.heads import measure_targets
from skipthinking.students.measures import Measure, nll
from skipthinking.students.memory import pass_tokens, release_unused, search_tokens
from skipthinking.students.merging import merged
from skipthinking.students.origin import Origin
from skipthinking.students.packing import layout_of, packing_known, share_rows
from skipthinking.students.sharding import gathered
from skipthinking.students.tokenizing import leave_open, save_without_class

__all__ = ["LoRA", "Student", "without_progress"]

logging.getLogger("transformers").setLevel(logging.ERROR)  # its warnings are about nothing that a user can fix


@dataclass(frozen=True, kw_only=True)
class LoRA:
    """Low-rank adaptation (peft); checkpoints contain the adapter only.

    Attributes:
        r: Rank.
        alpha: Scale; updates are multiplied by alpha / r. By default 2 r, so that this factor does not depend on r.
        dropout: Dropout before the adapter.
        target_modules: Names of the layers to adapt, or "all-linear".
    """

    r: int = 16
    alpha: int | None = None
    dropout: float = 0.0
    target_modules: str | list[str] = "all-linear"

    @property
    def alpha_or_default(self) -> int:
        """Alpha, if it is set, else 2 r."""
        return 2 * self.r if self.alpha is None else self.alpha

    def describe(self) -> str:
        """A line for the start report: a config may set the rank on top of another config's alpha."""
        alpha = self.alpha_or_default
        return f"LoRA of rank {self.r}, alpha {alpha}: updates are multiplied by {alpha / self.r:g}"


class Student(Configurable, nn.Module, ABC):
    """A model, initially its settings only; :meth:`prepare` creates the tokenizer, and :meth:`build` the weights."""

    model: Any
    tokenizer: Any

    def __init__(self, *, lora: LoRA | None, gradient_checkpointing: bool, compiled: bool = False) -> None:
        super().__init__()
        self.lora, self.gradient_checkpointing, self.compiled = lora, gradient_checkpointing, compiled
        self.tokenizer = None
        self._reopened = False  # whether the tokenizer's post-processor is not that of its class
        self.model = None

    # ------------------------------------------------------------------------------- what differs

    @property
    @abstractmethod
    def config(self) -> Any:
        """The transformers config; available before the weights."""

    @abstractmethod
    def make_tokenizer(self, texts: Sequence[str], words: Sequence[str]) -> Any:
        """Loads the tokenizer, or trains it on the texts, with ``words`` as added tokens."""

    @abstractmethod
    def make_model(self, trained: bool) -> Any:
        """Creates the model with initial weights; if all weights are trained, in float32."""

    def origin(self) -> Origin:
        """Where the initial weights come from, for the model card."""
        return Origin()

    def make_outline(self, trained: bool) -> Any:
        """Creates the model as :meth:`make_model` does, with random weights."""
        return self.make_model(trained)

    # ---------------------------------------------------------------------------------- life cycle

    trains_tokenizer: bool = False
    """Whether :meth:`prepare` needs the training texts."""

    @property
    def has_tokenizer(self) -> bool:
        """Whether :meth:`prepare` was called."""
        return self.tokenizer is not None

    @property
    def built(self) -> bool:
        """Whether :meth:`build` was called."""
        return self.model is not None

    def prepare(self, texts: Sequence[str] = (), words: Sequence[str] = ()) -> None:
        """Creates the tokenizer; repeated calls do nothing.

        Args:
            texts: Training texts, for students that train a tokenizer.
            words: Texts that become single tokens of a trained tokenizer.
        """
        if self.tokenizer is None:
            self.tokenizer = self.make_tokenizer(texts, words)
            self._reopened = not self.encoder_decoder and leave_open(self.tokenizer)

    def build(self, trained: bool = True) -> None:
        """Creates the model; repeated calls do nothing.

        Args:
            trained: Whether the student is trained; if so, weights without an adapter are in float32.
        """
        if self.model is not None:
            return
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(torch.initial_seed())  # initial weights depend only on the seed
            self.model = self._prepared(self.make_model(trained and self.lora is None))
            if self.compiled:
                compile_layers(self.model)

    def outline(self) -> Student:
        """A copy to be trained, built from the config, without the weights of a hub or file; they are random."""
        twin = copy.copy(self)  # shares tokenizer and settings
        twin._modules = {}
        twin.model = self._prepared(self.make_outline(self.lora is None))
        return twin

    def _prepared(self, model: Any) -> Any:
        """The model with greedy decoding, gradient checkpointing and an adapter, as the settings say."""
        model.generation_config = self._greedy(model.generation_config)
        if self.gradient_checkpointing:
            model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
            if self.lora:
                model.enable_input_require_grads()
        return _adapt(model, self.lora, self.encoder_decoder) if self.lora else model

    def _greedy(self, hub: Any) -> Any:
        """Config of greedy decoding with the end tokens of the hub's config, without its sampling settings."""
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
        """The trained tokenizer as JSON, for checkpoints; None if it is loaded by name."""
        return None

    def restore_tokenizer(self, state: str | None) -> None:
        """Restores the tokenizer of a checkpoint, if there is one."""

    # ----------------------------------------------------------------------------------- properties

    @property
    def encoder_decoder(self) -> bool:
        """Whether prompts go to an encoder."""
        return bool(self.config.is_encoder_decoder)

    @property
    def context_length(self) -> int:
        """Maximum number of tokens of prompt plus completion; of each separately for encoder-decoder students.

        It follows from the position embeddings. The tokenizer's limit applies to encoder-decoder students, and to
        models without a limit on positions.
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
        """Id of padding tokens; EOS if the tokenizer has none, because padding is always masked."""
        pad = self.tokenizer.pad_token_id
        return int(self.tokenizer.eos_token_id if pad is None else pad)

    @property
    def device(self) -> torch.device:
        """Device of the weights."""
        return next(self.parameters()).device

    # ----------------------------------------------------------------------------------------- use

    def token_nll(self, batch: Batch, change: Callable[[Tensor], Tensor] | None = None) -> Tensor:
        """NLL of every target token, instance by instance, float32, shape (N,).

        Only target positions are projected to the vocabulary. Causal batches are right-padded, so no token attends to
        padding and no mask is needed.

        Args:
            batch: The batch.
            change: Maps the input embeddings, shape (B, L, D), to new ones before the model: of prompt and completion
                without the last token for causal students, of the prompt for encoder-decoder students.
        """
        return self.measure(batch, nll, change).squeeze(-1)

    def embeddings(self, ids: Tensor) -> Tensor:
        """Input embeddings of token ids, shape (*ids.shape, D)."""
        return self.model.get_input_embeddings()(ids)

    def measure(self, batch: Batch, measure: Measure, change: Callable[[Tensor], Tensor] | None = None) -> Tensor:
        """Measures every target token, instance by instance, shape (N, K); for ``change`` see :meth:`token_nll`."""
        inputs = self._inputs(batch)
        if change is not None:
            inputs["inputs_embeds"] = change(self.embeddings(inputs.pop("input_ids")))
        if batch.packed is not None:
            inputs = share_rows(inputs, batch.packed)
        with packing_known(batch.packed):
            return measure_targets(self.model, batch.where.places_N, batch.where.ids_N, inputs, measure)

    def _inputs(self, batch: Batch) -> dict[str, Any]:
        """Inputs of the model, one row per instance."""
        if batch.prompts_BP is None:
            return {"input_ids": batch.tokens_BL[:, :-1]}
        assert batch.prompt_lengths_B is not None
        width = batch.prompts_BP.shape[1]
        start = torch.full_like(batch.tokens_BL[:, :1], self.config.decoder_start_token_id)
        return {
            "input_ids": batch.prompts_BP,
            "attention_mask": torch.arange(width, device=start.device)[None, :] < batch.prompt_lengths_B[:, None],
            "decoder_input_ids": torch.cat([start, batch.tokens_BL[:, :-1]], dim=1),
        }

    def layout(self, packing: bool | Literal["auto"]) -> tuple[Layout | None, str]:
        """How instances share rows, and a line for the start report, which may be empty; see :func:`layout_of`."""
        return layout_of(self, packing)

    def disable_dropout(self) -> None:
        """Permanently sets every dropout probability to zero; unlike ``eval()``, keeps gradient checkpointing."""
        for module in self.modules():
            if isinstance(module, nn.Dropout):
                module.p = 0.0
            # Attention layers store the probability as a float and pass it to the kernel.
            for name, value in vars(module).items():
                if "dropout" in name and isinstance(value, float):
                    setattr(module, name, 0.0)

    @contextmanager
    def frozen(self, merge: bool = True) -> Iterator[None]:
        """Evaluation mode with gathered weights and without gradients; restores the mode of every layer at the end.

        Args:
            merge: Whether adapters are merged, see :func:`skipthinking.students.merging.merged`.
        """
        modes = {module: module.training for module in self.modules()}
        self.eval()
        try:
            merging = merged(self) if merge else nullcontext()
            with torch.no_grad(), gathered(self), uncompiled(self.compiled), merging:
                yield
        finally:
            for module, mode in modes.items():
                module.training = mode

    @torch.no_grad()
    def generate(
        self,
        prompts: Sequence[Tensor],
        max_new_tokens: int | Sequence[int],
        prefixes: Sequence[Tensor] | None = None,
        choose: Choose | None = None,
        at_once: int | None = None,
    ) -> list[list[int]]:
        """Greedy completions, one per prompt: new ids up to and including EOS.

        Several completions are written by continuous batching, see :class:`Completions`. A single one is written by
        transformers' ``generate``, as users of the exported student do it.

        Args:
            prompts: Prompt ids.
            max_new_tokens: Maximum number of new tokens of all completions, or of each; the context may leave less.
            prefixes: Given starts of the completions, which are not returned.
            choose: Changes the scores from which the best next token is chosen; added Gumbel noise makes it sampling.
            at_once: Maximum number of completions that are written together; by default, memory alone is the limit.
        """
        completions = Completions(self, at_once, choose, continuous=len(prompts) > 1)
        given = prefixes if prefixes is not None else [NO_PREFIX] * len(prompts)
        limits = [max_new_tokens] * len(prompts) if isinstance(max_new_tokens, int) else max_new_tokens
        longest_first = sorted(range(len(prompts)), key=lambda i: -len(prompts[i]) - len(given[i]))
        for i in longest_first:
            completions.add(i, prompts[i], limits[i], given[i])
        done = completions.run()
        return [done[i] for i in range(len(prompts))]

    def block_tokens(self, cached: bool = False) -> int:
        """Tokens that a search handles together, by the memory of this process.

        Args:
            cached: Whether the search keeps keys and values of all tokens; if not, it only scores them.
        """
        return search_tokens(self) if cached else pass_tokens(self)

    def release_memory(self) -> None:
        """Gives the memory of a search or of generation back, once it is over; see :func:`release_unused`."""
        release_unused(self.device)

    def completions(self, at_once: int) -> Completions:
        """A queue of prompts, of which so many at most are completed together."""
        return Completions(self, at_once)

    def export(
        self,
        folder: Path,
        state: Mapping[str, Tensor] | None = None,
        marks: str | None = None,
        *,
        chat_template: str | None = None,
        max_new_tokens: int | None = None,
    ) -> None:
        """Writes model and tokenizer in the format of transformers' ``from_pretrained``; merges LoRA.

        Args:
            folder: The output folder.
            state: Full weights, if those of the model are sharded.
            marks: Regular expression for non-text parts of completions, written to config.json as completion_marks.
            chat_template: The tokenizer's chat template, "" for none; by default the one that it has.
            max_new_tokens: What ``generate`` writes at most by default.
        """
        if state is not None:
            self.model = None
            self.build()
            self.model.load_state_dict(state)
        model = copy.deepcopy(self.model).merge_and_unload() if self.lora else self.model
        model.config.completion_marks = marks  # overwrites the marks of the initial model
        tokenizer, generation = copy.copy(self.tokenizer), copy.deepcopy(model.generation_config)
        tokenizer.chat_template = self.tokenizer.chat_template if chat_template is None else chat_template or None
        generation.max_new_tokens = max_new_tokens
        with replacing_folder(folder) as partial, without_progress():
            model.save_pretrained(partial)
            generation.save_pretrained(partial)
            tokenizer.save_pretrained(partial)
            if self._reopened:
                save_without_class(partial)


@contextmanager
def without_progress() -> Iterator[None]:
    """Hides the progress bars of transformers and the hub, for work that takes seconds."""
    from transformers.utils import logging as hub_logging

    shown = hub_logging.is_progress_bar_enabled()
    hub_logging.disable_progress_bar()
    try:
        yield
    finally:
        if shown:
            hub_logging.enable_progress_bar()


def _adapt(model: Any, lora: LoRA, encoder_decoder: bool) -> Any:
    from peft import LoraConfig, get_peft_model

    task: Literal["SEQ_2_SEQ_LM", "CAUSAL_LM"] = "SEQ_2_SEQ_LM" if encoder_decoder else "CAUSAL_LM"
    try:
        return get_peft_model(
            model,
            LoraConfig(
                r=lora.r,
                lora_alpha=lora.alpha_or_default,
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
