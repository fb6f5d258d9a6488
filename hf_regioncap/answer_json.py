"""Captions out of JSON answers, in any of the forms that models choose."""

from __future__ import annotations

import re
from collections.abc import Sequence

from hf_regioncap.answer_items import Item, keep_asked
from hf_regioncap.answer_marks import starts_caption, strong_marks
from hf_regioncap.answer_parts import from_marks, from_text, items_at
from hf_regioncap.answer_text import named_number
from hf_regioncap.loose_json import CAPTION_FIELDS, json_values, text_of

_NUMBER_FIELDS = (
    "region", "region_id", "region_number", "number", "id", "index", "no", "num",
    "box", "label", "name", "key", "mark", "编号", "区域",
)  # fmt: skip
_ORDINAL_FIELDS = ("id", "index", "number", "no", "num", "key")
_TEXT_FIELDS = (*CAPTION_FIELDS, "region", "regions", "captions", "result", "response", "output")


def from_json(text: str, asked: Sequence[int]) -> dict[int, str] | None:
    """Read captions out of JSON; None if the answer is no JSON, {} if it is but of no use."""
    values = json_values(text)
    if not values:
        return None
    first = values[0]
    before, after = text[: first.start], text[first.end :]
    alone = not before.rpartition("\n")[2].strip()
    if not alone and any(mark.kind == "label" for mark in strong_marks(before)):
        return None  # braces inside a caption, or JSON behind each mark
    items = [item for found in values for item in _json_items(found.value)]
    if items:
        return keep_asked(items, asked)
    if len(values) == 1 and first.whole and alone and not starts_caption(f"{before}\n{after}"):
        captions = _without_numbers(first.value, asked)
        if captions is not None:
            return captions
    is_cut = not first.whole and not after and text[first.start] == "{"
    return {} if is_cut or (alone and not (before and first.whole)) else None


def _json_items(value: object) -> list[Item]:
    """Read the numbered captions of a JSON value in any of the forms that models choose."""
    if isinstance(value, list):
        return [item for part in value for item in _json_items(part)]
    if not isinstance(value, tuple):
        return []
    numbered = [(named_number(key), part) for key, part in value]
    items = [Item(n, _own_part(text_of(part) or "", n)) for n, part in numbered if n is not None]
    if items:
        return items
    record = _record(value)
    if record is not None:
        return [record]
    described = sorted(value, key=lambda pair: not re.search("capt|desc", pair[0], re.I))
    return [item for _, part in described for item in _json_items(part)]


def _record(pairs: tuple[tuple[str, object], ...]) -> Item | None:
    """Read an object such as {"region": 1, "caption": "a cat"}."""
    fields = {key.strip().casefold(): value for key, value in reversed(pairs)}
    for name in _NUMBER_FIELDS:
        number = _field_number(fields.get(name))
        if number is not None:
            rest = tuple(pair for pair in pairs if pair[0].strip().casefold() != name)
            caption = text_of(rest)
            if caption is None and any(isinstance(part, list | tuple) for _, part in rest):
                return None  # {"id": 7, "regions": {...}}
            return Item(number, _own_part(caption or "", number), name in _ORDINAL_FIELDS)
    return None


def _field_number(value: object) -> int | None:
    if isinstance(value, str):
        return named_number(value)
    return value if isinstance(value, int) else None


def _own_part(caption: str, number: int) -> str | None:
    """Cut a JSON caption's own label; if its lines label other regions, take its own part only.

    A caption that is JSON once more is read as such.
    """
    if caption.startswith(("{", "[")):
        inner = json_values(caption)
        if len(inner) == 1 and inner[0].whole and inner[0].end - inner[0].start == len(caption):
            items = _json_items(inner[0].value)
            if items:
                return keep_asked(items, [number]).get(number)
            return text_of(inner[0].value)
    labels = [
        mark
        for mark in strong_marks(caption)
        if mark.kind == "label" and not mark.loose and caption[: mark.start][-1:] in ("", "\n")
    ]
    if not labels:
        return caption
    return keep_asked(items_at(caption, labels, cut=False), [number]).get(number)


def _without_numbers(value: object, asked: Sequence[int]) -> dict[int, str] | None:
    """Read JSON that names no region: the one caption, or one for each place."""
    if isinstance(value, tuple):
        texts = [part for key, part in value if key.strip().casefold() in _TEXT_FIELDS]
        if len(texts) == 1 and isinstance(texts[0], str):
            return from_text(texts[0].strip(), asked, cut=False)
        lists = [part for _, part in value if isinstance(part, list)]
        value = lists[0] if len(lists) == 1 else None
    if not isinstance(value, list) or not all(isinstance(part, str | None) for part in value):
        return None
    marked = from_marks("\n".join(part or "" for part in value), asked, cut=False)
    if marked is not None:
        return marked
    if list(asked) != list(range(1, len(value) + 1)):
        return {}
    return keep_asked((Item(place, part or "") for place, part in enumerate(value, 1)), asked)
