"""The toy model on the real server: pixels arrive, schemas are enforced, answers end."""

from __future__ import annotations

import base64
import io
import json
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

sys.path.insert(0, str(Path(__file__).parent))
import llama_server
from llama_server import COLOURS, SAYS, LlamaServer

pytest.importorskip("xllamacpp", reason="the llama.cpp server is not installed (xllamacpp)")
pytest.importorskip("gguf", reason="the GGUF writer is not installed (gguf)")
openai = pytest.importorskip("openai")

#: A colour that leads to each of the words.
PAINT = {"red": "#d04030", "green": "#208040", "blue": "#3050c0", "grey": "#808080"}


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LlamaServer]:
    with LlamaServer(tmp_path_factory.mktemp("llama")) as running:
        yield running


def data_url(colour: str, size: tuple[int, int] = (64, 64), form: str = "JPEG") -> str:
    file = io.BytesIO()
    Image.new("RGB", size, PAINT[colour]).save(file, form)
    return f"data:image/{form.lower()};base64,{base64.b64encode(file.getvalue()).decode()}"


def schema_for(*regions: int, **bound: int) -> dict[str, Any]:
    keys = [str(region) for region in regions]
    schema = {
        "type": "object",
        "properties": {key: {"type": "string", **bound} for key in keys},
        "required": keys,
        "additionalProperties": False,
    }
    named = {"name": "region_captions", "strict": True, "schema": schema}
    return {"type": "json_schema", "json_schema": named}


def ask(
    server: LlamaServer, url: str | None, text: str = "<region1>?", key: str = "none", **more: Any
) -> Any:
    content: list[dict[str, Any]] = [{"type": "text", "text": text}]
    if url:
        content.append({"type": "image_url", "image_url": {"url": url}})
    with openai.OpenAI(base_url=server.base_url, api_key=key, max_retries=0, timeout=60) as client:
        return client.chat.completions.create(
            model=server.model,
            messages=[{"role": "user", "content": content}],
            temperature=0,
            **{"max_tokens": 300, **more},
        )


@pytest.mark.parametrize("colour", COLOURS)
@pytest.mark.parametrize("text", ["", "Describe each region. " * 60])
def test_the_picture_chooses_the_word(server: LlamaServer, colour: str, text: str) -> None:
    (choice,) = ask(server, data_url(colour), text).choices
    assert choice.message.content == SAYS[colour]
    assert choice.finish_reason == "stop"


def test_without_a_picture_no_colour_leads(server: LlamaServer) -> None:
    assert ask(server, None).choices[0].message.content == SAYS["grey"]


@pytest.mark.parametrize("size", [(28, 28), (640, 400), (60, 400)])
def test_a_picture_of_any_size_is_read(server: LlamaServer, size: tuple[int, int]) -> None:
    assert ask(server, data_url("blue", size)).choices[0].message.content == SAYS["blue"]


@pytest.mark.parametrize("regions", [[1], [2], [1, 2, 3], list(range(1, 13))])
@pytest.mark.parametrize("bound", [{}, {"maxLength": 40}])
def test_a_schema_is_enforced(
    server: LlamaServer, regions: list[int], bound: dict[str, int]
) -> None:
    wanted = schema_for(*regions, **bound)
    (choice,) = ask(server, data_url("green"), response_format=wanted).choices
    assert choice.finish_reason == "stop"
    assert json.loads(choice.message.content) == {str(n): SAYS["green"] for n in regions}


def test_a_bound_of_length_is_enforced(server: LlamaServer) -> None:
    wanted = schema_for(1, maxLength=6)
    (choice,) = ask(server, data_url("green"), response_format=wanted).choices
    assert len(json.loads(choice.message.content)["1"]) <= 6


def test_an_object_is_given_without_a_schema(server: LlamaServer) -> None:
    (choice,) = ask(server, data_url("red"), response_format={"type": "json_object"}).choices
    assert json.loads(choice.message.content) == {"1": SAYS["red"]}


def test_an_answer_is_cut_at_the_length_limit(server: LlamaServer) -> None:
    wanted = schema_for(1, 2)
    answer = ask(server, data_url("red"), response_format=wanted, max_tokens=7)
    assert answer.choices[0].finish_reason == "length"
    assert answer.usage.completion_tokens == 7
    with pytest.raises(json.JSONDecodeError):
        json.loads(answer.choices[0].message.content)


def test_many_at_once_get_their_own_answers(server: LlamaServer) -> None:
    colours = [COLOURS[number % len(COLOURS)] for number in range(24)]
    with ThreadPoolExecutor(12) as pool:
        answers = pool.map(lambda colour: ask(server, data_url(colour)), colours)
        said = [answer.choices[0].message.content for answer in answers]
    assert said == [SAYS[colour] for colour in colours]


def test_png_is_read_and_webp_is_not(server: LlamaServer) -> None:
    png = ask(server, data_url("green", form="PNG"))
    assert png.choices[0].message.content == SAYS["green"]
    with pytest.raises(openai.BadRequestError):
        ask(server, data_url("green", form="WEBP"))


def test_a_key_is_asked_for(tmp_path: Path) -> None:
    with LlamaServer(tmp_path, api_key="right") as server:
        with pytest.raises(openai.AuthenticationError):
            ask(server, data_url("red"), key="wrong")
        assert ask(server, data_url("red"), key="right").choices[0].message.content == SAYS["red"]


def test_without_a_projector_a_picture_is_a_server_error(tmp_path: Path) -> None:
    with LlamaServer(tmp_path, vision=False) as server:
        assert ask(server, None).choices[0].message.content == SAYS["grey"]
        with pytest.raises(openai.InternalServerError, match="image input is not supported"):
            ask(server, data_url("red"))


#: An answer that goes on to the length limit.
LONG = {
    "type": "array",
    "minItems": 1500,
    "items": {"type": "array", "minItems": 20, "items": {"type": "integer"}},
}


def test_it_ends_with_requests_in_flight(tmp_path: Path) -> None:
    wanted = {"type": "json_schema", "json_schema": {"name": "numbers", "schema": LONG}}
    with ThreadPoolExecutor(8) as pool:
        with LlamaServer(tmp_path, slots=1) as server:
            waiting = [
                pool.submit(ask, server, None, response_format=wanted, max_tokens=3900)
                for _ in range(8)
            ]
            with pytest.raises(TimeoutError):
                waiting[-1].result(0.2)
        failures = [one.exception(30) for one in waiting]
        assert any(isinstance(failure, openai.APIConnectionError) for failure in failures)
    assert server.process.poll() is not None


def test_it_ends_with_its_parent(tmp_path: Path) -> None:
    server = LlamaServer(tmp_path)
    assert server.process.stdin is not None
    server.process.stdin.close()
    assert server.process.wait(30) == 0
    assert server.process.stdout is not None
    server.process.stdout.close()


def test_a_model_that_is_not_one_ends_it_at_once(tmp_path: Path) -> None:
    wrong = tmp_path / "wrong.gguf"
    wrong.write_bytes(b"GGUF but no more")
    command = [sys.executable, llama_server.__file__, str(wrong), "", "1", ""]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, input="")
    assert done.returncode != 0
    assert done.stdout == ""
    assert "Failed to init server" in done.stderr
