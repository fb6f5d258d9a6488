"""Response bodies to completions: the model's text, or the problem why there is none.

Pure, and never raises: bodies are what any server may send.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal

from hf_regioncap.bodies import read_body
from hf_regioncap.rejections import error_words, failed_generation, not_json
from hf_regioncap.wire import writable


@dataclass(frozen=True)
class Completion:
    """What a response body says: the model's text, or the problem why there is none.

    `thoughts` are what stands beside an empty text: the field's name and what it holds.
    """

    text: str | None = None
    finish_reason: str | None = None
    refusal: str | None = None
    prompt_tokens: int | None = None
    completion_tokens: int | None = None
    model: str | None = None
    problem: str | None = None
    thoughts: tuple[str, str] | None = None


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
    prompt_tokens, completion_tokens = _tokens(said if isinstance(said, dict) else {})
    known = Completion(
        prompt_tokens=prompt_tokens,
        completion_tokens=completion_tokens,
        model=data["model"] if isinstance(data.get("model"), str) else None,
        finish_reason=_blocked(data),
    )
    if data.get("error") and not data.get("choices"):
        if text := failed_generation(body):
            return replace(known, text=writable(text))
        words = error_words(body)
        return replace(known, problem=f"an error in place of an answer: {words}")
    choices = data.get("choices")
    if not isinstance(choices, list) or not choices or not isinstance(choices[0], dict):
        return replace(known, problem="no choices in the answer")
    choice = choices[0]
    reason = choice.get("finish_reason")
    known = replace(known, finish_reason=reason if isinstance(reason, str) else None)
    message = _message(choice)
    if message is None:
        return replace(known, problem="no message in the answer")
    return _with_text(known, message)


def _message(choice: Mapping[str, Any]) -> Mapping[str, Any] | None:
    """What the model said, also where a choice holds a stream's or a text completion's form."""
    for name in ("message", "delta"):
        if isinstance(choice.get(name), dict):
            message: Mapping[str, Any] = choice[name]
            return message
    return {"content": choice["text"]} if isinstance(choice.get("text"), str) else None


def _with_text(known: Completion, message: Mapping[str, Any]) -> Completion:
    content = message.get("content")
    refusal = message.get("refusal") or _refused_part(content)
    known = replace(known, refusal=writable(refusal) if isinstance(refusal, str) else None)
    text = _content_text(content)
    if text is None or not text.strip():
        text = _parsed_text(message) or text
    if text is None or not text.strip():
        known = replace(known, thoughts=_thoughts(message))
        text = "" if text is None and known.thoughts else text
    if text is None and known.refusal is None:
        kind = type(content).__name__
        problem = "no text in the answer" if kind == "NoneType" else f"a {kind} in place of text"
        return replace(known, problem=problem)
    return replace(known, text=None if text is None else writable(text))


def _content_text(content: Any) -> str | None:
    """The text of a message: a string, the text parts of a list, or JSON that is parsed already."""
    if isinstance(content, str):
        return content
    if isinstance(content, dict):
        part = _part_text(content)
        return _as_json(content) if part is None and content and not _is_part(content) else part
    if not isinstance(content, list):
        return None
    texts = [text for text in map(_part_text, content) if text is not None]
    if not texts and content and all(isinstance(part, dict) for part in content):
        return None if any(map(_is_part, content)) else _as_json(content)
    return "".join(texts) if texts else None


def _is_part(part: Mapping[str, Any]) -> bool:
    return "type" in part or "text" in part


def _part_text(part: Any) -> str | None:
    """The text of a part of a message; thoughts have parts of their own, which are none."""
    if isinstance(part, str):
        return part
    if not isinstance(part, dict) or part.get("type", "text") not in ("text", "output_text"):
        return None
    text = part.get("text")
    return text if isinstance(text, str) else None


def _refused_part(content: Any) -> str | None:
    parts = content if isinstance(content, list) else []
    said = [part.get("refusal") for part in parts if isinstance(part, dict)]
    return next((words for words in said if isinstance(words, str) and words), None)


def _parsed_text(message: Mapping[str, Any]) -> str | None:
    """The answer where it stands beside an empty content: parsed, or as a tool's arguments."""
    parsed = message.get("parsed")
    if isinstance(parsed, dict | list) and parsed:
        return _as_json(parsed)
    calls = message.get("tool_calls")
    called = calls if isinstance(calls, list) else []
    functions = [call.get("function") for call in called if isinstance(call, dict)]
    functions.append(message.get("function_call"))
    arguments = [each.get("arguments") for each in functions if isinstance(each, dict)]
    texts = [_as_json(part) if isinstance(part, dict) else part for part in arguments]
    return "\n".join(text for text in texts if isinstance(text, str)) or None


def _as_json(value: Any) -> str | None:
    try:
        return json.dumps(value, ensure_ascii=False)
    except RecursionError:
        return None


def _thoughts(message: Mapping[str, Any]) -> tuple[str, str] | None:
    """The text that a server took for thoughts, and the field that it is in."""
    for name in ("reasoning_content", "reasoning", "thinking"):
        thoughts = message.get(name)
        if isinstance(thoughts, str) and thoughts.strip():
            return name, writable(thoughts)
    return None


# How an answer ended

_WHOLE = {"stop", "end_turn", "eos", "eos_token", "stop_sequence", "complete", "completed"}
_CUT = re.compile(r"length|max_?(?:\w{1,12}_)?tokens?|token_?limit|incomplete|context_window")
_REFUSED = re.compile(
    r"content_?filter|safety|recitation|prohibited|block|spii|sensitive|guardrail|refus|moderat"
    r"|policy|censor"
)


def ending(finish_reason: str | None) -> Literal["whole", "cut", "refused", "other"]:
    """What a finish reason says of the text, in any spelling; one that is not told says whole.

    `other` is what nobody has promised anything about: its text may be cut anywhere.

    >>> [ending(reason) for reason in ("stop", "MAX_TOKENS", "SAFETY", "error", None)]
    ['whole', 'cut', 'refused', 'other', 'whole']
    """
    reason = re.sub(r"[\s-]+", "_", (finish_reason or "").strip().lower())
    if _REFUSED.search(reason):
        return "refused"
    if _CUT.search(reason):
        return "cut"
    name = re.sub(r"^(?:finish_?reason|stop_?reason)[._:]+", "", reason)
    return "whole" if name in _WHOLE or name in ("", "null", "none") else "other"


def _blocked(data: Mapping[str, Any]) -> str | None:
    """Why Gemini has not answered a prompt at all."""
    feedback = data.get("promptFeedback") or data.get("prompt_feedback")
    reason = feedback.get("blockReason") if isinstance(feedback, dict) else None
    return f"blocked: {reason}" if isinstance(reason, str) else None


# What an answer cost


def _tokens(usage: Mapping[str, Any]) -> tuple[int | None, int | None]:
    """Prompt and completion tokens; thoughts are paid for as completion, whoever leaves them out.

    Gemini and xAI count them in the total only, others in the details only.
    """
    prompt = _count(usage.get("prompt_tokens", usage.get("input_tokens")))
    completion = _count(usage.get("completion_tokens", usage.get("output_tokens")))
    if not prompt and not completion:
        return None, None  # no request has an empty prompt: the server does not count
    total = _count(usage.get("total_tokens"))
    if total is not None and prompt is not None and total >= prompt:
        completion = max(completion or 0, total - prompt)
    details = usage.get("completion_tokens_details")
    thoughts = _count(details.get("reasoning_tokens")) if isinstance(details, dict) else None
    if completion is not None and thoughts is not None and thoughts > completion:
        completion += thoughts
    return prompt, completion


def _count(value: Any) -> int | None:
    """A number of tokens, also where it is written as text or as a float."""
    if isinstance(value, str) and value.isascii() and value.isdecimal() and len(value) < 20:
        value = int(value)
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value < 2**62:
        return None
    return value
