"""What counts as a right answer, part by part."""

import itertools
import json
from typing import Any

import pytest
from blackstart.drills.measure.prober import (
    AnswerParser,
    Rule,
    TokenStream,
    differs,
    judge_completion,
    judge_inference,
    judge_json,
    questions,
    same_model,
)
from hypothesis import given, settings
from hypothesis import strategies as st


def answer(value: Any, status: int = 200) -> AnswerParser:
    parser = AnswerParser()
    body = value if isinstance(value, bytes) else json.dumps(value).encode()
    parser.feed(b"HTTP/1.1 %d X\r\ncontent-length: %d\r\n\r\n%s" % (status, len(body), body))
    assert parser.done
    return parser


def completion(**change: Any) -> dict[str, Any]:
    choice = {"text": " Paris, of course", "finish_reason": "stop"}
    return {"model": "tiny", "choices": [{**choice, **{k: v for k, v in change.items() if k in choice}}], **change}


@pytest.mark.parametrize(
    ("body", "rule", "outcome"),
    [
        (completion(), Rule(), "ok"),
        ({"choices": [{"message": {"content": " Paris, of course"}, "finish_reason": "stop"}]}, Rule(), "ok"),
        (completion(text=" London"), Rule(), "wrong-answer"),
        (completion(text=" Par"), Rule(), "wrong-answer"),
        (completion(text=""), Rule(), "empty"),
        (completion(text=""), Rule(text=False), "wrong-answer"),
        (completion(finish_reason=None), Rule(), "truncated"),
        (completion(finish_reason=None), Rule(finish_reason=False), "ok"),
        (completion(model="other"), Rule(), "wrong-model"),
        (completion(model="other"), Rule(model=False), "ok"),
        (completion(error={"message": "out of memory"}), Rule(), "error-in-200"),
        ({"object": "error", "message": "x"}, Rule(), "error-in-200"),
        ({"choices": []}, Rule(), "malformed"),
        ({"choices": [None]}, Rule(), "malformed"),
        ([], Rule(), "malformed"),
        (b"\xff\xfe", Rule(), "malformed"),
        (b"[" * 100000, Rule(), "malformed"),
    ],
)
def test_a_completion(body: Any, rule: Rule, outcome: str) -> None:
    assert judge_completion(answer(body), "tiny", rule, " Paris").outcome == outcome


@pytest.mark.parametrize(
    ("status", "outcome"), [(500, "status-5xx"), (429, "status-429"), (404, "status-4xx"), (301, "status-4xx")]
)
def test_a_status_comes_before_the_body(status: int, outcome: str) -> None:
    assert judge_completion(answer(completion(), status), "tiny", Rule(), " Paris").outcome == outcome


@pytest.mark.parametrize(
    ("body", "outcome"),
    [
        ({"model_name": "m", "outputs": [{"name": "y", "data": [[1.0, 2.0]]}]}, "ok"),
        ({"model_name": "m", "outputs": [{"name": "y", "data": [1.009, 2.0]}, {"name": "z", "data": [0]}]}, "ok"),
        ({"model_name": "m", "outputs": [{"name": "y", "data": [1.011, 2.0]}]}, "wrong-answer"),
        ({"model_name": "m", "outputs": [{"name": "y", "data": [float("nan"), 2.0]}]}, "wrong-answer"),
        ({"model_name": "m", "outputs": [{"name": "z", "data": [1.0, 2.0]}]}, "wrong-answer"),
        ({"model_name": "m", "outputs": [{"name": "y", "data": [1.0]}]}, "wrong-answer"),
        ({"model_name": "m", "outputs": [{"name": "y", "data": [True, 2.0]}]}, "wrong-answer"),
        ({"model_name": "m", "outputs": [{"name": "y", "data": ["1.0", 2.0]}]}, "wrong-answer"),
        ({"model_name": "m", "outputs": []}, "empty"),
        ({"model_name": "n", "outputs": [{"name": "y", "data": [1.0, 2.0]}]}, "wrong-model"),
        ({"error": "no such model"}, "error-in-200"),
        ({"model_name": "m"}, "malformed"),
    ],
)
def test_an_inference(body: Any, outcome: str) -> None:
    golden = {"outputs": [{"name": "y", "data": [1.0, 2.0]}], "tolerance": 0.01}
    assert judge_inference(answer(body), "m", golden).outcome == outcome


@pytest.mark.parametrize(("shape", "outcome"), [([1, 2], "ok"), ([2, 1], "wrong-answer"), (None, "wrong-answer")])
def test_an_inference_of_another_shape(shape: Any, outcome: str) -> None:
    """Only where the question says which it must be."""
    body = {"model_name": "m", "outputs": [{"name": "y", "data": [1.0, 2.0], **({"shape": shape} if shape else {})}]}
    output = {"name": "y", "data": [[1.0, 2.0]]}
    assert judge_inference(answer(body), "m", {"outputs": [{**output, "shape": (1, 2)}]}).outcome == outcome
    assert judge_inference(answer(body), "m", {"outputs": [output]}).outcome == "ok"


@pytest.mark.parametrize(("rule", "outcome"), [({}, "wrong-model"), ({"model": False}, "ok")])
def test_an_inference_may_name_another_model_where_that_is_switched_off(rule: Any, outcome: str) -> None:
    lane = {"protocol": "kserve-v2", "url": "http://h:1", "model": "m", "golden": [{"inputs": []}], "success": rule}
    (question,) = questions(lane)
    body = {"model_name": "other", "outputs": [{"name": "y", "data": [1.0]}]}
    assert question.judge(answer(body)).outcome == outcome


@pytest.mark.parametrize(
    ("golden", "body", "status", "outcome"),
    [
        ({"json": {"a": 1}}, {"a": 1, "b": 2}, 200, "ok"),
        ({"json": {"a": {"b": [1, 2]}}, "tolerance": 0.1}, {"a": {"b": [1.05, 2]}}, 200, "ok"),
        ({"json": {"a": [1]}}, {"a": [1, 2]}, 200, "wrong-answer"),
        ({"json": {"a": 1}}, {"a": True}, 200, "wrong-answer"),
        ({"json": {"a": "1"}}, {"a": 1}, 200, "wrong-answer"),
        ({"json": {"a": None}}, {"a": None}, 200, "ok"),
        ({"json": {"a": 1}}, {"error": "x"}, 200, "error-in-200"),
        ({"json": {"a": 1}}, b"<html>", 200, "malformed"),
        ({"json": None}, b"anything", 200, "ok"),
        ({"status": 302}, b"", 302, "ok"),
        ({"status": 302}, b"", 200, "wrong-answer"),
        ({"json": {"a": 1}}, {"a": 1}, 503, "status-5xx"),
    ],
)
def test_a_json_answer(golden: dict[str, Any], body: Any, status: int, outcome: str) -> None:
    assert judge_json(answer(body, status), golden).outcome == outcome


JSON_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=8,
)


@given(JSON_VALUES)
@settings(max_examples=150, deadline=None)
def test_everything_equals_itself(value: Any) -> None:
    assert not differs(value, json.loads(json.dumps(value)), 0.0)


@pytest.mark.parametrize(
    ("told", "same"),
    [("llama", True), ("llama-2024-05-13", True), ("/models/llama", True), (None, True), ("llama2", False), ("x", False)],
)
def test_how_servers_name_a_model(told: Any, same: bool) -> None:
    assert same_model("llama", told) is same


def events(*chunks: Any) -> bytes:
    return b"".join(b"data: %s\n\n" % (chunk if isinstance(chunk, bytes) else json.dumps(chunk).encode()) for chunk in chunks)


def chunk(text: str, finish_reason: str | None = None, **more: Any) -> dict[str, Any]:
    return {"model": "tiny", "choices": [{"text": text, "finish_reason": finish_reason}], **more}


WHOLE = events(chunk(" Par"), chunk("is"), chunk("", "stop"), {"model": "tiny", "choices": [], "usage": {}}, b"[DONE]")


@given(st.lists(st.integers(0, len(WHOLE)), max_size=8))
@settings(max_examples=150, deadline=None)
def test_a_stream_reads_the_same_however_it_is_split(cuts: list[int]) -> None:
    stream = TokenStream("tiny", Rule(), " Paris")
    places = sorted({0, len(WHOLE), *cuts})
    for place, (a, b) in enumerate(itertools.pairwise(places)):
        stream.feed(WHOLE[a:b], float(place))
    assert stream.judge(99.0).outcome == "ok"
    assert (stream.tokens, stream.text, stream.finished) == (2, " Paris", True)


@pytest.mark.parametrize(
    ("data", "rule", "outcome"),
    [
        (WHOLE, Rule(), "ok"),
        (WHOLE.replace(b"\n", b"\r\n"), Rule(), "ok"),
        (b": ping\n\n" + WHOLE, Rule(), "ok"),
        (events({"choices": [{"delta": {"content": " Paris"}, "finish_reason": "stop"}]}, b"[DONE]"), Rule(), "ok"),
        (events(chunk(" Paris", "stop")), Rule(), "truncated"),
        (events(chunk(" Paris", "stop")), Rule(done=False), "ok"),
        (events(chunk(" Paris"), b"[DONE]"), Rule(), "truncated"),
        (events(chunk(" Paris"), b"[DONE]"), Rule(finish_reason=False), "ok"),
        (events(chunk("", "stop"), b"[DONE]"), Rule(), "empty"),
        (events(chunk(" London", "stop"), b"[DONE]"), Rule(), "wrong-answer"),
        (events(chunk(" Paris"), {"error": {"message": "x"}}), Rule(), "error-in-200"),
        (events(chunk(" Paris", model="other")), Rule(), "wrong-model"),
        (events(b"{"), Rule(), "malformed"),
        (b"data: " + b"x" * 70000, Rule(), "malformed"),
    ],
)
def test_a_stream(data: bytes, rule: Rule, outcome: str) -> None:
    stream = TokenStream("tiny", rule, " Paris")
    stream.feed(data, 1.0)
    assert stream.judge(2.0).outcome == outcome


def test_the_longest_silence_includes_the_one_that_ended_the_stream() -> None:
    stream = TokenStream("tiny", Rule(), "")
    for moment, text in ((1.0, "a"), (1.5, "b"), (1.7, "c")):
        assert stream.feed(events(chunk(text)), moment)
    assert not stream.feed(b": ping\n\n", 1.8), "a comment is no token"
    assert (stream.first, stream.gap) == (1.0, 0.5)
    stream.judge(3.0)
    assert stream.gap == pytest.approx(1.3)


@pytest.mark.parametrize(
    ("lane", "start"),
    [
        ({"protocol": "openai", "url": "http://h:1/v1", "model": "m"}, b"POST /v1/completions "),
        ({"protocol": "kserve-v2", "url": "http://h:1", "model": "m"}, b"GET /v2/models/m/ready "),
        ({"protocol": "kserve-v2", "url": "http://h:1", "model": "m", "golden": [{"inputs": []}]}, b"POST /v2/models/m/infer "),
        ({"protocol": "http", "url": "http://h:1/base", "golden": [{"request": "PUT /x", "body": {}}]}, b"PUT /base/x "),
        ({"protocol": "http", "url": "http://h:1", "path": "/p"}, b"GET /p "),
    ],
)
def test_how_each_protocol_asks(lane: dict[str, Any], start: bytes) -> None:
    assert questions(lane)[0].request.data.startswith(start)
