"""The pull side of the OCI distribution specification 1.1, requirement by requirement.

Each test quotes what it checks. All share one engine, whose source has one of everything.
"""

from __future__ import annotations

import json
import re
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urljoin

import httpx
import pytest
import pytest_asyncio

from entrepot.config.directories import Directories
from entrepot.config.settings import Settings
from entrepot.core.media_types import (
    DOCKER_LIST,
    DOCKER_MANIFEST,
    OCI_CONFIG,
    OCI_INDEX,
    OCI_LAYER,
    OCI_MANIFEST,
)
from entrepot.core.reference import Digest
from entrepot.core.registries import DeclaredRegistry
from entrepot.core.rules import RuleDraft
from entrepot.core.states import SignIn
from entrepot.engine.engine import Engine
from entrepot.server.run import registry_app
from tests.conftest import LOGIN_SERVER
from tests.fakes import Content, FakeRegistry
from tests.fakes.faults import Answer
from tests.fakes.transport import Request
from tests.multipart import read_parts

pytestmark = pytest.mark.asyncio(loop_scope="module")

APP = "library/app"
DEEP = "library/a/b/c/d/e/f"
LONG = "library/" + "/".join(["x" * 60] * 4) + "/yyy"
SBOM = "application/spdx+json"
UNKNOWN = "application/vnd.example.manifest+json"
ARTIFACT_MANIFEST = "application/vnd.oci.artifact.manifest.v1+json"
EVERY_TYPE = f"{OCI_INDEX}, {OCI_MANIFEST}, {DOCKER_LIST}, {DOCKER_MANIFEST}"
TAGS = ["1", "2", "3", "4", "5"]


class PagedRegistry(FakeRegistry):
    """A source that lists two tags at once; its links have the form that a repository names."""

    def _list_tags(self, request: Request, repository: str) -> Answer:
        kind = repository.rpartition("/")[2]
        token = request.query.get("next_page" if kind == "quay" else "last", [""])[0]
        decode = {"quay": 1, "opaque": 1}.get(kind)
        start = int(token[5:] or 0) if decode else sum(tag <= token for tag in TAGS)
        page, end = TAGS[start : start + 2], start + 2
        body = json.dumps({"name": repository, "tags": page}).encode()
        answer = Answer(200, (("Content-Type", "application/json"),), body)
        path, last = f"/v2/{repository}/tags/list", page[-1] if page else ""
        links = {
            "quay": f'<{path}?n=2&next_page=token{end}>; rel="next"',
            "opaque": f'<{path}?n=2&last=token{end}>; rel="next"',
            "relative": f'<{path}?last={last}&n=2>; rel="next"',
            "bare": f"<?last={last}&n=2>; rel=next",
            "absolute": f'<{self.url}{path}?last={last}&n=2>; title=x; rel="next"',
            "unquoted": f"{path}?last={last}&n=2; rel=next",
        }
        if kind in links and end < len(TAGS):
            return answer.with_headers(("Link", links[kind]))
        return answer if kind in links else super()._list_tags(request, repository)


@dataclass
class World:
    """A client of an engine, and what its source has."""

    client: httpx.AsyncClient
    engine: Engine
    source: PagedRegistry
    manifests: dict[str, Content] = field(default_factory=dict)
    """By tag of `APP`."""
    blob: Content = field(init=False)

    async def get(self, path: str, **headers: str) -> httpx.Response:
        names = {name.replace("_", "-"): value for name, value in headers.items()}
        return await self.client.get(path, headers=names)

    async def head(self, path: str, **headers: str) -> httpx.Response:
        names = {name.replace("_", "-"): value for name, value in headers.items()}
        return await self.client.head(path, headers=names)

    def add(self, tag: str, media_type: str, document: dict[str, Any], size: int = 0) -> Content:
        text = json.dumps({"schemaVersion": 2, "mediaType": media_type} | document).encode()
        content = Content.of(media_type, text + b" " * max(0, size - len(text)))
        self.manifests[tag] = self.source.add_manifest(APP, content, tag)
        return content


def filled(world: World) -> World:
    """Fill the source with manifests of every kind."""
    source = world.source
    world.blob = source.add_blob(APP, bytes(range(256)) * 20)
    config = source.add_blob(APP, b'{"os":"linux","architecture":"amd64"}')
    layer = world.blob.descriptor.document() | {"mediaType": OCI_LAYER}
    described = {
        "config": config.descriptor.document() | {"mediaType": OCI_CONFIG},
        "layers": [layer],
    }
    image = world.add("image", OCI_MANIFEST, described)
    docker = world.add("docker", DOCKER_MANIFEST, described)
    platform = {"platform": {"os": "linux", "architecture": "amd64"}}
    listed = [image.descriptor.document() | platform]
    index = world.add("index", OCI_INDEX, {"manifests": listed})
    world.add("docker-list", DOCKER_LIST, {"manifests": [docker.descriptor.document() | platform]})
    world.add("nested", OCI_INDEX, {"manifests": [index.descriptor.document()]})
    missing = {"mediaType": OCI_MANIFEST, "digest": str(Digest.of(b"missing")), "size": 9}
    world.add("sparse", OCI_INDEX, {"manifests": [*listed, missing]})
    world.add("unknown", UNKNOWN, {"x": 1})
    world.add("artifact", ARTIFACT_MANIFEST, {"artifactType": SBOM, "blobs": [layer]})
    world.add("large", OCI_INDEX, {"manifests": listed}, size=4 * 1024 * 1024)
    foreign = layer | {"urls": ["https://example.com/layer"], "digest": str(Digest.of(b"foreign"))}
    world.add("foreign", OCI_MANIFEST, described | {"layers": [foreign]})
    sbom = world.add("sbom", OCI_MANIFEST, described | {"artifactType": SBOM})
    source.add_referrer(APP, index.digest, sbom, SBOM)
    source.add_referrer(APP, index.digest, docker, "application/x.other")
    for name in (DEEP, LONG):
        source.add_manifest(name, image, "1")
    return world


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def world(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[World]:
    async with PagedRegistry() as source:
        declared = DeclaredRegistry(LOGIN_SERVER, "Example", SignIn.OPTIONAL, source.url)
        settings = Settings(listen="127.0.0.1:0", upstreams=(declared,))
        directories = Directories.under(tmp_path_factory.mktemp("specification"))
        async with Engine.open(directories, settings) as engine:
            draft = RuleDraft("example-library", f"{LOGIN_SERVER}/library/*", "library/*")
            await engine.rules.create(draft)
            transport = httpx.ASGITransport(registry_app(engine))
            async with httpx.AsyncClient(
                transport=transport, base_url="http://entrepot", timeout=30
            ) as client:
                yield filled(World(client, engine, source))


KINDS = [
    "image", "docker", "index", "docker-list", "nested", "sparse", "unknown", "artifact", "large",
    "foreign", "sbom",
]  # fmt: skip


def error_of(response: httpx.Response) -> tuple[int, str]:
    [error] = response.json()["errors"]
    return response.status_code, error["code"]


# Determining support


async def test_end_1(world: World) -> None:
    """ "the endpoint `/v2/` MUST return 200 OK" (end-1); docker reads the version header."""
    for path in ("/v2/", "/v2"):
        response = await world.get(path)
        assert response.status_code == 200
        assert response.headers["docker-distribution-api-version"] == "registry/2.0"


# Pulling manifests


@pytest.mark.parametrize("by", ["tag", "digest"])
@pytest.mark.parametrize("kind", KINDS)
async def test_end_3_get(world: World, kind: str, by: str) -> None:
    """ "A GET request to an existing manifest URL MUST provide the expected manifest, with a
    response code that MUST be 200 OK", and Content-Type and digest are those of the manifest."""
    manifest = world.manifests[kind]
    reference = kind if by == "tag" else str(manifest.digest)
    for _ in range(2):
        response = await world.get(f"/v2/{APP}/manifests/{reference}")
        assert response.status_code == 200
        assert response.content == manifest.content
        assert response.headers["content-type"] == manifest.media_type
        assert response.headers["docker-content-digest"] == str(Digest.of(response.content))
        assert response.headers["docker-distribution-api-version"] == "registry/2.0"


@pytest.mark.parametrize("kind", KINDS)
async def test_end_3_head(world: World, kind: str) -> None:
    """ "A HEAD request to an existing blob or manifest URL MUST return 200 OK. A successful response
    SHOULD contain the digest ... [and] the size in bytes ... in the header Content-Length"."""
    manifest = world.manifests[kind]
    for reference in (kind, str(manifest.digest)):
        response = await world.head(f"/v2/{APP}/manifests/{reference}")
        assert (response.status_code, response.content) == (200, b"")
        assert response.headers["docker-content-digest"] == str(manifest.digest)
        assert response.headers["content-length"] == str(manifest.size)
        assert response.headers["content-type"] == manifest.media_type


async def test_a_sha512_digest_names_a_manifest_and_a_blob(world: World) -> None:
    """ "sha512 ... MAY be supported": what is asked by such a digest is answered with it."""
    content = b'{"schemaVersion":2,"manifests":[]}  '
    digest = Digest.of(content, "sha512")
    world.source.add_manifest(APP, Content(OCI_INDEX, content, digest))
    blob = b"a blob of another algorithm"
    blob_digest = Digest.of(blob, "sha512")
    world.source.add_blob(APP, Content("application/octet-stream", blob, blob_digest))
    for path, body, stated in (
        (f"/v2/{APP}/manifests/{digest}", content, digest),
        (f"/v2/{APP}/blobs/{blob_digest}", blob, blob_digest),
    ):
        response = await world.get(path)
        assert (response.status_code, response.content) == (200, body)
        assert response.headers["docker-content-digest"] == str(stated)


@pytest.mark.parametrize("name", [DEEP, LONG])
async def test_a_name_of_many_parts_and_255_characters(world: World, name: str) -> None:
    """ "<name> MUST match [the] regular expression": any number of parts; "Many clients impose a
    limit of 255 characters"."""
    assert (await world.get(f"/v2/{name}/manifests/1")).status_code == 200
    assert (await world.get(f"/v2/{name}/tags/list")).json()["name"] == name
    if name == LONG:
        assert len(LONG) == 255
        assert error_of(await world.get(f"/v2/{name}z/manifests/1")) == (400, "NAME_INVALID")


@pytest.mark.parametrize(
    ("path", "code"),
    [
        (f"{APP}/manifests/absent", "MANIFEST_UNKNOWN"),
        (f"{APP}/manifests/{Digest.of(b'absent')}", "MANIFEST_UNKNOWN"),
        (f"{APP}/blobs/{Digest.of(b'absent')}", "BLOB_UNKNOWN"),
        ("library/absent/tags/list", "NAME_UNKNOWN"),
        ("other/absent/manifests/1", "NAME_UNKNOWN"),
    ],
)
async def test_what_is_not_found_is_404(world: World, path: str, code: str) -> None:
    """ "If the manifest [blob, repository] is not found in the repository, the response code MUST be
    404 Not Found"."""
    assert error_of(await world.get(f"/v2/{path}")) == (404, code)
    assert (await world.head(f"/v2/{path}")).status_code == 404


@pytest.mark.parametrize(
    ("kind", "accept", "answer"),
    [
        ("index", EVERY_TYPE, "index"),
        ("index", "*/*", "index"),
        ("index", "application/*", "index"),
        ("index", OCI_MANIFEST, "image"),
        ("index", f"{OCI_INDEX};q=0, {OCI_MANIFEST}", "image"),
        ("image", f"{OCI_MANIFEST.upper()}", "image"),
        ("docker-list", DOCKER_MANIFEST, "docker"),
        ("image", DOCKER_MANIFEST, None),
        ("index", DOCKER_MANIFEST, None),
    ],
)
async def test_accept(world: World, kind: str, accept: str, answer: str | None) -> None:
    """ "The client SHOULD include an Accept header indicating which manifest content types it
    supports"; "the registry SHOULD NOT" send another to it. A digest is answered whatever."""
    path = f"/v2/{APP}/manifests/{kind}"
    for method in ("GET", "HEAD"):
        response = await world.client.request(method, path, headers={"Accept": accept})
        assert response.status_code == (404 if answer is None else 200)
        if answer is not None:
            digest = response.headers["docker-content-digest"]
            assert digest == str(world.manifests[answer].digest)
    by_digest = f"/v2/{APP}/manifests/{world.manifests[kind].digest}"
    assert (await world.get(by_digest, Accept=accept)).status_code == 200


# Pulling blobs


async def test_end_2(world: World) -> None:
    """ "A GET request to an existing blob URL MUST provide the expected blob, with a response code
    that MUST be 200 OK. A successful response SHOULD contain the digest of the uploaded blob"."""
    path = f"/v2/{APP}/blobs/{world.blob.digest}"
    for method in ("HEAD", "GET", "GET", "HEAD"):
        response = await world.client.request(method, path)
        assert response.status_code == 200
        assert response.content == (world.blob.content if method == "GET" else b"")
        assert response.headers["docker-content-digest"] == str(world.blob.digest)
        assert response.headers["content-length"] == str(world.blob.size)


async def test_the_empty_blob(world: World) -> None:
    """A blob may have no bytes, and its digest is that of none."""
    empty = world.source.add_blob(APP, b"")
    for _ in range(2):
        response = await world.get(f"/v2/{APP}/blobs/{empty.digest}")
        assert (response.status_code, response.content) == (200, b"")
        assert response.headers["content-length"] == "0"


@pytest.mark.parametrize(
    ("requested", "status", "part"),
    [
        ("bytes=0-9", 206, slice(0, 10)),
        ("bytes=100-", 206, slice(100, None)),
        ("bytes=-7", 206, slice(-7, None)),
        ("bytes=5000-999999", 206, slice(5000, None)),
        ("bytes=9999-", 416, None),
        ("bytes=9-1", 200, slice(None)),
        ("lines=1-2", 200, slice(None)),
    ],
)
async def test_range(world: World, requested: str, status: int, part: slice | None) -> None:
    """ "A registry SHOULD support the Range request header in accordance with RFC 9110"."""
    response = await world.get(f"/v2/{APP}/blobs/{world.blob.digest}", Range=requested)
    assert response.status_code == status
    if part is None:
        assert response.headers["content-range"] == f"bytes */{world.blob.size}"
    else:
        assert response.content == world.blob.content[part]
        assert ("content-range" in response.headers) == (status == 206)


async def test_a_range_of_several_parts(world: World) -> None:
    """RFC 9110, 14.6: "a response to a request for multiple ranges" is multipart/byteranges."""
    path, content = f"/v2/{APP}/blobs/{world.blob.digest}", world.blob.content
    response = await world.get(path, Range="bytes=0-9, 2000-2009, -5")
    assert response.status_code == 206
    parts = read_parts(response.headers, response.content)
    assert [body for *_, body in parts] == [content[:10], content[2000:2010], content[-5:]]


@pytest.mark.parametrize(
    ("condition", "status"),
    [('"{}"', 206), ('"other"', 200), ('W/"{}"', 200), ("Wed, 21 Oct 2015 07:28:00 GMT", 200)],
)
async def test_if_range(world: World, condition: str, status: int) -> None:
    """RFC 9110, 13.1.5: a range counts only where a strong validator matches."""
    value = condition.format(world.blob.digest)
    path = f"/v2/{APP}/blobs/{world.blob.digest}"
    response = await world.get(path, Range="bytes=0-1", If_Range=value)
    assert response.status_code == status
    assert response.content == world.blob.content[: 2 if status == 206 else None]


@pytest.mark.parametrize("method", ["GET", "HEAD"])
@pytest.mark.parametrize("kind", ["manifests", "blobs"])
@pytest.mark.parametrize(
    ("condition", "status"),
    [('"{}"', 304), ('W/"{}"', 304), ('"x", "{}"', 304), ("*", 304), ('"x"', 200), ("{}", 200)],
)
async def test_if_none_match(
    world: World, condition: str, status: int, kind: str, method: str
) -> None:
    """RFC 9110, 13.1.2: compared weakly, in lists too, and for HEAD as for GET."""
    content = world.manifests["index"] if kind == "manifests" else world.blob
    response = await world.client.request(
        method,
        f"/v2/{APP}/{kind}/{content.digest}",
        headers={"If-None-Match": condition.format(content.digest)},
    )
    assert response.status_code == status
    assert response.headers["etag"] == f'"{content.digest}"'
    if status == 304:
        assert response.content == b""
        assert not {"content-length", "content-type"} & set(response.headers)


# Content discovery


async def test_end_8a(world: World) -> None:
    """ "the response MUST have a status code of 200 OK ... a json body in the following format":
    name and tags."""
    response = await world.get(f"/v2/{APP}/tags/list")
    assert response.status_code == 200
    assert response.headers["content-type"].startswith("application/json")
    assert response.json() == {"name": APP, "tags": sorted(world.manifests)}


@pytest.mark.parametrize("n", [1, 2, 5, 10**8])
async def test_end_8b(world: World, n: int) -> None:
    """ "the response MUST return a maximum of <int> tags"; "The response to such a request MAY
    return fewer"; following the links gives all of them, once."""
    path, tags = f"/v2/{APP}/tags/list?n={n}", []
    while path:
        response = await world.get(path)
        assert len(response.json()["tags"]) <= n
        tags += response.json()["tags"]
        path = response.links["next"]["url"] if "next" in response.links else ""
    assert tags == sorted(world.manifests)


async def test_n_of_zero(world: World) -> None:
    """ "When n is zero, this endpoint MUST return an empty list, and MUST NOT include a Link
    header"."""
    for path in (f"/v2/{APP}/tags/list?n=0", "/v2/_catalog?n=0"):
        response = await world.get(path)
        assert next(value for name, value in response.json().items() if name != "name") == []
        assert "link" not in response.headers


async def test_last(world: World) -> None:
    """ "`last` ... MUST NOT [be] include[d]": tags after it; it need not exist."""
    tags = sorted(world.manifests)
    for last in ("docker", "dockerish", "zzz"):
        response = await world.get(f"/v2/{APP}/tags/list?last={last}")
        assert response.json()["tags"] == [tag for tag in tags if tag > last]


@pytest.mark.parametrize("kind", ["relative", "bare", "absolute", "opaque", "quay"])
async def test_pages_of_every_kind_of_source(world: World, kind: str) -> None:
    """ "A Link header MUST be included" where there is more, as RFC 5988 has it: whatever the form
    of the source's own link, clients get all tags once."""
    path, tags = f"/v2/library/{kind}/tags/list?n=2", []
    for _ in range(5):
        response = await world.get(path)
        tags += response.json()["tags"]
        if "next" not in response.links:
            break
        assert response.headers["link"].startswith(f"</v2/library/{kind}/tags/list?")
        path = urljoin(path, response.links["next"]["url"])
    assert tags == TAGS


@pytest.mark.parametrize("n", ["-1", "x", "1" * 5000, "1.5"])
async def test_an_absurd_n(world: World, n: str) -> None:
    """An `n` that is no whole number is the client's mistake."""
    assert (await world.get(f"/v2/{APP}/tags/list?n={n}")).status_code == 400


async def test_catalog(world: World) -> None:
    """`_catalog` (of the older specification) lists what is cached, in pages."""
    await world.get(f"/v2/{APP}/manifests/image")
    await world.get(f"/v2/{DEEP}/manifests/1")
    first = await world.get("/v2/_catalog?n=1")
    assert first.json() == {"repositories": [DEEP]}
    second = await world.get(first.links["next"]["url"])
    assert second.json()["repositories"][0] == APP


# Referrers


async def test_end_12a(world: World) -> None:
    """ "Upon success, the response MUST be a JSON body with an image index containing a list of
    descriptors. The Content-Type header MUST be set to application/vnd.oci.image.index.v1+json"."""
    response = await world.get(f"/v2/{APP}/referrers/{world.manifests['index'].digest}")
    assert (response.status_code, response.headers["content-type"]) == (200, OCI_INDEX)
    index = response.json()
    assert (index["schemaVersion"], index["mediaType"]) == (2, OCI_INDEX)
    assert [entry["artifactType"] for entry in index["manifests"]] == [SBOM, "application/x.other"]
    assert {"mediaType", "digest", "size"} <= index["manifests"][0].keys()
    assert "oci-filters-applied" not in response.headers


async def test_end_12b(world: World) -> None:
    """ "If filtering is requested and applied, the response MUST include a header
    OCI-Filters-Applied: artifactType"."""
    path = f"/v2/{APP}/referrers/{world.manifests['index'].digest}?artifactType={SBOM}"
    response = await world.get(path)
    assert response.headers["oci-filters-applied"] == "artifactType"
    assert [entry["artifactType"] for entry in response.json()["manifests"]] == [SBOM]


async def test_no_referrers(world: World) -> None:
    """ "If a query results in no matching referrers, an empty manifest list MUST be returned"; for
    an absent manifest too: the registry "MUST NOT return a 404"."""
    for digest in (world.manifests["docker"].digest, Digest.of(b"absent")):
        response = await world.get(f"/v2/{APP}/referrers/{digest}")
        assert (response.status_code, response.json()["manifests"]) == (200, [])


async def test_referrers_of_no_digest(world: World) -> None:
    """ "If the request is invalid, such as a <digest> with an invalid syntax, a 400 Bad Request MUST
    be returned"."""
    assert error_of(await world.get(f"/v2/{APP}/referrers/sha256:x")) == (400, "DIGEST_INVALID")


# Errors


ERROR_CODES = {
    "BLOB_UNKNOWN", "BLOB_UPLOAD_INVALID", "BLOB_UPLOAD_UNKNOWN", "DIGEST_INVALID",
    "MANIFEST_BLOB_UNKNOWN", "MANIFEST_INVALID", "MANIFEST_UNKNOWN", "NAME_INVALID", "NAME_UNKNOWN",
    "SIZE_INVALID", "UNAUTHORIZED", "DENIED", "UNSUPPORTED", "TOOMANYREQUESTS",
}  # fmt: skip


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", f"{APP}/manifests/absent", 404),
        ("GET", f"{APP}/manifests/sha256:x", 400),
        ("GET", f"{APP}/manifests/{'t' * 129}", 400),
        ("GET", f"{APP.upper()}/manifests/1", 400),
        ("GET", f"{APP}/blobs/{Digest.of(b'absent')}", 404),
        ("GET", f"{APP}/blobs/md5:0", 400),
        ("GET", "library/absent/tags/list", 404),
        ("POST", f"{APP}/blobs/uploads/", 405),
        ("PUT", f"{APP}/manifests/1", 405),
        ("DELETE", f"{APP}/manifests/1", 405),
    ],
)
async def test_errors(world: World, method: str, path: str, status: int) -> None:
    """ "A 4XX response code from the registry MAY return a body in any format. If the response body
    is in JSON format, it MUST have the following format: {"errors": [{"code", "message",
    "detail"}]}"; "code" MUST be a unique identifier, containing only uppercase alphabetic
    characters and underscores"."""
    response = await world.client.request(method, f"/v2/{path}")
    assert response.status_code == status
    assert response.headers["content-type"] == "application/json"
    [error] = response.json()["errors"]
    assert re.fullmatch(r"[A-Z_]+", error["code"])
    assert error["code"] in ERROR_CODES
    assert error["message"]
