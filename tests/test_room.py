"""How many requests are in flight at a server that works them off one after another."""

from __future__ import annotations

import heapq
import math

import pytest

from hf_regioncap.room import Room


def simulate(
    slots: int, seconds: float, timeout: float, concurrency: int, rows: int
) -> tuple[int, float]:
    """How many requests time out, and the time that all rows take, at a queue of its own.

    A request that has timed out leaves the queue and is asked again.
    """
    room, now = Room(timeout), 0.0
    waiting, out = rows, 0
    queue: list[float] = []  # when sent
    working: list[tuple[float, float]] = []  # when ready, when sent
    answered = 0
    while answered < rows:
        while waiting and len(queue) + len(working) < concurrency and not room.is_full:
            room.enter()
            queue.append(now)
            waiting -= 1
        while queue and len(working) < slots:
            sent = queue.pop(0)
            heapq.heappush(working, (now + seconds, sent))
        ready = working[0][0] if working else float("inf")
        gone = min([*queue, *(sent for _, sent in working)], default=now) + timeout
        now = min(ready, gone)
        if ready <= gone:
            _, sent = heapq.heappop(working)
            room.leave(now, sent)
            answered += 1
            continue
        for sent in [at for at in queue if at + timeout <= now]:
            queue.remove(sent)
            room.leave(now, sent, timed_out=True)
            out, waiting = out + 1, waiting + 1
        late = [each for each in working if each[1] + timeout <= now]
        for each in late:
            working.remove(each)
            room.leave(now, each[1], timed_out=True)
            out, waiting = out + 1, waiting + 1
        heapq.heapify(working)
    return out, now


@pytest.mark.parametrize("slots", [1, 2, 4])
def test_a_queue_that_is_longer_than_the_timeout_is_cut_once(slots: int) -> None:
    timed_out, took = simulate(slots, 0.6, timeout=6.0, concurrency=128, rows=300)
    assert timed_out <= 128 + 10  # those of the first rush, and hardly any after
    assert took < 1.3 * 300 * 0.6 / slots + 6


def test_who_answers_in_time_is_not_held_back() -> None:
    room = Room(timeout=120.0)
    for number in range(500):
        room.enter()
        room.leave(now=number + 10.0, sent_at=float(number))
    room.enter()
    room.leave(now=620.0, sent_at=500.0, timed_out=True)  # one that was lost
    assert not room.is_full
    assert room.most == math.inf


def test_a_server_that_was_slow_for_a_while_is_found_fast_again() -> None:
    room = Room(timeout=10.0)
    for _ in range(2):
        room.enter()
        room.leave(now=10.0, sent_at=0.0, timed_out=True)
    assert room.most == 1
    for number in range(600):
        room.enter()
        room.leave(now=11.0 + number, sent_at=10.9 + number)
    assert room.most > 32
