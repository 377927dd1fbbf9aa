from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from entrepot.core.registries import (
    TABLE,
    DeclaredRegistry,
    LoginServerInvalid,
    LoginServerNotSupported,
    RegistryDeclarationInvalid,
    SourceRegistries,
    parse_login_server,
)
from entrepot.core.states import SignIn

DOCUMENTED: list[dict[str, Any]] = json.loads(
    (Path(__file__).parents[1] / "data" / "source-registries.json").read_text()
)["upstreams"]
SIGN_IN = {"auth": SignIn.REQUIRED, "anon": SignIn.NONE, "both": SignIn.OPTIONAL}


@pytest.mark.parametrize("documented", DOCUMENTED, ids=lambda each: each["login_server"])
def test_every_upstream_of_acr_is_known_with_its_sign_in(documented: dict[str, Any]) -> None:
    registries = {each.login_server: each for each in SourceRegistries()}
    registry = registries[documented["login_server"]]
    assert (registry.name, registry.sign_in, registry.declared) == (
        documented["name"],
        SIGN_IN[documented["credentials"]],
        False,
    )


def test_no_upstream_is_known_that_acr_does_not_have() -> None:
    assert [each.login_server for each in SourceRegistries()] == [
        each["login_server"] for each in DOCUMENTED
    ]


@pytest.mark.parametrize(
    "registry", [each for each in TABLE if not each.pattern], ids=lambda each: each.login_server
)
def test_a_login_server_is_asked_at_its_own_host_except_docker_hub(registry: Any) -> None:
    expected = (
        "https://registry-1.docker.io"
        if registry.login_server == "docker.io"
        else f"https://{registry.login_server}"
    )
    assert SourceRegistries().find(registry.login_server).endpoint == expected


@pytest.mark.parametrize(
    "text", ["docker.io", "index.docker.io", "registry-1.docker.io", "Docker.IO", " docker.io "]
)
def test_docker_hub_is_found_under_all_its_names(text: str) -> None:
    registry = SourceRegistries().find(text)
    assert registry.login_server == "docker.io"
    assert registry.endpoint == "https://registry-1.docker.io"


@pytest.mark.parametrize("name", ["acme.azurecr.io", "europe-west1-docker.pkg.dev"])
def test_a_registry_of_a_pattern_has_its_own_name_and_endpoint(name: str) -> None:
    registry = SourceRegistries().find(name)
    assert (registry.login_server, registry.endpoint, registry.sign_in) == (
        name,
        f"https://{name}",
        SignIn.REQUIRED,
    )
    assert not registry.pattern


def test_a_pattern_itself_is_not_a_registry_to_pull_from() -> None:
    with pytest.raises(LoginServerInvalid, match=r"contoso\.azurecr\.io"):
        SourceRegistries().find("*.azurecr.io")


@pytest.mark.parametrize(
    "name",
    [
        "xpkg.upbound.io",
        "azurecr.io",
        "a.b.azurecr.io",
        "evil.azurecr.io.example.com",
        "docker.io:443",
        "docker.io.example.com",
        "localhost:5000",
    ],
)
def test_a_login_server_outside_the_table_is_refused_in_the_words_of_acr(name: str) -> None:
    with pytest.raises(LoginServerNotSupported) as caught:
        SourceRegistries().find(name, field="sourceRepository")
    refusal = caught.value
    assert (refusal.code, refusal.field, refusal.status) == (
        "UpstreamNotSupported",
        "sourceRepository",
        400,
    )
    assert refusal.what.startswith(
        f"Unsupported upstream or login server '{name}' provided. Supported upstreams or login servers are: docker.io, "
    )
    assert f'[upstreams."{name}"]' in refusal.hint


def test_a_misspelt_login_server_is_answered_with_the_nearest() -> None:
    with pytest.raises(LoginServerNotSupported, match=r"Did you mean ghcr\.io\?"):
        SourceRegistries().find("ghrc.io")


@pytest.mark.parametrize(
    ("text", "hint"),
    [
        ("", "docker.io"),
        ("https://docker.io", "Write docker.io."),
        ("docker://ghcr.io/x", "Write ghcr.io."),
        ("docker.io/library", "Write docker.io;"),
        ("docker io", "host name"),
        ("user@docker.io", "host name"),
        ("-docker.io", "host name"),
        ("docker.io:", "host name"),
        ("a" * 300, "host name"),
    ],
)
def test_what_is_not_a_login_server_is_refused_with_a_hint_that_fits(text: str, hint: str) -> None:
    with pytest.raises(LoginServerInvalid) as caught:
        SourceRegistries().find(text)
    assert hint in caught.value.hint
    assert caught.value.field == "loginServer"
    assert len(caught.value.message) < 250


@pytest.mark.parametrize(
    "text",
    [
        "localhost:5000",
        "127.0.0.1:5001",
        "[::1]:5000",
        "registry.example.com",
        "r-1.example.com:8443",
    ],
)
def test_hosts_with_ports_and_addresses_are_login_servers(text: str) -> None:
    assert parse_login_server(text) == text


@pytest.mark.parametrize(
    ("login_server", "path", "repository"),
    [
        ("docker.io", "nginx", "library/nginx"),
        ("docker.io", "library/nginx", "library/nginx"),
        ("docker.io", "grafana/loki", "grafana/loki"),
        ("dhi.io", "python", "python"),
        ("ghcr.io", "nginx", "nginx"),
    ],
)
def test_library_is_put_in_front_of_one_part_names_of_docker_hub_only(
    login_server: str, path: str, repository: str
) -> None:
    assert SourceRegistries().find(login_server).repository(path) == repository


def test_a_declared_registry_is_found_and_comes_after_the_table() -> None:
    registries = SourceRegistries(
        [
            DeclaredRegistry(
                "Registry.Example.com", "Ours", SignIn.REQUIRED, "https://mirror.example.com:8443/"
            )
        ]
    )
    registry = registries.find("registry.example.com")
    assert (registry.name, registry.sign_in, registry.endpoint, registry.declared) == (
        "Ours",
        SignIn.REQUIRED,
        "https://mirror.example.com:8443",
        True,
    )
    assert list(registries)[-1] == registry
    assert "registry.example.com" in registries


def test_a_declared_registry_needs_nothing_but_its_name() -> None:
    registry = SourceRegistries([DeclaredRegistry("registry.example.com:5000")]).find(
        "registry.example.com:5000"
    )
    assert (registry.name, registry.sign_in, registry.endpoint) == (
        "registry.example.com:5000",
        SignIn.OPTIONAL,
        "https://registry.example.com:5000",
    )


def test_a_declaration_overrides_the_endpoint_of_a_known_registry_and_nothing_else() -> None:
    registries = SourceRegistries(
        [DeclaredRegistry("index.docker.io", endpoint="https://mirror.example.com")]
    )
    registry = registries.find("docker.io")
    assert (registry.name, registry.sign_in, registry.endpoint, registry.declared) == (
        "Docker Hub",
        SignIn.REQUIRED,
        "https://mirror.example.com",
        False,
    )
    assert registry.repository("nginx") == "library/nginx"
    assert len(list(registries)) == len(TABLE)


def test_a_declared_registry_of_a_pattern_keeps_the_sign_in_of_the_pattern() -> None:
    registries = SourceRegistries(
        [DeclaredRegistry("acme.azurecr.io", endpoint="https://10.0.0.5")]
    )
    assert registries.find("acme.azurecr.io").sign_in is SignIn.REQUIRED
    assert registries.find("acme.azurecr.io").endpoint == "https://10.0.0.5"
    assert registries.find("other.azurecr.io").endpoint == "https://other.azurecr.io"


def test_a_pattern_can_be_declared_and_has_no_endpoint_of_its_own() -> None:
    registries = SourceRegistries([DeclaredRegistry("*.registry.example.com", sign_in=SignIn.NONE)])
    assert registries.find("a.registry.example.com").endpoint == "https://a.registry.example.com"
    with pytest.raises(RegistryDeclarationInvalid):
        SourceRegistries(
            [DeclaredRegistry("*.registry.example.com", endpoint="https://one.example.com")]
        )


@pytest.mark.parametrize(
    "endpoint",
    [
        "",
        "mirror.example.com",
        "ftp://mirror.example.com",
        "https://",
        "https://a b",
        "https://mirror.example.com/path",
        "https://mirror.example.com?x=1",
        "https://m:99999",
        "https://m:x",
    ],
)
def test_an_endpoint_that_is_not_the_address_of_a_registry_is_refused(endpoint: str) -> None:
    with pytest.raises(RegistryDeclarationInvalid) as caught:
        SourceRegistries([DeclaredRegistry("registry.example.com", endpoint=endpoint)])
    assert caught.value.field == "endpoint"


def test_an_endpoint_with_a_password_is_refused_and_not_repeated() -> None:
    with pytest.raises(RegistryDeclarationInvalid) as caught:
        SourceRegistries(
            [
                DeclaredRegistry(
                    "registry.example.com", endpoint="https://me:hunter2@mirror.example.com"
                )
            ]
        )
    assert "hunter2" not in caught.value.message


def test_declared_realms_join_those_of_the_table() -> None:
    registries = SourceRegistries(
        [DeclaredRegistry("registry.redhat.io", realms=("https://auth.example.com/",))]
    )
    assert registries.find("registry.redhat.io").realms == (
        "https://sso.redhat.com",
        "https://auth.example.com",
    )
    assert SourceRegistries(
        [DeclaredRegistry("*.r.example.com", realms=("https://a.example.net",))]
    ).find("x.r.example.com").realms == ("https://a.example.net",)


@pytest.mark.parametrize(
    "realm",
    [
        "",
        "auth.example.com",
        "ftp://auth.example.com",
        "https://",
        "https://auth.example.com/jwt/auth",
        "https://m:x",
    ],
)
def test_a_realm_that_is_not_the_address_of_a_host_is_refused(realm: str) -> None:
    with pytest.raises(RegistryDeclarationInvalid, match="is not the address of a host") as caught:
        SourceRegistries([DeclaredRegistry("registry.example.com", realms=(realm,))])
    assert caught.value.field == "realms"


def test_a_realm_over_http_is_allowed_on_loopback_only() -> None:
    with pytest.raises(RegistryDeclarationInvalid, match="in clear"):
        SourceRegistries(
            [DeclaredRegistry("registry.example.com", realms=("http://auth.example.com",))]
        )
    assert SourceRegistries(
        [DeclaredRegistry("registry.example.com", realms=("http://127.0.0.1:5001",))]
    )


@pytest.mark.parametrize(
    "endpoint", ["http://127.0.0.1:5001", "http://localhost:5001", "http://[::1]:5001"]
)
def test_credentials_may_go_over_http_on_loopback(endpoint: str) -> None:
    assert (
        SourceRegistries([DeclaredRegistry("docker.io", endpoint=endpoint)])
        .find("docker.io")
        .endpoint
        == endpoint
    )


@pytest.mark.parametrize("sign_in", [SignIn.OPTIONAL, SignIn.REQUIRED])
def test_credentials_may_not_go_over_http_anywhere_else(sign_in: SignIn) -> None:
    with pytest.raises(RegistryDeclarationInvalid, match="in clear"):
        SourceRegistries(
            [
                DeclaredRegistry(
                    "registry.example.com", sign_in=sign_in, endpoint="http://10.0.0.5:5000"
                )
            ]
        )
    assert SourceRegistries(
        [
            DeclaredRegistry(
                "registry.example.com", sign_in=SignIn.NONE, endpoint="http://10.0.0.5:5000"
            )
        ]
    )
