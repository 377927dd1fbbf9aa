"""Sign-in at the registry, and what each reader may read."""

from __future__ import annotations

import base64
import json
import re
from collections.abc import AsyncIterator

import httpx
import pytest

from entrepot.config.directories import Directories
from entrepot.config.settings import Settings
from entrepot.engine.engine import Engine
from entrepot.engine.passwords import MAX_WAIT
from entrepot.engine.signed_tokens import TOKEN_LENGTH
from entrepot.server.run import registry_app
from entrepot.server.sign_in import ReaderSignIn
from tests.conftest import LOGIN_SERVER, Clock
from tests.fakes import FakeImage, FakeRegistry
from tests.server.signed_in import (
    PASSWORDS,
    READABLE,
    RULES,
    Readers,
    basic,
    bearer,
    readers_of,
    write_htpasswd,
)


@pytest.fixture
async def readers(
    directories: Directories, settings: Settings, source: FakeRegistry, clock: Clock
) -> AsyncIterator[Readers]:
    async with readers_of(directories, settings, source, clock) as readers:
        yield readers


@pytest.fixture
async def closed(
    directories: Directories, settings: Settings, source: FakeRegistry, clock: Clock
) -> AsyncIterator[Readers]:
    """Readers who have to sign in for all but what is open to everyone."""
    async with readers_of(directories, settings, source, clock, allow_anonymous=False) as readers:
        yield readers


def paths(repository: str, image: FakeImage) -> dict[str, str]:
    """Every kind of request for an image, by its name."""
    manifest = image.platforms["linux/amd64"]
    base = f"/v2/{repository}"
    return {
        "tag": f"{base}/manifests/{image.tag}",
        "index": f"{base}/manifests/{image.digest}",
        "manifest": f"{base}/manifests/{manifest.digest}",
        "config": f"{base}/blobs/{manifest.config.digest}",
        "layer": f"{base}/blobs/{manifest.layers[0].digest}",
        "tags": f"{base}/tags/list",
        "no tags": f"{base}/tags/list?n=0",
        "referrers": f"{base}/referrers/{image.digest}",
    }


def seen(response: httpx.Response, name: str) -> tuple[object, ...]:
    """All that a client sees of an answer, but the name that it asked for."""
    headers = {key: value.replace(name, "NAME") for key, value in response.headers.items()}
    headers.pop("content-length", None)
    return response.status_code, headers, response.text.replace(name, "NAME")


@pytest.mark.parametrize("reader", READABLE)
async def test_each_reader_gets_what_the_rules_say_and_nothing_else_exists(
    readers: Readers, source: FakeRegistry, reader: str
) -> None:
    headers = readers.headers(reader)
    for cached in (False, True):
        for part, image in readers.images.items():
            repository = f"{part}/app"
            for kind, path in paths(repository, image).items():
                for method in ("HEAD", "GET"):
                    before = len(source.requests)
                    answer = await readers.registry.request(method, path, headers=headers)
                    if part in READABLE[reader]:
                        assert answer.status_code == 200, (kind, part)
                        continue
                    nothing = path.replace(f"/v2/{repository}/", "/v2/none/app/")
                    missing = await readers.registry.request(method, nothing, headers=headers)
                    assert answer.status_code == (404 if reader else 401), (kind, part)
                    assert seen(answer, repository) == seen(missing, "none/app")
                    assert len(source.requests) == before
        if not cached:
            for part in RULES:
                owner = {"ci": "ci", "ops": "alice", "members": "bob"}.get(part, "")
                await pull(readers, f"{part}/app", readers.images[part], owner)


async def pull(readers: Readers, repository: str, image: FakeImage, reader: str) -> None:
    for path in paths(repository, image).values():
        answer = await readers.registry.get(path, headers=readers.headers(reader))
        assert answer.status_code == 200


@pytest.mark.parametrize("reader", READABLE)
async def test_the_catalog_lists_what_a_reader_may_read(readers: Readers, reader: str) -> None:
    for part in RULES:
        owner = {"ci": "ci", "ops": "alice", "members": "bob"}.get(part, "")
        await pull(readers, f"{part}/app", readers.images[part], owner)
    expected = sorted(f"{part}/app" for part in READABLE[reader])
    listed: list[str] = []
    url = "/v2/_catalog?n=1"
    while url:
        answer = await readers.registry.get(url, headers=readers.headers(reader))
        assert answer.status_code == 200
        listed += answer.json()["repositories"]
        link = re.match("<(.+)>", answer.headers.get("link", ""))
        url = link[1] if link else ""
    assert listed == expected


@pytest.mark.parametrize("reader", READABLE)
async def test_a_mirror_has_what_the_reader_may_read_and_nothing_else(
    readers: Readers, source: FakeRegistry, reader: str
) -> None:
    headers = readers.headers(reader)
    for part, image in readers.images.items():
        for kind, path in paths(f"{part}/app", image).items():
            mirrored = f"{path}{'&' if '?' in path else '?'}ns={LOGIN_SERVER}"
            before = len(source.requests)
            answer = await readers.registry.get(mirrored, headers=headers)
            if part in READABLE[reader]:
                assert answer.status_code == 200, (kind, part)
                continue
            nothing = mirrored.replace(f"/v2/{part}/app/", "/v2/none/app/")
            missing = await readers.registry.get(nothing, headers=headers)
            assert answer.status_code == (404 if reader else 401), (kind, part)
            assert seen(answer, f"{part}/app") == seen(missing, "none/app")
            assert len(source.requests) == before
    catalog = await readers.registry.get(f"/v2/_catalog?ns={LOGIN_SERVER}", headers=headers)
    assert catalog.json()["repositories"] == sorted(f"{part}/app" for part in READABLE[reader])


async def test_a_reader_who_does_not_sign_in_is_asked_to_where_that_is_needed(
    closed: Readers,
) -> None:
    for part, image in closed.images.items():
        answer = await closed.registry.get(paths(f"{part}/app", image)["tag"])
        assert answer.status_code == (200 if part == "open" else 401)
    answer = await closed.registry.get("/v2/_catalog", headers=closed.headers("bob"))
    assert answer.json()["repositories"] == ["open/app"]
    await closed.engine.rules.delete("open-to-all")
    challenge = (await closed.registry.get("/v2/_catalog")).headers["www-authenticate"]
    assert 'scope="registry:catalog:*"' in challenge


async def test_a_challenge_names_the_address_by_which_the_client_came(readers: Readers) -> None:
    answer = await readers.registry.get("/v2/")
    assert (answer.status_code, answer.json()["errors"][0]["code"]) == (401, "UNAUTHORIZED")
    assert answer.headers.get_list("www-authenticate") == [
        'Bearer realm="http://cache.example:5000/v2/token",service="cache.example:5000"'
    ]
    behind_tls = {"x-forwarded-proto": "https", "host": "cache.example"}
    answer = await readers.registry.get("/v2/ci/app/manifests/1", headers=behind_tls)
    assert answer.headers["www-authenticate"] == (
        'Bearer realm="https://cache.example/v2/token",service="cache.example",'
        'scope="repository:ci/app:pull"'
    )


@pytest.mark.parametrize("host", ['a"b', "a b", "", "x" * 300])
async def test_a_host_that_is_none_is_not_repeated(readers: Readers, host: str) -> None:
    answer = await readers.registry.get("/v2/", headers={"host": host})
    assert '"http://cache.example:5000/v2/token"' in answer.headers["www-authenticate"]


async def test_a_header_can_not_lead_clients_to_another_realm(readers: Readers) -> None:
    """A cache in front of the registry might keep the challenge for others."""
    headers = {"x-forwarded-host": "elsewhere.example", "forwarded": "host=elsewhere.example"}
    answer = await readers.registry.get("/v2/", headers=headers)
    assert '"http://cache.example:5000/v2/token"' in answer.headers["www-authenticate"]


@pytest.mark.parametrize(
    "wrong",
    [
        basic("alice", "wrong"),
        basic("nobody", "alice-password"),
        basic("hub-user", "hub-password"),
        bearer("entrepot_" + "a" * 43),
        bearer("some.other.token"),
        {"authorization": "Basic !!!"},
    ],
)
async def test_unknown_credentials_are_ignored_where_everyone_may_read(
    readers: Readers, wrong: dict[str, str]
) -> None:
    """F48: docker sends what it has for Docker Hub to a mirror."""
    answer = await readers.registry.get("/v2/library/app/manifests/1", headers=wrong)
    assert answer.status_code == 200
    private, missing = [
        await readers.registry.get(f"/v2/{name}/app/manifests/1", headers=wrong)
        for name in ("ci", "none")
    ]
    assert private.status_code == 401
    assert seen(private, "ci/app") == seen(missing, "none/app")
    assert 'error="invalid_token"' in private.headers["www-authenticate"]
    assert (await readers.registry.get("/v2/", headers=wrong)).status_code == 401


@pytest.mark.parametrize("reader", ["alice", "bob", "ci"])
async def test_a_client_that_signs_in_gets_a_token_for_what_it_asks_for(
    readers: Readers, reader: str
) -> None:
    part = {"alice": "ops", "bob": "members", "ci": "ci"}[reader]
    answer = await readers.signed(reader, f"{part}/app")
    assert (answer.status_code, answer.headers["cache-control"]) == (200, "no-store")
    document = answer.json()
    assert document["token"] == document["access_token"]
    token = bearer(document["token"])
    assert (await readers.registry.get("/v2/", headers=token)).status_code == 200
    tag = f"/v2/{part}/app/manifests/1"
    assert (await readers.registry.get(tag, headers=token)).status_code == 200
    elsewhere = await readers.registry.get("/v2/library/app/manifests/1", headers=token)
    assert elsewhere.status_code == 401
    assert 'scope="repository:library/app:pull"' in elsewhere.headers["www-authenticate"]


async def test_a_token_for_something_private_says_no_more_than_one_for_nothing(
    readers: Readers,
) -> None:
    private, missing = [await readers.signed("bob", f"{name}/app") for name in ("ci", "none")]
    answers = [
        await readers.registry.get(f"/v2/{name}/app/manifests/1", headers=bearer(token))
        for name, token in (("ci", private.json()["token"]), ("none", missing.json()["token"]))
    ]
    assert [answer.status_code for answer in answers] == [404, 404]
    assert seen(answers[0], "ci/app") == seen(answers[1], "none/app")


async def test_a_signed_token_expires_and_can_not_be_changed(
    readers: Readers, clock: Clock
) -> None:
    token = (await readers.signed("alice", "ops/app")).json()["token"]
    body, _, signature = token.partition(".")
    claims = json.loads(base64.urlsafe_b64decode(body + "=="))
    claims["n"] = "root"
    forged = base64.urlsafe_b64encode(json.dumps(claims).encode()).decode().rstrip("=")
    for wrong in (f"{forged}.{signature}", body, f"{body}.", f"{token}A", "."):
        answer = await readers.registry.get("/v2/", headers=bearer(wrong))
        assert answer.status_code == 401
    assert (await readers.registry.get("/v2/", headers=bearer(token))).status_code == 200
    clock.now += 301
    assert (await readers.registry.get("/v2/", headers=bearer(token))).status_code == 401


async def test_a_wrong_password_gets_no_token_unless_a_mirror_is_pulled_from(
    readers: Readers,
) -> None:
    wrong = basic("alice", "wrong")
    login = await readers.registry.get("/v2/token?service=s&account=alice", headers=wrong)
    assert (login.status_code, login.json()["errors"][0]["code"]) == (401, "UNAUTHORIZED")
    mirror = await readers.registry.get(
        "/v2/token?scope=repository:library/app:pull", headers=wrong
    )
    token = bearer(mirror.json()["token"])
    answers = [
        await readers.registry.get(f"/v2/{name}/app/manifests/1", headers=token)
        for name in ("library", "ci", "none")
    ]
    assert [answer.status_code for answer in answers] == [200, 401, 401]
    assert (await readers.registry.get("/v2/", headers=token)).status_code == 401


async def test_where_nothing_is_open_there_is_no_token_without_sign_in(closed: Readers) -> None:
    assert (await closed.signed("", "library/app")).status_code == 200
    await closed.engine.rules.delete("open-to-all")
    assert (await closed.signed("", "library/app")).status_code == 401
    wrong = basic("alice", "wrong")
    answer = await closed.registry.get("/v2/token?scope=repository:ops/app:pull", headers=wrong)
    assert answer.status_code == 401


@pytest.mark.parametrize("name", ["ci", "anyone", "", "alice"])
async def test_a_personal_token_is_a_password_for_every_name(readers: Readers, name: str) -> None:
    answer = await readers.registry.get("/v2/", headers=basic(name, readers.token))
    assert answer.status_code == 200
    path = "/v2/ci/app/manifests/1"
    answer = await readers.registry.get(path, headers=basic(name, readers.token))
    assert answer.status_code == 200


async def test_a_token_that_is_revoked_or_expired_ends_at_once(
    readers: Readers, clock: Clock
) -> None:
    signed = (await readers.signed("ci", "ci/app")).json()["token"]
    short = await readers.engine.readers.create_token("short", lifetime="1h")
    tokens = [signed, readers.token, short.secret]
    statuses = [
        (await readers.registry.get("/v2/", headers=bearer(token))).status_code for token in tokens
    ]
    assert statuses == [200, 200, 200]
    clock.now += 250
    await readers.engine.readers.revoke_token("ci")
    statuses = [
        (await readers.registry.get("/v2/", headers=bearer(token))).status_code for token in tokens
    ]
    assert statuses == [401, 401, 200]
    clock.now = short.token.expires or 0.0
    answer = await readers.registry.get("/v2/", headers=bearer(short.secret))
    assert answer.status_code == 401


async def test_an_oauth2_form_gets_a_token_too(readers: Readers) -> None:
    form = {
        "grant_type": "password",
        "username": "alice",
        "password": PASSWORDS["alice"],
        "scope": "repository:ops/app:pull repository:library/app:pull,push",
    }
    answer = await readers.registry.post("/v2/token", data=form)
    token = bearer(answer.json()["access_token"])
    for name in ("ops", "library"):
        answer = await readers.registry.get(f"/v2/{name}/app/manifests/1", headers=token)
        assert answer.status_code == 200
    form = {"grant_type": "refresh_token", "refresh_token": readers.token}
    assert (await readers.registry.post("/v2/token", data=form)).status_code == 200
    wrong = {"grant_type": "password", "username": "alice", "password": "wrong"}
    assert (await readers.registry.post("/v2/token", data=wrong)).status_code == 401
    other = {"grant_type": "device_code"}
    assert (await readers.registry.post("/v2/token", data=other)).status_code == 400
    assert (await readers.registry.post("/v2/token", content=b"a" * 70_000)).status_code == 400


async def test_guesses_are_slowed_and_who_is_known_still_reads(readers: Readers) -> None:
    known = basic("bob", PASSWORDS["bob"])
    assert (await readers.registry.get("/v2/", headers=known)).status_code == 200
    statuses = [
        (await readers.registry.get("/v2/", headers=basic("alice", f"guess-{number}"))).status_code
        for number in range(15)
    ]
    assert statuses == [401] * 11 + [429] * 4
    right = await readers.registry.get("/v2/", headers=basic("alice", PASSWORDS["alice"]))
    assert (right.status_code, int(right.headers["retry-after"]) > 0) == (429, True)
    assert (await readers.registry.get("/v2/", headers=known)).status_code == 200
    token = basic("ci", readers.token)
    assert (await readers.registry.get("/v2/", headers=token)).status_code == 200
    open_to_all = await readers.registry.get(
        "/v2/library/app/manifests/1", headers=basic("hub-user", "hub-password")
    )
    assert open_to_all.status_code == 200


async def test_a_token_for_many_repositories_is_short_enough_for_a_header(
    readers: Readers,
) -> None:
    def form(scopes: list[str]) -> dict[str, object]:
        return {
            "grant_type": "password",
            "username": "alice",
            "password": PASSWORDS["alice"],
            "scope": " ".join(f"repository:{name}:pull" for name in scopes),
        }

    long_names = [f"library/{number:02}{'x' * 200}" for number in range(45)]
    answer = await readers.registry.post("/v2/token", data=form(long_names))
    [error] = answer.json()["errors"]
    assert answer.status_code == 400
    assert error["message"].startswith("A token for 45 repositories ")
    answer = await readers.registry.post("/v2/token", data=form(long_names[:20]))
    token = answer.json()["token"]
    assert len(token) <= TOKEN_LENGTH
    assert (await readers.registry.get("/v2/", headers=bearer(token))).status_code == 200


@pytest.mark.parametrize("method", ["PUT", "DELETE", "PATCH"])
async def test_the_end_point_for_tokens_has_no_other_methods(readers: Readers, method: str) -> None:
    headers = basic("alice", PASSWORDS["alice"])
    answer = await readers.registry.request(method, "/v2/token", headers=headers)
    assert (answer.status_code, answer.headers["allow"]) == (405, "GET, HEAD, POST")
    assert "token" not in answer.json()


async def slowed(readers: Readers) -> None:
    """Guess until the address of the client is slowed."""
    for number in range(20):
        answer = await readers.registry.get("/v2/", headers=basic("alice", f"guess-{number}"))
    assert answer.status_code == 429


async def test_an_address_that_guesses_is_an_event(readers: Readers) -> None:
    await slowed(readers)
    [event] = [event for event in readers.engine.events.recent() if event.kind == "guesses-slowed"]
    assert event.message.startswith("More than 10 wrong passwords came from 127.0.0.1: ")


@pytest.mark.parametrize("with_token", [False, True])
async def test_a_right_password_that_is_not_checked_is_not_called_wrong(
    readers: Readers, *, with_token: bool
) -> None:
    await slowed(readers)
    headers = basic("alice", PASSWORDS["alice"])
    if with_token:
        answer = await readers.signed("alice", "ops/app", "none/app", "library/app")
        headers = bearer(answer.json()["token"])
    for kind, path in paths("ops/app", readers.images["ops"]).items():
        for method in ("HEAD", "GET"):
            answer = await readers.registry.request(method, path, headers=headers)
            assert (answer.status_code, int(answer.headers["retry-after"]) > 0) == (429, True), kind
            assert "www-authenticate" not in answer.headers
            missing = await readers.registry.request(
                method, path.replace("/ops/", "/none/"), headers=headers
            )
            answer.headers.pop("retry-after")
            missing.headers.pop("retry-after")
            assert seen(answer, "ops/app") == seen(missing, "none/app")
    assert (await readers.registry.get("/v2/", headers=headers)).status_code == 429
    public = await readers.registry.get("/v2/library/app/manifests/1", headers=headers)
    assert public.status_code == 200


async def test_a_client_signs_in_again_when_its_address_is_no_longer_slowed(
    readers: Readers, clock: Clock
) -> None:
    await slowed(readers)
    token = bearer((await readers.signed("alice", "ops/app")).json()["token"])
    clock.now += MAX_WAIT
    answer = await readers.registry.get("/v2/ops/app/manifests/1", headers=token)
    assert answer.status_code == 401
    assert 'error="invalid_token"' in answer.headers["www-authenticate"]
    token = bearer((await readers.signed("alice", "ops/app")).json()["token"])
    answer = await readers.registry.get("/v2/ops/app/manifests/1", headers=token)
    assert answer.status_code == 200


async def test_a_changed_password_file_counts_and_a_broken_one_does_not(
    readers: Readers,
) -> None:
    signed = (await readers.signed("alice", "ops/app")).json()["token"]
    old = basic("alice", PASSWORDS["alice"])
    assert (await readers.registry.get("/v2/", headers=old)).status_code == 200
    write_htpasswd(readers.htpasswd, {"alice": "another", "carol": "carols"})
    await readers.engine.readers.reload_if_changed()
    for headers, status in (
        (old, 401),
        (bearer(signed), 401),
        (basic("alice", "another"), 200),
        (basic("carol", "carols"), 200),
    ):
        assert (await readers.registry.get("/v2/", headers=headers)).status_code == status
    readers.htpasswd.write_text("alice:{SHA}W6ph5Mm5Pz8GgiULbPgzG37mj9g=\n")
    await readers.engine.readers.reload_if_changed()
    answer = await readers.registry.get("/v2/", headers=basic("carol", "carols"))
    assert answer.status_code == 200
    [refused] = [
        event for event in readers.engine.events.recent() if event.kind == "readers-refused"
    ]
    assert "line 1" in refused.message
    assert "W6ph5Mm5" not in refused.message
    assert (await readers.engine.status.get()).notices == (refused.message,)


async def test_an_emptied_password_file_locks_nobody_out(readers: Readers) -> None:
    content = readers.htpasswd.read_text()
    headers = basic("alice", PASSWORDS["alice"])
    readers.htpasswd.write_text("")
    await readers.engine.readers.reload_if_changed()
    assert (await readers.registry.get("/v2/", headers=headers)).status_code == 200
    [notice] = (await readers.engine.status.get()).notices
    assert notice.startswith(f"{readers.htpasswd} is empty. ")
    readers.htpasswd.write_text("# Nobody.\n")
    await readers.engine.readers.reload_if_changed()
    assert (await readers.registry.get("/v2/", headers=headers)).status_code == 401
    readers.htpasswd.write_text(content)
    await readers.engine.readers.reload_if_changed()
    assert (await readers.registry.get("/v2/", headers=headers)).status_code == 200
    assert (await readers.engine.status.get()).notices == ()


async def test_what_a_deleted_rule_cached_stays_private(
    readers: Readers, source: FakeRegistry
) -> None:
    image = readers.images["ci"]
    await pull(readers, "ci/app", image, "ci")
    await readers.engine.rules.delete("private-ci")
    for kind, path in paths("ci/app", image).items():
        assert (await readers.registry.get(path)).status_code == 401, kind
        other = await readers.registry.get(path, headers=readers.headers("bob"))
        assert other.status_code == 404, kind
        owner = await readers.registry.get(path, headers=readers.headers("ci"))
        assert owner.status_code == 200, kind


async def test_an_engine_without_readers_ignores_credentials(
    engine: Engine, source: FakeRegistry
) -> None:
    source.add_image("library/app", "1")
    transport = httpx.ASGITransport(ReaderSignIn(registry_app(engine), engine.readers))
    async with httpx.AsyncClient(transport=transport, base_url="http://cache") as client:
        for path in ("/v2/", "/v2/library/app/manifests/1", "/healthz"):
            for headers in ({}, basic("a", "b"), bearer("c")):
                assert (await client.get(path, headers=headers)).status_code == 200
        await engine.readers.create_token("ci")
        assert (await client.get("/v2/")).status_code == 401
        assert (await client.get("/healthz")).status_code == 200
        assert (await client.get("/v2/library/app/manifests/1")).status_code == 200
