"""What the body of an error says: its words, and what they are about.

Pure, and never raises: bodies are what any server may send.
"""

from __future__ import annotations

import json
import re
from typing import Any

from hf_regioncap.bodies import is_stream, read_body


def not_json(body: str) -> str:
    """Name what a body is that should have been JSON."""
    head = body.lstrip()[:200].lower()
    if not head:
        return "an empty body"
    if head.startswith(("<!doctype", "<html", "<head", "<body")):
        return "not JSON but HTML"
    if is_stream(body):
        return "a stream that is cut off or garbled"
    return "JSON that is cut off or garbled" if head[0] in "{[" else "not JSON"


def error_words(body: str) -> str:
    """The message of an error body, in whatever of the usual forms it comes.

    >>> error_words('{"error": {"message": "no such model", "code": 404}}')
    'no such model'
    >>> error_words('{"detail": [{"loc": ["body", "seed"], "msg": "not permitted"}]}')
    'seed: not permitted'
    """
    try:
        words = _said(read_body(body))
    except (ValueError, RecursionError):
        words = not_json(body) if body.lstrip()[:1] in ("", "<") else ""
    return words[:2000] or body.strip()[:500]


def _said(value: Any, depth: int = 0) -> str:
    """The words in an error, which hide under many names, in lists, or as JSON in a string."""
    if depth > 6:
        return ""
    if isinstance(value, str):
        inner = _json_in(value) if value.lstrip()[:1] in ("{", "[") else None
        return (_said(inner, depth + 1) if inner else "") or value
    if isinstance(value, list):
        return "; ".join(filter(None, (_said(item, depth + 1) for item in value[:20])))
    if not isinstance(value, dict):
        return ""
    names = ("error", "message", "detail", "msg", "errors", *_OTHER_NAMES)
    words = next(filter(None, (_said(value.get(name), depth + 1) for name in names)), "")
    where = value.get("loc")  # FastAPI's
    if isinstance(where, list) and "msg" in value:
        path = ".".join(str(step) for step in where if step != "body")
        return f"{path}: {words}"
    metadata = value.get("metadata")  # OpenRouter's: what the provider behind it said
    raw = _said(metadata.get("raw"), depth + 1) if isinstance(metadata, dict) else ""
    return f"{words}: {raw}" if raw else words


#: Of the message: AWS, Baidu, MiniMax.
_OTHER_NAMES = ("Message", "error_msg", "base_resp", "status_msg")


def _json_in(text: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return None


def _error(body: str) -> dict[str, Any]:
    """The object that tells of an error; empty where there is none."""
    try:
        data = read_body(body)
    except (ValueError, RecursionError):
        return {}
    data = data[0] if isinstance(data, list) and data else data  # Gemini's come in a list
    if not isinstance(data, dict):
        return {}
    error = data.get("error") or _choice_error(data)
    if isinstance(error, str):  # LM Studio, Ollama; the other fields stand beside it
        return data
    return error if isinstance(error, dict) else data


def _choice_error(data: dict[str, Any]) -> Any:
    """OpenRouter's, of an answer that a provider has broken off."""
    choices = data.get("choices")
    first = choices[0] if isinstance(choices, list) and choices else None
    return first.get("error") if isinstance(first, dict) else None


def _error_field(body: str, name: str) -> str:
    value = _error(body).get(name)
    return str(value) if isinstance(value, str | int) else ""


def code_of(body: str) -> str:
    """The `code` and `type` of an error body as one text, for telling no credit from no time.

    >>> code_of('{"error": {"message": "...", "code": "insufficient_quota", "type": null}}')
    'insufficient_quota'
    """
    return f"{_error_field(body, 'code')} {_error_field(body, 'type')}".strip()


def _words(*alternatives: str) -> re.Pattern[str]:
    return re.compile("|".join(alternatives), re.IGNORECASE)


# Which parameter it is about

_PARAMETERS = re.compile(
    r"\b(response[_ ]formats?|response_schema|response_mime_type|json[_ ](?:schema|object|mode)|"
    r"structured[ _]outputs?|guided_\w+|grammar|stream_options|"
    r"max_completion_tokens|max_tokens|temperature|seed|image_url)\b",
    re.IGNORECASE,
)
#: "detail" alone is an everyday word of error messages, and FastAPI's name for all of them.
_DETAIL = re.compile(r"image_url\W{1,4}detail\b|['\"`]detail['\"`](?!\s*:)")
_ONLY_STREAMS = _words(
    r"only supports? (?:the )?stream",
    r"enable the stream param",
    r"\bstream(?:ing)?\b.{0,20}(?:is required|must be (?:set to )?true|(?:mode )?only\b)",
    r"non[- ]stream\w*.{0,30}(?:not supported|unsupported|not allowed)",
    r"(?:not|n't) support non[- ]stream",
)
#: The row is too long, or was cut, in words that name parameters of ours all the same.
_TOO_LONG = _words(
    r"context (?:length|window|size|limit)|maximum context|too many tokens|too long\b",
    r"longer than the (?:max|model)|at least 1, got -|output limit was reached",
    r"(?:prompt|input|messages?)\b.{0,40}(?:\+|\band\b|\bplus\b|与|和).{0,30}max\w*tokens",
    r"reduce (?:the |your )?(?:length|input|prompt|messages?|number)|过长|超过|超出",
)
#: What may be wrong with one row's picture; such words say nothing of the form.
_PICTURE = _words(r"\b(?:images?|pictures?|photos?|pixels?|aspect|height|width)\b|图[片像]")
_WANTS_STRING = re.compile(
    r"(?:of type|expected|should be|must be)(?: a| type)?(?: valid)? string\b(?! with)",
    re.IGNORECASE,
)


def rejected_parameter(body: str) -> str | None:
    """Name the parameter of ours that a 400 or 422 is about; None where it is about the row.

    >>> rejected_parameter('{"error": {"message": "Unsupported parameter: \\'max_tokens\\'"}}')
    'max_tokens'
    >>> rejected_parameter('{"error": {"message": "could not process image"}}') is None
    True
    """
    words, param = error_words(body), _error_field(body, "param")
    if _TOO_LONG.search(words):
        return None
    if _ONLY_STREAMS.search(words) or param == "stream":
        return "stream"
    if _DETAIL.search(param) or _DETAIL.search(words):
        return "detail"
    found = _PARAMETERS.search(param) or _PARAMETERS.search(words)
    if found is None:
        return None
    name = found.group(1).lower()
    if name.startswith(("response", "json", "structured", "guided_", "grammar")):
        return "response_format"
    if name == "image_url":
        return name if _WANTS_STRING.search(words) else None
    return name


_FORM = _words(r"grammar|schema|\bformat\b|structured|\bjson\b|constrain|\bgbnf\b|outlines")


def about_form(body: str) -> bool:
    """Tell whether words that name no parameter are about the form of the answer.

    >>> about_form('{"error": "failed to load model vocabulary required for format"}')
    True
    """
    words = "" if body.lstrip()[:1] == "<" else error_words(body)
    return bool(_FORM.search(words)) and not _PICTURE.search(words)


def about_row(body: str) -> bool:
    """Tell whether an error is about one row's length or picture.

    >>> about_row('{"message": "absolute aspect ratio must be smaller than 200"}')
    True
    """
    words = error_words(body)
    return bool(_TOO_LONG.search(words) or _PICTURE.search(words))


def failed_generation(body: str) -> str | None:
    """The text that a model wrote and that its server did not accept as JSON (Groq).

    >>> failed_generation('{"error": {"code": "json_validate_failed", "failed_generation": "a"}}')
    'a'
    """
    text = _error_field(body, "failed_generation")
    return text or ("" if _error_field(body, "code") == "json_validate_failed" else None)


# Which status it stands for

_STATUS_NAMES = {
    **dict.fromkeys(("rate_limit_exceeded", "rate_limit_error", "RESOURCE_EXHAUSTED"), 429),
    **dict.fromkeys(("insufficient_quota", "too_many_requests", "tokens_exceeded"), 429),
    **dict.fromkeys(("UNAVAILABLE", "overloaded_error", "server_overloaded"), 503),
    **dict.fromkeys(("authentication_error", "invalid_api_key", "UNAUTHENTICATED"), 401),
    **dict.fromkeys(("permission_error", "PERMISSION_DENIED"), 403),
    **dict.fromkeys(("model_not_found", "not_found_error", "NOT_FOUND"), 404),
    **dict.fromkeys(("context_length_exceeded", "INVALID_ARGUMENT"), 400),
}


def status_inside(body: str) -> int | None:
    """The HTTP status that an error inside a 200 stands for; None where an answer is told.

    OpenRouter and gateways like it have sent a 200 before the provider behind them fails.

    >>> status_inside('{"error": {"code": 502, "message": "Provider returned error"}}')
    502
    >>> status_inside('{"choices": [{"message": {"content": "a cat"}}], "error": null}') is None
    True
    """
    if '"error"' not in body:  # nearly always; reading takes longer
        return None
    try:
        data = read_body(body)
    except (ValueError, RecursionError):
        return None
    if not isinstance(data, dict) or not (data.get("error") or _choice_error(data)):
        return None
    if _has_text(data):
        return None  # what was written before it broke off is judged as an answer that was cut
    for name in ("code", "status", "status_code", "http_status", "type"):
        value = _error_field(body, name)
        if value.isascii() and value.isdecimal() and 400 <= int(value[:4]) < 600:
            return int(value)
        if value in _STATUS_NAMES:
            return _STATUS_NAMES[value]
    return 400 if is_moderated(body) else None


def _has_text(data: dict[str, Any]) -> bool:
    choices = data.get("choices")
    first = choices[0] if isinstance(choices, list) and choices else None
    message = first.get("message") if isinstance(first, dict) else None
    content = message.get("content") if isinstance(message, dict) else None
    return bool(content.strip() if isinstance(content, str) else content)


# What it is about otherwise

_NO_MODEL = re.compile(
    r"\bmodels?(?: name| id)?:?\s*(?:[`'\"“‘][^`'\"”’]+[`'\"”’]|[\w./:@-]+)?\s*"
    r"(?:was |is |are |could )?(?:not (?:be )?found|does ?n[o']t exist|not exist|not available|"
    r"not supported|unknown)|"
    r"\b(?:unknown|invalid|unsupported|no such|not a valid) model\b",
    re.IGNORECASE,
)
_MODEL_CODES = ("model_not_found", "invalid_model", "model_not_supported")


def rejects_model(body: str) -> bool:
    """Tell whether an error body says that the endpoint does not have the model.

    >>> rejects_model('{"error": {"message": "The model `x` does not exist"}}')
    True
    """
    code = _error_field(body, "code")
    return code in _MODEL_CODES or bool(_NO_MODEL.search(error_words(body)))


_MODERATED_CODE = _words(
    r"content_?filter|content_policy|data_?inspection|moderation|sensitive|responsible_?ai",
    r"prohibited_content|safety_check|invalid_prompt",
)
_MODERATED = _words(
    r"content[_ -]?(?:filter|policy|policies|moderation|safety)|content management polic",
    r"\b(?:inputs?|prompts?|requests?|images?|pictures?|responses?|outputs?|contents?|text)\b"
    r".{0,40}\b(?:flagged|moderated|censored|(?:was|been) (?:filtered|blocked)|is blocked)",
    r"(?:usage|content|safety) (?:guidelines|policies)|violates? our (?:usage )?polic",
    r"inappropriate content|data[_ ]?inspection|responsible ?ai|prohibited[_ ]content|nsfw",
    r"safety (?:system|check|filter|reasons)|safety_check|requires moderation|high risk",
    r"sensitive (?:content|information|words?|material)|harmful content|unsafe content",
    r"(?:violated|blocked by) (?:\w+ )?guardrail|敏感|违规|不安全|不合规|内容(?:安全|审核)",
)
#: The same words about a whole account.
_ACCOUNT = _words(
    r"\b(?:account|organi[sz]ation|api key|key|user|team)\b.{0,40}"
    r"(?:deactivat|suspend|disabled|banned|terminated|blocked)"
)


def is_moderated(body: str) -> bool:
    """Tell whether a row was turned away for what it shows or says.

    >>> is_moderated('{"error": {"code": 403, "message": "Your input was flagged"}}')
    True
    """
    codes = f"{code_of(body)} {_error_field(body, 'param')}"
    words = error_words(body)
    if _ACCOUNT.search(words):
        return False
    return bool(_MODERATED_CODE.search(codes) or _MODERATED.search(words))


_BAD_KEY = _words(
    r"(?:api[ _-]?key|access token)s?\b.{0,20}\b(?:not valid|invalid|incorrect|expired|revoked)",
    r"(?:invalid|incorrect|wrong|expired) (?:x-)?api[ _-]?key|valid api key|api_key_invalid",
)


def rejects_key(body: str) -> bool:
    """Tell whether the key is wrong, which some say with a 400 (Gemini, xAI).

    >>> rejects_key('[{"error": {"code": 400, "message": "API key not valid."}}]')
    True
    """
    codes = f"{code_of(body)} {_error_field(body, 'status')}"
    return "invalid_api_key" in codes or bool(_BAD_KEY.search(error_words(body)))


_NO_CREDIT_CODES = (
    *("insufficient_quota", "billing_hard_limit_reached", "billing_not_active", "Arrearage"),
    *("exceeded_current_quota_error", "insufficient_balance", "credit_balance_too_low"),
)
_NO_CREDIT = _words(
    r"credit balance is too low|insufficient (?:account )?(?:balance|credits?|funds)|arrear",
    r"account is in good standing|余额不足|欠费|out of credits|no (?:remaining )?credits?\b",
)


def no_credit(body: str) -> bool:
    """Tell whether an account has nothing left, which no waiting ends.

    >>> no_credit('{"error": {"message": "...", "code": "insufficient_quota"}}')
    True
    """
    codes = code_of(body)
    return any(code in codes for code in _NO_CREDIT_CODES) or bool(
        _NO_CREDIT.search(error_words(body))
    )


# What the user can do about it

_SYSTEM = r"(?:system|developer) (?:role|message|prompt|instruction)s?"
_WAYS: tuple[tuple[re.Pattern[str], str], ...] = (
    (
        _words(
            rf"{_SYSTEM}\b.{{0,40}}(?:not (?:be )?(?:supported|allowed|enabled|permitted|used)"
            r"|unsupported|incompatible)",
            rf"(?:incompatible with|(?:not|n't) support|without|no) {_SYSTEM}",
            r"roles must alternate",
        ),
        "pass system_prompt='': the model takes no system message beside a picture",
    ),
    (
        _words(
            r"at most (?:1|one) (?:image|picture|multi-?modal)",
            r"(?:multiple|more than (?:1|one)|only (?:1|one)|a single) images?",
            r"too many images",
        ),
        "pass view='overlay' or view='crop', which send one picture a request (or start vLLM "
        "with a larger --limit-mm-per-prompt)",
    ),
    (
        _words(r"enable_thinking"),
        "pass extra_body={'enable_thinking': False}",
    ),
)
_NO_VISION = _words(
    r"mmproj|vision add-?on|multimodal (?:model|processor)|image input|text-only",
    r"(?:not|n't) support (?:image|vision|picture|multi-?modal)|only supports? text",
    r"images? (?:input )?(?:is|are) not supported|image_url is only supported|not a vision",
    r"unknown variant `?image_url|expected `?text`?\b",
)


def way_out(body: str) -> str | None:
    """What to pass where all rows must fail alike, and the words tell why; else None.

    >>> way_out('{"message": "System role not supported"}')
    "pass system_prompt='': the model takes no system message beside a picture"
    """
    words = error_words(body)
    return next((way for pattern, way in _WAYS if pattern.search(words)), None)


def takes_no_pictures(body: str) -> bool:
    """Tell whether the words are those of a model that is none for pictures.

    >>> takes_no_pictures('{"error": "llava is not a multimodal model"}')
    True
    """
    return bool(_NO_VISION.search(error_words(body)))
