"""Failures of an endpoint: transient ones are retried, fatal ones stop the run, and no completion is lost."""

from __future__ import annotations

import email.utils
import json
import time
from pathlib import Path
from typing import Any

import pytest
from loopback import KEY, Answer, Loopback, rows, teach, total

from skipthinking.records import UserError
from skipthinking.teacher import retries
from skipthinking.teacher.endpoint import read_reply
from skipthinking.teacher.retries import RetryPolicy, TransientError, retry_after

pytest.importorskip("openai")

Captured = pytest.CaptureFixture[str]
TRANSIENT = {
    "429": Answer(status=429, body='{"error": {"message": "slow down"}}'),
    "429 with Retry-After": Answer(status=429, headers={"Retry-After": "0.05"}),
    "408": Answer(status=408),
    "500": Answer(status=500, body="oops"),
    "503": Answer(status=503, body='{"detail": "loading"}'),
    "timeout": Answer(wait=2.5),
    "byte by byte": Answer(drip=0.05),
    "dropped": Answer(drop=True),
    "truncated": Answer(missing=40),
    "malformed": Answer(body='{"choices": [{"mess'),
    "html": Answer(body="<html>", headers={"Content-Type": "text/html"}),
    "no choices": Answer(body='{"choices": []}'),
    "null choices": Answer(body='{"choices": null}'),
    "a list": Answer(body="[]"),
    "no UTF-8": Answer(body=b'{"choices": \xff}'),
    "a number as text": Answer(body='{"choices": [{"message": {"content": 3}}]}'),
    "too deep": Answer(body="[" * 100_000),
    "too deep an error": Answer(status=500, body="[" * 100_000),
}


@pytest.fixture(autouse=True)
def _key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TEST_KEY", KEY)


@pytest.mark.parametrize("fault", TRANSIENT.values(), ids=TRANSIENT)
def test_a_transient_failure_is_retried_and_every_question_answered_once(fault: Answer, tmp_path: Path) -> None:
    with Loopback(lambda number, body: fault if number in (0, 3) else Answer()) as server:
        assert teach(tmp_path, server, "--client.timeout", 1.0 if fault.wait or fault.drip else 30) == 0
        assert server.count == 6 + 2
    results = rows(tmp_path / "out.jsonl")
    assert [row["id"] for row in results] == [f"q{i}/0" for i in range(6)]
    assert all(row["rationale"] == "We add the two numbers." for row in results)
    assert [row["answer"] for row in results] == [str(3 * i) for i in range(6)]
    assert len(rows(tmp_path / "out.records")) == 6


FATAL = {
    "401": Answer(status=401, body=json.dumps({"error": {"message": "Incorrect API key"}})),
    "404": Answer(status=404, body=json.dumps({"error": {"message": "The model `adder` does not exist"}})),
    "400 model": Answer(status=400, body=json.dumps({"error": {"message": "which?", "code": "model_not_found"}})),
    "quota": Answer(status=429, body=json.dumps({"error": {"message": "Quota", "code": "insufficient_quota"}})),
    "long pause": Answer(status=429, headers={"Retry-After": "86400"}),
}


@pytest.mark.parametrize("fault", FATAL.values(), ids=FATAL)
def test_a_fatal_failure_stops_the_run_at_once_with_its_cause(fault: Answer, tmp_path: Path, capsys: Captured) -> None:
    with Loopback(lambda number, body: fault if number >= 2 else Answer()) as server:
        assert teach(tmp_path, server, "--client.concurrency", 1) == 2
        assert server.count == 3
        message = capsys.readouterr().err.splitlines()[-1]
        assert message.startswith("error: Expected")
        cause = json.loads(fault.body)["error"]["message"] if isinstance(fault.body, str) else "Retry-After 86400 s"
        assert cause in message
        assert not (tmp_path / "out.jsonl").exists()
        assert len(rows(tmp_path / "out.records")) == 2  # the earlier completions are kept
        server.behave = lambda number, body: Answer()
        assert teach(tmp_path, server) == 0
        assert server.count == 3 + 4
    assert len(rows(tmp_path / "out.jsonl")) == 6


def test_a_refused_question_is_recorded_and_the_others_go_on(tmp_path: Path, capsys: Captured) -> None:
    long = Answer(status=400, body=json.dumps({"error": {"message": "context length exceeded"}}))
    with Loopback(lambda number, body: long if total(body["messages"][-1]["content"]) == 6 else Answer()) as server:
        assert teach(tmp_path, server) == 0
        assert server.count == 6  # no retry: the same request would be refused again
        out = capsys.readouterr().out
        assert "failed               1\n" in out
        assert "failed 1 times: HTTP 400: context length exceeded" in out
        assert [row["id"] for row in rows(tmp_path / "out.jsonl")] == ["q0/0", "q1/0", "q3/0", "q4/0", "q5/0"]
        assert teach(tmp_path, server) == 0
        assert server.count == 6
        server.behave = lambda number, body: Answer()
        assert teach(tmp_path, server, "--retry_failed", "true") == 0
        assert server.count == 7
        assert total(server.seen[-1].question) == 6
    assert len(rows(tmp_path / "out.jsonl")) == 6
    assert "failed               0\n" in capsys.readouterr().out


@pytest.mark.parametrize("at", [0, 3])
def test_a_refusal_that_names_the_model_is_fatal_until_there_was_a_reply(at: int, tmp_path: Path) -> None:
    """transformers serve answers 400 to an unknown model; a proxy may name the model when it refuses one question."""
    refusal = Answer(status=400, body=json.dumps({"detail": "This server has 'subtracter', not 'adder'."}))
    with Loopback(lambda number, body: refusal if number >= at else Answer()) as server:
        assert teach(tmp_path, server, "--client.concurrency", 1, "--stop_after", 2) == 2
        assert server.count == (1 if at == 0 else at + 2)
    assert (tmp_path / "out.records").exists() == (at > 0)


def test_failed_questions_are_retried_alone(tmp_path: Path) -> None:
    with Loopback(
        lambda number, body: Answer(status=422) if number == 0 else Answer(status=401 * (number > 2) or 200)
    ) as server:
        assert teach(tmp_path, server, "--client.concurrency", 1) == 2
        assert [("error" in row) for row in rows(tmp_path / "out.records")] == [True, False, False]
        server.behave = lambda number, body: Answer()
        assert teach(tmp_path, server, "--retry_failed", "true") == 0
        assert server.count == 4 + 1
        assert len(rows(tmp_path / "out.jsonl")) == 3


def test_retry_failed_without_failures_sends_nothing(tmp_path: Path, capsys: Captured) -> None:
    with Loopback() as server:
        assert teach(tmp_path, server, "--retry_failed", "true") == 2
        assert "Leave --retry_failed out" in capsys.readouterr().err.splitlines()[-1]
        assert teach(tmp_path, server) == 0
        assert teach(tmp_path, server, "--retry_failed", "true") == 0
        assert server.count == 6


@pytest.mark.parametrize("stop_after", [10, 3])
def test_the_remedy_after_failures_works_for_a_changed_request_and_for_the_same(
    stop_after: int, tmp_path: Path, capsys: Captured
) -> None:
    """An endpoint that knows only max_completion_tokens, and then one whose quota is used up."""
    words = ["--stop_after", stop_after, "--client.concurrency", 1]
    old = Answer(status=400, body=json.dumps({"error": {"message": "Unsupported parameter: 'max_tokens'."}}))
    with Loopback(lambda number, body: old if "max_tokens" in body else Answer()) as server:
        assert teach(tmp_path, server, *words) == 2
        message = capsys.readouterr().err.splitlines()[-1]
        assert "'max_tokens'. Fix the cause. If that changes client.extra, the model, the prompt or" in message
        extra = ["--client.extra", "{max_tokens: null, max_completion_tokens: 512}"]
        assert teach(tmp_path, server, *words, *extra, "--retry_failed", "true") == 2
        assert "Leave --retry_failed out" in capsys.readouterr().err.splitlines()[-1]
        assert teach(tmp_path, server, *words, *extra) == 0
        assert len(rows(tmp_path / "out.jsonl")) == 6
    (tmp_path / "other").mkdir()
    with Loopback(lambda number, body: Answer(status=422)) as server:
        assert teach(tmp_path / "other", server, *words) == 2
        assert "Otherwise add --retry_failed true" in capsys.readouterr().err.splitlines()[-1]
        server.behave = lambda number, body: Answer()
        assert teach(tmp_path / "other", server, *words, "--retry_failed", "true") == 0
        assert teach(tmp_path / "other", server, *words) == 0  # the rest, if the run had ended early
        assert len(rows(tmp_path / "other" / "out.jsonl")) == 6


def test_consecutive_failures_end_the_run(tmp_path: Path, capsys: Captured) -> None:
    with Loopback(lambda number, body: Answer(status=500, body="broken")) as server:
        words = ["--client.tries", 2, "--stop_after", 4, "--client.concurrency", 1]
        assert teach(tmp_path, server, *words, count=50) == 2
        assert server.count == 4 * 2
    message = capsys.readouterr().err.splitlines()[-1]
    assert "HTTP 500: broken (2 tries)" in message
    assert "--retry_failed true" in message


def test_a_reply_resets_the_count_of_failures(tmp_path: Path) -> None:
    with Loopback(lambda number, body: Answer(status=400 if number % 3 else 200)) as server:
        assert teach(tmp_path, server, "--stop_after", 3, "--client.concurrency", 1, count=12) == 0


def test_an_empty_completion_is_counted_and_never_a_rationale(tmp_path: Path, capsys: Captured) -> None:
    empty = Answer(body='{"choices": [{"message": {"content": null}, "finish_reason": "stop"}]}')
    bare = Answer(texts=["Therefore, the answer is 0."])
    with Loopback(lambda number, body: {0: empty, 1: bare}.get(number, Answer())) as server:
        assert teach(tmp_path, server, "--client.concurrency", 1) == 0
        assert server.count == 6
    out = capsys.readouterr().out
    assert "unparsable         1\n" in out
    assert "without a rationale  2\n" in out
    assert len(rows(tmp_path / "out.jsonl")) == 4


# ------------------------------------------------------------------------------------------------- waiting


@pytest.mark.parametrize("form", ["seconds", "milliseconds", "date"])
def test_no_request_is_sent_before_retry_after_is_over(form: str, tmp_path: Path) -> None:
    wait = 2.0 if form == "date" else 0.6
    until = [0.0]

    def busy(number: int, body: dict[str, Any]) -> Answer:
        if number:
            return Answer()
        until[0] = time.time() + wait
        headers = {
            "seconds": {"Retry-After": "0.6"},
            "milliseconds": {"Retry-After-Ms": "600"},
            "date": {"Retry-After": email.utils.formatdate(until[0], usegmt=True)},  # whole seconds
        }
        return Answer(status=429, headers=headers[form])

    with Loopback(busy) as server:
        assert teach(tmp_path, server, "--client.concurrency", 1) == 0
        assert server.count == 7
        gap = server.seen[1].time - server.seen[0].time
    assert gap >= (wait if form != "date" else wait - 1.05)
    assert gap < wait + 3.0


def test_a_long_pause_is_reported_once(tmp_path: Path, capsys: Captured, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(retries, "_LONG_PAUSE", 0.4)
    busy = Answer(status=429, headers={"Retry-After": "0.5"})
    with Loopback(lambda number, body: busy if number < 3 else Answer()) as server:
        assert teach(tmp_path, server, "--client.concurrency", 3) == 0
    assert capsys.readouterr().err.count("waiting 0 s, as the server asks") == 1


def test_a_pause_holds_for_all_requests(tmp_path: Path) -> None:
    with Loopback(
        lambda number, body: Answer(status=429, headers={"Retry-After": "0.5"}) if number == 1 else Answer(wait=0.1)
    ) as server:
        assert teach(tmp_path, server, "--client.concurrency", 3, count=12) == 0
        assert server.count == 13
        times = sorted(row.time for row in server.seen)
    assert sum(time < times[0] + 0.45 for time in times) <= 5  # the first three, and those in flight


def test_waits_double_up_to_a_limit_minus_up_to_half() -> None:
    policy = RetryPolicy(tries=9, first_wait=1.0, longest_wait=20.0, longest_pause=0.0)
    for failures, longest in enumerate([1, 2, 4, 8, 16, 20, 20], 1):
        waits = [policy.wait(failures) for _ in range(200)]
        assert longest / 2 <= min(waits) < 0.6 * longest
        assert 0.9 * longest < max(waits) <= longest


@pytest.mark.parametrize(
    ("headers", "seconds"),
    [
        ({"retry-after": "7"}, 7.0),
        ({"retry-after": "1.5"}, 1.5),
        ({"retry-after-ms": "250", "retry-after": "7"}, 0.25),
        ({"retry-after": "Thu, 01 Jan 1970 00:01:00 GMT"}, 10.0),
        ({"retry-after": "Thu, 01 Jan 1970 00:00:00 GMT"}, 0.0),  # in the past
        ({"retry-after": "soon"}, None),
        ({"retry-after": "-3"}, None),
        ({"retry-after": "inf"}, None),
        ({"retry-after": "nan"}, None),
        ({}, None),
    ],
)
def test_retry_after_is_parsed_in_every_form(headers: dict[str, str], seconds: float | None) -> None:
    assert retry_after(headers, now=50.0) == seconds


def test_concurrency_bounds_the_requests_in_flight(tmp_path: Path) -> None:
    with Loopback(lambda number, body: Answer(wait=0.05)) as server:
        assert teach(tmp_path, server, "--client.concurrency", 5, count=25) == 0
        assert server.busiest == 5


# ------------------------------------------------------------------------------------------- n, seeds, body


@pytest.mark.parametrize(("limit", "requests"), [(99, 1), (1, 4), (3, 2)])
def test_samples_are_complete_even_if_n_is_ignored(limit: int, requests: int, tmp_path: Path) -> None:
    with Loopback(lambda number, body: Answer(limit=limit)) as server:
        assert teach(tmp_path, server, "--samples", 4, "--keep", "Correct") == 0
        assert server.count == 6 * requests
        seeds = [row.body["seed"] for row in server.seen]
        assert len(set(seeds)) == len(seeds)  # the same seed would give the same sample
    logged = rows(tmp_path / "out.records")
    assert sorted((row["id"], row["sample"]) for row in logged) == [(f"q{i}", s) for i in range(6) for s in range(4)]


def test_samples_per_request_bounds_n(tmp_path: Path) -> None:
    with Loopback() as server:
        assert teach(tmp_path, server, "--samples", 5, "--client.samples_per_request", 2) == 0
        assert sorted(row.body.get("n", 1) for row in server.seen) == [1] * 6 + [2] * 12


def test_the_body_has_the_settings_and_extra_overrides_them(tmp_path: Path) -> None:
    extra = json.dumps({"max_tokens": None, "max_completion_tokens": 77, "top_p": 0.9})
    with Loopback() as server:
        assert teach(tmp_path, server, "--temperature", 0.3, "--max_tokens", 44, "--seed", 5, count=1) == 0
        assert teach(tmp_path, server, "--client.extra", extra, count=1) == 0
        one, two = (row.body for row in server.seen)
    assert one["model"] == "adder"
    assert (one["temperature"], one["max_tokens"]) == (0.3, 44)
    assert 0 <= one["seed"] < 2**31
    assert "n" not in one
    assert "max_tokens" not in two
    assert (two["max_completion_tokens"], two["top_p"]) == (77, 0.9)


def test_a_lone_surrogate_is_replaced_in_texts_and_errors(tmp_path: Path, capsys: Captured) -> None:
    half = '{"choices": [{"message": {"content": "5 \\ud83d"}, "finish_reason": "\\ud83d"}]}'
    error = '{"error": {"message": "half \\ud83d"}}'
    bodies = {0: Answer(body=half), 1: Answer(status=400, body=error), 4: Answer(status=401, body=error)}
    with Loopback(lambda number, body: bodies.get(number, Answer())) as server:
        assert teach(tmp_path, server, "--client.concurrency", 1) == 2
    assert "got HTTP 401: half ?." in capsys.readouterr().err.splitlines()[-1]
    first, second, *_ = rows(tmp_path / "out.records")
    assert (first["text"], first["finish"], second["error"]) == ("5 ?", "?", "HTTP 400: half ?")


def test_a_lone_surrogate_at_a_cut_end_is_replaced() -> None:
    reply = read_reply('{"choices": [{"message": {"content": "5 \\ud83d"}, "finish_reason": "length"}]}', 1, 0.0)
    assert reply.completions[0].text == "5 ?"
    assert (reply.prompt_tokens, reply.completion_tokens) == (None, None)


@pytest.mark.parametrize("key", ["reasoning_content", "reasoning"])
def test_thoughts_that_the_server_returns_separately_are_the_rationale(key: str, tmp_path: Path) -> None:
    message = {"content": "It is 0. Therefore, the answer is 0.", key: "Nothing and nothing is nothing."}
    body = json.dumps({"choices": [{"message": message, "finish_reason": "stop"}]})
    with Loopback(lambda number, _: Answer(body=body)) as server:
        assert teach(tmp_path, server, count=1) == 0
    (row,) = rows(tmp_path / "out.jsonl")
    assert (row["rationale"], row["conclusion"]) == ("Nothing and nothing is nothing.", "It is 0.")


def test_choices_are_sorted_by_index_and_limited_to_the_wanted_samples() -> None:
    choices = [{"index": i, "message": {"content": f"text {i}"}} for i in (2, 0, 1)]
    reply = read_reply(json.dumps({"choices": choices}), 2, 0.0)
    assert [row.text for row in reply.completions] == ["text 0", "text 1"]


@pytest.mark.parametrize(
    "wrong",
    [
        {"concurrency": 0},
        {"tries": 0},
        {"timeout": 0},
        {"first_wait": 90.0},
        {"samples_per_request": -1},
        {"extra": {"model": None}},
        {"extra": {"stream": True}},
    ],
)
def test_invalid_settings_are_refused(wrong: dict[str, Any]) -> None:
    from skipthinking.teacher.endpoint import Endpoint

    with pytest.raises(UserError, match=next(iter(wrong))):
        Endpoint("adder", **wrong)


def test_a_transient_error_is_not_a_user_error() -> None:
    assert not issubclass(TransientError, UserError)
