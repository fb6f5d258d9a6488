"""Which endpoint the options name, and which key may go there."""

from __future__ import annotations

import ipaddress
import os
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

from hf_regioncap.errors import OptionError
from hf_regioncap.options import OFFLINE, OPENAI_URL, Options, _check_base_url

_SECRET = re.compile(r"auth|key|token|secret|cookie|password|bearer", re.IGNORECASE)
#: What people call variables, and what no key looks like.
_VARIABLE = re.compile(r"[A-Z]{1,12}(_[A-Z]{1,12})*(_?\d)?")


@dataclass(frozen=True)
class Endpoint:
    """Where requests go and with which key; the key is in no repr and is never pickled."""

    url: str
    key: str | None = field(repr=False)
    headers: tuple[tuple[str, str], ...] = field(default=(), repr=False)
    query: tuple[tuple[str, Any], ...] = field(default=(), repr=False)
    body: tuple[tuple[str, Any], ...] = field(default=(), repr=False)
    timeout: float = 120.0
    concurrency: int = 32
    key_name: str = field(default="", compare=False)  # of the variable that holds the key

    @property
    def host(self) -> str:
        """The host's name, as it may be told in a card or an error."""
        return urlsplit(self.url).hostname or ""

    @property
    def place(self) -> str:
        """The server as such: host and port, one name for those of this machine.

        >>> Endpoint("https://EXAMPLE.com/v1", None).place
        'example.com:443'
        """
        parts = urlsplit(self.url)
        host = "loopback" if is_loopback(self.host) else self.host
        return f"{host}:{parts.port or {'http': 80}.get(parts.scheme, 443)}"

    @property
    def secrets(self) -> list[str]:
        """What must not be kept or told: the key, and what else is sent that looks like one."""
        values = list(_secret_texts((*self.headers, *self.query, *self.body)))
        values += [value.rpartition(" ")[2] for value in values]  # without "Bearer"
        return [value for value in (self.key, *values) if value and len(value) >= 8]

    @property
    def is_openai(self) -> bool:
        """Whether this is OpenAI's own host, the only one that gets organisation and project."""
        return is_openai(self.url)

    def __reduce__(self) -> str:
        """Refuse to be pickled: the key must not leave the process."""
        raise TypeError("an Endpoint holds a key and cannot be pickled")


def resolve_endpoint(options: Options, environ: Mapping[str, str] | None = None) -> Endpoint:
    """Find the address and the key that the options and the environment name.

    Without `api_key_env`, `OPENAI_API_KEY` goes to OpenAI's host and to the one that
    `OPENAI_BASE_URL` names; on loopback no key is sent; any other host is an error that asks.

    >>> resolve_endpoint(Options(base_url="http://127.0.0.1:8000/v1"), {}).key is None
    True
    >>> resolve_endpoint(Options(base_url="https://api.example.com/v1"), {})
    Traceback (most recent call last):
    hf_regioncap.errors.OptionError: api_key_env: which variable holds the key for
    api.example.com? pass api_key_env='NAME', or api_key_env='' for an endpoint that needs none
    """
    env = os.environ if environ is None else environ
    url = find_address(options, env)
    if url == OFFLINE:
        from hf_regioncap import offline

        return _endpoint(options, offline.serve(), None)
    return _endpoint(options, url, _find_key(options.api_key_env, url, env))


def find_address(options: Options, environ: Mapping[str, str] | None = None) -> str:
    """Where requests go, for which no key is needed: `base_url`, `OPENAI_BASE_URL` or OpenAI.

    >>> find_address(Options(), {"OPENAI_BASE_URL": "https://api.example.com/v1/"})
    'https://api.example.com/v1'
    """
    named = _named(os.environ if environ is None else environ)
    if not options.base_url and named and not _is_address(named):
        # The value is not shown: it may hold a password or a key.
        raise OptionError(
            "OPENAI_BASE_URL must be an address like 'http://localhost:8000/v1', without a user or "
            "password"
        )
    url = options.base_url or named or OPENAI_URL
    if "?" in url or "#" in url:
        name = "base_url" if options.base_url else "OPENAI_BASE_URL"
        raise OptionError(
            f"{name} must not hold a query or fragment, as the request's path is put after it: "
            "pass extra_query={'name': 'value'}"
        )
    return url.rstrip("/")


def _named(environ: Mapping[str, str]) -> str:
    return environ.get("OPENAI_BASE_URL", "").strip()


def _is_address(url: str) -> bool:
    try:
        _check_base_url(url)
    except OptionError:
        return False
    return url != OFFLINE


def _endpoint(options: Options, url: str, key: str | None) -> Endpoint:
    return Endpoint(
        url,
        key,
        headers=tuple((str(k), str(v)) for k, v in (options.extra_headers or {}).items()),
        query=tuple(_parameter(k, v) for k, v in (options.extra_query or {}).items()),
        body=tuple((str(k), v) for k, v in (options.extra_body or {}).items()),
        timeout=options.timeout,
        concurrency=options.concurrency,
        key_name=(options.api_key_env or "OPENAI_API_KEY") if key else "",
    )


def _secret_texts(given: Iterable[tuple[str, Any]], secret: bool = False) -> Iterator[str]:
    """The texts, however deep, that stand under a name which sounds like a key's."""
    for name, value in given:
        inside = secret or bool(_SECRET.search(name))
        if isinstance(value, Mapping):
            yield from _secret_texts(((str(k), v) for k, v in value.items()), inside)
        elif isinstance(value, list | tuple):
            yield from _secret_texts(((name, each) for each in value), inside)
        elif inside and not isinstance(value, bool) and value is not None:
            yield str(value)


def _parameter(name: Any, value: Any) -> tuple[str, Any]:
    """A query's parameter; a list gives its name several times."""
    values = tuple(value) if isinstance(value, list | tuple) else (value,)
    if not isinstance(name, str) or not all(isinstance(each, _PLAIN) for each in values):
        # The value is not shown: it may be a key.
        raise OptionError(
            f"extra_query must map names to texts, numbers or lists of these; {name!r} does not"
        )
    return name, values if isinstance(value, list | tuple) else value


_PLAIN = (str, int, float, type(None))


def _find_key(name: str | None, url: str, env: Mapping[str, str]) -> str | None:
    host = urlsplit(url).hostname or ""
    if name == "":
        return None
    if name is not None:
        key = env.get(name, "").strip()
        if not key:
            # What looks like a key is one: somebody has passed it in place of its variable's name.
            shown = f" {name!r}" if _VARIABLE.fullmatch(name) else ", whose name is not shown,"
            raise OptionError(
                f"api_key_env: the environment variable{shown} is not set; it is the name of a "
                "variable that is asked for, never the key itself"
            )
        return _sendable(name, key)
    key = env.get("OPENAI_API_KEY", "").strip()
    if is_openai(url):
        if not url.startswith("https:"):
            raise OptionError(f"base_url must begin with https:// for OpenAI, got {url!r}")
        if not key:
            raise OptionError(
                "OPENAI_API_KEY is not set: set it, or pass api_key_env='NAME', or base_url= of "
                "another endpoint, or base_url='offline' to try things without a model"
            )
        return _sendable("OPENAI_API_KEY", key)
    if _origin(url) == _origin(_named(env)):
        return _sendable("OPENAI_API_KEY", key) if key else None
    if is_loopback(host):
        return None
    raise OptionError(
        f"api_key_env: which variable holds the key for {host}? pass api_key_env='NAME', "
        "or api_key_env='' for an endpoint that needs none"
    )


def _sendable(name: str, key: str) -> str:
    if not key.isascii() or not key.isprintable() or " " in key:
        raise OptionError(f"the key in {name} has characters that no HTTP header can carry")
    return key


def is_openai(url: str) -> bool:
    """Tell whether an address lies at OpenAI's own host.

    >>> is_openai("https://api.openai.com/v1"), is_openai("https://api.openai.com.example.com/v1")
    (True, False)
    """
    return urlsplit(url).hostname == urlsplit(OPENAI_URL).hostname


def is_named(url: str, environ: Mapping[str, str] | None = None) -> bool:
    """Tell whether an address is OpenAI's own, or that of the user's `OPENAI_BASE_URL`.

    >>> is_named("https://api.openai.com/v1"), is_named("https://api.example.com/v1", {})
    (True, False)
    """
    named = _named(os.environ if environ is None else environ)
    return _origin(url) in (_origin(OPENAI_URL), _origin(named))


def _origin(url: str) -> tuple[str, str | None, int | None] | None:
    """Scheme, host and port: a key for one of a host's servers is not for the others."""
    try:
        parts = urlsplit(url)
        port = parts.port or {"http": 80, "https": 443}.get(parts.scheme)
    except ValueError:  # only of an `OPENAI_BASE_URL` that is not used
        return None
    return parts.scheme, parts.hostname, port


def is_loopback(host: str) -> bool:
    """Tell whether a host's name is this machine's.

    >>> is_loopback("localhost"), is_loopback("127.0.0.1"), is_loopback("example.com")
    (True, True, False)
    """
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
