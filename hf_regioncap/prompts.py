"""Counts and names to the text of a request; nothing here knows of images or endpoints."""

from __future__ import annotations

import string
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from hf_regioncap.errors import OptionError

#: The wording of DataFlow-MM's region caption pipeline, which existing data was made with.
PROMPT = (
    "Describe the content of each marked region in the image. There are {count} regions: {regions}."
)
SYSTEM_PROMPT = "You are a helpful assistant."
#: What is added to the default prompt where labels are known.
LABELS = " Their labels are {labels}."

STYLES = {
    "phrase": "Describe each region in one short noun phrase.",
    "sentence": "Describe each region in one sentence.",
    "detailed": "Describe each region in detail, in three to five sentences: what it is, its "
    "parts, colours, materials, state and what it does.",
    "distinct": "Describe each region so that a reader can tell it from everything else in the "
    "image, in one or two sentences.",
}

#: Longer labels are cut: a label is a name, not a place for a second prompt.
_LABEL_LENGTH = 80
#: Under which keys people keep the name of a label, in this order.
_LABEL_KEYS = ("name", "label", "category", "class", "class_name", "title", "id", "category_id")
_OWN_FIELDS = ("count", "regions", "labels")


def region_mark(region: int) -> str:
    """Name a region as the seed's prompt names it.

    >>> region_mark(2)
    '<region2>'
    """
    return f"<region{region}>"


def region_range(count: int) -> str:
    """Name all regions of an image, as the seed's prompt does.

    >>> region_range(3)
    '<region1> to <region3>'
    """
    return f"{region_mark(1)} to {region_mark(count)}"


def list_regions(regions: Sequence[int]) -> str:
    """Name some regions one by one.

    >>> list_regions([2, 5, 6])
    '<region2>, <region5> and <region6>'
    """
    if not regions:
        return ""
    *first, last = [region_mark(region) for region in regions]
    return f"{', '.join(first)} and {last}" if first else last


def list_labels(labels: Sequence[str | None]) -> str:
    """Name the labels of regions 1 to N, quoted and bounded; unlabelled regions are left out.

    >>> list_labels(["dog", None, 'a "big"  cat'])
    '<region1> "dog", <region3> "a \\'big\\' cat"'
    """
    named = ((region, _quotable(label or "")) for region, label in enumerate(labels, 1))
    return ", ".join(f'{region_mark(region)} "{label}"' for region, label in named if label)


def _quotable(label: str) -> str:
    words = " ".join(label.split()).replace('"', "'")
    return words if len(words) <= _LABEL_LENGTH else words[: _LABEL_LENGTH - 1] + "…"


def template_fields(template: str, argument: str = "prompt") -> list[str]:
    """Name the fields of a template, refusing what is not a plain `{name}`.

    >>> template_fields("{count} things in {city}, {{not}} this")
    ['count', 'city']
    """
    try:
        parsed = list(string.Formatter().parse(template))
    except ValueError as error:
        raise OptionError(
            f"{argument} is not a template ({error}): write {{{{ and }}}} for braces, "
            f"got {template!r}"
        ) from None
    names = [name for _, name, _, _ in parsed if name is not None]
    for _, name, form, conversion in parsed:
        if name is not None and (not name or "[" in name or form or conversion):
            raise OptionError(
                f"{argument}: {{{name}}} must be a plain name, one of {_OWN_FIELDS} or a column"
            )
    return names


def fill_template(
    template: str,
    *,
    count: int,
    labels: Sequence[str | None] = (),
    column: Callable[[str], Any] | None = None,
    argument: str = "prompt",
) -> str:
    """Fill {count}, {regions}, {labels} and any other {name} by `column(name)`.

    The default prompt's sentence about labels is left out where no region has one.

    >>> fill_template(PROMPT, count=1)
    'Describe the content of each marked region in the image. There are 1 regions:
    <region1> to <region1>.'
    >>> fill_template("{city}: {labels}", count=2, labels=["cat", "dog"], column=lambda _: "Rome")
    'Rome: <region1> "cat", <region2> "dog"'
    """
    values: dict[str, str] = {
        "count": str(count),
        "regions": region_range(count),
        "labels": list_labels(labels),
    }
    if not values["labels"]:
        template = template.removesuffix(LABELS)
    text = []
    for literal, name, _, _ in string.Formatter().parse(template):
        text.append(literal)
        if name in values:
            text.append(values[name])
        elif name is not None:
            if column is None:
                raise OptionError(f"{argument}: no column {name!r} for {{{name}}}")
            value = column(name)
            text.append("" if value is None else str(value))
    return "".join(text)


def prompt_template(prompt: str | None, labelled: bool) -> str:
    """The template to fill: the user's own, or the seed's with labels where the data has them.

    >>> prompt_template(None, labelled=True)[-29:]
    '}. Their labels are {labels}.'
    >>> prompt_template("{count}?", labelled=True)
    '{count}?'
    """
    if prompt is not None:
        return prompt
    return PROMPT + LABELS if labelled else PROMPT


def instructions(
    regions: Sequence[int],
    *,
    form: str,
    view: str = "overlay",
    asked_again: bool = False,
    caption_style: str | None = None,
    language: str | None = None,
) -> str:
    """What goes with the prompt but is not part of it: view, style, language, the answer's form.

    `form` is `"json_schema"`, `"json_object"` or `"text"`.

    >>> instructions([1, 2], form="text", language="German")
    'Each region is marked in the picture with its number: <region1> with 1, and so on.
    Write in German. Answer with one line for each region that starts with its mark, like
    "<region1>: …", and with nothing else.'
    >>> instructions([3], form="json_object", asked_again=True)
    'Each region is marked in the picture with its number: <region1> with 1, and so on.
    Answer now for <region3> only. Answer with one JSON object, with the key "3" and that
    region\\'s description as its value.'
    """
    parts = [_VIEWS[view].format(regions=list_regions(regions))]
    if asked_again and view == "overlay":
        parts.append(f"Answer now for {list_regions(regions)} only.")
    if caption_style:
        parts.append(STYLES[caption_style])
    if language:
        parts.append(f"Write in {language}.")
    parts.append(_form_words(regions, form))
    return " ".join(parts)


_VIEWS = {
    "overlay": "Each region is marked in the picture with its number: <region1> with 1, and so on.",
    "crop": "The picture is a crop around {regions}, which is framed where there is more to see. "
    "Describe that region only.",
    "both": "The first picture is the whole image with each region marked with its number, the "
    "second a crop "
    "around {regions}. Describe that region only.",
}


def _form_words(regions: Sequence[int], form: str) -> str:
    if form == "text":
        mark = region_mark(regions[0])
        return (
            f'Answer with one line for each region that starts with its mark, like "{mark}: …", '
            "and with nothing else."
        )
    if len(regions) == 1:
        return (
            f'Answer with one JSON object, with the key "{regions[0]}" and that region\'s '
            "description as its value."
        )
    keys = ", ".join(f'"{region}"' for region in regions)
    return (
        f"Answer with one JSON object with the keys {keys}: for each region number a string, the "
        "description of that region."
    )


def answer_schema(regions: Sequence[int]) -> dict[str, Any]:
    """The JSON schema of an answer: an object keyed by region number.

    An object and not an array, because servers do not enforce an array's length reliably. The
    form is that of OpenAI's structured outputs, which vLLM, SGLang and llama.cpp take too.

    >>> answer_schema([2])["properties"]
    {'2': {'type': 'string'}}
    """
    keys = [str(region) for region in regions]
    return {
        "type": "object",
        "properties": {key: {"type": "string"} for key in keys},
        "required": keys,
        "additionalProperties": False,
    }


def label_text(value: Any, names: Sequence[str] | Mapping[int, str] | None) -> str | None:
    """The name of one label: a string as it is, an int by `names`; None where there is none.

    Of several names, as Visual Genome gives to a box, it is the first, and of a dict its name.

    >>> label_text(1, ["cat", "dog"]), label_text("bird", None), label_text(7, ["cat"])
    ('dog', 'bird', None)
    >>> label_text(["cat", "kitty"], None), label_text({"id": 1, "name": "cat"}, None)
    ('cat', 'cat')
    """
    if isinstance(value, str):
        return value
    if isinstance(value, Mapping):
        value = [value[key] for key in _LABEL_KEYS if key in value]
    if isinstance(value, list | tuple):
        return next((text for item in value if (text := label_text(item, names))), None)
    if value is None or isinstance(value, bool) or names is None:
        return None
    try:
        number = int(value)
        if number != value:  # half a label is none
            return None
        if isinstance(names, Mapping):
            return names.get(number, names.get(str(number)))  # type: ignore[call-overload]
        return names[number] if 0 <= number < len(names) else None
    except (TypeError, ValueError, OverflowError):
        return None
