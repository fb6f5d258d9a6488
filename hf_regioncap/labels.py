"""Where the numbers of regions go: rectangles in, rectangles out, nothing is drawn here."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

Rect = tuple[int, int, int, int]
Span = tuple[float, float, float, float]

#: Places that touch a frame, best first. Each gives the label's left as a sum over (frame left,
#: frame right, label width, join) and its top likewise; then what it costs by itself.
_ANCHORS: tuple[tuple[tuple[float, ...], tuple[float, ...], float], ...] = (
    ((1, 0, 0, 0), (1, 0, -1, 1), 0.00),  # above, left
    ((1, 0, 0, 0), (1, 0, 0, 0), 0.02),  # inside, top left
    ((0, 1, -1, 0), (1, 0, -1, 1), 0.03),  # above, right
    ((1, 0, 0, 0), (0, 1, 0, -1), 0.04),  # below, left
    ((0, 1, -1, 0), (0, 1, 0, -1), 0.05),  # below, right
    ((1, 0, -1, 1), (1, 0, 0, 0), 0.06),  # left, top
    ((0, 1, 0, -1), (1, 0, 0, 0), 0.06),  # right, top
    ((1, 0, -1, 1), (0, 1, -1, 0), 0.07),  # left, bottom
    ((0, 1, 0, -1), (0, 1, -1, 0), 0.07),  # right, bottom
    ((0, 1, -1, 0), (1, 0, 0, 0), 0.05),  # inside, top right
    ((1, 0, 0, 0), (0, 1, -1, 0), 0.06),  # inside, bottom left
    ((0, 1, -1, 0), (0, 1, -1, 0), 0.07),  # inside, bottom right
    ((0.5, 0.5, -0.5, 0), (1, 0, -1, 1), 0.10),  # above, middle
    ((0.5, 0.5, -0.5, 0), (0, 1, 0, -1), 0.10),  # below, middle
    ((1, 0, -1, 1), (0.5, 0.5, -0.5, 0), 0.10),  # left, middle
    ((0, 1, 0, -1), (0.5, 0.5, -0.5, 0), 0.10),  # right, middle
    ((0.5, 0.5, -0.5, 0), (1, 0, 0, 0), 0.12),  # inside, top middle
    ((0.5, 0.5, -0.5, 0), (0, 1, -1, 0), 0.12),  # inside, bottom middle
    ((0.5, 0.5, -0.5, 0), (0.5, 0.5, -0.5, 0), 0.20),  # the center
)
_BY_COST = sorted(_ANCHORS, key=lambda anchor: anchor[2])
#: The place that a mark can ask for, and its preference: the corner even where it hides a small
#: box, as DataFlow-MM's program does, the center not.
_WANTED = {"corner": (_ANCHORS[1], 100.0), "center": (_ANCHORS[18], 0.6)}
#: What a place may cost before one further off is looked for.
_LEADER_COST = 0.9
#: Sixteen directions to the rim of a square, and the gaps, in label heights, at which labels are
#: tried in them: -1 is inside the frame.
_RING = [(x / 2, y / 2) for y in range(-2, 3) for x in range(-2, 3) if max(abs(x), abs(y)) == 2]
_RING_GAPS = (-1.0, 0.0, 0.8, 1.6, 2.8, 4.5)


def place_labels(
    frames: Sequence[Rect],
    label_wh: Sequence[tuple[int, int]],
    size_wh: tuple[int, int],
    *,
    at: str = "auto",
    join: int = 0,
) -> list[Rect]:
    """Place a label for each frame, both xyxy half open: in the image, none on another.

    Greedy, from the smallest frame up: the cheapest free place that touches the frame; if that
    would hide too much, one with a leader line. Only where the image has no free place at all do
    labels overlap. `join` is how far a label reaches into its frame. Frames lie in the image.

    >>> place_labels([(20, 30, 80, 90)], [(12, 12)], size_wh=(100, 100))
    [(20, 18, 32, 30)]
    """
    scene = _Scene(frames, [_inner(frame, join) for frame in frames], size_wh, join)
    order = sorted(range(len(frames)), key=lambda k: _area(frames[k]))
    places: dict[int, Rect] = {}
    taken: list[Span] = []
    for k in order:
        places[k] = scene.place(k, label_wh[k], at, taken)
        taken += [places[k], *along_leader(places[k], frames[k])]
    return [places[k] for k in range(len(frames))]


def _inner(frame: Rect, join: int) -> Span:
    """The part of a frame that a label can hide: on a casing it hides nothing."""
    x0, y0, x1, y1 = frame
    margin = min(2 * join + 1, (x1 - x0) / 4, (y1 - y0) / 4)
    return x0 + margin, y0 + margin, x1 - margin, y1 - margin


class _Scene(NamedTuple):
    """What labels are placed among: the frames, what of them can be hidden, the image's size."""

    frames: Sequence[Rect]
    inner: Sequence[Span]
    size_wh: tuple[int, int]
    join: int

    def place(self, k: int, wh: tuple[int, int], at: str, taken: list[Span]) -> Rect:
        """The best free place for label k."""
        best, cost = self.cheapest(k, self.touching(k, wh, at), taken)
        if cost > _LEADER_COST:
            further, further_cost = self.cheapest(k, sorted(self.around(k, wh), key=_first), taken)
            best = further if further_cost < cost else best
        return best or self.anywhere(k, wh, taken)

    def cheapest(
        self, k: int, places: Iterable[tuple[float, Rect]], taken: list[Span]
    ) -> tuple[Rect | None, float]:
        """The cheapest of these places that is free, its leader line too, and its cost.

        They come with what they cost by themselves, cheapest first. What a place hides comes on
        top, so that those that are dearer by themselves need not be looked at.
        """
        frame = self.frames[k]
        best, least = None, math.inf
        for own_cost, place in places:
            if own_cost >= least:
                break
            cost = own_cost + self.hides(k, place, least - own_cost)
            if (
                cost < least
                and is_free(place, taken)
                and all(is_free(bit, taken) for bit in along_leader(place, frame))
            ):
                best, least = place, cost
        return best, least

    def hides(self, own: int, place: Rect, enough: float) -> float:
        """What a label of frame `own` hides and confuses; counted up to `enough`."""
        x0, y0, x1, y1 = place
        cost = 0.0
        for k, (a0, b0, a1, b1) in enumerate(self.inner):
            if x0 >= a1 or a0 >= x1 or y0 >= b1 or b0 >= y1:
                continue
            shared = (min(x1, a1) - max(x0, a0)) * (min(y1, b1) - max(y0, b0))
            hidden = shared / ((a1 - a0) * (b1 - b0))
            covering = shared / ((x1 - x0) * (y1 - y0))
            cost += 8 * hidden * (0.6 if k == own else 1) + (0.12 if covering < 0.999 else 0)
            # In another region a label may be read as its number, unless that holds the own one.
            if not _contains(self.frames[k], self.frames[own]):
                cost += 0.1 * covering
            if cost >= enough:
                break
        return cost

    def inside(self, left: float, top: float, wh: tuple[int, int]) -> Rect:
        """A label at this corner, moved into the image."""
        x = max(min(math.floor(left), self.size_wh[0] - wh[0]), 0)
        y = max(min(math.floor(top), self.size_wh[1] - wh[1]), 0)
        return x, y, x + wh[0], y + wh[1]

    def touching(self, k: int, wh: tuple[int, int], at: str) -> Iterator[tuple[float, Rect]]:
        """All places that touch the frame, the wanted one first."""
        x0, y0, x1, y1 = self.frames[k]
        (width, height), join = wh, self.join
        anchors = _BY_COST
        if at in _WANTED:
            (across, down, cost), preference = _WANTED[at]
            anchors = [(across, down, cost - preference), *_BY_COST]
        for (a, b, c, d), (e, f, g, h), cost in anchors:
            left = a * x0 + b * x1 + c * width + d * join
            top = e * y0 + f * y1 + g * height + h * join
            yield cost, self.inside(left, top, wh)

    def around(self, k: int, wh: tuple[int, int]) -> Iterator[tuple[float, Rect]]:
        """Places on rings around the frame, from just inside it on."""
        x0, y0, x1, y1 = self.frames[k]
        half_w, half_h = (x1 - x0 + wh[0]) / 2, (y1 - y0 + wh[1]) / 2
        for gap in _RING_GAPS:
            step_x, step_y = (gap * wh[0], gap * wh[1]) if gap < 0 else (gap * wh[1],) * 2
            for x, y in _RING:
                left = (x0 + x1 - wh[0]) / 2 + x * (half_w + step_x)
                top = (y0 + y1 - wh[1]) / 2 + y * (half_h + step_y)
                place = self.inside(left, top, wh)
                yield self.leader_cost(k, place), place

    def leader_cost(self, k: int, place: Rect) -> float:
        """What a place costs by its distance from frame k."""
        x0, y0, x1, y1 = self.frames[k]
        across = max(x0 - place[2], place[0] - x1, 0)
        down = max(y0 - place[3], place[1] - y1, 0)
        away = math.hypot(across, down) / (place[3] - place[1])
        return 0.4 + 0.2 * away if away > 0 else 0.15

    def anywhere(self, k: int, wh: tuple[int, int], taken: list[Span]) -> Rect:
        """The best free place on a grid over the image, or else the one that hides least labels."""
        columns, rows = (
            range(0, max(side - length, 0) + 1, max(1, length // 2))
            for side, length in zip(self.size_wh, wh, strict=True)
        )
        grid = [self.inside(x, y, wh) for y in rows for x in columns]
        places = [(self.leader_cost(k, place), place) for place in grid]
        best, _cost = self.cheapest(k, sorted(places, key=_first), taken)
        if best is not None:
            return best
        return min(places, key=lambda each: (_overlap(each[1], taken), each[0]))[1]


def _first(place: tuple[float, Rect]) -> float:
    return place[0]


def _area(rect: Rect) -> int:
    return (rect[2] - rect[0]) * (rect[3] - rect[1])


def _overlap(rect: Rect, taken: list[Span]) -> float:
    """The area that a rectangle shares with those that are taken."""
    x0, y0, x1, y1 = rect
    return sum(
        max(min(x1, a1) - max(x0, a0), 0) * max(min(y1, b1) - max(y0, b0), 0)
        for a0, b0, a1, b1 in taken
    )


def _contains(outer: Rect, inner: Rect) -> bool:
    return (
        outer[0] <= inner[0]
        and outer[1] <= inner[1]
        and outer[2] >= inner[2]
        and outer[3] >= inner[3]
    )


def clipped(rect: Rect, size_wh: tuple[int, int]) -> Rect:
    """A rectangle cut to the image."""
    x0, y0, x1, y1 = rect
    width, height = size_wh
    return max(x0, 0), max(y0, 0), min(x1, width), min(y1, height)


def is_free(rect: Span, taken: list[Span]) -> bool:
    """Whether a rectangle touches none of those that are taken."""
    x0, y0, x1, y1 = rect
    for a0, b0, a1, b1 in taken:  # noqa: SIM110  # a generator under all() takes twice the time
        if x0 < a1 and a0 < x1 and y0 < b1 and b0 < y1:
            return False
    return True


def leader(label: Span, frame: Span) -> tuple[float, float, float, float] | None:
    """From a label's middle to the nearest point of its frame; None if they touch."""
    x0, y0, x1, y1 = frame
    if label[0] <= x1 and x0 <= label[2] and label[1] <= y1 and y0 <= label[3]:
        return None
    x, y = (label[0] + label[2]) / 2, (label[1] + label[3]) / 2
    return x, y, min(max(x, x0), x1 - 1), min(max(y, y0), y1 - 1)


def along_leader(label: Span, frame: Span) -> list[Span]:
    """Small squares along a leader line, which other labels must not cover."""
    line = leader(label, frame)
    if line is None:
        return []
    x, y, to_x, to_y = line
    half = (label[3] - label[1]) / 8
    count = max(2, int(math.hypot(to_x - x, to_y - y) / (2 * half)))
    steps = [step / (count - 1) for step in range(count)]
    centers = [(x + (to_x - x) * step, y + (to_y - y) * step) for step in steps]
    return [(cx - half, cy - half, cx + half, cy + half) for cx, cy in centers]
