"""Stored images of every kind to upright RGB pictures, and what is refused."""

from __future__ import annotations

import io
import os
import struct
import subprocess
import sys
import tracemalloc
import warnings
import zipfile
import zlib
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import ExifTags, Image, ImageDraw, ImageOps

from hf_regioncap import archives, images
from hf_regioncap.images import (
    encode_jpeg,
    hugging_face_caches,
    open_picture,
    peek_picture,
    read_image_bytes,
)
from hf_regioncap.metadata import without_metadata

STATUSES = {
    "ok",
    "image_null",
    "image_corrupt",
    "image_too_large",
    "image_unsupported",
    "image_missing",
    "image_refused",
}


def quarters(size_wh: tuple[int, int] = (64, 48)) -> Image.Image:
    """A picture that looks different however it is turned: red, green / blue, white."""
    image = Image.new("RGB", size_wh, "white")
    draw = ImageDraw.Draw(image)
    w, h = size_wh[0] // 2, size_wh[1] // 2
    for colour, (x, y) in (("red", (0, 0)), ("lime", (w, 0)), ("blue", (0, h))):
        draw.rectangle([x, y, x + w - 1, y + h - 1], fill=colour)
    return image


def encoded(image: Image.Image, form: str, **options: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, form, **options)
    return buffer.getvalue()


def with_orientation(form: str, orientation: int, **options: Any) -> bytes:
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = orientation
    return encoded(quarters(), form, exif=exif, **options)


def pixels(value: Any) -> list[tuple[int, ...]]:
    picture = open_picture(value)
    assert picture.status == "ok", picture.reason
    assert picture.image is not None
    assert picture.image.mode == "RGB"
    return [tuple(pixel) for pixel in np.asarray(picture.image).reshape(-1, 3).tolist()]


def greys(value: Any) -> list[int]:
    found = pixels(value)
    assert all(len(set(pixel)) == 1 for pixel in found)
    return [pixel[0] for pixel in found]


# --- modes ------------------------------------------------------------------------------------

BLACK, WHITE, RED = (0, 0, 0), (255, 255, 255), (255, 0, 0)


@pytest.mark.parametrize(
    ("mode", "colour", "expected"),
    [
        ("1", 0, BLACK),
        ("1", 1, WHITE),
        ("L", 70, (70, 70, 70)),
        ("P", 0, BLACK),
        ("RGB", RED, RED),
        ("RGBX", (255, 0, 0, 9), RED),
        ("CMYK", (0, 255, 255, 0), RED),
        ("CMYK", (0, 0, 0, 0), WHITE),
        ("YCbCr", (255, 128, 128), WHITE),
        ("HSV", (0, 255, 255), RED),
        ("LAB", (255, 128, 128), WHITE),
        ("LA", (70, 255), (70, 70, 70)),
        ("LA", (70, 0), WHITE),  # what is transparent shows the white beneath
        ("La", (70, 255), (70, 70, 70)),
        ("PA", (0, 0), WHITE),
        ("RGBA", (255, 0, 0, 255), RED),
        ("RGBA", (255, 0, 0, 0), WHITE),
        ("RGBA", (0, 0, 0, 128), (127, 127, 127)),
        ("RGBa", (255, 0, 0, 255), RED),
        ("I", 0, BLACK),
        ("I;16", 65535, WHITE),
        ("I;16", 0, BLACK),
        ("I;16L", 65535, WHITE),
        ("I;16B", 65535, WHITE),
        ("F", 0.5, (128, 128, 128)),
        ("F", 200.0, (200, 200, 200)),
    ],
)
def test_every_mode_ends_as_rgb(
    mode: str, colour: Any, expected: tuple[int, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    found = pixels(Image.new(mode, (3, 2), colour))
    assert np.abs(np.subtract(found, expected)).max() <= 1
    monkeypatch.setattr(images, "_BAND", 3)  # large ones are converted band by band
    assert pixels(Image.new(mode, (3, 2), colour)) == found


@pytest.mark.parametrize("kind", ["uint16", "int32", "float32", "LA", "P"])
@pytest.mark.parametrize("band", [1, 100, 64 * 5])
def test_bands_have_no_seams(kind: str, band: int, monkeypatch: pytest.MonkeyPatch) -> None:
    numbers = np.random.default_rng(5).integers(-900, 3000, (48, 64))
    if kind in ("LA", "P"):
        alpha = Image.fromarray((numbers % 256).astype(np.uint8))
        image = quarters().convert(kind)
        whole: Any = Image.merge("LA", [image.getchannel(0), alpha]) if kind == "LA" else image
        stored = encoded(whole, "PNG", **({"transparency": bytes(range(9))} if kind == "P" else {}))
    else:
        values = numbers.clip(0 if kind == "uint16" else None).astype(kind)
        if kind == "float32":
            values[3, :5] = [np.nan, np.inf, -np.inf, 0.5, 4000]
        stored, whole = encoded(Image.fromarray(values), "TIFF"), values
    before = [pixels(stored), pixels(whole)]
    monkeypatch.setattr(images, "_BAND", band)
    assert [pixels(stored), pixels(whole)] == before


def test_palettes_with_transparency() -> None:
    image = Image.new("P", (2, 1))
    image.putpalette([255, 0, 0, 0, 0, 255])
    image.putpixel((1, 0), 1)
    assert pixels(image) == [RED, (0, 0, 255)]
    assert pixels(encoded(image, "PNG", transparency=0)) == [WHITE, (0, 0, 255)]
    assert pixels(encoded(image, "PNG", transparency=bytes([128, 255]))) == [
        (255, 127, 127),
        (0, 0, 255),
    ]


@pytest.mark.parametrize(("mode", "key"), [("L", 0), ("RGB", (0, 0, 0))])
def test_a_transparent_colour_shows_white(mode: str, key: Any) -> None:
    assert pixels(encoded(Image.new(mode, (2, 1)), "PNG", transparency=key)) == [WHITE, WHITE]
    grey = Image.new(mode, (1, 1), "gray")
    assert pixels(encoded(grey, "PNG", transparency=key)) == [(128, 128, 128)]


RAMP = np.arange(4) / 3  # ends as 0, 85, 170, 255 whatever it was scaled to


@pytest.mark.parametrize(
    ("dtype", "top"),
    [
        ("uint8", 255),
        ("uint16", 1023),
        ("uint16", 4095),
        ("uint16", 16383),
        ("uint16", 65535),
        ("int32", 255),
        ("int64", 255),
        ("int64", 65535),
        ("uint32", 2**31),
        ("uint64", 255),
        ("float16", 1),
        ("float32", 1),
        ("float32", 255),
        ("float64", 1),
        ("float64", 60000),
    ],
)
@pytest.mark.parametrize("shape", [(1, 4), (1, 4, 1), (1, 4, 3), (1, 4, 4)])
def test_arrays_are_scaled_not_clipped(dtype: str, top: float, shape: tuple[int, ...]) -> None:
    array = np.zeros(shape)
    array[...] = (RAMP * top).reshape(1, 4, *[1] * (len(shape) - 2))
    if shape[2:] == (4,):
        array[..., 3] = top
    found = greys(array.astype(dtype))
    assert np.abs(np.subtract(found, [0, 85, 170, 255])).max() <= 1


def test_an_8_bit_array_is_taken_as_it_is() -> None:
    assert greys(np.array([[0, 10, 100]], np.uint8)) == [0, 10, 100]
    assert pixels(np.array([[[10, 20, 30]]], np.uint8)) == [(10, 20, 30)]
    assert greys(np.array([[10, 100]], np.int64)) == [10, 100]  # not made brighter, either


def test_arrays_of_truths() -> None:
    assert greys(np.array([[True, False]])) == [255, 0]
    assert greys(np.array([[[True] * 3, [False] * 3]])) == [255, 0]


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ([np.nan, 0, 0.5, 1], [0, 0, 128, 255]),
        ([np.inf, 0, 0.5, 1], [255, 0, 128, 255]),
        ([-np.inf, 0, 0.5, 1], [0, 0, 128, 255]),
        ([np.nan, np.nan], [0, 0]),
        ([-1, 0, 0, 1], [0, 128, 128, 255]),
        ([0, 0], [0, 0]),
        ([-3e38, 0, 3e38], [0, 128, 255]),
    ],
)
def test_floats_that_are_hard_to_scale(values: list[float], expected: list[int]) -> None:
    array = np.array([values], np.float32)
    for value in (array, Image.fromarray(array), np.repeat(array[:, :, None], 3, axis=2)):
        assert np.abs(np.subtract(greys(value), expected)).max() <= 1


@pytest.mark.parametrize(
    ("array", "status"),
    [
        (np.zeros((0, 4)), "image_corrupt"),
        (np.zeros((4, 0, 3), np.uint8), "image_corrupt"),
        (np.zeros(4, np.uint8), "image_unsupported"),
        (np.zeros((2, 2, 5), np.uint8), "image_unsupported"),
        (np.zeros((1, 1, 1, 1)), "image_unsupported"),
        (np.zeros((2, 2), complex), "image_unsupported"),
        (np.array([[None]]), "image_unsupported"),
        (np.array([["a"]]), "image_unsupported"),
        (np.zeros((2, 2), "datetime64[s]"), "image_unsupported"),
    ],
    ids=lambda value: str(getattr(value, "shape", value)),
)
def test_arrays_that_are_no_image(array: Any, status: str) -> None:
    assert open_picture(array).status == peek_picture(array).status == status


@given(
    shape=st.sampled_from([(2, 3), (2, 3, 1), (2, 3, 3), (2, 3, 4)]),
    dtype=st.sampled_from(["?", "u1", "i2", "u2", "i4", "u4", "i8", "u8", "f2", "f4", "f8"]),
    seed=st.binary(min_size=192, max_size=192),
)
def test_no_array_of_numbers_raises(shape: tuple[int, ...], dtype: str, seed: bytes) -> None:
    count = int(np.prod(shape))
    array = np.frombuffer(seed, dtype)[:count].reshape(shape)
    with np.errstate(divide="raise"):
        picture = open_picture(array)
    assert picture.size_wh == (3, 2)
    assert picture.image is not None
    assert picture.image.size == (3, 2)


# --- files ------------------------------------------------------------------------------------

LOSSLESS: list[tuple[str, dict[str, Any]]] = [
    ("PNG", {}),
    ("WEBP", {"lossless": True}),
    ("TIFF", {}),
    ("BMP", {}),
    ("PPM", {}),
    ("TGA", {}),
    ("GIF", {}),
    ("JPEG2000", {}),
]


@pytest.mark.parametrize(("form", "options"), LOSSLESS)
def test_lossless_formats_keep_every_pixel(form: str, options: dict[str, Any]) -> None:
    image = quarters()
    picture = open_picture(encoded(image, form, **options))
    assert picture.size_wh == image.size
    assert picture.image is not None
    assert picture.image.tobytes() == image.tobytes()


@pytest.mark.parametrize("form", ["JPEG", "PNG", "WEBP", "TIFF", "MPO"])
@pytest.mark.parametrize("orientation", [0, *range(1, 9), 9, 65535])
def test_orientation(form: str, orientation: int, tmp_path: Path) -> None:
    options = {"lossless": True} if form == "WEBP" else {}
    raw = with_orientation(form, orientation, **options)
    expected = ImageOps.exif_transpose(Image.open(io.BytesIO(raw))).convert("RGB")
    picture = open_picture(raw)
    assert picture.image is not None
    assert picture.image.size == picture.size_wh == expected.size
    assert np.abs(np.subtract(picture.image, expected, dtype=int)).max() <= 3
    (tmp_path / "photo").write_bytes(raw)
    for value in (raw, tmp_path / "photo"):
        assert peek_picture(value, image_root=tmp_path).size_wh == expected.size


def png_that_tells(chunk: str, *, late: bool) -> bytes:
    """A PNG of 64 by 48 whose orientation, 6, stands in a chunk of that name."""
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = 6
    profile = f"\nexif\n{len(exif.tobytes())}\n{exif.tobytes().hex()}"
    told = {
        "eXIf": exif.tobytes().removeprefix(b"Exif\0\0"),
        "iTXt": b"XML:com.adobe.xmp\0\0\0\0\0<r tiff:Orientation='6' tiff:Orientation=\"6\"/>",
        "zTXt": b"Raw profile type exif\0\0" + zlib.compress(profile.encode()),
    }[chunk]
    name = chunk.encode()
    written = (
        struct.pack(">I", len(told)) + name + told + struct.pack(">I", zlib.crc32(name + told))
    )
    raw = encoded(quarters(), "PNG")
    place = raw.index(b"IEND") - 4 if late else raw.index(b"IDAT") - 4
    return raw[:place] + written + raw[place:]


@pytest.mark.parametrize("chunk", ["eXIf", "iTXt", "zTXt"])
@pytest.mark.parametrize("late", [False, True])
def test_wherever_a_png_tells_its_orientation(chunk: str, late: bool, tmp_path: Path) -> None:
    raw = png_that_tells(chunk, late=late)
    upright = open_picture(raw).size_wh
    assert upright == quarters().size[::-1]
    (tmp_path / "photo").write_bytes(raw)
    for value in (raw, {"bytes": raw, "path": None}, tmp_path / "photo"):
        assert peek_picture(value, image_root=tmp_path).size_wh == upright


def test_a_picture_object_is_turned_too() -> None:
    image = Image.open(io.BytesIO(with_orientation("JPEG", 6)))
    assert open_picture(image).size_wh == peek_picture(image).size_wh == (48, 64)


@pytest.mark.parametrize(
    ("form", "options"),
    [
        ("GIF", {}),
        ("WEBP", {"lossless": True}),
        ("PNG", {}),
        ("PNG", {"default_image": True}),
        ("TIFF", {}),
        ("MPO", {}),
    ],
)
def test_the_first_frame_of_an_animation(form: str, options: dict[str, Any]) -> None:
    first, *others = [Image.new("RGB", (20, 10), colour) for colour in ("red", "lime", "blue")]
    raw = encoded(first, form, save_all=True, append_images=others, **options)
    assert np.abs(np.subtract(pixels(raw), RED)).max() <= 3


@pytest.mark.parametrize(
    ("form", "options"),
    [
        ("JPEG", {}),
        ("JPEG", {"progressive": True}),
        ("PNG", {}),
        ("GIF", {}),
        ("WEBP", {}),
        ("TIFF", {}),
        ("BMP", {}),
        ("PPM", {}),
    ],
)
@pytest.mark.filterwarnings("ignore::UserWarning")  # Pillow's, of a TIFF's cut directory
def test_a_file_cut_anywhere_is_corrupt_or_whole(form: str, options: dict[str, Any]) -> None:
    raw = encoded(quarters(), form, **options)
    whole = pixels(raw)
    for length in range(0, len(raw), max(1, len(raw) // 500)):
        picture = open_picture(raw[:length])
        if picture.status == "ok":  # no more than an end mark is missing
            assert pixels(raw[:length]) == whole
        else:
            assert picture.status == "image_corrupt", length
            assert picture.reason
        assert peek_picture(raw[:length]).status in ("ok", "image_corrupt")


@settings(max_examples=150)
@given(
    raw=st.binary(max_size=300),
    place=st.integers(0, 2000),
    form=st.sampled_from(["", "JPEG", "PNG", "GIF", "WEBP", "BMP", "TIFF"]),
)
@pytest.mark.filterwarnings("ignore::UserWarning")
def test_garbage_never_raises(raw: bytes, place: int, form: str) -> None:
    file = encoded(quarters((16, 12)), form) if form else b""
    place = min(place, len(file))
    for value in (raw, file[:place] + raw + file[place + len(raw) :]):
        picture = open_picture(value)
        assert picture.status in STATUSES
        assert (picture.image is None) == (picture.status != "ok")
        assert (picture.reason is None) == (picture.status == "ok")


@pytest.mark.parametrize(
    ("raw", "name"),
    [
        (b"%PDF-1.7 ...", "PDF"),
        (b"<svg xmlns='http://www.w3.org/2000/svg'/>", "SVG"),
        (b"\xef\xbb\xbf <?xml version='1.0'?><svg/>", "XML"),
        (b"<!DOCTYPE html><html></html>", "HTML"),
        (b"PK\x03\x04rest", "ZIP"),
        (b"RIFF\x00\x00\x00\x00WAVEfmt ", "RIFF"),
        (b"\x00\x00\x00\x18ftypheic\x00\x00\x00\x00", "HEIF"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n", "EPS"),
    ],
)
def test_foreign_formats_are_named(raw: bytes, name: str) -> None:
    Image.init()  # Pillow knows EPS from now on; it must not run all the same
    picture = open_picture(raw)
    assert picture.status == "image_unsupported"
    assert name in (picture.reason or "")


def test_postscript_is_never_run() -> None:
    raw = encoded(quarters(), "EPS")
    assert open_picture(raw).status == "image_unsupported"


# --- values -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("value", "status"),
    [
        (None, "image_null"),
        ({}, "image_null"),
        ({"bytes": None, "path": None}, "image_null"),
        (b"", "image_corrupt"),
        ({"bytes": b"", "path": "a.jpg"}, "image_corrupt"),
        (b"hello", "image_corrupt"),
        ([], "image_unsupported"),
        (5, "image_unsupported"),
        (True, "image_unsupported"),
        (float("nan"), "image_unsupported"),
        ({"bytes": 5, "path": None}, "image_unsupported"),
        (object(), "image_unsupported"),
    ],
    ids=lambda value: repr(value).partition(" at 0x")[0][:30],
)
def test_values_that_are_no_image(value: Any, status: str) -> None:
    picture = open_picture(value)
    assert (picture.image, picture.status) == (None, status)
    assert picture.reason
    assert peek_picture(value).status == status


@pytest.mark.parametrize("kind", [bytes, bytearray, memoryview, lambda raw: {"bytes": raw}])
def test_bytes_of_every_kind(kind: Any) -> None:
    assert open_picture(kind(encoded(quarters(), "PNG"))).size_wh == (64, 48)


@pytest.mark.parametrize("max_side", [None, 32])
@pytest.mark.parametrize("form", ["JPEG", "PNG"])
def test_the_callers_picture_is_not_touched(form: str, max_side: int | None) -> None:
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = 6
    image = Image.open(io.BytesIO(encoded(quarters((640, 480)), form, exif=exif, comment="hi")))
    size, mode, info = image.size, image.mode, dict(image.info)
    before = Image.open(io.BytesIO(encoded(quarters((640, 480)), form))).convert("RGB")
    picture = open_picture(image, max_side=max_side)
    assert picture.image is not None
    picture.image.paste((1, 2, 3), (0, 0, 20, 20))
    assert (image.size, image.mode, image.info) == (size, mode, info)
    assert image.convert("RGB").tobytes() == before.tobytes()


def test_the_callers_array_is_not_touched() -> None:
    array = np.full((4, 4, 3), 7, np.uint8)
    picture = open_picture(array)
    assert picture.image is not None
    picture.image.paste((1, 2, 3), (0, 0, 4, 4))
    assert (array == 7).all()


# --- sizes ------------------------------------------------------------------------------------


def png_of_size(width: int, height: int) -> bytes:
    """A PNG whose header promises more than its body holds."""

    def chunk(name: bytes, data: bytes) -> bytes:
        body = name + data
        return struct.pack(">I", len(data)) + body + struct.pack(">I", zlib.crc32(body))

    header = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    body = chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"\0" * 99)) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + body


@pytest.mark.parametrize(
    ("size_wh", "limit", "status"),
    [
        ((64, 48), 64 * 48, "ok"),
        ((64, 48), 64 * 48 - 1, "image_too_large"),
        ((64, 48), 1, "image_too_large"),
    ],
)
def test_max_pixels(size_wh: tuple[int, int], limit: int, status: str) -> None:
    for value in (quarters(size_wh), encoded(quarters(size_wh), "PNG"), np.zeros((48, 64))):
        picture = open_picture(value, max_pixels=limit)
        assert picture.status == status
        if status != "ok":
            assert "64×48" in (picture.reason or "")
            assert f"max_pixels={limit}" in (picture.reason or "")


@pytest.mark.parametrize("size_wh", [(8001, 8000), (60_000, 60_000), (2**31 - 1, 2**31 - 1)])
def test_bombs_are_refused_before_they_are_decoded(size_wh: tuple[int, int]) -> None:
    assert open_picture(png_of_size(*size_wh)).status == "image_too_large"


def tiff_of_tiles(size_wh: tuple[int, int], tile_wh: tuple[int, int]) -> bytes:
    """A grey TIFF of one deflated tile, most of which may lie outside of the image."""
    tile = zlib.compress(bytes(min(tile_wh[0] * tile_wh[1], 2**16)))
    width_height = zip((256, 257, 322, 323), (*size_wh, *tile_wh), strict=True)
    tags = dict(width_height) | {258: 8, 259: 8, 262: 1, 277: 1, 324: 142, 325: len(tile)}
    entries = b"".join(struct.pack("<HHII", tag, 4, 1, tags[tag]) for tag in sorted(tags))
    head = struct.pack("<2sHIH", b"II", 42, 8, len(tags)) + entries + bytes(4)
    return head.ljust(142, b"\0") + tile


def test_a_tile_far_larger_than_its_image_is_refused() -> None:
    assert open_picture(tiff_of_tiles((8, 8), (64, 64))).size_wh == (8, 8)
    picture = open_picture(tiff_of_tiles((8, 8), (40_000, 40_000)))
    assert picture.status == "image_too_large"
    assert picture.reason == "its tiles are of more than max_pixels=64000000"
    assert without_metadata(tiff_of_tiles((8, 8), (64, 64))) is not None
    assert without_metadata(tiff_of_tiles((8, 8), (40_000, 40_000))) is None


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="asks Linux for the peak")
def test_what_a_large_picture_takes_beside_itself_is_bounded(tmp_path: Path) -> None:
    code = """
import sys
from pathlib import Path
from hf_regioncap.images import open_picture

def peak():
    lines = Path("/proc/self/status").read_text().splitlines()
    return int(next(line for line in lines if line.startswith("VmHWM")).split()[1])

value, small = [Path(name).read_bytes() for name in sys.argv[1:]]
assert open_picture(small).status == "ok"
before = peak()
assert open_picture(value).status == "ok"
print(peak() - before)
"""
    paths = []
    for side in (4000, 40):
        numbers = Image.fromarray(np.zeros((side, side), np.int32))
        paths.append(tmp_path / str(side))
        paths[-1].write_bytes(encoded(numbers, "TIFF", compression="packbits"))
    run = subprocess.run([sys.executable, "-c", code, *paths], capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    # Source and result are 4 bytes a pixel; the rest is what a band needs, whatever the size.
    assert int(run.stdout) * 1024 < 2 * 4 * 4000 * 4000 + 180e6


def test_a_bomb_that_pillow_does_not_open_is_told_in_our_words() -> None:
    for picture in (
        open_picture(png_of_size(20_000, 10_000), max_pixels=10**9),
        peek_picture(png_of_size(60_000, 60_000)),
    ):
        assert picture.status == "image_too_large"
        assert (picture.reason or "").startswith("more than 178956970 pixels")
        assert "max_pixels" in (picture.reason or "")


def jpeg_with_corrupt_exif() -> bytes:
    raw = encoded(quarters(), "JPEG")
    block = b"Exif\0\0II*\0\x08\0\0\0\x09\0\x12\x01"  # nine entries are promised
    return raw[:2] + b"\xff\xe1" + struct.pack(">H", len(block) + 2) + block + raw[2:]


def test_what_pillow_remarks_about_a_file_is_not_printed(tmp_path: Path) -> None:
    files = [png_of_size(10_000, 9500), jpeg_with_corrupt_exif()]
    with pytest.warns(Image.DecompressionBombWarning):
        Image.open(io.BytesIO(files[0]))
    with pytest.warns(UserWarning, match="orrupt EXIF"):
        Image.open(io.BytesIO(files[1])).getexif()
    for number, raw in enumerate(files):
        (tmp_path / str(number)).write_bytes(raw)
    code = """
import sys, warnings
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from hf_regioncap.images import open_picture, peek_picture
files = [Path(name).read_bytes() for name in sys.argv[1:]] * 4
with ThreadPoolExecutor(4) as pool:
    print(*[picture.status for picture in pool.map(open_picture, files)])
    list(pool.map(peek_picture, files))
warnings.warn("the user's own are shown")
"""
    paths = [str(tmp_path / "0"), str(tmp_path / "1")]
    run = subprocess.run([sys.executable, "-c", code, *paths], capture_output=True, text=True)
    assert run.stdout.split() == ["image_too_large", "ok"] * 4
    assert run.stderr.splitlines()[0].endswith("UserWarning: the user's own are shown")
    assert "PIL" not in run.stderr


def test_who_makes_an_error_of_pillows_warning_gets_it() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error", Image.DecompressionBombWarning)
        picture = open_picture(png_of_size(10_000, 9500), max_pixels=10**8)
    assert picture.status == "image_too_large"
    assert (picture.reason or "").startswith("more than 89478485 pixels")


def test_a_peek_reads_no_more_of_a_file_than_its_header(tmp_path: Path) -> None:
    file = tmp_path / "long.jpg"
    file.write_bytes(with_orientation("JPEG", 6))
    with file.open("r+b") as opened:
        opened.truncate(2**28)  # a hole, which takes no place on the disk
    tracemalloc.start()
    picture = peek_picture(file, image_root=tmp_path)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert picture.size_wh == (48, 64)
    assert peak < 2**22


@pytest.mark.parametrize("form", ["JPEG", "PNG", "MPO", "TIFF"])
@pytest.mark.parametrize("orientation", [1, 6])
@pytest.mark.parametrize(
    ("max_side", "size_wh"),
    [(None, (640, 480)), (1000, (640, 480)), (640, (640, 480)), (320, (320, 240)), (28, (28, 21))],
)
def test_max_side(
    form: str, orientation: int, max_side: int | None, size_wh: tuple[int, int]
) -> None:
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = orientation
    raw = encoded(quarters((640, 480)), form, exif=exif)
    picture = open_picture(raw, max_side=max_side)
    assert picture.image is not None
    turn = -1 if orientation == 6 else 1
    assert picture.image.size == size_wh[::turn]
    assert picture.size_wh == (640, 480)[::turn]  # boxes are given in the source's pixels
    whole = ImageOps.exif_transpose(Image.open(io.BytesIO(raw))).convert("RGB")
    reduced = whole.resize(picture.image.size)
    assert np.abs(np.subtract(picture.image, reduced, dtype=int)).mean() < 4


def test_max_side_leaves_a_pixel_of_the_thinnest() -> None:
    assert open_picture(Image.new("RGB", (2000, 1)), max_side=30).image.size == (30, 1)


# --- paths ------------------------------------------------------------------------------------


@pytest.fixture
def places(tmp_path: Path) -> Path:
    """`root` with a picture, links in and out, a folder, a pipe; `outside` with a picture."""
    root, outside = tmp_path / "root", tmp_path / "outside"
    (root / "folder").mkdir(parents=True)
    outside.mkdir()
    (tmp_path / "root-too").mkdir()
    for file in (root / "a.png", root / "folder/b.png", outside / "c.png"):
        quarters().save(file)
    quarters().save(tmp_path / "root-too/d.png")
    (root / "text.png").write_text("no picture")
    (root / "inner").symlink_to(root / "a.png")
    (root / "outer").symlink_to(outside / "c.png")
    (root / "way-out").symlink_to(outside)
    (root / "loop").symlink_to(root / "loop")
    (tmp_path / "link-to-root").symlink_to(root)
    os.mkfifo(root / "pipe")
    with zipfile.ZipFile(outside / "z.zip", "w") as archive:
        for name in ("a.png", "in side/é#%20::b.png"):
            archive.write(root / "a.png", name)
        archive.write(root / "text.png", "text.png")
    (root / "z.zip").write_bytes((outside / "z.zip").read_bytes())
    (root / "cut.zip").write_bytes((outside / "z.zip").read_bytes()[:99])
    return tmp_path


@pytest.mark.parametrize(
    ("path", "status"),
    [
        ("", "image_missing"),
        ("a.png", "ok"),
        ("./a.png", "ok"),
        ("folder/b.png", "ok"),
        ("folder/../a.png", "ok"),
        ("inner", "ok"),
        ("{root}/a.png", "ok"),
        ("text.png", "image_corrupt"),
        ("outer", "image_refused"),
        ("way-out/c.png", "image_refused"),
        ("../outside/c.png", "image_refused"),
        ("folder/../../outside/c.png", "image_refused"),
        ("{root}/../outside/c.png", "image_refused"),
        ("../root-too/d.png", "image_refused"),
        ("/etc/passwd", "image_refused"),
        ("/proc/self/environ", "image_refused"),
        ("/dev/zero", "image_refused"),
        ("http://localhost/a.png", "image_refused"),
        ("https://example.com/a.png", "image_refused"),
        ("file:///etc/passwd", "image_refused"),
        ("hf://datasets/user/name/a.png", "image_refused"),
        ("s3://bucket/a.png", "image_refused"),
        ("zip://a.png::/tmp/b.zip", "image_refused"),
        ("a.png::b.zip", "image_refused"),
        ("zip://a.png::{root}/z.zip", "ok"),
        ("zip://a.png::z.zip", "ok"),
        ("zip://in side/é#%20::b.png::{root}/z.zip", "ok"),
        ("zip://text.png::z.zip", "image_corrupt"),
        ("zip://none.png::z.zip", "image_missing"),
        ("zip://::z.zip", "image_missing"),
        ("zip://a.png::none.zip", "image_missing"),
        ("zip://a.png::cut.zip", "image_missing"),
        ("zip://a.png::a.png", "image_missing"),
        ("zip://a.png::zip://z.zip::z.zip", "image_missing"),
        ("zip://a.png::../outside/z.zip", "image_refused"),
        ("zip://a.png::way-out/z.zip", "image_refused"),
        ("zip://a.png::https://host/z.zip", "image_refused"),
        ("zip://a.png::/etc/passwd", "image_refused"),
        ("zip://a.png", "image_refused"),
        ("data:image/png;base64,AAAA", "image_refused"),
        ("missing.png", "image_missing"),
        ("a.png/inside", "image_missing"),
        ("folder", "image_missing"),
        (".", "image_missing"),
        ("loop", "image_missing"),
        ("pipe", "image_missing"),  # reading it would never end
        ("a\0.png", "image_missing"),
        ("\ud800.png", "image_missing"),
        ("a" * 5000, "image_missing"),
        ("~/a.png", "image_missing"),
    ],
)
@pytest.mark.parametrize("root", ["root", "link-to-root"])
def test_paths_under_a_root(places: Path, root: str, path: str, status: str) -> None:
    path = path.replace("{root}", str(places / root))
    for value in (path, {"bytes": None, "path": path}, {"path": path}):
        picture = open_picture(value, image_root=places / root)
        peeked = peek_picture(value, image_root=str(places / root))
        assert picture.status == peeked.status == status
        for reason in (picture.reason, peeked.reason):  # rows are published
            assert str(places) not in (reason or "")
        content = read_image_bytes(value, image_root=places / root)
        assert (content is not None) == (status in ("ok", "image_corrupt"))


@pytest.mark.parametrize("path", ["a.png", "{root}/a.png", "/etc/passwd", "/etc/hostname"])
def test_without_a_root_no_path_is_read(
    places: Path, path: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(places / "root")  # a relative path is not the working directory's either
    value = {"bytes": None, "path": path.replace("{root}", str(places / "root"))}
    picture = open_picture(value)
    assert picture.status == "image_refused"
    assert "image_root=" in (picture.reason or "")
    assert read_image_bytes(value) is None


def test_members_of_a_zip_file_are_read_by_many_threads_and_after_a_change(places: Path) -> None:
    path = "zip://a.png::z.zip"
    with ThreadPoolExecutor(8) as pool:
        read = list(
            pool.map(lambda _: read_image_bytes(path, image_root=places / "root"), [0] * 99)
        )
    assert set(read) == {(places / "root/a.png").read_bytes()}
    with zipfile.ZipFile(places / "root/z.zip", "w") as archive:
        archive.writestr("a.png", encoded(Image.new("RGB", (3, 2)), "PNG"))
    assert peek_picture(path, image_root=places / "root").size_wh == (3, 2)


def test_a_member_that_unpacks_to_too_much_is_not_unpacked(
    places: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(archives, "MAX_MEMBER_BYTES", 9)
    for look in (open_picture, peek_picture):
        assert look("zip://a.png::z.zip", image_root=places / "root").status == "image_too_large"
    assert read_image_bytes("zip://a.png::z.zip", image_root=places / "root") is None


def test_a_path_object(places: Path) -> None:
    assert open_picture(places / "root/a.png", image_root=places / "root").status == "ok"


def test_bytes_come_before_the_path() -> None:
    raw = encoded(quarters(), "PNG")
    assert open_picture({"bytes": raw, "path": "/etc/passwd"}).status == "ok"
    assert read_image_bytes({"bytes": raw, "path": "/etc/passwd"}) == raw


def test_files_that_datasets_itself_has_cached(tmp_path: Path) -> None:
    # The places are read from the environment when the libraries are imported.
    code = """
import sys
from pathlib import Path
from PIL import Image
from hf_regioncap.images import hugging_face_caches, open_picture

for folder in hugging_face_caches():
    (folder / "sub").mkdir(parents=True)
    Image.new("RGB", (4, 2)).save(folder / "sub/a.png")
    (folder / "link").symlink_to("/etc/passwd")
    print(open_picture({"bytes": None, "path": str(folder / "sub/a.png")}).status)
    print(open_picture({"bytes": None, "path": str(folder / "link")}).status)
    print(open_picture({"bytes": None, "path": sys.argv[1]}).status)
"""
    environ = {
        "HF_HOME": str(tmp_path),
        "PATH": os.environ["PATH"],
        "PYTHONPATH": str(Path(__file__).resolve().parents[1]),
    }
    (tmp_path / "token").write_text("secret")
    told = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path / "token")],
        env=environ,
        capture_output=True,
        text=True,
        check=True,
    ).stdout.split()
    assert told == ["ok", "image_refused", "image_refused"] * 3


def test_the_caches_hold_no_key() -> None:
    for folder in hugging_face_caches():
        assert not (folder / "token").exists()


def test_read_image_bytes_of_what_is_not_encoded() -> None:
    assert read_image_bytes(None) is None
    assert read_image_bytes(quarters()) is None
    assert read_image_bytes(np.zeros((2, 2))) is None
    assert read_image_bytes(bytearray(b"abc")) == b"abc"


# --- back to JPEG -----------------------------------------------------------------------------

SECRETS = [b"Exif", b"http://ns.adobe.com", b"ICC_PROFILE", b"a comment", b"Photoshop"]


def loaded_with_metadata() -> bytes:
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = 6
    exif[ExifTags.Base.Make] = "a camera"
    exif.get_ifd(ExifTags.IFD.GPSInfo)[ExifTags.GPS.GPSLatitude] = (48.0, 51.0, 24.0)
    xmp = b'<?xpacket begin=""?><x:xmpmeta xmlns:x="adobe:ns:meta/"/>'
    return encoded(
        quarters(),
        "JPEG",
        exif=exif,
        comment="a comment",
        icc_profile=b"profile",
        xmp=xmp,
        dpi=(9, 9),
    )


def test_metadata_is_left_behind() -> None:
    raw = loaded_with_metadata()
    assert any(secret in raw for secret in SECRETS)
    picture = open_picture(raw)
    assert picture.image is not None
    assert picture.image.info == {}
    assert not picture.image.getexif()
    again = encode_jpeg(picture.image)
    assert not any(secret in again for secret in SECRETS)


def test_encoding_leaves_metadata_of_any_picture_behind() -> None:
    image = Image.open(io.BytesIO(loaded_with_metadata()))
    image.info["exif"] = image.info.get("exif", b"Exif")
    info = dict(image.info)
    raw = encode_jpeg(image)
    assert not any(secret in raw for secret in SECRETS)
    assert image.info == info  # and does not take it from the caller's picture
    assert Image.open(io.BytesIO(raw)).size == (64, 48)  # as it lies, not turned again


@pytest.mark.parametrize("size_wh", [(1, 1), (7, 3), (64, 48)])
def test_there_and_back(size_wh: tuple[int, int]) -> None:
    picture = open_picture(encode_jpeg(Image.new("RGB", size_wh, (90, 120, 30))))
    assert picture.size_wh == size_wh
    assert picture.image is not None
    assert np.abs(np.subtract(picture.image, (90, 120, 30), dtype=int)).max() <= 3


def test_quality_counts() -> None:
    noise = Image.effect_noise((64, 64), 60).convert("RGB")
    assert len(encode_jpeg(noise, quality=30)) < len(encode_jpeg(noise, quality=95))


def test_encoding_is_repeatable() -> None:
    assert encode_jpeg(quarters()) == encode_jpeg(quarters())


def test_without_files_in_memory_the_same_bytes(monkeypatch: pytest.MonkeyPatch) -> None:
    """Not on Linux, or not allowed there."""
    photo = quarters().convert("RGB")
    expected = encode_jpeg(photo)

    def refused(*_: object) -> int:
        raise OSError(38, "Function not implemented")

    monkeypatch.setattr(os, "memfd_create", refused, raising=False)
    assert encode_jpeg(photo) == expected
    monkeypatch.delattr(os, "memfd_create")
    assert encode_jpeg(photo) == expected
