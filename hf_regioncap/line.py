"""One endpoint as one process sees it: what it takes, how much of it, and one attempt at a time."""

from __future__ import annotations

import asyncio
import time
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from hf_regioncap import verdict, wire
from hf_regioncap.dialogue import FAR_MORE, Ask, Reading
from hf_regioncap.endpoint import Endpoint, is_loopback
from hf_regioncap.gate import Gate
from hf_regioncap.room import Room
from hf_regioncap.slots import Slots
from hf_regioncap.transport import BadBody, Reply, failed, set_up

if TYPE_CHECKING:
    import openai

#: Turns of 10 ms that the first request goes ahead of the others, and on this machine.
_PATIENCE, _PATIENCE_NEAR = 50, 10
#: Seconds at most until somebody looks whether a server is back that was not there.
_TRY_TO_REACH = 5.0


class Line:
    """One endpoint as one process sees it. All methods run on the process's private loop."""

    def __init__(
        self, endpoint: Endpoint, gate: Gate | None = None, slots: Slots | None = None
    ) -> None:
        self.endpoint = endpoint
        self.gate = gate or Gate(near=is_loopback(endpoint.host))
        self.slots = slots or Slots()
        self.room = Room(endpoint.timeout)
        self.guesses: dict[tuple[str, wire.Dialect], asyncio.Event] = {}
        self._answered: set[tuple[str, wire.Dialect]] = set()
        self._unreachable = 0  # in a row
        self._reached_at: float | None = None
        self._client: openai.AsyncOpenAI | None = None
        self._dialects: dict[tuple[str, wire.Dialect], wire.Dialect] = {}
        self._probes: dict[str, asyncio.Event] = {}
        self._patience: asyncio.Task[None] | None = None  # the loop itself keeps no task alive
        self._proven: set[str] = set()
        self._thinkers: set[str] = set()

    # What the endpoint takes

    def dialect(self, model: str, first: wire.Dialect) -> wire.Dialect:
        """The way to say things that this model's refusals have taught, from `first` on."""
        return self._dialects.get((model, first), first)

    def learn(
        self, model: str, first: wire.Dialect, used: wire.Dialect, better: wire.Dialect
    ) -> None:
        """Remember a better way, unless another request has learned since."""
        if self.dialect(model, first) == used:
            self._dialects[model, first] = better

    def with_room(self, ask: Ask) -> Ask:
        """The question with room for the thoughts that this model has needed room for."""
        question = ask.question
        if question.model not in self._thinkers or question.max_tokens is not None:
            return ask
        return replace(ask, token_limit=max(ask.token_limit, FAR_MORE * question.token_limit))

    def learn_room(self, ask: Ask, reading: Reading) -> None:
        """Remember a model that answers only where there is far more room than for the answer."""
        if reading.captions and ask.token_limit >= FAR_MORE * ask.question.token_limit:
            self._thinkers.add(ask.question.model)

    def has_answered(self, model: str, dialect: wire.Dialect) -> bool:
        """Whether the model has answered a request in this dialect."""
        return (model, dialect) in self._answered

    def guess(self, model: str, first: wire.Dialect) -> asyncio.Event | None:
        """What tells the end of a guess that is under way: whether another form is taken."""
        guess = self.guesses.get((model, self.dialect(model, first)))
        return None if guess is None or guess.is_set() else guess

    def take(self, model: str, first: wire.Dialect, used: wire.Dialect) -> None:
        """Note that a dialect was answered; one that was tried on a guess is learned by that."""
        self._answered.add((model, used))
        now = self.dialect(model, first)
        if not self.has_answered(model, now):
            self.learn(model, first, now, used)

    # What is known of its state

    def wait(self, now: float) -> float:
        """Seconds to wait before asking again; 0.0 means: send now."""
        return 0.02 if self.room.is_full else self.gate.wait(now)

    def note(self, reply: Reply, now: float, sent_at: float) -> None:
        """Learn from a reply how much the endpoint can take."""
        self.room.leave(now, sent_at, timed_out=reply.timed_out)
        self._unreachable = self._unreachable + 1 if reply.unreachable else 0
        if reply.status:
            self._reached_at = now
        if reply.timed_out:
            self.gate.timed_out(now, sent_at)
        elif verdict.turned_away(reply) and not verdict.out_of_credit(reply):
            told = verdict.told_to_wait(reply, time.time()).seconds
            self.gate.refused(now, sent_at, _TRY_TO_REACH if reply.unreachable else told)
        else:
            self.gate.answered(now, sent_at)

    def is_dead(self, now: float) -> bool:
        """Whether nobody has been there of late, and is not for some tries."""
        lately = self._reached_at is not None and now - self._reached_at < verdict.PATIENCE
        return self._unreachable >= verdict.ERROR_TRIES and not lately

    # Who goes first

    async def may_ask(self, model: str) -> None:
        """Let the first request go ahead of the others for a moment.

        An endpoint that rejects a parameter does so at once. Without this, every request of the
        first window would be rejected for the same reason.
        """
        while model not in self._proven:
            probe = self._probes.get(model)
            if probe is None:
                probe = self._probes[model] = asyncio.Event()
                self._patience = asyncio.ensure_future(self._lose_patience(probe))
                return
            await probe.wait()
            if self._probes.get(model) is probe:
                return
            # The probe was rejected: one of the others probes anew.

    async def _lose_patience(self, probe: asyncio.Event) -> None:
        """Let the others go after a moment, for an endpoint that accepts takes long to answer.

        The moment is counted in short turns, which take longer when this process is as busy with
        drawing as it is at the start: the probe itself then takes longer, too.
        """
        for _ in range(_PATIENCE_NEAR if is_loopback(self.endpoint.host) else _PATIENCE):
            await asyncio.sleep(0.01)
        probe.set()

    def proven(self, model: str) -> None:
        """The endpoint takes what is sent: nobody needs to wait for a probe any more."""
        self._proven.add(model)
        probe = self._probes.get(model)
        if probe is not None:
            probe.set()

    def probe_again(self, model: str) -> None:
        """The probe was rejected: the next way is tried by one request first, too."""
        probe = self._probes.pop(model, None)
        if probe is not None:
            probe.set()

    # One attempt

    async def post(self, body: bytes) -> Reply:
        """Send one request body through the official client and return whatever came."""
        return await self._request("/chat/completions", body)

    async def models(self) -> Reply:
        """Ask which models the endpoint serves."""
        return await self._request("/models", None)

    async def _request(self, path: str, body: bytes | None) -> Reply:
        import httpx2
        import openai

        if self._client is None:
            self._client = set_up(self.endpoint)
        options: Any = {"follow_redirects": False}
        try:
            url = self.endpoint.url + path  # whole: joining it to the client's takes longer
            if body is None:
                response = await self._client.get(url, cast_to=httpx2.Response, options=options)
            else:
                options["headers"] = {"Content-Type": "application/json"}
                response = await self._client.post(
                    url, cast_to=httpx2.Response, content=body, options=options
                )
        except openai.APIStatusError as error:
            response = error.response
        except openai.APIError as error:
            return failed(error.__cause__ or error)
        except (httpx2.HTTPError, OSError, TimeoutError, BadBody) as error:
            return failed(error)
        try:
            text = response.content.decode()
        except UnicodeDecodeError:
            if 200 <= response.status_code < 300:
                return Reply(response.status_code, failure="a garbled body (not UTF-8)")
            text = response.content.decode("utf-8", "replace")
        for secret in self.endpoint.secrets:  # some endpoints quote the key that they reject
            text = text.replace(secret, "[key]")
        return verdict.settle(Reply(response.status_code, text, response.headers))
