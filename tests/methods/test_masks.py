"""Mask learning: its pure parts against torch's own, and the masked pass against one sequence at a time."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from searches import on_ranks, search
from students.tiny import CONFIGS, batch_of
from torch import Tensor

from skipthinking.annotate.annotator import Notes
from skipthinking.annotate.columns import Column
from skipthinking.data.encoding import Codec, Plain
from skipthinking.data.steps import Sentences
from skipthinking.methods import KeypointWeighter
from skipthinking.methods.kpod.masks import MaskGenerator, masked, relaxed_masks, spread, uniform_noise
from skipthinking.methods.kpod.weighter import LearnedWeights
from skipthinking.methods.kpod.weights import read_weights, weight_drawing
from skipthinking.records import DataError, Encoded, Instance, UserError
from skipthinking.students import FromScratch
from skipthinking.tasks import generate

ROWS = generate("coin_flip", split="train", size=6, levels=[2, 2])


class World:
    """A small random student, and a weighter around it without a trainer."""

    def __init__(self, architecture: str = "gpt2", **settings: Any) -> None:
        config = {**CONFIGS[architecture], **({"n_positions": 512} if architecture == "gpt2" else {})}
        student: Any = FromScratch(architecture, config, vocab_size=600)
        student.prepare([f"{row.question} {row.rationale}" for row in ROWS])
        torch.manual_seed(0)
        self.weighter: Any = KeypointWeighter(student=student, **settings)
        self.weighter.configure_model()
        self.student: Any = student.eval()
        self.codec = Codec(tokenizer=student.tokenizer, template=Plain(), splitter=Sentences())
        self.encoded = list(self.codec.encode(ROWS))
        if architecture == "t5":  # as T5's own tokenizer does
            end = student.tokenizer.eos_token_id
            self.encoded = [replace(row, prompts={"": np.append(row.prompts[""], end)}) for row in self.encoded]
        self.weighter._rows = {row.id: row for row in self.encoded}

    def instances(self, prefixes: list[int], *, warm_up: bool = False) -> list[Instance]:
        """An instance of every example, with a prefix of so many steps."""
        rows = zip(self.encoded, prefixes, strict=True)
        return [self.weighter.prefix_instance(row, prefix, warm_up=warm_up) for row, prefix in rows]

    def answer_nll(self, row: Encoded, prefix: int, masks: Tensor) -> Tensor:
        """Summed NLL of the answer after a masked prefix: the embeddings of one sequence, put together by hand."""
        table, mask = self.student.model.get_input_embeddings().weight, self.weighter.generator.mask
        shown = torch.from_numpy(row.tokens[: row.steps[prefix - 1][1]])
        answer = torch.from_numpy(row.tokens[slice(*row.answer)])
        prompt = torch.from_numpy(row.prompts[""])
        mixed = [float(m) * table[id] + (1 - float(m)) * mask for id, m in zip(shown, masks, strict=False)]
        before, after = prompt, prompt[:0]
        if self.student.encoder_decoder:
            assert prompt[-1] == self.student.tokenizer.eos_token_id
            before, after = prompt[:-1], prompt[-1:]
        inputs = torch.stack([*table[before], *mixed, *table[after]])
        if self.student.encoder_decoder:
            start = torch.tensor([self.student.config.decoder_start_token_id])
            ids = torch.cat([start, answer[:-1]])[None]
            logits = self.student.model(inputs_embeds=inputs[None], decoder_input_ids=ids).logits[0]
        else:
            whole = torch.cat([inputs, table[answer]])
            logits = self.student.model(inputs_embeds=whole[None]).logits[0, len(inputs) - 1 : -1]
        return -logits.log_softmax(dim=-1)[torch.arange(len(answer)), answer].sum()


def _fixed(world: World, masks: dict[str, Tensor], monkeypatch: pytest.MonkeyPatch) -> None:
    """Makes the weighter's masks those given, by example id."""
    size = max(map(len, masks.values()))
    rows = torch.stack([torch.nn.functional.pad(mask, (0, size - len(mask))) for mask in masks.values()])
    monkeypatch.setattr("skipthinking.methods.kpod.weighter.relaxed_masks", lambda *_: rows)
    monkeypatch.setattr(KeypointWeighter, "current_epoch", 0)


# ------------------------------------------------------------------------------------------ pure parts


def test_masks_are_torchs_relaxed_bernoulli() -> None:
    logits, noise = torch.randn(1000), torch.rand(1000).clamp(1e-4, 1 - 1e-4)
    oracle = torch.distributions.RelaxedBernoulli(torch.tensor(0.7), logits=logits)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch.distributions.relaxed_bernoulli, "clamp_probs", lambda x: x)
        patch.setattr(torch, "rand", lambda *a, **k: noise)
        expected = oracle.rsample()
    torch.testing.assert_close(relaxed_masks(logits, noise, 0.7), expected)


def test_a_mask_is_above_a_half_with_the_keep_probability() -> None:
    noise = torch.rand(200_000, generator=torch.Generator().manual_seed(0))
    for keep in (0.1, 0.5, 0.9):
        for temperature in (0.1, 2.0):
            masks = relaxed_masks(torch.logit(torch.tensor(keep)), noise, temperature)
            assert float((masks > 0.5).float().mean()) == pytest.approx(keep, abs=0.005)


def test_noise_is_a_function_of_its_key_alone() -> None:
    alone, together = uniform_noise(["b"], 5), uniform_noise(["a", "b", "c"], 9)
    assert torch.equal(alone[0], together[1, :5])
    assert not torch.equal(together[0], together[1])


def test_masks_lie_where_the_prefix_lies() -> None:
    found = spread(torch.tensor([[0.1, 0.2, 0.3], [0.4, 0.5, 0.6]]), torch.tensor([1, 0]), torch.tensor([2, 3]), 5)
    torch.testing.assert_close(found, torch.tensor([[1, 0.1, 0.2, 1, 1], [0.4, 0.5, 0.6, 1, 1]]))


def test_a_kept_token_is_itself_and_a_masked_one_is_the_mask() -> None:
    embeddings, mask = torch.randn(1, 2, 4), torch.randn(4)
    found = masked(embeddings, torch.tensor([[1.0, 0.0]]), mask)
    torch.testing.assert_close(found[0], torch.stack([embeddings[0, 0], mask]))


def test_padding_changes_no_weight() -> None:
    torch.manual_seed(0)
    generator, rows = MaskGenerator(8).eval(), torch.randn(2, 6, 8)
    together = generator(rows, torch.tensor([[True] * 6, [True] * 3 + [False] * 3]))
    alone = generator(rows[1:, :3], torch.ones(1, 3, dtype=torch.bool))
    torch.testing.assert_close(together[1, :3], alone[0])


# --------------------------------------------------------------------------------------- the losses


@pytest.mark.parametrize("architecture", ["gpt2", "llama", "t5"])
def test_the_masked_answer_loss_is_that_of_one_sequence_at_a_time(
    architecture: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    if architecture == "llama":
        monkeypatch.setitem(CONFIGS, "llama", {**CONFIGS["llama"], "max_position_embeddings": 512})
    world = World(architecture)
    torch.nn.init.normal_(world.weighter.generator.mask)
    masks = {row.id: torch.rand(row.answer[0]) for row in world.encoded}
    _fixed(world, masks, monkeypatch)
    prefixes = [1 + i % len(row.steps) for i, row in enumerate(world.encoded)]
    answer, dropped, _ = world.weighter.losses(batch_of(world.student, world.instances(prefixes)))
    for i, (row, prefix) in enumerate(zip(world.encoded, prefixes, strict=True)):
        expected = len(row.steps) * world.answer_nll(row, prefix, masks[row.id])
        torch.testing.assert_close(answer[i], expected, rtol=1e-4, atol=1e-4)
        torch.testing.assert_close(dropped[i], masks[row.id].sum())


def test_one_prefix_an_epoch_counts_for_all_without_bias(monkeypatch: pytest.MonkeyPatch) -> None:
    """The mean over as many epochs as there are steps is the sum over all prefixes, exactly."""
    world = World()
    masks = {row.id: torch.rand(row.answer[0]) for row in world.encoded}
    _fixed(world, masks, monkeypatch)
    for place, row in enumerate(world.encoded):
        drawn, found = [], []
        for epoch in range(len(row.steps)):
            made = [one for r in world.encoded for one in world.weighter.make_instances(r, Notes(epoch=epoch, seed=3))]
            answer, _, _ = world.weighter.losses(batch_of(world.student, made))
            shown = len(made[place].tokens) - (row.answer[1] - row.answer[0])  # tokens of the prefix
            drawn.append([end for _, end in row.steps].index(shown) + 1)
            found.append(answer[place])
        assert sorted(drawn) == list(range(1, len(row.steps) + 1))
        whole = sum(world.answer_nll(row, prefix, masks[row.id]) for prefix in drawn)
        torch.testing.assert_close(torch.stack(found).mean(), whole, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("term", [0, 1])
@pytest.mark.parametrize("architecture", ["gpt2", "t5"])
def test_each_loss_term_alone_reaches_the_generator(
    term: int, architecture: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    world = World(architecture)
    monkeypatch.setattr(KeypointWeighter, "current_epoch", 0)
    batch = batch_of(world.student, world.instances([len(row.steps) for row in world.encoded]))
    world.weighter.losses(batch)[term].sum().backward()
    for name, parameter in world.weighter.generator.named_parameters():
        if name != "mask" or term == 0:  # the penalty does not ask what stands for a token that is left out
            assert parameter.grad is not None, name
            assert float(parameter.grad.abs().sum()) > 0 or name == "attention.in_proj_bias", name
    reached = any(p.grad is not None and p.grad.abs().sum() > 0 for p in world.student.parameters())
    assert reached == (term == 0)  # the penalty does not teach the transformer


def test_a_ghost_of_an_instance_counts_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    world = World()
    monkeypatch.setattr(KeypointWeighter, "current_epoch", 0)
    rows = [replace(row, weights=np.zeros_like(row.weights)) for row in world.instances([1] * len(world.encoded))]
    answer, dropped, _ = world.weighter.losses(batch_of(world.student, rows))
    assert float(answer.sum()) == float(dropped.sum()) == 0


def test_a_batch_counts_its_instances() -> None:
    world = World()
    batch = batch_of(world.student, world.instances([1] * len(world.encoded)))
    assert float(batch.totals_K[0]) == pytest.approx(len(world.encoded), rel=1e-6)


def test_alpha_rises_after_the_warm_up(monkeypatch: pytest.MonkeyPatch) -> None:
    world = World(alpha=0.4, warmup_epochs=1, ramp_epochs=2)
    world.weighter.steps_per_epoch = 10
    for step, expected in {10: 0.0, 15: 0.1, 20: 0.2, 30: 0.4, 99: 0.4}.items():
        monkeypatch.setattr(KeypointWeighter, "global_step", step)
        assert world.weighter.price() == pytest.approx(expected)
    assert World(alpha=0.4).weighter.price() == 0.4


def test_in_the_warm_up_the_prefix_is_a_target_too() -> None:
    world = World(warmup_epochs=1)
    warm, cold = world.instances([2] * 6, warm_up=True), world.instances([2] * 6)
    for row, one, two in zip(world.encoded, warm, cold, strict=True):
        assert one.tokens.tolist() == two.tokens.tolist()
        assert (one.weights == 1).all()
        assert int((two.weights > 0).sum()) == row.answer[1] - row.answer[0]
        assert two.tokens[two.weights > 0].tolist() == row.tokens[slice(*row.answer)].tolist()


@pytest.mark.parametrize("architecture", ["gpt2", "t5"])
def test_the_answer_loss_of_a_prefix_sees_later_tokens_only_through_the_generator(
    architecture: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With given masks neither a token after the prefix nor its mask matters; the masks may depend on every token."""
    world = World(architecture)
    torch.nn.init.normal_(world.weighter.generator.mask)
    monkeypatch.setattr(KeypointWeighter, "current_epoch", 0)
    masks = {row.id: torch.rand(row.answer[0]) for row in world.encoded}
    ends = {row.id: row.steps[1][1] for row in world.encoded}  # prefixes of two steps
    original = world.encoded

    def losses(rows: list[Encoded], given: dict[str, Tensor] | None) -> Tensor:
        world.encoded, world.weighter._rows = rows, {row.id: row for row in rows}
        with monkeypatch.context() as patch:
            if given is not None:
                _fixed(world, given, patch)
            return world.weighter.losses(batch_of(world.student, world.instances([2] * len(rows))))[0].detach()

    def other(row: Encoded) -> Encoded:
        """Other tokens from the end of the prefix to the answer."""
        tokens, (start, end) = row.tokens.copy(), (ends[row.id], row.answer[0])
        assert start < end
        tokens[start:end] = (tokens[start:end] + 7) % 500
        return replace(row, tokens=tokens)

    changed = [other(row) for row in original]
    before = losses(original, masks)
    assert torch.equal(losses(changed, masks), before)
    later = {id: torch.cat([mask[: ends[id]], torch.rand(len(mask) - ends[id])]) for id, mask in masks.items()}
    assert torch.equal(losses(original, later), before)
    inside = {id: torch.cat([torch.rand(ends[id]), mask[ends[id] :]]) for id, mask in masks.items()}
    assert bool((losses(original, inside) != before).all())
    assert bool((losses(changed, None) != losses(original, None)).any())  # the generator reads the whole rationale


# ---------------------------------------------------------------------------------- the annotation


class Kept(LearnedWeights):
    """The learned weights as an annotation of training, two rationales at once."""

    for_display = False
    block_tokens = 250


def test_weights_depend_on_neither_order_nor_ranks(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    world, scored = World(), list[list[str]]()

    def weights(rows: list[Encoded], folder: str) -> dict[str, Any]:
        def logits(block: Any) -> Any:
            scored.append([row.id for row in block])
            return world.weighter._logits(block)

        return search([Kept(logits)], rows, student=world.student, folder=tmp_path / folder)["weights"]

    straight, turned = weights(world.encoded, "straight"), weights(world.encoded[::-1], "turned")
    assert straight.keys() == turned.keys() == {row.id for row in world.encoded}
    assert all((straight[id] == turned[id]).all() for id in straight)
    assert len(scored) > 4  # several blocks each time
    scored.clear()
    for found in on_ranks(monkeypatch, 2, lambda rank: weights(world.encoded, "ranks")):
        assert found.keys() == straight.keys()
        assert all((straight[id] == found[id]).all() for id in straight)
    assert sorted(id for block in scored for id in block) == sorted(straight)  # each was scored by one rank


def _written(world: World, path: Path, **changes: Any) -> tuple[Path, dict[str, np.ndarray]]:
    import json

    rng = np.random.default_rng(0)
    weights = {row.id: rng.random(row.answer[0], dtype=np.float32) for row in world.encoded}
    rows = [{"id": row.id, **weight_drawing(row, weights[row.id], world.codec)} for row in world.encoded]
    path.write_text("".join(json.dumps({**row, **changes}) + "\n" for row in rows))
    return path, weights


def test_weights_come_back_from_their_file_as_they_were(tmp_path: Path) -> None:
    world = World()
    path, weights = _written(world, tmp_path / "weights.jsonl")
    found = read_weights(path, world.encoded[::-1])
    for id, expected in weights.items():
        np.testing.assert_allclose(found[id], expected, rtol=1e-4)
    again = Column.from_state(Column.of(found).state())
    assert again.keys() == found.keys()
    assert all((again[id] == found[id]).all() for id in found)


@pytest.mark.parametrize("architecture", ["gpt2", "t5"])
def test_the_tokens_texts_make_up_the_rationale(architecture: str) -> None:
    world = World(architecture)
    rows = [weight_drawing(row, np.ones(row.answer[0], dtype=np.float32), world.codec) for row in world.encoded]
    for row, example in zip(rows, ROWS, strict=True):
        assert "".join(row["tokens"]).strip() == example.rationale
        assert len(row["tokens"]) == len(row["weights"]) == len(row["ids"]) == row["steps"][-1][1]


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("{", ":1"),
        ("[" * 10**5, ":1"),
        ('{"id": "a"}', "ids"),
        ('{"id": "a", "ids": [1, 2], "weights": [0.5]}', "2 weights"),
        ('{"id": "a", "ids": [1], "weights": [NaN]}', "from 0 to 1"),
        ('{"id": "a", "ids": [1], "weights": [1.5]}', "from 0 to 1"),
        ('{"id": "a", "ids": [1], "weights": ["x"]}', "weights"),
        ('{"id": "a", "ids": [1], "weights": [0.5]}', "other data"),
    ],
)
def test_a_damaged_file_of_weights_is_told(text: str, told: str, tmp_path: Path) -> None:
    world, path = World(), tmp_path / "weights.jsonl"
    path.write_text(text + "\n")
    with pytest.raises(DataError, match=told):
        read_weights(path, world.encoded)


def test_weights_of_another_tokenizer_are_told(tmp_path: Path) -> None:
    world = World()
    path, _ = _written(world, tmp_path / "weights.jsonl", ids=[1, 2], weights=[0.5, 0.5])
    with pytest.raises(DataError, match="another tokenizer"):
        read_weights(path, world.encoded)


@pytest.mark.parametrize("wrong", [{"alpha": -1.0}, {"temperature": 0.0}, {"warmup_epochs": -1}, {"ramp_epochs": -1.0}])
def test_settings_that_make_no_sense_are_named(wrong: dict[str, Any]) -> None:
    with pytest.raises(UserError, match=next(iter(wrong))):
        KeypointWeighter(student=FromScratch(), **wrong)


def test_a_transformer_that_is_not_trained_stays_as_it_is() -> None:
    world = World(train_predictor=False)
    assert not any(parameter.requires_grad for parameter in world.student.parameters())
    assert all(parameter.requires_grad for parameter in world.weighter.generator.parameters())
