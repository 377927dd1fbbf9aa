"""What docker keeps: credential helpers, as real programs, and its configuration."""

from __future__ import annotations

import asyncio
import base64
import json
import os
from pathlib import Path

import pytest

from entrepot.core.secret_identifiers import SecretIdentifier
from entrepot.secrets import SECRET_LENGTH, SecretUnavailable, read_credential, read_secret
from entrepot.secrets.docker import MAX_CONFIG_SIZE
from tests.fakes import BasicSignIn, FakeRegistry
from tests.programs import require_program
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
    # Nor does this user's podman count.
    for variable in ("XDG_RUNTIME_DIR", "XDG_CONFIG_HOME"):
        monkeypatch.setenv(variable, str(tmp_path / variable))
    for variable in ("REGISTRY_AUTH_FILE", "DOCKER_AUTH_CONFIG"):
        monkeypatch.delenv(variable, raising=False)
    (tmp_path / "docker").mkdir()
    path = tmp_path / "docker" / "config.json"
    path.touch(0o600)
    return path


def write(path: Path, document: str, *, mode: int = 0o600) -> None:
    path.write_text(document)
    path.chmod(mode)


def remove(path: Path) -> None:
    path.unlink()


def auth(pair: str) -> dict[str, str]:
    return {"auth": base64.b64encode(pair.encode()).decode()}


async def pair_of(kind: str, login_server: str = "docker.io") -> tuple[str, str]:
    separator = ":" if kind == "docker-config" else "/"
    credential = await read_credential(
        set_of(f"{kind}{separator}username", f"{kind}{separator}password", login_server)
    )
    return credential.username.reveal(), credential.password.reveal()


async def test_a_helper_gives_user_name_and_password_in_one_call(helper: Path) -> None:
    assert await pair_of("docker-helper:test") == ("ann", "hunter2")
    assert (helper.parent / "asked").read_text() == "get https://index.docker.io/v1/\n"


async def test_each_part_of_a_helper_s_answer_can_be_had_alone(
    helper: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert (
        await read_secret(SecretIdentifier.parse("docker-helper:test/username"), "docker.io")
    ).reveal() == "ann"
    assert (
        await read_secret(SecretIdentifier.parse("docker-helper:test/password"), "docker.io")
    ).reveal() == "hunter2"
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
async def test_a_helper_that_has_nothing_to_use_is_said_to_be_so(
    helper: Path, login_server: str, why: str
) -> None:
    with pytest.raises(SecretUnavailable, match=why) as caught:
        await pair_of("docker-helper:test", login_server)
    assert "hunter2" not in caught.value.message


async def test_a_helper_that_is_not_installed_is_said_to_be_so() -> None:
    with pytest.raises(
        SecretUnavailable,
        match=r"The program docker-credential-none-such is in no directory of PATH \(",
    ):
        await pair_of("docker-helper:none-such")


@pytest.mark.parametrize(
    ("server", "login_server"),
    [
        ("https://index.docker.io/v1/", "docker.io"),
        ("docker.io", "docker.io"),
        ("ghcr.io", "ghcr.io"),
        ("https://ghcr.io", "ghcr.io"),
        ("https://registry.example.com:5000/v2/", "registry.example.com:5000"),
        ("http://ghcr.io:80/v2", "ghcr.io"),
        ("ghcr.io:443", "ghcr.io"),
        ("https://GHCR.io:443/v1/", "ghcr.io"),
        ("https://ghcr.io", "ghcr.io:443"),
        (" ghcr.io ", "ghcr.io"),
        ("index.docker.io/v1/", "docker.io"),
        ("https://registry-1.docker.io/v2/", "docker.io"),
        ("Docker.IO", "docker.io"),
        ("quay.io/team", "quay.io"),
    ],
)
async def test_a_login_of_docker_is_found_however_its_server_was_typed(
    config: Path, server: str, login_server: str
) -> None:
    write(
        config,
        json.dumps(
            {"auths": {"other.example.com": auth("bob:x"), server: auth("ann:hunter2:with:colons")}}
        ),
    )
    assert await pair_of("docker-config", login_server) == ("ann", "hunter2:with:colons")


async def test_a_new_login_of_docker_is_seen_at_the_next_reading(config: Path) -> None:
    for password in ("one", "two"):
        write(config, json.dumps({"auths": {"ghcr.io": auth(f"ann:{password}")}}))
        assert await pair_of("docker-config", "ghcr.io") == ("ann", password)


@pytest.mark.parametrize(
    "document",
    [
        {"credsStore": "test"},
        {"credHelpers": {"docker.io": "test", "ghcr.io": "none"}, "credsStore": "none"},
    ],
)
async def test_the_helper_that_docker_s_configuration_names_is_asked(
    config: Path, helper: Path, document: dict[str, object]
) -> None:
    write(config, json.dumps(document | {"auths": {"https://index.docker.io/v1/": {}}}))
    assert await pair_of("docker-config") == ("ann", "hunter2")


@pytest.mark.parametrize(
    ("document", "why"),
    [
        ("hunter2", "is not a configuration of docker"),
        ("[" * 100_000, "is not a configuration of docker"),
        ('{"credHelpers": "hunter2"}', "is not a configuration of docker"),
        ('{"auths": []}', "is not a configuration of docker"),
        ("{}", "has nothing for docker.io"),
        (
            json.dumps({"auths": {"docker.io": {"auth": "hunter2!"}}}),
            "has no user name and password",
        ),
        (
            json.dumps({"auths": {"docker.io": {"auth": "aGFuCg==", "identitytoken": "hunter2"}}}),
            "identity token",
        ),
    ],
)
async def test_a_configuration_without_a_usable_login_is_said_to_be_so(
    config: Path, document: str, why: str
) -> None:
    write(config, document)
    with pytest.raises(SecretUnavailable, match=why) as caught:
        await pair_of("docker-config")
    assert "hunter2" not in caught.value.message


@pytest.mark.parametrize(
    "entry",
    [
        {"username": "ann", "password": "hunter2:x"},
        {"username": "ann", "password": "hunter2:x", "auth": ""},
        {
            "username": "ann",
            "password": "hunter2:x",
            "auth": None,
            "identitytoken": None,
            "email": None,
        },
        {"Username": "ann", "PASSWORD": "hunter2:x"},
        {"auth": "YW5uOmh1bnRlcjI6eA"},
        {"auth": "YW5uOmh1bn\r\nRlcjI6eA==\n"},
        {"auth": "YW5uOmh1bnRlcjI6eAAA"},
        {"auth": "YW5uOmh1bnRlcjI6eA==", "username": "bob", "password": "old"},
        {"auth": "YW5uOmh1bnRlcjI6eA==", "identitytoken": "hunter3"},
        {"auth": "no base64!", "username": "ann", "password": "hunter2:x"},
    ],
)
async def test_a_login_is_read_however_it_is_written(
    config: Path, entry: dict[str, object]
) -> None:
    """F83."""
    write(
        config,
        json.dumps(
            {
                "auths": {"other.example.com": None, "ghcr.io": entry},
                "credsStore": "",
                "credHelpers": None,
            }
        ),
    )
    assert await pair_of("docker-config", "ghcr.io") == ("ann", "hunter2:x")


@pytest.mark.parametrize(
    ("before", "behind"), [("", "\n \n"), ("", '{"more": 1}'), ("\ufeff", "\r\n"), ("  \n", "\0")]
)
async def test_what_stands_around_a_configuration_does_not_count(
    config: Path, before: str, behind: str
) -> None:
    """F83, F87: Go's decoder reads one value."""
    write(config, f"{before}{json.dumps({'AUTHS': {'ghcr.io': auth('jörg:pässwörd')}})}{behind}")
    assert await pair_of("docker-config", "ghcr.io") == ("jörg", "pässwörd")


async def test_a_configuration_that_is_longer_than_a_secret_is_read(config: Path) -> None:
    """F83."""
    others = {f"r{number}.example.com": auth("bob:x" * 100) for number in range(200)}
    document = json.dumps({"auths": others | {"ghcr.io": auth("ann:hunter2")}})
    assert len(document) > 2 * SECRET_LENGTH
    write(config, document)
    assert await pair_of("docker-config", "ghcr.io") == ("ann", "hunter2")
    with config.open("ab") as file:
        file.truncate(MAX_CONFIG_SIZE + 1)
    with pytest.raises(SecretUnavailable, match=r"is longer than 4,194,304 bytes"):
        await pair_of("docker-config", "ghcr.io")


@pytest.mark.parametrize(
    "null",
    [
        {"auths": None},
        {"credHelpers": None},
        {"credsStore": None},
        {"auths": {"ghcr.io": None}},
        {"auths": {"ghcr.io": 1}},
    ],
)
async def test_nulls_are_what_is_not_there(config: Path, null: dict[str, object]) -> None:
    """F83."""
    write(config, json.dumps(null))
    with pytest.raises(
        SecretUnavailable, match=r"has nothing for ghcr\.io\. Sign in with: docker login ghcr\.io"
    ):
        await pair_of("docker-config", "ghcr.io")


async def test_docker_s_own_spelling_of_a_server_comes_before_others(config: Path) -> None:
    write(
        config,
        json.dumps(
            {
                "auths": {
                    "https://index.docker.io/v1/access-token": auth("token:x"),
                    "https://index.docker.io/v1/refresh-token": auth("token:y"),
                    "docker.io": auth("bob:old"),
                    "https://index.docker.io/v1/": auth("ann:hunter2"),
                    "quay.io/team": auth("robot:z"),
                    "https://quay.io/v2/": auth("carl:whole"),
                    "harbor.example.com/one": auth("one:1"),
                    "harbor.example.com/two": auth("two:2"),
                }
            }
        ),
    )
    assert await pair_of("docker-config") == ("ann", "hunter2")
    assert await pair_of("docker-config", "quay.io") == ("carl", "whole")
    with pytest.raises(
        SecretUnavailable,
        match=r"several logins for parts of harbor\.example\.com \(harbor\.example\.com/one, harbor",
    ):
        await pair_of("docker-config", "harbor.example.com")


async def test_tokens_of_a_sign_in_with_a_browser_are_no_login_of_docker_hub(config: Path) -> None:
    write(
        config, json.dumps({"auths": {"https://index.docker.io/v1/access-token": auth("token:x")}})
    )
    with pytest.raises(SecretUnavailable, match=r"has nothing for docker\.io"):
        await pair_of("docker-config")


@pytest.mark.parametrize(
    ("entry", "kind"),
    [
        ({"auth": "MDAwOg==", "identitytoken": "hunter2"}, "an identity token"),
        ({"registrytoken": "hunter2"}, "a registry token"),
        ({"username": "ann", "identitytoken": "hunter2"}, "an identity token"),
    ],
)
async def test_a_token_in_the_place_of_a_password_is_named_with_the_cure(
    config: Path, entry: dict[str, str], kind: str
) -> None:
    write(config, json.dumps({"auths": {"ghcr.io": entry}}))
    with pytest.raises(
        SecretUnavailable,
        match=rf"has {kind} for ghcr\.io, which is no password\. .*docker login -u NAME ghcr\.io",
    ) as caught:
        await pair_of("docker-config", "ghcr.io")
    assert "hunter2" not in caught.value.message


@pytest.mark.parametrize(
    ("document", "pair"),
    [
        ({"credHelpers": {"ghcr.io": "good"}, "credsStore": "bad"}, ("ann", "helper")),
        ({"credHelpers": {"https://GHCR.io": "good"}, "credsStore": "bad"}, ("ann", "helper")),
        ({"credHelpers": {"quay.io": "bad"}, "credsStore": "good"}, ("ann", "helper")),
        ({"credHelpers": {"quay.io": "bad"}}, ("ann", "file")),
        ({"credHelpers": {"ghcr.io": ""}, "credsStore": "bad"}, ("ann", "file")),
        ({"credshelpers": {}, "CREDSSTORE": "good"}, ("ann", "helper")),
    ],
)
async def test_helpers_come_before_the_file_as_for_docker(
    config: Path, script: Script, document: dict[str, object], pair: tuple[str, str]
) -> None:
    """F83: that of the server, then that of all others, then the file."""
    script(
        "docker-credential-good",
        r"""printf '\357\273\277{"username": "ann", "Secret": "helper"}\r\n'""",
    )
    script("docker-credential-bad", "exit 9")
    write(config, json.dumps(document | {"auths": {"ghcr.io": auth("ann:file")}}))
    assert await pair_of("docker-config", "ghcr.io") == pair


async def test_a_helper_that_fails_is_not_taken_for_one_that_has_nothing(
    config: Path, script: Script
) -> None:
    """F83: the protocol prints errors on standard output, and they may hold anything."""
    script(
        "docker-credential-test",
        "cat >/dev/null; echo 'error getting credentials: hunter2'; exit 1",
    )
    with pytest.raises(SecretUnavailable, match=r"failed for ghcr\.io \(status 1\)") as caught:
        await pair_of("docker-helper:test", "ghcr.io")
    assert "hunter2" not in caught.value.message


async def test_a_helper_that_does_not_answer_is_ended(
    script: Script, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("entrepot.secrets.program.PROGRAM_TIMEOUT", 0.2)
    script("docker-credential-test", "sleep 600")
    with pytest.raises(SecretUnavailable, match="did not end within"):
        await pair_of("docker-helper:test", "ghcr.io")


async def test_a_helper_is_named_without_a_path(config: Path) -> None:
    write(config, json.dumps({"credsStore": "../../tmp/x"}))
    with pytest.raises(SecretUnavailable, match="is not the name of a credential helper"):
        await pair_of("docker-config")


async def test_logins_of_podman_are_read_where_docker_has_none(
    config: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """F83: containers-auth.json(5) names the places and their order."""
    named, at_run, lasting = (
        tmp_path / "named.json",
        tmp_path / "XDG_RUNTIME_DIR/containers/auth.json",
        tmp_path / "XDG_CONFIG_HOME/containers/auth.json",
    )
    for file in (at_run, lasting):
        file.parent.mkdir(parents=True)
    write(config, json.dumps({"auths": {"docker.io": auth("ann:docker")}}))
    write(lasting, json.dumps({"auths": {"quay.io/team": auth("ann:lasting")}}))
    assert await pair_of("docker-config", "quay.io") == ("ann", "lasting")
    write(at_run, json.dumps({"auths": {"docker.io": auth("ann:run"), "quay.io": auth("ann:run")}}))
    assert await pair_of("docker-config", "quay.io") == ("ann", "run")
    assert await pair_of("docker-config") == ("ann", "docker")
    monkeypatch.setenv("REGISTRY_AUTH_FILE", str(named))
    write(named, json.dumps({"auths": {"quay.io": auth("ann:named")}}))
    assert await pair_of("docker-config", "quay.io") == ("ann", "named")
    remove(config)
    assert await pair_of("docker-config", "quay.io") == ("ann", "named")
    with pytest.raises(
        SecretUnavailable, match=r"named\.json and .*auth\.json have nothing for docker\.io"
    ):
        await pair_of("docker-config")


async def test_without_any_file_of_logins_the_sign_in_is_advised(config: Path) -> None:
    remove(config)
    with pytest.raises(
        SecretUnavailable, match=r"there is no .*config\.json\. Sign in with: docker login ghcr\.io"
    ):
        await pair_of("docker-config", "ghcr.io")


async def test_a_user_without_a_home_is_told_which_variable_to_set(
    config: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("DOCKER_CONFIG")
    monkeypatch.setattr(os.path, "expanduser", lambda path: path)
    with pytest.raises(SecretUnavailable, match=r"has no home directory.*Set DOCKER_CONFIG"):
        await pair_of("docker-config")


@pytest.mark.parametrize(
    ("value", "password"),
    [
        (json.dumps({"auths": {"ghcr.io": auth("ann:env")}}), "env"),
        ("{}", "file"),
        ("no JSON", "file"),
    ],
)
async def test_logins_in_a_variable_come_first_as_for_docker(
    config: Path, monkeypatch: pytest.MonkeyPatch, value: str, password: str
) -> None:
    write(config, json.dumps({"auths": {"ghcr.io": auth("ann:file")}}))
    monkeypatch.setenv("DOCKER_AUTH_CONFIG", value)
    assert await pair_of("docker-config", "ghcr.io") == ("ann", password)


async def test_a_user_name_with_a_colon_is_refused_because_it_can_not_be_sent(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("OTHER", "ann:hunter2")
    with pytest.raises(
        SecretUnavailable, match="env:OTHER can't be used: it holds a colon"
    ) as caught:
        await read_credential(set_of("env:OTHER", "env:OTHER"))
    assert "hunter2" not in caught.value.message


async def test_a_configuration_that_others_may_read_is_not_used(
    open_directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DOCKER_CONFIG", str(open_directory))
    write(
        open_directory / "config.json",
        json.dumps({"auths": {"docker.io": auth("ann:hunter2")}}),
        mode=0o644,
    )
    with pytest.raises(SecretUnavailable, match="chmod 600"):
        await pair_of("docker-config")


async def test_without_a_variable_the_configuration_is_in_the_home_directory(
    config: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("DOCKER_CONFIG")
    monkeypatch.setenv("HOME", str(tmp_path))
    write(config, json.dumps({"auths": {"docker.io": auth("ann:hunter2")}}))
    config.parent.rename(tmp_path / ".docker")
    assert await pair_of("docker-config") == ("ann", "hunter2")


@pytest.mark.parametrize("path", ["", "/team"])
async def test_a_login_of_skopeo_is_read(config: Path, path: str) -> None:
    """F83: the real program, which signs in to a registry and writes containers-auth.json(5)."""
    skopeo = str(require_program("skopeo"))
    remove(config)
    (config.parents[1] / "XDG_RUNTIME_DIR").mkdir()
    async with FakeRegistry(BasicSignIn({"jörg": "pä:ss"})) as source:
        host = source.url.removeprefix("http://")
        command = [
            skopeo,
            "login",
            "--tls-verify=false",
            "--username",
            "jörg",
            "--password-stdin",
            f"{host}{path}",
        ]
        process = await asyncio.create_subprocess_exec(
            *command, stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.DEVNULL
        )
        async with asyncio.timeout(60):
            await process.communicate("pä:ss".encode())
        assert process.returncode == 0
        assert await pair_of("docker-config", host) == ("jörg", "pä:ss")
