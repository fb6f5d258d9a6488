"""When requests may leave: the gate against endpoints of many kinds, in simulated time."""

from __future__ import annotations

import heapq
import math
import random
from collections import deque
from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import NamedTuple, Protocol

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hf_regioncap.gate import Gate

# --- endpoints --------------------------------------------------------------------------------


class Server(Protocol):
    def takes(self, now: float, chance: random.Random) -> bool: ...


class Free:
    def takes(self, now: float, chance: random.Random) -> bool:
        return True


class Bucket:
    """Permits `rate` a second and `burst` at once; `changes` are (time, rate, burst)."""

    def __init__(
        self, rate: float, burst: float, changes: Sequence[tuple[float, float, float]] = ()
    ) -> None:
        self.rate, self.burst, self.changes = rate, burst, deque(changes)
        self.tokens, self.at = burst, 0.0

    def takes(self, now: float, chance: random.Random) -> bool:
        if self.changes and now >= self.changes[0][0]:
            _, self.rate, self.burst = self.changes.popleft()
        self.tokens = min(self.burst, self.tokens + (now - self.at) * self.rate)
        self.at = now
        if self.tokens < 1:
            return False
        self.tokens -= 1
        return True


class PerWindow:
    """Permits `count` in every `seconds` by the clock, as "60 requests per minute" may mean."""

    def __init__(self, count: int, seconds: float) -> None:
        self.count, self.seconds = count, seconds
        self.window, self.taken = -1, 0

    def takes(self, now: float, chance: random.Random) -> bool:
        if now // self.seconds != self.window:
            self.window, self.taken = int(now // self.seconds), 0
        self.taken += 1
        return self.taken <= self.count


class Moody:
    """Refuses a share of the requests for no reason."""

    def __init__(self, share: float) -> None:
        self.share = share

    def takes(self, now: float, chance: random.Random) -> bool:
        return chance.random() >= self.share


# --- workers, as the client has them ----------------------------------------------------------


class Run(NamedTuple):
    seconds: float
    sent: list[float]
    refused: list[float]
    answered: list[float]
    lost: int
    gates: list[Gate]

    @property
    def share(self) -> float:
        return len(self.refused) / len(self.sent)

    def rate(self, begin: float, end: float) -> float:
        return sum(begin <= at < end for at in self.answered) / (end - begin)


def one_second(chance: random.Random) -> float:
    return 1.0


def twenty_ms(chance: random.Random) -> float:
    return 0.02


def slow(chance: random.Random) -> float:
    return chance.uniform(3, 6)


def simulate(
    server: Server,
    *,
    rows: int = 600,
    workers: int = 64,
    latency: Callable[[random.Random], float] = one_second,
    feedback: float = 0.01,
    retry_after: float | None = None,
    processes: int = 1,
    seed: int = 0,
) -> Run:
    """Ask `rows` questions through a gate for each process; a refused one backs off, six tries."""
    chance = random.Random(seed)
    events: list[tuple[float, int, str, int, tuple[float, bool, int]]] = []
    gates = [Gate() for _ in range(processes)]
    queues: list[deque[int]] = [deque() for _ in range(processes)]
    free, polling = [workers] * processes, [False] * processes
    run = Run(0.0, [], [], [], 0, gates)
    lost, count, now = 0, 0, 0.0

    def at(
        time: float, what: str, who: int, *, of: tuple[float, bool, int] = (0, False, 0)
    ) -> None:
        nonlocal count
        count += 1
        heapq.heappush(events, (time, count, what, who, of))

    def ask(who: int) -> None:
        if queues[who] and free[who] and not polling[who]:
            polling[who] = True
            at(now, "poll", who)

    for row in range(rows):
        at(row / 2000, "row", row % processes)  # drawn as fast as it goes
    while events and len(run.answered) + lost < rows:
        now, _, what, who, (sent_at, taken, tries) = heapq.heappop(events)
        assert now < 10_000, "the gate does not let anything through any more"
        if what == "row":
            queues[who].append(tries)
        elif what == "poll":
            polling[who] = False
            if not queues[who] or not free[who]:
                continue
            wait = gates[who].wait(now)
            if wait:
                polling[who] = True
                at(now + wait + chance.uniform(0, 0.001), "poll", who)
                continue
            tries = queues[who].popleft()
            free[who] -= 1
            run.sent.append(now)
            taken = server.takes(now, chance)
            takes = latency(chance) if taken else feedback * chance.uniform(0.5, 1.5)
            at(now + takes, "back", who, of=(now, taken, tries))
        else:
            free[who] += 1
            if taken:
                gates[who].answered(now, sent_at)
                run.answered.append(now)
            else:
                gates[who].refused(now, sent_at, retry_after)
                run.refused.append(now)
                lost += tries == 5
                if tries < 5:
                    grown = 0.25 * 2 ** (tries + 1) * chance.uniform(0.5, 1)
                    again = grown if retry_after is None else retry_after + chance.uniform(0, 0.1)
                    at(now + again, "row", who, of=(0, False, tries + 1))
        ask(who)
    return run._replace(seconds=now, lost=lost)


# --- limits -----------------------------------------------------------------------------------


@pytest.mark.parametrize("latency", [one_second, twenty_ms, slow])
@pytest.mark.parametrize("burst", [1, 10, 20])
def test_ten_a_second_for_64_workers(burst: int, latency: Callable[[random.Random], float]) -> None:
    for seed in range(2):
        run = simulate(Bucket(10, burst), latency=latency, seed=seed)
        assert run.lost == 0
        assert run.share <= 0.023
        assert run.rate(10, 50) >= 9.0


@pytest.mark.parametrize("retry_after", [0.1, 1.0, 20.0])
def test_what_one_request_is_told_to_wait_is_not_meant_for_all(retry_after: float) -> None:
    run = simulate(Bucket(10, 10), retry_after=retry_after)
    assert run.lost == 0
    assert run.share <= 0.023
    assert run.rate(10, 50) >= 9.0


@pytest.mark.parametrize("feedback", [0.05, 0.1, 0.2])
def test_refusals_that_come_late(feedback: float) -> None:
    run = simulate(Bucket(10, 10), feedback=feedback)
    assert run.share <= 0.03 + 0.2 * feedback  # those that were under way when the first came back
    assert run.rate(10, 50) >= 9.0


@pytest.mark.parametrize("burst", [1, 3, 10])
def test_a_limit_that_is_cut_on_the_way(burst: int) -> None:
    run = simulate(Bucket(10, burst, [(20, 3, burst)]))
    assert run.lost == 0
    assert run.share <= 0.03
    assert run.rate(35, 120) >= 0.88 * 3


@pytest.mark.parametrize(("rate", "workers"), [(3, 64), (50, 512), (100, 128)])
def test_other_rates(rate: float, workers: int) -> None:
    latency = slow if rate == 50 else one_second
    run = simulate(Bucket(rate, rate), workers=workers, latency=latency, rows=int(80 * rate))
    assert run.lost == 0
    assert run.share <= 0.04
    assert run.rate(20, 70) >= 0.85 * rate


def test_a_limit_above_what_the_workers_can_do_is_no_limit() -> None:
    run = simulate(Bucket(50, 50), latency=slow, rows=1200)
    assert run.share <= 0.01
    assert run.rate(10, 60) >= 0.95 * 64 / 4.5


def test_a_limit_that_is_lifted_is_found_again() -> None:
    run = simulate(Bucket(10, 10, [(30, 1000, 1000)]), rows=2000)
    assert run.seconds < 120  # 200 at the old limit
    assert run.share <= 0.01
    run = simulate(Bucket(3, 3, [(30, 200, 200)]), rows=900, latency=slow)
    assert run.seconds < 150  # 300 at the old limit


def test_an_outage() -> None:
    run = simulate(Bucket(1000, 1000, [(20, 1e-9, 1), (50, 1000, 1000)]), rows=3000)
    assert run.lost == 0
    assert len(run.refused) <= 30  # hardly anybody knocks at a closed door
    assert run.seconds < 250
    run = simulate(Bucket(10, 10, [(20, 1e-9, 1), (30, 10, 10)]), rows=700)
    assert run.lost == 0
    assert run.rate(60, 80) >= 8


@pytest.mark.parametrize(
    ("count", "seconds", "share"), [(60, 60, 0.2), (600, 60, 0.03), (20, 2, 0.2)]
)
def test_limits_by_the_clock(count: int, seconds: float, share: float) -> None:
    run = simulate(PerWindow(count, seconds), rows=4 * count)
    assert run.lost == 0
    assert run.share <= share
    assert run.seconds <= 6 * seconds + 10


def test_processes_that_share_a_limit() -> None:
    run = simulate(Bucket(10, 10), processes=2)
    assert run.lost == 0
    assert run.share <= 0.06
    assert run.seconds <= 110
    assert simulate(Bucket(100, 100), processes=4, rows=3000).share <= 0.06


# --- no limits --------------------------------------------------------------------------------


def test_without_refusals_nothing_is_held_back() -> None:
    run = simulate(Free(), rows=3000, workers=128, latency=twenty_ms)
    assert run.seconds < 2
    assert run.gates[0].rate(run.seconds) is None
    assert simulate(Free(), rows=256, workers=128).seconds < 3


@pytest.mark.parametrize(
    ("share", "latency", "seconds"),
    [
        (0.01, twenty_ms, 60),
        (0.03, twenty_ms, 120),
        (0.1, twenty_ms, 150),
        (0.3, twenty_ms, 200),
        (0.03, one_second, 150),
        (0.1, one_second, 300),
        (0.3, one_second, 300),
    ],
)
def test_refusals_that_have_nothing_to_do_with_the_rate(
    share: float, latency: Callable[[random.Random], float], seconds: float
) -> None:
    for seed in range(3):
        run = simulate(Moody(share), rows=2000, workers=32, latency=latency, seed=seed)
        assert run.seconds < seconds
        assert run.share < 1.3 * share + 0.01


# --- one event at a time ----------------------------------------------------------------------


def test_a_new_gate_is_open() -> None:
    gate = Gate()
    assert gate.wait(0.0) == 0.0
    assert gate.rate(0.0) is not None  # only the very first requests are spaced
    assert 0 < gate.wait(0.0) < 0.02


def test_the_first_requests_leave_one_by_one() -> None:
    gate, now, sent = Gate(), 0.0, []
    while len(sent) < 64:
        wait = gate.wait(now)
        if not wait:
            sent.append(now)
        now += wait
    assert 0.2 < sent[-1] < 0.6
    assert sent[10] - sent[0] > 0.05


def test_on_this_machine_the_first_requests_leave_sooner() -> None:
    def left(gate: Gate, count: int) -> float:
        now = 0.0
        for _ in range(count):
            while wait := gate.wait(now):
                now += wait
        return now

    near, far = left(Gate(near=True), 128), left(Gate(), 128)
    assert 0 < near < far / 3


def test_a_refusal_sets_a_rate() -> None:
    gate = Gate()
    assert gate.wait(0.0) == 0.0
    gate.refused(0.1, 0.0)
    assert gate.rate(0.1) == 5.0
    assert gate.wait(0.1) == pytest.approx(0.2, abs=0.01)


def test_the_rate_does_not_climb_far_beyond_what_is_sent() -> None:
    gate = Gate()
    gate.wait(0.0)
    gate.refused(0.1, 0.0)
    assert gate.rate(1000.0) == 20.0  # nobody has asked for more
    now, sent = 1000.0, 0
    while now < 1010:
        wait = gate.wait(now)
        sent += not wait
        now += wait
    assert sent > 500  # and who does gets more, the sooner the more is sent


def test_nothing_but_refusals_holds_everybody_for_ever_longer() -> None:
    gate, now, holds = Gate(), 0.0, []
    for _ in range(14):
        while wait := gate.wait(now):
            now += wait
        sent_at, now = now, now + 0.01
        gate.refused(now, sent_at)
        holds.append(gate.wait(now))
    assert max(holds[:4]) < 1
    assert all(later > earlier for earlier, later in pairwise(holds[6:12]))
    assert holds[-1] == 60.0


def test_retry_after_shortens_a_hold_and_never_makes_it_longer() -> None:
    for retry_after, longest in ((0.5, 0.5), (600.0, 60.0)):
        gate, now = Gate(), 0.0
        for _ in range(14):
            while wait := gate.wait(now):
                now += wait
            gate.refused(now + 0.01, now, retry_after)
            now += 0.01
        assert gate.wait(now) <= max(longest, 5.0)  # 5.0: one request at the lowest rate


def test_after_a_hold_one_tries_for_all() -> None:
    gate, now = Gate(), 0.0
    for _ in range(10):
        while wait := gate.wait(now):
            now += wait
        gate.refused(now + 0.01, now)
        now += 0.01
    while wait := gate.wait(now):
        now += wait
    assert gate.wait(now) > 1.0
    gate.answered(now + 0.5, now)
    following = now + 0.5
    while wait := gate.wait(following):
        following += wait
    assert following - now < 15  # and when it got through, the others follow


def test_an_old_answer_does_not_end_a_hold() -> None:
    gate = Gate()
    gate.wait(0.0)
    gate.wait(1.0)
    for now in (2.0, 3.0, 4.0):
        while gate.wait(now):
            now += 0.05
        gate.refused(now, now)
    before = gate.wait(now)
    gate.answered(now, 0.0)  # sent long before the trouble began
    assert gate.wait(now) == before


def test_a_lone_timeout_is_no_limit() -> None:
    gate = Gate()
    for number in range(100):
        gate.wait(10.0 + number)
    gate.timed_out(200.0, 60.0)
    rate = gate.rate(200.0)
    assert rate is not None
    assert rate > 100
    for sent_at in (61.0, 62.0, 63.0):
        gate.timed_out(200.0, sent_at)
    rate = gate.rate(200.0)
    assert rate is not None
    assert rate < 100


def test_a_long_run_does_not_fill_the_memory() -> None:
    gate, now = Gate(), 0.0
    for number in range(30_000):
        gate.wait(now)
        if number % 3 == 0:
            gate.timed_out(now + 0.01, now)
        now += 0.5
    assert sum(len(value) for value in vars(gate).values() if isinstance(value, list)) < 20_000


events = st.lists(
    st.tuples(
        st.sampled_from(["wait", "wait", "answered", "refused", "timed_out"]),
        st.floats(0, 30),
        st.floats(0, 200),
        st.none() | st.floats(0, 1e6),
    ),
    max_size=60,
)


@settings(max_examples=200)
@given(events)
def test_whatever_happens_the_gate_opens_again(
    happens: list[tuple[str, float, float, float]],
) -> None:
    gate, now = Gate(), 1000.0
    for what, later, ago, retry_after in happens:
        now += later
        if what == "wait":
            assert 0 <= gate.wait(now) <= 60.0
        elif what == "answered":
            gate.answered(now, now - ago)
        elif what == "refused":
            gate.refused(now, now - ago, retry_after)
        else:
            gate.timed_out(now, now - ago)
        rate = gate.rate(now)
        assert rate is None or (rate >= 0.2 and math.isfinite(rate))
    for _ in range(10):
        wait = gate.wait(now)
        if not wait:
            return
        now += wait
    raise AssertionError("the gate stays closed")
