"""An engine that offers its management over HTTPS: with a token, a certificate, and the errors
where one of them is not right."""

from __future__ import annotations

import asyncio
import os
import stat
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import httpx
import pytest

from entrepot.api.client import CacheClient
from entrepot.api.errors import EngineRefused, EngineUnreachable, EngineUntrusted
from entrepot.api.models import EngineStatus
from entrepot.config.settings import ManagementOverTcp, Settings, TlsFiles
from entrepot.core.reference import Repository
from entrepot.engine.engine import Engine
from entrepot.event_kinds import EventKind
from tests.cli.conftest import PATIENCE, CommandLine, next_line
from tests.conftest import answering
from tests.e2e.registries.certificates import Authority
from tests.fakes import FakeRegistry

TOKEN = "a-token-of-thirty-characters.."


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    return Authority(tmp_path)


@pytest.fixture
def token_file(tmp_path: Path) -> Path:
    file = tmp_path / "token"
    write(file, f"{TOKEN}\n", 0o600)
    return file


def write(file: Path, content: str, mode: int) -> None:
    file.write_text(content)
    file.chmod(mode)


@pytest.fixture
def settings(
    settings: Settings, authority: Authority, token_file: Path, tmp_path: Path
) -> Settings:
    authority.server("localhost")
    certificate = tmp_path / "localhost.pem"
    certificate.chmod(0o600)
    return replace(
        settings,
        management=ManagementOverTcp("127.0.0.1:0", token_file, TlsFiles(certificate, certificate)),
    )


@pytest.fixture
async def address(engine: Engine) -> AsyncIterator[str]:
    """Where the engine offers its management; its certificate is for ``localhost``."""
    async with answering(engine):
        assert engine.endpoints.management is not None
        yield engine.endpoints.management.replace("127.0.0.1", "localhost")


@pytest.fixture
def near(alone: CommandLine, address: str) -> CommandLine:
    """A command line on a machine without an engine of its own."""
    alone.environment |= {
        "XDG_RUNTIME_DIR": str(alone.root / "none"),
        "ENTREPOT_CONNECT": address,
        "HTTPS_PROXY": "http://127.0.0.1:9",
    }
    return alone


async def status(address: str, token: str = TOKEN, ca_file: Path | None = None) -> EngineStatus:
    async with CacheClient.over_https(address, token, ca_file=ca_file) as client:
        return await client.system.status()


async def test_commands_speak_to_the_engine_with_its_token(
    near: CommandLine, authority: Authority, token_file: Path, engine: Engine
) -> None:
    trusting = ["--ca-file", str(authority.path)]
    [rule] = await near.ask("--token-file", str(token_file), *trusting, "rule", "list")
    assert rule["name"] == "example-library"
    near.environment["ENTREPOT_TOKEN"] = TOKEN
    refused = await near.run(
        *trusting, "--read-only", "rule", "delete", "--name", "example-library", "--yes"
    )
    assert (refused.status, "(EngineReadOnly)" in refused.errors) == (1, True)
    await near.done(*trusting, "rule", "delete", "--name", "example-library", "--yes")
    assert len(engine.documents.rules) == 0


async def test_images_go_out_and_in_over_https(
    near: CommandLine, authority: Authority, engine: Engine, source: FakeRegistry, tmp_path: Path
) -> None:
    layer = os.urandom(1_000_000)
    image = source.add_image("library/big", "1", layers=[layer], platforms=["linux/amd64"])
    near.environment["ENTREPOT_TOKEN"] = TOKEN
    trusting = ["--ca-file", str(authority.path)]
    options = ["--platform", "linux/amd64"]
    await near.done(*trusting, "export", "library/big:1", f"{tmp_path}/out/", *options)
    exported = tmp_path / "out/blobs/sha256" / image.platforms["linux/amd64"].layers[0].digest.hex
    assert exported.read_bytes() == layer
    target = ["--repository", "library/copy", "--rule", "example-library"]
    summary = await near.ask(*trusting, "import", f"{tmp_path}/out", *target)
    assert [image["outcome"] for image in summary["images"]] == ["imported"]
    assert await engine.catalog.is_cached(Repository("library/copy"))


async def test_a_certificate_that_nobody_vouches_for(near: CommandLine, token_file: Path) -> None:
    ended = await near.run("--token-file", str(token_file), "status")
    assert (ended.status, ended.output) == (1, "")
    assert (
        "Its certificate is not trusted: unable to get local issuer certificate. Nothing was sent."
        in ended.errors
    )
    assert "--ca-file" in ended.errors


async def test_a_certificate_of_another_host(address: str, authority: Authority) -> None:
    with pytest.raises(EngineUntrusted, match=r"not trusted: .*127\.0\.0\.1"):
        await status(address.replace("localhost", "127.0.0.1"), ca_file=authority.path)


async def test_a_wrong_token(address: str, authority: Authority) -> None:
    with pytest.raises(EngineRefused, match="not that of this engine") as refused:
        await status(address, "another-token-of-this-length..", authority.path)
    assert (refused.value.code, refused.value.status) == ("TokenInvalid", 401)


async def test_without_a_token_nobody_hears_anything(address: str, authority: Authority) -> None:
    import ssl

    async with httpx.AsyncClient(
        base_url=address, verify=ssl.create_default_context(cafile=authority.path), trust_env=False
    ) as client:
        for path in ("/entrepot/v1/status", "/acr/v1/_catalog", "/none"):
            answer = await client.get(path)
            assert (answer.status_code, answer.json()["error"]["code"]) == (401, "TokenInvalid")


async def test_nothing_there(unused_tcp_port: int) -> None:
    with pytest.raises(
        EngineUnreachable, match=f"No engine answers at https://127.0.0.1:{unused_tcp_port}"
    ):
        await status(f"https://127.0.0.1:{unused_tcp_port}")


async def test_something_there_that_speaks_no_tls(engine: Engine, address: str) -> None:
    with pytest.raises(EngineUntrusted, match="The TLS handshake failed"):
        await status(f"https://{engine.address}")


async def test_events_come_over_https(address: str, authority: Authority, engine: Engine) -> None:
    async with (
        CacheClient.over_https(address, TOKEN, ca_file=authority.path) as client,
        asyncio.timeout(30),
    ):
        events = client.system.events()
        coming = asyncio.ensure_future(anext(events))
        while not coming.done():
            engine.events.record(EventKind.RULE_UPDATED, "Again.")
            await asyncio.wait({coming}, timeout=0.02)
        assert coming.result().message == "Again."
        await events.aclose()


NO_TOKENS = [
    ("x y", 0o600, "There is no token in"),
    ("", 0o600, "There is no token in"),
    (TOKEN, 0o644, "chmod 600"),
]


@pytest.mark.parametrize(("content", "mode", "message"), NO_TOKENS)
async def test_a_token_file_that_can_not_be_used(
    content: str, mode: int, message: str, near: CommandLine, open_directory: Path
) -> None:
    token_file = open_directory / "token"
    write(token_file, content, mode)
    ended = await near.run("--token-file", str(token_file), "status")
    assert (ended.status, message in ended.errors) == (1, True)
    assert TOKEN not in ended.errors


async def test_no_token_at_all_and_no_certificates_where_they_should_be(
    near: CommandLine, token_file: Path
) -> None:
    ended = await near.run("status")
    assert (
        ended.status,
        "Give it with --token-file FILE, or in the environment variable ENTREPOT_TOKEN."
        in ended.errors,
    ) == (1, True)
    for file in (token_file, near.root / "none"):
        ended = await near.run("--token-file", str(token_file), "--ca-file", str(file), "status")
        assert (ended.status, "The certificates in" in ended.errors) == (1, True)
    token_file.with_name("der").write_bytes(b"\x30\x82\x01\x00")
    ended = await near.run(
        "--token-file", str(token_file), "--ca-file", str(token_file.with_name("der")), "status"
    )
    assert (
        "can't be used: it is in DER format, and so holds no certificates that can be read. Convert it to PEM: openssl x509"
        in ended.errors
    )


# Making a token


async def test_a_token_is_made_for_its_owner_alone(alone: CommandLine) -> None:
    file = alone.root / "made"
    await alone.done("management-token", str(file))
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    token = ManagementOverTcp("127.0.0.1:0", file).token()
    assert len(token) >= 40
    again = await alone.run("management-token", str(file))
    assert (again.status, "File exists" in again.errors) == (1, True)
    assert "Name another file, or remove this one first." in again.errors
    nowhere = await alone.run("management-token", str(alone.root / "none" / "token"))
    assert (nowhere.status, "Create its directory first." in nowhere.errors) == (1, True)
    assert file.read_text() == f"{token}\n"


@pytest.mark.parametrize(
    ("content", "mode", "message"),
    [("short", 0o600, "has no token of at least"), (TOKEN, 0o640, "chmod 600")],
)
async def test_an_engine_with_a_token_that_protects_nothing_does_not_start(
    content: str, mode: int, message: str, alone: CommandLine, tmp_path: Path, open_directory: Path
) -> None:
    configuration = tmp_path / "c/entrepot"
    configuration.mkdir(parents=True)
    token = open_directory / "token"
    write(token, content, mode)
    (configuration / "settings.toml").write_text(
        f'listen = "127.0.0.1:0"\n[management]\nlisten = "127.0.0.1:0"\ntoken_file = "{token}"\n'
    )
    ended = await alone.run("serve")
    assert (ended.status, message in ended.errors) == (1, True)
    assert ended.errors.startswith("Error: The management API can't be offered on 127.0.0.1:0")
    assert list((tmp_path / "r/entrepot").iterdir()) == []


async def test_events_are_followed_over_https(
    near: CommandLine, engine: Engine, authority: Authority, token_file: Path
) -> None:
    engine.events.record(EventKind.RULE_CREATED, "Before.")
    process = await near.start(
        "--token-file",
        str(token_file),
        "--ca-file",
        str(authority.path),
        *("events", "--follow", "--limit", "1"),
    )
    assert (await next_line(process)).endswith("  Before.")
    engine.events.record(EventKind.RULE_CREATED, "After.")
    assert (await next_line(process)).endswith("  After.")
    engine.stopping.set()
    async with asyncio.timeout(PATIENCE):
        assert await process.wait() == 0
