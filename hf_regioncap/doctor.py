"""`python -m hf_regioncap doctor`: what a run needs, checked one by one, each with its fix."""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

from hf_regioncap import prompts, rejections, wire
from hf_regioncap.captioning import open_store, prepare_row
from hf_regioncap.costs import find_price
from hf_regioncap.endpoint import Endpoint, resolve_endpoint
from hf_regioncap.errors import RegionCaptionError
from hf_regioncap.flags import add_option_flags, options_from_flags
from hf_regioncap.options import OFFLINE, Options, read_options
from hf_regioncap.questions import Question
from hf_regioncap.response import read_completion
from hf_regioncap.rows import make_plan
from hf_regioncap.tables import Rows


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
    if reply.status in (401, 403):
        yield Finding("key", False, f"HTTP {reply.status}: check the key (api_key_env)")
        return
    yield _model(options, reply)
    yield from _answers(options, endpoint)


def _models(endpoint: Endpoint) -> Any:
    from hf_regioncap.client import list_models

    return list_models(endpoint)


def _model(options: Options, reply: Any) -> Finding:
    model = _model_name(options)
    try:
        names = [entry["id"] for entry in json.loads(reply.body)["data"]]
    except (ValueError, KeyError, TypeError):
        return Finding("model", None, f"the endpoint does not list its models; asking {model!r}")
    if model in names:
        return Finding("model", True, f"{model!r} is served")
    shown = ", ".join(map(repr, names[:5])) or "none"
    return Finding("model", None, f"{model!r} is not among those listed ({shown}, …): pass model=")


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
        parameter = (
            rejections.rejected_parameter(reply.body) if reply.status in (400, 422) else None
        )
        better = wire.next_dialect(dialect, parameter) if parameter else None
        if better is None:
            break
        yield Finding("parameter", None, f"{parameter!r} is not taken; the run does without")
        dialect = better
    if reply.status != 200:
        said = wire.redact(rejections.error_words(reply.body), endpoint.secrets)
        words = reply.failure or f"HTTP {reply.status}: {said}"
        if parameter is None:
            yield Finding("image", False, f"a picture was not answered: {words}")
            return
        way = f": pass another {_OPTIONS[parameter]}= or none" if parameter in _OPTIONS else ""
        yield Finding("parameter", False, f"{parameter!r} is not taken ({words}){way}")
        return
    completion = read_completion(reply.body)
    if completion.finish_reason == "length":
        words = f"the answer was cut at {question.token_limit} tokens: pass a larger max_tokens="
        yield Finding("image", None, words)
        return
    if completion.problem or not completion.text:
        words = completion.problem or "an empty answer"
        yield Finding("image", False, f"a picture was answered with {words}: is it a VLM?")
        return
    yield Finding("image", True, "a picture was taken and answered")
    yield _schema(completion.text, question, dialect)


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
        row.setdefault(options.label_column, ["red", "blue"])
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
