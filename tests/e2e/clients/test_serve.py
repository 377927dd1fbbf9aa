"""``entrepot serve`` as a service: how it ends, and what it says when it can't begin."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import httpx
import pytest

from tests.e2e.clients.container_clients import AMD64, Skopeo
from tests.e2e.clients.entrepot import Entrepot
from tests.e2e.clients.source_registry import DockerRegistry
from tests.fakes import FakeImage, FakeRegistry
from tests.programs import require_program

NewEngine = Callable[..., Entrepot]

PROMPTLY = 8.0
"""Seconds; less than the ten after which ``docker stop`` would kill it."""

SHORT_SHUTDOWN_GRACE = """
from entrepot.server import run
run.SHUTDOWN_GRACE = 1.0
from entrepot.cli.main import main
main()
"""
"""An engine that cuts transfers a second after it is asked to stop, not ten."""


def _assert_one_sentence(output: str, *parts: str) -> None:
    """The error is one line without a traceback, and has these parts."""
    assert "Traceback" not in output
    [line] = [each for each in output.splitlines() if each.startswith("Error: ")]
    for part in parts:
        assert part in line, line
    assert output.strip().splitlines()[-1] == line


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_stop_exits_with_status_0_and_removes_the_socket(
    entrepot: Entrepot, number: signal.Signals
) -> None:
    entrepot.process.send(number)
    finished = entrepot.process.wait(PROMPTLY)
    assert (finished.status, finished.output.splitlines()[-1].partition(" ")[2]) == (0, "Stopping.")
    assert not entrepot.directories.socket.exists()


def test_after_its_end_it_starts_again_with_its_rules(
    entrepot: Entrepot, skopeo: Skopeo, app: FakeImage
) -> None:
    entrepot.stop()
    entrepot.start()
    assert [rule["name"] for rule in entrepot.ask("rule", "list")] == ["example-library"]
    skopeo.pull(f"{entrepot.address}/library/app:1")
    skopeo.assert_holds(f"{entrepot.address}/library/app:1", app)


@pytest.fixture
async def fake_source() -> AsyncIterator[FakeRegistry]:
    async with FakeRegistry() as source:
        yield source


@pytest.fixture
async def slow(fake_source: FakeRegistry, new_engine: NewEngine) -> Entrepot:
    """An engine whose source registry never sends the end of a layer."""
    image = fake_source.add_image("library/app", "1", layers=[2_000_000], platforms=[AMD64])
    fake_source.hold(str(image.platforms[AMD64].layers[0].digest), 1_000_000, method="GET")
    engine = new_engine(fake_source.url, program=("-c", SHORT_SHUTDOWN_GRACE))
    await asyncio.to_thread(engine.start)
    await asyncio.to_thread(engine.create_rule, "example-library", "library/*", "library/*")
    return engine


async def test_a_stop_while_a_pull_runs_exits_at_once_with_status_0(
    slow: Entrepot, fake_source: FakeRegistry
) -> None:
    pulling = asyncio.create_task(asyncio.to_thread(slow.run, "pull", "library/app:1", check=False))
    await fake_source.gates[0].reached
    slow.process.send(signal.SIGTERM)
    finished = await asyncio.to_thread(slow.process.wait, PROMPTLY)
    assert finished.status == 0, finished.output
    assert "Traceback" not in finished.output
    client_run = await pulling
    assert client_run.status != 0
    assert "Traceback" not in client_run.output
    assert slow.unfinished() == []


async def test_a_stop_while_a_client_waits_cuts_the_transfer_and_exits_with_status_0(
    slow: Entrepot, fake_source: FakeRegistry
) -> None:
    async with httpx.AsyncClient(
        base_url=slow.url, trust_env=False, verify=False, timeout=60
    ) as client:
        index = (await client.get("/v2/library/app/manifests/1")).json()
        image = (
            await client.get(f"/v2/library/app/manifests/{index['manifests'][0]['digest']}")
        ).json()

        async def read() -> None:
            async with client.stream(
                "GET", f"/v2/library/app/blobs/{image['layers'][0]['digest']}"
            ) as answer:
                async for _ in answer.aiter_raw():
                    pass

        reading = asyncio.create_task(read())
        await fake_source.gates[0].reached
        # The source would never send the rest: an engine that waited for it would not end.
        slow.process.send(signal.SIGTERM)
        finished = await asyncio.to_thread(slow.process.wait)
        assert finished.status == 0, finished.output
        assert "Traceback" not in finished.output
        with pytest.raises(httpx.TransportError):
            await reading


def test_a_port_in_use_is_one_sentence(
    entrepot: Entrepot, new_engine: NewEngine, source: DockerRegistry
) -> None:
    other = new_engine(source.url)
    other.address = entrepot.address
    refused = other.launch().wait()
    assert refused.status == 1
    _assert_one_sentence(
        refused.output, f"can't listen on {entrepot.address}: Address already in use", "--listen"
    )
    assert entrepot.get("/v2/").status_code == 200


def test_a_second_engine_on_the_same_data_is_one_sentence_and_the_first_goes_on(
    entrepot: Entrepot, source: DockerRegistry, skopeo: Skopeo, app: FakeImage
) -> None:
    address = entrepot.address
    second = Entrepot(entrepot.root, source.url).launch().wait()
    assert second.status == 1
    _assert_one_sentence(second.output, "engine", str(entrepot.directories.data))
    assert entrepot.ask("status")["address"] == address
    skopeo.pull(f"{address}/library/app:1")
    skopeo.assert_holds(f"{address}/library/app:1", app)


@pytest.mark.parametrize("part", ["c", "d", "r", "s"], ids=["config", "data", "runtime", "state"])
def test_a_file_in_the_place_of_a_directory_is_one_sentence(
    part: str, new_engine: NewEngine, source: DockerRegistry
) -> None:
    engine = new_engine(source.url)
    if part == "c":
        engine.directories.settings.unlink()
        engine.directories.config.rmdir()
        engine.directories.config.touch()
    else:
        (engine.root / part).touch()
    refused = engine.launch().wait()
    assert refused.status == 1
    _assert_one_sentence(refused.output, str(engine.root / part), "XDG_" if part != "c" else "")


def test_a_directory_without_write_permission_is_one_sentence(
    new_engine: NewEngine, source: DockerRegistry
) -> None:
    engine = new_engine(source.url)
    data = engine.root / "d"
    data.mkdir(mode=0o500)
    # Root may write anywhere; without these two capabilities permissions count for it too.
    without: list[str | Path] = (
        [require_program("setpriv"), "--bounding-set=-dac_override,-dac_read_search"]
        if os.geteuid() == 0
        else []
    )
    refused = engine.launch(prefix=without).wait()
    assert refused.status == 1
    _assert_one_sentence(
        refused.output,
        f"{data} has mode 0500",
        "its owner, may not write",
        "chmod u+rwx",
        "XDG_DATA_HOME",
    )


def test_broken_settings_are_one_sentence_with_file_and_line(
    new_engine: NewEngine, source: DockerRegistry
) -> None:
    engine = new_engine(source.url, settings='freshness = "soon"')
    refused = engine.launch().wait()
    assert refused.status == 1
    _assert_one_sentence(refused.output, f"{engine.directories.settings}, line 1", "freshness")


def test_an_address_that_is_none_is_one_sentence(
    new_engine: NewEngine, source: DockerRegistry
) -> None:
    engine = new_engine(source.url)
    engine.address = "127.0.0.1:99999"
    refused = engine.launch().wait()
    assert refused.status == 1
    _assert_one_sentence(refused.output, "127.0.0.1:99999", "there is no port 99999")


def test_commands_without_an_engine_say_how_to_start_one(
    new_engine: NewEngine, source: DockerRegistry
) -> None:
    refused = new_engine(source.url).run("status", check=False)
    assert refused.status == 3
    _assert_one_sentence(refused.output, "entrepot serve")
