"""Students in GGUF files, compared with the model and the tokenizer that the file was written from."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import tiny
import torch
from gguf import GGMLQuantizationType, GGUFWriter, TokenType, quants

from skipthinking.records import UserError
from skipthinking.students import FromScratch, Pretrained

CHAT = "{% for m in messages %}<|{{ m.role }}|>{{ m.content }}{% endfor %}<|assistant|>"
LETTERS = {
    "self_attn.q_proj": "attn_q", "self_attn.k_proj": "attn_k", "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output", "mlp.gate_proj": "ffn_gate", "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down", "input_layernorm": "attn_norm", "post_attention_layernorm": "ffn_norm",
}  # fmt: skip
ENDS = {"model.embed_tokens": "token_embd", "model.norm": "output_norm", "lm_head": "output"}


def llama() -> Any:
    """A tiny Llama whose rows are as long as a block of Q8_0, 32 values."""
    return tiny.scratch("llama", more={"hidden_size": 32, "head_dim": 16, "max_position_embeddings": 512})


def write(path: Path, student: Any, quantized: bool = False, architecture: str = "llama", **metadata: Any) -> Path:
    """Writes a student as llama.cpp's converter does: rotary pairs of queries and keys side by side."""
    config, state = student.config, json.loads(student.tokenizer.backend_tokenizer.to_str())["model"]
    writer = GGUFWriter(path, architecture)
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_rope_dimension_count(config.head_dim)
    writer.add_rope_freq_base(config.rope_parameters["rope_theta"])
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    tokens = sorted(state["vocab"], key=state["vocab"].__getitem__)
    end = student.tokenizer.eos_token_id
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre(metadata.get("pre", "gpt-2"))
    writer.add_token_list(tokens)
    writer.add_token_types([TokenType.CONTROL if id == end else TokenType.NORMAL for id in range(len(tokens))])
    writer.add_token_merges([" ".join(pair) for pair in state["merges"]])
    writer.add_eos_token_id(end)
    writer.add_pad_token_id(end)
    writer.add_chat_template(CHAT)
    if "turn" in metadata:
        writer.add_eot_token_id(metadata["turn"])
    heads = {"attn_q": config.num_attention_heads, "attn_k": config.num_key_value_heads}
    for name, value in student.model.state_dict().items():
        base, layer = name.removesuffix(".weight"), re.match(r"model\.layers\.(\d+)\.", name)
        short = LETTERS[base[layer.end() :]] if layer else ENDS[base]
        array = value.numpy()
        if count := heads.get(short):
            array = array.reshape(count, 2, -1, array.shape[1]).swapaxes(1, 2).reshape(array.shape)
        kind = GGMLQuantizationType.Q8_0 if quantized and array.ndim == 2 else GGMLQuantizationType.F32
        full = f"blk.{layer[1]}.{short}.weight" if layer else f"{short}.weight"
        writer.add_tensor(full, quants.quantize(array, kind), raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


@pytest.fixture(scope="module")
def source() -> Any:
    return llama()


@pytest.fixture(scope="module")
def file(source: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write(tmp_path_factory.mktemp("gguf") / "tiny.gguf", source)


def test_float_weights_are_read_exactly(source: Any, file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    loaded = tiny.pretrained(str(file))
    expected = source.model.state_dict()
    assert loaded.model.state_dict().keys() == expected.keys()
    for name, value in loaded.model.state_dict().items():
        assert torch.equal(value, expected[name]), name
    assert capsys.readouterr().err == ""  # no progress bars


def test_quantized_weights_are_read_to_half_a_step(source: Any, tmp_path: Path) -> None:
    loaded = tiny.pretrained(str(write(tmp_path / "q8.gguf", source, quantized=True)))
    assert {parameter.dtype for parameter in loaded.parameters()} == {torch.float32}
    for name, value in loaded.model.state_dict().items():
        exact = source.model.state_dict()[name]
        if exact.dim() == 2:
            # Q8_0 writes a block of 32 values as integers up to 127 times a step in float16.
            blocks = exact.reshape(-1, 32)
            steps = blocks.abs().amax(dim=1, keepdim=True) / 127
            assert ((value.reshape(-1, 32) - blocks).abs() <= steps * (0.5 + 127 * 2**-11)).all(), name
            assert not torch.equal(value, exact)
        else:
            assert torch.equal(value, exact)


def test_the_tokenizer_is_the_one_that_was_written(source: Any, file: Path) -> None:
    loaded = Pretrained(str(file)).make_tokenizer()
    for text in (*tiny.TEXTS[:3], "  3 apples\n\nand   12's <|end|> x12y"):
        assert loaded(text)["input_ids"] == source.tokenizer(text)["input_ids"]
    assert loaded.eos_token_id == loaded.pad_token_id == source.tokenizer.eos_token_id
    assert loaded.apply_chat_template([{"role": "user", "content": "2?"}], tokenize=False) == "<|user|>2?<|assistant|>"


def test_digits_are_split_where_the_file_says_so(source: Any, tmp_path: Path) -> None:
    loaded = Pretrained(str(write(tmp_path / "digits.gguf", source, pre="smollm"))).make_tokenizer()
    text = "Ann has 12 apples,   345 in all"
    pieces = [piece for piece in re.split(r"(\d)", text) if piece]
    assert loaded(text)["input_ids"] == [id for piece in pieces for id in source.tokenizer(piece)["input_ids"]]
    assert loaded(text)["input_ids"] != source.tokenizer(text)["input_ids"]


def test_the_end_of_a_turn_ends_an_answer(source: Any, file: Path, tmp_path: Path) -> None:
    end = source.tokenizer.eos_token_id
    assert tiny.pretrained(str(file)).model.generation_config.eos_token_id == [end]
    turns = tiny.pretrained(str(write(tmp_path / "turns.gguf", source, turn=7)))
    assert turns.model.generation_config.eos_token_id == sorted([end, 7])


def test_an_exported_student_needs_no_gguf(
    source: Any, file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    student = tiny.pretrained(str(file))
    student.export(tmp_path / "student")
    monkeypatch.setitem(sys.modules, "gguf", None)
    model, tokenizer = (kind.from_pretrained(tmp_path / "student") for kind in (AutoModelForCausalLM, AutoTokenizer))
    ids = torch.tensor([tokenizer(tiny.TEXTS[0])["input_ids"]])
    assert ids.tolist() == [source.tokenizer(tiny.TEXTS[0])["input_ids"]]
    with torch.no_grad():
        assert torch.equal(model(ids).logits, source.model(ids).logits)
    assert tokenizer.chat_template == CHAT
    assert "quantization_config" not in json.loads((tmp_path / "student" / "config.json").read_text())


def test_adapters_and_checkpointing_train(file: Path) -> None:
    student = tiny.pretrained(str(file), lora=tiny.adapter(), gradient_checkpointing=True, dtype="bfloat16").train()
    student.token_nll(tiny.batch_of(student, tiny.instances(student))).sum().backward()
    grads = {name: parameter.grad for name, parameter in student.named_parameters() if parameter.requires_grad}
    assert grads
    assert all(".lora_" in name and grad is not None and grad.dtype == torch.float32 for name, grad in grads.items())
    assert any(grad.abs().sum() > 0 for grad in grads.values())
    frozen = {parameter.dtype for parameter in student.parameters() if not parameter.requires_grad}
    assert frozen == {torch.bfloat16}


def test_a_run_resumes_tests_predicts_and_exports(
    file: Path, run: Callable[..., int], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from transformers import AutoModelForCausalLM

    words = ["--model", "CWT", "--model.student", "Pretrained", "--model.student.name", file.parent,
             "--data.template", "Chat"]  # fmt: skip
    assert run("annotate", *words, "--run", "notes", "--untrained", "true") == 0
    assert run("fit", *words, "--trainer.max_epochs", 1) == 0
    assert run("fit", *words, "--trainer.max_epochs", 2, "--ckpt_path", "last") == 0
    assert run("test", *words) == 0
    assert run("predict", *words, "--question", "Is the coin up?") == 0
    weights = torch.load(tmp_path / "tiny" / "checkpoints" / "last.ckpt", weights_only=False)["state_dict"]
    for name, value in AutoModelForCausalLM.from_pretrained(tmp_path / "tiny" / "student").state_dict().items():
        assert torch.equal(value, weights[f"student.model.{name}"])


def test_all_names_of_a_file_give_the_same_model(source: Any, file: Path, tmp_path: Path) -> None:
    for name in ("a.gguf", "b.gguf"):
        (tmp_path / name).write_bytes(file.read_bytes() if name == "b.gguf" else b"no model")
    tokens = {
        tuple(student.make_tokenizer()(tiny.TEXTS[0])["input_ids"])
        for student in (
            Pretrained(str(file)),
            Pretrained(str(file.parent)),
            Pretrained(str(tmp_path), gguf_file="b.gguf"),
        )
    }
    assert tokens == {tuple(source.tokenizer(tiny.TEXTS[0])["input_ids"])}
    ids = FromScratch(tokenizer=str(file)).make_tokenizer([])(tiny.TEXTS[0])["input_ids"]
    assert {tuple(ids)} == tokens


def test_a_folder_with_its_own_weights_needs_gguf_file_for_a_gguf(source: Any, file: Path, tmp_path: Path) -> None:
    folder = Path(tiny.saved(source, tmp_path))
    (folder / "q.gguf").write_bytes(b"broken")
    tiny.pretrained(str(folder))
    with pytest.raises(UserError, match=r"Expected a GGUF file with a causal model"):
        tiny.pretrained(str(folder), gguf_file="q.gguf")


def damaged(file: Path, fault: str) -> bytes:
    data = file.read_bytes()
    cuts = {"empty": 0, "no header": 10, "cut in the metadata": 400, "cut in the vocabulary": 3000,
            "cut in the weights": len(data) - 4000}  # fmt: skip
    if fault in cuts:
        return data[: cuts[fault]]
    return {"another format": b"PK" + data[2:], "another version": data[:4] + b"\x63" + data[5:]}[fault]


@pytest.mark.parametrize(
    "fault", ["empty", "no header", "cut in the metadata", "cut in the vocabulary", "cut in the weights",
              "another format", "another version"],
)  # fmt: skip
def test_a_broken_file_is_named(fault: str, file: Path, tmp_path: Path) -> None:
    (tmp_path / "broken.gguf").write_bytes(damaged(file, fault))
    with pytest.raises(UserError, match=r"Expected a GGUF file with a causal model .*broken\.gguf.* fetch the file"):
        tiny.pretrained(str(tmp_path / "broken.gguf"))


@pytest.mark.parametrize(("architecture", "reason"), [("t5", "encoder-decoder model"), ("bert", "bert")])
def test_other_architectures_are_named(architecture: str, reason: str, source: Any, tmp_path: Path) -> None:
    path = write(tmp_path / "other.gguf", source, architecture=architecture)
    with pytest.raises(UserError, match=rf"causal model that transformers reads, got .*other\.gguf.*{reason}"):
        tiny.pretrained(str(path))


def test_a_file_that_is_not_clear_is_named(file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UserError, match=r"got '.*none\.gguf', which does not exist"):
        tiny.pretrained(str(tmp_path / "none.gguf"))
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match=r"it has none.* got 'x\.gguf'"):
        tiny.pretrained(str(tmp_path / "empty"), gguf_file="x.gguf")
    for name in ("a.gguf", "b.gguf"):
        (tmp_path / name).write_bytes(b"")
    with pytest.raises(UserError, match=r"got 2: a\.gguf, b\.gguf.*model\.student\.gguf_file: a\.gguf"):
        tiny.pretrained(str(tmp_path))
    with pytest.raises(UserError, match=r"Leave out model\.student\.gguf_file"):
        tiny.pretrained(str(file), gguf_file="tiny.gguf")
    with pytest.raises(UserError, match=r"got 'x\.gguf' of 'no/hub'.*check the network"):
        tiny.pretrained("no/hub", gguf_file="x.gguf")
    monkeypatch.setattr("skipthinking.students.gguf_files.find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"pip install 'skipthinking\[gguf\]'"):
        tiny.pretrained(str(file))
