"""Engines whose sources are engines: rings, and failures that are handed on."""

from __future__ import annotations

import asyncio
import socket
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import replace
from email.utils import formatdate
from pathlib import Path

import httpx
import pytest

from entrepot.config.directories import Directories
from entrepot.config.settings import Settings
from entrepot.core.registries import DeclaredRegistry
from entrepot.core.rules import RuleDraft
from entrepot.core.states import SignIn
from entrepot.engine.engine import Engine
from entrepot.httpd.server import bind_tcp, serving
from entrepot.server.mirror_namespace import FixedNamespace
from entrepot.server.registry_response import MAX_WAIT
from entrepot.server.run import registry_app
from tests.conftest import LOGIN_SERVER, Clock
from tests.fakes import FakeRegistry, Headers, Status

PATHS = [
    "manifests/1",
    f"manifests/sha256:{'0' * 64}",
    f"blobs/sha256:{'0' * 64}",
    "tags/list",
    f"referrers/sha256:{'0' * 64}",
]


def address_of(listener: socket.socket) -> str:
    return f"http://127.0.0.1:{listener.getsockname()[1]}"


@asynccontextmanager
async def engines(
    root: Path, settings: Settings, clock: Clock, sources: Sequence[int | str]
) -> AsyncIterator[list[tuple[Engine, httpx.AsyncClient]]]:
    """Running engines with a client each. The source of each is another by its number, or an
    address."""
    listeners = [bind_tcp("127.0.0.1", 0) for _ in sources]
    async with AsyncExitStack() as stack:
        running = []
        for number, (listener, source) in enumerate(zip(listeners, sources, strict=True)):
            endpoint = source if isinstance(source, str) else address_of(listeners[source])
            upstream = DeclaredRegistry(LOGIN_SERVER, "Example", SignIn.OPTIONAL, endpoint)
            opened = Engine.open(
                Directories.under(root / str(number)),
                replace(settings, upstreams=(upstream,)),
                clock=clock,
            )
            engine = await stack.enter_async_context(opened)
            await engine.rules.create(
                RuleDraft(f"rule-{number}", f"{LOGIN_SERVER}/library/*", "library/*")
            )
            await stack.enter_async_context(serving(registry_app(engine), listener))
            client = httpx.AsyncClient(base_url=address_of(listener), timeout=60, verify=False)
            running.append((engine, await stack.enter_async_context(client)))
        yield running


@pytest.mark.parametrize("sources", [[0], [1, 0], [1, 2, 0]], ids=["its own", "two", "three"])
@pytest.mark.parametrize("path", PATHS)
async def test_a_ring_of_engines_is_noticed_at_once(
    path: str, sources: list[int], tmp_path: Path, settings: Settings, clock: Clock
) -> None:
    """Each client used to wait for 60 s without a reason."""
    async with engines(tmp_path, replace(settings, read_timeout=600.0), clock, sources) as running:
        for _, client in running:
            response = await client.get(f"/v2/library/nginx/{path}")
            assert response.status_code == 508, response.text
            [error] = response.json()["errors"]
            assert LOGIN_SERVER in error["message"]
            assert "own source" in error["message"]
            assert "(cache rule rule-" in error["message"]
            # The answer to a HEAD has no words.
            assert (
                path.startswith("blobs")
                or "its own source through its cache rule rule-" in error["message"]
            )
            assert "Let the endpoint of the source" in error["message"]


async def test_clients_of_both_engines_of_a_ring_get_the_error_at_once(
    tmp_path: Path, settings: Settings, clock: Clock
) -> None:
    """Each engine's request joined the fetch at the other, and that the first again."""
    async with engines(tmp_path, replace(settings, read_timeout=600.0), clock, [1, 0]) as running:
        async with asyncio.timeout(60):
            answers = await asyncio.gather(
                *(client.get("/v2/library/nginx/manifests/1") for _, client in running)
            )
        assert [answer.status_code for answer in answers] == [508, 508]


async def test_engines_in_a_row_are_no_ring(
    tmp_path: Path, settings: Settings, clock: Clock, source: FakeRegistry
) -> None:
    image = source.add_image("library/nginx", "1")
    async with engines(tmp_path, settings, clock, [source.url, 0, 1]) as running:
        response = await running[-1][1].get("/v2/library/nginx/manifests/1")
        assert response.content == image.manifest.content
    # Three engines, and no other registry.
    assert len(source.requests[-1].headers["via"].split(", ")) == 3


async def test_the_first_failure_to_reach_a_source_says_when_to_come_back(
    tmp_path: Path, settings: Settings, clock: Clock
) -> None:
    """It was a 503 without Retry-After, and so a 502 at the next engine."""
    async with engines(tmp_path, settings, clock, ["http://127.0.0.1:1", 0]) as running:
        response = await running[-1][1].get("/v2/library/nginx/manifests/1")
        assert (response.status_code, "retry-after" in response.headers) == (503, True)


async def test_the_own_sign_in_in_a_ring_says_so(
    tmp_path: Path, settings: Settings, clock: Clock
) -> None:
    async with engines(tmp_path, settings, clock, [0]) as [(engine, client)]:
        headers = engine.sources.via.headers
        assert (await client.get("/v2/", headers=headers)).status_code == 508
        assert (await client.get("/healthz", headers=headers)).status_code == 200


@pytest.mark.parametrize("status", [503, 504, 429])
@pytest.mark.parametrize("as_date", [False, True], ids=["seconds", "date"])
async def test_when_to_come_back_is_handed_on(
    as_date: bool,
    status: int,
    tmp_path: Path,
    settings: Settings,
    clock: Clock,
    source: FakeRegistry,
) -> None:
    """A source's 503 with Retry-After became a 502 without one."""
    retry_after = formatdate(time.time() + 40, usegmt=True) if as_date else "40"
    source.fault("/manifests/", Status(status, headers={"Retry-After": retry_after}))
    async with engines(tmp_path, settings, clock, [source.url, 0]) as running:
        for _, client in running:
            response = await client.get("/v2/library/nginx/manifests/1")
            assert response.status_code == (429 if status == 429 else 503)
            assert 30 <= int(response.headers["retry-after"]) < 70


async def test_no_client_is_asked_to_wait_for_years(
    tmp_path: Path, settings: Settings, clock: Clock, source: FakeRegistry
) -> None:
    source.fault("/manifests/", Status(503, headers={"Retry-After": "99999999999"}))
    async with engines(tmp_path, settings, clock, [source.url]) as [(_, client)]:
        response = await client.get("/v2/library/nginx/manifests/1")
        assert int(response.headers["retry-after"]) <= MAX_WAIT * 1.2


async def test_engines_in_a_row_quote_the_source_and_not_each_other(
    tmp_path: Path, settings: Settings, clock: Clock, source: FakeRegistry
) -> None:
    """Each quoted the last one's sentence, cut in the middle of a word."""
    async with engines(tmp_path, settings, clock, [source.url, 0, 1, 2]) as running:
        for tag, status, sentence in (
            ("1", 500, "The disk of the registry is full, and its administrator is on holiday."),
            ("2", 404, "manifest unknown to the registry"),
        ):
            body = b'{"errors":[{"code":"UNKNOWN","message":"%s"}]}' % sentence.encode()
            fault = Status(status, headers={"Content-Type": "application/json"}, body=body)
            source.fault(f"/manifests/{tag}", fault)
            messages = []
            for _, client in running:
                response = await client.get(f"/v2/library/nginx/manifests/{tag}")
                messages.append(response.json()["errors"][0]["message"])
            assert all(message.count(sentence.rstrip(".")) == 1 for message in messages), messages
            assert max(map(len, messages)) <= min(map(len, messages)) + 20


async def test_a_long_sentence_of_a_source_is_cut_between_words(
    registry: httpx.AsyncClient, source: FakeRegistry
) -> None:
    body = b'{"errors":[{"code":"DENIED","message":"%s"}]}' % b"quotation ".join([b""] * 60)
    source.fault(
        "/manifests/", Status(500, headers={"Content-Type": "application/json"}, body=body)
    )
    response = await registry.get("/v2/library/nginx/manifests/1")
    message = response.json()["errors"][0]["message"]
    assert "quotation quotation…)" in message
    assert len(message) < 450


async def test_the_next_engine_says_too_that_an_answer_is_stale(
    tmp_path: Path, settings: Settings, clock: Clock, source: FakeRegistry
) -> None:
    """It took the stale answer for a confirmation, and its clients saw no warning."""
    image = source.add_image("library/nginx", "1")
    source.add_image("library/nginx", "2")
    paths = [
        "/v2/library/nginx/manifests/1",
        "/v2/library/nginx/tags/list",
        f"/v2/library/nginx/referrers/{image.digest}",
    ]
    async with engines(tmp_path, settings, clock, [source.url, 0, 1]) as running:
        clients = [client for _, client in running]
        for path in paths:
            for client in clients:
                assert "warning" not in (await client.get(path)).headers
        await clients[0].get("/v2/library/nginx/manifests/2")
        misses = [engine.cache.misses for engine, _ in running]
        await source.stop()
        clock.now += 3_600
        for path in [*paths, "/v2/library/nginx/manifests/2"]:
            for client in clients:
                for response in (await client.get(path), await client.get(path)):
                    assert (response.status_code, response.headers["entrepot-origin"]) == (
                        200,
                        "stale",
                    ), (path, clients.index(client))
                    warning = response.headers["warning"]
                    assert warning.startswith(f'299 - "{LOGIN_SERVER}')
                    # Engines in a row do not add their own sentences.
                    assert warning.count("cache rule") == 1
        # The second tag came from the first engine.
        assert [engine.cache.misses - misses[n] for n, (engine, _) in enumerate(running)] == [
            0,
            1,
            1,
        ]


async def test_an_engine_asks_again_once_its_source_can_confirm(
    tmp_path: Path, settings: Settings, clock: Clock, source: FakeRegistry
) -> None:
    source.add_image("library/nginx", "1")
    async with engines(tmp_path, settings, clock, [source.url, 0]) as running:
        client = running[-1][1]
        await client.get("/v2/library/nginx/manifests/1")
        source.fault("/manifests/", Status(500))
        clock.now += 3_600
        response = await client.get("/v2/library/nginx/manifests/1")
        assert response.headers["entrepot-origin"] == "stale"
        source.clear_faults()
        moved = source.add_image("library/nginx", "1", layers=[b"moved"])
        clock.now += 60
        response = await client.get("/v2/library/nginx/manifests/1")
        assert (response.content, "warning" in response.headers) == (moved.manifest.content, False)


async def test_a_warning_of_a_source_reaches_the_clients(
    tmp_path: Path, settings: Settings, clock: Clock, source: FakeRegistry
) -> None:
    """OCI distribution specification 1.1, "Warnings"."""
    source.add_image("library/nginx", "1")
    source.fault("/v2/", Headers(set={"Warning": '299 - "Use library/other: \\"old\\"."'}))
    async with engines(tmp_path, settings, clock, [source.url, 0]) as running:
        for path in ("manifests/1", "tags/list"):
            response = await running[-1][1].get(f"/v2/library/nginx/{path}")
            assert response.headers["warning"] == "299 - \"Use library/other: 'old'.\""
            assert response.headers["entrepot-origin"] == "upstream"


@asynccontextmanager
async def mirrors(
    root: Path, settings: Settings, clock: Clock, source: FakeRegistry, *, by_ns: bool
) -> AsyncIterator[list[httpx.AsyncClient]]:
    """Clients of a mirror of Docker Hub, and of one in front of it.

    The second asks the first by ``ns``, or at an address where all names are of Docker Hub.
    """
    listeners = [bind_tcp("127.0.0.1", 0) for _ in range(2)]
    endpoints = [source.url, address_of(listeners[0])]
    async with AsyncExitStack() as stack:
        clients = []
        for number, (listener, endpoint) in enumerate(zip(listeners, endpoints, strict=True)):
            hub = DeclaredRegistry(
                "docker.io",
                sign_in=SignIn.NONE,
                endpoint=endpoint,
                mirror=by_ns and endpoint != source.url,
            )
            directories = Directories.under(root / str(number))
            opened = Engine.open(directories, replace(settings, upstreams=(hub,)), clock=clock)
            engine = await stack.enter_async_context(opened)
            await engine.rules.create(
                RuleDraft(f"rule-{number}", "docker.io/*", f"target-{number}/*")
            )
            app = registry_app(engine)
            served = app if by_ns else FixedNamespace(app, "docker.io")
            await stack.enter_async_context(serving(served, listener))
            client = httpx.AsyncClient(
                base_url=address_of(listener),
                params={"ns": "docker.io"} if by_ns else {},
                timeout=60,
            )
            clients.append(await stack.enter_async_context(client))
        yield clients


@pytest.mark.parametrize("by_ns", [True, False], ids=["ns", "listener"])
async def test_a_mirror_may_be_in_front_of_a_mirror(
    by_ns: bool, tmp_path: Path, settings: Settings, clock: Clock, source: FakeRegistry
) -> None:
    image = source.add_image("library/nginx", "1", platforms=["linux/amd64"], index=False)
    for tag in "abc":
        source.add_image("library/nginx", tag, layers=[10])
    signature = source.add_image("library/nginx", "s", platforms=["linux/amd64"], index=False)
    source.add_referrer("library/nginx", image.digest, signature.manifest, "example/signature")
    async with mirrors(tmp_path, settings, clock, source, by_ns=by_ns) as clients:
        last = clients[-1]
        assert (await last.get("/v2/nginx/manifests/1")).content == image.manifest.content
        for blob in image.platforms["linux/amd64"].blobs:
            content = (await last.get(f"/v2/library/nginx/blobs/{blob.digest}")).content
            assert content == blob.content
            assert source.count("GET", str(blob.digest)) == 1
        page = await last.get("/v2/library/nginx/tags/list", params={"n": 3})
        assert page.json() == {"name": "library/nginx", "tags": ["1", "a", "b"]}
        rest = await last.get("/v2/library/nginx/tags/list", params={"n": 3, "last": "b"})
        assert rest.json()["tags"] == ["c", "s"]
        referrers = await last.get(f"/v2/library/nginx/referrers/{image.digest}")
        assert [entry["digest"] for entry in referrers.json()["manifests"]] == [
            str(signature.digest)
        ]
        for client in clients:
            missing = await client.get("/v2/library/nginx/manifests/none")
            assert missing.status_code == 404
        source.fault("/manifests/", Status(503, headers={"Retry-After": "40"}))
        clock.now += 3_600
        for client in clients:
            busy = await client.get("/v2/library/nginx/manifests/2")
            assert (busy.status_code, int(busy.headers["retry-after"]) >= 30) == (503, True)
            stale = await client.get("/v2/library/nginx/manifests/1")
            assert (stale.status_code, stale.headers["oci-namespace"]) == (200, "docker.io")
            assert stale.headers["warning"].startswith('299 - "docker.io ')


async def test_mirrors_in_a_ring_notice_it(
    tmp_path: Path, settings: Settings, clock: Clock
) -> None:
    listener = bind_tcp("127.0.0.1", 0)
    upstream = DeclaredRegistry(
        "docker.io", sign_in=SignIn.NONE, endpoint=address_of(listener), mirror=True
    )
    directories = Directories.under(tmp_path / "ring")
    async with (
        Engine.open(directories, replace(settings, upstreams=(upstream,)), clock=clock) as engine,
        serving(registry_app(engine), listener),
        httpx.AsyncClient(base_url=address_of(listener), timeout=60) as client,
    ):
        await engine.rules.create(RuleDraft("own-source", "docker.io/*", "hub/*"))
        response = await client.get("/v2/library/nginx/manifests/1?ns=docker.io")
        assert response.status_code == 508
        assert "through its cache rule own-source" in response.text
