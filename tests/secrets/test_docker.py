"""What docker keeps: credential helpers, as real programs, and its configuration."""

from __future__ import annotations

import base64
import json
from pathlib import Path

import pytest

from entrepot.secrets import SecretIdentifier, SecretUnavailable, read_credential, read_secret
from tests.secrets.conftest import Script, set_of

HELPER = """
read server
echo "$1 $server" >> "$(dirname "$0")/asked"
case $server in
    https://index.docker.io/v1/) echo '{"ServerURL": "https://index.docker.io/v1/", "Username": "ann", "Secret": "hunter2"}' ;;
    ghcr.io) echo '{"ServerURL": "ghcr.io", "Username": "<token>", "Secret": "hunter2"}' ;;
    quay.io) echo '{"Username": "ann", "Secret": ""}' ;;
    gcr.io) echo hunter2 ;;
    *) echo 'credentials not found in native keychain: hunter2'; exit 1 ;;
esac
"""
"""Speaks the protocol of docker-credential-helpers."""


@pytest.fixture
def helper(script: Script) -> Path:
    return script("docker-credential-test", HELPER)


@pytest.fixture
def config(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where docker's configuration is, for this test."""
    monkeypatch.setenv("DOCKER_CONFIG", str(tmp_path / "docker"))
    (tmp_path / "docker").mkdir()
    path = tmp_path / "docker" / "config.json"
    path.touch(0o600)
    return path


def write(path: Path, document: str, *, mode: int = 0o600) -> None:
    path.write_text(document)
    path.chmod(mode)


def auth(pair: str) -> dict[str, str]:
    return {"auth": base64.b64encode(pair.encode()).decode()}


async def pair_of(kind: str, login_server: str = "docker.io") -> tuple[str, str]:
    separator = ":" if kind == "docker-config" else "/"
    found = await read_credential(set_of(f"{kind}{separator}username", f"{kind}{separator}password", login_server))
    return found.username.reveal(), found.password.reveal()


async def test_a_helper_gives_user_name_and_password_in_one_call(helper: Path) -> None:
    assert await pair_of("docker-helper:test") == ("ann", "hunter2")
    assert (helper.parent / "asked").read_text() == "get https://index.docker.io/v1/\n"


async def test_each_part_of_a_helper_s_answer_can_be_had_alone(helper: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert (await read_secret(SecretIdentifier.parse("docker-helper:test/username"), "docker.io")).reveal() == "ann"
    assert (await read_secret(SecretIdentifier.parse("docker-helper:test/password"), "docker.io")).reveal() == "hunter2"
    monkeypatch.setenv("OTHER", "bob")
    mixed = await read_credential(set_of("env:OTHER", "docker-helper:test/password"))
    assert (mixed.username.reveal(), mixed.password.reveal()) == ("bob", "hunter2")


@pytest.mark.parametrize(
    ("login_server", "why"),
    [
        ("nvcr.io", "docker-credential-test has nothing for nvcr.io"),
        ("ghcr.io", "identity token"),
        ("quay.io", "has no user name and password"),
        ("gcr.io", "something else than a credential"),
    ],
)
async def test_a_helper_that_has_nothing_to_use_is_said_to_be_so(helper: Path, login_server: str, why: str) -> None:
    with pytest.raises(SecretUnavailable, match=why) as caught:
        await pair_of("docker-helper:test", login_server)
    assert "hunter2" not in caught.value.message


async def test_a_helper_that_is_not_installed_is_said_to_be_so() -> None:
    with pytest.raises(SecretUnavailable, match="docker-credential-none-such can't be started: No such file"):
        await pair_of("docker-helper:none-such")


@pytest.mark.parametrize(
    ("server", "login_server"),
    [
        ("https://index.docker.io/v1/", "docker.io"),
        ("docker.io", "docker.io"),
        ("ghcr.io", "ghcr.io"),
        ("https://ghcr.io", "ghcr.io"),
        ("https://registry.example.com:5000/v2/", "registry.example.com:5000"),
    ],
)
async def test_a_login_of_docker_is_found_however_its_server_was_typed(config: Path, server: str, login_server: str) -> None:
    write(config, json.dumps({"auths": {"other.example.com": auth("bob:x"), server: auth("ann:hunter2:with:colons")}}))
    assert await pair_of("docker-config", login_server) == ("ann", "hunter2:with:colons")


async def test_a_new_login_of_docker_is_seen_at_the_next_reading(config: Path) -> None:
    for password in ("one", "two"):
        write(config, json.dumps({"auths": {"ghcr.io": auth(f"ann:{password}")}}))
        assert await pair_of("docker-config", "ghcr.io") == ("ann", password)


@pytest.mark.parametrize("document", [{"credsStore": "test"}, {"credHelpers": {"docker.io": "test", "ghcr.io": "none"}, "credsStore": "none"}])
async def test_the_helper_that_docker_s_configuration_names_is_asked(config: Path, helper: Path, document: dict[str, object]) -> None:
    write(config, json.dumps(document | {"auths": {"https://index.docker.io/v1/": {}}}))
    assert await pair_of("docker-config") == ("ann", "hunter2")


@pytest.mark.parametrize(
    ("document", "why"),
    [
        ("hunter2", "is not a configuration of docker"),
        ('{"auths": []}', "is not a configuration of docker"),
        ("{}", "has nothing for docker.io"),
        (json.dumps({"auths": {"docker.io": {"auth": "hunter2!"}}}), "has no user name and password"),
        (json.dumps({"auths": {"docker.io": {"auth": "aGFuCg==", "identitytoken": "hunter2"}}}), "identity token"),
    ],
)
async def test_a_configuration_without_a_usable_login_is_said_to_be_so(config: Path, document: str, why: str) -> None:
    write(config, document)
    with pytest.raises(SecretUnavailable, match=why) as caught:
        await pair_of("docker-config")
    assert "hunter2" not in caught.value.message


async def test_a_configuration_that_others_may_read_is_not_used(open_directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DOCKER_CONFIG", str(open_directory))
    write(open_directory / "config.json", json.dumps({"auths": {"docker.io": auth("ann:hunter2")}}), mode=0o644)
    with pytest.raises(SecretUnavailable, match="chmod 600"):
        await pair_of("docker-config")


async def test_without_a_variable_the_configuration_is_in_the_home_directory(config: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("DOCKER_CONFIG")
    monkeypatch.setenv("HOME", str(tmp_path))
    write(config, json.dumps({"auths": {"docker.io": auth("ann:hunter2")}}))
    config.parent.rename(tmp_path / ".docker")
    assert await pair_of("docker-config") == ("ann", "hunter2")
