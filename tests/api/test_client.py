"""The client of a running engine: round trips in the same process, and what it makes of engines
that do not answer as they should."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import httpx
import msgspec
import pytest

from entrepot.api.client import CacheClient
from entrepot.api.errors import EngineAnswerInvalid, EngineRefused, EngineUnreachable
from entrepot.api.models import Event
from entrepot.core.states import HealthStatus, LayerState, PullState, SignIn
from entrepot.engine.engine import Engine
from entrepot.event_kinds import EventKind
from entrepot.server.run import listening, management_app
from tests.api.fakes import client_of
from tests.conftest import LOGIN_SERVER, Clock
from tests.fakes import FakeRegistry


@pytest.fixture
async def client(engine: Engine) -> AsyncIterator[CacheClient]:
    async with CacheClient.of_app(management_app(engine)) as client:
        yield client


# Round trips


async def test_the_status(client: CacheClient, engine: Engine) -> None:
    status = await client.system.status()
    assert status == msgspec.structs.replace(
        await engine.status.get(), space_free=status.space_free, space_limit=status.space_limit
    )


async def test_source_registries(client: CacheClient, engine: Engine) -> None:
    registries = await client.system.source_registries()
    assert registries == engine.status.source_registries()
    assert {each.login_server: each.sign_in for each in registries}["docker.io"] is SignIn.REQUIRED


async def test_what_is_behind_a_tag(
    client: CacheClient, engine: Engine, source: FakeRegistry
) -> None:
    source.add_image("library/nginx", "1.27", platforms=["linux/amd64"])
    started = await client.pulls.start("library/nginx:1.27", "linux/amd64")
    async for _ in client.pulls.follow(started.id, interval=0.0):
        pass
    # What was used a moment ago is written down, which would otherwise change one of the two.
    await engine.cache.usage.write()
    assert await client.repositories.get_tag(
        "library/nginx", "1.27"
    ) == await engine.repositories.get_tag("library/nginx", "1.27")
    with pytest.raises(EngineRefused, match="library/nginx has no cached tag 2"):
        await client.repositories.get_tag("library/nginx", "2")


async def test_a_listing_that_did_not_change_is_the_very_same(
    client: CacheClient, engine: Engine, source: FakeRegistry
) -> None:
    await client.credential_sets.create(
        "example-set", LOGIN_SERVER, "env:USER_NAME", "env:PASSWORD"
    )
    source.add_image("library/nginx", "1.27", platforms=["linux/amd64"])
    started = await client.pulls.start("library/nginx:1.27", "linux/amd64")
    async for _ in client.pulls.follow(started.id, interval=0.0):
        pass
    await engine.cache.usage.write()
    [repository], revision = (
        await client.repositories.list(),
        (await client.system.status()).revision,
    )
    assert await client.repositories.list() is await client.repositories.list()
    assert await client.rules.list() is await client.rules.list()
    rules = await client.rules.list()
    await client.repositories.lock("library/nginx", "1.27")
    await client.repositories.lock("library/nginx")
    assert (await client.system.status()).revision != revision
    assert await client.rules.list() == rules
    assert await client.repositories.list() == [msgspec.structs.replace(repository, locked=True)]
    await client.rules.create("example-more", f"{LOGIN_SERVER}/more/*", "more/*")
    assert len(await client.rules.list()) == len(rules) + 1
    assert len(await client.credential_sets.list()) == 1
    assert await client.rules.list() == await engine.rules.list()


async def test_the_last_24_hours(client: CacheClient, engine: Engine) -> None:
    assert await client.system.activity() == engine.traffic.snapshot()


async def test_a_listing_is_fetched_again_only_when_something_has_changed(
    client: CacheClient, engine: Engine, source: FakeRegistry
) -> None:
    async def listings() -> tuple[list[Any], ...]:
        return (
            await client.rules.list(),
            await client.credential_sets.list(),
            await client.repositories.list(),
        )

    await engine.cache.usage.write()
    revision, before = (await client.system.status()).revision, await listings()

    async def changed() -> bool:
        nonlocal before, revision
        now, after = (await client.system.status()).revision, await listings()
        same = [one is other for one, other in zip(before, after, strict=True)]
        # A client that follows the revision misses nothing, and sends no needless request.
        assert all(same) == (revision == now)
        assert after == (
            await engine.rules.list(),
            engine.credential_sets.list(),
            await engine.repositories.list(),
        )
        before, revision = after, now
        return not all(same)

    assert not await changed()
    await client.credential_sets.create("example-set", LOGIN_SERVER, "env:NONE_SUCH", "env:B")
    await client.credential_sets.sign_in("example-set")
    assert await changed()
    await client.rules.create("acme-api", f"{LOGIN_SERVER}/acme/api", "api")
    assert await changed()
    source.add_image("library/nginx", "1.27", platforms=["linux/amd64"])
    async for _ in client.pulls.follow(
        (await client.pulls.start("library/nginx:1.27", "linux/amd64")).id, interval=0.0
    ):
        pass
    await engine.cache.usage.write()
    assert await changed()
    await client.repositories.delete_tag("library/nginx", "1.27")
    assert await changed()
    await engine.traffic.write()
    await engine.cache.history.write()
    assert not await changed()


async def test_a_rule(client: CacheClient, engine: Engine) -> None:
    await client.credential_sets.create("example-set", LOGIN_SERVER, "env:A", "env:B")
    await client.rules.create("acme-api", f"{LOGIN_SERVER}/acme/api", "api", "example-set")
    created_rule = await client.rules.get("Acme-Api")
    assert (
        created_rule.name,
        created_rule.source_repository,
        created_rule.target_repository,
        created_rule.credential_set,
    ) == (
        "acme-api",
        f"{LOGIN_SERVER}/acme/api",
        "api",
        "example-set",
    )
    assert await client.rules.list() == await engine.rules.list()
    await client.rules.update("acme-api", None)
    assert (await client.rules.get("acme-api")).credential_set is None
    await client.rules.update("acme-api", "example-set")
    assert (await client.rules.get("acme-api")).credential_set == "example-set"
    await client.rules.delete("acme-api")
    with pytest.raises(EngineRefused) as refused:
        await client.rules.get("acme-api")
    assert (refused.value.code, refused.value.status) == ("CacheRuleNotFound", 404)


async def test_a_credential_set(
    client: CacheClient, engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("A", "B", "C"):
        monkeypatch.setenv(f"EXAMPLE_{name}", "s3cret")
    await client.credential_sets.create(
        "example-set", LOGIN_SERVER, "env:EXAMPLE_A", "env:EXAMPLE_B"
    )
    await client.credential_sets.update("example-set", password_id="env:EXAMPLE_C")
    await engine.credential_sets.verify("example-set")
    [credential_set] = await client.credential_sets.list()
    assert credential_set == await client.credential_sets.get("EXAMPLE-set")
    assert (
        credential_set.login_server,
        credential_set.username_id,
        credential_set.password_id,
    ) == (
        LOGIN_SERVER,
        "env:EXAMPLE_A",
        "env:EXAMPLE_C",
    )
    assert credential_set.health is HealthStatus.HEALTHY
    await client.credential_sets.delete("example-set")
    assert await client.credential_sets.list() == []


async def test_a_sign_in_is_tried(client: CacheClient, engine: Engine) -> None:
    await client.credential_sets.create(
        "example-set", LOGIN_SERVER, "env:NONE_SUCH", "env:NONE_SUCH"
    )
    credential_set = await client.credential_sets.sign_in("Example-Set")
    assert (credential_set.name, credential_set.health, credential_set.error_code) == (
        "example-set",
        HealthStatus.UNHEALTHY,
        "SecretUnavailable",
    )
    assert credential_set == await client.credential_sets.get("example-set")
    with pytest.raises(EngineRefused, match="no credential set none-such"):
        await client.credential_sets.sign_in("none-such")


async def test_an_examination(client: CacheClient) -> None:
    assert {each.about for each in (await client.system.doctor("example-library")).findings} == {
        LOGIN_SERVER,
        "this machine",
    }
    with pytest.raises(EngineRefused, match="no cache rule none-such"):
        await client.system.doctor("none-such")


async def test_locks_and_eviction(
    client: CacheClient, engine: Engine, source: FakeRegistry, clock: Clock
) -> None:
    image = source.add_image("library/nginx", "1.27").platforms["linux/amd64"]
    pull = engine.cache.pulls.get(
        (await client.pulls.start("library/nginx:1.27", "linux/amd64")).id
    )
    async with asyncio.timeout(30):
        await pull.finished.wait()
    clock.now += 3600
    for tag, digest in ((None, None), ("1.27", None), (None, str(image.digest))):
        await client.repositories.lock("library/nginx", tag, digest)
        assert (await client.system.evict(target=0)).images == ()
        with pytest.raises(EngineRefused) as refused:
            await client.repositories.delete("library/nginx")
        assert (refused.value.code, refused.value.status) == ("REGISTRY_DISALLOWED_OPERATION", 405)
        await client.repositories.unlock("library/nginx", tag, digest)
    await client.repositories.lock("library/nginx", "1.27")
    detail = await client.repositories.get("library/nginx")
    assert (detail.repository.locked, [tag.locked for tag in detail.tags]) == (False, [True])
    await client.repositories.unlock("library/nginx", "1.27")
    planned = await client.system.preview_eviction(target=0)
    assert [(each.repository, each.tags, each.digest, each.freed) for each in planned.images] == [
        ("library/nginx", ("1.27",), str(image.digest), image.size)
    ]
    assert (await client.system.status()).repositories == 1
    assert (await client.system.evict()).images == ()
    eviction = await client.system.evict(target=0)
    assert (eviction.dry_run, eviction.images, eviction.freed) == (
        False,
        planned.images,
        image.size,
    )
    assert (await client.system.status()).repositories == 0


async def test_a_pull_and_what_it_caches(client: CacheClient, source: FakeRegistry) -> None:
    image = source.add_image("library/nginx", "1.27", layers=[os.urandom(100_000)])
    started = await client.pulls.start("library/nginx:1.27", "linux/arm64", asked_by="test")
    pull_states = [pull async for pull in client.pulls.follow(started.id, interval=0.01)]
    assert pull_states[-1].state is PullState.COMPLETED
    assert all(not pull.state.ended for pull in pull_states[:-1])
    assert {layer.state for layer in pull_states[-1].layers} == {LayerState.VERIFIED}
    assert pull_states[-1].asked_by == ("test",)
    # Once it has ended, its layers are only in the response for this one pull.
    assert await client.pulls.list() == [msgspec.structs.replace(pull_states[-1], layers=())]
    assert await client.pulls.get(pull_states[-1].id) == pull_states[-1]
    assert [each.name for each in await client.repositories.list()] == ["library/nginx"]
    detail = await client.repositories.get("library/nginx")
    assert [(tag.name, tag.digest, tag.platforms) for tag in detail.tags] == [
        ("1.27", str(image.digest), ("linux/arm64",))
    ]
    await client.repositories.delete_tag("library/nginx", "1.27")
    assert (await client.repositories.get("library/nginx")).tags == ()
    await client.repositories.delete("library/nginx")
    assert await client.repositories.list() == []


async def test_a_pull_is_cancelled(client: CacheClient, source: FakeRegistry) -> None:
    source.add_image("library/nginx", "1.27", layers=[os.urandom(100_000)])
    gate = source.hold("/blobs/", after_bytes=10, method="GET")
    started = await client.pulls.start("library/nginx:1.27", "linux/amd64")
    await gate.reached
    assert (await client.pulls.cancel(started.id)).state is PullState.CANCELLED
    assert (await client.pulls.get(started.id)).state is PullState.CANCELLED


async def test_checks(client: CacheClient) -> None:
    rule = await client.rules.validate(
        name="abc", source_repository="docker.io/nginx", credential_set=""
    )
    assert rule.source_repository == "docker.io/library/nginx"
    assert [(each.code, each.field) for each in rule.problems] == [
        ("InvalidResourceName", "name"),
        ("EnforceDockerAuthentication", "credentialSet"),
    ]
    draft_check = await client.credential_sets.validate(name="good-name", password_id="s3cret")
    assert [each.field for each in draft_check.problems] == ["passwordSecretIdentifier"]


async def test_events(client: CacheClient, engine: Engine) -> None:
    await engine.rules.delete("example-library")
    assert [each.kind for each in await client.system.recent_events()] == [
        "rule-created",
        "rule-deleted",
    ]


async def test_events_come_over_the_socket_until_the_engine_ends(engine: Engine) -> None:
    async with (
        listening(engine),
        CacheClient.at(engine.directories.socket) as client,
        asyncio.timeout(30),
    ):
        events = client.system.events()
        coming = asyncio.ensure_future(anext(events))
        while not coming.done():
            # The stream has the events since its start, and nothing says when that was.
            engine.events.record(EventKind.RULE_UPDATED, "Again.")
            await asyncio.wait({coming}, timeout=0.02)
        assert (coming.result().kind, coming.result().message) == ("rule-updated", "Again.")
        await client.system.stop()
        assert {each.kind async for each in events} <= {"rule-updated"}


async def test_a_stop_is_asked_for(client: CacheClient, engine: Engine) -> None:
    await client.system.stop()
    assert engine.stopping.is_set()


# Refusals


@pytest.mark.parametrize(
    ("body", "code"),
    [
        ({"error": {"code": "Locked", "message": "It is locked."}}, "Locked"),
        ({"errors": [{"code": "DENIED", "message": "It is locked."}]}, "DENIED"),
        (
            {
                "errors": [
                    {"code": "DENIED", "message": "It is locked.", "detail": {"code": "Locked"}}
                ]
            },
            "Locked",
        ),
    ],
)
async def test_a_refusal_is_read_in_both_shapes(body: dict[str, Any], code: str) -> None:
    """Below ``/acr/v1/`` an engine may have that of ACR's data API only."""
    async with client_of(lambda _: httpx.Response(405, json=body)) as client:
        with pytest.raises(EngineRefused, match=r"It is locked\.") as refused:
            await client.repositories.delete("library/nginx")
        assert (refused.value.code, refused.value.status) == (code, 405)


@pytest.mark.parametrize("body", [{}, {"errors": []}, {"errors": [{}]}, {"error": None}, []])
async def test_an_error_without_words_is_no_engine_s(body: object) -> None:
    async with client_of(lambda _: httpx.Response(500, json=body)) as client:
        with pytest.raises(EngineAnswerInvalid):
            await client.repositories.delete("library/nginx")


async def test_a_refusal_comes_in_the_engine_s_words(client: CacheClient) -> None:
    with pytest.raises(EngineRefused) as refused:
        await client.rules.create("docker-hub", "docker.io/library/nginx", "nginx")
    error = refused.value
    assert (error.code, error.field, error.status) == (
        "EnforceDockerAuthentication",
        "credentialSet",
        400,
    )
    assert "credential set" in error.message


async def test_what_is_there_is_not_replaced(client: CacheClient, engine: Engine) -> None:
    await client.credential_sets.create("example-set", LOGIN_SERVER, "env:A", "env:B")
    with pytest.raises(EngineRefused, match="example-set already"):
        await client.credential_sets.create("Example-Set", LOGIN_SERVER, "env:C", "env:D")
    with pytest.raises(EngineRefused, match="example-library already"):
        await client.rules.create("Example-Library", f"{LOGIN_SERVER}/library/*", "library/*")
    assert str(engine.documents.credential_sets.get("example-set").username) == "env:A"


@pytest.mark.parametrize("name", ["a/b", "..", "a b", "ä" * 5, "a?b#c", "%2e%2e", "x" * 300])
async def test_a_name_with_odd_characters_reaches_the_engine_as_it_is(
    name: str, client: CacheClient
) -> None:
    with pytest.raises(EngineRefused) as refused:
        await client.rules.create(name, f"{LOGIN_SERVER}/a", "a")
    assert refused.value.status in {400, 404}
    assert [rule.name for rule in await client.rules.list()] == ["example-library"]


async def test_dots_lead_to_no_other_resource(
    client: CacheClient, engine: Engine, source: FakeRegistry
) -> None:
    """httpx took the last dots off the path, and so asked for the deletion of something else."""
    source.add_image("library/nginx", "1")
    started = await engine.pulls.start("library/nginx:1", "linux/amd64", "10.0.4.17")
    await engine.cache.pulls.get(started.id).finished.wait()
    for ask in (
        client.repositories.delete("library/none/../nginx"),
        client.repositories.delete_tag("library/nginx/x", "../.."),
        client.repositories.delete_tag("library/nginx", ".."),
        client.rules.delete(".."),
    ):
        with suppress(EngineRefused):
            await ask
    assert [each.name for each in await client.repositories.list()] == ["library/nginx"]
    assert [rule.name for rule in await client.rules.list()] == ["example-library"]
    with pytest.raises(EngineRefused) as refused:
        await client.rules.create("..", f"{LOGIN_SERVER}/a", "a")
    assert (refused.value.code, refused.value.status) == ("InvalidResourceName", 400)


# Engines that do not answer, or oddly


EVERY_QUESTION: list[Callable[[CacheClient], Awaitable[Any]]] = [
    lambda client: client.system.status(),
    lambda client: client.rules.list(),
    lambda client: client.rules.get("example"),
    lambda client: client.rules.create("example", "a.example.com/a", "a"),
    lambda client: client.credential_sets.list(),
    lambda client: client.repositories.list(),
    lambda client: client.repositories.get("library/nginx"),
    lambda client: client.pulls.start("library/nginx:1"),
    lambda client: client.pulls.list(),
    lambda client: client.system.recent_events(),
    lambda client: anext(client.system.events()),
    lambda client: client.system.stop(),
]


@pytest.mark.parametrize("question", EVERY_QUESTION)
async def test_no_engine(question: Callable[[CacheClient], Awaitable[Any]], tmp_path: Path) -> None:
    async with CacheClient.at(tmp_path / "none.sock") as client:
        with pytest.raises(EngineUnreachable, match="entrepot serve"):
            await question(client)


@pytest.mark.parametrize(
    "answer",
    [
        httpx.Response(200, text="<html>a page</html>"),
        httpx.Response(200, content=b""),
        httpx.Response(200, json={"version": 5}),
        httpx.Response(200, json=[]),
        httpx.Response(200, content=b"\xff"),
        httpx.Response(404, text="not found"),
        httpx.Response(500, json={"detail": "of another program"}),
        httpx.Response(500, content=b""),
    ],
)
async def test_something_else_than_an_engine(answer: httpx.Response) -> None:
    async with client_of(lambda _: answer) as client:
        with pytest.raises(
            EngineAnswerInvalid, match="is no engine, or an engine of another version"
        ):
            await client.system.status()


@pytest.mark.parametrize(
    "failure",
    [
        httpx.ReadTimeout,
        httpx.RemoteProtocolError,
        httpx.ReadError,
        httpx.ConnectTimeout,
        httpx.PoolTimeout,
    ],
)
async def test_an_engine_that_breaks_off(failure: type[httpx.TransportError]) -> None:
    def fail(_: httpx.Request) -> httpx.Response:
        raise failure("broke off")

    async with client_of(fail) as client:
        with pytest.raises(EngineUnreachable):
            await client.system.status()


async def test_an_event_that_is_none() -> None:
    async with client_of(lambda _: httpx.Response(200, text="data: nonsense\n\n")) as client:
        with pytest.raises(EngineAnswerInvalid):
            await anext(client.system.events())


async def test_an_engine_may_refuse_the_stream() -> None:
    document = {"error": {"code": "InternalError", "message": "It failed."}}
    async with client_of(lambda _: httpx.Response(500, json=document)) as client:
        with pytest.raises(EngineRefused, match="It failed"):
            await anext(client.system.events())


async def test_an_event_may_hold_any_character() -> None:
    event = Event(
        time=1.0, kind="source-failed", message="it said: \u2028 \x85 \u2029 ä", subject=None
    )
    stream = b": entrepot\n\ndata: " + msgspec.json.encode(event) + b"\n\n"
    chunks = [stream[start : start + 5] for start in range(0, len(stream), 5)]

    async def body() -> AsyncIterator[bytes]:
        for chunk in chunks:
            yield chunk

    async with client_of(lambda _: httpx.Response(200, content=body())) as client:
        assert [each async for each in client.system.events()] == [event]


async def test_proxies_of_the_environment_are_left_aside(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("http_proxy", "HTTP_PROXY", "ALL_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    async with listening(engine), CacheClient.at(engine.directories.socket) as client:
        assert (await client.system.status()).rules == 1
