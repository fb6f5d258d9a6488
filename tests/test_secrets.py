"""Keys go where the contract says and stay out of everything that is kept, told or pickled."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import json
import os
import pickle
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx2
import pytest
from endpoint import Endpoint, Fault, Request, completion, completion_reply, error_reply

from hf_regioncap import add_region_captions, caption_dataset, client, transport
from hf_regioncap.endpoint import resolve_endpoint
from hf_regioncap.errors import EndpointError, OptionError
from hf_regioncap.options import OPENAI_URL, Options
from hf_regioncap.store import AnswerStore

KEY = "sk-canary-KEYKEYKEY-0123456789abcdef"
HEADER = "canary-HEADERHEADER-0123456789abcdef"
QUERY = "canary-QUERYQUERY-0123456789abcdef"

# Which key goes where

OWN, OTHER = "http://127.0.0.1:9/v1", "https://api.example.com/v1"


@pytest.mark.parametrize(
    ("options", "environment", "key"),
    [
        ({}, {"OPENAI_API_KEY": KEY}, KEY),
        ({"base_url": OPENAI_URL}, {"OPENAI_API_KEY": KEY}, KEY),
        ({}, {"OPENAI_API_KEY": KEY, "OPENAI_BASE_URL": OTHER}, KEY),
        ({"base_url": OTHER}, {"OPENAI_API_KEY": KEY, "OPENAI_BASE_URL": OTHER}, KEY),
        ({"base_url": OTHER + "/"}, {"OPENAI_API_KEY": KEY, "OPENAI_BASE_URL": OTHER}, KEY),
        ({}, {"OPENAI_API_KEY": KEY, "OPENAI_BASE_URL": OWN}, KEY),
        ({"base_url": OWN}, {"OPENAI_API_KEY": KEY}, None),
        ({"base_url": "http://localhost:1/v1"}, {"OPENAI_API_KEY": KEY}, None),
        ({"base_url": "http://[::1]:1/v1"}, {"OPENAI_API_KEY": KEY}, None),
        ({"base_url": OTHER, "api_key_env": ""}, {"OPENAI_API_KEY": KEY}, None),
        ({"base_url": OTHER, "api_key_env": "MINE"}, {"OPENAI_API_KEY": KEY, "MINE": "m"}, "m"),
        ({"api_key_env": "MINE"}, {"OPENAI_API_KEY": KEY, "MINE": " m\n"}, "m"),
        ({"base_url": OWN, "api_key_env": "MINE"}, {"MINE": "m"}, "m"),
        ({"base_url": OTHER, "api_key_env": "OPENAI_API_KEY"}, {"OPENAI_API_KEY": KEY}, KEY),
        ({"base_url": "offline"}, {"OPENAI_API_KEY": KEY}, None),
        ({}, {"OPENAI_BASE_URL": OTHER}, None),
    ],
)
def test_the_key_that_goes_to_an_endpoint(
    options: dict[str, Any], environment: dict[str, str], key: str | None
) -> None:
    assert resolve_endpoint(Options(**options), environment).key == key


@pytest.mark.parametrize(
    ("options", "environment", "words"),
    [
        ({}, {}, "OPENAI_API_KEY is not set"),
        ({"base_url": OTHER}, {"OPENAI_API_KEY": KEY}, "api_key_env: which variable"),
        ({"base_url": OTHER}, {"OPENAI_API_KEY": KEY, "OPENAI_BASE_URL": OWN}, "api.example.com"),
        ({"base_url": "https://api.openai.com.example.com"}, {"OPENAI_API_KEY": KEY}, "which"),
        ({"base_url": "http://api.openai.com/v1"}, {"OPENAI_API_KEY": KEY}, "https://"),
        ({"api_key_env": "MINE"}, {"OPENAI_API_KEY": KEY}, "'MINE' is not set"),
        ({"api_key_env": "MINE"}, {"MINE": KEY + "\nX-Evil: 1"}, "characters"),
        ({}, {"OPENAI_API_KEY": KEY, "OPENAI_BASE_URL": "ftp://x"}, "OPENAI_BASE_URL must be"),
    ],
)
def test_no_key_goes_where_nobody_said(
    options: dict[str, Any], environment: dict[str, str], words: str
) -> None:
    with pytest.raises(OptionError) as raised:
        resolve_endpoint(Options(**options), environment)
    assert words in str(raised.value)
    assert KEY not in str(raised.value)


ENVIRONMENT = {
    "OPENAI_API_KEY": KEY,
    "OPENAI_ORG_ID": "org-canary",
    "OPENAI_PROJECT_ID": "proj-canary",
    "OPENAI_CUSTOM_HEADERS": "X-Custom: custom-canary\nUser-Agent: agent-canary",
    "OPENAI_ADMIN_KEY": "admin-canary",
    "OPENAI_WEBHOOK_SECRET": "webhook-canary",
    "HF_TOKEN": "hf_canary_canary_canary",
}


@pytest.fixture
def environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in ENVIRONMENT.items():
        monkeypatch.setenv(name, value)


@pytest.fixture
def as_proxy(monkeypatch: pytest.MonkeyPatch) -> Iterator[Endpoint]:
    """An endpoint that stands in for any host, as the proxy that the environment names."""
    with Endpoint() as endpoint:
        for name in ("HTTP_PROXY", "http_proxy"):
            monkeypatch.setenv(name, endpoint.base_url.removesuffix("/v1"))
        yield endpoint


@pytest.mark.usefixtures("environment")
@pytest.mark.parametrize(
    ("options", "sent"),
    [
        ({"base_url": "http://api.example.com/v1", "api_key_env": ""}, {}),
        ({"base_url": "http://openai.com/v1", "api_key_env": ""}, {}),
        (
            {"base_url": "http://api.example.com/v1", "api_key_env": "OPENAI_API_KEY"},
            {"authorization": f"Bearer {KEY}"},
        ),
        (
            {"base_url": "http://a.example.com/v1", "api_key_env": "", "extra_headers": {"X": "1"}},
            {"x": "1"},
        ),
    ],
)
def test_what_leaves_for_a_host(
    options: dict[str, Any], sent: dict[str, str], make_dataset: Any, as_proxy: Endpoint
) -> None:
    with pytest.raises(EndpointError):  # a proxy that knows only its own paths says 404
        caption_dataset(make_dataset(1), **options)
    [request] = as_proxy.requests
    host = options["base_url"].split("/")[2]
    assert request.headers.pop("host") == host
    for name in ("content-length", "content-type", "accept", "accept-encoding", "connection"):
        request.headers.pop(name, None)
    assert "canary" not in request.headers.pop("user-agent", "")
    request.headers.pop("proxy-connection", None)
    assert request.headers == sent
    assert "canary" not in request.query


@pytest.mark.usefixtures("environment")
@pytest.mark.parametrize("url", [OPENAI_URL, "https://api.openai.com.example.com/v1"])
def test_organisation_and_project_leave_for_openai_only(url: str) -> None:
    class Wire(httpx2.AsyncBaseTransport):
        """The end of the line in place of the network, which no test may use."""

        async def handle_async_request(self, request: httpx2.Request) -> httpx2.Response:
            self.sent = dict(request.headers)
            return httpx2.Response(200, stream=httpx2.ByteStream(b"{}"))

    async def send() -> None:
        line = client.Line(where)
        line._client = transport.set_up(where)
        line._client._client._transport = transport._guarded(where, lambda: wire)
        assert (await line.post(b"{}")).status == 200

    wire, where = Wire(), resolve_endpoint(Options(base_url=url, api_key_env="OPENAI_API_KEY"))
    asyncio.run(send())
    own = {"openai-organization": "org-canary", "openai-project": "proj-canary"}
    sent = {name: value for name, value in wire.sent.items() if "canary" in value}
    assert sent == {"authorization": f"Bearer {KEY}"} | (own if url == OPENAI_URL else {})


@pytest.mark.usefixtures("environment")
def test_nothing_leaves_for_loopback_and_no_proxy_is_asked(
    make_dataset: Any, endpoint: Endpoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")  # nobody is there
    table = make_dataset(1).with_format("arrow")[:]
    for url in (endpoint.base_url, "offline"):
        added = add_region_captions(table, base_url=url, answer_store=None)
        assert added["answer_status"].to_pylist() == ["ok"]
    [request] = endpoint.requests
    assert not any("canary" in value for value in request.headers.values())
    assert "authorization" not in request.headers


# What is kept and told


def echo(request: Request, code: int) -> Any:
    """Quotes the headers that it got, as some gateways do."""
    sent = request.headers
    words = f"You sent {sent.get('authorization')}, {sent.get('x-auth')} and {request.query}"
    if code == 1:
        return completion_reply(completion(request, words))
    return error_reply(code, words, error_code=words)


def echoing(code: int) -> Fault:
    return Fault(f"echo_{code}", "api_error", lambda request: echo(request, code))


RUN = """
import json, logging, os, pickle, sys
logging.basicConfig(level=logging.DEBUG)
import datasets
from hf_regioncap import add_region_captions, caption_dataset, retry_failed, estimate
from hf_regioncap.endpoint import resolve_endpoint
from hf_regioncap.options import Options
from hf_regioncap.recipe import make_recipe

def run(folder, secrets, url, more):
    header, query = secrets
    options = dict(base_url=url, api_key_env="CANARY", extra_headers={"X-Auth": header}, **more)
    options["extra_query"] = {"api-key": query, "version": "1"}
    rows = datasets.load_from_disk(folder + "/rows")
    kept = {"estimate": str(estimate(rows, **options)), "recipe": make_recipe(**options)}
    found = resolve_endpoint(Options(**options))
    kept["endpoint"] = repr(found)
    try:
        pickle.dumps(found)
    except Exception as error:
        kept["unpickled"] = repr(error)
    try:
        ways = [
            rows.map(add_region_captions, batched=True, fn_kwargs=options),
            rows.map(add_region_captions, batched=True, num_proc=2, fn_kwargs=options),
            caption_dataset(rows, **options),
        ]
        ways.append(retry_failed(ways[-1], **options))
        for number, done in enumerate(ways):
            done.to_parquet(f"{folder}/{number}.parquet")
            done.save_to_disk(f"{folder}/saved-{number}")
            kept[f"fingerprint {number}"] = done._fingerprint
            print(done["answer_status"][:], done["answer_error"][:])
    except Exception as error:
        print("ended by", type(error).__name__, error, repr(error), file=sys.stderr)
        open(folder + "/error.pickle", "wb").write(pickle.dumps(error))
        logging.exception("with its trace")
    open(folder + "/kept.json", "w").write(json.dumps(kept))

for folder, *case in json.load(sys.stdin):
    out = os.open(folder + "/out.txt", os.O_WRONLY | os.O_CREAT)
    os.dup2(out, 1)
    os.dup2(out, 2)
    os.environ["HF_REGIONCAP_HOME"] = folder + "/store"
    run(folder, *case)
    sys.stdout.flush()
"""

CASES: dict[str, tuple[Any, dict[str, Any]]] = {
    "right answers": (None, {}),
    "an answer that quotes it": (echoing(1), {}),
    "an error with 200": (echoing(200), {}),
    "a rejected row": ([None, *[echoing(400)] * 99], {}),
    "a wrong key": (echoing(401), {}),
    "errors to be tried again": ([*[echoing(500)] * 2, *[echoing(409)] * 2], {}),
    "a row that raises": ([None, *[echoing(413)] * 99], {"on_error": "raise"}),
}


def whoever_holds(secret: str, folder: Path) -> list[str]:
    forms = [secret.encode(), base64.b64encode(secret.encode())[:-4], secret.encode("utf-16-le")]
    return [
        str(path)
        for path in folder.rglob("*")
        if path.is_file() and any(form in path.read_bytes() for form in forms)
    ]


@pytest.fixture(scope="module")
def ran(make_dataset: Any, tmp_path_factory: Any) -> dict[str, tuple[Path, Endpoint]]:
    """All cases in a process that has keys in its environment and logs at DEBUG."""
    done: dict[str, tuple[Path, Endpoint]] = {}
    variables = {k: v for k, v in os.environ.items() if not k.startswith("OPENAI_")}
    variables |= ENVIRONMENT | {"CANARY": KEY, "HF_HOME": str(tmp_path_factory.mktemp("hf"))}
    with contextlib.ExitStack() as stack:
        cases = []
        for case, (behaviour, more) in CASES.items():
            folder, endpoint = tmp_path_factory.mktemp("case"), Endpoint(behaviour)
            done[case] = folder, stack.enter_context(endpoint)
            make_dataset(3).save_to_disk(folder / "rows")
            cases.append([str(folder), [HEADER, QUERY], endpoint.base_url, more])
        subprocess.run(
            [sys.executable, "-c", RUN],
            input=json.dumps(cases),
            text=True,
            env=variables,
            check=True,
            timeout=200,
        )
    assert whoever_holds(KEY, Path(variables["HF_HOME"])) == []
    return done


@pytest.mark.timeout(300)
@pytest.mark.parametrize("case", CASES)
def test_no_canary_is_kept_or_told(case: str, ran: dict[str, tuple[Path, Endpoint]]) -> None:
    folder, endpoint = ran[case]
    told = (folder / "out.txt").read_text()
    for request in endpoint.requests:  # both did leave for where they belong
        assert request.headers["authorization"] == f"Bearer {KEY}"
        assert request.headers["x-auth"] == HEADER
        assert request.query == f"api-key={QUERY}&version=1"
        assert not {"openai-organization", "openai-project", "x-custom"} & set(request.headers)
    assert endpoint.count >= 1
    assert "DEBUG:openai" in told
    for secret in (
        KEY,
        HEADER,
        QUERY,
        *(v for k, v in ENVIRONMENT.items() if k != "OPENAI_API_KEY"),
    ):
        assert whoever_holds(secret, folder) == []
    image = base64.b64encode(b"\xff\xd8\xff\xe0\x00\x10JFIF")[:12].decode()
    assert image not in told  # nor are pictures logged
    kept = (folder / "kept.json").read_text()
    assert "api_key_env" not in kept
    assert "cannot be pickled" in kept
    stores = list(folder.rglob("answers.sqlite"))
    if case in ("a wrong key", "a row that raises", "a rejected row"):
        assert ("EndpointError" in told) == (case != "a rejected row")
    else:
        assert len(stores) == 1
        assert AnswerStore(stores[0]).summary().answers >= 3


def test_an_error_that_quotes_the_key_still_says_what_is_wrong(
    ran: dict[str, tuple[Path, Endpoint]],
) -> None:
    folder, _ = ran["a wrong key"]
    error = pickle.loads((folder / "error.pickle").read_bytes())
    assert isinstance(error, EndpointError)
    assert "You sent" in str(error)
    assert "api_key_env" in str(error)


def test_a_key_in_the_address_or_the_headers_is_in_no_error(make_dataset: Any) -> None:
    for options in (
        {"base_url": f"https://me:{KEY}@api.example.com/v1"},
        {"base_url": "offline", "extra_headers": f"Authorization: {KEY}"},
        {"base_url": "offline", "extra_headers": {"Authorization": KEY}, "view": "wrong"},
    ):
        with pytest.raises(OptionError) as raised:
            caption_dataset(make_dataset(1), **options)
        assert KEY not in str(raised.value)
