"""Where the numbers of regions go: rectangles in, rectangles out, nothing is drawn here."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
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
_ANCHOR_X = np.array([anchor[0] for anchor in _ANCHORS])
_ANCHOR_Y = np.array([anchor[1] for anchor in _ANCHORS])
_ANCHOR_COST = np.array([anchor[2] for anchor in _ANCHORS])
#: The place that a mark can ask for, and how gladly it is taken: the corner even where it hides a
#: small box, as DataFlow-MM's program does, the center not.
_WANTED = {"corner": (1, 100.0), "center": (18, 0.6)}
#: What a place may cost before one further off is looked for.
_DEAR = 0.9


def place_labels(
    frames: Ints, label_wh: Ints, size_wh: tuple[int, int], *, at: str = "auto", join: int = 0
) -> Ints:
    """Place a label for each frame, both xyxy half open, (N, 4): in the image, none on another.

    Greedy, from the smallest frame up: the cheapest free place that touches the frame; if that
    would hide too much, one with a leader line. Only where the image has no free place at all do
    labels overlap. `join` is how far a label reaches into its frame.
    """
    scene = _Scene(clipped(frames, size_wh), label_wh.astype(np.float64), size_wh, join)
    anchored = scene.anchored()
    costs = scene.costs(anchored, np.arange(len(frames))) + _ANCHOR_COST
    if at in _WANTED:
        anchor, gladly = _WANTED[at]
        costs[:, anchor] -= gladly
    places = np.zeros_like(frames)
    taken: list[Span] = []
    for k in np.argsort(areas(scene.frames), kind="stable").tolist():
        place = scene.place(k, anchored[k], costs[k], taken)
        places[k] = place
        taken += [place, *along_leader(place, scene.frame(k))]
    return places


class _Scene(NamedTuple):
    """What labels are placed among: frames (N, 4), label sizes (N, 2), the image's size."""

    frames: Floats
    label_wh: Floats
    size_wh: tuple[int, int]
    join: int

    def frame(self, k: int) -> Span:
        return span(self.frames[k])

    def rects(self, left: Floats, top: Floats, wh: Floats) -> Floats:
        """Labels (..., 4) at these corners, moved into the image."""
        left = np.maximum(np.minimum(np.floor(left), self.size_wh[0] - wh[..., 0]), 0)
        top = np.maximum(np.minimum(np.floor(top), self.size_wh[1] - wh[..., 1]), 0)
        return np.stack([left, top, left + wh[..., 0], top + wh[..., 1]], axis=-1)

    def anchored(self) -> Floats:
        """All places that touch the frames, (N, A, 4)."""
        x0, y0, x1, y1 = self.frames.T
        width, height = self.label_wh.T
        join = np.full(len(self.frames), float(self.join))
        left = np.stack([x0, x1, width, join], axis=1) @ _ANCHOR_X.T
        top = np.stack([y0, y1, height, join], axis=1) @ _ANCHOR_Y.T
        return self.rects(left, top, self.label_wh[:, None])

    def costs(self, places: Floats, own: Ints) -> Floats:
        """What labels at `places` (M, K, 4) of the frames `own` (M,) hide and confuse, (M, K)."""
        rows = np.arange(len(own))
        # A label that reaches over a frame's casing, its own or of a box next door, hides nothing.
        sides = self.frames[:, 2:] - self.frames[:, :2]
        margin = np.minimum(2 * self.join + 1, sides.min(axis=1) / 4)
        inner = self.frames + margin[:, None] * [1, 1, -1, -1]
        shared = overlap(places[:, :, None], inner)
        covering = shared / areas(places)[:, :, None]
        hidden = shared / areas(inner)
        hidden[rows, :, own] *= 0.6
        crossing = (shared > 0) & (covering < 0.999)
        # In another region a label may be read as its number, unless that holds the own one too.
        mistaken = np.where(_contains(self.frames, self.frames[own])[:, None], 0.0, covering)
        cost: Floats = (8 * hidden + 0.12 * crossing + 0.1 * mistaken).sum(axis=-1)
        return cost

    def place(self, k: int, anchored: Floats, costs: Floats, taken: list[Span]) -> Span:
        """The best free place for label k."""
        best, cost = self.first_free(k, anchored, costs, taken)
        if cost > _DEAR:
            further, further_costs = self.further(k)
            other, other_cost = self.first_free(k, further, further_costs, taken)
            best = other if other_cost < cost else best
        return best or self.anywhere(k, taken)

    def first_free(
        self, k: int, places: Floats, costs: Floats, taken: list[Span]
    ) -> tuple[Span | None, float]:
        """The cheapest of `places` (K, 4) that is free, its leader line too, and its cost."""
        frame = self.frame(k)
        for a in costs.argsort(kind="stable").tolist():
            place = span(places[a])
            if is_free(place, taken) and all(
                is_free(bit, taken) for bit in along_leader(place, frame)
            ):
                return place, float(costs[a])
        return None, np.inf

    def further(self, k: int) -> tuple[Floats, Floats]:
        """Places (K, 4) on rings around the frame, from just inside it on, and their costs."""
        x0, y0, x1, y1 = self.frames[k]
        wh = self.label_wh[k]
        gaps = np.repeat(_RING_GAPS, len(_RING))
        steps = np.where(gaps[:, None] < 0, gaps[:, None] * wh, gaps[:, None] * wh[1])
        half = np.array([x1 - x0 + wh[0], y1 - y0 + wh[1]]) / 2
        reach = np.tile(_RING, (len(_RING_GAPS), 1)) * (half + steps)
        left = (x0 + x1 - wh[0]) / 2 + reach[:, 0]
        top = (y0 + y1 - wh[1]) / 2 + reach[:, 1]
        places = self.rects(left, top, np.tile(wh, (len(gaps), 1)))
        return places, self.costs_with_leader(k, places)

    def costs_with_leader(self, k: int, places: Floats) -> Floats:
        """What any places (K, 4) cost label k, (K,): the further from its frame, the more."""
        x0, y0, x1, y1 = self.frames[k]
        across = np.maximum(x0 - places[:, 2], places[:, 0] - x1).clip(min=0)
        down = np.maximum(y0 - places[:, 3], places[:, 1] - y1).clip(min=0)
        away = np.hypot(across, down) / self.label_wh[k, 1]
        leader = np.where(away > 0, 0.4 + 0.2 * away, 0.15)
        costs: Floats = self.costs(places[None], np.array([k]))[0] + leader
        return costs

    def anywhere(self, k: int, taken: list[Span]) -> Span:
        """The best free place on a grid over the image, or else the one that hides least labels."""
        wh = self.label_wh[k]
        columns, rows = (
            np.arange(0, max(side - length, 0) + 1, max(1, length // 2))
            for side, length in zip(self.size_wh, wh.tolist(), strict=True)
        )
        left, top = (axis.ravel() for axis in np.meshgrid(columns, rows))
        places = self.rects(left, top, np.tile(wh, (left.size, 1)))
        costs = self.costs_with_leader(k, places)
        best, _cost = self.first_free(k, places, costs, taken)
        if best is not None:
            return best
        over = overlap(places[:, None], np.array(taken).reshape(-1, 4)).sum(axis=-1)
        return span(places[np.lexsort((costs, over))[0]])


#: Sixteen directions to the rim of a square, and the gaps, in label heights, at which labels are
#: tried in them: -1 is inside the frame.
_RING = np.array(
    [(x / 2, y / 2) for y in range(-2, 3) for x in range(-2, 3) if max(abs(x), abs(y)) == 2]
)
_RING_GAPS = np.array([-1.0, 0.0, 0.8, 1.6, 2.8, 4.5])


def areas(rects: Floats) -> Floats:
    """Areas of rectangles (..., 4)."""
    areas: Floats = (rects[..., 2] - rects[..., 0]) * (rects[..., 3] - rects[..., 1])
    return areas


def overlap(a: Floats, b: Floats) -> Floats:
    """Shared area of rectangles (..., 4), broadcast against each other."""
    width = np.minimum(a[..., 2], b[..., 2]) - np.maximum(a[..., 0], b[..., 0])
    height = np.minimum(a[..., 3], b[..., 3]) - np.maximum(a[..., 1], b[..., 1])
    shared: Floats = np.maximum(width, 0) * np.maximum(height, 0)
    return shared


def _contains(outer: Floats, inner: Floats) -> NDArray[np.bool_]:
    """Whether each of `inner` (M, 4) lies in each of `outer` (N, 4), (M, N)."""
    sign = np.array([1, 1, -1, -1])
    held: NDArray[np.bool_] = ((inner * sign)[:, None] >= outer * sign).all(axis=-1)
    return held


def clipped(rects: Ints, size_wh: tuple[int, int]) -> Floats:
    """Rectangles (N, 4) cut to the image."""
    return rects.clip(0, [*size_wh, *size_wh]).astype(np.float64)


def span(rect: Floats) -> Span:
    """One rectangle as plain numbers."""
    x0, y0, x1, y1 = rect.tolist()
    return x0, y0, x1, y1


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
    steps = np.linspace(0, 1, max(2, int(np.hypot(to_x - x, to_y - y) / (2 * half)))).tolist()
    centers = [(x + (to_x - x) * step, y + (to_y - y) * step) for step in steps]
    return [(cx - half, cy - half, cx + half, cy + half) for cx, cy in centers]
