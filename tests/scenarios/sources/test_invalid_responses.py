"""Answers that no registry should give, through the whole engine: a 502 with a reason, remembered,
nothing kept, nothing in the log but a line."""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, replace

import httpx
import pytest

from entrepot.core.reference import Digest, Repository, Tag
from entrepot.engine.engine import Engine
from entrepot.source.client import SourceClient
from entrepot.source.errors import SourceAnswerInvalid, SourceError, SourceUnreachable
from entrepot.source.sources import Sources
from tests.fakes import FakeRegistry, Fault, Redirect, Request, Status, TokenSignIn
from tests.fakes.faults import Answer
from tests.source.conftest import ABSENT, NGINX
from tests.source.conftest import registry as declared

TAG = "/v2/library/nginx/manifests/1"
IMAGE = "application/vnd.oci.image.manifest.v1+json"
INDEX = "application/vnd.oci.image.index.v1+json"
DOCKER_IMAGE = "application/vnd.docker.distribution.manifest.v2+json"
DEEP = b"[" * 100_000 + b"]" * 100_000
DESCRIPTOR = {
    "mediaType": "application/vnd.oci.image.layer.v1.tar+gzip",
    "digest": str(ABSENT),
    "size": 1,
}


def document(**members: object) -> bytes:
    return json.dumps({"schemaVersion": 2, **members}).encode()


def sent(body: bytes, media_type: str = IMAGE) -> Fault:
    return Status(200, {"Content-Type": media_type}, body)


INVALID: dict[str, Fault] = {
    "nested": sent(b'{"schemaVersion":2,"x":' + DEEP + b"}"),
    "nested-error": Status(418, body=b'{"errors":' + DEEP + b"}"),
    "size-2^63": sent(document(layers=[DESCRIPTOR | {"size": 2**63}])),
    "size-2^53": sent(document(layers=[DESCRIPTOR | {"size": 2**53 + 1}])),
    "size-of-5000-digits": sent(
        document(layers=[]).replace(
            b"[]", b'[{"digest":"' + str(ABSENT).encode() + b'","size":' + b"9" * 5_000 + b"}]"
        )
    ),
    "type-crlf": sent(document(mediaType="application/a\r\nX-Evil: 1"), "application/json"),
    "type-nul": sent(document(mediaType="application/\0"), "application/json"),
    "type-escape": sent(document(mediaType="application/\x1b]0;T\x07"), "application/json"),
    "type-long": sent(document(mediaType="a/" + "b" * 1_000_000), "application/json"),
    "type-256": sent(document(mediaType="a/" + "b" * 254), "application/json"),
    "type-none": sent(document(mediaType="json"), "application/json"),
    "header-none": sent(document(), "nonsense"),
    "header-long": sent(document(), "application/" + "x" * 300),
    "header-two": sent(document(), f"{IMAGE}, {INDEX}"),
    "image-as-index": sent(document(mediaType=IMAGE, layers=[DESCRIPTOR]), INDEX),
    "index-as-image": sent(document(mediaType=INDEX, manifests=[DESCRIPTOR]), IMAGE),
    "docker-as-oci": sent(
        document(mediaType=DOCKER_IMAGE, config=DESCRIPTOR, layers=[DESCRIPTOR]), IMAGE
    ),
    "layers-as-index": sent(document(layers=[DESCRIPTOR]), INDEX),
    "manifests-as-image": sent(document(manifests=[DESCRIPTOR]), IMAGE),
    "both": sent(document(config=DESCRIPTOR, layers=[DESCRIPTOR], manifests=[DESCRIPTOR]), INDEX),
    "both-said-by-itself": sent(
        document(mediaType=IMAGE, layers=[DESCRIPTOR], manifests=[DESCRIPTOR]), "application/json"
    ),
    "port": Redirect("http://127.0.0.1:99999/x"),
    "label": Redirect(f"http://{'a' * 64}.example/x"),
    "dots": Redirect("http://a..b/x"),
    "idna": Redirect("https://xn--/x"),
    "brackets": Redirect("http://[::1"),
    "layers": sent(document(layers=[DESCRIPTOR] * 1_001)),
    "manifests": sent(document(manifests=[DESCRIPTOR] * 10_001), INDEX),
}


@pytest.mark.parametrize("name", INVALID)
async def test_what_a_source_can_provoke_is_a_502_with_a_reason_that_is_remembered(
    engine: Engine,
    registry: httpx.AsyncClient,
    source: FakeRegistry,
    caplog: pytest.LogCaptureFixture,
    name: str,
) -> None:
    """S02, S08, S10, S23, S26, F67: each was a 500 with a traceback, or broke the tag."""
    caplog.set_level(logging.INFO)
    source.fault("/manifests/", INVALID[name])
    for _ in range(3):
        answer = await registry.get(TAG)
        assert answer.status_code == 502
        [error] = answer.json()["errors"]
        assert error["message"].isprintable()
        assert len(error["message"]) < 600
    assert len(source.requests) == 1, "one request for each client's would be a storm"
    assert not [each for each in caplog.records if each.exc_info or each.levelno >= logging.ERROR]
    assert all(each.getMessage().isprintable() for each in caplog.records)
    assert not await engine.catalog.manifests_of(Repository("library/nginx"))
    assert not engine.cache.index._repositories.entries


@pytest.mark.parametrize(
    ("media_type", "body", "expected"),
    [
        (f"{IMAGE}; charset=utf-8", document(layers=[DESCRIPTOR]), IMAGE),
        (IMAGE.upper(), document(layers=[DESCRIPTOR], mediaType=IMAGE), IMAGE),
        ("application/json", document(layers=[DESCRIPTOR], mediaType=IMAGE), IMAGE),
        ("application/octet-stream", document(manifests=[DESCRIPTOR], mediaType=INDEX), INDEX),
        (IMAGE, document(layers=[DESCRIPTOR], mediaType=None), IMAGE),
        (IMAGE, document(layers=[DESCRIPTOR], manifests=None), IMAGE),
        (INDEX, b'{"schemaVersion":2,"manifests":[ ],"layers":[ ]}', INDEX),
        ("application/vnd.evil.thing", document(layers=[DESCRIPTOR], mediaType=IMAGE), IMAGE),
        (
            "application/vnd.cncf.thing.v1+json",
            document(mediaType="application/vnd.cncf.thing.v1+json"),
            "application/vnd.cncf.thing.v1+json",
        ),
        ("application/vnd.cncf.thing.v1+json", document(), "application/vnd.cncf.thing.v1+json"),
    ],
)
async def test_what_a_manifest_is_stands_in_its_header_or_in_itself(
    client: SourceClient, source: FakeRegistry, media_type: str, body: bytes, expected: str
) -> None:
    """S08: the digest covers what a manifest says of itself, and not its header."""
    source.fault("/manifests/", Status(200, {"Content-Type": media_type}, body))
    assert (await client.manifest(NGINX, Tag("1"))).media_type == expected


async def test_a_head_gives_no_type_that_a_get_would_not_give(
    client: SourceClient, source: FakeRegistry
) -> None:
    """S08."""
    image = source.add_image("library/nginx", "1")
    source.fault(
        "/manifests/",
        Status(
            200,
            {
                "Content-Type": "application/vnd.evil.thing",
                "Docker-Content-Digest": str(image.digest),
            },
            image.manifest.content,
        ),
    )
    assert (await client.head_manifest(NGINX, Tag("1"))).media_type is None
    source.clear_faults()
    source.fault("/manifests/", Status(200, {"Content-Type": "a b"}, image.manifest.content))
    with pytest.raises(SourceAnswerInvalid, match="Content-Type"):
        await client.head_manifest(NGINX, Tag("1"))


# Ranges and lengths


@pytest.mark.parametrize(
    "value",
    [
        f"bytes 100-199/{'9' * 5_000}",
        f"bytes {'1' * 5_000}-1/2",
        "bytes \u0661\u0660\u0660-199/200".encode().decode("latin-1"),
        "bytes 100-9007199254740993000/9007199254740993001",
        f"bytes{' ' * 4_000}100-199/200",
        "",
    ],
)
async def test_a_part_with_absurd_numbers_is_an_invalid_answer(
    client: SourceClient, source: FakeRegistry, value: str
) -> None:
    """S02: 5,000 digits in the answer to a resume were a ValueError of int, and the fill never
    ended."""
    layer = source.add_blob("library/nginx", b"x" * 200)
    source.fault("/blobs/", Status(206, {"Content-Range": value}, b"x" * 100))
    with pytest.raises(SourceAnswerInvalid, match="another part"):
        async with client.blob(NGINX, layer.digest, offset=100):
            pytest.fail("it was taken for the right part")
    source.clear_faults()
    source.fault("/blobs/", Status(416, {"Content-Range": f"bytes */{'9' * 5_000}"}))
    with pytest.raises(SourceAnswerInvalid, match="no byte 100"):
        async with client.blob(NGINX, layer.digest, offset=100):
            pytest.fail("it was taken for the end")
    with pytest.raises(SourceAnswerInvalid):
        await client.head_blob(NGINX, layer.digest)


@pytest.mark.parametrize(
    "length", ["9" * 5_000, "9223372036854775808", "99999999999999999", "+5", "\u0665"]
)
async def test_an_absurd_length_is_no_length(opened: Callable[..., Sources], length: str) -> None:
    """S02, S26."""

    def answer(request: httpx.Request) -> httpx.Response:
        headers = [(b"Content-Length", length.encode()), (b"Content-Type", IMAGE.encode())]
        return httpx.Response(
            200,
            headers=headers,
            stream=httpx.ByteStream(
                document(layers=[DESCRIPTOR]) if request.method == "GET" else b""
            ),
        )

    client = opened(transport=httpx.MockTransport(answer)).client(
        declared("https://r.example"), None
    )
    assert (await client.head_manifest(NGINX, Tag("1"))).size is None
    assert (await client.manifest(NGINX, Tag("1"))).media_type == IMAGE


async def test_a_header_that_is_none_is_no_answer_to_the_request_for_a_blob(
    client: SourceClient, source: FakeRegistry
) -> None:
    layer = source.add_blob("library/nginx", b"x" * 200)
    source.fault("/blobs/", Status(206, {"Content-Range": "bytes 100-199/200\x0b"}, b"x" * 100))
    with pytest.raises(SourceUnreachable):
        async with client.blob(NGINX, layer.digest, offset=100):
            pytest.fail("it was taken for the right part")


@pytest.mark.parametrize("length", ["9" * 5_000, "99999999999999999999999", "-1"])
async def test_a_length_that_http_does_not_allow_is_an_error_of_the_source(
    client: SourceClient, source: FakeRegistry, length: str
) -> None:
    """S02: what the parser of HTTP says of it is not our own fault."""
    source.add_image("library/nginx", "1")
    layer = source.add_blob("library/nginx", b"x" * 200)
    source.fault("/v2/", HeaderOnly({"Content-Length": length}))
    requests: list[Callable[[], Awaitable[object]]] = [
        lambda: client.manifest(NGINX, Tag("1")),
        lambda: client.head_blob(NGINX, layer.digest),
        lambda: client.blob(NGINX, layer.digest).__aenter__(),
        lambda: client.tags(NGINX, n=None, last=None),
    ]
    for request in requests:
        async with asyncio.timeout(30):
            with pytest.raises(SourceError):
                await request()


@dataclass(frozen=True, slots=True)
class HeaderOnly(Fault):
    """A response that ends with its connection, with these headers and no length."""

    headers: dict[str, str]

    def spoil(self, request: Request, answer: Answer) -> Answer:
        return replace(answer, framing="close", headers=(*answer.headers, *self.headers.items()))


async def test_a_validator_that_can_be_no_header_is_not_sent_back(
    client: SourceClient, source: FakeRegistry
) -> None:
    """S02: it would be a UnicodeEncodeError when the blob is resumed."""
    layer = source.add_blob("library/nginx", b"x" * 200)

    def answer(_: httpx.Request) -> httpx.Response:
        return httpx.Response(200, headers=[(b"ETag", '"é"'.encode())], content=b"x")

    client._api._http._blob_transport = httpx.MockTransport(answer)
    async with client.blob(NGINX, layer.digest) as stream:
        assert stream.validator is None


async def test_a_token_answer_nested_deeply_is_a_502(
    registry: httpx.AsyncClient, source: FakeRegistry
) -> None:
    """S26."""
    source.sign_in = TokenSignIn()
    source.fault("/token", Status(200, body=b'{"token":' + DEEP + b"}"))
    assert (await registry.get(TAG)).status_code == 502


async def test_what_a_source_says_of_an_error_is_one_printable_line(
    client: SourceClient, source: FakeRegistry
) -> None:
    """S04: as all text from outside, bidirectional controls and C1 too."""
    source.fault(
        "/manifests/",
        Status(
            403,
            body=json.dumps(
                {"errors": [{"code": "DENIED", "message": "a\x9d0;T\x07\u202eb\nc" + "x" * 10_000}]}
            ).encode(),
        ),
    )
    with pytest.raises(SourceError) as raised:
        await client.manifest(NGINX, Tag("1"))
    assert raised.value.what.isprintable()
    assert r"DENIED a\x9d0;T\x07\u202eb c" in raised.value.what
    assert len(raised.value.what) < 400


# Lists


async def test_names_of_a_source_that_are_no_tags_go_nowhere(
    client: SourceClient, source: FakeRegistry, caplog: pytest.LogCaptureFixture
) -> None:
    """S27, S04."""
    body = json.dumps(
        {
            "tags": [
                "\x1b]0;T\x07",
                "1.0",
                "../../../admin?x=1",
                "a b",
                "",
                "x" * 129,
                "2.0",
                "-dash",
            ]
        }
    ).encode()
    source.fault(
        "/tags/", Status(200, {"Link": '</v2/x/tags/list?last=%1B]0;T>; rel="next"'}, body)
    )
    for _ in range(3):
        page = await client.tags(NGINX, n=None, last=None)
    assert page.tags == ("1.0", "2.0")
    assert page.next_last == "-dash", "the list goes on where the source's page ended"
    lines = [each.getMessage() for each in caplog.records if "no tags" in each.getMessage()]
    assert lines == [
        "docker.io lists 6 names that are no tags, in library/nginx at first: they are left out"
    ]
    assert (await client.tags(NGINX, n=1, last="1.0")).tags == ("2.0",)


async def test_a_page_of_a_list_without_any_tag_is_empty_and_goes_on(
    client: SourceClient, source: FakeRegistry
) -> None:
    """S27: what comes after is not lost."""
    source.fault(
        "/tags/",
        Status(200, {"Link": '</v2/x/tags/list?last=zz>; rel="next"'}, b'{"tags":["a b"]}'),
    )
    page = await client.tags(NGINX, n=10, last=None)
    assert (page.tags, page.next_last) == ((), "zz")


async def test_a_long_list_of_tags_is_read_beside_the_event_loop(
    client: SourceClient, source: FakeRegistry, monkeypatch: pytest.MonkeyPatch
) -> None:
    """S05, S23: 16 MB of names are a second of work."""
    threads: list[object] = []
    to_thread = asyncio.to_thread

    async def seen(function: Callable[..., object], /, *arguments: object) -> object:
        threads.append(function)
        return await to_thread(function, *arguments)

    monkeypatch.setattr(asyncio, "to_thread", seen)
    source.fault("/tags/", Status(200, body=json.dumps({"tags": ["a" * 100] * 5_000}).encode()))
    assert len((await client.tags(NGINX, n=None, last=None)).tags) == 5_000
    assert len(threads) == 1


# Referrers


def referrers_page(*names: str, **more: object) -> bytes:
    entries = [
        {
            "mediaType": IMAGE,
            "digest": str(Digest.of(name.encode())),
            "size": 2,
            "annotations": {"n": name},
        }
        for name in names
    ]
    return json.dumps(
        {"schemaVersion": 2, "mediaType": INDEX, "manifests": entries, **more}
    ).encode()


def names_of(content: bytes) -> list[str]:
    return [each["annotations"]["n"] for each in json.loads(content)["manifests"]]


class Pages:
    """A source that lists referrers in pages; *links* gives each its Link header."""

    def __init__(
        self, pages: list[bytes], links: list[str], headers: dict[str, str] | None = None
    ) -> None:
        self.pages, self.links, self.headers = pages, links, headers or {}
        self.queries: list[bytes] = []

    def __call__(self, request: httpx.Request) -> httpx.Response:
        assert request.url.host == "127.0.0.1", "another host was asked"
        assert request.url.path == f"/v2/library/nginx/referrers/{ABSENT}"
        number = len(self.queries)
        self.queries.append(request.url.query)
        headers = {"Content-Type": INDEX, **self.headers}
        if number < len(self.links) and self.links[number]:
            headers["Link"] = self.links[number]
        return httpx.Response(200, headers=headers, content=self.pages[number])


def asking(client: SourceClient, pages: Callable[[httpx.Request], httpx.Response]) -> SourceClient:
    client._api._http._transport = httpx.MockTransport(pages)
    return client


async def test_referrers_in_pages_become_one_index(client: SourceClient) -> None:
    """S15, F73: a policy that looks for a revocation on the second page read that there is none."""
    link = f'</v2/library/nginx/referrers/{ABSENT}?artifactType=t&last=%2F2>; rel="next"'
    pages = Pages(
        [referrers_page("a", "b", annotations={"k": "v"}), referrers_page(), referrers_page("c")],
        [link, "<https://elsewhere.example/else?n=3>; rel=next", ""],
        {"OCI-Filters-Applied": "artifactType"},
    )
    listed = await asking(client, pages).referrers(NGINX, ABSENT, "t")
    assert names_of(listed.content) == ["a", "b", "c"]
    assert json.loads(listed.content)["annotations"] == {"k": "v"}
    assert listed.filtered
    assert pages.queries == [b"artifactType=t", b"artifactType=t&last=%2F2", b"n=3"], (
        "only the query of a link is followed"
    )


async def test_pages_of_referrers_with_a_byte_order_mark_become_one_index(
    client: SourceClient,
) -> None:
    """F73, F82: a mark that one proxy puts before each answer must not hide signatures."""
    mark = b"\xef\xbb\xbf"
    pages = Pages(
        [mark + referrers_page("a"), mark + referrers_page("b") + b"\n"], ["<?n=2>; rel=next", ""]
    )
    listed = await asking(client, pages).referrers(NGINX, ABSENT, None)
    assert names_of(listed.content) == ["a", "b"]


async def test_a_single_page_of_referrers_stays_as_it_came(client: SourceClient) -> None:
    content = b'{ "schemaVersion":2,  "manifests": [ ] }\n'
    listed = await asking(client, Pages([content], [])).referrers(NGINX, ABSENT, None)
    assert (listed.content, listed.filtered) == (content, False)
    assert listed.digest.matches(content)


@pytest.mark.parametrize(
    ("applied", "filtered"),
    [("artifactType", True), ("artifacttype, other", True), ("other", False), ("", False)],
)
async def test_the_client_learns_whether_the_source_filtered(
    client: SourceClient, applied: str, filtered: bool
) -> None:
    """S15: the specification wants it passed on."""
    pages = Pages([referrers_page("a")], [], {"OCI-Filters-Applied": applied})
    assert (await asking(client, pages).referrers(NGINX, ABSENT, "t")).filtered is filtered
    again = Pages(pages.pages, [], pages.headers)
    assert not (await asking(client, again).referrers(NGINX, ABSENT, None)).filtered, (
        "nothing was to be filtered"
    )


@pytest.mark.parametrize(
    "links",
    [
        ["<?same=1>; rel=next", "<?same=1>; rel=next"],
        [f"<?n={number}>; rel=next" for number in range(200)],
        ["<https://[>; rel=next"],
        ["<http://xn--/?a>; rel=next"],
        ["</no/query>; rel=next"],
        [f"<?{'x' * 3_000}>; rel=next"],
    ],
)
async def test_referrers_that_can_not_be_read_completely_are_an_error_never_a_part(
    client: SourceClient, links: list[str]
) -> None:
    """S15: a part would look like all of it."""
    pages = Pages([referrers_page("a")] * 300, links)
    with pytest.raises(SourceAnswerInvalid):
        await asking(client, pages).referrers(NGINX, ABSENT, None)
    assert len(pages.queries) <= 100


async def test_all_pages_of_referrers_together_have_the_limit_of_a_manifest(
    client: SourceClient,
) -> None:
    """S15."""
    pages = Pages(
        [referrers_page("x" * 1_500_000)] * 50, [f"<?n={number}>; rel=next" for number in range(50)]
    )
    with pytest.raises(SourceAnswerInvalid, match="nothing that large"):
        await asking(client, pages).referrers(NGINX, ABSENT, None)
    assert len(pages.queries) == 3


async def test_a_further_page_that_is_missing_is_no_reason_to_look_elsewhere(
    client: SourceClient, source: FakeRegistry
) -> None:
    """S15: the fallback tag would be an answer to another question."""
    first = Pages([referrers_page("a")], ["<?n=1>; rel=next"])

    def answer(request: httpx.Request) -> httpx.Response:
        return httpx.Response(404) if first.queries else first(request)

    with pytest.raises(SourceAnswerInvalid, match="no further page"):
        await asking(client, answer).referrers(NGINX, ABSENT, None)
