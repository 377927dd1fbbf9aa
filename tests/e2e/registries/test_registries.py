"""Every source registry of the table: what its policy allows, how it signs in, and what a pull
through Entrepot asks of it."""

from __future__ import annotations

import pytest

from entrepot.api.client import CacheClient
from entrepot.api.errors import EngineRefused
from entrepot.core.states import SignIn
from tests.e2e.clients.container_clients import AMD64, PullFailed
from tests.e2e.registries.conftest import WRONG, EngineInNamespace, SkopeoInNamespace, sign_in_of
from tests.e2e.registries.profiles import PROFILES
from tests.e2e.registries.sources import RegistryWithHosts

TAKING_CREDENTIALS = [each.login_server for each in PROFILES if sign_in_of(each) is not SignIn.NONE]
OPEN_TO_ALL = [each.login_server for each in PROFILES if sign_in_of(each) is not SignIn.REQUIRED]

FRESHNESS = 300
"""The default tag lifetime, in seconds."""


def assert_nowhere(secrets: list[str], engine: EngineInNamespace) -> None:
    """None of the secrets is in the log or in a file of the engine."""
    written = engine.everything_written()
    assert [
        (path, secret[:8])
        for path, content in written.items()
        for secret in secrets
        if secret.encode() in content
    ] == []


def test_a_rule_can_be_made_as_the_policy_says(
    engine: EngineInNamespace, source: RegistryWithHosts
) -> None:
    profile = source.profile
    number = PROFILES.index(profile)
    repository = f"{profile.login_server}/policy/test"

    async def with_credentials(client: CacheClient) -> None:
        await client.credential_sets.create(
            f"{profile.name}-policy",
            profile.login_server,
            f"env:USER_{number}",
            f"env:PASSWORD_{number}",
        )
        await client.rules.create(
            f"{profile.name}-policy", repository, f"{profile.name}/policy", f"{profile.name}-policy"
        )

    async def without(client: CacheClient) -> None:
        await client.rules.create(
            f"{profile.name}-anonymous", repository, f"{profile.name}/anonymous"
        )

    policy = sign_in_of(profile)
    if policy is SignIn.NONE:
        with pytest.raises(EngineRefused) as refused:
            engine.manage(with_credentials)
        assert refused.value.code == "UpstreamTakesNoCredentials"
    else:
        engine.manage(with_credentials)
    if policy is SignIn.REQUIRED:
        with pytest.raises(EngineRefused) as refused:
            engine.manage(without)
        assert refused.value.code == (
            "EnforceDockerAuthentication"
            if profile.login_server == "docker.io"
            else "EnforceUpstreamAuthentication"
        )
    else:
        engine.manage(without)


def test_a_cold_pull_is_byte_identical_and_fetches_each_blob_once(
    engine: EngineInNamespace, skopeo: SkopeoInNamespace, source: RegistryWithHosts
) -> None:
    profile = source.profile
    image = source.add_image(profile.public, "cold")
    source.forget_requests()
    reference = f"{engine.address}/{profile.name}/open:cold"
    skopeo.pull(reference)
    skopeo.assert_holds(reference, image)
    engine.wait_for_pull(f"{profile.name}/open:cold")
    blob_responses = [
        each
        for each in source.requests(profile.blobs)
        if "/v2/" not in each.path
        and each.status == 200
        and each.bytes_sent > 0
        and "token" not in each.path
    ]
    assert len(blob_responses) == len({each.digest for each in image.platforms[AMD64].blobs})
    assert_nowhere(source.secrets, engine)


def test_nothing_that_lets_us_in_reaches_the_host_of_the_blobs(
    engine: EngineInNamespace, skopeo: SkopeoInNamespace, source: RegistryWithHosts
) -> None:
    profile = source.profile
    image = source.add_image(profile.public, "redirected")
    source.forget_requests()
    reference = f"{engine.address}/{profile.name}/open:redirected"
    skopeo.pull(reference)
    skopeo.assert_holds(reference, image)
    engine.wait_for_pull(f"{profile.name}/open:redirected")
    redirected = [
        each for each in source.requests(profile.api) if each.status == profile.redirects_with
    ]
    assert redirected
    if profile.blobs != profile.api:
        assert source.requests(profile.blobs)
        assert [
            each.headers
            for each in source.requests(profile.blobs)
            if {"authorization", "cookie"} & each.headers.keys()
        ] == []
    if not profile.realm:
        assert [
            each.target
            for host in source.hosts
            for each in host.requests
            if "authorization" in each.headers
        ] == []


@pytest.mark.parametrize("source", TAKING_CREDENTIALS, indirect=True)
def test_with_the_right_credentials_what_is_private_is_pulled(
    engine: EngineInNamespace, skopeo: SkopeoInNamespace, source: RegistryWithHosts
) -> None:
    profile = source.profile
    image = source.add_image(profile.private, "right")
    source.forget_requests()
    reference = f"{engine.address}/{profile.name}/closed:right"
    skopeo.pull(reference)
    skopeo.assert_holds(reference, image)
    engine.wait_for_pull(f"{profile.name}/closed:right")
    basic = {
        f"https://{host.name}{each.path}"
        for host in source.hosts
        for each in host.requests
        if each.headers.get("authorization", "").startswith("Basic ")
    }
    assert basic <= {profile.realm}
    sets = engine.manage(lambda client: client.credential_sets.list())
    assert [each.health.value for each in sets if each.name == f"{profile.name}-right"] == [
        "Healthy"
    ]
    assert_nowhere(
        [*source.secrets, *(each for each in profile.password.splitlines() if len(each) > 20)],
        engine,
    )


@pytest.mark.parametrize("source", TAKING_CREDENTIALS, indirect=True)
def test_wrong_credentials_are_reported_to_the_client_and_the_administrator(
    engine: EngineInNamespace, skopeo: SkopeoInNamespace, source: RegistryWithHosts
) -> None:
    profile = source.profile
    image = source.add_image(profile.private, "wrong")
    reference = f"{engine.address}/{profile.name}/wrong:wrong"
    if not profile.realm:
        # It never asks who we are, so nothing is wrong.
        skopeo.pull(reference)
        skopeo.assert_holds(reference, image)
        return
    with pytest.raises(PullFailed, match="denied") as failed:
        skopeo.pull(reference)
    message = str(failed.value)
    assert profile.login_server in message
    assert f"{profile.name}-wrong" in message
    engine.process.wait_for_line(f"{profile.name}-wrong is unhealthy")
    assert WRONG not in message
    assert_nowhere([*source.secrets, WRONG], engine)


@pytest.mark.parametrize("source", OPEN_TO_ALL, indirect=True)
def test_what_is_not_there_is_unknown(engine: EngineInNamespace, source: RegistryWithHosts) -> None:
    profile = source.profile
    source.add_image(profile.public, "there")
    engine.manage(
        lambda client: client.rules.create(
            f"{profile.name}-nothing",
            f"{profile.login_server}/policy/nothing",
            f"{profile.name}/nothing",
        )
    )
    answer = engine.ask_for(f"/v2/{profile.name}/nothing/manifests/1")
    assert (answer.status_code, answer.json()["errors"][0]["code"]) == (404, "MANIFEST_UNKNOWN")


def test_a_second_pull_sends_no_request_and_a_stale_tag_costs_one_head(
    engine: EngineInNamespace, skopeo: SkopeoInNamespace, source: RegistryWithHosts
) -> None:
    profile = source.profile
    image = source.add_image(profile.public, "again")
    reference = f"{engine.address}/{profile.name}/open:again"
    skopeo.pull(reference)
    engine.wait_for_pull(f"{profile.name}/open:again")
    source.forget_requests()
    skopeo.pull(reference)
    skopeo.assert_holds(reference, image)
    assert source.requests_since() == []
    engine.go_on(FRESHNESS + 1)
    skopeo.pull(reference)
    skopeo.assert_holds(reference, image)
    heads = [(profile.api, "HEAD", f"/v2/{profile.public}/manifests/again")]
    if profile.manifests:
        host, _, prefix = profile.manifests.partition("/")
        heads.append((host, "HEAD", f"/{prefix}/{profile.public}/manifests/again"))
    assert source.requests_since() == heads


def test_with_the_source_gone_a_cached_image_is_pulled(
    engine: EngineInNamespace, skopeo: SkopeoInNamespace, source: RegistryWithHosts
) -> None:
    profile = source.profile
    image = source.add_image(profile.public, "gone")
    reference = f"{engine.address}/{profile.name}/open:gone"
    skopeo.pull(reference)
    engine.wait_for_pull(f"{profile.name}/open:gone")
    source.stop()
    try:
        engine.go_on(FRESHNESS + 1)
        skopeo.pull(reference)
        skopeo.assert_holds(reference, image)
        answer = engine.ask_for(f"/v2/{profile.name}/open/manifests/gone")
        assert (answer.status_code, answer.headers["entrepot-origin"]) == (200, "stale")
        unknown = engine.ask_for(f"/v2/{profile.name}/open/manifests/never-cached")
        assert unknown.status_code == 503
        assert profile.login_server in unknown.json()["errors"][0]["message"]
    finally:
        source.start()
        # Until the engine notices, requests to this source are refused.
        engine.wait_until_reached(profile)
