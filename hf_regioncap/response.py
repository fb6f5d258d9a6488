"""Response bodies to completions: the model's text, or the problem why there is none.

Pure, and never raises: bodies are what any server may send.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from hf_regioncap.bodies import read_body
from hf_regioncap.rejections import error_words, not_json
from hf_regioncap.wire import writable


@dataclass(frozen=True)
class Completion:
    """What a response body says: the model's text, or the problem why there is none."""

    text: str | None = None
    finish_reason: str | None = None
    refusal: str | None = None
    prompt_tokens: int | None = None
    completion_tokens: int | None = None
    model: str | None = None
    problem: str | None = None


def read_completion(body: str) -> Completion:
    """Read a response body that came with status 200; never raises.

    >>> read_completion('{"choices": [{"message": {"content": "a cat"}}]}').text
    'a cat'
    >>> read_completion("<html>busy</html>").problem
    'not JSON but HTML'
    >>> read_completion('{"error": {"message": "overloaded"}}').problem
    'an error in place of an answer: overloaded'
    """
    try:
        data = read_body(body)
    except (ValueError, RecursionError):
        return Completion(problem=not_json(body))
    if not isinstance(data, dict):
        return Completion(problem=f"a JSON {type(data).__name__} is not a completion")
    said = data.get("usage")
    usage = said if isinstance(said, dict) else {}
    known = Completion(
        prompt_tokens=_count(usage.get("prompt_tokens")),
        completion_tokens=_count(usage.get("completion_tokens")),
        model=data["model"] if isinstance(data.get("model"), str) else None,
    )
    if data.get("error") and not data.get("choices"):
        words = error_words(body)
        return replace(known, problem=f"an error in place of an answer: {words}")
    choices = data.get("choices")
    if not isinstance(choices, list) or not choices or not isinstance(choices[0], dict):
        return replace(known, problem="no choices in the answer")
    choice = choices[0]
    reason = choice.get("finish_reason")
    known = replace(known, finish_reason=reason if isinstance(reason, str) else None)
    message = choice.get("message")
    if not isinstance(message, dict):
        return replace(known, problem="no message in the answer")
    refusal = message.get("refusal")
    known = replace(known, refusal=refusal if isinstance(refusal, str) and refusal else None)
    text = _content_text(message.get("content"))
    if text is None and known.refusal is None:
        kind = type(message.get("content")).__name__
        problem = "no text in the answer" if kind == "NoneType" else f"a {kind} in place of text"
        return replace(known, problem=problem)
    return replace(known, text=None if text is None else writable(text))


def _content_text(content: Any) -> str | None:
    """The text of a message: a string, or the text parts of a list of parts."""
    if isinstance(content, str):
        return content
    if not isinstance(content, list):
        return None
    parts = [part.get("text") for part in content if isinstance(part, dict)]
    texts = [part for part in parts if isinstance(part, str)]
    return "".join(texts) if texts else None


def _count(value: Any) -> int | None:
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value < 2**62:
        return None
    return value
