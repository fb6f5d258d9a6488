"""Questions to request bodies, error bodies to what they mean.

Pure: bytes and text in, bytes and values out. The form is that of OpenAI's chat completions API,
which vLLM, SGLang, llama.cpp, Ollama, LM Studio, Gemini, DashScope, Groq and OpenRouter speak too.
"""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from hf_regioncap.prompts import answer_schema
from hf_regioncap.questions import Question

if TYPE_CHECKING:
    from hf_regioncap.options import Options

_FORMS = ("json_schema", "json_object", "text")


@dataclass(frozen=True)
class Dialect:
    """What an endpoint takes of the many ways to say the same; starts hopeful, learns by refusals.

    `form` is how the answer's form is asked for, `tokens` the name of the length limit (None: not
    sent), the flags whether a parameter is sent at all, `stream` its value (None: not sent).
    `fixed` names what the user decided.
    """

    form: str = "json_schema"
    tokens: str | None = "max_tokens"
    temperature: bool = True
    detail: bool = True
    image_object: bool = True
    stream: bool | None = False
    stream_usage: bool = True
    fixed: frozenset[str] = frozenset()


#: OpenAI's models that think before they answer: they reject every temperature but their own.
_REASONING = re.compile(r"o\d.*|gpt-5(?:-(?:mini|nano|pro|\d).*)?")


def first_dialect(options: Options, *, is_openai: bool) -> Dialect:
    """How an endpoint is asked first: what the user fixed, else what most endpoints take.

    OpenAI's reasoning models reject `max_tokens` and a temperature, Ollama knows no other name.
    A live run would learn this by a refusal, a batch file cannot.

    >>> from hf_regioncap.options import Options
    >>> first = first_dialect(Options(model="gpt-5-mini"), is_openai=True)
    >>> first.tokens, first.temperature
    ('max_completion_tokens', False)
    >>> first_dialect(Options(answer_form="text"), is_openai=False).fixed
    frozenset({'response_format'})
    """
    fixed = {"response_format"} if options.answer_form else set()
    fixed |= {"tokens"} if options.token_parameter else set()
    if "temperature" in options.given and options.temperature:
        fixed |= {"temperature"}  # a default or zero may be left out, a wish may not
    thinks = is_openai and _REASONING.fullmatch(options.model) is not None
    return Dialect(
        form=options.answer_form or "json_schema",
        tokens=options.token_parameter or ("max_completion_tokens" if is_openai else "max_tokens"),
        temperature=not thinks or "temperature" in fixed,
        fixed=frozenset(fixed),
    )


def build_body(question: Question, dialect: Dialect, max_tokens: int) -> bytes:
    """The request's JSON body.

    Images are put in as base64 after the rest is encoded: a JSON encoder would look at each of
    their characters for something to escape.

    >>> body = build_body(Question(regions=(1,), images=(b"jpeg",), text="?"), Dialect(), 64)
    >>> json.loads(body)["messages"][1]["content"][1]
    {'type': 'image_url', 'image_url': {'url': 'data:image/jpeg;base64,anBlZw=='}}
    """
    body: dict[str, Any] = {"model": question.model}
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
    if dialect.stream is not None:  # some servers stream unless they are told not to
        body["stream"] = dialect.stream
    if dialect.stream and dialect.stream_usage:
        body["stream_options"] = {"include_usage": True}
    body |= dict(question.extra_body)
    content = [_encoded({"type": "text", "text": question.text})]
    content += [_image_part(image, question.detail, dialect) for image in question.images]
    content += [_encoded({"type": "text", "text": question.instructions(dialect.form)})]
    messages = [b'{"role": "user", "content": [' + b", ".join(content) + b"]}"]
    if question.system:
        messages.insert(0, _encoded({"role": "system", "content": question.system}))
    return _encoded(body)[:-1] + b', "messages": [' + b", ".join(messages) + b"]}"


_LENGTH = re.compile(r"max.*(token|length)|n(um)?_?predict|budget", re.IGNORECASE)


def most_tokens(question: Question, dialect: Dialect, max_tokens: int) -> int | None:
    """How many tokens the answer may have by what is sent; None where nothing bounds it.

    What the user's own part of the request allows, a budget for thoughts too, comes on top, unless
    it takes the place of the limit.

    >>> asked = Question(regions=(1,), images=(), text="?", extra_body={"max_tokens": 9000})
    >>> most_tokens(asked, Dialect(), 64), most_tokens(asked, Dialect(tokens=None), 64)
    (9000, 9000)
    >>> most_tokens(replace(asked, extra_body={}), Dialect(tokens=None), 64) is None
    True
    """
    allowed = list(_lengths(question.extra_body))
    if dialect.tokens and dialect.tokens not in question.extra_body:
        allowed.append(max_tokens)
    # Null, 0 and -1 are what servers call boundless.
    numbers = [each for each in allowed if type(each) is int and each > 0]
    return sum(numbers) if numbers and len(numbers) == len(allowed) else None


def _lengths(value: Any) -> Iterator[Any]:
    """The values under names that speak of a length, at any depth."""
    if isinstance(value, list | tuple):
        for each in value:
            yield from _lengths(each)
    elif isinstance(value, Mapping):
        for name, each in value.items():
            if isinstance(each, Mapping | list | tuple):
                yield from _lengths(each)
            elif _LENGTH.search(str(name)):
                yield each


def _encoded(value: Any) -> bytes:
    return json.dumps(value, ensure_ascii=True).encode()


_DATA_URL = "data:image/jpeg;base64,"


def _image_part(jpeg: bytes, detail: str | None, dialect: Dialect) -> bytes:
    image: Any = _DATA_URL
    if dialect.image_object:
        image = {"url": _DATA_URL}
        if detail and dialect.detail:
            image["detail"] = detail
    part = _encoded({"type": "image_url", "image_url": image})
    return part.replace(_DATA_URL.encode(), _DATA_URL.encode() + base64.b64encode(jpeg))


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
    if parameter == "stream" and dialect.stream is not None:
        return replace(dialect, stream=None if dialect.stream else True)
    if parameter == "stream_options" and dialect.stream and dialect.stream_usage:
        return replace(dialect, stream_usage=False)
    return None


def _next_tokens(dialect: Dialect) -> Dialect | None:
    """Each name of the length limit is tried once, then none is sent."""
    if dialect.tokens is None or "tokens" in dialect.fixed:
        return None
    other = "max_tokens" if dialect.tokens != "max_tokens" else "max_completion_tokens"
    tried = dialect.fixed | {f"tried {dialect.tokens}"}
    return replace(dialect, tokens=None if f"tried {other}" in tried else other, fixed=tried)


#: The usual forms of keys, and any long run of letters and digits that might be one.
_KEYS = re.compile(
    r"\b(?:sk|pk|rk|gsk|csk|hf|xai|nvapi|pplx|r8|fw|tgp|gh[a-z]|github_pat|glpat)[-_][\w*\-]{6,}|"
    r"\bBearer\s+\S+|\bAIza[\w-]{20,}|\beyJ[\w-]{8,}\.[\w.-]+|"
    r"\b(?=\w*\d)(?=\w*[A-Za-z])\w{28,}"
)
_BLOBS = re.compile(r"data:[\w/+.-]+;base64,?[\w+/=\\-]*|[\w+/=\\]{64,}")


def is_key(text: str) -> bool:
    """Tell whether a text as a whole looks like a key.

    >>> is_key("sk-abcd1234efgh5678ijkl"), is_key("hf_photos"), is_key("a cat")
    (True, False, False)
    """
    return len(text) >= 20 and _KEYS.fullmatch(text) is not None


def redact(words: str, hide: Iterable[str] = (), length: int = 300) -> str:
    """Take keys, images and the request's own texts out of an endpoint's words, and bound them.

    >>> redact("Incorrect API key provided: sk-abcd1234efgh. See the docs")
    'Incorrect API key provided: [key]. See the docs'
    """
    for text in sorted(hide, key=len, reverse=True):  # one may be the beginning of another
        if len(text) >= 4:
            words = words.replace(text, "[hidden]")
    words = _KEYS.sub("[key]", _BLOBS.sub("[data]", words))
    words = " ".join(writable(words).split())
    return words if len(words) <= length else words[: length - 1] + "…"
