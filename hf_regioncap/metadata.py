"""Image files without their metadata: what a camera or an editor wrote goes, the pixels stay.

A JPEG, PNG, WebP or GIF file is a list of parts, and only the parts that make the picture are
copied, byte for byte: no pixel is decoded or encoded again. Kept too: the colour profile, and the
EXIF orientation without which the photo would lie on its side, in a block that holds nothing else.
Other formats are decoded and encoded again without loss.
"""

from __future__ import annotations

import io
import re
import struct
import zlib
from collections.abc import Callable, Iterator

from PIL import ExifTags, Image, ImageOps

from hf_regioncap.images import FORMATS, tile_pixels

#: JPEG segments that the decoder needs: frames (SOF, C0 to CF), tables, scans, DNL, DRI, DHP, EXP.
_JPEG_PICTURE = {*range(0xC0, 0xD0), *range(0xDA, 0xE0)}
_JPEG_MARKER = re.compile(rb"\xff[\x01-\xcf\xd8-\xfe]")
_JPEG_END = 0xD9

_PNG_START = b"\x89PNG\r\n\x1a\n"
#: PNG chunks that make the picture, its colours, its size in print, and its animation.
_PNG_PICTURE = (
    b"IHDR PLTE IDAT IEND tRNS gAMA cHRM sRGB iCCP cICP sBIT bKGD pHYs mDCV cLLI acTL fcTL fdAT"
).split()

_WEBP_FRAME = [b"VP8 ", b"VP8L", b"ALPH"]
_WEBP_PICTURE = [b"VP8X", b"ICCP", b"ANIM", b"ANMF", *_WEBP_FRAME]
_WEBP_HAS_EXIF, _WEBP_HAS_XMP = 0x08, 0x04

_GIF_APPLICATIONS = (b"NETSCAPE2.0", b"ANIMEXTS1.0", b"ICCRGBG1012")

_PNG_MODES = ("1", "L", "LA", "P", "RGB", "RGBA", "I;16", "I;16B")
#: Larger pictures are not decoded in order to be encoded again.
_MAX_PIXELS = 64_000_000


def without_metadata(data: bytes) -> bytes | None:
    """Return an image file's bytes without EXIF, GPS, XMP, IPTC, comments and thumbnails.

    JPEG, PNG, WebP and GIF keep their encoded pixels, colour profile, animation and orientation;
    what follows the end of the picture (a second photo, a film) is cut off. Other formats that can
    be read become PNG, or TIFF where PNG has no such pixels: upright, the first frame. None for
    bytes that are no image.

    >>> buffer = io.BytesIO()
    >>> Image.new("RGB", (8, 8)).save(buffer, "JPEG", comment="my street")
    >>> b"my street" in buffer.getvalue(), b"my street" in without_metadata(buffer.getvalue())
    (True, False)
    >>> without_metadata(b"no image") is None
    True
    """
    source = _open(data)
    if source is None:
        return None
    copy = _COPIES.get(source.format or "")
    if copy is not None:
        try:
            return copy(data, lambda: _orientation(source))
        except (struct.error, IndexError, ValueError):
            pass  # not built as its format says; Pillow may still be able to read it
    return _encoded_again(source)


def image_format(data: bytes) -> str | None:
    """Return the name of the format of an image file's bytes, None if it is none that is read.

    >>> buffer = io.BytesIO()
    >>> Image.new("L", (8, 8)).save(buffer, "PNG")
    >>> image_format(buffer.getvalue()), image_format(b"root:x:0:0:")
    ('PNG', None)
    """
    source = _open(data)
    return source.format if source is not None else None


def _open(data: bytes) -> Image.Image | None:
    Image.init()
    try:
        return Image.open(
            io.BytesIO(data), formats=[name for name in FORMATS if name in Image.OPEN]
        )
    except Exception:  # no decoder for it, or one that stumbles over its header: no image
        return None


def _orientation(source: Image.Image) -> int:
    try:
        value = int(source.getexif().get(ExifTags.Base.Orientation, 1))
    except Exception:  # broken EXIF blocks raise a dozen things, and readers then ignore them
        return 1
    return value if 1 <= value <= 8 else 1


def _tiff_of(orientation: int) -> bytes:
    """A TIFF header and one directory with one entry: the orientation, a SHORT."""
    entry = struct.pack("<HHIHH", ExifTags.Base.Orientation, 3, 1, orientation, 0)
    return struct.pack("<2sHIH", b"II", 42, 8, 1) + entry + struct.pack("<I", 0)


# JPEG (ITU-T T.81, annex B): SOI, segments of marker, length and payload, scans among them, EOI.


def _copy_jpeg(data: bytes, orientation: Callable[[], int]) -> bytes:
    head, body, dropped = [b"\xff\xd8"], [], False
    for marker, payload, scan in _jpeg_segments(data):
        if marker == _JPEG_END:
            body.append(b"\xff\xd9")
        elif marker == 0xE0 and payload.startswith(b"JFIF\x00"):
            head.append(_jpeg_segment(0xE0, payload[:12] + b"\x00\x00"))  # without its thumbnail
        elif _makes_jpeg(marker, payload):
            body.append(_jpeg_segment(marker, payload) + scan)
        else:
            dropped = True
    upright = orientation() if dropped else 1
    if upright != 1:
        head.append(_jpeg_segment(0xE1, b"Exif\x00\x00" + _tiff_of(upright)))
    return b"".join(head + body)


def _jpeg_segment(marker: int, payload: bytes) -> bytes:
    return struct.pack(">BBH", 0xFF, marker, len(payload) + 2) + payload


def _makes_jpeg(marker: int, payload: bytes) -> bool:
    if marker == 0xE2:
        return payload.startswith(b"ICC_PROFILE\x00")
    return marker in _JPEG_PICTURE or (marker == 0xEE and payload.startswith(b"Adobe"))


def _jpeg_segments(data: bytes) -> Iterator[tuple[int, bytes, bytes]]:
    """Yield marker, payload, and the entropy-coded data that follows the header of a scan."""
    at = 2
    while at + 4 <= len(data) or data[at : at + 2] == b"\xff\xd9":
        if data[at] != 0xFF:
            raise ValueError("no marker where a segment should start")
        marker = data[at + 1]
        if marker == 0xFF:  # a fill byte
            at += 1
            continue
        if marker == _JPEG_END:
            yield marker, b"", b""
            return
        end = at + 2 + int.from_bytes(data[at + 2 : at + 4], "big")
        payload, scan, at = data[at + 4 : end], b"", end
        if marker == 0xDA:
            found = _JPEG_MARKER.search(data, at)
            end = found.start() if found else len(data)
            scan, at = data[at:end], end
        yield marker, payload, scan


# PNG: a signature, chunks of length, name, payload and checksum.


def _copy_png(data: bytes, orientation: Callable[[], int]) -> bytes:
    kept, dropped, at = [_PNG_START], False, len(_PNG_START)
    while at + 8 <= len(data):
        length, name = struct.unpack_from(">I4s", data, at)
        end = at + 12 + length
        if name in _PNG_PICTURE:
            kept.append(data[at:end])
        else:
            dropped = True
        at = end
        if name == b"IEND":
            break
    upright = orientation() if dropped else 1
    if upright != 1:
        kept.insert(2, _png_chunk(b"eXIf", _tiff_of(upright)))  # after IHDR
    return b"".join(kept)


def _png_chunk(name: bytes, payload: bytes) -> bytes:
    return (
        struct.pack(">I", len(payload))
        + name
        + payload
        + struct.pack(">I", zlib.crc32(name + payload))
    )


# WebP: a RIFF container, chunks of name, length and payload, padded to even lengths.


def _copy_webp(data: bytes, orientation: Callable[[], int]) -> bytes:
    chunks = list(_riff_chunks(data[12 : 8 + int.from_bytes(data[4:8], "little")]))
    kept = [(name, payload) for name, payload in chunks if name in _WEBP_PICTURE]
    upright = orientation() if len(kept) < len(chunks) else 1
    extended = bool(kept) and kept[0][0] == b"VP8X"
    if upright != 1 and extended:
        kept.append((b"EXIF", _tiff_of(upright)))
    body = b"".join(
        _riff_chunk(name, _webp_payload(name, payload, upright)) for name, payload in kept
    )
    return b"RIFF" + struct.pack("<I", len(body) + 4) + b"WEBP" + body


def _webp_payload(name: bytes, payload: bytes, upright: int) -> bytes:
    if name == b"VP8X":
        flags = payload[0] & ~(_WEBP_HAS_EXIF | _WEBP_HAS_XMP)
        return bytes([flags | (_WEBP_HAS_EXIF if upright != 1 else 0)]) + payload[1:]
    if name == b"ANMF":  # a frame is a header of 16 bytes and chunks of its own
        parts = [part for part in _riff_chunks(payload[16:]) if part[0] in _WEBP_FRAME]
        return payload[:16] + b"".join(_riff_chunk(*part) for part in parts)
    return payload


def _riff_chunks(data: bytes) -> Iterator[tuple[bytes, bytes]]:
    at = 0
    while at + 8 <= len(data):
        name, length = struct.unpack_from("<4sI", data, at)
        yield name, data[at + 8 : at + 8 + length]
        at += 8 + length + length % 2


def _riff_chunk(name: bytes, payload: bytes) -> bytes:
    return struct.pack("<4sI", name, len(payload)) + payload + b"\x00" * (len(payload) % 2)


# GIF: a header, colour tables, and blocks that are extensions (0x21) or images (0x2C).


def _copy_gif(data: bytes, orientation: Callable[[], int]) -> bytes:
    if orientation() != 1:
        raise ValueError("a GIF has no place for an orientation")
    at = 13 + _gif_table(data[10])
    kept = [data[:at]]
    while data[at] != 0x3B:
        end = _gif_block_end(data, at)
        if data[at] == 0x2C or _makes_gif(data[at : at + 14]):
            kept.append(data[at:end])
        at = end
    return b"".join(kept) + b"\x3b"


def _makes_gif(extension: bytes) -> bool:
    label, name = extension[1], extension[3:]
    return label == 0xF9 or (label == 0xFF and name in _GIF_APPLICATIONS)


def _gif_block_end(data: bytes, at: int) -> int:
    if data[at] == 0x21:
        at += 2
    elif data[at] == 0x2C:
        at += 11 + _gif_table(data[at + 9])
    else:
        raise ValueError("no block where one should start")
    while data[at]:
        at += data[at] + 1
    return at + 1


def _gif_table(flags: int) -> int:
    return 3 << ((flags & 7) + 1) if flags & 0x80 else 0


_COPIES: dict[str, Callable[[bytes, Callable[[], int]], bytes]] = {
    "JPEG": _copy_jpeg,
    "MPO": _copy_jpeg,
    "PNG": _copy_png,
    "WEBP": _copy_webp,
    "GIF": _copy_gif,
}


def _encoded_again(source: Image.Image) -> bytes | None:
    if max(source.width * source.height, tile_pixels(source)) > _MAX_PIXELS:
        return None
    buffer = io.BytesIO()
    try:
        upright = ImageOps.exif_transpose(source).copy()  # a copy: TIFF keeps its tags otherwise
        upright.info = {"icc_profile": source.info.get("icc_profile")}
        if upright.mode in _PNG_MODES:
            upright.save(buffer, "PNG")
        else:
            upright.save(buffer, "TIFF", compression="tiff_lzw")
    except Exception:  # a broken file can raise anything from the depths of a decoder
        return None
    return buffer.getvalue()
