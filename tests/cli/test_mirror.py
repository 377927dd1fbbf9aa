"""``entrepot mirror`` on a real engine."""

from __future__ import annotations

import tomllib
from pathlib import Path

import pytest

from entrepot.api.models import MirrorSnapshot
from entrepot.engine.engine import Engine
from tests.authority import CertificateAuthority
from tests.cli.conftest import CommandLine
from tests.conftest import LOGIN_SERVER

HOSTS_TOML = f"""\
# Written by entrepot mirror; --undo removes it.
server = "https://{LOGIN_SERVER}"

[host."http://127.0.0.1:5000"]
capabilities = ["pull", "resolve"]
# End of entrepot mirror.
"""


@pytest.fixture
async def entrepot(entrepot: CommandLine, engine: Engine) -> CommandLine:
    """A command line with an engine that says that it listens at the usual port."""
    engine.endpoints.registry = "127.0.0.1:5000"
    return entrepot


async def test_one_file_is_printed_as_it_is(entrepot: CommandLine, tmp_path: Path) -> None:
    result = await entrepot.done("mirror", "containerd", "--directory", str(tmp_path / "certs.d"))
    assert result.output == HOSTS_TOML
    path = tmp_path / "certs.d" / LOGIN_SERVER / "hosts.toml"
    assert f"This is for {path}." in result.errors
    assert "Nothing is there yet. Install it with --write." in result.errors
    assert "config_path" in result.errors
    assert not path.exists()


async def test_install_show_and_undo(entrepot: CommandLine, tmp_path: Path) -> None:
    arguments = ("mirror", "containerd", "--directory", str(tmp_path / "certs.d"))
    path = tmp_path / "certs.d" / LOGIN_SERVER / "hosts.toml"
    shown = await entrepot.done(*arguments, "--diff")
    assert f"--- /dev/null\n+++ {path}\n" in shown.output
    assert not path.exists()
    assert (await entrepot.done(*arguments, "--write")).output == shown.output
    assert path.read_text() == HOSTS_TOML
    assert "It is installed already." in (await entrepot.done(*arguments)).errors
    assert (await entrepot.done(*arguments, "--write")).output == ""
    moved = await entrepot.done(*arguments, "--address", "cache.example", "--diff")
    assert '-[host."http://127.0.0.1:5000"]\n+[host."http://cache.example:5000"]\n' in moved.output
    await entrepot.done(*arguments, "--undo")
    assert list((tmp_path / "certs.d").iterdir()) == []
    assert "Nothing is installed." in (await entrepot.done(*arguments, "--undo")).errors


async def test_undo_needs_no_engine(alone: CommandLine, tmp_path: Path) -> None:
    result = await alone.done("mirror", "docker", "--file", str(tmp_path / "daemon.json"), "--undo")
    assert result.errors == "Nothing is installed.\n"


async def test_docker_without_a_mirror_says_which_lines_to_add(
    entrepot: CommandLine, engine: Engine
) -> None:
    result = await entrepot.run("mirror", "docker")
    assert result.status == 1
    assert f"these rules pull from {LOGIN_SERVER}" in result.errors
    engine.endpoints.mirrors = (MirrorSnapshot(namespace=LOGIN_SERVER, address="127.0.0.1:5002"),)
    file = (await entrepot.ask("mirror", "podman"))["files"][0]
    assert tomllib.loads(file["content"])["registry"] == [
        {
            "prefix": f"{LOGIN_SERVER}/library",
            "location": f"{LOGIN_SERVER}/library",
            "mirror": [{"location": "127.0.0.1:5002/library", "insecure": True}],
        }
    ]


async def test_secrets_are_written_and_not_printed(
    entrepot: CommandLine, tmp_path: Path, open_directory: Path
) -> None:
    credentials = open_directory / "credentials"
    credentials.write_text("node:s3cret\n")
    credentials.chmod(0o600)
    file = tmp_path / "registries.yaml"
    arguments = ("mirror", "k3s", "--file", str(file), "--credentials", str(credentials))
    for result in (await entrepot.done(*arguments), await entrepot.done(*arguments, "--write")):
        assert "password: ***" in result.output
        assert "s3cret" not in result.output + result.errors
    assert "s3cret" in file.read_text()
    elsewhere = await entrepot.done(*arguments, "--address", "cache.example", "--diff")
    assert "everyone on the way to it can read these credentials" in elsewhere.errors
    assert "everyone on the way" not in (await entrepot.done(*arguments)).errors
    credentials.chmod(0o644)
    refused = await entrepot.run(*arguments)
    assert refused.status == 1
    assert "is not safe from other users" in refused.errors
    credentials.write_text("node")
    credentials.chmod(0o600)
    assert "NAME:PASSWORD" in (await entrepot.run(*arguments)).errors


async def test_the_authority_of_the_certificate(
    entrepot: CommandLine, engine: Engine, tmp_path: Path
) -> None:
    engine.endpoints.has_tls = True
    authority = CertificateAuthority(tmp_path, "authority").path
    files = (await entrepot.ask("mirror", "podman", "--ca", str(authority)))["files"]
    assert files[1]["path"] == "/etc/containers/certs.d/127.0.0.1:5000/ca.crt"
    assert authority.read_text() in files[1]["content"]
    authority.write_text("nothing")
    refused = await entrepot.run("mirror", "podman", "--ca", str(authority))
    assert refused.status == 1
    assert f"The certificates in {authority} can't be used" in refused.errors


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("docker", "--directory", "/tmp"), "--directory is not for docker: use --file."),
        (("podman", "--file", "/tmp"), "--file is not for podman: use --directory."),
        (("podman", "--diff", "--write"), "Give only one of"),
        (("rkt",), "'rkt' is not one of 'containerd', 'docker', 'podman', 'buildkit', 'k3s'"),
    ],
)
async def test_what_does_not_go_together(
    alone: CommandLine, arguments: tuple[str, ...], message: str
) -> None:
    result = await alone.run("mirror", *arguments)
    assert result.status == 2
    assert message in result.errors


async def test_an_engine_that_listens_everywhere_needs_an_address(
    entrepot: CommandLine, engine: Engine
) -> None:
    engine.endpoints.registry = "0.0.0.0:5000"
    result = await entrepot.run("mirror", "containerd")
    assert result.status == 1
    assert "--address HOST:5000" in result.errors
    assert (
        "cache.example:5000"
        in (await entrepot.done("mirror", "containerd", "--address", "cache.example")).output
    )


async def test_a_rule_that_does_not_exist(entrepot: CommandLine) -> None:
    result = await entrepot.run("mirror", "k3s", "--rule", "other-rule")
    assert result.status == 1
    assert "There are: example-library." in result.errors
