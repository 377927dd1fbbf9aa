"""The configuration of each client, whole files at a time."""

from __future__ import annotations

import base64
import json
import tomllib
from dataclasses import replace
from typing import Any

import pytest
import yaml

from entrepot.core.mirror_configuration.clients import KINDS, Client, configure
from entrepot.core.mirror_configuration.files import BEGIN, END
from entrepot.core.mirror_configuration.setup import (
    Credentials,
    Endpoint,
    MirrorConfigurationImpossible,
    MirroredRule,
    Setup,
    find_rule,
    reached_at,
    source_url,
)
from entrepot.core.rules import CacheRuleNotFound

HUB = MirroredRule.of("hub-library", "docker.io/library/*", "hub/*")
QUAY = MirroredRule.of("quay-all", "quay.io/*", "quay/*")
GHCR_APP = MirroredRule.of("ghcr-app", "ghcr.io/team/app", "app")
RULES = (QUAY, HUB, GHCR_APP)

PLAIN = Setup(Endpoint("127.0.0.1:5000"), RULES)
MIRRORED = replace(PLAIN, mirrors={"docker.io": Endpoint("127.0.0.1:5002")})
ENCRYPTED = Setup(
    Endpoint("cache.example:5000", has_tls=True),
    RULES,
    mirrors={"docker.io": Endpoint("hub.cache.example:5000", has_tls=True)},
    selected=HUB,
    authorities="/etc/ssl/entrepot.pem",
    authorities_text="-----BEGIN CERTIFICATE-----\n",
    sign_in_required=True,
)
SIGNED_IN = replace(ENCRYPTED, credentials=Credentials("node", 's3"cret'))
CARELESS = replace(ENCRYPTED, authorities=None, authorities_text=None, skip_verify=True)

HOSTS = '{}[host."http://127.0.0.1:5000"]\ncapabilities = ["pull", "resolve"]\n'
BASIC = base64.b64encode(b'node:s3"cret').decode()


def hosts(server: str) -> str:
    return HOSTS.format(f'server = "{server}"\n\n')


def encrypted_hosts(*options: str) -> str:
    lines = [
        'server = "https://registry-1.docker.io"',
        "",
        '[host."https://cache.example:5000"]',
        'capabilities = ["pull", "resolve"]',
        *options,
    ]
    return "\n".join(lines) + "\n"


def registry(prefix: str, mirror: str, *, insecure: bool = True) -> str:
    return (
        f'[[registry]]\nprefix = "{prefix}"\nlocation = "{prefix}"\n\n'
        f'[[registry.mirror]]\nlocation = "{mirror}"\n' + ("insecure = true\n" if insecure else "")
    )


DROP_IN = "/etc/containers/registries.conf.d/50-entrepot-mirror.conf"
CERTIFICATE = "-----BEGIN CERTIFICATE-----\n"
CONTAINERS = [
    (
        PLAIN,
        {
            DROP_IN: "\n".join(
                [
                    registry("docker.io/library", "127.0.0.1:5000/hub"),
                    registry("ghcr.io/team/app", "127.0.0.1:5000/app"),
                    registry("quay.io", "127.0.0.1:5000/quay"),
                ]
            )
        },
    ),
    (
        replace(MIRRORED, selected=HUB),
        {DROP_IN: registry("docker.io/library", "127.0.0.1:5002/library")},
    ),
    (
        ENCRYPTED,
        {
            DROP_IN: registry(
                "docker.io/library", "hub.cache.example:5000/library", insecure=False
            ),
            "/etc/containers/certs.d/hub.cache.example:5000/ca.crt": CERTIFICATE,
        },
    ),
    (CARELESS, {DROP_IN: registry("docker.io/library", "hub.cache.example:5000/library")}),
]

TABLE: list[tuple[Client, Setup, dict[str, str]]] = [
    (
        Client.CONTAINERD,
        PLAIN,
        {
            "/etc/containerd/certs.d/docker.io/hosts.toml": hosts("https://registry-1.docker.io"),
            "/etc/containerd/certs.d/ghcr.io/hosts.toml": hosts("https://ghcr.io"),
            "/etc/containerd/certs.d/quay.io/hosts.toml": hosts("https://quay.io"),
        },
    ),
    (
        Client.CONTAINERD,
        replace(PLAIN, selected=HUB),
        {"/etc/containerd/certs.d/docker.io/hosts.toml": hosts("https://registry-1.docker.io")},
    ),
    (
        Client.CONTAINERD,
        SIGNED_IN,
        {
            "/etc/containerd/certs.d/docker.io/hosts.toml": encrypted_hosts(
                'ca = "/etc/ssl/entrepot.pem"',
                "",
                '[host."https://cache.example:5000".header]',
                f'Authorization = "Basic {BASIC}"',
            )
        },
    ),
    (
        Client.CONTAINERD,
        CARELESS,
        {"/etc/containerd/certs.d/docker.io/hosts.toml": encrypted_hosts("skip_verify = true")},
    ),
    (
        Client.BUILDKIT,
        replace(PLAIN, rules=(HUB, QUAY)),
        {
            "/etc/buildkit/buildkitd.toml": '[registry."docker.io"]\nmirrors = ["127.0.0.1:5000"]\n'
            '\n[registry."quay.io"]\nmirrors = ["127.0.0.1:5000"]\n'
            '\n[registry."127.0.0.1:5000"]\nhttp = true\n'
        },
    ),
    (
        Client.BUILDKIT,
        ENCRYPTED,
        {
            "/etc/buildkit/buildkitd.toml": '[registry."docker.io"]\n'
            'mirrors = ["cache.example:5000"]\n'
            '\n[registry."cache.example:5000"]\nca = ["/etc/ssl/entrepot.pem"]\n'
        },
    ),
    (
        Client.BUILDKIT,
        CARELESS,
        {
            "/etc/buildkit/buildkitd.toml": '[registry."docker.io"]\n'
            'mirrors = ["cache.example:5000"]\n'
            '\n[registry."cache.example:5000"]\ninsecure = true\n'
        },
    ),
    (
        Client.K3S,
        replace(PLAIN, rules=(HUB, QUAY)),
        {
            "/etc/rancher/k3s/registries.yaml": 'mirrors:\n  "docker.io":\n    endpoint:\n'
            '      - "http://127.0.0.1:5000"\n  "quay.io":\n    endpoint:\n'
            '      - "http://127.0.0.1:5000"\n'
        },
    ),
    (
        Client.K3S,
        SIGNED_IN,
        {
            "/etc/rancher/k3s/registries.yaml": 'mirrors:\n  "docker.io":\n    endpoint:\n'
            '      - "https://cache.example:5000"\nconfigs:\n  "cache.example:5000":\n    auth:\n'
            '      username: "node"\n      password: "s3\\"cret"\n    tls:\n'
            '      ca_file: "/etc/ssl/entrepot.pem"\n'
        },
    ),
    (
        Client.K3S,
        CARELESS,
        {
            "/etc/rancher/k3s/registries.yaml": 'mirrors:\n  "docker.io":\n    endpoint:\n'
            '      - "https://cache.example:5000"\nconfigs:\n  "cache.example:5000":\n    tls:\n'
            "      insecure_skip_verify: true\n"
        },
    ),
    *((Client.PODMAN, setup, files) for setup, files in CONTAINERS),
    *((Client.CRIO, setup, files) for setup, files in CONTAINERS),
]


@pytest.mark.parametrize(("client", "setup", "files"), TABLE)
def test_files_of_a_client(client: Client, setup: Setup, files: dict[str, str]) -> None:
    configuration = configure(client, setup)
    assert {file.path: file.text for file in configuration.files} == {
        path: f"{BEGIN}\n{body}{END}\n" for path, body in files.items()
    }


@pytest.mark.parametrize(
    ("setup", "files"),
    [
        (
            MIRRORED,
            {"/etc/docker/daemon.json": {"registry-mirrors": ["http://127.0.0.1:5002"]}},
        ),
        (
            CARELESS,
            {
                "/etc/docker/daemon.json": {
                    "registry-mirrors": ["https://hub.cache.example:5000"],
                    "insecure-registries": ["hub.cache.example:5000"],
                }
            },
        ),
    ],
)
def test_daemon_json_of_docker(setup: Setup, files: dict[str, Any]) -> None:
    configuration = configure(Client.DOCKER, setup)
    assert {file.path: json.loads(file.text) for file in configuration.files} == files


def test_docker_gets_the_authority_where_it_looks_for_it() -> None:
    _, authority = configure(Client.DOCKER, ENCRYPTED, "/srv/docker/daemon.json").files
    assert authority.path == "/srv/docker/certs.d/hub.cache.example:5000/ca.crt"
    assert CERTIFICATE in authority.text


def test_docker_needs_a_mirror_of_docker_hub() -> None:
    with pytest.raises(MirrorConfigurationImpossible, match="none") as refusal:
        configure(Client.DOCKER, PLAIN)
    assert refusal.value.hint is not None
    lines = refusal.value.hint.partition("\n")[2]
    assert tomllib.loads(lines) == {
        "mirrors": [{"listen": "127.0.0.1:5002", "namespace": "docker.io"}]
    }


def test_docker_has_no_mirrors_of_other_registries() -> None:
    with pytest.raises(MirrorConfigurationImpossible, match=r"pull from quay\.io"):
        configure(Client.DOCKER, replace(MIRRORED, selected=QUAY))


def test_podman_keeps_away_from_targets_of_other_rules() -> None:
    """Names below a prefix must not get the images that another rule has at that target."""
    fork = MirroredRule.of("alpine-fork", "quay.io/forks/alpine", "hub/alpine")
    [file] = configure(Client.PODMAN, replace(PLAIN, rules=(HUB, fork), selected=HUB)).files
    first, second = tomllib.loads(file.text)["registry"]
    assert first["prefix"] == "docker.io/library"
    assert second == {
        "prefix": "docker.io/library/alpine",
        "location": "docker.io/library/alpine",
    }


@pytest.mark.parametrize(
    ("source", "target"),
    [("quay.io/forks/*", "app/*"), ("quay.io/*", "*")],
    ids=["below", "around"],
)
def test_podman_leaves_a_repository_out_below_which_another_rule_answers(
    source: str, target: str
) -> None:
    other = MirroredRule.of("other-rule", source, target)
    configuration = configure(Client.PODMAN, replace(PLAIN, rules=(GHCR_APP, other)))
    tables = tomllib.loads(configuration.files[0].text)["registry"]
    assert [table["prefix"] for table in tables if "mirror" in table] == [other.source_prefix]
    assert any(note.startswith("ghcr-app is left out") for note in configuration.notes)
    with pytest.raises(MirrorConfigurationImpossible):
        configure(Client.PODMAN, replace(PLAIN, rules=(GHCR_APP, other), selected=GHCR_APP))
    # With an address of its own nothing can be mistaken.
    mirrors = {"ghcr.io": Endpoint("127.0.0.1:5003")}
    [file] = configure(
        Client.PODMAN, replace(PLAIN, rules=(GHCR_APP, other), selected=GHCR_APP, mirrors=mirrors)
    ).files
    assert "127.0.0.1:5003/team/app" in file.text


def test_podman_takes_rules_that_lie_in_each_other_and_agree() -> None:
    """The same image has the same source there, so nothing is left out."""
    inside = MirroredRule.of("hub-nginx", "docker.io/library/nginx", "hub/nginx")
    [file] = configure(Client.PODMAN, replace(PLAIN, rules=(HUB, inside))).files
    assert [
        (table["prefix"], table["mirror"][0]["location"])
        for table in tomllib.loads(file.text)["registry"]
    ] == [
        ("docker.io/library", "127.0.0.1:5000/hub"),
        ("docker.io/library/nginx", "127.0.0.1:5000/hub/nginx"),
    ]


@pytest.mark.parametrize("client", [Client.CONTAINERD, Client.K3S, Client.PODMAN, Client.BUILDKIT])
def test_notes_say_how_to_sign_in(client: Client) -> None:
    notes = " ".join(configure(client, ENCRYPTED).notes)
    assert "requires sign-in" in notes
    assert "requires sign-in" not in " ".join(configure(client, MIRRORED).notes)


@pytest.mark.parametrize("client", list(Client))
def test_without_rules_there_is_nothing_to_configure(client: Client) -> None:
    with pytest.raises(MirrorConfigurationImpossible, match="no cache rule yet"):
        configure(client, replace(MIRRORED, rules=()))


@pytest.mark.parametrize("client", list(Client))
def test_another_place(client: Client) -> None:
    place = "/srv/here" if KINDS[client].is_directory else "/srv/here/file"
    configuration = configure(client, MIRRORED, place)
    assert all(file.path.startswith("/srv/here") for file in configuration.files)


def test_yaml_is_as_k3s_reads_it() -> None:
    [file] = configure(Client.K3S, SIGNED_IN).files
    assert yaml.safe_load(file.text)["configs"]["cache.example:5000"]["auth"] == {
        "username": "node",
        "password": 's3"cret',
    }


def test_secrets_stay_out_of_messages() -> None:
    assert 's3"cret' not in repr(SIGNED_IN)


@pytest.mark.parametrize(
    ("address", "result"),
    [
        (None, "10.0.0.5:5000"),
        ("cache.example", "cache.example:5000"),
        ("cache.example:443", "cache.example:443"),
        ("[fd00::1]", "[fd00::1]:5000"),
    ],
)
def test_address_that_clients_reach(address: str | None, result: str) -> None:
    assert reached_at(Endpoint("10.0.0.5:5000"), address).address == result


@pytest.mark.parametrize(
    "address", ["", "http://cache", "cache:0", "cache:99999", 'a"b', "fd00::1"]
)
def test_what_is_no_address(address: str) -> None:
    with pytest.raises(MirrorConfigurationImpossible, match="is not an address"):
        reached_at(Endpoint("10.0.0.5:5000"), address)


@pytest.mark.parametrize("address", ["0.0.0.0:5000", "[::]:5000"])
def test_all_addresses_are_none_that_clients_reach(address: str) -> None:
    with pytest.raises(MirrorConfigurationImpossible, match="--address HOST:5000"):
        reached_at(Endpoint(address), None)
    assert reached_at(Endpoint(address), "cache.example").address == "cache.example:5000"


def test_rules_are_found_without_regard_to_case() -> None:
    assert find_rule(RULES, "HUB-Library") is HUB
    with pytest.raises(CacheRuleNotFound, match="There are: ghcr-app, hub-library, quay-all"):
        find_rule(RULES, "other")


@pytest.mark.parametrize(
    ("login_server", "url"),
    [
        ("docker.io", "https://registry-1.docker.io"),
        ("ghcr.io", "https://ghcr.io"),
        ("registry.example.com:5000", "https://registry.example.com:5000"),
        ("127.0.0.1:5001", "http://127.0.0.1:5001"),
        ("localhost:5001", "http://localhost:5001"),
    ],
)
def test_where_a_source_registry_is(login_server: str, url: str) -> None:
    assert source_url(login_server) == url
