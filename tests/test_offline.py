from __future__ import annotations

import base64
import http.client
import io
import json
import re
import signal
import socket
import struct
import subprocess
import sys
import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any
from urllib.parse import urlsplit

import numpy as np
import openai
import pytest
from forks import forks, in_a_fork
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from hf_regioncap import offline
from hf_regioncap.errors import OptionError
from hf_regioncap.offline import MODEL, color_name, describe_region, serve

LEFT, RIGHT = [0.0, 0.0, 0.5, 1.0], [0.5, 0.0, 1.0, 1.0]

#: Colours that each have a name of their own, at any JPEG quality.
PLAIN_COLORS = {
    "black": (0, 0, 0),
    "white": (255, 255, 255),
    "grey": (128, 128, 128),
    "light grey": (200, 200, 200),
    "dark grey": (64, 64, 64),
    "red": (220, 20, 20),
    "dark red": (120, 10, 20),
    "green": (20, 130, 20),
    "bright green": (0, 255, 0),
    "dark green": (25, 70, 30),
    "light green": (170, 230, 150),
    "blue": (20, 60, 230),
    "dark blue": (10, 15, 90),
    "light blue": (173, 216, 240),
    "sky blue": (90, 165, 235),
    "orange": (255, 140, 0),
    "brown": (139, 69, 19),
    "dark brown": (62, 36, 20),
    "tan": (210, 180, 140),
    "beige": (228, 212, 180),
    "cream": (250, 242, 214),
    "pink": (255, 175, 195),
    "magenta": (250, 0, 250),
    "purple": (128, 0, 128),
    "lavender": (200, 176, 232),
    "yellow": (255, 230, 0),
    "olive": (120, 120, 10),
    "teal": (0, 128, 128),
    "turquoise": (64, 224, 208),
    "cyan": (0, 255, 255),
}


def solid(color: str | tuple[int, int, int], size_wh: tuple[int, int] = (64, 48)) -> Image.Image:
    return Image.new("RGB", size_wh, color)


def halves(left: str, right: str, size_wh: tuple[int, int] = (200, 100)) -> Image.Image:
    image = solid(left, size_wh)
    image.paste(right, (size_wh[0] // 2, 0, *size_wh))
    return image


def ramp(axis: int, low: int = 20, high: int = 235) -> Image.Image:
    values = np.linspace(low, high, 128).astype(np.uint8)
    grid = np.broadcast_to(values if axis else values[:, None], (128, 128))
    return Image.fromarray(np.ascontiguousarray(grid)).convert("RGB")


def noise(seed: int = 0, size_wh: tuple[int, int] = (96, 96)) -> Image.Image:
    rng = np.random.default_rng(seed)
    return Image.fromarray(rng.integers(0, 256, (size_wh[1], size_wh[0], 3), dtype=np.uint8))


def encoded(image: Image.Image, kind: str = "JPEG") -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind)
    return buffer.getvalue()


def data_url(image: Image.Image | bytes, kind: str = "JPEG") -> str:
    data = image if isinstance(image, bytes) else encoded(image, kind)
    return f"data:image/{kind.lower()};base64,{base64.b64encode(data).decode()}"


def message(*pictures: Any, text: str = "Describe the content of each marked region.") -> list[Any]:
    parts: list[Any] = [{"type": "text", "text": text}]
    for picture in pictures:
        url = picture if isinstance(picture, str) else data_url(picture)
        parts.append({"type": "image_url", "image_url": {"url": url}})
    return [{"role": "user", "content": parts}]


def schema(*keys: str, kind: Any = "string") -> dict[str, Any]:
    properties = {key: {"type": kind} for key in keys}
    body = {"type": "object", "properties": properties, "required": list(keys)}
    return {"type": "json_schema", "json_schema": {"name": "captions", "schema": body}}


@pytest.fixture(scope="module")
def client() -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=serve(), api_key="none", max_retries=0, timeout=60) as client:
        yield client


def ask(client: openai.OpenAI, *pictures: Any, **request: Any) -> Any:
    extra = {name: request.pop(name) for name in ("regions", "frame") if name in request}
    request.setdefault("messages", message(*pictures))
    return client.chat.completions.create(model="gpt-4o-mini", extra_body=extra, **request)


def text_of(completion: Any) -> str:
    content = completion.choices[0].message.content
    assert isinstance(content, str)
    return content


# What is said of a region


@pytest.mark.parametrize(("name", "rgb"), PLAIN_COLORS.items())
def test_one_colour_has_its_name(name: str, rgb: tuple[int, int, int]) -> None:
    assert color_name(rgb) == name
    assert f"plain area of {name} in" in describe_region(solid(rgb), (0.3, 0.3, 0.7, 0.7))
    whole = describe_region(solid(rgb))
    assert whole.endswith(f" image, almost entirely {name}.")


@pytest.mark.parametrize(
    ("image", "xyxy", "sentence"),
    [
        (solid("white", (1, 1)), None, "A square, plain image, almost entirely white."),
        (
            solid("white", (1, 1)),
            (0, 0, 1, 1),
            "A large, square, plain area of white, covering the whole image.",
        ),
        (
            solid("saddlebrown", (640, 480)),
            (0.0, 0.0, 1.0, 0.2),
            "A very wide, plain area of brown across the top, covering about a fifth of the image.",
        ),
        (
            solid("saddlebrown", (640, 480)),
            (0.9, 0.0, 1.0, 1.0),
            "A very tall, plain area of brown down the right side, "
            "covering about a tenth of the image.",
        ),
        (
            halves("red", "blue"),
            None,
            "A wide, plain image, red on the left and blue on the right.",
        ),
        (
            halves("red", "blue").transpose(Image.Transpose.ROTATE_90),
            (0, 0, 1, 1),
            "A large, tall, plain area, blue above and red below, covering the whole image.",
        ),
        (ramp(0), None, "A square, smooth image, mostly grey with a little black towards the top."),
        (ramp(1, 100, 150), None, "A square, smooth image, almost entirely grey, lighter towards"),
    ],
)
def test_sentences(image: Image.Image, xyxy: Sequence[float] | None, sentence: str) -> None:
    assert describe_region(image, xyxy).startswith(sentence)


def test_a_gradient_is_told_by_its_lighter_side() -> None:
    below = describe_region(ramp(0, 100, 150))
    assert below.endswith("lighter towards the bottom.")
    assert describe_region(ramp(1, 150, 100)).endswith("lighter towards the left.")
    assert "lighter" not in describe_region(solid("grey"))


def test_noise_is_busy_and_a_plain_wall_is_not() -> None:
    assert "busy" in describe_region(noise())
    assert "many colours" in describe_region(noise()) or "a mix of" in describe_region(noise())
    assert "busy" not in describe_region(solid("tan"))


def test_light_and_dark_are_said_unless_the_colour_says_it() -> None:
    assert "light," in describe_region(solid((255, 230, 0)))
    assert "dark," in describe_region(solid((64, 64, 24)))
    assert "dark, " not in describe_region(solid("black"))
    assert "dark" not in describe_region(solid("grey"))


@pytest.mark.parametrize(
    ("xyxy", "words"),
    [
        ((0.0, 0.0, 0.2, 0.2), "in the upper left"),
        ((0.4, 0.0, 0.6, 0.2), "at the top"),
        ((0.8, 0.0, 1.0, 0.2), "in the upper right"),
        ((0.0, 0.4, 0.2, 0.6), "on the left"),
        ((0.4, 0.4, 0.6, 0.6), "in the centre"),
        ((0.8, 0.4, 1.0, 0.6), "on the right"),
        ((0.0, 0.8, 0.2, 1.0), "in the lower left"),
        ((0.4, 0.8, 0.6, 1.0), "at the bottom"),
        ((0.8, 0.8, 1.0, 1.0), "in the lower right"),
        ((0.0, 0.4, 1.0, 0.6), "across the middle"),
        ((0.4, 0.0, 0.6, 1.0), "down the middle"),
    ],
)
def test_position(xyxy: Sequence[float], words: str) -> None:
    assert f" {words}, covering" in describe_region(solid("grey"), xyxy)


@pytest.mark.parametrize(
    ("side", "words"),
    [
        (0.05, "less than 1% of the image"),
        (0.1, "about 1% of the image"),
        (0.25, "about 6% of the image"),
        (0.316, "about a tenth of the image"),
        (0.5, "about a quarter of the image"),
        (0.707, "about half of the image"),
        (0.95, "nearly all of the image"),
        (1.0, "the whole image"),
    ],
)
def test_share(side: float, words: str) -> None:
    assert describe_region(solid("grey"), (0, 0, side, side)).endswith(f"covering {words}.")


def test_a_crop_is_placed_in_the_whole_picture() -> None:
    frame = (0.5, 0.5, 1.0, 1.0)
    said = describe_region(solid("red", (100, 100)), (0.5, 0.5, 1.0, 1.0), frame=frame)
    assert said == (
        "A square, plain area of red in the lower right, covering about 6% of the image."
    )
    whole_crop = describe_region(solid("red", (100, 100)), frame=frame)
    assert "in the lower right, covering about a quarter of the image." in whole_crop


def test_where_the_second_colour_lies() -> None:
    picture = solid("green", (120, 120))
    picture.paste("white", (70, 0, 120, 50))
    assert "mostly green with a little white towards the upper right" in describe_region(picture)
    picture = solid("green", (120, 120))
    picture.paste("white", (35, 35, 85, 85))
    assert "mostly green with a little white in the middle" in describe_region(picture)


def test_a_drawn_mark_is_not_the_colour_of_its_region() -> None:
    from hf_regioncap.overlay import draw_regions

    for size_wh in [(200, 150), (640, 480), (1920, 1080)]:
        plain = solid("saddlebrown", size_wh)
        boxes = [(0.1, 0.1, 0.5, 0.5), (0.6, 0.2, 0.75, 0.4), (0.3, 0.7, 0.9, 0.95)]
        marked = draw_regions(plain, [np.array(box) * (size_wh * 2) for box in boxes])
        assert marked.tobytes() != plain.tobytes()
        for box in boxes:
            assert " of brown " in describe_region(marked, box)


@pytest.mark.parametrize(
    "xyxy",
    [
        (),
        (0, 0, 1),
        "abcd",
        7,
        (0, 0, 1, float("nan")),
        (0, 0, True, 1),
        (0.6, 0, 0.5, 1),
        (0, 0.6, 1, 0.5),
        (0, 0, 640, 480),
        (2, 0, 3, 1),
    ],
)
def test_a_box_that_is_none_is_refused(xyxy: Any) -> None:
    with pytest.raises(OptionError, match=r"^xyxy must be"):
        describe_region(solid("red"), xyxy)
    with pytest.raises(OptionError, match=r"^frame must be"):
        describe_region(solid("red"), frame=xyxy)


@pytest.mark.parametrize("xyxy", [(0, 0, 0, 0), (1, 1, 1, 1), (0.123, 0.5, 0.123, 0.5)])
def test_a_box_that_rounding_has_closed_is_still_told(xyxy: Any) -> None:
    said = describe_region(solid("red", (4000, 30)), xyxy)
    assert " patch of red in the " in said or " patch of red on the " in said
    assert said.endswith("covering less than 1% of the image.")


fractions = st.floats(0, 1, allow_nan=False).map(lambda value: round(value, 4))


@settings(max_examples=60)
@given(
    st.tuples(fractions, fractions, fractions, fractions),
    st.tuples(st.integers(1, 300), st.integers(1, 300)),
    st.integers(0, 5),
)
def test_every_box_of_every_picture_gets_one_short_sentence(
    corners: tuple[float, float, float, float], size_wh: tuple[int, int], seed: int
) -> None:
    x1, x2 = sorted(corners[::2])
    y1, y2 = sorted(corners[1::2])
    image = noise(seed, size_wh)
    before = image.tobytes()
    box = (x1, y1, x2, y2)
    said = describe_region(image, box)
    assert re.fullmatch(r"An? [a-z0-9%, -]+\.", said)
    assert len(said) <= 200
    assert said == describe_region(image, box)
    assert image.tobytes() == before


# The endpoint, through the official client


def test_models_and_health(client: openai.OpenAI) -> None:
    assert [model.id for model in client.models.list()] == [MODEL]
    address = urlsplit(serve())
    assert (address.hostname, address.path) == ("127.0.0.1", "/v1")
    assert raw(b"GET /health HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")[0] == 200


def test_schema_answers_its_properties_and_nothing_else(client: openai.OpenAI) -> None:
    completion = ask(
        client,
        halves("red", "blue"),
        regions={"1": LEFT, "2": RIGHT, "3": [0.0, 0.0, 1.0, 1.0]},
        response_format=schema("2", "1"),
    )
    captions = json.loads(text_of(completion))
    assert list(captions) == ["2", "1"]
    assert "of red down the left side" in captions["1"]
    assert "of blue down the right side" in captions["2"]
    assert completion.model == MODEL
    assert completion.choices[0].finish_reason == "stop"
    assert completion.object == "chat.completion"


def test_json_object_answers_every_region(client: openai.OpenAI) -> None:
    completion = ask(
        client,
        halves("red", "blue"),
        regions={"4": LEFT, "7": RIGHT},
        response_format={"type": "json_object"},
    )
    captions = json.loads(text_of(completion))
    assert list(captions) == ["4", "7"]
    assert "red" in captions["4"]


@pytest.mark.parametrize("form", [{}, {"response_format": {"type": "text"}}])
def test_text_names_each_region(client: openai.OpenAI, form: dict[str, Any]) -> None:
    said = text_of(ask(client, halves("red", "blue"), regions={"1": LEFT, "2": RIGHT}, **form))
    first, second = said.split("\n")
    assert first.startswith("<region1>: A ")
    assert "red" in first
    assert second.startswith("<region2>: A ")
    assert "blue" in second


def test_without_regions_the_whole_picture_is_described(client: openai.OpenAI) -> None:
    picture = solid("orange")
    whole = describe_region(picture)
    assert text_of(ask(client, picture)) == whole
    captions = json.loads(text_of(ask(client, picture, response_format=schema("1", "2"))))
    assert captions == {"1": whole, "2": whole}
    as_object = ask(client, picture, response_format={"type": "json_object"})
    assert json.loads(text_of(as_object)) == {"1": whole}
    assert json.loads(text_of(ask(client, picture, response_format=schema()))) == {}


def test_of_two_pictures_the_last_is_measured_and_placed(client: openai.OpenAI) -> None:
    completion = ask(
        client,
        solid("green", (400, 300)),
        solid("red", (100, 100)),
        regions={"5": [0.25, 0.25, 0.75, 0.75]},
        frame=[0.0, 0.0, 0.4, 0.4],
        response_format=schema("5"),
    )
    caption = json.loads(text_of(completion))["5"]
    assert "of red in the upper left, covering about 4% of the image." in caption


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "GIF"])
def test_formats_of_pictures(client: openai.OpenAI, kind: str) -> None:
    picture = solid("orange", (640, 480))
    assert "orange" in text_of(ask(client, data_url(picture, kind)))


def test_a_url_may_stand_alone_and_texts_may_be_plain(client: openai.OpenAI) -> None:
    part = {"type": "image_url", "image_url": data_url(solid("teal"))}
    messages = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": [part]}]
    assert "teal" in text_of(ask(client, messages=messages))


def test_small_regions_of_large_pictures_are_still_seen(client: openai.OpenAI) -> None:
    picture = solid("white", (3000, 2000))
    picture.paste("red", (1500, 1000, 1530, 1020))
    box = [1500 / 3000, 1000 / 2000, 1530 / 3000, 1020 / 2000]
    said = text_of(ask(client, picture, regions={"1": box}))
    assert "small, wide, plain patch of red in the centre" in said


def test_usage_counts_words_marks_and_patches(client: openai.OpenAI) -> None:
    request = message(solid("red", (57, 28)), solid("red", (28, 28)), text="Describe <region1>.")
    completion = ask(client, messages=request)
    usage = completion.usage
    assert usage.prompt_tokens == 5 + 3 + 1  # Describe < region1 > . and 3 x 1 and 1 x 1 patches
    assert usage.completion_tokens == len(re.findall(r"\w+|[^\w\s]", text_of(completion)))
    assert usage.total_tokens == usage.prompt_tokens + usage.completion_tokens


@pytest.mark.parametrize("name", ["max_tokens", "max_completion_tokens"])
def test_an_answer_is_cut_at_the_limit_and_says_so(client: openai.OpenAI, name: str) -> None:
    completion = ask(client, solid("red"), **{name: 4})
    assert completion.choices[0].finish_reason == "length"
    assert completion.usage.completion_tokens == 4
    assert describe_region(solid("red")).startswith(text_of(completion))
    assert ask(client, solid("red"), **{name: 400}).choices[0].finish_reason == "stop"


def test_the_same_request_has_the_same_answer(client: openai.OpenAI) -> None:
    first, second = (ask(client, noise(3), regions={"1": LEFT}) for _ in range(2))
    assert (first.id, text_of(first), first.usage) == (second.id, text_of(second), second.usage)


PICTURE = data_url(solid("red"))

WRONG_REQUESTS: dict[str, tuple[dict[str, Any], str, str | None]] = {
    "no messages": ({"messages": []}, "at least one message", "messages"),
    "no image": ({"messages": [{"role": "user", "content": "hi"}]}, "No image", "messages"),
    "a null content": ({"messages": [{"role": "user", "content": None}]}, "No image", "messages"),
    "a message that is none": ({"messages": ["hi"]}, "No image", "messages"),
    "a number as message": ({"messages": [7]}, "content must be", "messages"),
    "a part that is none": (
        {"messages": [{"role": "user", "content": ["hi"]}]},
        "content must be",
        "messages",
    ),
    "an unknown part": (
        {"messages": [{"role": "user", "content": [{"type": "input_audio"}]}]},
        "a text or an image_url",
        "messages",
    ),
    "a web address": ({"messages": message("https://x.test/a.jpg")}, "not a data: URL", "messages"),
    "a file": ({"messages": message("file:///etc/passwd")}, "not a data: URL", "messages"),
    "no base64": ({"messages": message("data:image/png,abc")}, "not in base64", "messages"),
    "broken base64": ({"messages": message("data:image/png;base64,a*b")}, "broken", "messages"),
    "no picture": ({"messages": message(data_url(b"hello"))}, "cannot be read", "messages"),
    "an empty picture": ({"messages": message(data_url(b""))}, "cannot be read", "messages"),
    "half a picture": (
        {"messages": message(data_url(encoded(noise())[:1500]))},
        "cannot be read",
        "messages",
    ),
    "the first of two unreadable": (
        {"messages": message(data_url(b"hello"), PICTURE)},
        "cannot be read",
        "messages",
    ),
    "a stream": ({"stream": True}, "does not stream", "stream"),
    "two answers": ({"n": 2}, "one answer only", "n"),
    "regions as a list": ({"regions": [LEFT]}, "regions must map", "regions"),
    "a region of three": ({"regions": {"1": [0, 0, 1]}}, "four finite numbers", "regions"),
    "a region of words": ({"regions": {"1": list("abcd")}}, "four finite numbers", "regions"),
    "pixels": ({"regions": {"1": [10, 10, 50, 50]}}, "fractions 0..1", "regions"),
    "a reversed region": ({"regions": {"1": [0.5, 0, 0.1, 1]}}, "x1 < x2", "regions"),
    "a bad frame": ({"frame": "all"}, "frame must be four", "frame"),
    "an unknown format": (
        {"response_format": {"type": "xml"}},
        "text, json_object or json_schema",
        "response_format",
    ),
    "a format that is none": (
        {"response_format": "json"},
        "text, json_object or json_schema",
        "response_format",
    ),
    "a schema without properties": (
        {"response_format": {"type": "json_schema", "json_schema": {"schema": {}}}},
        "properties are strings",
        "response_format",
    ),
    "a schema of numbers": (
        {"response_format": schema("1", kind="number")},
        "properties are strings",
        "response_format",
    ),
    "a region that is not there": (
        {"response_format": schema("1", "2"), "regions": {"1": LEFT}},
        "regions lacks",
        "regions",
    ),
    "no room": ({"max_tokens": 0}, "positive integer", "max_tokens"),
}


@pytest.mark.parametrize(
    ("wrong", "words", "param"), WRONG_REQUESTS.values(), ids=WRONG_REQUESTS.keys()
)
def test_a_wrong_request_gets_an_error_in_words(
    client: openai.OpenAI, wrong: dict[str, Any], words: str, param: str | None
) -> None:
    body = {"model": "x", "messages": message(PICTURE), **wrong}
    with pytest.raises(openai.BadRequestError) as caught:
        client.post("/chat/completions", body=body, cast_to=object)
    error = caught.value
    assert words in error.message
    assert (error.param, error.type) == (param, "invalid_request_error")
    assert "base64," not in error.message


def test_an_unknown_path_is_404(client: openai.OpenAI) -> None:
    with pytest.raises(openai.NotFoundError, match="Unknown path: POST /v1/embeddings"):
        client.embeddings.create(model="x", input="hi")
    with pytest.raises(openai.NotFoundError, match="Unknown path: GET /v1/files"):
        client.files.list()


def test_wrong_inputs_leave_the_connection_in_step() -> None:
    connection = http.client.HTTPConnection(urlsplit(serve()).netloc, timeout=60)
    good = json.dumps({"messages": message(PICTURE)})
    for body, status in [("{", 400), ("[]", 400), (good, 200), ("\xff", 400), ("[" * 10**5, 400)]:
        connection.request("POST", "/v1/chat/completions", body)
        own = connection.sock
        response = connection.getresponse()
        answer = json.loads(response.read())
        assert response.status == status
        assert ("choices" if status == 200 else "error") in answer
        assert connection.sock is own  # kept, and the next answer belongs to the next request
    connection.close()


# The wire itself


def raw(request: bytes) -> tuple[int, dict[str, Any]]:
    """Send bytes, read to the end of the connection; the status and the JSON of the answer."""
    address = urlsplit(serve())
    with socket.create_connection((address.hostname, address.port), timeout=60) as connection:
        connection.sendall(request)
        head, _, body = b"".join(iter(lambda: connection.recv(65536), b"")).partition(b"\r\n\r\n")
    return int(head.split()[1]), json.loads(body)


@pytest.mark.parametrize(
    ("request_bytes", "status"),
    [
        (b"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\n\r\n", 411),
        (b"POST /v1/chat/completions HTTP/1.1\r\nContent-Length: -5\r\n\r\n", 411),
        (b"POST /v1/chat/completions HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n", 411),
        (b"DELETE /v1/models HTTP/1.1\r\nHost: x\r\n\r\n", 501),
        (b"GET /v1/models HTTP/9.9\r\n\r\n", 505),
        (b"NONSENSE\r\n\r\n", 400),
    ],
)
def test_a_request_that_is_no_request(request_bytes: bytes, status: int) -> None:
    answered, body = raw(request_bytes)
    assert answered == status
    assert set(body["error"]) == {"message", "type", "param", "code"}


def test_a_request_that_is_too_large_is_refused_without_being_kept() -> None:
    size = offline._MAX_BODY + 1
    connection = http.client.HTTPConnection(urlsplit(serve()).netloc, timeout=60)
    pieces = (b" " * min(2**20, size - start) for start in range(0, size, 2**20))
    headers = {"Content-Length": str(size)}
    connection.request("POST", "/v1/chat/completions", pieces, headers)
    response = connection.getresponse()
    assert response.status == 413
    assert str(size) in json.loads(response.read())["error"]["message"]
    connection.close()


def test_a_client_that_waits_for_the_go_ahead_gets_it() -> None:
    address = urlsplit(serve())
    body = json.dumps({"messages": message(PICTURE)}).encode()
    head = "POST /v1/chat/completions HTTP/1.1\r\nExpect: 100-continue\r\nConnection: close\r\n"
    with socket.create_connection((address.hostname, address.port), timeout=60) as connection:
        connection.sendall(f"{head}Content-Length: {len(body)}\r\n\r\n".encode())
        assert connection.recv(100).startswith(b"HTTP/1.1 100 ")
        connection.sendall(body)
        assert b"HTTP/1.1 200 " in connection.makefile("rb").read()


def test_a_client_that_goes_away_says_nothing(capfd: pytest.CaptureFixture[str]) -> None:
    address = urlsplit(serve())
    body = json.dumps({"messages": message(PICTURE)}).encode()
    head = f"POST /v1/chat/completions HTTP/1.1\r\nContent-Length: {len(body)}\r\n\r\n".encode()
    for sent in (head, head + body[:50], head + body):
        connection = socket.create_connection((address.hostname, address.port), timeout=60)
        linger = struct.pack("ii", 1, 0)  # close with a reset
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
        connection.sendall(sent)
        connection.close()
    with openai.OpenAI(base_url=serve(), api_key="none", max_retries=0, timeout=60) as client:
        assert "red" in text_of(ask(client, PICTURE))
    captured = capfd.readouterr()
    assert captured.out == captured.err == ""


def test_one_connection_serves_many_requests_each_in_one_piece() -> None:
    address = urlsplit(serve())
    body = json.dumps({"messages": message(PICTURE)}).encode()
    head = f"POST /v1/chat/completions HTTP/1.1\r\nContent-Length: {len(body)}\r\n\r\n".encode()
    with socket.create_connection((address.hostname, address.port), timeout=60) as connection:
        for _ in range(30):
            connection.sendall(head + body)
            answer = connection.recv(65536)
            # Head and body in the first piece: nothing waits for a delayed acknowledgement.
            start, _, content = answer.partition(b"\r\n\r\n")
            length = re.search(rb"Content-Length: (\d+)", start)
            assert length is not None
            assert int(length[1]) == len(content)


# Many at once, and other processes


def distinct_colors(count: int) -> list[tuple[int, int, int]]:
    """Colours of which neighbours have different names."""
    colors = list(PLAIN_COLORS.values())
    return [colors[index % len(colors)] for index in range(count)]


def test_64_requests_at_once_each_get_their_own_answer(client: openai.OpenAI) -> None:
    colors = distinct_colors(64)
    together = threading.Barrier(64, timeout=60)

    def one(index: int) -> bool:
        picture = solid(colors[index], (40 + index, 40))
        expected = describe_region(picture, (0, 0, 1, 1))
        request = data_url(picture, "PNG")
        together.wait()
        said = text_of(ask(client, request, regions={str(index): [0, 0, 1, 1]}))
        return said == f"<region{index}>: {expected}" and color_name(colors[index]) in said

    with ThreadPoolExecutor(64) as pool:
        assert all(pool.map(one, range(64)))


def test_threads_that_start_it_together_get_one_server() -> None:
    started = subprocess.run(
        [sys.executable, "-c", STARTED_TOGETHER], capture_output=True, text=True, timeout=60
    )
    assert (started.stdout, started.stderr) == ("1\n", "")


STARTED_TOGETHER = """
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from hf_regioncap.offline import serve
sys.setswitchinterval(1e-6)
together = threading.Barrier(16, timeout=60)
with ThreadPoolExecutor(16) as pool:
    print(len(set(pool.map(lambda _: together.wait() < 0 or serve(), range(16)))))
"""


@forks
@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_a_forked_child_starts_its_own() -> None:
    ours = serve()

    def child() -> None:
        theirs = serve()
        assert theirs != ours
        assert serve() == theirs
        with openai.OpenAI(base_url=theirs, api_key="none", max_retries=0, timeout=60) as client:
            for name in ("red", "blue"):
                assert name in text_of(ask(client, solid(name)))

    with ThreadPoolExecutor(1) as pool:
        # The lock is held by another thread while the child is made.
        held, release = threading.Event(), threading.Event()

        def hold() -> None:
            with offline._lock:
                held.set()
                release.wait(60)

        holding = pool.submit(hold)
        held.wait(60)
        try:
            assert in_a_fork(child) == 0
        finally:
            release.set()
            holding.result(60)
    assert serve() == ours
    with openai.OpenAI(base_url=ours, api_key="none", max_retries=0, timeout=60) as client:
        assert "green" in text_of(ask(client, solid("green")))


def test_it_runs_in_the_foreground_until_interrupted() -> None:
    command = [sys.executable, "-m", "hf_regioncap.offline", "--port", "0"]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        line = process.stdout.readline()
        try:
            url = re.search(r"http://127\.0\.0\.1:\d+/v1", line)
            assert url is not None
            with openai.OpenAI(base_url=url[0], api_key="none", timeout=60) as client:
                assert "blue" in text_of(ask(client, solid("blue")))
            process.send_signal(signal.SIGINT)
            out, err = process.communicate(timeout=60)
        finally:
            process.kill()
    assert (process.returncode, out, err) == (0, "", "")


def test_a_port_that_is_taken_is_said() -> None:
    taken = str(urlsplit(serve()).port)
    with pytest.raises(SystemExit) as caught:
        offline.main(["--port", taken])
    assert caught.value.code == 2
