"""Tag lifetime, rate limits and failing source registries, as container clients see them.

``docs/failures.md`` says what each code means, and where else it is tested.
"""

from __future__ import annotations

import asyncio
import random
import socket
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import replace

import httpx
import pytest

from entrepot.api.client import CacheClient
from entrepot.api.models import RuleSnapshot, SourceRegistrySnapshot
from entrepot.cache import failures
from entrepot.config.directories import Directories
from entrepot.config.settings import Settings
from entrepot.core.credentials import CredentialSetDraft
from entrepot.core.reference import Digest, Repository, Tag
from entrepot.core.registries import DeclaredRegistry
from entrepot.core.rules import RuleDraft
from entrepot.core.states import SignIn
from entrepot.engine.engine import Engine
from entrepot.errors import Refusal
from entrepot.event_kinds import EventKind
from entrepot.server.run import management_app, registry_app
from entrepot.source.blob_transport import BlobTransport
from entrepot.source.transport import SourceTransport
from tests.conftest import LOGIN_SERVER, Clock
from tests.fakes import BasicSignIn, FakeRegistry, Hang, Headers, Html, Status, TokenSignIn

TAG = "/v2/library/nginx/manifests/1.27"
AMD64 = "linux/amd64"
PLATFORMS = [f"linux/p{number}" for number in range(10)]
RULE = "example-library"


def error_of(response: httpx.Response) -> tuple[int, str, str]:
    [error] = response.json()["errors"]
    return response.status_code, error["code"], error["message"]


def registry_of(engine: Engine) -> httpx.AsyncClient:
    transport = httpx.ASGITransport(registry_app(engine), raise_app_exceptions=False)
    return httpx.AsyncClient(transport=transport, base_url="http://entrepot", timeout=30)


def upstream_of(engine: Engine) -> SourceRegistrySnapshot:
    return next(
        each for each in engine.status.source_registries() if each.login_server == LOGIN_SERVER
    )


async def rule_of(engine: Engine) -> RuleSnapshot:
    await engine.cache.usage.write()
    return next(each for each in await engine.rules.list() if each.name == RULE)


async def until(holds: Callable[[], bool]) -> None:
    async with asyncio.timeout(30):
        while not holds():
            await asyncio.sleep(0)


class Tries:
    """Lets a source that could not be reached be tried again when a test says so."""

    def __init__(self, engine: Engine) -> None:
        self.pauses: list[float] = []
        self._turns = asyncio.Semaphore(0)
        engine.sources.breakers.wait = self._wait

    async def _wait(self, seconds: float) -> None:
        self.pauses.append(seconds)
        await self._turns.acquire()

    def next(self) -> None:
        self._turns.release()


@pytest.fixture
def tries(engine: Engine) -> Tries:
    return Tries(engine)


@pytest.fixture
def sent(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Every request that goes onto the network."""
    requests: list[str] = []

    def count(transport: type[httpx.AsyncBaseTransport]) -> None:
        send = transport.handle_async_request

        async def counted(self: httpx.AsyncBaseTransport, request: httpx.Request) -> httpx.Response:
            requests.append(f"{request.method} {request.url.path}")
            return await send(self, request)

        monkeypatch.setattr(transport, "handle_async_request", counted)

    count(SourceTransport)
    count(BlobTransport)
    return requests


# Freshness


@pytest.mark.parametrize(
    ("freshness", "after", "heads"),
    [
        ("always", 0, 3),
        ("never", 10_000_000, 0),
        ("1 h", 3_500, 0),
        ("1 h", 3_700, 1),
        (None, 301, 1),
    ],
)
async def test_f22_the_tag_lifetime_of_a_rule_decides_when_its_source_is_asked(
    freshness: str | None,
    after: float,
    heads: int,
    registry: httpx.AsyncClient,
    engine: Engine,
    source: FakeRegistry,
    clock: Clock,
) -> None:
    source.add_image("library/nginx", "1.27")
    await engine.rules.update(RULE, freshness=freshness)
    await registry.get(TAG)
    source.requests.clear()
    clock.now += after
    for _ in range(3):
        assert (await registry.get(TAG)).headers["entrepot-origin"] == "cache"
    assert [each.method for each in source.requests] == ["HEAD"] * heads


async def test_f22_a_cached_image_is_pulled_a_hundred_times_without_a_request(
    registry: httpx.AsyncClient, source: FakeRegistry, clock: Clock
) -> None:
    image = source.add_image("library/nginx", "1.27")
    child = image.platforms[AMD64].digest
    for reference in ("1.27", child):
        await registry.get(f"/v2/library/nginx/manifests/{reference}")
    source.requests.clear()
    for _ in range(100):
        for reference in ("1.27", image.digest, child):
            assert (
                await registry.get(f"/v2/library/nginx/manifests/{reference}")
            ).status_code == 200
    clock.now += 1_000_000
    for digest in (image.digest, child):
        assert (await registry.get(f"/v2/library/nginx/manifests/{digest}")).status_code == 200
    assert source.requests == []


async def test_with_always_all_who_wait_share_one_head(
    registry: httpx.AsyncClient, engine: Engine, source: FakeRegistry
) -> None:
    source.add_image("library/nginx", "1.27")
    await engine.rules.update(RULE, freshness="always")
    await registry.get(TAG)
    source.requests.clear()
    gate = source.hold("/manifests/", method="HEAD")
    waiting = [asyncio.create_task(registry.get(TAG)) for _ in range(20)]
    await gate.reached
    for _ in range(1000):
        await asyncio.sleep(0)
    gate.open()
    assert {each.status_code for each in await asyncio.gather(*waiting)} == {200}
    assert [each.method for each in source.requests] == ["HEAD"]


async def test_f23_a_forced_refresh_moves_a_fresh_tag_and_the_old_digest_stays(
    registry: httpx.AsyncClient, engine: Engine, source: FakeRegistry
) -> None:
    old = source.add_image("library/nginx", "1.27", layers=[b"old"])
    await registry.get(TAG)
    new = source.add_image("library/nginx", "1.27", layers=[b"new"])
    assert (await registry.get(TAG)).content == old.manifest.content
    source.requests.clear()
    async with CacheClient.of_app(management_app(engine)) as client:
        refreshed = await client.repositories.refresh_tag("library/nginx:1.27")
    assert (refreshed.before, refreshed.digest, refreshed.moved, refreshed.problem) == (
        str(old.digest),
        str(new.digest),
        True,
        None,
    )
    assert [each.method for each in source.requests] == ["HEAD", "GET"]
    assert not (await engine.pulls.refresh("library/nginx:1.27")).moved
    assert (await registry.get(TAG)).content == new.manifest.content
    requests_before = len(source.requests)
    assert (
        await registry.get(f"/v2/library/nginx/manifests/{old.digest}")
    ).content == old.manifest.content
    assert len(source.requests) == requests_before
    assert any(event.kind == "tag-moved" for event in engine.events.recent())


async def test_f24_a_tag_that_is_gone_at_its_source_stays_and_says_so(
    registry: httpx.AsyncClient, engine: Engine, source: FakeRegistry
) -> None:
    image = source.add_image("library/nginx", "1.27")
    await registry.get(TAG)
    source.remove_tag("library/nginx", "1.27")
    assert (await engine.pulls.refresh("library/nginx:1.27")).gone
    response = await registry.get(TAG)
    assert (response.status_code, response.content) == (200, image.manifest.content)
    assert "is gone at its source" in response.headers["warning"]


async def test_f25_a_repository_that_was_deleted_here_fills_again(
    registry: httpx.AsyncClient, engine: Engine, source: FakeRegistry
) -> None:
    image = source.add_image("library/nginx", "1.27")
    await registry.get(TAG)
    await engine.repositories.delete("library/nginx")
    response = await registry.get(TAG)
    assert (response.status_code, response.content, response.headers["entrepot-origin"]) == (
        200,
        image.manifest.content,
        "upstream",
    )


async def test_f26_a_tag_that_appears_is_seen_within_seconds_and_at_once_by_a_refresh(
    registry: httpx.AsyncClient, engine: Engine, source: FakeRegistry, clock: Clock
) -> None:
    assert (await registry.get(TAG)).status_code == 404
    source.add_image("library/nginx", "1.27")
    assert (await registry.get(TAG)).status_code == 404
    clock.now += engine.settings.negative_freshness
    assert (await registry.get(TAG)).status_code == 200
    assert (await registry.get("/v2/library/nginx/manifests/2")).status_code == 404
    source.add_image("library/nginx", "2")
    assert (await engine.pulls.refresh("library/nginx:2")).before is None


async def test_f28_an_index_with_its_children_cached_costs_one_head(
    registry: httpx.AsyncClient, source: FakeRegistry, clock: Clock
) -> None:
    image = source.add_image("library/nginx", "1.27", layers=[100], platforms=PLATFORMS)
    await registry.get(TAG)
    for platform_image in image.platforms.values():
        await registry.get(f"/v2/library/nginx/manifests/{platform_image.digest}")
    source.requests.clear()
    clock.now += 1_000
    references = [*["1.27"] * 20, *(each.digest for each in image.platforms.values())]
    answers = await asyncio.gather(
        *(registry.get(f"/v2/library/nginx/manifests/{reference}") for reference in references)
    )
    assert {each.status_code for each in answers} == {200}
    assert [each.method for each in source.requests] == ["HEAD"]


async def test_f29_only_the_platform_that_was_asked_for_is_fetched(
    engine: Engine, source: FakeRegistry
) -> None:
    image = source.add_image("library/nginx", "1.27")
    pull = await engine.pulls.start("library/nginx:1.27", AMD64, "cli")
    await engine.cache.pulls.get(pull.id).finished.wait()
    amd64_image = image.platforms[AMD64]
    assert source.bytes_sent == image.manifest.size + amd64_image.manifest.size + sum(
        blob.size for blob in amd64_image.blobs
    )


# RateLimit


async def test_the_rate_limit_of_docker_hub_is_read_and_shown_with_its_window(
    registry: httpx.AsyncClient, engine: Engine, source: FakeRegistry
) -> None:
    source.add_image("library/nginx", "1.27")
    source.fault(
        "/manifests/",
        Headers({"ratelimit-limit": "100;w=21600", "ratelimit-remaining": "76;w=21600"}),
    )
    await registry.get(TAG)
    registry_status = upstream_of(engine)
    assert (
        registry_status.rate_limit_remaining,
        registry_status.rate_limit_limit,
        registry_status.rate_limit_window,
    ) == (
        76,
        100,
        21_600,
    )


async def test_f19_over_the_rate_limit_a_copy_is_served_without_a_request(
    registry: httpx.AsyncClient, engine: Engine, source: FakeRegistry, clock: Clock
) -> None:
    image = source.add_image("library/nginx", "1.27")
    source.add_image("library/redis", "7")
    for path in (TAG, "/v2/library/redis/manifests/7"):
        await registry.get(path)
    engine.sources.rate_limits._clock = clock
    source.fault("/manifests/", Status(429, headers={"Retry-After": "120"}))
    source.requests.clear()
    clock.now += engine.settings.freshness
    limited = await registry.get(TAG)
    assert (limited.status_code, limited.content, limited.headers["entrepot-origin"]) == (
        200,
        image.manifest.content,
        "stale",
    )
    clock.now += 100
    for path in (TAG, "/v2/library/redis/manifests/7"):
        assert (await registry.get(path)).headers["entrepot-origin"] == "stale"
    assert [each.method for each in source.requests] == ["HEAD"]
    source.clear_faults()
    clock.now += 21
    assert (await registry.get(TAG)).headers["entrepot-origin"] == "cache"
    assert len(source.requests) == 2


@pytest.mark.parametrize("asked", ["30", None])
async def test_f20_over_the_rate_limit_without_a_copy_a_client_gets_retry_after(
    asked: str | None, registry: httpx.AsyncClient, source: FakeRegistry
) -> None:
    random.seed(1)
    source.fault("/manifests/", Status(429, headers={"Retry-After": asked} if asked else {}))
    answers = [await registry.get(TAG) for _ in range(20)]
    assert {error_of(each)[:2] for each in answers} == {(429, "TOOMANYREQUESTS")}
    assert f"(cache rule {RULE})" in error_of(answers[0])[2]
    waits = {int(each.headers["retry-after"]) for each in answers}
    assert min(waits) >= int(asked or 3)
    assert max(waits) <= int(asked or 3) + 6
    assert len(waits) > 1
    assert len(source.requests) == 1


async def test_f21_a_token_endpoint_that_limits_is_429_and_one_that_fails_is_no_404(
    registry: httpx.AsyncClient, engine: Engine, source: FakeRegistry, clock: Clock
) -> None:
    source.sign_in = TokenSignIn()
    source.add_image("library/nginx", "1.27")
    source.fault("/token", Status(429, headers={"Retry-After": "30"}))
    assert error_of(await registry.get(TAG))[:2] == (429, "TOOMANYREQUESTS")
    source.clear_faults()
    source.fault("/token", Status(500))
    clock.now += engine.settings.negative_freshness
    engine.sources.rate_limits._pauses.clear()
    assert error_of(await registry.get(TAG))[0] == 502


async def test_f22_requests_made_and_saved_are_counted_per_rule_across_restarts(
    directories: Directories, settings: Settings, source: FakeRegistry, clock: Clock
) -> None:
    source.add_image("library/nginx", "1.27")
    async with (
        Engine.open(directories, settings, clock=clock) as engine,
        registry_of(engine) as registry,
    ):
        await engine.rules.create(RuleDraft(RULE, f"{LOGIN_SERVER}/library/*", "library/*"))
        for _ in range(5):
            await registry.get(TAG)
        clock.now += 1_000
        await registry.get(TAG)
        usage = await rule_of(engine)
        assert (usage.requests_made, usage.requests_saved) == (1, 5)
        assert source.count("GET", "/manifests/") == usage.requests_made
    async with Engine.open(directories, settings, clock=clock) as engine:
        assert await rule_of(engine) == usage
        await engine.rules.delete(RULE)
        await engine.repositories.delete("library/nginx")
        await engine.rules.create(RuleDraft(RULE, f"{LOGIN_SERVER}/library/*", "library/*"))
        assert (await rule_of(engine)).requests_saved == 0


# Bad days


@asynccontextmanager
async def silent_port(*, accepts: bool) -> AsyncIterator[int]:
    """A port that never answers: it takes connections and says nothing, or, its queue being full,
    takes none at all."""
    listener = socket.socket()
    queued: list[socket.socket] = []
    try:
        listener.bind(("127.0.0.1", 0))
        listener.listen(100 if accepts else 0)
        for _ in range(0 if accepts else 4):
            connection = socket.socket()
            connection.setblocking(False)
            connection.connect_ex(listener.getsockname())
            queued.append(connection)
        yield listener.getsockname()[1]
    finally:
        for open_socket in (listener, *queued):
            open_socket.close()


@asynccontextmanager
async def bad_endpoint(kind: str, source: FakeRegistry) -> AsyncIterator[str]:
    if kind.startswith("silent"):
        async with silent_port(accepts=kind == "silent") as port:
            yield f"http://127.0.0.1:{port}"
    elif kind == "refused":
        await source.stop()
        yield source.url
    else:
        yield {"no name": "http://registry.invalid", "no tls": f"https://127.0.0.1:{source.port}"}[
            kind
        ]


@pytest.mark.parametrize(
    "kind", ["refused", "silent", "silent to connections", "no name", "no tls"]
)
async def test_f18_cached_images_are_served_and_an_unreachable_source_is_not_asked(
    kind: str,
    directories: Directories,
    settings: Settings,
    source: FakeRegistry,
    clock: Clock,
    sent: list[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    images = {
        tag: source.add_image("library/nginx", tag, layers=[tag.encode()])
        for tag in ("1.27", "1.28", "1.29")
    }
    async with (
        Engine.open(directories, settings, clock=clock) as engine,
        registry_of(engine) as registry,
    ):
        await engine.rules.create(RuleDraft(RULE, f"{LOGIN_SERVER}/library/*", "library/*"))
        for tag in images:
            (await registry.get(f"/v2/library/nginx/manifests/{tag}")).raise_for_status()
    clock.now += 1_000
    monkeypatch.setattr(failures, "REVALIDATION_TIMEOUT", 0.1)
    async with bad_endpoint(kind, source) as endpoint:
        bad = replace(
            settings,
            upstreams=(DeclaredRegistry(LOGIN_SERVER, "Example", SignIn.NONE, endpoint),),
            connect_timeout=0.5,
            read_timeout=0.5,
        )
        async with (
            Engine.open(directories, bad, clock=clock) as engine,
            registry_of(engine) as registry,
        ):
            tries = Tries(engine)
            for tag, image in images.items():
                response = await registry.get(f"/v2/library/nginx/manifests/{tag}")
                assert (
                    response.status_code,
                    response.content,
                    response.headers["entrepot-origin"],
                ) == (200, image.manifest.content, "stale")
                assert response.headers["warning"].startswith('299 - "registry.example.com')
            await until(
                lambda: (
                    upstream_of(engine).unreachable_since is not None
                    and not engine.cache._manifests._fetches._flights
                )
            )
            sent.clear()
            clock.now += 1_000
            for tag, image in images.items():
                assert (
                    await registry.get(f"/v2/library/nginx/manifests/{tag}")
                ).content == image.manifest.content
            assert (await registry.get("/v2/library/nginx/tags/list")).json()["tags"] == list(
                images
            )
            refused = await registry.get("/v2/library/nginx/manifests/none")
            assert error_of(refused)[:2] == (503, "UNKNOWN")
            assert "next try is in" in error_of(refused)[2]
            assert int(refused.headers["retry-after"]) >= 1
            assert sent == []
            assert [each.kind for each in engine.events.recent()].count(
                EventKind.SOURCE_UNREACHABLE
            ) == 1
            registry_status = upstream_of(engine)
            assert (registry_status.reachable, registry_status.next_try is not None) == (
                False,
                True,
            )
            # The next try fails like the first, and the one after it comes later.
            tries.next()
            await until(lambda: len(tries.pauses) == 2)
            assert sent == ["HEAD /v2/"]
            assert tries.pauses[0] < tries.pauses[1]


async def test_f18_a_source_that_is_back_is_used_again_by_itself(
    registry: httpx.AsyncClient, engine: Engine, source: FakeRegistry, clock: Clock, tries: Tries
) -> None:
    source.add_image("library/nginx", "1.27")
    await registry.get(TAG)
    await source.stop()
    clock.now += 1_000
    assert (await registry.get(TAG)).headers["entrepot-origin"] == "stale"
    new = source.add_image("library/nginx", "1.27", layers=[b"new"])
    await source.start()
    source.requests.clear()
    assert (await registry.get(TAG)).headers["entrepot-origin"] == "stale"
    assert source.requests == []
    tries.next()
    await until(lambda: upstream_of(engine).unreachable_since is None)
    assert [(each.method, each.path) for each in source.requests] == [("HEAD", "/v2/")]
    assert (await registry.get(TAG)).content == new.manifest.content
    assert upstream_of(engine).reachable is True
    assert "source-reachable" in [each.kind for each in engine.events.recent()]


@pytest.mark.parametrize(
    "fault",
    [Status(500), Status(503, headers={"Retry-After": "60"}), Status(403), Html()],
    ids=["500", "503", "403", "captive portal"],
)
async def test_f18_a_source_with_error_responses_is_reachable_and_copies_are_served(
    fault: Status | Html,
    registry: httpx.AsyncClient,
    engine: Engine,
    source: FakeRegistry,
    clock: Clock,
) -> None:
    image = source.add_image("library/nginx", "1.27")
    await registry.get(TAG)
    source.fault("/", fault)
    clock.now += 1_000
    source.requests.clear()
    for _ in range(3):
        response = await registry.get(TAG)
        assert (response.status_code, response.content, response.headers["entrepot-origin"]) == (
            200,
            image.manifest.content,
            "stale",
        )
    assert len(source.requests) == 1
    assert upstream_of(engine).unreachable_since is None
    assert upstream_of(engine).problem is not None


async def test_f18_a_source_that_was_slow_once_is_asked_but_not_waited_for(
    registry: httpx.AsyncClient,
    engine: Engine,
    source: FakeRegistry,
    clock: Clock,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(failures, "REVALIDATION_TIMEOUT", 0.05)
    for tag in ("1.27", "1.28"):
        source.add_image("library/nginx", tag)
        await registry.get(f"/v2/library/nginx/manifests/{tag}")
    clock.now += 1_000
    source.requests.clear()
    gate = source.hold("/manifests/", method="HEAD")
    assert (await registry.get(TAG)).headers["entrepot-origin"] == "stale"
    monkeypatch.setattr(failures, "REVALIDATION_TIMEOUT", 10_000)
    async with asyncio.timeout(30):
        assert (await registry.get("/v2/library/nginx/manifests/1.28")).headers[
            "entrepot-origin"
        ] == "stale"
        await source.arrived("HEAD", "1.28")
    gate.open()
    # The answer that came late counts all the same: both tags are fresh now.
    await until(lambda: not engine.cache._manifests._fetches._flights)
    for tag in ("1.27", "1.28"):
        assert (await registry.get(f"/v2/library/nginx/manifests/{tag}")).headers[
            "entrepot-origin"
        ] == "cache"
    assert len(source.requests) == 2


@pytest.mark.parametrize(
    "fault", [Status(500), Status(403), Hang(), Html()], ids=["500", "403", "hangs", "page"]
)
async def test_f27_one_failing_repository_does_not_keep_the_others_from_being_pulled(
    fault: Status | Hang | Html,
    directories: Directories,
    settings: Settings,
    source: FakeRegistry,
    clock: Clock,
) -> None:
    source.add_image("library/nginx", "1.27")
    source.add_image("library/redis", "7")
    source.fault("/library/nginx/", fault)
    async with (
        Engine.open(directories, replace(settings, read_timeout=0.3), clock=clock) as engine,
        registry_of(engine) as registry,
    ):
        await engine.rules.create(RuleDraft(RULE, f"{LOGIN_SERVER}/library/*", "library/*"))
        failing = asyncio.create_task(registry.get(TAG))
        while not failing.done():
            assert (await registry.head("/v2/library/redis/manifests/7")).status_code == 200
            assert (await engine.pulls.refresh("library/redis:7")).problem is None
        assert (await failing).status_code in {404, 502, 503}
        assert (await registry.get("/v2/library/redis/manifests/7")).status_code == 200
        assert upstream_of(engine).unreachable_since is None


# Errors that clients get


@pytest.fixture
async def with_credentials(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    """The rule signs in as ann, with the right password."""
    monkeypatch.setenv("SOURCE_USER", "ann")
    monkeypatch.setenv("SOURCE_PASSWORD", "s3cret")
    await engine.credential_sets.create(
        CredentialSetDraft("example-set", LOGIN_SERVER, "env:SOURCE_USER", "env:SOURCE_PASSWORD")
    )
    await engine.rules.update(RULE, "example-set")


@pytest.mark.parametrize("status", [401, 403, 404])
@pytest.mark.parametrize(
    ("path", "code"),
    [(TAG, "MANIFEST_UNKNOWN"), (f"/v2/library/nginx/blobs/{Digest.of(b'x')}", "BLOB_UNKNOWN")],
)
async def test_f53_what_the_source_hides_from_the_public_is_unknown(
    status: int, path: str, code: str, registry: httpx.AsyncClient, source: FakeRegistry
) -> None:
    source.fault("/library/", Status(status))
    assert error_of(await registry.get(path))[:2] == (404, code)


@pytest.mark.parametrize("status", [401, 403])
@pytest.mark.usefixtures("with_credentials")
async def test_f53_credentials_that_are_refused_are_no_missing_image(
    status: int, registry: httpx.AsyncClient, source: FakeRegistry
) -> None:
    source.fault("/library/", Status(status))
    error = error_of(await registry.get(TAG))
    assert error[:2] == (403, "DENIED")
    assert "example-set" in error[2]
    assert f"(cache rule {RULE})" in error[2]


@pytest.mark.parametrize(("status", "expected"), [(500, 502), (502, 502), (503, 503), (418, 502)])
async def test_f53_failures_of_the_source_name_the_source_and_the_rule(
    status: int, expected: int, registry: httpx.AsyncClient, source: FakeRegistry
) -> None:
    source.fault("/library/", Status(status, headers={"Retry-After": "60"}))
    error = error_of(await registry.get(TAG))
    assert error[0] == expected
    assert f"status {status}" in error[2]
    assert LOGIN_SERVER in error[2]
    assert f"(cache rule {RULE})" in error[2]


async def test_f53_a_blob_that_its_source_has_lost_is_an_unknown_blob(
    registry: httpx.AsyncClient, source: FakeRegistry
) -> None:
    layer = (
        source.add_image("library/nginx", "1.27", index=False, platforms=[AMD64])
        .platforms[AMD64]
        .layers[0]
    )
    await registry.get(TAG)
    source.fault("/blobs/", Status(404))
    assert error_of(await registry.get(f"/v2/library/nginx/blobs/{layer.digest}"))[:2] == (
        404,
        "BLOB_UNKNOWN",
    )


@pytest.mark.usefixtures("with_credentials")
async def test_f45_a_source_that_wants_the_sign_in_elsewhere_is_no_missing_image(
    registry: httpx.AsyncClient, source: FakeRegistry
) -> None:
    source.sign_in = TokenSignIn(realm="https://evil.example.net/token")
    source.add_image("library/nginx", "1.27")
    error = error_of(await registry.get(TAG))
    assert error[:2] == (403, "DENIED")
    assert "evil.example.net, which is not its own" in error[2]


async def test_f46_the_name_of_another_registry_in_ns_is_never_dialled(
    registry: httpx.AsyncClient, source: FakeRegistry, sent: list[str]
) -> None:
    source.add_image("library/nginx", "1.27")
    for path in (TAG, "/v2/other/app/manifests/1"):
        assert (await registry.get(f"{path}?ns=169.254.169.254")).status_code == 404
    assert sent == []


@pytest.mark.parametrize(
    "authorization", ["Basic YW5uOnMzY3JldA==", "Bearer something", "Nonsense"]
)
async def test_f48_foreign_credentials_are_neither_refused_nor_passed_on(
    authorization: str, registry: httpx.AsyncClient, source: FakeRegistry
) -> None:
    source.add_image("library/nginx", "1.27")
    assert (await registry.get(TAG, headers={"Authorization": authorization})).status_code == 200
    assert all("authorization" not in each.headers for each in source.requests)


@pytest.mark.usefixtures("with_credentials")
async def test_f50_a_sign_in_without_headers_about_limits_is_healthy(
    engine: Engine, source: FakeRegistry
) -> None:
    source.sign_in = TokenSignIn({"ann": "s3cret"}, anonymous=False)
    await engine.credential_sets.verify("example-set")
    assert engine.credential_sets.health("example-set").status.value == "Healthy"
    assert upstream_of(engine).rate_limit_remaining is None


@pytest.mark.parametrize(
    "written", ["docker.io/alpine", "index.docker.io/library/alpine", "docker.io/library/alpine"]
)
async def test_f54_one_image_of_docker_hub_is_one_source_however_it_is_written(
    written: str, directories: Directories, source: FakeRegistry
) -> None:
    settings = Settings(
        upstreams=(DeclaredRegistry("docker.io", sign_in=SignIn.OPTIONAL, endpoint=source.url),)
    )
    image = source.add_image("library/alpine", "3")
    async with Engine.open(directories, settings) as engine, registry_of(engine) as registry:
        await engine.rules.create(RuleDraft("hub-alpine", written, "alpine"))
        assert (await registry.get("/v2/alpine/manifests/3")).content == image.manifest.content


# Private stays private


async def test_f47_a_blob_cached_with_other_credentials_is_served_only_if_allowed(
    registry: httpx.AsyncClient,
    engine: Engine,
    source: FakeRegistry,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Two rules of one source: one signs in as ann, who may read what is private, the other is
    anonymous."""
    source.sign_in = TokenSignIn({"ann": "s3cret"}, private=["private/*", "library/*"])
    private = source.add_image("private/app", "1", layers=[b"hidden", b"shared"])
    public = source.add_image("public/app", "1", layers=[b"shared", b"open"])
    hidden, shared = private.platforms[AMD64].layers
    monkeypatch.setenv("SOURCE_USER", "ann")
    monkeypatch.setenv("SOURCE_PASSWORD", "s3cret")
    await engine.credential_sets.create(
        CredentialSetDraft("example-set", LOGIN_SERVER, "env:SOURCE_USER", "env:SOURCE_PASSWORD")
    )
    await engine.rules.create(
        RuleDraft("example-private", f"{LOGIN_SERVER}/private/*", "private/*", "example-set")
    )
    await engine.rules.create(RuleDraft("example-public", f"{LOGIN_SERVER}/public/*", "public/*"))
    pull = await engine.pulls.start("private/app:1", AMD64, "cli")
    await engine.cache.pulls.get(pull.id).finished.wait()
    assert engine.blobs.size(hidden.digest) is not None
    source.requests.clear()
    for digest in (private.digest, private.platforms[AMD64].digest):
        assert error_of(await registry.get(f"/v2/public/app/manifests/{digest}"))[:2] == (
            404,
            "MANIFEST_UNKNOWN",
        )
        assert (await registry.head(f"/v2/public/app/manifests/{digest}")).status_code == 404
    assert error_of(await registry.get(f"/v2/public/app/blobs/{hidden.digest}"))[:2] == (
        404,
        "BLOB_UNKNOWN",
    )
    assert (await registry.head(f"/v2/public/app/blobs/{hidden.digest}")).status_code == 404
    # Each was asked of the public repository, and never with ann's name.
    assert {each.repository for each in source.requests if each.path != "/token"} == {"public/app"}
    assert all("authorization" not in each.headers for each in source.received("GET", "/token"))
    # What the public repository has as well is served, from the one copy, once its source has said
    # so.
    heads_before = source.count("HEAD", str(shared.digest))
    for _ in range(2):
        assert (await registry.get(f"/v2/public/app/blobs/{shared.digest}")).content == b"shared"
    assert source.count("HEAD", str(shared.digest)) == heads_before + 1
    assert source.count("GET", str(shared.digest)) == 0
    assert (await registry.get("/v2/public/app/manifests/1")).content == public.manifest.content


# Network manners


async def test_f63_blobs_beyond_the_cap_of_a_source_wait_their_turn(
    directories: Directories, settings: Settings, source: FakeRegistry
) -> None:
    layers = (
        source.add_image(
            "library/nginx",
            "1.27",
            layers=[bytes([number]) * 500 for number in range(6)],
            platforms=[AMD64],
        )
        .platforms[AMD64]
        .layers
    )
    gate = source.hold("/blobs/", method="GET")
    async with (
        Engine.open(directories, replace(settings, parallel_per_source=2)) as engine,
        registry_of(engine) as registry,
    ):
        await engine.rules.create(RuleDraft(RULE, f"{LOGIN_SERVER}/library/*", "library/*"))
        getting = [
            asyncio.create_task(registry.get(f"/v2/library/nginx/blobs/{layer.digest}"))
            for layer in layers
        ]
        await until(lambda: gate.waiting == 2 and len(engine.fills.under_way) == 6)
        assert source.count("GET", "/blobs/") == 2
        gate.open()
        assert [answer.status_code for answer in await asyncio.gather(*getting)] == [200] * 6


async def test_a_source_sees_the_name_and_version_of_entrepot(
    registry: httpx.AsyncClient, source: FakeRegistry
) -> None:
    source.add_image("library/nginx", "1.27")
    await registry.get(TAG)
    assert source.requests[0].headers["user-agent"].startswith("entrepot/")


class FakeRegistryOverIPv6(FakeRegistry):
    """The same on the loopback address of IPv6."""

    @property
    def url(self) -> str:
        return f"http://[::1]:{self.port}"

    async def start(self) -> None:
        self._listener = await asyncio.start_server(self._connected, "::1", self.port)
        self.port = self._listener.sockets[0].getsockname()[1]


def has_ipv6() -> bool:
    try:
        with socket.socket(socket.AF_INET6) as probe:
            probe.bind(("::1", 0))
    except OSError:
        return False
    return True


@pytest.mark.skipif(not has_ipv6(), reason="this machine has no IPv6")
async def test_f64_a_source_is_named_by_its_literal_address_of_ipv6(
    directories: Directories,
) -> None:
    async with FakeRegistryOverIPv6() as source:
        image = source.add_image("library/nginx", "1.27")
        name = f"[::1]:{source.port}"
        settings = Settings(upstreams=(DeclaredRegistry(name, "Six", SignIn.NONE, source.url),))
        async with Engine.open(directories, settings) as engine, registry_of(engine) as registry:
            await engine.rules.create(RuleDraft(RULE, f"{name}/library/*", "library/*"))
            assert (await registry.get(TAG)).content == image.manifest.content


async def test_f64_where_one_address_of_a_name_takes_no_connection_the_other_is_used(
    directories: Directories, source: FakeRegistry, monkeypatch: pytest.MonkeyPatch
) -> None:
    def two_addresses(host: str, port: int | None, **_: object) -> list[tuple[object, ...]]:
        assert host == "two.example"
        six = (socket.AF_INET6, socket.SOCK_STREAM, 6, "", ("::1", port, 0, 0))
        return [six, (socket.AF_INET, socket.SOCK_STREAM, 6, "", ("127.0.0.1", port))]

    monkeypatch.setattr(socket, "getaddrinfo", two_addresses)
    image = source.add_image("library/nginx", "1.27")
    settings = Settings(
        upstreams=(
            DeclaredRegistry(LOGIN_SERVER, "Two", SignIn.NONE, f"http://two.example:{source.port}"),
        )
    )
    async with Engine.open(directories, settings) as engine, registry_of(engine) as registry:
        await engine.rules.create(RuleDraft(RULE, f"{LOGIN_SERVER}/library/*", "library/*"))
        assert (await registry.get(TAG)).content == image.manifest.content


async def test_a_freshness_that_is_none_is_refused_and_changes_nothing(engine: Engine) -> None:
    with pytest.raises(Refusal) as refused:
        await engine.rules.update(RULE, freshness="soon")
    assert (refused.value.code, refused.value.field) == ("FreshnessInvalid", "freshness")
    assert engine.documents.rules.get(RULE).freshness is None


async def test_a_refused_basic_sign_in_reveals_nothing_to_the_public(
    registry: httpx.AsyncClient, source: FakeRegistry
) -> None:
    source.sign_in = BasicSignIn({"ann": "s3cret"})
    source.add_image("library/nginx", "1.27")
    assert error_of(await registry.get(TAG))[:2] == (404, "MANIFEST_UNKNOWN")


async def test_a_tag_that_is_never_checked_again_says_so(
    registry: httpx.AsyncClient, engine: Engine, source: FakeRegistry
) -> None:
    source.add_image("library/nginx", "1.27")
    await engine.rules.update(RULE, freshness="never")
    await registry.get(TAG)
    [tag] = (await engine.repositories.get("library/nginx")).tags
    assert tag.fresh_until is None
    assert (await engine.cache.index.tag(Repository("library/nginx"), Tag("1.27"))) is not None
