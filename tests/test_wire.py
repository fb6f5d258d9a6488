"""Questions to request bodies, response bodies to completions, error bodies to what they mean."""

from __future__ import annotations

import base64
import json
import random
import string
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hf_regioncap.limits import retry_after
from hf_regioncap.options import read_options
from hf_regioncap.questions import Question
from hf_regioncap.rejections import code_of, error_words, rejected_parameter, rejects_model
from hf_regioncap.response import read_completion
from hf_regioncap.wire import (
    Dialect,
    build_body,
    first_dialect,
    next_dialect,
    redact,
    writable,
)

ASKED = Question(regions=(1, 2), images=(b"one", b"two"), text="Describe.", model="m")

json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: (
        st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=6), inner, max_size=4)
    ),
    max_leaves=15,
)
# The names that responses are read by, with anything under them.
NAMES = (
    *("choices", "message", "content", "refusal", "finish_reason", "usage", "prompt_tokens"),
    *("completion_tokens", "model", "error", "errors", "msg", "loc", "detail", "metadata", "raw"),
    *("code", "type", "param", "text"),
)
responses = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=8) | st.just("{"),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from(NAMES), inner, max_size=5)
        | inner.map(json.dumps)
    ),
    max_leaves=20,
)


def parts(body: bytes) -> list[Any]:
    content = json.loads(body)["messages"][-1]["content"]
    assert isinstance(content, list)
    return content


# --- requests ---------------------------------------------------------------------------------


def test_the_smallest_body() -> None:
    question = Question(regions=(1,), images=(), text="", system="")
    dialect = Dialect(form="text", tokens=None, temperature=False)
    assert json.loads(build_body(question, dialect, 9)) == {
        "model": "",
        "stream": False,
        "messages": [
            {
                "role": "user",
                "content": [
                    {"type": "text", "text": ""},
                    {"type": "text", "text": question.instructions("text")},
                ],
            }
        ],
    }


def test_a_whole_body() -> None:
    question = replace(
        ASKED, temperature=0.0, seed=7, detail="low", extra_body={"top_p": 0.5, "max_tokens": 3}
    )
    body = json.loads(build_body(question, Dialect(), 99))
    assert body["model"] == "m"
    assert body["temperature"] == 0.0
    assert body["seed"] == 7
    assert body["top_p"] == 0.5
    assert body["max_tokens"] == 3  # what the user adds has the last word
    schema = body["response_format"]["json_schema"]
    assert schema["strict"] is True
    assert schema["schema"]["required"] == ["1", "2"]
    system, user = body["messages"]
    assert system == {"role": "system", "content": "You are a helpful assistant."}
    assert [part["type"] for part in user["content"]] == ["text", "image_url", "image_url", "text"]
    assert user["content"][0]["text"] == "Describe."
    assert user["content"][1]["image_url"] == {
        "url": "data:image/jpeg;base64," + base64.b64encode(b"one").decode(),
        "detail": "low",
    }


@pytest.mark.parametrize(
    ("dialect", "present", "absent"),
    [
        (Dialect(), {"response_format", "max_tokens", "temperature"}, {"max_completion_tokens"}),
        (Dialect(tokens="max_completion_tokens"), {"max_completion_tokens"}, {"max_tokens"}),
        (Dialect(tokens=None), set(), {"max_tokens", "max_completion_tokens"}),
        (Dialect(temperature=False), set(), {"temperature"}),
        (Dialect(form="text"), set(), {"response_format"}),
        (Dialect(form="json_object"), {"response_format"}, set()),
    ],
)
def test_a_body_says_what_its_dialect_says(
    dialect: Dialect, present: set[str], absent: set[str]
) -> None:
    body = json.loads(build_body(replace(ASKED, temperature=0.0), dialect, 99))
    assert present <= set(body)
    assert not absent & set(body)
    if dialect.form == "json_object":
        assert body["response_format"] == {"type": "json_object"}
    if dialect.tokens:
        assert body[dialect.tokens] == 99


@pytest.mark.parametrize(
    ("detail", "dialect", "expected"),
    [
        (None, Dialect(), {"url": "data:image/jpeg;base64,b25l"}),
        ("high", Dialect(), {"url": "data:image/jpeg;base64,b25l", "detail": "high"}),
        ("high", Dialect(detail=False), {"url": "data:image/jpeg;base64,b25l"}),
        ("high", Dialect(image_object=False), "data:image/jpeg;base64,b25l"),
    ],
)
def test_image_parts(detail: str | None, dialect: Dialect, expected: Any) -> None:
    body = build_body(replace(ASKED, detail=detail), dialect, 9)
    assert parts(body)[1] == {"type": "image_url", "image_url": expected}


TRICKY = [
    'quotes " and \\ backslashes',
    "\x00",
    "\x000\x00 and \x001\x00",
    "data:image/jpeg;base64,",
    "data:image/jpeg;base64,b25l",
    "\ud800 alone",
    "\ud83d\ude00 a pair",
    "日本語 \u2028 \x7f",
    '{"messages": []}',
    "</script>\r\n\t",
]


@pytest.mark.parametrize("text", TRICKY, ids=ascii)
def test_texts_arrive_as_they_are(text: str) -> None:
    question = replace(ASKED, text=text, system=text, extra_body={"note": [text]})
    body = build_body(question, Dialect(), 9)
    assert body.isascii()
    expected = json.loads(json.dumps(text))
    read = json.loads(body)
    assert read["messages"][0]["content"] == read["note"][0] == expected
    assert parts(body)[0]["text"] == expected
    assert [part["image_url"]["url"][-4:] for part in parts(body)[1:3]] == ["b25l", "dHdv"]


@settings(max_examples=100)
@given(
    text=st.text(alphabet=st.characters(), max_size=30),
    system=st.text(min_size=1, max_size=10),
    images=st.lists(st.binary(max_size=20), max_size=4),
    form=st.sampled_from(["json_schema", "json_object", "text"]),
)
def test_there_and_back(text: str, system: str, images: list[bytes], form: str) -> None:
    question = Question(regions=(3, 1), images=tuple(images), text=text, system=system)
    body = build_body(question, Dialect(form=form), 9)
    first, *pictures, last = parts(body)
    assert first["text"] == text
    assert last["text"] == question.instructions(form)
    urls = [picture["image_url"]["url"] for picture in pictures]
    assert [base64.b64decode(url.partition("base64,")[2]) for url in urls] == images
    assert json.loads(body)["messages"][0]["content"] == system


# --- what an endpoint takes -------------------------------------------------------------------

# options, whether it is OpenAI: form, tokens, temperature, fixed
FIRST: list[tuple[dict[str, Any], bool, tuple[str, str, bool, set[str]]]] = [
    ({}, False, ("json_schema", "max_tokens", True, set())),
    ({}, True, ("json_schema", "max_completion_tokens", True, set())),
    ({"answer_form": "text"}, True, ("text", "max_completion_tokens", True, {"response_format"})),
    (
        {"answer_form": "json_schema"},
        False,
        ("json_schema", "max_tokens", True, {"response_format"}),
    ),
    ({"token_parameter": "max_tokens"}, True, ("json_schema", "max_tokens", True, {"tokens"})),
    ({"temperature": 0.0}, False, ("json_schema", "max_tokens", True, set())),
    ({"temperature": None}, False, ("json_schema", "max_tokens", True, set())),
    ({"temperature": 0.5}, False, ("json_schema", "max_tokens", True, {"temperature"})),
    # OpenAI's reasoning models take no temperature; a wish is sent all the same.
    ({"model": "gpt-5-mini"}, True, ("json_schema", "max_completion_tokens", False, set())),
    ({"model": "o4-mini"}, True, ("json_schema", "max_completion_tokens", False, set())),
    ({"model": "gpt-5-2025-08-07"}, True, ("json_schema", "max_completion_tokens", False, set())),
    ({"model": "gpt-5-chat-latest"}, True, ("json_schema", "max_completion_tokens", True, set())),
    ({"model": "gpt-5-mini"}, False, ("json_schema", "max_tokens", True, set())),
    (
        {"model": "gpt-5-mini", "temperature": 0.5},
        True,
        ("json_schema", "max_completion_tokens", True, {"temperature"}),
    ),
]


@pytest.mark.parametrize(("options", "is_openai", "expected"), FIRST)
def test_what_is_tried_first(
    options: dict[str, Any], is_openai: bool, expected: tuple[str, str, bool, set[str]]
) -> None:
    first = first_dialect(read_options(options), is_openai=is_openai)
    assert (first.form, first.tokens, first.temperature, first.fixed) == expected


def ladder(parameter: str, dialect: Dialect) -> list[Dialect | None]:
    steps: list[Dialect | None] = []
    while True:
        dialect_or_none = next_dialect(dialect, parameter)
        steps.append(dialect_or_none)
        if dialect_or_none is None:
            return steps
        dialect = dialect_or_none


def test_every_form_is_tried_once() -> None:
    steps = ladder("response_format", Dialect())
    assert [step.form for step in steps if step] == ["json_object", "text"]


@pytest.mark.parametrize("named", ["max_tokens", "max_completion_tokens"])
@pytest.mark.parametrize("first", ["max_tokens", "max_completion_tokens"])
def test_each_name_of_the_length_limit_is_tried_once_then_none(named: str, first: str) -> None:
    other = {"max_tokens": "max_completion_tokens"}.get(first, "max_tokens")
    steps = ladder(named, Dialect(tokens=first))
    assert [step.tokens for step in steps if step] == [other, None]


@pytest.mark.parametrize("parameter", ["temperature", "detail"])
def test_what_is_refused_is_left_out(parameter: str) -> None:
    first, last = ladder(parameter, Dialect())
    assert first is not None
    assert getattr(first, parameter) is False
    assert last is None


def test_an_image_may_be_a_string() -> None:
    first, last = ladder("image_url", Dialect())
    assert first is not None
    assert first.image_object is False
    assert last is None


@pytest.mark.parametrize("parameter", ["seed", "model", "messages", "", "fixed"])
def test_there_is_no_way_around_other_parameters(parameter: str) -> None:
    assert next_dialect(Dialect(), parameter) is None


@pytest.mark.parametrize(
    ("fixed", "parameter"),
    [
        ("response_format", "response_format"),
        ("temperature", "temperature"),
        ("tokens", "max_tokens"),
        ("tokens", "max_completion_tokens"),
    ],
)
def test_what_the_user_decided_is_not_changed(fixed: str, parameter: str) -> None:
    assert next_dialect(Dialect(fixed=frozenset({fixed})), parameter) is None


def test_any_order_of_refusals_ends() -> None:
    parameters = ["response_format", "max_tokens", "temperature", "detail", "image_url"]
    for seed in range(50):
        order = random.Random(seed)
        dialect, steps = Dialect(), 0
        while parameters_left := [name for name in parameters if next_dialect(dialect, name)]:
            dialect = next_dialect(dialect, order.choice(parameters_left)) or dialect
            steps += 1
        assert steps == 7
        assert (dialect.form, dialect.tokens, dialect.temperature) == ("text", None, False)


# --- answers ----------------------------------------------------------------------------------


@settings(max_examples=500)
@given(responses | json_values)
def test_no_json_raises(value: Any) -> None:
    body = json.dumps(value)
    completion = read_completion(body)
    if completion.problem is None:
        assert completion.text is not None or completion.refusal is not None
    else:
        assert completion.text is None
    for text in (completion.text, completion.problem and redact(completion.problem)):
        assert text is None or text.encode() is not None
    assert isinstance(error_words(body), str)
    assert isinstance(code_of(body), str)
    rejected_parameter(body)
    rejects_model(body)


@given(st.text(max_size=60))
def test_no_text_raises(body: str) -> None:
    assert read_completion(body).text is None or "choices" in body
    error_words(body)
    code_of(body)
    rejected_parameter(body)
    rejects_model(body)


@pytest.mark.parametrize("depth", [10, 500, 900, 960, 980, 990, 1000, 5000])
@pytest.mark.parametrize("place", ['{"error": %s}', '{"error": {"message": %s}}', "%s"])
def test_no_depth_raises(depth: int, place: str) -> None:
    body = place % ("[" * depth + "]" * depth)
    assert read_completion(body).problem is not None
    rejected_parameter(body)
    code_of(body)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", ""),
        ("café 😀", "café 😀"),
        ("caf\ud800e", "caf\ufffde"),
        ("\udc00\ud800", "\ufffd\ufffd"),
        ("\ud83d\ude00", "😀"),  # a pair that came as two escapes
    ],
    ids=ascii,
)
def test_writable(text: str, expected: str) -> None:
    assert writable(text) == expected


@given(st.text(alphabet=st.characters()))
def test_what_is_writable_stays(text: str) -> None:
    assert writable(text).encode()[:0] == b""
    assert writable(writable(text)) == writable(text)


# --- errors -----------------------------------------------------------------------------------


def error(message: str, **fields: Any) -> dict[str, Any]:
    """OpenAI's form, which most others have taken over."""
    usual = {"type": "invalid_request_error", "param": None, "code": None}
    return {"error": {"message": message, **usual, **fields}}


IMAGE_URL = "messages[1].content[1].image_url.url"
# Bodies of 400 and 422 as servers write them, and the parameter of ours that each is about.
REJECTIONS: list[tuple[Any, str | None]] = [
    ("", None),
    ("Bad Request", None),
    ("<html><h1>400 Bad Request</h1></html>", None),
    (None, None),
    ([], None),
    (5, None),
    ({}, None),
    # OpenAI and Azure
    (
        error(
            "Unsupported parameter: 'max_tokens' is not supported with this model. Use "
            "'max_completion_tokens' instead.",
            param="max_tokens",
            code="unsupported_parameter",
        ),
        "max_tokens",
    ),
    (
        error(
            "Unsupported value: 'temperature' does not support 0 with this model. Only the "
            "default (1) value is supported.",
            param="temperature",
            code="unsupported_value",
        ),
        "temperature",
    ),
    (
        error(
            "Invalid parameter: 'response_format' of type 'json_schema' is not supported with "
            "this model. Learn more about supported models at the Structured Outputs guide"
        ),
        "response_format",
    ),
    (
        error("Invalid schema for response_format 'region_captions': In context=(), ..."),
        "response_format",
    ),
    (
        error(
            "'messages' must contain the word 'json' in some form, to use 'response_format' of "
            "type 'json_object'.",
            param="messages",
        ),
        "response_format",
    ),
    (
        error(
            "max_tokens is too large: 5000. This model supports at most 4096 completion tokens, "
            "whereas you provided 5000.",
            param="max_tokens",
        ),
        "max_tokens",
    ),
    (
        error(
            "Invalid value: 'ultra'. Supported values are: 'low', 'high', and 'auto'.",
            param="messages[1].content[1].image_url.detail",
        ),
        "detail",
    ),
    (error("Unrecognized request argument supplied: seed"), "seed"),
    (
        error(
            "This model's maximum context length is 4097 tokens. However, your messages resulted "
            "in 7575 tokens. Please reduce the length of the messages.",
            param="messages",
            code="context_length_exceeded",
        ),
        None,
    ),
    (
        error(
            f"Invalid '{IMAGE_URL}': string too long. Expected a string with maximum length "
            "20971520, but got a string with length 31457306 instead.",
            param=IMAGE_URL,
            code="string_above_max_length",
        ),
        None,
    ),
    (
        error(
            f"Invalid image URL: '{IMAGE_URL}'. Expected a base64-encoded data URL with an image "
            "MIME type, but got a value with an invalid MIME type.",
            param=IMAGE_URL,
        ),
        None,
    ),
    (error("Invalid base64 image_url."), None),
    (
        error(
            "You uploaded an unsupported image. Please make sure your image has of one the "
            "following formats: ['png', 'jpeg', 'gif', 'webp'].",
            code="invalid_image_format",
        ),
        None,
    ),
    (
        error(
            "Your input image may contain content that is not allowed by our safety system.",
            code="content_policy_violation",
        ),
        None,
    ),
    (
        error(
            "The response was filtered due to the prompt triggering Azure OpenAI's content "
            "management policy. Please modify your prompt and retry.",
            param="prompt",
            code="content_filter",
        ),
        None,
    ),
    (
        error(
            "Could not finish the message because max_tokens or model output limit was reached. "
            "Please try again with higher max_tokens."
        ),
        None,
    ),
    # vLLM and SGLang
    ({"object": "error", "message": "max_tokens must be at least 1, got -186.", "code": 400}, None),
    (
        {
            "object": "error",
            "message": "This model's maximum context length is 16384 tokens. However, you "
            "requested 122946 tokens (112946 in the messages, 10000 in the completion).",
            "type": "BadRequestError",
            "param": None,
            "code": 400,
        },
        None,
    ),
    (
        error(
            "'max_tokens' or 'max_completion_tokens' is too large: 32000. This model's maximum "
            "context length is 32768 tokens and your request has 4000 input tokens"
        ),
        None,
    ),
    (
        {
            "object": "error",
            "message": "The decoder prompt (length 5012) is longer than the maximum model length "
            "of 4096. Make sure that `max_model_len` is no smaller than the number of text "
            "tokens plus multimodal tokens.",
            "code": 400,
        },
        None,
    ),
    (
        {
            "object": "error",
            "message": "[{'type': 'extra_forbidden', 'loc': ('body', 'seed'), 'msg': 'Extra "
            "inputs are not permitted', 'input': 1}]",
            "code": 400,
        },
        "seed",
    ),
    (
        {"object": "error", "message": "Grammar error: Unimplemented keys: [...]", "code": 400},
        "response_format",
    ),
    (
        {
            "object": "error",
            "message": "The input (5000 tokens) is longer than the model's context length "
            "(4096 tokens).",
            "code": 400,
        },
        None,
    ),
    # llama.cpp
    (
        {
            "error": {
                "code": 400,
                "message": "the request exceeds the available context size. try increasing the "
                "context size or enable context shift",
                "type": "exceed_context_size_error",
            }
        },
        None,
    ),
    (
        {"error": {"code": 400, "message": "Failed to parse grammar", "type": "x"}},
        "response_format",
    ),
    (
        {"error": {"code": 400, "message": "JSON schema conversion failed:\nUnrecognized schema"}},
        "response_format",
    ),
    ({"error": {"code": 400, "message": "Failed to load image or audio file"}}, None),
    # Ollama
    (
        error("json: cannot unmarshal object into Go struct field .image_url of type string"),
        "image_url",
    ),
    (error("illegal base64 data at input byte 4"), None),
    (error("invalid message format"), None),
    # Groq
    (error("The model only supports response formats: [json text]."), "response_format"),
    (
        error("This model does not support response format `json_schema`. See the docs"),
        "response_format",
    ),
    (
        error(
            "`max_tokens` must be less than or equal to `8192`, the maximum value for "
            "`max_tokens` is less than the `context_window` for this model",
            param="max_tokens",
        ),
        "max_tokens",
    ),
    (
        error(
            "Failed to generate JSON. Please adjust your prompt. See 'failed_generation' for "
            "more details.",
            code="json_validate_failed",
        ),
        None,
    ),
    (error("Please reduce the length of the messages or completion.", param="messages"), None),
    # Mistral, in three of its ways
    (
        {
            "object": "error",
            "message": {
                "detail": [
                    {
                        "type": "extra_forbidden",
                        "loc": ["body", "max_completion_tokens"],
                        "msg": "Extra inputs are not permitted",
                        "input": 128,
                    }
                ]
            },
            "type": "invalid_request_error",
            "param": None,
            "code": None,
        },
        "max_completion_tokens",
    ),
    (
        {
            "object": "error",
            "message": '{"detail":[{"type":"extra_forbidden","loc":["body","seed"],'
            '"msg":"Extra inputs are not permitted","input":0}]}',
            "code": "1000",
        },
        "seed",
    ),
    (
        {
            "object": "Error",
            "detail": [{"loc": ["body", "seed"], "msg": "Extra inputs are not permitted"}],
            "message": [{"loc": ["body", "seed"], "msg": "Extra inputs are not permitted"}],
            "code": 3001,
        },
        "seed",
    ),
    ({"object": "error", "message": "Image too large", "code": "3310"}, None),
    # Gemini
    (
        [
            {
                "error": {
                    "code": 400,
                    "message": 'Invalid JSON payload received. Unknown name "seed": Cannot find '
                    "field.",
                    "status": "INVALID_ARGUMENT",
                    "details": [{"fieldViolations": [{"description": "..."}]}],
                }
            }
        ],
        "seed",
    ),
    (
        [{"error": {"code": 400, "message": "Unable to process input image. Please retry"}}],
        None,
    ),
    (
        [
            {
                "error": {
                    "code": 400,
                    "message": "Invalid value at 'generation_config.response_schema",
                }
            }
        ],
        "response_format",
    ),
    # DashScope and ModelScope
    (
        error(
            "<400> InternalError.Algo.InvalidParameter: Range of max_tokens should be [1, 8192]",
            code="invalid_parameter_error",
        ),
        "max_tokens",
    ),
    (
        error(
            "<400> InternalError.Algo.InvalidParameter: The image length and width do not meet "
            "the model restrictions. [height:1 or width:1 must be larger than 10]",
            code="invalid_parameter_error",
        ),
        None,
    ),
    (
        error(
            "<400> InternalError.Algo.DataInspectionFailed: Input data may contain inappropriate "
            "content.",
            code="data_inspection_failed",
        ),
        None,
    ),
    ({"errors": {"message": "input size exceed limit 2048x2048,current input:(1080,2376)"}}, None),
    # OpenRouter, which hides what the provider said
    (
        {
            "error": {
                "message": "Provider returned error",
                "code": 400,
                "metadata": {
                    "raw": '{"error": {"message": "Unsupported parameter: \'temperature\'"}}',
                    "provider_name": "OpenAI",
                },
            }
        },
        "temperature",
    ),
    (
        {
            "error": {
                "message": "Provider returned error",
                "code": 400,
                "metadata": {"raw": "Could not process image", "provider_name": "X"},
            }
        },
        None,
    ),
    # LM Studio
    ({"error": "'response_format.type' must be 'json_schema' or 'text'"}, "response_format"),
    (
        {
            "error": "Invalid 'content': 'content' objects must have a 'type' field that is "
            "either 'text' or 'image_url'."
        },
        None,
    ),
    # xAI, TGI, LiteLLM, Together
    (
        {
            "code": "Client specified an invalid argument",
            "error": "The response_format parameter is unsupported at the moment. Leave it unset.",
        },
        "response_format",
    ),
    (
        {
            "error": "Input validation error: `inputs` tokens + `max_new_tokens` must be <= 4096. "
            "Given: 4000 `inputs` tokens and 1000 `max_new_tokens`",
            "error_type": "validation",
        },
        None,
    ),
    (
        error("litellm.BadRequestError: Unrecognized request argument supplied: guided_json"),
        "response_format",
    ),
    (error("JSON mode is not supported for this model"), "response_format"),
    # FastAPI
    (
        {"detail": [{"loc": ["body", "temperature"], "msg": "Extra inputs are not permitted"}]},
        "temperature",
    ),
    (
        {
            "detail": [
                {"loc": ["body", "messages", 1, "content", 1, "image_url", "detail"], "msg": "no"}
            ]
        },
        "detail",
    ),
    ({"detail": [{"loc": [], "msg": "x"}]}, None),
    ({"detail": "The image is truncated, see the error detail in the log"}, None),
    ({"detail": "Not Found"}, None),
]


@pytest.mark.parametrize(("body", "parameter"), REJECTIONS, ids=lambda value: str(value)[:60])
def test_rejected_parameter(body: Any, parameter: str | None) -> None:
    text = body if isinstance(body, str) else json.dumps(body)
    assert rejected_parameter(text) == parameter
    assert not rejects_model(text)


@pytest.mark.parametrize(
    ("message", "expected"),
    [
        ("", False),
        ("The model `x` does not exist or you do not have access to it.", True),
        ("The model x does not exist.", True),
        ("model 'llava' not found, try pulling it first", True),
        ('model "x" not found', True),
        ("Model Not Exist", True),
        ("Invalid model name passed in model=foo. Call `/v1/models` to view models.", True),
        ("Invalid model: foo", True),
        ("Unknown model: x", True),
        ("foo/bar is not a valid model ID", True),
        ("models/foo is not found for API version v1main", True),
        ("The requested model is not supported.", True),
        ("Model foo-1.5 is not available in your region", True),
        ("The model produced invalid content. Consider modifying your prompt.", False),
        ("The model could not process the image: file not found", False),
        ("Image not found", False),
        ("This model's maximum context length is 4097 tokens.", False),
        ("Unsupported value: 'temperature' does not support 0 with this model.", False),
        ("The image length and width do not meet the model restrictions.", False),
    ],
)
def test_rejects_model(message: str, expected: bool) -> None:
    for body in ({"error": {"message": message}}, {"detail": message}, [{"error": message}]):
        assert rejects_model(json.dumps(body)) == expected


def test_a_code_tells_of_the_model_too() -> None:
    assert rejects_model(json.dumps(error("No.", code="model_not_found")))
    assert not rejects_model(json.dumps(error("No.", code="rate_limit_exceeded")))


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        ("", ""),
        ("null", ""),
        ("<html>", ""),
        ('{"error": "x"}', ""),
        ('{"error": {"code": 503}}', "503"),
        ('{"error": {"code": "insufficient_quota", "type": "quota"}}', "insufficient_quota quota"),
        ('[{"error": {"code": 429, "type": null}}]', "429"),
        ('{"code": "arrears", "type": "x"}', "arrears x"),
    ],
)
def test_code_of(body: str, expected: str) -> None:
    assert code_of(body) == expected


@pytest.mark.parametrize(
    ("body", "words"),
    [
        ("", ""),
        ("no such route", "no such route"),
        ("<html>busy</html>", "not JSON but HTML"),
        ('"words"', "words"),
        ('{"error": "words"}', "words"),
        ('{"error": {"message": "words"}}', "words"),
        ('{"message": "words"}', "words"),
        ('{"detail": "words"}', "words"),
        ('{"error": null, "message": "words"}', "words"),
        ('{"errors": [{"message": "one"}, {"message": "two"}]}', "one; two"),
        ('{"detail": [{"loc": ["body", "n"], "msg": "no"}, {"msg": "too"}]}', "n: no; too"),
        ('{"error": 5}', '{"error": 5}'),
        ('{"error": {"message": "' + "x" * 9000 + '"}}', "x" * 2000),
    ],
    ids=lambda value: value[:30],
)
def test_error_words(body: str, words: str) -> None:
    assert error_words(body) == words or (not words and error_words(body) == "an empty body")


# --- secrets ----------------------------------------------------------------------------------

LETTERS = string.ascii_letters + string.digits
KEYS = [
    "sk-abcdEFGH1234abcdEFGH1234abcdEFGH1234abcdEFGH1234",
    "sk-proj-Ab1_cd-Ef2Gh3Ij4Kl5Mn6Op7Qr8St9Uv0Wx1Yz2-Ab3_Cd4",
    "sk-ant-api03-AAbb11_cc-DDeeff22",
    "sk-or-v1-0123456789abcdef0123456789abcdef0123456789abcdef",
    "sk-abcd****************************efgh",
    "gsk_Ab1Cd2Ef3Gh4Ij5Kl6Mn7Op8Qr9",
    "hf_AbCdEfGhIjKlMnOpQrStUvWxYz",
    "xai-Ab1Cd2Ef3Gh4Ij5Kl6",
    "nvapi-Ab1Cd2Ef3Gh4-Ij5Kl6",
    "pplx-0123456789abcdef",
    "r8_Ab1Cd2Ef3Gh4Ij5Kl6",
    "AIzaSyA1b2C3d4E5f6G7h8I9j0K1l2M3n4O5p6Q",
    "ghp_Ab1Cd2Ef3Gh4Ij5Kl6",
    "0123456789abcdef0123456789abcdef",
    "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxMjM0In0.SflKxwRJSMeKKF2QT4fwpM",
    "Bearer any.thing/at+all=",
]


@pytest.mark.parametrize("key", KEYS)
@pytest.mark.parametrize("words", ["{}", "Incorrect API key: '{}'.", '{{"key":"{}"}}', "x={},y"])
def test_keys_are_taken_out(key: str, words: str) -> None:
    told = redact(words.format(key))
    assert "[key]" in told
    body = key.removeprefix("Bearer ")
    for start in range(0, len(body) - 12):
        assert body[start : start + 12] not in told


@pytest.mark.parametrize(
    "words",
    [
        "",
        "The model `Qwen/Qwen2.5-VL-72B-Instruct-AWQ` does not exist",
        "Rate limit reached for gpt-4o-mini in organization org-123 on tokens per min (TPM)",
        "See https://platform.openai.com/docs/guides/structured-outputs/supported-schemas",
        "This model's maximum context length is 16384 tokens.",
        "task-oriented risk-averse desk_lamp_model",
    ],
)
def test_words_stay(words: str) -> None:
    assert redact(words) == words


@given(st.binary(min_size=60, max_size=300), st.sampled_from(["{}", "data:image/jpeg;base64,{}"]))
def test_images_are_taken_out(image: bytes, form: str) -> None:
    encoded = base64.b64encode(image).decode()
    told = redact(f"invalid image: {form.format(encoded)} (see above)")
    for start in range(0, len(encoded) - 16):
        assert encoded[start : start + 16] not in told


def test_an_image_that_is_cut_by_its_server() -> None:
    encoded = base64.b64encode(bytes(range(256))).decode()
    assert redact(f"data:image/jpeg;base64,{encoded[:30]}...") == "[data]..."
    assert redact(f"data:image/jpeg;base64,\\/9j\\/{encoded[:30]}") == "[data]"


@pytest.mark.parametrize(
    ("words", "hide", "expected"),
    [
        ("no secrets", [], "no secrets"),
        ("key hunter22 is wrong", ["hunter22"], "key [hidden] is wrong"),
        ("abcd and abcdef", ["abcd", "abcdef"], "[hidden] and [hidden]"),
        ("the cat", ["cat", ""], "the cat"),  # too short to be told from the words around it
        ("two\n  lines", [], "two lines"),
        ("caf\ud800e", [], "caf\ufffde"),
    ],
)
def test_redact(words: str, hide: list[str], expected: str) -> None:
    assert redact(words, hide) == expected


@given(
    before=st.text(max_size=400),
    key=st.text(alphabet=LETTERS, min_size=8, max_size=60),
    after=st.text(max_size=400),
)
def test_what_is_to_be_hidden_is_hidden(before: str, key: str, after: str) -> None:
    told = redact(f"{before}{key}{after}", [key])
    assert key not in told or key in "[hidden][key][data]"
    assert len(told) <= 300


# --- Retry-After ------------------------------------------------------------------------------

NOW = 1_445_412_480.0  # Wed, 21 Oct 2015 07:28:00 GMT


@pytest.mark.parametrize(
    ("headers", "seconds"),
    [
        ({}, None),
        ({"retry-after": ""}, None),
        ({"retry-after": "soon"}, None),
        ({"retry-after": "2"}, 2.0),
        ({"retry-after": "0"}, 0.0),
        ({"retry-after": "1.5"}, 1.5),
        ({"retry-after": "-3"}, 0.0),
        ({"retry-after": "nan"}, None),
        ({"retry-after": "inf"}, None),
        ({"retry-after": "1e999"}, None),
        ({"retry-after": "Wed, 21 Oct 2015 07:28:30 GMT"}, 30.0),
        ({"retry-after": "Wed, 21 Oct 2015 07:27:00 GMT"}, 0.0),
        ({"retry-after": "Mon, 99 Foo 2015 07:28:00 GMT"}, None),
        ({"retry-after-ms": "250"}, 0.25),
        ({"retry-after-ms": "250", "retry-after": "9"}, 0.25),
        ({"retry-after-ms": "soon", "retry-after": "9"}, 9.0),
        ({"retry-after-ms": "nan", "retry-after": "9"}, 9.0),
    ],
)
def test_retry_after(headers: dict[str, str], seconds: float | None) -> None:
    assert retry_after(headers, NOW) == seconds


@given(st.text(max_size=40), st.text(max_size=40))
def test_no_header_raises(one: str, other: str) -> None:
    seconds = retry_after({"retry-after": one, "retry-after-ms": other}, NOW)
    assert seconds is None or 0 <= seconds < float("inf")
