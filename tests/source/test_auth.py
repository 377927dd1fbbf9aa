"""Signing in at a source registry: tokens, their renewal, and sign-ins that fail."""

from __future__ import annotations

import asyncio
import base64
from collections.abc import Callable
from dataclasses import replace

import pytest

from entrepot.core.credentials import CredentialSet
from entrepot.core.reference import Repository, Tag
from entrepot.secrets import SecretUnavailable
from entrepot.source.auth import MAX_LIFETIME
from entrepot.source.errors import (
    SourceAnswerInvalid,
    SourceError,
    SourceFailed,
    SourceRateLimited,
    SourceRefused,
)
from entrepot.source.sources import Sources
from tests.fakes import (
    BasicSignIn,
    FakeRegistry,
    Fault,
    Headers,
    Html,
    Redirect,
    Status,
    TokenSignIn,
)
from tests.source.conftest import Clock, registry

NGINX = Repository("library/nginx")
REALM = "https://auth.example.com/token"


# Tokens


async def test_a_public_image_is_pulled_with_a_token_for_nobody(sources: Sources) -> None:
    async with FakeRegistry(TokenSignIn()) as source:
        image = source.add_image("library/nginx", "1.27")
        assert (
            await sources.client(registry(source.url), None).manifest(NGINX, Tag("1.27"))
        ).digest == image.digest
        token = source.received("GET", "/token")[0]
        assert token.query == {"service": ["stand-in"], "scope": ["repository:library/nginx:pull"]}
        assert "authorization" not in token.headers


async def test_a_private_image_is_pulled_with_the_credentials(
    sources: Sources, credential_set: CredentialSet
) -> None:
    async with FakeRegistry(TokenSignIn({"ann": "s3cret"}, private=("acme/*",))) as source:
        image = source.add_image("acme/api", "1")
        fetched = await sources.client(registry(source.url), credential_set).manifest(
            Repository("acme/api"), Tag("1")
        )
        assert fetched.digest == image.digest
        sent = source.received("GET", "/token")[0].headers["authorization"]
        assert base64.b64decode(sent.removeprefix("Basic ")).decode() == "ann:s3cret"


async def test_a_token_serves_every_request_until_shortly_before_it_expires(
    sources: Sources, clock: Clock
) -> None:
    async with FakeRegistry(TokenSignIn(expires_in=300)) as source:
        source.add_image("library/nginx", "1.27")
        client = sources.client(registry(source.url), None)
        for _ in range(3):
            await client.head_manifest(NGINX, Tag("1.27"))
        clock.now += 269
        await client.head_manifest(NGINX, Tag("1.27"))
        assert source.count("GET", "/token") == 1
        clock.now += 2
        await client.head_manifest(NGINX, Tag("1.27"))
        assert source.count("GET", "/token") == 2
        # The way in is known by now: only the very first request met a challenge.
        assert [each.status for each in source.received("HEAD", "/manifests/")] == [
            401,
            200,
            200,
            200,
            200,
            200,
        ]


async def test_a_token_without_a_lifetime_lives_for_a_minute(
    sources: Sources, clock: Clock
) -> None:
    async with FakeRegistry(TokenSignIn(expires_in=None, token_field="access_token")) as source:
        source.add_image("library/nginx", "1.27")
        client = sources.client(registry(source.url), None)
        await client.head_manifest(NGINX, Tag("1.27"))
        clock.now += 53
        await client.head_manifest(NGINX, Tag("1.27"))
        assert source.count("GET", "/token") == 1
        clock.now += 2
        await client.head_manifest(NGINX, Tag("1.27"))
        assert source.count("GET", "/token") == 2


async def test_fifty_requests_wait_for_one_token(sources: Sources) -> None:
    async with FakeRegistry(TokenSignIn()) as source:
        source.add_image("library/nginx", "1.27")
        gate = source.hold("/token")
        client = sources.client(registry(source.url), None)
        async with asyncio.TaskGroup() as group:
            asked = [group.create_task(client.head_manifest(NGINX, Tag("1.27"))) for _ in range(25)]
            await gate.reached
            asked += [
                group.create_task(client.head_manifest(NGINX, Tag("1.27"))) for _ in range(25)
            ]
            await source.arrived("HEAD", "/manifests/", 25)
            gate.open()
        assert len({each.result().digest for each in asked}) == 1
        assert source.count("GET", "/token") == 1


async def test_when_the_one_who_fetches_the_token_leaves_another_fetches_it(
    sources: Sources,
) -> None:
    async with FakeRegistry(TokenSignIn()) as source:
        image = source.add_image("library/nginx", "1.27")
        gate = source.hold("/token")
        client = sources.client(registry(source.url), None)
        first = asyncio.create_task(client.head_manifest(NGINX, Tag("1.27")))
        await gate.reached
        second = asyncio.create_task(client.head_manifest(NGINX, Tag("1.27")))
        await asyncio.sleep(0)  # now it waits for the same token
        first.cancel()
        with pytest.raises(asyncio.CancelledError):
            await first
        gate.open()
        assert (await second).digest == image.digest


async def test_everyone_who_waits_for_a_token_hears_of_its_failure(sources: Sources) -> None:
    async with FakeRegistry(TokenSignIn()) as source:
        source.add_image("library/nginx", "1.27")
        source.fault("/token", Status(429, {"Retry-After": "30"}))
        gate = source.hold("/token")
        client = sources.client(registry(source.url), None)
        asked = [asyncio.create_task(client.head_manifest(NGINX, Tag("1.27")))]
        await gate.reached
        asked += [asyncio.create_task(client.head_manifest(NGINX, Tag("1.27"))) for _ in range(4)]
        await asyncio.sleep(0)  # now they wait for the same token
        gate.open()
        failures = await asyncio.gather(*asked, return_exceptions=True)
        assert [type(each) for each in failures] == [SourceRateLimited] * 5
        assert source.count("GET", "/token") == 1


async def test_a_revoked_token_is_renewed_once(sources: Sources) -> None:
    sign_in = TokenSignIn()
    async with FakeRegistry(sign_in) as source:
        image = source.add_image("library/nginx", "1.27")
        client = sources.client(registry(source.url), None)
        await client.head_manifest(NGINX, Tag("1.27"))
        sign_in.revoke_tokens()
        assert (await client.head_manifest(NGINX, Tag("1.27"))).digest == image.digest
        assert source.count("GET", "/token") == 2


async def test_a_refused_token_is_renewed_where_it_came_from(
    sources: Sources,
) -> None:
    # nvcr.io names another realm then (NVIDIA/nvidia-container-toolkit issue 1945), which gives
    # nothing to anonymous clients.
    sign_in = TokenSignIn()
    async with FakeRegistry(sign_in) as source:
        image = source.add_image("library/nginx", "1.27")
        client = sources.client(registry(source.url), None)
        await client.head_manifest(NGINX, Tag("1.27"))
        sign_in.revoke_tokens()
        sign_in.challenge = (
            'Bearer realm="https://authn.example.net/token",service="registry",'
            'scope="{scope}",error="invalid_token"',
        )
        assert (await client.head_manifest(NGINX, Tag("1.27"))).digest == image.digest
        assert source.count("GET", "/token") == 2


async def test_a_registry_that_moved_its_realm_is_followed(sources: Sources) -> None:
    async with FakeRegistry(TokenSignIn()) as source, FakeRegistry(TokenSignIn()) as moved:
        image = source.add_image("library/nginx", "1.27")
        client = sources.client(registry(source.url), None)
        await client.head_manifest(NGINX, Tag("1.27"))
        moved_to = TokenSignIn(
            realm=f"{moved.url}/token",
            challenge=('Bearer realm="{realm}",service="s",scope="{scope}",error="invalid_token"',),
        )
        source.sign_in, moved.sign_in = moved_to, moved_to
        source.fault("/token", Status(200, body=b'{"token": "of-old-and-of-no-use"}'))
        assert (await client.head_manifest(NGINX, Tag("1.27"))).digest == image.digest
        assert moved.count("GET", "/token") == 1


@pytest.mark.parametrize(
    "realm",
    ["ftp://evil.example.net/token", "https://evil.invalid/token", "https://10.0.0.7/token"],
)
async def test_a_way_in_that_led_nowhere_is_not_taken_for_ever(
    sources: Sources, realm: str
) -> None:
    sign_in = TokenSignIn(realm=realm)
    async with FakeRegistry(sign_in) as source:
        image = source.add_image("library/nginx", "1.27")
        client = sources.client(registry(source.url), None)
        with pytest.raises(SourceError):
            await client.head_manifest(NGINX, Tag("1.27"))
        sign_in.realm = None
        assert (await client.head_manifest(NGINX, Tag("1.27"))).digest == image.digest


async def test_a_registry_that_never_accepts_its_own_tokens_is_not_asked_forever(
    sources: Sources,
) -> None:
    async with FakeRegistry(TokenSignIn()) as source:
        source.fault(
            "/manifests/",
            Status(
                401, {"WWW-Authenticate": f'Bearer realm="{source.url}/token",service="stand-in"'}
            ),
        )
        with pytest.raises(
            SourceRefused,
            match=r"docker\.io refuses docker\.io/library/nginx:1\.27 without credentials",
        ):
            await sources.client(registry(source.url), None).head_manifest(NGINX, Tag("1.27"))
        assert source.count("HEAD", "/manifests/") == 3
        assert source.count("GET", "/token") == 2


async def test_a_rotated_password_is_read_again(
    sources: Sources, credential_set: CredentialSet, monkeypatch: pytest.MonkeyPatch
) -> None:
    sign_in = BasicSignIn({"ann": "s3cret"})
    async with FakeRegistry(sign_in) as source:
        image = source.add_image("library/nginx", "1.27")
        client = sources.client(registry(source.url), credential_set)
        await client.head_manifest(NGINX, Tag("1.27"))
        sign_in.users["ann"] = "n3wer"
        monkeypatch.setenv("SOURCE_PASSWORD", "n3wer")
        assert (await client.head_manifest(NGINX, Tag("1.27"))).digest == image.digest


async def test_basic_credentials_are_sent_only_when_they_are_asked_for(
    sources: Sources, credential_set: CredentialSet
) -> None:
    async with FakeRegistry(BasicSignIn({"ann": "s3cret"})) as source:
        source.add_image("library/nginx", "1.27")
        await sources.client(registry(source.url), credential_set).head_manifest(NGINX, Tag("1.27"))
        assert [("authorization" in each.headers, each.status) for each in source.requests] == [
            (False, 401),
            (True, 200),
        ]


async def test_two_credential_sets_do_not_share_tokens(
    sources: Sources, credential_set: CredentialSet
) -> None:
    async with FakeRegistry(TokenSignIn({"ann": "s3cret"}, private=("library/*",))) as source:
        source.add_image("library/nginx", "1.27")
        assert (
            await sources.client(registry(source.url), credential_set).head_manifest(
                NGINX, Tag("1.27")
            )
        ).digest
        with pytest.raises(SourceRefused):
            await sources.client(registry(source.url), None).head_manifest(NGINX, Tag("1.27"))


async def test_of_several_challenges_the_one_for_a_token_is_taken(
    sources: Sources, credential_set: CredentialSet
) -> None:
    challenge = (
        'Negotiate, Basic realm="stand-in"',
        "Bearer realm={realm} service='{service}', scope=\"{scope}\"",
    )
    async with FakeRegistry(TokenSignIn({"ann": "s3cret"}, challenge=challenge)) as source:
        image = source.add_image("library/nginx", "1.27")
        assert (
            await sources.client(registry(source.url), credential_set).head_manifest(
                NGINX, Tag("1.27")
            )
        ).digest == image.digest


async def test_the_scope_of_the_repository_is_asked_for_when_the_challenge_names_none(
    sources: Sources,
) -> None:
    async with FakeRegistry(
        TokenSignIn(challenge=('Bearer realm="{realm}",service="{service}"',))
    ) as source:
        image = source.add_image("library/nginx", "1.27")
        assert (
            await sources.client(registry(source.url), None).head_manifest(NGINX, Tag("1.27"))
        ).digest == image.digest


# Sign-ins that fail


@pytest.mark.parametrize(
    ("fault", "error", "text"),
    [
        (Status(401), SourceRefused, "does not accept the credentials of credential set hub-login"),
        (Status(403), SourceRefused, "does not accept the credentials of credential set hub-login"),
        (Status(429, {"Retry-After": "9"}), SourceRateLimited, "gives no more tokens for now"),
        (Status(500), SourceFailed, "fails with status 500"),
        (Status(503), SourceFailed, "fails with status 503"),
        (Html(), SourceAnswerInvalid, "answers without a token"),
        (Status(200, body=b"{}"), SourceAnswerInvalid, "answers without a token"),
        (
            Status(200, body=b'{"token": "a\\r\\nHost: evil"}'),
            SourceAnswerInvalid,
            "answers without a token",
        ),
        (Status(200, body=b'{"token": 17}'), SourceAnswerInvalid, "answers without a token"),
        (Status(200, body=b"\xff"), SourceAnswerInvalid, "answers without a token"),
        (Redirect("/elsewhere"), SourceAnswerInvalid, "status 307 instead of a token"),
    ],
)
async def test_a_sign_in_that_fails_says_whose_fault_it_is(
    sources: Sources,
    credential_set: CredentialSet,
    fault: Status | Html | Redirect,
    error: type[SourceError],
    text: str,
) -> None:
    async with FakeRegistry(TokenSignIn({"ann": "s3cret"})) as source:
        source.add_image("library/nginx", "1.27")
        source.fault("/token", fault)
        with pytest.raises(error, match=text) as raised:
            await sources.client(registry(source.url), credential_set).manifest(NGINX, Tag("1.27"))
        assert "s3cret" not in f"{raised.value}{raised.value!r}"


async def test_a_token_endpoint_that_fails_for_a_moment_is_asked_again(sources: Sources) -> None:
    async with FakeRegistry(TokenSignIn()) as source:
        image = source.add_image("library/nginx", "1.27")
        source.fault("/token", Status(503, times=2))
        assert (
            await sources.client(registry(source.url), None).manifest(NGINX, Tag("1.27"))
        ).digest == image.digest


async def test_a_registry_that_wants_a_password_tells_the_anonymous_to_get_a_credential_set(
    sources: Sources,
) -> None:
    async with FakeRegistry(BasicSignIn({"ann": "s3cret"})) as source:
        with pytest.raises(SourceRefused, match="Give the cache rule a credential set"):
            await sources.client(registry(source.url), None).head_manifest(NGINX, Tag("1.27"))


async def test_a_token_endpoint_that_wants_a_password_tells_the_anonymous_to_get_a_credential_set(
    sources: Sources,
) -> None:
    async with FakeRegistry(TokenSignIn({"ann": "s3cret"}, anonymous=False)) as source:
        with pytest.raises(SourceRefused, match="requires credentials"):
            await sources.client(registry(source.url), None).head_manifest(NGINX, Tag("1.27"))


async def test_a_way_in_that_we_do_not_know_is_named(
    sources: Sources, credential_set: CredentialSet
) -> None:
    async with FakeRegistry(TokenSignIn(challenge=("Negotiate",))) as source:
        with pytest.raises(SourceRefused, match="offered: negotiate"):
            await sources.client(registry(source.url), credential_set).head_manifest(
                NGINX, Tag("1.27")
            )


async def test_a_secret_that_can_not_be_read_is_a_refusal_that_names_it(
    sources: Sources, credential_set: CredentialSet, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("SOURCE_PASSWORD")
    async with FakeRegistry(TokenSignIn({"ann": "s3cret"})) as source:
        with pytest.raises(
            SourceRefused,
            match=r"Credential set hub-login can't be used for docker\.io: .*env:SOURCE_PASSWORD",
        ):
            await sources.client(registry(source.url), credential_set).head_manifest(
                NGINX, Tag("1.27")
            )
        assert source.count("GET", "/token") == 0


async def test_a_password_never_goes_over_http_to_another_machine(
    opened: Callable[..., Sources], credential_set: CredentialSet
) -> None:
    import httpx

    seen: list[httpx.Request] = []

    def answer(request: httpx.Request) -> httpx.Response:
        seen.append(request)
        return httpx.Response(401, headers={"WWW-Authenticate": 'Basic realm="x"'})

    sources = opened(transport=httpx.MockTransport(answer))
    with pytest.raises(SourceRefused, match="over http, where it could be read on the way"):
        await sources.client(registry("http://registry.example.com"), credential_set).head_manifest(
            NGINX, Tag("1.27")
        )
    assert ["authorization" in each.headers for each in seen] == [False]


# verify_credentials


async def test_a_sign_in_is_checked_with_the_real_credentials(
    sources: Sources, credential_set: CredentialSet
) -> None:
    async with FakeRegistry(TokenSignIn({"ann": "s3cret"})) as source:
        await sources.client(registry(source.url), credential_set).verify_credentials()
        assert "authorization" in source.received("GET", "/token")[0].headers


async def test_a_sign_in_with_a_wrong_password_is_refused(
    sources: Sources, credential_set: CredentialSet
) -> None:
    async with FakeRegistry(TokenSignIn({"ann": "another"})) as source:
        with pytest.raises(SourceRefused, match="hub-login"):
            await sources.client(registry(source.url), credential_set).verify_credentials()


async def test_a_refused_basic_sign_in_says_nothing_of_repositories(
    sources: Sources, credential_set: CredentialSet
) -> None:
    """The advice was about the rights to a repository, and a sign-in names none."""
    async with FakeRegistry(BasicSignIn({"ann": "another"})) as source:
        with pytest.raises(SourceRefused) as refused:
            await sources.client(registry(source.url), credential_set).verify_credentials()
    assert "refuses the credentials of credential set hub-login (" in refused.value.what
    assert refused.value.hint.startswith("Check the user name and the password or token behind it")


async def test_a_refused_sign_in_without_credentials_leads_to_a_credential_set(
    sources: Sources,
) -> None:
    async with FakeRegistry() as source:
        source.fault("/v2/", Status(403))
        with pytest.raises(SourceRefused) as refused:
            await sources.client(registry(source.url), None).verify_credentials()
    assert "requires credentials (" in refused.value.what
    assert refused.value.hint == "Give the cache rule a credential set."


async def test_secrets_that_are_not_there_are_told_even_where_everybody_is_let_in(
    sources: Sources, credential_set: CredentialSet, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("SOURCE_PASSWORD")
    async with FakeRegistry() as source:
        with pytest.raises(SecretUnavailable, match="SOURCE_PASSWORD"):
            await sources.client(registry(source.url), credential_set).verify_credentials()


async def test_a_sign_in_is_checked_anew_each_time(
    sources: Sources, credential_set: CredentialSet
) -> None:
    sign_in = TokenSignIn({"ann": "s3cret"})
    async with FakeRegistry(sign_in) as source:
        client = sources.client(registry(source.url), credential_set)
        await client.verify_credentials()
        sign_in.users["ann"] = "changed"
        with pytest.raises(SourceRefused):
            await client.verify_credentials()


async def test_a_sign_in_that_is_checked_again_leaves_the_tokens_of_repositories_alone(
    sources: Sources, credential_set: CredentialSet
) -> None:
    async with FakeRegistry(TokenSignIn({"ann": "s3cret"})) as source:
        source.add_image("library/nginx", "1.27")
        client = sources.client(registry(source.url), credential_set)
        await client.verify_credentials()
        await client.head_manifest(NGINX, Tag("1.27"))
        for _ in range(3):
            await client.verify_credentials()
            await client.head_manifest(NGINX, Tag("1.27"))
        # One for the repository, and one for each check.
        assert source.count("GET", "/token") == 1 + 4


async def test_a_set_made_anew_under_its_old_name_signs_in_anew(
    sources: Sources, credential_set: CredentialSet
) -> None:
    async with FakeRegistry(TokenSignIn({"ann": "s3cret"})) as source:
        source.add_image("library/nginx", "1.27")
        await sources.client(registry(source.url), credential_set).head_manifest(NGINX, Tag("1.27"))
        again = replace(credential_set, created=credential_set.created.replace(year=2026))
        await sources.client(registry(source.url), again).head_manifest(NGINX, Tag("1.27"))
        assert source.count("GET", "/token") == 2


async def test_no_cookie_is_ever_sent(sources: Sources) -> None:
    async with FakeRegistry() as source:
        source.add_image("library/nginx", "1.27")
        source.fault("/manifests/", Headers({"Set-Cookie": "session=1; Path=/"}))
        # Cookie jars keep nothing of bare addresses.
        client = sources.client(registry(source.url.replace("127.0.0.1", "localhost")), None)
        await client.head_manifest(NGINX, Tag("1.27"))
        await client.head_manifest(NGINX, Tag("1.27"))
        assert all("cookie" not in each.headers for each in source.requests)


# Odd answers


@pytest.mark.parametrize(
    "body",
    [
        b'{"token":' + b"[" * 100_000,
        b'{"x":' + b"[" * 100_000 + b"]" * 100_000 + b',"token":"t"}',
        b'{"token":"a b"}',
        b'{"token":"a\\r\\nX: 1"}',
        b'{"token":"' + b"x" * 100_000 + b'"}',
        b'{"token":"t\xc3\xa9"}',
        b'{"token":5,"access_token":null}',
        b'["t"]',
        b"\xff\xfe",
        b"null",
        b"",
    ],
)
async def test_an_answer_that_is_no_token_is_an_invalid_answer(
    sources: Sources, body: bytes
) -> None:
    """S26, F67: nested 100,000 deep it was a 500."""
    async with FakeRegistry(TokenSignIn()) as source:
        source.fault("/token", Status(200, body=body))
        with pytest.raises(SourceAnswerInvalid, match="answers without a token"):
            await sources.client(registry(source.url), None).head_manifest(NGINX, Tag("1.27"))


@pytest.mark.parametrize(
    ("body", "lives"),
    [
        # F81, distribution issue 1746. Lifetimes that can't be read are the default, and shorter
        # ones are too, as in Go.
        (b'{"token":"t","expires_in":"300"}', 300.0),
        (b'{"token":"t","expires_in":" 300 "}', 300.0),
        (b'{"token":"t","expires_in":"300.5"}', 300.5),
        (b'{"token":"t","expires_in":300.5}', 300.5),
        (b'{"token":"t","expires_in":3e2}', 300.0),
        (b'{"token":"t","expires_in":"abc"}', 60.0),
        (b'{"token":"t","expires_in":"5m"}', 60.0),
        (b'{"token":"t","expires_in":""}', 60.0),
        (b'{"token":"t","expires_in":null}', 60.0),
        (b'{"token":"t","expires_in":true}', 60.0),
        (b'{"token":"t","expires_in":[300]}', 60.0),
        (b'{"token":"t","expires_in":{"seconds":300}}', 60.0),
        (b'{"token":"t","expires_in":-300}', 60.0),
        (b'{"token":"t","expires_in":0}', 60.0),
        (b'{"token":"t","expires_in":10}', 60.0),
        (b'{"token":"t","expires_in":1e300}', MAX_LIFETIME),
        (b'{"token":"t","expires_in":99999999999999999999}', MAX_LIFETIME),
        (b'{"token":"t","expires_in":' + b"9" * 5_000 + b"}", 60.0),
        # Of another clock, or of none.
        (b'{"token":"t","expires_in":300,"issued_at":"1970-01-01T00:00:00Z"}', 300.0),
        (b'{"token":"t","expires_in":300,"issued_at":"yesterday"}', 300.0),
        (b'{"token":"t","expires_in":300,"issued_at":{}}', 300.0),
        # Names.
        (b'{"access_token":"t"}', 60.0),
        (b'{"token":null,"access_token":"t"}', 60.0),
        (b'{"token":"t","access_token":null}', 60.0),
        (b'{"token":"t","access_token":""}', 60.0),
        (b'{"token":"t","access_token":5}', 60.0),
        (b'{"token":"other","access_token":"t"}', 60.0),
        (b'{"token":"t","access_token":"a b"}', 60.0),
        (b'{"Token":"t","Expires_In":300}', 300.0),
        (b'{"token":"t","token_type":7,"scope":[],"refresh_token":null}', 60.0),
        # White space, byte order marks, encodings.
        (b' \r\n {"token" : "t\\n" } \r\n', 60.0),
        (b'\xef\xbb\xbf{"token":"t","expires_in":300}', 300.0),
        ('{"token":"t","expires_in":300}'.encode("utf-16"), 300.0),
        (b"\xfe\xff" + '{"token":"t"}'.encode("utf-16-be"), 60.0),
    ],
)
@pytest.mark.parametrize("media_type", ["application/json", "text/plain", ""])
async def test_a_token_answer_that_is_a_little_odd_gives_its_token(
    sources: Sources, clock: Clock, body: bytes, lives: float, media_type: str
) -> None:
    async with FakeRegistry(TokenSignIn()) as source:
        source.add_image("library/nginx", "1.27")
        assert isinstance(source.sign_in, TokenSignIn)
        source.sign_in.accept("t", "repository:library/nginx:pull")
        source.fault("/token", Status(200, {"Content-Type": media_type}, body))
        client = sources.client(registry(source.url), None)
        await client.head_manifest(NGINX, Tag("1.27"))
        assert source.received("HEAD", "/manifests/")[-1].headers["authorization"] == "Bearer t"
        clock.now += lives - min(30.0, lives / 10) - 1
        await client.head_manifest(NGINX, Tag("1.27"))
        assert source.count("GET", "/token") == 1
        clock.now += 2
        await client.head_manifest(NGINX, Tag("1.27"))
        assert source.count("GET", "/token") == 2


@pytest.mark.parametrize(
    ("fault", "sentence"),
    [
        (Html(), "answers without a token: it sends a web page."),
        (Status(200, body=b"{}"), "answers without a token."),
        (Status(200, body=b""), "answers without a token: what it sends is no JSON object."),
        (
            Status(200, body=b"<login/>"),
            "answers without a token: what it sends is no JSON object.",
        ),
        (
            Status(200, body=b'[{"token":"t"}]'),
            "answers without a token: what it sends is no JSON object.",
        ),
        (
            Status(200, body=b'{"token":"a\\r\\nX: 1"}'),
            "without a token that can be used: it has 7 characters, "
            "or some that no header may have.",
        ),
        (
            Status(200, body=b'{"token":"' + b"x" * 100_000 + b'"}'),
            "without a token that can be used: it has 100,000 characters, or some",
        ),
    ],
)
async def test_an_answer_without_a_token_that_can_be_used_says_what_it_is(
    sources: Sources, fault: Fault, sentence: str
) -> None:
    """F81."""
    async with FakeRegistry(TokenSignIn()) as source:
        source.fault("/token", fault)
        with pytest.raises(SourceAnswerInvalid) as refused:
            await sources.client(registry(source.url), None).head_manifest(NGINX, Tag("1.27"))
        assert sentence in refused.value.what
        assert source.received("HEAD", "/manifests/")[-1].status == 401


async def test_a_challenge_without_a_realm_is_not_told_to_offer_what_it_offers(
    sources: Sources,
) -> None:
    """F81: a kind of sign-in that is known, and no word about where."""
    async with FakeRegistry(TokenSignIn(challenge=('Bearer service="s"',))) as source:
        with pytest.raises(SourceRefused, match="does not say where: its challenge has no realm"):
            await sources.client(registry(source.url), None).head_manifest(NGINX, Tag("1.27"))


@pytest.mark.parametrize("expires_in", ["1e300", "-5", "0", "0.001", "99999999999999999999"])
async def test_a_token_is_used_once_whatever_its_lifetime_is_said_to_be(
    sources: Sources, clock: Clock, expires_in: str
) -> None:
    async with FakeRegistry(TokenSignIn()) as source:
        image = source.add_image("library/nginx", "1.27")
        client = sources.client(registry(source.url), None)
        await client.manifest(NGINX, Tag("1.27"))
        source.sign_in.expires_in = float(expires_in)  # type: ignore[union-attr]
        clock.now += 1_000
        assert (await client.manifest(NGINX, Tag("1.27"))).digest == image.digest
        clock.now += MAX_LIFETIME
        before = source.count("GET", "/token")
        await client.manifest(NGINX, Tag("1.27"))
        assert source.count("GET", "/token") == before + 1, "no token is kept for longer than a day"


@pytest.mark.parametrize("parameter", ["realm", "service", "scope"])
async def test_a_challenge_that_is_too_long_is_an_invalid_answer(
    sources: Sources, parameter: str
) -> None:
    """Tokens are remembered by their realm, service and scope."""
    values = {
        "realm": "{realm}",
        "service": "s",
        "scope": "{scope}",
        parameter: "https://" + "a" * 3_000,
    }
    async with FakeRegistry(
        TokenSignIn(
            challenge=("Bearer " + ",".join(f'{name}="{value}"' for name, value in values.items()),)
        )
    ) as source:
        with pytest.raises(SourceAnswerInvalid, match="too long"):
            await sources.client(registry(source.url), None).head_manifest(NGINX, Tag("1.27"))
