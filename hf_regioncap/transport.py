"""How a request leaves, and what may come back: the official client over a transport of ours.

The transport bounds what comes back in time and bytes, follows no redirect, and sends no header
that the endpoint has no business with.
"""

from __future__ import annotations

import asyncio
import functools
import zlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING
from urllib.request import getproxies, proxy_bypass

from hf_regioncap import __version__
from hf_regioncap.endpoint import Endpoint, is_loopback
from hf_regioncap.errors import EndpointError

if TYPE_CHECKING:
    import httpx2
    import openai

MAX_RESPONSE_BYTES = 16 * 2**20
#: An idle connection is not used again after so long, and closed.
IDLE_SECONDS = 5.0


@dataclass(frozen=True)
class Reply:
    """What one attempt came to: a status and body, or (status 0) the failure of the attempt.

    `failure` beside a status says why the body could not be taken; `unreachable` that nobody was
    there to send to.
    """

    status: int
    body: str = ""
    headers: Mapping[str, str] = field(default_factory=dict)
    failure: str = ""
    timed_out: bool = False
    unreachable: bool = False

    @property
    def answers(self) -> bool:
        """Whether the endpoint says that this is its answer: any 2xx."""
        return 200 <= self.status < 300


def failed(error: BaseException) -> Reply:
    """A failure of the attempt in words, without addresses, headers or contents."""
    if isinstance(error, BadBody):
        return Reply(error.status, failure=str(error))
    kind = type(error).__name__
    if isinstance(error, TimeoutError) or "Timeout" in kind:
        return Reply(0, failure="no complete answer within the timeout", timed_out=True)
    words = {
        "ConnectError": "cannot connect",
        "ReadError": "the connection broke while reading the answer",
        "WriteError": "the connection broke while sending the request",
        "RemoteProtocolError": "the endpoint broke off or spoke no proper HTTP",
        "LocalProtocolError": "a header of the request is not proper HTTP",
    }
    told = f"{words.get(kind, 'the connection failed')} ({kind})"
    return Reply(0, failure=told, unreachable=kind == "ConnectError")


class BadBody(Exception):
    """A response body that is refused: too long, cut off, or packed in a way that we cannot."""

    def __init__(self, words: str, status: int = 200) -> None:
        super().__init__(words)
        self.status = status


def set_up(endpoint: Endpoint) -> openai.AsyncOpenAI:
    """A client, or an error that says what of the environment stands in its way."""
    try:
        return _new_client(endpoint)
    except Exception as error:  # its words may quote a proxy's password
        kind = type(error).__name__
        raise EndpointError(
            f"no connection to {endpoint.host} can be set up ({kind}): look at the variables "
            "HTTPS_PROXY, HTTP_PROXY, NO_PROXY, SSL_CERT_FILE and SSL_CERT_DIR"
        ) from None


def _new_client(endpoint: Endpoint) -> openai.AsyncOpenAI:
    import httpx2
    import openai

    transport = _guarded(endpoint, _connections(endpoint))
    return openai.AsyncOpenAI(
        api_key="unused",  # the transport decides what is sent, see _Guard
        base_url=endpoint.url,
        max_retries=0,
        timeout=None,  # the transport has one for all of an attempt
        http_client=httpx2.AsyncClient(transport=transport, trust_env=False),
    )


def _connections(endpoint: Endpoint) -> Callable[[], httpx2.AsyncHTTPTransport]:
    """What makes transports of one connection each.

    A shared pool looks at every idle connection, by system calls, with every request and answer:
    at 128 in flight that took a third of the loop's time.
    """
    import httpx2

    secure = endpoint.url.startswith("https:")
    direct = is_loopback(endpoint.host) or proxy_bypass(endpoint.host)
    return functools.partial(
        httpx2.AsyncHTTPTransport,
        verify=httpx2.create_ssl_context() if secure else False,
        limits=httpx2.Limits(max_connections=1, max_keepalive_connections=1),
        proxy=None if direct else getproxies().get("https" if secure else "http"),
    )


def _guarded(
    endpoint: Endpoint, connect: Callable[[], httpx2.AsyncBaseTransport]
) -> httpx2.AsyncBaseTransport:
    import httpx2

    # With the time since when. The last used goes first, as it is the least likely closed. One is
    # made at once: it may not be possible.
    idle = [(0.0, connect())]
    own, query = httpx2.Headers(_own_headers(endpoint)).raw, dict(endpoint.query)
    set_by_user = {name.lower() for name, _ in own}
    names = {name.encode() for name in _KEPT_HEADERS[endpoint.is_openai]} - set_by_user

    def _kept(headers: Sequence[tuple[bytes, bytes]]) -> list[tuple[bytes, bytes]]:
        return [(name, value) for name, value in headers if name.lower() in names]

    class _Guard(httpx2.AsyncBaseTransport):
        """Bounds what comes back, and lets nothing of the environment leave.

        The client reads keys, organisation, project and headers from the environment and would
        send them to any address: the headers are made anew here.
        """

        _closing: asyncio.Task[None] | None = None

        async def handle_async_request(self, request: httpx2.Request) -> httpx2.Response:
            # The client logs the address of its own request: a query that holds a key is not in it.
            sent = httpx2.Request(
                request.method,
                request.url.copy_merge_params(query) if query else request.url,
                headers=[*_kept(request.headers.raw), *own],
                stream=request.stream,
                extensions=request.extensions,
            )
            inner = idle.pop()[1] if idle else connect()
            try:
                async with asyncio.timeout(endpoint.timeout):
                    response = await inner.handle_async_request(sent)
                    try:
                        content = await _read(response)
                    finally:
                        await response.aclose()
            finally:
                self._rest(inner)
            return httpx2.Response(
                response.status_code, headers=response.headers, content=content, request=request
            )

        def _rest(self, inner: httpx2.AsyncBaseTransport) -> None:
            idle.append((asyncio.get_running_loop().time(), inner))
            if self._closing is None:
                self._closing = asyncio.ensure_future(self._close_idle())

        async def _close_idle(self) -> None:
            """Close what was not used for a while: a server holds memory or a thread for it."""
            now = asyncio.get_running_loop().time
            try:
                while idle:
                    if (left := idle[0][0] + IDLE_SECONDS - now()) > 0:
                        await asyncio.sleep(left)
                    else:
                        await idle.pop(0)[1].aclose()
            finally:
                self._closing = None

        async def aclose(self) -> None:
            while idle:
                await idle.pop()[1].aclose()

    return _Guard()


#: What the request itself needs of the client's headers; organisation and project at OpenAI only.
_NEEDED = ("host", "content-length", "transfer-encoding", "content-type")
_KEPT_HEADERS = {False: _NEEDED, True: (*_NEEDED, "openai-organization", "openai-project")}


def _own_headers(endpoint: Endpoint) -> dict[str, str]:
    """The headers that are the same for all requests: the key of this endpoint, the user's."""
    headers = {"accept": "application/json", "accept-encoding": "identity"}
    headers["user-agent"] = f"hf-regioncap/{__version__}"
    if endpoint.key:
        headers["authorization"] = f"Bearer {endpoint.key}"
    return headers | {name.lower(): value for name, value in endpoint.headers}


async def _read(response: httpx2.Response) -> bytes:
    import httpx2

    status, content = response.status_code, bytearray()
    try:
        async for chunk in response.aiter_raw():
            content += chunk
            if len(content) > MAX_RESPONSE_BYTES:
                raise BadBody(_TOO_LONG, status)
    except httpx2.TransportError as error:
        if 200 <= status < 300 and not isinstance(error, httpx2.TimeoutException):
            raise BadBody(f"a body that was cut off ({type(error).__name__})", status) from None
        raise
    packed = response.headers.pop("content-encoding", "")
    try:
        plain = unpack(bytes(content), packed)
    except BadBody as error:
        raise BadBody(str(error), status) from None
    if plain != content:
        response.headers[UNPACKED] = packed
    return plain


_TOO_LONG = f"a body of more than {MAX_RESPONSE_BYTES // 2**20} MB"
#: The header by which a reply says that its body came packed, and how.
UNPACKED = "x-unpacked"


def unpack(content: bytes, encoding: str) -> bytes:
    """Unpack a body that came packed though that was not asked for, within the bound of all bodies.

    >>> unpack(zlib.compress(b"{}"), "deflate"), unpack(b"{}", "gzip")
    (b'{}', b'{}')
    """
    for name in reversed([each.strip().lower() for each in encoding.split(",")]):
        if name in ("", "identity") or content.lstrip()[:1] in (b"{", b"["):
            continue  # some proxies unpack a body and leave the header
        if name not in ("gzip", "x-gzip", "deflate"):
            raise BadBody(f"a body in {name}, which was not asked for")
        content = _inflate(content, name)
    return content


def _inflate(content: bytes, name: str) -> bytes:
    is_raw = name == "deflate" and content[:1] != b"\x78"
    plain = bytearray()
    while content:  # a gzip file may have several members
        packed = zlib.decompressobj(-zlib.MAX_WBITS if is_raw else zlib.MAX_WBITS | 32)
        try:
            plain += packed.decompress(content, MAX_RESPONSE_BYTES + 1 - len(plain))
        except zlib.error:
            raise BadBody(f"a body in {name} that cannot be unpacked") from None
        if len(plain) > MAX_RESPONSE_BYTES:
            raise BadBody(f"{_TOO_LONG}, in {name}")
        if not packed.eof:
            raise BadBody(f"a body in {name} that was cut off")
        content = packed.unused_data
    return bytes(plain)
