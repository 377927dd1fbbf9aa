"""Mirror mode: clients pull by the names of source registries."""

from __future__ import annotations

from collections.abc import AsyncIterator

import httpx
import pytest

from entrepot.config.directories import Directories
from entrepot.config.settings import Settings
from entrepot.core.registries import DeclaredRegistry
from entrepot.core.rules import RuleDraft
from entrepot.core.states import SignIn
from entrepot.engine.engine import Engine
from entrepot.server.mirror_namespace import FixedNamespace
from entrepot.server.run import registry_app
from tests.conftest import Clock
from tests.fakes import FakeImage, FakeRegistry, Status

AMD64 = "linux/amd64"


@pytest.fixture
async def quay() -> AsyncIterator[FakeRegistry]:
    async with FakeRegistry() as quay:
        yield quay


@pytest.fixture
def settings(source: FakeRegistry, quay: FakeRegistry) -> Settings:
    """Docker Hub is `source`."""
    return Settings(
        listen="127.0.0.1:0",
        upstreams=(
            DeclaredRegistry("docker.io", sign_in=SignIn.NONE, endpoint=source.url),
            DeclaredRegistry("quay.io", sign_in=SignIn.NONE, endpoint=quay.url),
        ),
    )


@pytest.fixture
async def engine(
    directories: Directories, settings: Settings, clock: Clock
) -> AsyncIterator[Engine]:
    """All of Docker Hub appears below ``hub/``."""
    async with Engine.open(directories, settings, clock=clock) as engine:
        await engine.rules.create(RuleDraft("docker-hub", "docker.io/*", "hub/*"))
        yield engine


@pytest.fixture
async def hub_mirror(engine: Engine) -> AsyncIterator[httpx.AsyncClient]:
    """A client of a listener whose names are all of Docker Hub."""
    transport = httpx.ASGITransport(
        FixedNamespace(registry_app(engine), "docker.io"),
        raise_app_exceptions=False,
    )
    async with httpx.AsyncClient(transport=transport, base_url="http://mirror") as client:
        yield client


def error_of(response: httpx.Response) -> tuple[int, str, str]:
    [error] = response.json()["errors"]
    return response.status_code, error["code"], error["message"]


async def pull(client: httpx.AsyncClient, name: str, image: FakeImage, query: str) -> None:
    """Pull one platform as containerd does, which sends ``ns`` with each request."""
    head = await client.head(f"/v2/{name}/manifests/{image.tag}{query}")
    assert head.headers["docker-content-digest"] == str(image.digest)
    index = await client.get(f"/v2/{name}/manifests/{image.digest}{query}")
    assert index.content == image.manifest.content
    platform = image.platforms[AMD64]
    manifest = await client.get(f"/v2/{name}/manifests/{platform.digest}{query}")
    assert manifest.content == platform.manifest.content
    for blob in platform.blobs:
        response = await client.get(f"/v2/{name}/blobs/{blob.digest}{query}")
        assert response.content == blob.content
        assert response.headers["oci-namespace"] == "docker.io"


@pytest.mark.parametrize(
    ("name", "query"),
    [
        ("library/nginx", "?ns=docker.io"),
        ("nginx", "?ns=docker.io"),
        ("library/nginx", "?ns=index.docker.io"),
        ("nginx", "?ns=registry-1.docker.io"),
        ("library/nginx", "?ns=Docker.IO%3A443"),
    ],
)
async def test_all_forms_of_a_name_meet_the_same_entry(
    name: str, query: str, registry: httpx.AsyncClient, engine: Engine, source: FakeRegistry
) -> None:
    """F54; what is pulled once is then there without the source, by each of its names."""
    image = source.add_image("library/nginx", "1")
    await pull(registry, name, image, query)
    for progress in engine.cache.pulls.all():
        await progress.finished.wait()
    await source.stop()
    await pull(registry, "library/nginx", image, "?ns=docker.io")
    assert [repository.name for repository in await engine.repositories.list()] == [
        "hub/library/nginx"
    ]


async def test_pulls_are_counted_for_the_target_repository(
    registry: httpx.AsyncClient, engine: Engine, source: FakeRegistry
) -> None:
    image = source.add_image("library/nginx", "1")
    await pull(registry, "nginx", image, "?ns=docker.io")
    [progress] = engine.cache.pulls.all()
    assert (progress.repository, progress.progress().rule) == ("hub/library/nginx", "docker-hub")
    await engine.cache.usage.write()
    assert (await engine.repositories.summary("hub/library/nginx")).pulls == 1


async def test_a_mirror_listener_needs_no_ns(
    hub_mirror: httpx.AsyncClient, source: FakeRegistry
) -> None:
    image = source.add_image("library/nginx", "1")
    await pull(hub_mirror, "library/nginx", image, "")
    await pull(hub_mirror, "library/nginx", image, "?ns=docker.io")


@pytest.mark.parametrize("kind", ["manifests/1", "tags/list", f"blobs/sha256:{'0' * 64}"])
async def test_without_a_rule_the_client_goes_on_to_its_next_registry_at_once(
    kind: str, registry: httpx.AsyncClient, source: FakeRegistry, quay: FakeRegistry
) -> None:
    response = await registry.get(f"/v2/library/nginx/{kind}?ns=quay.io")
    status, code, message = error_of(response)
    assert (status, code) == (404, "NAME_UNKNOWN")
    assert "No cache rule pulls from quay.io/library/nginx." in message
    assert "oci-namespace" not in response.headers
    assert source.requests == quay.requests == []


async def test_an_image_of_one_registry_never_answers_under_anothers_name(
    registry: httpx.AsyncClient,
    hub_mirror: httpx.AsyncClient,
    engine: Engine,
    source: FakeRegistry,
    quay: FakeRegistry,
) -> None:
    """containerd kept Docker Hub's image as quay.io/library/small."""
    hubs = source.add_image("library/small", "1", layers=[b"of Docker Hub"])
    quays = quay.add_image("library/small", "1", layers=[b"of Quay"])
    await pull(registry, "library/small", hubs, "?ns=docker.io")
    path = "/v2/library/small/manifests/1"
    assert (await registry.get(f"{path}?ns=quay.io")).status_code == 404
    await engine.rules.create(RuleDraft("quay-all", "quay.io/*", "library-of-quay/*"))
    assert (await registry.get(f"{path}?ns=quay.io")).content == quays.manifest.content
    assert (await registry.get(f"{path}?ns=docker.io")).content == hubs.manifest.content
    assert (await hub_mirror.get(path)).content == hubs.manifest.content
    status, code, message = error_of(await hub_mirror.get(f"{path}?ns=quay.io"))
    assert (status, code) == (404, "NAME_UNKNOWN")
    assert "Every name at this address is one of docker.io" in message
    # Nor by the names of target repositories.
    assert (await hub_mirror.get("/v2/hub/library/small/manifests/1")).status_code == 404
    layer = quays.platforms[AMD64].layers[0].digest
    missing = await registry.get(f"/v2/library/small/blobs/{layer}?ns=docker.io")
    assert missing.status_code == 404


@pytest.mark.parametrize(
    ("namespace", "status"),
    [
        ("", 400),
        ("%20", 400),
        ("..%2F", 400),
        ("127.0.0.1:1", 404),
        ("%5B%3A%3A1%5D:1", 404),
        ("::1", 400),
        ("evil.example", 404),
        ("http%3A%2F%2F127.0.0.1%3A1", 400),
        ("*.azurecr.io", 404),
        ("a" * 5_000, 400),
        ("a.b" * 50, 404),
        ("%00", 400),
        ("%ff%fe", 400),
        ("docker.io%0d%0aX-Evil: 1", 400),
        ("docker.io&ns=docker.io", 400),
        ("docker.io&ns=quay.io", 400),
    ],
)
async def test_a_hostile_ns_is_never_dialled_and_refused_in_words(
    namespace: str,
    status: int,
    registry: httpx.AsyncClient,
    hub_mirror: httpx.AsyncClient,
    source: FakeRegistry,
    quay: FakeRegistry,
) -> None:
    """F46."""
    image = source.add_image("library/nginx", "1")
    for client in (registry, hub_mirror):
        for path in ("manifests/1", f"blobs/{image.digest}", "tags/list"):
            response = await client.get(f"/v2/library/nginx/{path}?ns={namespace}")
            assert response.status_code == status, response.text
            assert len(error_of(response)[2]) < 500
            assert "x-evil" not in response.headers
    assert source.requests == quay.requests == []


async def test_tags_have_the_name_that_the_client_uses(
    registry: httpx.AsyncClient, hub_mirror: httpx.AsyncClient, source: FakeRegistry
) -> None:
    for tag in "abc":
        source.add_image("library/nginx", tag, layers=[10])
    for client, query, extra in (
        (registry, {"ns": "docker.io"}, "&ns=docker.io"),
        (registry, {"ns": "INDEX.docker.io"}, "&ns=docker.io"),
        (hub_mirror, {}, ""),
    ):
        page = await client.get("/v2/nginx/tags/list", params={"n": 2, **query})
        assert page.json() == {"name": "nginx", "tags": ["a", "b"]}
        assert page.headers["oci-namespace"] == "docker.io"
        assert page.headers["link"] == f'</v2/nginx/tags/list?n=2&last=b{extra}>; rel="next"'
        rest = await client.get(page.headers["link"].partition(">")[0][1:])
        assert rest.json() == {"name": "nginx", "tags": ["c"]}
    direct = await registry.get("/v2/hub/library/nginx/tags/list")
    assert direct.json() == {"name": "hub/library/nginx", "tags": ["a", "b", "c"]}
    assert "oci-namespace" not in direct.headers


async def test_the_catalog_of_a_mirror_has_the_names_of_its_registry(
    registry: httpx.AsyncClient,
    hub_mirror: httpx.AsyncClient,
    engine: Engine,
    quay: FakeRegistry,
    source: FakeRegistry,
) -> None:
    await engine.rules.create(RuleDraft("quay-all", "quay.io/*", "quay/*"))
    for registry_of_image, name, namespace in (
        (source, "library/nginx", "docker.io"),
        (source, "grafana/loki", "docker.io"),
        (quay, "coreos/etcd", "quay.io"),
    ):
        registry_of_image.add_image(name, "1", layers=[10])
        await registry.get(f"/v2/{name}/manifests/1?ns={namespace}")
    hubs = ["grafana/loki", "library/nginx"]
    for client, query, extra in (
        (registry, {"ns": "docker.io"}, "&ns=docker.io"),
        (hub_mirror, {}, ""),
    ):
        page = await client.get("/v2/_catalog", params={"n": 1, **query})
        assert page.json() == {"repositories": hubs[:1]}
        assert page.headers["link"] == f'</v2/_catalog?n=1&last=grafana%2Floki{extra}>; rel="next"'
        rest = await client.get(page.headers["link"].partition(">")[0][1:])
        assert (rest.json(), "link" in rest.headers) == ({"repositories": hubs[1:]}, False)
        assert (await client.get("/v2/_catalog", params=query)).json() == {"repositories": hubs}
        assert (await client.get("/v2/_catalog", params={"n": 0, **query})).json() == {
            "repositories": []
        }
    assert (await registry.get("/v2/_catalog?ns=ghcr.io")).json() == {"repositories": []}
    assert (await registry.get("/v2/_catalog")).json() == {
        "repositories": ["hub/grafana/loki", "hub/library/nginx", "quay/coreos/etcd"]
    }


async def test_what_the_source_does_not_have_lets_the_client_go_on(
    hub_mirror: httpx.AsyncClient, source: FakeRegistry
) -> None:
    """F53: an anonymous 401 or 403 is Docker Hub's answer for what does not exist."""
    source.add_image("library/nginx", "1")
    assert (await hub_mirror.get("/v2/library/nginx/manifests/2")).status_code == 404
    assert (await hub_mirror.get("/v2/none/such/manifests/1")).status_code == 404
    source.fault("/manifests/", Status(403))
    status, code, message = error_of(await hub_mirror.get("/v2/library/nginx/manifests/3"))
    assert (status, code) == (404, "MANIFEST_UNKNOWN")
    assert "docker.io/library/nginx:3" in message
    assert "hub/" not in message


async def test_a_stale_answer_has_its_warning_in_mirror_mode_too(
    hub_mirror: httpx.AsyncClient, source: FakeRegistry, clock: Clock
) -> None:
    image = source.add_image("library/nginx", "1")
    await hub_mirror.get("/v2/library/nginx/manifests/1")
    await source.stop()
    clock.now += 3_600
    response = await hub_mirror.get("/v2/library/nginx/manifests/1")
    assert response.content == image.manifest.content
    assert response.headers["warning"].startswith('299 - "docker.io')
    assert (response.headers["entrepot-origin"], response.headers["oci-namespace"]) == (
        "stale",
        "docker.io",
    )


async def test_a_manifest_that_the_client_does_not_accept_is_named_by_the_clients_name(
    hub_mirror: httpx.AsyncClient, source: FakeRegistry
) -> None:
    source.add_image("library/nginx", "1", platforms=["linux/arm64"])
    response = await hub_mirror.get("/v2/nginx/manifests/1", headers={"Accept": "text/plain"})
    assert error_of(response)[2].startswith("docker.io/nginx:1 is a ")


async def test_referrers_are_found_by_the_name_at_the_source(
    registry: httpx.AsyncClient, source: FakeRegistry
) -> None:
    image = source.add_image("library/nginx", "1")
    signature = image.platforms[AMD64].manifest
    source.add_referrer("library/nginx", image.digest, signature, "example/signature")
    response = await registry.get(f"/v2/nginx/referrers/{image.digest}?ns=docker.io")
    assert [referrer["digest"] for referrer in response.json()["manifests"]] == [
        str(signature.digest)
    ]
    assert response.headers["oci-namespace"] == "docker.io"


async def test_probes_are_answered_on_a_mirror_listener(hub_mirror: httpx.AsyncClient) -> None:
    assert (await hub_mirror.get("/v2/")).status_code == 200
    assert (await hub_mirror.get("/healthz")).json() == {"status": "alive"}
    assert (await hub_mirror.get("/readyz")).json()["status"] == "ready"
    assert (await hub_mirror.post("/v2/library/nginx/blobs/uploads/")).status_code == 405


async def test_the_rule_of_a_ring_is_named_in_mirror_mode(
    hub_mirror: httpx.AsyncClient, engine: Engine
) -> None:
    headers = engine.sources.via.headers
    response = await hub_mirror.get("/v2/library/nginx/manifests/1", headers=headers)
    assert response.status_code == 508
    assert "its cache rule docker-hub" in error_of(response)[2]
