"""The configurations of clients as the dashboard shows and copies them."""

from __future__ import annotations

import tomllib

import pytest

from entrepot.api.models import MirrorSnapshot, RuleSnapshot
from entrepot.core.mirror_configuration.clients import Client
from entrepot.core.rules import CacheRuleNotFound
from tests.tui.scripted import STATUS, changed
from tui.presentation.mirrors import ClientText, client_texts


def rule(name: str, source: str, target: str) -> RuleSnapshot:
    return RuleSnapshot(
        name=name,
        source_repository=source,
        target_repository=target,
        credential_set=None,
        created=0.0,
        login_server=source.partition("/")[0],
    )


RULES = [rule("hub-library", "docker.io/library/*", "hub/*"), rule("quay-all", "quay.io/*", "q/*")]
HUB = MirrorSnapshot(namespace="docker.io", address="127.0.0.1:5002")


def texts(rule: str | None = None, **changes: object) -> dict[Client, ClientText]:
    return {text.client: text for text in client_texts(changed(STATUS, **changes), RULES, rule)}


def test_each_client_has_its_configuration_and_the_command_that_installs_it() -> None:
    assert list(texts()) == list(Client)
    podman = texts()[Client.PODMAN]
    assert [each["prefix"] for each in tomllib.loads(podman.text)["registry"]] == [
        "docker.io/library",
        "quay.io",
    ]
    assert podman.command == "entrepot mirror podman --write"
    assert texts("quay-all")[Client.PODMAN].command == (
        "entrepot mirror podman --rule quay-all --write"
    )


def test_several_files_have_their_paths_in_front() -> None:
    lines = texts()[Client.CONTAINERD].text.splitlines()
    assert [line for line in lines if line.startswith("# /")] == [
        "# /etc/containerd/certs.d/docker.io/hosts.toml",
        "# /etc/containerd/certs.d/quay.io/hosts.toml",
    ]
    assert "# /" not in texts("quay-all")[Client.CONTAINERD].text


def test_docker_says_what_it_needs() -> None:
    docker = texts()[Client.DOCKER]
    assert docker.text == ""
    assert "[[mirrors]]" in docker.notes[-1]
    assert "http://127.0.0.1:5002" in texts(mirrors=(HUB,))[Client.DOCKER].text


def test_an_engine_that_listens_everywhere_has_a_name_to_fill_in() -> None:
    k3s = texts(address="0.0.0.0:5000")[Client.K3S]
    assert "http://entrepot.example:5000" in k3s.text
    assert k3s.notes[0].startswith("Write the name of the engine's machine in place of")
    assert k3s.command.endswith("--address entrepot.example")


def test_a_rule_that_was_deleted_meanwhile() -> None:
    with pytest.raises(CacheRuleNotFound):
        texts("gone-rule")
