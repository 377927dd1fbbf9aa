"""Which parts of a blob a client asks for (F72)."""

from __future__ import annotations

import re

import pytest

from entrepot.errors import RangeUnsatisfiable
from entrepot.httpd.ranges import (
    MAX_HEADER,
    MAX_PARTS,
    ByteRange,
    MultipartBody,
    parse_ranges,
    parts_within,
)


def parts(header: bytes, size: int = 1000) -> list[tuple[int, int]]:
    return [(part.start, part.end) for part in parts_within(parse_ranges(header), size)]


@pytest.mark.parametrize(
    ("header", "expected"),
    [
        (b"bytes=0-99", (0, 100)),
        (b"bytes=100-", (100, 1000)),
        (b"bytes=-10", (990, 1000)),
        (b"bytes=-5000", (0, 1000)),
        (b"bytes=990-5000", (990, 1000)),
        (b"Bytes=0-0", (0, 1)),
        (b"bytes=000000000000000000000000000000-1", (0, 2)),
        (b"bytes=0-" + b"9" * 5000, (0, 1000)),
        (b"bytes=-" + b"9" * 5000, (0, 1000)),
    ],
)
def test_one_range_is_a_part_of_the_blob(header: bytes, expected: tuple[int, int]) -> None:
    assert parts(header) == [expected]


@pytest.mark.parametrize(
    ("header", "expected"),
    [
        (b"bytes=0-0,-1", [(0, 1), (999, 1000)]),
        (b"bytes=0-9, 20-29,\t40-49", [(0, 10), (20, 30), (40, 50)]),
        (b"bytes=,0-9,,20-29, ,", [(0, 10), (20, 30)]),
        (b"bytes=500-509,0-9", [(500, 510), (0, 10)]),
        (b"bytes=0-9,5000-6000,20-29,-0", [(0, 10), (20, 30)]),
        (b"bytes=5000-,7-7", [(7, 8)]),
    ],
)
def test_several_ranges_are_parts_in_their_order(
    header: bytes, expected: list[tuple[int, int]]
) -> None:
    assert parts(header) == expected


def test_ranges_that_touch_or_nearly_do_stay_parts_of_their_own() -> None:
    """containers/image counts the parts, and asks for such ranges: it fails on fewer."""
    assert parts(b"bytes=3832641-3852897,3852906-3869099", 4_000_000) == [
        (3832641, 3852898),
        (3852906, 3869100),
    ]
    assert parts(b"bytes=68-173,174-197,198-300") == [(68, 174), (174, 198), (198, 301)]


@pytest.mark.parametrize(
    ("header", "expected"),
    [
        (b"bytes=0-9,5-19", [(0, 20)]),
        (b"bytes=5-19,0-9", [(0, 20)]),
        (b"bytes=0-,1-1,500-", [(0, 1000)]),
        (b"bytes=900-909,0-9,5-19,905-", [(900, 1000), (0, 20)]),
        (b"bytes=0-9,500-509,5-505", [(0, 510)]),
        (b"bytes=0-0" + b",0-0" * 5000, [(0, 1)]),
    ],
)
def test_ranges_that_overlap_are_merged(header: bytes, expected: list[tuple[int, int]]) -> None:
    assert parts(header) == expected


def test_as_many_parts_as_a_client_needs_are_answered_and_the_blob_beyond() -> None:
    header = b"bytes=" + b",".join(b"%d-%d" % (at, at) for at in range(0, 2 * MAX_PARTS, 2))
    assert len(parts(header, 10_000)) == MAX_PARTS
    assert parts(header + b",9000-9001", 10_000) == []


@pytest.mark.parametrize(
    "header",
    [
        None,
        b"",
        b"items=0-1",
        b"bytes",
        b"bytes=",
        b"bytes=,",
        b"bytes=-",
        b"bytes=a-b",
        b"bytes=500-0",
        b"bytes=0-1,500-0",
        b"bytes=0-1,x",
        b"bytes=0-1,bytes=5-6",
        b"bytes=0-1, bytes=5-6",
        b"bytes=1--2",
        b"bytes=0 - 1",
        b"bytes=\xd9\xa4-",
        b"bytes=0-1" + b"," * MAX_HEADER,
    ],
)
def test_what_is_no_set_of_byte_ranges_is_ignored(header: bytes | None) -> None:
    assert parts_within(parse_ranges(header), 1000) == ()


@pytest.mark.parametrize(
    ("header", "size"),
    [
        (b"bytes=1000-", 1000),
        (b"bytes=5000-6000", 1000),
        (b"bytes=-0", 1000),
        (b"bytes=1000-,-0,2000-", 1000),
        (b"bytes=" + b"9" * 5000 + b"-", 1000),
        (b"bytes=" + b",".join(b"%d-" % at for at in range(1000, 5000)), 1000),
        (b"bytes=0-", 0),
        (b"bytes=-1", 0),
    ],
)
def test_ranges_outside_the_blob_can_not_be_satisfied(header: bytes, size: int) -> None:
    with pytest.raises(RangeUnsatisfiable) as refusal:
        parts(header, size)
    assert refusal.value.size == size


def test_the_boundary_is_another_one_each_time_and_needs_no_quotes() -> None:
    bodies = [MultipartBody([ByteRange(0, 1), ByteRange(5, 6)], 10) for _ in range(2)]
    assert bodies[0].content_type != bodies[1].content_type
    assert all(
        re.fullmatch(rb"multipart/byteranges; boundary=[0-9a-f]{32}", body.content_type)
        for body in bodies
    )
