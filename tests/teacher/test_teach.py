"""The command from questions to a file that trains: no request twice, no completion lost, a correct report."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import yaml
from conftest import ROOT
from loopback import Answer, Loopback, arguments, rows, solution, teach, total

from skipthinking.__main__ import main

pytest.importorskip("openai")

Captured = pytest.CaptureFixture[str]


def _report(text: str) -> dict[str, str]:
    return {name.strip(): value for row in text.splitlines() for name, value in [(row[:21], row[21:])] if value}


def test_the_rationales_can_be_trained_on(tmp_path: Path, run: Callable[..., int]) -> None:
    with Loopback() as server:
        assert teach(tmp_path, server, count=30) == 0
    source = [{"class_path": "Files", "init_args": {"path": str(tmp_path / "out.jsonl"), "task": "gsm8k"}}]
    assert run("fit", "--data.train", json.dumps(source), "--trainer.max_epochs", 1) == 0
    assert json.loads((tmp_path / "tiny" / "summary.json").read_text())["target_tokens"] > 0


def test_questions_and_answers_alone_are_enough(tmp_path: Path) -> None:
    questions = [{"question": f"What is {i} + {2 * i}?", "answer": 3 * i} for i in range(4)]
    (tmp_path / "questions.jsonl").write_text("".join(json.dumps(row) + "\n" for row in questions))
    with Loopback() as server:
        assert teach(tmp_path, server) == 0
    assert [row["answer"] for row in rows(tmp_path / "out.jsonl")] == ["0", "3", "6", "9"]


def test_the_command_starts_without_torch(tmp_path: Path) -> None:
    code = "import sys; from skipthinking.__main__ import main; main(sys.argv[1:]); print('torch' in sys.modules)"
    with Loopback() as server:
        command = [sys.executable, "-c", code, "teach", *arguments(tmp_path, server.url, 3)]
        env = {**os.environ, "PYTHONPATH": str(ROOT)}
        done = subprocess.run(command, capture_output=True, text=True, env=env)
    assert done.stdout.splitlines()[-1] == "False", done.stderr


# ------------------------------------------------------------------------------------------------ resuming


def test_nothing_is_requested_twice_and_the_files_stay(tmp_path: Path, capsys: Captured) -> None:
    with Loopback() as server:
        assert teach(tmp_path, server) == 0
        first = {name: (tmp_path / name).read_bytes() for name in ("out.jsonl", "out.records", "out.report")}
        report = _report(capsys.readouterr().out)
        assert teach(tmp_path, server) == 0
        assert server.count == 6
        assert {name: (tmp_path / name).read_bytes() for name in first} == first
        assert _report(capsys.readouterr().out) == report


def test_a_complete_log_needs_no_server(tmp_path: Path) -> None:
    with Loopback() as server:
        assert teach(tmp_path, server, "--samples", 3) == 0
    assert teach(tmp_path, server, "--samples", 3, "--keep", "Correct") == 0  # the server is gone
    assert len(rows(tmp_path / "out.jsonl")) == 18
    assert teach(tmp_path, server, "--samples", 2, "--keep", "Correct") == 0
    assert len(rows(tmp_path / "out.jsonl")) == 12


def test_a_killed_run_resumes_and_equals_one_without_kills(tmp_path: Path) -> None:
    """After three kills every completion is in the log once, and none of the log was requested again."""
    count, samples = 60, 2
    (tmp_path / "once").mkdir()
    with Loopback() as server:
        assert teach(tmp_path / "once", server, "--samples", samples, count=count) == 0
    with Loopback(lambda number, body: Answer(wait=0.01 + 0.01 * (number % 5), limit=1)) as server:
        words = [*arguments(tmp_path, server.url, count), "--samples", str(samples), "--client.concurrency", "4"]
        command = [sys.executable, "-m", "skipthinking", "teach", *words]
        env = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
        log, kills = tmp_path / "out.records", 0
        for _ in range(20):
            content = log.read_bytes() if log.exists() else b""
            complete = content[: content.rfind(b"\n") + 1]
            before, done = server.count, [json.loads(row) for row in complete.splitlines()]
            process = subprocess.Popen(command, env=env, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
            while process.poll() is None and (kills == 3 or server.count < before + 15 + 7 * kills):
                time.sleep(0.002)
            if process.poll() is None:
                process.send_signal(signal.SIGKILL)
                kills += 1
            _, err = process.communicate()
            assert log.read_bytes().startswith(complete)  # logged lines stay
            sent = Counter((f"q{total(row.question) // 3}", row.body["seed"]) for row in server.seen[before:])
            assert max(sent.values()) == 1
            logged = Counter(row["id"] for row in done)
            assert not {id for id, number in logged.items() if number == samples} & {id for id, _ in sent}
            if process.returncode != -signal.SIGKILL:
                assert process.returncode == 0, err
                break
    assert kills == 3
    results = rows(log)
    assert len(results) == len({row["key"] for row in results}) == count * samples
    assert server.count <= count * samples + kills * 4  # lost are at most the requests in flight
    assert {row["key"] for row in results} == {row["key"] for row in rows(tmp_path / "once" / "out.records")}
    assert [row["id"] for row in rows(tmp_path / "out.jsonl")] == [f"q{i}/0" for i in range(count)]


def test_ctrl_c_says_how_to_resume(tmp_path: Path) -> None:
    with Loopback(lambda number, body: Answer(wait=0.05)) as server:
        command = [sys.executable, "-m", "skipthinking", "teach", *arguments(tmp_path, server.url, 500)]
        env = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
        # A test run in the background ignores SIGINT, which its children inherit.
        restore = partial(signal.signal, signal.SIGINT, signal.SIG_DFL)
        process = subprocess.Popen(command, env=env, stderr=subprocess.PIPE, text=True, preexec_fn=restore)
        while server.count < 20:
            time.sleep(0.01)
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=20)
    assert process.returncode == 130
    assert err.splitlines()[-1] == "stopped; run the same command to resume"
    assert "Traceback" not in err
    assert len(rows(tmp_path / "out.records")) >= 12


def test_more_samples_request_only_the_rest(tmp_path: Path) -> None:
    with Loopback(lambda number, body: Answer(limit=1)) as server:
        assert teach(tmp_path, server, "--samples", 2) == 0
        assert teach(tmp_path, server, "--samples", 3) == 0
        assert server.count == 18
        assert len({row.body["seed"] for row in server.seen}) == 18


@pytest.mark.parametrize(
    ("words", "again"),
    [
        (["--client.model", "other"], True),
        (["--prompt.text", "{question} Think."], True),
        (["--prompt.system", "You add."], True),
        (["--temperature", "0.2"], True),
        (["--max_tokens", "99"], True),
        (["--seed", "1"], True),
        (["--client.extra", "{top_p: 0.5}"], True),
        (["--client.concurrency", "2"], False),
        (["--client.timeout", "9"], False),
        (["--keep", "Correct"], False),
    ],
)
def test_settings_that_determine_the_text_repeat_requests_and_others_do_not(
    words: list[str], again: bool, tmp_path: Path
) -> None:
    with Loopback() as server:
        assert teach(tmp_path, server) == 0
        assert teach(tmp_path, server, *words) == 0
        assert server.count == (12 if again else 6)
    assert len(rows(tmp_path / "out.jsonl")) == 6  # completions of other settings are ignored


def test_another_address_of_the_same_model_repeats_nothing(tmp_path: Path) -> None:
    with Loopback() as one:
        assert teach(tmp_path, one) == 0
    with Loopback() as two:
        assert teach(tmp_path, two) == 0
        assert two.count == 0


# ------------------------------------------------------------------------------------------------- the report


def test_the_report_counts_every_completion_once(tmp_path: Path, capsys: Captured) -> None:
    def mixed(number: int, body: dict[str, Any]) -> Answer:
        question = body["messages"][-1]["content"]
        right, number = solution(question), total(question) // 3
        loud = right.upper().replace("ANSWER IS", "answer is")
        texts = {
            0: [right, loud, "I add. Therefore, the answer is 0. Bye!", right],
            1: ["Therefore, the answer is 4.", "No idea.", "", "It is 3."],
        }
        return Answer(texts=texts.get(number, [right] * 4), finish="length" if number == 2 else "stop", wait=0.02)

    with Loopback(mixed) as server:
        assert teach(tmp_path, server, "--samples", 4, "--keep", "Correct") == 0
    report = _report(capsys.readouterr().out)
    assert report["asked"] == "24 (6 questions)"
    assert report["answered"] == "24"
    assert report["correct"] == "16 (66.7% of the answered)"  # every completion of q0, q3, q4 and q5
    assert report["wrong"] == "1"
    assert report["unparsable"] == "3"
    assert report["cut off"] == "4"
    assert report["failed"] == report["not asked yet"] == "0"
    assert report["without a rationale"] == "2"
    assert report["duplicates"] == "11"  # two of q0, three each of q3, q4 and q5
    assert report["kept"] == "5 (4 questions, 4.4 words each)"
    assert report["tokens"] == "60 read, 120 written"
    saved = json.loads((tmp_path / "out.report").read_text())
    assert saved["verdicts"] == {"correct": 16, "wrong": 1, "unparsable": 3, "cut off": 4}
    durations = [row.get("seconds") for row in rows(tmp_path / "out.records")]
    assert saved["seconds"] == pytest.approx(sum(seconds or 0 for seconds in durations))
    assert sum(seconds is not None for seconds in durations) == 6  # one per request
    assert 6 * 0.02 < saved["seconds"] < 6
    assert (saved["kept"], saved["seed"], saved["teacher"]["model"]) == (5, 0, "adder")
    texts = [row["rationale"] for row in rows(tmp_path / "out.jsonl") if row["id"].startswith("q0")]
    assert texts == ["We add the two numbers.", "I add."]


def test_an_answer_without_the_phrase_counts_if_lenient(tmp_path: Path) -> None:
    def loose(number: int, body: dict[str, Any]) -> Answer:
        return Answer(texts=[f"I add.\n#### {total(body['messages'][-1]['content'])}"])

    with Loopback(loose) as server:
        assert teach(tmp_path, server) == 2
        assert not (tmp_path / "out.jsonl").exists()
        assert teach(tmp_path, server, "--lenient", "true") == 0
        assert server.count == 6
    assert {row["rationale"] for row in rows(tmp_path / "out.jsonl")} == {"I add."}


def test_an_older_file_stays_if_nothing_can_be_kept(tmp_path: Path, capsys: Captured) -> None:
    (tmp_path / "out.jsonl").write_text("precious")
    with Loopback(lambda number, body: Answer(texts=["No idea."])) as server:
        assert teach(tmp_path, server) == 2
        assert "got none of 6 completions" in capsys.readouterr().err
        assert (tmp_path / "out.jsonl").read_text() == "precious"
        assert sorted(path.name for path in tmp_path.iterdir()) == ["out.jsonl", "out.records", "questions.jsonl"]
        assert teach(tmp_path, server, "--keep", "Everything") == 0
    assert {row["rationale"] for row in rows(tmp_path / "out.jsonl")} == {"No idea."}


def test_a_dry_run_shows_the_first_prompt_and_writes_nothing(tmp_path: Path, capsys: Captured) -> None:
    with Loopback() as server:
        assert teach(tmp_path, server, "--dry_run", "true", "--samples", 3, "--prompt.system", "You add.") == 0
        assert server.count == 0
    out = capsys.readouterr().out
    assert out.startswith("[system]\nYou add.\n\n[user]\nWhat is 0 + 0?\n")
    assert "18 completions of 6 questions, 0 of them on record; 6 requests to " in out
    assert [path.name for path in tmp_path.iterdir()] == ["questions.jsonl"]


def test_a_dry_run_counts_the_open_requests(tmp_path: Path, capsys: Captured) -> None:
    with Loopback() as server:
        assert teach(tmp_path, server, "--samples", 3) == 0
        log = tmp_path / "out.records"
        torn = log.read_bytes() + b'{"key": "'
        log.write_bytes(torn)
        words = ["--samples", 4, "--client.samples_per_request", 1]
        capsys.readouterr()
        assert teach(tmp_path, server, *words, "--dry_run", "true") == 0
        assert "24 completions of 6 questions, 18 of them on record; 6 requests to " in capsys.readouterr().out
        assert log.read_bytes() == torn
        before = server.count
        assert teach(tmp_path, server, *words) == 0
        assert server.count == before + 6


def test_questions_that_a_prompt_cannot_show_are_left_out_and_counted(tmp_path: Path, capsys: Captured) -> None:
    path = tmp_path / "questions.jsonl"
    rationales = ["By adding.", " ", "By counting."]
    lines = [{"id": f"q{i}", "question": f"What is {i} + {2 * i}?", "rationale": text, "answer": 3 * i}
            for i, text in enumerate(rationales)]  # fmt: skip
    path.write_text("".join(json.dumps(row) + "\n" for row in lines))
    words = ["--prompt", "Rewrite", "--prompt.steps", 2]
    with Loopback() as server:
        assert teach(tmp_path, server, *words) == 0
        assert "left out 1 question without a rationale" in capsys.readouterr().err
        assert [row["id"] for row in rows(tmp_path / "out.jsonl")] == ["q0/0", "q2/0"]
        path.write_text(json.dumps(lines[1]) + "\n")
        assert teach(tmp_path, server, *words) == 2
        assert "got 1 without a rationale" in capsys.readouterr().err


# ------------------------------------------------------------------------------------------------- the examples


EXPERIMENTS = sorted((ROOT / "experiments" / "teach").rglob("*.yaml"))


def test_the_examples_are_collected() -> None:
    assert {path.stem for path in EXPERIMENTS} >= {"gsm8k", "svamp", "student"}


@pytest.mark.parametrize("path", EXPERIMENTS, ids=lambda path: path.stem)
def test_every_example_has_its_command(path: Path) -> None:
    header = [text for text in path.read_text().splitlines() if text.startswith("#")]
    assert f"#   python -m skipthinking teach --config {path.relative_to(ROOT)}" in header


def test_the_example_of_a_student_runs(
    run: Callable[..., int], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With an untrained student in place of the one of the quickstart."""
    assert run("fit", "--run", "quickstart", "--trainer.max_steps", 1, "--data.test", "null") == 0
    (tmp_path / "runs").symlink_to(tmp_path)
    monkeypatch.chdir(tmp_path)
    words = ["--questions.size", "4", "--max_tokens", "8", "--keep", "Everything"]
    assert main(["teach", "--config", str(ROOT / "experiments" / "teach" / "student.yaml"), *words]) == 0
    assert rows(tmp_path / "data" / "arithmetic" / "own.jsonl")


@pytest.mark.parametrize("name", ["gsm8k", "svamp"])
def test_every_example_of_an_endpoint_runs(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """On generated questions at the path that the example names."""
    path = ROOT / "experiments" / "teach" / f"{name}.yaml"
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("OPENAI_API_KEY", "sk-not-a-key-0123")
    settings = yaml.safe_load(path.read_text())
    source = tmp_path / settings["questions"]["init_args"]["path"]
    source.parent.mkdir(parents=True)
    with source.open("w") as file:
        for i in range(12):
            solution, question = f"By adding. The answer is {3 * i}", f"What is {i} + {2 * i}?"
            svamp = {"instruction": question, "output": solution}
            row = svamp if name == "svamp" else {"question": question, "answer": f"By adding. #### {3 * i}"}
            file.write(json.dumps(row) + "\n")
    with Loopback() as server:
        assert main(["teach", "--config", str(path), "--client.base_url", server.url]) == 0
        assert server.seen[0].body["model"] == settings["client"]["init_args"]["model"]
    assert rows(tmp_path / settings["out"])
