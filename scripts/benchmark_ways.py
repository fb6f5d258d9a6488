"""Ways to caption a dataset, each run by `benchmark.py` as a process of its own.

    python scripts/benchmark_ways.py WAY DATASET ROWS BASE_URL CONCURRENCY BATCH_SIZE

`library` is this library; the others are what one would write without it, with the same drawing
effort. DATASET is a folder of `save_to_disk`, beside which `seed` finds the same rows as files.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

PROMPT = (
    "Describe the content of each marked region in the image. "
    "There are {0} regions: <region1> to <region{0}>."
)


def library(path: Path, rows: int, base_url: str, concurrency: int, batch_size: int) -> None:
    """This library, with its defaults: an answer store, drawn pictures kept."""
    from datasets import load_from_disk

    from hf_regioncap import caption_dataset

    dataset = load_from_disk(str(path)).select(range(rows))
    caption_dataset(dataset, base_url=base_url, model="stand-in", concurrency=concurrency)


def column(path: Path, rows: int, base_url: str, concurrency: int, batch_size: int) -> None:
    """This library's function in a plain `map`: a batch waits for its slowest row."""
    from datasets import load_from_disk

    from hf_regioncap import add_region_captions

    options = {"base_url": base_url, "model": "stand-in", "concurrency": concurrency}
    dataset = load_from_disk(str(path)).select(range(rows))
    dataset.map(add_region_captions, batched=True, batch_size=batch_size, fn_kwargs=options)


def stream(path: Path, rows: int, base_url: str, concurrency: int, batch_size: int) -> None:
    """This library over a stream, written to Parquet as it comes."""
    from datasets import load_from_disk

    from hf_regioncap import caption_dataset
    from hf_regioncap.publishing import write_dataset

    dataset = load_from_disk(str(path)).select(range(rows)).to_iterable_dataset()
    captioned = caption_dataset(
        dataset, base_url=base_url, model="stand-in", concurrency=concurrency
    )
    write_dataset(captioned, path / "cache-stream")


def threads(path: Path, rows: int, base_url: str, concurrency: int, batch_size: int) -> None:
    """A thread pool per batch, pictures as JPEG bytes."""
    from concurrent.futures import ThreadPoolExecutor

    import openai
    from datasets import Features, Image, Value, load_from_disk

    client = openai.OpenAI(base_url=base_url, api_key="none")

    def one(image: dict[str, Any], boxes: list[list[float]]) -> tuple[dict[str, Any], str | None]:
        jpeg = encoded(drawn(opened(image["bytes"]), boxes))
        done = client.chat.completions.create(**request(jpeg, boxes))
        return {"bytes": jpeg, "path": None}, done.choices[0].message.content

    def several(batch: dict[str, Any]) -> dict[str, Any]:
        with ThreadPoolExecutor(concurrency) as pool:
            done = list(pool.map(one, batch["image"], batch["bbox"]))
        return {"image_with_bbox": [j for j, _ in done], "answer": [text for _, text in done]}

    dataset = load_from_disk(str(path)).select(range(rows))
    dataset = dataset.cast_column("image", Image(decode=False))
    new = {"image_with_bbox": Image(), "answer": Value("string")}
    features = Features({**dataset.features, **new})
    dataset.map(several, batched=True, batch_size=batch_size, features=features)


def pictures(path: Path, rows: int, base_url: str, concurrency: int, batch_size: int) -> None:
    """The same with decoded pictures in and out, as most examples have it."""
    from concurrent.futures import ThreadPoolExecutor

    import openai
    from datasets import load_from_disk

    client = openai.OpenAI(base_url=base_url, api_key="none")

    def one(image: Any, boxes: list[list[float]]) -> tuple[Any, str | None]:
        marked = drawn(image.copy(), boxes)
        done = client.chat.completions.create(**request(encoded(marked), boxes))
        return marked, done.choices[0].message.content

    def several(batch: dict[str, Any]) -> dict[str, Any]:
        with ThreadPoolExecutor(concurrency) as pool:
            done = list(pool.map(one, batch["image"], batch["bbox"]))
        return {"image_with_bbox": [m for m, _ in done], "answer": [text for _, text in done]}

    dataset = load_from_disk(str(path)).select(range(rows))
    dataset.map(several, batched=True, batch_size=batch_size)


def coroutines(path: Path, rows: int, base_url: str, concurrency: int, batch_size: int) -> None:
    """An async function in `map`, pictures as JPEG bytes."""
    import asyncio

    import openai
    from datasets import Features, Image, Value, load_from_disk

    client = openai.AsyncOpenAI(base_url=base_url, api_key="none")
    slots = asyncio.Semaphore(concurrency)

    async def one(row: dict[str, Any]) -> dict[str, Any]:
        async with slots:
            jpeg = encoded(drawn(opened(row["image"]["bytes"]), row["bbox"]))
            done = await client.chat.completions.create(**request(jpeg, row["bbox"]))
        answer = done.choices[0].message.content
        return {"image_with_bbox": {"bytes": jpeg, "path": None}, "answer": answer}

    dataset = load_from_disk(str(path)).select(range(rows))
    dataset = dataset.cast_column("image", Image(decode=False))
    new = {"image_with_bbox": Image(), "answer": Value("string")}
    dataset.map(one, features=Features({**dataset.features, **new}))


def seed(path: Path, rows: int, base_url: str, concurrency: int, batch_size: int) -> None:
    """As the seed's program does: files in, all pictures first, then all requests, lines out.

    Its calls of OpenCV, one by one, and its way to ask; without what its package imports besides.
    """
    import base64
    import json
    from concurrent.futures import ThreadPoolExecutor, as_completed

    import cv2
    import openai

    client = openai.OpenAI(base_url=base_url, api_key="none")
    files = path.with_name(path.name + "-files")
    lines = (files / "rows.jsonl").read_text().splitlines()[:rows]
    output = path / "cache-seed"
    output.mkdir()
    marked = []
    for number, line in enumerate(lines):
        row = json.loads(line)
        photo = str(files / row["image"])
        height, width = read(photo).shape[:2]
        boxes = row["bbox"][:10]
        corners = [
            [x / width, y / height, (x + w) / width, (y + h) / height] for x, y, w, h in boxes
        ]
        place = str(output / f"{number}_bbox_vis.jpg")
        cv2.imwrite(place, darkened_and_drawn(photo, boxes))  # in OpenCV's quality, 95
        marked.append({**row, "normalized_bbox": corners, "image_with_bbox": place})

    def one(row: dict[str, Any]) -> str | None:
        content = base64.b64encode(Path(row["image_with_bbox"]).read_bytes()).decode()
        done = client.chat.completions.create(**asked(content, row["bbox"]))
        text: str | None = done.choices[0].message.content
        return text

    with ThreadPoolExecutor(concurrency) as pool:
        begun = {pool.submit(one, row): row for row in marked}
        for done in as_completed(begun):
            begun[done]["answer"] = done.result()
    with (output / "result.jsonl").open("w") as result:
        result.writelines(json.dumps(row) + "\n" for row in marked)


def read(photo: str) -> Any:
    import cv2

    return cv2.imread(photo)


def darkened_and_drawn(photo: str, boxes: list[list[float]]) -> Any:
    import cv2
    import numpy as np

    picture = read(photo)
    picture = cv2.addWeighted(picture, 0.8, np.zeros_like(picture), 0.2, 0)
    font, size, weight = cv2.FONT_HERSHEY_SIMPLEX, 0.65, 2
    for number, box in enumerate(boxes, 1):
        x, y, width, height = map(int, box)
        cv2.rectangle(picture, (x, y), (x + width, y + height), (0, 255, 0), 2)
        (across, up), below = cv2.getTextSize(str(number), font, size, weight)
        left, base = x + 4, y + 20
        plate = (left, base - up - below), (left + across, base + below)
        cv2.rectangle(picture, *plate, (0, 0, 0), -1)
        cv2.putText(picture, str(number), (left, base), font, size, (255, 255, 255), weight)
    return picture


# What the ways without the library have in common


def opened(jpeg: bytes) -> Any:
    import io

    from PIL import Image

    return Image.open(io.BytesIO(jpeg)).convert("RGB")


def drawn(picture: Any, boxes: list[list[float]]) -> Any:
    from PIL import ImageDraw

    draw = ImageDraw.Draw(picture)
    for number, (x, y, width, height) in enumerate(boxes[:10], 1):
        draw.rectangle((x, y, x + width, y + height), outline="lime", width=2)
        draw.text((x + 4, y + 2), str(number), fill="lime")
    return picture


def encoded(picture: Any) -> bytes:
    import io

    buffer = io.BytesIO()
    picture.save(buffer, "JPEG", quality=90)
    return buffer.getvalue()


def request(jpeg: bytes, boxes: list[list[float]]) -> dict[str, Any]:
    import base64

    return asked(base64.b64encode(jpeg).decode(), boxes)


def asked(jpeg_base64: str, boxes: list[list[float]]) -> dict[str, Any]:
    content = [
        {"type": "text", "text": PROMPT.format(min(len(boxes), 10))},
        {"type": "image_url", "image_url": {"url": f"data:image/jpeg;base64,{jpeg_base64}"}},
    ]
    messages = [{"role": "user", "content": content}]
    return {"model": "stand-in", "messages": messages, "temperature": 0, "max_tokens": 2048}


WAYS = {way.__name__: way for way in (library, column, stream, threads, pictures, coroutines, seed)}

if __name__ == "__main__":
    way, path, rows, base_url, concurrency, batch_size = sys.argv[1:]
    WAYS[way](Path(path), int(rows), base_url, int(concurrency), int(batch_size))
