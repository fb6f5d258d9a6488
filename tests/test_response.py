"""What is read of a response body: the text wherever it stands, how it ended, what it cost."""

from __future__ import annotations

import json
from typing import Any

import pytest

from hf_regioncap.response import Completion, ending, read_completion


def answer(content: Any = "a cat", reason: Any = "stop", **message: Any) -> dict[str, Any]:
    return {
        "choices": [{"message": {"content": content, **message}, "finish_reason": reason}],
        "usage": {"prompt_tokens": 5, "completion_tokens": 3, "total_tokens": 8},
        "model": "m-2",
    }


KNOWN = {"prompt_tokens": 5, "completion_tokens": 3, "model": "m-2", "finish_reason": "stop"}


def called(arguments: Any) -> dict[str, Any]:
    return {"type": "function", "function": {"name": "captions", "arguments": arguments}}


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        (answer(), Completion(text="a cat", **KNOWN)),
        (answer(""), Completion(text="", **KNOWN)),
        (answer(" a cat"), Completion(text=" a cat", **KNOWN)),
        (answer([{"type": "text", "text": "a "}, {"text": "cat"}]), Completion("a cat", **KNOWN)),
        (answer([1, None, {"text": 5}, {"text": "cat"}]), Completion("cat", **KNOWN)),
        (answer(None, refusal="I can't"), Completion(refusal="I can't", **KNOWN)),
        (answer("a cat", refusal=""), Completion("a cat", **KNOWN)),
        (answer("a cat", refusal=None), Completion("a cat", **KNOWN)),
        (
            {"choices": [{"message": {"content": "a cat"}}]},
            Completion("a cat"),
        ),
        (
            answer("a cat") | {"usage": None, "model": 5},
            Completion("a cat", finish_reason="stop"),
        ),
        (
            answer("a cat") | {"error": None},
            Completion("a cat", **KNOWN),
        ),
        (answer({"1": "a cat"}), Completion('{"1": "a cat"}', **KNOWN)),
        (
            answer([{"region": 1, "caption": "a"}]),
            Completion('[{"region": 1, "caption": "a"}]', **KNOWN),
        ),
        (answer([{"type": "output_text", "text": "a cat"}]), Completion("a cat", **KNOWN)),
        (answer({"type": "text", "text": "a cat"}), Completion("a cat", **KNOWN)),
        (answer(["a ", "cat"]), Completion("a cat", **KNOWN)),
        (
            answer([{"type": "reasoning", "text": "a dog?"}, {"type": "text", "text": "a cat"}]),
            Completion("a cat", **KNOWN),
        ),
        (
            answer([{"type": "thinking", "thinking": [{"text": "a dog?"}]}, {"text": "a cat"}]),
            Completion("a cat", **KNOWN),
        ),
        (answer([{"type": "refusal", "refusal": "No."}]), Completion(refusal="No.", **KNOWN)),
        (answer(None, parsed={"1": "a cat"}), Completion('{"1": "a cat"}', **KNOWN)),
        (answer("a dog", parsed={"1": "a cat"}), Completion("a dog", **KNOWN)),
        (
            answer(None, tool_calls=[called('{"1": "a cat"}')]),
            Completion('{"1": "a cat"}', **KNOWN),
        ),
        (answer("", tool_calls=[called({"1": "a cat"})]), Completion('{"1": "a cat"}', **KNOWN)),
        (answer("a dog", tool_calls=[called('{"1": "a cat"}')]), Completion("a dog", **KNOWN)),
        (
            answer(None, tool_calls=[called('{"1": "a cat"}'), 5, called('{"2": "a dog"}')]),
            Completion('{"1": "a cat"}\n{"2": "a dog"}', **KNOWN),
        ),
        (
            answer(None, function_call={"name": "x", "arguments": '{"1": "a cat"}'}),
            Completion('{"1": "a cat"}', **KNOWN),
        ),
        (
            {"choices": [{"delta": {"content": "a cat"}, "finish_reason": "stop"}]},
            Completion("a cat", finish_reason="stop"),
        ),
        ({"choices": [{"text": "a cat"}]}, Completion("a cat")),
        (
            answer("", reasoning_content="a dog? a cat"),
            Completion("", thoughts=("reasoning_content", "a dog? a cat"), **KNOWN),
        ),
        (answer("a cat", reasoning="a dog?"), Completion("a cat", **KNOWN)),
        (
            {"choices": [], "promptFeedback": {"blockReason": "SAFETY"}},
            Completion(finish_reason="blocked: SAFETY", problem="no choices in the answer"),
        ),
    ],
    ids=lambda value: str(value)[:50],
)
def test_read_completion(body: Any, expected: Completion) -> None:
    assert read_completion(json.dumps(body)) == expected


@pytest.mark.parametrize(
    ("body", "problem"),
    [
        ("", "an empty body"),
        ("  \n", "an empty body"),
        ("hello", "not JSON"),
        ("<!DOCTYPE html><p>", "not JSON but HTML"),
        ("  <html>", "not JSON but HTML"),
        ('{"choices": [', "cut off or garbled"),
        ("[" * 100_000, "cut off or garbled"),
        ("null", "a JSON NoneType"),
        ("[]", "a JSON list"),
        ('"text"', "a JSON str"),
        ("{}", "no choices"),
        ('{"choices": null}', "no choices"),
        ('{"choices": []}', "no choices"),
        ('{"choices": {}}', "no choices"),
        ('{"choices": [null]}', "no choices"),
        ('{"choices": [{}]}', "no message"),
        ('{"choices": [{"message": null}]}', "no message"),
        ('{"choices": [{"message": {}}]}', "no text"),
        ('{"choices": [{"message": {"content": null}}]}', "no text"),
        ('{"choices": [{"message": {"content": 5}}]}', "int in place of text"),
        ('{"choices": [{"message": {"content": {}}}]}', "dict in place of text"),
        (
            '{"choices": [{"message": {"content": [{"type": "thinking"}]}}]}',
            "list in place of text",
        ),
        ('{"choices": [{"message": {"content": null, "tool_calls": [{}, 5]}}]}', "no text"),
        ('{"choices": [{"message": {"content": null, "tool_calls": 5}}]}', "no text"),
        (": busy", "not JSON"),
        ('{"error": {"message": "overloaded", "code": 503}}', "an answer: overloaded"),
        ('{"error": "overloaded"}', "an answer: overloaded"),
        ('{"error": {"message": "x"}, "choices": []}', "an answer: x"),
    ],
    ids=lambda value: value[:40],
)
def test_bodies_without_an_answer(body: str, problem: str) -> None:
    completion = read_completion(body)
    assert completion.text is None
    assert completion.problem is not None
    assert problem in completion.problem


def test_an_answer_without_text_still_tells_its_usage() -> None:
    completion = read_completion(json.dumps(answer(None, "length")))
    assert (completion.prompt_tokens, completion.completion_tokens) == (5, 3)
    assert completion.finish_reason == "length"


def test_control_characters_and_numbers_that_are_none_may_stand_in_a_body() -> None:
    body = json.dumps(answer("a cat") | {"logprobs": float("nan")}).replace("a cat", "a\tcat")
    assert read_completion(body).text == "a\tcat"


@pytest.mark.parametrize(
    ("usage", "tokens"),
    [
        ({}, (None, None)),
        ({"prompt_tokens": 300, "completion_tokens": 40}, (300, 40)),
        ({"prompt_tokens": "300", "completion_tokens": 40.0}, (300, 40)),
        ({"prompt_tokens": 5.5, "completion_tokens": True}, (None, None)),
        ({"prompt_tokens": -1, "completion_tokens": 2**70}, (None, None)),
        ({"prompt_tokens": "1_0", "completion_tokens": "9" * 400}, (None, None)),
        ({"prompt_tokens": 0, "completion_tokens": 0, "total_tokens": 0}, (None, None)),
        ({"prompt_tokens": 300, "completion_tokens": 0}, (300, 0)),
        ({"input_tokens": 300, "output_tokens": 40}, (300, 40)),
        # thoughts that only the total counts, only the details, or that are counted already
        ({"prompt_tokens": 300, "completion_tokens": 40, "total_tokens": 1540}, (300, 1240)),
        ({"prompt_tokens": 300, "total_tokens": 1540}, (300, 1240)),
        ({"prompt_tokens": 300, "completion_tokens": 40, "total_tokens": 340}, (300, 40)),
        ({"prompt_tokens": 300, "completion_tokens": 40, "total_tokens": 40}, (300, 40)),
        ({"prompt_tokens": 300, "total_tokens": 40}, (300, None)),
        (
            {
                "prompt_tokens": 300,
                "completion_tokens": 40,
                "completion_tokens_details": {"reasoning_tokens": 1200},
            },
            (300, 1240),
        ),
        (
            {
                "prompt_tokens": 300,
                "completion_tokens": 1240,
                "total_tokens": 1540,
                "completion_tokens_details": {"reasoning_tokens": 1200},
            },
            (300, 1240),
        ),
    ],
    ids=str,
)
def test_thoughts_are_paid_for_as_completion(
    usage: dict[str, Any], tokens: tuple[int | None, int | None]
) -> None:
    completion = read_completion(json.dumps(answer() | {"usage": usage}))
    assert (completion.prompt_tokens, completion.completion_tokens) == tokens


@pytest.mark.parametrize(
    ("reasons", "meaning"),
    [
        ((None, "", "null", "stop", "STOP", "FinishReason.STOP", "FINISH_REASON_STOP"), "whole"),
        (("end_turn", "eos", "eos_token", "stop_sequence", "COMPLETE"), "whole"),
        (("length", "LENGTH", "max_length", "model_length", "incomplete"), "cut"),
        (("max_tokens", "MAX_TOKENS", "maxTokens", "max_output_tokens", "max_new_tokens"), "cut"),
        (("FinishReason.MAX_TOKENS", "model_context_window_exceeded", "token limit"), "cut"),
        (("content_filter", "content-filter", "content_filter: PROHIBITED_CONTENT"), "refused"),
        (("SAFETY", "IMAGE_SAFETY", "RECITATION", "PROHIBITED_CONTENT", "BLOCKLIST"), "refused"),
        (("SPII", "sensitive", "guardrail_intervened", "refusal", "blocked: OTHER"), "refused"),
        (("error", "network_error", "abort", "cancelled", "OTHER", "unknown", "stopped"), "other"),
        (("insufficient_system_resource", "tool_calls", "repetition_truncation"), "other"),
    ],
    ids=lambda value: str(value)[:40],
)
def test_a_finish_reason_says_the_same_in_any_spelling(
    reasons: tuple[str | None, ...], meaning: str
) -> None:
    assert {reason: ending(reason) for reason in reasons} == dict.fromkeys(reasons, meaning)
