"""Laws of students: the quick path equals the plain one, answers do not depend on their neighbours, exports load."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny
import torch
import torch.nn.functional as F
from torch import Tensor
from transformers import AutoModelForCausalLM, AutoModelForSeq2SeqLM, AutoTokenizer

from skipthinking.records import Instance, UserError
from skipthinking.students import FromScratch, LoRA, Pretrained, base, heads
from skipthinking.students.measures import nll
from skipthinking.students.scratch import train_tokenizer

each_architecture = pytest.mark.parametrize("architecture", tiny.ARCHITECTURES)


@pytest.fixture(autouse=True)
def _no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)


def of_hub(student: Any, folder: str | Path) -> Any:
    kind = AutoModelForSeq2SeqLM if student.encoder_decoder else AutoModelForCausalLM
    return kind.from_pretrained(folder).eval()


def gradients_of(student: Any, nll: Tensor) -> dict[str, Tensor]:
    # Every token counts differently, so that a permuted answer is a wrong one.
    student.zero_grad()
    (nll * torch.linspace(0.5, 1.5, len(nll), dtype=nll.dtype)).sum().backward()
    return tiny.gradients(student)


def assert_same_gradients(found: dict[str, Tensor], expected: dict[str, Tensor]) -> None:
    assert found.keys() == expected.keys()
    assert all(bool(gradient.any()) for gradient in expected.values())
    for name, gradient in expected.items():
        scale = float(gradient.abs().max())
        torch.testing.assert_close(found[name], gradient, rtol=1e-3, atol=1e-4 * scale, msg=lambda m, n=name: n + m)


# ---------------------------------------------------------------------------------------------- likelihood


@each_architecture
def test_target_only_logits_equal_all_logits(architecture: str) -> None:
    student = tiny.scratch(architecture)
    rows = tiny.instances(student)
    expected = torch.cat([tiny.plain_nll(student, row) for row in rows])
    found = student.token_nll(tiny.batch_of(student, rows))
    assert found.dtype == torch.float32
    torch.testing.assert_close(found.double(), expected, rtol=1e-5, atol=1e-5)
    assert_same_gradients(gradients_of(student, found), gradients_of(student, expected))


@each_architecture
def test_only_targets_reach_the_vocabulary(architecture: str) -> None:
    student = tiny.scratch(architecture)
    batch, seen = tiny.batch_of(student, tiny.instances(student)), []
    head = student.model.get_output_embeddings()
    handle = head.register_forward_hook(lambda module, args, out: seen.append(tuple(out.shape)))
    student.token_nll(batch)
    handle.remove()
    targets = sum(int((row.weights > 0).sum()) for row in tiny.instances(student))
    assert seen == [(targets, student.config.vocab_size)]
    assert not head._forward_pre_hooks  # the next caller gets all logits


def test_hook_is_gone_after_a_failed_forward() -> None:
    student = tiny.scratch("llama")
    batch = tiny.batch_of(student, tiny.instances(student))
    beyond = batch._replace(tokens_BL=batch.tokens_BL + student.config.vocab_size)
    with pytest.raises(IndexError):
        student.token_nll(beyond)
    assert not student.model.get_output_embeddings()._forward_pre_hooks


@pytest.mark.parametrize("checkpointing", [False, True])
@pytest.mark.parametrize("lora", [None, tiny.adapter(), tiny.adapter(target_modules=["lm_head", "q_proj", "c_attn"])])
@each_architecture
def test_chunks_of_targets_equal_the_whole(
    architecture: str, lora: LoRA | None, checkpointing: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    if architecture == "t5" and lora is not None and lora.target_modules != "all-linear":
        lora = tiny.adapter(target_modules=["q", "lm_head"])
    plain = tiny.scratch(architecture, lora=lora)
    student = tiny.scratch(architecture, lora=lora, gradient_checkpointing=checkpointing).train()
    student.load_state_dict(plain.state_dict())
    rows = tiny.instances(student)
    expected = torch.cat([tiny.plain_nll(plain, row) for row in rows])

    sizes = []
    monkeypatch.setattr(base, "nll", lambda project, h, t: (sizes.append(len(t)), nll(project, h, t))[1])
    monkeypatch.setattr(heads, "CHUNK_ELEMENTS", 4 * student.config.vocab_size + 1)  # 4 targets at once
    found = student.token_nll(tiny.batch_of(student, rows))
    torch.testing.assert_close(found.double(), expected, rtol=1e-5, atol=1e-5)
    full, rest = divmod(len(expected), 4)
    assert full > 1
    assert sizes == [4] * full + [rest] * bool(rest)
    assert_same_gradients(gradients_of(student, found), gradients_of(plain, expected))


@pytest.mark.parametrize("architecture", ["llama", "t5"])
def test_chunked_head_equals_the_plain_one_under_autocast_with_checkpointing(
    architecture: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Only the head differs: checkpointed layers of T5 themselves round differently under autocast.
    plain, student = (tiny.scratch(architecture, gradient_checkpointing=True).train() for _ in range(2))
    batch = tiny.batch_of(plain, tiny.instances(plain))
    index, inputs = batch.where, plain._inputs(batch)
    with torch.autocast("cpu", torch.bfloat16):
        logits = plain.model(**inputs).logits
        assert logits.dtype == torch.bfloat16
        logits_NV = logits.flatten(0, 1)[index.places_N].float()
        expected = F.cross_entropy(logits_NV, index.ids_N, reduction="none")
        monkeypatch.setattr(heads, "CHUNK_ELEMENTS", 4 * student.config.vocab_size)  # 4 targets at once
        found = student.token_nll(batch)
    assert found.dtype == torch.float32
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)
    ours, theirs = gradients_of(student, found), gradients_of(plain, expected)  # outside of autocast, as Lightning does
    assert ours.keys() == theirs.keys()
    for name, gradient in theirs.items():
        assert bool(gradient.any())
        scale = float(gradient.abs().max())  # sums over chunks are rounded to bfloat16, of 8 bits, in another order
        torch.testing.assert_close(ours[name], gradient, rtol=0.02, atol=0.02 * scale, msg=lambda m, n=name: n + m)


# Settings chosen so that the logits differ a lot from what the output embedding alone gives.
@pytest.mark.parametrize(
    ("architecture", "more"),
    [
        ("gemma2", {"final_logit_softcapping": 0.5, "head_dim": 8}),
        ("granite", {"logits_scaling": 4.0}),
        ("cohere", {"logit_scale": 0.1}),
        pytest.param(
            "falcon_h1",
            {"lm_head_multiplier": 0.1, "mamba_d_ssm": 16, "mamba_n_heads": 2, "mamba_d_head": 8, "mamba_d_state": 4},
        ),
        pytest.param(
            "bart",
            {"d_model": 16, "encoder_layers": 1, "decoder_layers": 1, "encoder_ffn_dim": 16, "decoder_ffn_dim": 16}
            | {"encoder_attention_heads": 2, "decoder_attention_heads": 2},
        ),
    ],
)
def test_chunks_respect_what_follows_the_output_embedding(
    architecture: str, more: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    student = tiny.scratch(architecture, more=more)
    if architecture == "bart":  # published Marian and Pegasus checkpoints have one that is not zero
        torch.nn.init.normal_(student.model.final_logits_bias)
    rows = tiny.instances(student)
    expected = torch.cat([tiny.plain_nll(student, row) for row in rows])
    whole = student.token_nll(tiny.batch_of(student, rows))
    torch.testing.assert_close(whole.double(), expected, rtol=1e-4, atol=1e-4)
    monkeypatch.setattr(heads, "CHUNK_ELEMENTS", 4 * student.config.vocab_size)
    chunked = student.token_nll(tiny.batch_of(student, rows))
    torch.testing.assert_close(chunked, whole, rtol=1e-4, atol=1e-4)
    head = student.model.get_output_embeddings()
    assert (head in heads._LAST, head in heads._NOT_LAST) == (architecture != "bart", architecture == "bart")


def test_checkpointed_layers_run_again_in_the_backward_pass() -> None:
    calls = {}
    for checkpointing in (False, True):
        student = tiny.scratch("llama", gradient_checkpointing=checkpointing).train()
        calls[checkpointing] = 0

        def count(*_: Any, key: bool = checkpointing) -> None:
            calls[key] += 1

        student.model.model.layers[0].mlp.register_forward_pre_hook(count)
        student.token_nll(tiny.batch_of(student, tiny.instances(student))).sum().backward()
    assert calls == {False: 1, True: 2}


@each_architecture
def test_neighbours_and_padding_do_not_change_an_example(architecture: str) -> None:
    student = tiny.scratch(architecture)
    assert student.pad_id == student.tokenizer.eos_token_id
    rows = tiny.instances(student, count=6)
    alone = [student.token_nll(tiny.batch_of(student, [row])) for row in rows]
    for order in (range(6), [5, 3, 1, 0, 2, 4], [2, 5]):
        together = student.token_nll(tiny.batch_of(student, [rows[i] for i in order]))
        torch.testing.assert_close(together, torch.cat([alone[i] for i in order]), rtol=1e-5, atol=1e-5)


def test_padding_id_is_never_looked_at() -> None:
    for architecture in ("gpt2", "t5"):
        student = tiny.scratch(architecture)
        batch = tiny.batch_of(student, tiny.instances(student))
        behind = torch.arange(batch.tokens_BL.shape[1])[None, :] >= batch.lengths_B[:, None]
        other = batch._replace(tokens_BL=batch.tokens_BL.masked_fill(behind, 7))
        if batch.prompts_BP is not None:
            behind = torch.arange(batch.prompts_BP.shape[1])[None, :] >= batch.prompt_lengths_B[:, None]
            other = other._replace(prompts_BP=batch.prompts_BP.masked_fill(behind, 7))
        assert torch.equal(student.token_nll(other), student.token_nll(batch))


def test_batch_without_targets_has_a_gradient_of_zero() -> None:
    student = tiny.scratch("llama")
    rows = [dataclasses.replace(row, weights=np.zeros_like(row.weights)) for row in tiny.instances(student)]
    nll = student.token_nll(tiny.batch_of(student, rows))
    assert nll.shape == (0,)
    nll.sum().backward()
    assert not any(bool(gradient.any()) for gradient in tiny.gradients(student).values())


def test_encoder_decoder_labels_are_shifted_once() -> None:
    student = tiny.scratch("t5")
    rows = [dataclasses.replace(row, weights=np.ones_like(row.weights)) for row in tiny.instances(student)]
    width, length = max(len(r.prompt) for r in rows), max(len(r.tokens) for r in rows)
    ids, mask = torch.zeros(len(rows), width, dtype=torch.long), torch.zeros(len(rows), width, dtype=torch.long)
    labels = torch.full((len(rows), length), -100)
    for i, row in enumerate(rows):
        ids[i, : len(row.prompt)], mask[i, : len(row.prompt)] = torch.from_numpy(row.prompt), 1
        labels[i, : len(row.tokens)] = torch.from_numpy(row.tokens)
    out = student.model(input_ids=ids, attention_mask=mask, labels=labels)
    found = student.token_nll(tiny.batch_of(student, rows))
    torch.testing.assert_close(found.mean(), out.loss, rtol=1e-5, atol=1e-5)
    every = F.cross_entropy(out.logits.flatten(0, 1), labels.flatten(), reduction="none")
    torch.testing.assert_close(found, every[labels.flatten() != -100], rtol=1e-5, atol=1e-5)


def test_prompts_go_to_the_encoder_and_completions_to_the_decoder() -> None:
    student = tiny.scratch("t5")
    row, seen = tiny.instances(student, count=3)[2], {}
    for name in ("encoder", "decoder"):
        getattr(student.model, name).register_forward_pre_hook(
            lambda module, args, kwargs, name=name: seen.__setitem__(name, kwargs["input_ids"].tolist()),
            with_kwargs=True,
        )
    student.token_nll(tiny.batch_of(student, [row]))
    start = student.config.decoder_start_token_id
    assert seen == {"encoder": [row.prompt.tolist()], "decoder": [[start, *row.tokens.tolist()[:-1]]]}


# ---------------------------------------------------------------------------------------------- generation


@each_architecture
def test_batched_answers_equal_single_ones_and_those_of_transformers(architecture: str, tmp_path: Path) -> None:
    student = tiny.scratch(architecture)
    hub = of_hub(student, tiny.saved(student, tmp_path))
    student = tiny.pretrained(str(tmp_path))
    prompts = tiny.prompts(student, [3, 11, 1, 7])
    plain = [tiny.plain_greedy(student, prompt, 9) for prompt in prompts]
    assert len({tuple(ids) for ids in plain}) == 4  # the prompts matter
    assert max(len(set(ids)) for ids in plain) > 3  # and so do positions
    assert student.generate(prompts, 9) == plain
    assert [student.generate([prompt], 9)[0] for prompt in prompts] == plain
    skip = [0 if student.encoder_decoder else len(prompt) for prompt in prompts]
    made = [hub.generate(p[None], attention_mask=torch.ones_like(p[None]), max_new_tokens=9)[0] for p in prompts]
    assert [ids[n + student.encoder_decoder :].tolist() for ids, n in zip(made, skip, strict=True)] == plain


@pytest.mark.parametrize("architecture", tiny.CAUSAL)
def test_prompt_near_the_limit_is_completed_as_far_as_it_goes(architecture: str) -> None:
    student = tiny.scratch(architecture)
    rooms = [8, 8, 4, 1, 0, 0, 8, 4]  # 48 positions: prompts of 44 leave 4, of 48 none; 40 leaves all 8
    prompts = tiny.prompts(student, [5, 40, 44, 47, 48, 50, 9, 44])
    expected = [tiny.plain_greedy(student, prompt, room) for prompt, room in zip(prompts, rooms, strict=True)]
    assert student.generate(prompts, 8) == expected
    assert student.generate(prompts[4:6], 8) == [[], []]
    assert student.generate([], 8) == []


def test_encoder_decoder_prompts_leave_all_the_room() -> None:
    student = tiny.scratch("t5")
    student.tokenizer.model_max_length = 10
    prompts = tiny.prompts(student, [4, 9])
    assert student.generate(prompts, 6) == [tiny.plain_greedy(student, prompt, 6) for prompt in prompts]


def test_the_limit_of_an_encoder_decoder_holds_for_each_side_by_itself() -> None:
    config = {"d_model": 16, "encoder_layers": 1, "decoder_layers": 1, "encoder_ffn_dim": 16, "decoder_ffn_dim": 16}
    config |= {"encoder_attention_heads": 2, "decoder_attention_heads": 2, "max_position_embeddings": 12}
    student = tiny.scratch("bart", more=config)
    student.model.generation_config.eos_token_id = [-1]  # none, so that answers run to the limit
    (prompt,) = tiny.prompts(student, [12])  # a full encoder leaves the decoder all of its positions
    begun = torch.arange(5, 9)
    (full,), (rest,) = student.generate([prompt], 20), student.generate([prompt], 20, prefixes=[begun])
    assert (len(full), len(rest)) == (12, 8)
    assert full == tiny.plain_greedy(student, prompt, 12, [-1])
    rows = [Instance(id="a", prompt=prompt.numpy(), tokens=np.array(full), weights=np.ones(12, dtype=np.float32))]
    assert bool(student.token_nll(tiny.batch_of(student, rows)).isfinite().all())


def with_ends(student: Any, folder: Path, **generation: Any) -> tuple[str, list[Tensor], list[int]]:
    """A folder whose generation config has more end tokens, one of which the first prompt's answer comes to."""
    prompts = tiny.prompts(student, [4, 9, 6, 3, 12])
    answers = [tiny.plain_greedy(student, prompt, 10) for prompt in prompts]
    first, end = next(
        (i, id)
        for i, ids in enumerate(answers)
        for at, id in enumerate(ids[:-1])
        if at > 1 and id not in ids[:at] and any(id not in other for other in answers)
    )
    ends = [student.tokenizer.eos_token_id, end, 5]
    folder_name = tiny.saved(student, folder, eos_token_id=ends, **generation)
    return folder_name, [prompts[first], *prompts[:first], *prompts[first + 1 :]], ends


@pytest.mark.parametrize("lora", [None, tiny.adapter()])
@each_architecture
def test_answer_ends_with_any_end_token_of_the_hub(architecture: str, lora: LoRA | None, tmp_path: Path) -> None:
    folder, prompts, ends = with_ends(tiny.scratch(architecture), tmp_path)
    student = tiny.pretrained(folder, lora=lora)
    assert sorted(student.model.generation_config.eos_token_id) == sorted(ends)
    expected = [tiny.plain_greedy(student, prompt, 10, ends) for prompt in prompts]
    found = student.generate(prompts, 10)
    assert found == expected
    assert found[0][-1] == ends[1]  # the end counts as a token of the answer
    assert 2 < len(found[0]) < 10
    assert any(len(ids) > len(found[0]) for ids in found)  # others go on behind it, and nothing fills the first one up
    assert student.generate(prompts[:1], len(found[0])) == found[:1]  # an end at the limit is kept
    assert student.generate(prompts[:1], len(found[0]) - 1) == [found[0][:-1]]


@each_architecture
def test_tokenizers_own_end_counts_where_the_hub_has_another(architecture: str, tmp_path: Path) -> None:
    student = tiny.scratch(architecture)
    folder = tiny.saved(student, tmp_path, eos_token_id=9)
    assert tiny.pretrained(folder).model.generation_config.eos_token_id == [student.tokenizer.eos_token_id, 9]


ADAPTED_T5 = pytest.param(
    "t5",
    tiny.adapter(),
)


@pytest.mark.parametrize(
    ("architecture", "lora"), [("llama", None), ("t5", None), ("llama", tiny.adapter()), ADAPTED_T5]
)
def test_sampling_settings_of_the_hub_are_not_used(architecture: str, lora: LoRA | None, tmp_path: Path) -> None:
    folder, prompts, ends = with_ends(
        tiny.scratch(architecture),
        tmp_path,
        do_sample=True,
        temperature=9.0,
        top_k=100,
        repetition_penalty=9.0,
        no_repeat_ngram_size=1,
        num_beams=3,
        max_length=7,
        suppress_tokens=list(range(1, 200)),
    )
    student = tiny.pretrained(folder, lora=lora)
    state = torch.get_rng_state()
    found = student.generate(prompts, 10)
    assert found == [tiny.plain_greedy(student, prompt, 10, ends) for prompt in prompts]
    assert torch.equal(torch.get_rng_state(), state)


# -------------------------------------------------------------------------------------------------- export


@pytest.mark.parametrize("lora", [None, tiny.adapter()])
@each_architecture
def test_export_loads_with_transformers_and_answers_alike(architecture: str, lora: LoRA | None, tmp_path: Path) -> None:
    student = tiny.scratch(architecture, lora=lora)
    before = {name: value.clone() for name, value in student.state_dict().items()}
    student.export(tmp_path / "student")
    assert [path.name for path in tmp_path.iterdir()] == ["student"]
    assert not list((tmp_path / "student").glob("adapter*"))
    after = student.state_dict()
    assert after.keys() == before.keys()  # the student itself is not merged
    assert all(torch.equal(after[name], value) for name, value in before.items())

    hub, tokenizer = of_hub(student, tmp_path / "student"), AutoTokenizer.from_pretrained(tmp_path / "student")
    prompt = tiny.prompts(student, [6])[0]
    inputs = {"input_ids": prompt[None]}
    if student.encoder_decoder:
        inputs["decoder_input_ids"] = torch.tensor([[student.config.decoder_start_token_id, 5]])
    torch.testing.assert_close(hub(**inputs).logits, student.model(**inputs).logits, rtol=1e-4, atol=1e-4)
    made = hub.generate(prompt[None], attention_mask=torch.ones_like(prompt[None]), max_new_tokens=9)[0]
    made = made[1 if student.encoder_decoder else len(prompt) :].tolist()
    assert made == student.generate([prompt], 9)[0]
    assert tokenizer.eos_token_id == student.tokenizer.eos_token_id
    assert tokenizer.decode(made) == student.tokenizer.decode(made)


@pytest.mark.parametrize(
    "architecture",
    [pytest.param(name) for name in tiny.ARCHITECTURES],
)
def test_exported_tokenizer_reads_alike(architecture: str, tmp_path: Path) -> None:
    student = tiny.scratch(architecture)
    student.export(tmp_path / "student")
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "student")
    for text in (tiny.TEXTS[17], " 12 34", "naïve\n\n  99%—x", student.tokenizer.eos_token):
        assert tokenizer(text).input_ids == student.tokenizer(text).input_ids


@pytest.mark.parametrize(
    "lora",
    [
        None,
        pytest.param(
            tiny.adapter(),
        ),
    ],
)
def test_export_answers_greedily_whatever_the_hub_had(lora: LoRA | None, tmp_path: Path) -> None:
    folder = tiny.saved(tiny.scratch("llama"), tmp_path / "hub", do_sample=True, temperature=9.0, max_new_tokens=3)
    tiny.pretrained(folder, lora=lora).export(tmp_path / "student")
    found = json.loads((tmp_path / "student" / "generation_config.json").read_text(encoding="utf-8"))
    assert found["do_sample"] is False
    assert not {"temperature", "max_new_tokens"} & found.keys()


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_export_replaces_a_folder_as_a_whole(tmp_path: Path) -> None:
    folder = tmp_path / "student"
    tiny.scratch("llama", seed=1).export(folder)
    first = contents(folder)
    (folder / "stale.txt").write_text("of another run", encoding="utf-8")
    tiny.scratch("llama", seed=2).export(folder)
    assert contents(folder).keys() == first.keys()
    assert contents(folder)["model.safetensors"] != first["model.safetensors"]
    assert [path.name for path in tmp_path.iterdir()] == ["student"]


def test_failed_export_leaves_the_folder_as_it_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full_disk(*_: Any, **__: Any) -> None:
        raise OSError("no space left on device")

    student = tiny.scratch("llama", seed=1)
    with monkeypatch.context() as patch:
        patch.setattr(student.tokenizer, "save_pretrained", full_disk)  # the weights are written by then
        with pytest.raises(OSError, match="no space"):
            student.export(tmp_path / "student")
    assert not (tmp_path / "student").exists()
    student.export(tmp_path / "student")
    first, other = contents(tmp_path / "student"), tiny.scratch("llama", seed=2)
    monkeypatch.setattr(other.tokenizer, "save_pretrained", full_disk)
    with pytest.raises(OSError, match="no space"):
        other.export(tmp_path / "student")
    assert contents(tmp_path / "student") == first


@pytest.mark.parametrize("left", [".student.partial", ".student.old"])
def test_export_after_a_killed_one_is_like_a_first_one(left: str, tmp_path: Path) -> None:
    student = tiny.scratch("llama")
    student.export(tmp_path / "student")
    expected = contents(tmp_path / "student")
    (tmp_path / left).mkdir()
    (tmp_path / left / "adapter_config.json").write_text("{}", encoding="utf-8")
    student.export(tmp_path / "student")
    assert contents(tmp_path / "student") == expected
    assert [path.name for path in tmp_path.iterdir()] == ["student"]


# ---------------------------------------------------------------------------------------------------- LoRA


@each_architecture
def test_only_the_adapter_is_trained(architecture: str) -> None:
    student = tiny.scratch(architecture, lora=tiny.adapter())
    trained = {name for name, parameter in student.named_parameters() if parameter.requires_grad}
    assert trained == {name for name, _ in student.named_parameters() if ".lora_" in name}
    student.token_nll(tiny.batch_of(student, tiny.instances(student))).sum().backward()
    reached = {name for name, parameter in student.named_parameters() if parameter.grad is not None}
    assert reached == trained


def test_adapter_has_the_rank_and_layers_that_were_asked_for() -> None:
    student = tiny.scratch("llama", lora=LoRA(r=3, target_modules=["q_proj", "down_proj"]))
    shapes = [tuple(p.shape) for name, p in student.named_parameters() if p.requires_grad]
    # per layer: q_proj 16 -> 16 and down_proj 32 -> 16, each as A (3, in) and B (out, 3)
    assert sorted(shapes) == sorted([(3, 16), (16, 3), (3, 32), (16, 3)] * 2)


def test_fresh_adapter_changes_nothing() -> None:
    plain = tiny.ready(FromScratch("llama", tiny.CONFIGS["llama"], vocab_size=600))
    adapted = tiny.ready(FromScratch("llama", tiny.CONFIGS["llama"], vocab_size=600, lora=tiny.adapter()))
    batch = tiny.batch_of(plain, tiny.instances(plain))
    assert torch.equal(plain.token_nll(batch), adapted.token_nll(batch))


@pytest.mark.parametrize("target_modules", [["nowhere"], "nowhere", []])
def test_adapter_of_unknown_layers_is_refused(target_modules: Any) -> None:
    with pytest.raises(UserError, match="Expected LoRA settings that fit the model, got LoRA"):
        tiny.scratch("llama", lora=tiny.adapter(target_modules=target_modules))


# ------------------------------------------------------------------------------------------------- loading


@pytest.mark.parametrize("architecture", tiny.CAUSAL)
def test_context_is_as_long_as_the_positions(architecture: str, tmp_path: Path) -> None:
    student = tiny.scratch(architecture)
    assert student.context_length == 48
    assert tiny.pretrained(tiny.saved(student, tmp_path)).context_length == 48


def test_encoder_decoder_context_is_the_tokenizers_limit(tmp_path: Path) -> None:
    # Published checkpoints carry 512 positions, which bind nothing.
    student = tiny.scratch("t5")
    student.config.n_positions = 512
    assert student.context_length == 2**20  # relative positions, and no limit of the tokenizer
    student.tokenizer.model_max_length = 77
    assert tiny.pretrained(tiny.saved(student, tmp_path)).context_length == 77


@each_architecture
def test_weights_have_the_type_that_was_asked_for(architecture: str, tmp_path: Path) -> None:
    student = tiny.scratch(architecture)
    student.model.to(torch.bfloat16)
    folder = tiny.saved(student, tmp_path)
    for dtype, expected in {"bfloat16": torch.bfloat16, "auto": torch.bfloat16, "float32": torch.float32}.items():
        loaded = tiny.pretrained(folder, trained=False, dtype=dtype)
        assert {parameter.dtype for parameter in loaded.parameters()} == {expected}
        nll = loaded.token_nll(tiny.batch_of(loaded, tiny.instances(loaded)))
        assert nll.dtype == torch.float32
        assert bool(nll.isfinite().all())
    assert tiny.pretrained(folder).model.dtype == torch.float32


@each_architecture
def test_weights_that_are_trained_are_in_float32(architecture: str, tmp_path: Path) -> None:
    student = tiny.scratch(architecture)
    student.model.to(torch.bfloat16)
    folder = tiny.saved(student, tmp_path)
    for dtype in ("auto", "float32"):
        trained = tiny.pretrained(folder, dtype=dtype)
        assert {parameter.dtype for parameter in trained.parameters()} == {torch.float32}
        for name, value in trained.state_dict().items():  # nothing of the checkpoint is lost
            assert torch.equal(value, student.state_dict()[name].float())
    for dtype in ("bfloat16", "float16"):
        with pytest.raises(UserError, match=rf"dtype={dtype} without an adapter.*precision=bf16-mixed"):
            tiny.pretrained(folder, dtype=dtype)
    for dtype, expected in {"bfloat16": torch.bfloat16, "auto": torch.bfloat16, "float32": torch.float32}.items():
        adapted = tiny.pretrained(folder, dtype=dtype, lora=tiny.adapter())
        types = {parameter.requires_grad: parameter.dtype for parameter in adapted.parameters()}
        assert types == {True: torch.float32, False: expected}


def opened(name: str | Path, **settings: Any) -> None:
    student = Pretrained(str(name), **settings)
    student.prepare()
    student.build()


def test_what_cannot_be_loaded_is_named(tmp_path: Path) -> None:
    folder = Path(tiny.saved(tiny.scratch("llama"), tmp_path / "whole"))
    with pytest.raises(UserError, match=r"a local folder or a hub name in reach, got '.*nowhere'.*Fix model\.student"):
        opened(tmp_path / "nowhere")
    with pytest.raises(UserError, match=r"a hub name in reach, got 'someone/no-such-model'.*check the network"):
        opened("someone/no-such-model")
    with pytest.raises(UserError, match=r"got 'someone/no-such-model'"):
        _ = Pretrained("someone/no-such-model").config
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match=r"a folder with a model, got '.*empty'"):
        _ = Pretrained(str(tmp_path / "empty")).config
    (folder / "model.safetensors").unlink()
    with pytest.raises(UserError, match=r"a folder with a model, got '.*whole'.*no file named model\.safetensors"):
        opened(folder)
    (folder / "tokenizer.json").unlink()
    with pytest.raises(UserError, match=r"Expected a tokenizer beside the model, got none in '.*whole'.*Save it there"):
        opened(folder)
    with pytest.raises(UserError, match="Expected a tokenizer beside the model"):
        FromScratch(tokenizer=str(folder)).prepare()


@pytest.mark.parametrize("fault", ["damaged weights", "flash attention that is not installed"])
def test_what_cannot_be_loaded_for_other_reasons_is_named(fault: str, tmp_path: Path) -> None:
    folder = Path(tiny.saved(tiny.scratch("llama"), tmp_path))
    if fault == "damaged weights":
        (folder / "model.safetensors").write_bytes((folder / "model.safetensors").read_bytes()[:-100])
    with pytest.raises(UserError, match=r"a folder with a model, got"):
        opened(folder, attention=None if fault == "damaged weights" else "flash_attention_2")


def test_later_builds_do_nothing() -> None:
    student = tiny.scratch("llama")
    model, tokenizer = student.model, student.tokenizer
    student.prepare(["other texts"])
    student.build()
    assert student.model is model
    assert student.tokenizer is tokenizer


# -------------------------------------------------------------------------------------------- from scratch


def weights_after(seed: int, draws: int, **settings: Any) -> dict[str, Tensor]:
    torch.manual_seed(seed)
    torch.rand(draws)
    student = FromScratch("llama", tiny.CONFIGS["llama"], vocab_size=600, **settings)
    student.prepare(tiny.TEXTS)
    before = torch.get_rng_state()
    student.build()
    assert torch.equal(torch.get_rng_state(), before), "building drew from the global generator"
    return student.state_dict()


@pytest.mark.parametrize(
    "lora",
    [
        None,
        pytest.param(tiny.adapter()),
    ],
)
def test_first_weights_depend_on_the_seed_alone(lora: LoRA | None) -> None:
    first, again, other = (weights_after(*case, lora=lora) for case in ((3, 0), (3, 17), (4, 0)))
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert not torch.equal(first[next(iter(first))], other[next(iter(first))])


@pytest.mark.parametrize(
    ("architecture", "more"),
    [
        ("lama", {}),
        pytest.param("llama", {"hiden_size": 16}),
        pytest.param("llama", {"hidden_size": "wide"}),
        pytest.param("llama", {"hidden_size": 15}),
        pytest.param("llama", {"hidden_act": "nothing"}),
        ("vit", {}),
    ],
)
def test_config_that_no_model_has_is_refused(architecture: str, more: dict[str, Any]) -> None:
    student = FromScratch(architecture, {**tiny.CONFIGS["llama"], **more}, vocab_size=600)
    with pytest.raises(UserError, match=rf"'{architecture}'.*Fix model\.student\.config"):
        tiny.ready(student)


def test_config_takes_vocabulary_and_special_tokens_from_the_tokenizer() -> None:
    for architecture in tiny.ARCHITECTURES:
        student = tiny.scratch(architecture)
        assert student.config.vocab_size == len(student.tokenizer)
        assert student.model.get_output_embeddings().weight.shape[0] == len(student.tokenizer)
        assert student.config.eos_token_id == student.config.pad_token_id == student.tokenizer.eos_token_id
    assert tiny.scratch("t5").config.decoder_start_token_id == student.pad_id
    assert tiny.scratch("llama", more={"vocab_size": 700}).config.vocab_size == 700


# ----------------------------------------------------------------------------------------------- tokenizer


@pytest.mark.parametrize("numbers", [0, 1, 12, 100, 300])
def test_small_numbers_are_single_tokens(numbers: int) -> None:
    tokenizer = train_tokenizer(tiny.TEXTS, 4096, numbers)
    for number in range(numbers):
        for text in (str(number), f" {number}"):
            (id,) = tokenizer(text).input_ids
            assert tokenizer.decode([id]) == text
    assert len(tokenizer("7777").input_ids) > 1
    middle = f"x {numbers - 1}, y" if numbers else "x"
    assert f" {numbers - 1}" in [tokenizer.decode([id]) for id in tokenizer(middle).input_ids] or not numbers


def test_small_numbers_are_single_tokens_in_a_full_vocabulary() -> None:
    letters = "abcdefghijklmnop"
    texts = [" ".join(a + b + c for a in letters for b in letters) for c in letters] * 5
    tokenizer = train_tokenizer(texts, 512, 100)
    assert all(len(tokenizer(f" {number}").input_ids) == 1 for number in range(100))


def test_same_texts_give_the_same_tokenizer() -> None:
    first, again = (train_tokenizer(list(tiny.TEXTS), 600, 30).backend_tokenizer.to_str() for _ in range(2))
    assert first == again
    other = train_tokenizer(["Nothing of the kind, nothing at all."] * 40, 600, 30)
    assert other.backend_tokenizer.to_str() != first


def test_vocabulary_is_bounded_and_every_text_survives_it() -> None:
    for bound in (512, 600):
        tokenizer = train_tokenizer(tiny.TEXTS * 10, bound, 100)
        assert len(tokenizer) <= bound
        assert tokenizer.eos_token_id == tokenizer.pad_token_id
        for text in ("", "  two  blanks ", "naïve 漢字 🙂\t\r\n", "x <|end| y"):
            ids = tokenizer(text).input_ids
            assert tokenizer.decode(ids, clean_up_tokenization_spaces=False) == text
            assert tokenizer.eos_token_id not in ids
        assert tokenizer(tokenizer.eos_token).input_ids == [tokenizer.eos_token_id]
    with pytest.raises(UserError, match=r"at least 512 .*vocab_size=511"):
        FromScratch(vocab_size=511)


def test_tokenizer_survives_a_checkpoint() -> None:
    student = tiny.scratch("llama")
    state = student.tokenizer_state()
    other = FromScratch("llama", tiny.CONFIGS["llama"], vocab_size=600)
    assert other.tokenizer_state() is None
    other.restore_tokenizer(None)
    assert not other.has_tokenizer
    other.restore_tokenizer(json.loads(json.dumps(state)))
    other.prepare(["texts that are not looked at any more"])
    assert other.tokenizer_state() == state
    assert len(other.tokenizer) == len(student.tokenizer)
    assert (other.tokenizer.eos_token_id, other.pad_id) == (student.tokenizer.eos_token_id, student.pad_id)
    for text in [*tiny.TEXTS, "naïve\n <|end|> 12"]:
        assert other.tokenizer(text).input_ids == student.tokenizer(text).input_ids


def test_named_tokenizer_is_loaded_and_not_kept_in_checkpoints(tmp_path: Path) -> None:
    folder = tiny.saved(tiny.scratch("llama"), tmp_path)
    named = FromScratch("gpt2", tiny.CONFIGS["gpt2"], tokenizer=folder)
    named.prepare(["texts that are not looked at"])
    assert named.tokenizer(tiny.TEXTS[5]).input_ids == tiny.scratch("llama").tokenizer(tiny.TEXTS[5]).input_ids
    assert named.tokenizer_state() is None
    loaded = tiny.pretrained(folder)
    assert loaded.tokenizer_state() is None
    loaded.restore_tokenizer("not looked at")
    assert loaded.has_tokenizer
