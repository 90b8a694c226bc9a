"""KeypointWeighter: learns a weight for each rationale token, its importance for predicting the answer."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from skipthinking.annotate.annotator import Annotator, Context, Drawing, Notes
from skipthinking.annotate.rows import ById
from skipthinking.annotate.runner import say
from skipthinking.annotate.sampling import draw_stage
from skipthinking.data.batches import Batch
from skipthinking.data.module import RationaleDataModule
from skipthinking.files import write_jsonl
from skipthinking.losses import row_sums
from skipthinking.methods.base import Distiller
from skipthinking.methods.kpod.masks import MaskGenerator, masked, relaxed_masks, spread, uniform_noise
from skipthinking.methods.kpod.weights import weight_drawing
from skipthinking.records import Encoded, Instance, UserError
from skipthinking.students import Student

__all__ = ["KeypointWeighter"]

_COLLAPSED = (0.01, 0.99)  # a mean weight outside of this range is uninformative


class KeypointWeighter(Distiller):
    r"""Mask learning (KPOD, Feng et al., arXiv 2405.16064, Eq. 2-7): which rationale tokens the answer depends on.

    A generator gives every rationale token a keep-probability w. Masks are drawn by Gumbel-Softmax, and the masked
    rationale goes as embeddings into a transformer that predicts the answer from the question and a prefix of the
    rationale. The loss of an example is L_p + alpha * L_m: the summed answer NLL over all prefixes that end with a
    step, and the sum of the masks. One prefix is drawn uniformly per example and epoch, and its NLL is multiplied by
    the number of prefixes, so that L_p is unbiased. The loss of an optimizer step is the mean over its examples.

    At the end of training, ``annotations.jsonl`` in the run folder contains a weight per token for training and
    validation examples.

    Encoder-decoder students read question and masked prefix on the encoder side, and write the answer.

    Departures: the transformer is the given student (the paper: FlanT5-Large), and the generator reads its input
    embeddings without sending gradients to them; see MaskGenerator for its layers. The warm-up is ours: to an untrained
    transformer every token would look useless, so it first learns to continue, and to answer from, a randomly masked
    rationale. The ramp is ours, too.

    Args:
        student: The transformer that predicts the answer: a copy of the student, or another with its tokenizer.
        alpha: Weight of L_m: the cost of keeping a token, in nats.
        temperature: Temperature of Gumbel-Softmax.
        warmup_epochs: Epochs before masks are learned.
        ramp_epochs: Epochs after the warm-up over which alpha rises from 0. With the full alpha from the start, even
            useful tokens may be masked before their effect on the answer is learned.
        train_predictor: Whether the transformer is still trained after the warm-up. It may then learn to answer from
            the question alone, so that no token is worth its cost.
        kwargs: See Distiller.
    """

    def __init__(
        self,
        student: Student,
        alpha: float = 0.5,
        temperature: float = 0.5,
        warmup_epochs: int = 0,
        ramp_epochs: float = 0.0,
        train_predictor: bool = True,
        **kwargs: Any,
    ) -> None:
        super().__init__(student, **kwargs)
        if not (alpha >= 0 and temperature > 0 and warmup_epochs >= 0 and ramp_epochs >= 0):
            raise UserError(
                "Expected an alpha of at least 0, a temperature above 0 and 0 or more epochs, got "
                f"alpha={alpha}, temperature={temperature}, warmup_epochs={warmup_epochs}, ramp_epochs={ramp_epochs} "
                "of KeypointWeighter. Leave out what is outside of its range, for its default."
            )
        self.alpha, self.temperature = alpha, temperature
        self.warmup_epochs, self.ramp_epochs, self.train_predictor = warmup_epochs, ramp_epochs, train_predictor
        self.generator: MaskGenerator | None = None
        self._rows: Mapping[str, Encoded] = {}
        self._written = False

    def configure_model(self) -> None:
        """Builds the student and the generator."""
        super().configure_model()
        if self.generator is None:
            width = self.student.model.get_input_embeddings().weight.shape[1]
            with torch.random.fork_rng(devices=[]):
                torch.manual_seed(torch.initial_seed())
                self.generator = MaskGenerator(width)
            if not self.train_predictor and not self.warmup_epochs:
                self.student.requires_grad_(False)

    def prior_run(self, config: dict[str, Any], folder: Path, data: RationaleDataModule) -> None:
        """Checks that the run learns masks; no prior run is needed.

        Raises:
            UserError: The run ends within the warm-up.
        """
        epochs = config["trainer"]["max_epochs"]
        if epochs is not None and 0 <= epochs <= self.warmup_epochs:
            raise UserError(
                f"Expected epochs after the warm-up, got {epochs} of KeypointWeighter (trainer.max_epochs, in KPOD "
                f"model.weighter_epochs) with warmup_epochs={self.warmup_epochs}. Set trainer.max_epochs: "
                f"{self.warmup_epochs + 1} "
                f"or more (in KPOD model.weighter_epochs), or warmup_epochs: {max(0, epochs - 1)} or less."
            )

    # ------------------------------------------------------------------------------------ the instances

    def annotators(self) -> Sequence[Annotator[Any]]:
        """The annotator of the learned weights."""
        return [LearnedWeights(self._logits)]

    def on_train_start(self) -> None:
        """Indexes the examples by id, because the generator reads full rationales and batches hold prefixes."""
        super().on_train_start()
        self._rows = ById(self.data.encoded, lambda row: row)

    def make_instances(self, encoded: Encoded, notes: Notes) -> list[Instance]:
        """One instance: question and a prefix of the rationale -> answer; every prefix is equally frequent."""
        drawn = draw_stage("cycle", len(encoded.steps), seed=notes.seed, epoch=notes.epoch, id=encoded.id)
        assert drawn is not None
        return [self.prefix_instance(encoded, drawn + 1, warm_up=notes.epoch < self.warmup_epochs)]

    def prefix_instance(self, encoded: Encoded, steps: int, *, warm_up: bool) -> Instance:
        """The instance with a prefix of N steps.

        In the warm-up of causal students, the prefix is a target, too. After the warm-up, the answer's weights sum to
        1, so that the weights of an optimizer step sum to its number of instances.
        """
        prefix = encoded.tokens[: encoded.steps[steps - 1][1]]
        answer = encoded.tokens[slice(*encoded.answer)]
        weights = np.full(len(answer), 1.0 if warm_up else 1 / len(answer), dtype=np.float32)
        prompt = encoded.prompts[""]
        if self.student.encoder_decoder:
            start = self._start(encoded)
            prompt = np.concatenate([prompt[:start], prefix, prompt[start:]])
            return Instance(id=encoded.id, prompt=prompt, tokens=answer, weights=weights)
        return Instance(
            id=encoded.id,
            prompt=prompt,
            tokens=np.concatenate([prefix, answer]),
            weights=np.concatenate([np.full(len(prefix), float(warm_up), dtype=np.float32), weights]),
        )

    def _start(self, row: Encoded) -> int:
        """Position of the rationale in the model's input: after the prompt, but before an encoder prompt's EOS."""
        prompt = row.prompts[""]
        ended = self.student.encoder_decoder and prompt[-1] == self.student.tokenizer.eos_token_id
        return len(prompt) - ended

    # ----------------------------------------------------------------------------------------- training

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """Returns the micro-batch's share of the mean of L_p + alpha * L_m over the step's examples."""
        if self.current_epoch < self.warmup_epochs:
            share, mean = self._warm_up(batch)
        else:
            answer_B, masks_B, mean = self.losses(batch)
            share = (answer_B + self.price() * masks_B).sum() / batch.totals_K[0]
            self.log("train/answer_nll", answer_B.detach().mean(), batch_size=len(batch.ids))
        self.log("train/mean_weight", mean, prog_bar=True, batch_size=len(batch.ids))
        return self.scale_and_log(share, batch, batch_idx)

    def price(self) -> float:
        """Current alpha; it depends on optimizer steps, and so not on accumulation or ranks."""
        done = self.global_step / (self.steps_per_epoch or 1) - self.warmup_epochs
        return self.alpha * min(1.0, max(0.0, done / self.ramp_epochs)) if self.ramp_epochs else self.alpha

    def _warm_up(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """The share of the step's mean token NLL with random masks, and the mean weight of all tokens."""
        rows = [self._rows[id] for id in batch.ids]
        logits_BR, inside_BR = self._logits(rows)
        noise_BR = self._noise(batch.ids, logits_BR.shape[1] + 1)
        masks_BR = (noise_BR[:, 1:] < 2 * noise_BR[:, :1]).float()  # half of the rationales are unmasked
        nll_N = self._masked_nll(batch, rows, masks_BR)
        share = self.micro_batch_loss(nll_N, batch)
        unused = 0 * logits_BR.sum()  # DDP requires every weight in the graph
        return share + unused, torch.sigmoid(logits_BR.detach()[inside_BR]).mean()

    def losses(self, batch: Batch) -> tuple[Tensor, Tensor, Tensor]:
        """L_p and L_m of every example, each of shape (B,), and the mean weight of all tokens; 0 for weight-0 rows."""
        rows = [self._rows[id] for id in batch.ids]
        logits_BR, inside_BR = self._logits(rows)
        masks_BR = relaxed_masks(logits_BR, self._noise(batch.ids, logits_BR.shape[1]), self.temperature)
        nll_N = self._masked_nll(batch, rows, masks_BR)
        steps_B = nll_N.new_tensor([len(row.steps) for row in rows])
        answer_B = row_sums(nll_N, batch.where.rows_N, len(rows)) * steps_B
        counts = row_sums(torch.ones_like(nll_N), batch.where.rows_N, len(rows)) > 0
        masks_B = (masks_BR * inside_BR).sum(dim=1) * counts
        return answer_B, masks_B, torch.sigmoid(logits_BR.detach()[inside_BR]).mean()

    def _masked_nll(self, batch: Batch, rows: Sequence[Encoded], masks_BR: Tensor) -> Tensor:
        """NLL of the target tokens given the masked prefixes."""
        starts_B = torch.tensor([self._start(row) for row in rows], device=self.device)
        counts_B = self._shown(batch, rows)
        assert self.generator is not None
        hidden_D = self.generator.mask

        def change(embeddings_BLD: Tensor) -> Tensor:
            return masked(embeddings_BLD, spread(masks_BR, starts_B, counts_B, embeddings_BLD.shape[1]), hidden_D)

        return self.student.token_nll(batch, change)

    def _shown(self, batch: Batch, rows: Sequence[Encoded]) -> Tensor:
        """Number of rationale tokens in every instance's prefix, shape (B,)."""
        prompts_B = torch.tensor([len(row.prompts[""]) for row in rows], device=self.device)
        if batch.prompt_lengths_B is not None:
            return batch.prompt_lengths_B - prompts_B
        answers_B = torch.tensor([row.answer[1] - row.answer[0] for row in rows], device=self.device)
        return batch.lengths_B - prompts_B - answers_B

    def _logits(self, rows: Sequence[Encoded]) -> tuple[Tensor, Tensor]:
        """Logits of keep-probabilities for full rationales, float32, shape (B, R); and False for padding, (B, R)."""
        assert self.generator is not None
        lengths = [row.answer[0] for row in rows]
        ids_BR = torch.full((len(rows), max(lengths)), self.student.pad_id)
        for i, row in enumerate(rows):
            ids_BR[i, : lengths[i]] = torch.from_numpy(row.tokens[: lengths[i]])
        lengths_B = torch.tensor(lengths, device=self.device)
        embeddings_BRD = self.student.embeddings(ids_BR.to(self.device)).detach()
        inside_BR = torch.arange(ids_BR.shape[1], device=self.device)[None] < lengths_B[:, None]
        return self.generator(embeddings_BRD, inside_BR).float(), inside_BR

    def _noise(self, ids: Sequence[str], size: int) -> Tensor:
        seed = os.environ.get("PL_GLOBAL_SEED", "0")
        return uniform_noise([f"masks/{seed}/{self.current_epoch}/{id}" for id in ids], size).to(self.device)

    def on_before_optimizer_step(self, optimizer: torch.optim.Optimizer) -> None:
        """Freezes the transformer after the warm-up, by dropping gradients: DDP requires its weights in the graph."""
        super().on_before_optimizer_step(optimizer)
        if not self.train_predictor and self.current_epoch >= self.warmup_epochs:
            for parameter in self.student.parameters():
                parameter.grad = None

    def on_train_epoch_end(self) -> None:
        """Prints the mean weight, so that a collapse is visible early."""
        super().on_train_epoch_end()
        mean = float(self.trainer.callback_metrics["train/mean_weight"])
        if self.current_epoch >= self.warmup_epochs:
            say(f"token weights: mean {mean:.3f} after epoch {self.current_epoch}{_verdict(mean)}")

    def on_train_end(self) -> None:
        """Writes the weights of training and validation examples into the run folder."""
        self._written = True
        rows = self.data.annotation_rows()
        if self.trainer.is_global_zero:
            write_jsonl(Path(self.trainer.default_root_dir) / "annotations.jsonl", rows)

    def on_fit_end(self) -> None:
        """Writes them for a run that was killed after its last step too: resumed, it has no training to end."""
        if not self._written:
            self.on_train_end()


class LearnedWeights(Annotator[NDArray[np.float32]]):
    """Keep-probability of every rationale token under the current generator.

    Args:
        logits: Maps B examples to logits of shape (B, R), and a padding mask.
    """

    name = "weights"
    title = "Token weights"
    dtype = "float32"
    for_display = True
    for_validation = True

    def __init__(self, logits: Callable[[Sequence[Encoded]], tuple[Tensor, Tensor]]) -> None:
        self.logits = logits

    def annotate(self, rows: Sequence[Encoded], context: Context) -> Mapping[str, NDArray[np.float32]]:
        """One pass of the generator."""
        logits_BR, _ = self.logits(rows)
        weights_BR = torch.sigmoid(logits_BR).cpu().numpy()
        return {row.id: weights[: row.answer[0]] for row, weights in zip(rows, weights_BR, strict=True)}

    def report(self, values: Mapping[str, NDArray[np.float32]], rows: Sequence[Encoded], context: Context) -> str:
        """The mean weight, and whether the masks have collapsed."""
        total = sum(float(value.sum(dtype=np.float64)) for value in values.values())
        mean = total / sum(map(len, values.values()))
        return f"token weights: mean {mean:.3f} over {len(rows):,} rationales{_verdict(mean)}"

    def draw(self, value: NDArray[np.float32], encoded: Encoded, codec: Any) -> Drawing:
        """Tokens colored by weight."""
        return weight_drawing(encoded, value, codec)


def _verdict(mean: float) -> str:
    """A warning if the masks have collapsed; else empty."""
    if _COLLAPSED[0] < mean < _COLLAPSED[1]:
        return ""
    return (
        "\nwarning: nearly every token has the same weight. The masks collapsed; "
        f"{'lower' if mean < 0.5 else 'raise'} alpha, or train the transformer longer (warmup_epochs)."
    )
