"""Tags and referrers of a source registry, page by page."""

from __future__ import annotations

import json
import time

import pytest

from entrepot.core.media_types import EMPTY_INDEX
from entrepot.demo.images import OCI
from entrepot.source.client import SourceClient
from entrepot.source.errors import (
    SourceAnswerInvalid,
    SourceNotFound,
    SourceRefused,
)
from entrepot.source.lists import TagPage
from tests.fakes import (
    Content,
    FakeRegistry,
    Headers,
    Status,
)
from tests.source.conftest import ABSENT, NGINX

# Tags


async def test_tags_come_in_pages(client: SourceClient, source: FakeRegistry) -> None:
    for tag in ("a", "b", "c", "d", "e"):
        source.add_image("library/nginx", tag, layers=[])
    assert await client.tags(NGINX, n=None, last=None) == TagPage(("a", "b", "c", "d", "e"), None)
    assert await client.tags(NGINX, n=2, last=None) == TagPage(("a", "b"), "b")
    assert await client.tags(NGINX, n=2, last="b") == TagPage(("c", "d"), "d")
    assert await client.tags(NGINX, n=2, last="d") == TagPage(("e",), None)


async def test_a_page_that_the_source_cuts_shorter_goes_on(
    client: SourceClient, source: FakeRegistry
) -> None:
    for tag in ("a", "b", "c"):
        source.add_image("library/nginx", tag, layers=[])
    source.tags_page = 2
    assert await client.tags(NGINX, n=None, last=None) == TagPage(("a", "b"), "b")


async def test_no_more_than_a_thousand_tags_are_asked_for(
    client: SourceClient, source: FakeRegistry
) -> None:
    source.add_image("library/nginx", "a", layers=[])
    await client.tags(NGINX, n=10_000, last="0 &=?")
    assert source.requests[0].query == {"n": ["1000"], "last": ["0 &=?"]}


async def test_a_source_that_knows_no_pages_is_cut_into_pages(
    client: SourceClient, source: FakeRegistry
) -> None:
    source.fault(
        "/tags/",
        Status(200, body=json.dumps({"name": "library/nginx", "tags": ["z", "a", "m"]}).encode()),
    )
    assert await client.tags(NGINX, n=2, last=None) == TagPage(("z", "a"), "a")
    assert await client.tags(NGINX, n=2, last="a") == TagPage(("m",), None)
    assert await client.tags(NGINX, n=0, last=None) == TagPage((), None)


async def test_a_repository_without_tags_has_an_empty_list(
    client: SourceClient, source: FakeRegistry
) -> None:
    source.fault("/tags/", Status(200, body=b'{"name":"library/nginx","tags":null}'))
    assert await client.tags(NGINX, n=None, last=None) == TagPage((), None)


@pytest.mark.parametrize(
    ("link", "following"),
    [
        ('</v2/library/nginx/tags/list?last=x%2Fy&n=1>; rel="next"', "x/y"),
        ("<https://elsewhere.example/v2/library/nginx/tags/list?n=1&last=q>;rel=next", "q"),
        ('</first>; rel="first", </v2/library/nginx/tags/list?last=b>; rel="next"', "b"),
        ("</v2/library/nginx/tags/list?token=opaque>; rel=next", "?token=opaque"),
        (
            "</v2/library/nginx/tags/list?n=2&next_page=gAAAA_-%3D>; rel=next",
            "?next_page=gAAAA_-%3D",
        ),
        ("</v2/library/nginx/tags/list?n=2>; rel=next", "a"),
        ("<https://[>; rel=next", "a"),
        ('</v2/library/nginx/tags/list?last=b>; rel="previous"', None),
        ("nonsense", None),
    ],
)
async def test_where_the_next_page_begins_is_read_from_the_link(
    client: SourceClient, source: FakeRegistry, link: str, following: str | None
) -> None:
    source.fault("/tags/", Status(200, {"Link": link}, b'{"tags":["a"]}'))
    assert await client.tags(NGINX, n=1, last=None) == TagPage(("a",), following)


@pytest.mark.parametrize("unit", ["<>;", "<a>;b,", "<", "rel=next;"])
async def test_the_largest_links_that_pass_take_no_time(
    client: SourceClient, source: FakeRegistry, unit: str
) -> None:
    """S05: 100 headers of 8,190 bytes, which the client's parser lets through, held the event loop
    for 68 s."""
    source.add_image("library/nginx", "a", layers=[])
    source.fault("/tags/", Headers(add=(("Link", (unit * 8_190)[:8_100]),) * 100))
    begun = time.thread_time()
    assert await client.tags(NGINX, n=None, last=None) == TagPage(("a",), None)
    assert time.thread_time() - begun < 1


@pytest.mark.parametrize("body", [b"", b"[]", b'{"tags": "a"}', b'{"tags": [1]}'])
async def test_something_else_than_a_list_of_tags_is_refused(
    client: SourceClient, source: FakeRegistry, body: bytes
) -> None:
    source.fault("/tags/", Status(200, body=body))
    with pytest.raises(SourceAnswerInvalid, match="no list"):
        await client.tags(NGINX, n=None, last=None)


async def test_the_tags_of_a_repository_that_is_not_there_are_not_found(
    client: SourceClient,
) -> None:
    with pytest.raises(SourceNotFound, match=r"docker\.io has no library/nginx \(tags\)"):
        await client.tags(NGINX, n=None, last=None)


# Referrers


async def test_referrers_are_listed(client: SourceClient, source: FakeRegistry) -> None:
    image = source.add_image("library/nginx", "latest")
    signature = Content.of(
        OCI.manifest, b'{"schemaVersion":2,"artifactType":"application/vnd.dev.sigstore"}'
    )
    source.add_referrer("library/nginx", image.digest, signature, "application/vnd.dev.sigstore")
    listed = await client.referrers(NGINX, image.digest, None)
    assert [each["digest"] for each in json.loads(listed.content)["manifests"]] == [
        str(signature.digest)
    ]
    assert listed.media_type == OCI.index
    assert listed.digest.matches(listed.content)
    others = await client.referrers(NGINX, image.digest, "application/spdx+json")
    assert json.loads(others.content)["manifests"] == []
    assert source.requests[-1].query == {"artifactType": ["application/spdx+json"]}


@pytest.mark.parametrize("status", [None, 400, 405, 501])
async def test_without_a_referrers_api_the_fallback_tag_is_read(
    client: SourceClient, source: FakeRegistry, status: int | None
) -> None:
    image = source.add_image("library/nginx", "latest")
    source.has_referrers = False
    if status is not None:
        source.fault("/referrers/", Status(status))
    index = source.add_manifest(
        "library/nginx",
        Content.of(OCI.index, b'{"schemaVersion":2,"manifests":[ ]}'),
        f"sha256-{image.digest.hex}",
    )
    assert (await client.referrers(NGINX, image.digest, None)).content == index.content


async def test_without_any_referrers_the_index_is_empty(
    client: SourceClient, source: FakeRegistry
) -> None:
    source.has_referrers = False
    listed = await client.referrers(NGINX, ABSENT, None)
    assert listed.content == EMPTY_INDEX
    assert json.loads(listed.content) == {
        "schemaVersion": 2,
        "mediaType": OCI.index,
        "manifests": [],
    }


async def test_referrers_that_are_refused_are_not_taken_for_none(
    client: SourceClient, source: FakeRegistry
) -> None:
    source.fault("/referrers/", Status(403))
    with pytest.raises(SourceRefused):
        await client.referrers(NGINX, ABSENT, None)
