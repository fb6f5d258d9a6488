"""The one edge to the world: asks the endpoint, keeps what was paid for, tries again, slows down.

Everything runs on one private event loop in a daemon thread per process, so that it works in a
script, in Jupyter, in a thread, after a fork and twice at once. The user's own loop is never
touched. A `Line` is one endpoint as this process sees it (connections, gate, what it takes), a
`Run` is one call of a column function or one captioned dataset (store, budget, counts).
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextlib
import os
import time
from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, NoReturn, ParamSpec, Protocol, TypeVar

from hf_regioncap import rejections, verdict, wire
from hf_regioncap.attempts import Attempts
from hf_regioncap.dialogue import Ask, Heard, Outcome, Reading, Tokens, read_answer
from hf_regioncap.endpoint import Endpoint
from hf_regioncap.errors import EndpointError, RegionCaptionError, StoreError
from hf_regioncap.home import home, orphaned
from hf_regioncap.line import Line
from hf_regioncap.options import Parse
from hf_regioncap.response import Completion, ending, read_completion
from hf_regioncap.store import AnswerStore, StoredAnswer
from hf_regioncap.store_file import GROUP_SECONDS
from hf_regioncap.threads import Threads
from hf_regioncap.transport import Reply

if TYPE_CHECKING:
    pass

_NO_REDIRECTS = "redirects are not followed, as they would carry images and key elsewhere"


_P = ParamSpec("_P")
_T = TypeVar("_T")
Dialogue = Generator[Ask, Heard, Outcome]


@dataclass
class Tally:
    """What a run has spent; `requests` counts everything that was sent.

    `rejections` are those in a row of the kind that is one row's own, or else the whole run's;
    `useless` counts the same error in place of an answer, `told_off` those in a row that were told
    to wait for too long, `given_up` the rows that were given up while nothing got through.
    """

    requests: int = 0
    rejections: int = 0
    useless: tuple[str, int] = ("", 0)
    told_off: int = 0
    given_up: int = 0
    answered: int = 0
    succeeded: int = 0
    from_store: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0
    unknown_usage: int = 0


@dataclass(frozen=True)
class Sent:
    """A request that has left: what came back, how it was said, and whether nothing got through.

    `blocked` tells of the moment before it was sent.
    """

    reply: Reply
    dialect: wire.Dialect
    blocked: bool


class Run:
    """One run of questions: where answers are kept, what may be spent, why to stop."""

    def __init__(
        self,
        endpoint: Endpoint,
        *,
        store: AnswerStore | None = None,
        parse: Parse | None = None,
        dialect: wire.Dialect | None = None,
        budget: Budget | None = None,
        tally: Tally | None = None,
    ) -> None:
        self.tally = tally or Tally()
        self._endpoint = endpoint
        self._store = store
        self._parse = parse
        self._first = dialect or wire.Dialect()
        self._budget = budget
        self._stopped: RegionCaptionError | None = None
        self._stopping = asyncio.Event()
        self._in_flight = 0
        self._asking: dict[str, asyncio.Future[Heard]] = {}
        self._unsaved: list[tuple[str, StoredAnswer, asyncio.Future[None]]] = []
        self._saving: asyncio.Task[None] | None = None
        self._saved_at = 0.0
        self._leaving: asyncio.Task[None] | None = None
        self._home = home()
        self._own = Threads(1, "regioncap-parse")  # for the user's callable
        import openai  # noqa: F401  # beside threads that draw it would take half as long again

        if store is not None:
            store.open()

    def another(self) -> Run:
        """A run that shares this one's budget and counts, but not what stops it."""
        return Run(
            self._endpoint,
            store=self._store,
            parse=self._parse,
            dialect=self._first,
            budget=self._budget,
            tally=self.tally,
        )

    def submit(self, dialogues: Sequence[Dialogue]) -> concurrent.futures.Future[list[Outcome]]:
        """Start the dialogues of one row; the future has their outcomes in order.

        The first questions are hashed here: the caller's thread has more time than the loop.
        """
        begun = [(dialogue, next(dialogue)) for dialogue in dialogues]
        keys = [ask.question.key for _, ask in begun]
        return self._home.start(self._converse(begun, keys))

    def stop(self, error: RegionCaptionError) -> None:
        """Send nothing more; what is in flight is still heard and kept."""
        if self._stopped is None:
            self._stopped = error
            self._home.call(self._stopping.set)

    def drain(self) -> None:
        """Wait until nothing is in flight any more, each for its timeout at most."""
        self.stop(EndpointError("the run was stopped"))
        deadline = time.monotonic() + self._endpoint.timeout + 5
        while self._in_flight and time.monotonic() < deadline:
            time.sleep(0.01)

    async def _converse(
        self, begun: Sequence[tuple[Dialogue, Ask]], keys: Sequence[str]
    ) -> list[Outcome]:
        line = self._home.line(self._endpoint)
        leads = [
            self._lead(line, dialogue, ask, key)
            for (dialogue, ask), key in zip(begun, keys, strict=True)
        ]
        return [await leads[0]] if len(leads) == 1 else list(await asyncio.gather(*leads))

    async def _lead(self, line: Line, dialogue: Dialogue, ask: Ask, key: str) -> Outcome:
        while True:
            heard = await self._once(line, ask, key)
            try:
                ask = dialogue.send(heard)
            except StopIteration as done:
                outcome: Outcome = done.value
                return outcome
            key = ask.question.key

    async def _once(self, line: Line, ask: Ask, key: str) -> Heard:
        """Ask, unless the same question is being asked already: then share what is heard."""
        asking = self._asking.get(key)
        if asking is not None:
            return await asyncio.shield(asking)
        asking = asyncio.get_running_loop().create_future()
        self._asking[key] = asking
        try:
            heard = await self._hear(line, ask, key)
        except BaseException as error:
            asking.set_exception(error)
            asking.exception()  # nobody may be waiting for it
            raise
        else:
            asking.set_result(heard)
            return heard
        finally:
            del self._asking[key]

    async def _hear(self, line: Line, ask: Ask, key: str) -> Heard:
        """The stored answer if it serves, else the endpoint's."""
        past = await self._aside(hear_from_store, self._store, ask, key, self._parse)
        stored, paid, ask = past
        if stored is not None:
            self.tally.from_store += 1
            return stored
        heard = await self._ask_endpoint(line, ask, key)
        reading = heard.reading
        if heard.completion is not None and reading is None:
            regions = ask.question.regions
            texts = ask.question.texts
            reading = await self._aside(read_answer, heard.completion, regions, self._parse, texts)
        return replace(heard, paid=paid + heard.paid, new=heard.paid, reading=reading)

    async def _aside(self, call: Callable[_P, _T], *args: _P.args, **kwargs: _P.kwargs) -> _T:
        """Call what may call the user's `parse`: that may take long, so it has its own thread.

        One thread, as it need not be safe in several.
        """
        if self._parse is None:
            return call(*args, **kwargs)
        return await asyncio.wrap_future(self._own.submit(call, *args, **kwargs))

    async def _ask_endpoint(self, line: Line, ask: Ask, key: str) -> Heard:
        """One loop for every retry that has to do with the network or the endpoint's state."""
        attempts = Attempts(ask.failures)
        try:
            while (heard := await self._attempt(line, ask, key, attempts)) is None:
                pass
        finally:
            attempts.end_guess()
        return replace(heard, failures=attempts.counted)

    async def _attempt(self, line: Line, ask: Ask, key: str, attempts: Attempts) -> Heard | None:
        """Send once; None where it is to be sent again."""
        trial = attempts.trial
        while trial is None and (guess := line.guess(ask.question.model, self._first)):
            await guess.wait()
        # The slot is held until the answer is on disk: whatever kills this process, no more
        # answers are lost than `concurrency`.
        async with line.slots.one_of(self._endpoint.concurrency):
            if trial is None and line.guess(ask.question.model, self._first):
                return None  # it has begun while this question waited for its turn
            ask = line.with_room(ask)
            sent = await self._send(line, ask, trial)
            if sent is None:
                return Heard(status="skipped_budget", reason=self._budget_words())
            try:
                if sent.reply.answers or self._reads(sent.reply, ask):
                    line.proven(ask.question.model)
                    heard = await self._keep(line, ask, key, sent.reply)
                    if heard.completion is not None and heard.completion.problem is None:
                        line.take(ask.question.model, self._first, sent.dialect)
                    return heard
            finally:
                self._in_flight -= 1
        self._check_alive()
        return await self._consider(line, ask, sent, attempts)

    async def _consider(self, line: Line, ask: Ask, sent: Sent, attempts: Attempts) -> Heard | None:
        """Judge a reply that is no answer; None where the question is to be sent again."""
        model, reply, used = ask.question.model, sent.reply, sent.dialect
        answered = line.has_answered(model, used)
        judged = verdict.judge(reply, used, answered=answered)
        if judged.kind == "learn" and judged.dialect is not None:
            if attempts.trial is not None:
                attempts.trial = judged.dialect
                return None
            line.learn(model, self._first, used, judged.dialect)
            line.probe_again(model)
            return None
        if judged.kind == "guess" and await self._guess(line, model, sent, judged, attempts):
            return None
        words = self._redacted(ask, reply)
        if judged.kind == "permanent":
            self._end(verdict.permanent_words(reply, words, self._endpoint))
        line.proven(model)
        if judged.kind == "refused":
            return Heard(status="api_refused", reason=words)
        if judged.kind == "row" or (judged.kind == "guess" and reply.status < 500):
            return self._reject(reply, words)
        if judged.kind in ("again", "reform"):
            attempts.change_form(judged)
        elif reply.status == 500 and not answered and attempts.seen >= 2:
            attempts.trial = wire.next_dialect(used, "response_format")  # some name no cause
        return await self._try_again(line, sent, attempts, words)

    async def _guess(
        self, line: Line, model: str, sent: Sent, judged: verdict.Verdict, attempts: Attempts
    ) -> bool:
        """Try another form where a rejection names no cause; one question tries it for all.

        False where no other form helps.
        """
        if attempts.guessing is not None:
            attempts.trial = judged.dialect
            return True
        if (model, sent.dialect) not in line.guesses:
            attempts.guessing = line.guesses[model, sent.dialect] = asyncio.Event()
            attempts.trial = judged.dialect
            return True
        await line.guesses[model, sent.dialect].wait()
        return line.dialect(model, self._first) != sent.dialect

    async def _try_again(
        self, line: Line, sent: Sent, attempts: Attempts, words: str
    ) -> Heard | None:
        """Wait for the next try; the row's failure where there is none, or the run's."""
        reply, now = sent.reply, time.time()
        is_turned_away = verdict.turned_away(reply)
        attempts.fail(blocked=sent.blocked and is_turned_away)
        if not is_turned_away and reply.status:
            attempts.end_guess()
        told = verdict.told_to_wait(reply, now)
        self.tally.told_off += told.too_long
        if told.daily or self.tally.told_off >= verdict.GIVEN_UP:
            self._end(verdict.limit_words(told, words, self._endpoint, now))
        if reply.unreachable and line.is_dead(time.monotonic()):
            self._end(verdict.unreachable_words(words, self._endpoint))
        shut_for = line.gate.shut_for(time.monotonic()) if is_turned_away else None
        wait = verdict.backoff(attempts.seen, told)
        if wait is None or attempts.are_used_up(shut_for):
            self.tally.given_up += shut_for is not None
            if shut_for is not None and self.tally.given_up >= verdict.GIVEN_UP:
                self._end(verdict.outage_words(words, self._endpoint, shut_for))
            return self._reject(reply, verdict.failure_words(words, attempts.seen))
        await self._pause(wait)
        return None

    def _reject(self, reply: Reply, words: str) -> Heard:
        """A row that cannot be answered, or the run where it has met nothing else."""
        self.tally.rejections += 1
        if not self.tally.succeeded and self.tally.rejections >= verdict.REJECTIONS:
            self._end(verdict.permanent_words(reply, words, self._endpoint))
        return Heard(status="api_error", reason=words)

    def _end(self, words: str) -> NoReturn:
        """Stop the run, for this question at once and for the others when they ask next."""
        self._stop(words)
        self._check_alive()
        raise AssertionError("a stopped run is not alive")

    def _stop(self, words: str) -> None:
        kept = " What was answered before is kept in the answer store." if self._store else ""
        self.stop(EndpointError(words + kept))

    def _reads(self, reply: Reply, ask: Ask) -> bool:
        """Whether a text that the endpoint did not accept as JSON has all captions (Groq)."""
        if reply.status != 400 or not rejections.failed_generation(reply.body) or self._parse:
            return False
        said = read_completion(reply.body)
        reading = read_answer(said, ask.question.regions, None, ask.question.texts)
        return set(ask.question.regions) <= set(reading.captions)

    async def _pause(self, seconds: float) -> None:
        """Sleep, but not on where the run has stopped."""
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._stopping.wait(), seconds)

    async def _send(self, line: Line, ask: Ask, trial: wire.Dialect | None) -> Sent | None:
        """Wait for the gate, then send: the only place where a request leaves.

        None where the budget has no room; otherwise the caller counts the request out of those in
        flight. The body is made as late as possible: many rows may wait for a slot.
        """
        if trial is None:
            await line.may_ask(ask.question.model)
        # Before the gate: without room nobody waits there.
        reserved, dialect = await self._reserve(line, ask, trial)
        if reserved is None:
            return None
        reply, sent_at = Reply(0), None
        try:
            while wait := line.wait(time.monotonic()):
                await self._pause(wait)
                self._check_alive()
            while trial is None and dialect != line.dialect(ask.question.model, self._first):
                # Learned meanwhile, and it may allow a longer answer.
                self._give_back(reserved)
                reserved = None
                reserved, dialect = await self._reserve(line, ask, trial)
                if reserved is None:
                    return None
            blocked = line.gate.shut_for(time.monotonic()) is not None
            self.tally.requests += 1
            self._in_flight += 1
            sent_at = time.monotonic()
            line.room.enter()
            reply = await line.post(wire.build_body(ask.question, dialect, ask.token_limit))
        except BaseException:
            if sent_at is not None:
                self._in_flight -= 1
                line.room.leave(time.monotonic(), sent_at)
            raise
        finally:
            if sent_at is None:
                self._give_back(reserved)
            elif self._budget is not None and reserved is not None:
                self._budget.settle(reserved, reply)
        line.note(reply, time.monotonic(), sent_at)
        return Sent(reply, dialect, blocked)

    async def _reserve(
        self, line: Line, ask: Ask, trial: wire.Dialect | None
    ) -> tuple[float | None, wire.Dialect]:
        """What the budget sets aside for a request, and how this is said; None without room.

        A request in flight holds its worst case and frees most of it: that is waited for.
        """
        self._check_alive()
        model = ask.question.model
        if self._budget is None:
            return 0.0, trial or line.dialect(model, self._first)
        while True:
            dialect = trial or line.dialect(model, self._first)
            reserved = self._budget.take(ask, dialect)
            if reserved is not None or not self._budget.may_free():
                return reserved, dialect
            await asyncio.sleep(0.02)
            self._check_alive()

    def _give_back(self, reserved: float | None) -> None:
        if self._budget is not None and reserved is not None:
            self._budget.give_back(reserved)

    def _budget_words(self) -> str:
        return self._budget.reason if self._budget is not None else ""

    def _check_alive(self) -> None:
        if self._stopped is not None:
            # A new one for each: one that is shared would gather the traces of all that raise it.
            raise type(self._stopped)(str(self._stopped))
        if orphaned(self._home.parent):
            self.stop(EndpointError("the process that started this worker is gone"))
            self._leaving = asyncio.ensure_future(self._leave())
            self._check_alive()

    async def _leave(self) -> None:
        """Hear and keep what is in flight, then end: nobody is there to take the results."""
        while self._in_flight:
            await asyncio.sleep(0.05)
        os._exit(1)

    async def _keep(self, line: Line, ask: Ask, key: str, reply: Reply) -> Heard:
        """Read an answer and put it on disk before anybody sees it."""
        self.tally.rejections = self.tally.told_off = self.tally.given_up = 0
        completion = read_completion(reply.body)
        if reply.failure:
            completion = Completion(problem=reply.failure)
        if completion.problem is not None:
            problem = wire.redact(completion.problem, self._secrets(ask))
            completion = replace(completion, problem=problem)
        tokens = (completion.prompt_tokens, completion.completion_tokens)
        self.tally.answered += 1
        self.tally.prompt_tokens += tokens[0] or 0
        self.tally.completion_tokens += tokens[1] or 0
        self.tally.unknown_usage += None in tokens
        regions = ask.question.regions
        # What the user's parser makes of it is found out when it is on disk: whatever that does.
        parse = _taken_whole if self._parse else None
        reading = read_answer(completion, regions, parse, ask.question.texts)
        self._look_for_use(ask, completion, reading)
        line.learn_room(ask, reading)
        if self._store is not None:
            answer = StoredAnswer(
                status=reading.status,
                raw=reply.body,
                model=ask.question.model,
                finish_reason=completion.finish_reason,
                prompt_tokens=tokens[0],
                completion_tokens=tokens[1],
                created=time.time(),
            )
            await self._save(key, answer)
        read = None if self._parse else reading
        return Heard(completion, (tokens,), reading=read, token_limit=ask.token_limit)

    def _look_for_use(self, ask: Ask, completion: Completion, reading: Reading) -> None:
        """Stop a run that gets the same error in place of every answer: each may be paid.

        Questions are counted, not their tries, of which some may be under way.
        """
        is_text = completion.problem is None and bool(
            completion.text or completion.refusal or reading.captions
        )
        if is_text or reading.status != "api_bad_answer":
            self.tally.succeeded += is_text
            return
        if ask.fresh:
            return
        problem = reading.reason or ""
        known, count = self.tally.useless
        same = verdict.alike(problem)
        self.tally.useless = (same, count + 1 if same == known else 1)
        if not self.tally.succeeded and self.tally.useless[1] >= verdict.REJECTIONS:
            self._stop(verdict.useless_words(problem, self._endpoint))

    async def _save(self, key: str, answer: StoredAnswer) -> None:
        """Commit together with what else arrives while the last commit is under way."""
        saved = asyncio.get_running_loop().create_future()
        self._unsaved.append((key, answer, saved))
        if self._saving is None:
            self._saving = asyncio.ensure_future(self._save_all())
        await saved

    async def _save_all(self) -> None:
        assert self._store is not None
        try:
            while self._unsaved:
                if (pause := self._saved_at + GROUP_SECONDS - time.monotonic()) > 0:
                    await asyncio.sleep(pause)  # where answers come thick, several share a commit
                group, self._unsaved = self._unsaved, []
                failure = await self._put([(key, answer) for key, answer, _ in group])
                self._saved_at = time.monotonic()
                for _, _, saved in group:
                    if failure is None:
                        saved.set_result(None)
                    else:
                        saved.set_exception(failure)
        finally:
            self._saving = None

    async def _put(self, answers: Sequence[tuple[str, StoredAnswer]]) -> StoreError | None:
        """Commit answers; what keeps them from being on disk stops the run."""
        assert self._store is not None
        try:
            await asyncio.to_thread(self._store.put_many, answers)
        except Exception as error:  # no thread to be had, no memory: the rows are waiting
            if not isinstance(error, StoreError):
                error = StoreError(f"an answer cannot be kept: {error!r}")
            self.stop(error)
            return error
        return None

    def _redacted(self, ask: Ask, reply: Reply) -> str:
        if reply.failure:
            return f"HTTP {reply.status}: {reply.failure}" if reply.status else reply.failure
        if 300 <= reply.status < 400:
            return f"HTTP {reply.status}: {_NO_REDIRECTS}"
        words = wire.redact(rejections.error_words(reply.body), self._secrets(ask))
        return f"HTTP {reply.status}: {words}"

    def _secrets(self, ask: Ask) -> list[str]:
        headers = [value for _, value in self._endpoint.headers]
        key = [self._endpoint.key] if self._endpoint.key else []
        return [*key, *headers, ask.question.text, ask.question.system]


def post_once(endpoint: Endpoint, body: bytes) -> Reply:
    """Send one request body, outside of any run: no retries, no store."""
    here = home()
    return here.start(here.at(endpoint, lambda line: line.post(body))).result()


def list_models(endpoint: Endpoint) -> Reply:
    """Ask an endpoint which models it serves."""
    here = home()
    return here.start(here.at(endpoint, Line.models)).result()


def hear_from_store(
    store: AnswerStore | None, ask: Ask, key: str, parse: Parse | None
) -> tuple[Heard | None, tuple[Tokens, ...], Ask]:
    """The stored answer that serves, if there is one, the tokens of all, and what to ask else.

    Whether an answer serves is judged anew: the parser may have learned since, and refused, cut
    or unreadable ones are kept only as evidence; but the whole captions of a cut one, which were
    paid for, are added to the answer that serves. One at which the user's parser fails is kept for
    a mended parser: asking again would be paid, and fail again. A limit at which an answer was cut
    is not tried again, unless it is the user's.
    """
    question = ask.question
    past = store.get(key) if store is not None else []
    paid = tuple((answer.prompt_tokens, answer.completion_tokens) for answer in past) or ask.paid
    serves: Heard | None = None
    unread: Heard | None = None
    captions: dict[int, str] = {}
    for answer in [] if ask.fresh else past:
        completion = read_completion(answer.raw)
        reading = read_answer(completion, question.regions, parse, question.texts)
        if reading.status == "ok":
            whole = replace(reading, captions=captions | reading.captions)
            serves = Heard(completion, paid, reading=whole)
        elif reading.status == "api_truncated":
            captions |= reading.captions
        elif reading.raised:
            unread = Heard(completion, paid, reading=reading)
    if question.max_tokens is None and not ask.fresh:
        cut_at = [n for n in map(_cut_at, past) if n is not None]
        ask = replace(ask, token_limit=max([ask.token_limit, *(2 * n for n in cut_at)]))
    return serves or unread, paid, ask


def _cut_at(answer: StoredAnswer) -> int | None:
    """The tokens after which an answer was cut."""
    return answer.completion_tokens if ending(answer.finish_reason) == "cut" else None


def _taken_whole(text: str, regions: Sequence[int]) -> dict[int, str]:
    """Stands for a user's parser where only the answer as such is judged."""
    return dict.fromkeys(regions, text)


class Budget(Protocol):
    """A hard bound on what a run may send; all calls come from one thread."""

    reason: str

    def take(self, ask: Ask, dialect: wire.Dialect) -> float | None:
        """Reserve what a request may cost at most; None where there is no room for it."""

    def give_back(self, reserved: float) -> None:
        """Undo a reservation of a request that was not sent."""

    def settle(self, reserved: float, reply: Reply) -> None:
        """Replace the reservation of a request by what it did cost."""

    def may_free(self) -> bool:
        """Whether a request in flight may cost less than is set aside for it."""
