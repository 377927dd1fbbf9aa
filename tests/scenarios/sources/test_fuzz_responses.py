"""Whatever a source answers, only errors of sources come out, soon, and what comes in is clean.

The normal run makes the same few hundred examples each time. A long run makes new ones, here a
hundred times as many::

    ENTREPOT_FUZZ=100 python -m pytest -n 0 --timeout 0 \\
        tests/scenarios/sources/test_fuzz_responses.py
"""

from __future__ import annotations

import asyncio
import json
import os
import socket
import ssl
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from datetime import UTC, datetime

import httpx
import msgspec
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from entrepot.config.settings import Settings
from entrepot.core.credentials import CredentialSet
from entrepot.core.reference import Digest, Repository, Tag, parse_tag
from entrepot.core.secret_identifiers import SecretIdentifier
from entrepot.source import decoding, sockets
from entrepot.source.addresses import Reach, parse_address
from entrepot.source.blob_transport import BlobTransport
from entrepot.source.circuit_breaker import CircuitBreakers
from entrepot.source.client import SourceClient
from entrepot.source.dns import Lookups
from entrepot.source.errors import SourceError
from entrepot.source.http import SourceHttp
from entrepot.source.sources import Sources
from entrepot.source.transport import SourceTransport
from entrepot.store.manifests import LARGEST_SIZE, ManifestUnreadable, parse_manifest
from tests.source.conftest import registry

TIMES = int(os.environ.get("ENTREPOT_FUZZ", "0"))
SECOND = 1.0
CONTENT = b"the content of a blob"
BLOB = Digest.of(CONTENT)
NGINX = Repository("library/nginx")

IMAGE = "application/vnd.oci.image.manifest.v1+json"
INDEX = "application/vnd.oci.image.index.v1+json"
DEEP = "[" * 60_000 + "]" * 60_000


def fuzz(examples: int) -> Callable[[Callable[..., None]], Callable[..., None]]:
    checks = [
        HealthCheck.too_slow,
        HealthCheck.data_too_large,
        HealthCheck.function_scoped_fixture,
        HealthCheck.filter_too_much,
    ]
    return settings(
        max_examples=examples * max(1, TIMES),
        derandomize=not TIMES,
        database=None,
        deadline=None,
        suppress_health_check=checks,
    )


# What a source may send

odd_text = st.one_of(
    st.text(max_size=40),
    st.text(st.sampled_from("\r\n\0\x1b\x9d\u202e<>;,=\"'\\ /:@[]%.-_aZ9"), max_size=40),
    st.sampled_from(
        [
            "",
            "\x1b]0;T\x07",
            "a\r\nX-Evil: 1",
            "x" * 5_000,
            "9" * 5_000,
            "../../x?y",
            "unknown",
            "null",
            str(BLOB),
            IMAGE,
            INDEX,
        ]
    ),
)
odd_number = st.one_of(
    st.integers(-(10**400), 10**400),
    st.sampled_from([0, -1, len(CONTENT), 2**53, 2**53 + 1, 2**63 - 1, 2**63, 2**64, 10**4_000]),
    st.floats(allow_nan=False, allow_infinity=False),
)
HOSTS = [
    "127.0.0.1",
    "0x7f.1",
    "[::1",
    "[::ffff:7f00:1]",
    "xn--",
    "a..b",
    "a" * 64,
    "cdn.example",
    "registry.example",
    "é.example",
    "[v1.x]",
    ".",
]

odd_json = st.recursive(
    st.one_of(st.none(), st.booleans(), odd_number, odd_text),
    lambda inner: st.one_of(
        st.lists(inner, max_size=4), st.dictionaries(odd_text, inner, max_size=4)
    ),
    max_leaves=10,
)
addresses = st.one_of(
    odd_text,
    st.builds(
        "{}{}{}{}".format,
        st.sampled_from(
            [
                "http://",
                "https://",
                "//",
                "",
                "ftp://",
                "HTTPS://",
                "http:",
                "https:///",
                "http://u:p@",
            ]
        ),
        st.one_of(
            odd_text,
            st.text(st.sampled_from("0123456789abcdefx.:[]%-"), max_size=30),
            st.sampled_from(
                [
                    "127.0.0.1",
                    "0x7f.1",
                    "[::1",
                    "[::ffff:7f00:1]",
                    "xn--",
                    "a..b",
                    "a" * 64,
                    "cdn.example",
                    "registry.example",
                    "é.example",
                    "[v1.x]",
                    ".",
                ]
            ),
        ),
        st.one_of(
            st.sampled_from(
                ["", ":", ":0", ":80", ":65536", ":99999", ":-1", ":x", f":{'9' * 5_000}"]
            ),
            odd_text,
        ),
        st.sampled_from(
            ["", "/", "/x", "/v2/?a=%zz", "?x=é", "#f", "/\r\n", "/x" * 2_000, "\\@evil"]
        ),
    ),
)


def document(**members: st.SearchStrategy[object]) -> st.SearchStrategy[bytes]:
    """JSON with some of these members and odd values among them, sometimes broken."""
    whole = st.fixed_dictionaries(
        {}, optional={name: st.one_of(value, odd_json) for name, value in members.items()}
    )
    text = whole.map(
        lambda value: json.dumps(value, ensure_ascii=False).encode("utf-8", "surrogatepass")
    )
    deep = st.sampled_from(sorted(members)).map(lambda name: f'{{"{name}":{DEEP}}}'.encode())
    huge = st.sampled_from(sorted(members)).map(lambda name: f'{{"{name}":{"9" * 5_000}}}'.encode())
    cut = st.tuples(text, st.integers(0, 400)).map(lambda pair: pair[0][: pair[1]])
    return st.one_of(
        text,
        text,
        text,
        cut,
        deep,
        huge,
        st.binary(max_size=60),
        text.map(lambda content: b"\xef\xbb\xbf" + content),
    )


descriptor = st.fixed_dictionaries(
    {},
    optional={
        "digest": st.one_of(st.just(str(BLOB)), odd_json),
        "size": st.one_of(st.just(1), odd_number),
        "mediaType": st.one_of(st.just(IMAGE), odd_json),
        "platform": st.one_of(
            st.fixed_dictionaries(
                {
                    "os": odd_text,
                    "architecture": odd_text,
                    "variant": st.one_of(st.none(), odd_text),
                }
            ),
            odd_json,
        ),
        "urls": odd_json,
    },
)
manifests = document(
    schemaVersion=st.just(2),
    mediaType=st.one_of(st.sampled_from([IMAGE, INDEX]), odd_text),
    config=descriptor,
    layers=st.lists(descriptor, max_size=3),
    manifests=st.lists(descriptor, max_size=3),
    annotations=st.dictionaries(odd_text, odd_text, max_size=2),
)
token_answers = document(
    token=st.one_of(st.just("t"), odd_text), access_token=odd_text, expires_in=odd_number
)
lists = document(tags=st.lists(odd_text, max_size=5))
errors = document(
    errors=st.lists(
        st.fixed_dictionaries({}, optional={"code": odd_text, "message": odd_text}), max_size=2
    )
)

relations = st.sampled_from(["next", '"next"', '"a next"', "prev"])
links = st.lists(
    st.one_of(odd_text, st.builds("<{}>; rel={}".format, addresses, relations)), max_size=4
).map(", ".join)
challenges = st.one_of(
    odd_text,
    st.builds(
        "{} realm={},service={},scope={}{}".format,
        st.sampled_from(["Bearer", "Basic", "bearer", "Negotiate", "\x1b"]),
        st.one_of(
            st.sampled_from(
                [
                    '"https://registry.example/token"',
                    '"https://auth.example/token"',
                    '"http://127.0.0.1/token"',
                    '"https://xn--/"',
                ]
            ),
            addresses.map('"{}"'.format),
            odd_text,
        ),
        st.one_of(st.just('"s"'), odd_text),
        odd_text,
        st.one_of(st.just(""), st.just(',error="invalid_token"'), odd_text),
    ),
)
part = st.one_of(
    odd_text,
    st.builds("bytes {}-{}/{}".format, odd_number, odd_number, st.one_of(odd_number, st.just("*"))),
    st.just(f"bytes 5-{len(CONTENT) - 1}/{len(CONTENT)}"),
)

HEADERS: dict[str, st.SearchStrategy[str]] = {
    "Content-Type": st.one_of(
        st.sampled_from(
            [IMAGE, INDEX, "application/json", f"{IMAGE}; charset=utf-8", "text/html", "text/plain"]
        ),
        odd_text,
    ),
    "Content-Length": st.one_of(odd_number.map(str), odd_text),
    "Content-Range": part,
    "Docker-Content-Digest": st.one_of(st.just(str(BLOB)), odd_text),
    "ETag": st.one_of(st.just('"e"'), odd_text),
    "Link": links,
    "Location": addresses,
    "Retry-After": st.one_of(
        odd_number.map(str), odd_text, st.just("Fri, 15 Jan 2027 08:00:01 +99999999")
    ),
    "RateLimit-Limit": st.one_of(odd_text, odd_number.map(str)),
    "RateLimit-Remaining": st.one_of(odd_text, odd_number.map("{};w=9999999999999".format)),
    "RateLimit-Reset": odd_number.map(str),
    "WWW-Authenticate": challenges,
    "OCI-Filters-Applied": odd_text,
}


@dataclass(frozen=True)
class Sent:
    """An answer of a source."""

    status: int
    headers: dict[str, str]
    body: bytes

    def response(self, request: httpx.Request) -> httpx.Response:
        # What the parser of HTTP lets through: no control characters but tabs.
        cleaned = {
            name: value.replace("\r", " ").replace("\n", " ").replace("\0", "")[:8_000]
            for name, value in self.headers.items()
        }
        headers = [
            (name.encode(), value.encode("utf-8", "surrogatepass"))
            for name, value in cleaned.items()
        ]
        return httpx.Response(
            self.status,
            headers=headers,
            stream=httpx.ByteStream(self.body if request.method == "GET" else b""),
        )


def answers(*bodies: st.SearchStrategy[bytes]) -> st.SearchStrategy[list[Sent]]:
    statuses = st.one_of(
        st.sampled_from([200, 200, 200, 206, 302, 307, 401, 404, 416, 429, 503]),
        st.integers(100, 599),
    )
    response = st.builds(
        Sent, statuses, st.fixed_dictionaries({}, optional=HEADERS), st.one_of(*bodies)
    )
    return st.lists(response, min_size=1, max_size=5)


# What is asked of it


async def read_blob(client: SourceClient, offset: int, validator: str | None) -> None:
    async with client.blob(NGINX, BLOB, offset=offset, validator=validator) as stream:
        received = 0
        async for chunk in stream:
            received += len(chunk)
        assert stream.size is None or 0 <= stream.size < 10**15
        assert stream.validator is None or stream.validator.isascii()


async def read_manifest(client: SourceClient, reference: Tag | Digest) -> None:
    fetched = await client.manifest(NGINX, reference)
    assert decoding.parse_media_type(fetched.media_type) == fetched.media_type
    assert fetched.digest.matches(fetched.content)
    try:
        manifest = await parse_manifest(fetched.content, fetched.media_type, fetched.digest)
    except ManifestUnreadable:
        return
    assert all(each.size is None or 0 <= each.size <= LARGEST_SIZE for each in manifest.references)


async def head_manifest(client: SourceClient) -> None:
    head = await client.head_manifest(NGINX, Tag("latest"))
    assert head.size is None or 0 < head.size < 10**15


async def read_tags(client: SourceClient) -> None:
    page = await client.tags(NGINX, n=3, last="a")
    assert [parse_tag(each) for each in page.tags] == list(page.tags)
    assert page.next_last is None or page.next_last.isprintable()


async def read_referrers(client: SourceClient) -> None:
    assert isinstance(
        msgspec.json.decode(
            (await client.referrers(NGINX, BLOB, "a b")).content, type=dict[str, msgspec.Raw]
        ),
        dict,
    )


OPERATIONS: tuple[Callable[[SourceClient], Awaitable[object]], ...] = (
    head_manifest,
    lambda client: read_manifest(client, Tag("latest")),
    lambda client: read_manifest(client, BLOB),
    lambda client: read_blob(client, 0, None),
    lambda client: read_blob(client, 5, '"e"'),
    lambda client: client.head_blob(NGINX, BLOB),
    read_tags,
    read_referrers,
    lambda client: client.verify_credentials(),
)


async def wait_for_ever(_: float) -> None:
    """No probe of a circuit breaker ever starts."""
    await asyncio.Event().wait()


async def no_pause(_: float) -> None:
    return None


async def judged(
    operation: Callable[[SourceClient], Awaitable[object]], sent: list[Sent], *, credentials: bool
) -> None:
    """Whatever is sent, the operation soon succeeds or fails with a printable source error."""
    requests: list[httpx.Request] = []

    def answer(request: httpx.Request) -> httpx.Response:
        requests.append(request)
        assert "authorization" not in request.headers or request.url.host in {
            "registry.example",
            "auth.registry.example",
        }, "credentials went elsewhere"
        return sent[(len(requests) - 1) % len(sent)].response(request)

    source_registry = registry("https://registry.example", "registry.example")
    identifiers = (
        SecretIdentifier.parse("env:FUZZ_USER"),
        SecretIdentifier.parse("env:FUZZ_PASSWORD"),
    )
    login = (
        CredentialSet("login", "registry.example", *identifiers, datetime(2025, 1, 1, tzinfo=UTC))
        if credentials
        else None
    )
    async with Sources(
        Settings(), transport=httpx.MockTransport(answer), pause=no_pause
    ) as sources:
        sources.breakers.wait = wait_for_ever
        client = sources.client(source_registry, login)
        message = ""
        started_at = time.thread_time()
        try:
            await operation(client)
        except SourceError as error:
            message = f"{error.what} {error.hint}"
        assert time.thread_time() - started_at < SECOND
        assert message.isprintable()
        assert len(message) < 1_000
        assert len(requests) < 1_000
        state = sources.state("registry.example")
        assert state.problem is None or state.problem.isprintable()


@pytest.fixture(autouse=True)
def secrets(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FUZZ_USER", "ann")
    monkeypatch.setenv("FUZZ_PASSWORD", "s3cret")


@fuzz(400)
@given(
    st.integers(0, len(OPERATIONS) - 1),
    answers(manifests, lists, errors, token_answers, st.just(CONTENT)),
    st.booleans(),
)
@example(1, [Sent(200, {"Content-Type": IMAGE}, f'{{"mediaType":{DEEP}}}'.encode())], False)
@example(3, [Sent(307, {"Location": "http://127.0.0.1:99999/x"}, b"")], False)
@example(4, [Sent(206, {"Content-Range": f"bytes 5-{'9' * 5_000}/*"}, b"")], False)
@example(6, [Sent(200, {"Link": "<>;" * 2_000}, b'{"tags":["a"]}')], False)
@example(0, [Sent(401, {"WWW-Authenticate": 'Bearer realm="https://xn--/"'}, b"")], True)
@example(
    3, [Sent(418, {"Content-Type": "application/json"}, f'{{"errors":{DEEP}}}'.encode())], False
)
def test_only_errors_of_sources_come_out_whatever_a_source_answers(
    number: int, sent: list[Sent], credentials: bool
) -> None:
    """S02, S05, S26, F67."""
    asyncio.run(judged(OPERATIONS[number], sent, credentials=credentials))


@fuzz(150)
@given(
    token_answers,
    st.one_of(st.just(200), st.integers(200, 599)),
    st.fixed_dictionaries({}, optional=HEADERS),
)
def test_only_errors_of_sources_come_out_of_a_sign_in(
    body: bytes, status: int, headers: dict[str, str]
) -> None:
    """S26."""
    challenge = Sent(
        401, {"WWW-Authenticate": 'Bearer realm="https://registry.example/token",service="s"'}, b""
    )
    asyncio.run(judged(head_manifest, [challenge, Sent(status, headers, body)], credentials=True))


@fuzz(150)
@given(manifests)
def test_a_manifest_is_read_or_unreadable(content: bytes) -> None:
    """S26, F67."""
    asyncio.run(
        judged(
            lambda client: read_manifest(client, Tag("latest")),
            [Sent(200, {"Content-Type": "application/json"}, content)],
            credentials=False,
        )
    )


@pytest.fixture
def no_network(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """No name is known and no address takes a connection; gives the addresses that were tried."""
    addresses: list[str] = []

    def unknown(host: str, *_: object, **__: object) -> list[object]:
        raise socket.gaierror(socket.EAI_NONAME, "unknown")

    def refused(address: tuple[object, ...], reach: Reach | None = None) -> socket.socket:
        place = address[4]
        assert isinstance(place, tuple)
        addresses.append(str(place[0]))
        assert reach is not None
        assert reach.permits_address(str(place[0])), "a local address would be connected to"
        raise OSError("refused")

    monkeypatch.setattr(socket, "getaddrinfo", unknown)
    monkeypatch.setattr(sockets, "open_socket", refused)
    return addresses


@pytest.mark.parametrize("for_blob", [False, True])
@fuzz(200)
@given(text=addresses)
@example(text="http://127.0.0.1:99999/x")
@example(text=f"http://{'a' * 64}/x")
@example(text="http://a..b/x")
@example(text="https://xn--/x")
@example(text="http://[::1")
def test_no_address_that_a_source_names_is_more_than_an_error(
    no_network: list[str], for_blob: bool, text: str
) -> None:
    """S02, S21: through the real transports, with all that their libraries make of it."""

    async def follow() -> None:
        url = parse_address(text, httpx.URL("https://registry.example/v2/"))
        if url is None:
            return
        tls = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        sends = (
            BlobTransport(tls, Lookups(10), connections=1)
            if for_blob
            else SourceTransport(tls, connections=1)
        )
        breakers = CircuitBreakers(time.monotonic, time.time)
        breakers.wait = lambda _: asyncio.Event().wait()  # type: ignore[assignment,return-value]
        timeout = httpx.Timeout(1.0, pool=None)
        http = SourceHttp(
            sends,
            "registry.example",
            timeout=timeout,
            clock=time.time,
            pause=no_pause,
            breakers=breakers,
        )
        started_at = time.thread_time()
        try:
            with pytest.raises(SourceError) as raised:
                await http.request("GET", url, {}, about="a thing")
            assert raised.value.what.isprintable()
            assert time.thread_time() - started_at < SECOND
        finally:
            await breakers.close()
            await sends.aclose()

    asyncio.run(follow())
