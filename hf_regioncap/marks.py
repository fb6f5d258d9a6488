"""How regions are marked: the presets, their parameters, and the check of what users pass."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields, replace
from typing import Literal

from hf_regioncap.errors import OptionError, one_of

Shape = Literal["box", "corners", "hairline", "none"]
Label = Literal["plate", "dark", "text", "none"]
LabelAt = Literal["auto", "corner", "center"]
Outside = Literal["keep", "dim", "blur"]

#: Yellow, red, sky blue, violet, green, orange and white: words that a model has for what it sees,
#: all light enough for a black casing. Seen with normal colours any two are 0.17 apart in OKLab,
#: with Machado's simulations of the three kinds of colour blindness (2009) 0.09; Okabe and Ito's
#: seven, of which two need a white casing, are 0.16 and 0.08 apart.
PALETTE = ("#ffee33", "#ff3322", "#44ccff", "#dd44ff", "#22bb88", "#ff9922", "#ffffff")

_CHOICES: dict[str, tuple[str, ...]] = {
    "shape": ("box", "corners", "hairline", "none"),
    "label": ("plate", "dark", "text", "none"),
    "label_at": ("auto", "corner", "center"),
    "outside": ("keep", "dim", "blur"),
}


@dataclass(frozen=True)
class Mark:
    """How regions are marked; colours are "#rrggbb", lengths pixels, `None` scales to the image.

    - `shape`: "box" (a frame), "corners" (its corners), "hairline" (a thin frame, never with a
      casing), "none"
    - `colors`: one colour for all, or a palette to choose from for each region
    - `thickness`: of the stroke
    - `casing`: whether strokes and plates get a thin line of contrast around them
    - `label`: the number on a "plate" of the region's colour, white on a "dark" one, as bare "text"
      with a halo, or "none"
    - `label_at`: "auto" (touching the frame, where it hides least), "corner" (inside, top left) or
      "center" (unless that would hide the region)
    - `label_size`: font size of the number
    - `outside`, `strength`: what becomes of the picture outside the regions: "keep", "dim" (by that
      share of its light) or "blur" (by that share of the strongest blur)
    - `darken`: the share of light that the whole picture loses

    A value that is not one of these raises `OptionError`.

    >>> Mark(shape="corners", colors="#00FF00").colors
    ('#00ff00',)
    """

    shape: Shape = "box"
    colors: tuple[str, ...] = PALETTE
    thickness: float | None = None
    casing: bool = True
    label: Label = "plate"
    label_at: LabelAt = "auto"
    label_size: float | None = None
    outside: Outside = "keep"
    strength: float = 0.5
    darken: float = 0.0

    def __post_init__(self) -> None:
        for name, choices in _CHOICES.items():
            one_of(f"mark[{name!r}]", getattr(self, name), choices)
        object.__setattr__(self, "colors", _checked_colors(self.colors))
        _check(isinstance(self.casing, bool), "casing", "true or false", self.casing)
        for name in ("thickness", "label_size"):
            value = getattr(self, name)
            fits = value is None or (_is_number(value) and 0 < value <= 1000)
            _check(fits, name, "None or a number of pixels (above 0, at most 1000)", value)
        for name in ("strength", "darken"):
            value = getattr(self, name)
            _check(_is_number(value) and 0 <= value <= 1, name, "a number from 0 to 1", value)


def _check(fits: bool, name: str, expected: str, value: object) -> None:
    if not fits:
        raise OptionError(f"mark[{name!r}] must be {expected}, got {value!r}")


def _is_number(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _checked_colors(colors: object) -> tuple[str, ...]:
    listed = [colors] if isinstance(colors, str) or not isinstance(colors, Sequence) else colors
    fits = len(listed) > 0 and all(_is_color(color) for color in listed)
    _check(fits, "colors", 'a "#rrggbb" colour or a list of them', colors)
    return tuple(str(color).lower() for color in listed)


def _is_color(value: object) -> bool:
    if not (isinstance(value, str) and len(value) == 7 and value.startswith("#")):
        return False
    return all(digit in "0123456789abcdef" for digit in value[1:].lower())


MARKS: dict[str, Mark] = {
    "box": Mark(),
    "corners": Mark(shape="corners"),
    "tag": Mark(shape="hairline", label_at="center"),
    "dim": Mark(shape="hairline", outside="dim"),
    "blur": Mark(shape="hairline", outside="blur"),
    # DataFlow-MM's paint_text_box: the photo at 0.8 of its light, pure green, 2 pixels, white
    # numbers on black inside the top left corner.
    "dataflow": Mark(
        colors=("#00ff00",),
        thickness=2,
        casing=False,
        label="dark",
        label_at="corner",
        label_size=20,
        darken=0.2,
    ),
}


def resolve_mark(mark: str | Mapping[str, object] | Mark) -> Mark:
    """Return the `Mark` of a preset's name, or of a mapping of parameters.

    A mapping starts from `"preset"` (default `"box"`). What is neither raises `OptionError`, which
    names the choices.

    >>> resolve_mark("tag").shape
    'hairline'
    >>> resolve_mark({"preset": "dim", "strength": 0.3}).strength
    0.3
    >>> resolve_mark("circle")
    Traceback (most recent call last):
    ...
    hf_regioncap.errors.OptionError: mark must be one of ('box', 'corners', ...), got 'circle'
    """
    if isinstance(mark, Mark):
        return mark
    if not isinstance(mark, Mapping):
        return MARKS[one_of("mark", mark, tuple(MARKS))]
    changes = dict(mark)
    preset = one_of("mark['preset']", changes.pop("preset", "box"), tuple(MARKS))
    known = tuple(field.name for field in fields(Mark))
    for name in changes:
        if name not in known:
            raise OptionError(f"mark has no {name!r}; its parameters are {('preset', *known)}")
    return replace(MARKS[preset], **changes)  # type: ignore[arg-type]  # checked by Mark itself


def mark_as_dict(mark: Mark) -> dict[str, object]:
    """Return all parameters in JSON's types; `resolve_mark` reads them back.

    >>> resolve_mark(mark_as_dict(MARKS["dataflow"])) == MARKS["dataflow"]
    True
    """
    return {**asdict(mark), "colors": list(mark.colors)}
