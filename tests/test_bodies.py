"""Response bodies to JSON values, whatever stands around the JSON and in how many pieces."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hf_regioncap.bodies import is_stream, read_body

WHOLE: dict[str, Any] = {
    "model": "m",
    "choices": [{"message": {"content": "a cat"}, "finish_reason": "stop"}],
}
BODY = json.dumps(WHOLE)


def piece(content: str | None = None, reason: str | None = None, **more: Any) -> dict[str, Any]:
    delta = {} if content is None else {"content": content}
    return {
        "model": "m",
        "choices": [{"index": 0, "delta": delta, "finish_reason": reason}],
        **more,
    }


def events(*values: Any, end: str = "data: [DONE]\n\n") -> str:
    return "".join(f"data: {json.dumps(value)}\n\n" for value in values) + end


USAGE = {"prompt_tokens": 300, "completion_tokens": 40}


@pytest.mark.parametrize(
    "body",
    [
        BODY,
        "\n" * 50 + BODY,  # DeepSeek, while a request waits
        "\ufeff" + BODY,
        ": OPENROUTER PROCESSING\n\n: OPENROUTER PROCESSING\n\n" + BODY,
        BODY + "\n\ndata: [DONE]\n\n",
        BODY + '\n{"status": "done"}',
        BODY + "\n<!-- served by a proxy -->",
        json.dumps(WHOLE, indent=2),
        events(WHOLE),
        events(piece(""), piece("a "), piece("cat"), piece(reason="stop")),
        events(piece("a cat", "stop"), end=""),  # complete without the usual end
        ": processing\n\n" + events(piece("a cat"), piece(None, "stop")),
        events(piece("a "), piece("cat", "stop")).replace("\n\n", "\r\n\r\n"),
        events(piece("a "), piece("cat", "stop")).replace("data: ", "event: message\ndata:"),
        events(piece("a "), piece("cat", "stop")).replace("\n\n", "\n"),
        "\n".join(json.dumps(value) for value in (piece("a "), piece("cat", "stop"))),
    ],
)
def test_what_stands_around_an_answer(body: str) -> None:
    assert read_body(body) == WHOLE


def test_a_stream_brings_usage_and_other_fields() -> None:
    last = {"model": "m", "choices": [], "usage": USAGE}
    first = piece("a cat", "stop", usage=None)
    first["choices"][0]["delta"] |= {"role": "assistant", "reasoning_content": "hm"}
    second = piece("")
    second["choices"][0]["delta"] |= {"role": "assistant", "reasoning_content": "m"}
    read = read_body(events(first, second, last))
    assert read["usage"] == USAGE
    assert read["choices"][0]["message"] == {
        "content": "a cat",
        "role": "assistant",
        "reasoning_content": "hmm",
    }
    assert read["choices"][0]["finish_reason"] == "stop"


def test_tool_calls_are_joined_by_their_index() -> None:
    def call(index: int, text: str) -> dict[str, Any]:
        delta = {"tool_calls": [{"index": index, "function": {"arguments": text}}]}
        return {"choices": [{"index": 0, "delta": delta}]}

    read = read_body(events(call(0, '{"1": '), call(0, '"a cat"}'), call(1, "{}")))
    calls = read["choices"][0]["message"]["tool_calls"]
    assert [each["function"]["arguments"] for each in calls] == ['{"1": "a cat"}', "{}"]


def test_only_the_first_choice_of_a_stream_is_read() -> None:
    other = piece("a dog", "stop")
    other["choices"][0]["index"] = 1
    assert read_body(events(piece("a cat"), other, piece(None, "stop"))) == WHOLE


def test_an_error_in_a_stream_stays_an_error() -> None:
    error = {"code": 429, "message": "busy"}
    assert read_body(events({"error": error}))["error"] == error
    broken = read_body(events(piece("a c"), piece(None, "error", error=error)))
    assert broken["error"] == error
    assert broken["choices"][0]["message"] == {"content": "a c"}


@pytest.mark.parametrize(
    "body",
    [
        "",
        ": wait\n\n",
        "hello",
        BODY[:-5],
        events(piece("a c"), end=""),  # no end in sight
        events(piece("a c"), end="")[:-9],
        events(piece("a "), piece("cat"), end='data: {"choices": [{"del'),
        "data: [DONE]\n\n",
        "<html></html>",
    ],
)
def test_a_body_without_a_value_or_cut(body: str) -> None:
    with pytest.raises(ValueError, match=r"char \d+|cut off"):
        read_body(body)


def test_raw_control_characters_and_numbers_that_json_has_not() -> None:
    assert read_body('{"a": "\tb\x01", "p": NaN}')["a"] == "\tb\x01"


@given(st.text(max_size=40), st.lists(st.sampled_from(["data:", "{", "}", "\n", ":", "[]", " "])))
def test_no_text_raises_anything_else(text: str, pieces: list[str]) -> None:
    for body in (text, "".join(pieces), "data: " + text):
        is_stream(body)
        try:
            read_body(body)
        except ValueError:
            continue
