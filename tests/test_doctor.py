"""The doctor: one line for each thing, with the fix."""

from __future__ import annotations

import gzip
import json
import re
from pathlib import Path
from typing import Any

import pytest
from datasets import Dataset
from endpoint import (
    Endpoint,
    Fault,
    Reply,
    Request,
    completion,
    completion_reply,
    error_reply,
    good_reply,
)
from PIL import Image

from hf_regioncap import EndpointError, caption_dataset, doctor
from hf_regioncap.__main__ import main
from hf_regioncap.doctor import Finding, examine
from hf_regioncap.options import read_options
from hf_regioncap.prompts import PROMPT
from hf_regioncap.transport import Reply as Answer


def findings(**options: object) -> dict[str, Finding]:
    return {each.what: each for each in examine(read_options(options))}


def test_all_is_well_offline() -> None:
    found = findings(base_url="offline")
    assert [each.ok for each in found.values()] == [True] * 6 + [None]
    assert list(found) == ["endpoint", "model", "image", "schema", "price", "store", "hub"]


def test_a_good_endpoint() -> None:
    with Endpoint() as endpoint:
        found = findings(base_url=endpoint.base_url, model="test-model")
    assert found["endpoint"].ok
    assert found["image"].ok
    assert found["schema"].ok


def test_nobody_there() -> None:
    found = findings(base_url="http://127.0.0.1:9/v1")
    assert found["endpoint"].ok is False
    assert "is it running?" in found["endpoint"].words


def test_a_wrong_key_is_told_and_not_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MY_KEY", "sk-canary-0123456789")
    with Endpoint(api_key="right") as endpoint:
        found = findings(base_url=endpoint.base_url, api_key_env="MY_KEY")
    failed = [each for each in found.values() if each.ok is False]
    assert failed
    assert not [each for each in found.values() if "canary" in str(each)]


@pytest.mark.parametrize("fault", ["rejects_json_schema", "http_500", "content_null"])
def test_an_endpoint_with_ways_of_its_own(fault: str) -> None:
    with Endpoint(fault) as endpoint:
        found = findings(base_url=endpoint.base_url)
    words = " ".join(map(str, found.values()))
    if fault == "rejects_json_schema":
        assert found["parameter"].ok is None
        assert found["image"].ok
    else:
        assert found["image"].ok is False
    assert "Traceback" not in words


@pytest.mark.parametrize(
    ("fault", "options", "named"),
    [
        ("rejects_json_schema", {"answer_form": "json_schema"}, "answer_form="),
        ("rejects_max_tokens", {"token_parameter": "max_tokens"}, "token_parameter="),
        ("rejects_temperature", {"temperature": 0.5}, "temperature="),
        ("rejects_seed", {"seed": 7}, "seed="),
    ],
)
def test_what_the_user_fixed_and_the_run_dies_of(
    fault: str, options: dict[str, Any], named: str
) -> None:
    with Endpoint(fault) as endpoint:
        found = findings(base_url=endpoint.base_url, **options)
        assert found["parameter"].ok is False
        assert named in found["parameter"].words
        ran = {"base_url": endpoint.base_url, "answer_store": None, **options}
        with pytest.raises(EndpointError):
            caption_dataset(one_row(), **ran)


def one_row(**columns: Any) -> Dataset:
    picture = Image.new("RGB", (64, 48), "red")
    boxes = [[4, 4, 30, 20], [20, 10, 25, 30]]
    return Dataset.from_list([{"image": picture, "bbox": boxes, **columns}])


@pytest.mark.parametrize(
    "options",
    [
        {},
        {
            "seed": 7,
            "detail": "low",
            "answer_form": "json_object",
            "system_prompt": "You are at {place}.",
            "prompt": "{regions} at {place}?",
            "extra_body": {"top_p": 0.9},
            "max_tokens": 321,
            "temperature": 0.5,
            "language": "German",
            "caption_style": "phrase",
        },
        {"view": "crop"},
        {"view": "both", "system_prompt": ""},
        {"label_column": "kind", "token_parameter": "max_completion_tokens"},
        {"prompt_column": "question", "box_unit": "fraction", "box_format": "xyxy"},
    ],
)
def test_the_doctor_asks_what_the_run_asks(options: dict[str, Any]) -> None:
    columns = {"place": "place", "kind": ["square", "square"], "question": PROMPT}
    if "box_unit" in options:
        columns["bbox"] = [[0.1, 0.1, 0.5, 0.5], [0.3, 0.3, 0.9, 0.9]]
    with Endpoint(keep_bodies=True) as endpoint:
        asked = {"base_url": endpoint.base_url, **options}
        findings(**asked)
        [doctors] = [each.body for each in endpoint.requests if each.method == "POST"]
        endpoint.reset()
        caption_dataset(one_row(**columns), answer_store=None, **asked)
        runs = [each.body for each in endpoint.requests]
    assert without_pictures(doctors) in [without_pictures(body) for body in runs]


def without_pictures(body: Any) -> str:
    return re.sub(r"base64,[\w+/=]*", "base64,", json.dumps(body, sort_keys=True))


@pytest.mark.parametrize(
    "options", [{"prompt": "{labels}"}, {"system_prompt": "{"}, {"prompt": "{regions!r}"}]
)
def test_a_template_that_cannot_be_filled(options: dict[str, Any]) -> None:
    found = findings(base_url="offline", **options)
    assert found["prompt"].ok is False
    assert found["prompt"].words.startswith(next(iter(options)))


SERVER_OF_NO_KIND = "Request contains an invalid argument."


@pytest.mark.parametrize(
    ("reply", "what", "ok", "words"),
    [
        (error_reply(403, "Your input was flagged"), "image", False, "refused: HTTP 403"),
        (error_reply(400, "API key not valid."), "key", False, "check the key"),
        (error_reply(400, "System role not supported"), "image", False, "system_prompt=''"),
        (error_reply(503, "Loading model"), "image", False, "Loading model: try again"),
        (error_reply(400, SERVER_OF_NO_KIND), "image", False, SERVER_OF_NO_KIND[:-1]),
    ],
)
def test_an_endpoint_that_answers_no_picture(reply: Reply, what: str, ok: bool, words: str) -> None:
    with Endpoint(Fault("odd", "api_error", lambda request: reply)) as endpoint:
        found = findings(base_url=endpoint.base_url)
    assert found[what].ok is ok
    assert words in found[what].words


def saying(content: Any, **message: Any) -> Fault:
    return Fault(
        "saying", "ok", lambda request: completion_reply(completion(request, content, **message))
    )


@pytest.mark.parametrize(
    ("captions", "sight"),
    [
        (["a red square", "a blue square"], None),
        (["ein rotes Quadrat", "ein blaues Quadrat"], None),
        (["红色的方块", "蓝色的方块"], None),
        (["a blue square", "a red square"], "does the model mix up regions?"),
        (["a man on a bench", "a dog"], "does it see pictures?"),
    ],
)
def test_the_doctor_looks_for_what_only_a_picture_tells(
    captions: list[str], sight: str | None
) -> None:
    content = json.dumps({"1": captions[0], "2": captions[1]})
    with Endpoint(saying(content)) as endpoint:
        found = findings(base_url=endpoint.base_url)
    assert found["image"].ok
    assert ("sight" in found) == (sight is not None)
    if sight:
        assert found["sight"].ok is None
        assert sight in found["sight"].words


@pytest.mark.parametrize(
    "content",
    [
        "I'm happy to help, but I don't see an image. Could you please describe it to me?",
        "I'm sorry, I can't assist with that.",
    ],
)
def test_an_answer_by_a_model_that_has_not_looked(content: str) -> None:
    with Endpoint(saying(content)) as endpoint:
        found = findings(base_url=endpoint.base_url)
    assert found["image"].ok is False


def test_answers_in_a_form_that_was_not_asked_for() -> None:
    def streamed(request: Request) -> Reply:
        data = good_reply(request).body
        packed = gzip.compress(b"data: " + data + b"\n\ndata: [DONE]\n\n")
        return Reply(packed, headers={"content-encoding": "gzip"})

    with Endpoint(Fault("streamed", "ok", streamed)) as endpoint:
        found = findings(base_url=endpoint.base_url)
    assert found["image"].ok
    assert (found["stream"].ok, found["packing"].ok) == (None, None)
    assert "gzip" in found["packing"].words


@pytest.mark.parametrize(
    ("status", "listed", "ok", "words"),
    [
        (200, {"data": [{"id": "models/vlm"}]}, True, "is served"),
        (200, [{"id": "vlm"}], True, "is served"),
        (200, {"data": [{"id": "other"}]}, None, "not among"),
        (200, "nonsense", None, "does not list"),
        (403, {"error": {"message": "Missing scopes: api.model.read"}}, None, "may not list"),
        (404, "page not found", None, "does not list"),
    ],
)
def test_what_the_list_of_models_tells(
    status: int, listed: Any, ok: bool | None, words: str
) -> None:
    found = doctor._model(
        read_options({"base_url": "http://127.0.0.1:9/v1", "model": "vlm"}),
        Answer(status, json.dumps(listed)),
    )
    assert (found.what, found.ok) == ("model", ok)
    assert words in found.words


def test_an_answer_that_is_cut_names_the_limit() -> None:
    with Endpoint("cut_at_length") as endpoint:
        found = findings(base_url=endpoint.base_url, max_tokens=40)
    assert found["image"].ok is None
    assert found["image"].words.endswith("cut at 40 tokens: pass a larger max_tokens=")


def test_an_address_that_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_BASE_URL", "example.com")
    found = findings()
    assert found["endpoint"].ok is False
    assert "OPENAI_BASE_URL" in found["endpoint"].words
    assert found["price"].ok is None


def test_a_store_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    found = findings(base_url="offline", answer_store=tmp_path / "file" / "answers.sqlite")
    assert found["store"].ok is False
    assert "answer_store=" in found["store"].words


def test_the_command(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    arguments = ["--base-url", "offline", "--answer-store", str(tmp_path / "answers.sqlite")]
    assert main(["doctor", *arguments]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 7
    assert main(["doctor", "--box-unit", "inch"]) == 2
    assert "box_unit must be one of" in capsys.readouterr().out
    assert main(["store", "show", str(tmp_path / "answers.sqlite")]) == 0
    assert main(["nonsense"]) == 2
