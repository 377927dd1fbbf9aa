"""Source registries that want a sign-in: real tokens, checked by a real registry, and a password
file."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.clients.container_clients import AMD64, PullFailed, Skopeo
from tests.e2e.clients.entrepot import LOGIN_SERVER, Entrepot
from tests.e2e.clients.layouts import push
from tests.e2e.clients.source_registry import DockerRegistry
from tests.e2e.clients.token_server import TokenServer
from tests.fakes.images import FakeImage, build_image

USER = "puller"
PASSWORD = "correct-horse-battery"
WRONG = "wrong-horse-battery"
PASSWORD_FILE = f"{USER}:$2b$04$abcdefghijklmnopqrstuupOWRSKKNe562z1DsLEArFuJDHVyRIMa\n"
"""As ``htpasswd -B`` writes it: bcrypt, of `PASSWORD`, with the lowest cost that there is."""

NewEngine = Callable[..., Entrepot]


@pytest.fixture(scope="module")
def tokens(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TokenServer]:
    with TokenServer(
        tmp_path_factory.mktemp("tokens"), users={USER: PASSWORD}, anonymous="public/"
    ) as server:
        yield server


@pytest.fixture(scope="module")
def token_source(
    tokens: TokenServer, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[DockerRegistry]:
    """A source registry that accepts the tokens of a token server, with an image for everyone and
    one for its users."""
    with DockerRegistry(tmp_path_factory.mktemp("token-source"), auth=tokens.auth) as registry:
        for repository in ("public/app", "private/app"):
            _push(repository, registry, tmp_path_factory)
        yield registry


@pytest.fixture(scope="module")
def password_source(tmp_path_factory: pytest.TempPathFactory) -> Iterator[DockerRegistry]:
    """A source registry that wants a user name and a password with each request."""
    root = tmp_path_factory.mktemp("password-source")
    (root / "htpasswd").write_text(PASSWORD_FILE)
    with DockerRegistry(
        root, auth={"htpasswd": {"realm": "tests", "path": str(root / "htpasswd")}}
    ) as registry:
        _push("private/app", registry, tmp_path_factory)
        yield registry


@pytest.fixture(params=["token", "password"])
def guarded(request: pytest.FixtureRequest) -> DockerRegistry:
    """Both source registries in turn."""
    registry: DockerRegistry = request.getfixturevalue(f"{request.param}_source")
    return registry


def _push(
    repository: str, registry: DockerRegistry, tmp_path_factory: pytest.TempPathFactory
) -> None:
    push(
        _image(repository),
        registry.address,
        tmp_path_factory.mktemp("images"),
        options=("--dest-creds", f"{USER}:{PASSWORD}"),
    )


def _image(repository: str) -> FakeImage:
    return build_image(repository, "1", [300_000, 20_000], [AMD64], index=True)


def _signing_in(
    new_engine: NewEngine, source: DockerRegistry, password: str, **options: Any
) -> Entrepot:
    engine = new_engine(
        source.url, variables={"HUB_USER": USER, "HUB_PASSWORD": password}, **options
    ).start()
    engine.create_credential_set("example-hub", "env:HUB_USER", "env:HUB_PASSWORD")
    engine.create_rule("example-private", "private/*", "private/*", "example-hub")
    return engine


def _health(engine: Entrepot) -> dict[str, Any]:
    """The credential set once its first sign-in has ended, which only its health shows."""
    deadline = time.monotonic() + 20
    while True:
        credential_set: dict[str, Any] = engine.ask(
            "credential-set", "show", "--name", "example-hub"
        )
        if credential_set["health"] != "Unknown" or time.monotonic() > deadline:
            return credential_set


def _assert_nowhere(secret: str, engine: Entrepot, source: DockerRegistry) -> None:
    assert [
        path for path, content in engine.everything_written().items() if secret.encode() in content
    ] == []
    assert secret not in str(source.accesses())


def test_with_the_right_credentials_a_private_image_is_pulled(
    skopeo: Skopeo, new_engine: NewEngine, guarded: DockerRegistry
) -> None:
    engine = _signing_in(new_engine, guarded, PASSWORD, sign_in="required")
    reference = f"{engine.address}/private/app:1"
    skopeo.pull(reference)
    skopeo.assert_holds(reference, _image("private/app"))
    assert _health(engine)["health"] == "Healthy"
    engine.wait_for_pull("private/app:1")
    _assert_nowhere(PASSWORD, engine, guarded)


def test_wrong_credentials_are_reported_to_the_client_and_the_administrator(
    skopeo: Skopeo, new_engine: NewEngine, guarded: DockerRegistry
) -> None:
    engine = _signing_in(new_engine, guarded, WRONG)
    with pytest.raises(PullFailed) as failed:
        skopeo.pull(f"{engine.address}/private/app:1")
    message = str(failed.value)
    assert "denied" in message.lower()
    assert LOGIN_SERVER in message
    assert "example-hub" in message
    answer = engine.get("/v2/private/app/manifests/1")
    assert (answer.status_code, answer.json()["errors"][0]["code"]) == (403, "DENIED")
    credential_set = _health(engine)
    assert credential_set["health"] == "Unhealthy"
    assert "credential" in credential_set["errorMessage"]
    engine.process.wait_for_line("example-hub is unhealthy")
    assert WRONG not in message + answer.text + str(credential_set)
    _assert_nowhere(WRONG, engine, guarded)


def test_a_missing_secret_is_named_to_the_client_and_to_the_administrator(
    skopeo: Skopeo, new_engine: NewEngine, guarded: DockerRegistry
) -> None:
    engine = new_engine(guarded.url).start()
    engine.create_credential_set("example-hub", "env:HUB_USER", "env:HUB_PASSWORD")
    engine.create_rule("example-private", "private/*", "private/*", "example-hub")
    answer = engine.get("/v2/private/app/manifests/1")
    assert "env:HUB_USER can't be read" in answer.json()["errors"][0]["message"]
    assert "env:HUB_USER can't be read" in _health(engine)["errorMessage"]
    with pytest.raises(PullFailed, match="env:HUB_USER can't be read"):
        skopeo.pull(f"{engine.address}/private/app:1")


def test_a_secret_that_changes_is_used_without_a_restart(
    skopeo: Skopeo, new_engine: NewEngine, guarded: DockerRegistry, tmp_path: Path
) -> None:
    secret = tmp_path / "password"
    secret.touch(mode=0o600)
    secret.write_text(WRONG)
    engine = new_engine(
        guarded.url, settings="negative_freshness = 0.001", variables={"HUB_USER": USER}
    ).start()
    engine.create_credential_set("example-hub", "env:HUB_USER", f"file:{secret}")
    engine.create_rule("example-private", "private/*", "private/*", "example-hub")
    reference = f"{engine.address}/private/app:1"
    with pytest.raises(PullFailed):
        skopeo.pull(reference)
    secret.write_text(f"{PASSWORD}\n")
    skopeo.pull(reference)
    skopeo.assert_holds(reference, _image("private/app"))


def test_without_credentials_what_is_public_is_pulled(
    skopeo: Skopeo, new_engine: NewEngine, token_source: DockerRegistry
) -> None:
    engine = new_engine(token_source.url).start()
    engine.create_rule("example-public", "public/*", "public/*")
    reference = f"{engine.address}/public/app:1"
    skopeo.pull(reference)
    skopeo.assert_holds(reference, _image("public/app"))


def test_without_credentials_what_is_private_is_unknown(
    skopeo: Skopeo, new_engine: NewEngine, guarded: DockerRegistry
) -> None:
    engine = new_engine(guarded.url).start()
    engine.create_rule("example-private", "private/*", "private/*")
    with pytest.raises(PullFailed, match=r"manifest unknown.*example-private"):
        skopeo.pull(f"{engine.address}/private/app:1")


def test_one_sign_in_serves_a_whole_image(
    skopeo: Skopeo, new_engine: NewEngine, token_source: DockerRegistry
) -> None:
    engine = _signing_in(new_engine, token_source, PASSWORD)
    assert _health(engine)["health"] == "Healthy"
    before = len(token_source.accesses())
    skopeo.pull(f"{engine.address}/private/app:1")
    engine.wait_for_pull("private/app:1")
    challenged = [each for each in token_source.accesses()[before:] if each.status == 401]
    assert len(challenged) == 1
