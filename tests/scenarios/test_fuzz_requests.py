"""Requests of random parts over real connections: whatever a client sends, it is never a 500, and
nothing is logged as unforeseen (S01, S25, F70)."""

from __future__ import annotations

import asyncio
import logging
import random
from contextlib import suppress

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from entrepot.engine.engine import Engine
from entrepot.errors import RequestInvalid
from entrepot.httpd.accept import Accept
from entrepot.httpd.ranges import parse_ranges
from entrepot.server.paging import page_size
from entrepot.server.run import listening
from tests.fakes import FakeRegistry

REQUESTS = 600

NAMES = [
    b"library/app",
    b"library/none",
    b"unknown/app",
    b"LIBRARY",
    b"%2e%2e",
    b"a//b",
    b"\xff",
    b"%ff%00",
    b"a%0ab",
    b"\xc3\xa4",
    b"a" * 300,
    b"%zz",
    b"..",
    b"_catalog",
]
KINDS = [
    b"manifests",
    b"blobs",
    b"referrers",
    b"tags",
    b"uploads",
    b"",
    b"manifests/manifests",
    b"%6danifests",
]
REFERENCES = [
    b"1",
    b"list",
    b"sha256:" + b"0" * 64,
    b"sha256:" + b"0" * 63,
    b"sha512:" + b"a" * 128,
    b"md5:0",
    b":",
    b"-",
    b"%ed%a0%80",
    b"a" * 2000,
    b"1%1b[2J",
    b"",
]
QUERIES = [
    b"",
    b"?n=0",
    b"?n=" + b"9" * 5000,
    b"?n=\xd9\xa4",
    b"?n=1&n=x",
    b"?last=%ff&n=2",
    b"?artifactType=%0d%0a",
    b"?" + b"&" * 3000,
    b"?%",
    b"?n=-0",
    b"?n=+1",
    b"?n=%31",
]
HEADERS = [
    b"Accept: a/b; q=0",
    b"Accept: \xff/\xff, */*",
    b"Accept: " + b"; " * 4000,
    b'Accept: a/b;c="\\"',
    b"Accept: *",
    b"Range: bytes=0-",
    b"Range: bytes=" + b"1" * 4000 + b"-",
    b"Range: bytes=0-0" + b",1-1" * 1500,
    b"Range: bytes=\xd9\xa4-",
    b"Range: bytes=-0",
    b"Range: lines=1-2",
    b"If-Range: \xff",
    b"If-None-Match: *",
    b"If-None-Match: W/" + b'"' * 3000,
    b"Host: \xff",
    b"Host: [",
    b"Origin: x",
    b"Expect: 100-continue",
    b"Content-Length: 0",
    b"Connection: upgrade",
    b"Cookie: " + b"a=b;" * 1500,
]
METHODS = [b"GET"] * 6 + [b"HEAD", b"POST", b"OPTIONS", b"BREW"]


def a_request(chance: random.Random) -> bytes:
    target = (
        b"/v2/"
        + b"/".join((chance.choice(NAMES), chance.choice(KINDS), chance.choice(REFERENCES)))
        + chance.choice(QUERIES)
    )
    if chance.random() < 0.1:
        target = chance.choice(
            [
                b"*",
                b"http://[",
                b"http://x/v2/",
                b"/healthz",
                b"/readyz",
                b"//",
                b"/v2",
                b"/v2/_catalog" + chance.choice(QUERIES),
            ]
        )
    lines = [b"%b %b HTTP/1.1" % (chance.choice(METHODS), target), b"Host: x"] + [
        chance.choice(HEADERS) for _ in range(chance.randrange(4))
    ]
    return b"\r\n".join([*lines, b"Connection: close", b"", b""])


@pytest.mark.parametrize("seed", [1, 2])
async def test_whatever_is_asked_for_it_is_no_failure_of_the_engine(
    seed: int, engine: Engine, source: FakeRegistry, caplog: pytest.LogCaptureFixture
) -> None:
    source.add_image("library/app", "1", layers=[100])
    chance = random.Random(seed)
    async with listening(engine):
        caplog.clear()
        host, _, port = engine.address.rpartition(":")
        for _ in range(REQUESTS // 2):
            request = a_request(chance)
            reader, writer = await asyncio.open_connection(host, int(port))
            writer.write(request)
            async with asyncio.timeout(30):
                status = (await reader.readline()).split()[1:2]
            writer.close()
            assert status not in ([], [b"500"]), request[:300]
    assert [each.getMessage() for each in caplog.records if each.levelno >= logging.ERROR] == []


PIECES = [b"a/b", b";", b",", b'"', b"q=0", b" ", b"\\", b"*", b"=", b"-", b"bytes=", b"9"]


@settings(max_examples=300, deadline=None, suppress_health_check=list(HealthCheck))
@given(
    st.binary(max_size=200)
    | st.lists(
        st.sampled_from(
            [b"a/b", b";", b",", b'"', b"q=0", b" ", b"\\", b"*", b"=", b"-", b"bytes=", b"9"]
        ),
        max_size=60,
    ).map(b"".join)
)
def test_headers_of_any_bytes_are_read_or_refused(header: bytes) -> None:
    for read in (
        Accept.parse,
        parse_ranges,
        lambda header: page_size(header.decode("latin-1"), 1000),
    ):
        with suppress(RequestInvalid):
            read(header)
