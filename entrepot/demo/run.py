"""The engine of ``entrepot demo``.

A real engine that pulls from the demo's own source registry. The registry on loopback takes the
place of Docker Hub and of Microsoft's and GitHub's registries. The engine runs as a process of its
own, started by ``entrepot demo``, below a directory that is removed afterwards. Its standard input
is a pipe from there: when the pipe ends, ``entrepot demo`` is gone, however it ended, and the
engine stops and removes the directory.
"""

from __future__ import annotations

import asyncio
import os
import shutil
import stat
import sys
from collections.abc import Awaitable, Callable
from dataclasses import replace
from pathlib import Path

from entrepot.config.directories import Directories
from entrepot.config.settings import Settings
from entrepot.core.credentials import CredentialSetDraft
from entrepot.core.registries import DeclaredRegistry
from entrepot.core.rules import RuleDraft
from entrepot.demo.registry import demo_registry_app, served_on_loopback
from entrepot.engine.engine import Engine
from entrepot.errors import EntrepotError
from entrepot.server.run import serve
from entrepot.tasks import OwnedTasks

REPLACED_LOGIN_SERVERS = ("docker.io", "mcr.microsoft.com", "ghcr.io")
"""Login servers whose endpoint is the demo's registry: rules have the names of real ones."""

USERNAME_VARIABLE = "ENTREPOT_DEMO_USERNAME"
PASSWORD_VARIABLE = "ENTREPOT_DEMO_PASSWORD"

_CREDENTIAL_SET = CredentialSetDraft(
    "hub-login", "docker.io", f"env:{USERNAME_VARIABLE}", f"env:{PASSWORD_VARIABLE}"
)
_RULES = (
    RuleDraft("hub-library", "docker.io/library/*", "library/*", "hub-login"),
    RuleDraft("mcr-dotnet", "mcr.microsoft.com/dotnet/*", "dotnet/*"),
    RuleDraft("ghcr-acme-api", "ghcr.io/acme/api", "acme/api"),
)


async def run(root: Path) -> None:
    """Run the demo's engine below *root* until it is stopped or its input (a pipe) ends."""
    set_secrets()
    orphaned = asyncio.Event()
    if stat.S_ISFIFO(os.fstat(sys.stdin.fileno()).st_mode):
        asyncio.get_running_loop().add_reader(sys.stdin.fileno(), _notice_end_of_input, orphaned)
    try:
        async with OwnedTasks() as tasks:

            async def prepare_and_watch(engine: Engine) -> None:
                tasks.start(_stop_when(orphaned, engine), "the watch on entrepot demo")
                await prepare(engine)

            await _serve(root, prepare_and_watch)
    finally:
        if orphaned.is_set():
            # The program that should remove it was killed.
            shutil.rmtree(root, ignore_errors=True)


def _notice_end_of_input(orphaned: asyncio.Event) -> None:
    """Set *orphaned* when the writing end of standard input is closed.

    Nothing is written to it.
    """
    if not os.read(sys.stdin.fileno(), 4096):
        asyncio.get_running_loop().remove_reader(sys.stdin.fileno())
        orphaned.set()


async def _stop_when(orphaned: asyncio.Event, engine: Engine) -> None:
    await orphaned.wait()
    engine.stopping.set()


async def _serve(root: Path, prepare: Callable[[Engine], Awaitable[None]]) -> None:
    directories = Directories.under(root)
    async with served_on_loopback(demo_registry_app()) as port:
        declared = tuple(
            DeclaredRegistry(login_server, endpoint=f"http://127.0.0.1:{port}")
            for login_server in REPLACED_LOGIN_SERVERS
        )
        settings = replace(Settings(), listen="127.0.0.1:0", upstreams=declared)
        await serve(directories, settings, demo=True, prepare=prepare)


def set_secrets() -> None:
    """Set the secrets of the demo's credential set, which rules for Docker Hub need.

    The demo's registry accepts every client.
    """
    os.environ.setdefault(USERNAME_VARIABLE, "demo")
    os.environ.setdefault(PASSWORD_VARIABLE, "demo")


async def prepare(engine: Engine) -> None:
    """Create the demo's credential set and rules."""
    await engine.credential_sets.create(_CREDENTIAL_SET)
    for rule in _RULES:
        await engine.rules.create(rule)


if __name__ == "__main__":
    try:
        asyncio.run(run(Path(sys.argv[1])))
    except EntrepotError as error:
        sys.exit(f"Error: {error.message}")
