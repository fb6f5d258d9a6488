"""Make a dataset for `benchmark.py`: photos of scikit-image, no two alike, with random boxes.

    python scripts/benchmark_data.py FOLDER ROWS WIDTH HEIGHT

FOLDER gets the dataset as `save_to_disk` writes it, FOLDER-files the same rows as files. Beyond
the first thousand rows the photos come again, with other boxes: the requests all differ.
"""

from __future__ import annotations

import io
import json
import os
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import skimage
from datasets import Dataset, Features, Image, List, Value
from PIL import Image as Pictures

NAMES = ("astronaut.png", "chelsea.png", "coffee.png", "rocket.jpg", "motorcycle_left.png")
DISTINCT = 1000


def photo(source: Any, size_wh: tuple[int, int], random: np.random.Generator) -> bytes:
    """A random part of a picture in another brightness, with a sensor's noise, as JPEG."""
    width, height = size_wh
    scale = random.uniform(0.7, 1) * min(source.width / width, source.height / height)
    x = random.uniform(0, source.width - width * scale)
    y = random.uniform(0, source.height - height * scale)
    box = (x, y, x + width * scale, y + height * scale)
    pixels = np.asarray(source.resize(size_wh, Pictures.Resampling.BICUBIC, box), np.float32)
    # As much noise as makes files of the usual size: 90 kB at 640x480, 600 kB at 1920x1080.
    noise = random.normal(0, 4 if width < 1000 else 6, (height, width, 1)).astype(np.float32)
    pixels = pixels * random.uniform(0.8, 1.1) + noise
    buffer = io.BytesIO()
    picture = Pictures.fromarray(pixels.clip(0, 255).astype(np.uint8))
    picture.save(buffer, "JPEG", quality=90)
    return buffer.getvalue()


def boxes(size_wh: tuple[int, int], random: np.random.Generator) -> list[list[float]]:
    """One to twelve boxes, xywh in pixels."""
    size = np.array(size_wh)
    count = int(random.integers(1, 13))
    wh = random.uniform(0.05, 0.5, (count, 2)) * size
    xy = random.uniform(0, 1, (count, 2)) * (size - wh)
    listed: list[list[float]] = np.hstack([xy, wh]).round(1).tolist()
    return listed


def main() -> None:
    folder, rows, size_wh = (
        Path(sys.argv[1]),
        int(sys.argv[2]),
        (int(sys.argv[3]), int(sys.argv[4])),
    )
    data = Path(skimage.__file__).parent / "data"
    sources = [Pictures.open(data / name).convert("RGB") for name in NAMES]
    files = folder.with_name(folder.name + "-files")
    files.mkdir(parents=True)
    random = np.random.default_rng(0)
    distinct = min(rows, DISTINCT)
    for number in range(distinct):
        jpeg = photo(sources[number % len(sources)], size_wh, random)
        (files / f"{number}.jpg").write_bytes(jpeg)
    lines = [
        {"image": f"{number % distinct}.jpg", "bbox": boxes(size_wh, random)}
        for number in range(rows)
    ]
    (files / "rows.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))

    def examples() -> Iterator[dict[str, Any]]:
        for line in lines:
            content = (files / str(line["image"])).read_bytes()
            yield {"image": {"bytes": content, "path": None}, "bbox": line["bbox"]}

    features = Features({"image": Image(), "bbox": List(List(Value("float64")))})
    cache = f"{folder}-cache"
    dataset = Dataset.from_generator(examples, features=features, cache_dir=cache)
    dataset.save_to_disk(folder, num_shards=1)
    shutil.rmtree(cache)


if __name__ == "__main__":
    os.environ.setdefault("HF_DATASETS_DISABLE_PROGRESS_BARS", "1")
    main()
