"""What a reply means: for the row, for the run, for the way of asking, and how long to wait."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hf_regioncap import verdict, wire
from hf_regioncap.endpoint import Endpoint as Where
from hf_regioncap.limits import LONGEST_WAIT, Told
from hf_regioncap.transport import Reply


@pytest.mark.parametrize(
    ("headers", "least", "most"),
    [
        ({}, 0.25, 0.5),
        ({"retry-after": "2"}, 2.0, 2.1),
        ({"retry-after": "0"}, 0.25, 0.5),
        ({"retry-after-ms": "50", "retry-after": "9"}, 0.25, 0.5),
        ({"retry-after": "nonsense"}, 0.25, 0.5),
        ({"retry-after": "nan"}, 0.25, 0.5),
        ({"retry-after": "-3"}, 0.25, 0.5),
    ],
)
def test_how_long_to_wait(headers: dict[str, str], least: float, most: float) -> None:
    for status in (429, 503, 408):
        seen = verdict.backoff(1, verdict.told_to_wait(Reply(status, "", headers), now=0.0))
        assert seen is not None
        assert least <= seen <= most


@given(st.integers(1, 20))
def test_waiting_grows_with_jitter_and_is_bounded(tries: int) -> None:
    seconds = verdict.backoff(tries, Told())
    assert seconds is not None
    whole = min(30.0, 0.25 * 2**tries)
    assert whole / 2 <= seconds <= whole


def test_who_is_asked_to_wait_too_long_does_not() -> None:
    assert verdict.backoff(1, Told(LONGEST_WAIT)) is not None
    assert verdict.backoff(1, Told(LONGEST_WAIT + 1)) is None
    assert verdict.backoff(1, Told(daily=True)) is None


ERROR = '{"error": {"message": "%s", "code": "%s"}}'


MODERATED = (
    (403, "vendor/model requires moderation on P. Your input was flagged for violence.", 403),
    (400, "The response was filtered due to the prompt triggering Azure OpenAI's policy", ""),
    (400, "anything", "content_filter"),
    (400, "Input data may contain inappropriate content.", "data_inspection_failed"),
    (400, "<400> InternalError.Algo.DataInspectionFailed: Output data may ...", ""),
    (400, "Your input image may contain content ...", "content_policy_violation"),
    (400, "The request was rejected because it was considered high risk", ""),
    (400, "系统检测到输入或生成内容可能包含不安全或敏感内容", "1301"),
    (400, "Output blocked by content filtering policy", ""),
    (403, "Content violates usage guidelines. Failed check: SAFETY_CHECK_TYPE_BIO", ""),
    (422, "The picture was flagged as NSFW", ""),
    (500, "All generated images contained NSFW content", ""),
)


@pytest.mark.parametrize(
    ("reply", "expected"),
    [
        (Reply(0, failure="no network"), "retry"),
        *((Reply(code), "retry") for code in (408, 409, 424, 425, 429, 499, 500, 520, 529)),
        (Reply(429, ERROR % ("no money", "insufficient_quota")), "permanent"),
        (Reply(429, ERROR % ("余额不足或无可用资源包,请充值。", "1113")), "permanent"),
        (Reply(429, ERROR % ("You exceeded your current quota", 429)), "retry"),  # Gemini
        (Reply(400, ERROR % ("Your credit balance is too low to access", "")), "permanent"),
        (Reply(500, ERROR % ("image input is not supported, use mmproj", 500)), "permanent"),
        (Reply(500, ERROR % ("required for format", "")), "guess"),
        *((Reply(code), "permanent") for code in (401, 402, 403, 404)),
        (Reply(403, ERROR % ("Your account was deactivated: content policy", "")), "permanent"),
        (Reply(400, ERROR % ("API key not valid. Please pass a valid API key.", 400)), "permanent"),
        (Reply(400, ERROR % ("Incorrect API key provided: ab***cd", "")), "permanent"),
        (Reply(400, ERROR % ("The model `x` does not exist", "")), "permanent"),
        (Reply(400, ERROR % ("unknown argument: seed", "")), "permanent"),
        (Reply(400, ERROR % ("System role not supported", "")), "permanent"),
        (Reply(400, ERROR % ("parameter.enable_thinking must be set to false", "")), "permanent"),
        (
            Reply(400, ERROR % ("At most 1 image(s) may be provided in one prompt.", "")),
            "permanent",
        ),
        (Reply(400, ERROR % ("This model only support stream mode", "")), "learn"),
        (Reply(400, ERROR % ("Failed to generate JSON", "json_validate_failed")), "again"),
        (Reply(400, ERROR % ("Request contains an invalid argument.", 400)), "guess"),
        (Reply(422, ERROR % ("this picture is odd", "")), "row"),
        (Reply(413), "row"),
        (Reply(301), "row"),
        (Reply(418), "row"),
        *((Reply(code, ERROR % (words, name)), "refused") for code, words, name in MODERATED),
    ],
    ids=str,
)
def test_what_a_reply_means(reply: Reply, expected: str) -> None:
    assert verdict.judge(reply, wire.Dialect(), answered=False).kind == expected


OWN_WORDS = (
    "input length and `max_tokens` exceed context limit: 199759 + 832 > 200000",
    "OpenAIException - Error code: 400 - {'detail': 'Image too small: 20x300'}",
    'Hosted_vllmException - {"detail":"height:20 or width:300 must be larger than factor:28"}',
    "The image type of this request is invalid: this image for the model is not supported",
    "Invalid content type. image_url is only supported by certain models.",
    "The sum of prompt tokens and max_tokens must be less than or equal to 8192, got 9000",
    "输入内容过长：prompt tokens 与 max_tokens 之和超过 8192",
    "max_tokens is too large: 832",
    "At most 1 image(s) may be provided in one prompt.",
    "Request contains an invalid argument.",
)


@pytest.mark.parametrize("words", OWN_WORDS)
@pytest.mark.parametrize("status", [400, 422])
def test_after_answers_a_rejection_is_the_rows_own(words: str, status: int) -> None:
    reply = Reply(status, json.dumps({"error": {"message": words}}))
    assert verdict.judge(reply, wire.Dialect(), answered=True).kind == "row"


@pytest.mark.parametrize("words", OWN_WORDS[:7])
def test_what_is_about_a_row_teaches_nothing_before_an_answer_either(words: str) -> None:
    reply = Reply(400, json.dumps({"error": {"message": words}}))
    judged = verdict.judge(reply, wire.Dialect(), answered=False)
    assert judged.kind in ("row", "permanent")  # permanent where the words are those of a model
    assert judged.dialect is None


INSIDE = (
    ({"error": {"code": 429, "message": "busy"}}, 429),
    ({"error": {"code": "502", "message": "Provider returned error"}, "user_id": "u"}, 502),
    ({"error": {"code": 503}, "choices": [{"message": {"content": None}}]}, 503),
    ({"choices": [{"finish_reason": "error", "error": {"code": 402}, "message": {}}]}, 402),
    ({"error": {"type": "overloaded_error", "message": "Overloaded"}}, 503),
    ([{"error": {"status": "RESOURCE_EXHAUSTED"}}], 200),  # no completion has a list around it
    ({"error": {"message": "Your input was flagged by our content filter"}}, 400),
    ({"error": {"message": "Vision add-on is not loaded"}}, 200),
    ({"error": {"code": 1301, "message": "?"}}, 200),
    ({"error": None, "choices": [{"message": {"content": "a cat"}}]}, 200),
    ({"error": {"code": 502}, "choices": [{"message": {"content": "a ca"}}]}, 200),
    ({"choices": [{"message": {"content": 'she said "error"'}}]}, 200),
)


@pytest.mark.parametrize(("body", "status"), INSIDE, ids=str)
def test_an_error_inside_a_200_has_the_status_that_it_tells(body: Any, status: int) -> None:
    assert verdict.settle(Reply(200, json.dumps(body))).status == status
    streamed = f"data: {json.dumps(body)}\n\ndata: [DONE]\n\n"
    assert verdict.settle(Reply(200, streamed)).status == status
    assert verdict.settle(Reply(418, json.dumps(body))).status == 418


@pytest.mark.parametrize(
    ("status", "message", "key", "way"),
    [
        (401, "", None, "none was sent, pass api_key_env="),
        (401, "", "k" * 20, "in the variable MY_KEY"),
        (400, "API key not valid.", "k" * 20, "in the variable MY_KEY"),
        (400, "Developer instruction is not enabled for models/gemma", None, "system_prompt=''"),
        (400, "prompting with images is incompatible with system messages", None, "system_prompt"),
        (400, "At most 1 image(s) may be provided in one request.", None, "view='overlay'"),
        (400, "enable_thinking must be set to false", None, "extra_body={'enable_thinking'"),
        (404, "No endpoints found that support image input", None, "takes pictures"),
        (400, "llama3 is not a multimodal model", None, "takes pictures"),
        (400, "unknown argument: seed", None, "does not take 'seed'"),
    ],
)
def test_the_way_out_that_an_error_names(
    status: int, message: str, key: str | None, way: str
) -> None:
    reply = Reply(status, json.dumps({"error": {"message": message}}))
    place = Where("https://example.com/v1", key, key_name="MY_KEY" if key else "")
    words = verdict.permanent_words(reply, f"HTTP {status}: {message}", place)
    assert way in words.partition("Way out: ")[2]
