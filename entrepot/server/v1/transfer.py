"""``/entrepot/v1/content``: what ``entrepot export`` reads and ``entrepot import`` writes.

Blobs go as raw bytes, in either direction from an offset on; nothing of a blob is in memory but a
few chunks.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing

import msgspec
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse
from starlette.routing import BaseRoute, Route

from entrepot.api.transfer_models import TransferredTag
from entrepot.cache.fill import Fill
from entrepot.cache.results import CachedBlob
from entrepot.core.reference import Digest, Repository, parse_repository, parse_tag
from entrepot.engine.exports import ExportService
from entrepot.engine.imports import ImportService
from entrepot.errors import EngineError, RequestInvalid
from entrepot.formatting import printable
from entrepot.httpd.sendfile import FileCutShort, chunks
from entrepot.server.request_body import read_body, read_bytes
from entrepot.server.responses import json_response
from entrepot.server.routes import QuestionRoute
from entrepot.source.errors import SourceError

_CONTENT = "/entrepot/v1/content/{name:path}"

_EXPORT_HINT = 'Send {"image": "library/nginx:1.27"}.'

_IMAGE_HINT = 'Send {"tag": "1.27", "manifests": ["sha256:…"]}.'


class ExportBody(msgspec.Struct, rename="camel", forbid_unknown_fields=True):
    """The body of a request for what belongs to an image."""

    image: str
    platforms: list[str] = []
    cached_only: bool = False
    everything: bool = False


class ImageBody(msgspec.Struct, rename="camel", forbid_unknown_fields=True):
    """The body of a request to finish the import of an image."""

    tag: str | None = None
    state: TransferredTag | None = None
    manifests: list[str] = []
    rule: str | None = None
    source: str | None = None


class TransferEndpoints:
    """Exports and imports of one engine; a manifest has at most *manifest_limit* bytes."""

    def __init__(
        self, exports: ExportService, imports: ImportService, *, manifest_limit: int
    ) -> None:
        self._exports = exports
        self._imports = imports
        self._manifest_limit = manifest_limit

    def routes(self) -> Sequence[BaseRoute]:
        """The routes of exports and imports."""
        return [
            QuestionRoute("/entrepot/v1/content/plan", self.plan),
            Route("/entrepot/v1/content/inventory", self.inventory, methods=["GET"]),
            Route(f"{_CONTENT}/_blobs/{{digest}}", self.get_blob, methods=["GET"]),
            Route(f"{_CONTENT}/_blobs/{{digest}}", self.put_blob, methods=["PUT"]),
            Route(f"{_CONTENT}/_manifests/{{digest}}", self.put_manifest, methods=["PUT"]),
            Route(f"{_CONTENT}/_images/{{digest}}", self.put_image, methods=["PUT"]),
        ]

    async def plan(self, request: Request) -> Response:
        """``POST /entrepot/v1/content/plan``"""
        body = await read_body(request, ExportBody, hint=_EXPORT_HINT)
        return json_response(
            await self._exports.plan(
                body.image,
                platforms=body.platforms,
                cached_only=body.cached_only,
                everything=body.everything,
            )
        )

    async def inventory(self, _: Request) -> Response:
        """``GET /entrepot/v1/content/inventory``: a line of JSON for each cached blob."""
        return StreamingResponse(self._inventory_lines(), media_type="application/jsonl")

    async def _inventory_lines(self) -> AsyncGenerator[bytes]:
        encoder = msgspec.json.Encoder()
        async with aclosing(self._exports.inventory()) as pages:
            async for page in pages:
                yield encoder.encode_lines(page)

    async def get_blob(self, request: Request) -> Response:
        """``GET /entrepot/v1/content/{name}/_blobs/{digest}?offset=…``"""
        repository, digest = _address(request)
        offset = _count(request, "offset", 0)
        cached_only = request.query_params.get("cachedOnly") is not None
        for is_last in (False, True):
            blob = await self._exports.blob(repository, digest, cached_only=cached_only)
            if offset > blob.size:
                raise RequestInvalid(f"The blob {digest} has {blob.size:,} bytes.", "Begin at 0.")
            body = await self._body(repository, blob, offset)
            try:
                # The first bytes come before the head: until then it can still be an error.
                first = await anext(body, b"")
            except FileNotFoundError:
                if is_last:
                    raise EngineError(
                        f"The cached copy of {digest} was removed a moment ago.",
                        "Export the image again.",
                    ) from None
            else:
                break

        async def whole() -> AsyncGenerator[bytes]:
            async with aclosing(body):
                yield first
                async for chunk in body:
                    yield chunk

        return StreamingResponse(
            whole(),
            headers={"content-length": str(blob.size - offset)},
            media_type="application/octet-stream",
        )

    async def _body(
        self, repository: Repository, blob: CachedBlob | Fill, offset: int
    ) -> AsyncGenerator[bytes]:
        if isinstance(blob, CachedBlob):
            return _cached_bytes(blob, offset)
        try:
            await blob.wait_beyond(min(offset, max(0, blob.size - 1)))
        except SourceError as error:
            raise self._exports.blob_failed(repository, blob.digest, error) from error
        return _growing_bytes(blob, offset)

    async def put_manifest(self, request: Request) -> Response:
        """``PUT /entrepot/v1/content/{name}/_manifests/{digest}``: the bytes of a manifest."""
        repository, digest = _address(request)
        query = request.query_params
        content = await read_bytes(
            request,
            self._manifest_limit,
            hint="Raise manifest_limit in settings.toml if it is right.",
        )
        return json_response(
            await self._imports.add_manifest(
                repository,
                digest,
                content,
                request.headers.get("content-type", ""),
                rule=query.get("rule"),
                source=query.get("source"),
                platform=query.get("platform"),
            )
        )

    async def put_blob(self, request: Request) -> Response:
        """``PUT /entrepot/v1/content/{name}/_blobs/{digest}?size=…&offset=…``: its bytes."""
        repository, digest = _address(request)
        is_new = await self._imports.add_blob(
            repository,
            digest,
            _count(request, "size"),
            _count(request, "offset", 0),
            request.stream(),
        )
        return Response(status_code=201 if is_new else 204)

    async def put_image(self, request: Request) -> Response:
        """``PUT /entrepot/v1/content/{name}/_images/{digest}``: the image is complete."""
        repository, digest = _address(request)
        body = await read_body(request, ImageBody, hint=_IMAGE_HINT)
        return json_response(
            await self._imports.finish(
                repository,
                digest,
                tag=None if body.tag is None else parse_tag(body.tag),
                state=body.state,
                manifests=[Digest.parse(manifest) for manifest in body.manifests],
                rule=body.rule,
                source=body.source,
            )
        )


def _address(request: Request) -> tuple[Repository, Digest]:
    return (
        parse_repository(request.path_params["name"], field="name"),
        Digest.parse(request.path_params["digest"]),
    )


def _count(request: Request, name: str, default: int | None = None) -> int:
    """A number of bytes in the query."""
    text = request.query_params.get(name)
    if text is None and default is not None:
        return default
    if text is None or not text.isascii() or not text.isdigit() or len(text) > 16:
        raise RequestInvalid(
            f"{name} is {printable(text or 'missing', 40)} and has to be a number of bytes.",
            "Write it into the query: ?size=1234.",
            field=name,
        )
    return int(text)


async def _cached_bytes(blob: CachedBlob, offset: int) -> AsyncGenerator[bytes]:
    async with blob.open() as file:
        async for chunk in chunks(file, offset, blob.size - offset):
            yield chunk


async def _growing_bytes(fill: Fill, offset: int) -> AsyncGenerator[bytes]:
    count = 0
    async for piece in fill.read(offset, fill.size):
        if isinstance(piece, bytes):
            count += len(piece)
            yield piece
        else:
            async for chunk in chunks(piece.file, piece.offset, piece.count):
                count += len(chunk)
                yield chunk
    if count < fill.size - offset:
        raise FileCutShort
