"""Which endpoint the options name, and which key may go there."""

from __future__ import annotations

import copy
import os
import pickle
from typing import Any

import pytest
from endpoint import Endpoint

from hf_regioncap.client import list_models
from hf_regioncap.endpoint import find_address, is_loopback, resolve_endpoint
from hf_regioncap.errors import OptionError
from hf_regioncap.options import OPENAI_URL, Options

CANARY = "sk-canary-0123456789"
OPENAI = {"OPENAI_API_KEY": CANARY}
ELSEWHERE = "https://api.example.com/v1"
LOOPBACK = "http://127.0.0.1:8000/v1"

# base_url, api_key_env, environment: url and key
KEYS: list[tuple[str | None, str | None, dict[str, str], str, str | None]] = [
    (None, None, OPENAI, OPENAI_URL, CANARY),
    (OPENAI_URL, None, OPENAI, OPENAI_URL, CANARY),
    ("https://API.OpenAI.com/v1", None, OPENAI, "https://API.OpenAI.com/v1", CANARY),
    (OPENAI_URL + "/", None, OPENAI, OPENAI_URL, CANARY),
    (None, "", OPENAI, OPENAI_URL, None),
    (None, "OTHER", OPENAI | {"OTHER": "another-key"}, OPENAI_URL, "another-key"),
    (None, None, {"OPENAI_API_KEY": f" {CANARY}\n"}, OPENAI_URL, CANARY),
    # On this machine nothing leaves.
    (LOOPBACK, None, OPENAI, LOOPBACK, None),
    ("http://localhost:8000/v1", None, OPENAI, "http://localhost:8000/v1", None),
    ("http://[::1]:8000/v1", None, OPENAI, "http://[::1]:8000/v1", None),
    (LOOPBACK, "OTHER", {"OTHER": "local-key"}, LOOPBACK, "local-key"),
    # The address in the environment gets the environment's key, no other does.
    (None, None, OPENAI | {"OPENAI_BASE_URL": ELSEWHERE}, ELSEWHERE, CANARY),
    (None, None, {"OPENAI_BASE_URL": ELSEWHERE}, ELSEWHERE, None),
    (None, None, OPENAI | {"OPENAI_BASE_URL": ""}, OPENAI_URL, CANARY),
    (None, None, OPENAI | {"OPENAI_BASE_URL": "  "}, OPENAI_URL, CANARY),
    (ELSEWHERE, None, OPENAI | {"OPENAI_BASE_URL": ELSEWHERE}, ELSEWHERE, CANARY),
    (LOOPBACK, None, OPENAI | {"OPENAI_BASE_URL": ELSEWHERE}, LOOPBACK, None),
    (
        ELSEWHERE,
        None,
        OPENAI | {"OPENAI_BASE_URL": "https://API.example.com:443/"},
        ELSEWHERE,
        CANARY,
    ),
    (LOOPBACK, None, OPENAI | {"OPENAI_BASE_URL": "http://["}, LOOPBACK, None),
    (ELSEWHERE, "", OPENAI, ELSEWHERE, None),
    (ELSEWHERE, "OTHER", OPENAI | {"OTHER": "another-key"}, ELSEWHERE, "another-key"),
]


@pytest.mark.parametrize(("base_url", "key_env", "environ", "url", "key"), KEYS)
def test_address_and_key(
    base_url: str | None, key_env: str | None, environ: dict[str, str], url: str, key: str | None
) -> None:
    endpoint = resolve_endpoint(Options(base_url=base_url, api_key_env=key_env), environ)
    assert (endpoint.url, endpoint.key) == (url, key)


@pytest.mark.parametrize(
    ("base_url", "key_env", "environ", "words"),
    [
        (None, None, {}, "OPENAI_API_KEY is not set"),
        (None, None, {"OPENAI_API_KEY": " "}, "OPENAI_API_KEY is not set"),
        (ELSEWHERE, None, OPENAI, "which variable holds the key for api.example.com?"),
        (
            ELSEWHERE,
            None,
            OPENAI | {"OPENAI_BASE_URL": LOOPBACK},
            "which variable holds the key for api.example.com?",
        ),
        ("https://api.openai.com.example.com/v1", None, OPENAI, "which variable holds the key"),
        ("https://example.com/api.openai.com/v1", None, OPENAI, "which variable holds the key"),
        ("http://0.0.0.0:8000/v1", None, OPENAI, "which variable holds the key"),
        ("http://localhost.example.com/v1", None, OPENAI, "which variable holds the key"),
        (ELSEWHERE, "OTHER", OPENAI, "the environment variable 'OTHER' is not set"),
        (ELSEWHERE, "OTHER", OPENAI | {"OTHER": " "}, "the environment variable 'OTHER' is not"),
        (LOOPBACK, "OTHER", OPENAI, "the environment variable 'OTHER' is not set"),
        ("https://h:99/v1", None, OPENAI | {"OPENAI_BASE_URL": "https://h:8443"}, "for h?"),
        ("http://h/v1", None, OPENAI | {"OPENAI_BASE_URL": "https://h/v1"}, "for h?"),
        (ELSEWHERE, None, OPENAI | {"OPENAI_BASE_URL": "http://["}, "for api.example.com?"),
        (None, None, OPENAI | {"OPENAI_BASE_URL": "example.com"}, "OPENAI_BASE_URL must be an"),
        (None, None, OPENAI | {"OPENAI_BASE_URL": "offline"}, "OPENAI_BASE_URL must be an"),
        (None, None, OPENAI | {"OPENAI_BASE_URL": "http://[/canary"}, "OPENAI_BASE_URL must be"),
        (None, None, OPENAI | {"OPENAI_BASE_URL": "h?key=canary"}, "OPENAI_BASE_URL must be"),
        (ELSEWHERE + "?key=canary", "", {}, "base_url must not hold a query or fragment"),
        (ELSEWHERE + "#canary", "", {}, "pass extra_query="),
        (LOOPBACK + "/?", None, {}, "base_url must not hold a query"),
        (None, None, {"OPENAI_BASE_URL": ELSEWHERE + "?a=canary"}, "OPENAI_BASE_URL must not hold"),
        (None, None, {"OPENAI_API_KEY": "sk-two words-canary"}, "no HTTP header can carry"),
        (None, None, {"OPENAI_API_KEY": "sk-canary\nX: y"}, "no HTTP header can carry"),
        (None, None, {"OPENAI_API_KEY": "sk-canaryé"}, "no HTTP header can carry"),
    ],
)
def test_errors_ask_before_anything_is_sent(
    base_url: str | None, key_env: str | None, environ: dict[str, str], words: str
) -> None:
    with pytest.raises(OptionError) as caught:
        resolve_endpoint(Options(base_url=base_url, api_key_env=key_env), environ)
    assert words in str(caught.value)
    assert "canary" not in str(caught.value)


@pytest.mark.parametrize(
    "key",
    [
        "hf_AbCdEfGhIjKlMnOpQrStUvWxYz012345",
        "gsk_AbCdEfGhIjKlMnOpQrStUv0123456789",
        "sk-proj-AbCd1234567890",
        "AIzaSyA1234567890abcdefghijklmnopqrstuv",
        "0123456789abcdef0123456789abcdef",
        "abcdef0123456789abcdef0123456789",
        "AKIAIOSFODNN7EXAMPLE",
        "ABCDEFGHIJKLMNOPQRSTUVWXYZ",
        b"bytes-canary",
    ],
)
def test_a_key_in_place_of_its_variables_name_is_not_shown(key: Any) -> None:
    with pytest.raises(OptionError, match="name of a") as caught:
        resolve_endpoint(Options(base_url=ELSEWHERE, api_key_env=key), {})
    assert str(key) not in str(caught.value)
    assert "bytes-canary" not in str(caught.value)


@pytest.mark.parametrize("name", ["OPENROUTER_API_KEY", "KEY_2", "OTHER"])
def test_a_name_that_looks_like_one_is_shown(name: str) -> None:
    with pytest.raises(OptionError, match=f"'{name}' is not set"):
        resolve_endpoint(Options(base_url=ELSEWHERE, api_key_env=name), {})


def test_options_show_no_value_that_may_be_a_key() -> None:
    canary = {"key": CANARY}
    told = repr(
        Options(api_key_env=CANARY, extra_headers=canary, extra_query=canary, extra_body=canary)
    )
    assert CANARY not in told


def test_the_environment_is_the_processs_own_by_default(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OPENAI_BASE_URL", raising=False)
    monkeypatch.setenv("OPENAI_API_KEY", CANARY)
    assert resolve_endpoint(Options()).key == os.environ["OPENAI_API_KEY"]


def test_a_key_is_in_no_repr_and_no_pickle() -> None:
    options = Options(
        base_url=ELSEWHERE, api_key_env="OTHER", extra_headers={"X-Key": "canary-of-a-header"}
    )
    endpoint = resolve_endpoint(options, {"OTHER": CANARY})
    assert endpoint.key == CANARY
    assert "canary" not in repr(endpoint) + str(endpoint) + f"{endpoint}"
    for save in (pickle.dumps, copy.copy, copy.deepcopy):
        with pytest.raises(TypeError, match="cannot be pickled"):
            save(endpoint)


def test_what_must_not_be_told() -> None:
    headers = {
        "X-API-Key": "secret-of-a-header",
        "Authorization": "Bearer another-secret",
        "X": "y",
    }
    body = {"provider_key": "secret-of-a-body", "auth": {"id": ["deep-secret"], "on": True}}
    options = Options(
        base_url=ELSEWHERE,
        api_key_env="OTHER",
        extra_headers=headers,
        extra_query={"key": ["secret-of-a-query"]},
        extra_body={**body, "reasoning_effort": "minimal-or-so"},
    )
    secrets = resolve_endpoint(options, {"OTHER": CANARY}).secrets
    assert {CANARY, "secret-of-a-header", "another-secret", "secret-of-a-query"} <= set(secrets)
    assert {"secret-of-a-body", "deep-secret"} <= set(secrets)
    assert not {"y", "True", "minimal-or-so"} & set(secrets)
    assert resolve_endpoint(Options(base_url=LOOPBACK), {}).secrets == []


def test_options_travel_along() -> None:
    options = Options(
        base_url=LOOPBACK,
        extra_headers={"X-A": "b"},
        extra_query={"api-version": 1},
        timeout=7,
        concurrency=3,
    )
    endpoint = resolve_endpoint(options, {})
    assert endpoint.headers == (("X-A", "b"),)
    assert endpoint.query == (("api-version", 1),)
    assert (endpoint.timeout, endpoint.concurrency) == (7, 3)
    assert endpoint == resolve_endpoint(options, {})
    assert hash(endpoint) == hash(resolve_endpoint(options, {}))


@pytest.mark.parametrize("names", [["a", "b"], ("a", "b"), [], 1.5, None, True, ""])
def test_query_parameters_may_be_plain_values_and_lists(names: object) -> None:
    options = Options(base_url=LOOPBACK, extra_query={"names": names})
    [(name, value)] = resolve_endpoint(options, {}).query
    assert (name, list(value) if isinstance(value, tuple) else value) == (
        "names",
        list(names) if isinstance(names, list | tuple) else names,
    )
    assert hash(resolve_endpoint(options, {}))


@pytest.mark.parametrize(
    "query", [{"a": {"b": "canary"}}, {"a": [["canary"]]}, {"a": {"canary"}}, {1: "canary"}]
)
def test_a_nested_query_is_refused(query: dict[str, object]) -> None:
    with pytest.raises(OptionError, match="extra_query") as caught:
        resolve_endpoint(Options(base_url=LOOPBACK, extra_query=query), {})
    assert "canary" not in str(caught.value)


def test_a_list_gives_its_parameter_several_times(endpoint: Endpoint) -> None:
    query = {"names": ["a", "b"], "version": 1}
    found = resolve_endpoint(Options(base_url=endpoint.base_url, extra_query=query), {})
    list_models(found)
    assert [request.query for request in endpoint.requests] == ["names=a&names=b&version=1"]


@pytest.mark.parametrize(
    ("base_url", "environ", "url"),
    [
        (None, {}, OPENAI_URL),
        (None, {"OPENAI_BASE_URL": f" {ELSEWHERE}/ "}, ELSEWHERE),
        (LOOPBACK, {"OPENAI_BASE_URL": ELSEWHERE}, LOOPBACK),
        ("offline", {"OPENAI_BASE_URL": ELSEWHERE}, "offline"),
    ],
)
def test_an_address_needs_no_key(base_url: str | None, environ: dict[str, str], url: str) -> None:
    assert find_address(Options(base_url=base_url), environ) == url


@pytest.mark.parametrize(
    ("base_url", "host", "openai"),
    [
        (OPENAI_URL, "api.openai.com", True),
        ("https://API.OPENAI.COM/v1", "api.openai.com", True),
        (ELSEWHERE, "api.example.com", False),
        ("https://api.openai.com.example.com/v1", "api.openai.com.example.com", False),
        ("http://[::1]:8000/v1", "::1", False),
    ],
)
def test_hosts(base_url: str, host: str, openai: bool) -> None:
    endpoint = resolve_endpoint(Options(base_url=base_url, api_key_env=""), OPENAI)
    assert (endpoint.host, endpoint.is_openai) == (host, openai)


def test_the_built_in_describer_lies_on_loopback_and_gets_no_key() -> None:
    endpoint = resolve_endpoint(Options(base_url="offline"), OPENAI)
    assert is_loopback(endpoint.host)
    assert endpoint.key is None
    assert resolve_endpoint(Options(base_url="offline"), OPENAI).url == endpoint.url


@pytest.mark.parametrize(
    ("host", "expected"),
    [
        ("", False),
        ("localhost", True),
        ("127.0.0.1", True),
        ("127.1.2.3", True),
        ("::1", True),
        ("0.0.0.0", False),
        ("192.168.0.1", False),
        ("127.0.0.1.example.com", False),
        ("localhost.example.com", False),
        ("127.0.0", False),
        ("example.com", False),
    ],
)
def test_is_loopback(host: str, expected: bool) -> None:
    assert is_loopback(host) == expected
