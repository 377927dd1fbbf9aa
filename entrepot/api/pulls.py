"""Pulls of a running engine."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Final, TypeAlias

from entrepot.api.models import PullSnapshot
from entrepot.api.session import ApiSession, path_segment

POLL_INTERVAL: Final = 0.25
"""Seconds between two requests for the state of a pull."""

_Pulls: TypeAlias = list[PullSnapshot]


class PullsClient:
    """``client.pulls``: images on their way into the cache, and pulls that have ended."""

    def __init__(self, session: ApiSession) -> None:
        self._session = session

    async def list(self) -> _Pulls:
        """Running pulls with their layers, and ended pulls without; newest first.

        Ended pulls are those of the last 30 days, 1,000 at most.
        """
        return await self._session.get("/entrepot/v1/pulls", _Pulls)

    async def list_running(self) -> _Pulls:
        """Running pulls only, newest first: small enough to be polled twice a second."""
        return await self._session.get("/entrepot/v1/pulls?running=1", _Pulls)

    async def get(self, id: str) -> PullSnapshot:
        """One pull, with its layers."""
        return await self._session.get(_path(id), PullSnapshot)

    async def start(
        self,
        image: str,
        platform: str | None = None,
        asked_by: str = "cli",
        *,
        referrers: bool = False,
    ) -> PullSnapshot:
        """Start a pull of ``library/nginx:1.27``.

        *platform* is that of the engine's machine unless another is named. With *referrers* what
        refers to the image is fetched too: signatures, SBOMs.
        """
        body: dict[str, object] = {"image": image, "platform": platform, "askedBy": asked_by}
        if referrers:
            # An engine of an earlier version refuses a field that it does not know.
            body["referrers"] = True
        return await self._session.send("POST", "/entrepot/v1/pulls", PullSnapshot, body)

    async def cancel(self, id: str) -> PullSnapshot:
        """Cancel a pull."""
        return await self._session.send("DELETE", _path(id), PullSnapshot)

    async def follow(
        self, id: str, *, interval: float = POLL_INTERVAL
    ) -> AsyncIterator[PullSnapshot]:
        """Snapshots of a pull every *interval* seconds, the last one when it has ended."""
        import asyncio

        while True:
            pull = await self.get(id)
            yield pull
            if pull.state.ended:
                return
            await asyncio.sleep(interval)


def _path(id: str) -> str:
    return f"/entrepot/v1/pulls/{path_segment(id)}"
