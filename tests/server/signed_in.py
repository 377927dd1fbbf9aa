"""A registry with readers: who they are, and what each sends."""

from __future__ import annotations

import base64
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path

import bcrypt
import httpx

from entrepot.config.directories import Directories
from entrepot.config.reader_settings import ReaderSettings
from entrepot.config.settings import Settings
from entrepot.core.rules import RuleDraft
from entrepot.engine.engine import Engine
from entrepot.server.run import registry_app
from entrepot.server.sign_in import ReaderSignIn
from tests.conftest import LOGIN_SERVER, Clock
from tests.fakes import FakeImage, FakeRegistry

PASSWORDS = {"alice": "alice-password", "bob": "bob-password"}

RULES = {
    "library": RuleDraft("public-library", f"{LOGIN_SERVER}/library/*", "library/*"),
    "ci": RuleDraft("private-ci", f"{LOGIN_SERVER}/ci/*", "ci/*", readers=("ci",)),
    "ops": RuleDraft("private-ops", f"{LOGIN_SERVER}/ops/*", "ops/*", readers=("@ops",)),
    "members": RuleDraft("for-members", f"{LOGIN_SERVER}/members/*", "members/*", anonymous=False),
    "open": RuleDraft("open-to-all", f"{LOGIN_SERVER}/open/*", "open/*", anonymous=True),
}
"""By the first part of their repositories."""

READABLE = {
    "": {"library", "open"},
    "bob": {"library", "open", "members"},
    "alice": {"library", "open", "members", "ops"},
    "ci": {"library", "open", "members", "ci"},
}
"""What each reader may read, where anonymous ones may read what has no readers."""


def write_htpasswd(file: Path, passwords: dict[str, str] = PASSWORDS) -> None:
    lines = [
        f"{name}:{bcrypt.hashpw(password.encode(), bcrypt.gensalt(4)).decode()}\n"
        for name, password in passwords.items()
    ]
    file.write_text("# Readers\n\n" + "".join(lines))


def basic(name: str, password: str) -> dict[str, str]:
    credentials = base64.b64encode(f"{name}:{password}".encode()).decode()
    return {"authorization": f"Basic {credentials}"}


def bearer(token: str) -> dict[str, str]:
    return {"authorization": f"Bearer {token}"}


@dataclass
class Readers:
    """An engine with readers, and a container client's view of it."""

    engine: Engine
    registry: httpx.AsyncClient
    htpasswd: Path
    token: str
    """The personal token of ``ci``, who is in no group."""
    images: dict[str, FakeImage] = field(default_factory=dict)

    def headers(self, reader: str) -> dict[str, str]:
        if not reader:
            return {}
        return bearer(self.token) if reader == "ci" else basic(reader, PASSWORDS[reader])

    async def signed(self, reader: str, *repositories: str) -> httpx.Response:
        """What the end point for tokens answers."""
        credentials = (
            basic("ci", self.token)
            if reader == "ci"
            else basic(reader, PASSWORDS[reader])
            if reader
            else {}
        )
        scopes = [f"repository:{repository}:pull" for repository in repositories]
        return await self.registry.get("/v2/token", params={"scope": scopes}, headers=credentials)


@asynccontextmanager
async def readers_of(
    directories: Directories,
    settings: Settings,
    source: FakeRegistry,
    clock: Clock,
    *,
    allow_anonymous: bool = True,
) -> AsyncIterator[Readers]:
    """An engine with the rules and readers above, and one image in each rule."""
    directories.config.mkdir(parents=True, exist_ok=True)
    htpasswd = directories.config / "readers.htpasswd"
    write_htpasswd(htpasswd)
    settings = replace(
        settings,
        readers=ReaderSettings(htpasswd, {"ops": ("alice",)}),
        allow_anonymous=allow_anonymous,
    )
    async with Engine.open(directories, settings, clock=clock) as engine:
        for rule in RULES.values():
            await engine.rules.create(rule)
        created = await engine.readers.create_token("ci")
        app = ReaderSignIn(registry_app(engine), engine.readers)
        transport = httpx.ASGITransport(app, raise_app_exceptions=False)
        async with httpx.AsyncClient(
            transport=transport, base_url="http://cache.example:5000", timeout=30
        ) as registry:
            readers = Readers(engine, registry, htpasswd, created.secret)
            for part in RULES:
                readers.images[part] = source.add_image(f"{part}/app", "1", layers=[2000])
            yield readers
