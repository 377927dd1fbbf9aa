"""Opening the dashboard where that can't be, and the demo."""

from __future__ import annotations

import asyncio
import re
import signal

import httpx
import pytest

from tests.cli.conftest import PATIENCE, CommandLine


@pytest.mark.parametrize("arguments", [[], ["demo"]])
async def test_without_a_terminal_the_dashboard_refuses_in_one_sentence(arguments: list[str], alone: CommandLine) -> None:
    ended = await alone.run(*arguments)
    assert (ended.status, ended.output) == (2, "")
    assert ended.errors == "Error: the dashboard needs a terminal. Without one, use the commands: entrepot --help\n"
    assert not (alone.root / "c").exists()


@pytest.mark.parametrize("end", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
async def test_a_demo_answers_clients_and_leaves_nothing_behind(end: signal.Signals, alone: CommandLine, tmp_path_factory: pytest.TempPathFactory) -> None:
    # A name as short as can be: the path of a Unix socket lies below it.
    temporary = tmp_path_factory.mktemp("t")
    alone.environment["TMPDIR"] = str(temporary)
    process = await alone.start("demo", "--headless")
    assert process.stdout is not None
    async with asyncio.timeout(PATIENCE):
        told = (await process.stdout.readuntil(b"ctrl+c ends it.\n")).decode()
        found = re.search(r"answers container clients on (127\.0\.0\.1:\d+)\.", told)
        assert found is not None
        [root] = temporary.iterdir()
        async with httpx.AsyncClient(base_url=f"http://{found[1]}", timeout=30) as client:
            assert (await client.get("/v2/")).status_code == 200
            assert (await client.get("/v2/library/nginx/manifests/1.27")).status_code == 200
        process.send_signal(end)
        _, errors = await process.communicate()
    assert errors.decode().startswith("This is a demo: a make-believe source registry, in a temporary directory. Nothing of it stays.\n")
    assert "Traceback" not in errors.decode()
    assert process.returncode == (0 if end is signal.SIGINT else 128 + end)
    assert not root.exists()
    assert list(temporary.iterdir()) == []
    with pytest.raises(ConnectionRefusedError):
        await asyncio.open_connection("127.0.0.1", int(found[1].rpartition(":")[2]))
