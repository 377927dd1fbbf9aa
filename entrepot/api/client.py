"""The client of a running engine, for the dashboard, the CLI and scripts.

::

    async with CacheClient.at(socket) as client:
        await client.rules.create("docker-hub", "docker.io/library/*", "library/*", "hub")
        pull = await client.pulls.start("library/nginx:1.27")

It has one part per noun: `rules`, `credential_sets`, `repositories`, `pulls`, `readers`, `system`
and `transfer`.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Any

from entrepot.api.credential_sets import CredentialSetsClient
from entrepot.api.errors import (
    ClientError,
    EngineAnswerInvalid,
    EngineRefused,
    EngineUnreachable,
    EngineUntrusted,
)
from entrepot.api.pulls import PullsClient
from entrepot.api.readers import ReadersClient
from entrepot.api.repositories import RepositoriesClient
from entrepot.api.rules import RulesClient
from entrepot.api.session import ApiSession
from entrepot.api.system import SystemClient
from entrepot.api.transfer import TransferClient
from entrepot.api.transport import BlockingTransport, HttpxTransport, Transport

__all__ = [
    "NO_ENGINE",
    "CacheClient",
    "ClientError",
    "EngineAnswerInvalid",
    "EngineRefused",
    "EngineUnreachable",
    "EngineUntrusted",
]

NO_ENGINE = "No engine is running. Start one with: entrepot serve"
"""The message when no engine answers on this user's socket."""


class CacheClient:
    """A client of one engine, over its Unix socket or HTTPS. Use it as ``async with``.

    All methods raise a `ClientError`. *absent* is the message when no engine answers.
    """

    def __init__(
        self,
        transport: Transport,
        *,
        token: str | None = None,
        read_only: bool = False,
        absent: str | Callable[[], str] = NO_ENGINE,
    ) -> None:
        self._session = ApiSession(transport, token=token, absent=absent)
        self.rules = RulesClient(self._session)
        self.credential_sets = CredentialSetsClient(self._session)
        self.repositories = RepositoriesClient(self._session)
        self.pulls = PullsClient(self._session)
        self.readers = ReadersClient(self._session)
        self.system = SystemClient(self._session)
        self.transfer = TransferClient(self._session)
        self.read_only = False
        """Whether this client bound itself: the engine refuses all changes that it asks for."""
        if read_only:
            self.bind_to_reading()

    def bind_to_reading(self) -> None:
        """Have the engine refuse all changes that this client asks for, from now on."""
        self.read_only = True
        self._session.headers["Entrepot-Read-Only"] = "1"

    @classmethod
    def at(
        cls, socket: Path, *, read_only: bool = False, absent: str | Callable[[], str] = NO_ENGINE
    ) -> CacheClient:
        """A client of the engine on a Unix socket."""
        return cls(HttpxTransport.at(socket), read_only=read_only, absent=absent)

    @classmethod
    def blocking_at(
        cls, socket: Path, *, read_only: bool = False, absent: str | Callable[[], str] = NO_ENGINE
    ) -> CacheClient:
        """A client on a Unix socket that blocks while the engine works.

        It needs no event loop and starts faster: for a command that sends one request.
        """
        return cls(BlockingTransport(socket), read_only=read_only, absent=absent)

    @classmethod
    def over_https(
        cls, address: str, token: str, *, ca_file: Path | None = None, read_only: bool = False
    ) -> CacheClient:
        """A client of an engine that serves its management API at an HTTPS *address*.

        The address is ``https://host:port``. The client trusts the system's certificate authorities
        and those in *ca_file* (PEM); raises OSError when that file can't be used.
        """
        absent = (
            f"No engine answers at {address}. "
            "Does it run there, with [management] in its settings.toml?"
        )
        return cls(
            HttpxTransport.over_https(address, ca_file),
            token=token,
            read_only=read_only,
            absent=absent,
        )

    @classmethod
    def of_app(cls, app: Any, *, read_only: bool = False) -> CacheClient:
        """A client of an engine in the same process.

        *app* is the engine's management application (ASGI).
        """
        return cls(HttpxTransport.of_app(app), read_only=read_only)

    async def __aenter__(self) -> CacheClient:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self.close()

    async def close(self) -> None:
        """Close the connections."""
        await self._session.close()
