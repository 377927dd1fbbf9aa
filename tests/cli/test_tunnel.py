"""An engine on another machine over ssh: a real sshd, a real ssh, and the command line."""

from __future__ import annotations

import asyncio
import re
import signal
import stat
import tempfile
from collections.abc import AsyncIterator, Iterator
from contextlib import closing, suppress
from pathlib import Path

import pytest

from entrepot.api.client import CacheClient
from entrepot.api.errors import EngineUnreachable
from entrepot.cli import tunnel as module
from entrepot.cli.tunnel import ConnectionFailed, SshAddress, Tunnel
from entrepot.engine.engine import Engine
from entrepot.event_kinds import EventKind
from tests.cli.conftest import PATIENCE, CommandLine, next_line
from tests.cli.secure_shell import FarMachine, processes_that_name
from tests.fakes import FakeRegistry


@pytest.fixture
def far(tmp_path: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[FarMachine]:
    """Another machine, on which the engine of the command line's user runs, if one runs."""
    variables = {
        "XDG_CONFIG_HOME": "c",
        "XDG_DATA_HOME": "d",
        "XDG_RUNTIME_DIR": "r",
        "XDG_STATE_HOME": "s",
    }
    with closing(
        FarMachine(
            tmp_path_factory.mktemp("f"),
            {name: str(tmp_path / place) for name, place in variables.items()},
        )
    ) as machine:
        yield machine


@pytest.fixture
async def near(
    tmp_path_factory: pytest.TempPathFactory, far: FarMachine
) -> AsyncIterator[CommandLine]:
    """The command line of somebody on this machine, where no engine runs."""
    # A name as short as can be: the paths of sockets lie below it.
    line = CommandLine(tmp_path_factory.mktemp("n"))
    line.environment["PATH"] = f"{far.programs}:{line.environment['PATH']}"
    yield line
    await line.close()


@pytest.fixture
async def there(entrepot: CommandLine, engine: Engine) -> Engine:
    """The engine on the far machine, which answers there."""
    return engine


def leftovers(near: CommandLine) -> list[Path]:
    return list((near.root / "t").iterdir())


async def gone(near: CommandLine) -> None:
    """Wait until nothing is left of an ssh that the command line had started."""
    async with asyncio.timeout(PATIENCE):
        while processes_that_name(near.environment["TMPDIR"]):
            await asyncio.sleep(0)


# Reaching it


async def test_commands_speak_to_the_engine_there(near: CommandLine, there: Engine) -> None:
    [rule] = await near.ask("--connect", "ssh://far", "rule", "list")
    assert rule["name"] == "example-library"
    near.environment["ENTREPOT_CONNECT"] = "ssh://far"
    assert (await near.ask("status"))["address"] == there.address
    await near.done("rule", "delete", "--name", "example-library", "--yes")
    assert len(there.documents.rules) == 0
    assert leftovers(near) == []
    await gone(near)


async def test_a_client_that_bound_itself_is_refused_there(
    near: CommandLine, there: Engine
) -> None:
    result = await near.run(
        "--connect",
        "ssh://far",
        "--read-only",
        "rule",
        "delete",
        "--name",
        "example-library",
        "--yes",
    )
    assert (result.status, "(EngineReadOnly)" in result.errors) == (1, True)
    assert (await near.ask("--connect", "ssh://far", "--read-only", "status"))["readOnly"]
    assert len(there.documents.rules) == 1


async def test_a_pull_is_watched_from_here(
    near: CommandLine, there: Engine, source: FakeRegistry
) -> None:
    source.add_image("library/nginx", "1.27")
    result = await near.done(
        "--connect", "ssh://far", "pull", "library/nginx:1.27", "--platform", "linux/amd64"
    )
    assert "library/nginx:1.27 linux/amd64" in result.errors


async def test_events_are_followed_from_here(near: CommandLine, there: Engine) -> None:
    there.events.record(EventKind.RULE_CREATED, "Before.")
    process = await near.start("--connect", "ssh://far", "events", "--follow", "--limit", "1")
    assert (await next_line(process)).endswith("  Before.")
    there.events.record(EventKind.RULE_CREATED, "After.")
    assert (await next_line(process)).endswith("  After.")
    process.send_signal(signal.SIGINT)
    async with asyncio.timeout(PATIENCE):
        assert await process.wait() == 130
    assert leftovers(near) == []
    await gone(near)


async def test_who_names_the_socket_needs_no_entrepot_there(
    near: CommandLine, far: FarMachine, there: Engine
) -> None:
    far.entrepot.unlink()
    [rule] = await near.ask("--connect", f"ssh://far{there.directories.socket}", "rule", "list")
    assert rule["name"] == "example-library"


async def test_what_a_login_prints_is_passed_over(
    near: CommandLine, far: FarMachine, there: Engine
) -> None:
    script = far.entrepot.read_text()
    far.entrepot.write_text(
        script.replace("\n", "\necho Welcome, and mind the gap.\necho entrepot\n", 1)
    )
    assert (await near.ask("--connect", "ssh://far", "status"))["rules"] == 1


# What goes wrong


async def refusal(near: CommandLine, address: str) -> tuple[int, str]:
    result = await near.run("--connect", address, "rule", "list")
    assert result.output == ""
    assert result.errors.count("\n") == 1
    assert leftovers(near) == []
    await gone(near)
    return result.status, result.errors


async def test_a_host_that_nobody_knows(near: CommandLine) -> None:
    status, output = await refusal(near, "ssh://host.invalid")
    assert (status, "The host host.invalid is not known" in output) == (1, True)


async def test_a_host_whose_key_nobody_knows(near: CommandLine) -> None:
    status, output = await refusal(near, "ssh://far-and-unknown")
    assert status == 1
    assert "The host key of far-and-unknown is not known here" in output
    assert "Check it with: ssh far-and-unknown" in output


async def test_a_user_who_is_not_let_in(near: CommandLine, far: FarMachine) -> None:
    (far.root / "key.pub").write_text("")
    status, output = await refusal(near, "ssh://far")
    assert (status, "Permission denied: far does not let you in" in output) == (1, True)


async def test_a_host_where_no_ssh_server_listens(near: CommandLine, far: FarMachine) -> None:
    far.close()
    status, output = await refusal(near, "ssh://far")
    assert (status, "far can't be reached" in output, "Connection refused" in output) == (
        1,
        True,
        True,
    )


async def test_a_host_without_entrepot(near: CommandLine, far: FarMachine) -> None:
    far.entrepot.unlink()
    status, output = await refusal(near, "ssh://far")
    assert (status, "The command entrepot is not found on far. Install it there" in output) == (
        1,
        True,
    )


async def test_a_host_with_an_entrepot_that_knows_no_such_thing(
    near: CommandLine, far: FarMachine
) -> None:
    far.entrepot.write_text("#!/bin/sh\nexit 2\n")
    status, output = await refusal(near, "ssh://far")
    assert (status, "of another version" in output) == (1, True)


async def test_a_host_where_no_engine_runs(
    near: CommandLine, far: FarMachine, tmp_path: Path
) -> None:
    for address in ("ssh://far", f"ssh://far{tmp_path}/none.sock"):
        status, output = await refusal(near, address)
        assert status == 3
        assert "on far. Start one there with: entrepot serve (EngineUnreachable)" in output


async def test_a_server_that_forwards_nothing(
    near: CommandLine, there: Engine, tmp_path: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    strict = FarMachine(
        tmp_path_factory.mktemp("g"), {"XDG_RUNTIME_DIR": str(tmp_path / "r")}, forwarding=False
    )
    try:
        near.environment["PATH"] = f"{strict.programs}:{near.environment['PATH']}"
        status, output = await refusal(near, "ssh://far")
        assert (status, "AllowStreamLocalForwarding yes" in output) == (1, True)
    finally:
        strict.close()


async def test_no_ssh_here(near: CommandLine) -> None:
    near.environment["PATH"] = "/nowhere"
    status, output = await refusal(near, "ssh://far")
    assert (status, "The program ssh is in no directory of PATH" in output) == (1, True)


async def test_a_directory_for_temporary_files_with_a_long_name(near: CommandLine) -> None:
    temporary = near.root / ("long" * 20)
    temporary.mkdir()
    near.environment["TMPDIR"] = str(temporary)
    status, output = await refusal(near, "ssh://far")
    assert (status, "Set TMPDIR to a directory with a shorter path." in output) == (1, True)
    assert list(temporary.iterdir()) == []


NO_ADDRESSES = (
    *(
        "ssh://",
        "ssh://-oProxyCommand=x",
        "ssh://-l@far",
        "ssh://me:s3cret@far",
        "ssh://far:x",
        "ssh://far y",
        "ssh://[::1",
    ),
    *("http://far:1", "https://me:s3cret@far", "far"),
)


@pytest.mark.parametrize("address", NO_ADDRESSES)
async def test_what_is_no_address(address: str, alone: CommandLine) -> None:
    result = await alone.run("--connect", address, "status")
    assert (result.status, result.output) == (1, "")
    assert re.search(
        r"is not (an address that ssh can reach|the address of an engine)\. ", result.errors
    )
    assert "s3cret" not in result.errors


@pytest.mark.parametrize("command", [["serve"], ["demo", "--headless"], ["paths"]])
async def test_what_is_about_this_machine_connects_to_no_other(
    command: list[str], alone: CommandLine
) -> None:
    result = await alone.run("--connect", "ssh://far", *command)
    assert (result.status, "is about this machine" in result.errors) == (2, True)
    if command == ["paths"]:
        await alone.run(*command, variables={"ENTREPOT_CONNECT": "ssh://far"})


def test_an_address_in_all_its_parts() -> None:
    assert SshAddress.parse("ssh://me@host.example.com:2222/run/e%20x.sock") == SshAddress(
        "host.example.com", "me", 2222, "/run/e x.sock"
    )
    assert SshAddress.parse("ssh://my_alias/") == SshAddress("my_alias")
    assert (
        str(SshAddress.parse("ssh://[fe80::1%eth0]:22")),
        SshAddress.parse("ssh://[::1]").host,
    ) == ("[fe80::1%eth0]:22", "::1")
    assert SshAddress.parse("ssh://me@h:22").ssh_command == "ssh -l me -p 22 h"


# The end of it


@pytest.mark.parametrize("end", [signal.SIGTERM, signal.SIGHUP, signal.SIGINT, signal.SIGKILL])
async def test_nothing_is_left_behind_however_a_command_ends(
    end: signal.Signals, near: CommandLine, far: FarMachine, there: Engine, source: FakeRegistry
) -> None:
    source.add_image("library/nginx", "1.27", layers=[b"x" * 100_000])
    gate = source.hold("/blobs/", after_bytes=10, method="GET")
    process = await near.start("--connect", "ssh://far", "pull", "library/nginx:1.27")
    async with asyncio.timeout(PATIENCE):
        await gate.reached
        assert processes_that_name(near.environment["TMPDIR"])
        process.send_signal(end)
        await process.wait()
        await gone(near)
        while far.connections():
            await asyncio.sleep(0)
    assert (leftovers(near) == []) == (end is not signal.SIGKILL)
    [pull] = there.cache.pulls.all()
    assert not pull.progress().state.ended
    gate.open()
    await pull.finished.wait()


# Kept up


@pytest.fixture
async def tunnel(
    near: CommandLine, there: Engine, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[Tunnel]:
    monkeypatch.setenv("PATH", near.environment["PATH"])
    monkeypatch.setattr(tempfile, "tempdir", near.environment["TMPDIR"])
    monkeypatch.setattr(module, "RETRY_INTERVAL", 0.05)
    with Tunnel(SshAddress.parse("ssh://far")) as tunnel:
        await asyncio.to_thread(tunnel.open, asks=False)
        yield tunnel
        await asyncio.to_thread(tunnel.close)
    assert leftovers(near) == []
    await gone(near)


async def test_only_its_user_may_use_it(tunnel: Tunnel) -> None:
    assert stat.S_IMODE(tunnel.socket.parent.stat().st_mode) == 0o700
    assert stat.S_IMODE(tunnel.socket.stat().st_mode) == 0o600


async def test_a_connection_that_was_lost_is_told_and_made_again(
    tunnel: Tunnel, far: FarMachine
) -> None:
    tunnel.keep()
    async with (
        CacheClient.at(tunnel.socket, absent=tunnel.absent) as client,
        asyncio.timeout(PATIENCE),
    ):
        assert (await client.system.status()).rules == 1
        for _ in range(2):
            (far.root / "key").rename(far.root / "hidden")
            far.cut()
            while True:
                with suppress(EngineUnreachable):
                    await client.system.status()
                if "Permission denied" in (tunnel.problem or ""):
                    break
            with pytest.raises(
                EngineUnreachable,
                match=r"Permission denied: far does not let you in .* Reconnecting every few seconds",
            ):
                await client.system.status()
            (far.root / "hidden").rename(far.root / "key")
            while tunnel.problem is not None:
                await asyncio.sleep(0)
            assert (await client.system.status()).rules == 1


async def test_an_engine_that_starts_again_is_found_through_the_same_tunnel(
    tunnel: Tunnel, there: Engine
) -> None:
    path = there.directories.socket
    moved = path.rename(path.with_name("moved"))
    async with CacheClient.at(tunnel.socket, absent=tunnel.absent) as client:
        with pytest.raises(
            EngineUnreachable,
            match=r"No engine answers on far\. Start one there with: entrepot serve",
        ):
            await client.system.status()
        moved.rename(path)
        assert (await client.system.status()).rules == 1


async def test_a_tunnel_that_is_closed_while_it_connects_again_stays_closed(
    tunnel: Tunnel, far: FarMachine, near: CommandLine
) -> None:
    far.entrepot.write_text("#!/bin/sh\ncat\n")
    tunnel.keep()
    far.cut()
    async with asyncio.timeout(PATIENCE):
        while tunnel.problem is None or not far.connections():
            await asyncio.sleep(0)
    await asyncio.to_thread(tunnel.close)
    with pytest.raises(ConnectionFailed, match="is closed"):
        await asyncio.to_thread(tunnel.open, asks=False)
