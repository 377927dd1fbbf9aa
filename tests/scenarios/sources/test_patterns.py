"""Every pattern and reader that sees foreign text takes the largest one that can come, whatever
stands in it, within a second."""

from __future__ import annotations

import contextlib
import importlib
import pkgutil
import re
import time
from collections.abc import Callable, Iterator

import httpx
import pytest

import entrepot.source
from entrepot import formatting
from entrepot.core import credentials, hosts, reference, registries, rules
from entrepot.core.reference import (
    Digest,
    ImageReference,
    parse_reference,
    parse_repository,
    parse_tag,
)
from entrepot.core.registries import DeclaredRegistry, SourceRegistries, parse_login_server
from entrepot.errors import EntrepotError
from entrepot.formatting import parse_size, printable
from entrepot.source import addresses, challenges, decoding, http, realms
from entrepot.source.rate_limit import read_rate_limit, read_retry_after
from tests.source.conftest import registry

HEADERS = 100 * 8_190
"""Characters of one header that is repeated, as the client's parser lets them through; httpx joins
them."""

BODY = 1024 * 1024
"""Characters of a document of the management API."""

PATTERN = 30_000
"""Characters with which a pattern that is not linear takes seconds."""

SECOND = 1.0

SOURCE_MODULES = [
    each.name for each in pkgutil.iter_modules(entrepot.source.__path__, "entrepot.source.")
]
MODULES = [
    *map(importlib.import_module, SOURCE_MODULES),
    rules,
    reference,
    registries,
    credentials,
    formatting,
]

UNITS = (
    *(
        "a",
        "9",
        " ",
        ",",
        ";",
        "=",
        '"',
        "\\",
        "<",
        ">",
        "-",
        "_",
        ".",
        "/",
        ":",
        "*",
        "@",
        "'",
        "\t",
        "\x1b",
        "é",
        "٣",
    ),
    *(
        "; ",
        "<>;",
        "<>; ",
        "<a>;b,",
        "a.",
        "a-",
        "a_",
        "a__",
        "a/",
        "a:",
        "a=",
        "a=b,",
        'a="',
        'a="",',
        'a="\\"',
        "\\\\",
        'x "',
        "a b",
        "[:",
        "%00",
        "rel=",
        "bearer ",
    ),
)
TAILS = ("", "@", "\\")
HEADS = (
    "",
    "bytes ",
    "bearer a=",
    'bearer a="',
    "=",
    '="',
    "<",
    "sha256:",
    "*.",
    "[",
    "https://",
    "; w=",
    "1",
)


def texts(length: int, heads: tuple[str, ...] = ("",)) -> Iterator[str]:
    for head in heads:
        for unit in UNITS:
            for tail in TAILS if len(heads) == 1 else ("", "@"):
                yield head + (unit * (length // len(unit) + 1))[:length] + tail


def longest(
    call: Callable[[str], object], length: int, heads: tuple[str, ...] = ("",)
) -> tuple[float, str]:
    """The longest that a call took for any of the texts, in seconds of the processor, and how that
    text begins."""
    slowest = (0.0, "")
    for text in texts(length, heads):
        started_at = time.thread_time()
        with contextlib.suppress(EntrepotError, ValueError):
            call(text)
        slowest = max(slowest, (time.thread_time() - started_at, f"{text[:20]!r}…{text[-3:]!r}"))
        if slowest[0] > SECOND:
            break
    return slowest


PATTERNS = {
    f"{module.__name__}.{name}": each
    for module in MODULES
    for name, each in vars(module).items()
    if isinstance(each, re.Pattern)
}


def test_the_patterns_are_really_looked_at() -> None:
    assert {
        "entrepot.source.challenges._PARAMETER",
        "entrepot.source.decoding._MEDIA_TYPE",
        "entrepot.core.reference._REPOSITORY",
    } <= set(PATTERNS)


@pytest.mark.parametrize("name", sorted(PATTERNS))
def test_a_pattern_is_linear(name: str) -> None:
    """S05."""
    pattern = PATTERNS[name]
    heads = HEADS if "source" in name else ("",)
    for method in (pattern.match, pattern.fullmatch):
        seconds, text = longest(method, PATTERN, heads)
        assert seconds < SECOND, text


READERS: dict[str, tuple[Callable[[str], object], int]] = {
    "next_link": (decoding.next_link, HEADERS),
    "parse_media_type": (decoding.parse_media_type, HEADERS),
    "parse_content_range": (decoding.parse_content_range, HEADERS),
    "parse_unsatisfied_range": (decoding.parse_unsatisfied_range, HEADERS),
    "parse_number": (decoding.parse_number, HEADERS),
    "parse_challenges": (lambda text: challenges.parse_challenges([text]), HEADERS),
    "parse_challenges of many": (
        lambda text: challenges.parse_challenges(["Bearer " + text] * 100),
        8_190,
    ),
    "read_rate_limit": (
        lambda text: read_rate_limit(
            {"ratelimit-limit": text, "x-ratelimit-remaining": text, "ratelimit-reset": text}, 0
        ),
        HEADERS,
    ),
    "read_retry_after": (lambda text: read_retry_after({"retry-after": text}, 0), HEADERS),
    "parse_address": (addresses.parse_address, HEADERS),
    "parse_address of a host": (lambda text: addresses.parse_address(f"https://{text}/"), 8_000),
    "parse_address from a base": (
        lambda text: addresses.parse_address(text, httpx.URL("https://registry-1.docker.io/v2/")),
        8_000,
    ),
    "literal_address": (hosts.literal_address, HEADERS),
    "is_local": (addresses.is_local, HEADERS),
    "check_realm": (
        lambda text: realms.check_realm(
            f"https://{text}", registry("https://registry-1.docker.io")
        ),
        8_000,
    ),
    "registrable_domain": (realms.registrable_domain, 253),
    "media_type of an answer": (
        lambda text: answer({"content-type": text}).media_type_is_valid,
        HEADERS,
    ),
    "length of an answer": (lambda text: answer({"content-length": text}).length, HEADERS),
    "parse_tag": (parse_tag, BODY),
    "parse_repository": (parse_repository, BODY),
    "parse_reference": (parse_reference, BODY),
    "Digest.parse": (Digest.parse, BODY),
    "ImageReference.parse": (ImageReference.parse, BODY),
    "parse_login_server": (parse_login_server, BODY),
    "an endpoint": (
        lambda text: SourceRegistries(
            [DeclaredRegistry("r.example.com", endpoint=f"https://{text}")]
        ),
        BODY,
    ),
    "parse_size": (parse_size, PATTERN),
    "words of an error": (lambda text: printable(text, 200), 64 * 1024),
}


def answer(headers: dict[str, str]) -> http.SourceResponse:
    response = httpx.Response(
        200,
        headers=[(name.encode(), value.encode()) for name, value in headers.items()],
        stream=httpx.ByteStream(b""),
    )
    response.request = httpx.Request("GET", "https://r.example/")
    return http.SourceResponse(response, "r.example", "a test", redirected=False)


@pytest.mark.parametrize("name", READERS)
def test_the_largest_text_that_passes_is_read_within_a_second(name: str) -> None:
    """S05: 100 headers of `<>;` blocked the event loop for 68 s."""
    call, length = READERS[name]
    seconds, text = longest(call, length)
    assert seconds < SECOND, text


@pytest.mark.parametrize(
    ("link", "target"),
    [
        ('</v2/x?last=b>; rel="next"', "/v2/x?last=b"),
        ("</v2/x?last=b>;rel=next", "/v2/x?last=b"),
        ("</a>; rel=first, </b>; REL=NEXT", "/b"),
        ('</a>; rel="first", </b>; title="x"; rel="last next"', "/b"),
        ("</a,b>; rel=next, </c>; rel=next", "/a,b"),
        ("</a>; relation=next", None),
        ('</a>; rel="nextish"', None),
        ("</a>", None),
        ("</a; rel=next", None),
        ("<" * 100, None),
        ("</x>; rel=next" + "x" * 100_000, None),
        ("<" + "x" * 10_000 + ">; rel=next", None),
        ("", None),
    ],
)
def test_the_link_to_the_next_page_is_found(link: str, target: str | None) -> None:
    """S05: link by link, of the first 8 kB."""
    assert decoding.next_link(link) == target
