"""The functions for `Dataset.map`: each reads some columns and adds others.

Arrow in, Arrow out (see `tables`): plain `ds.map(add_region_captions, batched=True)` gives the
right features, keeps the user's columns byte for byte, and adds what the contract of columns says.
"""

from __future__ import annotations

import functools
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, TypeVar, Unpack

import pyarrow as pa

from hf_regioncap import __version__
from hf_regioncap.captioning import answer_rows, caption_batch, open_run
from hf_regioncap.errors import OptionError
from hf_regioncap.fingerprint import what_map_does
from hf_regioncap.images import Picture, encode_jpeg, open_picture, read_image_bytes
from hf_regioncap.options import OptionKwargs, Options, read_options, signature_with_options
from hf_regioncap.proposals import can_propose
from hf_regioncap.remarks import Outcomes, batch_remarks
from hf_regioncap.rows import (
    Plan,
    Row,
    check_labels,
    check_rows,
    fill_boxes,
    fill_overlay,
    fill_prompt,
    make_plan,
    make_questions,
    read_picture,
)
from hf_regioncap.tables import Rows, image_array
from hf_regioncap.window import Window

if TYPE_CHECKING:
    from datasets import Features

    from hf_regioncap.questions import Question

_T = TypeVar("_T")

#: Raised whenever the same input may give other columns than before.
RECIPE = 2

BOX_COLUMNS = (
    "type",
    "image_status",
    "region_boxes",
    "box_status",
    "normalized_bbox",
    "valid_bboxes_num",
)
OVERLAY_COLUMNS = ("image_with_bbox",)
PROMPT_COLUMNS = ("prompt",)
ANSWER_COLUMNS = ("answer", "region_captions", "answer_status", "answer_error", "usage")
ALL_COLUMNS = (*BOX_COLUMNS, *OVERLAY_COLUMNS, *PROMPT_COLUMNS, *ANSWER_COLUMNS)

_BOXES = pa.list_(pa.list_(pa.float64()))
_ARROW: dict[str, pa.DataType] = {
    "region_boxes": _BOXES,
    "box_status": pa.list_(pa.string()),
    "normalized_bbox": _BOXES,
    "valid_bboxes_num": pa.int32(),
    "region_captions": pa.list_(pa.string()),
    "usage": pa.struct(
        [pa.field("prompt_tokens", pa.int64()), pa.field("completion_tokens", pa.int64())]
    ),
}


def column_features(names: Sequence[str] = ALL_COLUMNS, prefix: str = "") -> Features:
    """The `datasets` features of the new columns.

    >>> column_features(["valid_bboxes_num"])
    {'valid_bboxes_num': Value('int32')}
    """
    from datasets import Features, Image, List, Value

    kinds: dict[str, Any] = dict.fromkeys(ALL_COLUMNS, Value("string"))
    kinds |= {
        "region_boxes": List(List(Value("float64"))),
        "box_status": List(Value("string")),
        "normalized_bbox": List(List(Value("float64"))),
        "valid_bboxes_num": Value("int32"),
        "image_with_bbox": Image(),
        "region_captions": List(Value("string")),
        "usage": {"prompt_tokens": Value("int64"), "completion_tokens": Value("int64")},
    }
    return Features({prefix + name: kinds[name] for name in names})


def row_arrays(done: Sequence[Row], names: Sequence[str]) -> dict[str, pa.Array]:
    """The rows' new columns as Arrow arrays of the types of `column_features`."""
    return {
        name: image_array([row.image_with_bbox for row in done])
        if name == "image_with_bbox"
        else pa.array([getattr(row, name) for row in done], _ARROW.get(name, pa.string()))
        for name in names
    }


# The callables


class ColumnFunction:
    """A map function that carries the version of its recipe.

    `Dataset.map` hashes a function of an installed package by its name alone, so an upgraded
    library would be served the rows of the old one from the cache. This callable is pickled, and
    so hashed, as its name, recipe, the library's version, and the code, files and address that
    the options name (see `fingerprint`).
    """

    def __init__(self, function: Callable[..., Any]) -> None:
        functools.update_wrapper(self, function)
        self.__name__: str = function.__name__
        self._function = function
        self.recipe = f"{function.__name__} {RECIPE} ({__version__})"
        self.__signature__ = signature_with_options(function)

    def __call__(self, rows: Any, **options: Any) -> Any:
        """Call the function; see its own documentation."""
        return self._function(rows, **options)

    def __get__(self, instance: object, owner: type | None = None) -> ColumnFunction:
        """Make `help()` and doctest take this for the function that it is."""
        return self

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickle by name and recipe, and by what decides the rows of the map that hashes it."""
        decides = what_map_does() or {"can_propose": can_propose()}
        return _by_name, (self.__name__, self.recipe, sorted(decides.items()))

    def __repr__(self) -> str:
        """Name the function."""
        return f"<function {self.__name__}>"


def _by_name(name: str, *cached_under: object) -> Any:
    return globals()[name]


@ColumnFunction
def add_boxes(rows: Any, **options: Unpack[OptionKwargs]) -> Any:
    """Add `type`, `image_status`, `region_boxes`, `box_status`, `normalized_bbox` and the count.

    `rows` is a batch or example of a dataset, a `pyarrow.Table` or a plain dict; the options are
    those of `Options`. Raises OptionError where a column is missing or in another unit or format.

    >>> from PIL import Image
    >>> row = {"image": Image.new("RGB", (1536, 832)), "bbox": [[196, 104, 310, 495]]}
    >>> added = add_boxes(row, max_boxes=2)
    >>> added["normalized_bbox"], added["valid_bboxes_num"]
    ([[0.128, 0.125, 0.329, 0.72], [0.0, 0.0, 0.0, 0.0]], 1)
    >>> from datasets import Dataset
    >>> Dataset.from_list([row]).map(add_boxes)["box_status"][0]
    ['ok']
    """
    given, plan = _read(rows, options, BOX_COLUMNS)
    check_rows(given, plan)

    def begin(index: int) -> Row:
        row = Row()
        fill_boxes(row, plan, given, index, read_picture(plan, given, index))
        return row

    return _give(given, plan, _drawn(given, begin), BOX_COLUMNS)


@ColumnFunction
def add_overlays(rows: Any, **options: Unpack[OptionKwargs]) -> Any:
    """Add `image_with_bbox`: the picture with its used boxes drawn and numbered from 1, as JPEG.

    Reads the image and what `add_boxes` has added.

    >>> from PIL import Image
    >>> row = {"image": Image.new("RGB", (64, 48)), "bbox": [[8, 8, 40, 30]]}
    >>> added = add_overlays(row | add_boxes(row))
    >>> added["image_with_bbox"]["bytes"][:3].hex()
    'ffd8ff'
    >>> from datasets import Dataset
    >>> Dataset.from_list([row]).map(add_boxes).map(add_overlays).features["image_with_bbox"]
    Image(mode=None, decode=True)
    """
    given, plan = _read(rows, options, OVERLAY_COLUMNS, after=BOX_COLUMNS)

    def begin(index: int) -> Row:
        row = earlier_row(given, plan, index, BOX_COLUMNS)
        if row.used:
            fill_overlay(row, plan, read_picture(plan, given, index))
        return row

    return _give(given, plan, _drawn(given, begin), OVERLAY_COLUMNS)


@ColumnFunction
def add_prompts(rows: Any, **options: Unpack[OptionKwargs]) -> Any:
    """Add `prompt`: the text that asks about the used boxes, null where there is none.

    Reads what `add_boxes` has added, the labels, and the columns that the template names.

    >>> from PIL import Image
    >>> row = {"image": Image.new("RGB", (64, 48)), "bbox": [[8, 8, 40, 30]], "city": "Rome"}
    >>> row |= add_boxes(row)
    >>> add_prompts(row)["prompt"][-51:]
    'image. There are 1 regions: <region1> to <region1>.'
    >>> add_prompts(row, prompt="{count} thing in {city}?")
    {'prompt': '1 thing in Rome?'}
    >>> from datasets import Dataset
    >>> Dataset.from_list([row]).map(add_prompts)["prompt"][0][:8]
    'Describe'
    """
    given, plan = _read(rows, options, PROMPT_COLUMNS, after=BOX_COLUMNS)
    check_labels(given, plan)
    done = []
    for index in range(len(given)):
        row = earlier_row(given, plan, index, BOX_COLUMNS)
        fill_prompt(row, plan, given, index)
        done.append(row)
    return _give(given, plan, done, PROMPT_COLUMNS)


@ColumnFunction
def add_answers(rows: Any, **options: Unpack[OptionKwargs]) -> Any:
    """Ask the endpoint; add `answer`, `region_captions`, `answer_status`, `answer_error`, `usage`.

    Reads what the other three have added, and the image for crops. A failed request becomes a
    status of its row; only what no row can do without (key, model, credit) raises EndpointError.

    >>> from PIL import Image
    >>> row = {"image": Image.new("RGB", (64, 48), "red"), "bbox": [[8, 8, 40, 30]]}
    >>> for step in (add_boxes, add_overlays, add_prompts):
    ...     row |= step(row)
    >>> added = add_answers(row, base_url="offline", answer_store=None)
    >>> added["answer_status"], "red" in added["region_captions"][0]
    ('ok', True)
    >>> from datasets import Dataset
    >>> asked = {"base_url": "offline", "answer_store": None}
    >>> Dataset.from_list([row]).map(add_answers, fn_kwargs=asked)["answer_status"][0]
    'ok'
    """
    before = (*BOX_COLUMNS, *OVERLAY_COLUMNS, *PROMPT_COLUMNS)
    given, plan = _read(rows, options, ANSWER_COLUMNS, after=before)

    def begin(index: int) -> tuple[Row, list[Question]]:
        row = earlier_row(given, plan, index, before)

        def picture() -> Picture:
            source = read_picture(plan, given, index)
            row.image_status, row.answer_error = source.status, source.reason
            return source

        if row.image_status != "ok":
            row.answer_error = read_picture(plan, given, index).reason
        return row, make_questions(row, plan, given, index, picture)

    work = _drawn(given, begin)
    run = open_run(plan.options) if any(questions for _, questions in work) else None
    return _give(given, plan, _answered(answer_rows(work, plan, run)), ANSWER_COLUMNS)


@ColumnFunction
def add_region_captions(rows: Any, **options: Unpack[OptionKwargs]) -> Any:
    """Add a caption for each box, and everything on the way: boxes, picture, prompt, answer.

    The four other functions in one, decoding and encoding each image once. `rows` is a batch or
    example of a dataset, a `pyarrow.Table` or a plain dict; the options are those of `Options`.

    >>> from PIL import Image
    >>> row = {"image": Image.new("RGB", (64, 48), "red"), "bbox": [[8, 8, 40, 30], [99, 9, 9, 9]]}
    >>> added = add_region_captions(row, base_url="offline", answer_store=None)
    >>> added["answer_status"], added["box_status"], added["region_captions"][1]
    ('ok', ['ok', 'outside'], None)
    >>> from datasets import Dataset
    >>> asked = {"base_url": "offline", "answer_store": None}
    >>> captioned = Dataset.from_list([row]).map(add_region_captions, batched=True, fn_kwargs=asked)
    >>> captioned["answer_status"][0]
    'ok'
    """
    given, plan = _read(rows, options, ALL_COLUMNS)
    check_rows(given, plan)
    done = caption_batch(given, plan, open_run(plan.options))
    return _give(given, plan, _answered(done), ALL_COLUMNS)


# What the five have in common


def _read(
    rows: Any, given: Mapping[str, Any], new: Sequence[str], after: Sequence[str] = ()
) -> tuple[Rows, Plan]:
    """The rows and the plan, or an OptionError before anything is drawn or asked."""
    options = read_options(given)
    read = Rows(rows, options.image_column)
    check_new_columns(read, options, new)
    for name in after:
        if options.column_prefix + name not in read.names:
            raise OptionError(
                f"no column {options.column_prefix + name!r}: add_boxes, add_overlays and "
                "add_prompts come before, with the same column_prefix"
            )
    return read, make_plan(options, read, reads_boxes=not after)


def check_new_columns(rows: Rows, options: Options, new: Sequence[str]) -> None:
    """Raise where the name of a new column is taken."""
    names = [options.column_prefix + name for name in new]
    taken = [name for name in names if name in rows.names]
    if taken:
        raise OptionError(
            f"the dataset has a column {taken[0]!r} already: pass column_prefix='…' "
            f"(got {options.column_prefix!r}), or remove_columns({taken}) first"
        )


def earlier_row(given: Rows, plan: Plan, index: int, names: Sequence[str]) -> Row:
    """The row as earlier functions have left it in its columns."""
    row = Row()
    for name in names:
        value = given.value(plan.options.column_prefix + name, index)
        if name == "image_with_bbox":
            value = _overlay_bytes(value, plan.options)
        setattr(row, name, value.tolist() if hasattr(value, "tolist") else value)
    return row


def _overlay_bytes(value: Any, options: Options) -> bytes | None:
    """The overlay's JPEG as stored; encoded again where the row comes decoded, as `ds[0]` does."""
    data = read_image_bytes(value)
    if data is None and value is not None:
        image = open_picture(value, max_pixels=options.max_pixels).image
        data = encode_jpeg(image, options.quality) if image is not None else None
    return data


def _drawn(given: Rows, begin: Callable[[int], _T]) -> list[_T]:
    """What `begin` makes of each row, on the drawing threads."""
    size = len(given) + 1
    with Window(range(len(given)), begin, active=size, ahead=size) as window:
        return list(window)


def _answered(done: Iterable[Row]) -> Iterator[Row]:
    """Pass rows on; warn where more than half of those that were asked about have failed."""
    outcomes = Outcomes()
    for row in done:
        outcomes.add(row)
        yield row
    if told := outcomes.failures():
        warnings.warn(told, stacklevel=2)


def _give(given: Rows, plan: Plan, done: Iterable[Row], names: Sequence[str]) -> Any:
    prefix, rows = plan.options.column_prefix, list(done)
    new = {"boxes_are_new": "box_status" in names, "prompts_are_new": "prompt" in names}
    for told in batch_remarks(rows, plan.options, **new):
        warnings.warn(told, stacklevel=2)
    arrays = row_arrays(rows, names)
    columns = {prefix + name: array for name, array in arrays.items()}
    return given.append(columns, lambda: column_features(names, prefix))
