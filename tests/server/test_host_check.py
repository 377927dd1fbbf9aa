"""Browsers that ask a registry on loopback under another machine's name (S36, DNS rebinding)."""

from __future__ import annotations

from dataclasses import replace

import httpx
import pytest

from entrepot.config.directories import Directories
from entrepot.config.settings import Settings
from entrepot.engine.engine import Engine
from entrepot.server.run import listening

BROWSER = {"Accept-Language": "en"}
DOCKER = {"User-Agent": "docker/28.0", "Accept": "application/json"}


@pytest.mark.parametrize(
    "host",
    [
        "evil.example",
        "evil.example:5000",
        "localhost.evil.example",
        "127.0.0.1.evil.example",
        "",
        "[evil]",
        "127.1",
    ],
)
async def test_s36_a_browser_that_names_another_machine_is_refused(
    host: str, engine: Engine
) -> None:
    async with (
        listening(engine),
        httpx.AsyncClient(verify=False, base_url=f"http://{engine.address}") as client,
    ):
        for headers in (
            BROWSER,
            {"Origin": "http://evil.example"},
            {"Sec-Fetch-Site": "same-origin"},
            {"Referer": "http://evil.example/"},
        ):
            answer = await client.get("/v2/_catalog", headers={"Host": host, **headers})
            assert (answer.status_code, "hosts = [" in answer.text) == (421, True)


@pytest.mark.parametrize(
    "host",
    [
        "localhost",
        "LOCALHOST:5000",
        "a.localhost:1",
        "127.0.0.1:5000",
        "[::1]:5000",
        "192.168.1.5",
        "localhost.",
    ],
)
async def test_s36_a_browser_of_this_machine_is_answered(host: str, engine: Engine) -> None:
    async with (
        listening(engine),
        httpx.AsyncClient(verify=False, base_url=f"http://{engine.address}") as client,
    ):
        assert (
            await client.get("/v2/_catalog", headers={"Host": host, **BROWSER})
        ).status_code == 200


@pytest.mark.parametrize("host", ["registry.example.com", "anything:5000"])
async def test_s36_container_clients_and_proxies_may_use_any_name(
    host: str, engine: Engine
) -> None:
    async with (
        listening(engine),
        httpx.AsyncClient(
            verify=False, base_url=f"http://{engine.address}", headers=DOCKER
        ) as client,
    ):
        assert (
            await client.get("/v2/", headers={"Host": host, "X-Forwarded-Proto": "https"})
        ).status_code == 200


async def test_s36_names_in_the_settings_are_for_browsers_too(
    directories: Directories, settings: Settings
) -> None:
    directories.make()
    directories.settings.write_text('listen = "127.0.0.1:0"\nhosts = ["Registry.example.com"]\n')
    named = replace(settings, hosts=Settings.load(directories.settings).hosts)
    async with (
        Engine.open(directories, named) as engine,
        listening(engine),
        httpx.AsyncClient(verify=False, base_url=f"http://{engine.address}") as client,
    ):
        assert (
            await client.get("/v2/", headers={"Host": "registry.example.com", **BROWSER})
        ).status_code == 200
        assert (
            await client.get("/v2/", headers={"Host": "other.example.com", **BROWSER})
        ).status_code == 421


async def test_s36_a_registry_for_other_machines_is_asked_under_any_name(
    directories: Directories, settings: Settings
) -> None:
    async with (
        Engine.open(
            directories,
            replace(settings, listen="0.0.0.0:0", allow_plain_http=True, allow_anonymous=True),
        ) as engine,
        listening(engine),
    ):
        port = engine.address.rpartition(":")[2]
        async with httpx.AsyncClient(verify=False, base_url=f"http://127.0.0.1:{port}") as client:
            assert (
                await client.get("/v2/", headers={"Host": "build.example.com", **BROWSER})
            ).status_code == 200
