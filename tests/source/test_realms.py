"""Where a registry may let clients sign in."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from entrepot.core.credentials import CredentialSet
from entrepot.core.reference import Repository, Tag
from entrepot.core.registries import DeclaredRegistry, SourceRegistries
from entrepot.source.errors import (
    SourceRefused,
)
from entrepot.source.realms import check_realm, registrable_domain
from entrepot.source.sources import Sources
from tests.fakes import (
    FakeRegistry,
    TokenSignIn,
)
from tests.source.conftest import registry

NGINX = Repository("library/nginx")
REALM = "https://auth.example.com/token"


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
    with pytest.raises(SourceRefused, match="asks for a sign-in"):
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
from entrepot.source.realms import check_realm
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
