"""Captions out of an answer's text: what lies between its marks, or all of it."""

from __future__ import annotations

import re
from collections.abc import Sequence

from hf_regioncap.answer_coordinates import without_tags
from hf_regioncap.answer_items import Item, keep_asked
from hf_regioncap.answer_marks import AT_LINE_START, LEAD_IN, Mark, caption_marks, strong_marks
from hf_regioncap.answer_text import COLONS, MOST_MARKS, named_number
from hf_regioncap.loose_json import json_values, text_of, unescape


def from_text(text: str, asked: Sequence[int], cut: bool) -> dict[int, str]:
    """Read captions out of text: those behind marks, else the one asked for."""
    found = from_marks(text, asked, cut)
    if found is not None:
        return found
    if len(asked) != 1 or cut:
        return {}
    mentioned = {mark.number for mark in strong_marks(without_tags(text)) if not mark.loose}
    if mentioned and asked[0] not in mentioned:
        return {}
    return keep_asked([Item(asked[0], _lone(text))], asked)


def from_marks(text: str, asked: Sequence[int], cut: bool) -> dict[int, str] | None:
    """Read the captions behind marks; None if no mark begins one."""
    marks = caption_marks(text, asked)
    if not marks:
        return None
    return keep_asked(items_at(text, marks, cut or len(marks) >= MOST_MARKS), asked)


def items_at(text: str, marks: Sequence[Mark], cut: bool) -> list[Item]:
    """Cut a text at its marks; captions behind labels come before those in sentences."""
    if cut:  # what touches the end may have been about to become something else
        end = len(text)
        marks = [m for m in marks if m.kind == "close" or max(m.end, m.after) < end]
    labelled = {mark.number for mark in marks if mark.kind == "label"}
    sections: list[tuple[Mark, Item]] = []
    current: Mark | None = None
    doubt = len(text)  # where the current caption may begin to be another's
    for mark in marks:
        if mark.kind in AT_LINE_START or (mark.kind == "inner" and not labelled):
            if current and current.number == mark.number and mark.kind == "inner":
                continue  # the region's next sentence
            if current:
                sections.append((current, _item(text, current, mark.start, doubt)))
            current, doubt = mark, len(text)
        elif current and mark.kind == "close":
            foreign = mark.number not in (None, current.number)
            doubt = current.end if foreign else doubt
            sections.append((current, _item(text, current, mark.start, doubt)))
            current = None
        elif current and mark.number != current.number:
            unlabelled = mark.kind in ("clause", "inner") and mark.number not in labelled
            if unlabelled or mark.kind == "tangle":
                doubt = min(doubt, mark.start)
    if current and not cut:
        sections.append((current, _item(text, current, len(text), doubt)))
    return [item for mark, item in sorted(sections, key=lambda pair: pair[0].kind != "label")]


def _item(text: str, mark: Mark, end: int, doubt: int) -> Item:
    raw = _before_ending(text[mark.end : end], mark)
    caption = _section(raw, mark) if mark.end + len(raw) <= doubt else None
    return Item(mark.number, caption, mark.ordinal)


_CHAT = (
    r"let me know|i hope|feel free|if you(?:'d| would| need| have| want)|please (?:let|note)|note:"
    r"|is there anything|would you like"
)
_SUMMARY = (
    r"overall,|in summary|in conclusion|to summari[sz]e|together,"
    r"|these (?:are|regions|captions|descriptions)"
)
_NEW_PARAGRAPH = r"\n[ \t]{0,8}\n[ \t]{0,8}(?:[-=*_]{3,9}\n)?[ \t>*_(\n]{0,6}"
_PARTING = re.compile(f"{_NEW_PARAGRAPH}(?:{_CHAT})", re.I)
_ENDING = re.compile(f"{_NEW_PARAGRAPH}(?:{_CHAT}|{_SUMMARY})|\n[ \t]{{0,4}}(#{{1,6}})[ \t]", re.I)
_RULE = re.compile(r"[ \t]*[-*_=~#`>]{2,}[ \t]*")


def _before_ending(raw: str, mark: Mark) -> str:
    """Cut a closing remark, or a heading that is not within this region's own."""
    for ending in _ENDING.finditer(raw):
        if not ending[1] or not mark.heading or len(ending[1]) <= mark.heading:
            return raw[: ending.start()]
    return raw


def _section(raw: str, mark: Mark) -> str:
    """Make a caption of the text between a mark and the next."""
    if mark.row:
        raw = raw.lstrip().partition("\n")[0]
    caption = _without_rules(_without_title(raw, mark).strip()).rstrip(" \t\n,，;；|/")
    if caption.startswith(('{"', "{'")):
        values = json_values(caption)
        return text_of(values[0].value) or "" if values else ""
    if mark.quoted and caption.startswith('"'):
        return unescape(caption[1:-1]) if caption.endswith('"') else ""
    return "" if caption.endswith(COLONS) else caption


def _without_title(raw: str, mark: Mark) -> str:
    """Cut a title in the label's emphasis or heading: "**Region 1: Meter** It is blue."."""
    line, _, rest = raw.partition("\n")
    if mark.opener and mark.opener in line:
        title, _, behind = line.partition(mark.opener)
        caption = f"{behind.lstrip(' :：-–—')}\n{rest}"
        return caption if caption.strip() else title
    return rest if mark.heading and rest.strip() else raw


def _without_rules(text: str) -> str:
    for _ in range(3):
        before, _, last = text.rpartition("\n")
        if not before or not _RULE.fullmatch(last):
            break
        text = before.rstrip()
    return text


# --- lines of values ---

_HEADER = re.compile(
    r"\W{0,3}(?:regions?|region[ _]?(?:id|number)|id|no|number|box|label)\W{0,3}"
    r"(?P<comma>[,;\t])\W{0,3}(?:captions?|descriptions?|text|content)\W{0,3}",
    re.IGNORECASE,
)


def from_csv(text: str, asked: Sequence[int], cut: bool) -> dict[int, str] | None:
    """Read the captions of lines such as `1,a cat` below a header; None if there is none."""
    head, _, rows = text.partition("\n")
    header = _HEADER.fullmatch(head.strip())
    if header is None:
        return None
    lines = rows.splitlines()[: MOST_MARKS + 1]
    items = []
    for line in lines[:-1] if cut else lines:
        number, _, caption = line.partition(header["comma"])
        items.append(Item(named_number(number), _unquoted(caption.strip())))
    return keep_asked(items, asked)


def _unquoted(value: str) -> str:
    quoted = len(value) > 1 and value[0] == value[-1] == '"'
    return value[1:-1].replace('""', '"') if quoted else value


# --- text without marks -----------------------------------------------------------------------

_OWN_LABEL = re.compile(r"[*_\"]{0,3}(?:caption|description|answer)[*_\"]{0,3}:[*_]{0,3}\s", re.I)
_LOOKS_LIKE_JSON = re.compile(r"""^[ \t]{0,8}(?:\{|\[\s?["'{])""", re.M)


def _lone(text: str) -> str:
    """Read the whole text as the one caption asked for, without a line that leads in to it."""
    if _LOOKS_LIKE_JSON.search(text):
        return ""
    line, _, rest = text.partition("\n")
    if line.rstrip().endswith(COLONS) and LEAD_IN.search(line):
        text = rest.strip()
    text = _OWN_LABEL.sub("", _PARTING.split(text, maxsplit=1)[0], count=1)
    return "" if text.rstrip().endswith(COLONS) else text
