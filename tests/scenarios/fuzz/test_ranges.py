"""Range headers against an oracle that knows every byte of the blob (F72)."""

from __future__ import annotations

import functools
import operator
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from entrepot.engine.engine import Engine
from entrepot.server.run import registry_app
from tests.fakes import FakeRegistry
from tests.fakes.images import Content
from tests.multipart import read_parts
from tests.scenarios.fuzz.conftest import Reply, Watch, ask, examples

PART_HEAD = 256
"""Bytes that a part may cost besides its content."""

POSITIONS = st.one_of(
    st.integers(0, 3000), st.sampled_from([10**18, 10**30, "9" * 5000, "007"]), st.just("")
).map(str)
ELEMENTS = st.one_of(
    st.tuples(POSITIONS, POSITIONS).map("-".join),
    st.integers(0, 2000).flatmap(
        lambda at: st.integers(at, at + 40).map(lambda last: f"{at}-{last}")
    ),
    st.integers(0, 2000).map(lambda length: f"-{length}"),
    st.sampled_from(["", " ", "x", "1--2", "٣-", "0-0", "-", "0 - 1"]),
)
UNITS = st.sampled_from(["bytes=", "bytes=", "bytes=", "Bytes=", "bytes", "items=", ""])
SEPARATORS = st.sampled_from([",", ", ", "\t,\t"])
VALID = st.lists(
    st.integers(0, 2000).flatmap(
        lambda at: st.integers(at, at + 60).map(lambda last: f"{at}-{last}")
    ),
    min_size=1,
    max_size=40,
)
HEADERS = st.one_of(
    st.tuples(UNITS, SEPARATORS, st.lists(ELEMENTS, max_size=12)).map(
        lambda given: given[0] + given[1].join(given[2])
    ),
    VALID.map(lambda ranges: "bytes=" + ",".join(ranges)),
    st.integers(1, 3000).map(
        lambda count: "bytes=" + ",".join(f"{at}-{at}" for at in range(count))
    ),
    st.integers(1, 3000).map(lambda count: "bytes=" + ",".join(["0-,5-6"] * count)),
)


def positions(start: int, end: int) -> int:
    """The positions from *start* (inclusive) to *end* (exclusive), each as a bit that is set."""
    return (1 << end) - (1 << start) if start < end else 0


def union(ranges: list[int]) -> int:
    return functools.reduce(operator.or_, ranges, 0)


def requested_positions(header: str, size: int) -> list[int] | None:
    """What each range of a header means; None for what is no set of byte ranges."""
    match = re.fullmatch(r"bytes=(.*)", header, re.IGNORECASE | re.DOTALL)
    if match is None:
        return None
    requested: list[int] = []
    for element in (each.strip(" \t") for each in match[1].split(",")):
        if not element:
            continue
        numbers = re.fullmatch(r"([0-9]*)-([0-9]*)", element)
        if numbers is None or element == "-":
            return None
        # Of 19 digits and more all mean the same: beyond every blob.
        first, last = (
            None if not each else min(int(each.lstrip("0")[:20] or "0"), 10**19)
            for each in numbers.groups()
        )
        if first is None:
            requested.append(positions(max(0, size - (last or 0)), size))
        elif last is not None and last < first:
            return None
        else:
            requested.append(positions(first, size if last is None else min(last + 1, size)))
    return requested or None


def answered_positions(reply: Reply, content: bytes) -> list[int]:
    """What each part of an answer has, each byte the right one."""
    if "content-range" in reply.headers:
        match = re.fullmatch(
            rf"bytes ([0-9]+)-([0-9]+)/{len(content)}", reply.headers["content-range"]
        )
        assert match is not None
        first, last = int(match[1]), int(match[2])
        assert reply.body == content[first : last + 1]
        return [positions(first, last + 1)]
    parts = read_parts(reply.headers, reply.body)
    assert len(parts) > 1
    for first, last, size, part in parts:
        assert (size, part) == (len(content), content[first : last + 1])
    return [positions(first, last + 1) for first, last, _, _ in parts]


@pytest.fixture
async def small(cached: Engine, source: FakeRegistry) -> Content:
    """A layer of some two thousand bytes, in the cache."""
    image = source.add_image("library/small", "1", layers=[2000])
    started = await cached.pulls.start("library/small:1", "linux/amd64", "10.0.4.17")
    await cached.cache.pulls.get(started.id).finished.wait()
    return image.platforms["linux/amd64"].layers[0]


@examples(120)
@given(HEADERS)
async def test_the_answer_has_what_was_asked_for_each_byte_once(
    cached: Engine, small: Content, watch: Watch, header: str
) -> None:
    content = small.content
    with watch.example():
        reply = await ask(
            registry_app(cached),
            f"/v2/library/small/blobs/{small.digest}",
            headers=[(b"range", header.encode())],
        )
    requested = requested_positions(header, len(content))
    assert not reply.broken
    if reply.status == 416:
        assert requested is not None
        assert union(requested) == 0
        return
    if reply.status == 200:
        assert reply.body == content
        # Nothing that can be read is ignored, unless it asks for more parts than are given.
        assert requested is None or len(requested) > 1024
        return
    assert reply.status == 206
    assert requested is not None
    returned_ranges = answered_positions(reply, content)
    assert union(returned_ranges) == union(requested)
    assert sum(each.bit_count() for each in returned_ranges) == union(returned_ranges).bit_count()
    assert len(reply.body) <= len(content) + PART_HEAD * len(returned_ranges)
    separate = [each for each in requested if each]
    if sum(each.bit_count() for each in separate) == union(separate).bit_count():
        # Nothing overlaps: as many parts as were asked for, in their order.
        assert returned_ranges == separate
