"""Readers sign in with the clients that they have, and pull what they may read."""

from __future__ import annotations

import base64
import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import pytest

from tests.documents import block
from tests.e2e.clients.container_clients import (
    ContainerClient,
    Containerd,
    Docker,
    Podman,
    PullFailed,
    Skopeo,
)
from tests.e2e.clients.entrepot import LOGIN_SERVER, Entrepot
from tests.e2e.clients.processes import Finished
from tests.e2e.clients.source_registry import DockerRegistry
from tests.e2e.clients.test_sign_in import PASSWORD, PASSWORD_FILE, USER
from tests.fakes.images import FakeImage

SETTINGS = '{anonymous}\n[readers]\nhtpasswd = "readers.htpasswd"\n'


class ClientWithLogin(ContainerClient, Protocol):
    def login(self, address: str, name: str, password: str) -> Finished: ...


@dataclass
class Guarded:
    engine: Entrepot
    token: str

    def reference(self, name: str) -> str:
        return f"{self.engine.address}/{name}"


@pytest.fixture
def guarded(new_engine: Callable[..., Entrepot], source: DockerRegistry, app: FakeImage) -> Guarded:
    """``library/app`` under two names: ``open/app`` for everyone, ``private/app`` for one."""
    return _guarded(new_engine, source, "allow_anonymous = true")


def _guarded(
    new_engine: Callable[..., Entrepot], source: DockerRegistry, anonymous: str
) -> Guarded:
    engine = new_engine(source.url, settings=SETTINGS.format(anonymous=anonymous))
    (engine.directories.config / "readers.htpasswd").write_text(PASSWORD_FILE)
    engine.start()
    engine.create_rule("open-app", "library/*", "open/*")
    source_and_target = ("-s", f"{LOGIN_SERVER}/library/*", "-t", "private/*")
    engine.run("rule", "create", "-n", "private-app", *source_and_target, "--reader", USER)
    return Guarded(engine, engine.ask("token", "create", USER)["secret"])


@pytest.fixture(params=["docker", "podman", "skopeo"])
def client_with_login(request: pytest.FixtureRequest) -> ClientWithLogin:
    client: ClientWithLogin = request.getfixturevalue(request.param)
    client.forget()
    return client


@pytest.mark.parametrize("way", ["password", "token"])
def test_who_signs_in_pulls_what_others_can_not(
    client_with_login: ClientWithLogin, guarded: Guarded, app: FakeImage, way: str
) -> None:
    client, address = client_with_login, guarded.engine.address
    client.pull(guarded.reference("open/app:1"))
    client.assert_holds(guarded.reference("open/app:1"), app)
    client.forget()
    for name in ("private/app:1", "none/app:1"):
        with pytest.raises(PullFailed) as failed:
            client.pull(guarded.reference(name))
        assert "unauthorized" in str(failed.value)
    refused = client.login(address, USER, "wrong")
    assert refused.status != 0
    assert "unauthorized" in refused.output.lower() or "invalid" in refused.output.lower()
    password = PASSWORD if way == "password" else guarded.token
    login = client.login(address, USER, password)
    assert login.status == 0, login.output
    for name in ("private/app:1", "open/app:1"):
        client.pull(guarded.reference(name))
        client.assert_holds(guarded.reference(name), app)
        client.forget()
    with pytest.raises(PullFailed) as failed:
        client.pull(guarded.reference("none/app:1"))
    assert "No cache rule answers for none/app" in str(failed.value)


def test_where_everyone_signs_in_nothing_is_had_without(
    client_with_login: ClientWithLogin,
    new_engine: Callable[..., Entrepot],
    source: DockerRegistry,
    app: FakeImage,
) -> None:
    guarded = _guarded(new_engine, source, "")
    with pytest.raises(PullFailed, match="unauthorized"):
        client_with_login.pull(guarded.reference("open/app:1"))
    assert client_with_login.login(guarded.engine.address, USER, PASSWORD).status == 0
    client_with_login.pull(guarded.reference("open/app:1"))
    client_with_login.assert_holds(guarded.reference("open/app:1"), app)


@pytest.mark.parametrize("sent", ["Bearer token", "Basic token", "Basic password"])
def test_containerd_sends_what_hosts_toml_has(
    containerd: Containerd, guarded: Guarded, app: FakeImage, sent: str
) -> None:
    scheme, _, way = sent.partition(" ")
    password = PASSWORD if way == "password" else guarded.token
    basic = base64.b64encode(f"{USER}:{password}".encode()).decode()
    value = guarded.token if scheme == "Bearer" else basic
    url = f"http://{guarded.engine.address}"
    documented = block("# With a personal token.").text.replace(
        "127.0.0.1:5000", guarded.engine.address
    )
    containerd.use_hosts(
        {
            guarded.engine.address: documented.replace("entrepot_…", value)
            if scheme == "Bearer"
            else f'server = "{url}"\n[host."{url}"]\n'
            'capabilities = ["pull", "resolve"]\n'
            f'[host."{url}".header]\nAuthorization = ["{scheme} {value}"]\n'
        }
    )
    containerd.forget()
    containerd.pull_by_name(guarded.reference("private/app:1"))
    containerd.assert_holds(guarded.reference("private/app:1"), app)


def test_containerd_signs_in_when_it_is_asked_to(
    containerd: Containerd, guarded: Guarded, app: FakeImage
) -> None:
    containerd.forget()
    with pytest.raises(PullFailed):
        containerd.pull(guarded.reference("private/app:1"))
    options = ("--plain-http", "--snapshotter", "native", "--user", f"{USER}:{PASSWORD}")
    finished = containerd.run("images", "pull", *options, guarded.reference("private/app:1"))
    assert finished.status == 0, finished.output
    containerd.forget()
    containerd.pull(guarded.reference("open/app:1"))
    containerd.assert_holds(guarded.reference("open/app:1"), app)


def test_docker_sends_its_credentials_for_docker_hub_to_a_mirror_with_readers(
    docker: Docker,
    new_engine: Callable[..., Entrepot],
    source: DockerRegistry,
    app: FakeImage,
) -> None:
    """F48: they are those of no reader, and keep nobody from what is for everyone."""
    mirrors = '[[mirrors]]\nlisten = "127.0.0.1:0"\nnamespace = "docker.io"\n'
    engine = new_engine(
        source.url,
        login_server="docker.io",
        sign_in="none",
        settings=SETTINGS.format(anonymous="allow_anonymous = true") + mirrors,
    )
    (engine.directories.config / "readers.htpasswd").write_text(PASSWORD_FILE)
    engine.start()
    address = engine.process.wait_for_line(r"those of docker\.io on ([0-9.:]+)")[1]
    engine.create_rule("docker-library", "library/*", "hub/*")
    private = ("-s", "docker.io/private/*", "-t", "private/*", "--reader", USER)
    engine.run("rule", "create", "-n", "docker-private", *private)
    docker.forget()
    docker.use_settings({"registry-mirrors": [f"http://{address}"]})
    configuration = docker.client_configuration
    configuration.parent.mkdir(parents=True, exist_ok=True)
    auth = base64.b64encode(b"hub-user:hub-password").decode()
    configuration.write_text(json.dumps({"auths": {"https://index.docker.io/v1/": {"auth": auth}}}))
    try:
        docker.pull_by_name("app:1")
        docker.assert_holds("app:1", app)
        for name in ("private/app:1", "none/app:1"):
            # docker goes on to Docker Hub, which this machine does not reach.
            with pytest.raises(PullFailed, match=r"registry-1\.docker\.io"):
                docker.pull_by_name(name)
    finally:
        configuration.unlink()
        docker.use_settings({})


def test_passwords_and_tokens_are_written_nowhere(
    skopeo: Skopeo, podman: Podman, guarded: Guarded
) -> None:
    assert skopeo.login(guarded.engine.address, USER, PASSWORD).status == 0
    assert podman.login(guarded.engine.address, USER, guarded.token).status == 0
    skopeo.login(guarded.engine.address, USER, "a-wrong-password")
    guarded.engine.process.wait_for_line(f"The sign-in of {USER} from 127.0.0.1 is refused")
    secrets = (PASSWORD, guarded.token, "a-wrong-password")
    written = guarded.engine.everything_written().items()
    assert [
        (path, secret)
        for path, content in written
        for secret in secrets
        if secret.encode() in content
    ] == []
