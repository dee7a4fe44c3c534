"""The parts of multipart bodies as servers send them, well and badly, in pieces of every length."""

from __future__ import annotations

import random
from collections.abc import Iterable, Sequence

import pytest

from pacsifier_ops.dicomweb.multipart import Broken, Parts, media_type

_RANDOM = random.Random(7)
#: Objects with what could be taken for a delimiter, and ends that could be taken for a line's.
OBJECTS = [
    _RANDOM.randbytes(300),
    b"\r\n--of another\r\n" + _RANDOM.randbytes(50),
    b"\r\n--bound ary\r\n--boundary2\r\nboundary--",
    b"",
    _RANDOM.randbytes(70) + b"\r\n",
    b"\n",
    _RANDOM.randbytes(9) + b"\r",
    b"-",
]


def body(
    objects: Iterable[bytes],
    line_end: bytes = b"\r\n",
    lengths: Sequence[int] | None = None,
    before: bytes = b"",
    behind: bytes = b"",
    closed: bool = True,
) -> bytes:
    """A body with the boundary `boundary`."""
    parts = []
    for number, content in enumerate(objects):
        headers = [b"--boundary", b"Content-Type: application/dicom"]
        if lengths is not None:
            headers.append(b"content-length:%d" % lengths[number])
        parts.append(line_end.join([*headers, b"", content]))
    end = line_end + b"--boundary--" if closed else b""
    return before + line_end.join(parts) + end + behind


def read(data: bytes, size: int = 4096) -> list[bytes]:
    """The contents of all parts of a body that comes in pieces of a size."""
    pieces = (data[start : start + size] for start in range(0, len(data), size))
    return [b"".join(content) for _, content in Parts(pieces, "boundary")]


@pytest.mark.parametrize("line_end", [b"\r\n", b"\n"], ids=["CRLF", "LF"])
@pytest.mark.parametrize("told", [True, False], ids=["lengths", "no lengths"])
@pytest.mark.parametrize("before", [b"", b"\r\n", b"\n", b"A word first\r\n", b"\r\n\r\n"])
@pytest.mark.parametrize("behind", [b"", b"\r\n", b"A word last", b"\r\n--boundary--\r\n"])
def test_objects_come_whole(line_end: bytes, told: bool, before: bytes, behind: bytes) -> None:
    """Byte by byte as they were sent, wherever the body is cut into pieces."""
    data = body(OBJECTS, line_end, [len(one) for one in OBJECTS] if told else None, before, behind)
    for size in (1, 2, 3, 5, 7, 11, 12, 13, 64, 1 << 20):
        assert read(data, size) == OBJECTS, size


@pytest.mark.parametrize("size", [1, 7, 100, 4096])
def test_a_length_that_is_too_long_does_not_take_the_next_object(size: int) -> None:
    """The next object would end up in the file of the first, whose identity would still be right."""
    objects = [bytes([number]) * 1000 for number in range(3)]
    for more in (1, 20, 200, 1000, 1100, 2500):
        with pytest.raises(Broken):
            read(body(objects, lengths=[1000 + more, 1000, 1000]), size)


def test_a_length_that_is_too_short_or_none_is_no_length() -> None:
    objects = [bytes([number]) * 1000 for number in range(3)]
    for told in (0, 1, 999):
        assert read(body(objects, lengths=[told] * 3)) == objects
    for word in ("-1", "1e3", "\u0663", "9" * 30, ""):
        data = body(objects).replace(b"application/dicom", b"a/b\r\nContent-Length: " + word.encode())
        assert read(data) == objects, word


def test_a_length_tells_the_delimiter_from_the_same_text_within_an_object() -> None:
    """Servers with a boundary that is always the same, and an object that was made from one of their answers."""
    objects = [b"1" * 50 + b"\r\n--boundary\r\nContent-Type: a/b\r\n\r\n" + b"2" * 50, b"3" * 20]
    for size in (1, 13, 4096):
        assert read(body(objects, lengths=[len(one) for one in objects]), size) == objects


@pytest.mark.parametrize("told", [True, False], ids=["lengths", "no lengths"])
def test_every_cut_is_noticed(told: bool) -> None:
    """Wherever the connection ends: without a length of the body, its end looks like that of a whole one."""
    objects = [b"a" * 40, b"b" * 33]
    data = body(objects, lengths=[40, 33] if told else None)
    assert read(data) == objects
    for cut in range(1, len(data)):
        with pytest.raises(Broken):
            read(data[:cut])


def test_what_came_before_the_cut_is_there() -> None:
    found = []
    with pytest.raises(Broken):
        for _, content in Parts([body([b"a" * 9, b"b" * 9])[:-20]], "boundary"):
            found.append(b"".join(content))
    assert found == [b"a" * 9]


def test_nothing_is_no_part() -> None:
    for data in (b"", b"\r\n", b"--boundary--", b"\r\n--boundary--\r\n", b"words\r\n--boundary--"):
        assert read(data) == []


def test_what_is_no_multipart_is_told() -> None:
    for data in (b"<html></html>", b"x" * 200_000, b"--boundry\r\n\r\nabc\r\n--boundry--"):
        with pytest.raises(Broken):
            read(data)


def test_headers_have_a_longest_length() -> None:
    with pytest.raises(Broken):
        read(b"--boundary\r\nX: " + b"x" * 200_000 + b"\r\n\r\nabc\r\n--boundary--")


def test_headers_are_read_folded_or_not_at_all() -> None:
    first = b'--boundary\r\nContent-Type: application/dicom;\r\n  transfer-syntax="1.2"\r\n\r\nA'
    data = first + b"\r\n--boundary\r\n\r\nB\r\n--boundary--"
    parts = Parts([data], "boundary")
    found = [(dict(headers), b"".join(content)) for headers, content in parts]
    assert [content for _, content in found] == [b"A", b"B"]
    assert media_type(found[0][0]["content-type"]) == ("application/dicom", {"transfer-syntax": "1.2"})
    assert found[1][0] == {}


def test_a_content_that_nobody_reads_is_passed_over() -> None:
    assert len(list(Parts([body([b"a", b"b" * 9999, b"c"])], "boundary"))) == 3


def test_an_object_is_never_in_memory() -> None:
    """Pieces go on as they come, with lengths and without."""
    for told in (None, [64 << 20]):
        head, tail = body([b""], lengths=told).split(b"\r\n\r\n")
        pieces = [head + b"\r\n\r\n", *[bytes(1 << 20)] * 64, tail]
        longest = max(len(p) for _, content in Parts(pieces, "boundary") for p in content)
        assert longest <= 1 << 21
