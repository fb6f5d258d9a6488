"""Captions as an answer numbers them, and which of them count."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import NamedTuple

from hf_regioncap.answer_coordinates import without_coordinates
from hf_regioncap.refusals import is_refusal


class Item(NamedTuple):
    """A caption and the number that the answer gives it."""

    number: int | None  # None: it speaks of several regions
    caption: str | None  # None: it cannot be told from another region's
    ordinal: bool = False  # the number may be the item's place in a list


_SAYS_NOTHING = {"n/a", "na", "none", "null", "nil", "undefined", "string"}


def _readable(caption: str) -> str | None:
    """Return the caption if it says something, else None."""
    caption = without_coordinates(caption.strip())
    if caption.lower().strip(".- ") in _SAYS_NOTHING or not any(map(str.isalnum, caption)):
        return None
    return None if is_refusal(caption) else caption


def keep_asked(items: Iterable[Item], asked: Sequence[int]) -> dict[int, str]:
    """Keep the first readable caption of each region asked for.

    A list that counts its own items shows by a number that was not asked for before one that
    was ("1. ... 2. ..." for the regions 2 and 5): unless all of them are named, such numbers
    are not trusted.
    """
    items, wanted = list(items), set(asked)
    names_all = wanted <= {item.number for item in items}
    lowest_unasked = 1_000
    kept: dict[int, str] = {}
    for number, caption, ordinal in items:
        if number is None:
            continue
        if number not in wanted:
            if number == 0:
                break
            lowest_unasked = min(lowest_unasked, number)
        elif caption is None:
            kept.setdefault(number, "")
        elif number not in kept and (not ordinal or names_all or number < lowest_unasked):
            readable = _readable(caption)
            if readable:
                kept[number] = readable
    return {number: caption for number, caption in kept.items() if caption}
