"""F80: a registry that hands its requests on to another one, which signs clients in itself
(docker-registry-proxy issue 158)."""

from __future__ import annotations

import itertools
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass

import pytest

from entrepot.core.credentials import CredentialSet
from entrepot.core.reference import Digest, Repository, Tag
from entrepot.source.addresses import Reach
from entrepot.source.client import SourceClient
from entrepot.source.errors import (
    SignInUnsafe,
    SourceAnswerInvalid,
    SourceFailed,
    SourceNotFound,
    SourceRefused,
)
from entrepot.source.sources import Sources
from tests.fakes import (
    BasicSignIn,
    FakeImage,
    FakeRegistry,
    Redirect,
    Request,
    SocksProxy,
    Status,
    TokenSignIn,
)
from tests.fakes.faults import Answer
from tests.source.conftest import Clock, registry

NGINX = Repository("library/nginx")
LATEST = Tag("latest")
VANITY = "vanity.example"
HOST = "host.example"


class HandingOn(FakeRegistry):
    """Lets clients in as it likes, and sends them to another registry."""

    to = f"http://{HOST}"

    def right_answer(self, request: Request) -> Answer:
        answer = super().right_answer(request)
        if answer.status == 401 or request.path in {"/token", "/v2/"}:
            return answer
        return Answer(307, (("Location", f"{self.to}{request.target}"),))


@dataclass
class Handing:
    """Two registries; `client` sees the first one."""

    vanity: HandingOn
    host: FakeRegistry
    proxy: SocksProxy
    image: FakeImage
    client: Callable[..., SourceClient]

    @property
    def layer(self) -> tuple[Digest, bytes]:
        [platform] = self.image.platforms.values()
        return platform.blobs[-1].digest, platform.blobs[-1].content

    def authorizations(self, source: FakeRegistry) -> set[str]:
        return {
            request.headers["authorization"]
            for request in source.requests
            if "authorization" in request.headers
        }


@pytest.fixture
async def handing(
    opened: Callable[..., Sources], monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[Handing]:
    for name in (
        "http_proxy",
        "https_proxy",
        "no_proxy",
        "NO_PROXY",
        "HTTP_PROXY",
        "HTTPS_PROXY",
        "all_proxy",
    ):
        monkeypatch.delenv(name, raising=False)
    sources = opened()
    sign_in = TokenSignIn(
        {"bob": "hidden"}, realm=f"http://{HOST}/token", service="host", private=("acme/*",)
    )
    async with (
        HandingOn() as vanity,
        FakeRegistry(sign_in) as host,
        SocksProxy({HOST: ("127.0.0.1", host.port)}) as proxy,
    ):
        monkeypatch.setenv("ALL_PROXY", proxy.url)
        image = host.add_image(str(NGINX), "latest", [50_000], ["linux/amd64"])
        vanity.add_image(str(NGINX), "other")
        yield Handing(
            vanity,
            host,
            proxy,
            image,
            lambda login=None: sources.client(registry(vanity.url, VANITY), login),
        )


async def read(client: SourceClient, digest: Digest, repository: Repository = NGINX) -> bytes:
    async with client.blob(repository, digest) as blob:
        return b"".join([chunk async for chunk in blob])


@pytest.mark.parametrize(
    "sign_in",
    [None, TokenSignIn({"ann": "s3cret"}, anonymous=False), BasicSignIn({"ann": "s3cret"})],
    ids=["none", "token", "basic"],
)
async def test_the_registry_behind_gets_an_anonymous_token_and_no_credentials(
    handing: Handing, credential_set: CredentialSet, sign_in: TokenSignIn | BasicSignIn | None
) -> None:
    handing.vanity.sign_in = sign_in
    if isinstance(sign_in, TokenSignIn):
        sign_in._numbers = itertools.count(100)
    client = handing.client(credential_set if sign_in is not None else None)
    digest, content = handing.layer
    for _ in range(2):
        assert (await client.head_manifest(NGINX, LATEST)).digest == handing.image.digest
        assert (await client.manifest(NGINX, LATEST)).digest == handing.image.digest
        assert (await client.tags(NGINX, n=None, last=None)).tags == ("latest",)
        assert await read(client, digest) == content
    [token] = handing.host.received("GET", "/token")
    assert token.query == {"service": ["host"], "scope": [f"repository:{NGINX}:pull"]}
    assert "authorization" not in token.headers
    assert [request.status for request in handing.host.requests].count(401) == 1, (
        "the way in is known from then on"
    )
    assert not handing.authorizations(handing.host) & handing.authorizations(handing.vanity)
    assert len(handing.authorizations(handing.host)) == 1
    assert bool(handing.authorizations(handing.vanity)) == (sign_in is not None)


async def test_a_token_of_the_registry_behind_is_renewed_and_replaced(
    handing: Handing, clock: Clock
) -> None:
    client = handing.client()
    await client.head_manifest(NGINX, LATEST)
    clock.now += 1_000
    await client.head_manifest(NGINX, LATEST)
    assert handing.host.count("GET", "/token") == 2
    assert [request.status for request in handing.host.requests].count(401) == 1
    assert isinstance(handing.host.sign_in, TokenSignIn)
    handing.host.sign_in.revoke_tokens()
    await client.head_manifest(NGINX, LATEST)
    assert handing.host.count("GET", "/token") == 3


async def test_storage_behind_the_registry_behind_gets_no_token(handing: Handing) -> None:
    digest, content = handing.layer
    async with FakeRegistry() as storage:
        storage.files["/store/1"] = content
        handing.proxy.names["storage.example"] = ("127.0.0.1", storage.port)

        class Sending(HandingOn):
            to = "http://storage.example/store/1?signature="

        sending = Sending()
        host_answer = handing.host.right_answer

        def answer(request: Request) -> Answer:
            right = host_answer(request)
            return (
                sending.right_answer(request)
                if right.status == 200 and "/blobs/" in request.path
                else right
            )

        handing.host.right_answer = answer  # type: ignore[method-assign]
        assert await read(handing.client(), digest) == content
        assert storage.requests
        assert not handing.authorizations(storage)


async def test_a_registry_with_tokens_of_the_one_behind_it_accepts_an_anonymous_one(
    handing: Handing,
) -> None:
    """So do vanity names that pass on what they get: their challenge names the other registry's
    realm."""
    vanity_sign_in = TokenSignIn(realm=f"http://{HOST}/token", service="host")
    assert isinstance(handing.host.sign_in, TokenSignIn)
    vanity_sign_in._tokens = handing.host.sign_in._tokens
    handing.vanity.sign_in = vanity_sign_in
    client = handing.client()
    assert (await client.manifest(NGINX, LATEST)).digest == handing.image.digest
    assert all(
        "authorization" not in request.headers for request in handing.host.received("GET", "/token")
    )
    assert len(handing.authorizations(handing.vanity)) == 1


async def test_credentials_never_go_to_the_realm_of_another_registry(
    handing: Handing, credential_set: CredentialSet
) -> None:
    handing.vanity.sign_in = TokenSignIn({"ann": "s3cret"}, realm=f"http://{HOST}/token")
    with pytest.raises(SignInUnsafe, match=r"host\.example, which is not its own") as refused:
        await handing.client(credential_set).head_manifest(NGINX, LATEST)
    assert "Create a cache rule with host.example as its source" in refused.value.hint
    assert not handing.host.requests
    assert not handing.authorizations(handing.vanity)


@pytest.mark.parametrize(
    "realm", ["https://10.0.0.7/token", "https://[fd00::1]/token", "http://100.64.0.1/token"]
)
async def test_no_token_is_asked_of_a_private_network_for_a_stranger(
    handing: Handing, monkeypatch: pytest.MonkeyPatch, realm: str
) -> None:
    """What a service there answers would go to the registry that named it."""
    monkeypatch.delenv("ALL_PROXY")
    handing.vanity.sign_in = TokenSignIn(realm=realm)
    with pytest.raises(SourceAnswerInvalid, match="which is not its own and not on the internet"):
        await handing.client().head_manifest(NGINX, LATEST)


def test_an_address_of_the_internet_is_no_private_one() -> None:
    reach = Reach(public=True)
    assert all(
        reach.permits_address(each) for each in ("1.1.1.1", "2606:4700::1111", "::ffff:1.1.1.1")
    )
    assert not any(
        reach.permits_address(each)
        for each in (
            "10.0.0.1",
            "172.16.0.1",
            "192.168.0.1",
            "100.64.0.1",
            "fd00::1",
            "127.0.0.1",
            "::1",
            "169.254.169.254",
            "::ffff:10.0.0.1",
            "x",
        )
    )
    assert reach.permits_host("auth.example")
    assert not any(
        reach.permits_host(each)
        for each in ("localhost", "10.0.0.1", "fd00::1", "127.0.0.1", "0x0a000001")
    )


@pytest.mark.parametrize("how", ["no token", "private repository", "basic", "never"])
async def test_a_registry_behind_that_wants_credentials_is_named_with_what_to_do(
    handing: Handing, credential_set: CredentialSet, how: str
) -> None:
    assert isinstance(handing.host.sign_in, TokenSignIn)
    repository = NGINX
    if how == "no token":
        handing.host.sign_in.anonymous = False
    elif how == "private repository":
        repository = Repository("acme/api")
        handing.host.add_image("acme/api", "latest")
    elif how == "basic":
        handing.host.sign_in = BasicSignIn({"ann": "s3cret"})
    else:
        handing.host.fault(
            "/manifests/", Status(401, {"WWW-Authenticate": f'Bearer realm="http://{HOST}/token"'})
        )
    with pytest.raises(
        SourceRefused,
        match=rf"vanity\.example redirects vanity\.example/{repository}:latest to host\.example, ",
    ) as refused:
        await handing.client(credential_set).head_manifest(repository, LATEST)
    assert not isinstance(refused.value, SignInUnsafe)
    assert refused.value.hint.startswith(
        "Create a cache rule with host.example as its source, "
        "and give it a credential set for host.example"
    )
    assert len(handing.host.received("HEAD", "/manifests/")) <= 3
    assert not any(value.startswith("Basic") for value in handing.authorizations(handing.host))


async def test_the_advice_names_the_port_of_the_registry_behind(sources: Sources) -> None:
    """F80: a rule for the host alone would ask another registry."""
    async with FakeRegistry(BasicSignIn({"ann": "s3cret"})) as behind, FakeRegistry() as front:
        behind.add_image(str(NGINX), "latest")
        front.fault("/manifests/", Redirect(f"{behind.url}/v2/{NGINX}/manifests/latest"))
        with pytest.raises(SourceRefused) as refused:
            await sources.client(registry(front.url), None).manifest(NGINX, LATEST)
    place = f"127.0.0.1:{behind.port}"
    assert f":latest to {place}, which requires" in refused.value.what
    assert refused.value.hint.startswith(f"Create a cache rule with {place} as its source")


async def test_what_the_registry_behind_does_not_have_is_not_there(handing: Handing) -> None:
    with pytest.raises(SourceNotFound):
        await handing.client().head_manifest(NGINX, Tag("missing"))


@pytest.mark.parametrize(
    "challenge",
    ['Bearer authorization_uri="https://login.example/x"', 'Basic realm="x"', "Negotiate"],
)
async def test_storage_that_refuses_its_presigned_address_is_no_registry(
    handing: Handing, challenge: str
) -> None:
    handing.vanity.to = f"http://{HOST}/store/1?x="
    handing.host.fault("/store/", Status(401, {"WWW-Authenticate": challenge}))
    with pytest.raises(SourceFailed, match="refuses it with status 401"):
        await read(handing.client(), handing.layer[0])
    assert len(handing.host.requests) == 1


async def test_registries_that_hand_on_for_ever_are_not_followed_for_ever(handing: Handing) -> None:
    """Each host asks for a sign-in of its own, and sends us on to the next one."""
    names = [f"host{number}.example" for number in range(5)]

    class Next(FakeRegistry):
        def right_answer(self, request: Request) -> Answer:
            name = request.headers["host"]
            if request.path == "/token":
                return Answer(200, (("Content-Type", "application/json"),), b'{"token":"t"}')
            if "authorization" not in request.headers:
                return Answer(401, (("WWW-Authenticate", f'Bearer realm="http://{name}/token"'),))
            return Answer(
                307, (("Location", f"http://{names[(names.index(name) + 1) % 5]}{request.target}"),)
            )

    async with Next() as following:
        handing.proxy.names.update(dict.fromkeys(names, ("127.0.0.1", following.port)))
        handing.vanity.to = f"http://{names[0]}"
        with pytest.raises(
            SourceRefused, match=r"redirects .* which requires credentials of its own"
        ):
            await handing.client().head_manifest(NGINX, LATEST)
        assert len(following.requests) < 20


async def test_a_redirect_from_the_registry_behind_is_judged_as_every_other(
    handing: Handing,
) -> None:
    handing.vanity.to = "http://169.254.169.254"
    with pytest.raises(SourceAnswerInvalid, match="a local address"):
        await handing.client().head_manifest(NGINX, LATEST)
    assert not handing.proxy.destinations
