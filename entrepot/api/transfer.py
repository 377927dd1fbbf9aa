"""Exports and imports of a running engine: see `entrepot.server.v1.transfer`."""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterable, Sequence
from contextlib import aclosing
from typing import Final
from urllib.parse import urlencode

import msgspec

from entrepot.api.session import ApiSession, decode, path_segments
from entrepot.api.transfer_models import (
    ExportPlan,
    ImportedImage,
    ImportedManifest,
    InventoryLine,
    TransferredTag,
)

PLAN_TIMEOUT: Final = 600.0
"""Seconds that a plan may take: its manifests may come from a slow source."""

BLOB_TIMEOUT: Final = 600.0
"""Seconds without a byte of a blob: the engine may hash what it has before, or wait for its turn
at the source."""

_CONTENT: Final = "/entrepot/v1/content"


class TransferClient:
    """``client.transfer``: the content of the cache, out and in."""

    def __init__(self, session: ApiSession) -> None:
        self._session = session

    async def plan(
        self,
        image: str,
        *,
        platforms: Sequence[str] = (),
        cached_only: bool = False,
        everything: bool = False,
    ) -> ExportPlan:
        """All that belongs to an image: see `entrepot.engine.exports.ExportService.plan`."""
        return await self._session.send(
            "POST",
            f"{_CONTENT}/plan",
            ExportPlan,
            {
                "image": image,
                "platforms": platforms,
                "cachedOnly": cached_only,
                "everything": everything,
            },
            read_timeout=PLAN_TIMEOUT,
        )

    async def blob(
        self, repository: str, digest: str, *, offset: int = 0, cached_only: bool = False
    ) -> AsyncGenerator[bytes, None]:
        """The bytes of a blob from *offset* on.

        They end early where the connection breaks off.
        """
        query = urlencode({"offset": offset} | ({"cachedOnly": 1} if cached_only else {}))
        path = f"{_address(repository, 'blobs', digest)}?{query}"
        async with aclosing(self._session.stream_bytes(path, BLOB_TIMEOUT)) as chunks:
            async for chunk in chunks:
                yield chunk

    async def inventory(self) -> AsyncGenerator[InventoryLine, None]:
        """All cached blobs, by digest."""
        async with aclosing(
            self._session.stream_lines(f"{_CONTENT}/inventory", BLOB_TIMEOUT)
        ) as lines:
            async for line in lines:
                if line:
                    yield decode(line, InventoryLine)

    async def put_manifest(
        self,
        repository: str,
        digest: str,
        content: bytes,
        media_type: str,
        *,
        rule: str | None = None,
        source: str | None = None,
        platform: str | None = None,
    ) -> ImportedManifest:
        """Import a manifest; an index comes before what it lists."""
        query = {"rule": rule, "source": source, "platform": platform}
        path = (
            f"{_address(repository, 'manifests', digest)}?"
            f"{urlencode({name: value for name, value in query.items() if value is not None})}"
        )
        answer = await self._session.upload(path, content, media_type=media_type)
        return decode(answer, ImportedManifest)

    async def put_blob(
        self,
        repository: str,
        digest: str,
        size: int,
        content: AsyncIterable[bytes],
        *,
        offset: int = 0,
    ) -> None:
        """Import a blob of *size* bytes; *content* are those from *offset* on."""
        query = urlencode({"size": size, "offset": offset})
        await self._session.upload(
            f"{_address(repository, 'blobs', digest)}?{query}",
            content,
            length=size - offset,
            read_timeout=BLOB_TIMEOUT,
        )

    async def put_image(
        self,
        repository: str,
        digest: str,
        *,
        tag: str | None,
        state: TransferredTag | None,
        manifests: Sequence[str],
        rule: str | None = None,
        source: str | None = None,
    ) -> ImportedImage:
        """Finish the import of an image, whose manifests and blobs are all there."""
        body = {
            "tag": tag,
            "state": None if state is None else msgspec.to_builtins(state),
            "manifests": manifests,
            "rule": rule,
            "source": source,
        }
        return await self._session.send(
            "PUT", _address(repository, "images", digest), ImportedImage, body
        )


def _address(repository: str, kind: str, digest: str) -> str:
    return f"{_CONTENT}/{path_segments(repository)}/_{kind}/{digest}"
