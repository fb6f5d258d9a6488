"""Metadata goes, pixels stay: checked by Pillow's own decoders on files that it wrote."""

from __future__ import annotations

import io
import struct
import zlib

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageCms, ImageDraw, ImageOps, PngImagePlugin, features
from skimage import data as photos

from hf_regioncap.images import open_picture
from hf_regioncap.metadata import image_format, without_metadata

SECRET = "Baker Street 221b"
ICC = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
XMP = f'<x:xmpmeta xmlns:x="adobe:ns:meta/"><d>{SECRET}</d></x:xmpmeta>'.encode()


def photo(mode: str = "RGB", shift: int = 0) -> Image.Image:
    return Image.fromarray(photos.astronaut()[100 + shift : 196 + shift, 100:228]).convert(mode)


def exif(orientation: int = 6) -> Image.Exif:
    block = Image.Exif()
    block[0x0112] = orientation
    block[0x010F] = SECRET  # Make
    gps = {1: "N", 2: (51.0, 31.0, 25.0), 3: "W", 4: (0.0, 9.0, 30.0), 29: SECRET}
    block.get_ifd(0x8825).update(gps)
    return block


def saved(image: Image.Image, kind: str, **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def upright(data: bytes) -> Image.Image:
    image = Image.open(io.BytesIO(data))
    image.load()
    return ImageOps.exif_transpose(image)


def frames(data: bytes) -> list[bytes]:
    image = Image.open(io.BytesIO(data))
    shots = []
    for number in range(getattr(image, "n_frames", 1)):
        image.seek(number)
        shots.append(image.convert("RGBA").tobytes())
    return shots


def with_segment(jpeg: bytes, marker: int, payload: bytes) -> bytes:
    segment = struct.pack(">BBH", 0xFF, marker, len(payload) + 2) + payload
    return jpeg[:2] + segment + jpeg[2:]


def chunk(name: bytes, payload: bytes) -> bytes:
    content = name + payload
    return struct.pack(">I", len(payload)) + content + struct.pack(">I", zlib.crc32(content))


def text_chunks() -> PngImagePlugin.PngInfo:
    info = PngImagePlugin.PngInfo()
    info.add_text("Comment", SECRET)
    info.add_itxt("XML:com.adobe.xmp", XMP.decode())
    return info


JPEG = saved(photo(), "JPEG", quality=90)
PNG = saved(photo(), "PNG")
FILES = {
    "jpeg exif, gps, comment, xmp": saved(
        photo(), "JPEG", exif=exif(), comment=SECRET, xmp=XMP, icc_profile=ICC
    ),
    "jpeg progressive": saved(photo(), "JPEG", exif=exif(8), progressive=True),
    "jpeg grey": saved(photo("L"), "JPEG", exif=exif(3)),
    "jpeg cmyk": saved(photo("CMYK"), "JPEG", comment=SECRET),
    "jpeg photoshop": with_segment(JPEG, 0xED, b"Photoshop 3.0\x00" + SECRET.encode()),
    "jpeg vendor app": with_segment(JPEG, 0xEB, SECRET.encode()),
    "jpeg jfif thumbnail": JPEG[:4]
    + struct.pack(">H", 16 + 27)
    + JPEG[6:18]
    + b"\x03\x03"
    + (SECRET.encode() + bytes(27))[:27]
    + JPEG[20:],
    "jpeg restart markers": saved(photo(), "JPEG", restart_marker_rows=1, comment=SECRET),
    "jpeg film appended": JPEG + b"\x00\x00\x00\x18ftypmp42" + SECRET.encode(),
    "jpeg second photo": saved(
        photo(), "MPO", save_all=True, append_images=[photo(shift=40)], exif=exif()
    ),
    "png": saved(photo(), "PNG", exif=exif(), pnginfo=text_chunks(), icc_profile=ICC),
    "png alpha": saved(photo("RGBA"), "PNG", pnginfo=text_chunks()),
    "png palette": saved(photo("P"), "PNG", pnginfo=text_chunks(), transparency=3),
    "png 16 bit": saved(photo("L").convert("I;16"), "PNG", pnginfo=text_chunks()),
    "png private chunk": PNG[:33] + chunk(b"prVt", SECRET.encode()) + PNG[33:],
    "png appended": PNG + SECRET.encode(),
    "png chunk appended": PNG + chunk(b"IDAT", SECRET.encode()),
    "png animated": saved(
        photo(), "PNG", save_all=True, append_images=[photo(shift=40)], pnginfo=text_chunks()
    ),
    "gif": saved(photo("P"), "GIF", comment=SECRET.encode()),
    "gif animated": saved(
        photo("P"),
        "GIF",
        comment=SECRET.encode(),
        save_all=True,
        append_images=[photo("P", 40), photo("P", 80)],
        duration=80,
        loop=0,
    ),
    "tiff": saved(photo(), "TIFF", exif=exif(), compression="raw"),
    "tiff cmyk": saved(photo("CMYK"), "TIFF", tiffinfo={270: SECRET}),
    "tiff float": saved(photo("F"), "TIFF", tiffinfo={270: SECRET}),
    "bmp": saved(photo(), "BMP") + SECRET.encode(),
}
if features.check("webp"):
    FILES |= {
        "webp": saved(photo(), "WEBP", exif=exif(), xmp=XMP, icc_profile=ICC),
        "webp lossless alpha": saved(photo("RGBA"), "WEBP", exif=exif(2), lossless=True),
        "webp plain": saved(photo(), "WEBP") + SECRET.encode(),
        "webp animated": saved(
            photo(), "WEBP", save_all=True, append_images=[photo(shift=40)], xmp=XMP
        ),
    }


@pytest.mark.parametrize("name", FILES)
def test_the_secret_goes_and_every_pixel_stays(name: str) -> None:
    given_file = FILES[name]
    clean = without_metadata(given_file)
    assert clean is not None
    assert SECRET.encode() not in clean
    before, after = upright(given_file), upright(clean)
    assert after.convert("RGBA").tobytes() == before.convert("RGBA").tobytes()
    assert set(after.getexif()) <= {0x0112}
    assert not after.getexif().get_ifd(0x8825)


@pytest.mark.parametrize("name", FILES)
def test_the_test_files_hold_the_secret_to_begin_with(name: str) -> None:
    assert SECRET.encode() in FILES[name] or name in (
        "jpeg second photo",  # the secret is the second photo itself
        "png animated",
    )


def test_a_second_photo_in_the_file_goes() -> None:
    assert image_format(without_metadata(FILES["jpeg second photo"])) == "JPEG"
    assert len(frames(FILES["jpeg second photo"])) == 2
    assert len(frames(without_metadata(FILES["jpeg second photo"]))) == 1


@pytest.mark.parametrize("name", [name for name in FILES if "animated" in name])
def test_animations_keep_their_frames(name: str) -> None:
    assert len(frames(FILES[name])) > 1
    assert frames(without_metadata(FILES[name])) == frames(FILES[name])


@pytest.mark.parametrize("name", ["jpeg exif, gps, comment, xmp", "png", "webp"])
def test_the_colour_profile_stays(name: str) -> None:
    if name in FILES:
        assert Image.open(io.BytesIO(without_metadata(FILES[name]))).info["icc_profile"] == ICC


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "TIFF"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_every_orientation_still_decodes_upright(kind: str, orientation: int) -> None:
    given_file = saved(photo(), kind, exif=exif(orientation))
    clean = without_metadata(given_file)
    assert upright(clean).tobytes() == upright(given_file).tobytes()
    assert upright(clean).size == ((128, 96) if orientation < 5 else (96, 128))


def test_an_orientation_said_in_xmp_alone_is_kept_too() -> None:
    xmp = b'<x:xmpmeta xmlns:x="adobe:ns:meta/"><r tiff:Orientation="6"/></x:xmpmeta>'
    for kind in ("JPEG", "WEBP"):
        given_file = saved(photo(), kind, xmp=xmp)
        assert upright(given_file).size == (96, 128)
        assert upright(without_metadata(given_file)).size == (96, 128)


def test_what_is_clean_comes_back_byte_for_byte() -> None:
    for kind in ("JPEG", "PNG", "WEBP", "GIF"):
        plain = saved(photo("P" if kind == "GIF" else "RGB"), kind)
        assert without_metadata(plain) == plain
    for given_file in FILES.values():
        clean = without_metadata(given_file)
        assert without_metadata(clean) == clean


@pytest.mark.parametrize(
    "data",
    [b"", b"root:x:0:0:root:/root:/bin/sh\n", b"\xff\xd8", b"%PDF-1.7", b"<svg/>", b"GIF89a"],
)
def test_what_is_no_image_gives_none(data: bytes) -> None:
    assert without_metadata(data) is None
    assert image_format(data) is None


def test_a_truncated_photo_loses_its_metadata_all_the_same() -> None:
    for name in ("jpeg exif, gps, comment, xmp", "png", "webp"):
        cut = FILES[name][: len(FILES[name]) * 3 // 4]
        clean = without_metadata(cut)
        assert clean is None or SECRET.encode() not in clean
    jpeg = FILES["jpeg exif, gps, comment, xmp"]
    assert open_picture(without_metadata(jpeg[:-200])).status == open_picture(jpeg[:-200]).status


@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
def test_a_huge_picture_is_not_decoded_to_be_cleaned() -> None:
    wide = saved(Image.new("1", (12_000, 8_000)), "TIFF", compression="group4")
    assert len(wide) < 100_000
    assert without_metadata(wide) is None


@pytest.mark.filterwarnings("ignore")  # Pillow's, about the broken files
@settings(max_examples=300)
@given(
    name=st.sampled_from(sorted(FILES)),
    cut=st.integers(0, 100_000),
    edits=st.lists(st.tuples(st.integers(0, 100_000), st.integers(0, 255)), max_size=8),
)
def test_broken_files_never_raise(name: str, cut: int, edits: list[tuple[int, int]]) -> None:
    data = bytearray(FILES[name])
    for at, value in edits:
        data[at % len(data)] = value
    broken = bytes(data[: len(data) - cut % len(data) // 2])
    clean = without_metadata(broken)
    assert clean is None or len(clean) > 0


def test_pictures_of_our_own_pass_through() -> None:
    marked = photo()
    ImageDraw.Draw(marked).rectangle((8, 8, 60, 60), outline="red", width=3)
    jpeg = saved(marked, "JPEG", quality=90)
    assert without_metadata(jpeg) == jpeg
