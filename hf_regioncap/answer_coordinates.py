"""Coordinates that models trained on grounding put in place of a caption, or beside one."""

from __future__ import annotations

import re

_N = r"[-+]?(?:\d{1,5}(?:\.\d{1,8})?|\.\d{1,8})"
_FOUR = rf"{_N}(?:\s{{0,3}}[,;\s]\s{{0,3}}{_N}){{3}}"
_PAIR = rf"[(\[]\s?{_N}\s?,\s?{_N}\s?[)\]]"
_GROUP = (
    rf"(?:[\[({{]\s?){{0,2}}(?:[\[(]\s?{_FOUR}\s?[\])]|{_PAIR}\s?,?\s?{_PAIR})(?:\s?[\])}}]){{0,2}}"
)
_TAGS = re.compile(
    r"<loc_?\d{1,4}>|<\|?/?(?:box|bbox|bbox_2d|quad|det|ref|box_start|box_end|object_ref_start"
    r"|object_ref_end|points?|polygon)\|?>|<points?\b[^<>]{0,400}>",
    re.IGNORECASE,
)
_NAME = (
    r"[\"']?(?:(?:its|the)\s)?(?:bounding[ _]box|bbox|bbox_2d|box_2d|box|coordinates?|coords?"
    r"|position"
    r"|location|坐标|座標|位置|koordinaten|coordonnées|coordenadas)[\"']?"
)
_AT = r"(?:(?:located|positioned|found|situated|placed)\s)?(?:at|within)\s"
_BEHIND = re.compile(
    rf"[\s,;:(，；：（–—-]{{0,4}}(?P<named>(?:(?:with|{_AT})\s?)?{_NAME}\s?(?:is|are|of|at|:|=|：|为"
    rf"|は)?\s?"
    rf"|{_AT})?(?P<group>{_GROUP})[\s.。)]{{0,3}}\Z",
    re.IGNORECASE,
)
_BEFORE = re.compile(
    rf"\s{{0,3}}(?:{_NAME}\s?[:：=]?\s?)?(?P<group>{_GROUP})\s?[:：,;–—-]{{0,2}}\s?", re.I
)
_ALONE = re.compile(
    rf"{_PAIR}|[\[(]?\s?{_N}(?:\s?,\s?{_N}){{3}}\s?[\])]?"
    rf"|\W{{0,4}}(?:[\"']?[xywh](?:_?(?:min|max|\d|center|left"
    rf"|top))?[\"']?\s?[:=]\s?{_N}[\s,;]{{0,3}}){{2,6}}\W{{0,4}}",
    re.IGNORECASE,
)
#: Behind these words numbers in brackets are what is seen.
_SEEN = re.compile(
    r"(?:\b(?:numbers?|numerals?|digits?|keys?|buttons?|reads?|reading|says?|saying|labell?ed"
    r"|shows?"
    r"|showing|displays?|displaying|text|written|values?|sequence|code|codes|with|of|in|and|to|the"
    r"|zahlen?|ziffern?|mit|números?|chiffres?|nombres?|avec|con)|数字|番号"
    r"|写着)\s{0,2}[:：]?\s{0,2}\Z",
    re.IGNORECASE,
)
_REACH = 240  # characters at the end of a caption in which coordinates are looked for
_MOST_GROUPS = 20


def without_coordinates(caption: str) -> str:
    """Cut the coordinates before and behind a caption; what was nothing else comes back empty.

    Numbers that are part of what is seen stay.

    >>> without_coordinates("a red car [112, 34, 560, 780]")
    'a red car'
    >>> without_coordinates("<box>(112,34),(560,780)</box>")
    ''
    >>> without_coordinates("a clock at 10:30 and a jersey [23]")
    'a clock at 10:30 and a jersey [23]'
    """
    caption = without_tags(caption).strip()
    if _ALONE.fullmatch(caption):
        return ""
    for _ in range(_MOST_GROUPS):
        cut = _without_last(caption)
        if cut == caption:
            break
        caption = cut
    before = _BEFORE.match(caption)
    if before and _is_place(before["group"]):
        return caption[before.end() :]
    return caption


def without_tags(text: str) -> str:
    """Drop what marks a text as grounded: `<ref>`, `<box>`, `<loc0012>`, and their like."""
    return _TAGS.sub("", text) if "<" in text else text


def _without_last(caption: str) -> str:
    head = max(0, len(caption) - _REACH)
    behind = _BEHIND.search(caption, head)
    if behind is None:
        return caption
    seen = _SEEN.search(caption, head, behind.start("group"))
    if not behind["named"] and (seen or not _is_place(behind["group"])):
        return caption
    return caption[: behind.start()].rstrip()


def _is_place(group: str) -> bool:
    """Whether numbers are coordinates: some has two digits or a fraction, unlike a keypad's."""
    return re.search(r"\d\d|\.\d", group) is not None
