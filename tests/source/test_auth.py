from __future__ import annotations

import asyncio
import base64
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from entrepot.core.credentials import CredentialSet
from entrepot.core.reference import Repository, Tag
from entrepot.core.registries import DeclaredRegistry, SourceRegistries
from entrepot.secrets import SecretUnavailable
from entrepot.source.auth import (
    LONGEST_LIFETIME,
    Challenge,
    check_realm,
    parse_challenges,
    registrable_domain,
)
from entrepot.source.client import Sources
from entrepot.source.errors import (
    SourceAnswerInvalid,
    SourceError,
    SourceFailed,
    SourceRateLimited,
    SourceRefused,
)
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


# Challenges


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        (
            [
                'Bearer realm="https://auth.example.com/token",service="registry",scope="repository:a/b:pull,push"'
            ],
            [
                (
                    "bearer",
                    {"realm": REALM, "service": "registry", "scope": "repository:a/b:pull,push"},
                )
            ],
        ),
        (
            ['Basic realm="x"', f'Bearer realm="{REALM}"'],
            [("basic", {"realm": "x"}), ("bearer", {"realm": REALM})],
        ),
        (
            [f'Basic realm="x, y", Bearer realm="{REALM}", service=reg'],
            [("basic", {"realm": "x, y"}), ("bearer", {"realm": REALM, "service": "reg"})],
        ),
        (
            [f'BEARER  Realm = "{REALM}" ,  SERVICE="s"'],
            [("bearer", {"realm": REALM, "service": "s"})],
        ),
        (
            [f'Bearer realm="{REALM}" service="s" scope="a b"'],
            [("bearer", {"realm": REALM, "service": "s", "scope": "a b"})],
        ),
        (
            [f"Bearer realm={REALM},service=s,scope=repository:a:pull,push,error=x"],
            [
                (
                    "bearer",
                    {
                        "realm": REALM,
                        "service": "s",
                        "scope": "repository:a:pull,push",
                        "error": "x",
                    },
                )
            ],
        ),
        ([f"Bearer realm='{REALM}',service='s'"], [("bearer", {"realm": REALM, "service": "s"})]),
        (
            [r'Bearer realm="a\"b",service="c\\d"'],
            [("bearer", {"realm": 'a"b', "service": r"c\d"})],
        ),
        (
            [f'Bearer realm="{REALM}",,, service="s",'],
            [("bearer", {"realm": REALM, "service": "s"})],
        ),
        (
            [f'Bearer realm="{REALM}", service="never closed'],
            [("bearer", {"realm": REALM, "service": "never closed"})],
        ),
        (["Negotiate, Basic realm=x"], [("negotiate", {}), ("basic", {"realm": "x"})]),
        (["Basic"], [("basic", {})]),
        # The last one counts, as in Go (distribution and containerd, parseValueAndParams).
        (['Bearer realm="one",realm="two"'], [("bearer", {"realm": "two"})]),
        (
            [f'Basic realm="x",Bearer realm="{REALM}",service="s",Basic realm="y"'],
            [
                ("basic", {"realm": "x"}),
                ("bearer", {"realm": REALM, "service": "s"}),
                ("basic", {"realm": "y"}),
            ],
        ),
        (
            [f"\tbearer realm = {REALM}\t,\tservice = s"],
            [("bearer", {"realm": REALM, "service": "s"})],
        ),
        (["", "   ", ",,"], []),
        ([], []),
    ],
)
def test_challenges_are_read_however_registries_write_them(
    values: list[str], expected: list[tuple[str, dict[str, str]]]
) -> None:
    assert parse_challenges(values) == [
        Challenge(scheme, parameters) for scheme, parameters in expected
    ]


@given(
    st.lists(st.text(alphabet=st.sampled_from("abBearerc =,\"\\'\t:/.-é"), max_size=60), max_size=3)
)
def test_no_header_makes_the_reader_of_challenges_fail(values: list[str]) -> None:
    parse_challenges(values)


@given(
    st.dictionaries(
        st.sampled_from(["realm", "service", "scope", "error"]),
        st.text(st.characters(min_codepoint=32, max_codepoint=126), max_size=30),
        min_size=1,
    )
)
def test_a_well_formed_challenge_is_read_as_it_was_meant(parameters: dict[str, str]) -> None:
    written = ", ".join(
        '{}="{}"'.format(name, value.replace("\\", "\\\\").replace('"', '\\"'))
        for name, value in parameters.items()
    )
    assert parse_challenges([f"Bearer {written}"]) == [Challenge("bearer", parameters)]


# Realms


@pytest.mark.parametrize(
    ("realm", "login_server", "endpoint"),
    [
        ("https://auth.docker.io/token", "docker.io", "https://registry-1.docker.io"),
        ("https://auth.docker.io/token", "docker.io", "https://mirror.example.com"),
        ("https://ghcr.io/token", "ghcr.io", "https://ghcr.io"),
        (
            "https://gitlab.example.co.uk/jwt/auth",
            "registry.example.co.uk",
            "https://registry.example.co.uk",
        ),
        (
            "https://registry.example.com:8443/token",
            "registry.example.com:5000",
            "https://registry.example.com:5000",
        ),
        ("https://acme.azurecr.io/oauth2/token", "acme.azurecr.io", "https://acme.azurecr.io"),
        ("http://127.0.0.1:5001/token", "docker.io", "http://127.0.0.1:5000"),
        ("http://localhost:5001/token", "docker.io", "http://127.0.0.1:5000"),
        ("https://10.0.0.7/token", "10.0.0.7:5000", "https://10.0.0.7:5000"),
    ],
)
def test_a_realm_of_the_registrys_own_is_used(realm: str, login_server: str, endpoint: str) -> None:
    assert str(check_realm(realm, registry(endpoint, login_server))) == realm


@pytest.mark.parametrize(
    ("login_server", "realm"),
    [
        ("docker.io", "https://auth.docker.io/token"),
        ("dhi.io", "https://dhi.io/token"),
        ("dhi.io", "https://auth.docker.io/token"),
        ("contoso.azurecr.io", "https://contoso.azurecr.io/oauth2/token"),
        ("public.ecr.aws", "https://public.ecr.aws/token/"),
        ("ghcr.io", "https://ghcr.io/token"),
        ("quay.io", "https://quay.io/v2/auth"),
        ("europe-docker.pkg.dev", "https://europe-docker.pkg.dev/v2/token"),
        ("gcr.io", "https://gcr.io/v2/token"),
        ("nvcr.io", "https://nvcr.io/proxy_auth"),
        ("nvcr.io", "https://authn.nvidia.com/token"),
        (
            "registry.redhat.io",
            "https://registry.redhat.io/auth/realms/rhcc/protocol/redhat-docker-v2/auth",
        ),
        (
            "registry.redhat.io",
            "https://sso.redhat.com/auth/realms/rhcc/protocol/redhat-docker-v2/auth",
        ),
    ],
)
def test_the_realms_of_the_table_are_known(login_server: str, realm: str) -> None:
    assert str(check_realm(realm, SourceRegistries().find(login_server))) == realm


def test_a_realm_elsewhere_is_used_once_the_settings_declare_it() -> None:
    declared = DeclaredRegistry(
        "registry.example.com",
        realms=("https://gitlab.example.net", "https://auth.example.org:8443"),
    )
    found = SourceRegistries([declared]).find("registry.example.com")
    assert (
        str(check_realm("https://gitlab.example.net/jwt/auth", found))
        == "https://gitlab.example.net/jwt/auth"
    )
    assert (
        str(check_realm("https://auth.example.org:8443/token?x=1", found))
        == "https://auth.example.org:8443/token?x=1"
    )
    for foreign in (
        "https://example.net/jwt",
        "https://www.gitlab.example.net/jwt",
        "https://auth.example.org/token",
        "http://gitlab.example.net/jwt",
    ):
        with pytest.raises(SourceRefused):
            check_realm(foreign, found)


def test_a_foreign_realm_is_named_with_what_would_allow_it() -> None:
    with pytest.raises(SourceRefused) as raised:
        check_realm(
            "https://gitlab.example.net:8443/jwt/auth",
            SourceRegistries([DeclaredRegistry("r.example.com")]).find("r.example.com"),
        )
    assert raised.value.hint.endswith(
        'realms = ["https://gitlab.example.net:8443"] below [upstreams."r.example.com"].'
    )


@pytest.mark.parametrize(
    ("realm", "login_server", "endpoint"),
    [
        ("https://evil.example.net/token", "docker.io", "https://registry-1.docker.io"),
        ("https://auth.docker.io.evil.example/token", "docker.io", "https://registry-1.docker.io"),
        ("https://evildocker.io/token", "docker.io", "https://registry-1.docker.io"),
        ("http://auth.docker.io/token", "docker.io", "https://registry-1.docker.io"),
        ("http://169.254.169.254/latest/meta-data", "docker.io", "https://registry-1.docker.io"),
        ("https://169.254.169.254/latest/meta-data", "docker.io", "https://registry-1.docker.io"),
        ("http://127.0.0.1:8080/token", "docker.io", "https://registry-1.docker.io"),
        ("https://evil.azurecr.io/oauth2/token", "acme.azurecr.io", "https://acme.azurecr.io"),
        ("https://evil.co.uk/token", "registry.example.co.uk", "https://registry.example.co.uk"),
        ("https://10.1.0.7/token", "10.0.0.7", "https://10.0.0.7"),
        ("https://auth.docker.io@evil.example/token", "docker.io", "https://registry-1.docker.io"),
        ("https://user:word@auth.docker.io/token", "docker.io", "https://registry-1.docker.io"),
        ("file:///etc/passwd", "docker.io", "https://registry-1.docker.io"),
        ("/token", "docker.io", "https://registry-1.docker.io"),
        ("https://[", "docker.io", "https://registry-1.docker.io"),
        ("", "docker.io", "https://registry-1.docker.io"),
    ],
)
def test_a_foreign_realm_is_refused(realm: str, login_server: str, endpoint: str) -> None:
    with pytest.raises(SourceRefused, match="wants us to sign in"):
        check_realm(realm, registry(endpoint, login_server))


PRIVATE_SUFFIXES = (
    *(
        "gitlab.io",
        "github.io",
        "herokuapp.com",
        "fly.dev",
        "onrender.com",
        "ngrok.app",
        "ngrok-free.app",
        "ngrok.io",
        "r2.dev",
        "pages.dev",
        "workers.dev",
    ),
    *(
        "cloudfront.net",
        "azurewebsites.net",
        "appspot.com",
        "web.app",
        "vercel.app",
        "netlify.app",
        "trycloudflare.com",
        "duckdns.org",
        "ts.net",
    ),
    *(
        "blob.core.windows.net",
        "s3.amazonaws.com",
        "s3.eu-west-1.amazonaws.com",
        "co.uk",
        "com.br",
        "org.au",
    ),
)
SHARED_HOSTS = (
    *(
        "acme.azurecr.io",
        "acme.azurecr.cn",
        "europe-docker.pkg.dev",
        "acme.jfrog.io",
        "acme-docker.jfrog.io",
        "fra.ocir.io",
        "acme.eastus.cloudapp.azure.com",
    ),
    *(
        "rg.fr-par.scw.cloud",
        "registry.cn-hangzhou.aliyuncs.com",
        "b.oss-cn-hangzhou.aliyuncs.com",
        "acme.container-registry.com",
        "a.tencentcloudcr.com",
    ),
    *(
        "123456789012.dkr.ecr.eu-west-1.amazonaws.com",
        "123456789012.dkr.ecr.cn-north-1.amazonaws.com.cn",
        "registry.10.0.0.7.nip.io",
    ),
    *(
        "acme.azurecontainerapps.io",
        "acme.koyeb.app",
        "acme.railway.app",
        "5000-acme.gitpod.io",
        "acme-5000.app.github.dev",
        "acme.devtunnels.ms",
    ),
    *("acme.lhr.life", "acme.localhost.run", "acme.loca.lt", "acme.serveo.net"),
)


@pytest.mark.parametrize(
    ("host", "domain"),
    [
        ("auth.docker.io", "docker.io"),
        ("docker.io", "docker.io"),
        ("a.b.example.co.uk", "example.co.uk"),
        ("acme.azurecr.io", "acme.azurecr.io"),
        ("10.0.0.1", "10.0.0.1"),
        ("::1", "::1"),
        ("registry", "registry"),
        ("Quay.IO.", "quay.io"),
        ("registry.corp.internal", "corp.internal"),
        ("a.registry.acme.com.au", "acme.com.au"),
        # S35: the private section of the public suffix list.
        *((f"acme.{domain}", f"acme.{domain}") for domain in PRIVATE_SUFFIXES),
        ("registry.acme.gitlab.io", "acme.gitlab.io"),
        ("gitlab.io", "gitlab.io"),
        ("acme.a.run.app", "acme.a.run.app"),
        # What the list does not have.
        *((host, host) for host in SHARED_HOSTS),
    ],
)
def test_the_domain_that_one_owner_registered(host: str, domain: str) -> None:
    assert registrable_domain(host) == domain


@pytest.mark.parametrize("host", [*(f"acme.{each}" for each in PRIVATE_SUFFIXES), *SHARED_HOSTS])
def test_a_neighbour_below_a_shared_domain_is_a_stranger(host: str) -> None:
    """S35: credentials of one customer went where another one said."""
    _, _, domain = host.partition(".")
    with pytest.raises(SourceRefused, match="which is not its own"):
        check_realm(f"https://evil.{domain}/token", registry(f"https://{host}", host))
    assert check_realm(f"https://{host}/token", registry(f"https://{host}", host)).host == host


@pytest.mark.parametrize(
    ("host", "realm", "own"),
    [
        ("registry.cn-hangzhou.aliyuncs.com", "dockerauth.cn-hangzhou.aliyuncs.com", True),
        (
            "acme-registry.cn-hangzhou.cr.aliyuncs.com",
            "dockerauth-ee.cn-hangzhou.aliyuncs.com",
            True,
        ),
        ("registry.cn-hangzhou.aliyuncs.com", "dockerauth.cn-beijing.aliyuncs.com", False),
        ("registry.cn-hangzhou.aliyuncs.com", "dockerauth.oss-cn-hangzhou.aliyuncs.com", False),
        ("registry.cn-hangzhou.aliyuncs.com", "evil.cn-hangzhou.aliyuncs.com", False),
        ("registry.gitlab.com", "gitlab.com", True),
        ("rg.fr-par.scw.cloud", "api.scaleway.com", False),
    ],
)
def test_a_registry_that_signs_in_at_a_host_of_its_operator(
    host: str, realm: str, own: bool
) -> None:
    try:
        check_realm(f"https://{realm}/auth", registry(f"https://{host}", host))
    except SourceRefused:
        assert not own
    else:
        assert own


def test_the_list_of_suffixes_is_loaded_when_a_realm_is_elsewhere_and_needs_no_network(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """S35: 40 ms of each start that nobody needs; and nothing is fetched or written."""
    code = """
import sys, socket
from entrepot.source.auth import check_realm
from entrepot.core.registries import SourceRegistries
def no_network(*_): raise AssertionError("the network was used")
socket.socket.connect = no_network
check_realm("https://ghcr.io/token", SourceRegistries().find("ghcr.io"))
assert "publicsuffixlist" not in sys.modules
check_realm("https://auth.docker.io/token", SourceRegistries().find("docker.io"))
assert "publicsuffixlist" in sys.modules
"""
    environment = {**os.environ, "HOME": str(tmp_path), "XDG_CACHE_HOME": str(tmp_path)}
    done = subprocess.run(
        [sys.executable, "-c", code],
        env=environment,
        cwd=Path(__file__).parents[2],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    "realm",
    [
        "https://xn--/token",
        "https://auth..docker.io/token",
        "https://auth.docker.io:99999/token",
        f"https://{'a' * 64}.docker.io/token",
        "https://[::1/token",
    ],
)
def test_a_realm_that_no_library_takes_is_refused(realm: str) -> None:
    """S02: a realm is an address that a source names, as a redirect is."""
    with pytest.raises(SourceRefused, match="can't be used"):
        check_realm(realm, registry("https://registry-1.docker.io"))


@pytest.mark.parametrize(
    "realm", ["http://169.254.169.254/token", "http://0.0.0.0:1/token", "http://[fe80::1]/token"]
)
def test_a_registry_on_this_machine_signs_in_on_this_machine_only(realm: str) -> None:
    """S21."""
    with pytest.raises(SourceRefused):
        check_realm(realm, registry("http://127.0.0.1:5000"))


async def test_a_hostile_realm_gets_no_request_at_all(
    sources: Sources, credential_set: CredentialSet
) -> None:
    async with (
        FakeRegistry(TokenSignIn({"ann": "s3cret"})) as evil,
        FakeRegistry(
            TokenSignIn({"ann": "s3cret"}, realm="https://evil.example.net/token")
        ) as source,
    ):
        with pytest.raises(SourceRefused, match=r"evil\.example\.net, which is not its own"):
            await sources.client(registry(source.url), credential_set).head_manifest(
                NGINX, Tag("1.27")
            )
        assert not evil.requests
        assert all("authorization" not in each.headers for each in source.requests)


# Tokens


async def test_a_public_image_is_pulled_with_a_token_for_nobody(sources: Sources) -> None:
    async with FakeRegistry(TokenSignIn()) as source:
        image = source.add_image("library/nginx", "1.27")
        assert (
            await sources.client(registry(source.url), None).manifest(NGINX, Tag("1.27"))
        ).digest == image.digest
        token = source.asked("GET", "/token")[0]
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
        sent = source.asked("GET", "/token")[0].headers["authorization"]
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
        assert [each.status for each in source.asked("HEAD", "/manifests/")] == [
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


async def test_a_token_that_was_refused_is_renewed_where_it_came_from_though_the_registry_names_another_realm(
    sources: Sources,
) -> None:
    # nvcr.io does so (NVIDIA/nvidia-container-toolkit issue 1945), and the realm that it names then
    # gives nothing to anonymous clients.
    sign_in = TokenSignIn()
    async with FakeRegistry(sign_in) as source:
        image = source.add_image("library/nginx", "1.27")
        client = sources.client(registry(source.url), None)
        await client.head_manifest(NGINX, Tag("1.27"))
        sign_in.revoke_tokens()
        sign_in.challenge = (
            'Bearer realm="https://authn.example.net/token",service="registry",scope="{scope}",error="invalid_token"',
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
        with pytest.raises(SourceRefused, match="lets us in only with credentials"):
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
    with pytest.raises(SourceRefused, match="over http, where anybody could read it"):
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
        assert "authorization" in source.asked("GET", "/token")[0].headers


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
    assert "lets us in only with credentials (" in refused.value.what
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
        (b'{"token":"t","expires_in":1e300}', LONGEST_LIFETIME),
        (b'{"token":"t","expires_in":99999999999999999999}', LONGEST_LIFETIME),
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
        assert source.asked("HEAD", "/manifests/")[-1].headers["authorization"] == "Bearer t"
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
            "without a token that can be used: it has 7 characters, or some that no header may have.",
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
        assert source.asked("HEAD", "/manifests/")[-1].status == 401


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
        source.sign_in.expires_in = float(expires_in)  # type: ignore[union-attr,assignment]
        clock.now += 1_000
        assert (await client.manifest(NGINX, Tag("1.27"))).digest == image.digest
        clock.now += LONGEST_LIFETIME
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
