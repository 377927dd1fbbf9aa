"""What one registry alone does: the rate limit of Docker Hub, the realms of NGC and Red Hat; and
that the fakes refuse what the real ones refuse."""

from __future__ import annotations

import itertools
import ssl

import httpx
import pytest

from entrepot.api.client import CacheClient
from tests.e2e.registries.conftest import EngineInNamespace, SkopeoInNamespace
from tests.e2e.registries.profiles import PROFILES
from tests.e2e.registries.sources import RegistryWithHosts, World

PRESIGNED = [each.login_server for each in PROFILES if each.query]


def ask(
    world: World, url: str, headers: dict[str, str] | None = None, *, method: str = "GET"
) -> httpx.Response:
    """Ask a fake by its real name, as a program in the namespace would: the name is looked up
    in the namespace's own file of hosts."""
    requested_url = httpx.URL(url)
    trust = ssl.create_default_context(cafile=str(world.authority.path))
    address = world.host(requested_url.host).address

    def send() -> httpx.Response:
        with httpx.Client(verify=trust, trust_env=False, timeout=10) as client:
            request = client.build_request(
                method,
                requested_url.copy_with(host=address),
                headers={"Host": requested_url.host, **(headers or {})},
            )
            request.extensions["sni_hostname"] = requested_url.host
            return client.send(request)

    return world.namespace.call(send)


@pytest.mark.parametrize("source", PRESIGNED, indirect=True)
def test_a_presigned_address_refuses_credentials_heads_and_a_changed_query(
    world: World, source: RegistryWithHosts
) -> None:
    url = f"https://{source.profile.blobs}{source.blobs.address('sha256:some', b'content')}"
    assert ask(world, url).content == b"content"
    assert ask(world, url, {"Authorization": "Bearer x"}).status_code == 400
    assert ask(world, url, {"Cookie": "a=b"}).status_code == 400
    assert ask(world, url, method="HEAD").status_code == 403
    assert ask(world, url.partition("?")[0]).status_code == 403
    assert ask(world, f"{url}0").status_code == 403


def test_ecr_public_requires_a_token_and_accepts_no_basic_credentials(
    world: World,
) -> None:
    source = world.sources["public.ecr.aws"]
    source.add_image(source.profile.public, "guarded")
    url = f"https://public.ecr.aws/v2/{source.profile.public}/manifests/guarded"
    refused = ask(world, url)
    assert refused.status_code == 401
    assert (
        refused.headers["www-authenticate"]
        == 'Bearer realm="https://public.ecr.aws/token/",service="public.ecr.aws",scope="aws"'
    )
    assert ask(world, url, {"Authorization": "Basic QVdTOng="}).status_code == 400
    token = ask(world, "https://public.ecr.aws/token/?service=public.ecr.aws&scope=aws").json()[
        "token"
    ]
    assert ask(world, url, {"Authorization": f"Bearer {token}"}).status_code == 200


def test_docker_hub_counts_what_is_fetched_and_not_what_is_asked_for(
    engine: EngineInNamespace, world: World
) -> None:
    hub = world.sources["docker.io"]
    hub.add_image(hub.profile.public, "counted")
    before = hub.api.remaining
    assert before is not None
    path = f"/v2/{hub.profile.name}/open/manifests/counted"
    assert engine.ask_for(path).status_code == 200
    assert hub.api.remaining == before - 1
    engine.go_on(301)
    assert engine.ask_for(path).status_code == 200
    assert hub.api.remaining == before - 1
    hub_status = next(
        each
        for each in engine.manage(lambda client: client.system.source_registries())
        if each.login_server == "docker.io"
    )
    assert (hub_status.rate_limit_limit, hub_status.rate_limit_remaining) == (
        hub.profile.allowance,
        hub.api.remaining,
    )


def test_nvidia_ngc_is_signed_in_at_again_though_it_names_another_realm(
    engine: EngineInNamespace, skopeo: SkopeoInNamespace, world: World
) -> None:
    ngc = world.sources["nvcr.io"]
    assert ngc.api.tokens is not None
    reference = f"{engine.address}/{ngc.profile.name}/open"
    ngc.add_image(ngc.profile.public, "before")
    skopeo.pull(f"{reference}:before")
    ngc.api.tokens.revoke()
    image = ngc.add_image(ngc.profile.public, "after")
    skopeo.pull(f"{reference}:after")
    skopeo.assert_holds(f"{reference}:after", image)
    assert ngc.requests("authn.nvidia.com") == []


def test_red_hats_own_sign_in_is_used_though_it_is_of_another_domain(
    engine: EngineInNamespace, skopeo: SkopeoInNamespace, world: World
) -> None:
    red_hat = world.sources["registry.redhat.io"]
    tokens = red_hat.api.tokens
    assert tokens is not None
    before = tokens.realm
    tokens.realm = "https://sso.redhat.com/auth/realms/rhcc/protocol/redhat-docker-v2/auth"
    world.add_realm("sso.redhat.com", tokens)
    try:
        # A credential set that is new starts with a sign-in of its own.
        number = PROFILES.index(red_hat.profile)

        async def make(client: CacheClient) -> None:
            await client.credential_sets.create(
                "sso-redhat", "registry.redhat.io", f"env:USER_{number}", f"env:PASSWORD_{number}"
            )
            await client.rules.create(
                "sso-redhat", "registry.redhat.io/ubi9/sso", "sso/ubi", "sso-redhat"
            )

        engine.manage(make)
        image = red_hat.add_image("ubi9/sso", "1")
        skopeo.pull(f"{engine.address}/sso/ubi:1")
        skopeo.assert_holds(f"{engine.address}/sso/ubi:1", image)
        requests = world.host("sso.redhat.com").requests
        assert requests
        assert all(each.headers["authorization"].startswith("Basic ") for each in requests)
    finally:
        tokens.realm = before


def test_docker_hub_over_its_rate_limit_says_so_and_cached_images_are_served(
    engine: EngineInNamespace, world: World
) -> None:
    hub = world.sources["docker.io"]
    hub.add_image(hub.profile.public, "cached")
    hub.add_image(hub.profile.public, "not-cached")
    path = f"/v2/{hub.profile.name}/open/manifests"
    assert engine.ask_for(f"{path}/cached").status_code == 200
    remaining, hub.api.remaining = hub.api.remaining, 0
    try:
        over = engine.ask_for(f"{path}/not-cached")
        assert (over.status_code, over.json()["errors"][0]["code"]) == (429, "TOOMANYREQUESTS")
        assert int(over.headers["retry-after"]) > 0
        assert engine.ask_for(f"{path}/cached").status_code == 200
    finally:
        hub.api.remaining = remaining
        # It is left alone for as long as it asked for, and what it refused is remembered: each try
        # asks for something else.
        for number in itertools.count():
            hub.add_image(hub.profile.public, f"later-{number}")
            if engine.ask_for(f"{path}/later-{number}").status_code == 200:
                break
