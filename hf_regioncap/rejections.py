"""What the body of an error says: its words, and what they are about.

Pure, and never raises: bodies are what any server may send.
"""

from __future__ import annotations

import json
import re
from typing import Any

from hf_regioncap.bodies import is_stream


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
        words = _said(json.loads(body))
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
    names = ("error", "message", "detail", "msg", "errors")
    words = next(filter(None, (_said(value.get(name), depth + 1) for name in names)), "")
    where = value.get("loc")  # FastAPI's
    if isinstance(where, list) and "msg" in value:
        path = ".".join(str(step) for step in where if step != "body")
        return f"{path}: {words}"
    metadata = value.get("metadata")  # OpenRouter's: what the provider behind it said
    raw = _said(metadata.get("raw"), depth + 1) if isinstance(metadata, dict) else ""
    return f"{words}: {raw}" if raw else words


def _json_in(text: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return None


def _error_field(body: str, name: str) -> str:
    data = _json_in(body)
    data = data[0] if isinstance(data, list) and data else data  # Gemini's come in a list
    error = data.get("error", data) if isinstance(data, dict) else None
    value = error.get(name) if isinstance(error, dict) else None
    return str(value) if isinstance(value, str | int) else ""


def code_of(body: str) -> str:
    """The `code` and `type` of an error body as one text, for telling no credit from no time.

    >>> code_of('{"error": {"message": "...", "code": "insufficient_quota", "type": null}}')
    'insufficient_quota'
    """
    return f"{_error_field(body, 'code')} {_error_field(body, 'type')}".strip()


_PARAMETERS = re.compile(
    r"\b(response[_ ]formats?|response_schema|response_mime_type|json[_ ](?:schema|object|mode)|"
    r"structured[ _]outputs?|guided_\w+|grammar|"
    r"max_completion_tokens|max_tokens|temperature|seed|image_url)\b",
    re.IGNORECASE,
)
#: "detail" alone is an everyday word of error messages.
_DETAIL = re.compile(r"image_url\W{1,4}detail\b|['\"`]detail['\"`]")
#: The row is too long, or was cut, in words that name parameters of ours all the same.
_ABOUT_ROW = re.compile(
    r"context (?:length|window|size)|maximum context|too many tokens|longer than the (?:max|model)|"
    r"at least 1, got -|output limit was reached",
    re.IGNORECASE,
)
_WANTS_STRING = re.compile(
    r"(?:of type|expected|should be|must be)(?: a| type)?(?: valid)? string\b(?! with)",
    re.IGNORECASE,
)
_NO_MODEL = re.compile(
    r"\bmodels?(?: name| id)?:?\s*(?:[`'\"“‘][^`'\"”’]+[`'\"”’]|[\w./:@-]+)?\s*"
    r"(?:was |is |are |could )?(?:not (?:be )?found|does ?n[o']t exist|not exist|not available|"
    r"not supported|unknown)|"
    r"\b(?:unknown|invalid|unsupported|no such|not a valid) model\b",
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
    if _ABOUT_ROW.search(words):
        return None
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


def rejects_model(body: str) -> bool:
    """Tell whether an error body says that the endpoint does not have the model.

    >>> rejects_model('{"error": {"message": "The model `x` does not exist"}}')
    True
    """
    code = _error_field(body, "code")
    return code in _MODEL_CODES or bool(_NO_MODEL.search(error_words(body)))


_MODEL_CODES = ("model_not_found", "invalid_model", "model_not_supported")
