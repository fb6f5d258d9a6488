"""What the transport lets in: packed bodies, within the bound, and what it says of the others."""

from __future__ import annotations

import gzip
import zlib

import pytest
from endpoint import Endpoint, Fault, Reply, Request, good_reply
from hypothesis import given
from hypothesis import strategies as st

from hf_regioncap.client import post_once
from hf_regioncap.endpoint import Endpoint as Where
from hf_regioncap.transport import MAX_RESPONSE_BYTES, BadBody, unpack
from hf_regioncap.transport import Reply as Answer

BODY = b'{"a": "caf\xc3\xa9"}'


def gz(content: bytes) -> bytes:
    """Pack without the time of day, which would be in the tests' names."""
    return gzip.compress(content, mtime=0)


def raw_deflate(data: bytes) -> bytes:
    packer = zlib.compressobj(wbits=-zlib.MAX_WBITS)
    return packer.compress(data) + packer.flush()


@pytest.mark.parametrize(
    ("content", "encoding"),
    [
        (BODY, ""),
        (BODY, "identity"),
        (BODY, "gzip"),  # unpacked by a proxy that has left the header
        (gz(BODY), "gzip"),
        (gz(BODY[:5]) + gz(BODY[5:]), "GZIP"),
        (zlib.compress(BODY), "deflate"),
        (raw_deflate(BODY), "deflate"),
        (gz(zlib.compress(BODY)), "deflate, gzip"),
        (b"", "gzip"),
    ],
)
def test_what_can_be_unpacked(content: bytes, encoding: str) -> None:
    assert unpack(content, encoding) == (BODY if content else b"")


@pytest.mark.parametrize(
    ("content", "encoding", "words"),
    [
        (b"\x8b\x05\x80", "br", "a body in br, which was not asked for"),
        (gz(BODY)[:-6], "gzip", "in gzip that was cut off"),
        (b"\x1f\x8bnonsense", "gzip", "in gzip that cannot be unpacked"),
        (gz(bytes(MAX_RESPONSE_BYTES + 1)), "gzip", "more than 16 MB, in gzip"),
        (gz(bytes(MAX_RESPONSE_BYTES)) * 2, "gzip", "more than 16 MB, in gzip"),
    ],
)
def test_what_cannot(content: bytes, encoding: str, words: str) -> None:
    with pytest.raises(BadBody, match=words):
        unpack(content, encoding)


@given(st.binary(max_size=60), st.sampled_from(["gzip", "deflate", "gzip, deflate"]))
def test_no_bytes_raise_anything_else(content: bytes, encoding: str) -> None:
    try:
        unpack(content, encoding)
    except BadBody:
        return


def reply_to(reply: Reply) -> Answer:
    with Endpoint(Fault("one", "ok", lambda request: reply)) as endpoint:
        return post_once(Where(endpoint.base_url, None), b'{"messages": []}')


def test_a_status_stays_a_status_however_its_body_came() -> None:
    words = b'{"error": {"message": "no such model"}}'
    packed = {"content-encoding": "gzip"}
    told = reply_to(Reply(gzip.compress(words), 404, headers=packed))
    assert (told.status, told.body) == (404, words.decode())
    broken = reply_to(Reply(b"\x8b\x05", 503, headers={"content-encoding": "br"}))
    assert broken.status == 503
    assert "in br" in broken.failure


@pytest.mark.parametrize("status", [200, 201, 203])
def test_any_success_is_an_answer(status: int) -> None:
    def created(request: Request) -> Reply:
        return Reply(good_reply(request).body, status)

    with Endpoint(Fault("created", "ok", created)) as endpoint:
        assert post_once(Where(endpoint.base_url, None), b'{"messages": []}').answers


def test_nobody_there_is_told_from_a_broken_connection() -> None:
    with Endpoint("close_without_a_byte") as endpoint:
        place = Where(endpoint.base_url, None)
        assert not post_once(place, b"{}").unreachable
    assert post_once(place, b"{}").unreachable
