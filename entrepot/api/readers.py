"""Readers and personal tokens of a running engine."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeAlias

from entrepot.api.reader_models import CreatedToken, ReaderList, TokenSnapshot
from entrepot.api.session import ApiSession, path_segment

_Tokens: TypeAlias = list[TokenSnapshot]


class ReadersClient:
    """``client.readers``: who may read at the registry, and personal tokens."""

    def __init__(self, session: ApiSession) -> None:
        self._session = session

    async def list(self) -> ReaderList:
        """All readers who are known, and which rules each may read."""
        return await self._session.listing("/entrepot/v1/readers", ReaderList)

    async def tokens(self) -> _Tokens:
        """All personal tokens, by name."""
        return await self._session.get("/entrepot/v1/tokens", _Tokens)

    async def create_token(
        self, name: str, *, expires: str | None = None, groups: Sequence[str] = ()
    ) -> CreatedToken:
        """Create a personal token: its secret is in this answer, and nowhere else.

        *expires* is ``90d``, ``12h`` or ``never``; None: never.
        """
        body = {"name": name, "expires": expires, "groups": tuple(groups)}
        return await self._session.send("POST", "/entrepot/v1/tokens", CreatedToken, body)

    async def revoke_token(self, name: str) -> bool:
        """Revoke a personal token; False when there was none of that name."""
        return await self._session.delete_resource(f"/entrepot/v1/tokens/{path_segment(name)}")
