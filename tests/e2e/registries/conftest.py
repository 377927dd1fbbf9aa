"""All source registries in a network of their own, and in it an engine with rules for each, and
skopeo."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import TypeVar

import httpx
import pytest

from entrepot.api.client import CacheClient
from entrepot.core.registries import SourceRegistries
from entrepot.core.states import SignIn
from tests.e2e.clients.container_clients import Skopeo
from tests.e2e.clients.entrepot import Entrepot
from tests.e2e.clients.processes import Finished, run
from tests.e2e.registries.namespace import Namespace
from tests.e2e.registries.profiles import PROFILES, Profile
from tests.e2e.registries.sources import RegistryWithHosts, World

WRONG = "wrong-horse-battery-staple"

T = TypeVar("T")


def sign_in_of(profile: Profile) -> SignIn:
    """The policy of the table for a registry."""
    return SourceRegistries().find(profile.login_server).sign_in


class EngineInNamespace(Entrepot):
    """``entrepot serve`` in the namespace, trusting the throw-away authority, with a clock that can
    be set forward. It knows nothing but the table."""

    def __init__(self, root: Path, world: World) -> None:
        self._namespace = world.namespace
        self._clock = root / "clock"
        self._offset = 0.0
        self._clock.write_text(f"{0:016.3f}")
        variables = {
            "SSL_CERT_FILE": str(world.authority.path),
            "ENTREPOT_CLOCK": str(self._clock),
            "WRONG_PASSWORD": WRONG,
        }
        for number, profile in enumerate(PROFILES):
            variables |= {
                f"USER_{number}": profile.username,
                f"PASSWORD_{number}": profile.password,
            }
        super().__init__(
            root, "", variables=variables, program=("-m", "tests.e2e.registries.moved_clock")
        )
        self.directories.settings.write_text("")

    def start(self) -> EngineInNamespace:
        self.address = self.launch(prefix=self._namespace.prefix).wait_for_line(
            r"answers container clients on (\S+) with"
        )[1]
        return self

    def go_on(self, seconds: float) -> None:
        """Set its clock forward."""
        self._offset += seconds
        with self._clock.open("r+b") as file:
            # In one piece, so that no half of it is ever read.
            os.pwrite(file.fileno(), f"{self._offset:016.3f}".encode(), 0)

    def wait_until_reached(self, profile: Profile) -> None:
        """Wait until no host of a registry is left alone any more."""

        async def wait(client: CacheClient) -> None:
            async with asyncio.timeout(60):
                while any(
                    each.unreachable_since is not None
                    for each in await client.system.source_registries()
                    if each.login_server == profile.login_server
                ):
                    await client.system.status()

        self.manage(wait)

    def manage(self, work: Callable[[CacheClient], Awaitable[T]]) -> T:
        """Speak to its management socket."""

        async def speak() -> T:
            async with CacheClient.at(self.directories.socket) as client:
                return await work(client)

        return asyncio.run(speak())

    def ask_for(self, path: str) -> httpx.Response:
        """A raw request of a container client."""
        return self._namespace.call(lambda: self.get(path))

    def allow(self, profile: Profile) -> None:
        """Make all rules and credential sets of a registry that its policy allows: below
        ``NAME/open``, ``NAME/closed`` and ``NAME/wrong``."""
        policy = sign_in_of(profile)
        number = PROFILES.index(profile)

        async def make(client: CacheClient) -> None:
            public, private = (
                f"{profile.login_server}/{profile.public}",
                f"{profile.login_server}/{profile.private}",
            )
            if policy is SignIn.NONE:
                await client.rules.create(f"{profile.name}-open", public, f"{profile.name}/open")
                return
            await client.credential_sets.create(
                f"{profile.name}-right",
                profile.login_server,
                f"env:USER_{number}",
                f"env:PASSWORD_{number}",
            )
            await client.credential_sets.create(
                f"{profile.name}-wrong",
                profile.login_server,
                f"env:USER_{number}",
                "env:WRONG_PASSWORD",
            )
            right = f"{profile.name}-right"
            await client.rules.create(
                f"{profile.name}-open",
                public,
                f"{profile.name}/open",
                right if policy is SignIn.REQUIRED else None,
            )
            await client.rules.create(
                f"{profile.name}-closed", private, f"{profile.name}/closed", right
            )
            await client.rules.create(
                f"{profile.name}-wrong", private, f"{profile.name}/wrong", f"{profile.name}-wrong"
            )

        self.manage(make)


class SkopeoInNamespace(Skopeo):
    """skopeo there."""

    def __init__(self, root: Path, namespace: Namespace) -> None:
        super().__init__(root)
        self._namespace = namespace

    def copy(self, source: str, target: str, *options: str) -> Finished:
        arguments = [
            *self._namespace.prefix,
            self._program,
            "--insecure-policy",
            *options,
            "copy",
            "--src-tls-verify=false",
            source,
            target,
        ]
        return run(arguments, environment=self._environment)


@pytest.fixture(scope="session")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    with World(tmp_path_factory.mktemp("world"), extra=["sso.redhat.com"]) as world:
        yield world


@pytest.fixture(scope="session")
def engine(world: World, tmp_path_factory: pytest.TempPathFactory) -> Iterator[EngineInNamespace]:
    """A running engine with all rules that the policies allow."""
    with EngineInNamespace(tmp_path_factory.mktemp("e"), world) as engine:
        engine.start()
        for profile in PROFILES:
            engine.allow(profile)
        yield engine


@pytest.fixture(scope="session")
def skopeo(world: World, tmp_path_factory: pytest.TempPathFactory) -> SkopeoInNamespace:
    return SkopeoInNamespace(tmp_path_factory.mktemp("skopeo"), world.namespace)


@pytest.fixture(params=[each.login_server for each in PROFILES])
def source(request: pytest.FixtureRequest, world: World) -> RegistryWithHosts:
    """Each source registry in turn."""
    return world.sources[request.param]
