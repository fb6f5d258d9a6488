"""What people should be told of the rows: images that cannot be read, boxes that are not used."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from hf_regioncap.captioning import FAILED
from hf_regioncap.options import Options
from hf_regioncap.rows import Row

#: Not what a budget has left out: that was asked for.
_FAILED_WHEN_ASKED = tuple(status for status in FAILED if status != "skipped_budget")
#: So many images have to be unreadable before that is more than their own fault.
_ENOUGH = 10
_BOXES = {
    "too_small": "too small",
    "outside": "outside their image",
    "invalid_order": "with corners or sizes the wrong way round",
    "invalid_value": "not four numbers",
}


def remarks(
    image_status: Mapping[str, int],
    box_status: Mapping[str, int],
    *,
    max_boxes: int,
    at_least: float = 0.0,
) -> list[str]:
    """Say how many images cannot be read and how many boxes are not used, where there are any.

    Faults of single images and boxes are said where they are of `at_least` that share of them.

    >>> remarks({"ok": 1, "image_missing": 3}, {"ok": 10, "over_limit": 15}, max_boxes=10)
    ['3 of 4 images cannot be read (3 image_missing)',
     '15 of 25 boxes are beyond max_boxes=10 of their image and get no caption']
    """
    told = []
    images, boxes = sum(image_status.values()), sum(box_status.values())
    bad = {status: count for status, count in image_status.items() if status != "ok"}
    if bad and sum(bad.values()) >= at_least * images:
        which = ", ".join(f"{count:,} {status}" for status, count in sorted(bad.items()))
        told.append(f"{sum(bad.values()):,} of {images:,} images cannot be read ({which})")
    if over := box_status.get("over_limit", 0):
        told.append(
            f"{over:,} of {boxes:,} boxes are beyond max_boxes={max_boxes} of their image and get "
            "no caption"
        )
    unused = {status: count for status, count in box_status.items() if status in _BOXES and count}
    if unused and sum(unused.values()) >= at_least * boxes:
        which = ", ".join(f"{count:,} {_BOXES[status]}" for status, count in unused.items())
        told.append(f"{sum(unused.values()):,} of {boxes:,} boxes cannot be used: {which}")
    return told


def batch_remarks(
    done: Iterable[Row], options: Options, *, boxes_are_new: bool, prompts_are_new: bool
) -> list[str]:
    """The same of one batch of a map, without numbers: Python shows the same words once.

    Said by the function that adds the boxes or the prompts, not by those after it.

    >>> row = Row(box_status=["ok", "over_limit"])
    >>> batch_remarks([row], Options(max_boxes=1), boxes_are_new=True, prompts_are_new=True)
    ['boxes are beyond max_boxes=1 of their image and get no caption']
    """
    told, rows = [], list(done)
    if boxes_are_new and any("over_limit" in row.box_status for row in rows):
        told.append(
            f"boxes are beyond max_boxes={options.max_boxes} of their image and get no caption"
        )
    bad = {row.image_status for row in rows} - {"ok"}
    if boxes_are_new and len(rows) >= _ENOUGH and all(row.image_status in bad for row in rows):
        told.append(f"no image of a batch can be read ({', '.join(sorted(bad))})")
    if prompts_are_new and any(row.labels_unread for row in rows):
        told.append(
            f"labels of label_column {options.label_column!r} cannot be read and are not "
            "in the prompts"
        )
    return told


@dataclass
class Outcomes:
    """How rows ended, added up one by one; what of it a run says when it is done."""

    rows: int = 0
    failed: int = 0
    asked: int = 0
    statuses: Counter[str] = field(default_factory=Counter)
    reasons: dict[str, str | None] = field(default_factory=dict)
    images: Counter[str] = field(default_factory=Counter)
    boxes: Counter[str] = field(default_factory=Counter)
    labels_unread: int = 0
    label_unread: str = ""  # the first

    def add(self, row: Row) -> None:
        """Count a finished row."""
        status = row.answer_status
        self.rows += 1
        self.failed += status in FAILED
        self.statuses[status] += 1
        self.reasons.setdefault(status, row.answer_error)
        self.asked += status == "ok" or status in _FAILED_WHEN_ASKED
        self.images[row.image_status] += 1
        self.boxes.update(row.box_status)
        self.labels_unread += len(row.labels_unread)
        self.label_unread = self.label_unread or next(iter(row.labels_unread), "")

    def add_counted(self, summary: Mapping[str, Any]) -> None:
        """Count the rows that `card.summarize` has counted."""
        self.rows += summary["rows"]
        self.statuses.update(summary["answer_status"])
        self.failed += sum(summary["answer_status"].get(status, 0) for status in FAILED)
        self.asked += sum(summary["answer_status"].get(s, 0) for s in ("ok", *_FAILED_WHEN_ASKED))
        self.images.update(summary["image_status"])
        self.boxes.update(summary["box_status"])

    def labels(self, label_column: str | None) -> str | None:
        """Say how many labels are not in the prompts, where there are any."""
        if not self.labels_unread:
            return None
        return (
            f"{self.labels_unread:,} labels of label_column {label_column!r} cannot be read "
            f"and are not in the prompts, for example {self.label_unread}"
        )

    def failures(self, asked: int | None = None) -> str | None:
        """Say that most of the rows that were asked about have failed, where they have.

        `asked` is how many were, where rows that had their captions before are counted too.

        >>> outcomes = Outcomes()
        >>> outcomes.add_counted({"rows": 3, "answer_status": {"api_error": 2, "ok": 1},
        ...                       "image_status": {}, "box_status": {}})
        >>> outcomes.failures()
        '2 of 3 rows that were asked about failed, most with api_error'
        """
        asked = self.asked if asked is None else asked
        failed = {status: self.statuses[status] for status in _FAILED_WHEN_ASKED}
        count = sum(failed.values())
        if 2 * count <= asked:
            return None
        most = max(failed, key=lambda status: failed[status])
        reason = self.reasons.get(most)
        return f"{count:,} of {asked:,} rows that were asked about failed, most with {most}" + (
            f": {reason}" if reason else ""
        )
