"""Questions to request bodies, response bodies to completions, error bodies to what they mean.

Pure: bytes and text in, bytes and values out. The form is that of OpenAI's chat completions API,
which vLLM, SGLang, llama.cpp, Ollama, LM Studio, Gemini, DashScope, Groq and OpenRouter speak too.
"""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from hf_regioncap.prompts import answer_schema
from hf_regioncap.questions import Question

_FORMS = ("json_schema", "json_object", "text")


@dataclass(frozen=True)
class Dialect:
    """What an endpoint takes of the many ways to say the same; starts hopeful, learns by refusals.

    `form` is how the answer's form is asked for, `tokens` the name of the length limit (None: not
    sent), the flags whether a parameter is sent at all. `fixed` names what the user decided.
    """

    form: str = "json_schema"
    tokens: str | None = "max_tokens"
    temperature: bool = True
    detail: bool = True
    image_object: bool = True
    fixed: frozenset[str] = frozenset()


def build_body(question: Question, dialect: Dialect, max_tokens: int) -> bytes:
    """The request's JSON body.

    Images are put in as base64 after the rest is encoded: a JSON encoder would look at each of
    their characters for something to escape.
    """
    marks = [f"\x00{index}\x00" for index in range(len(question.images))]
    content: list[dict[str, Any]] = [{"type": "text", "text": question.text}]
    content += [_image_part(mark, question.detail, dialect) for mark in marks]
    content += [{"type": "text", "text": question.instructions(dialect.form)}]
    messages: list[dict[str, Any]] = [{"role": "user", "content": content}]
    if question.system:
        messages.insert(0, {"role": "system", "content": question.system})
    body: dict[str, Any] = {"model": question.model, "messages": messages}
    if dialect.form == "json_schema":
        schema = answer_schema(question.regions)
        body["response_format"] = {
            "type": "json_schema",
            "json_schema": {"name": "region_captions", "strict": True, "schema": schema},
        }
    elif dialect.form == "json_object":
        body["response_format"] = {"type": "json_object"}
    if dialect.tokens:
        body[dialect.tokens] = max_tokens
    if question.temperature is not None and dialect.temperature:
        body["temperature"] = question.temperature
    if question.seed is not None:
        body["seed"] = question.seed
    body |= dict(question.extra_body)
    text = json.dumps(body, ensure_ascii=True).encode()
    for mark, image in zip(marks, question.images, strict=True):
        text = text.replace(json.dumps(mark)[1:-1].encode(), base64.b64encode(image))
    return text


def _image_part(mark: str, detail: str | None, dialect: Dialect) -> dict[str, Any]:
    url = f"data:image/jpeg;base64,{mark}"
    if not dialect.image_object:
        return {"type": "image_url", "image_url": url}
    image: dict[str, Any] = {"url": url}
    if detail and dialect.detail:
        image["detail"] = detail
    return {"type": "image_url", "image_url": image}


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
        data = json.loads(body)
    except (ValueError, RecursionError):
        return Completion(problem=_not_json(body))
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


def writable(text: str) -> str:
    """Replace lone surrogates, which Arrow and UTF-8 cannot hold.

    >>> writable("caf\\ud800e")
    'caf\\ufffde'
    """
    try:
        text.encode()
    except UnicodeEncodeError:
        # Through UTF-16, so that a pair written as two escapes becomes its character.
        return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    return text


def _count(value: Any) -> int | None:
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value < 2**62:
        return None
    return value


def _not_json(body: str) -> str:
    head = body.lstrip()[:200].lower()
    if not head:
        return "an empty body"
    if head.startswith(("<!doctype", "<html", "<head", "<body")):
        return "not JSON but HTML"
    return "JSON that is cut off or garbled" if head[0] in "{[" else "not JSON"


def error_words(body: str) -> str:
    """The message of an error body, in whatever of the usual forms it comes.

    >>> error_words('{"error": {"message": "no such model", "code": 404}}')
    'no such model'
    >>> error_words('{"detail": [{"loc": ["body", "seed"], "msg": "not permitted"}]}')
    'seed: not permitted'
    """
    try:
        data = json.loads(body)
    except (ValueError, RecursionError):
        return _not_json(body) if body.lstrip()[:1] in ("", "<") else body.strip()[:500]
    if not isinstance(data, dict):
        return str(data)[:500]
    error = data.get("error", data)
    for place in (error, data):
        if isinstance(place, str):
            return place[:2000]
        if isinstance(place, dict):
            for name in ("message", "detail", "msg"):
                words = _said(place.get(name))
                if words:
                    return words[:2000]
    return json.dumps(error)[:500]


def _said(value: Any) -> str | None:
    if isinstance(value, str):
        return value
    if isinstance(value, list):
        return "; ".join(
            f"{item.get('loc', [''])[-1]}: {item.get('msg')}"
            for item in value
            if isinstance(item, dict) and isinstance(item.get("loc", [""]), list)
        )
    return None


def _param(body: str) -> str | None:
    try:
        param = json.loads(body)["error"]["param"]
    except (ValueError, KeyError, TypeError, RecursionError):
        return None
    return param if isinstance(param, str) else None


def code_of(body: str) -> str:
    """The `code` and `type` of an error body as one text, for telling no credit from no time."""
    try:
        error = json.loads(body)["error"]
        return f"{error.get('code')} {error.get('type')}"
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return ""


_PARAMETERS = re.compile(
    r"\b(response_format|json_schema|json_object|structured[ _]outputs?|guided_\w+|"
    r"max_completion_tokens|max_tokens|temperature|seed|(?:image_url\.)?detail|image_url)\b",
    re.IGNORECASE,
)
_CONTEXT = re.compile(r"context (?:length|window|size)|too many tokens|maximum context", re.I)
_NO_MODEL = re.compile(
    r"model\b.{0,120}(?:not found|does not exist|not exist|unknown|invalid|not available|"
    r"no such)|(?:unknown|invalid|no such|unsupported) model\b",
    re.IGNORECASE | re.DOTALL,
)


def rejected_parameter(body: str) -> str | None:
    """Name the parameter of ours that a 400 or 422 is about; None where it is about the row.

    >>> rejected_parameter('{"error": {"message": "Unsupported parameter: \\'max_tokens\\'"}}')
    'max_tokens'
    >>> rejected_parameter('{"error": {"message": "could not process image"}}') is None
    True
    """
    words = error_words(body)
    if _CONTEXT.search(words):
        return None
    found = _PARAMETERS.search(_param(body) or "") or _PARAMETERS.search(words)
    if found is None:
        return None
    name = found.group(1).lower().removeprefix("image_url.")
    if name.startswith(("json_", "structured", "guided_")):
        return "response_format"
    if name == "image_url":
        return name if re.search(r"\bstring\b", words) else None
    return name


def rejects_model(body: str) -> bool:
    """Tell whether an error body says that the endpoint does not have the model.

    >>> rejects_model('{"error": {"message": "The model `x` does not exist"}}')
    True
    """
    return bool(_NO_MODEL.search(error_words(body)))


def next_dialect(dialect: Dialect, parameter: str) -> Dialect | None:
    """The dialect to try after a refusal of `parameter`; None where there is none left.

    >>> next_dialect(Dialect(), "response_format").form
    'json_object'
    >>> next_dialect(Dialect(), "max_tokens").tokens
    'max_completion_tokens'
    >>> next_dialect(Dialect(), "seed") is None
    True
    """
    if parameter in dialect.fixed:
        return None
    if parameter == "response_format":
        rung = _FORMS.index(dialect.form) + 1
        return replace(dialect, form=_FORMS[rung]) if rung < len(_FORMS) else None
    if parameter in ("max_tokens", "max_completion_tokens"):
        return _next_tokens(dialect)
    if parameter == "temperature" and dialect.temperature:
        return replace(dialect, temperature=False)
    if parameter == "detail" and dialect.detail:
        return replace(dialect, detail=False)
    if parameter == "image_url" and dialect.image_object:
        return replace(dialect, image_object=False)
    return None


def _next_tokens(dialect: Dialect) -> Dialect | None:
    """Each name of the length limit is tried once, then none is sent."""
    if dialect.tokens is None or "tokens" in dialect.fixed:
        return None
    other = "max_tokens" if dialect.tokens != "max_tokens" else "max_completion_tokens"
    tried = dialect.fixed | {f"tried {dialect.tokens}"}
    return replace(dialect, tokens=None if f"tried {other}" in tried else other, fixed=tried)


_KEYS = re.compile(r"\b(?:sk|pk|gsk|hf|xai)[-_][\w*\-]{6,}|\bBearer\s+\S+|\bAIza[\w-]{20,}")
_BLOBS = re.compile(r"data:[\w/+.-]+;base64,[\w+/=]*|[\w+/=]{120,}")


def redact(words: str, hide: Iterable[str] = (), length: int = 300) -> str:
    """Take keys, images and the request's own texts out of an endpoint's words, and bound them.

    >>> redact("Incorrect API key provided: sk-abcd1234efgh. See the docs")
    'Incorrect API key provided: [key]. See the docs'
    """
    for text in hide:
        if len(text) >= 4:
            words = words.replace(text, "[hidden]")
    words = _BLOBS.sub("[data]", _KEYS.sub("[key]", words))
    words = " ".join(writable(words).split())
    return words if len(words) <= length else words[: length - 1] + "…"


def retry_after(headers: Mapping[str, str], now: float) -> float | None:
    """Seconds that `Retry-After` or `retry-after-ms` asks to wait; None where neither does.

    The header's two forms, seconds and a date, are those of RFC 9110, section 10.2.3; the one in
    milliseconds is OpenAI's and Azure's.

    >>> retry_after({"retry-after": "2"}, now=0.0), retry_after({"retry-after-ms": "250"}, now=0.0)
    (2.0, 0.25)
    """
    from email.utils import parsedate_to_datetime

    for name, unit in (("retry-after-ms", 1000.0), ("retry-after", 1.0)):
        value = headers.get(name)
        if value is None:
            continue
        try:
            seconds = float(value) / unit
        except ValueError:
            try:
                seconds = parsedate_to_datetime(value).timestamp() - now
            except (ValueError, TypeError, OverflowError):
                continue
        if seconds == seconds and seconds != float("inf"):
            return max(0.0, seconds)
    return None
