"""`python -m hf_regioncap doctor`: what a run needs, checked one by one, each with its fix."""

from __future__ import annotations

import argparse
import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

from hf_regioncap import prompts, rejections, verdict, wire
from hf_regioncap.bodies import is_stream
from hf_regioncap.captioning import open_store, prepare_row
from hf_regioncap.costs import find_price
from hf_regioncap.dialogue import read_answer
from hf_regioncap.endpoint import Endpoint, resolve_endpoint
from hf_regioncap.errors import RegionCaptionError
from hf_regioncap.flags import add_option_flags, options_from_flags
from hf_regioncap.options import OFFLINE, Options, read_options
from hf_regioncap.questions import Question
from hf_regioncap.response import Completion, read_completion
from hf_regioncap.rows import make_plan
from hf_regioncap.tables import Rows
from hf_regioncap.transport import UNPACKED, Reply


@dataclass(frozen=True)
class Finding:
    """One line of the report; `ok` None means: worth knowing, nothing is wrong."""

    what: str
    ok: bool | None
    words: str

    def __str__(self) -> str:
        """The line.

        >>> print(Finding("key", True, "from OPENAI_API_KEY"))
        ok    key              from OPENAI_API_KEY
        """
        sign = {True: "ok", False: "FAIL", None: "note"}[self.ok]
        return f"{sign:<5} {self.what:<16} {self.words}"


def examine(options: Options) -> Iterator[Finding]:
    """Check endpoint, model, image, schema, price, store and Hub, in this order.

    One small picture is sent to the endpoint, asked about as the run would ask.
    """
    yield from _endpoint(options)
    yield _price(options)
    yield _store(options)
    yield _hub()


def _endpoint(options: Options) -> Iterator[Finding]:
    try:
        endpoint = resolve_endpoint(options)
    except RegionCaptionError as error:
        yield Finding("endpoint", False, str(error))
        return
    key = "with a key" if endpoint.key else "without a key"
    reply = _models(endpoint)
    if reply.status == 0:
        yield Finding("endpoint", False, f"{endpoint.url}: {reply.failure}: is it running?")
        return
    yield Finding("endpoint", True, f"{endpoint.url} answers, {key}")
    if reply.status == 401 or rejections.rejects_key(reply.body):
        words = f"HTTP {reply.status}: {verdict.way_out(reply, endpoint)}"
        yield Finding("key", False, words)
        return
    yield _model(options, reply)
    yield from _answers(options, endpoint)


def _models(endpoint: Endpoint) -> Reply:
    from hf_regioncap.client import list_models

    return list_models(endpoint)


def _model(options: Options, reply: Reply) -> Finding:
    model = _model_name(options)
    if reply.status == 403:  # some keys may ask a model and not list any
        words = f"the key may not list models (HTTP 403); asking {model!r}"
        return Finding("model", None, words)
    try:
        listed = json.loads(reply.body)
        names = [entry["id"] for entry in (listed if isinstance(listed, list) else listed["data"])]
    except (ValueError, KeyError, TypeError):
        return Finding("model", None, f"the endpoint does not list its models; asking {model!r}")
    if _bare(model) in map(_bare, names):
        return Finding("model", True, f"{model!r} is served")
    shown = ", ".join(map(repr, names[:5])) or "none"
    return Finding("model", None, f"{model!r} is not among those listed ({shown}, …): pass model=")


def _bare(name: object) -> str:
    return str(name).removeprefix("models/")  # Gemini lists its models so, and takes both


def _model_name(options: Options) -> str:
    if options.base_url == OFFLINE:
        from hf_regioncap.offline import MODEL

        return MODEL
    return options.model


def _answers(options: Options, endpoint: Endpoint) -> Iterator[Finding]:
    """Send a picture with two marked regions: is it taken, and is the schema kept to?"""
    from hf_regioncap.client import post_once

    try:
        question = _test_question(options)
    except RegionCaptionError as error:
        yield Finding("prompt", False, str(error))
        return
    dialect = wire.first_dialect(options, is_openai=endpoint.is_openai)
    while True:
        reply = post_once(endpoint, wire.build_body(question, dialect, question.token_limit))
        judged = verdict.judge(reply, dialect, answered=False)
        if reply.answers or judged.dialect is None:
            break
        parameter = rejections.rejected_parameter(reply.body)
        words = f"{parameter!r} is not taken; the run does without"
        if parameter is None:
            said = wire.redact(rejections.error_words(reply.body), endpoint.secrets)
            words = f"asking for {dialect.form} was rejected ({said}); another form is tried"
        yield Finding("parameter", None, words)
        dialect = judged.dialect
    if reply.answers:
        completion = read_completion(reply.body)
        yield from _ways_of_its_own(reply, completion, dialect)
        yield from _answer(completion, reply.failure, question, dialect)
    else:
        yield _failure(reply, judged, endpoint)


def _failure(reply: Reply, judged: verdict.Verdict, endpoint: Endpoint) -> Finding:
    """Why the picture was not answered, and what to do about it."""
    said = wire.redact(rejections.error_words(reply.body), endpoint.secrets)
    words = reply.failure or f"HTTP {reply.status}: {said}"
    parameter = rejections.rejected_parameter(reply.body) if reply.status in (400, 422) else None
    if judged.kind == "refused":
        return Finding("image", False, f"the test picture was refused: {words}")
    if parameter is not None:
        way = f": pass another {_OPTIONS[parameter]}= or none" if parameter in _OPTIONS else ""
        return Finding("parameter", False, f"{parameter!r} is not taken ({words}){way}")
    is_passing = judged.kind == "retry"
    way = "try again when it is up" if is_passing else verdict.way_out(reply, endpoint)
    what = "key" if rejections.rejects_key(reply.body) else "image"
    return Finding(what, False, f"a picture was not answered: {words.rstrip('.')}: {way}")


def _ways_of_its_own(
    reply: Reply, completion: Completion, dialect: wire.Dialect
) -> Iterator[Finding]:
    """Tell in what other form than asked for an answer has come; all of it is read."""
    if is_stream(reply.body) and not dialect.stream:
        yield Finding("stream", None, "the answer came as a stream, which was not asked for")
    if packed := reply.headers.get(UNPACKED):
        yield Finding("packing", None, f"the answer came in {packed}, which was not asked for")
    if completion.thoughts is not None:
        name = completion.thoughts[0]
        yield Finding("reasoning", None, f"the text came in {name}, where thoughts are expected")


def _answer(
    completion: Completion, failure: str, question: Question, dialect: wire.Dialect
) -> Iterator[Finding]:
    """Judge the answer as the run does, and by what only a picture tells: its colours."""
    reading = read_answer(completion, question.regions, None, question.texts)
    if failure:
        yield Finding("image", False, f"a picture was answered with {failure}")
    elif reading.status == "api_truncated":
        words = f"the answer was cut at {question.token_limit} tokens: pass a larger max_tokens="
        yield Finding("image", None, words)
    elif reading.status == "api_refused":
        yield Finding("image", False, f"the picture was not described: {reading.reason}")
    elif reading.captions:
        yield Finding("image", True, "a picture was taken and answered")
        yield from _sight(reading.captions)
        yield _schema(completion.text or "", question, dialect)
    else:
        yield Finding("image", False, f"no use as an answer: {reading.reason}: is it a VLM?")


_RED = r"\bred|rouge|\broj[oa]|ross[oa]\b|vermelh|\brot|\brood|czerwon|красн|[红紅赤]|빨"
_BLUE = r"\bblue|bleu|\bazul|\bblu\b|\bblau|niebiesk|син[ияе]|[蓝藍青]|파란"
#: By region, as the picture of the test question is painted, in the languages asked for most.
_COLOURS = (re.compile(_RED, re.IGNORECASE), re.compile(_BLUE, re.IGNORECASE))


def _sight(captions: Mapping[int, str]) -> Iterator[Finding]:
    """Note captions that do not name the colour of what is in their region."""
    for region, caption in captions.items():
        own, other = _COLOURS[region - 1], _COLOURS[2 - region]
        if own.search(caption):
            continue
        name = ("red", "blue")[region - 1]
        said = f"region {region} of the test picture is {name}, its caption is {caption[:60]!r}"
        why = "does the model mix up regions?" if other.search(caption) else "does it see pictures?"
        yield Finding("sight", None, f"{said}: {why}")
        return


#: The options by which the user fixes a parameter.
_OPTIONS = {
    "response_format": "answer_form",
    "max_tokens": "token_parameter",
    "max_completion_tokens": "token_parameter",
    "temperature": "temperature",
    "seed": "seed",
}


def _test_question(options: Options) -> Question:
    """The run's own first question about a row with two boxes, made by what makes the run's."""
    from PIL import Image

    picture = Image.new("RGB", (224, 224), "white")
    picture.paste((200, 30, 30), (20, 20, 100, 100))
    picture.paste((30, 60, 200), (120, 120, 200, 200))
    row: dict[str, Any] = {
        options.image_column: picture,
        options.bbox_column: [[20, 20, 80, 80], [120, 120, 80, 80]],
    }
    if options.label_column is not None:
        row.setdefault(options.label_column, ["square", "square"])
    if options.prompt_column is not None:
        row.setdefault(options.prompt_column, prompts.PROMPT)
    for argument in ("prompt", "system_prompt"):
        for name in prompts.template_fields(getattr(options, argument) or "", argument):
            row.setdefault(name, name)  # stands for the column's text
    options = replace(options, box_format="xywh", box_unit="pixel", max_pixels=Options.max_pixels)
    rows = Rows(row, options.image_column)
    return prepare_row(rows, 0, make_plan(options, rows))[1][0]


def _schema(text: str, question: Question, dialect: wire.Dialect) -> Finding:
    if dialect.form == "text":
        return Finding("schema", None, "the endpoint takes no JSON form; answers are read as text")
    try:
        kept = set(json.loads(text)) == {str(region) for region in question.regions}
    except (ValueError, TypeError):
        kept = False
    if kept:
        return Finding("schema", True, f"the answer kept to {dialect.form}")
    return Finding(
        "schema", None, f"{dialect.form} is taken but not kept to; answers are read tolerantly"
    )


def _price(options: Options) -> Finding:
    try:
        price = find_price(options)
    except RegionCaptionError as error:
        return Finding("price", None, f"unknown: {error}")
    if price is None:
        words = f"unknown for {options.model!r} here: pass price= for costs and max_cost"
        return Finding("price", None, words)
    return Finding(
        "price", True, f"${price.prompt:g} in, ${price.completion:g} out per million tokens"
    )


def _store(options: Options) -> Finding:
    store = open_store(options)
    if store is None:
        return Finding("store", None, "none: answers of an interrupted run will be lost")
    try:
        store.open()
    except RegionCaptionError as error:
        return Finding("store", False, str(error))
    return Finding("store", True, f"{store.path} can be written")


def _hub() -> Finding:
    from huggingface_hub import HfApi, get_token
    from huggingface_hub.errors import HfHubHTTPError

    if get_token() is None:
        return Finding("hub", None, "no token: `hf auth login` before publishing")
    try:
        who = HfApi().whoami()
    except (HfHubHTTPError, OSError) as error:
        words = type(error).__name__
        return Finding("hub", None, f"the token could not be checked ({words})")
    token = who.get("auth", {}).get("accessToken", {})
    role = token.get("role", "unknown")
    if role == "read":
        words = f"token of {who.get('name')} can only read: publishing needs write"
        return Finding("hub", False, words)
    return Finding("hub", True, f"token of {who.get('name')} with role {role!r}")


def doctor_cli(arguments: list[str]) -> int:
    """Print the findings; 0 where nothing fails, else 1."""
    parser = argparse.ArgumentParser(
        prog="python -m hf_regioncap doctor",
        description="Check what a run needs: one small picture is sent to the endpoint.",
    )
    add_option_flags(parser)
    try:
        options = read_options(options_from_flags(parser.parse_args(arguments)))
    except RegionCaptionError as error:
        print(Finding("options", False, str(error)))  # noqa: T201
        return 2
    failed = False
    for finding in examine(options):
        print(finding, flush=True)  # noqa: T201
        failed |= finding.ok is False
    return int(failed)
