"""Marks in an answer's text (`<region1>`, `**Box 2:**`, `3.`), and what each does there."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from itertools import islice, pairwise
from typing import Literal

from hf_regioncap.answer_text import (
    ALL_NAMES,
    CIRCLED,
    COLONS,
    HAN,
    LOOSE_NAMES,
    LOOSE_UNSPACED,
    MOST_MARKS,
    NAMES,
    NAMES_UNSPACED,
    to_int,
)


@dataclass(frozen=True, slots=True)
class Mark:
    """A region's mark in a text, and what it does there.

    `label` names the caption that follows it; `subject` begins a sentence at the start of a line,
    `inner` one within a line; `clause` and `tangle` may begin another region's description inside
    a sentence (as its subject, or in a label's form); `mention` only refers to a region; `close`
    is a closing tag.
    """

    number: int | None
    kind: Literal["label", "subject", "inner", "clause", "tangle", "mention", "close"]
    start: int  # where the caption before it ends
    end: int  # where its own caption begins
    after: int  # where the mark itself ends
    ordinal: bool = False
    loose: bool = False
    row: bool = False  # of a table
    quoted: bool = False
    opener: str = ""  # emphasis that begins before the mark and goes on behind the label
    heading: int = 0  # its level


# --- marks that name a region -----------------------------------------------------------------

_N = r"\d{1,3}(?!_?[A-Za-z\d]|\d|\.\d)"
_MARK = re.compile(
    rf"""(?:
      (?:(?<![A-Za-z0-9])(?:{NAMES}|(?P<loose>{LOOSE_NAMES}))(?![^\W\d_])
         |{NAMES_UNSPACED}|(?P<loose2>{LOOSE_UNSPACED}))
      (?:\s(?:id|number|index)\s?=\s?["']?)?
      [ \t\xa0_\-\#.]{{0,3}}(?:(?:no|nr|number|nummer)\b[. ]{{0,2}}|[nN№]?[°º]?[ ]?)
      (?P<number>{_N}|[{HAN}](?![{HAN}]))["']?
     |[第제][ ]?(?P<place>{_N}|[{HAN}])[ ]?[个個番目の]{{0,3}}(?:{ALL_NAMES})
     |(?P<close>(?<=</)(?:region|box)(?=>))
    )[ ]?\|?(?P<shut>[>\])）】」』》〉＞}}])?""",
    re.IGNORECASE | re.VERBOSE,
)
_OPENING = re.compile(r"[<\[(（【「『《〈＜{][|/*_ ]{0,2}$")
_LEAD = r"""(?:
    (?:in|for|within|inside|at|on|as[ ]for|regarding|im|dans|en|nel|em|na)[ ]
      (?:the[ ](?:(?:marked|green|red)[ ])?|la[ ]|der[ ]|el[ ])?
    |[在对于]{1,2}[ ]?
    |in[ ](?:the|this)[ ](?:image|picture|photo),[ ]
    |(?:here[ ]is[ ])?(?:the[ ]|a[ ])?
      (?:contents?|image|scene|area|object|item|subject|descriptions?|captions?
        |marked[ ]\w{1,12})[ ]
      (?:of|for|in|inside|within|marked(?:[ ](?:as|by))?|labell?ed(?:[ ]as)?)[ ](?:the[ ])?
    |(?:the[ ])?[a-z-]{3,14}[ ](?:marked[ ])?(?:region|box|area|object),?[ ]
    )"""
_LINE_START = re.compile(
    rf"""(?P<decor>(?:[^\w\n{{]|_){{0,24}}(?:\d{{1,3}}(?:[^\w\n{{]|_){{1,8}})?)
    (?P<lead>{_LEAD})?""",
    re.I | re.X,
)
_BOUNDARY = re.compile(
    rf"""(?P<stop>[.!?:;…。！？；>]|[,，/|])["'”’)*_\]]{{0,3}}(?:[ \t]{{1,3}}|(?<=[。！？；，>]))
    (?P<decor>[*_`"'“•-]{{0,3}}[ ]?)(?P<joined>(?:and|und|et|y|e)[ ]|和)?(?P<lead>{_LEAD})?$""",
    re.I | re.X,
)
# A mark behind such a word is part of the sentence, whatever follows it.
_PREPOSITION = re.compile(
    r"""(?:(?<!and[ ])(?<!while[ ])(?<!but[ ])(?<![,;][ ])\bin
      |\b(?:of|to|with|than|from|by|near|behind|beside|at|on|as|like|for|under|above|below|over
        |see|the|into|inside|within|around|between|against|von|im|zu|mit|de|du|à|del|con)
    )[ \n]["'(*_]?$
    |[在与和跟]$""",
    re.I | re.X,
)
_ASIDE = r"[ \t]?[(（\[【](?:[^()（）\[\]【】\n]|[(（][^()（）\n]{0,60}[)）]){1,100}[)）\]】]"
_CLOSERS = r"[*_`\"'”’»]{0,4}"
_LABEL = re.compile(
    rf"""{_CLOSERS}(?:[ ](?:caption|description|content)\b)?(?:{_ASIDE})?{_CLOSERS}
    [ \t\xa0\u202f\u3000]{{0,3}}
    (?:(?P<firm>[:：﹕︰]|(?P<row>\|)|(?<=[\s*_`)\]】>])(?:[-–—=~]{{1,2}}>?|→)(?=[ \t\n]))
      |[.)、．](?=\s|\Z)|(?=\n|\Z))""",
    re.I | re.X,
)
_PLAIN_LABEL = re.compile(
    r"""[*_`]{0,3}[ \t]{0,3}["“'(*_]{0,3}(?:(?:an?|the|two|three|several|some|eine?|der|die|das|une?
    |le|la|les|el|una)[ ]|(?P<first>\w))""",
    re.I | re.X,
)
_SAYS = re.compile(
    r"""[*_`"')]{0,3}[ ]?(?:,|'s\b|(?:is|are|was|were|has|have|also|appears?|seems?|likely|can|could
    |may|might|contains?|shows?|features?|depicts?|displays?|includes?|highlights?|captures?|covers?
    |represents?|presents?|portrays?|illustrates?|focuses|encloses|consists|encompasses|frames
    |marks|outlines|indicates|reveals|holds|which|zeigt|enthält|ist|montre|contient|est|muestra
    |contiene|es|mostra|contém|è)\b|[是为为显展包有中内里上のにはが은는이가에])""",
    re.I | re.X,
)
_JOINT = re.compile(
    rf"""(?:[ ]?(?:[,，、]?[ ]?(?:and|&|\+|or|to|through|und|bis|et|à|y|和|与|及|到|至|と)[ ]?
      |[,，、/][ ]?)|[-–~～])
    ["'*_`]{{0,3}}[<\[(]?(?:(?:{ALL_NAMES})[ _-]?)?{_N}[>\])]?""",
    re.I | re.X,
)
# "Other regions:", "<region>:": nobody's, but the end of the caption before it.
_NAMELESS = re.compile(
    rf"""^(?![^\n:：]{{0,80}}\d)[^\w\n{{]{{0,12}}(?:[A-Za-z]{{1,16}}[ ]){{0,2}}
    (?:{NAMES}|{NAMES_UNSPACED})[ ]?[>\])】]?
    {_CLOSERS}(?:{_ASIDE})?{_CLOSERS}[ ]{{0,3}}[:：]""",
    re.I | re.M | re.X,
)
_OPENER = re.compile(r"(\*{1,3}|_{1,3})[<\[(`\"'“]*$")
_BOXES = ("[", "(", "【", "（")
_REACH = 90  # how far before a mark its sentence or line is looked for
AT_LINE_START = ("label", "subject")


def strong_marks(text: str) -> list[Mark]:
    """Find the marks that name a region (`<region1>`, `Box 1`) and say what each does."""
    marks: list[Mark] = []
    done = 0  # a mark within "<region1> and <region2>" has been taken with the first
    for found in _MARK.finditer(text):
        if found.start() < done:
            continue
        joint = None
        while another := _JOINT.match(text, joint.end() if joint else found.end()):
            joint = another
        done = joint.end() if joint else 0
        marks.append(_strong_mark(text, found, done))
        if len(marks) >= MOST_MARKS:
            break
    for found in islice(_NAMELESS.finditer(text), MOST_MARKS):
        marks.append(Mark(None, "label", found.start(), found.end(), found.end()))
    return _with_paired_tags(sorted(marks, key=lambda mark: mark.start))


def _strong_mark(text: str, found: re.Match[str], joint_end: int) -> Mark:
    opening = _OPENING.search(text, max(0, found.start() - 3), found.start())
    start = opening.start() if opening else found.start()
    bracket = opening[0][0] if opening and found["shut"] else ""
    after = joint_end or found.end()
    digits = found["number"] or found["place"]
    mark = Mark(
        number=None if joint_end or not digits else to_int(digits),
        kind="mention",
        start=start,
        end=start,
        after=after,
        ordinal=bool(found["place"]),
        loose=bool(found["loose"] or found["loose2"]) and bracket != "<",
    )
    if found["close"] or (opening and "/" in opening[0]):
        return replace(mark, kind="close", number=to_int(digits) if digits else None, end=after)
    line = text.rfind("\n", max(0, start - _REACH), start) + 1
    if line or start <= _REACH:
        at_line = _LINE_START.fullmatch(text, line, start)
        if at_line:
            return _at_line_start(text, mark, at_line, bracket)
    return _within_line(text, mark, max(line, start - _REACH))


def _at_line_start(text: str, mark: Mark, line: re.Match[str], bracket: str) -> Mark:
    says = _SAYS.match(text, mark.after)
    label = _LABEL.match(text, mark.after)
    plain = not mark.loose and not says and (bracket in _BOXES or _plain_label(text, mark))
    if label or plain:
        return _as_label(text, mark, line["decor"], line.start(), label)
    wrapped = _PREPOSITION.search(text, max(0, line.start() - 20), line.start())
    if wrapped or (mark.loose and not says):
        return mark
    sentence = line.start() + len(line["decor"].rstrip("*_`\"'“"))
    return replace(mark, kind="subject", start=line.start(), end=sentence)


def _within_line(text: str, mark: Mark, head: int) -> Mark:
    says = _SAYS.match(text, mark.after)
    label = _LABEL.match(text, mark.after)
    firm = bool(label and label["firm"])
    boundary = _BOUNDARY.search(text, head, mark.start)
    if boundary:
        start = boundary.start("decor")
        if firm:
            return _as_label(text, mark, boundary["decor"], start, label)
        sentence = boundary["stop"] in ".!?:;…。！？；>" and not boundary["joined"]
        if sentence and (says or not mark.loose):
            return replace(mark, kind="inner", start=start, end=start)
    if _PREPOSITION.search(text, head, mark.start):
        return mark
    if firm or (not mark.loose and not says and _plain_label(text, mark)):
        return replace(mark, kind="tangle")
    return replace(mark, kind="clause") if says and not mark.loose else mark


def _plain_label(text: str, mark: Mark) -> bool:
    """Whether what follows a mark without a colon begins a caption: "<region1> A cat"."""
    follows = _PLAIN_LABEL.match(text, mark.after)
    return follows is not None and (follows["first"] or "A").isupper()


def _as_label(text: str, mark: Mark, decor: str, start: int, label: re.Match[str] | None) -> Mark:
    end = label.end() if label else mark.after
    emphasis = _OPENER.search(decor)
    opener = emphasis[1] if emphasis else ""
    if opener and opener in text[mark.after : end]:
        opener = ""
    elif opener and text.startswith(opener, end):
        end, opener = end + len(opener), ""
    return replace(
        mark,
        kind="label",
        start=start,
        end=end,
        opener=opener,
        row=bool(label and label.groupdict().get("row")),
        quoted=decor.endswith('"'),
        heading=decor.count("#"),
    )


def _with_paired_tags(marks: list[Mark]) -> list[Mark]:
    """Take the `<region1>` that a `</region1>` closes for a label, wherever it stands."""
    behind_last = 0
    for place, closing in enumerate(marks):
        if closing.kind == "close":
            within = range(behind_last, place)
            same = [at for at in within if closing.number in (marks[at].number, None)]
            last = max(same, default=-1)
            opening = next((at for at in same if marks[at].kind != "mention"), last)
            if opening >= 0 and marks[opening].kind != "label":
                marks[opening] = replace(marks[opening], kind="label", end=marks[opening].after)
            behind_last = place + 1
    return marks


# --- marks that only count --------------------------------------------------------------------

_NUMBERED_LINE = re.compile(
    rf"""^(?P<indent>[ \t\u3000]{{0,16}})(?:>[ ]?)?
    (?P<decor>(?:[-*+•][ \t]{{1,3}})?[^\w\n{{(\[（【<$€£{CIRCLED}]{{0,8}})
    (?:[(\[（【<](?P<a>\d{{1,3}})[)\]）】>]{_CLOSERS}[ \t]?[:：.|–-]?
      |(?<=\*\*)(?P<b>\d{{1,3}})\*\*[ \t]?[:：.|–-]?
      |(?P<c>\d{{1,3}}){_CLOSERS}[ \t\xa0]{{0,2}}
         (?:\\?[.:)、．：）。।](?!\d)|(?P<row>\|)|[–—-](?=[ \t])(?![ \t]\d))
      |(?P<d>\d{{1,2}})\ufe0f?\u20e3
      |(?P<e>[{CIRCLED}])[ .:：、]?
      |第(?P<f>\d{{1,3}}|[{HAN}])[个個]?[：:、，]
      |(?<=\#)(?P<bare>\d{{1,3}})(?=[ ]\S))""",
    re.MULTILINE | re.VERBOSE,
)
_TABLE_RULE = re.compile(r"[|:\s-]{2,200}")
_INLINE_NUMBER = re.compile(
    r"""(?:(?<![^\s.)\]*\#|])[ ]?|[(\[\#*|]{1,3}[ ]?)
    (\d{1,3})\*{0,2}(?:[.):\]：）．、]|[ ]?\|)(?!\d)(?=.)""",
    re.X,
)
LEAD_IN = re.compile(
    r"""\b(?:image|picture|photo|here|below|sure|certainly|regions|boxes|marked|captions?
    |descriptions?|beschreib\w*|bild|voici|aquí|imagen)\b|图|区域|以下|画像|領域""",
    re.I | re.X,
)


def _numbered_lines(text: str, asked: Sequence[int]) -> list[Mark]:
    """Find the marks that only count: `1.`, `(1)`, `[1]:`, `| 1 |`; none if it is no such list."""
    lines = list(islice(_NUMBERED_LINE.finditer(text), MOST_MARKS))
    lines = [line for line in lines if len(line["indent"]) <= len(lines[0]["indent"])]
    if not lines or (len(lines) == 1 and lines[0]["bare"]):
        return []
    before = text[: lines[0].start()].rstrip().rpartition("\n")[2]
    if _TABLE_RULE.fullmatch(before):
        before = ""
    in_caption = before.endswith(COLONS) or len(asked) == 1
    if before and in_caption and not LEAD_IN.search(before):
        return []
    marks = [_numbered_line(text, line) for line in lines]
    for place, (mark, following) in enumerate(pairwise(marks)):
        if text[mark.end : following.start].rstrip().endswith(COLONS):
            return marks[: place + 1]  # a list within this caption: which numbers are whose?
    return marks


def _numbered_line(text: str, line: re.Match[str]) -> Mark:
    digits = next(line[name] for name in (*"abcdef", "bare") if line[name])
    mark = Mark(to_int(digits), "label", line.start(), line.end(), line.end(), ordinal=True)
    return _as_label(text, mark, line["decor"], line.start(), line)


def starts_caption(text: str) -> bool:
    """Whether any mark in the text begins a caption."""
    return _begin_captions(strong_marks(text)) or bool(_NUMBERED_LINE.search(text))


def _begin_captions(marks: Iterable[Mark]) -> bool:
    kinds = (*AT_LINE_START, "inner")
    return any(mark.kind in kinds and mark.number is not None for mark in marks)


def caption_marks(text: str, asked: Sequence[int]) -> list[Mark]:
    """Find the marks that captions are read by; none if no mark begins a caption."""
    marks = strong_marks(text)
    if _begin_captions(marks):
        return marks
    counted = _numbered_lines(text, asked)
    return _with_doubts(text, counted, asked) if counted else []


def _with_doubts(text: str, marks: list[Mark], asked: Sequence[int]) -> list[Mark]:
    """Add what may be another mark within a line of a counted list: "1. a cat 2. a dog"."""
    own = {mark.number for mark in marks}
    doubted: list[Mark] = []
    ends = [mark.start for mark in marks[1:]] + [len(text)]
    for mark, end in zip(marks, ends, strict=True):
        doubted.append(mark)
        expected = {*asked, (mark.number or 0) + 1} - own
        for found in _INLINE_NUMBER.finditer(text, mark.end, end):
            if to_int(found[1]) in expected:
                place = found.start()
                doubted.append(Mark(None, "tangle", place, place, place))
                break
    return doubted
