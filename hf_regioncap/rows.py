"""One row's way: picture, boxes, drawing, prompt, questions. Pure; the columns of one row in, out.

`Plan` is the options resolved once against the dataset's columns; each step reads what earlier
steps have put into the row, so that the four column functions one after another give the same as
the one. Only why a `propose` raised is lost between them, as no column of `add_boxes` tells it.
"""

from __future__ import annotations

import numbers
import warnings
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

import hf_regioncap
from hf_regioncap import boxes, column_types, prompts, proposals
from hf_regioncap.box_columns import misread, read_boxes, told_options
from hf_regioncap.crops import crop_region, crop_window
from hf_regioncap.errors import OptionError, is_interrupt, words_of
from hf_regioncap.images import Picture, encode_jpeg, open_picture, peek_picture
from hf_regioncap.marks import Mark, resolve_mark
from hf_regioncap.options import OFFLINE, Options
from hf_regioncap.overlay import draw_regions, draw_regions_on, region_colors
from hf_regioncap.questions import Question
from hf_regioncap.tables import Rows, class_names
from hf_regioncap.wire import redact, writable


@dataclass
class Row:
    """The new columns of one row, filled step by step."""

    type: str = "without_bbox"
    image_status: str = "ok"
    region_boxes: list[list[float] | None] = field(default_factory=list)
    box_status: list[str] = field(default_factory=list)
    normalized_bbox: list[list[float]] = field(default_factory=list)
    valid_bboxes_num: int = 0
    image_with_bbox: bytes | None = None
    prompt: str | None = None
    answer: str | None = None
    region_captions: list[str | None] = field(default_factory=list)
    answer_status: str = "ok"
    answer_error: str | None = None
    usage: dict[str, int | None] = field(default_factory=dict)
    labels_unread: list[str] = field(default_factory=list)  # of used boxes; no column

    @property
    def used(self) -> list[int]:
        """The places of the used boxes in the user's list: region k is the k-th of these."""
        return [i for i, status in enumerate(self.box_status) if status in boxes.USED]


@dataclass(frozen=True)
class Plan:
    """The options, and what they come to for these columns."""

    options: Options
    mark: Mark
    label_names: Sequence[str] | Mapping[int, str] | None
    template: str
    system: str
    has_boxes: bool

    @property
    def model(self) -> str:
        """The model's name as it is asked for and recorded; the describer has its own."""
        if self.options.base_url == OFFLINE:
            from hf_regioncap import offline

            return offline.MODEL
        return self.options.model

    @property
    def describer(self) -> str | None:
        """The version of the built-in describer where it is what is asked."""
        return hf_regioncap.__version__ if self.options.base_url == OFFLINE else None

    @property
    def per_region(self) -> bool:
        """Whether each region is asked for by itself."""
        return self.options.view != "overlay"

    @property
    def asks_with_source(self) -> bool:
        """Whether asking takes the image itself, too, not only the overlay."""
        return self.per_region or self.options.base_url == OFFLINE


def make_plan(options: Options, rows: Rows, *, reads_boxes: bool = True) -> Plan:
    """Resolve the options against the columns; every column that is named must be there."""
    if reads_boxes:
        rows.require("image_column", options.image_column)
    has_boxes = rows.has(options.bbox_column)
    if not has_boxes and reads_boxes:
        likely = rows.likely_boxes() or rows.box_parts()
        if likely or "bbox_column" in options.given:
            raise OptionError(rows.missing("bbox_column", options.bbox_column))
    if options.label_column is not None:
        rows.require("label_column", options.label_column)
    label_names = options.label_names or _label_names(rows, options.label_column)
    if options.label_column is not None:
        column_types.check_label_type(rows, options.label_column, label_names)
    if options.prompt_column is not None:
        rows.require("prompt_column", options.prompt_column)
        column_types.check_prompt_column(rows, options.prompt_column)
    template = prompts.prompt_template(options.prompt, options.label_column is not None)
    system = prompts.SYSTEM_PROMPT if options.system_prompt is None else options.system_prompt
    for argument, text in (("prompt", template), ("system_prompt", system)):
        named = prompts.template_fields(text, argument)
        if "labels" in named and options.label_column is None:
            raise OptionError(f"{argument}: {{labels}} needs label_column")
        columns = [name for name in named if name not in ("count", "regions", "labels")]
        for name in columns:
            rows.require(argument, name)
        column_types.check_template_columns(rows, argument, columns)
    return Plan(
        options,
        resolve_mark(options.mark),
        label_names,
        template,
        system,
        has_boxes,
    )


def _label_names(rows: Rows, column: str | None) -> Sequence[str] | None:
    return class_names(rows.features, column) if column and rows.table is not None else None


# The steps


def read_picture(plan: Plan, rows: Rows, index: int) -> Picture:
    """Decode the row's image once."""
    options = plan.options
    return open_picture(
        rows.value(options.image_column, index),
        image_root=options.image_root,
        max_pixels=options.max_pixels,
        max_side=options.max_side,
    )


def fill_boxes(row: Row, plan: Plan, rows: Rows, index: int, picture: Picture) -> None:
    """Place the user's boxes in the image, or propose some where the row has none."""
    options = plan.options
    given = read_boxes(rows.value(options.bbox_column, index)) if plan.has_boxes else []
    size_wh = picture.size_wh if picture.image is not None else None
    row.image_status, row.answer_error = picture.status, picture.reason
    row.type = "with_bbox" if given else "without_bbox"
    limit = options.max_boxes
    if given:
        placed = boxes.place_boxes(
            given,
            size_wh,
            box_format=options.box_format,
            box_unit=options.box_unit,
            max_boxes=limit,
        )
    else:
        placed = boxes.place_boxes(
            _propose(row, plan, picture), size_wh, box_format="xyxy", max_boxes=limit
        )
    row.region_boxes, row.box_status = placed.xywh, placed.status
    used = placed.used
    row.valid_bboxes_num = len(used)
    fractions = boxes.normalize_boxes(used, size_wh or (1, 1)).round(3)
    row.normalized_bbox = boxes.pad_boxes(fractions, limit).tolist()


def _propose(row: Row, plan: Plan, picture: Picture) -> Any:
    """Boxes as xyxy pixels of the upright source for a row that has none."""
    propose = plan.options.propose
    if picture.image is None or propose is None:
        return []
    try:
        found = _contours(row, picture) if not callable(propose) else propose(picture.image.copy())
        scale = picture.size_wh[0] / picture.image.width
        return [[float(edge) * scale for edge in box] for box in found]
    except BaseException as error:  # a user's detector may raise anything: the row keeps the reason
        if is_interrupt(error):
            raise
        row.answer_error = redact(f"propose raised {words_of(error)}")
        return []


def _contours(row: Row, picture: Picture) -> Any:
    if not proposals.can_propose():
        row.answer_error = NEEDS_OPENCV
        return []
    assert picture.image is not None
    return proposals.propose_contours(picture.image)


NEEDS_OPENCV = (
    "boxes for rows that have none need OpenCV: pip install 'hf-regioncap[propose]', "
    "or pass propose=None"
)


def used_xyxy(row: Row, scale: float = 1.0) -> list[list[float]]:
    """The used boxes as corners in pixels of a picture `scale` times the source."""
    placed = [row.region_boxes[index] for index in row.used]
    return [
        [x * scale, y * scale, (x + w) * scale, (y + h) * scale]
        for x, y, w, h in (box for box in placed if box is not None)
    ]


def fill_overlay(row: Row, plan: Plan, picture: Picture) -> None:
    """Draw the used boxes and encode the picture, once; where crops follow it stays unmarked."""
    if picture.image is None or not row.used:
        return
    draw = draw_regions if plan.per_region else draw_regions_on
    marked = draw(picture.image, used_xyxy(row, _scale(picture)), mark=plan.mark)
    row.image_with_bbox = encode_jpeg(marked, plan.options.quality)


def _scale(picture: Picture) -> float:
    assert picture.image is not None
    return picture.image.width / picture.size_wh[0]


def fill_prompt(row: Row, plan: Plan, rows: Rows, index: int) -> None:
    """Write the prompt, where there is something to ask."""
    if not row.used:
        return
    column = plan.options.prompt_column
    own = rows.value(column, index) if column is not None else None
    if isinstance(own, str) and own.strip():
        row.prompt = writable(own)
        return
    template = plan.template
    if plan.options.prompt is None and not any(_labels(row, plan, rows, index)):
        template = prompts.PROMPT  # none of this row's regions has a label
    row.prompt = writable(_filled(template, "prompt", row, plan, rows, index))


def _filled(template: str, argument: str, row: Row, plan: Plan, rows: Rows, index: int) -> str:
    return prompts.fill_template(
        template,
        count=len(row.used),
        labels=_labels(row, plan, rows, index),
        column=lambda name: _printable(rows.value(name, index), name, argument),
        argument=argument,
    )


def _labels(row: Row, plan: Plan, rows: Rows, index: int) -> list[str | None]:
    """The labels of regions 1 to k."""
    if plan.options.label_column is None:
        return []
    given = _given_labels(rows, plan.options.label_column, index, len(row.box_status))
    labels = [given[place] if place < len(given) else None for place in row.used]
    texts = [prompts.label_text(label, plan.label_names) for label in labels]
    row.labels_unread = [
        repr(label)[:40]
        for label, text in zip(labels, texts, strict=True)
        if text is None and not _is_nothing(label)
    ]
    return texts


def _given_labels(rows: Rows, column: str, index: int, count: int) -> list[Any]:
    """The labels of a row's boxes; one for the whole row is that of all `count`."""
    value = rows.value(column, index)
    value = value.tolist() if hasattr(value, "tolist") else value
    return list(value) if isinstance(value, list | tuple) else [value] * count


def _require_names(labels: Sequence[Any], plan: Plan) -> None:
    if plan.label_names is None and any(map(_is_whole, labels)):
        raise OptionError(column_types.no_names(str(plan.options.label_column)))


def _is_whole(value: Any) -> bool:
    """Whether a label is a number of a class, also as pandas writes them beside gaps: 1.0."""
    return isinstance(value, numbers.Real) and (
        isinstance(value, numbers.Integral) or float(value).is_integer()
    )


def _is_nothing(label: Any) -> bool:
    return label is None or label != label or (isinstance(label, list | dict) and not label)


def _printable(value: Any, name: str, argument: str) -> Any:
    if isinstance(value, bytes | Mapping):
        raise OptionError(column_types.no_text(argument, name))
    return value


#: So many rows are looked at before a batch begins, to find options that do not fit.
SAMPLE = 256
_ENOUGH_ROWS = 10


def check_rows(rows: Rows, plan: Plan, *, whole: bool = False) -> None:
    """Raise, before anything is asked, where options do not fit a whole column.

    What is no list of boxes at all; boxes in another unit or format; images that are all refused
    because `image_root` is missing, or of which not one can be read. `whole` says that the rows
    stand for a whole dataset, however few they are. Of images in files only the headers are read.
    """
    options = plan.options
    if plan.has_boxes:
        _check_told(rows, options)
    given: list[list[Any]] = []
    peeked: list[Picture] = []
    for index in range(len(rows)):
        if index >= SAMPLE and any(each.status != "image_refused" for each in peeked):
            break
        peeked.append(_peek(rows, options, index))
        boxed = plan.has_boxes and index < SAMPLE
        value = rows.value(options.bbox_column, index) if boxed else None
        if told := misread(value, options.box_format, options.box_unit):
            raise OptionError(f"bbox_column {options.bbox_column!r} holds {told}")
        given.append(read_boxes(value))
    if whole or len(peeked) >= _ENOUGH_ROWS:
        _check_refused(options, peeked)
    if whole and len(peeked) >= _ENOUGH_ROWS:
        _check_readable(options, peeked)
    check_labels(rows, plan)
    if options.propose == "contours" and not all(given) and proposals.can_propose():
        proposals.load_opencv()  # here and not on the threads that draw
    _check_nesting(options, given)
    flat = [len(row) == 4 and all(map(_is_number, row)) for row in given if row]
    if flat and all(flat):
        raise OptionError(
            f"bbox_column {options.bbox_column!r} holds one flat box per row: it must hold a list "
            "of boxes, [[a, b, c, d], …]"
        )
    measured = [
        (row, each.size_wh if each.status == "ok" else None)
        for row, each in zip(given, peeked, strict=True)
    ]
    form, unit = options.box_format, options.box_unit
    boxes.check_fit(measured, box_format=form, box_unit=unit, bbox_column=options.bbox_column)
    doubted = None if "box_unit" in options.given else boxes.doubt_unit(measured, box_format=form)
    if doubted:
        warnings.warn(
            f"bbox_column {options.bbox_column!r}: all boxes lie in the upper left corner of large "
            f"images, as {doubted} read as pixels do: pass box_unit={doubted!r}, or "
            "box_unit='pixel' if they are pixels",
            stacklevel=2,
        )


def check_sources(rows: Rows, plan: Plan, indices: Sequence[int]) -> None:
    """Raise where asking about these rows takes their images, and all of them are refused."""
    if plan.asks_with_source and indices:
        rows.require("image_column", plan.options.image_column)
        _check_refused(plan.options, [_peek(rows, plan.options, index) for index in indices])


def _peek(rows: Rows, options: Options, index: int) -> Picture:
    return peek_picture(rows.value(options.image_column, index), image_root=options.image_root)


def _check_refused(options: Options, peeked: Sequence[Picture]) -> None:
    if peeked and all(each.status == "image_refused" for each in peeked):
        root = "" if options.image_root is None else f" (image_root={str(options.image_root)!r})"
        raise OptionError(
            f"image_column {options.image_column!r}: all {len(peeked)} images are "
            f"refused: {peeked[0].reason}{root}"
        )


def _check_readable(options: Options, peeked: Sequence[Picture]) -> None:
    counts = Counter(each.status for each in peeked)
    if not counts["ok"]:
        which = ", ".join(f"{count} {status}" for status, count in counts.most_common())
        reason = next(each.reason for each in peeked if each.status == counts.most_common(1)[0][0])
        way = ""
        if counts["image_missing"] and options.image_root is not None:
            way = f"; relative paths are read under image_root={str(options.image_root)!r}"
        raise OptionError(
            f"image_column {options.image_column!r}: not one of the first {len(peeked)} images "
            f"can be read ({which}): {reason}{way}"
        )


def check_labels(rows: Rows, plan: Plan) -> None:
    """Raise where labels need names that nobody has given, or none of many can be read."""
    column = plan.options.label_column
    if column is None:
        return
    sample = range(min(len(rows), SAMPLE))
    given = [label for index in sample for label in _given_labels(rows, column, index, 1)]
    labels = [label for label in given if not _is_nothing(label)]
    _require_names(labels, plan)
    if len(labels) >= _ENOUGH_ROWS and not any(
        prompts.label_text(label, plan.label_names) for label in labels
    ):
        raise OptionError(
            f"label_column {column!r}: none of {len(labels)} labels can be read, for example "
            f"{repr(labels[0])[:80]}: it must hold a name for each box, or an int with label_names"
        )


def _check_told(rows: Rows, options: Options) -> None:
    """Raise where the column's name, or `bbox_mode` beside it, tells other options."""
    parent = options.bbox_column.rpartition(".")[0]
    beside = f"{parent}.bbox_mode" if parent else "bbox_mode"
    modes: list[Any] = []
    if rows.has(beside):
        for index in range(min(len(rows), SAMPLE)):
            value = rows.value(beside, index)
            modes += value if isinstance(value, list) else [value]
    told = told_options(options.bbox_column, modes)
    against = {
        name: value
        for name, value in told.items()
        if value != getattr(options, name) and name not in options.given
    }
    if against:
        words = ", ".join(f"{name}={value!r}" for name, value in told.items())
        declared = ", ".join(f"{name}={getattr(options, name)!r}" for name in told)
        source = f"{beside!r}" if modes else "its name"
        raise OptionError(
            f"bbox_column {options.bbox_column!r}: {source} says {words}: pass this, or "
            f"{declared} if that is what the numbers are"
        )


def _check_nesting(options: Options, given: Sequence[list[Any]]) -> None:
    """Raise where nothing in a column is a box: text, polygons, boxes with a score, structs."""
    listed = [box for row in given for box in row]
    if len(listed) >= _ENOUGH_ROWS and not np.isfinite(boxes.as_boxes(listed)).any():
        raise OptionError(
            f"bbox_column {options.bbox_column!r} holds no box of four numbers, but for example "
            f"{str(listed[0])[:80]!r}: name a column of boxes (a dotted name reaches inside, like "
            "'objects.bbox'), or bring them into the form [[a, b, c, d], …]"
        )


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def make_questions(
    row: Row, plan: Plan, rows: Rows, index: int, picture: Callable[[], Picture]
) -> list[Question]:
    """What to ask about the row: one question for all regions, or one for each."""
    if not row.used or row.prompt is None or row.image_with_bbox is None:
        return []
    options = plan.options
    regions = range(1, len(row.used) + 1)
    whole = Question(
        regions=tuple(regions),
        images=(row.image_with_bbox,),
        text=row.prompt,
        system=_filled(plan.system, "system_prompt", row, plan, rows, index),
        model=plan.model,
        view=options.view,
        caption_style=options.caption_style,
        language=options.language,
        temperature=None if options.temperature is None else float(options.temperature),
        seed=options.seed,
        detail=options.detail,
        answer_form=options.answer_form,
        max_tokens=options.max_tokens,
        extra_body=options.extra_body or {},
        store_tag=options.store_tag,
        describer=plan.describer,
    )
    if not plan.asks_with_source:
        return [whole]
    source = picture()
    if source.image is None:
        return []
    if not plan.per_region:
        return [_with_boxes(whole, row, source.size_wh)]
    questions = []
    placed = used_xyxy(row, _scale(source))
    colors = region_colors(source.image, placed, mark=plan.mark)
    for region, xyxy, color in zip(regions, placed, colors, strict=True):
        # In the crop a region has the colour that it has in the whole picture.
        mark = replace(plan.mark, colors=(color,))
        crop = encode_jpeg(crop_region(source.image, xyxy, mark=mark), options.quality)
        images = (crop,) if options.view == "crop" else (row.image_with_bbox, crop)
        asked = replace(whole, regions=(region,), images=images)
        window = crop_window(source.image.size, xyxy)
        questions.append(_with_crop(asked, plan, source.image.size, xyxy, window))
    return questions


def _with_boxes(question: Question, row: Row, size_wh: tuple[int, int]) -> Question:
    """Tell the built-in describer, which cannot read drawn marks, where the boxes lie."""
    fractions = boxes.normalize_boxes(used_xyxy(row), size_wh).clip(0, 1).round(5).tolist()
    where = {str(region): box for region, box in zip(question.regions, fractions, strict=True)}
    return replace(question, extra_body={**question.extra_body, "regions": where})


def _with_crop(
    question: Question,
    plan: Plan,
    size_wh: tuple[int, int],
    xyxy: Sequence[float],
    window: Sequence[float],
) -> Question:
    if plan.options.base_url != OFFLINE:
        return question
    (x0, y0, x1, y1), (width, height) = window, size_wh
    inner = [
        (xyxy[0] - x0) / (x1 - x0),
        (xyxy[1] - y0) / (y1 - y0),
        (xyxy[2] - x0) / (x1 - x0),
        (xyxy[3] - y0) / (y1 - y0),
    ]
    where = {
        "regions": {str(question.regions[0]): [min(1.0, max(0.0, round(v, 4))) for v in inner]},
        "frame": [round(v, 4) for v in (x0 / width, y0 / height, x1 / width, y1 / height)],
    }
    return replace(question, extra_body={**question.extra_body, **where})


def unasked_status(row: Row, plan: Plan) -> tuple[str, str | None]:
    """The status and reason of a row about which there is nothing to ask."""
    if row.image_status != "ok":
        return row.image_status, row.answer_error
    if row.used:  # somebody has emptied a column of an earlier step
        empty = "prompt" if row.prompt is None else "image_with_bbox"
        return "boxes_invalid", f"the boxes cannot be asked about: {empty} is null"
    if row.box_status:
        counts = {status: row.box_status.count(status) for status in row.box_status}
        words = ", ".join(f"{count} {status}" for status, count in counts.items())
        return "boxes_invalid", f"no box can be used: {words}"
    contours = plan.options.propose == "contours"
    if contours and not proposals.can_propose():
        return "no_boxes", NEEDS_OPENCV
    return "no_boxes", row.answer_error or "the row has no boxes"
