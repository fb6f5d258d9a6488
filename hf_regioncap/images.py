"""Stored images to upright RGB pictures and back to JPEG; what is refused, and why."""

from __future__ import annotations

import functools
import io
import os
import struct
import warnings
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import numpy as np
from PIL import ExifTags, Image, UnidentifiedImageError

from hf_regioncap.archives import read_member, split_member

#: The decoders that may run. Pillow registers over forty, one of which starts Ghostscript.
FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "MPO", "PPM", "AVIF", "JPEG2000", "TGA")

#: First bytes of files that people put into image columns and that are not photos Pillow may open.
_FOREIGN = {
    b"%PDF": "PDF",
    b"<svg": "SVG",
    b"<?xml": "XML",
    b"<!DOC": "HTML",
    b"<html": "HTML",
    b"PK\x03\x04": "ZIP",
    b"\x1f\x8b": "gzip",
}

# What Pillow remarks about a file on stderr is for the row's status to say. The filters are the
# process's, as `catch_warnings` is not safe in threads, and come last: any of the user's own wins.
warnings.filterwarnings("ignore", "", Image.DecompressionBombWarning, r"PIL\.", append=True)
warnings.filterwarnings("ignore", "", UserWarning, r"PIL\.\w+ImagePlugin", append=True)

_TRANSPOSE = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}

_TIFF_TILE = (322, 323)  # the tags TileWidth and TileLength

#: The chunks of a PNG that may tell its size or orientation, and how long one is looked at.
_PNG_TOLD = (b"IHDR", b"eXIf", b"iTXt", b"tEXt", b"zTXt")
_LONGEST_TOLD = 2**22


class Picture(NamedTuple):
    """An upright RGB image, or the status and the reason why there is none.

    `size_wh` is the size of the upright source, in which boxes are given; `image` may be smaller
    where `max_side` says so.
    """

    image: Image.Image | None
    status: str = "ok"
    reason: str | None = None
    size_wh: tuple[int, int] = (0, 0)


class _Refused(Exception):
    """Carries a status and a reason from the place that found it to `open_picture`."""


def open_picture(
    value: Any,
    *,
    image_root: str | os.PathLike[str] | None = None,
    max_pixels: int = 64_000_000,
    max_side: int | None = None,
) -> Picture:
    """Turn an image as stored into an upright RGB picture; never raises for the image's own faults.

    `value` is `{"bytes": ..., "path": ...}` as `datasets` stores it, raw bytes, a path, a PIL
    image, a numpy array (H, W) or (H, W, C), or None. The first frame of an animation is taken,
    transparency is laid on white, 16-bit and float values are scaled, the EXIF orientation is
    applied, metadata is left behind. Where `max_side` is given the picture is reduced to it.

    >>> open_picture(Image.new("L", (4, 2), 255)).image.getpixel((0, 0))
    (255, 255, 255)
    >>> open_picture(None).status
    'image_null'
    >>> open_picture(b"GIF89a and no more").status
    'image_corrupt'
    """
    try:
        source = _open(_stored(value, image_root))
        size_wh = _check_size(source, max_pixels)
        own = source is not value  # the caller's own picture is never touched
        if own and max_side and max(size_wh) > max_side and source.format == "JPEG":
            # The JPEG decoder halves for the price of the smaller size.
            scale = max_side / max(size_wh)
            source.draft("RGB", (round(size_wh[0] * scale), round(size_wh[1] * scale)))
        image = _to_rgb(source)
        orientation = _orientation(source)  # a PNG may say it after its pixels
        if image is value:
            image = image.copy()
    except Exception as error:  # a broken file can raise anything from the depths of a decoder
        return _refusal(error)
    if max_side:
        image.thumbnail((max_side, max_side), Image.Resampling.LANCZOS)
    if orientation in _TRANSPOSE:
        image = image.transpose(_TRANSPOSE[orientation])
        size_wh = size_wh if orientation < 5 else (size_wh[1], size_wh[0])
    image.info = {}  # comments, EXIF and GPS would otherwise ride along into what is saved
    return Picture(image, "ok", None, size_wh)


def peek_picture(value: Any, *, image_root: str | os.PathLike[str] | None = None) -> Picture:
    """Find the size of the upright image, or why it cannot be read, without decoding it.

    Of a file no more is read than that takes: of a PNG, which may tell its orientation after its
    pixels, the other chunks.

    >>> peek_picture(Image.new("L", (4, 2))).size_wh
    (4, 2)
    """
    try:
        with _readable(_located(value, image_root)) as stored:
            source = _open(stored)
            width, height = source.size
            if source.format == "PNG" and isinstance(stored, bytes | io.BufferedReader):
                source = _without_pixels(stored)
            upright = _orientation(source) < 5
    except Exception as error:  # the same depths of the same decoders as in open_picture
        return _refusal(error)
    return Picture(None, "ok", None, (width, height) if upright else (height, width))


def image_weight(value: Any, image_root: str | os.PathLike[str] | None = None) -> int:
    """Tell what a stored image takes in memory as a file, in bytes, without reading it.

    >>> image_weight({"bytes": b"jpeg", "path": None}), image_weight(Image.new("RGB", (640, 480)))
    (4, 92160)
    """
    try:
        located = _located(value, image_root)
    except _Refused:
        return 0
    if isinstance(located, Path):
        return located.stat().st_size
    if isinstance(located, bytes):
        return len(located)
    if isinstance(located, Image.Image):
        return int(located.width * located.height * 0.3)  # a JPEG of quality 90
    return 2**18


def _refusal(error: Exception) -> Picture:
    """The status and reason of what was raised on the way to a picture."""
    if isinstance(error, _Refused):
        status, reason = error.args
        return Picture(None, status, reason)
    if isinstance(error, MemoryError):
        return Picture(None, "image_too_large", "not enough memory to decode it")
    if isinstance(error, Image.DecompressionBombError | Image.DecompressionBombWarning):
        # The error comes at twice the warning's bound; the warning, where a user has made it one.
        most = (Image.MAX_IMAGE_PIXELS or 0) * (1 if isinstance(error, Warning) else 2)
        words = f"more than {most} pixels, which Pillow does not open whatever max_pixels says"
        return Picture(None, "image_too_large", words)
    return Picture(None, "image_corrupt", f"cannot be decoded: {_words(error)}")


def encode_jpeg(image: Image.Image, quality: int = 90) -> bytes:
    """Encode an RGB picture as JPEG bytes without any metadata.

    >>> encode_jpeg(Image.new("RGB", (8, 8)))[:3].hex()
    'ffd8ff'
    """
    if image.info:
        image = image.copy()
        image.info = {}
    with _scratch() as file:
        image.save(file, "JPEG", quality=quality)
        file.seek(0)
        return file.read()


def _scratch() -> BinaryIO:
    """A file in memory, where there is one: into such Pillow encodes beside other threads.

    Into a `BytesIO` it encodes with the interpreter's lock held: two threads are no faster than
    one.
    """
    try:
        return open(os.memfd_create("jpeg"), "w+b", buffering=0)  # noqa: PTH123
    except (AttributeError, OSError):  # not on Linux; not allowed
        return io.BytesIO()


def read_image_bytes(
    value: Any, *, image_root: str | os.PathLike[str] | None = None
) -> bytes | None:
    """Read the encoded bytes of a stored image, by the same rule for paths as `open_picture`.

    Returns None for null, for what may not be read, and for values that are not encoded (PIL,
    arrays).

    >>> read_image_bytes({"bytes": b"abc", "path": None})
    b'abc'
    >>> read_image_bytes({"bytes": None, "path": "/etc/hostname"}) is None
    True
    """
    try:
        stored = _stored(value, image_root)
    except _Refused:
        return None
    return stored if isinstance(stored, bytes) else None


def _stored(value: Any, image_root: str | os.PathLike[str] | None) -> Any:
    """Encoded bytes where the value holds or points to some; other values as they are."""
    located = _located(value, image_root)
    if not isinstance(located, Path):
        return located
    with _file_faults():
        return located.read_bytes()


def _located(value: Any, image_root: str | os.PathLike[str] | None) -> Any:
    """Encoded bytes, the path of a file that is there and may be read, or other values."""
    if isinstance(value, dict):
        value = value["bytes"] if value.get("bytes") is not None else value.get("path")
    if isinstance(value, str | Path):
        value = _find_image(str(value), image_root)
    if isinstance(value, bytearray | memoryview):
        value = bytes(value)
    if value is None:
        raise _Refused("image_null", "the row has no image")
    return value


def _readable(located: Any) -> AbstractContextManager[Any]:
    """The value itself, or its file, open as long as it is looked at."""
    if not isinstance(located, Path):
        return nullcontext(located)
    with _file_faults():
        return located.open("rb")


def _find_image(path: str, image_root: str | os.PathLike[str] | None) -> Path | bytes:
    """The path of a file, or the bytes of a zip file's member, that may be read."""
    member = split_member(path)
    if member is None:
        return _find_file(path, image_root)
    name, archive = member
    file = _find_file(archive, image_root)
    with _file_faults():
        try:
            return read_member(file, name)
        except OverflowError as error:
            raise _Refused("image_too_large", str(error)) from None


def _find_file(path: str, image_root: str | os.PathLike[str] | None) -> Path:
    if "://" in path or "::" in path or path.startswith("data:"):
        raise _Refused("image_refused", "the image is a URL, and URLs are never fetched")
    root = Path(image_root).expanduser() if image_root is not None else None
    roots = [*([root] if root is not None else []), *hugging_face_caches()]
    with _file_faults():
        # Relative paths are relative to the root that was named, never to the working directory.
        file = (Path(path) if root is None else root / path).resolve()
        if not any(file.is_relative_to(root.resolve()) for root in roots):
            words = (
                "the image's path leads out of image_root"
                if image_root is not None
                else "the image is a path on this machine, and no folder was named under which "
                "paths may be read: pass image_root=FOLDER"
            )
            raise _Refused("image_refused", words)
        if not file.is_file():  # a folder; a pipe or device, which might never end
            raise FileNotFoundError
        return file


@contextmanager
def _file_faults() -> Iterator[None]:
    """Say why a file cannot be read, without its folder: rows are published."""
    try:
        yield
    except FileNotFoundError:
        raise _Refused("image_missing", "there is no file at the image's path") from None
    except (OSError, ValueError, RuntimeError) as error:  # unreadable, a NUL byte, a link's loop
        words = getattr(error, "strerror", None) or type(error).__name__
        raise _Refused("image_missing", f"cannot be read: {words}") from None


def hugging_face_caches() -> list[Path]:
    """Name the folders into which `datasets` and `huggingface_hub` themselves put files."""
    from datasets import config
    from huggingface_hub import constants

    return [
        Path(folder)
        for folder in (
            config.HF_DATASETS_CACHE,
            config.DOWNLOADED_DATASETS_PATH,
            constants.HF_HUB_CACHE,
        )
    ]


def _open(stored: Any) -> Image.Image:
    """The image in bytes or an open file, or made of other values; not yet decoded."""
    if isinstance(stored, Image.Image):
        return stored
    if isinstance(stored, np.ndarray):
        return _from_array(stored)
    if not isinstance(stored, bytes | io.BufferedReader):
        raise _Refused("image_unsupported", f"a {type(stored).__name__} is not an image")
    file: BinaryIO = io.BytesIO(stored) if isinstance(stored, bytes) else stored
    head = file.read(64)
    file.seek(0)
    try:
        return Image.open(file, formats=_likely_formats(head))
    except UnidentifiedImageError:
        name = _foreign_format(head)
        if name:
            raise _Refused("image_unsupported", f"{name} files are not read") from None
        raise _Refused("image_corrupt", "no image format that can be read") from None


def _from_array(array: np.ndarray[Any, Any]) -> Image.Image:
    shape = "×".join(map(str, array.shape))
    if array.ndim == 3 and array.shape[2] == 1:
        array = array[:, :, 0]
    known = array.ndim == 2 or (array.ndim == 3 and array.shape[2] in (2, 3, 4))
    if not known or array.dtype.kind not in "buif":
        raise _Refused("image_unsupported", f"an array of {shape} {array.dtype} is not an image")
    if not array.size:
        raise _Refused("image_corrupt", "the image has no pixels")
    return Image.fromarray(array if array.dtype == np.uint8 else _to_8_bits(array))


def _likely_formats(head: bytes) -> tuple[str, ...]:
    """The formats to try: for the two usual ones Pillow need not load all of its decoders."""
    for name, magic in (("JPEG", b"\xff\xd8\xff"), ("PNG", b"\x89PNG\r\n\x1a\n")):
        if head.startswith(magic):
            return (name,)
    return _formats()


@functools.cache
def _formats() -> tuple[str, ...]:
    Image.init()  # Pillow loads most decoders only on demand; AVIF is missing in some builds
    return tuple(name for name in FORMATS if name in Image.OPEN)


def _foreign_format(prefix: bytes) -> str | None:
    """Name the format of bytes that no allowed decoder knows, by their first bytes only."""
    head = prefix.lstrip(b"\xef\xbb\xbf \t\r\n")
    for magic, name in _FOREIGN.items():
        if head.startswith(magic):
            return name
    if prefix.startswith(b"RIFF") and not b"WEBP".startswith(prefix[8:12]):
        return "RIFF (not WebP)"
    if prefix[4:8] == b"ftyp" and not ("AVIF" in _formats() and prefix[8:12] == b"avif"):
        return f"HEIF or video ({prefix[8:12].decode('latin-1').strip()})"
    for name, (_, accept) in Image.OPEN.items():
        if name not in FORMATS and accept is not None and _accepts(accept, prefix):
            return name
    return None


def _accepts(accept: Callable[[bytes], bool | str], prefix: bytes) -> bool:
    try:
        return accept(prefix) is True
    except Exception:  # a plugin may stumble over garbage: then it is not its format
        return False


def _without_pixels(png: bytes | io.BufferedReader) -> Image.Image:
    """The PNG's size, EXIF and texts, also those that come after its pixels; not to be decoded."""
    file: BinaryIO = io.BytesIO(png) if isinstance(png, bytes) else png
    file.seek(0)
    kept = [file.read(8)]
    while len(head := file.read(8)) == 8:
        length, name = struct.unpack(">I4s", head)
        if name in _PNG_TOLD and length <= _LONGEST_TOLD:
            kept.append(head + file.read(length + 4))
        else:
            file.seek(length + 4, os.SEEK_CUR)
    return Image.open(io.BytesIO(b"".join([*kept, bytes(4), b"IDAT"])), formats=("PNG",))


def _check_size(source: Image.Image, max_pixels: int) -> tuple[int, int]:
    width, height = source.size
    if width * height > max_pixels:
        raise _Refused(
            "image_too_large", f"{width}×{height} pixels are more than max_pixels={max_pixels}"
        )
    if not width or not height:
        raise _Refused("image_corrupt", "the image has no pixels")
    if tile_pixels(source) > max_pixels:
        words = f"its tiles are of more than max_pixels={max_pixels}"
        raise _Refused("image_too_large", words)
    return width, height


def tile_pixels(source: Image.Image) -> int:
    """How many pixels a tile of a TIFF has: decoded as a whole, however little the image shows."""
    tags = source.tag_v2 if source.format == "TIFF" else {}  # type: ignore[attr-defined]
    sides = [tags.get(tag, 0) for tag in _TIFF_TILE]
    return sides[0] * sides[1] if all(isinstance(side, int) for side in sides) else 0


def _orientation(source: Image.Image) -> int:
    """The EXIF orientation that is still to be applied, 1 to 8."""
    if source.format == "TIFF":  # Pillow turns these by itself: their size is the upright one
        return 1
    try:
        # Not the PNG's own `getexif`, which decodes what has shown no EXIF yet.
        exif = Image.Image.getexif(source)
        orientation = int(exif.get(ExifTags.Base.Orientation, 1))
    except Exception:  # broken EXIF blocks raise a dozen things; the picture itself may be fine
        return 1
    return orientation if orientation in _TRANSPOSE else 1


def _to_rgb(source: Image.Image) -> Image.Image:
    """Decode and convert; every mode that Pillow reads ends as 8-bit RGB, scaled, on white."""
    source.load()
    transparent = "transparency" in source.info
    if source.mode == "RGB" and not transparent:
        return source
    if source.mode in ("I", "F") or source.mode.startswith("I;16"):
        scale = _scale_to_8_bits(np.asarray(band) for _, band in _bands(source))
        return _by_bands(source, lambda band: Image.fromarray(scale(np.asarray(band))))
    if source.mode in ("RGBA", "LA", "La", "PA", "RGBa") or transparent:
        return _by_bands(source, _with_alpha)
    return _by_bands(source, lambda band: band)


def _with_alpha(band: Image.Image) -> Image.Image:
    if band.mode == "La":
        band = band.convert("LA")
    return band if band.mode == "RGBA" else band.convert("RGBA")


#: So many pixels are converted at once: what conversions need beside source and result is bounded.
_BAND = 2**20

_Box = tuple[int, int, int, int]


def _bands(source: Image.Image) -> Iterator[tuple[_Box, Image.Image]]:
    """Cut an image into bands of rows, each with its place; a small one is its own only band."""
    width, height = source.size
    rows = max(1, _BAND // width)
    for top in range(0, height, rows):
        box = (0, top, width, min(height, top + rows))
        yield box, source if rows >= height else source.crop(box)


def _by_bands(source: Image.Image, convert: Callable[[Image.Image], Image.Image]) -> Image.Image:
    """Convert an image to RGB band by band, on white where the converted band has an alpha."""
    rgb = Image.new("RGB", source.size, "white")
    for box, band in _bands(source):
        converted = convert(band)
        if converted.mode == "RGBA":
            rgb.paste(converted, box, converted)
        else:
            rgb.paste(converted.convert("RGB"), box)
    return rgb


def _to_8_bits(values: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """Scale an array's numbers of any type to 0 to 255 instead of clipping them."""
    rows = max(1, _BAND // max(1, values[0].size))
    bands = [values[top : top + rows] for top in range(0, len(values), rows)]
    scale = _scale_to_8_bits(bands)
    return np.concatenate([scale(band) for band in bands])


def _scale_to_8_bits(
    bands: Iterable[np.ndarray[Any, Any]],
) -> Callable[[np.ndarray[Any, Any]], np.ndarray[Any, Any]]:
    """What scales numbers of an image that consists of these bands to 0 to 255; NaN is black."""
    low, high, kind = 0.0, -np.inf, np.dtype(np.uint8)
    for band in bands:
        kind = band.dtype
        finite = band[np.isfinite(band)] if kind.kind == "f" else band
        if finite.size:
            low, high = min(low, float(finite.min())), max(high, float(finite.max()))
    high = high if high > -np.inf else 0.0
    if kind.kind == "b" or (kind.kind == "f" and low == 0 and high <= 1):
        top = 1.0
    elif kind.kind == "f":
        top = max(high, 255.0) if low == 0 else high - low
    else:
        # 10, 12 and 14 bits are often stored in 16: the smallest depth that holds the brightest.
        span = high - low
        top = next((2.0**bits - 1 for bits in (8, 10, 12, 14, 16) if span < 2**bits), span)
    factor = 255 / (top or 1.0)

    def scale(values: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
        wide = values.astype(np.result_type(values.dtype, np.float32))
        scaled = np.nan_to_num(wide, nan=low, posinf=high, neginf=low) * factor
        return np.asarray(np.rint(scaled - low * factor).clip(0, 255), dtype=np.uint8)

    return scale


def _words(error: BaseException) -> str:
    return str(error).splitlines()[0][:200] if str(error) else type(error).__name__
