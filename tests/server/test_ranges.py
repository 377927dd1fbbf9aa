"""Which part of a blob a client asks for."""

from __future__ import annotations

import pytest

from entrepot.errors import RangeUnsatisfiable
from entrepot.server.ranges import ByteRange, RangeInvalid, parse_range


@pytest.mark.parametrize(
    ("header", "expected"),
    [
        (b"bytes=0-99", ByteRange(0, 100)),
        (b"bytes=100-", ByteRange(100, 1000)),
        (b"bytes=-10", ByteRange(990, 1000)),
        (b"bytes=-5000", ByteRange(0, 1000)),
        (b"bytes=990-5000", ByteRange(990, 1000)),
        (b"Bytes = 0-0".replace(b" ", b""), ByteRange(0, 1)),
    ],
)
def test_one_range_is_found_within_the_blob(header: bytes, expected: ByteRange) -> None:
    asked = parse_range(header)
    assert asked is not None
    assert asked.within(1000) == expected


@pytest.mark.parametrize("header", [None, b"items=0-1", b"bytes=0-1,5-6"])
def test_without_one_range_of_bytes_the_whole_blob_is_the_answer(header: bytes | None) -> None:
    assert parse_range(header) is None


@pytest.mark.parametrize("header", [b"bytes", b"bytes=", b"bytes=-", b"bytes=a-b", b"bytes=5-1", b"bytes=0-1,x", b"bytes=1--2", b"bytes=" + b"9" * 40 + b"-"])
def test_a_range_that_can_not_be_read_is_refused(header: bytes) -> None:
    with pytest.raises(RangeInvalid, match="can't be read") as refusal:
        parse_range(header)
    assert (refusal.value.oci_status, refusal.value.oci_code) == (400, "RANGE_INVALID")


@pytest.mark.parametrize(("header", "size"), [(b"bytes=1000-", 1000), (b"bytes=5000-6000", 1000), (b"bytes=-0", 1000), (b"bytes=0-", 0)])
def test_a_range_outside_the_blob_can_not_be_satisfied(header: bytes, size: int) -> None:
    asked = parse_range(header)
    assert asked is not None
    with pytest.raises(RangeUnsatisfiable):
        asked.within(size)
