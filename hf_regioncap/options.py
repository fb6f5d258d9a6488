"""Every option of the column functions: its default, its meaning and its check, in one place."""

from __future__ import annotations

import difflib
import inspect
import json
import math
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, TypedDict, TypeVar
from urllib.parse import urlsplit

from hf_regioncap import boxes, prompts
from hf_regioncap.errors import OptionError, one_of

VIEWS = ("overlay", "crop", "both")
ANSWER_FORMS = ("json_schema", "json_object", "text")
TOKEN_PARAMETERS = ("max_tokens", "max_completion_tokens")
DETAILS = ("auto", "low", "high")
OPENAI_URL = "https://api.openai.com/v1"
OFFLINE = "offline"
#: Pillow itself opens no larger image, whatever it is told per call.
MOST_PIXELS = 178_956_970

F = TypeVar("F", bound=Callable[..., Any])
Parse = Callable[[str, Sequence[int]], Mapping[int, str]]
Propose = Callable[[Any], Any]


class OptionKwargs(TypedDict, total=False):
    """The options as keyword arguments, for type checkers and editors; see `Options`."""

    image_column: str
    image_root: str | os.PathLike[str] | None
    max_pixels: int
    max_side: int | None
    quality: int
    bbox_column: str
    box_format: str
    box_unit: str
    max_boxes: int
    propose: str | Propose | None
    label_column: str | None
    label_names: Sequence[str] | Mapping[int, str] | None
    prompt: str | None
    system_prompt: str | None
    prompt_column: str | None
    caption_style: str | None
    language: str | None
    view: str
    mark: str | Mapping[str, Any]
    model: str
    base_url: str | None
    api_key_env: str | None
    concurrency: int
    temperature: float | None
    max_tokens: int | None
    seed: int | None
    timeout: float
    detail: str | None
    answer_form: str | None
    token_parameter: str | None
    extra_headers: Mapping[str, str] | None
    extra_query: Mapping[str, Any] | None
    extra_body: Mapping[str, Any] | None
    reask: int
    parse: Parse | None
    on_error: str
    answer_store: str | os.PathLike[str] | None
    store_tag: str | None
    column_prefix: str


@dataclass(frozen=True, kw_only=True)
class Options:
    """All options, checked; the column functions take the same names as keyword arguments.

    >>> Options(max_boxes=3).max_boxes
    3
    >>> Options(box_format="coco")
    Traceback (most recent call last):
    hf_regioncap.errors.OptionError: box_format must be one of ('xywh', 'xyxy', 'cxcywh', 'yxyx'),
    got 'coco'
    """

    image_column: str = "image"
    """column of images: as `datasets` stores them, raw bytes, or PIL"""
    image_root: str | os.PathLike[str] | None = None
    """folder under which image paths may be read; without it bytes and Hugging Face cache files"""
    max_pixels: int = 64_000_000
    """larger images are refused, before they are decoded"""
    max_side: int | None = None
    """bound for the longer side of what is sent and stored; None: the source's size"""
    quality: int = 90
    """JPEG quality of what is sent and stored"""
    bbox_column: str = "bbox"
    """a list of boxes per row; a dotted name reaches inside a column: `"objects.bbox"`"""
    box_format: str = "xywh"
    """`"xywh"` (top-left and size), `"xyxy"`, `"cxcywh"`, `"yxyx"` (y first: TFDS, Gemini)"""
    box_unit: str = "pixel"
    """`"pixel"`, or of the upright image `"fraction"` (0 to 1), `"percent"`, `"permille"`"""
    max_boxes: int = 10
    """at most so many valid boxes are used per image, and the length of `normalized_bbox`"""
    propose: str | Propose | None = "contours"
    """boxes for rows that have none: `"contours"`, a callable `image -> (N, 4) xyxy`, or None"""
    label_column: str | None = None
    """a name, `ClassLabel` or int per box, for the prompt: `"objects.category"`"""
    label_names: Sequence[str] | Mapping[int, str] | None = None
    """the names of int labels"""
    prompt: str | None = None
    """template with {count}, {regions}, {labels} and any column; None: DataFlow-MM's wording"""
    system_prompt: str | None = None
    """template of the system message; None: DataFlow-MM's; `""`: no system message"""
    prompt_column: str | None = None
    """a column with the user's own prompt per row, sent as it is"""
    caption_style: str | None = None
    """`"phrase"`, `"sentence"`, `"detailed"`, `"distinct"`: for the request, not in `prompt`"""
    language: str | None = None
    """language of the captions, e.g. `"German"`: for the request, not in `prompt`"""
    view: str = "overlay"
    """`"overlay"` (one request per image), `"crop"` or `"both"` (one request per region)"""
    mark: str | Mapping[str, Any] = "box"
    """how regions are marked: a preset's name or a mapping of `marks.Mark`'s parameters"""
    model: str = "gpt-4o-mini"
    """the model's name at the endpoint"""
    base_url: str | None = None
    """OpenAI-compatible address; None: `OPENAI_BASE_URL`, else OpenAI; `"offline"`: built in"""
    api_key_env: str | None = field(default=None, repr=False)
    """name of the variable with the key; None: `OPENAI_API_KEY`, for its host; `""`: no key"""
    concurrency: int = 32
    """requests in flight per process, at most"""
    temperature: float | None = 0.0
    """sampling temperature; None: the endpoint's own"""
    max_tokens: int | None = None
    """bound of one answer in tokens; None: by the number of regions"""
    seed: int | None = None
    """sampling seed, for endpoints that know one"""
    timeout: float = 120.0
    """seconds for one attempt, all in all"""
    detail: str | None = None
    """OpenAI's image detail: `"low"`, `"high"`, `"auto"`; None: not sent"""
    answer_form: str | None = None
    """`"json_schema"`, `"json_object"`, `"text"`; None: the best that the endpoint takes"""
    token_parameter: str | None = None
    """`"max_tokens"` or `"max_completion_tokens"`; None: what the endpoint takes"""
    extra_headers: Mapping[str, str] | None = field(default=None, repr=False)
    """further request headers"""
    extra_query: Mapping[str, Any] | None = field(default=None, repr=False)
    """further query parameters of the request's address"""
    extra_body: Mapping[str, Any] | None = field(default=None, repr=False)
    """further fields of the request's body"""
    reask: int = 1
    """how often missing regions are asked for again"""
    parse: Parse | None = None
    """`(answer, regions) -> {region: caption}` instead of the built-in parser"""
    on_error: str = "record"
    """`"record"` failures in their row, or `"raise"` the first one"""
    answer_store: str | os.PathLike[str] | None = "default"
    """path of the answer store; `"default"`: in the Hugging Face home; None: no store"""
    store_tag: str | None = None
    """separates stored answers that model and request cannot tell apart"""
    column_prefix: str = ""
    """put before the name of every new column"""
    given: frozenset[str] = frozenset()
    """names of the options that were passed, as a missing default column is no error"""

    def __post_init__(self) -> None:
        """Raise OptionError for the first option that cannot work."""
        for name, choices in _CHOICES.items():
            value = getattr(self, name)
            if value is not None or name not in _MAY_BE_NONE:
                one_of(name, value, choices)
        for name, (kind, low, high) in _RANGES.items():
            value = getattr(self, name)
            if value is not None or name not in _MAY_BE_NONE:
                _check_number(name, value, kind, low, high)
        for name, words in _WORDS.items():
            value = getattr(self, name)
            kinds = (str, os.PathLike) if name in _PATHS else (str,)
            if not isinstance(value, kinds) and not (value is None and name in _MAY_BE_NONE):
                shown = type(value).__name__ if name == "api_key_env" else repr(value)
                raise OptionError(f"{name} must be {words}, got {shown}")
        self._check_callables()
        self._check_mappings()
        _check_base_url(self.base_url)
        if self.prompt is not None and self.prompt_column is not None:
            raise OptionError("prompt and prompt_column exclude each other: pass one of them")
        if not self.model.strip():
            raise OptionError("model must be a model's name, got ''")
        if isinstance(self.label_names, str):
            raise OptionError(
                f"label_names must be a list of names or a mapping, got {self.label_names!r}"
            )
        if self.image_root is not None and not Path(self.image_root).expanduser().is_dir():
            raise OptionError(f"image_root must be a folder, got {os.fspath(self.image_root)!r}")
        if self.label_names is not None and self.label_column is None:
            raise OptionError("label_names needs label_column, the column of the int labels")
        from hf_regioncap.marks import resolve_mark

        resolve_mark(self.mark)

    def _check_callables(self) -> None:
        if isinstance(self.propose, str):
            one_of("propose", self.propose, ("contours",))
        elif self.propose is not None and not callable(self.propose):
            raise OptionError(
                f"propose must be 'contours', None or a callable image -> (N, 4) xyxy, "
                f"got {self.propose!r}"
            )
        if self.parse is not None and not callable(self.parse):
            raise OptionError(
                f"parse must be None or a callable (answer, regions) -> {{region: caption}}, "
                f"got {self.parse!r}"
            )
        if callable(self.propose) and not _takes(self.propose, 1):
            raise OptionError(
                f"propose must take one argument, the image; {self.propose!r} does not"
            )
        if self.parse is not None and not _takes(self.parse, 2):
            raise OptionError(
                f"parse must take two arguments, the answer and the regions; {self.parse!r} does "
                "not"
            )

    def _check_mappings(self) -> None:
        for name in ("extra_headers", "extra_query", "extra_body"):
            value = getattr(self, name)
            if value is not None and not isinstance(value, Mapping):
                # The value is not shown: headers may hold a key.
                raise OptionError(f"{name} must be a mapping, got a {type(value).__name__}")
        for name, value in (self.extra_headers or {}).items():
            if not all(f"{text}".isascii() and f"{text}".isprintable() for text in (name, value)):
                raise OptionError(
                    f"extra_headers: {name!r} has characters that no HTTP header can carry"
                )
        taken = {"model", "messages", "stream", "n"} & set(self.extra_body or {})
        if taken:
            raise OptionError(
                f"extra_body must not hold {sorted(taken)}: the library sets these itself"
            )
        try:
            json.dumps(dict(self.extra_body or {}), sort_keys=True, allow_nan=False)
        except (TypeError, ValueError) as error:
            raise OptionError(f"extra_body must be what JSON can hold: {error}") from None
        if self.label_names is not None and not isinstance(self.label_names, Mapping):
            names = self.label_names
            if isinstance(names, str) or not isinstance(names, Sequence):
                raise OptionError(
                    f"label_names must be a list of names or a mapping of numbers to names, "
                    f"got {names!r}"
                )


_CHOICES: dict[str, tuple[str, ...]] = {
    "box_format": boxes.FORMATS,
    "box_unit": boxes.UNITS,
    "view": VIEWS,
    "caption_style": tuple(prompts.STYLES),
    "detail": DETAILS,
    "answer_form": ANSWER_FORMS,
    "token_parameter": TOKEN_PARAMETERS,
    "on_error": ("record", "raise"),
}
_RANGES: dict[str, tuple[type, float, float]] = {
    "max_pixels": (int, 1, MOST_PIXELS),
    "max_side": (int, 28, math.inf),
    "quality": (int, 1, 100),
    "max_boxes": (int, 1, 1000),
    "concurrency": (int, 1, 4096),
    "temperature": (float, 0, 2),
    "max_tokens": (int, 1, math.inf),
    "seed": (int, -math.inf, math.inf),
    "timeout": (float, 0.001, math.inf),
    "reask": (int, 0, 10),
}
_WORDS: dict[str, str] = {
    "image_column": "a column's name",
    "image_root": "a folder",
    "bbox_column": "a column's name",
    "label_column": "a column's name",
    "prompt": "a template",
    "system_prompt": "a template",
    "prompt_column": "a column's name",
    "language": "a language's name",
    "model": "a model's name",
    "base_url": "an address",
    "api_key_env": "the name of an environment variable",
    "answer_store": "a path",
    "store_tag": "a short text",
    "column_prefix": "a text",
}
_PATHS = ("image_root", "answer_store")
_MAY_BE_NONE = {
    field.name
    for field in fields(Options)
    if field.default is None or "None" in str(field.type).split(" | ")
}


def read_options(given: Mapping[str, Any]) -> Options:
    """Check keyword arguments against the options, naming the nearest for an unknown one.

    >>> read_options({"max_box": 3})
    Traceback (most recent call last):
    hf_regioncap.errors.OptionError: unknown option 'max_box'; did you mean 'max_boxes'?
    """
    names = list(OptionKwargs.__annotations__)
    for name in given:
        if name not in names:
            near = difflib.get_close_matches(name, names, 1)
            hint = f"did you mean {near[0]!r}?" if near else f"the options are {', '.join(names)}"
            raise OptionError(f"unknown option {name!r}; {hint}")
    return Options(**given, given=frozenset(given))


def _takes(function: Callable[..., Any], count: int) -> bool:
    """Whether a callable can be called with so many arguments, as far as it tells."""
    try:
        signature = inspect.signature(function)
    except (TypeError, ValueError):  # some that are written in C tell nothing
        return True
    try:
        signature.bind(*range(count))
    except TypeError:
        return False
    return True


def _check_number(name: str, value: Any, kind: type, low: float, high: float) -> None:
    types = (int,) if kind is int else (int, float)
    whole = "a whole number" if kind is int else "a number"
    bounds = f"from {low:g} to {high:.12g}" if high < math.inf else f"of {low:g} or more"
    bounds = "" if low == -math.inf else f" {bounds}"
    bounds += " (Pillow opens no larger image)" if high == MOST_PIXELS else ""
    if isinstance(value, bool) or not isinstance(value, types) or not low <= value <= high:
        raise OptionError(f"{name} must be {whole}{bounds}, got {value!r}")


def _check_base_url(base_url: str | None) -> None:
    if base_url is None or base_url == OFFLINE:
        return
    try:
        parts = urlsplit(base_url)
        usable = parts.scheme in ("http", "https") and parts.hostname and parts.port != 0
    except ValueError:  # a port that is no number, a bracket that is not closed
        usable = False
    if not usable or base_url != base_url.strip():
        raise OptionError(
            f"base_url must be 'offline' or an address like 'http://localhost:8000/v1', "
            f"got {base_url.partition('?')[0]!r}"  # what follows may be a key
        )
    if parts.username or parts.password:
        raise OptionError(
            "base_url must not hold a user or password: put the key into an environment "
            "variable and pass its name as api_key_env"
        )


def option_docs() -> dict[str, str]:
    """The sentence that stands under each option in `Options`.

    >>> option_docs()["quality"]
    'JPEG quality of what is sent and stored'
    """
    import ast

    body = ast.parse(inspect.getsource(Options)).body[0]
    assert isinstance(body, ast.ClassDef)
    docs = {}
    for line, text in zip(body.body, body.body[1:], strict=False):
        if isinstance(line, ast.AnnAssign) and isinstance(text, ast.Expr):
            assert isinstance(line.target, ast.Name)
            assert isinstance(text.value, ast.Constant)
            docs[line.target.id] = str(text.value.value)
    return docs


def signature_with_options(function: Callable[..., Any]) -> inspect.Signature:
    """The function's own parameters, then every option with its default, for help and editors.

    >>> def crop(rows, **options): ...
    >>> str(signature_with_options(crop))[:27]
    "(rows, *, image_column: 'st"
    """
    own = inspect.signature(function)
    named = [
        inspect.Parameter(
            field.name, inspect.Parameter.KEYWORD_ONLY, default=field.default, annotation=field.type
        )
        for field in fields(Options)
        if field.name in OptionKwargs.__annotations__
    ]
    kept = [each for each in own.parameters.values() if each.kind is not each.VAR_KEYWORD]
    return own.replace(parameters=[*kept, *named])


def documented(function: F) -> F:
    """Show the options in the signature of a function that takes them as keywords."""
    function.__signature__ = signature_with_options(function)  # type: ignore[attr-defined]
    return function
