"""Rows in, captioned rows out: drawing and asking put together, in order and within bounds."""

from __future__ import annotations

import functools
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future
from typing import TYPE_CHECKING, Any

from hf_regioncap import dialogue
from hf_regioncap.errors import EndpointError
from hf_regioncap.options import Options
from hf_regioncap.rows import (
    Plan,
    Row,
    fill_boxes,
    fill_overlay,
    fill_prompt,
    make_questions,
    read_picture,
    unasked_status,
)
from hf_regioncap.tables import Rows
from hf_regioncap.window import Held, Window, then

if TYPE_CHECKING:
    from hf_regioncap.client import Budget, Run
    from hf_regioncap.dialogue import Outcome
    from hf_regioncap.questions import Question
    from hf_regioncap.store import AnswerStore

#: Statuses of rows that were asked about, or should have been, and have no full answer.
FAILED = (
    "ok_partial",
    "api_error",
    "api_refused",
    "api_truncated",
    "api_bad_answer",
    "skipped_budget",
)


def open_run(options: Options, budget: Budget | None = None) -> Run:
    """Find endpoint, key and store, with an error for each that cannot be used."""
    from hf_regioncap.client import Run
    from hf_regioncap.endpoint import resolve_endpoint
    from hf_regioncap.wire import first_dialect

    endpoint = resolve_endpoint(options)
    return Run(
        endpoint,
        store=open_store(options),
        parse=options.parse,
        dialect=first_dialect(options, is_openai=endpoint.is_openai),
        budget=budget,
    )


def open_store(options: Options) -> AnswerStore | None:
    """The answer store that the options name, not yet opened."""
    from hf_regioncap.store import AnswerStore, default_store_path

    path = default_store_path() if options.answer_store == "default" else options.answer_store
    return AnswerStore(path) if path is not None else None


def prepare_row(rows: Rows, index: int, plan: Plan) -> tuple[Row, list[Question]]:
    """Everything of a row that comes before asking: boxes, picture, prompt, questions."""
    row, picture = Row(), read_picture(plan, rows, index)
    fill_boxes(row, plan, rows, index, picture)
    fill_overlay(row, plan, picture)
    fill_prompt(row, plan, rows, index)
    return row, make_questions(row, plan, rows, index, lambda: picture)


#: How far rows run ahead of the slowest, in multiples of `concurrency`: with a heavy tail of
#: latencies 4 costs 2.3 times the ideal, 16 costs 1.14 times.
_AHEAD = 16
#: What the pictures of these rows may take in memory; so many fewer rows run ahead where they are
#: large.
_AHEAD_BYTES = 128 * 2**20


def _bounds(options: Options) -> dict[str, Any]:
    """How far a window runs ahead: never so little that requests would wait for drawing."""
    active = 2 * options.concurrency + 8
    ahead = max(active, _AHEAD * options.concurrency)
    return {"active": active, "ahead": ahead, "at_least": active, "most_bytes": _AHEAD_BYTES}


def caption_rows(
    work: Iterable[tuple[Rows, int]],
    plan: Plan,
    run: Run,
    *,
    kept: bool = False,
) -> Iterator[Row]:
    """Caption rows through the whole way, in order, as many ahead of the slowest as memory allows.

    `kept` says that the tables, too, stay in memory until their rows are done.
    """

    def begin(item: tuple[Rows, int]) -> Held[Row]:
        row, questions = prepare_row(*item, plan)
        size = _pictures_size(row, questions) + (item[0].row_size if kept else 0)
        return Held(ask(row, plan, questions, run), size)

    run = run.another()  # a stream is read more than once, and left early
    window = Window[tuple[Rows, int], Row](work, begin, **_bounds(plan.options))
    yield from _checked(window, plan, lambda: run)


def _pictures_size(row: Row, questions: Sequence[Question]) -> int:
    """The bytes of the pictures of a row that waits, the overlay counted once."""
    images = {id(image): len(image) for question in questions for image in question.images}
    if row.image_with_bbox is not None:
        images[id(row.image_with_bbox)] = len(row.image_with_bbox)
    return sum(images.values())


def caption_batch(rows: Rows, plan: Plan, run: Run) -> Iterator[Row]:
    """Caption the rows of a batch, which are all in memory already, all at once."""

    def begin(index: int) -> Future[Row] | Row:
        row, questions = prepare_row(rows, index, plan)
        return ask(row, plan, questions, run)

    run = run.another()
    active, ahead = 2 * plan.options.concurrency + 8, len(rows) + 1
    window = Window(range(len(rows)), begin, active=active, ahead=ahead)
    yield from _checked(window, plan, lambda: run)


def answer_rows(
    work: Sequence[tuple[Row, list[Question]]], plan: Plan, run: Run | None
) -> Iterator[Row]:
    """Ask about rows whose questions are made already; `run` is None where there are none."""

    def begin(item: tuple[Row, list[Question]]) -> Future[Row] | Row:
        row, questions = item
        return ask(row, plan, questions, run)

    window = Window(work, begin, active=len(work) + 1, ahead=len(work) + 1)
    yield from _checked(window, plan, lambda: run)


def retry_rows(
    work: Iterable[tuple[Row, Rows, int]],
    plan: Plan,
    run: Callable[[], Run],
    *,
    kept: bool = False,
) -> Iterator[Row]:
    """Ask again about the rows that failed, in order; the others pass as they are.

    Of a row that has some captions only the missing regions are asked for; one whose picture cannot
    be read this time stays failed, to be asked another time. `run` is called when the first request
    is needed: a dataset without failures needs no endpoint.
    """
    opened: list[Run] = []
    opening = threading.Lock()  # rows begin on several threads

    def begin(item: tuple[Row, Rows, int]) -> Held[Row]:
        row, rows, index = item
        kept_size = rows.row_size if kept else 0
        if row.answer_status not in FAILED:
            return Held(row, kept_size + _pictures_size(row, ()))
        picture = functools.partial(read_picture, plan, rows, index)
        questions = make_questions(row, plan, rows, index, picture)
        size = kept_size + _pictures_size(row, questions)
        if not questions:
            return Held(row, size)
        with opening:
            opened[:] = opened or [run().another()]
        return Held(ask(row, plan, questions, opened[0]), size)

    window = Window[tuple[Row, Rows, int], Row](work, begin, **_bounds(plan.options))
    yield from _checked(window, plan, lambda: opened[0] if opened else None)


def ask(row: Row, plan: Plan, questions: Sequence[Question], run: Run | None) -> Future[Row] | Row:
    """Start the dialogues of a row; a row with nothing to ask is done at once.

    Captions that the row has already are kept: only the other regions are asked for.
    """
    known = {
        region: row.region_captions[place]
        for region, place in enumerate(row.used, 1)
        if place < len(row.region_captions) and row.region_captions[place]
    }
    row.region_captions = row.region_captions or [None] * len(row.box_status)
    if not questions or run is None:
        row.usage = dict(dialogue.NO_USAGE)
        row.answer_status, row.answer_error = unasked_status(row, plan)
        return row
    options = plan.options
    missing = [_still_missing(question, known) for question in questions]
    dialogues = [
        dialogue.follow_up(question, reask=options.reask, parse=options.parse)
        for question in missing
        if question is not None
    ]
    return then(run.submit(dialogues), lambda outcomes: fill_answers(row, plan, outcomes))


def _still_missing(question: Question, known: Mapping[int, Any]) -> Question | None:
    """The question for those of its regions that have no caption yet."""
    missing = [region for region in question.regions if region not in known]
    if len(missing) == len(question.regions):
        return question
    return question.only(missing) if missing else None


def fill_answers(row: Row, plan: Plan, outcomes: Sequence[Outcome]) -> Row:
    """Put what was heard into the row's columns, captions in the places of their boxes.

    A row that is asked again keeps the captions, texts and tokens of before.
    """
    before = _before(row) if row.usage else None
    heard = dialogue.row_answer(outcomes, len(row.used), per_region=plan.per_region, before=before)
    for place, caption in zip(row.used, heard.captions, strict=True):
        row.region_captions[place] = caption
    row.answer, row.usage = heard.answer, heard.usage
    row.answer_status, row.answer_error = heard.status, heard.error
    return row


def _before(row: Row) -> Outcome:
    """What an earlier run has heard about the row."""
    before = dialogue.Outcome(regions=())
    for region, place in enumerate(row.used, 1):
        if caption := row.region_captions[place]:
            before.captions[region] = caption
    tokens = row.usage["prompt_tokens"], row.usage["completion_tokens"]
    if row.answer:
        before.texts.append(row.answer)
    if row.answer or tokens != (None, None):
        before.new.append(tokens)
    return before


def _checked(
    window: Window[Any, Row], plan: Plan, opened: Callable[[], Run | None]
) -> Iterator[Row]:
    """Hand rows on; where the run stops, those in flight are heard and kept first."""
    raising = plan.options.on_error == "raise"
    interrupted = EndpointError("the run was interrupted")  # made while the module is whole
    try:
        with window:
            for number, row in enumerate(window):
                if raising and row.answer_status in FAILED:
                    raise EndpointError(
                        f"row {number}: {row.answer_status}: {row.answer_error} (on_error='raise')"
                    )
                yield row
    except Exception:
        if (run := opened()) is not None:
            run.drain()
        raise
    except BaseException:  # Ctrl-C, or whoever takes the rows has left: nothing more is sent
        if (run := opened()) is not None:
            run.stop(interrupted)
        raise
